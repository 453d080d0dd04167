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
from itertools import groupby

from torch import Tensor

from denoise_cli.nn.kernels.chunks import chunks_of_rows


@dataclass(frozen=True)
class Parts:
    """Part j is `pictures` pictures from `first_picture` + j `picture_step` on, and `rows` rows of each from
    `first_row` + j `row_step` on. Only the last part may have rows beyond the end, and not all of them."""

    count: int
    first_picture: int
    pictures: int
    picture_step: int
    first_row: int
    rows: int
    row_step: int

    def row(self, part: int) -> int:
        """The first row of a part."""
        return self.first_row + part * self.row_step

    def whole(self, t: Tensor) -> Tensor:
        """The pictures of each part, (count, pictures, H, W, C): a view of `t` (N, H, W, C)."""
        start = t.storage_offset() + self.first_picture * t.stride(0)
        size = (self.count, self.pictures, *t.shape[1:])
        return t.as_strided(size, (self.picture_step * t.stride(0), *t.stride()), start)

    def pieces(self, t: Tensor, height: int) -> Iterator[tuple[slice, Tensor]]:
        """The pixels of each part: views of `t` (N, H, W, C), in which a row is `height` pixels high.

        Parts that are equally high come together, as (which parts, (parts, pictures, pixels, W, C)).
        """
        _, H, W, C = t.shape
        sn, sh, sw, sc = t.stride()
        strides = (self.picture_step * sn + self.row_step * height * sh, sn, sh, sw, sc)
        pixels = [min(self.rows * height, H - height * self.row(j)) for j in range(self.count)]
        for high, members in groupby(range(self.count), key=pixels.__getitem__):
            first, *others = members
            size = (1 + len(others), self.pictures, high, W, C)
            start = t.storage_offset() + self.first_picture * sn + self.first_row * height * sh
            yield slice(first, first + size[0]), t.as_strided(size, strides, start + first * strides[0])


def in_parts(pictures: int, rows: int, values_per_row: int, like: Tensor, count: int) -> list[Parts]:
    """Cuts `pictures` x `rows` into chunks of at most `count` parts.

    Where the pictures can be shared out evenly, part j lies in the j-th share of them: operations on all
    pictures at once share them out alike. Else the rows of one picture are shared out.
    """
    if pictures % count == 0:
        each = pictures // count
        return [
            Parts(count, some.start, some.stop - some.start, each, first, last - first, 0)
            for some, first, last in chunks_of_rows(each, rows, count * values_per_row, like)
        ]
    _, _, band = chunks_of_rows(1, rows, values_per_row, like)[0]
    band = -(-band // count) * count
    chunks = []
    for first in range(0, rows, band):
        left = min(band, rows - first)
        high = -(-left // count)
        chunks += [Parts(-(-left // high), n, 1, 0, first, high, high) for n in range(pictures)]
    return chunks


def most_parts(chunks: list[Parts]) -> int:
    """How many parts the chunks have at most."""
    return max(parts.count for parts in chunks)
