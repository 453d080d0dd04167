"""Every registered layer under the same laws, driven by the examples in the registry.

A new layer needs two things: examples where it is defined, and its torch.nn equivalent in `oracle.TWINS`.
"""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
import torch
from oracle import TWINS, assert_parity, channels_last, gradients, make, picture, run
from torch import Tensor

from denoise_cli.nn import Reach, ShapeError
from denoise_cli.nn.kernels import KERNELS
from denoise_cli.nn.registry import EXAMPLES, LAYERS, Example

every_example = pytest.mark.parametrize(
    ("name", "example"),
    [
        pytest.param(name, example, id=f"{name}-{index}")
        for name, examples in sorted(EXAMPLES.items())
        for index, example in enumerate(examples)
    ],
)


def spec_of(name: str, example: Example) -> Any:
    return {name: example.arguments}


def test_every_layer_has_examples_and_a_twin() -> None:
    assert set(LAYERS) <= set(TWINS) | {"repeat"}
    assert all(EXAMPLES[name] for name in LAYERS)


@every_example
def test_gradients_are_those_of_finite_differences(name: str, example: Example) -> None:
    """Of L = <y, v> with a random v, along random directions u: (L(t + eu) - L(t - eu)) / 2e = <dL/dt, u>."""
    net, x = make(spec_of(name, example)), picture(example.shape)
    v = torch.randn(run(net, x).shape, dtype=torch.float64)
    dx, d_parameters = gradients(net, x, channels_last(v))
    directions = torch.Generator().manual_seed(2)
    for tensor, d_tensor in zip([x, *(value for value, _ in net.param())], [dx, *d_parameters], strict=True):
        before = tensor.clone()
        for _ in range(6):
            u = torch.randn(tensor.shape, dtype=torch.float64, generator=directions)
            sides = []
            for shift in (1e-6, -1e-6):
                tensor.copy_(before + shift * u)
                sides.append((run(net, x) * v).sum())
            error = (sides[0] - sides[1]) / 2e-6 - (d_tensor * u).sum()
            assert error.abs() <= 1e-7 * d_tensor.norm() * u.norm() + 1e-9
        tensor.copy_(before)


@every_example
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_parity_with_torch(name: str, example: Example, dtype: torch.dtype) -> None:
    assert_parity(spec_of(name, example), example.shape, dtype)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    ("name", "example"),
    [(name, example) for name in ("conv2d", "transpose_conv2d", "upsampling") for example in EXAMPLES[name]],
)
def test_gradients_and_parity_hold_with_every_kernel(
    name: str, example: Example, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DENOISE_KERNEL", kernel)
    test_gradients_are_those_of_finite_differences(name, example)
    assert_parity(spec_of(name, example), example.shape, torch.float32)


@every_example
def test_gradients_accumulate_in_the_same_tensors(name: str, example: Example) -> None:
    net = make(spec_of(name, example))
    first, second = picture(example.shape, seed=1), picture(example.shape, seed=2)
    dy = torch.randn(run(net, first).shape, dtype=torch.float64)
    pairs = net.param()
    _, of_first = gradients(net, first, dy)
    _, of_second = gradients(net, second, dy)
    run(net, first)
    net.backward(dy)
    for (value, grad), (value_then, grad_then), a, b in zip(
        net.param(), pairs, of_first, of_second, strict=True
    ):
        assert value is value_then
        assert grad is grad_then
        torch.testing.assert_close(grad, a + b)


@every_example
@pytest.mark.parametrize("layout", [channels_last, torch.clone], ids=["channels-last", "any-layout"])
def test_no_argument_is_changed(name: str, example: Example, layout: Callable[[Tensor], Tensor]) -> None:
    net, x = make(spec_of(name, example)), layout(picture(example.shape).contiguous())
    x_before = x.clone()
    y = run(net, x)
    y_before, dy = y.clone(), layout(torch.randn(y.shape, dtype=torch.float64))
    dy_before = dy.clone()
    net.backward(dy)
    assert torch.equal(x, x_before)
    assert torch.equal(dy, dy_before)
    assert torch.equal(y, y_before)


@every_example
def test_the_layout_of_the_argument_does_not_matter(name: str, example: Example) -> None:
    """Rows first, channels-last, or a view into something larger."""
    net, x = make(spec_of(name, example)), picture(example.shape)
    y = run(net, x)
    dy = torch.randn(y.shape, dtype=torch.float64)
    dx, grads = gradients(net, x, channels_last(dy))
    for inflate in (torch.Tensor.contiguous, _view_into_something_larger):
        torch.testing.assert_close(run(net, inflate(x)), y)
        dx_other, grads_other = gradients(net, inflate(x), inflate(dy))
        torch.testing.assert_close(dx_other, dx)
        torch.testing.assert_close(grads_other, grads)


def _view_into_something_larger(x: Tensor) -> Tensor:
    wide = torch.zeros(*x.shape[:-1], 2 * x.shape[-1] + 1, dtype=x.dtype)
    wide[..., 1::2] = x
    return wide[..., 1::2]


@every_example
def test_nothing_is_kept_outside_training_nor_after_backward(name: str, example: Example) -> None:
    net, x = make(spec_of(name, example)), picture(example.shape)
    dy = torch.ones_like(run(net, x))
    net.backward(dy)
    assert all(module._saved is None for module in net.modules())
    run(net, x)
    net.train(False)
    run(net, x)
    assert all(module._saved is None for module in net.modules())


@every_example
def test_backward_needs_a_forward(name: str, example: Example) -> None:
    net, x = make(spec_of(name, example)), picture(example.shape)
    dy = torch.ones_like(run(net, x))
    net.backward(dy)
    with pytest.raises(RuntimeError, match="backward needs a forward"):
        net.backward(dy)
    net.train(False)
    run(net, x)
    with pytest.raises(RuntimeError, match="backward needs a forward"):
        net.backward(dy)


@every_example
def test_state_makes_the_round_trip(name: str, example: Example) -> None:
    one, other = make(spec_of(name, example), seed=1), make(spec_of(name, example), seed=2)
    x = picture(example.shape)
    run(one, x)
    other.load_state({key: tensor.clone() for key, tensor in one.state().items()})
    assert torch.equal(run(one.train(False), x), run(other.train(False), x))


@every_example
def test_output_shape_is_the_real_one(name: str, example: Example) -> None:
    net = make(spec_of(name, example))
    assert net.output_shape(example.shape) == tuple(run(net, picture(example.shape)).shape)
    assert net.macs(example.shape) >= 0


@every_example
def test_pictures_stay_channels_last(name: str, example: Example) -> None:
    net, x = make(spec_of(name, example)), picture(example.shape)
    y = run(net, x)
    dx = net.backward(channels_last(torch.ones_like(y)))
    assert channels_last(y).stride() == y.stride()
    assert channels_last(dx).stride() == dx.stride()


@every_example
def test_the_answer_is_in_the_dtype_of_the_parameters(name: str, example: Example) -> None:
    for dtype in (torch.float32, torch.float64):
        net, x = make(spec_of(name, example), dtype), picture(example.shape, dtype=dtype)
        y = run(net, x)
        assert y.dtype == net.backward(torch.ones_like(y)).dtype == dtype


@every_example
def test_the_reach_is_honest(name: str, example: Example) -> None:
    """What one pixel changes lies inside the reach; shifting the input by the period shifts the output."""
    net = make(spec_of(name, example)).train(False)
    if len(set(_pair(example.arguments.get("stride", 1)))) > 1:
        with pytest.raises(ShapeError, match="unequal strides"):
            net.reach(Reach())
        return
    reach = net.reach(Reach())
    if math.isinf(reach.margin):
        return
    assert (reach.period / reach.step).denominator == 1
    _, C, H, W = example.shape
    x = picture((1, C, 3 * H, 3 * W))
    y = run(net, x)
    for place in [(0, 0), (H, W), (3 * H // 2, 3 * W // 2), (3 * H - 1, 3 * W - 1)]:
        other = x.clone()
        other[:, :, place[0], place[1]] += 1
        changed = ((run(net, other) - y).abs() > 1e-9).any(dim=1)[0].nonzero()
        for pixel in changed.tolist():
            for at, i in zip(place, pixel, strict=True):
                assert i * reach.step - reach.margin < at + 1
                assert at < (i + 1) * reach.step + reach.margin

    shift, moved = reach.period, int(reach.period / reach.step)
    border = math.ceil(Fraction(reach.margin) / reach.step)
    shifted = run(net, x[:, :, shift:, shift:])
    torch.testing.assert_close(
        shifted[:, :, border:, border:], y[:, :, moved:, moved:][:, :, border:, border:]
    )


def _pair(value: int | list[int]) -> list[int]:
    return value if isinstance(value, list) else [value, value]
