"""Memory that is handed back to the engine, not to the system.

A network asks for the same activations at every step. The C library returns each large block to the system
and every page of the next one is faulted in again, which costs as much as computing it. Here a block whose
tensor has died waits for the next tensor of its size.
"""

import threading
import weakref
from collections import OrderedDict
from math import prod

import numpy as np
import torch
from torch import Tensor

SMALL = 256 * 1024
"""Bytes below which the C library keeps memory by itself."""

ALIGNMENT = 64


class _Blocks:
    """Free blocks by size, the longest unused first to go."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # reentrant: a finalizer may run inside `take`
        self._free: OrderedDict[int, list[np.ndarray]] = OrderedDict()

    def take(self, size: int) -> np.ndarray:
        """A block of `size` bytes: a free one, or a new one for which as much free memory is let go."""
        with self._lock:
            if blocks := self._free.get(size):
                block = blocks.pop()
                if not blocks:
                    del self._free[size]
                return block
            self._release(size)
        return np.empty(size + ALIGNMENT, np.uint8)

    def give(self, size: int, block: np.ndarray) -> None:
        with self._lock:
            self._free.setdefault(size, []).append(block)
            self._free.move_to_end(size)

    def _release(self, size: int) -> None:
        while size > 0 and self._free:
            oldest, blocks = next(iter(self._free.items()))
            blocks.pop()
            if not blocks:
                del self._free[oldest]
            size -= oldest


_blocks = _Blocks()


def empty(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """An uninitialised contiguous tensor of `like`'s dtype and device, in memory used before if possible.

    The tensor's storage owns a view of the block: when the last tensor on it dies, the block is free again.
    """
    size = prod(shape) * like.element_size()
    if size < SMALL or like.device.type != "cpu":
        return torch.empty(shape, dtype=like.dtype, device=like.device)
    block = _blocks.take(size)
    start = -block.ctypes.data % ALIGNMENT
    view = block[start : start + size]
    weakref.finalize(view, _blocks.give, size, block).atexit = False
    return torch.from_numpy(view).view(like.dtype).view(shape)
