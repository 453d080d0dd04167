"""Tiles of pictures and their transforms, in scratch memory: what Winograd's kernel does beside products.

A tile is m x m pixels, as many as a minimal filter F(m, r) has outputs; its window is (m + r - 1)^2 of them.
Pixels are copied plane by plane, those of all tiles at one place of a tile or window to one plane. Then a
transform of rows and columns at once is a product of a small matrix with planes, as long as a chunk has tiles
and channels, which costs little more than copying them does.

The scratch memory has "planes" and "products", and all goes from one to the other; pictures lie there too, as
long as there are none. It has "tiles" beside, and filters more. All views are made once, for all chunks of
a size or, where they depend on its place in the pictures, for each chunk.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from denoise_cli.nn.kernels.chunks import Workspace
from denoise_cli.nn.kernels.geometry import (
    Geometry,
    Pair,
    Reading,
    View,
    copy_wide,
    phase_pairs,
    phase_range,
    phase_readings,
    stencil,
    windows_of_phases,
)
from denoise_cli.nn.kernels.joining import Join
from denoise_cli.nn.kernels.minimal_filters import MinimalFilter, matrices
from denoise_cli.nn.kernels.parts import Parts
from denoise_cli.nn.kernels.products import multiply_planes, operands

TileCount = tuple[int, int, int, int]
"""Parts, and the pictures, rows and columns of tiles in each: (p, n, th, tw)."""


@dataclass(frozen=True)
class Phased:
    """Contiguous pictures (N, H, W, C), whose phases under a geometry are laid side by side as channels."""

    shape: tuple[int, ...]
    geometry: Geometry

    @property
    def phases(self) -> int:
        return len(self.geometry.all_phases)

    @property
    def channels(self) -> int:
        """Those of all phases."""
        return self.phases * self.shape[3]

    @cached_property
    def ranges(self) -> tuple[Pair, Pair]:
        """The rows and the columns of the phases that hold pixels, the last + 1."""
        (_, H, W, _), geometry = self.shape, self.geometry
        return phase_range(geometry, (H, W), 0), phase_range(geometry, (H, W), 1)

    def readings(self, parts: Parts, place: Pair, side: int, windows: "_PhaseWindows") -> list[Reading]:
        """What fills the windows of some parts; the first tile, of `side` pixels, begins at a place."""
        pictures, geometry = stencil(self.shape), self.geometry
        whole, top = parts.whole(pictures), place[0] + parts.first_row * side
        memory = windows.together if parts.column_step == 0 else windows.apart
        readings: list[Reading] = []
        for (some, column), each in zip(parts.by_column, memory, strict=True):
            left = place[1] + column * side
            readings += phase_readings(whole[some], top, left, geometry, geometry.all_phases, each, pictures)
        return readings

    def pairs(self, parts: Parts, side: int, source: Tensor) -> list[tuple[View, Tensor]]:
        """Where phases (p, n, height, width, channels) of some parts go, and what goes there; the first tile
        begins where the first pixel is."""
        pictures, geometry, phases = stencil(self.shape), self.geometry, self.geometry.all_phases
        whole, by_phase = parts.whole(pictures), source.view(*source.shape[:-1], self.phases, -1)
        (first_row, _), (first_column, _) = self.ranges
        top = first_row + parts.first_row * side
        return [
            (View(target, pictures), part)
            for some, column in parts.by_column
            for target, part in phase_pairs(
                by_phase[some], top, first_column + column * side, geometry, phases, whole[some]
            )
        ]


class InputTiles:
    """Windows d of (p, n, th, tw) tiles, and V = B^T d B, in `v` (p places, tiles, channels).

    V is in "products"; the rest is free then.
    """

    def __init__(
        self,
        workspace: Workspace,
        like: Tensor,
        f: MinimalFilter,
        tiles: TileCount,
        pictures: Phased,
    ) -> None:
        (p, n, th, tw), k, o, channels = tiles, f.inputs, f.outputs, pictures.channels
        pixels = workspace.empty("products", (p, n, th * o + k - o, tw * o + k - o, channels), like)
        self._pictures, self._side = pictures, o
        self._phases = _PhaseWindows(pixels, pictures.phases)
        sp, sn, sh, sw, sc = pixels.stride()
        shape, strides = (p, k, k, n, th, tw, channels), (sp, sh, sw, sn, o * sh, o * sw, sc)
        self._windows, self._d = pixels.as_strided(shape, strides), workspace.empty("planes", shape, like)
        size = n * th * tw * channels
        v = workspace.empty("products", (p, k * k, size), like)
        self._transform = operands(matrices(f, like).inputs, self._d.view(p, k * k, size), v)
        self.v = v.view(p * k * k, n * th * tw, channels)

    def readings(self, parts: Parts) -> list[Reading]:
        """What `read` reads the windows of some parts by; the first begins where the padding does."""
        return self._pictures.readings(parts, (0, 0), self._side, self._phases)

    def read(self, pictures: Tensor, readings: list[Reading]) -> None:
        """Makes V of pictures."""
        for reading in readings:
            reading.read(pictures)
        copy_wide(self._windows, self._d)
        multiply_planes(*self._transform)


class OutputTiles:
    """Y = A^T M A of (p, n, th, tw) tiles, for an M that is left in `m`, (p places, tiles, channels).

    M is in "planes", and V no longer wanted.
    """

    def __init__(
        self, workspace: Workspace, like: Tensor, f: MinimalFilter, tiles: TileCount, pictures: Phased
    ) -> None:
        (p, n, th, tw), k, o, channels = tiles, f.inputs, f.outputs, pictures.channels
        self.m = workspace.empty("planes", (p * k * k, n * th * tw, channels), like)
        y = workspace.empty("products", (p, o * o, n * th * tw * channels), like)
        self._transform = operands(matrices(f, like).outputs, self.m.view(p, k * k, -1), y)
        self._tiles = _in_pictures(y.view(p, o, o, n, th, tw, channels))
        self._pictures, self._side = pictures, o
        self._y = y.view(-1, pictures.shape[3])
        self._whole = workspace.empty("planes", (p, n, th * o, tw * o, channels), like)
        self._whole_by_tile = _by_tile(self._whole, o)

    def writings(self, parts: Parts) -> list[tuple[View, Tensor]]:
        """What `write` writes the tiles of some parts by: where in the pictures, and what."""
        if direct := _where_tiles_lie(self._pictures, parts, self._whole.shape, self._side):
            return [(direct, self._tiles)]
        if self._pictures.geometry.stride != (1, 1):
            return self._pictures.pairs(parts, self._side, self._whole)
        pictures = stencil(self._pictures.shape)
        return [
            (View(piece, pictures), self._whole[some, :, : piece.shape[2], : piece.shape[3]])
            for some, piece in parts.pieces(pictures, self._side)
        ]

    def write(self, y: Tensor, writings: list[tuple[View, Tensor]], bias: Tensor | None, join: Join) -> None:
        """Y + bias (C,), that of all phases, is joined with pictures."""
        multiply_planes(*self._transform)
        if bias is not None:
            self._y.add_(bias)
        if writings[0][1] is not self._tiles:
            copy_wide(self._tiles, self._whole_by_tile)
        for view, part in writings:
            join.put(view.of(y), part)


class GradientTiles:
    """A D A^T of (p, n, th, tw) tiles D, in `m` (p places, tiles, channels): the gradient by M, if D is that
    by Y = A^T M A. It is in "planes"."""

    def __init__(
        self, workspace: Workspace, like: Tensor, f: MinimalFilter, tiles: TileCount, pictures: Phased
    ) -> None:
        (p, n, th, tw), k, o, channels = tiles, f.inputs, f.outputs, pictures.channels
        size = n * th * tw * channels
        d = workspace.empty("tiles", (p, o * o, size), like)
        m = workspace.empty("planes", (p, k * k, size), like)
        self._transform = operands(matrices(f, like).outputs.T, d, m)
        self._tiles = _in_pictures(d.view(p, o, o, n, th, tw, channels))
        self._pictures, self._side = pictures, o
        self._whole = workspace.empty("planes", (p, n, th * o, tw * o, channels), like)
        self._whole_by_tile = _by_tile(self._whole, o)
        self._phases = _PhaseWindows(self._whole, pictures.phases)
        self._pixels, self.m = d.view(p, -1, channels), m.view(p * k * k, n * th * tw, channels)

    def readings(self, parts: Parts) -> list[Reading]:
        """What `read` reads the tiles of some parts by, with zeros where pictures end before tiles do."""
        if direct := _where_tiles_lie(self._pictures, parts, self._whole.shape, self._side):
            return [Reading(direct, self._tiles, [])]
        (top, _), (left, _) = self._pictures.ranges
        return self._pictures.readings(parts, (top, left), self._side, self._phases)

    def read(self, pictures: Tensor, readings: list[Reading]) -> None:
        """Makes A D A^T of pictures."""
        for reading in readings:
            reading.read(pictures)
        if readings[0].inside is not self._tiles:
            copy_wide(self._whole_by_tile, self._tiles)
        multiply_planes(*self._transform)

    def sum(self) -> Tensor:
        """The sum over all pixels that were read, (channels,); each part is summed by itself."""
        return self._pixels.sum(1).sum(0)


class _PhaseWindows:
    """Scratch pictures (p, n, height, width, phases C) as windows of phases: of all parts, and of each."""

    def __init__(self, memory: Tensor, phases: int) -> None:
        self.together = [windows_of_phases(memory, phases)]
        self.apart = [windows_of_phases(memory[j : j + 1], phases) for j in range(len(memory))]


def _where_tiles_lie(pictures: Phased, parts: Parts, shape: torch.Size, side: int) -> View | None:
    """The pixels of tiles in pictures without phases, by tile; None if they end before the tiles do."""
    if pictures.geometry.stride != (1, 1):
        return None
    whole = stencil(pictures.shape)
    _, piece = next(parts.pieces(whole, side))
    return View(_by_tile(piece, side), whole) if piece.shape == shape else None


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
