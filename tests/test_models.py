"""The models that come with the package: whole, self-describing, and worth it."""

import hashlib
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.data import chelsea, coffee

from denoise_cli import denoise
from denoise_cli.checkpoint import load_model, shipped_models
from denoise_cli.data.camera_noise import Camera
from denoise_cli.data.noise_models import to_bytes
from denoise_cli.evaluation import standard_noise
from denoise_cli.images import to_tensor
from denoise_cli.metrics import psnr
from denoise_cli.nn.precision import PRECISIONS, products_in

FOLDER = Path(str(files("denoise_cli") / "models"))
CHECKSUMS = dict(line.split()[::-1] for line in (FOLDER / "SHA256SUMS").read_text().splitlines())


def crop(channels: int) -> np.ndarray:
    """A part of a photograph, in colour or gray, (H, W, channels)."""
    pixels = chelsea()[60:156, 100:228].astype(np.float32) / 255
    return pixels if channels == 3 else pixels.mean(axis=2, keepdims=True)


def test_they_are_few_enough_for_a_package() -> None:
    assert [*shipped_models()] == ["gaussian", "gaussian-gray", "photo"]
    assert sum(path.stat().st_size for path in FOLDER.glob("*.safetensors")) < 25e6


@pytest.mark.parametrize("name", shipped_models())
def test_a_model_is_the_file_that_was_measured(name: str) -> None:
    data = (FOLDER / f"{name}.safetensors").read_bytes()
    assert hashlib.sha256(data).hexdigest() == CHECKSUMS[f"{name}.safetensors"]
    assert (FOLDER / f"{name}.md").read_text().startswith(f"# {name}")


@pytest.mark.parametrize("name", shipped_models())
@pytest.mark.parametrize(("sigma", "gain"), [(15, 5.5), (25, 7.5), (50, 10.5)])
def test_a_model_gains_what_it_should(name: str, sigma: float, gain: float) -> None:
    """A crop of a photograph with Gaussian noise; the gain is a decibel short of what was measured."""
    model = load_model(name)
    clean = crop(model.channels)
    noisy = standard_noise(clean, sigma)
    y = model.predict(to_tensor(noisy)[None], float(sigma))
    result = y[0].permute(1, 2, 0).numpy()
    assert psnr(result, clean) - psnr(noisy, clean) > gain
    assert torch.isfinite(y).all()


@pytest.mark.parametrize("name", shipped_models())
@pytest.mark.parametrize("sigma", [15, 25, 50])
@pytest.mark.usefixtures("rounded_products")
def test_bfloat16_products_move_psnr_by_next_to_nothing(name: str, sigma: float) -> None:
    model = load_model(name)
    clean = crop(model.channels)
    noisy = to_tensor(standard_noise(clean, sigma))[None]
    results = []
    for precision in PRECISIONS:
        with products_in(precision):
            results.append(model.predict(noisy, float(sigma)))
    exact, rounded = (psnr(y[0].permute(1, 2, 0).numpy(), clean) for y in results)
    assert exact != rounded
    assert abs(exact - rounded) < 0.02


def test_the_usual_model_leaves_a_clean_photograph_alone() -> None:
    photograph = coffee()[80:336, 100:356]
    assert psnr(denoise(photograph) / 255, photograph / 255) > 45


def test_the_usual_model_takes_out_what_a_camera_leaves() -> None:
    """Noise that no estimator for white noise sees: smooth, coloured, stronger in the shadows."""
    clean = coffee()[80:336, 100:356].astype(np.float32) / 255
    camera = Camera(shot=3e-3, luma_smoothing=0.7, chroma_smoothing=1.5)
    noisy = to_bytes(camera.corrupt(clean, np.random.default_rng(0)))
    result = denoise(noisy) / 255
    assert psnr(result, clean) - psnr(noisy / 255, clean) > 2.5
    assert abs((result - noisy / 255).mean((0, 1))).max() < 0.1 / 255


@pytest.mark.parametrize(("sigma", "gain"), [(15, 5.5), (25, 7.0), (40, 8.5)])
def test_a_colour_model_cleans_gray_pictures_too(sigma: float, gain: float) -> None:
    """Noise that is the same in all channels looks stronger to a colour model: it must be told so."""
    clean = crop(1)
    noisy = standard_noise(clean, sigma)
    y = load_model("gaussian").predict(to_tensor(noisy)[None], float(sigma))
    assert psnr(y[0].permute(1, 2, 0).numpy(), clean) - psnr(noisy, clean) > gain
