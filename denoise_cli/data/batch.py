"""What one training step sees."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """What one training step sees. Tensors are (N, C, P, P) float32, channels-last in memory.

    `clean` is None where nobody knows it. `sigma`: (N,), the noise level of `x` on the 0-255 scale.
    """

    x: Tensor
    target: Tensor
    clean: Tensor | None
    sigma: Tensor

    @property
    def tensors(self) -> list[Tensor]:
        """Each tensor once, also where it is both the target and the clean picture."""
        values = self.x, self.target, self.clean, self.sigma
        return list({id(value): value for value in values if value is not None}.values())

    def mapped(self, move: Callable[[Tensor], Tensor]) -> "Batch":
        """The batch of what `move` makes of each tensor."""
        moved = {id(tensor): move(tensor) for tensor in self.tensors}
        clean = None if self.clean is None else moved[id(self.clean)]
        return Batch(moved[id(self.x)], moved[id(self.target)], clean, moved[id(self.sigma)])
