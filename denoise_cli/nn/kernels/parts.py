"""Work in equal parts, one for each thread, so that every thread finds in its cache what it has written.

A tensor operation hands each of its threads a contiguous share of the elements, in the order of memory. Two
operations on the same planes share them out alike, an operation on several planes does not: it gives some of
the planes to the one thread and some to the other. What one thread has written and another reads crosses
between their caches. That makes an addition take 2.6 times as long on cores that share a cache, and 8 times
as long on cores that do not.

So scratch memory has the part as its outermost dimension, and one operation does all parts at once: its
shares are the parts, whatever it does within each.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

from torch import Tensor

from denoise_cli.nn.kernels.chunks import chunk_size, chunks_of_rows

ROWS = 8
"""Rows of tiles in a chunk of one picture: what windows reach beyond them costs less the more they are."""


@dataclass(frozen=True)
class Parts:
    """Tiles of some pictures, in parts of one size.

    Part j is `pictures` pictures from `first_picture` + j `picture_step` on, and of each `rows` rows of tiles
    from `first_row` on and `columns` columns from `first_column` + j `column_step` on. Only the last part may
    have columns beyond the end, and not all of them.
    """

    count: int
    first_picture: int
    pictures: int
    picture_step: int
    first_row: int
    rows: int
    first_column: int
    columns: int
    column_step: int

    def column(self, part: int) -> int:
        """The first column of a part."""
        return self.first_column + part * self.column_step

    @cached_property
    def by_column(self) -> list[tuple[slice, int]]:
        """The parts that begin at the same column, and that column: all, or each by itself."""
        if self.column_step == 0:
            return [(slice(None), self.first_column)]
        return [(slice(j, j + 1), self.column(j)) for j in range(self.count)]

    @cached_property
    def size(self) -> tuple[int, int, int, int]:
        """Parts, and the pictures, rows and columns of tiles in each."""
        return self.count, self.pictures, self.rows, self.columns

    def whole(self, t: Tensor) -> Tensor:
        """The pictures of each part, (count, pictures, H, W, C): a view of `t` (N, H, W, C)."""
        start = t.storage_offset() + self.first_picture * t.stride(0)
        size = (self.count, self.pictures, *t.shape[1:])
        return t.as_strided(size, (self.picture_step * t.stride(0), *t.stride()), start)

    def pieces(self, t: Tensor, side: int) -> Iterator[tuple[slice, Tensor]]:
        """The pixels of each part: views of `t` (N, H, W, C), in which tiles are `side` x `side` pixels.

        Parts that are equally wide come together, as (which parts, (parts, pictures, rows, columns, C)).
        """
        _, H, W, C = t.shape
        sn, sh, sw, sc = t.stride()
        strides = (self.picture_step * sn + self.column_step * side * sw, sn, sh, sw, sc)
        high = min(self.rows * side, H - self.first_row * side)
        start = self.first_picture * sn + side * (self.first_row * sh + self.first_column * sw)
        pixels = [min(self.columns * side, W - side * self.column(j)) for j in range(self.count)]
        for wide, members in groupby(range(self.count), key=pixels.__getitem__):
            first, *others = members
            size = (1 + len(others), self.pictures, high, wide, C)
            place = t.storage_offset() + start + first * strides[0]
            yield slice(first, first + size[0]), t.as_strided(size, strides, place)


def in_parts(
    pictures: int, rows: int, columns: int, values_per_tile: int, like: Tensor, count: int, beside: int = 0
) -> list[Parts]:
    """Cuts the tiles of `pictures` pictures, `rows` x `columns` each, into chunks of at most `count` parts.

    Each part of a chunk reads values `beside` its tiles.

    Where the pictures can be shared out evenly, part j lies in the j-th share of them: operations on all
    pictures at once share them out alike. Else the columns of one picture are shared out, a few rows high.
    """
    if pictures % count == 0:
        each, values = pictures // count, count * values_per_tile * columns
        return [
            Parts(count, some.start, some.stop - some.start, each, first, last - first, 0, columns, 0)
            for some, first, last in chunks_of_rows(each, rows, values, like, count * beside)
        ]
    high = min(rows, ROWS)
    chunks = -(-columns * high * values_per_tile // chunk_size(like, count * beside))
    wide = -(-columns // (chunks * count))
    lefts = range(0, columns, wide * count)
    counts = [-(-min(wide * count, columns - left) // wide) for left in lefts]
    return [
        Parts(some, n, 1, 0, top, min(high, rows - top), left, wide, wide)
        for n in range(pictures)
        for top in range(0, rows, high)
        for some, left in zip(counts, lefts, strict=True)
    ]
