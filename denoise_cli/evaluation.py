"""How well a denoiser does on a set of pictures, by the protocol of the published tables.

Pictures are (H, W, C) float32 in [0, 1], sigma is quoted on the 0-255 scale.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from denoise_cli.config import Experiment
from denoise_cli.data.opening import open_validation
from denoise_cli.data.pickles import load_pairs
from denoise_cli.data.sources import picture_files
from denoise_cli.denoiser import Denoiser
from denoise_cli.denoising import Noise, Settings, denoise_pixels
from denoise_cli.errors import UsageError
from denoise_cli.estimation import ESTIMATORS
from denoise_cli.images import read_picture
from denoise_cli.metrics import decibels, mse, psnr_pooled, round_to_8_bits, ssim
from denoise_cli.windows import ArraySource, is_gray

Pixels = NDArray[np.float32]

AT_ONCE = 2**18
"""Pixels that go through a network together: small pictures of one size, as many as fill this."""

LARGE = 2**20
"""Pixels from which on a picture is computed in tiles, which give what the whole would."""


@dataclass(frozen=True)
class Pair:
    """A noisy picture and the truth; `sigma` is that of the noise, None where nobody knows it."""

    name: str
    noisy: Pixels
    clean: Pixels
    sigma: float | None


@dataclass(frozen=True)
class ImageScore:
    """The figures of one picture: `sigma` is what the model was told, `values` how many values it has.

    The noisy picture's MSE is that of the picture as it is, neither clipped nor rounded; all else is measured
    after rounding to 8 bits.
    """

    name: str
    sigma: float | None
    values: int
    noisy_mse: float
    mse: float
    noisy_ssim: float
    ssim: float

    @property
    def noisy_psnr(self) -> float:
        return decibels(self.noisy_mse)

    @property
    def psnr(self) -> float:
        return decibels(self.mse)


@dataclass(frozen=True)
class SetScore:
    """The figures of a set: means over its pictures, and the PSNR of one MSE over all of them (`pooled`)."""

    images: int
    noisy_psnr: float
    psnr: float
    noisy_psnr_pooled: float
    psnr_pooled: float
    noisy_ssim: float
    ssim: float


@dataclass(frozen=True)
class Denoised:
    """What a denoiser made of a pair, told `sigma`."""

    pair: Pair
    sigma: float | None
    pixels: Pixels

    def score(self) -> ImageScore:
        noisy, clean = self.pair.noisy, self.pair.clean
        result = round_to_8_bits(self.pixels)
        return ImageScore(
            name=self.pair.name,
            sigma=self.sigma,
            values=clean.size,
            noisy_mse=mse(noisy, clean),
            mse=mse(result, clean),
            noisy_ssim=ssim(round_to_8_bits(noisy), clean),
            ssim=ssim(result, clean),
        )


# Pairs --------------------------------------------------------------------------------------------------


def standard_noise(clean: Pixels, sigma: float) -> Pixels:
    """`clean` with the noise of the published benchmarks: Gaussian, not clipped, the same at every call.

    That is numpy's RandomState(0).normal(0, sigma / 255, (H, W, C)) afresh for each picture, with the
    picture's own channels.
    """
    noise = np.random.RandomState(0).normal(0, sigma / 255, clean.shape)
    return (clean + noise).astype(np.float32)


def noised_folder(folder: Path, sigma: float) -> Iterator[Pair]:
    """Every picture of a folder, and of those inside it, with standard noise."""
    for file in picture_files(folder):
        clean = _read(file)
        yield Pair(str(file.relative_to(folder)), standard_noise(clean, sigma), clean, sigma)


def paired_folders(noisy: Path, clean: Path, sigma: float | None = None) -> Iterator[Pair]:
    """The pictures of two folders that have the same name, whatever the suffix.

    Raises UsageError for a clean picture without a noisy one, and for pairs of unlike sizes.
    """
    partners = {file.relative_to(noisy).with_suffix(""): file for file in picture_files(noisy)}
    for file in picture_files(clean):
        name = file.relative_to(clean)
        if name.with_suffix("") not in partners:
            raise UsageError(f"{noisy}: has no partner of {file}: pairs are found by their names")
        partner = partners[name.with_suffix("")]
        pair = Pair(str(name), _read(partner), _read(file), sigma)
        if pair.noisy.shape != pair.clean.shape:
            raise UsageError(f"{partner}: is {_size(pair.noisy)}, its partner {file} is {_size(pair.clean)}")
        yield pair


def course_pairs(path: Path, sigma: float | None = None) -> Iterator[Pair]:
    """The pairs of a course file, the second picture of each taken for the clean one."""
    for index, (noisy, clean) in enumerate(zip(*load_pairs(path), strict=True)):
        noisy, clean = (tensor.permute(1, 2, 0).numpy() / np.float32(255) for tensor in (noisy, clean))
        yield Pair(f"{index:05d}", noisy, clean, sigma)


def validation_pairs(experiment: Experiment) -> list[Pair]:
    """The validation pictures of an experiment; none where it has no validation."""
    pairs = open_validation(
        experiment.data, channels=experiment.input.channels, estimate=ESTIMATORS[experiment.input.estimator]
    )
    return [
        Pair(f"{index:05d}", _pixels(pair.noisy), _pixels(pair.clean), pair.sigma)
        for index, pair in enumerate(pairs)
    ]


# Scores -------------------------------------------------------------------------------------------------


def evaluate(denoiser: Denoiser, pairs: Iterable[Pair], *, blind: bool = False) -> Iterator[Denoised]:
    """Denoises every pair, in order.

    The model is told the pair's sigma; where nobody knows it, or `blind`, the one estimated from the noisy
    picture.
    """
    for group in _groups(pairs):
        sigmas = [_sigma(denoiser, pair, blind) for pair in group]
        for pair, sigma, result in zip(group, sigmas, _predict(denoiser, group, sigmas), strict=True):
            yield Denoised(pair, sigma, result)


def summarize(scores: Sequence[ImageScore]) -> SetScore:
    """The figures of a set."""
    return SetScore(
        images=len(scores),
        noisy_psnr=_mean(score.noisy_psnr for score in scores),
        psnr=_mean(score.psnr for score in scores),
        noisy_psnr_pooled=psnr_pooled((score.noisy_mse, score.values) for score in scores),
        psnr_pooled=psnr_pooled((score.mse, score.values) for score in scores),
        noisy_ssim=_mean(score.noisy_ssim for score in scores),
        ssim=_mean(score.ssim for score in scores),
    )


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def _groups(pairs: Iterable[Pair]) -> Iterator[list[Pair]]:
    """Neighbours of one size, all gray or all in colour, as many as are denoised together."""
    group: list[Pair] = []
    kind = None
    for pair in pairs:
        before, kind = kind, (pair.noisy.shape, is_gray(ArraySource(pair.noisy)))
        if group and (kind != before or (len(group) + 1) * pair.noisy[..., 0].size > AT_ONCE):
            yield group
            group = []
        group.append(pair)
    if group:
        yield group


def _sigma(denoiser: Denoiser, pair: Pair, blind: bool) -> float | None:
    """What the model is told; where it is told nothing, what is known of the noise."""
    if denoiser.noise_level and (blind or pair.sigma is None):
        return ESTIMATORS[denoiser.estimator](pair.noisy)
    return pair.sigma


def _predict(denoiser: Denoiser, group: list[Pair], sigmas: list[float | None]) -> list[Pixels]:
    """The results of pictures of one size."""
    if group[0].noisy[..., 0].size > LARGE:
        bare, noise = Settings(keep_mean=False), Noise(sigmas[0] or 0.0)
        return [denoise_pixels(denoiser, group[0].noisy, bare, noise=noise)]
    x = torch.stack([torch.from_numpy(pair.noisy).permute(2, 0, 1) for pair in group])
    channels = x.shape[1]
    if is_gray(ArraySource(group[0].noisy)):
        x = x[:, :1]
    told = torch.tensor(sigmas) if denoiser.noise_level else None
    results = denoiser.predict(x.to(denoiser.device), told).cpu()
    return [_pixels(y) for y in results.expand(-1, channels, -1, -1)]


def _pixels(picture: Tensor) -> Pixels:
    """(C, H, W) -> (H, W, C)"""
    pixels: Pixels = picture.permute(1, 2, 0).contiguous().numpy()
    return pixels


def _read(file: Path) -> Pixels:
    return read_picture(file).pixels


def _size(pixels: Pixels) -> str:
    height, width, channels = pixels.shape
    return f"{width} x {height} in {'gray' if channels == 1 else 'colour'}"
