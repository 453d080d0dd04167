"""PSNR and SSIM against scikit-image and by hand."""

import math
import tracemalloc

import numpy as np
import pytest
from skimage.data import astronaut
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from denoise_cli import metrics
from denoise_cli.metrics import decibels, mse, psnr, psnr_pooled, round_to_8_bits, ssim


@pytest.fixture
def clean():
    return astronaut()[100:164, 100:180] / np.float32(255)


@pytest.fixture
def noisy(clean):
    return clean + np.random.RandomState(0).normal(0, 25 / 255, clean.shape)


def test_psnr_is_that_of_the_8_bit_file(clean, noisy):
    file = np.rint(noisy.clip(0, 1) * 255).astype(np.uint8)
    truth = np.rint(clean * 255).astype(np.uint8)
    assert psnr(noisy, clean) == pytest.approx(peak_signal_noise_ratio(truth, file), abs=1e-5)


def test_psnr_by_hand():
    assert psnr(np.full((4, 4, 1), 0.6), np.full((4, 4, 1), 0.5)) == pytest.approx(
        20 * math.log10(1 / 0.1), abs=1e-4
    )


def test_identical_pictures_have_an_infinite_psnr(clean):
    assert psnr(clean, clean) == math.inf
    assert psnr(clean * np.float32(1 - 1e-7), clean) == math.inf
    assert decibels(mse(clean * np.float32(1 - 1e-7), clean)) == math.inf, "float32 rounding is no difference"
    assert psnr(clean + 0.4 / 255 * (clean < 0.5), clean) == pytest.approx(math.inf), "rounding hides it"


def test_a_shift_of_one_level_is_48_decibels(clean):
    level = np.full_like(clean, 100 / 255)
    assert psnr(level + 1 / 255, level) == pytest.approx(20 * math.log10(255), abs=1e-4)


def test_rounding_clips_and_quantises():
    rounded = round_to_8_bits(np.array([-0.3, 0.5, 127.4 / 255, 1.7]))
    assert rounded.tolist() == pytest.approx([0, 128 / 255, 127 / 255, 1], abs=1e-7)


def test_pooled_is_one_error_over_the_set():
    assert psnr_pooled([(0.01, 300), (0.04, 100)]) == pytest.approx(decibels(0.0175))
    assert psnr_pooled([(0.0, 5)]) == math.inf


def test_unlike_shapes_are_refused(clean):
    with pytest.raises(ValueError, match="cannot compare"):
        mse(clean, clean[:-1])


@pytest.mark.parametrize("channels", [1, 3])
def test_ssim_is_the_papers(clean, noisy, channels):
    a, b = noisy[..., :channels], clean[..., :channels]
    means = [
        structural_similarity(
            a[..., c].astype(float),
            b[..., c].astype(float),
            data_range=1.0,
            gaussian_weights=True,
            use_sample_covariance=False,
        )
        for c in range(channels)
    ]
    assert ssim(a, b) == pytest.approx(np.mean(means), abs=1e-7)
    assert ssim(b, b) == 1


def test_16_bit_pictures_are_measured_as_they_are(clean):
    deep = clean + np.float32(90 / 65535)
    assert ssim(deep, deep) == 1
    assert mse(deep, deep) == 0
    other = np.zeros((1000, 1000, 3), np.float32)
    other[3, 4, 1] = 1 / 65535
    assert 0 < mse(other, np.zeros_like(other)) < 1e-16
    assert decibels(mse(other, np.zeros_like(other))) < 170


def test_ssim_of_a_picture_smaller_than_its_window_is_undefined(clean):
    assert math.isnan(ssim(clean[:8], clean[:8]))


def test_a_large_picture_is_measured_by_bands(clean, noisy, monkeypatch):
    monkeypatch.setattr(metrics, "BAND", 2**15)
    a, b = (np.tile(x, (8, 4, 1)).astype(np.float32) for x in (noisy, clean))
    whole = structural_similarity(
        *(x.astype(float) for x in (a, b)),
        **{"data_range": 1.0, "channel_axis": -1, "gaussian_weights": True, "use_sample_covariance": False},
    )
    error = np.mean((a.astype(float) - b) ** 2)
    tracemalloc.start()
    assert ssim(a, b) == pytest.approx(whole, rel=1e-12)
    assert mse(a, b) == pytest.approx(error, rel=1e-12)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 12 * a.size
