"""Work in chunks that stay in cache, with scratch memory that is kept.

A convolution is a dozen tensor operations on the same data. On a whole batch, each of them streams tens of
megabytes through main memory; on a chunk of a few rows or pictures, all but the first find them in the cache.
"""

import threading
from collections.abc import Callable, Hashable
from math import prod
from typing import Any, TypeVar

import torch
from torch import Tensor

CHUNK = 512 * 1024
"""Values that the intermediates of a chunk take, for each thread: few enough to stay in cache, enough for the
fixed cost of a tensor operation, a few microseconds, and of a product's packing not to matter."""

PLANS = 512
"""How many plans a workspace keeps: those of a large network, and an end to those of many pictures."""

Chunk = tuple[slice, int, int]
"""Pictures, first row, last row + 1."""


def chunks_of_rows(pictures: int, rows: int, values_per_row: int, like: Tensor) -> list[Chunk]:
    """Cuts `pictures` x `rows` into chunks: bands of rows of one picture, or several whole pictures.

    On an accelerator, which has no such cache, one chunk is everything.
    """
    if like.device.type != "cpu":
        return [(slice(0, pictures), 0, rows)]
    target, picture = CHUNK * torch.get_num_threads(), rows * values_per_row
    if 2 * picture <= target:
        count = -(-pictures * picture // target)
        step = -(-pictures // count)  # chunks of equal size
        return [(slice(n, min(n + step, pictures)), 0, rows) for n in range(0, pictures, step)]
    step = -(-rows // max(1, round(picture / target)))
    return [
        (slice(n, n + 1), first, min(first + step, rows))
        for n in range(pictures)
        for first in range(0, rows, step)
    ]


Plan = TypeVar("Plan")


class Workspace:
    """Scratch memory by name, kept between calls: fresh pages cost more than the arithmetic on them."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, torch.dtype, torch.device], Tensor] = {}
        self._plans: dict[Any, Any] = {}

    def empty(self, name: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """An uninitialised tensor that is valid until the same name is asked for again."""
        key, size = (name, like.dtype, like.device), prod(shape)
        buffer = self._buffers.get(key)
        if buffer is None or buffer.numel() < size:
            self._plans.clear()  # they may use the memory that is replaced here
            buffer = self._buffers[key] = torch.empty(size, dtype=like.dtype, device=like.device)
        return buffer[:size].view(shape)

    def plan(self, make: Callable[..., Plan], like: Tensor, *sizes: Hashable) -> Plan:
        """`make(workspace, like, *sizes)`, kept for chunks of the same sizes: views of this memory."""
        key = (make, like.dtype, like.device, *sizes)
        plan: Plan | None = self._plans.get(key)
        if plan is None:
            if len(self._plans) >= PLANS:
                self._plans.clear()
            plan = make(self, like, *sizes)
            self._plans[key] = plan
        return plan


class _Local(threading.local):
    def __init__(self) -> None:
        self.workspace = Workspace()


_local = _Local()


def local_workspace() -> Workspace:
    """The scratch memory of this thread."""
    return _local.workspace
