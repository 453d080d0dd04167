"""`denoise eval`: tables, JSON, CSV and pictures."""

import csv
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.data import astronaut
from typer.testing import CliRunner

from denoise_cli.checkpoint import load_model, save_model
from denoise_cli.cli.app import app
from denoise_cli.config import Experiment
from denoise_cli.evaluation import evaluate, noised_folder, summarize
from denoise_cli.images import read_picture


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a model that blurs, and a set of pictures under the name of a benchmark."""
    monkeypatch.chdir(tmp_path)
    experiment = Experiment.load(
        {
            "model": [
                {
                    "conv2d": {
                        "in_channels": 3,
                        "out_channels": 3,
                        "kernel_size": 3,
                        "padding": 1,
                        "bias": False,
                    }
                }
            ],
            "data": {"validation": {"source": "synthetic", "count": 3, "size": 24}},
        }
    )
    net = experiment.build_model()
    net.param()[0][0].copy_(torch.eye(3)[:, :, None, None].expand(3, 3, 3, 3) / 9)
    save_model(tmp_path / "blur.safetensors", net, experiment, {})
    (tmp_path / "cbsd68").mkdir()
    for index in range(2):
        Image.fromarray(astronaut()[100 * index :][:48, 100:160]).save(tmp_path / "cbsd68" / f"{index}.png")
    return tmp_path


def denoise(*arguments, code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


def measure(*arguments, code=0):
    return denoise("eval", "blur.safetensors", *arguments, code=code)


def test_a_table_with_published_figures_beside(here):
    result = measure("--data", "cbsd68", "--sigma", "25,50")
    total = summarize(
        [d.score() for d in evaluate(load_model("blur.safetensors"), noised_folder(here / "cbsd68", 25))]
    )
    assert "blur on cbsd68, 2 pictures" in result.stdout
    row = next(line.split() for line in result.stdout.splitlines() if line.split()[:1] == ["25"])
    assert row == [
        "25",
        f"{total.noisy_psnr:.2f}",
        f"{total.psnr:.2f}",
        f"{total.noisy_ssim:.4f}",
        f"{total.ssim:.4f}",
        f"{total.noisy_psnr_pooled:.2f}",
        f"{total.psnr_pooled:.2f}",
    ]
    assert re.search(r"DnCNN \(Zhang et al., TIP 2017\) +31\.24 +27\.95", result.stdout)
    assert "DnCNN" not in measure("--data", "cbsd68", "--sigma", 25, "--no-compare").stdout


def test_json_for_programs(here):
    result = measure("--data", "cbsd68", "--sigma", "25,50", "--json")
    report = json.loads(result.stdout)
    assert (report["model"], report["data"]) == ("blur", "cbsd68")
    assert [each["sigma"] for each in report["results"]] == [25, 50]
    (first, second) = report["results"][0]["per_image"]
    assert first["name"] == "0.png"
    assert report["results"][0]["psnr"] == pytest.approx((first["psnr"] + second["psnr"]) / 2)
    assert report["published"][0]["psnr"] == [30.71, 27.38]


def test_identical_pictures_are_no_number_in_json_and_a_word_in_the_table(here):
    (here / "flat").mkdir()
    Image.fromarray(np.full((32, 32, 3), 128, np.uint8)).save(here / "flat" / "a.png")
    arguments = ("--clean", "flat", "--noisy", "flat")
    assert json.loads(measure(*arguments, "--json").stdout)["results"][0]["noisy_psnr"] is None
    assert "identical" in measure(*arguments).stdout


def test_figures_and_pictures_as_files(here):
    arguments = ["--data", "cbsd68", "--sigma", "15,25", "--csv", "figures.csv", "--out", "out"]
    measure(*arguments)
    with (here / "figures.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["set_sigma"], row["name"]) for row in rows] == [
        ("15.0", "0.png"),
        ("15.0", "1.png"),
        ("25.0", "0.png"),
        ("25.0", "1.png"),
    ]
    for row in rows:
        folder = here / "out" / f"sigma{float(row['set_sigma']):g}"
        a, b = (np.asarray(Image.open(f / row["name"]), float) for f in (folder, here / "cbsd68"))
        assert float(row["psnr"]) == pytest.approx(10 * np.log10(255**2 / np.mean((a - b) ** 2)), abs=1e-4)
    assert "exists already" in measure(*arguments, code=2).stderr
    measure(*arguments, "--force")


def test_pictures_that_differ_in_their_ending_alone(here):
    for name in ("0.jpg", "0.png.bmp"):
        Image.fromarray(astronaut()[:32, :40]).save(here / "cbsd68" / name)
    measure("--data", "cbsd68", "--sigma", 25, "--out", "out")
    widths = {file.name: read_picture(file).width for file in (here / "out").iterdir()}
    assert widths == {"0.png": 40, "0.png.png": 60, "0.png.bmp.png": 40, "1.png": 60}


def test_figures_are_told_even_where_their_file_cannot_be_written(here):
    (here / "figures.csv").mkdir()
    result = measure("--data", "cbsd68", "--sigma", 25, "--csv", "figures.csv", code=1)
    assert "blur on cbsd68, 2 pictures" in result.stdout
    assert "figures.csv: is a folder" in result.stderr


def test_every_picture_on_demand(here):
    result = measure("--data", "cbsd68", "--sigma", 25, "--per-image")
    assert "0.png" in result.stdout
    assert "0.png" not in measure("--data", "cbsd68", "--sigma", 25).stdout


def test_course_file(here):
    torch.save(tuple(torch.randint(0, 256, (2, 6, 3, 32, 32), dtype=torch.uint8)), here / "val.pkl")
    assert "blur on val.pkl, 6 pictures" in measure("--data", "val.pkl").stdout


def test_validation_pictures_with_another_noise(here):
    result = measure("--sigma", "5,50", "--json")
    low, high = json.loads(result.stdout)["results"]
    assert low["noisy_psnr"] == pytest.approx(34.15, abs=0.3)
    assert high["noisy_psnr"] == pytest.approx(14.15, abs=0.3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("blurr", "unknown model 'blurr'"),
        ("nowhere/x.safetensors", "nowhere/x.safetensors: no such model file or run folder"),
        ("blur.safetensors --data cbsd68", "cbsd68: say how much noise to add, like --sigma 15,25,50"),
        ("blur.safetensors --data cbsd68 --sigma loud", "--sigma loud: should be numbers from 0 to 255"),
        ("blur.safetensors --data cbsd68 --sigma -3", "--sigma -3: should be numbers from 0 to 255"),
        ("blur.safetensors --data nowhere --sigma 25", "nowhere: no such"),
        ("blur.safetensors --clean cbsd68", "--clean DIR and --noisy DIR"),
        ("blur.safetensors --clean cbsd68 --noisy cbsd68 --sigma 1,2", "one --sigma at most"),
        ("blur.safetensors --csv nowhere/x.csv", "nowhere/x.csv: the folder nowhere does not exist"),
        ("blur.safetensors --data blur.safetensors", "blur.safetensors: "),
    ],
)
def test_wrong_usage_is_one_line(here, arguments, message):
    result = denoise("eval", *arguments.split(), code=2)
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
