"""`denoise train`, from a config to a model that is measured."""

import os
import re
import signal

import pytest
import torch
from typer.testing import CliRunner

from denoise_cli.checkpoint import load_model
from denoise_cli.cli.app import app
from denoise_cli.runs import RunFolder
from denoise_cli.training import StepRecord, fit

CONFIG = """
input: {channels: 1}
model:
  - residual:
      body:
        - conv2d: {in_channels: 1, out_channels: 4, kernel_size: 3, padding: 1}
        - relu
        - conv2d: {in_channels: 4, out_channels: 1, kernel_size: 3, padding: 1}
optimizer: {name: adam, lr: 0.01}
data:
  train: {source: synthetic, count: 8, size: 24}
  validation: {source: synthetic, count: 2, size: 24}
  patch: 16
  batch: 4
  workers: 0
train: {steps: 6, validate_every: 3, save_every: 2}
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(CONFIG)
    return tmp_path


def denoise(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_config_becomes_a_model_that_can_be_measured(here):
    trained = denoise("train", "--config", "tiny.yaml")
    assert trained.exit_code == 0, trained.output
    assert {file.name for file in (here / "runs" / "tiny").iterdir()} == {
        "config.yaml",
        "best.safetensors",
        "last.safetensors",
        "state.safetensors",
        "metrics.csv",
        "curves.png",
        "samples",
    }
    assert sorted(file.name for file in (here / "runs" / "tiny" / "samples").iterdir()) == [
        "step_0000003.png",
        "step_0000006.png",
    ]
    first, second = trained.stdout.splitlines()
    found = re.fullmatch(
        r"runs/tiny/best\.safetensors: step \d, PSNR (\S+) dB on 2 validation pictures \(noisy: \S+ dB\)",
        first,
    )
    assert second == "try it: denoise image noisy.png clean.png --model runs/tiny"
    assert "step 3: PSNR" in trained.stderr

    measured = denoise("eval", "runs/tiny")
    assert measured.exit_code == 0, measured.output
    assert "tiny on its validation pictures, 2 pictures" in measured.stdout
    assert f" {found[1]} " in measured.stdout


def test_overrides_seed_and_folder(here):
    result = denoise(
        "train",
        "--config",
        "tiny.yaml",
        "--set",
        "train.steps=2",
        "--seed",
        7,
        "--out",
        "mine",
        "--threads",
        1,
    )
    assert result.exit_code == 0, result.output
    experiment = load_model("mine").meta["experiment"]
    assert (experiment.seed, experiment.train.steps) == (7, 2)


@pytest.fixture
def no_drawing(monkeypatch):
    monkeypatch.setattr(RunFolder, "draw", lambda *_: None)


def test_a_used_folder_needs_a_word(here, no_drawing):
    assert denoise("train", "--config", "tiny.yaml").exit_code == 0
    refused = denoise("train", "--config", "tiny.yaml")
    assert refused.exit_code == 2
    assert refused.stderr.startswith("error: runs/tiny: is in use; --resume")
    assert denoise("train", "--config", "tiny.yaml", "--force").exit_code == 0
    both = denoise("train", "--config", "tiny.yaml", "--force", "--resume")
    assert both.exit_code == 2
    assert "exclude each other" in both.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_state_from_which_the_told_command_goes_on(here, no_drawing, monkeypatch, number):
    def interrupted(*arguments, **keywords):
        for record in fit(*arguments, **keywords):
            if isinstance(record, StepRecord) and record.step == 2:
                os.kill(os.getpid(), number)
            yield record

    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("denoise_cli.training.fit", interrupted)
    stopped = denoise("train", "--config", "tiny.yaml")
    assert stopped.exit_code == 130
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    command = stopped.stderr.splitlines()[-1].partition("carry on with: denoise ")[2]
    assert "stopped at step 2" in stopped.stderr
    monkeypatch.setattr("denoise_cli.training.fit", fit)
    assert denoise(*command.split()).exit_code == 0
    assert denoise("train", "--config", "tiny.yaml", "--out", "whole").exit_code == 0
    whole, resumed = (load_model(f"{run}/last.safetensors").net.state() for run in ("whole", "runs/tiny"))
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())


def test_nothing_to_resume_is_told(here):
    result = denoise("train", "--config", "tiny.yaml", "--resume")
    assert result.exit_code == 2
    assert "runs/tiny: no run to resume here" in result.stderr
    assert not (here / "runs").exists()


def test_starting_from_another_models_weights(here, no_drawing):
    assert denoise("train", "--config", "tiny.yaml").exit_code == 0
    options = [
        "--config",
        "tiny.yaml",
        "--set",
        "optimizer.lr=0.0",
        "--set",
        "train.steps=1",
        "--out",
        "next",
    ]
    assert denoise("train", *options, "--init-from", "runs/tiny").exit_code == 0
    first, second = load_model("runs/tiny").net.state(), load_model("next").net.state()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    wider = CONFIG.replace("out_channels: 4", "out_channels: 5").replace("in_channels: 4", "in_channels: 5")
    (here / "wider.yaml").write_text(wider)
    refused = denoise("train", "--config", "wider.yaml", "--init-from", "runs/tiny")
    assert refused.exit_code == 2
    assert "--init-from runs/tiny: does not fit the model of wider.yaml" in refused.stderr


def test_other_data(here, no_drawing):
    for name in ("d📷é", "val"):
        torch.save(tuple(torch.randint(0, 256, (2, 8, 1, 16, 16), dtype=torch.uint8)), here / f"{name}.pkl")
    result = denoise("train", "--config", "tiny.yaml", "--train-data", "d📷é.pkl", "--val-data", "val.pkl")
    assert result.exit_code == 0, result.output
    data = load_model("runs/tiny").meta["experiment"].data
    assert (data.train.source, str(data.train.path)) == ("pickle", "d📷é.pkl")
    assert (data.validation.source, str(data.validation.path)) == ("pickle", "val.pkl")
    missing = denoise("train", "--config", "tiny.yaml", "--train-data", "nowhere", "--force")
    assert missing.exit_code == 2
    assert "nowhere: no such folder or course file" in missing.stderr
    assert RunFolder(here / "runs" / "tiny").model.exists(), "a mistake does not cost the old run"


def test_a_loss_that_explodes_is_one_line(here):
    result = denoise("train", "--config", "tiny.yaml", "--set", "optimizer={name: sgd, lr: 1e30}")
    assert result.exit_code == 1
    last = result.stderr.splitlines()[-1]
    assert re.match(
        r"error: step \d: the loss is (nan|inf); the last good weights are in runs/tiny/last", last
    )
    assert all(
        tensor.isfinite().all() for tensor in load_model("runs/tiny/last.safetensors").net.state().values()
    )
