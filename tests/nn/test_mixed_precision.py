"""Training in bfloat16: the float32 network's gradients, but for the rounding, in the float32 network."""

import copy

import pytest
import torch
from test_devices import NETWORK
from test_layers import every_example, spec_of

from denoise_cli.nn import MSE, SGD, Module, build
from denoise_cli.nn.mixed_precision import MixedPrecision, computing_in
from denoise_cli.nn.registry import Example

ROUNDING = 2**-8
"""How far bfloat16 may be off, as a fraction."""


def gradients(computing: Module, net: Module, x: torch.Tensor, target: torch.Tensor) -> list[torch.Tensor]:
    for _, grad in net.param():
        grad.zero_()
    loss = MSE()
    loss.forward(computing.forward(x), target)
    computing.backward(loss.backward())
    return [grad.clone() for _, grad in net.param()]


@pytest.fixture
def net() -> Module:
    torch.manual_seed(0)
    return build(copy.deepcopy(NETWORK))


def test_the_gradients_are_those_of_float32_but_for_the_rounding(net: Module) -> None:
    x, target = torch.rand(4, 3, 32, 24), torch.rand(4, 3, 32, 24)
    exact, rounded = gradients(net, net, x, target), gradients(MixedPrecision(net), net, x, target)
    for one, other in zip(exact, rounded, strict=True):
        assert other.dtype == torch.float32
        assert float((one - other).norm()) < 8 * ROUNDING * float(one.norm())


def test_gradients_add_up_as_those_of_any_module(net: Module) -> None:
    mixed, x, dy = MixedPrecision(net), torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)
    sums = []
    for _ in range(2):
        mixed.forward(x)
        mixed.backward(dy)
        sums.append([grad.clone() for _, grad in net.param()])
    for once, twice in zip(*sums, strict=True):
        torch.testing.assert_close(twice, 2 * once)


def test_steps_smaller_than_the_rounding_are_not_lost(net: Module) -> None:
    """1 + 2^-10 is 1 in bfloat16: a weight that is kept there would never move."""
    mixed, (value, _) = MixedPrecision(net), net.param()[0]
    value.fill_(1)
    optimizer = SGD([(value, torch.ones_like(value))], lr=2**-10)
    before = mixed.forward(torch.ones(1, 3, 8, 8))
    for _ in range(64):
        optimizer.step()
    assert float(value.max()) == pytest.approx(1 - 64 / 2**10)
    assert not torch.equal(mixed.forward(torch.ones(1, 3, 8, 8)), before)


@every_example
def test_every_layer_computes_in_bfloat16(name: str, example: Example) -> None:
    torch.manual_seed(0)
    net = build([spec_of(name, example)])
    if any(module.buffers for module in net.modules()):
        pytest.skip("running statistics stay in float32")
    x = torch.rand(example.shape)
    torch.manual_seed(1)
    exact = net.forward(x)
    dy = torch.rand(exact.shape)
    dx = net.backward(dy)
    mixed = MixedPrecision(net)
    torch.manual_seed(1)
    y = mixed.forward(x)
    rounded = mixed.backward(dy)
    for one, other in ((exact, y), (dx, rounded)):
        assert other.dtype == torch.float32
        assert float((one - other).norm()) <= 16 * ROUNDING * float(one.norm()) + 1e-6


@pytest.mark.usefixtures("rounded_products")
def test_a_device_that_multiplies_bfloat16_trains_in_it(net: Module) -> None:
    assert isinstance(computing_in("bf16", net), MixedPrecision)


@pytest.mark.usefixtures("rounded_products")
def test_all_others_and_running_statistics_keep_float32(net: Module) -> None:
    with_statistics = build([{"batch_norm2d": {"num_features": 4}}])
    for one in (net.to(device="meta"), with_statistics):
        assert computing_in("bf16", one) is one
    assert computing_in("float32", net) is net
