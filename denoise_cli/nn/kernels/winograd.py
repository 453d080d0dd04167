"""Winograd convolution: minimal filters on rows and columns, two to four times fewer multiplications.

Two-dimensional filters. Applied to rows and columns, a minimal filter F(m, r) gives m x m outputs of an r x r
filter g on a window d of (m + r - 1)^2 inputs by

    Y = A^T [ U * V ] A,    U = G g G^T,    V = B^T d B.

Summed over channels, "U * V" is a matrix product for each place p of the window, M[p] = V[p] U[p] with V[p]
(tiles, C) and U[p] (C, O): one `bmm`. F(4, 3) needs 36 products for 16 outputs instead of 144, F(3, 2) 16 for
9 instead of 36.

Strides. A kernel of r s taps with stride s is an r x r kernel on the s x s phases of the padded picture laid
side by side as channels (see `shifted`): r = 2 covers the 4x4 kernels of stride 2 that shrink and enlarge.

Backward. The input gradient is a convolution of dy with the filters turned by 180 degrees and C and O
exchanged, whose outputs are phases. The weight gradient is the adjoint of the map U -> Y:

    dM = A dY A^T,    dU[p] = V[p]^T dM[p],    dg = G^T dU G.

Error: 2e-6 of the largest output in float32, twice that of a direct sum.

Source: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016.
"""

import torch
from torch import Tensor

from denoise_cli.nn.kernels.chunks import Chunk, Workspace, chunks_of_rows, local_workspace
from denoise_cli.nn.kernels.geometry import (
    Geometry,
    Pair,
    copy_phases,
    copy_to_phases,
    copy_window,
    phase_range,
)
from denoise_cli.nn.kernels.memory import empty
from denoise_cli.nn.kernels.minimal_filters import F_3_2, F_4_3, MinimalFilter


def filter_for(geometry: Geometry) -> MinimalFilter | None:
    """The minimal filter of a geometry: for 3x3 of stride 1, or a kernel of twice its stride; else None."""
    (kh, kw), (sh, sw) = geometry.kernel, geometry.stride
    if geometry.dilation != (1, 1) or sh != sw or kh != kw:
        return None
    if (kh, sh) == (3, 1) and max(geometry.padding) <= 2:
        return F_4_3
    return F_3_2 if kh == 2 * sh and max(geometry.padding) < kh else None


def fits(geometry: Geometry) -> bool:
    """Whether this kernel computes such a convolution."""
    return filter_for(geometry) is not None


def is_worth_it(geometry: Geometry, channels: int, out_channels: int) -> bool:
    """Whether the products that are saved outweigh the transforms."""
    return min(channels, out_channels) >= 24


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """y (N, OH, OW, O) = x (N, H, W, C) * weight (O, C, kh, kw) + bias (O,)."""
    f = _filter(geometry)
    N, O = x.shape[0], weight.shape[0]
    OH, OW = geometry.output_size((x.shape[1], x.shape[2]))
    tw = -(-OW // f.outputs)
    filters = _transformed(_by_tap(weight, geometry), f)
    y = empty((N, OH, OW, O), x)
    chunks = _chunks(x, OH, tw, max(filters.shape[1:]), f)
    workspace = local_workspace()
    for pictures, first, last in chunks:
        v = _input_planes(x[pictures], first, last, tw, geometry, f, workspace)
        m = _products(v, filters, workspace)
        rows = y[pictures, first * f.outputs : last * f.outputs]
        whole = rows.shape[1:3] == ((last - first) * f.outputs, tw * f.outputs)
        if whole:
            _output_tiles(m, rows, f, workspace)
        else:
            tiles = _tiles(rows.shape[0], last - first, tw, O, f, m, workspace)
            rows.copy_(tiles[:, : rows.shape[1], :OW])
        if bias is not None:
            rows.add_(bias)
    return y


def input_gradient(dy: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, size: Pair) -> Tensor:
    """dx (N, H, W, C) from dy (N, OH, OW, O), plus a bias (C,): a convolution that yields phases of dx."""
    f, s = _filter(geometry), geometry.stride[0]
    if s == 1:
        padding = (f.taps - 1 - geometry.padding[0], f.taps - 1 - geometry.padding[1])
        flipped = weight.flip(2, 3).transpose(0, 1)
        return forward(dy, flipped, bias, Geometry(geometry.kernel, padding=padding))
    N, C = dy.shape[0], weight.shape[1]
    (top, bottom), (left, right) = phase_range(geometry, size, 0), phase_range(geometry, size, 1)
    tw = -(-(right - left) // f.outputs)
    turned = _by_tap(weight, geometry).flip(0, 1).transpose(2, 3)
    filters = _transformed(turned, f)
    dx = empty((N, *size, C), dy)
    chunks = _chunks(dy, bottom - top, tw, max(filters.shape[1:]), f)
    workspace = local_workspace()
    for pictures, first, last in chunks:
        part, back = dy[pictures], f.taps - 1
        height, width = (last - first) * f.outputs + back, tw * f.outputs + back
        window = workspace.empty("window", (part.shape[0], height, width, dy.shape[3]), dy)
        copy_window(part, top + first * f.outputs - back, left - back, window)
        m = _products(_planes(window, f, workspace), filters, workspace)
        tiles = _tiles(part.shape[0], last - first, tw, s * s * C, f, m, workspace)
        rows = min(bottom - top, last * f.outputs) - first * f.outputs
        phases = tiles.view(*tiles.shape[:3], s * s, C)[:, :rows, : right - left]
        if bias is not None:
            phases.add_(bias)
        copy_to_phases(phases, top + first * f.outputs, left, geometry, geometry.all_phases, dx[pictures])
    return dx


def weight_gradient(
    x: Tensor, dy: Tensor, d_weight: Tensor, d_bias: Tensor | None, geometry: Geometry
) -> None:
    """Adds dL/dweight (O, C, kh, kw) and dL/dbias (O,) in place."""
    f, (r, s) = _filter(geometry), (geometry.kernel[0] // geometry.stride[0], geometry.stride[0])
    _, OH, OW, O = dy.shape
    C, places = x.shape[3], f.inputs**2
    tw = -(-OW // f.outputs)
    chunks = _chunks(x, OH, tw, max(s * s * C, O), f)
    workspace = local_workspace()
    d_filters = x.new_zeros(places, s * s * C, O)
    for pictures, first, last in chunks:
        v = _input_planes(x[pictures], first, last, tw, geometry, f, workspace)
        dm = _output_gradient_planes(dy[pictures], first, last, tw, f, workspace)
        d_filters.baddbmm_(v.transpose(1, 2), dm)
        if d_bias is not None:
            d_bias.add_(dy[pictures, first * f.outputs : last * f.outputs].sum((0, 1, 2)))
    taps = (_kron(f, x).T @ d_filters.view(places, -1)).view(r, r, s, s, C, O)
    d_weight.view(O, C, r, s, r, s).add_(taps.permute(5, 4, 1, 2, 0, 3))


def _filter(geometry: Geometry) -> MinimalFilter:
    f = filter_for(geometry)
    if f is None:
        raise ValueError(f"there is no minimal filter for {geometry}")
    return f


def _chunks(like: Tensor, rows: int, tw: int, channels: int, f: MinimalFilter) -> list[Chunk]:
    """Rows of tiles in chunks, for outputs of so many rows."""
    return chunks_of_rows(like.shape[0], -(-rows // f.outputs), f.outputs**2 * tw * channels, like)


def _by_tap(weight: Tensor, geometry: Geometry) -> Tensor:
    """(O, C, r s, r s) -> (r, r, s s C, O): column and row of a tap, channels of the phases, outputs."""
    O, C = weight.shape[:2]
    s = geometry.stride[0]
    r = geometry.kernel[0] // s
    return weight.reshape(O, C, r, s, r, s).permute(4, 2, 3, 5, 1, 0).reshape(r, r, s * s * C, O)


def _kron(f: MinimalFilter, like: Tensor) -> Tensor:
    """G (x) G, (inputs^2, taps^2): both transforms of a filter at once."""
    g = torch.tensor(f.filter_matrix, dtype=like.dtype, device=like.device)
    return torch.kron(g, g)


def _transformed(taps: Tensor, f: MinimalFilter) -> Tensor:
    """U (places, C, O) = G g G^T of every filter (r, r, C, O); places count column first, as V does."""
    C, O = taps.shape[2:]
    return (_kron(f, taps) @ taps.reshape(f.taps**2, C * O)).view(f.inputs**2, C, O)


def _products(v: Tensor, filters: Tensor, workspace: Workspace) -> Tensor:
    """M (places, tiles, O) = V U."""
    return torch.bmm(v, filters, out=workspace.empty("m", (*v.shape[:2], filters.shape[2]), v))


def _input_planes(
    x: Tensor, first: int, last: int, tw: int, geometry: Geometry, f: MinimalFilter, workspace: Workspace
) -> Tensor:
    """V (places, tiles, s s C) of all windows of tile rows [first, last)."""
    s, back = geometry.stride[0], f.taps - 1
    height, width = (last - first) * f.outputs + back, tw * f.outputs + back
    window = workspace.empty("window", (x.shape[0], height, width, s * s * x.shape[3]), x)
    copy_phases(x, first * f.outputs, 0, geometry, geometry.all_phases, window)
    return _planes(window, f, workspace)


def _planes(window: Tensor, f: MinimalFilter, workspace: Workspace) -> Tensor:
    """V (places, tiles, C) = B^T d B of all windows of (n, height, width, C); places count column first."""
    n, height, width, C = window.shape
    th, tw, k = height // f.outputs, width // f.outputs, f.inputs
    row = width * C
    rows = window.as_strided((k, n, th, row), (row, height * row, f.outputs * row, 1))
    half = workspace.empty("half", (k, n * th, width, C), window)
    f.input(rows, half.view(k, n, th, row), workspace.empty("scratch", (f.scratch, n, th, row), window))
    columns = half.as_strided((k, k * n * th, tw, C), (C, row, f.outputs * C, 1))
    v = workspace.empty("v", (k, k * n * th, tw, C), window)
    f.input(columns, v, workspace.empty("scratch", (f.scratch, k * n * th, tw, C), window))
    return v.view(k * k, n * th * tw, C)


def _tiles(
    n: int, th: int, tw: int, channels: int, f: MinimalFilter, m: Tensor, workspace: Workspace
) -> Tensor:
    """The output tiles of M in scratch memory, (n, rows, columns, channels)."""
    tiles = workspace.empty("tiles", (n, th * f.outputs, tw * f.outputs, channels), m)
    _output_tiles(m, tiles, f, workspace)
    return tiles


def _output_tiles(m: Tensor, y: Tensor, f: MinimalFilter, workspace: Workspace) -> None:
    """y (n, outputs th, outputs tw, O) = A^T m A for m (places, tiles, O)."""
    k, o = f.inputs, f.outputs
    n, O = y.shape[0], y.shape[3]
    th, tw = y.shape[1] // o, y.shape[2] // o
    half = workspace.empty("half", (o, k, n, th, tw, O), m)
    scratch = workspace.empty("scratch", (f.scratch, k, n, th, tw, O), m)
    f.output(m.view(k, k, n, th, tw, O), half, scratch)
    s = y.stride()
    tiles = y.as_strided((o, o, n, th, tw, O), (s[1], s[2], s[0], o * s[1], o * s[2], 1), y.storage_offset())
    f.output(half.transpose(0, 1), tiles, workspace.empty("scratch", (f.scratch, o, n, th, tw, O), m))


def _output_gradient_planes(
    dy: Tensor, first: int, last: int, tw: int, f: MinimalFilter, workspace: Workspace
) -> Tensor:
    """dM (places, tiles, O) = A dY A^T of all tiles of tile rows [first, last)."""
    k, o, th = f.inputs, f.outputs, last - first
    n, O = dy.shape[0], dy.shape[3]
    window = workspace.empty("window", (n, th * o, tw * o, O), dy)
    copy_window(dy, first * o, 0, window)
    row = tw * o * O
    rows = window.view(n, th, o, row).permute(2, 0, 1, 3)
    half = workspace.empty("half", (k, n, th, row), dy)
    f.output_adjoint(rows, half, workspace.empty("scratch", (f.scratch, n, th, row), dy))
    columns = half.view(k * n * th, tw, o, O).permute(2, 0, 1, 3)
    dm = workspace.empty("m", (k, k * n * th, tw, O), dy)
    f.output_adjoint(columns, dm, workspace.empty("scratch", (f.scratch, k * n * th, tw, O), dy))
    return dm.view(k * k, n * th * tw, O)
