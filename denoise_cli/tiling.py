"""A picture cut into tiles so that a network run on each gives exactly what it gives on the whole.

An output pixel sees at most `margin` pixels around itself, so a tile is read with that much more on every
cut side, and only what lies at least `margin` from a cut is used. All cuts lie on the network's `period`, so
that its strides fall on the same pixels as in the whole picture. At the picture's own border nothing is
added: there tile and whole are continued alike.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Box:
    """Rows y0..y1 and columns x0..x1, ends excluded."""

    y0: int
    y1: int
    x0: int
    x1: int

    @property
    def height(self) -> int:
        return self.y1 - self.y0

    @property
    def width(self) -> int:
        return self.x1 - self.x0

    @property
    def slices(self) -> tuple[slice, slice]:
        return slice(self.y0, self.y1), slice(self.x0, self.x1)

    def inside(self, outer: "Box") -> "Box":
        """The same box counted from the corner of `outer`."""
        return Box(self.y0 - outer.y0, self.y1 - outer.y0, self.x0 - outer.x0, self.x1 - outer.x0)


@dataclass(frozen=True)
class Overlap:
    """What a network asks of tiles: `margin` more pixels on a cut side, and cuts at multiples of `period`.

    The margin itself is a multiple of the period.
    """

    margin: int
    period: int

    @classmethod
    def of(cls, margin: float, period: int) -> "Overlap | None":
        """That for an exact margin; None where it is infinite, so that a pixel sees the whole picture."""
        if math.isinf(margin):
            return None
        # At least one period: a tile that ends at the picture's border needs enough of it to reflect.
        return cls(max(1, math.ceil(margin / period)) * period, period)

    def aligned(self, length: float) -> int:
        """The least positive multiple of the period that is no less than `length`."""
        return max(1, math.ceil(length / self.period)) * self.period

    def around(self, core: Box, whole: Box) -> Box:
        """What must be read to compute `core`."""
        m = self.margin
        return Box(
            max(whole.y0, core.y0 - m),
            min(whole.y1, core.y1 + m),
            max(whole.x0, core.x0 - m),
            min(whole.x1, core.x1 + m),
        )

    def cut(self, box: Box, height: int, width: int) -> Iterator[Box]:
        """`box` in parts of at most this height and width (multiples of the period), row by row."""
        for y in range(box.y0, box.y1, height):
            for x in range(box.x0, box.x1, width):
                yield Box(y, min(y + height, box.y1), x, min(x + width, box.x1))

    def shape_for(self, whole: Box, area: float) -> tuple[int, int]:
        """Height and width of tiles that read at most `area` pixels each, and the fewest pixels in all.

        Tiles are never smaller than the margin, whatever the area: they would save little memory and compute
        most pixels many times.
        """
        m = self.margin
        area = max(area, (3 * m) ** 2)
        shapes = []
        for rows in range(1, math.ceil(whole.height / self.period) + 1):
            height = self.aligned(whole.height / rows)
            read_height = min(whole.height, height + 2 * m)
            widest = int(area / read_height)
            if widest < whole.width:
                widest = (widest - 2 * m) // self.period * self.period
            if widest >= self.period:
                columns = math.ceil(whole.width / widest)
                width = self.aligned(whole.width / columns)
                read = (whole.height + 2 * m * (rows - 1)) * (whole.width + 2 * m * (columns - 1))
                shapes.append((read, height, width))
        _, height, width = min(shapes)
        return height, width
