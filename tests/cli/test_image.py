"""`denoise image` on files, folders and streams, with a model that blurs."""

import io
import json
import os
import signal
import subprocess
import sys
import time
import weakref
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
import typer
from PIL import Image, ImageOps
from skimage.data import astronaut
from typer.testing import CliRunner

from denoise_cli.checkpoint import save_model
from denoise_cli.cli.app import Commands, denoise
from denoise_cli.cli.image import image
from denoise_cli.config import Experiment
from denoise_cli.errors import DenoiseError
from denoise_cli.zero_shot import learn

ROOT = Path(__file__).parent.parent.parent

app = typer.Typer(cls=Commands, add_completion=False, pretty_exceptions_enable=False)
app.callback()(denoise)
app.command()(image)

PHOTO = astronaut()[60:100, 150:198]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a model that blurs."""
    monkeypatch.chdir(tmp_path)
    conv = {"in_channels": 3, "out_channels": 3, "kernel_size": 3, "padding": 1, "bias": False}
    conv["padding_mode"] = "reflect"
    experiment = Experiment.load({"model": [{"conv2d": conv}]})
    net = experiment.build_model()
    net.param()[0][0].copy_(torch.eye(3)[:, :, None, None].expand(3, 3, 3, 3) / 9)
    save_model(tmp_path / "blur.safetensors", net, experiment, {})
    return tmp_path


def save(path, pixels=PHOTO):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def load(path):
    with Image.open(path) as image:
        return np.asarray(image)


def run(*arguments, code=0, **more):
    command = ["image", *(str(argument) for argument in arguments), "--model", "blur.safetensors"]
    result = CliRunner().invoke(app, command, **more)
    assert result.exit_code == code, result.output
    return result


def blurred(pixels=PHOTO):
    """What the model makes of the inside of a picture."""
    x = pixels.astype(float)
    h, w = x.shape[:2]
    return np.rint(sum(x[i : h - 2 + i, j : w - 2 + j] for i in range(3) for j in range(3)) / 9)


def assert_blurred(path, pixels=PHOTO):
    assert np.abs(load(path)[1:-1, 1:-1] - blurred(pixels)).max() <= 1


def left_over():
    """Temporary files that nobody removed."""
    return [path for path in Path().rglob("*") if path.name.startswith(".")]


def starting(command):
    """The code that runs a command in a process of its own."""
    places = [str(ROOT), str(Path(__file__).parent)]
    return f"import sys; sys.path[:0] = {places}; from test_image import app; app({command.split()})"


# One picture


def test_in_out(here):
    save("in.png")
    result = run("in.png", "out.png")
    assert_blurred("out.png")
    assert result.stdout == ""
    assert "in.png: white noise" in result.stderr
    assert "red" in result.stderr


def test_the_output_format_goes_by_its_name(here):
    save("in.png")
    run("in.png", "out.TIFF")
    assert np.abs(tifffile.imread("out.TIFF")[1:-1, 1:-1] - blurred()).max() <= 1


def test_into_a_folder_that_is_there(here):
    save("in.png")
    Path("out").mkdir()
    run("in.png", "out")
    assert_blurred("out/in.png")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".bmp"])
def test_strength_0_gives_back_the_file(here, suffix):
    more = {
        ".webp": {"lossless": True},
        ".tif": {"save_all": True, "append_images": [Image.new("L", (9, 7))]},
    }
    Image.fromarray(PHOTO).save(f"in{suffix}", **more.get(suffix, {}))
    data = Path(f"in{suffix}").read_bytes()
    run(f"in{suffix}", f"out{suffix}", "--strength", 0)
    assert Path(f"out{suffix}").read_bytes() == data
    run(f"in{suffix}", "out/", "--strength", 0)
    assert Path(f"out/in{suffix}").read_bytes() == data
    assert run("-", "-", "--strength", 0, input=data).stdout_bytes == data


def test_strength_0_into_another_format_changes_no_pixel(here):
    save("in.png")
    run("in.png", "out.tif", "--strength", 0)
    assert np.array_equal(tifffile.imread("out.tif"), PHOTO)


def test_sigma_is_told_as_given(here):
    save("in.png")
    assert "in.png: noise 12.0, as given" in run("in.png", "out.png", "--sigma", 12).stderr


def test_quiet_says_nothing(here):
    save("in.png")
    assert run("in.png", "out.png", "--quiet").output == ""


def test_what_the_format_cannot_hold_is_told(here):
    exif = Image.Exif()
    exif[270] = "a description"
    Image.fromarray(PHOTO).save("in.png", exif=exif)
    result = run("in.png", "out.bmp")
    assert "out.bmp: BMP cannot hold EXIF" in result.stderr


def test_what_reading_left_behind_is_told_once(here):
    Image.fromarray(PHOTO).quantize(16).save("in.png")
    notes = [line for line in run("in.png", "out.png").stderr.splitlines() if line.startswith("out.png: ")]
    assert len(notes) == 1
    assert "palette" in notes[0]


def test_16_bits_stay_16_bits(here):
    samples = (PHOTO.astype(np.uint16) << 8) + 77
    tifffile.imwrite("in.tif", samples)
    run("in.tif", "out.tif", "--strength", 0.5)
    after = tifffile.imread("out.tif")
    assert after.dtype == np.uint16
    assert len(np.unique(after & 255)) > 20


def test_every_page_of_a_tiff(here):
    pages = np.stack([PHOTO, PHOTO[::-1], PHOTO[:, ::-1]])
    tifffile.imwrite("in.tif", pages, photometric="rgb")
    result = run("in.tif", "out.tif")
    after = tifffile.imread("out.tif")
    assert after.shape == pages.shape
    for page, before in zip(after, pages, strict=True):
        assert np.abs(page[1:-1, 1:-1] - blurred(before)).max() <= 1
    assert "in.tif, page 3: white noise" in result.stderr


def test_tiles_do_not_show(here):
    save("in.png")
    run("in.png", "whole.png", "--tile", "off")
    run("in.png", "tiled.png", "--tile", 16)
    assert np.array_equal(load("whole.png"), load("tiled.png"))


def test_sigma_map(here):
    save("in.png")
    mask = np.zeros(PHOTO.shape[:2], np.uint8)
    mask[:20] = 255
    save("mask.png", mask)
    run("in.png", "out.png", "--sigma-map", "mask.png")
    assert np.array_equal(load("out.png")[20:], PHOTO[20:])
    assert np.abs(load("out.png")[1:19, 1:-1] - blurred()[:18]).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_sigma_map_and_sheet_are_upright(here, orientation, monkeypatch):
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(PHOTO).save("in.png", exif=exif)
    seen = np.asarray(ImageOps.exif_transpose(Image.open("in.png")))
    mask = np.zeros(seen.shape[:2], np.uint8)
    mask[:, :15] = 255
    save("mask.png", mask)
    drawn = []
    monkeypatch.setattr(
        "denoise_cli.cli.image_work.draw_comparison", lambda *pair, **more: drawn.append(pair)
    )
    run("in.png", "out.png", "--sigma-map", "mask.png", "--compare", "sheet.png")
    ((_, before, after),) = drawn
    assert np.array_equal(before.samples, seen)
    assert np.array_equal(after.samples[:, 15:], seen[:, 15:])
    assert np.abs(after.samples[1:-1, 1:14] - blurred(seen[:, :15])).max() <= 1
    assert np.array_equal(after.samples, ImageOps.exif_transpose(Image.open("out.png")))


def test_luma_chroma_and_ensemble(here):
    pale = PHOTO // 2 + 64
    save("in.png", pale)
    run("in.png", "out.png", "--luma", 0, "--chroma", 1, "--ensemble", "--threads", 1)
    after = load("out.png").astype(float)
    assert np.abs(after.mean(2) - pale.mean(2)).max() <= 1
    assert np.abs(after - pale).max() > 2


def test_bf16(here):
    save("in.png")
    run("in.png", "out.png", "--precision", "bf16", "--device", "cpu")
    assert np.abs(load("out.png")[1:-1, 1:-1] - blurred()).max() <= 4


def test_self_needs_no_model(here, monkeypatch):
    monkeypatch.setattr("denoise_cli.zero_shot.learn", partial(learn, steps=3))
    save("in.png")
    result = CliRunner().invoke(app, ["image", "in.png", "out.png", "--self"])
    assert result.exit_code == 0, result.output
    assert load("out.png").shape == PHOTO.shape


def test_compare_draws_a_sheet(here):
    save("in.png")
    save("clean.png", np.minimum(PHOTO, 250))
    run("in.png", "out.png", "--compare", "sheet.png", "--reference", "clean.png")
    assert load("sheet.png").shape[1] > 3 * PHOTO.shape[1]
    run("in.png", "out2.png", "--compare", "sheet.png", code=2)
    run("in.png", "out2.png", "--compare", "sheet.png", "--force")


# Streams


def test_stdin_to_stdout(here):
    buffer = io.BytesIO()
    Image.fromarray(PHOTO).save(buffer, "PNG")
    result = run("-", "-", input=buffer.getvalue())
    after = np.asarray(Image.open(io.BytesIO(result.stdout_bytes)))
    assert np.abs(after[1:-1, 1:-1] - blurred()).max() <= 1
    assert "noise" in result.stderr


def test_stdout_in_another_format(here):
    save("in.png")
    result = run("in.png", "-", "--format", "webp")
    assert result.stdout_bytes[8:12] == b"WEBP"


def test_bad_stdin(here):
    assert "stdin" in run("-", "out.png", input=b"no picture", code=1).stderr
    assert not Path("out.png").exists()


WAITING = """
import os, sys

class Stdin:
    @property
    def buffer(self):
        return self

    def read(self):
        print("waiting", flush=True)
        return os.read(0, 1)

sys.stdin = Stdin()
"""


def test_ctrl_c_ends_waiting_for_stdin(here):
    arguments = ["-c", WAITING + starting("image - out.png --model blur.safetensors")]
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, *arguments], stdin=pipe, stdout=pipe, stderr=pipe) as process:
        try:
            assert process.stdout.readline() == b"waiting\n"
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=20) == 130
        finally:
            process.kill()
        assert process.stderr.read() == b"stopped\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize(
    ("command", "redirection", "message"),
    [
        ("in.png -", "> /dev/full", "in.png: stdout: cannot be written: No space left on device"),
        ("in.png -", ">&-", "in.png: stdout: is closed"),
        ("- out.png", "<&-", "stdin: is closed"),
        ("- out.png", "0> /dev/null", "stdin: cannot be read: Bad file descriptor"),
    ],
)
def test_a_full_or_closed_stream_is_told_in_one_line(here, command, redirection, message):
    save("in.png")
    code = starting(f"image {command} --model blur.safetensors --quiet")
    shell = ["sh", "-c", f'"$0" -c "$1" {redirection}', sys.executable, code]
    done = subprocess.run(shell, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, f"error: {message}\n")


SLOW_WRITING = """
import time
from denoise_cli.images import writing

encode = writing._encode

def slowly(pictures, target, file):
    file.write(b"half of it")
    file.flush()
    print("writing", flush=True)
    time.sleep(1)
    file.seek(0)
    encode(pictures, target, file)

writing._encode = slowly
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_while_writing_leaves_no_temporary_file(here, name):
    number = getattr(signal, name)
    save("in.png")
    heed = "from denoise_cli.cli.stopping import heed_signals; heed_signals()\n"
    code = SLOW_WRITING + heed + starting("image in.png out.png --model blur.safetensors --quiet")
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdout=pipe, stderr=pipe, text=True) as process:
        try:
            assert process.stdout.readline() == "writing\n"
            process.send_signal(number)
            assert process.wait(timeout=20) == 128 + number
        finally:
            process.kill()
        assert process.stderr.read() == "stopped\n"
    assert left_over() == []


# Many pictures


def test_several_files_into_a_folder(here):
    save("a.png")
    save("b/c.jpg")
    result = run("a.png", "b/c.jpg", "out")
    assert_blurred("out/a.png")
    assert Path("out/c.jpg").is_file()
    assert "2 done" in result.stderr


def test_a_folder_and_its_folders(here):
    for name in ("photos/a.png", "photos/deep/er/b.png", "photos/notes.txt/c.png"):
        save(name)
    Path("photos/readme.txt").write_text("not a picture")
    run("photos", "flat")
    assert [path.name for path in Path("flat").iterdir()] == ["a.png"]
    run("photos", "out", "--recursive", "--jobs", 3)
    assert_blurred("out/a.png")
    assert_blurred("out/deep/er/b.png")
    assert len([path for path in Path("out").rglob("*") if path.is_file()]) == 3


def test_results_inside_the_folder_are_not_taken_for_inputs(here):
    save("photos/a.png")
    run("photos", "photos/clean", "--recursive")
    run("photos", "photos/clean", "--recursive", "--force")
    assert [str(path) for path in sorted(Path("photos").rglob("*.png"))] == [
        "photos/a.png",
        "photos/clean/a.png",
    ]


def test_an_output_folder_around_the_inputs_takes_them_all(here):
    save("photos/raw/a.png")
    run("photos/raw/", "photos/")
    run("photos/raw/*.png", "photos/raw/../", "--force")
    assert_blurred("photos/a.png")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["d/", "d/"], "is the input itself"),
        (["d/*.png", "d"], "is the input itself"),
        (["d", "d/out", "--recursive"], "nothing to denoise"),
        (["d/out", "--suffix", "_clean"], "nothing to denoise"),
    ],
)
def test_a_run_that_leaves_everything_out_is_wrong_usage(here, arguments, message):
    save("d/out/a_clean.png")
    if "--recursive" not in arguments:
        save("d/b.png")
    result = run(*arguments, code=2)
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_picture_that_is_named_twice_is_denoised_once(here):
    save("d/a.png")
    save("s.png")
    result = run("s.png", "./s.png", "d", "d/a.png", "out/", "--json")
    assert [each["output"] for each in json.loads(result.stdout)] == ["out/s.png", "out/a.png"]


def test_patterns_in_quotes(here):
    for name in ("shots/1/a.png", "shots/2/a.png", "shots/2/b.jpg"):
        save(name)
    run("shots/*/*.png", "out")
    assert sorted(str(path) for path in Path("out").rglob("*.*")) == ["out/1/a.png", "out/2/a.png"]
    run("shots/**/*.jpg", "deep")
    assert Path("deep/2/b.jpg").is_file()


def test_a_pattern_finds_what_is_hidden_only_if_it_asks_for_it(here):
    for name in ("shots/a.png", "shots/.b.png", "shots/.c/d.png"):
        save(name)
    run("shots/**/*.png", "out")
    assert [path.name for path in Path("out").rglob("*.png")] == ["a.png"]
    run("shots/.*.png", "hidden")
    assert [path.name for path in Path("hidden").rglob("*.png")] == [".b.png"]


def test_a_name_with_brackets_is_a_name(here):
    save("[1] a.png")
    run("[1] a.png", "out.png")
    assert_blurred("out.png")


def test_results_that_a_shell_lists_beside_their_inputs_are_no_inputs(here):
    for name in ("a.png", "b.png"):
        Image.fromarray(PHOTO).save(name)
    run("a.png", "b.png", "--suffix", "_clean")
    before = Path("a_clean.png").read_bytes()
    everything = sorted(map(str, Path().glob("*.png")))
    assert everything == ["a.png", "a_clean.png", "b.png", "b_clean.png"]
    assert run(*everything, "--suffix", "_clean", "--skip-existing").exit_code == 0
    assert sorted(map(str, Path().glob("*.png"))) == everything
    assert Path("a_clean.png").read_bytes() == before


def test_suffix_writes_beside_the_input(here):
    save("photos/a.png")
    save("photos/b.jpg")
    for _ in range(2):
        run("photos", "--suffix", "_clean", "--skip-existing")
    assert sorted(path.name for path in Path("photos").iterdir()) == [
        "a.png",
        "a_clean.png",
        "b.jpg",
        "b_clean.jpg",
    ]


def test_how_many_results_of_an_earlier_run_are_left_out_is_told(here):
    save("photos/a.png")
    line = "left out as results of an earlier run, because"
    assert line not in run("photos", "--suffix", "_clean").stderr
    again = ("photos", "--suffix", "_clean", "--force")
    assert f"{line} their names end in _clean: 1\n" in run(*again).stderr
    assert run(*again, "--quiet").stderr == ""
    run("photos", "photos/out")
    result = run("photos", "photos/out", "-r", "--force")
    assert f"{line} they lie in photos/out: 2\n" in result.stderr


def test_files_of_other_formats_in_a_folder_are_told(here):
    save("in/a.png")
    for name in ("b.gif", "c.heic", "d.txt", "e.cr2", "f.mov", "g.zip", ".hidden.gif"):
        (here / "in" / name).write_bytes(b"GIF89a")
    told = run("in", "out").stderr
    assert (
        "passed over, being none of PNG, JPEG, WebP, TIFF and BMP:"
        " in/b.gif, in/c.heic, in/d.txt, in/e.cr2, in/f.mov and 1 more\n"
    ) in told
    assert [path.name for path in Path("out").iterdir()] == ["a.png"]
    (here / "in" / "a.png").unlink()
    assert "in: has no pictures in it" in run("in", "out", code=2).stderr


def test_format_for_a_folder(here):
    save("photos/a.png")
    save("photos/b.TIF")
    run("photos", "out", "--format", "tiff")
    assert sorted(path.name for path in Path("out").iterdir()) == ["a.tif", "b.TIF"]


def test_skip_existing(here):
    for name in "abc":
        save(f"photos/{name}.png")
    run("photos/b.png", "out/b.png", code=1)
    Path("out").mkdir()
    Path("out/b.png").write_bytes(b"mine")
    result = run("photos", "out", "--skip-existing")
    assert "2 done, 1 skipped" in result.stderr
    assert Path("out/b.png").read_bytes() == b"mine"
    assert_blurred("out/c.png")


def test_one_bad_file_stops_no_other(here):
    for name in "abcd":
        save(f"photos/{name}.png")
    Path("photos/b.png").write_bytes(Path("photos/b.png").read_bytes()[:200])
    Path("photos/c.png").write_text("a text")
    result = run("photos", "out", "--jobs", 2, code=1)
    assert sorted(path.name for path in Path("out").iterdir()) == ["a.png", "d.png"]
    assert "2 done, 2 failed" in result.stderr
    assert "photos/b.png: " in result.stderr
    assert "photos/c.png: " in result.stderr
    assert left_over() == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["in.png", "nowhere/out.png"], "nowhere/out.png: the folder nowhere does not exist"),
        (["d", "text/out"], "text/out/in.png: text is no folder"),
        (["in.png", "closed/out.png"], "closed/out.png: the folder closed does not let files be written"),
        (["d", "closed/new"], "closed/new/in.png: the folder closed does not let files be written"),
        (["in.png", "out.png", "--compare", "nowhere/s.png"], "s.png: the folder nowhere does not exist"),
        (["in.png", "taken.png", "--force"], "taken.png/in.png: is a folder"),
    ],
)
def test_an_output_that_cannot_be_is_refused_before_computing(here, monkeypatch, arguments, message):
    save("in.png")
    save("d/in.png")
    Path("text").write_text("no folder")
    Path("closed").mkdir()
    Path("taken.png/in.png").mkdir(parents=True)
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != "closed" and allowed(path, mode))
    monkeypatch.setattr("denoise_cli.cli.image_work.denoise_picture", None)
    assert message in run(*arguments, code=1).stderr


def test_a_reference_of_another_size_is_refused_before_computing(here, monkeypatch):
    save("in.png")
    save("true.png", PHOTO[:20])
    monkeypatch.setattr("denoise_cli.cli.image_work.denoise_picture", None)
    result = run("in.png", "out.png", "--compare", "sheet.png", "--reference", "true.png", code=2)
    assert "in.png: the reference is 48 x 20 pixels" in result.stderr


def test_a_sheet_that_fails_leaves_the_picture(here, monkeypatch):
    def fail(*arguments, **more):
        raise DenoiseError("sheet.png: no room")

    monkeypatch.setattr("denoise_cli.cli.image_work.draw_comparison", fail)
    save("in.png")
    assert "no room" in run("in.png", "out.png", "--compare", "sheet.png", code=1).stderr
    assert_blurred("out.png")


def test_a_name_that_stands_for_nothing_stops_no_other(here):
    save("a.png")
    Path("empty").mkdir()
    result = run("nomatch*.png", "a.png", "empty", "out", "--json", code=1)
    assert "1 done, 2 failed:\n  nomatch*.png: matches no file\n  empty: has no pictures" in result.stderr
    assert [each["output"] for each in json.loads(result.stdout)] == ["out/a.png", None, None]
    assert_blurred("out/a.png")
    assert "matches no file; empty: has" in run("nomatch*.png", "empty", "out", code=2).stderr


def test_what_fails_in_computing_or_for_want_of_a_folder_names_its_picture(here):
    save("a.png")
    save("d/sub/b.png", PHOTO[:20])
    save("mask.png", np.zeros(PHOTO.shape[:2], np.uint8))
    Path("out").mkdir()
    result = run("a.png", "d/sub/b.png", "out", "--sigma-map", "mask.png", code=1)
    assert "\n  d/sub/b.png: the sigma map is 48 x 40 pixels, the picture 48 x 20" in result.stderr
    Path("out/sub").write_text("no folder")
    assert "out/sub/b.png: out/sub is no folder" in run("d", "a.png", "out", "-r", "--force", code=1).stderr


def test_files_that_fail_leave_nothing_in_memory(here, monkeypatch):
    held = []

    def damaged(path):
        data = np.zeros(1000)
        held.append(weakref.ref(data))
        try:
            raise ValueError("a codec fell over")
        except ValueError as error:
            raise DenoiseError(f"{path}: damaged") from error

    def conclude(reports, *, quiet):
        assert [report.reason for report in reports] == ["photos/a.png: damaged", "photos/b.png: damaged"]
        assert [data() for data in held] == [None, None]

    monkeypatch.setattr("denoise_cli.cli.image_work.read_pages", damaged)
    monkeypatch.setattr("denoise_cli.cli.image._conclude", conclude)
    save("photos/a.png")
    save("photos/b.png")
    run("photos", "out")


def test_a_folder_that_is_closed_or_goes_round(here, monkeypatch):
    save("photos/a.png")
    save("photos/closed/b.png")
    Path("photos/round").symlink_to("../photos")
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    result = run("photos", "out", "--recursive", code=1)
    assert "1 done, 1 failed" in result.stderr
    assert "photos/closed" in result.stderr
    assert_blurred("out/a.png")


@pytest.mark.skipif(sys.platform != "linux", reason="drops what root may do by Linux's prctl")
def test_an_unreadable_file_and_a_read_only_folder(here):
    for name in ("a", "secret"):
        save(f"photos/{name}.png")
    Path("photos/secret.png").chmod(0)
    Path("shut").mkdir()
    Path("shut").chmod(0o555)

    def told(command):
        # Root may read and write everywhere (capabilities 1 and 2) unless that is dropped beforehand.
        drop = "import ctypes; [ctypes.CDLL(None).prctl(24, each, 0, 0, 0) for each in (1, 2)]"
        start = f"import os, sys; os.execv(sys.executable, [sys.executable, '-c', {starting(command)!r}])"
        ended = subprocess.run([sys.executable, "-c", f"{drop}; {start}"], capture_output=True, text=True)
        assert ended.returncode == 1
        assert "Traceback" not in ended.stderr
        return ended.stderr

    assert "photos/secret.png: cannot be read: Permission denied" in told(
        "image photos out --model blur.safetensors"
    )
    assert_blurred("out/a.png")
    assert "the folder shut does not let files be written" in told(
        "image photos/a.png shut/a.png --model blur.safetensors"
    )
    assert list(Path("shut").iterdir()) == []


def test_a_picture_waits_for_no_library_that_it_does_not_need(here):
    save("in.png")
    arguments = ["image", "in.png", "out.png", "--model", "blur.safetensors", "--quiet"]
    code = f"import sys; from denoise_cli.cli.app import app; app({arguments}, standalone_mode=False)"
    late = "; print({'scipy', 'skimage', 'matplotlib', 'optuna', 'tifffile'} & {*sys.modules})"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [sys.executable, "-c", code + late], capture_output=True, text=True, check=True, env=environment
    )
    assert ended.stdout == "set()\n"


def test_json(here):
    save("photos/a.png")
    Path("photos/b.png").write_text("a text")
    result = run("photos", "out", "--json", code=1)
    done, failed = json.loads(result.stdout)
    assert (done["input"], done["output"], done["status"]) == ("photos/a.png", "out/a.png", "done")
    assert len(done["pages"][0]["channels"]) == 3
    assert done["pages"][0]["sigma"] >= 0
    assert failed["status"] == "failed"
    assert "photos/b.png" in failed["error"]


def test_a_name_that_cannot_be_printed_stays_in_its_line(here):
    save("a\nb\x1b[31m.png")
    assert "a\\nb\\x1b[31m.png: white noise" in run("a\nb\x1b[31m.png", "out.png").stderr
    result = run("no\nsuch.png", "out2.png", code=1)
    assert result.stderr.startswith("error: no\\nsuch.png: ")
    result = run("no\nsuch.png", "nor\r.png", "out", code=1)
    assert "\n  no\\nsuch.png: " in result.stderr
    assert "\n  nor\\r.png: " in result.stderr


def test_json_where_stdout_is_not_utf_8(here):
    save("a📷.png")
    command = ["image", "a📷.png", "out.png", "--json", "--model", "blur.safetensors"]
    result = CliRunner(charset="cp1252").invoke(app, command)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)[0]["input"] == "a📷.png"


# What is refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["in.png"], "name the output too"),
        (["in.png", "out.xyz"], "unknown format"),
        (["in.png", "out"], "unknown format"),
        (["in.png", "in.png"], "is the input itself"),
        (["in.png", "in.png", "--force"], "is the input itself"),
        (["in.png", "link.png", "--force"], "is the input itself"),
        (["in.png", "--suffix", ""], "is the input itself"),
        (["in.png", "--suffix", "a/b"], "part of a file name"),
        (["in.png", "other.png", "third.png"], "must be a folder"),
        (["in.png", "other.png", "new.png"], "new.png: is the name of a picture"),
        (["sub", "new.png"], "new.png: is the name of a picture"),
        (["in.png", "other.png", "-"], "one output"),
        (["in.png", "-", "out"], "stdin"),
        (["-", "out/"], "no name"),
        (["-", "--suffix", "_x"], "no name"),
        (["in.png", "sub/in.png", "out/"], "would both become"),
        (["*.gif", "out"], "matches no file"),
        (["empty", "out"], "no pictures"),
        (["s**.png", "out"], "s**.png: "),
        (["in.png", "out.png", "--format", "webp"], "tells its format"),
        (["in.png", "-", "--json"], "--json"),
        (["in.png", "out.png", "--tile", "big"], "--tile big"),
        (["in.png", "out.png", "--tile", "0"], "tile"),
        (["in.png", "out.png", "--strength", "3"], "strength"),
        (["in.png", "out.png", "--device", "tpu"], "device"),
        (["in.png", "out.png", "--precision", "int8"], "precision"),
        (["in.png", "out.png", "--self"], "--self and --model"),
        (["in.png", "out.png", "--sigma-map", "other.png"], "sigma map"),
        (["in.png", "out.png", "--reference", "other.png"], "--compare"),
        (["in.png", "out.png", "--compare", "sheet.jpg"], ".png"),
        (["in.png", "out.png", "--compare", "in.png", "--force"], "is the input"),
        (["in.png", "out.png", "--compare", "link.png", "--force"], "is the input"),
        (["in.png", "out.png", "--compare", "sub/../out.png"], "is the output"),
        (
            ["in.png", "out.png", "--compare", "third.png", "--reference", "third.png", "--force"],
            "is the reference",
        ),
        (["in.png", "out.png", "--force", "--skip-existing"], "exclude each other"),
        (["in.png", "other.png", "out/", "--compare", "sheet.png"], "one picture"),
    ],
)
def test_what_makes_no_sense_is_wrong_usage(here, arguments, message):
    save("in.png")
    save("other.png", PHOTO[:20])
    save("third.png")
    save("sub/in.png")
    Path("empty").mkdir()
    Path("link.png").symlink_to("in.png")
    before = {path: path.read_bytes() for path in Path().rglob("*.png")}
    result = run(*arguments, code=2)
    assert message in result.stderr
    assert result.stderr.count("error:") == 1
    assert {path: path.read_bytes() for path in Path().rglob("*.png")} == before


def test_a_seed_has_63_bits(here):
    assert "'--seed'" in run("in.png", "out.png", "--seed", 2**63, code=2).stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.png", "out.png"], "missing.png"),
        (["missing", "out"], "missing: cannot be read"),
        (["text.png", "out.png"], "text.png"),
        (["in.png", "there.png"], "there.png: exists already"),
        (["in.png", "nowhere/out.png"], "nowhere"),
    ],
)
def test_what_fails_is_told_in_one_line(here, arguments, message):
    save("in.png")
    Path("text.png").write_text("a text")
    Path("there.png").write_text("mine")
    result = run(*arguments, code=1)
    assert result.stderr.splitlines()[-1].startswith("error: ")
    assert message in result.stderr
    assert sum(message in line for line in result.stderr.splitlines()) == 1
    assert Path("there.png").read_text() == "mine"
    assert not Path("out.png").exists()
    assert left_over() == []


def test_a_killed_batch_goes_on_where_it_was(here):
    for index in range(30):
        save(f"photos/{index:02}.png", np.tile(PHOTO, (4, 4, 1)))
    starter = starting("image photos out --model blur.safetensors --skip-existing")
    process = subprocess.Popen([sys.executable, "-c", starter], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list(Path("out").glob("*.png"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    first = {path.name: path.stat().st_mtime_ns for path in Path("out").glob("*.png")}
    assert 3 <= len(first) < 30
    for path in Path("out").glob("*.png"):
        assert load(path).shape == (160, 192, 3)  # whole
    result = run("photos", "out", "--skip-existing")
    assert f"{30 - len(first)} done, {len(first)} skipped" in result.stderr
    after = {path.name: path.stat().st_mtime_ns for path in Path("out").glob("*.png")}
    assert len(after) == 30
    assert {name: after[name] for name in first} == first
