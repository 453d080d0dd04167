"""The geometry of a convolution, and the padded windows of pictures that the kernels read."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Literal

import torch
from torch import Tensor

from denoise_cli.nn.kernels.joining import Join
from denoise_cli.nn.kernels.parts import Parts

Pair = tuple[int, int]

Map = Literal["forward", "input_gradient", "weight_gradient"]
"""One of the three maps that a convolution consists of."""


@dataclass(frozen=True)
class Geometry:
    """kernel, stride, padding (zeros) and dilation as (height, width)."""

    kernel: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)

    @property
    def extent(self) -> Pair:
        """The side of the window that one output pixel sees: dilation (kernel - 1) + 1."""
        return (
            self.dilation[0] * (self.kernel[0] - 1) + 1,
            self.dilation[1] * (self.kernel[1] - 1) + 1,
        )

    def output_size(self, size: Pair) -> Pair:
        """floor((size + 2 padding - extent) / stride) + 1."""
        extent = self.extent
        return (
            (size[0] + 2 * self.padding[0] - extent[0]) // self.stride[0] + 1,
            (size[1] + 2 * self.padding[1] - extent[1]) // self.stride[1] + 1,
        )

    @property
    def all_phases(self) -> list[Pair]:
        """The places of a pixel within a stride, row by row."""
        return [(u, v) for u in range(self.stride[0]) for v in range(self.stride[1])]

    def in_picture(self, phase: int, axis: int) -> Pair:
        """Where a phase of the padded picture is in the picture itself: (first pixel, shift).

        Place q of the phase is pixel `first pixel + stride (q + shift)`.
        """
        shift, first = divmod(phase - self.padding[axis], self.stride[axis])
        return first, shift

    @property
    def is_plain(self) -> bool:
        """Stride and dilation of 1."""
        return self.stride == (1, 1) and self.dilation == (1, 1)


def copy_wide(source: Tensor, target: Tensor) -> None:
    """Copies rows of numbers, the last dimension of both tensors.

    A GPU copies what is not contiguous as a whole number by number, whatever their size. There, rows that
    begin and end at multiples of 16 bytes go as numbers of so many bytes.
    """
    if source.device.type == "cuda" and source.dtype == target.dtype:
        values = 16 // source.element_size()
        places = [place for t in (source, target) for place in (t.storage_offset(), *t.stride()[:-1])]
        in_rows = source.stride(-1) == target.stride(-1) == 1
        if in_rows and all(number % values == 0 for number in (source.shape[-1], *places)):
            source, target = source.view(torch.complex128), target.view(torch.complex128)
    target.copy_(source)


def copy_window(x: Tensor, top: int, left: int, out: Tensor) -> Tensor:
    """Fills `out` (..., height, width, C) from the window of `x` (..., H, W, C) at row `top`, column `left`.

    Outside the picture there are zeros.
    """
    height, width = out.shape[-3:-1]
    y0, y1 = _overlap(top, x.shape[-3], height)
    x0, x1 = _overlap(left, x.shape[-2], width)
    if y0 >= y1 or x0 >= x1:
        return out.zero_()
    if (y0, y1, x0, x1) != (0, height, 0, width):
        _zero_around(out, y0, y1, x0, x1)
    inside = y1 - y0, x1 - x0
    copy_wide(_rectangle(x, top + y0, left + x0, *inside), _rectangle(out, y0, x0, *inside))
    return out


def _rectangle(t: Tensor, top: int, left: int, height: int, width: int) -> Tensor:
    """Pixels of `t` (..., H, W, C): a view, in a third of the time that indexing takes."""
    *strides, sh, sw, sc = t.stride()
    place = t.storage_offset() + top * sh + left * sw
    return t.as_strided((*t.shape[:-3], height, width, t.shape[-1]), (*strides, sh, sw, sc), place)


def _zero_around(out: Tensor, y0: int, y1: int, x0: int, x1: int) -> None:
    """Zeros where `out` (..., height, width, C) lies outside of rows y0 to y1 and columns x0 to x1.

    Inside, it may become zero too: an accelerator writes the whole sooner than it is told of four sides.
    """
    if out.device.type != "cpu":
        out.zero_()
        return
    height, width = out.shape[-3:-1]
    if y0 > 0:
        _rectangle(out, 0, 0, y0, width).zero_()
    if y1 < height:
        _rectangle(out, y1, 0, height - y1, width).zero_()
    if x0 > 0:
        _rectangle(out, y0, 0, y1 - y0, x0).zero_()
    if x1 < width:
        _rectangle(out, y0, x1, y1 - y0, width - x1).zero_()


def copy_phases(
    x: Tensor, top: int, left: int, geometry: Geometry, phases: Sequence[Pair], out: Tensor
) -> None:
    """Fills `out` (n, height, width, phases C) with phases of the padded picture from place (top, left) on.

    Place (a, b) of phase (u, v) is pixel (a sh + u, b sw + v) of the padded picture.
    """
    (sh, sw), C = geometry.stride, x.shape[-1]
    for k, (u, v) in enumerate(phases):
        # phase u of the padded picture is phase (u - padding) mod s of the picture, moved by whole places
        (y0, dy), (x0, dx) = geometry.in_picture(u, 0), geometry.in_picture(v, 1)
        copy_window(x[..., y0::sh, x0::sw, :], top + dy, left + dx, out[..., k * C : (k + 1) * C])


def copy_tile_columns(x: Tensor, parts: Parts, geometry: Geometry, halo: int, out: Tensor) -> None:
    """Fills `out` (parts, places, n, height, tiles + 1, phases C) with phases of the padded pictures `x`.

    A part begins at the tile where it does in `parts`, and each tile has `places` rows. Column b of a phase
    is place b mod `places` of tile b // `places`; see `copy_phases`. Windows reach `halo` columns beyond the
    last tile: only the first `halo` places of the tile behind it are filled.
    """
    # blocks of all places at once: a `copy_window` for every place would take four times as many calls
    count, places, n, height, tiles, _ = out.shape
    s, (_, H, W, C) = geometry.stride[0], x.shape
    (xn, xh, xw, _), (oj, op, on, oh, ot, _) = x.stride(), out.stride()
    step = s * places
    xj = parts.picture_step * xn + parts.column_step * step * xw
    picture = x.storage_offset() + parts.first_picture * xn
    columns = tuple(parts.column(j) for j in range(count))
    for k, (u, v) in enumerate(geometry.all_phases):
        (y0, dy), (x0, dx) = geometry.in_picture(u, 0), geometry.in_picture(v, 1)
        top = places * parts.first_row + dy
        a, b = _overlap(top, -(-(H - y0) // s), height)
        blocks, complete = _blocks_inside(columns, tiles, places, halo, dx, -(-(W - x0) // s))
        phase = out[..., k * C : (k + 1) * C]
        if not complete or (a, b) != (0, height):
            phase.zero_()
        if a >= b:
            continue
        row = picture + (y0 + s * (top + a)) * xh + (x0 + s * dx) * xw
        target = phase.storage_offset() + a * oh
        for j, m, c, d, q, r in blocks:
            size = (m, r - q, n, b - a, d - c, C)
            pixel = row + j * xj + (step * (columns[0] + c) + s * q) * xw
            from_x = x.as_strided(size, (xj, s * xw, xn, s * xh, step * xw, 1), pixel)
            place = target + j * oj + q * op + c * ot
            out.as_strided(size, (oj, op, on, oh, ot, 1), place).copy_(from_x)


Block = tuple[int, int, int, int, int, int]
"""First part and their number, first tile and last + 1, first place and last + 1."""


@lru_cache(maxsize=1024)
def _blocks_inside(
    columns: tuple[int, ...], tiles: int, places: int, halo: int, shift: int, pixels: int
) -> tuple[list[Block], bool]:
    """The places of tiles that hold pixels of a row, in blocks, and whether all do.

    Place q of tile t of part j is pixel `places` (columns[j] + t) + q + shift of so many. Of the last tile
    only the first `halo` places are wanted.
    """
    blocks: list[Block] = []

    def inside(tile: int) -> tuple[Pair, ...]:
        wanted = places if tile < tiles - 1 else halo
        return tuple(_overlap(places * (column + tile) + shift, pixels, wanted) for column in columns)

    for spans, alike in groupby(range(tiles), inside):
        c, *others = alike
        for (q, r), members in groupby(range(len(columns)), spans.__getitem__):
            j, *more = members
            if q < r:
                blocks.append((j, 1 + len(more), c, c + 1 + len(others), q, r))
    filled = sum(m * (d - c) * (r - q) for _, m, c, d, q, r in blocks)
    return blocks, filled == len(columns) * ((tiles - 1) * places + halo)


def copy_to_phases(
    source: Tensor,
    top: int,
    left: int,
    geometry: Geometry,
    phases: Sequence[Pair],
    x: Tensor,
    join: Join,
) -> None:
    """The way back: phases (..., height, width, phases, C) go to pictures `x` (..., H, W, C), from place
    (top, left) on."""
    (sh, sw), (height, width) = geometry.stride, source.shape[-4:-2]
    for k, (u, v) in enumerate(phases):
        (y0, dy), (x0, dx) = geometry.in_picture(u, 0), geometry.in_picture(v, 1)
        target = x[..., y0::sh, x0::sw, :]
        y1, y2 = max(top + dy, 0), min(top + dy + height, target.shape[-3])
        x1, x2 = max(left + dx, 0), min(left + dx + width, target.shape[-2])
        if y1 < y2 and x1 < x2:
            part = source[..., y1 - top - dy : y2 - top - dy, x1 - left - dx : x2 - left - dx, k, :]
            join.put(target[..., y1:y2, x1:x2, :], part)


def phase_range(geometry: Geometry, size: Pair, axis: int) -> Pair:
    """The places [first, last + 1) in the phases of the padded picture that hold pixels, along an axis."""
    stride, padding = geometry.stride[axis], geometry.padding[axis]
    return padding // stride, (padding + size[axis] - 1) // stride + 1


def _overlap(start: int, size: int, length: int) -> Pair:
    """The part of [0, length) that lies inside the data when the window begins at `start`."""
    return min(max(-start, 0), length), max(min(size - start, length), 0)
