"""Pictures read and written a window at a time, so that only a window of float pixels is ever held."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.float32]
"""(H, W, C) float32, black at 0 and white at 1."""


class Source(Protocol):
    """What pixels are read from: an `images.Picture`, or an array as an `ArraySource`."""

    @property
    def height(self) -> int: ...

    @property
    def width(self) -> int: ...

    @property
    def channels(self) -> int: ...

    def window(self, y0: int, y1: int, x0: int, x1: int, /) -> Pixels:
        """Rows y0..y1 and columns x0..x1, ends excluded."""
        ...


class Sink(Protocol):
    """What pixels are written to: `sink[y0:y1, x0:x1] = pixels`."""

    def __setitem__(self, window: tuple[slice, slice], pixels: Pixels, /) -> None: ...


@dataclass(frozen=True, eq=False)
class ArraySource:
    """An array (H, W, C) as a source: integers by their type's range, floating numbers as they are."""

    array: NDArray[Any]

    @property
    def height(self) -> int:
        return int(self.array.shape[0])

    @property
    def width(self) -> int:
        return int(self.array.shape[1])

    @property
    def channels(self) -> int:
        return int(self.array.shape[2])

    def window(self, y0: int, y1: int, x0: int, x1: int, /) -> Pixels:
        pixels = self.array[y0:y1, x0:x1].astype(np.float32)
        if np.issubdtype(self.array.dtype, np.integer):
            pixels /= np.float32(np.iinfo(self.array.dtype).max)
        return pixels


_ROWS = 256


def is_gray(source: Source) -> bool:
    """Whether a picture has one channel, or channels that are equal everywhere."""
    bands = (
        source.window(y, min(y + _ROWS, source.height), 0, source.width)
        for y in range(0, source.height, _ROWS)
    )
    return source.channels == 1 or all(bool(np.all(band[..., 1:] == band[..., :1])) for band in bands)
