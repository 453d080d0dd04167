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

Threads. Each has a part of the chunk to itself from the window to the outputs (see `parts`), and its own copy
of U and sum dU. Where tiles are fewer than channels, those copies would cost more than they save: there the
chunk is one part, and its planes are shared out.

Error: 2e-6 of the largest output in float32, twice that of a direct sum.

Source: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016.
"""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from denoise_cli.nn.kernels.chunks import Workspace, local_workspace, threads
from denoise_cli.nn.kernels.geometry import Geometry, Map, copy_phases, copy_to_phases, phase_range, windows_of_phases
from denoise_cli.nn.kernels.joining import WRITE, Join
from denoise_cli.nn.kernels.minimal_filters import F_3_2, F_4_2, F_4_3, MinimalFilter, matrices
from denoise_cli.nn.kernels.parts import Parts, in_parts, most_parts
from denoise_cli.nn.kernels.products import multiply_planes, products_are_cheap


FILTERS = {3: (F_4_3,), 2: (F_3_2, F_4_2)}
"""Minimal filters by their taps."""


def fits(geometry: Geometry) -> bool:
    """Whether this kernel computes such a convolution: 3x3 of stride 1, or a kernel of twice its stride."""
    (kh, kw), (sh, sw) = geometry.kernel, geometry.stride
    square = geometry.dilation == (1, 1) and sh == sw and kh == kw
    return square and (kh == 2 * sh or (kh, sh) == (3, 1)) and max(geometry.padding) < kh


def is_worth_it(which: Map, geometry: Geometry, channels: int, out_channels: int) -> bool:
    """Whether the products that are saved outweigh the transforms."""
    return min(channels, out_channels) >= 32 and not products_are_cheap()


def forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, y: Tensor, join: Join
) -> None:
    """y (N, OH, OW, O) = x (N, H, W, C) * weight (O, C, kh, kw) + bias (O,)."""
    _convolve(x, weight, bias, geometry, y, join)


def input_gradient(
    dy: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, dx: Tensor, join: Join
) -> None:
    """dx (N, H, W, C) from dy (N, OH, OW, O), plus a bias (C,): a convolution that yields phases of dx."""
    s = geometry.stride[0]
    back = geometry.kernel[0] // s - 1
    if s == 1:
        padding = (back - geometry.padding[0], back - geometry.padding[1])
        turned = Geometry(geometry.kernel, padding=padding)
        _convolve(dy, weight, bias, turned, dx, join, turned=True)
        return
    O, C = weight.shape[:2]
    size = dx.shape[1], dx.shape[2]
    (top, bottom), (left, right) = phase_range(geometry, size, 0), phase_range(geometry, size, 1)
    f = _filter(geometry, bottom - top, right - left)
    biases = None if bias is None else bias.repeat(s * s)
    of_phases = Geometry((f.taps, f.taps), padding=(back - top, back - left))
    chunks = _chunks(dy, bottom - top, right - left, O, s * s * C, f)
    filters = _filters(weight, geometry, f, most_parts(chunks), turned=True)
    for parts in chunks:
        whole = _output_tiles(dy, filters, parts, of_phases, f).pictures(biases)
        phases, pictures = whole.view(*whole.shape[:-1], s * s, C), parts.whole(dx)
        row = parts.first_row * f.outputs
        for some, first_column in parts.by_column():
            column = first_column * f.outputs
            inside = phases[some, :, : bottom - top - row, : right - left - column]
            place = top + row, left + column
            copy_to_phases(inside, *place, geometry, geometry.all_phases, pictures[some], join)


def weight_gradient(
    x: Tensor, dy: Tensor, d_weight: Tensor, d_bias: Tensor | None, geometry: Geometry
) -> None:
    """Adds dL/dweight (O, C, kh, kw) and dL/dbias (O,) in place."""
    (_, OH, OW, O), C, s = dy.shape, x.shape[3], geometry.stride[0]
    f, workspace = _filter(geometry, OH, OW), local_workspace(__name__)
    chunks, places, r = _chunks(x, OH, OW, s * s * C, O, f), f.inputs**2, f.taps
    sums = workspace.empty("filters", (most_parts(chunks), places, O, s * s * C), x).zero_()
    for parts in chunks:
        gradient = _plan(_OutputGradientTiles, x, f, parts, O)
        v = _input_planes(x, f, parts, geometry)
        gradient.read(dy, parts)
        if d_bias is not None:
            d_bias.add_(gradient.dy.sum(1).sum(0))
        gradient.transform()
        sums[: parts.count].view(-1, O, s * s * C).baddbmm_(gradient.dm.transpose(1, 2), v)
    d_filters = sums[0]
    for others in sums[1:]:
        d_filters.add_(others)
    if s == 1:
        d_weight.view(O * C, -1).addmm_(d_filters.view(-1, O * C).T, _transform(f, x))
        return
    taps = workspace.empty("products", (r * r, O * s * s * C), x)
    torch.mm(_transform(f, x).T, d_filters.view(places, -1), out=taps)
    # (row, column of the tap, O, row, column of the phase, C) -> (O, C, r s, r s)
    d_weight.view(O, C, r, s, r, s).add_(taps.view(r, r, O, s, s, C).permute(2, 5, 0, 3, 1, 4))


def _filter(geometry: Geometry, rows: int, columns: int) -> MinimalFilter:
    """The minimal filter that takes the fewest products for outputs of so many rows and columns."""

    def products(f: MinimalFilter) -> int:
        return -(-rows // f.outputs) * -(-columns // f.outputs) * f.inputs**2

    return min(FILTERS[geometry.kernel[0] // geometry.stride[0]], key=products)


def _chunks(
    like: Tensor, rows: int, columns: int, channels: int, outputs: int, f: MinimalFilter
) -> list[Parts]:
    """Tiles in chunks, for outputs of so many rows and columns."""
    th, tw, widest = -(-rows // f.outputs), -(-columns // f.outputs), max(channels, outputs)
    intermediates = 2 * f.inputs**2 * widest  # of a tile: V, and M
    count = threads(like) if like.shape[0] * th * tw >= threads(like) * widest else 1
    return in_parts(like.shape[0], th, tw, intermediates, like, count, f.inputs**2 * channels * outputs)


def _transform(f: MinimalFilter, like: Tensor) -> Tensor:
    """G (x) G, (inputs^2, taps^2): both transforms of a filter at once."""
    g = matrices(f, like).filter
    return torch.kron(g, g)


def _filters(
    weight: Tensor, geometry: Geometry, f: MinimalFilter, count: int, *, turned: bool = False
) -> Tensor:
    """U (count, places, s s C, O) = G g G^T of every filter, once for each part; `turned`: of filters turned
    by 180 degrees, C and O exchanged."""
    O, C = weight.shape[:2]
    s, r = geometry.stride[0], f.taps
    workspace, transform = local_workspace(__name__), _transform(f, weight)
    by_tap = weight.reshape(O, C, r, s, r, s).permute(2, 4, 3, 5, 1, 0)  # (r, r, s, s, C, O)
    if turned:
        transform, by_tap = transform.flip(1), by_tap.permute(0, 1, 5, 2, 3, 4)  # (r, r, O, s, s, C)
    taps = workspace.empty("products", tuple(by_tap.shape), weight).copy_(by_tap)
    filters = workspace.empty("filters", (count, f.inputs**2, taps[0, 0].numel()), weight)
    torch.mm(transform, taps.view(r * r, -1), out=filters[0])
    filters[1:].copy_(filters[:1].expand(count - 1, -1, -1))
    return filters.view(count, -1, O, s * s * C) if turned else filters.view(count, -1, s * s * C, O)


def _convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: Geometry,
    y: Tensor,
    join: Join,
    *,
    turned: bool = False,
) -> None:
    """The convolution with the filters of a weight, or with the turned ones."""
    O, C = weight.shape[:2]
    inputs, outputs = (O, C) if turned else (geometry.stride[0] ** 2 * C, O)
    f = _filter(geometry, *y.shape[1:3])
    chunks = _chunks(x, *y.shape[1:3], inputs, outputs, f)
    filters = _filters(weight, geometry, f, most_parts(chunks), turned=turned)
    for parts in chunks:
        _output_tiles(x, filters, parts, geometry, f).write(y, parts, bias, join)


def _output_tiles(
    x: Tensor, filters: Tensor, parts: Parts, geometry: Geometry, f: MinimalFilter
) -> "_OutputTiles":
    """The outputs of all tiles of all parts."""
    inputs, outputs = filters.shape[2:]
    tiles, v = _plan(_OutputTiles, x, f, parts, outputs), _input_planes(x, f, parts, geometry)
    torch.bmm(v, filters[: parts.count].view(-1, inputs, outputs), out=tiles.m)
    tiles.transform()
    return tiles


PlanOfTiles = TypeVar("PlanOfTiles")


def _plan(
    make: Callable[..., PlanOfTiles], like: Tensor, f: MinimalFilter, parts: Parts, *channels: int
) -> PlanOfTiles:
    """Views of scratch memory for the tiles of such parts."""
    size = parts.count, parts.pictures, parts.rows, parts.columns
    return local_workspace(__name__).plan(make, like, f, size, *channels)


def _input_planes(x: Tensor, f: MinimalFilter, parts: Parts, geometry: Geometry) -> Tensor:
    """V (parts places, tiles, channels) of all tiles of all parts."""
    phases = geometry.stride[0] ** 2
    return _plan(_InputPlanes, x, f, parts, phases * x.shape[3], phases).read(x, parts, geometry)


TileCount = tuple[int, int, int, int]
"""Parts, and the pictures, rows and columns of tiles in each: (p, n, th, tw)."""


class _InputPlanes:
    """V = B^T d B of the windows of (p, n, th, tw) tiles."""

    def __init__(
        self, workspace: Workspace, like: Tensor, f: MinimalFilter, tiles: TileCount, channels: int, phases: int
    ) -> None:
        (p, n, th, tw), k, o = tiles, f.inputs, f.outputs
        pixels = workspace.empty("pixels", (p, n, th * o + k - o, tw * o + k - o, channels), like)
        self.together = windows_of_phases(pixels, phases)
        self.apart = [windows_of_phases(part, phases) for part in pixels.split(1)]
        sp, sn, sh, sw, sc = pixels.stride()
        strides = (sp, sh, sw, sn, o * sh, o * sw, sc)
        self.windows = pixels.as_strided((p, k, k, n, th, tw, channels), strides)
        self.d = workspace.empty("planes", tuple(self.windows.shape), like)
        v, half = self.d.view(p, k, k, -1), workspace.empty("products", (p, k, k, n * th * tw * channels), like)
        self.transform = Transform(matrices(f, like).input, v, half, v)
        self.v, self.outputs = v.view(p * k * k, n * th * tw, channels), o

    def read(self, x: Tensor, parts: Parts, geometry: Geometry) -> Tensor:
        """V (p places, tiles, channels) of the padded pictures, or their phases."""
        row, pictures, phases = parts.first_row * self.outputs, parts.whole(x), geometry.all_phases
        if parts.column_step == 0:
            copy_phases(pictures, row, parts.first_column * self.outputs, geometry, phases, self.together)
        else:
            for j, (picture, windows) in enumerate(zip(pictures, self.apart, strict=True)):
                column = parts.column(j) * self.outputs
                copy_phases(picture[None], row, column, geometry, phases, windows)
        self.d.copy_(self.windows)
        self.transform()
        return self.v


class _OutputTiles:
    """Y = A^T M A of (p, n, th, tw) tiles, for the M (p places, tiles, channels) that a product leaves in `m`."""

    def __init__(
        self, workspace: Workspace, like: Tensor, f: MinimalFilter, tiles: TileCount, channels: int
    ) -> None:
        (p, n, th, tw), k, o = tiles, f.inputs, f.outputs
        size = n * th * tw * channels
        self.m = workspace.empty("products", (p * k * k, n * th * tw, channels), like)
        half = workspace.empty("planes", (p, o, k, size), like)
        y = workspace.empty("products", (p, o, o, size), like)
        self.transform = Transform(matrices(f, like).output, self.m.view(p, k, k, size), half, y)
        self.tiles = _in_pictures(y.view(p, o, o, n, th, tw, channels))
        self.whole = workspace.empty("pixels", (p, n, th * o, tw * o, channels), like)

    def write(self, y: Tensor, parts: Parts, bias: Tensor | None, join: Join) -> None:
        """Y + bias (O,) goes to the pictures y (N, H, W, O)."""
        pieces = [*parts.pieces(y, self.tiles.shape[3])]
        if len(pieces) == 1 and pieces[0][1].shape == self.whole.shape and (join is WRITE or bias is None):
            self._put(pieces[0][1], bias, join)
            return
        self.pictures(bias)
        for some, piece in pieces:
            join.put(piece, self.whole[some, :, : piece.shape[2], : piece.shape[3]])

    def pictures(self, bias: Tensor | None) -> Tensor:
        """Y + bias as pictures in scratch memory, (p, n, th outputs, tw outputs, O)."""
        self._put(self.whole, bias, WRITE)
        return self.whole

    def _put(self, pictures: Tensor, bias: Tensor | None, join: Join) -> None:
        """Y goes to pictures, or Y + bias is written there."""
        target = _by_tile(pictures, self.tiles.shape[3])
        if bias is None:
            join.put(target, self.tiles)
        else:
            torch.add(self.tiles, bias, out=target)


class _OutputGradientTiles:
    """dM = A dY A^T of (p, n, th, tw) tiles."""

    def __init__(
        self, workspace: Workspace, like: Tensor, f: MinimalFilter, tiles: TileCount, channels: int
    ) -> None:
        (p, n, th, tw), k, o = tiles, f.inputs, f.outputs
        size = n * th * tw * channels
        dy = workspace.empty("products", (p, o, o, size), like)
        half = workspace.empty("pixels", (p, k, o, size), like)
        dm = workspace.empty("products", (p, k, k, size), like)
        self.transform = Transform(matrices(f, like).output.T, dy, half, dm)
        self.tiles = _in_pictures(dy.view(p, o, o, n, th, tw, channels))
        self.whole = workspace.empty("pixels", (p, n, th * o, tw * o, channels), like)
        self.dy, self.dm = dy.view(p, -1, channels), dm.view(p * k * k, n * th * tw, channels)

    def read(self, dy: Tensor, parts: Parts) -> None:
        """Takes dy (N, H, W, O), with zeros where it ends before the tiles do."""
        pieces = [*parts.pieces(dy, self.tiles.shape[3])]
        pictures = pieces[0][1]
        if len(pieces) > 1 or pictures.shape != self.whole.shape:
            pictures = self.whole.zero_()
            for some, piece in pieces:
                pictures[some, :, : piece.shape[2], : piece.shape[3]].copy_(piece)
        self.tiles.copy_(_by_tile(pictures, self.tiles.shape[3]))


class Transform:
    """A matrix (b, a) on rows and columns of planes: from (p, a, a, size) to (p, b, b, size).

    `half` has room for (p, b, a, size); the result may lie where the planes do.
    """

    def __init__(self, matrix: Tensor, source: Tensor, half: Tensor, target: Tensor) -> None:
        (p, a, _, size), b = source.shape, len(matrix)
        self.first = matrix.expand(p, b, a), source.view(p, a, a * size), half.view(p, b, a * size)
        self.second = matrix.expand(p * b, b, a), half.view(p * b, a, size), target.view(p * b, b, size)

    def __call__(self) -> None:
        multiply_planes(*self.first)
        multiply_planes(*self.second)


def _in_pictures(tiles: Tensor) -> Tensor:
    """(p, row, column, n, th, tw, O) as (p, n, th, row, tw, column, O): a view."""
    return tiles.permute(0, 3, 4, 1, 5, 2, 6)


def _by_tile(pictures: Tensor, outputs: int) -> Tensor:
    """(p, n, H, W, O) as (p, n, th, row, tw, column, O): a view."""
    p, n, H, W, O = pictures.shape
    s = pictures.stride()
    return pictures.as_strided(
        (p, n, H // outputs, outputs, W // outputs, outputs, O),
        (s[0], s[1], outputs * s[2], s[2], outputs * s[3], s[3], s[4]),
    )
