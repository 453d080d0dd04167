"""Space to depth and back: resolution traded for channels, without loss (Shi et al., arXiv:1609.05158).

Channel c * r^2 + i * r + j at (h, w) is channel c at (h * r + i, w * r + j). Each of the two layers is the
other's inverse and, as a permutation, also its transpose: each one's backward is the other's forward.
"""

from fractions import Fraction
from itertools import product

from torch import Tensor

from denoise_cli.nn.layout import empty
from denoise_cli.nn.module import Module, Reach, Shape, ShapeError
from denoise_cli.nn.registry import Example, layer


def depth_to_space(x: Tensor, r: int) -> Tensor:
    """(N, C * r^2, H, W) -> (N, C, H * r, W * r), new channels-last memory."""
    N, C, H, W = x.shape
    y = empty((N, C // r**2, H * r, W * r), x)
    for place, (i, j) in enumerate(product(range(r), repeat=2)):
        y[:, :, i::r, j::r] = x[:, place :: r**2]
    return y


def space_to_depth(x: Tensor, r: int) -> Tensor:
    """(N, C, H * r, W * r) -> (N, C * r^2, H, W), new channels-last memory."""
    N, C, H, W = x.shape
    y = empty((N, C * r**2, H // r, W // r), x)
    for place, (i, j) in enumerate(product(range(r), repeat=2)):
        y[:, place :: r**2] = x[:, :, i::r, j::r]
    return y


@layer(
    "pixel_shuffle",
    Example({"upscale_factor": 2}, (2, 12, 3, 4)),
    Example({"upscale_factor": 3}, (1, 9, 2, 1)),
    Example({"upscale_factor": 1}, (1, 2, 2, 3)),
)
class PixelShuffle(Module):
    """(N, C * r^2, H, W) -> (N, C, H * r, W * r), r = upscale_factor."""

    fresh_output = True
    fresh_gradient = True

    def __init__(self, upscale_factor: int) -> None:
        super().__init__()
        if upscale_factor < 1:
            raise ValueError(f"upscale_factor must be positive, got {upscale_factor}")
        self.upscale_factor = upscale_factor

    def forward(self, x: Tensor) -> Tensor:
        self.output_shape(x.shape)
        self.save()
        return depth_to_space(x, self.upscale_factor)

    def backward(self, dy: Tensor) -> Tensor:
        self.saved()
        return space_to_depth(dy, self.upscale_factor)

    def output_shape(self, shape: Shape) -> Shape:
        r = self.upscale_factor
        if len(shape) != 4 or shape[1] % r**2:
            raise ShapeError(f"expects (N, C, H, W) with C a multiple of {r**2}, got {tuple(shape)}")
        N, C, H, W = shape
        return N, C // r**2, H * r, W * r

    def reach(self, reach: Reach) -> Reach:
        # An output pixel is 1/r wide and sees the whole input pixel that it lies in.
        return reach.then(margin=1 - 1 / self.upscale_factor, stride=Fraction(1, self.upscale_factor))


@layer(
    "pixel_unshuffle",
    Example({"downscale_factor": 2}, (2, 3, 6, 8)),
    Example({"downscale_factor": 3}, (1, 1, 6, 3)),
    Example({"downscale_factor": 1}, (1, 2, 2, 3)),
)
class PixelUnshuffle(Module):
    """(N, C, H * r, W * r) -> (N, C * r^2, H, W), r = downscale_factor."""

    fresh_output = True
    fresh_gradient = True

    def __init__(self, downscale_factor: int) -> None:
        super().__init__()
        if downscale_factor < 1:
            raise ValueError(f"downscale_factor must be positive, got {downscale_factor}")
        self.downscale_factor = downscale_factor

    def forward(self, x: Tensor) -> Tensor:
        self.output_shape(x.shape)
        self.save()
        return space_to_depth(x, self.downscale_factor)

    def backward(self, dy: Tensor) -> Tensor:
        self.saved()
        return depth_to_space(dy, self.downscale_factor)

    def output_shape(self, shape: Shape) -> Shape:
        r = self.downscale_factor
        if len(shape) != 4 or shape[2] % r or shape[3] % r:
            raise ShapeError(f"expects (N, C, H, W) with H and W multiples of {r}, got {tuple(shape)}")
        N, C, H, W = shape
        return N, C * r**2, H // r, W // r

    def reach(self, reach: Reach) -> Reach:
        return reach.then(stride=self.downscale_factor)
