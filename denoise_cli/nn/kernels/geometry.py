"""The geometry of a convolution, and the padded windows of pictures that the kernels read."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

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

    @cached_property
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


class View:
    """Where a view lies in a tensor: to be taken of other tensors of the same shape and strides.

    That is one call. Found out on a tensor without data (`stencil`), it is what a plan keeps.
    """

    def __init__(self, view: Tensor, tensor: Tensor) -> None:
        self._size, self._strides = view.shape, view.stride()
        self._start = view.storage_offset() - tensor.storage_offset()

    def of(self, tensor: Tensor) -> Tensor:
        return tensor.as_strided(self._size, self._strides, tensor.storage_offset() + self._start)


def stencil(shape: tuple[int, ...]) -> Tensor:
    """A contiguous tensor of this shape without data."""
    return torch.empty(shape, device="meta")


class Reading:
    """Fills memory from pictures (..., H, W, C): copies `pixels` to where they belong, zeros the rest."""

    def __init__(self, pixels: View, inside: Tensor | None, outside: list[Tensor]) -> None:
        self._pixels, self.inside, self._outside = pixels, inside, outside

    def read(self, pictures: Tensor) -> None:
        for side in self._outside:
            side.zero_()
        if self.inside is not None:
            copy_wide(self._pixels.of(pictures), self.inside)


class Window:
    """Memory (..., height, width, C) for windows of pictures; the views that fill it are kept."""

    def __init__(self, memory: Tensor) -> None:
        self.memory = memory
        self._views: dict[tuple[Pair, Pair], tuple[Tensor | None, list[Tensor]]] = {}

    def reading(self, phase: Tensor, top: int, left: int, pictures: Tensor) -> Reading:
        """That of the window at row `top`, column `left` of a phase (..., H, W, C), itself a view of
        `pictures`, such as they are read from; zeros outside of them."""
        rows = _overlap(top, phase.shape[-3], self.memory.shape[-3])
        columns = _overlap(left, phase.shape[-2], self.memory.shape[-2])
        if (rows, columns) not in self._views:
            self._views[rows, columns] = self._inside(rows, columns), self._outside(rows, columns)
        (a, b), (c, d) = rows, columns
        pixels = _rectangle(phase, (top + a, top + b), (left + c, left + d))
        return Reading(View(pixels, pictures), *self._views[rows, columns])

    def _inside(self, rows: Pair, columns: Pair) -> Tensor | None:
        """What is filled with pixels."""
        return _rectangle(self.memory, rows, columns) if _has_pixels(rows, columns) else None

    def _outside(self, rows: Pair, columns: Pair) -> list[Tensor]:
        """What becomes zero. The rest may too: an accelerator writes the whole sooner than four sides."""
        height, width = self.memory.shape[-3:-1]
        if (rows, columns) == ((0, height), (0, width)):
            return []
        if self.memory.device.type != "cpu" or not _has_pixels(rows, columns):
            return [self.memory]
        between = _rectangle(self.memory, rows, (0, width))
        return [*_ends(self.memory, -3, *rows), *_ends(between, -2, *columns)]


def _has_pixels(rows: Pair, columns: Pair) -> bool:
    return rows[0] < rows[1] and columns[0] < columns[1]


def _rectangle(t: Tensor, rows: Pair, columns: Pair) -> Tensor:
    """Pixels of `t` (..., H, W, C): a view, in a third of the time that indexing takes."""
    *strides, sh, sw, sc = t.stride()
    size = *t.shape[:-3], rows[1] - rows[0], columns[1] - columns[0], t.shape[-1]
    return t.as_strided(size, (*strides, sh, sw, sc), t.storage_offset() + rows[0] * sh + columns[0] * sw)


def _ends(t: Tensor, dim: int, first: int, last: int) -> list[Tensor]:
    """What a dimension has before `first` and from `last` on; as one view where both are equally long."""
    length, start = t.shape[dim] - last, t.storage_offset()
    if first == length > 0:
        shape, strides = list(t.shape), list(t.stride())
        shape[dim] = length
        return [t.as_strided((2, *shape), (last * strides[dim], *strides), start)]
    ends = t.narrow(dim, 0, first), t.narrow(dim, last, length)
    return [end for end in ends if end.shape[dim] > 0]


def copy_window(x: Tensor, top: int, left: int, out: Tensor) -> Tensor:
    """Fills `out` (..., height, width, C) from the window of `x` (..., H, W, C) at row `top`, column `left`.

    Outside the picture there are zeros.
    """
    Window(out).reading(x, top, left, x).read(x)
    return out


def windows_of_phases(memory: Tensor, count: int) -> list[Window]:
    """Memory (..., height, width, count C) as windows of so many phases, side by side."""
    return [Window(phase) for phase in memory.chunk(count, -1)]


def phase_readings(
    x: Tensor,
    top: int,
    left: int,
    geometry: Geometry,
    phases: Sequence[Pair],
    windows: Sequence[Window],
    pictures: Tensor,
) -> list[Reading]:
    """What fills each window (..., height, width, C) from a phase of the padded pictures `x` (..., H, W, C),
    from place (top, left) on. `x` is a view of `pictures`, such as they are read from.

    Place (a, b) of phase (u, v) is pixel (a sh + u, b sw + v) of the padded picture.
    """
    (sh, sw), readings = geometry.stride, []
    for (u, v), window in zip(phases, windows, strict=True):
        # phase u of the padded picture is phase (u - padding) mod s of the picture, moved by whole places
        (y0, dy), (x0, dx) = geometry.in_picture(u, 0), geometry.in_picture(v, 1)
        readings.append(window.reading(x[..., y0::sh, x0::sw, :], top + dy, left + dx, pictures))
    return readings


def phase_pairs(
    source: Tensor, top: int, left: int, geometry: Geometry, phases: Sequence[Pair], x: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """The way back: where phases (..., height, width, phases, C) go in pictures `x` (..., H, W, C), from
    place (top, left) on. Pairs of a view of `x` and of what goes there."""
    (sh, sw), (height, width) = geometry.stride, source.shape[-4:-2]
    if geometry.padding == (0, 0) and len(phases) == sh * sw:
        whole = x[..., top * sh : (top + height) * sh, left * sw : (left + width) * sw, :]
        if whole.shape[-3:-1] == (height * sh, width * sw):
            by_phase = whole.view(*x.shape[:-3], height, sh, width, sw, -1)
            yield by_phase, source.view(*source.shape[:-2], sh, sw, -1).movedim(-3, -4)
            return
    for k, (u, v) in enumerate(phases):
        (y0, dy), (x0, dx) = geometry.in_picture(u, 0), geometry.in_picture(v, 1)
        target = x[..., y0::sh, x0::sw, :]
        y1, y2 = max(top + dy, 0), min(top + dy + height, target.shape[-3])
        x1, x2 = max(left + dx, 0), min(left + dx + width, target.shape[-2])
        if y1 < y2 and x1 < x2:
            part = source[..., y1 - top - dy : y2 - top - dy, x1 - left - dx : x2 - left - dx, k, :]
            yield target[..., y1:y2, x1:x2, :], part


def phase_range(geometry: Geometry, size: Pair, axis: int) -> Pair:
    """The places [first, last + 1) in the phases of the padded picture that hold pixels, along an axis."""
    stride, padding = geometry.stride[axis], geometry.padding[axis]
    return padding // stride, (padding + size[axis] - 1) // stride + 1


def _overlap(start: int, size: int, length: int) -> Pair:
    """The part of [0, length) that lies inside the data when the window begins at `start`."""
    return min(max(-start, 0), length), max(min(size - start, length), 0)
