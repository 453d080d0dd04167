"""Batches: sources, noise and pairing put together, each batch a pure function of (seed, step).

A batch may be prepared in a thread beside the training, so it is made by NumPy. A parallel operation of torch
would give that thread a team of workers of its own: more than there are cores, which then wait for each other
with the help of the system instead of a few spins, and a step takes three times as long.
"""

import math
from collections.abc import Callable, Generator
from functools import lru_cache
from typing import Literal, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from denoise_cli.data.batch import Batch
from denoise_cli.data.noise_models import Noise
from denoise_cli.data.photo_noise import resized
from denoise_cli.data.pickles import PickleSource
from denoise_cli.data.prefetching import prefetched
from denoise_cli.data.sources import Source
from denoise_cli.images import in_channels, to_pixels, to_tensor

_T = TypeVar("_T", bound=np.generic)
Pairing = Literal["clean", "noise2noise"]
Indices = NDArray[np.int64]

Estimate = Callable[[NDArray[np.float32]], float]
"""Tells the noise level of pixels (H, W, C) on the 0-255 scale."""

MOST_ENLARGED = 2.5
"""How many times a soft patch is enlarged at most."""

# What a stream of random numbers is for; part of its seed, so that no two streams are alike.
ORDER, SAMPLES, VALIDATION = 0, 1, 2


class Samples(Protocol):
    """Numbered pictures that become training samples."""

    def __len__(self) -> int: ...

    def draw(self, indices: Indices, generator: np.random.Generator) -> Batch:
        """One fresh sample of each of these pictures."""
        ...


class NoisyPatches:
    """Random crops of clean pictures, with noise.

    The target is the crop itself or, for noise2noise, a second noisy version of it: both have the same mean,
    so a squared error leads to the same network (Lehtinen et al., "Noise2Noise", ICML 2018).

    A fraction `gray` of them is gray: equal channels, the noise included. Such noise is sqrt(channels) times
    as strong along the gray axis as that of independent channels, and its sigma says so (see `Denoiser`).

    A fraction `soft` is cut smaller and enlarged, up to MOST_ENLARGED times: a photograph in the size in
    which it was taken has less detail in a pixel than one that was reduced.

    The sigma that is told is off by a factor e^(misjudged n), n ~ N(0, 1), as an estimate would be.
    """

    def __init__(
        self,
        source: Source,
        noise: Noise,
        *,
        patch: int,
        pairing: Pairing = "clean",
        augment: bool = True,
        gray: float = 0.0,
        soft: float = 0.0,
        misjudged: float = 0.0,
    ) -> None:
        self.source, self.noise = source, noise
        self.patch, self.pairing, self.augment = patch, pairing, augment
        self.gray, self.soft, self.misjudged = gray, soft, misjudged

    def __len__(self) -> int:
        return len(self.source)

    def draw(self, indices: Indices, generator: np.random.Generator) -> Batch:
        noise2noise = self.pairing == "noise2noise"
        x, clean, sigmas, targets = [], [], [], []
        for index in indices:
            picture = self._crop(int(index), generator)
            if self.augment:
                picture = to_tensor(turned(to_pixels(picture), int(generator.integers(8))))
            channels, gain = picture.shape[0], 1.0
            if self.gray and generator.random() < self.gray:
                picture, gain = to_tensor(in_channels(to_pixels(picture), 1)), channels**0.5
            noisy = self.noise(picture, generator)
            x.append(noisy.image.expand(channels, -1, -1))
            if self.misjudged:
                gain *= math.exp(self.misjudged * generator.standard_normal())
            sigmas.append(gain * noisy.sigma)
            clean.append(self.noise.clean(picture).expand(channels, -1, -1))
            if noise2noise:
                targets.append(self.noise(picture, generator).image.expand(channels, -1, -1))
        known = _stacked(clean)
        return Batch(_stacked(x), _stacked(targets) if noise2noise else known, known, torch.tensor(sigmas))

    def _crop(self, index: int, generator: np.random.Generator) -> Tensor:
        side = self.patch * self.noise.scale
        if not (self.soft and generator.random() < self.soft):
            return self.source.crop(index, side, generator)
        small = self.source.crop(index, math.ceil(side / generator.uniform(1, MOST_ENLARGED)), generator)
        return to_tensor(np.clip(resized(to_pixels(small), side, side), 0, 1))


class NoisyPairs:
    """Whole pairs of a course file.

    `pairing` says what the second picture of a pair is: the clean one, or for noise2noise another noisy one,
    which may then serve as the input as well. sigma is that of each pair's difference.
    """

    def __init__(self, source: PickleSource, *, pairing: Pairing = "clean", augment: bool = True) -> None:
        self.source, self.pairing, self.augment = source, pairing, augment

    def __len__(self) -> int:
        return len(self.source)

    def draw(self, indices: Indices, generator: np.random.Generator) -> Batch:
        x, target = (pictures[indices] for pictures in (self.source.first, self.source.second))
        noise2noise = self.pairing == "noise2noise"
        if self.augment:
            for pair, way in enumerate(generator.integers(8, size=len(indices))):
                x[pair], target[pair] = turned(x[pair], int(way)), turned(target[pair], int(way))
            if noise2noise:
                swap = generator.random(len(indices)) < 0.5
                x[swap], target[swap] = target[swap], x[swap]
        noisy_pictures = 2 if noise2noise else 1
        error = np.mean(np.square(x.astype(np.float32) - target), axis=(1, 2, 3), dtype=np.float32)
        sigma = torch.from_numpy(np.sqrt(error / noisy_pictures))
        first, second = _as_float(x), _as_float(target)
        return Batch(first, second, None if noise2noise else second, sigma)


class Batches:
    """The endless row of batches of an experiment.

    Every picture gives one sample an epoch, in an order that is shuffled anew for each epoch. Batches are
    always full: where an epoch does not fill its last batch, the next epoch begins inside it.
    """

    def __init__(self, samples: Samples, *, batch: int, seed: int = 0, workers: int = 1) -> None:
        self.samples, self.size, self.seed, self.workers = samples, batch, seed, workers

    @property
    def steps_per_epoch(self) -> int:
        """Steps until every picture was seen once."""
        return -(-len(self.samples) // self.size)

    def batch(self, step: int) -> Batch:
        """The batch of a step: the same for the same seed, whatever was asked before, and by whom."""
        generator = np.random.default_rng([SAMPLES, self.seed, step])
        return self.samples.draw(self._indices(step), generator)

    def prefetch(self, start: int, stop: int) -> Generator[Batch, None, None]:
        """The batches of the steps start, ..., stop - 1 in order, prepared ahead (see `prefetching`)."""
        return prefetched(self.batch, range(start, stop), self.workers)

    def _indices(self, step: int) -> Indices:
        """The pictures of a step: a window of all epochs' permutations laid end to end."""
        length = len(self.samples)
        epochs, places = np.divmod(np.arange(step * self.size, (step + 1) * self.size), length)
        return np.array(
            [permutation(self.seed, int(e), length)[p] for e, p in zip(epochs, places, strict=True)]
        )


@lru_cache(maxsize=8)
def permutation(seed: int, epoch: int, length: int) -> Indices:
    """The order in which an epoch visits the pictures."""
    return np.random.default_rng([ORDER, seed, epoch]).permutation(length)


# Validation ----------------------------------------------------------------------------------------------


class Pair(NamedTuple):
    """A validation picture: (C, H, W) float32 twice, and its noise level on the 0-255 scale."""

    noisy: Tensor
    clean: Tensor
    sigma: float


def validation_pairs(
    source: Source | PickleSource,
    noise: Noise,
    *,
    seed: int = 0,
    count: int = 48,
    size: int = 192,
    estimate: Estimate | None = None,
) -> list[Pair]:
    """What a model is measured on while it trains: always the same pictures with the same noise.

    Of a source of clean pictures: at most `count` of them, evenly spaced, the middle size x size pixels of
    each; their sigma is what `estimate` finds in the noisy ones, if that is given. Of a course file: every
    pair, and the second picture is the clean one.
    """
    if isinstance(source, PickleSource):
        noisy, clean = _as_float(source.first), _as_float(source.second)
        sigmas = 255 * (noisy - clean).square().mean((1, 2, 3)).sqrt()
        return [Pair(*pair) for pair in zip(noisy, clean, sigmas.tolist(), strict=True)]
    indices = np.linspace(0, len(source) - 1, min(count, len(source))).round().astype(int)
    pairs = []
    for index in indices:
        picture = _middle(source.picture(int(index)), size, noise.scale)
        noisy_picture = noise(picture, np.random.default_rng([VALIDATION, seed, int(index)]))
        sigma = estimate(to_pixels(noisy_picture.image)) if estimate else noisy_picture.sigma
        pairs.append(Pair(noisy_picture.image, noise.clean(picture), sigma))
    return pairs


def _middle(picture: Tensor, size: int, scale: int) -> Tensor:
    """The middle of a picture, from which noise of this scale makes at most size x size pixels."""
    height, width = (min(n // scale, size) * scale for n in picture.shape[1:])
    top, left = (picture.shape[1] - height) // 2, (picture.shape[2] - width) // 2
    return picture[:, top : top + height, left : left + width]


# Tensors -------------------------------------------------------------------------------------------------


def turned(pixels: NDArray[_T], way: int) -> NDArray[_T]:
    """One of the eight flips and turns of a square picture (P, P, C): a view."""
    if way & 1:
        pixels = pixels[:, ::-1]
    return np.rot90(pixels, way >> 1)


def _stacked(pictures: list[Tensor]) -> Tensor:
    """(C, P, P) tensors -> (N, C, P, P), channels-last."""
    return torch.from_numpy(np.stack([to_pixels(picture) for picture in pictures])).permute(0, 3, 1, 2)


def _as_float(pictures: NDArray[np.uint8]) -> Tensor:
    """(N, H, W, C) bytes -> (N, C, H, W) float32 in [0, 1], channels-last."""
    return torch.from_numpy(pictures.astype(np.float32) * np.float32(1 / 255)).permute(0, 3, 1, 2)
