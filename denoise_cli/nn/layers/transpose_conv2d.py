"""The transposed convolution layer."""

from fractions import Fraction

from torch import Tensor

from denoise_cli.nn.initialisation import Initialisation
from denoise_cli.nn.kernels.geometry import Geometry
from denoise_cli.nn.layers import convolution as conv
from denoise_cli.nn.module import Reach, Shape, ShapeError
from denoise_cli.nn.registry import Example, layer


@layer(
    "transpose_conv2d",
    Example({"in_channels": 4, "out_channels": 3, "kernel_size": 2, "stride": 2}),
    Example({"in_channels": 4, "out_channels": 3, "kernel_size": 4, "stride": 2, "padding": 1}),
    Example(
        {
            "in_channels": 4,
            "out_channels": 2,
            "kernel_size": 3,
            "stride": 2,
            "padding": 1,
            "output_padding": 1,
        }
    ),
    Example(
        {"in_channels": 4, "out_channels": 2, "kernel_size": [2, 3], "stride": [1, 2], "dilation": [2, 1]}
    ),
    Example({"in_channels": 4, "out_channels": 6, "kernel_size": 3, "groups": 2, "bias": False}),
    Example({"in_channels": 4, "out_channels": 4, "kernel_size": 4, "stride": 2, "padding": 1, "groups": 4}),
    Example({"in_channels": 4, "out_channels": 3, "kernel_size": 1, "stride": 2}),
    Example({"in_channels": 32, "out_channels": 32, "kernel_size": 3, "padding": 1}, (1, 32, 5, 4)),
)
class TransposeConv2d(conv.Transposed):
    """y = the adjoint of a convolution, applied to x: every input pixel adds its value times the kernel to y.

    (N, in_channels, H, W) -> (N, out_channels, OH, OW) with OH = (H - 1) stride - 2 padding + e +
    output_padding for a window of e = dilation (kernel - 1) + 1 pixels. The weight is (in_channels,
    out_channels / groups, kh, kw): that of the convolution which runs the other way, from y to x.

    So dx is that convolution of dy, and dw the correlation of dy with x.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, int] | int,
        stride: tuple[int, int] | int = 1,
        padding: tuple[int, int] | int = 0,
        output_padding: tuple[int, int] | int = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: tuple[int, int] | int = 1,
        initialisation: Initialisation = "torch",
    ) -> None:
        super().__init__()
        conv.check_channels(in_channels, out_channels, groups)
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.geometry = Geometry(
            conv.pair(kernel_size, "kernel_size", 1),
            conv.pair(stride, "stride", 1),
            conv.pair(padding, "padding", 0),
            conv.pair(dilation, "dilation", 1),
        )
        self.output_padding = conv.pair(output_padding, "output_padding", 0)
        for extra, s, d in zip(
            self.output_padding, self.geometry.stride, self.geometry.dilation, strict=True
        ):
            if extra >= max(s, d):
                raise ValueError(f"output_padding must be smaller than stride or dilation, got {extra}")
        shape = in_channels, out_channels // groups, *self.geometry.kernel
        self.weight, self.bias = self.add_weights(initialisation, shape, out_channels if bias else None)

    def kernel(self) -> Tensor:
        return self.weight.value

    def add_gradient(self, d_kernel: Tensor) -> None:
        self.weight.grad.add_(d_kernel)

    def output_shape(self, shape: Shape) -> Shape:
        conv.check_pictures(shape, self.in_channels)
        g, (N, _, H, W) = self.geometry, shape
        OH = (H - 1) * g.stride[0] - 2 * g.padding[0] + g.extent[0] + self.output_padding[0]
        OW = (W - 1) * g.stride[1] - 2 * g.padding[1] + g.extent[1] + self.output_padding[1]
        if min(OH, OW) < 1:
            raise ShapeError(f"an input of {H}x{W} leaves nothing inside the padding")
        return N, self.out_channels, OH, OW

    def macs(self, shape: Shape) -> int:
        conv.check_pictures(shape, self.in_channels)
        N, C, H, W = shape
        return N * H * W * C * self.weight.value[0].numel()

    def reach(self, reach: Reach) -> Reach:
        g = self.geometry
        if g.stride[0] != g.stride[1]:
            raise ShapeError("unequal strides in height and width have no common reach")
        # an input pixel adds to the outputs from `padding` before its place to the end of its window
        margin = max(
            -(-side // s)
            for p, e, s in zip(g.padding, g.extent, g.stride, strict=True)
            for side in (p, e - s - p, 0)
        )
        return reach.then(margin=margin, stride=Fraction(1, g.stride[0]))
