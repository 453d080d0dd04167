"""Optimizers side by side with torch.optim's, and taken up again from a saved state."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from denoise_cli.nn import OPTIMIZERS, SGD, Adam, Optimizer, build

TORCH = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("sgd", {"lr": 0.1}),
    ("sgd", {"lr": 0.1, "weight_decay": 0.05}),
    ("sgd", {"lr": 0.05, "momentum": 0.9}),
    ("sgd", {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01}),
    ("sgd", {"lr": 0.05, "momentum": 0.8, "nesterov": True, "weight_decay": 0.01}),
    ("adam", {}),
    ("adam", {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-4, "weight_decay": 0.1}),
    ("adamw", {}),
    ("adamw", {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-4, "weight_decay": 0.1}),
]
every_setting = pytest.mark.parametrize(("name", "settings"), SETTINGS)


def pairs() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 4), (5,), (2, 2, 3, 3)]
    values = [torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes]
    return [(value, torch.zeros_like(value)) for value in values]


def gradient(value: Tensor, step: int) -> Tensor:
    """That of a bowl, with a tremor: directions change, and so do sizes."""
    return value * (1 + step % 3) + 0.3 * torch.sin(value * 7 + step)


def advance(optimizer: Optimizer, parameters: list[tuple[Tensor, Tensor]], steps: range) -> None:
    for step in steps:
        optimizer.lr = optimizer.lr * 0.99
        optimizer.zero_grad()
        for value, grad in parameters:
            grad.add_(gradient(value, step))
        optimizer.step()


@every_setting
def test_fifty_steps_are_torchs(name: str, settings: dict[str, Any]) -> None:
    ours = pairs()
    optimizer = OPTIMIZERS[name](ours, **settings)
    theirs = [nn.Parameter(value.clone()) for value, _ in ours]
    oracle = TORCH[name](theirs, **settings)
    advance(optimizer, ours, range(50))
    for step in range(50):
        oracle.param_groups[0]["lr"] *= 0.99
        for parameter in theirs:
            parameter.grad = gradient(parameter.detach(), step)
        oracle.step()
    assert optimizer.lr == pytest.approx(oracle.param_groups[0]["lr"])
    for (value, _), parameter in zip(ours, theirs, strict=True):
        torch.testing.assert_close(value, parameter.detach(), rtol=1e-12, atol=1e-12)


@every_setting
def test_a_saved_state_goes_on_bit_for_bit(name: str, settings: dict[str, Any]) -> None:
    whole = pairs()
    advance(OPTIMIZERS[name](whole, **settings), whole, range(8))

    first = pairs()
    optimizer = OPTIMIZERS[name](first, **settings)
    advance(optimizer, first, range(5))
    state = {key: tensor.clone() for key, tensor in optimizer.state().items()}

    second = [(value.clone(), torch.zeros_like(value)) for value, _ in first]
    resumed = OPTIMIZERS[name](second, **settings)
    resumed.load_state(state)
    resumed.lr = optimizer.lr
    advance(resumed, second, range(5, 8))
    for (a, _), (b, _) in zip(whole, second, strict=True):
        assert torch.equal(a, b)


@every_setting
def test_a_step_leaves_gradients_alone(name: str, settings: dict[str, Any]) -> None:
    parameters = pairs()
    for value, grad in parameters:
        grad.copy_(gradient(value, 0))
    before = [grad.clone() for _, grad in parameters]
    OPTIMIZERS[name](parameters, **settings).step()
    assert all(torch.equal(grad, b) for (_, grad), b in zip(parameters, before, strict=True))


def test_gradients_are_zeroed_in_place() -> None:
    net = build({"linear": {"in_features": 2, "out_features": 2}})
    grads = [grad for _, grad in net.param()]
    net.forward(torch.ones(1, 2))
    net.backward(torch.ones(1, 2))
    SGD(net.param(), lr=0.1).zero_grad()
    assert all(now is then and not now.any() for (_, now), then in zip(net.param(), grads, strict=True))


def test_plain_descent_goes_down() -> None:
    value, grad = torch.tensor([3.0]), torch.tensor([2.0])
    SGD([(value, grad)], lr=0.5).step()
    assert value.item() == 2.0


@pytest.mark.parametrize(
    "make",
    [
        lambda: SGD(pairs(), lr=-1.0),
        lambda: SGD(pairs(), lr=1.0, weight_decay=-1.0),
        lambda: SGD(pairs(), lr=1.0, momentum=-0.1),
        lambda: SGD(pairs(), lr=1.0, nesterov=True),
        lambda: Adam(pairs(), betas=(0.9, 1.0)),
    ],
)
def test_settings_out_of_range(make: Any) -> None:
    with pytest.raises(ValueError, match=r"must (not )?be"):
        make()


def test_the_state_of_another_optimizer_is_refused() -> None:
    adam, sgd = Adam(pairs()), SGD(pairs(), lr=1.0)
    with pytest.raises(ValueError, match=r"'mean\.0' is missing"):
        adam.load_state(sgd.state())
    with pytest.raises(ValueError, match=r"'mean\.0' is unknown"):
        sgd.load_state(adam.state())
    with pytest.raises(ValueError, match="another shape"):
        Adam(pairs()[:1]).load_state(Adam(pairs()[1:2]).state())
