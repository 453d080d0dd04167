"""How close a picture is to the truth: PSNR and SSIM.

Pictures are float arrays in [0, 1], (H, W, C) where the layout matters. A PSNR is in decibels; identical
pictures have an infinite one.
"""

import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.floating]


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
    difference = a.astype(np.float64) - b.astype(np.float64)
    difference[np.abs(difference) < SAME] = 0
    return float(np.mean(np.square(difference)))


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
    from skimage.metrics import structural_similarity

    if min(a.shape[:2]) < 11:
        return math.nan
    return float(
        structural_similarity(  # type: ignore[no-untyped-call]
            a.astype(np.float64),
            b.astype(np.float64),
            data_range=1.0,
            channel_axis=-1,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
    )
