"""ZS-N2N: its views of a picture, and what a few steps make of a noisy one."""

import numpy as np
import pytest
import torch
from skimage import data

from denoise_cli.denoising import Settings, denoise_pixels
from denoise_cli.errors import DenoiseError
from denoise_cli.metrics import psnr
from denoise_cli.windows import ArraySource
from denoise_cli.zero_shot import _network, learn, views


def noisy_photo(sigma=25):
    clean = data.chelsea()[40:200, 100:280].astype(np.float32) / 255
    noise = np.random.RandomState(0).normal(0, sigma / 255, clean.shape)
    return clean, (clean + noise).astype(np.float32)


def test_views_are_the_means_of_the_diagonals():
    y = torch.rand(2, 3, 6, 4)
    for view, kernel in zip(views(y), ([[0, 0.5], [0.5, 0]], [[0.5, 0], [0, 0.5]]), strict=True):
        weight = torch.tensor(kernel).expand(3, 1, 2, 2)
        torch.testing.assert_close(view, torch.nn.functional.conv2d(y, weight, stride=2, groups=3))


def test_views_have_half_the_noise_power_and_share_none_of_it():
    d1, d2 = views(torch.randn(1, 1, 400, 400, generator=torch.Generator().manual_seed(0)))
    assert d1.var().item() == pytest.approx(0.5, rel=0.02)
    assert (d1 * d2).mean().item() == pytest.approx(0, abs=0.01)


def test_it_has_22_thousand_weights():
    assert sum(value.numel() for value, _ in _network(3, 0).param()) == pytest.approx(22_000, rel=0.25)


def test_it_takes_most_of_the_noise_out():
    clean, noisy = noisy_photo()
    denoiser = learn(ArraySource(noisy), steps=150)
    assert psnr(denoise_pixels(denoiser, noisy, Settings(sigma=0)), clean) > psnr(noisy, clean) + 5


def test_the_seed_decides_everything():
    _, noisy = noisy_photo()
    first, same, other = (
        learn(ArraySource(noisy), seed=seed, steps=3).net.state()["0.body.0.weight"] for seed in (1, 1, 2)
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_it_leaves_the_random_state_alone():
    _, noisy = noisy_photo()
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    learn(ArraySource(noisy), steps=1)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("shape", [(4, 5, 1), (5, 300, 3), (97, 99, 1)])
def test_small_odd_and_gray_pictures(shape):
    calls = []
    x = np.random.default_rng(0).random(shape, dtype=np.float32)
    denoiser = learn(ArraySource(x), steps=2, progress=lambda *done: calls.append(done))
    assert denoise_pixels(denoiser, x).shape == shape
    assert calls == [(1, 2), (2, 2)]


def test_a_picture_without_views_is_refused():
    with pytest.raises(DenoiseError, match="5 x 3 pixels"):
        learn(ArraySource(np.zeros((3, 5, 1), np.uint8)))
