"""Losses against torch.nn's, and against their definitions."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from denoise_cli.metrics import decibels, mse
from denoise_cli.nn import LOSSES, MSE, Charbonnier, Loss, NegativePSNR, ShapeError


def torch_charbonnier(y: Tensor, target: Tensor) -> Tensor:
    return ((y - target) ** 2 + 1e-3**2).sqrt().mean()


def torch_psnr(y: Tensor, target: Tensor) -> Tensor:
    errors = ((y - target) ** 2).reshape(len(y), -1).mean(1)
    return 10 * (errors + 1e-5).log10().mean()


ORACLES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": nn.MSELoss(),
    "l1": nn.L1Loss(),
    "charbonnier": torch_charbonnier,
    "psnr": torch_psnr,
}
every_loss = pytest.mark.parametrize("name", sorted(LOSSES))


@every_loss
@pytest.mark.parametrize("shape", [(7,), (4, 3), (2, 3, 5, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_parity_with_torch(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    y, target = torch.randn(shape, dtype=dtype), torch.randn(shape, dtype=dtype)
    y_oracle = y.clone().requires_grad_()
    value = ORACLES[name](y_oracle, target)
    value.backward()
    loss: Loss = LOSSES[name]()
    before = y.clone(), target.clone()
    torch.testing.assert_close(loss.forward(y, target), value.detach())
    torch.testing.assert_close(loss.backward(), y_oracle.grad)
    assert torch.equal(y, before[0])
    assert torch.equal(target, before[1])


@every_loss
def test_gradient_is_that_of_finite_differences(name: str) -> None:
    loss, generator = LOSSES[name](), torch.Generator().manual_seed(0)
    y, target, u = (torch.randn(30, dtype=torch.float64, generator=generator) for _ in range(3))
    loss.forward(y, target)
    slope = (loss.backward() * u).sum()
    numeric = (loss.forward(y + 1e-6 * u, target) - loss.forward(y - 1e-6 * u, target)) / 2e-6
    torch.testing.assert_close(slope, numeric)


@every_loss
def test_a_perfect_answer_has_no_gradient(name: str) -> None:
    loss, y = LOSSES[name](), torch.randn(5)
    loss.forward(y, y.clone())
    assert torch.equal(loss.backward(), torch.zeros(5))


@every_loss
def test_backward_needs_a_forward(name: str) -> None:
    loss = LOSSES[name]()
    with pytest.raises(RuntimeError, match=f"{name}: backward needs a forward"):
        loss.backward()
    loss.forward(torch.zeros(2), torch.ones(2))
    loss.backward()
    with pytest.raises(RuntimeError, match="backward needs a forward"):
        loss.backward()


@every_loss
def test_shapes_must_agree(name: str) -> None:
    with pytest.raises(ShapeError, match=r"the output is \(2, 3\), its target \(2, 1\)"):
        LOSSES[name]().forward(torch.zeros(2, 3), torch.zeros(2, 1))


def test_mse_is_a_mean_over_every_element() -> None:
    loss = MSE()
    assert loss.forward(torch.full((2, 3, 4, 4), 0.5), torch.zeros(2, 3, 4, 4)).item() == 0.25
    torch.testing.assert_close(loss.backward(), torch.full((2, 3, 4, 4), 1 / 96))


def test_charbonnier_goes_from_square_to_absolute() -> None:
    loss = Charbonnier(epsilon=0.1)
    assert loss.forward(torch.zeros(1), torch.zeros(1)).item() == pytest.approx(0.1)
    assert loss.forward(torch.full((1,), 3.0), torch.zeros(1)).item() == pytest.approx(math.hypot(3.0, 0.1))
    with pytest.raises(ValueError, match="epsilon must be positive"):
        Charbonnier(epsilon=0.0)


def test_negative_psnr_is_the_mean_over_pictures() -> None:
    target, noise = torch.rand(4, 3, 8, 6), torch.randn(4, 3, 8, 6)
    y = target + noise * torch.tensor([0.01, 0.1, 0.3, 1.0]).view(-1, 1, 1, 1)
    pixels = zip(y.permute(0, 2, 3, 1).numpy(), target.permute(0, 2, 3, 1).numpy(), strict=True)
    mean = sum(decibels(mse(a, b)) for a, b in pixels) / 4
    assert NegativePSNR(epsilon=1e-9).forward(y, target).item() == pytest.approx(-mean, abs=1e-3)
    with pytest.raises(ValueError, match="epsilon must be positive"):
        NegativePSNR(epsilon=0.0)
