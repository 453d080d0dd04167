"""`denoise psnr` against scikit-image's figures."""

import json

import numpy as np
import pytest
import typer
from PIL import Image
from skimage.data import chelsea
from skimage.metrics import peak_signal_noise_ratio
from typer.testing import CliRunner

from denoise_cli.cli.app import Commands, denoise
from denoise_cli.cli.psnr import psnr

app = typer.Typer(cls=Commands, add_completion=False, pretty_exceptions_enable=False)
app.callback()(denoise)
app.command()(psnr)

A = chelsea()[:60, :80]
B = np.clip(A + np.random.default_rng(0).normal(0, [5, 10, 20], A.shape), 0, 255).astype(np.uint8)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(A).save("a.png")
    Image.fromarray(B).save("b.png")


def run(*arguments, code=0):
    result = CliRunner().invoke(app, ["psnr", *arguments])
    assert result.exit_code == code, result.output
    return result


def test_whole_and_channels():
    rows = json.loads(run("a.png", "b.png", "--json").stdout)
    assert list(rows) == ["whole", "red", "green", "blue"]
    assert rows["whole"]["psnr"] == pytest.approx(peak_signal_noise_ratio(A, B), abs=1e-3)
    for index, name in enumerate(("red", "green", "blue")):
        expected = peak_signal_noise_ratio(A[..., index], B[..., index])
        assert rows[name]["psnr"] == pytest.approx(expected, abs=1e-3)
    assert rows["whole"]["ssim"] == pytest.approx(
        np.mean([rows[n]["ssim"] for n in ("red", "green", "blue")])
    )


def test_the_table():
    lines = run("a.png", "b.png").stdout.splitlines()
    expected = f"{peak_signal_noise_ratio(A, B):.2f}"
    assert any(line.split()[:2] == ["whole", expected] for line in lines)


def test_identical_pictures():
    row = json.loads(run("a.png", "a.png", "--json").stdout)["whole"]
    assert row == {"psnr": None, "ssim": pytest.approx(1), "identical": True}
    assert "identical" in run("a.png", "a.png").stdout


def test_gray_and_16_bits():
    deep = A[..., 0].astype(np.uint16) * 257
    for name, samples in (("c.png", deep), ("d.png", deep + 20)):
        Image.fromarray(samples).save(name)
    rows = json.loads(run("c.png", "d.png", "--json").stdout)
    assert list(rows) == ["whole"]
    assert rows["whole"]["psnr"] == pytest.approx(20 * np.log10(65535 / 20), abs=0.05)


def test_pictures_are_compared_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned to the right for viewing
    Image.fromarray(np.rot90(A)).save("turned.png", exif=exif)
    assert json.loads(run("a.png", "turned.png", "--json").stdout)["whole"]["identical"]


def test_too_small_for_ssim():
    Image.fromarray(A[:5, :5]).save("c.png")
    Image.fromarray(B[:5, :5]).save("d.png")
    assert json.loads(run("c.png", "d.png", "--json").stdout)["whole"]["ssim"] is None
    assert " - " in run("c.png", "d.png").stdout + " "


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [("small.png", 2, "5 x 60"), ("gray.png", 2, "gray.png is gray"), ("none.png", 1, "none.png")],
)
def test_what_cannot_be_compared(name, code, message):
    Image.fromarray(A[:, :5]).save("small.png")
    Image.fromarray(A[..., 0]).save("gray.png")
    assert message in run("a.png", name, code=code).stderr
