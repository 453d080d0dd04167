"""Optimizers side by side with torch.optim's, and taken up again from a saved state."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from denoise_cli.nn import OPTIMIZERS, SGD, Adam, AdamW, Muon, Optimizer, build
from denoise_cli.nn.optim import orthogonalised

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
MUON = ("muon", {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.1})
every_setting = pytest.mark.parametrize(("name", "settings"), [*SETTINGS, MUON])


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


@pytest.mark.parametrize(("name", "settings"), SETTINGS)
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


def by_singular_values(matrix: Tensor) -> Tensor:
    """What `orthogonalised` states, one singular value at a time."""
    u, values, v = torch.linalg.svd(matrix, full_matrices=False)
    values = values / values.norm()
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return (u * values) @ v


@pytest.mark.parametrize("shape", [(4, 4), (3, 27), (27, 3), (1, 9), (9, 1), (48, 96)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_singular_values_are_brought_near_one(shape: tuple[int, int], dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    decades = torch.logspace(0, -2, shape[0], dtype=dtype)[:, None]
    matrix = torch.randn(shape, dtype=dtype, generator=generator) * decades * 1e-3
    (result,) = orthogonalised(matrix[None])
    bound = 1e-4 if dtype == torch.float32 else 1e-9
    torch.testing.assert_close(result, by_singular_values(matrix), rtol=0, atol=bound)
    assert 0.6 < torch.linalg.matrix_norm(result, 2) < 1.25


def test_a_matrix_without_direction_has_no_step() -> None:
    assert not orthogonalised(torch.zeros(1, 3, 5)).any()
    single = torch.outer(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 0.0, 4.0]))
    assert torch.linalg.matrix_rank(orthogonalised(single[None]), atol=1e-4) == 1


def test_muon_moves_matrices_by_their_singular_directions_and_vectors_as_adamw() -> None:
    settings: dict[str, Any] = {"lr": 0.02, "weight_decay": 0.1}
    ours, vectors = pairs(), pairs()
    advance(Muon(ours, momentum=0.9, **settings), ours, range(20))
    advance(AdamW(vectors, **settings), vectors, range(20))
    torch.testing.assert_close(ours[1][0], vectors[1][0], rtol=0, atol=0)

    for index in (0, 2):
        value, lr = pairs()[index][0], settings["lr"]
        momentum = torch.zeros_like(value)
        for step in range(20):
            lr *= 0.99
            grad = gradient(value, step)
            momentum = 0.9 * momentum + 0.1 * grad
            ahead = (0.1 * grad + 0.9 * momentum).flatten(1)
            size = 0.2 * math.sqrt(max(ahead.shape))
            value = (1 - lr * 0.1) * value - lr * size * by_singular_values(ahead).reshape(value.shape)
        torch.testing.assert_close(ours[index][0], value, rtol=1e-9, atol=1e-9)


def test_muon_moves_matrices_of_one_shape_as_each_alone() -> None:
    alone, together = ([*pairs(), *pairs()] for _ in range(2))
    for value, _ in [*alone[3:], *together[3:]]:
        value.neg_().add_(0.5)
    advance(Muon(together, lr=0.02), together, range(5))
    for pair in alone:
        advance(Muon([pair], lr=0.02), [pair], range(5))
    for (value, _), (expected, _) in zip(together, alone, strict=True):
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-12)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
def test_muon_is_torchs_but_for_its_half_precision() -> None:
    ours = [(value, grad) for value, grad in pairs() if value.ndim == 2]
    theirs = nn.Parameter(ours[0][0].clone())
    oracle = torch.optim.Muon([theirs], lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    optimizer = Muon(ours, lr=0.02, weight_decay=0.1)
    start = ours[0][0].clone()
    for step in range(5):
        ours[0][1].copy_(gradient(theirs.detach(), step))
        theirs.grad = ours[0][1].clone()
        optimizer.step()
        oracle.step()
    way = (ours[0][0] - start).norm()
    assert (ours[0][0] - theirs.detach()).norm() < 0.03 * way


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
        lambda: Muon(pairs(), momentum=1.0),
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
