"""Memory that is handed back to the engine, not to the system.

A network asks for the same activations at every step. The C library returns each large block to the system
and every page of the next one is faulted in again, which costs as much as computing it. Here a block whose
tensor has died waits for the next tensor of its size.
"""

import mmap
import os
import threading
import weakref
from contextlib import suppress
from math import prod

import numpy as np
import torch
from torch import Tensor

SMALL = 256 * 1024
"""Bytes below which the C library keeps memory by itself."""

SLACK = 1.15
"""How much memory blocks may take in all, as a multiple of the most that was in use at once."""

PATIENCE = 256
"""Blocks taken meanwhile after which a free one is let go: a few steps of training."""


def pages(size: int, *, huge: bool = False) -> np.ndarray:
    """Bytes from the system, in pages of their own: they go back there when the array dies.

    The C library would keep those of a few megabytes, in pieces that are of no use to the next larger block.
    `huge` pages suit what is used over and over: new ones take longer.
    """
    private = mmap.ACCESS_COPY if os.name == "posix" else mmap.ACCESS_WRITE  # not shared with a fork
    memory = mmap.mmap(-1, size, access=private)
    if huge and hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # where the system has none
            memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.uint8)


class _Blocks:
    """Free blocks. What has waited long, from another network or picture, is let go."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # reentrant: a finalizer may run inside `take`, and only appends
        self._free: list[tuple[int, int, np.ndarray]] = []  # (when it was given back, size, block), in order
        self._taken = self._in_use = self._kept = self._peak = 0

    def take(self, size: int) -> np.ndarray:
        """A block of `size` bytes: the free one that was given back last, or a new one."""
        with self._lock:
            self._taken += 1
            block = self._pop(size)
            if block is None:
                self._make_room(size)
                block = pages(size)
            self._in_use += size
            self._peak = max(self._peak, self._in_use)
            return block

    def give(self, size: int, block: np.ndarray) -> None:
        with self._lock:
            self._free.append((self._taken, size, block))
            self._in_use -= size
            self._kept += size

    def let_go(self) -> None:
        """Hands every free block to the system."""
        with self._lock:
            self._free.clear()
            self._kept, self._peak = 0, self._in_use

    def _pop(self, size: int) -> np.ndarray | None:
        for place in reversed(range(len(self._free))):
            if self._free[place][1] == size:
                self._kept -= size
                return self._free.pop(place)[2]
        return None

    def _make_room(self, size: int) -> None:
        """Lets the longest unused blocks go: those beyond patience, and as many as there is no room for."""
        wanted = self._in_use + size
        most = SLACK * max(self._peak, wanted)
        while self._free and (self._free[0][0] <= self._taken - PATIENCE or wanted + self._kept > most):
            self._kept -= self._free.pop(0)[1]


_blocks = _Blocks()


def let_go() -> None:
    """Hands the memory that waits for the next tensors to the system."""
    _blocks.let_go()


def empty(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """An uninitialised contiguous tensor of `like`'s dtype and device, in memory used before if possible.

    The tensor's storage owns a view of the block: when the last tensor on it dies, the block is free again.
    """
    size = prod(shape) * like.element_size()
    if size < SMALL or like.device.type != "cpu":
        return torch.empty(shape, dtype=like.dtype, device=like.device)
    block = _blocks.take(size)
    view = block[:]
    weakref.finalize(view, _blocks.give, size, block).atexit = False
    return torch.from_numpy(view).view(like.dtype).view(shape)
