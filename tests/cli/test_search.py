"""`denoise search`, from a file to a table, a config and a figure."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from filelock import FileLock, Timeout
from PIL import Image
from typer.testing import CliRunner

from denoise_cli.checkpoint import load_model
from denoise_cli.cli.app import app
from denoise_cli.search import running
from denoise_cli.training import StepRecord, fit

ROOT = Path(__file__).parent.parent.parent
SEARCH = """
base:
  input: {channels: 1}
  model: [{conv2d: {in_channels: 1, out_channels: 1, kernel_size: 3, padding: 1}}]
  data:
    train: {source: synthetic, count: 4, size: 16}
    validation: {source: synthetic, count: 2, size: 16}
    patch: 8
    batch: 4
    workers: 0
  train: {epochs: 2, validate_every: null}
values:
  optimizer.lr: [0.05, 0.1]
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "search.yaml").write_text(SEARCH)
    return tmp_path


def denoise(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def search(*more):
    return denoise("search", "--config", "search.yaml", "--out", "out", *more)


def rows(folder):
    with (folder / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_search_ends_with_a_config_that_train_takes(here):
    result = search("--set", "train.epochs=1")
    assert result.exit_code == 0, result.output
    assert "optimizer.lr   PSNR (dB)   spread   trials   seconds" in result.stdout
    assert "the best: denoise train --config out/best.yaml" in result.stdout
    assert result.stderr.startswith("1/2  optimizer.lr 0.05, seed 0: ")
    assert {"results.csv", "epochs.csv", "best.yaml", "losses.png"} <= {
        file.name for file in (here / "out").iterdir()
    }
    trained = denoise("train", "--config", "out/best.yaml", "--out", "trained")
    assert trained.exit_code == 0, trained.output
    # what the search promised is what training gives
    best = max(rows(here / "out"), key=lambda row: float(row["best_psnr"]))
    validation = load_model("trained").meta["validation"]
    assert validation["psnr"] == pytest.approx(float(best["best_psnr"]), abs=1e-3)


def test_workers_share_the_trials(here):
    (here / "search.yaml").write_text(SEARCH + "seeds: [0, 1]")
    result = search("--workers", 2)
    assert result.exit_code == 0, result.output
    tried = sorted((row["optimizer.lr"], row["seed"], row["state"]) for row in rows(here / "out"))
    assert tried == [(lr, seed, "complete") for lr in ("0.05", "0.1") for seed in "01"]


def test_workers_end_with_the_process_that_started_them(here):
    (here / "search.yaml").write_text(SEARCH.replace("epochs: 2", "epochs: 1000000"))
    command = [sys.executable, "-m", "denoise_cli", "search", "--config", "search.yaml", "--out", "out"]
    parent = subprocess.Popen([*command, "--workers", "2"], env={**os.environ, "PYTHONPATH": str(ROOT)})
    locks = [here / "out" / "trials" / f"000{number}.lock" for number in range(2)]
    try:
        assert in_time(lambda: all(map(is_held, locks))), "both workers have begun"
    finally:
        parent.kill()
        parent.wait()
    assert in_time(lambda: not any(map(is_held, locks)))


def is_held(path):
    if not path.exists():
        return False
    try:
        FileLock(path).acquire(blocking=False).lock.release()
    except Timeout:
        return True
    return False


def in_time(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.1)
    return condition()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_search_is_carried_on_by_the_same_command(here, monkeypatch, number):
    def interrupted(*arguments, **keywords):
        for record in fit(*arguments, **keywords):
            if isinstance(record, StepRecord) and record.step == 2:
                os.kill(os.getpid(), number)
            yield record

    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(running, "fit", interrupted)
    stopped = search()
    assert stopped.exit_code == 130
    assert stopped.stderr == "stopped; the same command carries on\n"
    assert signal.getsignal(signal.SIGTERM) == handler
    monkeypatch.setattr(running, "fit", fit)
    assert search().exit_code == 0
    assert [row["state"] for row in rows(here / "out")] == ["complete"] * 2


def test_other_data(here):
    for name in ("train", "val"):
        torch.save(tuple(torch.randint(0, 256, (2, 4, 1, 8, 8), dtype=torch.uint8)), here / f"{name}.pkl")
    result = search("--train-data", "train.pkl", "--val-data", "val.pkl", "--set", "train.epochs=1")
    assert result.exit_code == 0, result.output
    data = load_model("out/trials/0000").meta["experiment"].data
    assert (str(data.train.path), str(data.validation.path)) == ("train.pkl", "val.pkl")


def test_a_search_goes_on_with_moved_data_but_not_with_other_data(here):
    for name in ("one", "two"):
        torch.save(tuple(torch.randint(0, 256, (2, 4, 1, 8, 8), dtype=torch.uint8)), here / f"{name}.pkl")
    assert search("--train-data", "one.pkl").exit_code == 0
    (here / "one.pkl").rename(here / "moved.pkl")
    (here / "search.yaml").write_text(SEARCH + "seeds: [0, 1]")
    other = search("--train-data", "two.pkl")
    assert other.exit_code == 2
    assert other.stderr.startswith("error: out: holds a search on other data: data.train had ")
    assert len(rows(here / "out")) == 2
    assert search("--train-data", "moved.pkl").exit_code == 0
    assert len(rows(here / "out")) == 4


def test_a_search_does_not_go_on_with_another_folder_of_pictures(here):
    for name in ("photos", "others"):
        (here / name).mkdir()
        Image.new("L", (16, 16)).save(here / name / "a.png")
    Image.new("L", (16, 16)).save(here / "others" / "b.png")
    assert search("--train-data", "photos").exit_code == 0
    other = search("--train-data", "others")
    assert "data.train had 1 files (sha256" in other.stderr
    (here / "photos").rename(here / "others" / "moved")
    assert search("--train-data", "others/moved").exit_code == 0


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("owned",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (Hostile(), "bad.pkl: not a file of tensors in the course's format; nothing in it was run"),
        (torch.zeros(3), "bad.pkl: holds a Tensor where two tensors, (noisy, target), belong"),
        ((torch.zeros(2, 1, 8, 8),) * 2, "bad.pkl: holds float32 tensors where uint8 ones belong"),
        (
            (torch.zeros(2, 1, 8, 9, dtype=torch.uint8),) * 2,
            "bad.pkl: tensors of shape (2, 1, 8, 9) and (2, 1, 8, 9); both must be (N, 3, 32, 32)",
        ),
    ],
)
def test_a_wrong_pickle_is_one_line_before_anything_is_made(here, content, message):
    torch.save(content, here / "bad.pkl")
    result = search("--train-data", "bad.pkl")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {message}")
    assert result.stderr.count("\n") == 1
    assert sorted(file.name for file in here.iterdir()) == ["bad.pkl", "search.yaml"]


def test_a_mistake_in_the_file_is_one_line(here):
    (here / "search.yaml").write_text(SEARCH.replace("values", "valeus"))
    result = search()
    assert (result.exit_code, result.stderr) == (
        2,
        "error: search.yaml: unknown key 'valeus' - did you mean 'values'?\n",
    )
    assert not (here / "out").exists()
