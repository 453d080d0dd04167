"""Work in chunks that stay in cache, with scratch memory that is kept.

A convolution is a dozen tensor operations on the same data. On a whole batch, each of them streams tens of
megabytes through main memory; on a chunk of a few rows or pictures, all but the first find them in the cache.
"""

import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from math import prod
from typing import Any, TypeVar

import torch
from torch import Tensor

from denoise_cli.nn.kernels.memory import pages

ALIGNMENT = 64
"""Bytes that tensors in scratch memory begin at a multiple of: a line of the cache."""

CHUNK = 4352 * 1024
"""Bytes that the intermediates of a chunk take, for each of two threads: few enough to stay in cache, enough
for the fixed cost of a tensor operation, a few microseconds, and of a product's packing not to matter. Each
further thread adds half as much, as the last cache is common to all."""

PLANS = 128
"""How many plans a workspace keeps: those of a large network, and an end to those of many pictures."""

Chunk = tuple[slice, int, int]
"""Pictures, first row, last row + 1."""


def threads(like: Tensor) -> int:
    """How many threads share an operation on such tensors: one where it is not the CPU that computes."""
    return torch.get_num_threads() if like.device.type == "cpu" else 1


def chunk_size(like: Tensor, beside: int = 0) -> int:
    """Values of a chunk's intermediates: more by those that are read `beside` them for each chunk."""
    if like.device.type != "cpu":
        return 2**62
    count = torch.get_num_threads()
    return CHUNK * min(2 * count, count + 2) // (2 * like.element_size()) + beside


def chunks_of_rows(
    pictures: int, rows: int, values_per_row: int, like: Tensor, beside: int = 0
) -> list[Chunk]:
    """Cuts `pictures` x `rows` into chunks near the target: bands of rows of one picture, or several whole
    pictures.

    On an accelerator, which has no such cache, one chunk is everything.
    """
    if like.device.type != "cpu":
        return [(slice(0, pictures), 0, rows)]
    target, picture = chunk_size(like, beside), rows * values_per_row
    if 4 * picture <= 3 * target:
        count = max(1, round(pictures * picture / target))
        step = -(-pictures // count)  # chunks of equal size
        return [(slice(n, min(n + step, pictures)), 0, rows) for n in range(0, pictures, step)]
    step = -(-rows // max(1, round(picture / target)))
    return [
        (slice(n, n + 1), first, min(first + step, rows))
        for n in range(pictures)
        for first in range(0, rows, step)
    ]


Plan = TypeVar("Plan")
Key = tuple[str, torch.dtype, torch.device]


class Workspace:
    """Scratch memory by name, kept between calls: fresh pages cost more than the arithmetic on them.

    What is asked for by different names lies apart, but all workspaces of a thread lie in the same memory:
    a tensor is valid until another workspace is used.
    """

    def __init__(self, scratch: "Scratch") -> None:
        self._scratch = scratch
        self._bytes: dict[Key, int] = {}
        self._buffers: dict[Key, Tensor] = {}
        self._plans: dict[Any, Any] = {}
        self._places: dict[Key, int] = {}
        self._ends: dict[torch.device, int] = {}

    def empty(
        self, name: str, shape: tuple[int, ...], like: Tensor, dtype: torch.dtype | None = None
    ) -> Tensor:
        """An uninitialised tensor of `like`'s device and dtype, or of another dtype.

        It is valid until the same name and dtype are asked for again.
        """
        dtype = dtype or like.dtype
        key, size = (name, dtype, like.device), prod(shape)
        buffer = self._buffers.get(key)
        if buffer is None or buffer.numel() < size:
            buffer = self._buffer(key, size * dtype.itemsize)
        return buffer[:size].view(shape)

    def plan(self, make: Callable[..., Plan], like: Tensor, *sizes: Hashable) -> Plan:
        """`make(workspace, like, *sizes)`, kept for chunks of the same sizes: views of this memory."""
        key = (make, like.dtype, like.device, *sizes)
        plan: Plan | None = self._plans.get(key)
        if plan is None:
            if len(self._plans) >= PLANS:
                self._plans.clear()
            layout = self._scratch.layout
            plan = make(self, like, *sizes)
            if self._scratch.layout != layout:  # parts of it lie in memory that has been replaced
                plan = make(self, like, *sizes)
            self._plans[key] = plan
        return plan

    def size(self, device: torch.device) -> int:
        """Bytes that all names take on a device."""
        return sum(size for key, size in self._bytes.items() if key[2] == device)

    def forget(self) -> None:
        """Drops what lies in memory that is about to be replaced; in the new one every name has its place."""
        self._buffers.clear()
        self._plans.clear()
        self._ends.clear()
        for key, size in self._bytes.items():
            self._append(key, size)

    def _append(self, key: Key, size: int) -> None:
        """Gives a name a place behind all others."""
        device = key[2]
        self._places[key] = self._ends.get(device, 0)
        self._ends[device] = self._places[key] + size

    def _buffer(self, key: Key, size: int) -> Tensor:
        """The memory of a name: `size` bytes, or as many as it once took."""
        size = max(-(-size // ALIGNMENT) * ALIGNMENT, ALIGNMENT, self._bytes.get(key, 0))
        _, dtype, device = key
        if size > self._bytes.get(key, 0):
            self._bytes[key] = size
            self._append(key, size)
        block = self._scratch.blocks.get(device)
        if block is None or self._ends[device] > block.numel():
            block = self._scratch.lay_out(device)
        place = self._places[key]
        self._buffers[key] = block[place : place + size].view(dtype)
        return self._buffers[key]


class Scratch:
    """The memory of a thread's workspaces, which lie over each other: they take turns."""

    def __init__(self) -> None:
        self.workspaces: dict[str, Workspace] = {}
        self.blocks: dict[torch.device, Tensor] = {}
        self.layout = 0

    def workspace(self, user: str) -> Workspace:
        if user not in self.workspaces:
            self.workspaces[user] = Workspace(self)
        return self.workspaces[user]

    def lay_out(self, device: torch.device) -> Tensor:
        """New memory for all that the workspaces want. Tensors given out before keep the old one alive."""
        for workspace in self.workspaces.values():
            workspace.forget()
        size = max(workspace.size(device) for workspace in self.workspaces.values())
        if device.type == "cpu":
            block = torch.from_numpy(pages(size, huge=True))
        else:
            block = torch.empty(size, dtype=torch.uint8, device=device)
        self.blocks[device] = block
        self.layout += 1
        return block


class _Thread(threading.local):
    def __init__(self) -> None:
        self.scratch = Scratch()


_thread = _Thread()


def local_workspace(user: str) -> Workspace:
    """The scratch memory of this thread for a user, such as a kernel, inside which no other one runs."""
    return _thread.scratch.workspace(user)


@contextmanager
def fresh_scratch() -> Iterator[None]:
    """Inside, this thread has new scratch memory: for work that is recorded to be done again, in memory that
    nothing may replace meanwhile."""
    before, _thread.scratch = _thread.scratch, Scratch()
    try:
        yield
    finally:
        _thread.scratch = before
