"""Nearest-neighbour upsampling followed by a convolution, as one layer."""

from fractions import Fraction

import torch
from torch import Tensor

from denoise_cli.nn.initialisation import Initialisation
from denoise_cli.nn.kernels.geometry import Geometry
from denoise_cli.nn.layers import convolution as conv
from denoise_cli.nn.module import Reach, Shape, ShapeError
from denoise_cli.nn.registry import Example, layer


@layer(
    "upsampling",
    Example({"in_channels": 4, "out_channels": 3}),
    Example({"in_channels": 4, "out_channels": 3, "kernel_size": 5, "padding": 2, "bias": False}),
    Example({"in_channels": 4, "out_channels": 2, "kernel_size": 3, "padding": 0, "scale_factor": 3}),
    Example({"in_channels": 4, "out_channels": 2, "kernel_size": 1, "padding": 0}),
    Example({"in_channels": 4, "out_channels": 2, "kernel_size": 2, "padding": 1, "scale_factor": 4}),
)
class Upsampling(conv.Transposed):
    """Every pixel repeated s x s times, then a convolution: (N, in, H, W) -> (N, out, s H + 2 p - k + 1, *).

    The large picture is never made. Repeating is a transposed convolution with a box of s ones and stride s;
    with the convolution after it that is one transposed convolution of stride s, whose kernel is the weight
    (out, in, k, k) convolved with the box. In one dimension, with t[r + k - 1 - i] += w[i] for all r < s,

        t = E w,    y[o] = sum over a of t[o - s a + (k - 1 - p)] x[a],

    in two dimensions t = E w E^T, which has (k + s - 1)^2 taps. For s = 2, k = 3 these are 16 products on the
    small picture instead of 36. The weight's gradient is dw = E^T dt E.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        padding: int = 1,
        scale_factor: int = 2,
        bias: bool = True,
        initialisation: Initialisation = "torch",
    ) -> None:
        super().__init__()
        conv.check_channels(in_channels, out_channels, 1)
        if min(kernel_size, scale_factor) < 1:
            raise ValueError("kernel_size and scale_factor must be positive")
        if not 0 <= padding < kernel_size:
            raise ValueError(f"padding must be from 0 to kernel_size - 1, got {padding}")
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.padding, self.scale_factor = kernel_size, padding, scale_factor
        taps, back = kernel_size + scale_factor - 1, kernel_size - 1 - padding
        self.geometry = Geometry((taps, taps), (scale_factor, scale_factor), (back, back))
        shape = out_channels, in_channels, kernel_size, kernel_size
        self.weight, self.bias = self.add_weights(initialisation, shape, out_channels if bias else None)

    def kernel(self) -> Tensor:
        """t = E w E^T, (in, out, k + s - 1, k + s - 1)."""
        e = self._box(self.weight.value)
        return e @ self.weight.value.transpose(0, 1) @ e.T

    def add_gradient(self, d_kernel: Tensor) -> None:
        """dw += E^T dt E."""
        e = self._box(d_kernel)
        self.weight.grad.add_((e.T @ d_kernel @ e).transpose(0, 1))

    def _box(self, like: Tensor) -> Tensor:
        """E (k + s - 1, k)."""
        k, s = self.kernel_size, self.scale_factor
        tap = torch.arange(k + s - 1, device=like.device)[:, None]
        i = torch.arange(k, device=like.device)
        repeat = tap - (k - 1 - i)
        return ((repeat >= 0) & (repeat < s)).to(like.dtype)

    def output_shape(self, shape: Shape) -> Shape:
        conv.check_pictures(shape, self.in_channels)
        N, _, H, W = shape
        gain = 2 * self.padding - self.kernel_size + 1
        OH, OW = (self.scale_factor * side + gain for side in (H, W))
        if min(OH, OW) < 1:
            raise ShapeError(f"a window of {self.kernel_size} does not fit into {H}x{W}, enlarged")
        return N, self.out_channels, OH, OW

    def macs(self, shape: Shape) -> int:
        N, O, OH, OW = self.output_shape(shape)
        return N * OH * OW * O * self.weight.value[0].numel()

    def reach(self, reach: Reach) -> Reach:
        side = max(self.padding, self.kernel_size - 1 - self.padding)
        return reach.then(margin=-(-side // self.scale_factor), stride=Fraction(1, self.scale_factor))
