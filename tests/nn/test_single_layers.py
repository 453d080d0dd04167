"""Layers one family at a time: parity with torch.nn over a spread of geometries, limits, and refusals."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import TWINS, assert_parity

from denoise_cli.nn import ShapeError, build

some_geometries = settings(deadline=None, max_examples=25, derandomize=True)

sizes = st.integers(1, 9)
few = st.integers(1, 3)


@some_geometries
@given(
    st.sampled_from(["max_pool2d", "avg_pool2d"]), st.integers(1, 4), few, st.data(), sizes, sizes, few, few
)
def test_pooling(name: str, kernel: int, stride: int, data: Any, H: int, W: int, N: int, C: int) -> None:
    padding = data.draw(st.integers(0, kernel // 2))
    if min(H, W) + 2 * padding < kernel:
        with pytest.raises(ShapeError, match="does not fit"):
            build({name: {"kernel_size": kernel, "padding": padding}}).forward(torch.zeros(N, C, H, W))
        return
    arguments = {"kernel_size": kernel, "stride": stride, "padding": padding}
    assert_parity({name: arguments}, (N, C, H, W))


@some_geometries
@given(st.integers(1, 4), sizes, sizes, few, few)
def test_shuffles(r: int, H: int, W: int, N: int, C: int) -> None:
    assert_parity({"pixel_shuffle": {"upscale_factor": r}}, (N, C * r * r, H, W))
    assert_parity({"pixel_unshuffle": {"downscale_factor": r}}, (N, C, H * r, W * r))


@some_geometries
@given(sizes, sizes, st.lists(few, min_size=1, max_size=3), st.booleans())
def test_linear(inputs: int, outputs: int, leading: list[int], bias: bool) -> None:
    spec = {"linear": {"in_features": inputs, "out_features": outputs, "bias": bias}}
    assert_parity(spec, (*leading, inputs))


@some_geometries
@given(st.sampled_from(["batch_norm2d", "layer_norm2d"]), st.integers(3, 6), st.integers(3, 6), sizes, sizes)
def test_norms(name: str, N: int, C: int, H: int, W: int) -> None:
    key = "num_features" if name == "batch_norm2d" else "num_channels"
    assert_parity({name: {key: C}}, (N, C, H, W))


@some_geometries
@given(
    st.sampled_from(["relu", "leaky_relu", "sigmoid", "tanh", "elu", "selu", "gelu", "silu"]),
    st.lists(sizes, min_size=1, max_size=4),
)
def test_activations(name: str, shape: list[int]) -> None:
    assert_parity(name, tuple(shape))


@pytest.mark.parametrize("name", ["elu", "selu", "silu", "relu", "leaky_relu"])
def test_activations_larger_than_a_block(name: str) -> None:
    assert_parity(name, (3, 5, 113, 101), torch.float32)


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "sigmoid", "tanh", "elu", "selu", "gelu", "silu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_activations_at_the_far_ends(name: str, dtype: torch.dtype) -> None:
    x = torch.tensor([-1000.0, -100.0, -30.0, 0.0, 30.0, 100.0, 1000.0], dtype=dtype)
    net, x_oracle = build(name), x.clone().requires_grad_()
    y, y_oracle = net.forward(x), TWINS[name]()(x_oracle)
    y_oracle.sum().backward()
    dx = net.backward(torch.ones_like(x))
    assert torch.isfinite(y).all()
    torch.testing.assert_close(y, y_oracle.detach())
    torch.testing.assert_close(dx, x_oracle.grad)


def test_derivatives_at_zero() -> None:
    for name, slope in {"sigmoid": 0.25, "tanh": 1.0, "gelu": 0.5, "silu": 0.5, "relu": 0.0}.items():
        net = build(name)
        net.forward(torch.zeros(1))
        assert net.backward(torch.ones(1)).item() == slope


def test_relu_passes_the_gradient_of_what_comes_after() -> None:
    for name in ("relu", "leaky_relu"):
        net = build(name)
        net.forward(torch.tensor([1.0, 2.0]))
        assert net.backward(torch.tensor([3.0, -5.0])).tolist() == [3.0, -5.0]


def test_dropout_drops_its_share_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    net = build({"dropout": {"p": 0.3}})
    y = net.forward(torch.ones(100_000))
    assert set(y.tolist()) == {0.0, torch.tensor(1 / 0.7).item()}
    assert (y == 0).double().mean().item() == pytest.approx(0.3, abs=0.01)
    assert torch.equal(net.backward(torch.ones(100_000)), y)
    x = torch.randn(5)
    assert torch.equal(net.train(False).forward(x), x)


def test_batch_norm_outside_training_does_not_look_at_the_batch() -> None:
    net = build({"batch_norm2d": {"num_features": 2}})
    net.forward(torch.randn(4, 2, 5, 5) * 3 + 1)
    net.train(False)
    x = torch.randn(4, 2, 5, 5)
    torch.testing.assert_close(net.forward(x)[:1], net.forward(x[:1]))


@pytest.mark.parametrize(
    ("spec", "shape", "message"),
    [
        ({"linear": {"in_features": 4, "out_features": 2}}, (2, 5), r"expects \(\.\.\., 4\), got \(2, 5\)"),
        ({"pixel_shuffle": {"upscale_factor": 2}}, (1, 6, 2, 2), "C a multiple of 4"),
        ({"pixel_unshuffle": {"downscale_factor": 2}}, (1, 3, 4, 5), "H and W multiples of 2"),
        ({"max_pool2d": {"kernel_size": 5}}, (1, 3, 4, 5), "window of 5 does not fit"),
        ({"avg_pool2d": {"kernel_size": 2}}, (3, 4, 5), r"expects \(N, C, H, W\)"),
        ({"batch_norm2d": {"num_features": 4}}, (1, 3, 4, 5), r"expects \(N, 4, H, W\), got \(1, 3, 4, 5\)"),
        ({"layer_norm2d": {"num_channels": 4}}, (1, 3, 4, 5), r"expects \(N, 4, H, W\), got \(1, 3, 4, 5\)"),
        ("flatten", (3,), r"expects \(N, \.\.\.\)"),
        ({"residual": {"body": [{"max_pool2d": {"kernel_size": 2}}]}}, (1, 1, 4, 4), "must keep the shape"),
        ({"concat": {"body": [{"max_pool2d": {"kernel_size": 2}}]}}, (1, 1, 4, 4), "only the channels"),
        ({"per_pixel": {"body": ["relu"]}}, (1, 4), r"expects \(N, C, H, W\)"),
    ],
)
def test_a_shape_that_does_not_fit(spec: Any, shape: tuple[int, ...], message: str) -> None:
    net = build(spec)
    with pytest.raises(ShapeError, match=message):
        net.output_shape(shape)
    with pytest.raises(ShapeError, match=message):
        net.forward(torch.zeros(shape))


@pytest.mark.parametrize(
    "spec",
    [
        {"leaky_relu": {"negative_slope": -0.1}},
        {"elu": {"alpha": -1.0}},
        {"dropout": {"p": 1.0}},
        {"linear": {"in_features": 0, "out_features": 2}},
        {"max_pool2d": {"kernel_size": 3, "padding": 2}},
        {"max_pool2d": {"kernel_size": 17}},
        {"avg_pool2d": {"kernel_size": 2, "stride": 0}},
        {"pixel_shuffle": {"upscale_factor": 0}},
        {"pixel_unshuffle": {"downscale_factor": 0}},
        {"batch_norm2d": {"num_features": 0}},
        {"repeat": {"times": 0, "body": ["relu"]}},
    ],
)
def test_arguments_out_of_range(spec: Any) -> None:
    with pytest.raises(ValueError, match=r"must (not )?be"):
        build(spec)


def test_batch_norm_of_a_single_pixel() -> None:
    with pytest.raises(ShapeError, match="more than one pixel"):
        build({"batch_norm2d": {"num_features": 2}}).forward(torch.zeros(1, 2, 1, 1))


def test_macs_of_linear() -> None:
    net = build([{"linear": {"in_features": 6, "out_features": 5}}, "relu"])
    assert net.macs((7, 6)) == 7 * 6 * 5
    per_pixel = build({"per_pixel": {"body": [{"linear": {"in_features": 6, "out_features": 5}}]}})
    assert per_pixel.macs((2, 6, 3, 4)) == 24 * 6 * 5
