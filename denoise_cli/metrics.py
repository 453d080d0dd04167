"""How close a picture is to the truth: PSNR and SSIM.

Pictures are float arrays in [0, 1], (H, W, C) where the layout matters. A PSNR is in decibels; identical
pictures have an infinite one.
"""

import math
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.floating]

BAND = 2**20
"""About how many values are compared at once: whole pictures would take many times their memory."""

SAME = 1e-6
"""Values that differ by less are the same: more than float32 rounding in [0, 1], less than a 16-bit level."""


def round_to_8_bits(x: Pixels) -> npt.NDArray[np.float32]:
    """What is left of a picture after it was written to an 8-bit file: clipped, one of 256 levels."""
    return np.rint(np.clip(x, 0, 1) * 255).astype(np.float32) / np.float32(255)


def mse(a: Pixels, b: Pixels) -> float:
    """Mean squared difference over all values, added up in float64; 0 only where all are the same.

    Raises ValueError for unlike shapes.
    """
    if a.shape != b.shape:
        raise ValueError(f"cannot compare pictures of {a.shape} and {b.shape}")
    return math.fsum(_squares(a[rows], b[rows]) for rows in _bands(a.shape)) / a.size


def _squares(a: Pixels, b: Pixels) -> float:
    difference = a.astype(np.float64) - b.astype(np.float64)
    difference[np.abs(difference) < SAME] = 0
    return float(np.square(difference).sum())


def _bands(shape: tuple[int, ...]) -> Iterator[slice]:
    """All rows of a picture, a few at a time."""
    height = max(1, BAND // math.prod(shape[1:]))
    return (slice(y, min(y + height, shape[0])) for y in range(0, shape[0], height))


def decibels(mean_square: float) -> float:
    """PSNR of a mean squared error of pictures in [0, 1]: 10 log10(1 / MSE), infinite for identical ones."""
    return math.inf if mean_square == 0 else 10 * math.log10(1 / mean_square)


def psnr(result: Pixels, clean: Pixels) -> float:
    """PSNR over all values after rounding `result` to 8 bits, as the published tables take it."""
    return decibels(mse(round_to_8_bits(result), clean))


def psnr_pooled(errors: Iterable[tuple[float, int]]) -> float:
    """PSNR of one MSE over a whole set, from the (MSE, number of values) of every picture.

    Differs from the mean over pictures, which weighs every picture alike whatever its size and error.
    """
    errors = list(errors)
    return decibels(sum(error * count for error, count in errors) / sum(count for _, count in errors))


def ssim(a: Pixels, b: Pixels) -> float:
    """Structural similarity (Wang, Bovik, Sheikh, Simoncelli 2004), 1 for identical pictures.

    The paper's settings - a Gaussian window of sigma 1.5 on 11 x 11 pixels, plain (biased) covariances - as
    a mean over channels. Not a number (nan) for pictures smaller than the window.
    """
    height, width, channels = a.shape
    inside = height - 10, width - 10, channels  # where the window fits
    if min(inside) < 1:
        return math.nan
    bands = (slice(rows.start, rows.stop + 10) for rows in _bands(inside))
    return float(math.fsum(_likeness(a[rows], b[rows]) for rows in bands) / math.prod(inside))


def _likeness(a: Pixels, b: Pixels) -> float:
    """The sum of SSIM over all places where the window fits."""
    from skimage.metrics import structural_similarity

    _, likeness = structural_similarity(  # type: ignore[no-untyped-call]
        a.astype(np.float64),
        b.astype(np.float64),
        data_range=1.0,
        channel_axis=-1,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    return float(likeness[5:-5, 5:-5].sum())
