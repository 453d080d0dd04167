"""Containers: paths of errors, skipped gradients, and memory that is overwritten only where nobody looks."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import assert_parity, channels_last, gradients, make, picture, run
from torch import Tensor

from denoise_cli.nn import Module, Reach, Sequential, ShapeError, build
from denoise_cli.nn.layers.activations import ReLU
from denoise_cli.nn.layers.containers import Repeat, Residual
from denoise_cli.nn.layers.linear import Linear

# Random nets of 4 channels ----------------------------------------------------------------------------------

CONV = {"conv2d": {"in_channels": 4, "out_channels": 4, "kernel_size": 3, "padding": 1}}
leaves = st.sampled_from(
    [
        *("relu", "leaky_relu", "sigmoid", "tanh", "elu", "selu", "gelu", "silu", "dropout"),
        CONV,
        {"batch_norm2d": {"num_features": 4}},
        {"layer_norm2d": {"num_channels": 4}},
        {"avg_pool2d": {"kernel_size": 3, "stride": 1, "padding": 1}},
        {"max_pool2d": {"kernel_size": 3, "stride": 1, "padding": 1}},
        {"pixel_shuffle": {"upscale_factor": 1}},
        [{"pixel_unshuffle": {"downscale_factor": 2}}, "gelu", {"pixel_shuffle": {"upscale_factor": 2}}],
        {"per_pixel": {"body": ["flatten", {"linear": {"in_features": 4, "out_features": 4}}, "relu"]}},
        {"per_pixel": {"body": ["relu", "flatten"]}},
    ]
)
to_4_channels = {"conv2d": {"in_channels": 8, "out_channels": 4, "kernel_size": 1}}


def bodies(specs: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    body = st.lists(specs, min_size=1, max_size=3)
    return st.one_of(
        body,
        body.map(lambda layers: {"residual": {"body": layers}}),
        body.map(lambda layers: [{"concat": {"body": layers}}, to_4_channels]),
        body.map(lambda layers: {"repeat": {"times": 2, "body": layers}}),
    )


nets = st.lists(st.recursive(leaves, bodies, max_leaves=6), min_size=1, max_size=5)
some_nets = settings(deadline=None, max_examples=50, derandomize=True)


def without_overwriting(net: Module) -> Module:
    """The same net, of which no module overwrites anything but its own scratch memory."""
    for module in net.modules():
        module.forward_, module.backward_ = module.forward, module.backward  # type: ignore[method-assign]
        module.fresh_output = module.fresh_gradient = module.joins = False
    return net


def everything(net: Module, x: Tensor, dy: Tensor) -> list[Tensor]:
    """All that a net says: outputs in training and outside, all gradients, all buffers."""
    x, dy = x.clone(), dy.clone()
    y = run(net, x)
    kept = y.clone()
    dx = net.backward(dy)
    assert torch.equal(y, kept)
    grads = [grad for _, grad in net.param()]
    z = run(net.train(False), x)
    net.train()
    return [x, dy, y, dx, z, *grads, *net.state().values()]


@some_nets
@given(nets)
def test_overwriting_changes_nothing(spec: list[Any]) -> None:
    """Bit for bit the same numbers, and arguments as they were."""
    x = channels_last(picture((2, 4, 4, 6), dtype=torch.float32))
    dy = channels_last(torch.randn(x.shape))
    ours = everything(make(spec, torch.float32), x, dy)
    plain = everything(without_overwriting(make(spec, torch.float32)), x, dy)
    assert torch.equal(ours[0], x)
    assert torch.equal(ours[1], dy)
    for a, b in zip(ours, plain, strict=True):
        assert torch.equal(a, b)


@settings(some_nets, max_examples=20)
@given(nets)
def test_any_net_is_torchs(spec: list[Any]) -> None:
    assert_parity(spec, (3, 4, 4, 6))


@settings(some_nets, max_examples=20)
@given(nets)
def test_skipping_the_input_gradient_spares_all_others(spec: list[Any]) -> None:
    x = channels_last(picture((2, 4, 4, 6)))
    dy = channels_last(torch.randn(x.shape, dtype=torch.float64))
    _, expected = gradients(make(spec), x, dy)
    net = make(spec)
    net.skip_input_gradient()
    for _ in range(2):
        _, grads = gradients(net, x, dy)
        assert all(torch.equal(a, b) for a, b in zip(grads, expected, strict=True))
        assert not net.param() or all(module._saved is None for module in net.modules())


def test_the_first_learning_layer_makes_no_input_gradient() -> None:
    linear = {"linear": {"in_features": 3, "out_features": 3}}
    for spec in (
        ["relu", linear],
        [[linear, linear]],
        [{"residual": {"body": ["tanh", linear]}}, "relu"],
        [{"concat": {"body": [linear]}}],
        [{"repeat": {"times": 2, "body": [linear]}}],
    ):
        net = build(spec)
        net.skip_input_gradient()
        y = net.forward(torch.ones(2, 3))
        assert net.backward(torch.ones_like(y)).numel() == 0


# Memory -----------------------------------------------------------------------------------------------------


def test_an_activation_takes_the_memory_of_what_it_follows() -> None:
    linear, relu = Linear(3, 3), ReLU()
    net = Sequential(linear, relu, Linear(3, 2))
    net.forward(torch.ones(4, 3))
    (of_relu,), (of_last,) = relu._saved, net.layers[2]._saved
    assert of_relu.data_ptr() == of_last.data_ptr()


@pytest.mark.parametrize("layer", [CONV, {"upsampling": {"in_channels": 4, "out_channels": 4}}])
def test_the_gradient_by_an_activation_takes_the_memory_of_its_output(layer: dict[str, Any]) -> None:
    net = build(["tanh", layer])
    y = net.forward(channels_last(torch.randn(2, 4, 6, 6)))
    (of_tanh,) = net.layers[0]._saved
    assert net.backward(torch.ones_like(y)).data_ptr() == of_tanh.data_ptr()


def test_the_gradient_by_a_residual_sum_takes_the_memory_of_that_by_its_output() -> None:
    net = build([{"residual": {"body": [CONV, "relu", CONV]}}])
    x, dy = (channels_last(torch.randn(2, 4, 6, 6)) for _ in range(2))
    _, expected = net.forward(x), net.backward(dy)
    net.forward(x)
    dx = net.backward_(dy)
    assert dx.data_ptr() == dy.data_ptr()
    assert torch.equal(dx, expected)


def test_outside_training_a_residual_sum_takes_the_memory_of_its_input() -> None:
    conv = {"conv2d": {"in_channels": 24, "out_channels": 24, "kernel_size": 3, "padding": 1}}
    net = build([conv, {"residual": {"body": [conv, "relu", conv]}}]).train(False)
    first, residual = net.layers
    x = channels_last(torch.randn(1, 24, 8, 8))
    passed_on = first.forward(x)
    expected = residual.forward(passed_on)
    assert expected.data_ptr() != passed_on.data_ptr()
    assert torch.equal(net.forward(x), expected)
    result = residual.forward_(passed_on)
    assert result.data_ptr() == passed_on.data_ptr()
    assert torch.equal(result, expected)


@pytest.mark.parametrize("body", [["relu"], ["dropout", CONV], [CONV], ["relu", CONV, "relu"]])
def test_a_residual_never_overwrites_what_its_body_still_reads(body: list[Any]) -> None:
    """A body without new memory before its last layer would read what it writes."""
    net = Residual(build(body)).train(False)
    x = channels_last(picture((1, 4, 4, 4), dtype=torch.float32))
    expected = net.forward(x)
    assert torch.equal(net.forward_(x.clone()), expected)


def test_concat_does_not_overwrite_a_gradient_that_it_only_views() -> None:
    """A slice of one pixel is contiguous: its channels-last 'copy' would be itself."""
    net = build([{"concat": {"body": ["relu"]}}])
    net.forward(torch.tensor([1.0, -1.0]).view(1, 2, 1, 1))
    dy = torch.ones(1, 4, 1, 1)
    assert net.backward(dy).flatten().tolist() == [2.0, 1.0]
    assert torch.equal(dy, torch.ones(1, 4, 1, 1))


# Structure --------------------------------------------------------------------------------------------------


def test_names_in_the_state_are_torchs() -> None:
    linear = {"linear": {"in_features": 2, "out_features": 2}}
    net = build(
        [linear, [linear], {"residual": {"body": [linear]}}, {"repeat": {"times": 2, "body": [linear]}}]
    )
    weights = [name for name in net.state() if name.endswith("weight")]
    assert weights == ["0.weight", "1.0.weight", "2.body.0.weight", "3.0.0.weight", "3.1.0.weight"]


def test_copies_of_repeat_learn_alone() -> None:
    net = Repeat(3, lambda: Linear(2, 2))
    values = [value for value, _ in net.param()]
    assert len({value.data_ptr() for value in values}) == 6
    assert not torch.equal(values[0], values[2])


def test_an_empty_sequential_is_the_identity() -> None:
    x = torch.ones(2, 3)
    assert Sequential().forward(x) is x
    residual = Residual(Sequential())
    assert torch.equal(residual.forward(x), 2 * x)
    assert torch.equal(residual.backward(x), 2 * x)
    assert torch.equal(x, torch.ones(2, 3))


LINEAR = {"linear": {"in_features": 3, "out_features": 3}}


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ([LINEAR], "[0].linear"),
        (["relu", ["relu", LINEAR]], "[1][1].linear"),
        (["relu", {"residual": {"body": ["relu", LINEAR]}}], "[1].residual.body[1].linear"),
        ([{"concat": {"body": [LINEAR]}}], "[0].concat.body[0].linear"),
        ([{"repeat": {"times": 2, "body": ["relu", LINEAR]}}], "[0].repeat.body[1].linear"),
        ([{"per_pixel": {"body": [LINEAR]}}], "[0].per_pixel.body[0].linear"),
        (["relu", {"residual": {"body": [{"max_pool2d": {"kernel_size": 2}}]}}], "[1].residual"),
    ],
)
def test_errors_of_shape_carry_the_way(spec: Any, path: str) -> None:
    net, shape = build(spec), (1, 2, 4, 4)
    for attempt in (net.output_shape, net.macs, lambda shape: net.forward(torch.zeros(shape))):
        with pytest.raises(ShapeError) as error:
            attempt(shape)
        assert error.value.path == path


def test_costs_add_up() -> None:
    spec = [LINEAR, {"repeat": {"times": 4, "body": [{"residual": {"body": [LINEAR, "relu"]}}]}}]
    assert build(spec).macs((5, 3)) == 5 * 5 * 9


def test_reach_of_a_chain() -> None:
    pool = {"avg_pool2d": {"kernel_size": 3, "stride": 1, "padding": 1}}
    down, up = {"pixel_unshuffle": {"downscale_factor": 2}}, {"pixel_shuffle": {"upscale_factor": 2}}
    assert build([pool, pool]).reach(Reach()) == Reach(margin=2.0)
    assert build([down, pool]).reach(Reach()) == Reach(step=2, margin=2.0, period=2)
    assert build([{"residual": {"body": [pool]}}, pool]).reach(Reach()).margin == 2.0
    assert build([down, down, pool, up, up]).reach(Reach()) == Reach(step=1, margin=4.0 + 2.0 + 1.0, period=4)
    assert build([{"linear": {"in_features": 3, "out_features": 3}}]).reach(Reach()).margin == math.inf


resolutions = st.lists(
    st.sampled_from(
        [
            {"avg_pool2d": {"kernel_size": 3, "stride": 1, "padding": 1}},
            {"avg_pool2d": {"kernel_size": 2, "stride": 1}},
            [{"pixel_unshuffle": {"downscale_factor": 2}}, {"pixel_shuffle": {"upscale_factor": 2}}],
            {"max_pool2d": {"kernel_size": 2}},
            {"avg_pool2d": {"kernel_size": 3}},
            "double",
        ]
    ),
    min_size=1,
    max_size=5,
)
double = (
    {"concat": {"body": ["tanh"]}},
    {"concat": {"body": ["tanh"]}},
    {"pixel_shuffle": {"upscale_factor": 2}},
)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(resolutions, st.integers(0, 47), st.integers(0, 47))
def test_reach_through_changes_of_resolution(spec: list[Any], row: int, column: int) -> None:
    """A pixel changes only what lies within the margin of it, told in pixels of the input."""
    layers = [layer for entry in spec for layer in (double if entry == "double" else [entry])]
    net = build(layers).train(False)
    x = torch.rand(1, 1, 48, 48, dtype=torch.float64)
    try:
        y = net.forward(x)
    except ShapeError:
        return
    reach = net.reach(Reach())
    other = x.clone()
    other[0, 0, row, column] += 1
    for pixel in (net.forward(other) != y).any(dim=1)[0].nonzero().tolist():
        for at, i in zip((row, column), pixel, strict=True):
            assert i * reach.step - reach.margin < at + 1
            assert at < (i + 1) * reach.step + reach.margin
