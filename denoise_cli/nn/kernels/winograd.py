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
from dataclasses import dataclass
from math import prod
from typing import TypeVar

import torch
from torch import Tensor

from denoise_cli.nn.kernels.chunks import Workspace, local_workspace, threads
from denoise_cli.nn.kernels.geometry import (
    Geometry,
    Map,
    Pair,
    copy_phases,
    copy_to_phases,
    phase_range,
    windows_of_phases,
)
from denoise_cli.nn.kernels.joining import WRITE, Join
from denoise_cli.nn.kernels.minimal_filters import F_3_2, F_4_2, F_4_3, MinimalFilter, matrices
from denoise_cli.nn.kernels.parts import Parts, in_parts
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
    _convolve(x, weight, bias, geometry, _tiling_of_outputs(x, y, geometry), y, join)


def input_gradient(
    dy: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, dx: Tensor, join: Join
) -> None:
    """dx (N, H, W, C) from dy (N, OH, OW, O), plus a bias (C,): a convolution that yields phases of dx."""
    _convolve_back(dy, weight, bias, geometry, _tiling_of_inputs(dx, dy, geometry), dx, join)


def weight_gradient(
    x: Tensor, dy: Tensor, d_weight: Tensor, d_bias: Tensor | None, geometry: Geometry
) -> None:
    """Adds dL/dweight (O, C, kh, kw) and dL/dbias (O,) in place."""
    tiling = _tiling_of_outputs(x, dy, geometry)
    sums = _FilterSums(tiling, d_weight, geometry)
    for parts in tiling.chunks:
        v = _input_planes(x, parts, geometry, tiling.f)
        tiles = _plan(_GradientTiles, dy, tiling.f, parts, dy.shape[3])
        tiles.read(dy, parts)
        if d_bias is not None:
            d_bias.add_(tiles.pixels.sum(1).sum(0))
        sums.add(tiles.planes(), v)
    sums.add_to(d_weight)


def shares_gradients(which: Map, geometry: Geometry, channels: int, out_channels: int, dy: Tensor) -> bool:
    """Whether both gradients can be computed from one V of dy: by `gradients` or `transposed_gradients`."""
    return True


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
    """`weight_gradient` and `input_gradient`; `dx` may lie in the memory of x, whose tiles are read before."""
    tiling = _tiling_of_inputs(dx, dy, geometry)
    sums = _FilterSums(tiling, d_weight, geometry, turned=True)
    top, left = tiling.origin

    def correlate(v: Tensor, parts: Parts) -> None:
        tiles = _plan(_GradientTiles, x, tiling.f, parts, sums.channels)
        tiles.read_phases(x, parts, (top, left), geometry)
        sums.add(v, tiles.planes())

    _convolve_back(dy, weight, None, geometry, tiling, dx, join, correlate)
    sums.add_to(d_weight)
    if d_bias is not None:
        d_bias.add_(dy.sum((0, 1, 2)))


def transposed_gradients(
    x: Tensor, dy: Tensor, weight: Tensor, d_weight: Tensor, geometry: Geometry, dx: Tensor, join: Join
) -> None:
    """`weight_gradient` of (dy, x), and `forward` of dy to `dx`, which may lie in the memory of x."""
    tiling = _tiling_of_outputs(dy, dx, geometry)
    sums = _FilterSums(tiling, d_weight, geometry)

    def correlate(v: Tensor, parts: Parts) -> None:
        tiles = _plan(_GradientTiles, x, tiling.f, parts, x.shape[3])
        tiles.read(x, parts)
        sums.add(tiles.planes(), v)

    _convolve(dy, weight, None, geometry, tiling, dx, join, correlate)
    sums.add_to(d_weight)


@dataclass(frozen=True)
class _Tiling:
    """Outputs of a minimal filter in tiles, from a place on that is the first in the picture, in chunks."""

    f: MinimalFilter
    origin: Pair
    chunks: list[Parts]

    @property
    def parts(self) -> int:
        """How many parts a chunk has at most."""
        return max(parts.count for parts in self.chunks)


def _tiling_of_outputs(x: Tensor, y: Tensor, geometry: Geometry) -> _Tiling:
    """That of y (N, OH, OW, O), from the phases of x (N, H, W, C)."""
    channels = len(geometry.all_phases) * x.shape[3]
    return _tiling(x, geometry, (0, y.shape[1]), (0, y.shape[2]), channels, y.shape[3])


def _tiling_of_inputs(x: Tensor, dy: Tensor, geometry: Geometry) -> _Tiling:
    """That of the phases of x (N, H, W, C), from dy (N, OH, OW, O)."""
    size = x.shape[1], x.shape[2]
    ranges = phase_range(geometry, size, 0), phase_range(geometry, size, 1)
    return _tiling(dy, geometry, *ranges, dy.shape[3], len(geometry.all_phases) * x.shape[3])


def _tiling(
    like: Tensor, geometry: Geometry, rows: Pair, columns: Pair, channels: int, outputs: int
) -> _Tiling:
    """Outputs from the first to the last + 1, by the minimal filter that takes the fewest products."""

    def tiles(f: MinimalFilter) -> Pair:
        return -(-(rows[1] - rows[0]) // f.outputs), -(-(columns[1] - columns[0]) // f.outputs)

    def products(f: MinimalFilter) -> int:
        return prod(tiles(f)) * f.inputs**2

    f = min(FILTERS[geometry.kernel[0] // geometry.stride[0]], key=products)
    (th, tw), N, widest = tiles(f), like.shape[0], max(channels, outputs)
    intermediates = 2 * f.inputs**2 * widest  # of a tile: V, and M
    count = threads(like) if N * th * tw >= threads(like) * widest else 1
    chunks = in_parts(N, th, tw, intermediates, like, count, f.inputs**2 * channels * outputs)
    return _Tiling(f, (rows[0], columns[0]), chunks)


class _FilterSums:
    """The gradient dU of the filters of a weight (O, C, kh, kw), summed over all chunks of a tiling.

    `turned`: of the filters turned by 180 degrees.
    """

    def __init__(
        self, tiling: _Tiling, weight: Tensor, geometry: Geometry, *, turned: bool = False
    ) -> None:
        self.O, C = weight.shape[:2]
        self.f, self.stride, self.turned = tiling.f, geometry.stride[0], turned
        self.channels = self.stride**2 * C
        shape = tiling.parts, self.f.inputs**2, self.O, self.channels
        self.sums = local_workspace(__name__).empty("sums", shape, weight).zero_()

    def add(self, a: Tensor, b: Tensor) -> None:
        """Adds a^T b, for planes (parts places, tiles, O) and (parts places, tiles, s s C)."""
        parts = len(a) // self.f.inputs**2
        self.sums[:parts].view(-1, self.O, self.channels).baddbmm_(a.transpose(1, 2), b)

    def add_to(self, d_weight: Tensor) -> None:
        """Adds G^T dU G of every filter to dL/dweight."""
        (O, C), (r, s) = d_weight.shape[:2], (self.f.taps, self.stride)
        d_filters = self.sums[0]
        for others in self.sums[1:]:
            d_filters.add_(others)
        transform = _transform(self.f, d_weight, turned=self.turned)
        if s == 1:
            d_weight.view(O * C, -1).addmm_(d_filters.view(-1, O * C).T, transform)
            return
        taps = local_workspace(__name__).empty("products", (r * r, O * s * s * C), d_weight)
        torch.mm(transform.T, d_filters.view(len(transform), -1), out=taps)
        # (row, column of the tap, O, row, column of the phase, C) -> (O, C, r s, r s)
        d_weight.view(O, C, r, s, r, s).add_(taps.view(r, r, O, s, s, C).permute(2, 5, 0, 3, 1, 4))


def _transform(f: MinimalFilter, like: Tensor, *, turned: bool) -> Tensor:
    """G (x) G, (inputs^2, taps^2): both transforms of a filter at once, or of the filter turned by 180 degrees."""
    g = matrices(f, like).filter
    both = torch.kron(g, g)
    return both.flip(1) if turned else both


def _filters(weight: Tensor, geometry: Geometry, tiling: _Tiling, *, turned: bool = False) -> Tensor:
    """U (parts, places, s s C, O) = G g G^T of every filter, once for each part; `turned`: of filters turned
    by 180 degrees, C and O exchanged."""
    O, C = weight.shape[:2]
    s, r, count = geometry.stride[0], tiling.f.taps, tiling.parts
    workspace, transform = local_workspace(__name__), _transform(tiling.f, weight, turned=turned)
    by_tap = weight.reshape(O, C, r, s, r, s).permute(2, 4, 3, 5, 1, 0)  # (r, r, s, s, C, O)
    if turned:
        by_tap = by_tap.permute(0, 1, 5, 2, 3, 4)  # (r, r, O, s, s, C)
    taps = workspace.empty("products", tuple(by_tap.shape), weight).copy_(by_tap)
    filters = workspace.empty("filters", (count, len(transform), taps[0, 0].numel()), weight)
    torch.mm(transform, taps.view(r * r, -1), out=filters[0])
    filters[1:].copy_(filters[:1].expand(count - 1, -1, -1))
    return filters.view(count, -1, O, s * s * C) if turned else filters.view(count, -1, s * s * C, O)


Correlate = Callable[[Tensor, Parts], None]
"""What else is done with the V of a chunk."""


def _convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: Geometry,
    tiling: _Tiling,
    y: Tensor,
    join: Join,
    correlate: Correlate | None = None,
    *,
    turned: bool = False,
) -> None:
    """The convolution with the filters of a weight, or with the turned ones."""
    filters = _filters(weight, geometry, tiling, turned=turned)
    for parts in tiling.chunks:
        _output_tiles(x, filters, parts, geometry, tiling.f, correlate).write(y, parts, bias, join)


def _convolve_back(
    dy: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: Geometry,
    tiling: _Tiling,
    dx: Tensor,
    join: Join,
    correlate: Correlate | None = None,
) -> None:
    """The convolution of dy with turned filters, whose outputs are phases of dx, plus a bias."""
    f, s, C = tiling.f, geometry.stride[0], dx.shape[3]
    (top, left), back = tiling.origin, tiling.f.taps - 1
    if s == 1:
        turned = Geometry(geometry.kernel, padding=(back - geometry.padding[0], back - geometry.padding[1]))
        _convolve(dy, weight, bias, turned, tiling, dx, join, correlate, turned=True)
        return
    filters = _filters(weight, geometry, tiling, turned=True)
    biases = None if bias is None else bias.repeat(s * s)
    of_phases = Geometry((f.taps, f.taps), padding=(back - top, back - left))
    for parts in tiling.chunks:
        whole = _output_tiles(dy, filters, parts, of_phases, f, correlate).pictures(biases)
        phases, pictures = whole.view(*whole.shape[:-1], s * s, C), parts.whole(dx)
        for some, column in parts.by_column():
            place = top + parts.first_row * f.outputs, left + column * f.outputs
            copy_to_phases(phases[some], *place, geometry, geometry.all_phases, pictures[some], join)


def _output_tiles(
    x: Tensor,
    filters: Tensor,
    parts: Parts,
    geometry: Geometry,
    f: MinimalFilter,
    correlate: Correlate | None,
) -> "_OutputTiles":
    """The outputs of all tiles of all parts."""
    inputs, outputs = filters.shape[2:]
    v = _input_planes(x, parts, geometry, f)
    if correlate is not None:
        correlate(v, parts)
    tiles = _plan(_OutputTiles, x, f, parts, outputs)
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


def _input_planes(x: Tensor, parts: Parts, geometry: Geometry, f: MinimalFilter) -> Tensor:
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


class _GradientTiles:
    """A D A^T of (p, n, th, tw) tiles D: what their gradient by Y = A^T M A is by M."""

    def __init__(
        self, workspace: Workspace, like: Tensor, f: MinimalFilter, tiles: TileCount, channels: int
    ) -> None:
        (p, n, th, tw), k, o = tiles, f.inputs, f.outputs
        size = n * th * tw * channels
        d = workspace.empty("products", (p, o, o, size), like)
        half = workspace.empty("pixels", (p, k, o, size), like)
        m = workspace.empty("products", (p, k, k, size), like)
        self.transform = Transform(matrices(f, like).output.T, d, half, m)
        self.tiles, self.outputs = _in_pictures(d.view(p, o, o, n, th, tw, channels)), o
        self.whole = workspace.empty("pixels", (p, n, th * o, tw * o, channels), like)
        self.pixels, self.m = d.view(p, -1, channels), m.view(p * k * k, n * th * tw, channels)

    def read(self, pictures: Tensor, parts: Parts) -> None:
        """Takes pixels (N, H, W, O), with zeros where they end before the tiles do."""
        pieces = [*parts.pieces(pictures, self.outputs)]
        source = pieces[0][1]
        if len(pieces) > 1 or source.shape != self.whole.shape:
            source = self.whole.zero_()
            for some, piece in pieces:
                source[some, :, : piece.shape[2], : piece.shape[3]].copy_(piece)
        self.tiles.copy_(_by_tile(source, self.outputs))

    def read_phases(self, x: Tensor, parts: Parts, origin: Pair, geometry: Geometry) -> None:
        """Takes phases of padded pictures `x` (N, H, W, C), from a place on."""
        if geometry.stride == (1, 1):
            self.read(x, parts)
            return
        pictures, phases = parts.whole(x), geometry.all_phases
        for some, column in parts.by_column():
            place = origin[0] + parts.first_row * self.outputs, origin[1] + column * self.outputs
            windows = windows_of_phases(self.whole[some], len(phases))
            copy_phases(pictures[some], *place, geometry, phases, windows)
        self.tiles.copy_(_by_tile(self.whole, self.outputs))

    def planes(self) -> Tensor:
        """(p places, tiles, channels) of what was read."""
        self.transform()
        return self.m


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
