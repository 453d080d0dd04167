"""Convolution as one product with a matrix of columns.

Gathered. The pixels of a window, gathered into a row of kh kw C numbers, meet all filters in a single product
instead of a sum of thin ones:

    y (rows, O) = columns (rows, kh kw C) @ W (kh kw C, O),    dW = columns^T dy.

Spread, for few output channels, as in the last layer of a network. The same from the other end: one product
gives what every pixel adds to every tap, with the taps as rows, so that the shifted sums run along contiguous
memory:

    P (kh kw O, pixels) = W' (kh kw O, C) @ x^T,    y = sum over the taps of P shifted by the tap's offset.

Each is the other's input gradient, with turned filters. With a stride s, the second form computes the s x s
phases of dx, each from every s-th tap (see `shifted`); the kernel must then be a multiple of the stride.

The weight gradient is done in parts (see `parts`), each with a sum of its own: a product with the columns of
all would have every thread read what the others wrote.

Error: that of a direct sum, about 1e-6 of the largest output in float32.
"""

import torch
from torch import Tensor

from denoise_cli.nn.kernels.chunks import Workspace, chunks_of_rows, local_workspace, threads
from denoise_cli.nn.kernels.geometry import (
    Geometry,
    Map,
    copy_wide,
    copy_window,
    phase_pairs,
    phase_range,
)
from denoise_cli.nn.kernels.joining import WRITE, Join
from denoise_cli.nn.kernels.parts import in_parts
from denoise_cli.nn.kernels.products import (
    factor,
    factor_type,
    multiply,
    products_are_cheap,
    sum_of_pixels,
    sums_of,
)

FEW = 12
"""Channels up to which columns are worth it: of what is gathered, or rows of a tap of what is spread."""


def fits(geometry: Geometry) -> bool:
    """Whether this kernel computes such a convolution, in any of its three maps."""
    sizes = zip(geometry.kernel, geometry.stride, geometry.padding, strict=True)
    return geometry.dilation == (1, 1) and all(k % s == 0 and p < k for k, s, p in sizes)


def is_worth_it(which: Map, geometry: Geometry, channels: int, out_channels: int) -> bool:
    """Whether one product outweighs the columns: not for a point, and of stride 1 for few channels alone."""
    if geometry.kernel == (1, 1):
        return False
    if which == "input_gradient" and geometry.stride != (1, 1):
        return channels * len(geometry.all_phases) <= FEW
    if which == "weight_gradient" or geometry.stride != (1, 1):
        return True
    return products_are_cheap() or min(channels, out_channels) <= FEW


def forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, y: Tensor, join: Join
) -> None:
    """y (N, OH, OW, O) = x (N, H, W, C) * weight (O, C, kh, kw) + bias (O,)."""
    O, C = weight.shape[:2]
    if geometry.stride != (1, 1) or not _spreads(C, O, x):
        _gather(x, weight, bias, geometry, y, join)
    else:
        _spread(x, weight.flip(2, 3).transpose(0, 1), bias, _turned(geometry), y, join)


def input_gradient(
    dy: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, dx: Tensor, join: Join
) -> None:
    """dx (N, H, W, C) from dy (N, OH, OW, O), plus a bias (C,)."""
    O, C = weight.shape[:2]
    if geometry.stride != (1, 1) or _spreads(O, C, dy):
        _spread(dy, weight, bias, geometry, dx, join)
    else:
        _gather(dy, weight.flip(2, 3).transpose(0, 1), bias, _turned(geometry), dx, join)


def weight_gradient(
    x: Tensor, dy: Tensor, d_weight: Tensor, d_bias: Tensor | None, geometry: Geometry
) -> None:
    """Adds dL/dweight (O, C, kh, kw) and dL/dbias (O,) in place."""
    O, C = d_weight.shape[:2]
    if geometry.stride != (1, 1) or C <= O:
        d_weight.add_(_column_products(x, dy, geometry).permute(0, 3, 1, 2))
    else:
        d_weight.add_(_column_products(dy, x, _turned(geometry)).flip(1, 2).permute(3, 0, 1, 2))
    if d_bias is not None:
        d_bias.add_(sum_of_pixels(dy))


def shares_gradients(which: Map, geometry: Geometry, channels: int, out_channels: int, dy: Tensor) -> bool:
    """Whether both gradients can be computed from columns of dy gathered once: by `gradients`, where `which`
    is "input_gradient", or by `transposed_gradients`, where it is "forward"."""
    if which == "input_gradient":
        return geometry.stride == (1, 1) and not _spreads(out_channels, channels, dy)
    return geometry.stride != (1, 1) or not _spreads(channels, out_channels, dy)


def gradients(
    x: Tensor,
    dy: Tensor,
    weight: Tensor,
    d_weight: Tensor,
    d_bias: Tensor | None,
    geometry: Geometry,
    dx: Tensor,
    join: Join,
) -> None:
    """`weight_gradient` and `input_gradient`; `dx` may lie in the memory of x, whose rows are read before."""
    matrix = weight.flip(2, 3).permute(2, 3, 0, 1).flatten(0, 2)
    products = _gather_for_both(dy, matrix, x, _turned(geometry), dx, join)
    d_weight.add_(products.flip(1, 2).permute(3, 0, 1, 2))
    if d_bias is not None:
        d_bias.add_(sum_of_pixels(dy))


def transposed_gradients(
    x: Tensor, dy: Tensor, weight: Tensor, d_weight: Tensor, geometry: Geometry, dx: Tensor, join: Join
) -> None:
    """`weight_gradient` of (dy, x), and `forward` of dy to `dx`, which may lie in the memory of x."""
    products = _gather_for_both(dy, weight.permute(2, 3, 1, 0).flatten(0, 2), x, geometry, dx, join)
    d_weight.add_(products.permute(0, 3, 1, 2))


def _gather_for_both(
    t: Tensor, matrix: Tensor, pixels: Tensor, geometry: Geometry, result: Tensor, join: Join
) -> Tensor:
    """columns(t) @ matrix goes to `result` (N, H, W, O), pixels^T columns(t) (O, kh, kw, C) is returned."""
    (N, H, W, O), (kh, kw), C = pixels.shape, geometry.kernel, t.shape[3]
    count, workspace = _parts(t), local_workspace(__name__)
    matrix, sums = factor(matrix, "matrix", workspace), sums_of(t, count, O, kh * kw * C)
    for parts in in_parts(N, H, W, max(_columns_width(kh * kw * C, t), O), t, count):
        first, last = parts.first_row, parts.first_row + parts.rows
        columns = _columns(parts.whole(t), first, last, W, geometry, workspace, O)
        _add_products(parts.whole(pixels)[:, :, first:last], columns, sums, workspace)
        target = parts.whole(result)[:, :, first:last]
        out = workspace.empty("window", tuple(target.shape), t)  # which has been copied
        multiply(columns.view(-1, kh * kw * C), matrix, out.view(-1, O), workspace)
        join.put(target, out)
    return sums.sum(0).view(O, kh, kw, C)


def _spreads(ins: int, outs: int, x: Tensor) -> bool:
    """Whether a map of stride 1 is better spread than gathered: not in bfloat16, which rounds each sum."""
    return outs <= min(ins, FEW) and x.dtype != torch.bfloat16


def _turned(geometry: Geometry) -> Geometry:
    """The adjoint of a geometry of stride 1: what was cut off is padded, what was padded is cut off."""
    (kh, kw), (ph, pw) = geometry.kernel, geometry.padding
    return Geometry((kh, kw), padding=(kh - 1 - ph, kw - 1 - pw))


def _gather(
    x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, y: Tensor, join: Join
) -> None:
    """The convolution by columns of x and one product."""
    N, OH, OW, O = y.shape
    workspace = local_workspace(__name__)
    matrix = factor(weight.permute(2, 3, 1, 0).reshape(-1, O), "matrix", workspace)
    chunks = chunks_of_rows(N, OH, OW * max(_columns_width(matrix.shape[0], x), O), x)
    for pictures, first, last in chunks:
        (columns,) = _columns(x[None, pictures], first, last, OW, geometry, workspace, O)
        target = y[pictures, first:last].view(-1, O)
        out = target if join.finish else workspace.empty("window", tuple(target.shape), x)
        multiply(columns, matrix, out, workspace, plus=bias)
        join.end(target, out)


def _spread(
    dy: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, dx: Tensor, join: Join
) -> None:
    """The input gradient of few input channels: what a pixel of dy adds to each tap, then shifted sums."""
    O, C, kh, kw = weight.shape
    size = dx.shape[1], dx.shape[2]
    (sh, sw), phases = geometry.stride, geometry.all_phases
    rh, rw, few = kh // sh, kw // sw, len(phases) * C
    (top, bottom), (left, right) = phase_range(geometry, size, 0), phase_range(geometry, size, 1)
    # place a of a phase sums dy[a - t] over the taps t of the phases' rh x rw kernel, the last tap first
    taps = weight.view(O, C, rh, sh, rw, sw).flip(2, 4).permute(2, 4, 3, 5, 1, 0).reshape(-1, O)
    biases = None if bias is None else bias.repeat(len(phases))[:, None]
    width = right - left + rw - 1
    chunks = chunks_of_rows(dy.shape[0], bottom - top, width * (O + rh * rw * few), dy)
    workspace = local_workspace(__name__)
    for pictures, first, last in chunks:
        part = dy[pictures]
        n, height = part.shape[0], last - first + rh - 1
        pixels = n * height * width
        workspace.empty("window", (few, pixels), dy)  # for later: see `_columns`
        added = workspace.empty("columns", (rh * rw, few, pixels), dy)
        window = workspace.empty("window", (n, height, width, O), dy)
        copy_window(part, top + first - (rh - 1), left - (rw - 1), window)
        torch.mm(taps, window.view(pixels, O).T, out=added.view(-1, pixels))
        # the last places see beyond the window: what they would sum is cut off below
        count = pixels - (rh - 1) * width - (rw - 1)
        sums = workspace.empty("window", (few, pixels), dy)  # which has been multiplied
        total = sums[:, :count].copy_(added[0, :, :count])
        for t in range(1, rh * rw):
            offset = t // rw * width + t % rw
            total.add_(added[t, :, offset : offset + count])
        if biases is not None:
            total.add_(biases)
        if join.pointwise and join.finish:  # here, as runs of few channels in pictures are short
            join.finish(total)
        planes = sums.view(len(phases), C, n, height, width).permute(2, 3, 4, 0, 1)
        planes = planes[:, : last - first, : right - left]
        for target, some in phase_pairs(planes, top + first, left, geometry, phases, dx[pictures]):
            (WRITE if join.pointwise else join).put(target, some)


def _column_products(x: Tensor, dy: Tensor, geometry: Geometry) -> Tensor:
    """dy^T columns(x), (O, kh, kw, C)."""
    N, OH, OW, O = dy.shape
    (kh, kw), C = geometry.kernel, x.shape[3]
    count, workspace = _parts(x), local_workspace(__name__)
    sums = sums_of(x, count, O, kh * kw * C)
    for parts in in_parts(N, OH, OW, max(_columns_width(kh * kw * C, x), O), x, count):
        first, last = parts.first_row, parts.first_row + parts.rows
        columns = _columns(parts.whole(x), first, last, OW, geometry, workspace)
        _add_products(parts.whole(dy)[:, :, first:last], columns, sums, workspace)
    return sums.sum(0).view(O, kh, kw, C)


def _parts(x: Tensor) -> int:
    """How many parts there are of pictures (N, H, W, C)."""
    return threads(x) if x.shape[0] % threads(x) == 0 else 1


def _add_products(pixels: Tensor, columns: Tensor, sums: Tensor, workspace: Workspace) -> None:
    """sums (parts, O, K) += pixels (parts, n, rows, OW, O)^T columns (parts, n rows OW, K)."""
    rows = factor(pixels, "pixels", workspace).reshape(len(sums), -1, pixels.shape[-1])
    multiply(rows.transpose(1, 2), columns, sums, workspace, plus=sums)


def _columns_width(values: int, x: Tensor) -> int:
    """As many values of x's type as take the memory of a row of so many in the columns."""
    return values * factor_type(x).itemsize // x.element_size()


def _columns(
    x: Tensor, first: int, last: int, OW: int, geometry: Geometry, workspace: Workspace, outputs: int = 0
) -> Tensor:
    """One row for each output pixel of `x` (parts, n, H, W, C), its window: (parts, n rows OW, kh kw C).

    "window" has room for so many outputs of each pixel later.
    """
    (parts, n), C = x.shape[:2], x.shape[4]
    (kh, kw), (sh, sw) = geometry.kernel, geometry.stride
    height, width = (last - first - 1) * sh + kh, (OW - 1) * sw + kw
    # asked for before anything lies in this memory: what did not fit would move with both in use
    workspace.empty("window", (parts, n, last - first, OW, outputs), x)
    columns = workspace.empty("columns", (parts, n, last - first, OW, kh, kw * C), x, factor_type(x))
    if geometry.padding == (0, 0) and factor_type(x) == x.dtype:
        window = x[:, :, first * sh :]
    else:
        window = workspace.empty("window", (parts, n, height, width, C), x, factor_type(x))
        copy_window(x, first * sh - geometry.padding[0], -geometry.padding[1], window)
    part, picture, row, _, _ = window.stride()
    # kw neighbouring pixels of C channels are contiguous
    strides = (part, picture, sh * row, sw * C, row, 1)
    windows = window.as_strided((parts, n, last - first, OW, kh, kw * C), strides)
    copy_wide(windows, columns)
    return columns.view(parts, -1, kh * kw * C)
