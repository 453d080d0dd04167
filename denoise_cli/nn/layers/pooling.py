"""Pooling: the maximum or the mean of a window that slides over each channel.

A window of k x k is k^2 strided views of the input, one for every place in the window, each as large as the
output. Pooling is a fold over these views; its backward adds to the same views of the gradient.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from denoise_cli.nn.layout import copy, empty
from denoise_cli.nn.module import Module, Reach, Shape, ShapeError
from denoise_cli.nn.registry import Example, layer


class Pooling(Module):
    """What both have in common: the geometry.

    Spelled as in torch: `stride` is the kernel's size unless given, `padding` at most half of it.
    """

    fresh_output = True
    fresh_gradient = True

    def __init__(self, kernel_size: int, stride: int | None = None, padding: int = 0) -> None:
        super().__init__()
        if kernel_size < 1 or (stride is not None and stride < 1):
            raise ValueError(f"kernel_size and stride must be positive, got {kernel_size} and {stride}")
        if not 0 <= 2 * padding <= kernel_size:
            raise ValueError(f"padding must be from 0 to half of kernel_size, got {padding}")
        self.kernel_size = kernel_size
        self.stride = stride or kernel_size
        self.padding = padding

    def output_shape(self, shape: Shape) -> Shape:
        if len(shape) != 4:
            raise ShapeError(f"expects (N, C, H, W), got {tuple(shape)}")
        H, W = ((size + 2 * self.padding - self.kernel_size) // self.stride + 1 for size in shape[2:])
        if min(H, W) < 1:
            raise ShapeError(f"a window of {self.kernel_size} does not fit into {tuple(shape[2:])}")
        return shape[0], shape[1], H, W

    def reach(self, reach: Reach) -> Reach:
        # A window begins `padding` before the place of its output pixel, which is `stride` wide.
        after = self.kernel_size - self.stride - self.padding
        return reach.then(margin=max(self.padding, after, 0), stride=self.stride)

    def _pad(self, x: Tensor, value: float) -> Tensor:
        """`x` in a frame of `value`; `x` itself where there is no padding."""
        if self.padding == 0:
            return x
        padded = self._framed(x, x.shape[2:], value)
        self._crop(padded).copy_(x)
        return padded

    def _framed(self, like: Tensor, size: Shape, value: float) -> Tensor:
        """A padded picture of `size`, filled with `value`."""
        (N, C), (H, W), p = like.shape[:2], size, self.padding
        return empty((N, C, H + 2 * p, W + 2 * p), like).fill_(value)

    def _crop(self, padded: Tensor) -> Tensor:
        (H, W), p = padded.shape[2:], self.padding
        return padded[:, :, p : H - p, p : W - p]

    def _views(self, padded: Tensor, shape: Shape) -> Iterator[Tensor]:
        """The k^2 strided views of a padded tensor for an output of this shape, row by row."""
        s, (H, W) = self.stride, shape[2:]
        for i in range(self.kernel_size):
            for j in range(self.kernel_size):
                yield padded[:, :, i : i + s * (H - 1) + 1 : s, j : j + s * (W - 1) + 1 : s]


_EXAMPLES = (
    Example({"kernel_size": 2}),
    Example({"kernel_size": 3, "stride": 2, "padding": 1}),
    Example({"kernel_size": 3, "stride": 1}),
    Example({"kernel_size": 2, "stride": 3}, (1, 1, 5, 8)),
)


@layer("max_pool2d", *_EXAMPLES)
class MaxPool2d(Pooling):
    """y = the maximum of each window, whose place alone is kept (one byte a pixel): it takes all of dy.

    Of equal values the first wins, as in torch.
    """

    def __init__(self, kernel_size: int, stride: int | None = None, padding: int = 0) -> None:
        super().__init__(kernel_size, stride, padding)
        if kernel_size > 16:
            raise ValueError(f"kernel_size must be at most 16, got {kernel_size}")

    def forward(self, x: Tensor) -> Tensor:
        shape = self.output_shape(x.shape)
        first, *others = self._views(self._pad(x, -torch.inf), shape)
        y = copy(first)
        winner = torch.zeros_like(y, dtype=torch.uint8) if self.training else None
        for place, view in enumerate(others, start=1):
            if winner is not None:
                better = (view > y).view(torch.uint8).mul_(place)
                torch.maximum(winner, better, out=winner)  # later places have larger numbers
            torch.maximum(y, view, out=y)
        self.save(winner, x.shape)
        return y

    def backward(self, dy: Tensor) -> Tensor:
        winner, shape = self.saved()
        dx = self._framed(dy, shape[2:], 0)
        for place, view in enumerate(self._views(dx, dy.shape)):
            view.addcmul_(dy, (winner == place).to(dy.dtype))
        return copy(self._crop(dx)) if self.padding else dx


@layer("avg_pool2d", *_EXAMPLES)
class AvgPool2d(Pooling):
    """y = the mean of each window, zeros of the padding included; each of its pixels takes dy / k^2."""

    def forward(self, x: Tensor) -> Tensor:
        shape = self.output_shape(x.shape)
        first, *others = self._views(self._pad(x, 0), shape)
        y = copy(first)
        for view in others:
            y.add_(view)
        self.save(x.shape)
        return y.div_(self.kernel_size**2)

    def backward(self, dy: Tensor) -> Tensor:
        (shape,) = self.saved()
        dx = self._framed(dy, shape[2:], 0)
        share = dy / (self.kernel_size**2)
        for view in self._views(dx, dy.shape):
            view.add_(share)
        return copy(self._crop(dx)) if self.padding else dx
