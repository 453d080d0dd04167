"""Camera and photo noise: each step against an oracle, and the look of the whole."""

import numpy as np
import pytest
import torch
from torch import Tensor

from denoise_cli.data.camera_noise import Camera, from_linear, mosaic_noise, to_linear
from denoise_cli.data.noise_models import Pixels
from denoise_cli.data.photo_noise import Photo, resized


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def error(noise: Camera, picture: Tensor, seed: int = 0) -> Tensor:
    return 255 * (noise(picture, rng(seed)).image - picture)


def neighbours(e: Tensor, lag: int = 1) -> float:
    e = e - e.mean()
    return float((e[..., lag:] * e[..., :-lag]).mean() / e.square().mean())


class TestToneCurve:
    @pytest.mark.parametrize("gamma", [1.0, 2.2, 3.0])
    def test_round_trip(self, gamma: float) -> None:
        x = np.linspace(0, 1, 1001, dtype=np.float32).reshape(-1, 1, 1)
        assert np.abs(from_linear(to_linear(x, gamma), gamma) - x).max() < 1e-5

    def test_formula(self) -> None:
        s = np.linspace(0.01, 0.99, 50)
        x = (3 * s**2 - 2 * s**3).astype(np.float32)
        assert to_linear(x, 2.2) == pytest.approx(s**2.2, abs=1e-5)

    def test_clips(self) -> None:
        y = from_linear(np.array([-1.0, 0.0, 1.0, 7.0], np.float32), 2.2)
        assert y == pytest.approx([0, 0, 1, 1], abs=1e-6)


class Scripted(np.random.Generator):
    """A generator that gives the mosaic's phase and its noise as told."""

    def __init__(self, phase: tuple[int, int], noise: Pixels) -> None:
        super().__init__(np.random.PCG64(0))
        self.phase, self.noise = phase, noise

    def integers(self, *_: object, **__: object) -> np.ndarray:  # type: ignore[override]
        return np.array(self.phase)

    def standard_normal(self, *_: object, **__: object) -> Pixels:  # type: ignore[override]
        return self.noise.copy()


class TestMosaic:
    @pytest.mark.parametrize("phase", [(0, 0), (0, 1), (1, 0), (1, 1)])
    @pytest.mark.parametrize("shape", [(6, 8), (5, 7)])
    def test_bilinear_demosaicing_by_brute_force(
        self, shape: tuple[int, int], phase: tuple[int, int]
    ) -> None:
        height, width = shape
        noise = rng(1).standard_normal(shape).astype(np.float32)
        sensor = rng(2).random((*shape, 3)).astype(np.float32)

        def colour(y: int, x: int) -> int:
            at_red = (y - phase[0]) % 2 == 0, (x - phase[1]) % 2 == 0
            return {(True, True): 0, (False, False): 2}.get(at_red, 1)

        def reflected(n: int, size: int) -> int:
            return -n if n < 0 else 2 * size - 2 - n if n >= size else n

        def own(y: int, x: int) -> float:
            y, x = reflected(y, height), reflected(x, width)
            return float(noise[y, x] * np.sqrt(0.5 * sensor[y, x, colour(y, x)] + 0.1))

        expected = np.empty((*shape, 3))
        for y in range(height):
            for x in range(width):
                cross = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
                corners = [(y + dy, x + dx) for dy in (-1, 1) for dx in (-1, 1)]
                for c in range(3):
                    nearest = next(
                        found
                        for sites in ([(y, x)], cross, corners)
                        if (found := [site for site in sites if colour(*site) == c])
                    )
                    expected[y, x, c] = np.mean([own(*site) for site in nearest])
        result = mosaic_noise(sensor, 0.5, 0.1, Scripted(phase, noise))
        assert result == pytest.approx(expected, abs=1e-5)


class TestCamera:
    def test_more_light_on_the_sensor_more_photon_noise(self) -> None:
        generator = rng()
        levels = [
            mosaic_noise(np.full((64, 64, 3), v, np.float32), 0.01, 1e-5, generator)[..., 1].std()
            for v in (0.1, 0.4, 0.9)
        ]
        assert levels == sorted(levels)

    def test_stronger_shot_noise_stronger_noise(self) -> None:
        grey = torch.full((3, 64, 64), 0.4)
        sigmas = [Camera(shot=shot)(grey, rng()).sigma for shot in (1e-4, 1e-3, 1e-2)]
        assert sigmas[0] < 0.6 * sigmas[1] < 0.36 * sigmas[2]

    def test_shadows_are_noisier_than_lights(self) -> None:
        noise = Camera(shot=0.002, luma_smoothing=0, chroma_smoothing=0)
        dark, light = (error(noise, torch.full((3, 64, 64), value)).std() for value in (0.3, 0.9))
        assert dark > 1.5 * light

    def test_alike_in_neighbours_and_blotchy_in_colour(self) -> None:
        noise = Camera(shot=0.002, luma_smoothing=0.5, chroma_smoothing=3)
        e = error(noise, torch.full((3, 128, 128), 0.4))
        luma = 0.299 * e[0] + 0.587 * e[1] + 0.114 * e[2]
        assert 0.3 < neighbours(luma) < 0.8
        assert abs(neighbours(luma, 6)) < 0.1
        assert neighbours(e[2] - luma, 2) > neighbours(luma, 2) + 0.3

    def test_stays_a_picture(self) -> None:
        image = Camera(shot=0.1)(torch.rand(3, 32, 32).round(), rng()).image
        assert image.min() >= 0
        assert image.max() <= 1

    def test_keeps_mean_brightness(self) -> None:
        grey = torch.full((3, 128, 128), 0.5)
        for seed in range(5):
            assert abs(error(Camera(shot=1e-3), grey, seed).mean()) < 1


class TestPhoto:
    def test_untouched_share_is_untouched(self) -> None:
        picture, generator, noise = (
            torch.rand(3, 16, 16),
            rng(),
            Photo(untouched=0.25, camera=0.75, gaussian=0),
        )
        results = [noise(picture, generator) for _ in range(300)]
        clean = [torch.equal(image, picture) for image, _ in results]
        assert np.mean(clean) == pytest.approx(0.25 / (0.25 + 0.75 + 0.15), abs=0.06)
        assert all((sigma == 0) == same for (_, sigma), same in zip(results, clean, strict=True))

    def test_is_an_8_bit_picture(self) -> None:
        noise, generator = Photo(untouched=0), rng()
        for _ in range(20):
            image = 255 * noise(torch.rand(3, 16, 16), generator).image
            assert torch.allclose(image, image.round(), atol=1e-3)
            assert image.min() >= 0
            assert image.max() <= 255

    def test_a_pure_gaussian_photo_has_its_sigma(self) -> None:
        noise = Photo(camera=0, correlated=0, untouched=0, sigma=20, jpeg=0, resample=0)
        assert noise(torch.full((3, 100, 100), 0.5), rng()).sigma == pytest.approx(20, rel=0.02)

    def test_resampling_moves_only_the_noise(self) -> None:
        stripes = torch.arange(64.0).remainder(2).expand(3, 64, 64)
        noise = Photo(camera=0, correlated=0, untouched=0, sigma=0, jpeg=0, resample=1)
        assert noise(stripes, rng()).sigma == 0

    def test_reduced_noise_is_weaker_and_enlarged_noise_is_smooth(self) -> None:
        grey = torch.full((3, 96, 96), 0.5)
        options = {"camera": 0, "correlated": 0, "untouched": 0, "sigma": 20, "jpeg": 0, "resample": 1}
        reduced, enlarged = (Photo(**options, resize=f)(grey, rng()).image - 0.5 for f in (2.0, 0.5))
        assert 255 * reduced.std() < 15
        assert neighbours(enlarged) > 0.6

    def test_odd_sizes_and_single_pixels(self) -> None:
        noise, generator = Photo(resample=1, resize=0.5), rng()
        for shape in [(3, 1, 1), (1, 2, 5), (3, 7, 3)]:
            for _ in range(10):
                assert noise(torch.rand(shape), generator).image.shape == shape

    def test_weights(self) -> None:
        with pytest.raises(ValueError, match="not all 0"):
            Photo(camera=0, gaussian=0, correlated=0, untouched=0)


def test_resized_keeps_flat_pictures_flat() -> None:
    assert resized(np.full((9, 7, 3), 0.3, np.float32), 5, 12) == pytest.approx(
        np.full((5, 12, 3), 0.3), abs=1e-6
    )
