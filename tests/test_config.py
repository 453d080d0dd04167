"""Experiments: what a config means, every way to get one wrong, and the JSON Schema that editors use."""

import json
import re
from pathlib import Path

import pytest
import torch

from denoise_cli import strict_yaml
from denoise_cli.config import SECTIONS, Experiment, load_config
from denoise_cli.errors import UsageError
from denoise_cli.nn import L1, MSE, SGD, AdamW, Charbonnier
from denoise_cli.nn.registry import EXAMPLES
from denoise_cli.nn.schedules import Cosine
from denoise_cli.schema import experiment_schema

CONFIGS = [
    path
    for path in sorted((Path(__file__).parent.parent / "configs").rglob("*.yaml"))
    if "values" not in strict_yaml.read(path)  # a search
]

CONV = {"conv2d": {"in_channels": 3, "out_channels": 3, "kernel_size": 3, "padding": 1}}
SMALLEST = {"model": [CONV]}


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(text):
        Path("x.yaml").write_text(text)
        return "x.yaml"

    return write


def problem_of(data):
    with pytest.raises(UsageError) as error:
        Experiment.load(data, "x.yaml")
    return str(error.value)


# What a config means --------------------------------------------------------------------------------------


def test_a_model_alone_is_an_experiment_with_the_documented_defaults(write):
    experiment = load_config(write("model: [{conv2d: {in_channels: 3, out_channels: 3, kernel_size: 1}}]"))
    assert experiment.dump() == {
        "seed": 0,
        "input": {"channels": 3, "noise_level": False, "estimator": "white"},
        "model": [{"conv2d": {"in_channels": 3, "out_channels": 3, "kernel_size": 1}}],
        "loss": "mse",
        "optimizer": {"name": "sgd", "lr": 4.0},
        "schedule": {"name": "constant"},
        "data": {
            "train": {"source": "synthetic", "count": 1000, "size": 96, "take": "train"},
            "validation": {"source": "synthetic", "count": 32, "size": 96, "take": "holdout"},
            "noise": {"name": "gaussian", "sigma": [0, 50]},
            "pairing": "clean",
            "patch": 64,
            "batch": 16,
            "gray": 0.0,
            "soft": 0.0,
            "misjudged": 0.0,
            "augment": True,
            "workers": 1,
        },
        "train": {
            "steps": 2000,
            "epochs": None,
            "validate_every": 500,
            "save_every": 500,
            "ema": None,
            "clip": None,
            "precision": "float32",
        },
    }


FULL = """
seed: 3
input: {channels: 1, noise_level: true}
model:
  - conv2d: {in_channels: 2, out_channels: 1, kernel_size: [3, 5], padding: same}
loss: {charbonnier: {epsilon: 1e-2}}
optimizer: {name: adamw, lr: 1e-4, betas: [0.8, 0.99]}
schedule: {name: cosine, final: 0.1, warmup: 5}
data:
  train: {source: folder, path: photos, holdout: 0.1}
  validation: {source: folder, path: photos, take: holdout}
  noise: {sigma: 25}
  pairing: noise2noise
  patch: 32
  batch: 4
  augment: false
  workers: 0
train: {epochs: 25, validate_every: null, ema: 0.999, clip: 1, precision: bf16}
"""


def test_every_section_says_what_it_says(write):
    experiment = load_config(write(FULL))
    assert experiment.input_shape == (1, 2, 32, 32)
    assert experiment.data.train.path == Path("photos")
    assert dict(experiment.data.noise) == {"name": "gaussian", "sigma": 25}
    assert (experiment.train.steps, experiment.train.epochs, experiment.train.clip) == (None, 25, 1.0)

    net = experiment.build_model()
    optimizer = experiment.build_optimizer(net.param())
    loss = experiment.build_loss()
    schedule = experiment.build_schedule()
    assert type(optimizer) is AdamW
    assert (optimizer.lr, optimizer.betas) == (1e-4, (0.8, 0.99))
    assert optimizer.parameters[0][0] is net.param()[0][0]
    assert type(loss) is Charbonnier
    assert loss.epsilon == 0.01
    assert schedule == Cosine(final=0.1, warmup=5)
    assert experiment.build_noise().sigma == (25.0, 25.0)


@pytest.mark.parametrize(
    ("loss", "expected"), [("mse", MSE), ("l1", L1), ({"l1": None}, L1), ({"charbonnier": {}}, Charbonnier)]
)
def test_a_loss_is_named_as_a_layer_is(loss, expected):
    assert type(Experiment.load(SMALLEST | {"loss": loss}).build_loss()) is expected


def test_an_optimizer_a_schedule_and_a_noise_may_be_written_as_layers_are():
    nested = {"optimizer": {"adam": {"lr": 0.5}}, "schedule": {"cosine": {}}}
    beside = {"optimizer": {"name": "adam", "lr": 0.5}, "schedule": {"name": "cosine"}}
    experiment = Experiment.load(SMALLEST | nested | {"data": {"noise": {"gaussian": {"sigma": 25}}}})
    assert experiment == Experiment.load(
        SMALLEST | beside | {"data": {"noise": {"name": "gaussian", "sigma": 25}}}
    )
    assert experiment.dump()["optimizer"] == beside["optimizer"]
    for wrong, message in {
        "adamm": "optimizer.name: unknown optimizer 'adamm' - did you mean 'adam'?",
        "sgd": "optimizer: needs 'lr'",
    }.items():
        with pytest.raises(UsageError, match=re.escape(message)):
            Experiment.load(SMALLEST | {"optimizer": {wrong: {}}})


def test_the_name_of_an_optimizer_may_be_left_out():
    experiment = Experiment.load(SMALLEST | {"optimizer": {"lr": 0.5, "momentum": 0.9}})
    optimizer = experiment.build_optimizer([])
    assert type(optimizer) is SGD
    assert (optimizer.lr, optimizer.momentum) == (0.5, 0.9)


def test_weights_follow_from_the_seed_and_nothing_else_random_is_touched():
    before = torch.get_rng_state()
    first, again, other = (
        Experiment.load(SMALLEST | {"seed": seed}).build_model().param()[0][0] for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("train", "validation", "expected"),
    [
        (
            {"source": "synthetic"},
            {"source": "synthetic", "count": 8},
            {"source": "synthetic", "count": 8, "size": 96, "take": "holdout"},
        ),
        (
            {"source": "folder", "path": "a", "holdout": 0.2},
            {"source": "folder", "path": "a", "take": "holdout"},
            {"source": "folder", "path": "a", "holdout": 0.2, "take": "holdout"},
        ),
        (
            {"source": "folder", "path": "a"},
            {"source": "folder", "path": "b"},
            {"source": "folder", "path": "b", "holdout": 0.0, "take": "train"},
        ),
        (
            {"source": "pickle", "path": "a"},
            {"source": "pickle", "path": "b", "limit": 10},
            {"source": "pickle", "path": "b", "limit": 10},
        ),
        ({"source": "synthetic"}, None, None),
    ],
)
def test_validation_pictures_are_kept_apart(train, validation, expected):
    experiment = Experiment.load(SMALLEST | {"data": {"train": train, "validation": validation}})
    assert experiment.dump()["data"]["validation"] == expected


def test_an_experiment_cannot_be_changed():
    experiment = Experiment.load(SMALLEST)
    with pytest.raises(ValueError, match="frozen"):
        experiment.train.steps = 3


@pytest.mark.parametrize("text", [FULL, strict_yaml.write(SMALLEST)])
def test_a_dumped_experiment_loads_back_to_the_same(write, text):
    experiment = load_config(write(text))
    assert Experiment.load(experiment.dump()) == experiment
    assert Experiment.load(json.loads(json.dumps(experiment.dump()))) == experiment
    assert load_config(write(experiment.to_yaml())) == experiment


def test_the_sections_that_set_may_enter_are_those_of_the_experiment():
    def sections(data):
        return {key: sections(value) for key, value in data.items() if isinstance(value, dict)}

    assert sections(Experiment.load(SMALLEST).dump()) == SECTIONS


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_of_the_project_loads(path):
    experiment = load_config(path)
    assert Experiment.load(experiment.dump()) == experiment


# Every way to get one wrong -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "x.yaml: is empty; an experiment needs at least a model"),
        ("# nothing\n", "x.yaml: is empty; an experiment needs at least a model"),
        ("- conv2d\n", 'x.yaml: should be a mapping like {key: value}, not ["conv2d"]'),
        ("just words\n", "x.yaml: should be a mapping like {key: value}, not 'just words'"),
        ("seed: 1\n", "x.yaml: needs 'model'"),
        ("seed: 1\nseed: 2\n", "x.yaml: line 2: the key 'seed' is repeated (line 1 has it already)"),
    ],
)
def test_a_file_that_holds_no_experiment(write, text, message):
    with pytest.raises(UsageError) as error:
        load_config(write(text))
    assert str(error.value) == message


def test_a_file_that_is_not_there():
    with pytest.raises(UsageError) as error:
        load_config("nowhere/x.yaml")
    assert str(error.value) == "nowhere/x.yaml: no such file"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"optimiser": {}}, "unknown key 'optimiser' - did you mean 'optimizer'?"),
        ({"seed": -1}, "seed: should be greater than or equal to 0, not -1"),
        (
            {"seed": 2**63},
            "seed: should be less than or equal to 9223372036854775807, not 9223372036854775808",
        ),
        ({"seed": "0"}, "seed: should be a whole number, not '0'"),
        ({"input": {"channels": 4}}, "input.channels: should be 1 or 3, not 4"),
        ({"input": {"noise_level": "yes"}}, "input.noise_level: should be true or false, not 'yes'"),
        ({"loss": "mes"}, "loss: unknown loss 'mes' - did you mean 'mse'?"),
        (
            {"loss": {"charbonnier": {"epsilon": "a"}}},
            "loss.charbonnier.epsilon: should be a number, not 'a'",
        ),
        ({"loss": {"charbonnier": {"epsilon": 0}}}, "loss.charbonnier: epsilon must be positive, got 0.0"),
        ({"loss": None}, "loss: should be a loss's name, or {name: {argument: value}}, not null"),
        ({"optimizer": "sgd"}, "optimizer: should be a mapping like {key: value}, not 'sgd'"),
        (
            {"optimizer": {"name": "adamm"}},
            "optimizer.name: unknown optimizer 'adamm' - did you mean 'adam'?",
        ),
        ({"optimizer": {"name": "sgd"}}, "optimizer: needs 'lr'"),
        ({"optimizer": {"lr": "fast"}}, "optimizer.lr: should be a number, not 'fast'"),
        (
            {"optimizer": {"lr": 1, "momentun": 0}},
            "optimizer: unknown key 'momentun' - did you mean 'momentum'?",
        ),
        (
            {"optimizer": {"lr": 1, "parameters": []}},
            "optimizer: unknown key 'parameters' - known are lr, momentum, nesterov, weight_decay",
        ),
        (
            {"optimizer": {"name": "adam", "betas": [1]}},
            "optimizer.betas: should be a list of 2 numbers, not [1]",
        ),
        ({"schedule": {"name": "cosin"}}, "schedule.name: unknown schedule 'cosin' - did you mean 'cosine'?"),
        ({"schedule": {"name": "cosine", "final": 2}}, "schedule: final must be in [0, 1], got 2.0"),
        ({"schedule": {"final": 0.5}}, "schedule: unknown key 'final' - known are warmup"),
        (
            {"data": {"train": "synthetic"}},
            "data.train: should be a mapping like {key: value}, not 'synthetic'",
        ),
        ({"data": {"train": {"count": 3}}}, "data.train: needs 'source'"),
        (
            {"data": {"train": {"source": "foldr"}}},
            "data.train: unknown source 'foldr' - did you mean 'folder'?",
        ),
        ({"data": {"train": {"source": "folder"}}}, "data.train: needs 'path'"),
        (
            {"data": {"train": {"source": "folder", "path": "a", "take": "rest"}}},
            "data.train.take: should be 'train' or 'holdout', not 'rest'",
        ),
        (
            {"data": {"validation": {"source": "pickle", "path": 3}}},
            "data.validation.path: should be a path, not 3",
        ),
        (
            {"data": {"validation": {"source": "pickle", "path": "a", "limit": 0}}},
            "data.validation.limit: should be greater than 0, not 0",
        ),
        (
            {"data": {"noise": {"name": "gausian"}}},
            "data.noise.name: unknown noise 'gausian' - did you mean 'gaussian'?",
        ),
        (
            {"data": {"noise": {"sigma": [1, 2, 3]}}},
            "data.noise.sigma: should be a number or a list of 2 numbers, not [1, 2, 3]",
        ),
        ({"data": {"noise": {"sgima": 3}}}, "data.noise: unknown key 'sgima' - did you mean 'sigma'?"),
        ({"data": {"patch": 0}}, "data.patch: should be greater than 0, not 0"),
        ({"data": {"batch": 1.5}}, "data.batch: should be a whole number, not 1.5"),
        ({"data": {"pairing": "n2n"}}, "data.pairing: should be 'clean' or 'noise2noise', not 'n2n'"),
        ({"data": {"patchsize": 3}}, "data: unknown key 'patchsize' - did you mean 'patch'?"),
        (
            {"train": {"steps": 1, "epochs": 1}},
            "train: give steps or epochs, not both (set the other one to null)",
        ),
        ({"train": {"steps": True}}, "train.steps: should be a whole number or null, not true"),
        ({"train": {"ema": 1}}, "train.ema: should be less than 1, not 1"),
        ({"train": {"clip": float("inf")}}, "train.clip: should be a finite number, not Infinity"),
        ({"train": {"precision": "fp16"}}, "train.precision: should be 'float32' or 'bf16', not 'fp16'"),
        ({"train": None}, "train: should be a mapping like {key: value}, not null"),
        ({"model": None}, "model: should be a layer's name, or {name: {argument: value}}, not null"),
        ({"model": []}, "model: an empty list of layers"),
        (
            {"data": {"misjudged": 0.5}},
            "data.misjudged: the network is told no noise level: input.noise_level is off",
        ),
        ({"model": ["relu"]}, "model: has nothing to learn: none of its layers has parameters"),
        (
            {"model": [{"conv2d": CONV["conv2d"] | {"kernal_size": 3}}]},
            "model[0].conv2d: unknown key 'kernal_size' - did you mean 'kernel_size'?",
        ),
    ],
)
def test_a_value_that_is_wrong_is_named_with_its_key(change, problem):
    assert problem_of(SMALLEST | change) == f"x.yaml: {problem}"


def test_a_layer_that_does_not_fit_is_named_before_anything_is_trained():
    wrong = {"conv2d": CONV["conv2d"] | {"in_channels": 4}}
    message = problem_of({"model": [CONV, {"residual": {"body": ["relu", wrong]}}]})
    assert message.startswith("x.yaml: model[1].residual.body[1].conv2d: ")


def test_a_noise_level_wants_a_plane_more():
    message = problem_of(SMALLEST | {"input": {"noise_level": True}})
    assert message.startswith("x.yaml: model[0].conv2d: ")


def test_the_result_has_to_be_a_picture_of_the_same_size():
    two = {"conv2d": CONV["conv2d"] | {"out_channels": 2}}
    assert problem_of({"model": [two]}) == (
        "x.yaml: model: makes 2 x 64 x 64 of 3 x 64 x 64; it should make 3 x 64 x 64"
    )


def test_a_patch_that_the_strides_do_not_divide_is_answered_with_their_period():
    down = {"conv2d": {"in_channels": 3, "out_channels": 8, "kernel_size": 2, "stride": 2}}
    up = {"transpose_conv2d": {"in_channels": 8, "out_channels": 3, "kernel_size": 2, "stride": 2}}
    assert problem_of({"model": [down, up], "data": {"patch": 33}}) == (
        "x.yaml: model: makes 3 x 32 x 32 of 3 x 33 x 33; it should make 3 x 33 x 33; "
        "make data.patch a multiple of 2"
    )


# --set ----------------------------------------------------------------------------------------------------


def test_overrides_are_applied_in_order_with_the_typing_of_the_file(write):
    path = write(FULL)
    overrides = ["optimizer.lr=1e-3", "optimizer.lr=5e-4", "model.0.conv2d.bias=false", "train.steps=null"]
    experiment = load_config(path, overrides)
    assert experiment.optimizer.arguments == {"lr": 5e-4, "betas": [0.8, 0.99]}
    assert experiment.model[0]["conv2d"]["bias"] is False


def test_an_override_may_enter_a_section_that_the_file_leaves_out(write):
    experiment = load_config(write(strict_yaml.write(SMALLEST)), ["train.epochs=3", "data.noise.sigma=25"])
    assert (experiment.train.steps, experiment.train.epochs) == (None, 3)
    assert experiment.data.noise.arguments == {"sigma": 25}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["optimizer.lr=fast"],
            "x.yaml with --set optimizer.lr=fast: optimizer.lr: should be a number, not 'fast'",
        ),
        (["sead=1"], "x.yaml with --set sead=1: unknown key 'sead' - did you mean 'seed'?"),
        (["seed=1", "tarin.steps=1"], "--set tarin.steps=1: unknown key 'tarin' - did you mean 'train'?"),
        (["seed"], "--set seed: should be KEY=VALUE, like optimizer.lr=0.5"),
    ],
)
def test_an_override_that_is_wrong_is_named(write, overrides, message):
    with pytest.raises(UsageError) as error:
        load_config(write(FULL), overrides)
    assert str(error.value) == message


# JSON Schema ----------------------------------------------------------------------------------------------


def test_the_schema_names_every_layer_with_its_arguments():
    layer = experiment_schema()["$defs"]["layer"]
    by_name = next(each for each in layer["anyOf"] if "properties" in each)["properties"]
    assert set(by_name) == set(EXAMPLES)
    assert set(by_name["conv2d"]["required"]) == {"in_channels", "out_channels", "kernel_size"}
    assert by_name["residual"]["properties"] == {"body": {"$ref": "#/$defs/model"}}


def test_the_schema_describes_every_key():
    schema = experiment_schema()
    for key in ("seed", "model", "loss", "optimizer", "schedule"):
        assert schema["properties"][key]["description"]
    assert schema["$defs"]["Data"]["properties"]["patch"]["description"].startswith("The side of the squares")


def test_the_schema_agrees_with_the_loader_on_what_is_right_and_wrong():
    jsonschema = pytest.importorskip("jsonschema")
    schema = experiment_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    is_valid = jsonschema.Draft202012Validator(schema).is_valid

    for path in CONFIGS:
        assert is_valid(strict_yaml.read(path)), path
    assert is_valid(strict_yaml.parse(FULL, "x"))
    assert is_valid(Experiment.load(SMALLEST).dump())
    assert is_valid(SMALLEST | {"optimizer": {"adam": {"lr": 1}}, "data": {"noise": {"subsample": {}}}})
    for name, examples in EXAMPLES.items():
        for example in examples:
            assert is_valid({"model": [{name: example.arguments}]}), name
    for wrong in [
        {},
        {"model": []},
        {"model": ["conv2d"]},
        {"model": [CONV | {"relu": None}]},
        {"model": [{"conv2d": CONV["conv2d"] | {"kernal_size": 3}}]},
        {"model": [{"residual": {"body": ["reluu"]}}]},
        SMALLEST | {"seeds": 1},
        SMALLEST | {"loss": "mes"},
        SMALLEST | {"optimizer": {"name": "sgd"}},
        SMALLEST | {"optimizer": {"name": "adam", "momentum": 0.9}},
        SMALLEST | {"optimizer": {"adam": {"momentum": 0.9}}},
        SMALLEST | {"schedule": {"name": "cosine", "final": "low"}},
        SMALLEST | {"data": {"train": {"source": "folder"}}},
        SMALLEST | {"data": {"noise": {"sigma": [1, 2, 3]}}},
        SMALLEST | {"train": {"steps": "many"}},
    ]:
        assert not is_valid(wrong), wrong


def test_a_search_is_named_as_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "search.yaml"
    path.write_text("base: experiment.yaml\nvalues: {optimizer.lr: [1, 2]}\n")
    with pytest.raises(UsageError, match=r"is a search.*denoise search --config"):
        load_config(path)
