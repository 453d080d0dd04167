"""`denoise check` and `denoise layers`."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from denoise_cli.cli.app import app
from denoise_cli.cli.check import parse_size, shorten
from denoise_cli.config import load_config
from denoise_cli.errors import UsageError
from denoise_cli.nn.registry import LAYERS

CONFIG = """
model:
  - conv2d: {in_channels: 3, out_channels: 8, kernel_size: 3, padding: 1}
  - relu
  - residual:
      body:
        - conv2d: {in_channels: 8, out_channels: 8, kernel_size: 2, stride: 2}
        - transpose_conv2d: {in_channels: 8, out_channels: 8, kernel_size: 2, stride: 2}
  - conv2d: {in_channels: 8, out_channels: 3, kernel_size: 3, padding: 1}
optimizer: {name: adam}
data: {patch: 16, batch: 4}
"""


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("x.yaml").write_text(CONFIG)
    return "x.yaml"


def run_app(*arguments):
    return CliRunner().invoke(app, list(arguments))


def test_check_prints_a_table(config):
    result = run_app("check", config)
    assert result.exit_code == 0
    assert result.stderr == ""
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert [line for line in lines if "conv2d" in line or "total" in line] == [
        "conv2d(3, 8, 3, padding=1) 8 x 16 x 16 224 55.3 K 3 x 3",
        "conv2d(8, 8, 2, stride=2) 8 x 8 x 8 264 16.4 K 4 x 4",
        "transpose_conv2d(8, 8, 2, stride=2) 8 x 16 x 16 264 16.4 K 3 x 3",
        "conv2d(8, 3, 3, padding=1) 3 x 16 x 16 219 55.3 K 5 x 5",
        "total 971 143 K 5 x 5",
    ]
    assert "per pixel: 560 MACs" in lines
    assert "pictures: padded to multiples of 2 pixels" in lines


def test_check_as_json_has_the_same_and_more(config):
    report = json.loads(run_app("check", config, "--json").stdout)
    assert report["config"] == "x.yaml"
    assert report["input"] == [3, 16, 16]
    assert report["layers"][3] == {
        "path": "model[2].residual.body[0].conv2d",
        "layer": "conv2d",
        "arguments": {"in_channels": 8, "out_channels": 8, "kernel_size": 2, "stride": 2},
        "output": [8, 8, 8],
        "parameters": 8 * 8 * 4 + 8,
        "macs": 8 * 8 * (8 * 8 * 4),
        "receptive_field": 4,
    }
    net = load_config(config).build_model()
    parameters = sum(value.numel() for value, _ in net.param())
    total = report["total"]
    assert (total["parameters"], total["macs"]) == (parameters, net.macs((1, 3, 16, 16)))
    assert total["macs_per_pixel"] == total["macs"] / 16**2
    assert total["period"] == 2
    # float32 weights, gradients and Adam's two moments, and its count of steps
    assert report["training"]["state_bytes"] == 4 * 4 * parameters + 8
    assert report["training"]["batch"] == 4


def test_check_says_how_much_a_step_holds(config):
    def held(*overrides):
        arguments = [part for each in overrides for part in ("--set", each)]
        report = json.loads(run_app("check", config, "--json", *arguments).stdout)
        return report["training"]["activation_bytes"]

    assert held("data.batch=8") == 2 * held() > 0
    assert held("data.patch=32") == 4 * held()


@pytest.mark.usefixtures("rounded_products")
def test_check_says_that_bf16_holds_half(config):
    def report(*arguments):
        return json.loads(run_app("check", config, "--json", *arguments).stdout)

    full, half = report(), report("--set", "train.precision=bf16")
    assert 2 * half["training"]["activation_bytes"] == full["training"]["activation_bytes"]
    rounded = 2 * 2 * full["total"]["parameters"]  # and their gradients
    assert half["training"]["state_bytes"] == full["training"]["state_bytes"] + rounded


def test_check_takes_another_size_padded_as_pictures_are(config):
    report = json.loads(run_app("check", config, "--json", "--size", "31x48").stdout)
    assert report["input"] == [3, 32, 48]
    assert report["layers"][0]["output"] == [8, 32, 48]


def test_check_refuses_a_net_that_makes_no_picture(tmp_path):
    path = tmp_path / "mlp.yaml"
    path.write_text(
        "data: {patch: 4}\nmodel:\n"
        "  - conv2d: {in_channels: 3, out_channels: 16, kernel_size: 4}\n"
        "  - flatten\n  - linear: {in_features: 16, out_features: 48}\n"
    )
    result = run_app("check", str(path))
    assert result.exit_code == 2
    assert result.stderr == f"error: {path}: model: makes 48 of 3 x 4 x 4; it should make 3 x 4 x 4\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "error: denoise check: name a CONFIG, like configs/quickstart.yaml\n"),
        (["none.yaml"], "error: none.yaml: no such file\n"),
        (["x.yaml", "--size", "big"], "error: --size big: should be HEIGHTxWIDTH, like 480x640\n"),
        (
            ["x.yaml", "--set", "model.0.conv2d.kernal_size=5"],
            "error: x.yaml with --set model.0.conv2d.kernal_size=5: model[0].conv2d: "
            "unknown key 'kernal_size' - did you mean 'kernel_size'?\n",
        ),
    ],
)
def test_check_refuses_in_one_line(config, arguments, message):
    result = run_app("check", *arguments)
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", message)


def test_check_prints_the_schema_without_a_config():
    schema = json.loads(run_app("check", "--schema").stdout)
    assert schema["required"] == ["model"]


@pytest.mark.parametrize(("text", "size"), [("480x640", (480, 640)), ("1X2", (1, 2))])
def test_a_size_is_height_x_width(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "480", "x", "480x", "0x5", "-1x5", "4.5x2", "480x640x3"])
def test_a_size_that_is_none(text):
    with pytest.raises(UsageError):
        parse_size(text)


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (999, "999"), (999.6, "1 K"), (1234, "1.23 K"), (999_499, "999 K"), (999_600, "1 M"),
     (35_400_000, "35.4 M"), (2.1e9, "2.1 G"), (3.4e12, "3.4 T")],
)  # fmt: skip
def test_large_numbers_are_shortened(number, text):
    assert shorten(number) == text


def test_layers_lists_them_all():
    result = run_app("layers")
    assert result.exit_code == 0
    first_words = {line.split()[0] for line in result.stdout.splitlines() if line.strip()}
    assert LAYERS.keys() <= first_words
    assert "in_channels, out_channels, kernel_size, stride=1, padding=0, dilation=1" in result.stdout
    assert "…" not in result.stdout


def test_one_layer_is_shown_in_full():
    result = run_app("layers", "leaky_relu")
    assert result.stdout.startswith("leaky_relu\n\ny = max(x, negative_slope * x), with a slope from 0 to 1.")
    assert ["negative_slope", "a", "number", "0.01"] in [line.split() for line in result.stdout.splitlines()]


def test_layers_as_json():
    everything = json.loads(run_app("layers", "--json").stdout)
    assert [each["name"] for each in everything] == sorted(LAYERS)
    (linear,) = json.loads(run_app("layers", "linear", "--json").stdout)
    assert linear["arguments"][:3] == [
        {"name": "in_features", "takes": "a whole number", "required": True},
        {"name": "out_features", "takes": "a whole number", "required": True},
        {"name": "bias", "takes": "true or false", "required": False, "default": True},
    ]
    assert linear["description"].startswith("y = x W^T + b")


def test_an_unknown_layer_is_answered_with_the_nearest():
    result = run_app("layers", "conv2")
    assert (result.exit_code, result.stderr) == (2, "error: unknown layer 'conv2' - did you mean 'conv2d'?\n")
