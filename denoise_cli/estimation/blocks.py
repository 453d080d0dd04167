"""Blocks of a picture and their energies at every frequency: what noise is measured on."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from denoise_cli.windows import Source

Array = NDArray[Any]

SIDE = 8
"""Blocks are SIDE x SIDE pixels."""


def _cosines() -> NDArray[np.float32]:
    """The orthonormal cosine transform (DCT-II) of a block's rows and columns, (SIDE^2, SIDE^2).

    Written out, since importing scipy.fft would take a tenth of a second before every picture.
    """
    n = np.arange(SIDE)
    waves = np.sqrt(2 / SIDE) * np.cos(np.pi / SIDE * np.outer(n, n + 0.5))
    waves[0] /= np.sqrt(2)
    return np.kron(waves, waves).astype(np.float32)


_COSINES = _cosines()


def blocks_of(source: Source, most: int, scale: int = 1) -> Array:
    """About `most` blocks on a regular grid over the whole picture, or all there are.

    (C, N, SIDE^2) on the 0-255 scale. With a scale, the pixels of a block are means of `scale` x `scale` of
    the picture's. N is 0 for a picture under SIDE such pixels high or wide.
    """
    side, C = SIDE * scale, source.channels
    rows, columns = source.height - side + 1, source.width - side + 1
    if rows < 1 or columns < 1:
        return np.zeros((C, 0, SIDE**2), np.float32)
    stride = math.ceil(math.sqrt(rows * columns / most))
    bands = []
    for y in range(0, rows, stride):
        band = source.window(y, y + side, 0, source.width)
        ends = source.width - scale + 1
        sums = sum(band[i::scale, j : j + ends] for i in range(scale) for j in range(scale))
        views = np.lib.stride_tricks.sliding_window_view(sums, side - scale + 1, axis=1)
        every = views[:, ::stride, :, ::scale]  # (y, N, C, x)
        bands.append(every.transpose(2, 1, 0, 3).reshape(C, -1, SIDE**2))
    return np.concatenate(bands, axis=1) * np.float32(255 / scale**2)


def block_energies(blocks: Array) -> Array:
    """The squared coefficients of the orthonormal cosine transform, (..., SIDE^2); the mean is the first."""
    waves: Array = blocks @ _COSINES.T
    return np.square(waves, out=waves)


def with_content(blocks: Array) -> Array:
    """Without the blocks that have one single value in every channel, (C, N, SIDE^2).

    Cut off at black or white, or drawn, they say nothing of noise - unless most of the picture is such.
    """
    flat = (blocks.min(axis=-1) == blocks.max(axis=-1)).all(axis=0)
    return blocks if flat.mean() > 0.5 else blocks[:, ~flat]
