"""Model files and training states: what comes back, and what is refused."""

import json
import os

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from denoise_cli import checkpoint
from denoise_cli.checkpoint import (
    TrainingState,
    load_model,
    load_training_state,
    save_model,
    save_training_state,
    shipped_models,
)
from denoise_cli.config import Experiment
from denoise_cli.errors import DenoiseError, UsageError
from denoise_cli.files import replacing


@pytest.fixture
def experiment():
    conv = {"conv2d": {"in_channels": 4, "out_channels": 3, "kernel_size": 3, "padding": 1}}
    return Experiment.load(
        {
            "model": [conv, {"batch_norm2d": {"num_features": 3}}],
            "input": {"channels": 3, "noise_level": True},
        }
    )


@pytest.fixture
def model(tmp_path, experiment):
    save_model(tmp_path / "model.safetensors", experiment.build_model(), experiment, {"step": 7})
    return tmp_path / "model.safetensors"


def test_a_model_comes_back_with_all_it_needs(model, experiment):
    denoiser = load_model(model)
    original = experiment.build_model()
    x = torch.rand(2, 3, 9, 6)
    expected = original.train(False).forward(denoiser.inputs(x, 25.0))
    assert torch.equal(denoiser.predict(x, 25.0), expected)
    assert (denoiser.channels, denoiser.noise_level) == (3, True)
    assert denoiser.meta["step"] == 7
    assert denoiser.meta["name"] == "model"
    assert denoiser.meta["experiment"] == experiment
    assert denoiser.meta["noise"] == {"name": "gaussian", "sigma": [0, 50]}
    assert not denoiser.net.training


def test_saving_leaves_the_net_as_it_is_and_allows_any_strides(tmp_path, experiment):
    net = experiment.build_model()
    weight = net.param()[0][0]
    before = weight.clone()
    save_model(tmp_path / "half.safetensors", net, experiment, {}, dtype=torch.float16)
    assert torch.equal(weight, before)
    assert weight.dtype == torch.float32


def test_half_precision_on_the_disk_is_float32_in_memory(tmp_path, model, experiment):
    half = tmp_path / "half.safetensors"
    net = experiment.build_model()
    save_model(half, net, experiment, {}, dtype=torch.float16)
    loaded = load_model(half).net.state()
    for name, tensor in net.state().items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor.half().to(tensor.dtype))


def test_a_run_folder_gives_its_best_model_else_its_last(tmp_path, experiment):
    net = experiment.build_model()
    run = tmp_path / "mine"
    run.mkdir()
    with pytest.raises(UsageError, match="folder without a model"):
        load_model(run)
    save_model(run / "last.safetensors", net, experiment, {"step": 2})
    assert load_model(run).meta["step"] == 2
    save_model(run / "best.safetensors", net, experiment, {"step": 1})
    assert load_model(run).meta["step"] == 1
    assert load_model(run).meta["name"] == "mine"


def test_a_shipped_model_is_found_by_name_wherever_one_is(tmp_path, monkeypatch, model):
    monkeypatch.setattr(checkpoint, "files", lambda package: tmp_path)
    assert list(shipped_models()) == ["model"]
    monkeypatch.chdir("/")
    assert load_model("model").meta["step"] == 7
    with pytest.raises(UsageError, match=r"unknown model 'modle' - did you mean 'model'\? \(a run folder"):
        load_model("modle")


@pytest.mark.parametrize("name", ["runs/nothing", "nothing.safetensors"])
def test_a_missing_file_is_told(name):
    with pytest.raises(UsageError, match=f"{name}: no such model file or run folder"):
        load_model(name)


def garbage(path):
    path.write_bytes(b"these are not the weights you are looking for" * 10)


def empty(path):
    path.write_bytes(b"")


def truncated(path):
    path.write_bytes(path.read_bytes()[:-100])


def foreign(path):
    save_file({"weight": torch.zeros(3)}, path)


def changed(path, **header):
    with safe_open(path, "pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    save_file(tensors, path, metadata | header)


def newer(path):
    changed(path, denoise="model 99")


def damaged_description(path):
    changed(path, experiment="{")


def unknown_config(path):
    changed(path, experiment=json.dumps({"model": ["warp_drive"]}))


def other_weights(path):
    changed(
        path,
        experiment=json.dumps(
            {"model": [{"conv2d": {"in_channels": 3, "out_channels": 3, "kernel_size": 1}}]}
        ),
    )


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (garbage, "not a model of denoise"),
        (empty, "not a model of denoise"),
        (truncated, "not a model of denoise"),
        (foreign, "not a model of denoise"),
        (newer, "its format is 99, this denoise reads 1"),
        (damaged_description, "its description is damaged"),
        (unknown_config, "unknown layer 'warp_drive'"),
        (other_weights, "its weights do not fit its own config"),
    ],
)
def test_a_file_that_is_no_model_is_told_in_one_line(model, spoil, message):
    spoil(model)
    with pytest.raises(DenoiseError, match=message) as caught:
        load_model(model)
    assert str(caught.value).startswith(f"{model}: ")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 1


def test_a_training_state_comes_back_bit_for_bit(tmp_path, experiment):
    tensors = {"net.a": torch.randn(3, 4), "net.b.c": torch.tensor(5), "optimizer.m": torch.randn(2).double()}
    progress = {"step": 12, "best": 31.25000000000001, "losses": [0.1, 0.2], "none": None}
    save_training_state(tmp_path / "state.safetensors", TrainingState(experiment, tensors, progress))
    state = load_training_state(tmp_path / "state.safetensors")
    assert state.progress == progress
    assert state.experiment == experiment
    assert state.part("net").keys() == {"a", "b.c"}
    for name, tensor in tensors.items():
        assert state.tensors[name].dtype == tensor.dtype
        assert torch.equal(state.tensors[name], tensor)


def test_a_model_is_no_training_state_and_the_other_way_round(tmp_path, model, experiment):
    with pytest.raises(DenoiseError, match="not a training state of denoise, but a model"):
        load_training_state(model)
    save_training_state(tmp_path / "state.safetensors", TrainingState(experiment, {}, {}))
    with pytest.raises(DenoiseError, match="not a model of denoise, but a training state"):
        load_model(tmp_path / "state.safetensors")


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def fail():
        with replacing(path) as temporary:
            temporary.write_text("half of the n")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]  # noqa: PTH208


def test_a_folder_that_is_not_there_is_told(tmp_path, experiment):
    with pytest.raises(DenoiseError, match=r"nowhere/m\.safetensors: the folder .*nowhere does not exist"):
        save_model(tmp_path / "nowhere" / "m.safetensors", experiment.build_model(), experiment, {})
