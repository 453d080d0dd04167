"""The convolution layer."""

from typing import Literal

from torch import Tensor

from denoise_cli.nn import kernels
from denoise_cli.nn.initialisation import Initialisation
from denoise_cli.nn.kernels.geometry import Geometry, Pair
from denoise_cli.nn.kernels.joining import ADD, Join
from denoise_cli.nn.layers import convolution as conv
from denoise_cli.nn.layers.reflection import reflect, reflect_adjoint
from denoise_cli.nn.module import Reach, Shape, ShapeError
from denoise_cli.nn.registry import Example, layer


@layer(
    "conv2d",
    Example({"in_channels": 4, "out_channels": 3, "kernel_size": 3, "padding": 1}),
    Example({"in_channels": 4, "out_channels": 5, "kernel_size": 3, "padding": "same", "bias": False}),
    Example({"in_channels": 4, "out_channels": 2, "kernel_size": 1}),
    Example({"in_channels": 4, "out_channels": 6, "kernel_size": 2, "stride": 2}),
    Example({"in_channels": 4, "out_channels": 3, "kernel_size": 4, "stride": 2, "padding": 1}),
    Example({"in_channels": 4, "out_channels": 3, "kernel_size": [3, 2], "stride": [1, 2], "dilation": 2}),
    Example({"in_channels": 4, "out_channels": 8, "kernel_size": 3, "padding": 1, "groups": 2}),
    Example({"in_channels": 4, "out_channels": 4, "kernel_size": 3, "padding": 1, "groups": 4}),
    Example({"in_channels": 4, "out_channels": 4, "kernel_size": 3, "stride": 2, "padding": 1, "groups": 4}),
    Example({"in_channels": 4, "out_channels": 3, "kernel_size": 3, "padding": 2, "padding_mode": "reflect"}),
    Example({"in_channels": 32, "out_channels": 32, "kernel_size": 3, "padding": 1}, (1, 32, 5, 4)),
)
class Conv2d(conv.Convolution):
    """y[o] = b[o] + sum over c of w[o, c] * x[c]: the sum of products under a sliding window.

    (N, in_channels, H, W) -> (N, out_channels, OH, OW) with OH = floor((H + 2 padding - e) / stride) + 1 for
    a window of e = dilation (kernel - 1) + 1 pixels. The weight is (out_channels, in_channels / groups, kh,
    kw). `padding` is a number of pixels or "same"; what it adds is zeros or, with `padding_mode: reflect`,
    the picture mirrored at its edge pixels.

    dw is the correlation of x with dy, db the sum of dy, dx the transposed convolution of dy with w.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, int] | int,
        stride: tuple[int, int] | int = 1,
        padding: tuple[int, int] | int | Literal["same"] = 0,
        dilation: tuple[int, int] | int = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Literal["zeros", "reflect"] = "zeros",
        initialisation: Initialisation = "torch",
    ) -> None:
        super().__init__()
        conv.check_channels(in_channels, out_channels, groups)
        kernel = conv.pair(kernel_size, "kernel_size", 1)
        strides, dilations = conv.pair(stride, "stride", 1), conv.pair(dilation, "dilation", 1)
        frame = _same(kernel, strides, dilations) if padding == "same" else conv.pair(padding, "padding", 0)
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.frame = frame if padding_mode == "reflect" else (0, 0)
        self.geometry = Geometry(kernel, strides, (0, 0) if padding_mode == "reflect" else frame, dilations)
        shape = out_channels, in_channels // groups, *kernel
        self.weight, self.bias = self.add_weights(initialisation, shape, out_channels if bias else None)

    def forward_onto(self, x: Tensor, onto: Tensor, join: Join = ADD) -> Tensor:
        x, y = conv.to_pictures(x), conv.to_pictures(onto)
        if self.frame != (0, 0):
            x = reflect(x, self.frame)
        bias = None if self.bias is None else self.bias.value
        conv.forward(x, self.weight.value, bias, self.geometry, self.groups, y, join)
        self.save(x)
        return conv.from_pictures(y)

    def _backward(self, dy: Tensor, onto: Tensor | None, join: Join) -> Tensor:
        (x,) = self.saved()
        dy = conv.to_pictures(dy)
        d_bias = None if self.bias is None else self.bias.grad
        unframed = self.frame == (0, 0)
        if self.needs_input_gradient and onto is not None and unframed and self.groups == 1:
            dx, weight = conv.to_pictures(onto), self.weight
            kernels.gradients(x, dy, weight.value, weight.grad, d_bias, self.geometry, dx, join)
            return conv.from_pictures(dx)
        conv.weight_gradient(x, dy, self.weight.grad, d_bias, self.geometry, self.groups)
        if not self.needs_input_gradient:
            return dy.new_empty(0)
        shape = x.shape
        del x
        if unframed:
            dx = conv.target(shape, dy, onto)
            conv.input_gradient(dy, self.weight.value, None, self.geometry, self.groups, dx, join)
            return conv.from_pictures(dx)
        framed = conv.target(shape, dy, None)
        conv.input_gradient(dy, self.weight.value, None, self.geometry, self.groups, framed)
        dx = conv.from_pictures(reflect_adjoint(framed, self.frame))
        if onto is None:
            return dx
        join.put(onto, dx)
        return onto

    def output_shape(self, shape: Shape) -> Shape:
        conv.check_pictures(shape, self.in_channels)
        N, _, H, W = shape
        if min(H - self.frame[0], W - self.frame[1]) < 1:
            raise ShapeError(f"cannot reflect {max(self.frame)} pixels of a picture of {H}x{W}")
        OH, OW = self.geometry.output_size((H + 2 * self.frame[0], W + 2 * self.frame[1]))
        if min(OH, OW) < 1:
            raise ShapeError(f"a window of {self.geometry.extent} does not fit into {H}x{W} with its padding")
        return N, self.out_channels, OH, OW

    def macs(self, shape: Shape) -> int:
        N, O, OH, OW = self.output_shape(shape)
        return N * OH * OW * O * self.weight.value[0].numel()

    def reach(self, reach: Reach) -> Reach:
        if self.geometry.stride[0] != self.geometry.stride[1]:
            raise ShapeError("unequal strides in height and width have no common reach")
        return reach.then(margin=_margin(self.geometry, self.frame), stride=self.geometry.stride[0])


def _same(kernel: Pair, stride: Pair, dilation: Pair) -> Pair:
    """The padding that keeps the size."""
    if stride != (1, 1):
        raise ValueError('padding "same" needs a stride of 1')
    extent = Geometry(kernel, dilation=dilation).extent
    if extent[0] % 2 == 0 or extent[1] % 2 == 0:
        raise ValueError(f'padding "same" needs an odd window, this one is {extent[0]}x{extent[1]}')
    return extent[0] // 2, extent[1] // 2


def _margin(geometry: Geometry, frame: Pair) -> int:
    """Pixels that a window sees before the place of its output pixel, or after it."""
    sides = []
    for axis in (0, 1):
        padding = geometry.padding[axis] + frame[axis]
        sides += [padding, geometry.extent[axis] - geometry.stride[axis] - padding]
    return max(*sides, 0)
