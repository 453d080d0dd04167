"""Dead leaves: reproducible, and like photographs in what a denoiser lives on."""

import numpy as np
import pytest
import torch

from denoise_cli.data.synthetic import SyntheticSource, dead_leaves, power_law_field
from denoise_cli.errors import UsageError


def pictures(count: int = 12, size: int = 64) -> torch.Tensor:
    source = SyntheticSource(count=count, size=size)
    return torch.stack([source.picture(n) for n in range(count)])


def test_a_picture_follows_from_its_number() -> None:
    forward, backward = SyntheticSource(count=5, size=32), SyntheticSource(count=9, size=32)
    first = [forward.picture(n) for n in range(5)]
    for n in reversed(range(5)):
        assert torch.equal(backward.picture(n), first[n])
    assert not torch.equal(first[0], first[1])


def test_holdout_has_other_pictures() -> None:
    train = [SyntheticSource(count=3, size=32).picture(n) for n in range(3)]
    held = [SyntheticSource(count=3, size=32, take="holdout").picture(n) for n in range(3)]
    assert not any(torch.equal(a, b) for a in train for b in held)


def test_made_once() -> None:
    source = SyntheticSource(count=2, size=32)
    assert source.pixels(1) is source.pixels(1)


def test_shapes() -> None:
    assert len(SyntheticSource(count=7)) == 7
    assert SyntheticSource(count=1, size=40, channels=1).picture(0).shape == (1, 40, 40)
    assert SyntheticSource(count=1, size=40).crop(0, 16, np.random.default_rng(0)).shape == (3, 16, 16)
    assert SyntheticSource(count=1, size=8).picture(0).shape == (3, 8, 8)


def test_grey_is_the_luma_of_the_colour() -> None:
    colour, grey = SyntheticSource(count=1, size=32), SyntheticSource(count=1, size=32, channels=1)
    luma = colour.pixels(0) @ np.array([0.299, 0.587, 0.114])
    assert grey.pixels(0)[..., 0] == pytest.approx(luma, abs=0.51)


@pytest.mark.parametrize("arguments", [{"count": 0}, {"size": 4}])
def test_impossible(arguments: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="count must be at least 1 and size 8"):
        SyntheticSource(**arguments)


def test_uses_the_whole_range_of_brightness() -> None:
    x = pictures()
    assert x.quantile(0.05) < 0.15
    assert x.quantile(0.95) > 0.7
    assert 0.3 < x.mean() < 0.6


def test_channels_are_correlated_as_in_photographs() -> None:
    correlations = np.corrcoef(pictures().permute(1, 0, 2, 3).reshape(3, -1))
    assert correlations[0, 1] > 0.6
    assert correlations[1, 2] > 0.6


def test_gradients_have_heavy_tails() -> None:
    """Differences of neighbours: mostly small, at times very large. A Gaussian has a kurtosis of 3."""
    x = pictures()
    d = x[..., 1:] - x[..., :-1]
    assert d.pow(4).mean() / d.square().mean().square() > 8


def test_power_spectrum_falls_with_frequency() -> None:
    """Photographs: amplitude ~ 1 / f, so power falls by about a factor of 4 an octave."""
    luma = np.stack([dead_leaves(64, np.random.default_rng(n)).mean(2) for n in range(12)])
    power = np.abs(np.fft.fft2(luma - luma.mean((1, 2), keepdims=True))) ** 2
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(64), np.fft.fftfreq(64)))
    octaves = [power[:, (radius >= f) & (radius < 2 * f)].mean() for f in (1 / 32, 1 / 16, 1 / 8, 1 / 4)]
    ratios = np.array(octaves[:-1]) / octaves[1:]
    assert (ratios > 2).all()
    assert (ratios < 16).all()


def test_power_law_field() -> None:
    field = power_law_field(256, 1.0, np.random.default_rng(0))
    assert abs(field.mean()) < 1e-5
    assert field.std() == pytest.approx(1, abs=1e-5)
    power = np.abs(np.fft.fft2(field)) ** 2
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(256), np.fft.fftfreq(256)))
    low, high = (power[(radius > f) & (radius < 1.4 * f)].mean() for f in (0.05, 0.2))
    assert low / high == pytest.approx(16, rel=0.25)
