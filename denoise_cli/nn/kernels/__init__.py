"""Convolution as tensor algebra: three maps of a geometry, and the choice of the kernel that computes them.

    forward          y  = x * w + b
    input_gradient   dx = the adjoint of `forward` in x, applied to dy; as a layer, the transposed convolution
    weight_gradient  dw, db += the adjoint in w and b

Pictures are (N, H, W, C), weights (O, C, kh, kw). A result goes to memory that the caller names: it is
written there, or joined with what it finds (see `joining`), so that an activation or a sum costs no pass
of its own over memory. Setting the environment variable DENOISE_KERNEL to the name of a kernel uses it
wherever it fits.
"""

import os
from types import ModuleType

from torch import Tensor

from denoise_cli.nn.kernels import columns, shifted, winograd
from denoise_cli.nn.kernels.geometry import Geometry, Map
from denoise_cli.nn.kernels.joining import WRITE, Join
from denoise_cli.nn.kernels.products import products_of

KERNELS: dict[str, ModuleType] = {"winograd": winograd, "columns": columns, "shifted": shifted}
"""In the order of preference where several are worth it; the last fits everything."""


def choose(which: Map, geometry: Geometry, channels: int, out_channels: int) -> ModuleType:
    """The kernel for a map of such a convolution: the first worth it, or the forced one where it fits."""
    forced = KERNELS.get(os.environ.get("DENOISE_KERNEL", ""))
    if forced is not None and forced.fits(geometry):
        return forced
    for kernel in KERNELS.values():
        if kernel.fits(geometry) and kernel.is_worth_it(which, geometry, channels, out_channels):
            return kernel
    return shifted


def forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, y: Tensor, join: Join = WRITE
) -> None:
    """y (N, OH, OW, O) = x (N, H, W, C) * weight (O, C, kh, kw) + bias (O,), joined with what `y` holds."""
    with products_of(x, weight):
        kernel = choose("forward", geometry, weight.shape[1], weight.shape[0])
        kernel.forward(x, weight, bias, geometry, y, join)


def input_gradient(
    dy: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, dx: Tensor, join: Join = WRITE
) -> None:
    """dx (N, H, W, C) from dy (N, OH, OW, O), plus a bias (C,), joined with what `dx` holds."""
    with products_of(dy, weight):
        kernel = choose("input_gradient", geometry, weight.shape[1], weight.shape[0])
        kernel.input_gradient(dy, weight, bias, geometry, dx, join)


def weight_gradient(
    x: Tensor, dy: Tensor, d_weight: Tensor, d_bias: Tensor | None, geometry: Geometry
) -> None:
    """Adds dL/dweight (O, C, kh, kw) and dL/dbias (O,) in place."""
    with products_of(x, d_weight):
        kernel = choose("weight_gradient", geometry, d_weight.shape[1], d_weight.shape[0])
        kernel.weight_gradient(x, dy, d_weight, d_bias, geometry)


def gradients(
    x: Tensor,
    dy: Tensor,
    weight: Tensor,
    d_weight: Tensor,
    d_bias: Tensor | None,
    geometry: Geometry,
    dx: Tensor,
    join: Join = WRITE,
) -> None:
    """`weight_gradient` and `input_gradient`; `dx` may lie in the memory of x."""
    with products_of(dy, weight):
        if kernel := _of_both_gradients("input_gradient", dy, weight, geometry):
            kernel.gradients(x, dy, weight, d_weight, d_bias, geometry, dx, join)
            return
    weight_gradient(x, dy, d_weight, d_bias, geometry)
    input_gradient(dy, weight, None, geometry, dx, join)


def transposed_gradients(
    x: Tensor,
    dy: Tensor,
    weight: Tensor,
    d_weight: Tensor,
    geometry: Geometry,
    dx: Tensor,
    join: Join = WRITE,
) -> None:
    """Those of the transposed convolution: `weight_gradient` of (dy, x), and `forward` of dy to `dx`.

    `dx` may lie in the memory of x.
    """
    with products_of(dy, weight):
        if kernel := _of_both_gradients("forward", dy, weight, geometry):
            kernel.transposed_gradients(x, dy, weight, d_weight, geometry, dx, join)
            return
    weight_gradient(dy, x, d_weight, None, geometry)
    forward(dy, weight, None, geometry, dx, join)


def _of_both_gradients(which: Map, dy: Tensor, weight: Tensor, geometry: Geometry) -> ModuleType | None:
    """The kernel that computes the gradients by the input, which is this map, and by the weight from what it
    makes of dy once; None if there is none."""
    O, C = weight.shape[:2]
    kernel = choose(which, geometry, C, O)
    same = kernel is choose("weight_gradient", geometry, C, O)
    return kernel if same and kernel.shares_gradients(which, geometry, C, O, dy) else None
