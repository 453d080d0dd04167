"""What the convolution layers share: pairs of numbers, pictures as (N, H, W, C), groups of channels."""

from types import ModuleType

from torch import Tensor

from denoise_cli.nn import kernels
from denoise_cli.nn.kernels import depthwise
from denoise_cli.nn.kernels.geometry import Geometry, Pair
from denoise_cli.nn.kernels.memory import empty
from denoise_cli.nn.module import Shape, ShapeError


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


def to_pictures(x: Tensor) -> Tensor:
    """(N, C, H, W) -> contiguous (N, H, W, C): a view where the memory is channels-last."""
    return x.permute(0, 2, 3, 1).contiguous()


def from_pictures(x: Tensor) -> Tensor:
    """(N, H, W, C) -> (N, C, H, W), a view."""
    return x.permute(0, 3, 1, 2)


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, groups: int) -> Tensor:
    """`kernels.forward` for each group of channels: x (N, H, W, C), weight (O, C / groups, kh, kw)."""
    if at_once := _at_once(weight, groups):
        whole: Tensor = at_once.forward(x, weight, bias, geometry)
        return whole
    y = empty((x.shape[0], *geometry.output_size((x.shape[1], x.shape[2])), weight.shape[0]), x)
    for ins, outs in _slices(x.shape[3], weight.shape[0], groups):
        part = kernels.forward(
            x[..., ins].contiguous(), weight[outs], None if bias is None else bias[outs], geometry
        )
        y[..., outs].copy_(part)
    return y


def input_gradient(
    dy: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, size: Pair, groups: int
) -> Tensor:
    """`kernels.input_gradient` for each group of channels."""
    if at_once := _at_once(weight, groups):
        whole: Tensor = at_once.input_gradient(dy, weight, bias, geometry, size)
        return whole
    channels = weight.shape[1] * groups
    dx = empty((dy.shape[0], *size, channels), dy)
    for ins, outs in _slices(channels, weight.shape[0], groups):
        part = kernels.input_gradient(
            dy[..., outs].contiguous(), weight[outs], None if bias is None else bias[ins], geometry, size
        )
        dx[..., ins].copy_(part)
    return dx


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
