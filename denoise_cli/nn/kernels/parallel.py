"""Work in cache-sized chunks, one chunk to a core at a time.

A convolution is a dozen tensor operations on the same data. Split by operation, as a tensor library's own
threads do, every operation streams the whole tensor through memory and the cores wait for each other at each.
Split by chunk, each core takes a few rows of pictures through all operations while they stay in its cache.
"""

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from math import prod
from typing import TypeVar

import torch
from torch import Tensor

CHUNK = 256 * 1024
"""Values of input that a chunk holds: few enough for its intermediates to stay in cache, enough for the fixed
cost of a tensor operation, a few microseconds, not to matter."""


class Workspace:
    """Scratch memory by name, kept between calls: fresh pages cost more than the arithmetic on them."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, torch.dtype, torch.device], Tensor] = {}

    def empty(self, name: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """An uninitialised tensor that is valid until the same name is asked for again."""
        key, size = (name, like.dtype, like.device), prod(shape)
        buffer = self._buffers.get(key)
        if buffer is None or buffer.numel() < size:
            buffer = self._buffers[key] = torch.empty(size, dtype=like.dtype, device=like.device)
        return buffer[:size].view(shape)


class _Local(threading.local):
    def __init__(self) -> None:
        self.workspace = Workspace()


_local = _Local()
_pool: ThreadPoolExecutor | None = None
_pool_size = 0


def _start_worker() -> None:
    torch.set_num_threads(1)


def _workers(count: int) -> ThreadPoolExecutor:
    global _pool, _pool_size
    if _pool is None or _pool_size < count:
        _pool, _pool_size = ThreadPoolExecutor(count, "denoise-kernel", _start_worker), count
    return _pool


def _forget_pool() -> None:
    """Threads do not survive a fork: a child process starts its own."""
    global _pool, _pool_size
    _pool, _pool_size = None, 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)

C = TypeVar("C")
R = TypeVar("R")


def share_out(
    chunks: Sequence[C], work: Callable[[Sequence[C], Workspace], R], device: torch.device
) -> list[R]:
    """Calls `work(part of the chunks, workspace)` once on each core that torch may use; the results in order.

    Worker t of T takes the chunks t, t + T, t + 2T, ..., so sums that it accumulates are the same from run to
    run. On an accelerator one worker takes them all.
    """
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    workers = max(1, min(threads, len(chunks)))

    def share(first: int) -> R:
        return work(chunks[first::workers], _local.workspace)

    if workers == 1:
        return [share(0)]
    others = [_workers(threads - 1).submit(share, first) for first in range(1, workers)]
    torch.set_num_threads(1)
    try:
        own = share(0)
    finally:
        wait(others)
        torch.set_num_threads(threads)
    return [own, *(other.result() for other in others)]
