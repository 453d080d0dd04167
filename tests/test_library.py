"""`from denoise_cli import denoise`: every kind of picture comes back as the kind it is."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from denoise_cli import denoise
from denoise_cli.checkpoint import save_model
from denoise_cli.config import Experiment
from denoise_cli.denoiser import Denoiser
from denoise_cli.errors import UsageError
from denoise_cli.nn.module import Module


class Halving(Module):
    """Brings every pixel half the way to its channel's mean, which must stay as it is."""

    def forward(self, x):
        return x[:, :3] / 2


HALF = Denoiser(Halving(), channels=3, noise_level=False)


def halved(x, axes):
    return (x + x.mean(axes, keepdims=True)) / 2


RNG = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 1), (6, 5, 3), (3, 6, 5), (1, 6, 5), (3, 6, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
def test_arrays(shape, dtype):
    x = RNG.random(shape)
    channels_first = len(shape) == 3 and shape[2] not in (1, 3)
    x = x.astype(dtype) if np.issubdtype(dtype, np.floating) else (x * np.iinfo(dtype).max).astype(dtype)
    before = x.copy()
    y = denoise(x, model=HALF)
    assert y.shape == x.shape
    assert y.dtype == x.dtype
    assert np.array_equal(x, before)
    expected = halved(x.astype(np.float64), (1, 2) if channels_first else (0, 1))
    step = 0 if np.issubdtype(dtype, np.floating) else 0.501
    np.testing.assert_allclose(y, expected, rtol=1e-6, atol=step)


@pytest.mark.parametrize("shape", [(6, 5), (1, 6, 5), (3, 6, 5), (2, 3, 6, 5), (4, 1, 6, 5)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_tensors(shape, dtype):
    x = (torch.rand(shape) * (255 if dtype == torch.uint8 else 1)).to(dtype)
    y = denoise(x, model=HALF)
    assert y.shape == x.shape
    assert y.dtype == dtype
    expected = halved(x.double().numpy(), (-2, -1))
    step = 0.51 if dtype == torch.uint8 else 1e-3
    np.testing.assert_allclose(y.double().numpy(), expected, rtol=0.01, atol=step)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_pil_images(mode):
    samples = RNG.integers(0, 256, (6, 5, len(mode)), np.uint8)
    if mode.endswith("A"):
        samples[2:4, 1:, -1] = 0
    image = Image.merge(mode, [Image.fromarray(samples[..., c]) for c in range(len(mode))])
    result = denoise(image, model=HALF)
    assert (result.mode, result.size) == (mode, image.size)
    after = np.asarray(result).reshape(samples.shape)
    colours = len(mode) - mode.endswith("A")
    seen = samples[..., -1] > 0 if mode.endswith("A") else np.ones((6, 5), bool)
    assert np.abs(after[..., :colours] - halved(samples[..., :colours], (0, 1)))[seen].max() <= 0.501
    assert np.array_equal(after[~seen], samples[~seen])
    assert np.array_equal(after[..., colours:], samples[..., colours:])


def test_a_model_saved_again_is_read_again(tmp_path):
    experiment = Experiment.load(
        {"model": [{"conv2d": {"in_channels": 3, "out_channels": 3, "kernel_size": 1}}]}
    )
    net, path, x = experiment.build_model(), tmp_path / "model.safetensors", RNG.random((6, 5, 3))
    results = []
    for weight in (0.5, 0.25):
        for value, _ in net.param():
            value.fill_(weight)
        save_model(path, net, experiment, {})
        results.append(denoise(x, model=path))
    assert not np.allclose(*results)


def test_settings_are_those_of_the_command():
    x = RNG.random((6, 5, 3))
    expected = halved(x, (0, 1))
    np.testing.assert_allclose(denoise(x, strength=0.5, model=HALF), (x + expected) / 2, rtol=1e-6)
    assert np.array_equal(denoise(x, strength=0, model=HALF), x)
    np.testing.assert_allclose(denoise(x, luma=1, ensemble=True, model=HALF), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("a.png", "not str"),
        (np.zeros((2, 3, 4, 3)), "2, 3, 4, 3"),
        (np.zeros((5, 5, 4)), "5, 5, 4"),
        (np.zeros((0, 5, 3)), "0, 5, 3"),
        (np.zeros((5, 5), np.int32), "int32"),
        (np.zeros((5, 5), bool), "bool"),
        (torch.zeros(5, 6, 7), "5, 6, 7"),
        (torch.zeros(0, 3, 32, 32), "0, 3, 32, 32"),
        (Image.new("CMYK", (4, 4)), "CMYK"),
    ],
)
def test_what_is_no_picture_is_refused_in_words(image, message):
    with pytest.raises(UsageError, match=message):
        denoise(image, model=HALF)


@pytest.mark.parametrize(
    "wrong",
    [
        {"tile": "foo"},
        {"tile": None},
        {"tile": 8.5},
        {"strength": "1"},
        {"strength": None},
        {"luma": "1"},
        {"sigma": "25"},
        {"sigma": float("nan")},
        {"sigma_map": "map.png"},
        {"sigma_map": np.ones((6, 5, 3))},
        {"sigma_map": np.ones((6, 5), int)},
        {"sigma_map": np.ones((4, 5))},
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong)).replace("_", "[_ ]")):
        denoise(RNG.random((6, 5, 3)), model=HALF, **wrong)


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 1)])
def test_a_sigma_map_may_be_an_array(shape):
    x, scale = RNG.random((6, 5, 3)), np.zeros(shape, np.uint8)
    scale[:3] = 255
    y = denoise(x, model=HALF, sigma_map=scale)
    np.testing.assert_allclose(y[:3], halved(x, (0, 1))[:3], rtol=1e-6)
    np.testing.assert_allclose(y[3:], x[3:], rtol=1e-6)


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, denoise_cli; print(*(m for m in ('torch', 'numpy', 'PIL') if m in sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == ""
