"""Losses: one number that says how far y is from its target, and its gradient.

`forward(y, target)` returns a scalar and keeps the difference d = y - target; `backward()` turns that into dy
and returns it: dy is the caller's to overwrite. All are means, over every element or over
the pictures that the first dimension numbers, so that a learning rate means the same for every batch.
"""

import math
from typing import ClassVar

import torch
from torch import Tensor

from denoise_cli.nn.layout import empty_like
from denoise_cli.nn.module import ShapeError


class Loss:
    """L = mean of some f(d), d = y - target."""

    yaml_name: ClassVar[str] = ""

    def __init__(self) -> None:
        self._difference: Tensor | None = None

    def forward(self, y: Tensor, target: Tensor) -> Tensor:
        """The loss, a scalar tensor. Raises ShapeError where the shapes differ."""
        if y.shape != target.shape:
            raise ShapeError(f"the output is {tuple(y.shape)}, its target {tuple(target.shape)}")
        self._difference = torch.sub(y, target, out=empty_like(y))
        return self.value(self._difference)

    def backward(self) -> Tensor:
        """dL/dy, once for each forward."""
        if self._difference is None:
            raise RuntimeError(f"{self.yaml_name}: backward needs a forward before it")
        difference, self._difference = self._difference, None
        return self.slope(difference).div_(difference.numel())

    def value(self, difference: Tensor) -> Tensor:
        """mean f(d)."""
        raise NotImplementedError(type(self).__name__)

    def slope(self, difference: Tensor) -> Tensor:
        """f'(d), which may take d's memory."""
        raise NotImplementedError(type(self).__name__)


class MSE(Loss):
    """Mean squared error: mean d^2; dL/dy = 2 d / n."""

    yaml_name = "mse"

    def value(self, difference: Tensor) -> Tensor:
        return _mean_squares(difference).mean()

    def slope(self, difference: Tensor) -> Tensor:
        return difference.mul_(2)


class L1(Loss):
    """Mean absolute error: mean |d|; dL/dy = sign(d) / n."""

    yaml_name = "l1"

    def value(self, difference: Tensor) -> Tensor:
        return torch.abs(difference, out=empty_like(difference)).mean()

    def slope(self, difference: Tensor) -> Tensor:
        return difference.sign_()


class Charbonnier(Loss):
    """A smooth L1: mean s, s = sqrt(d^2 + epsilon^2); dL/dy = d / s / n (Charbonnier et al., 1994)."""

    yaml_name = "charbonnier"

    def __init__(self, epsilon: float = 1e-3) -> None:
        super().__init__()
        if not epsilon > 0:
            raise ValueError(f"epsilon must be positive, got {epsilon}")
        self.epsilon = epsilon

    def value(self, difference: Tensor) -> Tensor:
        return self._smooth(difference).mean()

    def slope(self, difference: Tensor) -> Tensor:
        return difference.div_(self._smooth(difference))

    def _smooth(self, difference: Tensor) -> Tensor:
        return difference.square().add_(self.epsilon**2).sqrt_()


class NegativePSNR(Loss):
    """The mean over pictures of -PSNR in dB: 10 log10(mse_i + epsilon), mse_i the mean of d^2 in picture i.

    dL/dy = 20 / ln 10 * d / ((mse_i + epsilon) n). A picture counts by how many times its error shrinks, so
    that flat or little noisy ones count as much as others. `epsilon` keeps perfect ones from counting more.
    """

    yaml_name = "psnr"

    def __init__(self, epsilon: float = 1e-5) -> None:
        super().__init__()
        if not epsilon > 0:
            raise ValueError(f"epsilon must be positive, got {epsilon}")
        self.epsilon = epsilon

    def value(self, difference: Tensor) -> Tensor:
        return 10 * self._errors(difference).log10().mean()

    def slope(self, difference: Tensor) -> Tensor:
        return difference.div_(self._errors(difference)).mul_(20 / math.log(10))

    def _errors(self, difference: Tensor) -> Tensor:
        """mse_i + epsilon, in a shape that goes with d."""
        return _mean_squares(difference).add_(self.epsilon)


def _mean_squares(difference: Tensor) -> Tensor:
    """The mean of d^2 in each picture, in a shape that goes with d; no memory is taken for the squares."""
    if difference.ndim < 2:
        return difference.square()
    inner = tuple(range(1, difference.ndim))
    norms: Tensor = torch.linalg.vector_norm(difference, dim=inner, keepdim=True)
    return norms.square_().mul_(len(difference) / difference.numel())


LOSSES: dict[str, type[Loss]] = {loss.yaml_name: loss for loss in (MSE, L1, Charbonnier, NegativePSNR)}
