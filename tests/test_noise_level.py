"""The learned noise level against noise of many kinds on photographs, and how it is learned."""

import numpy as np
import pytest
import torch
from skimage import data

from denoise_cli.data.camera_noise import Camera
from denoise_cli.data.noise_models import Correlated, Gaussian, Noise, to_bytes
from denoise_cli.estimation import estimate_level, estimate_sigma, overall_sigma
from denoise_cli.estimation.learn_level import learn
from denoise_cli.estimation.level import OFFSET, STATISTICS, statistics
from denoise_cli.images.picture import Picture
from denoise_cli.windows import ArraySource

PHOTOGRAPHS = ["astronaut", "chelsea", "coffee"]
NOISES = [
    Gaussian(sigma=10),
    Gaussian(sigma=40),
    Correlated(sigma=8, smoothing=1.5),
    Camera(shot=2e-3, luma_smoothing=0.7, chroma_smoothing=2.0),
]


def photograph(name: str) -> np.ndarray:
    return (getattr(data, name)() / 255).astype(np.float32)


@pytest.mark.parametrize("name", PHOTOGRAPHS)
@pytest.mark.parametrize("noise", NOISES, ids=lambda noise: type(noise).__name__)
def test_tells_noise_of_any_kind(name: str, noise: Noise) -> None:
    clean = photograph(name)
    noisy = to_bytes(noise.corrupt(clean, np.random.default_rng(0)))
    true = 255 * np.sqrt(np.mean(np.square(noisy / 255 - clean)))
    assert 1 / 1.6 < estimate_level(noisy) / true < 1.6


def test_sees_what_is_too_smooth_for_white_noise() -> None:
    noisy = Correlated(sigma=8, smoothing=2).corrupt(photograph("coffee"), np.random.default_rng(0))
    assert overall_sigma(estimate_sigma(noisy)) < 3 < 6 < estimate_level(noisy) < 10


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_hardly_any_in_a_clean_photograph(name: str) -> None:
    assert estimate_level(photograph(name)) < 2.5


def test_a_gray_picture_is_one_of_equal_channels() -> None:
    gray = Gaussian(sigma=20).corrupt(photograph("chelsea")[..., :1], np.random.default_rng(0))
    assert estimate_level(gray) == estimate_level(np.repeat(gray, 3, axis=2)) == pytest.approx(20, rel=0.2)


@pytest.mark.parametrize("shape", [(15, 100, 3), (1, 1, 1), (100, 3, 3)])
def test_a_picture_smaller_than_a_block_of_its_half_has_none(shape: tuple[int, int, int]) -> None:
    assert statistics(ArraySource(np.zeros(shape, np.float32))) is None
    assert estimate_level(np.random.default_rng(0).random(shape)) == 0


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_a_picture_of_one_value_has_next_to_none(value: float) -> None:
    assert estimate_level(np.full((64, 64, 3), value, np.float32)) < 1


def test_windows_and_arrays_say_the_same() -> None:
    samples = data.chelsea()
    assert estimate_level(Picture(samples, "rgb")) == estimate_level(samples)


def test_learning_finds_the_level_behind_the_statistics() -> None:
    torch.manual_seed(0)
    seen = 3 + 2 * torch.randn(400, STATISTICS)
    levels = (0.2 * seen[:, :1]).exp()
    errors = learn(seen, levels).forward(seen) - (levels + OFFSET).log()
    assert float(errors.abs().mean()) < 0.1
