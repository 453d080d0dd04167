"""How strong the noise of a photograph is, of whatever kind: learned from photographs with known noise.

A camera smooths its noise until hardly any is left in the high frequencies, which is where `white` looks.
What remains sits in the same middle and low frequencies as the picture itself. But noise is everywhere, and
it has a colour and a spectrum of its own: a small network reads its strength from how the energies of a
picture's blocks are distributed, over frequencies of the picture and of its half, over brightness and colour,
and from the flattest blocks to the most textured ones. `learn_level` made its weights.
"""

import math
from functools import cache
from importlib.resources import files
from itertools import pairwise

import numpy as np
import torch
from safetensors.torch import load

from denoise_cli.estimation.blocks import SIDE, Array, block_energies, blocks_of, with_content
from denoise_cli.nn import build
from denoise_cli.nn.module import Module
from denoise_cli.windows import ArraySource, Source

WEIGHTS = "level.safetensors"
OFFSET = 0.5
"""The network speaks of log(level + OFFSET): below, a level does not matter."""

_MOST_BLOCKS = 6000
_LEAST_CHOSEN = 20
_QUANTILES = (0.01, 0.05, 0.2, 0.5, 0.8)
_SHARES = (0.01, 0.05, 0.2)
_LEAST_ENERGY = 0.02
"""What is added to energies before their logarithm: rounding to 8 bits leaves 1/12."""
_NOTHING = 0.35**2
"""The energy below which a frequency holds nothing: JPEG leaves many such."""
_BRIGHTNESSES, _FLATTEST, _LEAST_OF_BRIGHTNESS = 4, 0.1, 10

_RADIUS = np.hypot.outer(np.arange(SIDE), np.arange(SIDE)).ravel()
_EDGES = (0.5, 1.5, 2.3, 3.3, 4.5, 6.0, 7.7, 11.0)
_BANDS = [(low <= _RADIUS) & (_RADIUS < high) for low, high in pairwise(_EDGES)]
_LOW_BANDS = 4
"""How many of the bands tell textured blocks from flat ones."""

_OPPONENT = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]], np.float32) / np.sqrt(
    np.array([[3], [2], [6]], np.float32)
)
"""Red, green, blue to brightness and two colours, orthonormal: equal noise stays equal."""

STATISTICS = len(_BANDS) * 3 * (2 * len(_QUANTILES) + 2 * len(_SHARES) + _BRIGHTNESSES + 1) + _BRIGHTNESSES


def estimate_level(picture: Source | Array) -> float:
    """The root mean square of the noise in all channels, on the 0-255 scale.

    `picture`: a source of windows, or an array (H, W, C) of float pixels, white at 1, or of integer samples;
    C is 1 or 3. A picture under 16 pixels high or wide is too small to tell noise from content: 0.
    """
    numbers = statistics(ArraySource(picture) if isinstance(picture, np.ndarray) else picture)
    if numbers is None:
        return 0.0
    (answer,) = _network().forward(torch.from_numpy(numbers)[None])[0].tolist()
    return max(0.0, math.exp(answer) - OFFSET)


def statistics(source: Source) -> Array | None:
    """What the network sees, (STATISTICS,): logarithms of the energies of blocks in bands of frequencies.

    Of the picture and of its half: quantiles over all blocks, band by band and colour by colour, and means
    over the shares of blocks with the least texture, which is energy in the low bands of all colours. Of the
    picture, too: those means for each quarter of the blocks by brightness, with that brightness, and how many
    energies are next to nothing. None where there is no block.
    """
    energies, of_half = _energies(source, 1), _energies(source, 2)
    if energies is None or of_half is None:
        return None
    bands, nothing = _in_bands(energies), _in_bands(energies < _NOTHING).mean(axis=1)
    by_brightness, brightness = _by_brightness(bands, np.sqrt(energies[0, :, 0] / 3) / SIDE)
    parts = [*_distribution(bands), *_distribution(_in_bands(of_half)), *by_brightness]
    logarithms = np.log(np.stack(parts) + _LEAST_ENERGY)
    numbers: Array = np.concatenate((logarithms.ravel(), nothing.ravel(), brightness)).astype(np.float32)
    return numbers


def _energies(source: Source, scale: int) -> Array | None:
    """Energies of the brightness and the two colours in blocks, (3, N, SIDE^2); None where there is none."""
    blocks = blocks_of(source, _MOST_BLOCKS, scale)
    if not blocks.shape[1]:
        return None
    if len(blocks) == 1:
        blocks = np.repeat(blocks, 3, axis=0)
    return block_energies(np.tensordot(_OPPONENT, with_content(blocks), 1))


def _in_bands(energies: Array) -> Array:
    """The mean over each band of frequencies, (3, N, SIDE^2) to (3, N, bands)."""
    return np.stack([energies[..., band].mean(axis=-1) for band in _BANDS], axis=2)


def _texture(bands: Array) -> Array:
    """How textured each block is, (N,)."""
    texture: Array = np.log(bands[..., :_LOW_BANDS] + _LEAST_ENERGY).mean(axis=(0, 2))
    return texture


def _flattest(bands: Array, texture: Array, share: float, least: int) -> Array:
    """The mean energies (3, bands) of this share of the blocks, those with the least texture."""
    count = min(max(least, int(share * len(texture))), len(texture))
    mean: Array = bands[:, np.argpartition(texture, count - 1)[:count]].mean(axis=1)
    return mean


def _distribution(bands: Array) -> list[Array]:
    """Quantiles over the blocks, and means over the flattest ones, (3, bands) each."""
    texture = _texture(bands)
    flattest = [_flattest(bands, texture, share, _LEAST_CHOSEN) for share in _SHARES]
    return [*np.quantile(bands, _QUANTILES, axis=1), *flattest]


def _by_brightness(bands: Array, brightness: Array) -> tuple[list[Array], Array]:
    """Means over the flattest blocks of each quarter by brightness (N,), and its brightness, white at 1."""
    texture, order = _texture(bands), np.argsort(brightness)
    quarters = np.array_split(np.resize(order, max(len(order), _BRIGHTNESSES)), _BRIGHTNESSES)
    means = [_flattest(bands[:, q], texture[q], _FLATTEST, _LEAST_OF_BRIGHTNESS) for q in quarters]
    return means, np.array([brightness[q].mean() for q in quarters]) / 255


def network() -> Module:
    """(N, STATISTICS) to (N, 1): log(level + OFFSET)."""
    widths = (STATISTICS, 128, 128, 1)
    layers: list[object] = []
    for ins, outs in pairwise(widths):
        layers += [{"linear": {"in_features": ins, "out_features": outs}}, "relu"]
    return build(layers[:-1])


@cache
def _network() -> Module:
    net = network()
    net.load_state(load(files("denoise_cli.estimation").joinpath(WEIGHTS).read_bytes()))
    return net.train(False)
