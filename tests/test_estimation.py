"""The estimated noise against noise that was put in, on photographs and on made-up pictures."""

import numpy as np
import pytest
from scipy.fft import dctn
from skimage import data

from denoise_cli.estimation import estimate_sigma, overall_sigma
from denoise_cli.estimation.blocks import SIDE, block_energies, blocks_of
from denoise_cli.estimation.white import _clipped_moments
from denoise_cli.images.picture import Picture


def noisy(pixels, sigma, seed=0):
    return pixels + np.random.RandomState(seed).normal(0, sigma, pixels.shape)


@pytest.mark.parametrize("sigma", [5, 10, 25, 50, 75])
@pytest.mark.parametrize("name", ["chelsea", "rocket"])
def test_is_within_a_tenth_of_gaussian_noise(name, sigma):
    picture = getattr(data, name)()
    unclipped = (noisy(picture, sigma) / 255).astype(np.float32)
    samples = np.rint(np.clip(noisy(picture, sigma), 0, 255)).astype(np.uint8)
    for pixels in (unclipped, samples):
        assert overall_sigma(estimate_sigma(pixels)) == pytest.approx(sigma, rel=0.1)


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_blocks_of_a_reduced_picture_have_means_of_its_pixels(scale):
    picture = np.random.default_rng(0).integers(0, 256, (27, 31, 3)).astype(np.uint8)
    blocks = blocks_of(Picture(picture, "rgb"), 10_000, scale)
    side = SIDE * scale
    columns = 31 - side + 1
    assert blocks.shape == (3, (27 - side + 1) * columns, SIDE**2)
    for y, x in ((0, 0), (3, 2)):
        window = picture[y : y + side, x : x + side].reshape(SIDE, scale, SIDE, scale, 3).mean((1, 3))
        np.testing.assert_allclose(blocks[:, y * columns + x], window.reshape(-1, 3).T, rtol=1e-5)


def test_energies_are_those_of_the_orthonormal_cosine_transform():
    blocks = np.random.default_rng(0).normal(0, 50, (3, 40, SIDE, SIDE)).astype(np.float32)
    wanted = dctn(blocks, axes=(-2, -1), norm="ortho") ** 2
    energies = block_energies(blocks.reshape(3, 40, SIDE**2))
    np.testing.assert_allclose(energies, wanted.reshape(energies.shape), rtol=1e-3, atol=0.01)


def test_a_clean_photograph_has_next_to_none():
    assert overall_sigma(estimate_sigma(data.astronaut())) < 1


def test_channels_are_measured_one_by_one():
    pixels = noisy(np.full((200, 200, 3), 128.0), np.array([5, 15, 40])) / 255
    assert estimate_sigma(pixels) == pytest.approx([5, 15, 40], rel=0.05)


def test_strong_edges_do_not_count_as_noise():
    stripes = np.where(np.arange(256) // 16 % 2, 60.0, 190.0)[None, :, None].repeat(256, 0)
    assert estimate_sigma(noisy(stripes, 10) / 255) == pytest.approx([10], rel=0.1)


def test_a_blank_frame_does_not_hide_the_noise():
    framed = np.full((300, 300, 1), 255, np.uint8)
    framed[40:260, 40:260] = np.rint(noisy(np.full((220, 220, 1), 120.0), 20))
    assert estimate_sigma(framed) == pytest.approx([20], rel=0.1)


def test_black_and_white_alone_stays_on_the_scale():
    dots = np.random.default_rng(0).integers(0, 2, (200, 200, 1)).astype(np.float32)
    assert 100 < estimate_sigma(dots)[0] <= 255


@pytest.mark.parametrize("value", [0, 0.3, 1])
def test_one_flat_colour_has_no_noise(value):
    assert estimate_sigma(np.full((64, 64, 3), value)) == pytest.approx([0, 0, 0], abs=1e-3)


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 5000, 1), (7, 400, 3)])
def test_a_picture_too_small_to_tell_has_none(shape):
    assert np.array_equal(estimate_sigma(np.random.default_rng(0).random(shape)), np.zeros(shape[2]))


def test_the_smallest_picture_that_can_be_measured():
    assert estimate_sigma(noisy(np.full((8, 8, 1), 128.0), 25) / 255) == pytest.approx([25], rel=0.5)


def test_depth_and_kind_of_source_make_no_difference():
    pixels = np.clip(noisy(data.chelsea(), 25) / 255, 0, 1)
    eight, sixteen = (np.rint(pixels * peak).astype(t) for peak, t in ((255, np.uint8), (65535, np.uint16)))
    expected = estimate_sigma(eight)
    assert estimate_sigma(sixteen) == pytest.approx(expected, rel=0.01)
    assert np.array_equal(estimate_sigma(Picture(eight, "rgb")), expected)


def test_moments_of_clipped_noise():
    means, variances = _clipped_moments(60.0)
    normal = np.random.RandomState(0).normal(0, 60, 400_000)
    for x in (0, 3, 40, 128, 250):
        samples = np.clip(x + normal, 0, 255)
        assert means[x] == pytest.approx(samples.mean(), abs=0.5)
        assert variances[x] == pytest.approx(samples.var(), rel=0.01)


def test_overall_is_the_root_of_the_mean_variance():
    assert overall_sigma(np.array([3.0, 4.0])) == pytest.approx(12.5**0.5)
