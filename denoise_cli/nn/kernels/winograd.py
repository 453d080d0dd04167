"""Winograd convolution: minimal filters on rows and columns, two to four times fewer multiplications.

Two-dimensional filters. Applied to rows and columns, a minimal filter F(m, r) gives m x m outputs of an r x r
filter g on a window d of (m + r - 1)^2 inputs by

    Y = A^T [ U * V ] A,    U = G g G^T,    V = B^T d B.

Summed over channels, "U * V" is a matrix product for each place p of the window, M[p] = V[p] U[p] with V[p]
(tiles, C) and U[p] (C, O): one `bmm`. F(4, 3) needs 36 products for 16 outputs instead of 144, F(3, 2) 16 for
9 instead of 36, F(4, 2) 25 for 16 instead of 64. `tiles` and `filter_transforms` have the transforms.

Strides. A kernel of r s taps with stride s is an r x r kernel on the s x s phases of the padded picture laid
side by side as channels (see `shifted`): r = 2 covers the 4x4 kernels of stride 2 that shrink and enlarge.

Backward. The input gradient is a convolution of dy with the filters turned by 180 degrees and C and O
exchanged, whose outputs are phases. The weight gradient is the adjoint of the map U -> Y:

    dM = A dY A^T,    dU[p] = V[p]^T dM[p],    dg = G^T dU G.

It is a correlation, in which x and dy may change places: with V of the windows of dy and tiles of x it gives
the turned filters. That V is the one which the input gradient takes, so it is computed once for both.

Threads. Each has a part of the chunk to itself from the window to the outputs (see `parts`), and its own copy
of U and sum dU. Where a part would have fewer tiles than channels, or with two threads less than twice as
many, those copies cost more than they save: there the chunk is one part, and its planes are shared out. A GPU
does all tiles as one part, but sums dU in shares of them: places and channels alone leave units of it idle.

Error: 2e-6 of the largest output in float32, up to four times that of a direct sum.

Source: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016.
"""

from math import ceil, gcd, log2, prod

import torch
from torch import Tensor

from denoise_cli.nn.kernels.chunks import Workspace, chunk_size, local_workspace, threads
from denoise_cli.nn.kernels.filter_transforms import FilterTransforms
from denoise_cli.nn.kernels.geometry import Geometry, Map, Pair
from denoise_cli.nn.kernels.joining import Join
from denoise_cli.nn.kernels.minimal_filters import F_3_2, F_4_2, F_4_3, MinimalFilter
from denoise_cli.nn.kernels.parts import Parts, in_parts
from denoise_cli.nn.kernels.products import products_are_worth_saving, sum_of_pixels
from denoise_cli.nn.kernels.tiles import GradientTiles, InputTiles, OutputTiles, Phased, TileCount

FILTERS = {3: (F_4_3,), 2: (F_3_2, F_4_2)}
"""Minimal filters by their taps."""

UNITS, BLOCK = 128, 64
"""Blocks of so many rows and columns of products that a large GPU computes at once, each a sum over tiles."""


def fits(geometry: Geometry) -> bool:
    """Whether this kernel computes such a convolution: 3x3 of stride 1, or a kernel of twice its stride."""
    (kh, kw), (sh, sw) = geometry.kernel, geometry.stride
    square = geometry.dilation == (1, 1) and sh == sw and kh == kw
    return square and (kh == 2 * sh or (kh, sh) == (3, 1)) and max(geometry.padding) < kh


def is_worth_it(which: Map, geometry: Geometry, channels: int, out_channels: int) -> bool:
    """Whether the products that are saved outweigh the transforms."""
    return products_are_worth_saving(min(channels, out_channels))


def forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, y: Tensor, join: Join
) -> None:
    """y (N, OH, OW, O) = x (N, H, W, C) * weight (O, C, kh, kw) + bias (O,)."""
    _convolve(_tiling_of_outputs(x, y, geometry), x, weight, bias, y, join)


def input_gradient(
    dy: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, dx: Tensor, join: Join
) -> None:
    """dx (N, H, W, C) from dy (N, OH, OW, O), plus a bias (C,): a convolution that yields phases of dx."""
    _convolve(_tiling_of_inputs(dx, dy, geometry), dy, weight, bias, dx, join)


def weight_gradient(
    x: Tensor, dy: Tensor, d_weight: Tensor, d_bias: Tensor | None, geometry: Geometry
) -> None:
    """Adds dL/dweight (O, C, kh, kw) and dL/dbias (O,) in place."""
    tiling = _tiling_of_outputs(x, dy, geometry)
    for chunk in tiling.chunks:
        chunk.read(x)
        chunk.correlate(dy)
        if d_bias is not None:
            d_bias.add_(chunk.sum_of_pixels())
    tiling.filters.add_gradient(d_weight)


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
    _convolve(tiling, dy, weight, None, dx, join, x)
    tiling.filters.add_gradient(d_weight)
    if d_bias is not None:
        d_bias.add_(sum_of_pixels(dy))


def transposed_gradients(
    x: Tensor, dy: Tensor, weight: Tensor, d_weight: Tensor, geometry: Geometry, dx: Tensor, join: Join
) -> None:
    """`weight_gradient` of (dy, x), and `forward` of dy to `dx`, which may lie in the memory of x."""
    tiling = _tiling_of_outputs(dy, dx, geometry)
    _convolve(tiling, dy, weight, None, dx, join, x)
    tiling.filters.add_gradient(d_weight)


def _convolve(
    tiling: "_Tiling",
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    y: Tensor,
    join: Join,
    correlated: Tensor | None = None,
) -> None:
    """y = x * weight + bias, or the convolution with turned filters, as the tiling has it; and the gradient
    of those filters by which x was correlated with pictures of y's shape, if they are given."""
    tiling.filters.transform(weight)
    for chunk in tiling.chunks:
        chunk.read(x)
        if correlated is not None:
            chunk.correlate(correlated)
        chunk.multiply()
        chunk.write(y, bias, join)


def _tiling_of_outputs(x: Tensor, y: Tensor, geometry: Geometry) -> "_Tiling":
    """That of y (N, OH, OW, O), from the phases of x (N, H, W, C)."""
    return _tiling(x, y, geometry, turned=False)


def _tiling_of_inputs(x: Tensor, dy: Tensor, geometry: Geometry) -> "_Tiling":
    """That of the phases of x (N, H, W, C), from dy (N, OH, OW, O)."""
    return _tiling(dy, x, geometry, turned=True)


def _tiling(x: Tensor, y: Tensor, geometry: Geometry, *, turned: bool) -> "_Tiling":
    """That of y from x, both (N, H, W, channels); the phases are those of y if `turned`, else of x.

    Layers of one width share their scratch memory: beside the chunk, wide ones need much of it for filters.
    """
    phases = len(geometry.all_phases)
    widths = (x.shape[3], y.shape[3] * phases) if turned else (x.shape[3] * phases, y.shape[3])
    workspace, limits = local_workspace(f"{__name__} {widths}"), (threads(x), chunk_size(x))
    return workspace.plan(_Tiling, x, geometry, x.shape, y.shape, turned, limits)


class _Tiling:
    """The outputs of a minimal filter in tiles, chunk by chunk, and the filters, in scratch memory.

    A plan for pictures of some shapes, as long as threads and the size of a chunk stay the same.
    """

    def __init__(
        self,
        workspace: Workspace,
        like: Tensor,
        geometry: Geometry,
        x: tuple[int, ...],
        y: tuple[int, ...],
        turned: bool,
        limits: Pair,
    ) -> None:
        stride = geometry.stride[0]
        taps = geometry.kernel[0] // stride
        if turned:
            outputs = Phased(y, geometry)
            (top, _), (left, _) = outputs.ranges
            inputs = Phased(x, Geometry((taps, taps), padding=(taps - 1 - top, taps - 1 - left)))
        else:
            inputs, outputs = Phased(x, geometry), Phased(y, Geometry((1, 1)))
        f = min(FILTERS[taps], key=lambda f: prod(_tiles(f, outputs)) * f.inputs**2)
        parts = _in_parts(f, inputs, outputs, like)
        count = max(some.count for some in parts)
        shares = _shares(f, inputs.channels * outputs.channels, parts[0], like)
        # the largest chunk comes first, so that all scratch memory is asked for while nothing lies in it
        self.filters = FilterTransforms(
            workspace, like, f, stride, inputs, outputs, count, shares, turned=turned
        )
        views: dict[TileCount, _Views] = {}
        for some in parts:
            if some.size not in views:
                views[some.size] = _Views(workspace, like, f, some.size, inputs, outputs)
        self.chunks = [_Chunk(views[some.size], some, self.filters, some is parts[0]) for some in parts]


def _tiles(f: MinimalFilter, outputs: Phased) -> Pair:
    """The rows and columns of tiles of a picture."""
    (top, bottom), (left, right) = outputs.ranges
    return -(-(bottom - top) // f.outputs), -(-(right - left) // f.outputs)


def _in_parts(f: MinimalFilter, inputs: Phased, outputs: Phased, like: Tensor) -> list[Parts]:
    """All tiles of the outputs in chunks."""
    ins, outs, pictures = inputs.channels, outputs.channels, outputs.shape[0]
    (th, tw), widest = _tiles(f, outputs), max(ins, outs)
    intermediates = (2 * f.inputs**2 + f.outputs**2) * widest  # of a tile: V, M and D
    are_many = pictures * th * tw >= max(threads(like), 4) * widest
    count = threads(like) if are_many else 1
    return in_parts(pictures, th, tw, intermediates, like, count, f.inputs**2 * ins * outs)


def _shares(f: MinimalFilter, channels: int, parts: Parts, like: Tensor) -> int:
    """Equal shares of a part's tiles, each of which has a sum dU of its own, of so many `channels` (inputs
    times outputs): one, or on a GPU a power of two that gives all units work."""
    blocks = f.inputs**2 * channels / BLOCK**2
    _, *tiles = parts.size
    return 1 if like.device.type == "cpu" else gcd(prod(tiles), 2 ** max(0, ceil(log2(UNITS / blocks))))


class _Views:
    """Those of the scratch memory that all chunks of a size have in common."""

    def __init__(
        self,
        workspace: Workspace,
        like: Tensor,
        f: MinimalFilter,
        tiles: TileCount,
        inputs: Phased,
        outputs: Phased,
    ) -> None:
        self.inputs = InputTiles(workspace, like, f, tiles, inputs)
        self.outputs = OutputTiles(workspace, like, f, tiles, outputs)
        self.gradients = GradientTiles(workspace, like, f, tiles, outputs)


class _Chunk:
    """Tiles of some parts: M = V U, and dU = V^T dM, from pictures x to pictures y (N, H, W, channels)."""

    def __init__(self, views: _Views, parts: Parts, filters: FilterTransforms, is_first: bool) -> None:
        self._inputs, self._outputs, self._gradients = views.inputs, views.outputs, views.gradients
        self._windows, self._pixels = self._inputs.readings(parts), self._gradients.readings(parts)
        self._writings = self._outputs.writings(parts)
        self._u, self._d_u = filters.of(parts.count)
        v, d_m = (t.view(len(self._d_u), -1, t.shape[2]) for t in (self._inputs.v, self._gradients.m))
        a, b = (v, d_m) if filters.turned else (d_m, v)
        self._factors, self._begun = (a.transpose(1, 2), b), int(not is_first)

    def read(self, x: Tensor) -> None:
        """Makes V."""
        self._inputs.read(x, self._windows)

    def correlate(self, y: Tensor) -> None:
        """Adds to dU, from V and pictures y."""
        self._gradients.read(y, self._pixels)
        torch.baddbmm(self._d_u, *self._factors, beta=self._begun, out=self._d_u)

    def sum_of_pixels(self) -> Tensor:
        """That of the pictures which were correlated."""
        return self._gradients.sum()

    def multiply(self) -> None:
        """Makes M, from V."""
        torch.bmm(self._inputs.v, self._u, out=self._outputs.m)

    def write(self, y: Tensor, bias: Tensor | None, join: Join) -> None:
        """Joins the outputs, made of M, plus a bias, with pictures y."""
        self._outputs.write(y, self._writings, bias, join)
