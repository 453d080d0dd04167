"""How strong the white noise of a picture is, from the picture alone.

The method of Ponomarenko et al. ("An automatic approach to lossy compression of AVIRIS images", IGARSS 2007;
studied by Colom and Buades, "Analysis and Extension of the Ponomarenko et al. Method", IPOL 2013,
doi:10.5201/ipol.2013.45): white noise spreads evenly over the coefficients of a block's cosine transform,
while a picture sits in the low frequencies. Among many blocks, those with the least energy in the low
frequencies show hardly more than noise, and the energy of their high frequencies is its variance. The choice
does not bend the result, since it looks at other coefficients than the measurement.

Noise that was cut off at black and white has lost variance there. How much is known for Gaussian noise (Foi,
"Clipped noisy images: heteroskedastic modeling and practical denoising", Signal Processing 2009), so it is
given back, in a few rounds, since it depends on sigma itself.
"""

import math

import numpy as np
from numpy.typing import NDArray

from denoise_cli.estimation.blocks import SIDE, Array, block_energies, blocks_of, with_content
from denoise_cli.windows import ArraySource, Source

_MOST_BLOCKS = 20_000
_LEAST_CHOSEN, _SHARE_CHOSEN = 150, 0.01
_ROUNDS = 3
_MOST = 255.0
"""What a picture of black and white alone, all clipped, would exceed without end."""
_LEAST_KEPT = 0.5
"""Blocks to which clipping left less of the noise's variance than this serve only for want of others."""


_FREQUENCY = np.add.outer(np.arange(SIDE), np.arange(SIDE)).ravel()
_LOW = ((_FREQUENCY > 0) & (_FREQUENCY <= SIDE)).astype(np.float32)
_HIGH = (_FREQUENCY > SIDE).astype(np.float32)


def estimate_sigma(picture: Source | Array) -> NDArray[np.float64]:
    """The standard deviation of the noise in each channel, (C,), on the 0-255 scale.

    `picture`: a source of windows, or an array (H, W, C) of float pixels, white at 1, or of integer samples.
    Made for white Gaussian noise, clipped at black and white or not. Noise that is alike in neighbouring
    pixels, as JPEG or scaling leave it, is measured too low. A picture under 8 pixels high or wide is too
    small to tell noise from content: 0.
    """
    source = ArraySource(picture) if isinstance(picture, np.ndarray) else picture
    blocks = blocks_of(source, _MOST_BLOCKS)
    clipped = bool(blocks.size) and blocks.min() >= 0 and blocks.max() <= 255
    return np.array([_channel_sigma(channel, clipped=clipped) for channel in blocks])


def overall_sigma(sigmas: Array) -> float:
    """One sigma for all channels: the root of their mean variance."""
    return float(np.sqrt(np.mean(np.square(sigmas))))


def _channel_sigma(blocks: Array, *, clipped: bool) -> float:
    if not len(blocks):
        return 0.0
    blocks = with_content(blocks[None])[0]
    brightness = blocks.mean(axis=1)
    energies = block_energies(blocks)
    low, high = ((energies * some).sum(axis=1) / some.sum() for some in (_LOW, _HIGH))
    kept = np.ones(len(blocks))
    sigma = 0.0
    for _ in range(_ROUNDS if clipped else 1):
        chosen = _least_textured(low, kept)
        sigma = min(math.sqrt(high[chosen].mean() / kept[chosen].mean()), _MOST)
        if sigma < 1:  # hardly anything to clip
            break
        means, variances = _clipped_moments(sigma)
        kept = np.interp(brightness, means, variances / sigma**2)
    return sigma


def _least_textured(low: Array, kept: Array) -> Array:
    """Which blocks have the least energy in low frequencies, for the share of noise that clipping left."""
    fit = np.flatnonzero(kept >= min(_LEAST_KEPT, float(np.median(kept))))
    count = min(len(fit), max(_LEAST_CHOSEN, int(_SHARE_CHOSEN * len(low))))
    return fit[np.argpartition(low[fit] / kept[fit], count - 1)[:count]]


def _clipped_moments(sigma: float) -> tuple[Array, Array]:
    """Mean and variance of min(max(x + sigma n, 0), 255), n ~ N(0, 1), for every brightness x from 0 to 255.

    With a = -x / sigma, b = (255 - x) / sigma, the normal density phi and distribution Phi, and
    Z = Phi(b) - Phi(a): the first moment is x Z + sigma (phi(a) - phi(b)) + 255 (1 - Phi(b)), the second
    (x^2 + sigma^2) Z + sigma ((2 x + sigma a) phi(a) - (2 x + sigma b) phi(b)) + 255^2 (1 - Phi(b)).
    """
    x = np.arange(256.0)
    a, b = -x / sigma, (255 - x) / sigma
    density_a, density_b = (np.exp(-t * t / 2) / math.sqrt(2 * math.pi) for t in (a, b))
    below, above = _normal_distribution(a), _normal_distribution(-b)
    inside = 1 - below - above
    mean = x * inside + sigma * (density_a - density_b) + 255 * above
    square = (
        (x * x + sigma**2) * inside
        + sigma * ((2 * x + sigma * a) * density_a - (2 * x + sigma * b) * density_b)
        + 255**2 * above
    )
    return mean, np.maximum(square - mean * mean, 0)


def _normal_distribution(t: Array) -> Array:
    """Phi(t), which NumPy lacks."""
    return np.array([0.5 * math.erfc(-each / math.sqrt(2)) for each in t])
