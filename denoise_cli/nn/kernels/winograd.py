"""Winograd convolution: minimal filters on rows and columns, two to four times fewer multiplications.

Two-dimensional filters. Applied to rows and columns, a minimal filter F(m, r) gives m x m outputs of an r x r
filter g on a window d of (m + r - 1)^2 inputs by

    Y = A^T [ U * V ] A,    U = G g G^T,    V = B^T d B.

Summed over channels, "U * V" is a matrix product for each place p of the window, M[p] = V[p] U[p] with V[p]
(tiles, C) and U[p] (C, O): one `bmm`. F(4, 3) needs 36 products for 16 outputs instead of 144, F(3, 2) 16 for
9 instead of 36, F(4, 2) 25 for 16 instead of 64. `tiles` has the transforms.

Strides. A kernel of r s taps with stride s is an r x r kernel on the s x s phases of the padded picture laid
side by side as channels (see `shifted`): r = 2 covers the 4x4 kernels of stride 2 that shrink and enlarge.

Backward. The input gradient is a convolution of dy with the filters turned by 180 degrees and C and O
exchanged, whose outputs are phases. The weight gradient is the adjoint of the map U -> Y:

    dM = A dY A^T,    dU[p] = V[p]^T dM[p],    dg = G^T dU G.

It is a correlation, in which x and dy may change places: with V of the windows of dy and tiles of x it gives
the turned filters. That V is the one which the input gradient takes, so it is computed once for both.

Threads. Each has a part of the chunk to itself from the window to the outputs (see `parts`), and its own copy
of U and sum dU. Where a part would have fewer than two tiles for each channel, those copies cost more than
they save: there the chunk is one part, and its planes are shared out.

Error: 2e-6 of the largest output in float32, up to four times that of a direct sum.

Source: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import TypeVar

import torch
from torch import Tensor

from denoise_cli.nn.kernels.chunks import Workspace, chunk_size, local_workspace, threads
from denoise_cli.nn.kernels.geometry import Geometry, Map, Pair, copy_to_phases, phase_range
from denoise_cli.nn.kernels.joining import Join
from denoise_cli.nn.kernels.minimal_filters import F_3_2, F_4_2, F_4_3, MinimalFilter, matrices
from denoise_cli.nn.kernels.parts import Parts, in_parts
from denoise_cli.nn.kernels.products import multiply_planes, products_are_cheap, sum_of_pixels
from denoise_cli.nn.kernels.tiles import GradientTiles, InputTiles, OutputTiles

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
        v = _input_planes(x, parts, geometry, tiling)
        tiles = tiling.plan(GradientTiles, dy, parts, dy.shape[3])
        tiles.read(dy, parts)
        if d_bias is not None:
            d_bias.add_(tiles.sum())
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
    """`weight_gradient` and `input_gradient`; `dx` may lie in the memory of x, each tile of which is read
    before."""
    tiling = _tiling_of_inputs(dx, dy, geometry)
    sums = _FilterSums(tiling, d_weight, geometry, turned=True)

    def correlate(v: Tensor, parts: Parts) -> None:
        tiles = tiling.plan(GradientTiles, x, parts, sums.channels, len(geometry.all_phases))
        if geometry.stride == (1, 1):
            tiles.read(x, parts)
        else:
            tiles.read_phases(x, parts, tiling.origin, geometry)
        sums.add(v, tiles.planes())

    _convolve_back(dy, weight, None, geometry, tiling, dx, join, correlate)
    sums.add_to(d_weight)
    if d_bias is not None:
        d_bias.add_(sum_of_pixels(dy))


def transposed_gradients(
    x: Tensor, dy: Tensor, weight: Tensor, d_weight: Tensor, geometry: Geometry, dx: Tensor, join: Join
) -> None:
    """`weight_gradient` of (dy, x), and `forward` of dy to `dx`, which may lie in the memory of x."""
    tiling = _tiling_of_outputs(dy, dx, geometry)
    sums = _FilterSums(tiling, d_weight, geometry)

    def correlate(v: Tensor, parts: Parts) -> None:
        tiles = tiling.plan(GradientTiles, x, parts, x.shape[3])
        tiles.read(x, parts)
        sums.add(tiles.planes(), v)

    _convolve(dy, weight, None, geometry, tiling, dx, join, correlate)
    sums.add_to(d_weight)


Tiles = TypeVar("Tiles")


@dataclass(frozen=True)
class _Tiling:
    """Outputs of a minimal filter in tiles, from a place on that is the first in the picture, in chunks, and
    the scratch memory for them."""

    workspace: Workspace
    f: MinimalFilter
    origin: Pair
    chunks: list[Parts]

    def plan(
        self, make: Callable[..., Tiles], like: Tensor, parts: Parts, channels: int, *more: int
    ) -> Tiles:
        """Such tiles for such parts."""
        return self.workspace.plan(make, like, self.f, parts.size, channels, *more)

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
    """Outputs from the first to the last + 1.

    Layers of one width share their scratch memory: beside the chunk, wide ones need much of it for filters.
    """
    workspace = local_workspace(f"{__name__} {channels} {outputs}")
    limits = threads(like), chunk_size(like)
    return workspace.plan(_cut, like, geometry, like.shape[0], rows, columns, channels, outputs, limits)


def _cut(
    workspace: Workspace,
    like: Tensor,
    geometry: Geometry,
    pictures: int,
    rows: Pair,
    columns: Pair,
    channels: int,
    outputs: int,
    limits: Pair,
) -> _Tiling:
    """A tiling by the minimal filter that takes the fewest products, kept for as long as threads and the size
    of a chunk are the same."""

    def tiles(f: MinimalFilter) -> Pair:
        return -(-(rows[1] - rows[0]) // f.outputs), -(-(columns[1] - columns[0]) // f.outputs)

    def products(f: MinimalFilter) -> int:
        return prod(tiles(f)) * f.inputs**2

    f = min(FILTERS[geometry.kernel[0] // geometry.stride[0]], key=products)
    (th, tw), widest = tiles(f), max(channels, outputs)
    intermediates = 2 * f.inputs**2 * widest  # of a tile: V, and M
    are_many = pictures * th * tw >= 2 * threads(like) * widest
    count = threads(like) if are_many else 1
    chunks = in_parts(pictures, th, tw, intermediates, like, count, f.inputs**2 * channels * outputs)
    tiling = _Tiling(workspace, f, (rows[0], columns[0]), chunks)
    _reserve(tiling, like, channels, outputs)
    return tiling


def _reserve(tiling: _Tiling, like: Tensor, channels: int, outputs: int) -> None:
    """Asks for all the scratch memory that any of the maps takes, while nothing lies in it: what did not fit
    later would move with both the old and the new memory in use. What is never written to takes no pages."""
    f, widths, largest = tiling.f, channels * outputs, tiling.chunks[0]
    for name, places in (("filters", f.inputs**2), ("sums", f.inputs**2), ("products", f.taps**2)):
        tiling.workspace.empty(name, (tiling.parts * places * widths,), like)
    tiling.plan(InputTiles, like, largest, channels, 1)
    tiling.plan(OutputTiles, like, largest, outputs)
    tiling.plan(GradientTiles, like, largest, outputs)


class _FilterSums:
    """The gradient dU of the filters of a weight (O, C, kh, kw), summed over all chunks of a tiling.

    `turned`: of the filters turned by 180 degrees.
    """

    def __init__(self, tiling: _Tiling, weight: Tensor, geometry: Geometry, *, turned: bool = False) -> None:
        self.O, C = weight.shape[:2]
        self.stride, self.tiling = geometry.stride[0], tiling
        self.channels = self.stride**2 * C
        shape = tiling.parts * tiling.f.inputs**2, self.O, self.channels
        self.sums, self.begun = tiling.workspace.empty("sums", shape, weight), False
        self.transform = _adjoint(tiling.f, tiling.parts, weight.dtype, weight.device, turned=turned)

    def add(self, a: Tensor, b: Tensor) -> None:
        """Adds a^T b, for planes (parts places, tiles, O) and (parts places, tiles, s s C), first for all
        parts."""
        some = self.sums[: len(a)]
        torch.baddbmm(some, a.transpose(1, 2), b, beta=int(self.begun), out=some)
        self.begun = True

    def add_to(self, d_weight: Tensor) -> None:
        """Adds G^T dU G of every filter to dL/dweight."""
        (O, C), (r, s) = d_weight.shape[:2], (self.tiling.f.taps, self.stride)
        taps = self.tiling.workspace.empty("products", (1, r * r, O * s * s * C), d_weight)
        multiply_planes(self.transform, self.sums.view(1, -1, taps.shape[2]), taps)
        # (row, column of the tap, O, row, column of the phase, C) -> (O, C, r s, r s)
        d_weight.view(O, C, r, s, r, s).add_(taps.view(r, r, O, s, s, C).permute(2, 5, 0, 3, 1, 4))


@cache
def _adjoint(
    f: MinimalFilter, parts: int, dtype: torch.dtype, device: torch.device, *, turned: bool
) -> Tensor:
    """What transforms dU to dg and sums it over the parts: G^T (x) G^T once for each, (1, taps^2, parts
    inputs^2); `turned`: of filters turned by 180 degrees."""
    m = matrices(f, torch.empty(0, dtype=dtype, device=device))
    return (m.turned_filters if turned else m.filters).T.repeat(1, parts)[None]


def _filters(weight: Tensor, geometry: Geometry, tiling: _Tiling, *, turned: bool = False) -> Tensor:
    """U (parts places, s s C, O) = G g G^T of every filter, once for each part; `turned`: of filters turned
    by 180 degrees, C and O exchanged."""
    O, C = weight.shape[:2]
    s, r, count = geometry.stride[0], tiling.f.taps, tiling.parts
    workspace, m = tiling.workspace, matrices(tiling.f, weight)
    transform = m.turned_filters if turned else m.filters
    by_tap = weight.reshape(O, C, r, s, r, s).permute(2, 4, 3, 5, 1, 0)  # (r, r, s, s, C, O)
    if turned:
        by_tap = by_tap.permute(0, 1, 5, 2, 3, 4)  # (r, r, O, s, s, C)
    taps = workspace.empty("products", tuple(by_tap.shape), weight).copy_(by_tap)
    filters = workspace.empty("filters", (count, len(transform), taps[0, 0].numel()), weight)
    multiply_planes(transform[None], taps.view(1, r * r, -1), filters[:1])
    filters[1:].copy_(filters[:1].expand(count - 1, -1, -1))
    return filters.view(-1, O, s * s * C) if turned else filters.view(-1, s * s * C, O)


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
        _output_tiles(x, filters, parts, geometry, tiling, correlate).write(y, parts, bias, join)


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
        whole = _output_tiles(dy, filters, parts, of_phases, tiling, correlate).pictures(biases)
        phases, pictures = whole.view(*whole.shape[:-1], s * s, C), parts.whole(dx)
        for some, column in parts.by_column:
            place = top + parts.first_row * f.outputs, left + column * f.outputs
            copy_to_phases(phases[some], *place, geometry, geometry.all_phases, pictures[some], join)


def _output_tiles(
    x: Tensor,
    filters: Tensor,
    parts: Parts,
    geometry: Geometry,
    tiling: _Tiling,
    correlate: Correlate | None,
) -> OutputTiles:
    """The outputs of all tiles of all parts."""
    v = _input_planes(x, parts, geometry, tiling)
    if correlate is not None:
        correlate(v, parts)
    tiles = tiling.plan(OutputTiles, x, parts, filters.shape[2])
    torch.bmm(v, filters[: len(v)], out=tiles.m)
    return tiles


def _input_planes(x: Tensor, parts: Parts, geometry: Geometry, tiling: _Tiling) -> Tensor:
    """V (parts places, tiles, channels) of all tiles of all parts."""
    phases = len(geometry.all_phases)
    tiles = tiling.plan(InputTiles, x, parts, phases * x.shape[3], phases)
    tiles.read(x, parts, geometry)
    return tiles.planes()
