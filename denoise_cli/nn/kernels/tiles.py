"""Tiles of pictures and their transforms, in scratch memory: what Winograd's kernel does beside products.

A tile is m x m pixels, as many as a minimal filter F(m, r) has outputs; its window is (m + r - 1)^2 of them.
Pixels are copied plane by plane, those of all tiles at one place of a tile or window to one plane. Then a
transform is a product of a small matrix with planes as long as a chunk has tiles and channels, which costs
little more than copying them does: one of rows and columns at once for outputs, and one each for windows,
whose matrix for both has three times the products.

The scratch memory has "planes" and "products" of them, where pictures lie too as long as there are none, and
"tiles"; the kernel has more. The views that this takes are made once for all chunks of a size.
"""

from torch import Tensor

from denoise_cli.nn.kernels.chunks import Workspace
from denoise_cli.nn.kernels.geometry import Geometry, Pair, copy_phases, windows_of_phases
from denoise_cli.nn.kernels.joining import Join
from denoise_cli.nn.kernels.minimal_filters import MinimalFilter, matrices
from denoise_cli.nn.kernels.parts import Parts
from denoise_cli.nn.kernels.products import multiply_planes

TileCount = tuple[int, int, int, int]
"""Parts, and the pictures, rows and columns of tiles in each: (p, n, th, tw)."""


class InputTiles:
    """Windows d of (p, n, th, tw) tiles, and V = B^T d B. V is in "planes"; the rest is free then."""

    def __init__(
        self,
        workspace: Workspace,
        like: Tensor,
        f: MinimalFilter,
        tiles: TileCount,
        channels: int,
        phases: int,
    ) -> None:
        (p, n, th, tw), k, o = tiles, f.inputs, f.outputs
        pixels = workspace.empty("products", (p, n, th * o + k - o, tw * o + k - o, channels), like)
        self._pixels = _Phases(pixels, phases, o)
        sp, sn, sh, sw, sc = pixels.stride()
        shape, strides = (p, k, k, n, th, tw, channels), (sp, sh, sw, sn, o * sh, o * sw, sc)
        self._windows, self._d = pixels.as_strided(shape, strides), workspace.empty("planes", shape, like)
        size = n * th * tw * channels
        half, matrix = workspace.empty("products", (p, k, k * size), like), matrices(f, like).input
        by_column = half.view(p * k, k, size), self._d.view(p * k, k, size)
        self._rows = matrix.expand(p, k, k), self._d.view(p, k, k * size), half
        self._columns = matrix.expand(p * k, k, k), *by_column
        self._v = self._d.view(p * k * k, n * th * tw, channels)

    def read(self, x: Tensor, parts: Parts, geometry: Geometry) -> None:
        """Takes the windows of padded pictures (N, H, W, C), or their phases."""
        self._pixels.read(x, parts, (0, 0), geometry)
        self._d.copy_(self._windows)

    def planes(self) -> Tensor:
        """V (p places, tiles, channels) of what was read."""
        multiply_planes(*self._rows)
        multiply_planes(*self._columns)
        return self._v


class OutputTiles:
    """Y = A^T M A of (p, n, th, tw) tiles, for an M that is left in `m`, (p places, tiles, channels).

    M is in "products", and V no longer wanted.
    """

    def __init__(
        self, workspace: Workspace, like: Tensor, f: MinimalFilter, tiles: TileCount, channels: int
    ) -> None:
        (p, n, th, tw), k, o = tiles, f.inputs, f.outputs
        self.m = workspace.empty("products", (p * k * k, n * th * tw, channels), like)
        y = workspace.empty("planes", (p, o * o, n * th * tw * channels), like)
        self._transform = matrices(f, like).outputs.expand(p, -1, -1), self.m.view(p, k * k, -1), y
        self._tiles, self._side = _in_pictures(y.view(p, o, o, n, th, tw, channels)), o
        self._y = y.view(-1, channels)
        self._whole = workspace.empty("products", (p, n, th * o, tw * o, channels), like)

    def write(self, y: Tensor, parts: Parts, bias: Tensor | None, join: Join) -> None:
        """Y + bias (O,) is joined with the pictures y (N, H, W, O)."""
        pieces = [*parts.pieces(y, self._side)]
        if pieces[0][1].shape == self._whole.shape:
            self._add_up(bias)
            join.put(_by_tile(pieces[0][1], self._side), self._tiles)
            return
        whole = self.pictures(bias)
        for some, piece in pieces:
            join.put(piece, whole[some, :, : piece.shape[2], : piece.shape[3]])

    def pictures(self, bias: Tensor | None) -> Tensor:
        """Y + bias as pictures in scratch memory, (p, n, th outputs, tw outputs, O)."""
        self._add_up(bias)
        _by_tile(self._whole, self._side).copy_(self._tiles)
        return self._whole

    def _add_up(self, bias: Tensor | None) -> None:
        """Makes the planes of Y + bias."""
        multiply_planes(*self._transform)
        if bias is not None:
            self._y.add_(bias)


class GradientTiles:
    """A D A^T of (p, n, th, tw) tiles D, in "products": the gradient by M, if D is that by Y = A^T M A."""

    def __init__(
        self,
        workspace: Workspace,
        like: Tensor,
        f: MinimalFilter,
        tiles: TileCount,
        channels: int,
        phases: int = 1,
    ) -> None:
        (p, n, th, tw), k, o = tiles, f.inputs, f.outputs
        size = n * th * tw * channels
        d = workspace.empty("tiles", (p, o * o, size), like)
        m = workspace.empty("products", (p, k * k, size), like)
        self._transform = matrices(f, like).outputs.T.expand(p, -1, -1), d, m
        self._tiles, self._side = _in_pictures(d.view(p, o, o, n, th, tw, channels)), o
        self._whole = workspace.empty("products", (p, n, th * o, tw * o, channels), like)
        self._phases = _Phases(self._whole, phases, o)
        self._pixels, self._m = d.view(p, -1, channels), m.view(p * k * k, n * th * tw, channels)

    def read(self, pictures: Tensor, parts: Parts) -> None:
        """Takes pixels (N, H, W, C), with zeros where they end before the tiles do."""
        pieces = [*parts.pieces(pictures, self._side)]
        source = pieces[0][1]
        if source.shape != self._whole.shape:
            source = self._whole.zero_()
            for some, piece in pieces:
                source[some, :, : piece.shape[2], : piece.shape[3]].copy_(piece)
        self._tiles.copy_(_by_tile(source, self._side))

    def read_phases(self, x: Tensor, parts: Parts, origin: Pair, geometry: Geometry) -> None:
        """Takes phases of padded pictures (N, H, W, C), from a place on."""
        self._phases.read(x, parts, origin, geometry)
        self._tiles.copy_(_by_tile(self._whole, self._side))

    def sum(self) -> Tensor:
        """The sum over all pixels that were read, (channels,); each part is summed by itself."""
        return self._pixels.sum(1).sum(0)

    def planes(self) -> Tensor:
        """A D A^T (p places, tiles, channels) of what was read."""
        multiply_planes(*self._transform)
        return self._m


class _Phases:
    """Scratch pictures (p, n, height, width, phases C) that begin where tiles of `side` pixels do."""

    def __init__(self, memory: Tensor, phases: int, side: int) -> None:
        self._together = [windows_of_phases(memory, phases)]
        self._apart = [windows_of_phases(memory[j : j + 1], phases) for j in range(len(memory))]
        self._side = side

    def read(self, x: Tensor, parts: Parts, origin: Pair, geometry: Geometry) -> None:
        """Takes phases of padded pictures (N, H, W, C); the first tile begins at the place `origin`."""
        pictures, phases, row = parts.whole(x), geometry.all_phases, origin[0] + parts.first_row * self._side
        memory = self._together if parts.column_step == 0 else self._apart
        for (some, column), windows in zip(parts.by_column, memory, strict=True):
            copy_phases(pictures[some], row, origin[1] + column * self._side, geometry, phases, windows)


def _in_pictures(tiles: Tensor) -> Tensor:
    """(p, row, column, n, th, tw, C) as (p, n, th, row, tw, column, C): a view."""
    return tiles.permute(0, 3, 4, 1, 5, 2, 6)


def _by_tile(pictures: Tensor, side: int) -> Tensor:
    """(p, n, H, W, C) as (p, n, th, row, tw, column, C): a view."""
    p, n, H, W, C = pictures.shape
    s = pictures.stride()
    return pictures.as_strided(
        (p, n, H // side, side, W // side, side, C),
        (s[0], s[1], side * s[2], s[2], side * s[3], s[3], s[4]),
    )
