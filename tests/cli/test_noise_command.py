"""`denoise noise`: the noise that was asked for, and the same at every run."""

import numpy as np
import pytest
import tifffile
import typer
from PIL import Image
from skimage.data import chelsea
from typer.testing import CliRunner

from denoise_cli.cli.app import Commands, denoise
from denoise_cli.cli.noise import noise
from denoise_cli.data.noise import NOISES

app = typer.Typer(cls=Commands, add_completion=False, pretty_exceptions_enable=False)
app.callback()(denoise)
app.command()(noise)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(chelsea()[:120, :160] // 2 + 64).save("in.png")
    return tmp_path


def run(*arguments, code=0):
    result = CliRunner().invoke(app, ["noise", *(str(argument) for argument in arguments)])
    assert result.exit_code == code, result.output
    return result


def load(path):
    with Image.open(path) as image:
        return np.asarray(image).astype(float)


def test_gaussian(here):
    result = run("in.png", "out.png", "--sigma", 20)
    added = load("out.png") - load("in.png")
    assert added.std() == pytest.approx(20, rel=0.03)
    assert abs(added.mean()) < 0.5
    assert "gaussian noise, sigma 20.0" in result.stderr


def test_the_seed_decides(here):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run("in.png", f"{name}.png", "--sigma", 20, "--seed", seed)
    assert np.array_equal(load("a.png"), load("b.png"))
    assert not np.array_equal(load("a.png"), load("c.png"))


@pytest.mark.parametrize("model", NOISES)
def test_every_model_with_its_defaults(here, model):
    run("in.png", "out.png", "--model", model)
    before, after = load("in.png"), load("out.png")
    factor = 6 if model == "subsample" else 1
    assert after.shape == (before.shape[0] // factor, before.shape[1] // factor, 3)
    assert factor > 1 or np.abs(after - before).mean() > 0.3


def test_settings_of_a_model(here):
    run("in.png", "few.png", "--model", "poisson", "--set", "peak=10")
    run("in.png", "many.png", "--model", "poisson", "--set", "peak=1000")
    few, many = ((load(name) - load("in.png")).std() for name in ("few.png", "many.png"))
    assert few / many == pytest.approx(10, rel=0.15)


def test_pages_and_depth_stay(here):
    pages = np.full((2, 30, 40, 3), 30000, np.uint16)
    tifffile.imwrite("in.tif", pages, photometric="rgb")
    result = run("in.tif", "out.tif", "--sigma", 5)
    after = tifffile.imread("out.tif")
    assert (after.shape, after.dtype) == (pages.shape, np.uint16)
    assert not np.array_equal(after[0], after[1])
    assert "sigma 5.0, 5.0" in result.stderr


def test_a_smaller_picture_keeps_what_describes_it(here):
    exif = Image.Exif()
    exif[270] = "a description"
    pixels = np.dstack([chelsea()[:60, :80], np.full((60, 80), 99, np.uint8)])
    Image.fromarray(pixels).save("in.png", exif=exif, icc_profile=b"a profile")
    result = run("in.png", "out.png", "--model", "subsample")
    with Image.open("out.png") as image:
        assert (image.mode, image.size) == ("RGB", (13, 10))
        assert image.info["icc_profile"] == b"a profile"
        assert image.getexif()[270] == "a description"
    assert "out.png: written without transparency\n" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["in.png", "out.png", "--model", "gausian"], 2, "did you mean 'gaussian'"),
        (["in.png", "out.png", "--set", "sigma"], 2, "KEY=VALUE"),
        (["in.png", "out.png", "--set", "peak=3"], 2, "peak"),
        (["in.png", "out.png", "--sigma", "-3"], 2, "sigma"),
        (["in.png", "in.png", "--force"], 2, "is the input itself"),
        (["in.png", "out.txt"], 2, "format"),
        (["missing.png", "out.png"], 1, "missing.png"),
        (["in.png", "there.png"], 1, "exists already"),
        (["tiny.png", "out.png", "--model", "subsample"], 2, "at least 6 x 6"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(here, arguments, code, message):
    Image.new("L", (3, 3)).save("there.png")
    Image.new("L", (3, 3)).save("tiny.png")
    assert message in run(*arguments, code=code).stderr
    assert not (here / "out.png").exists()
