"""What the convolution layers share: arguments, pictures as (N, H, W, C), groups of channels."""

from types import ModuleType

import torch
from torch import Tensor

from denoise_cli.nn import kernels, layout
from denoise_cli.nn.kernels import depthwise, memory
from denoise_cli.nn.kernels.geometry import Geometry, Pair
from denoise_cli.nn.kernels.joining import ADD, WRITE, Join
from denoise_cli.nn.kernels.products import sum_of_pixels
from denoise_cli.nn.module import Module, Parameter, Shape, ShapeError


def pair(value: Pair | int, name: str, least: int) -> Pair:
    """(height, width) of a number given once or twice; raises ValueError below `least`."""
    both = (value, value) if isinstance(value, int) else (value[0], value[1])
    if min(both) < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return both


def check_channels(in_channels: int, out_channels: int, groups: int) -> None:
    """Raises ValueError unless both widths are positive and divide into the groups."""
    if min(in_channels, out_channels, groups) < 1:
        raise ValueError("in_channels, out_channels and groups must be positive")
    if in_channels % groups or out_channels % groups:
        raise ValueError(
            f"in_channels and out_channels must be multiples of groups, "
            f"got {in_channels} and {out_channels} for {groups} groups"
        )


def check_pictures(shape: Shape, channels: int) -> None:
    """Raises ShapeError unless `shape` is (N, channels, H, W)."""
    if len(shape) != 4:
        raise ShapeError(f"expects (N, {channels}, H, W), got {tuple(shape)}")
    if shape[1] != channels:
        raise ShapeError(f"expects {channels} channels, got {shape[1]}")


class Convolution(Module):
    """A layer whose maps are those of a convolution: it joins their results with memory that is there."""

    fresh_output = True
    fresh_gradient = True
    joins = True

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_onto(x, layout.empty(self.output_shape(x.shape), x), WRITE)

    def backward(self, dy: Tensor) -> Tensor:
        return self._backward(dy, None, WRITE)

    def backward_onto(self, dy: Tensor, onto: Tensor, join: Join = ADD) -> Tensor:
        return self._backward(dy, onto, join)

    def _backward(self, dy: Tensor, onto: Tensor | None, join: Join) -> Tensor:
        """`backward_onto`, or `backward` into new memory."""
        raise NotImplementedError(type(self).__name__)


class Transposed(Convolution):
    """A layer that is a transposed convolution of x with a kernel made from its weight."""

    geometry: Geometry
    groups: int = 1
    bias: Parameter | None

    def kernel(self) -> Tensor:
        """(in_channels, out_channels / groups, kh, kw): that of the convolution from y to x."""
        raise NotImplementedError(type(self).__name__)

    def add_gradient(self, d_kernel: Tensor) -> None:
        """Adds what the gradient by the kernel is by the weight."""
        raise NotImplementedError(type(self).__name__)

    def forward_onto(self, x: Tensor, onto: Tensor, join: Join = ADD) -> Tensor:
        x, y = to_pictures(x), to_pictures(onto)
        bias = None if self.bias is None else self.bias.value
        input_gradient(x, self.kernel(), bias, self.geometry, self.groups, y, join)
        self.save(x)
        return from_pictures(y)

    def _backward(self, dy: Tensor, onto: Tensor | None, join: Join) -> Tensor:
        (x,) = self.saved()
        dy, kernel = to_pictures(dy), self.kernel()
        d_kernel = torch.zeros_like(kernel)
        if self.bias is not None:
            self.bias.grad.add_(sum_of_pixels(dy))
        if self.needs_input_gradient and onto is not None and self.groups == 1:
            dx = to_pictures(onto)
            kernels.transposed_gradients(x, dy, kernel, d_kernel, self.geometry, dx, join)
            self.add_gradient(d_kernel)
            return from_pictures(dx)
        weight_gradient(dy, x, d_kernel, None, self.geometry, self.groups)
        self.add_gradient(d_kernel)
        if not self.needs_input_gradient:
            return dy.new_empty(0)
        shape = x.shape
        del x
        # output padding of a stride or more has room for windows that no input pixel made: dx ends sooner
        dx = target(shape, dy, onto)
        forward(dy, kernel, None, self.geometry, self.groups, dx, join)
        return from_pictures(dx)


def target(shape: Shape, like: Tensor, onto: Tensor | None) -> Tensor:
    """Memory for a result (N, H, W, C): new, or that of `onto` (N, C, H, W)."""
    return memory.empty(tuple(shape), like) if onto is None else to_pictures(onto)


def to_pictures(x: Tensor) -> Tensor:
    """(N, C, H, W) -> contiguous (N, H, W, C): a view where the memory is channels-last."""
    return x.permute(0, 2, 3, 1).contiguous()


def from_pictures(x: Tensor) -> Tensor:
    """(N, H, W, C) -> (N, C, H, W), a view."""
    return x.permute(0, 3, 1, 2)


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: Geometry,
    groups: int,
    y: Tensor,
    join: Join = WRITE,
) -> None:
    """`kernels.forward` for each group of channels: x (N, H, W, C), weight (O, C / groups, kh, kw)."""
    if at_once := _at_once(weight, groups):
        at_once.forward(x, weight, bias, geometry, y, join)
        return
    for ins, outs in _slices(x.shape[3], weight.shape[0], groups):
        part = memory.empty((*y.shape[:3], weight.shape[0] // groups), y)
        some_bias = None if bias is None else bias[outs]
        kernels.forward(x[..., ins].contiguous(), weight[outs], some_bias, geometry, part)
        join.put(y[..., outs], part)


def input_gradient(
    dy: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: Geometry,
    groups: int,
    dx: Tensor,
    join: Join = WRITE,
) -> None:
    """`kernels.input_gradient` for each group of channels."""
    if at_once := _at_once(weight, groups):
        at_once.input_gradient(dy, weight, bias, geometry, dx, join)
        return
    for ins, outs in _slices(dx.shape[3], weight.shape[0], groups):
        part = memory.empty((*dx.shape[:3], weight.shape[1]), dx)
        some_bias = None if bias is None else bias[ins]
        kernels.input_gradient(dy[..., outs].contiguous(), weight[outs], some_bias, geometry, part)
        join.put(dx[..., ins], part)


def weight_gradient(
    x: Tensor, dy: Tensor, d_weight: Tensor, d_bias: Tensor | None, geometry: Geometry, groups: int
) -> None:
    """`kernels.weight_gradient` for each group of channels."""
    if at_once := _at_once(d_weight, groups):
        at_once.weight_gradient(x, dy, d_weight, d_bias, geometry)
        return
    for ins, outs in _slices(x.shape[3], d_weight.shape[0], groups):
        kernels.weight_gradient(
            x[..., ins].contiguous(),
            dy[..., outs].contiguous(),
            d_weight[outs],
            None if d_bias is None else d_bias[outs],
            geometry,
        )


def _at_once(weight: Tensor, groups: int) -> ModuleType | None:
    """What computes all groups together: a single one, or one a channel; None for those in between."""
    if groups == 1:
        return kernels
    return depthwise if tuple(weight.shape[:2]) == (groups, 1) else None


def _slices(channels: int, out_channels: int, groups: int) -> list[tuple[slice, slice]]:
    c, o = channels // groups, out_channels // groups
    return [(slice(g * c, (g + 1) * c), slice(g * o, (g + 1) * o)) for g in range(groups)]
