"""How strong the noise of a photograph is, of whatever kind: learned from photographs with known noise.

A camera smooths its noise until hardly any is left in the high frequencies, which is where `white` looks.
What remains sits in the same middle and low frequencies as the picture itself. But noise is everywhere, and
it has a colour and a spectrum of its own: a small network reads its strength from how the energies of a
picture's blocks are distributed, over frequencies, over brightness and colour, and from the flattest blocks
to the most textured ones. `learn_level` made its weights.
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

_RADIUS = np.hypot.outer(np.arange(SIDE), np.arange(SIDE)).ravel()
_EDGES = (0.5, 1.5, 2.3, 3.3, 4.5, 6.0, 7.7, 11.0)
_BANDS = [(low <= _RADIUS) & (_RADIUS < high) for low, high in pairwise(_EDGES)]
_LOW_BANDS = 4
"""How many of the bands tell textured blocks from flat ones."""

_OPPONENT = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]], np.float32) / np.sqrt(
    np.array([[3], [2], [6]], np.float32)
)
"""Red, green, blue to brightness and two colours, orthonormal: equal noise stays equal."""

STATISTICS = len(_BANDS) * 3 * (len(_QUANTILES) + len(_SHARES))


def estimate_level(picture: Source | Array) -> float:
    """The root mean square of the noise in all channels, on the 0-255 scale.

    `picture`: a source of windows, or an array (H, W, C) of float pixels, white at 1, or of integer samples;
    C is 1 or 3. A picture under 8 pixels high or wide is too small to tell noise from content: 0.
    """
    numbers = statistics(ArraySource(picture) if isinstance(picture, np.ndarray) else picture)
    if numbers is None:
        return 0.0
    (answer,) = _network().forward(torch.from_numpy(numbers)[None])[0].tolist()
    return max(0.0, math.exp(answer) - OFFSET)


def statistics(source: Source) -> Array | None:
    """What the network sees, (STATISTICS,): logarithms of the energies of blocks in bands of frequencies.

    Their quantiles over all blocks, band by band and colour by colour, and their means over the shares of
    blocks with the least energy in the low bands of all colours. None where there is no block.
    """
    blocks = blocks_of(source, _MOST_BLOCKS)
    if not blocks.shape[1]:
        return None
    if len(blocks) == 1:
        blocks = np.repeat(blocks, 3, axis=0)
    energies = block_energies(np.tensordot(_OPPONENT, with_content(blocks), 1))
    bands = np.stack([energies[..., band].mean(axis=-1) for band in _BANDS], axis=2)  # (colour, block, band)
    texture = np.log(bands[..., :_LOW_BANDS] + _LEAST_ENERGY).mean(axis=(0, 2))
    parts = list(np.quantile(bands, _QUANTILES, axis=1))
    for share in _SHARES:
        count = min(max(_LEAST_CHOSEN, int(share * len(texture))), len(texture))
        parts.append(bands[:, np.argpartition(texture, count - 1)[:count]].mean(axis=1))
    numbers: Array = np.log(np.stack(parts) + _LEAST_ENERGY).ravel().astype(np.float32)
    return numbers


def network() -> Module:
    """(N, STATISTICS) to (N, 1): log(level + OFFSET)."""
    widths = (STATISTICS, 64, 64, 1)
    layers: list[object] = []
    for ins, outs in pairwise(widths):
        layers += [{"linear": {"in_features": ins, "out_features": outs}}, "relu"]
    return build(layers[:-1])


@cache
def _network() -> Module:
    net = network()
    net.load_state(load(files("denoise_cli.estimation").joinpath(WEIGHTS).read_bytes()))
    return net.train(False)
