"""Tensors in pieces that stay in the cache.

A formula is a chain of simple tensor operations, and on a CPU each would wait for memory. Run piece by piece,
only the first one does. On other devices, tensors come whole.
"""

from collections.abc import Iterator

import torch
from torch import Tensor


def elements(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Matching pieces of tensors of one shape, in the order of memory; whole where the layouts differ.

    Each thread has a share of the tensors to itself, as in `kernels.parts`: a piece is a part of every share.
    """
    if all(t.is_contiguous() for t in tensors):
        flat = [t.view(-1) for t in tensors]
    elif tensors[0].dim() == 4 and all(t.is_contiguous(memory_format=torch.channels_last) for t in tensors):
        flat = [t.permute(0, 2, 3, 1).view(-1) for t in tensors]
    else:
        yield tensors
        return
    threads = torch.get_num_threads()
    shares = threads if len(flat[0]) % threads == 0 else 1
    yield from (tuple(t.T for t in piece) for piece in rows(*(t.view(shares, -1).T for t in flat)))


def rows(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Matching runs of the rows of tensors, (rows, ...), that have equally many."""
    first = tensors[0]
    if first.device.type != "cpu":
        yield tensors
        return
    size = 2**15 * max(2, torch.get_num_threads())  # torch gives no thread less than 2^15 elements
    step = max(1, size // max(1, first[:1].numel()))
    for start in range(0, len(first), step):
        yield tuple(t[start : start + step] for t in tensors)
