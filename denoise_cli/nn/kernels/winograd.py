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

Memory. The columns of a chunk are sorted by their place in a tile, so that each addition of a transform runs
along a row of tiles; along the channels of one tile, torch is two to three times slower. The additions of a
chunk are bound to their scratch memory once and run again for every chunk of its size.

Error: 2e-6 of the largest output in float32, twice that of a direct sum.

Source: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016.
"""

import torch
from torch import Tensor

from denoise_cli.nn.kernels.chunks import Chunk, Workspace, chunks_of_rows, local_workspace
from denoise_cli.nn.kernels.geometry import (
    Geometry,
    Map,
    Pair,
    copy_tile_columns,
    copy_to_phases,
    copy_window,
    phase_range,
)
from denoise_cli.nn.kernels.memory import empty
from denoise_cli.nn.kernels.minimal_filters import F_3_2, F_4_3, MinimalFilter, Steps, Transform


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


def is_worth_it(which: Map, geometry: Geometry, channels: int, out_channels: int) -> bool:
    """Whether the products that are saved outweigh the transforms."""
    # with a stride, the windows of the other two maps are of all phases: s x s times as much to transform
    thin = geometry.stride == (1, 1) or which == "input_gradient"
    return thin and min(channels, out_channels) >= 48


def forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, onto: Tensor | None = None
) -> Tensor:
    """y (N, OH, OW, O) = x (N, H, W, C) * weight (O, C, kh, kw) + bias (O,); onto + y in the memory of
    `onto`, if that is given."""
    f = _filter(geometry)
    return _convolved(x, _filters(weight, geometry, f), bias, geometry, f, onto)


def input_gradient(dy: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, size: Pair) -> Tensor:
    """dx (N, H, W, C) from dy (N, OH, OW, O), plus a bias (C,): a convolution that yields phases of dx."""
    f, s = _filter(geometry), geometry.stride[0]
    back = f.taps - 1
    filters = _filters(weight, geometry, f, turned=True)
    if s == 1:
        padding = (back - geometry.padding[0], back - geometry.padding[1])
        return _convolved(dy, filters, bias, Geometry(geometry.kernel, padding=padding), f)
    N, C = dy.shape[0], weight.shape[1]
    (top, bottom), (left, right) = phase_range(geometry, size, 0), phase_range(geometry, size, 1)
    tw = -(-(right - left) // f.outputs)
    dx = empty((N, *size, C), dy)
    biases = None if bias is None else bias.repeat(s * s)
    of_phases = Geometry((f.taps, f.taps), padding=(back - top, back - left))
    for pictures, first, last in _chunks(dy, bottom - top, tw, max(filters.shape[1:]), f):
        tiles = _products(dy[pictures], filters, first, last, tw, of_phases, f)
        rows = min(bottom - top, last * f.outputs) - first * f.outputs
        whole = tiles.pictures(biases)
        phases = whole.view(*whole.shape[:3], s * s, C)[:, :rows, : right - left]
        copy_to_phases(phases, top + first * f.outputs, left, geometry, geometry.all_phases, dx[pictures])
    return dx


def weight_gradient(
    x: Tensor, dy: Tensor, d_weight: Tensor, d_bias: Tensor | None, geometry: Geometry
) -> None:
    """Adds dL/dweight (O, C, kh, kw) and dL/dbias (O,) in place."""
    f, (r, s) = _filter(geometry), (geometry.kernel[0] // geometry.stride[0], geometry.stride[0])
    _, OH, OW, O = dy.shape
    C, tw, workspace = x.shape[3], -(-OW // f.outputs), local_workspace(__name__)
    d_filters = workspace.empty("filters", (f.inputs**2, O, s * s * C), x).zero_()
    for pictures, first, last in _chunks(x, OH, tw, max(s * s * C, O), f):
        part, rows = x[pictures], dy[pictures, first * f.outputs : last * f.outputs]
        size = part.shape[0], last - first, tw
        v = workspace.plan(_InputPlanes, x, f, size, s * s * C).read(part, first * f.outputs, geometry)
        dm = workspace.plan(_OutputGradientPlanes, x, f, size, O).read(rows)
        d_filters.baddbmm_(dm.transpose(1, 2), v)
        if d_bias is not None:
            d_bias.add_(rows.sum((0, 1, 2)))
    if s == 1:
        d_weight.view(O * C, -1).addmm_(d_filters.view(-1, O * C).T, _transform(f, x))
        return
    taps = workspace.empty("taps", (r * r, O * s * s * C), x)
    torch.mm(_transform(f, x).T, d_filters.view(f.inputs**2, -1), out=taps)
    # (row, column of the tap, O, row, column of the phase, C) -> (O, C, r s, r s)
    d_weight.view(O, C, r, s, r, s).add_(taps.view(r, r, O, s, s, C).permute(2, 5, 0, 3, 1, 4))


def _filter(geometry: Geometry) -> MinimalFilter:
    f = filter_for(geometry)
    if f is None:
        raise ValueError(f"there is no minimal filter for {geometry}")
    return f


def _chunks(like: Tensor, rows: int, tw: int, channels: int, f: MinimalFilter) -> list[Chunk]:
    """Rows of tiles in chunks, for outputs of so many rows."""
    intermediates = 4 * f.outputs**2  # V and M, and what lies halfway to each, of a tile
    return chunks_of_rows(like.shape[0], -(-rows // f.outputs), intermediates * tw * channels, like)


def _transform(f: MinimalFilter, like: Tensor) -> Tensor:
    """G (x) G, (inputs^2, taps^2): both transforms of a filter at once."""
    g = torch.tensor(f.filter_matrix, dtype=like.dtype, device=like.device)
    return torch.kron(g, g)


def _filters(weight: Tensor, geometry: Geometry, f: MinimalFilter, *, turned: bool = False) -> Tensor:
    """U (places, s s C, O) = G g G^T of every filter; `turned`: of filters turned by 180 degrees, C and O
    exchanged."""
    O, C = weight.shape[:2]
    s, r = geometry.stride[0], f.taps
    workspace, transform = local_workspace(__name__), _transform(f, weight)
    by_tap = weight.reshape(O, C, r, s, r, s).permute(2, 4, 3, 5, 1, 0)  # (r, r, s, s, C, O)
    if turned:
        transform, by_tap = transform.flip(1), by_tap.permute(0, 1, 5, 2, 3, 4)  # (r, r, O, s, s, C)
    taps = workspace.empty("taps", tuple(by_tap.shape), weight).copy_(by_tap)
    filters = workspace.empty("filters", (f.inputs**2, taps[0, 0].numel()), weight)
    torch.mm(transform, taps.view(r * r, -1), out=filters)
    return filters.view(-1, O, s * s * C) if turned else filters.view(-1, s * s * C, O)


def _convolved(
    x: Tensor,
    filters: Tensor,
    bias: Tensor | None,
    geometry: Geometry,
    f: MinimalFilter,
    onto: Tensor | None = None,
) -> Tensor:
    """The convolution with transformed filters (places, s s C, O)."""
    OH, OW = geometry.output_size((x.shape[1], x.shape[2]))
    tw = -(-OW // f.outputs)
    y = empty((x.shape[0], OH, OW, filters.shape[2]), x) if onto is None else onto
    for pictures, first, last in _chunks(x, OH, tw, max(filters.shape[1:]), f):
        tiles = _products(x[pictures], filters, first, last, tw, geometry, f)
        rows = y[pictures, first * f.outputs : last * f.outputs]
        if onto is None:
            tiles.write(rows, bias)
        else:
            rows.add_(tiles.pictures(bias)[:, : rows.shape[1], : rows.shape[2]])
    return y


def _products(
    x: Tensor, filters: Tensor, first: int, last: int, tw: int, geometry: Geometry, f: MinimalFilter
) -> "_OutputTiles":
    """M = V U of tile rows [first, last)."""
    size, workspace = (x.shape[0], last - first, tw), local_workspace(__name__)
    tiles = workspace.plan(_OutputTiles, x, f, size, filters.shape[2])
    v = workspace.plan(_InputPlanes, x, f, size, filters.shape[1]).read(x, first * f.outputs, geometry)
    torch.bmm(v, filters, out=tiles.m)
    return tiles


TileCount = tuple[int, int, int]
"""Pictures, rows and columns of tiles: (n, th, tw)."""


class _InputPlanes:
    """V = B^T d B of the windows of (n, th, tw) tiles.

    The columns of the windows are kept by their place in a tile, so that every operation runs along a row of
    tiles: the channels of one tile alone would be too short a run.
    """

    def __init__(
        self, workspace: Workspace, like: Tensor, f: MinimalFilter, tiles: TileCount, channels: int
    ) -> None:
        (n, th, tw), k, o = tiles, f.inputs, f.outputs
        height, row = th * o + k - o, tw * channels
        columns = workspace.empty("window", (o, n, height, tw + 1, channels), like)
        places = columns.view(o, n * height, row + channels)
        half = workspace.empty("half", (k, n * height, row), like)
        rows = half.as_strided((k, k, n, th, row), (row, n * height * row, height * row, o * row, 1))
        v = workspace.empty("v", (k, k, n, th, row), like)
        scratch = workspace.empty("scratch", (f.scratch, n * height, row), like)
        along = f.input(places[..., :row], places[: k - o, :, channels:], half, scratch)
        scratch = workspace.empty("scratch", (f.scratch, k, n, th, row), like)
        self.steps = along + f.input(rows[:o], rows[o:], v, scratch)
        self.columns = columns
        self.v = v.view(k * k, n * th * tw, channels)

    def read(self, x: Tensor, top: int, geometry: Geometry) -> Tensor:
        """V of the rows of tiles whose windows begin at row `top` of the padded pictures, or their phases."""
        copy_tile_columns(x, top, geometry, self.columns)
        for step in self.steps:
            step()
        return self.v


class _TilePlanes:
    """The pixels of (n, th, tw) tiles by their place in a tile, and their M, (places, tiles, channels)."""

    def __init__(
        self, workspace: Workspace, like: Tensor, f: MinimalFilter, tiles: TileCount, channels: int
    ) -> None:
        n, th, tw = tiles
        k, o, size = f.inputs, f.outputs, n * th * tw * channels
        m = workspace.empty("m", (k, k, size), like)
        pixels = workspace.empty("window", (o, o, size), like)  # row, column
        self.steps = self.transform(f, m, pixels, workspace)
        self.m = m.view(k * k, n * th * tw, channels)
        self.tiles = pixels.view(o, o, n, th, tw, channels).permute(2, 3, 0, 4, 1, 5)
        self.whole = workspace.empty("tiles", (n, th * o, tw * o, channels), like)

    def transform(self, f: MinimalFilter, m: Tensor, pixels: Tensor, workspace: Workspace) -> Steps:
        """The steps between M (inputs, inputs, size) and pixels (outputs, outputs, size)."""
        raise NotImplementedError(type(self).__name__)


class _OutputTiles(_TilePlanes):
    """Y = A^T M A, for the M that a product leaves in `m`."""

    def transform(self, f: MinimalFilter, m: Tensor, pixels: Tensor, workspace: Workspace) -> Steps:
        return _along_both(f.output, m, pixels, f.scratch, workspace)

    def write(self, y: Tensor, bias: Tensor | None) -> None:
        """Writes Y + bias (O,) to the pictures y (n, H, W, O), as much as there is of them."""
        if y.shape != self.whole.shape:
            y.copy_(self.pictures(bias)[:, : y.shape[1], : y.shape[2]])
            return
        for step in self.steps:
            step()
        target = _by_tile(y, self.tiles.shape[2])
        if bias is None:
            target.copy_(self.tiles)
        else:
            torch.add(self.tiles, bias, out=target)

    def pictures(self, bias: Tensor | None) -> Tensor:
        """Y + bias as pictures in scratch memory."""
        self.write(self.whole, bias)
        return self.whole


class _OutputGradientPlanes(_TilePlanes):
    """dM = A dY A^T."""

    def transform(self, f: MinimalFilter, m: Tensor, pixels: Tensor, workspace: Workspace) -> Steps:
        return _along_both(f.output_adjoint, pixels, m, f.scratch, workspace)

    def read(self, dy: Tensor) -> Tensor:
        """dM of dy (n, H, W, O), with zeros where it ends before the tiles do."""
        if dy.shape != self.whole.shape:
            dy = copy_window(dy, 0, 0, self.whole)
        self.tiles.copy_(_by_tile(dy, self.tiles.shape[2]))
        for step in self.steps:
            step()
        return self.m


def _along_both(
    transform: Transform, source: Tensor, target: Tensor, scratch: int, workspace: Workspace
) -> Steps:
    """`transform` along the first dimension, then along the second: planes (a, a, size) to (b, b, size)."""
    (a, _, size), b = source.shape, target.shape[0]
    half = workspace.empty("half", (b, a, size), source)
    along = transform(source, half, workspace.empty("scratch", (scratch, a, size), source))
    turned = half.transpose(0, 1), target.transpose(0, 1)
    return along + transform(*turned, workspace.empty("scratch", (scratch, b, size), source))


def _by_tile(pictures: Tensor, outputs: int) -> Tensor:
    """(n, H, W, O) as (n, th, row, tw, column, O): a view."""
    n, H, W, O = pictures.shape
    s = pictures.stride()
    return pictures.as_strided(
        (n, H // outputs, outputs, W // outputs, outputs, O),
        (s[0], outputs * s[1], s[1], outputs * s[2], s[2], s[3]),
    )
