"""Every noise model against what its equation says, on pictures made for it."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from denoise_cli.data.noise import NOISES, Noise
from denoise_cli.data.noise_models import (
    Correlated,
    Gaussian,
    Jpeg,
    Poisson,
    PoissonGaussian,
    SaltPepper,
    Speckle,
    Subsample,
    blur,
    blur_gain,
    from_bytes,
    to_bytes,
)

SIZE = 200


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def flat(value: float, channels: int = 3) -> Tensor:
    return torch.full((channels, SIZE, SIZE), value)


def ramp(channels: int = 3) -> Tensor:
    return torch.linspace(0, 1, SIZE).expand(channels, SIZE, SIZE)


def error(noise: Noise, picture: Tensor, seed: int = 0) -> Tensor:
    """On the 0-255 scale."""
    return 255 * (noise(picture, rng(seed)).image - picture)


def correlation(a: Tensor, b: Tensor) -> float:
    return float((a * b).mean() / (a.std() * b.std()))


class TestAll:
    @pytest.mark.parametrize("name", NOISES)
    @pytest.mark.parametrize("channels", [1, 3])
    def test_shape_and_type(self, name: str, channels: int) -> None:
        noise = NOISES[name]()
        picture = torch.rand(channels, 24 * noise.scale, 26 * noise.scale)
        before = picture.clone()
        image, sigma = noise(picture, rng())
        assert image.shape == noise.clean(picture).shape == (channels, 24, 26)
        assert image.dtype == torch.float32
        assert isinstance(sigma, float)
        assert torch.equal(picture, before)

    @pytest.mark.parametrize("name", NOISES)
    def test_same_generator_same_noise(self, name: str) -> None:
        noise = NOISES[name]()
        picture = ramp()
        a, b, c = noise(picture, rng(1)), noise(picture, rng(1)), noise(picture, rng(2))
        assert torch.equal(a.image, b.image)
        assert a.sigma == b.sigma
        assert not torch.equal(a.image, c.image)

    @pytest.mark.parametrize("name", set(NOISES) - {"gaussian"})
    def test_sigma_is_the_error_that_was_made(self, name: str) -> None:
        noise, picture = NOISES[name](), ramp()
        image, sigma = noise(picture, rng(3))
        rms = 255 * (image - noise.clean(picture)).square().mean().sqrt()
        assert sigma == pytest.approx(float(rms), rel=1e-4)

    @pytest.mark.parametrize("name", set(NOISES) - {"jpeg", "salt_pepper", "camera", "photo", "subsample"})
    def test_unclipped_and_without_bias(self, name: str) -> None:
        white = flat(1.0)
        e = error(NOISES[name](), white)
        assert e.max() > 1
        assert abs(e.mean()) < 5 * e.std() / SIZE

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: Gaussian(sigma=-1), "sigma must be at least 0"),
            (lambda: Gaussian(sigma=(20, 10)), "in that order"),
            (lambda: Gaussian(sigma=float("nan")), "sigma must be"),
            (lambda: Correlated(correlation=1.5), "correlation must be between 0 and 1"),
            (lambda: Poisson(peak=0), "peak must be"),
            (lambda: Jpeg(quality=0), "quality must be between 1 and 100"),
            (lambda: SaltPepper(fraction=(0.5, 2)), "fraction must be between 0 and 1"),
            (lambda: Subsample(factor=1), "factor must be at least 2"),
        ],
    )
    def test_impossible_arguments(self, make: Callable[[], Noise], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            make()


class TestGaussian:
    @pytest.mark.parametrize("sigma", [5.0, 25.0, 75.0])
    def test_statistics(self, sigma: float) -> None:
        noisy = Gaussian(sigma=sigma)(ramp(), rng())
        e = 255 * (noisy.image - ramp())
        assert noisy.sigma == sigma
        assert float(e.std()) == pytest.approx(sigma, rel=0.01)
        assert abs(correlation(e[..., 1:], e[..., :-1])) < 0.02
        assert abs(correlation(e[0], e[1])) < 0.02
        assert float((e / sigma).pow(4).mean()) == pytest.approx(3, abs=0.1)

    def test_range_is_drawn_uniformly(self) -> None:
        noise, generator = Gaussian(sigma=(10, 50)), rng()
        sigmas = [noise(torch.zeros(1, 2, 2), generator).sigma for _ in range(2000)]
        assert np.quantile(sigmas, [0, 0.25, 0.5, 0.75, 1]) == pytest.approx([10, 20, 30, 40, 50], abs=1.5)

    def test_a_power_draws_weak_noise_more_often(self) -> None:
        noise, generator = Gaussian(sigma=(10, 50), power=2), rng()
        sigmas = [noise(torch.zeros(1, 2, 2), generator).sigma for _ in range(2000)]
        assert np.quantile(sigmas, [0, 0.5, 1]) == pytest.approx([10, 20, 50], abs=1.5)
        with pytest.raises(ValueError, match="power"):
            Gaussian(power=0)

    def test_zero_is_no_noise(self) -> None:
        assert torch.equal(Gaussian(sigma=0)(ramp(), rng()).image, ramp())


class TestCorrelated:
    @pytest.mark.parametrize("smoothing", [0.0, 0.5, 1.0, 2.5])
    def test_keeps_its_sigma(self, smoothing: float) -> None:
        e = error(Correlated(sigma=20, smoothing=smoothing, correlation=0.3), flat(0.5))
        assert float(e.std()) == pytest.approx(20, rel=0.05)

    def test_channels(self) -> None:
        e = error(Correlated(sigma=20, smoothing=0, correlation=0.6), flat(0.5))
        assert correlation(e[0], e[1]) == pytest.approx(0.6, abs=0.02)
        assert abs(correlation(e[..., 1:], e[..., :-1])) < 0.02

    def test_neighbours(self) -> None:
        """White noise after a Gaussian blur of radius s has the autocorrelation exp(-d^2 / 4 s^2)."""
        e = error(Correlated(sigma=20, smoothing=1.5, correlation=0), flat(0.5))
        for lag in (1, 2, 3):
            assert correlation(e[..., lag:], e[..., :-lag]) == pytest.approx(np.exp(-(lag**2) / 9), abs=0.04)
        assert abs(correlation(e[0], e[1])) < 0.1

    def test_blur_gain(self) -> None:
        noise = rng().standard_normal((400, 400, 1)).astype(np.float32)
        for radius in (0.0, 0.4, 1.0, 3.0):
            assert blur(noise, radius).std() == pytest.approx(blur_gain(radius), rel=0.05)


class TestPhotons:
    @pytest.mark.parametrize("brightness", [0.1, 0.5, 1.0])
    def test_poisson(self, brightness: float) -> None:
        noisy = Poisson(peak=50)(flat(brightness), rng()).image
        assert float(noisy.mean()) == pytest.approx(brightness, rel=0.01)
        assert float(noisy.var()) == pytest.approx(brightness / 50, rel=0.03)
        assert torch.allclose(50 * noisy, (50 * noisy).round(), atol=1e-4)

    def test_poisson_gaussian(self) -> None:
        noisy = PoissonGaussian(peak=50, sigma=10)(flat(0.4), rng()).image
        assert float(noisy.var()) == pytest.approx(0.4 / 50 + (10 / 255) ** 2, rel=0.03)


def test_speckle_grows_with_brightness() -> None:
    noise = Speckle(sigma=20)
    assert float(error(noise, flat(0.25)).std()) == pytest.approx(5, rel=0.02)
    assert float(error(noise, flat(1.0)).std()) == pytest.approx(20, rel=0.02)


def test_salt_and_pepper() -> None:
    noisy = SaltPepper(fraction=0.2)(flat(0.5), rng()).image
    assert float((noisy == 0).float().mean()) == pytest.approx(0.1, abs=0.01)
    assert float((noisy == 1).float().mean()) == pytest.approx(0.1, abs=0.01)
    assert torch.equal(noisy[0], noisy[1])


class TestJpeg:
    def test_less_quality_more_error(self) -> None:
        picture = Gaussian(sigma=20)(flat(0.5), rng()).image.clamp(0, 1)
        sigmas = [Jpeg(quality=q)(picture, rng()).sigma for q in (10, 50, 95)]
        assert sigmas == sorted(sigmas, reverse=True)
        assert sigmas[-1] > 0

    def test_grey_stays_grey(self) -> None:
        assert Jpeg(quality=50)(ramp(1), rng()).image.shape == (1, SIZE, SIZE)

    def test_a_large_picture_is_no_attack(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
        assert Jpeg(quality=50)(ramp(), rng()).image.shape == ramp().shape


class TestSubsample:
    def test_cells_by_brute_force(self) -> None:
        picture, factor = torch.rand(3, 12, 18), 3
        noise = Subsample(factor=factor)
        noisy, clean = noise(picture, rng()).image, noise.clean(picture)
        assert noisy.shape == clean.shape == (3, 4, 6)
        for row in range(4):
            for column in range(6):
                cell = picture[:, row * factor : (row + 1) * factor, column * factor : (column + 1) * factor]
                values = cell.reshape(3, -1)
                assert torch.allclose(clean[:, row, column], values.mean(1), atol=1e-6)
                assert any(torch.equal(noisy[:, row, column], value) for value in values.T)

    def test_every_pixel_of_a_cell_has_its_chance(self) -> None:
        cell = torch.arange(4.0).reshape(1, 2, 2)
        picture = cell.repeat(1, 100, 100)
        noisy = Subsample(factor=2)(picture, rng()).image
        shares = [float((noisy == value).float().mean()) for value in range(4)]
        assert shares == pytest.approx([0.25] * 4, abs=0.03)


def test_bytes_round_trip() -> None:
    every = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    assert np.array_equal(to_bytes(from_bytes(every)), every)
    assert to_bytes(np.array([[[-1.0, 2.0, 0.5]]], np.float32)).tolist() == [[[0, 255, 128]]]
