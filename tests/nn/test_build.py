"""YAML specs to modules: what builds, what is refused and how, and what the walk over the tree reports."""

from collections.abc import Callable
from typing import Literal

import pytest
import torch

from denoise_cli.nn import SpecError, build
from denoise_cli.nn.arguments import arguments_of, check_arguments, describe
from denoise_cli.nn.build import construct, receptive_field, saved_bytes, summary
from denoise_cli.nn.module import Module, Reach, ShapeError
from denoise_cli.nn.registry import LAYERS


def conv(inputs, outputs, **more):
    return {"conv2d": {"in_channels": inputs, "out_channels": outputs, "kernel_size": 3, "padding": 1} | more}


# Building -------------------------------------------------------------------------------------------------


def test_a_list_is_a_sequential_a_text_a_layer_and_a_mapping_a_layer_with_arguments():
    net = build([conv(3, 8), "relu", {"leaky_relu": {"negative_slope": 0.2}}, {"elu": None}])

    assert [child.yaml_name for _, child in net.children()] == ["conv2d", "relu", "leaky_relu", "elu"]
    x = torch.randn(2, 3, 5, 5)
    conv2d, relu, leaky_relu, elu = (child for _, child in net.children())
    expected = elu.forward(leaky_relu.forward(relu.forward(conv2d.forward(x))))
    torch.testing.assert_close(net.forward(x), expected)


def test_a_nested_list_is_a_sequential_of_its_own():
    net = build([["relu", "tanh"], "elu"])
    inner, _ = (child for _, child in net.children())
    assert inner.yaml_name == "sequential"
    assert [child.yaml_name for _, child in inner.children()] == ["relu", "tanh"]


def test_a_body_is_a_spec_again():
    one = build({"residual": {"body": "tanh"}})
    several = build({"residual": {"body": ["tanh"]}})
    x = torch.randn(1, 2, 3, 3)
    torch.testing.assert_close(one.forward(x), x + x.tanh())
    torch.testing.assert_close(several.forward(x), x + x.tanh())


def test_repeat_builds_its_body_afresh_for_every_copy():
    net = build({"repeat": {"times": 3, "body": [conv(2, 2)]}})
    weights = [value for value, _ in net.param() if value.dim() == 4]
    assert len(weights) == 3
    assert not torch.equal(weights[0], weights[1])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ([conv(3, 3), "rlu"], "model[1]: unknown layer 'rlu' - did you mean 'relu'?"),
        (
            [{"residual": {"body": ["relu", conv(3, 3, kernal_size=3)]}}],
            "model[0].residual.body[1].conv2d: unknown key 'kernal_size' - did you mean 'kernel_size'?",
        ),
        ({"relu": {"inplace": True}}, "model.relu: unknown key 'inplace' - none is taken here"),
        (
            {"elu": {"slope": 1}},
            "model.elu: unknown key 'slope' - known are alpha",
        ),
        (["conv2d"], "model[0].conv2d: needs 'in_channels', 'out_channels' and 'kernel_size'"),
        ([{"residual": None}], "model[0].residual: needs 'body'"),
        (
            [conv(3, "8")],
            "model[0].conv2d.out_channels: should be a whole number, not '8'",
        ),
        ([conv(3, 8.0)], "model[0].conv2d.out_channels: should be a whole number, not 8.0"),
        ([conv(3, 8, bias="yes")], "model[0].conv2d.bias: should be true or false, not 'yes'"),
        ([{"elu": {"alpha": True}}], "model[0].elu.alpha: should be a number, not true"),
        ([{"elu": {"alpha": float("nan")}}], "model[0].elu.alpha: should be a finite number, not NaN"),
        ([{"elu": [1]}], "model[0].elu: should be a mapping like {key: value}, not [1]"),
        (
            [{"conv2d": None, "in_channels": 3}],
            "model[0]: indent the arguments of 'conv2d' further than its name",
        ),
        (
            [{"elu": {"alpha": 1}, "relu": {}}],
            "model[0]: should be a layer's name, or {name: {argument: value}}, "
            'not {"elu": {"alpha": 1}, "relu": {}}',
        ),
        (3, "model: should be a layer's name, or {name: {argument: value}}, not 3"),
        (None, "model: should be a layer's name, or {name: {argument: value}}, not null"),
        ([], "model: an empty list of layers"),
        ([{"residual": {"body": []}}], "model[0].residual.body: an empty list of layers"),
        (
            [{"repeat": {"times": 2, "body": ["relu", "reluu"]}}],
            "model[0].repeat.body[1]: unknown layer 'reluu' - did you mean 'relu'?",
        ),
        ([{"repeat": {"times": 0, "body": "relu"}}], "model[0].repeat: times must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_built_is_refused_with_its_path(spec, message):
    with pytest.raises(SpecError) as error:
        build(spec)
    assert str(error.value) == message


def test_an_unknown_layer_that_is_like_no_other_is_answered_with_all_of_them():
    with pytest.raises(SpecError, match=r"^model: unknown layer 'xyzzy' - known are .*conv2d, .*upsampling$"):
        build("xyzzy")


def test_a_tensor_that_torch_cannot_make_is_one_line_with_the_path():
    with pytest.raises(SpecError) as error:
        build([conv(10**9, 10**9)])
    assert str(error.value).startswith("model[0].conv2d: ")
    assert "\n" not in str(error.value)


# Arguments ------------------------------------------------------------------------------------------------


class Everything:
    """Takes all that a signature can say."""

    def __init__(
        self,
        given: list[object],
        size: int | tuple[int, int],
        *,
        scale: float = 1.0,
        mode: Literal["zeros", "reflect"] = "zeros",
        limit: int | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
        name: "str" = "",
    ) -> None:
        if scale < 0:
            raise ValueError(f"scale must not be negative, got {scale}")
        self.given, self.all = given, (size, scale, mode, limit, betas, name)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"size": 3}, (3, 1.0, "zeros", None, (0.9, 0.999), "")),
        ({"size": [3, 4], "scale": 2}, ((3, 4), 2.0, "zeros", None, (0.9, 0.999), "")),
        ({"size": 1, "mode": "reflect", "limit": 5}, (1, 1.0, "reflect", 5, (0.9, 0.999), "")),
        ({"size": 1, "limit": None, "betas": [0, 0.5], "name": "x"}, (1, 1.0, "zeros", None, (0, 0.5), "x")),
    ],
)
def test_arguments_are_those_of_the_signature(given, expected):
    owner = []
    built = construct(Everything, given, "it", owner)
    assert built.all == expected
    assert built.given is owner


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "it: needs 'size'"),
        (
            {"size": [1, 2, 3]},
            "it.size: should be a whole number or a list of 2 whole numbers, not [1, 2, 3]",
        ),
        ({"size": [1, "2"]}, 'it.size: should be a whole number or a list of 2 whole numbers, not [1, "2"]'),
        ({"size": True}, "it.size: should be a whole number or a list of 2 whole numbers, not true"),
        ({"size": None}, "it.size: should be a whole number or a list of 2 whole numbers, not null"),
        ({"size": 1, "scale": "1e-4"}, "it.scale: should be a number, not '1e-4'"),
        ({"size": 1, "scale": float("inf")}, "it.scale: should be a finite number, not Infinity"),
        ({"size": 1, "scale": -1}, "it: scale must not be negative, got -1.0"),
        ({"size": 1, "mode": "same"}, "it.mode: should be 'zeros' or 'reflect', not 'same'"),
        ({"size": 1, "limit": 1.5}, "it.limit: should be a whole number or null, not 1.5"),
        ({"size": 1, "betas": [0.9]}, "it.betas: should be a list of 2 numbers, not [0.9]"),
        ({"size": 1, "betas": 0.9}, "it.betas: should be a list of 2 numbers, not 0.9"),
        ({"size": 1, "name": 3}, "it.name: should be a text, not 3"),
        (
            {"size": 1, "given": []},
            "it: unknown key 'given' - known are betas, limit, mode, name, scale, size",
        ),
        (
            {"size": "x" * 99},
            f"it.size: should be a whole number or a list of 2 whole numbers, not '{'x' * 56}...",
        ),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(given, message):
    with pytest.raises(SpecError) as error:
        construct(Everything, given, "it", [])
    assert str(error.value) == message


def test_only_given_arguments_come_back_so_that_defaults_stay_those_of_the_class():
    assert check_arguments(Everything, {"size": 2}, "it", supplied=1) == {"size": 2}


def test_what_an_argument_takes_in_words():
    takes = {each.name: describe(each.annotation) for each in arguments_of(Everything, supplied=1)}
    assert takes == {
        "size": "a whole number or a list of 2 whole numbers",
        "scale": "a number",
        "mode": "'zeros' or 'reflect'",
        "limit": "a whole number or null",
        "betas": "a list of 2 numbers",
        "name": "a text",
    }
    assert describe(Module) == describe(Callable[[], Module]) == "a list of layers"


@pytest.mark.parametrize("name", sorted(LAYERS))
def test_every_layer_says_in_words_what_each_argument_takes(name):
    for argument in arguments_of(LAYERS[name]):
        words = describe(argument.annotation)
        assert words.split()[0] in {"a", "true"} or words.startswith("'"), f"{argument.name}: {words}"


# The walk over the tree -----------------------------------------------------------------------------------

UNET = [
    conv(3, 8),
    "relu",
    {
        "residual": {
            "body": [
                {"conv2d": {"in_channels": 8, "out_channels": 16, "kernel_size": 2, "stride": 2}},
                {"repeat": {"times": 2, "body": [conv(16, 16), "elu"]}},
                {"transpose_conv2d": {"in_channels": 16, "out_channels": 8, "kernel_size": 2, "stride": 2}},
            ]
        }
    },
    {"concat": {"body": "tanh"}},
    conv(16, 3),
]


def test_the_walk_reports_every_layer_with_its_own_cost():
    rows = summary(build(UNET), (2, 3, 12, 8))

    assert [(row.path, row.depth) for row in rows] == [
        ("model[0].conv2d", 0),
        ("model[1].relu", 0),
        ("model[2].residual", 0),
        ("model[2].residual.body[0].conv2d", 1),
        ("model[2].residual.body[1].repeat", 1),
        ("model[2].residual.body[1].repeat.body[0].conv2d", 2),
        ("model[2].residual.body[1].repeat.body[1].elu", 2),
        ("model[2].residual.body[1].repeat.body[0].conv2d", 2),
        ("model[2].residual.body[1].repeat.body[1].elu", 2),
        ("model[2].residual.body[2].transpose_conv2d", 1),
        ("model[3].concat", 0),
        ("model[3].concat.body", 1),
        ("model[4].conv2d", 0),
    ]
    by_path = {row.path: row for row in rows}
    down = by_path["model[2].residual.body[0].conv2d"]
    assert down.name == "conv2d"
    assert dict(down.arguments) == {"in_channels": 8, "out_channels": 16, "kernel_size": 2, "stride": 2}
    assert down.output_shape == (2, 16, 6, 4)
    assert down.parameters == 16 * 8 * 2 * 2 + 16
    assert down.macs == 2 * (6 * 4) * 16 * 8 * 2 * 2
    repeat = by_path["model[2].residual.body[1].repeat"]
    assert (dict(repeat.arguments), repeat.parameters, repeat.macs) == ({"times": 2}, 0, 0)
    assert by_path["model[3].concat"].output_shape == (2, 16, 12, 8)


def test_columns_of_the_walk_sum_to_the_whole_net():
    net, shape = build(UNET), (2, 3, 12, 8)
    rows = summary(net, shape)
    assert sum(row.parameters for row in rows) == sum(value.numel() for value, _ in net.param())
    assert sum(row.macs for row in rows) == net.macs(shape)
    assert rows[-1].output_shape == tuple(net.forward(torch.zeros(shape)).shape)


@pytest.mark.parametrize(
    "spec",
    [
        [conv(1, 2), "tanh", conv(2, 1, dilation=2, padding=2)],
        [
            {"conv2d": {"in_channels": 1, "out_channels": 2, "kernel_size": 3, "stride": 2, "padding": 1}},
            conv(2, 2),
            {"upsampling": {"in_channels": 2, "out_channels": 1}},
        ],
        [{"residual": {"body": [conv(1, 2), conv(2, 1)]}}, {"repeat": {"times": 2, "body": conv(1, 1)}}],
        [{"pixel_unshuffle": {"downscale_factor": 2}}, conv(4, 4), {"pixel_shuffle": {"upscale_factor": 2}}],
    ],
)
def test_the_receptive_field_holds_every_pixel_that_an_output_pixel_depends_on(spec):
    """The oracle: the gradients of single output pixels by the input. The field is never smaller, and never
    wider by more than the period, the grid on which networks with strides repeat themselves."""
    torch.manual_seed(0)
    net = build(spec)
    reach = net.reach(Reach())
    widest = 0
    for place in range(14, 18):
        y = net.forward(torch.randn(1, 1, 32, 32))
        dy = torch.zeros_like(y)
        dy[..., place, place] = 1
        seen = net.backward(dy)[0, 0].abs().sum(1).nonzero().flatten()
        widest = max(widest, int(seen[-1] - seen[0]) + 1)
    assert widest <= receptive_field(reach) < widest + 2 * reach.period


def test_a_global_operation_sees_everything():
    net = build([{"flatten": {}}, {"linear": {"in_features": 16, "out_features": 4}}])
    assert receptive_field(net.reach(Reach())) is None


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ([conv(3, 8), "relu", conv(4, 3)], "model[2].conv2d"),
        (conv(4, 3), "model.conv2d"),
        ([["relu", [conv(4, 4)]]], "model[0][1][0].conv2d"),
        ([{"residual": {"body": ["relu", conv(3, 8), conv(4, 3)]}}], "model[0].residual.body[2].conv2d"),
        ([conv(3, 8), {"repeat": {"times": 2, "body": [conv(8, 9)]}}], "model[1].repeat.body[0].conv2d"),
        ([{"residual": {"body": conv(4, 8)}}], "model[0].residual.body"),
    ],
)
def test_the_first_layer_that_does_not_fit_is_named(spec, path):
    with pytest.raises(ShapeError) as error:
        summary(build(spec), (1, 3, 8, 8))
    assert str(error.value).startswith(f"{path}: ")


def test_the_walk_leaves_no_trace_even_where_a_layer_does_not_fit():
    net = build([conv(3, 8), conv(4, 3)])
    with pytest.raises(ShapeError):
        summary(net, (1, 3, 8, 8))
    assert all("output_shape" not in vars(module) for module in net.modules())


def test_saved_bytes_are_what_training_holds():
    net = build(["tanh", conv(2, 2), "tanh"]).train(False)
    one = saved_bytes(net, (1, 2, 8, 8))
    # two results of tanh, of which the first is what the convolution keeps too
    assert one == 2 * (2 * 8 * 8 * 4)
    assert saved_bytes(net, (3, 2, 8, 8)) == 3 * one
    assert not net.training
    assert all(module._saved is None for module in net.modules())
