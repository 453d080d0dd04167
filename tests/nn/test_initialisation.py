"""Initialisations: torch's numbers for the same seed, and the moments that the others promise."""

import math
from typing import get_args

import pytest
import torch
from torch import nn

from denoise_cli.nn import build
from denoise_cli.nn.initialisation import Initialisation, initialise


@pytest.mark.parametrize("make", [lambda: nn.Linear(7, 5), lambda: nn.Conv2d(6, 4, 3, groups=2)])
def test_torch_draws_what_torch_draws(make: type[nn.Linear]) -> None:
    torch.manual_seed(3)
    oracle = make()
    torch.manual_seed(3)
    weight, bias = torch.empty_like(oracle.weight.detach()), torch.empty_like(oracle.bias.detach())
    initialise("torch", weight, bias)
    torch.testing.assert_close(weight, oracle.weight.detach())
    torch.testing.assert_close(bias, oracle.bias.detach())


@pytest.mark.parametrize(("name", "variance"), [("torch", 1 / 3), ("he", 2), ("lecun", 1)])
def test_variance_by_fan_in(name: Initialisation, variance: float) -> None:
    torch.manual_seed(0)
    weight, bias = torch.empty(500, 20, 3, 3), torch.empty(500)
    initialise(name, weight, bias)
    assert weight.mean().item() == pytest.approx(0, abs=1e-3)
    assert weight.std().item() == pytest.approx(math.sqrt(variance / 180), rel=0.02)
    if name == "torch":
        assert weight.abs().max().item() <= 1 / math.sqrt(180)
        assert 0 < bias.abs().max().item() <= 1 / math.sqrt(180)
    else:
        assert not bias.any()


def test_lecun_keeps_the_moments_of_selu() -> None:
    torch.manual_seed(0)
    linear = {"linear": {"in_features": 256, "out_features": 256, "initialisation": "lecun"}}
    y = build([{"repeat": {"times": 12, "body": [linear, "selu"]}}]).forward(torch.randn(500, 256))
    assert y.mean().item() == pytest.approx(0, abs=0.1)
    assert y.std().item() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("name", get_args(Initialisation))
def test_a_seed_makes_it_repeatable(name: Initialisation) -> None:
    first, second = torch.empty(4, 3), torch.empty(4, 3)
    for weight in (first, second):
        torch.manual_seed(5)
        initialise(name, weight)
    assert torch.equal(first, second)
    assert first.any() == (name != "zeros")
