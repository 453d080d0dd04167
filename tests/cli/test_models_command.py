"""`denoise models`: what is shipped, with what it costs and reaches."""

import json

import pytest
from typer.testing import CliRunner

from denoise_cli import checkpoint
from denoise_cli.checkpoint import save_model
from denoise_cli.cli.app import app
from denoise_cli.config import Experiment


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    experiment = Experiment.load(
        {
            "input": {"noise_level": True},
            "model": [{"conv2d": {"in_channels": 4, "out_channels": 3, "kernel_size": 3, "padding": 1}}],
        }
    )
    scores = {"cbsd68": {"15": 33.9, "25": 31.24, "50": 27.96}}
    path = tmp_path / "gaussian.safetensors"
    save_model(path, experiment.build_model(), experiment, {"scores": scores})
    monkeypatch.setattr(checkpoint, "files", lambda package: tmp_path)
    return tmp_path


def test_the_list_tells_size_cost_noise_and_scores(shipped):
    output = CliRunner().invoke(app, ["models"]).stdout
    (row,) = [line for line in output.splitlines() if "gaussian" in line]
    assert row.split()[:2] == ["gaussian", "colour"]
    for text in ("gaussian, sigma 0-50", "111", "108", "cbsd68: 33.90 / 31.24 / 27.96 at sigma 15 / 25 / 50"):
        assert text in row


def test_the_same_for_programs(shipped):
    (model,) = json.loads(CliRunner().invoke(app, ["models", "--json"]).stdout)
    assert (model["name"], model["parameters"], model["macs_per_pixel"]) == (
        "gaussian",
        4 * 3 * 9 + 3,
        4 * 3 * 9,
    )
    assert model["scores"]["cbsd68"]["25"] == 31.24
    assert model["noise_level"] is True


def test_none_is_told(shipped):
    (shipped / "gaussian.safetensors").unlink()
    result = CliRunner().invoke(app, ["models"])
    assert result.exit_code == 0
    assert "no models" in result.stderr
