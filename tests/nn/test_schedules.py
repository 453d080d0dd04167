"""Schedules against their closed forms, and torch's cosine."""

import math

import pytest
import torch

from denoise_cli.nn.schedules import SCHEDULES, Constant, Cosine, Trapezoid


@pytest.mark.parametrize("name", sorted(SCHEDULES))
@pytest.mark.parametrize("warmup", [0, 1, 7, 200])
def test_factors_are_between_0_and_1(name: str, warmup: int) -> None:
    schedule = SCHEDULES[name](warmup=warmup)
    for steps in (1, 10, 100):
        assert all(0 <= schedule(step, steps) <= 1 for step in range(steps + 1))


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_warmup_is_a_straight_line(name: str) -> None:
    schedule = SCHEDULES[name](warmup=5)
    assert [schedule(step, 50) for step in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    plain = SCHEDULES[name]()
    assert [schedule(step + 5, 50) for step in range(45)] == [plain(step, 45) for step in range(45)]


def test_constant() -> None:
    assert {Constant()(step, 10) for step in range(10)} == {1.0}


def test_cosine_is_torchs() -> None:
    oracle = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    annealing = torch.optim.lr_scheduler.CosineAnnealingLR(oracle, T_max=40, eta_min=0.1)
    schedule = Cosine(final=0.1)
    for step in range(40):
        assert schedule(step, 40) == pytest.approx(annealing.get_last_lr()[0])
        oracle.step()
        annealing.step()
    assert schedule(40, 40) == pytest.approx(0.1)
    assert Cosine()(50, 100) == pytest.approx((1 + math.cos(math.pi / 2)) / 2)


def test_trapezoid() -> None:
    schedule = Trapezoid(decay=0.25)
    assert [schedule(step, 100) for step in (0, 50, 75, 80, 90, 99, 100)] == pytest.approx(
        [1, 1, 1, 0.8, 0.4, 0.04, 0]
    )


def test_settings_out_of_range() -> None:
    with pytest.raises(ValueError, match="warmup must not be negative"):
        Constant(warmup=-1)
    with pytest.raises(ValueError, match="final must be in"):
        Cosine(final=1.5)
    with pytest.raises(ValueError, match="decay must be in"):
        Trapezoid(decay=0.0)
