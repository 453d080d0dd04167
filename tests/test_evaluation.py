"""Evaluation: the standard noise, pairs from anywhere, and figures that agree with scikit-image's."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.data import astronaut, chelsea
from skimage.metrics import peak_signal_noise_ratio

from denoise_cli import evaluation
from denoise_cli.denoiser import Denoiser
from denoise_cli.errors import UsageError
from denoise_cli.evaluation import (
    Pair,
    course_pairs,
    evaluate,
    noised_folder,
    paired_folders,
    standard_noise,
    summarize,
)
from denoise_cli.nn.module import Module
from denoise_cli.published import published


class Halve(Module):
    """y = x / 2; remembers how many pictures each call had, and the noise levels it was told."""

    def __init__(self):
        super().__init__()
        self.calls, self.told = [], []

    def forward(self, x):
        self.calls.append(len(x))
        self.told += (255 * x[:, -1, 0, 0]).tolist()
        return x[:, :3] / 2


@pytest.fixture
def denoiser():
    return Denoiser(Halve(), channels=3, noise_level=True)


@pytest.fixture
def photos():
    return {"a": astronaut()[:60, :50], "b": chelsea()[100:160, 100:150], "c": chelsea()[:40, :70]}


def save(folder, pictures, suffix=".png"):
    folder.mkdir(parents=True)
    for name, pixels in pictures.items():
        Image.fromarray(pixels).save(folder / f"{name}{suffix}")
    return folder


def test_standard_noise_is_that_of_the_published_benchmarks():
    clean = np.full((4, 5, 3), 0.9, np.float32)
    np.random.seed(0)
    expected = clean + np.random.normal(0, 25 / 255, clean.shape)
    noisy = standard_noise(clean, 25)
    np.testing.assert_allclose(noisy, expected, atol=1e-6)
    assert np.array_equal(noisy, standard_noise(clean, 25))
    assert noisy.max() > 1, "it is not clipped"


def test_a_folder_is_noised_picture_by_picture_with_its_own_channels(tmp_path, photos):
    photos["gray"] = photos["a"][..., 0]
    pairs = list(noised_folder(save(tmp_path / "set", photos), 25))
    assert [pair.name for pair in pairs] == ["a.png", "b.png", "c.png", "gray.png"]
    assert [pair.clean.shape for pair in pairs] == [(60, 50, 3), (60, 50, 3), (40, 70, 3), (60, 50, 1)]
    assert all(pair.sigma == 25 for pair in pairs)
    np.testing.assert_allclose(pairs[0].clean, photos["a"] / 255, atol=1e-7)
    np.testing.assert_allclose(pairs[0].noisy - pairs[0].clean, pairs[1].noisy - pairs[1].clean, atol=1e-6)


def test_figures_are_those_of_the_8_bit_files(denoiser, photos):
    clean = (photos["a"] / 255).astype(np.float32)
    noisy = standard_noise(clean, 25)
    (denoised,) = evaluate(denoiser, [Pair("a", noisy, clean, 25.0)])
    score = denoised.score()
    file = np.rint(255 * (noisy / 2).clip(0, 1)).astype(np.uint8)
    assert score.psnr == pytest.approx(peak_signal_noise_ratio(photos["a"], file), abs=1e-4)
    assert score.noisy_psnr == pytest.approx(
        peak_signal_noise_ratio(clean.astype(float), noisy.astype(float), data_range=1), abs=1e-4
    )
    assert 0 < score.ssim < 1
    assert denoiser.net.told == pytest.approx([25])


def test_pictures_of_one_size_go_together_and_come_back_in_order(denoiser, photos):
    clean = [(photos[name] / 255).astype(np.float32) for name in "abcab"]
    pairs = [Pair(str(index), each, each, float(index)) for index, each in enumerate(clean)]
    results = list(evaluate(denoiser, pairs))
    assert [denoised.pair.name for denoised in results] == ["0", "1", "2", "3", "4"]
    assert denoiser.net.calls == [2, 1, 2]
    assert denoiser.net.told == pytest.approx([0, 1, 2, 3, 4])
    for denoised in results:
        np.testing.assert_allclose(denoised.pixels, denoised.pair.noisy / 2, atol=1e-6)


def test_a_gray_picture_beside_one_in_colour_is_still_gray(denoiser, photos):
    colour, other = ((photos[name] / 255).astype(np.float32) for name in "ab")
    gray = np.repeat(other[..., :1], 3, axis=2)
    list(evaluate(denoiser, [Pair("", x, x, 10.0) for x in (gray, colour, gray)]))
    assert denoiser.net.told == pytest.approx([10 * 3**0.5, 10, 10 * 3**0.5])


def test_a_large_picture_in_tiles_gives_the_same(denoiser, photos, monkeypatch):
    clean = (photos["a"] / 255).astype(np.float32)
    pair = Pair("a", clean, clean, 10.0)
    (whole,) = evaluate(denoiser, [pair])
    monkeypatch.setattr(evaluation, "LARGE", 100)
    (tiled,) = evaluate(denoiser, [pair])
    np.testing.assert_allclose(tiled.pixels, whole.pixels, atol=1e-6)


def test_an_unknown_or_distrusted_sigma_is_estimated(denoiser):
    noisy = (0.5 + np.random.default_rng(0).normal(0, 20 / 255, (64, 64, 3))).astype(np.float32)
    clean = np.full_like(noisy, 0.5)
    (unknown,) = evaluate(denoiser, [Pair("a", noisy, clean, None)])
    (blind,) = evaluate(denoiser, [Pair("a", noisy, clean, 99.0)], blind=True)
    assert unknown.sigma == blind.sigma == pytest.approx(20, rel=0.1)
    assert denoiser.net.told == pytest.approx([unknown.sigma] * 2)


def test_pairs_are_found_by_name(tmp_path, photos):
    clean = save(tmp_path / "clean", photos)
    noisy = save(tmp_path / "noisy", {name: 255 - pixels for name, pixels in photos.items()}, ".bmp")
    pairs = list(paired_folders(noisy, clean))
    assert [pair.name for pair in pairs] == ["a.png", "b.png", "c.png"]
    assert all(pair.sigma is None for pair in pairs)
    for pair in pairs:
        np.testing.assert_allclose(pair.noisy, 1 - pair.clean, atol=1e-6)


def test_pairs_that_do_not_fit_are_told(tmp_path, photos):
    clean = save(tmp_path / "clean", photos)
    with pytest.raises(UsageError, match=r"less: has no partner of .*c\.png"):
        list(paired_folders(save(tmp_path / "less", {"a": photos["a"], "b": photos["b"]}), clean))
    with pytest.raises(
        UsageError, match=r"a\.png: is 40 x 50 in colour, its partner .* is 50 x 60 in colour"
    ):
        list(paired_folders(save(tmp_path / "other", {"a": photos["a"][:50, :40]}), clean))


def test_course_pairs_are_noisy_and_clean(tmp_path):
    first, second = torch.randint(0, 256, (2, 5, 3, 32, 32), dtype=torch.uint8)
    torch.save((first, second), tmp_path / "val.pkl")
    pairs = list(course_pairs(tmp_path / "val.pkl"))
    assert len(pairs) == 5
    np.testing.assert_allclose(pairs[3].noisy, first[3].permute(1, 2, 0).numpy() / 255, atol=1e-7)
    np.testing.assert_allclose(pairs[3].clean, second[3].permute(1, 2, 0).numpy() / 255, atol=1e-7)


def test_a_sets_figures_are_means_and_pooled_ones_are_not(denoiser):
    flat = np.full((16, 16, 3), 0.4, np.float32)
    large = np.full((32, 16, 3), 0.8, np.float32)
    scores = [
        d.score() for d in evaluate(denoiser, [Pair("a", flat, flat, 0.0), Pair("b", large, large, 0.0)])
    ]
    total = summarize(scores)
    assert total.images == 2
    errors = [(51 / 255) ** 2, (102 / 255) ** 2]
    assert total.psnr == pytest.approx(np.mean([-10 * math.log10(error) for error in errors]), abs=1e-3)
    assert total.psnr_pooled == pytest.approx(-10 * math.log10((errors[0] + 2 * errors[1]) / 3), abs=1e-3)
    assert total.noisy_psnr == math.inf


def test_published_figures_are_found_by_the_folders_name():
    rows = {method.name: figures for method, figures in published("CBSD68", [15.0, 30.0])}
    assert rows["DnCNN"] == [33.90, None]
    assert not published("holiday", [25.0])
    assert not published("cbsd68", [30.0])
    assert "IRCNN" not in {method.name for method, _ in published("set12", [25.0])}
