"""Activations: y = f(x), element by element.

Most derivatives can be told from the output alone, f'(x) = g(y). Such an activation may then overwrite its
input, and in training it keeps only y, which the next layer keeps as its own input anyway. GELU and SiLU are
not monotone, so they keep x.
"""

import math
from typing import ClassVar

import torch
from torch import Tensor

from denoise_cli.nn import blocks
from denoise_cli.nn.kernels.chunks import local_workspace
from denoise_cli.nn.kernels.joining import Join
from denoise_cli.nn.layout import empty, empty_like
from denoise_cli.nn.module import Module
from denoise_cli.nn.registry import Example, layer


class Activation(Module):
    """An elementwise function and its derivative, both written into memory that the caller names."""

    keeps_input: ClassVar[bool] = False
    """Whether the derivative is a function of x; else it is one of y."""

    fresh_gradient = True

    def function(self, x: Tensor, out: Tensor) -> None:
        """Writes f(x) into `out`, which may be `x`."""
        raise NotImplementedError

    def derivative(self, kept: Tensor, out: Tensor) -> None:
        """Writes f' into `out`, from x where `keeps_input`, else from y: then `out` may be `kept`."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self._forward(x, empty_like(x))

    def forward_(self, x: Tensor) -> Tensor:
        return self._forward(x, empty_like(x) if self.keeps_input and self.training else x)

    def _forward(self, x: Tensor, y: Tensor) -> Tensor:
        for x_block, y_block in blocks.elements(x, y):
            self.function(x_block, out=y_block)
        self.save(x if self.keeps_input else y)
        return y

    def backward(self, dy: Tensor) -> Tensor:
        return self._backward(dy, empty_like(dy))

    def backward_(self, dy: Tensor) -> Tensor:
        return self._backward(dy, dy)

    def _backward(self, dy: Tensor, dx: Tensor) -> Tensor:
        (kept,) = self.saved()
        for kept_block, dy_block, dx_block in blocks.elements(kept, dy, dx):
            slope = local_workspace(__name__).empty("slope", tuple(kept_block.shape), kept_block)
            self.derivative(kept_block, out=slope)
            torch.mul(dy_block, slope, out=dx_block)
        return dx

    # The same as part of the convolution before or behind, while its results are in the cache ------------

    def forward_after(self, layer: Module, x: Tensor) -> Tensor:
        """f(layer(x))."""
        y = layer.forward_onto(x, empty(layer.output_shape(x.shape), x), self._applied)
        self.save(y)
        return y

    def backward_after(self, layer: Module, dy: Tensor) -> Tensor:
        """The gradient by this activation's input from that by the output of the next layer.

        It takes the memory of y, which that layer alone has read.
        """
        (y,) = self.saved()
        return layer.backward_onto(dy, y, self._chain_rule)

    @property
    def _applied(self) -> Join:
        def put(memory: Tensor, result: Tensor) -> None:
            self.function(result, out=memory)

        return Join(put, finish=lambda memory: put(memory, memory), pointwise=True)

    @property
    def _chain_rule(self) -> Join:
        def put(y: Tensor, dy: Tensor) -> None:
            self.derivative(y, out=y)
            y.mul_(dy)

        return Join(put)


@layer("relu", Example())
class ReLU(Activation):
    """y = max(0, x)."""

    def function(self, x: Tensor, out: Tensor) -> None:
        torch.clamp_min(x, 0, out=out)

    def derivative(self, kept: Tensor, out: Tensor) -> None:
        torch.gt(kept, 0, out=out)


@layer("leaky_relu", Example(), Example({"negative_slope": 0.3}))
class LeakyReLU(Activation):
    """y = max(x, negative_slope * x), with a slope from 0 to 1."""

    def __init__(self, negative_slope: float = 0.01) -> None:
        super().__init__()
        if not 0 <= negative_slope <= 1:
            raise ValueError(f"negative_slope must be in [0, 1], got {negative_slope}")
        self.negative_slope = negative_slope

    def function(self, x: Tensor, out: Tensor) -> None:
        torch.maximum(x, x * self.negative_slope, out=out)

    def derivative(self, kept: Tensor, out: Tensor) -> None:
        torch.sign(kept, out=out).clamp_min_(self.negative_slope)  # y and x have one sign


@layer("sigmoid", Example())
class Sigmoid(Activation):
    """y = 1 / (1 + e^-x); dy/dx = y (1 - y).

    Stable on both sides: for a large -x the exponential is infinite and y the 0 that it should be.
    """

    def function(self, x: Tensor, out: Tensor) -> None:
        torch.neg(x, out=out).exp_().add_(1).reciprocal_()

    def derivative(self, kept: Tensor, out: Tensor) -> None:
        torch.mul(kept, 1 - kept, out=out)


@layer("tanh", Example())
class Tanh(Activation):
    """y = tanh(x); dy/dx = 1 - y^2."""

    def function(self, x: Tensor, out: Tensor) -> None:
        torch.tanh(x, out=out)

    def derivative(self, kept: Tensor, out: Tensor) -> None:
        torch.mul(kept, kept, out=out).neg_().add_(1)


class ExponentialLinear(Activation):
    """y = scale * (max(0, x) + alpha * (e^min(0, x) - 1)).

    dy/dx = scale for x > 0, and scale * alpha * e^x = y + scale * alpha below.
    """

    def __init__(self, alpha: float, scale: float) -> None:
        super().__init__()
        self.alpha, self.scale = alpha, scale

    def function(self, x: Tensor, out: Tensor) -> None:
        below = x.clamp_max(0).expm1_()
        torch.clamp_min(x, 0, out=out).add_(below, alpha=self.alpha)
        if self.scale != 1:
            out.mul_(self.scale)

    def derivative(self, kept: Tensor, out: Tensor) -> None:
        at_zero = self.scale * self.alpha
        # 1 where y > 0, in floats: a product with booleans is several times slower
        positive = torch.gt(kept, 0, out=torch.empty_like(kept)) if at_zero != self.scale else None
        torch.clamp_max(kept, 0, out=out).add_(at_zero)
        if positive is not None:
            out.add_(positive, alpha=self.scale - at_zero)


@layer("elu", Example(), Example({"alpha": 0.5}))
class ELU(ExponentialLinear):
    """y = x for x > 0, alpha * (e^x - 1) below (Clevert et al., arXiv:1511.07289). alpha is not negative."""

    def __init__(self, alpha: float = 1.0) -> None:
        if alpha < 0:
            raise ValueError(f"alpha must not be negative, got {alpha}")
        super().__init__(alpha=alpha, scale=1.0)


@layer("selu", Example())
class SELU(ExponentialLinear):
    """y = scale * (max(0, x) + min(0, alpha * (e^x - 1))).

    The two constants make mean 0 and variance 1 a fixed point of a deep network with LeCun-normal weights
    (Klambauer et al., arXiv:1706.02515).
    """

    def __init__(self) -> None:
        super().__init__(alpha=1.6732632423543772, scale=1.0507009873554805)


@layer("gelu", Example())
class GELU(Activation):
    """y = x * Phi(x), Phi being the distribution function of the standard normal (arXiv:1606.08415).

    dy/dx = Phi(x) + x * phi(x), phi being its density. Phi comes from erfc, which keeps the lower tail exact.
    """

    keeps_input = True
    fresh_output = True

    def function(self, x: Tensor, out: Tensor) -> None:
        torch.mul(x, self._phi(x), out=out)

    def derivative(self, kept: Tensor, out: Tensor) -> None:
        torch.mul(kept, kept, out=out).mul_(-0.5).exp_().mul_(1 / math.sqrt(2 * math.pi))
        out.mul_(kept).add_(self._phi(kept))

    @staticmethod
    def _phi(x: Tensor) -> Tensor:
        return (x * -math.sqrt(0.5)).erfc_().mul_(0.5)


@layer("silu", Example())
class SiLU(Activation):
    """y = x * s(x), s being the sigmoid (arXiv:1702.03118); dy/dx = s(x) * (1 + x * (1 - s(x)))."""

    keeps_input = True
    fresh_output = True

    def function(self, x: Tensor, out: Tensor) -> None:
        torch.div(x, x.neg().exp_().add_(1), out=out)

    def derivative(self, kept: Tensor, out: Tensor) -> None:
        s = kept.neg().exp_().add_(1).reciprocal_()
        torch.neg(s, out=out).add_(1).mul_(kept).add_(1).mul_(s)
