"""How the result of a kernel meets the memory it goes to, chunk by chunk, while both are in the cache."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from denoise_cli.nn.kernels.geometry import View, copy_wide


@dataclass(frozen=True)
class Join:
    """What is done with each part of a result, once.

    `put(memory, result)` leaves in `memory` what is wanted of both. `finish(memory)` does the same to a
    result that was computed in that memory; it is None where what lies there is needed. A `pointwise` one
    may finish a result elsewhere, for it to be copied.
    """

    put: Callable[[Tensor, Tensor], object]
    finish: Callable[[Tensor], object] | None = None
    pointwise: bool = False

    def end(self, memory: Tensor, result: Tensor) -> None:
        """Joins a result with the memory, in which it may have been computed if there is a `finish`."""
        if self.finish and result is memory:
            self.finish(memory)
        else:
            self.put(memory, result)


def _keep(memory: Tensor) -> None:
    """The result stays as it is."""


WRITE = Join(lambda memory, result: copy_wide(result, memory), _keep, pointwise=True)
ADD = Join(Tensor.add_)


def adding(x: Tensor, y: Tensor) -> Join:
    """Writes the result plus `x` to memory `y`, in which values lie in the same order."""

    def put(memory: Tensor, result: Tensor) -> None:
        torch.add(result, View(memory, y).of(x), out=memory)

    return Join(put, finish=lambda memory: put(memory, memory))
