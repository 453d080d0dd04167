"""The folder of a training run. Every file in it is replaced at once or not at all."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from denoise_cli.checkpoint import (
    BEST,
    LAST,
    TrainingState,
    load_training_state,
    save_model,
    save_training_state,
)
from denoise_cli.config import Experiment
from denoise_cli.errors import DenoiseError, UsageError
from denoise_cli.evaluation import Denoised
from denoise_cli.files import replacing
from denoise_cli.metrics import decibels, mse, psnr
from denoise_cli.nn.module import Module
from denoise_cli.plots import Curve, Tile, draw_curves, draw_sheet

Row = dict[str, float]
"""One row of metrics.csv: figures by the name of their column."""

COLUMNS = ("step", "epoch", "loss", "validation_loss", "psnr", "noisy_psnr", "lr", "seconds")


class RunFolder:
    """What a training leaves behind.

    config.yaml         the experiment, every default written out
    best.safetensors    the model of the best validation PSNR
    last.safetensors    the model as it is
    state.safetensors   what `resume` needs
    metrics.csv         one row now and then: losses, PSNR, learning rate, seconds of training
    curves.png          the same as a plot
    samples/            sheets of validation pictures: input, target, result
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.best, self.last, self.state = path / BEST, path / LAST, path / "state.safetensors"
        self.config, self.metrics = path / "config.yaml", path / "metrics.csv"
        self.curves, self.samples = path / "curves.png", path / "samples"
        self.rows: list[dict[str, str]] = []

    @property
    def model(self) -> Path:
        """The model to use: the best, or the last where nothing was validated."""
        return self.best if self.best.exists() else self.last

    # Begin -------------------------------------------------------------------------------------------------

    def refuse_if_used(self) -> None:
        """Raises UsageError where the folder holds something."""
        if self.path.exists() and not self.path.is_dir():
            raise UsageError(f"{self.path}: is a file; --out names another folder")
        if self.path.is_dir() and any(self.path.iterdir()):
            ways = "--resume carries it on, --force starts it anew, " if self.config.exists() else ""
            raise UsageError(f"{self.path}: is in use; {ways}--out names another folder")

    def interrupted(self) -> TrainingState:
        """The state of the run that stopped here. Raises UsageError where there is none."""
        if not self.state.is_file():
            raise UsageError(f"{self.path}: no run to resume here ({self.state.name} is missing)")
        return load_training_state(self.state)

    def begin(self, experiment: Experiment, *, step: int) -> None:
        """Makes the folder ready to go on after `step`: what a run wrote later than that is removed."""
        try:
            self.samples.mkdir(parents=True, exist_ok=True)
            if step == 0:
                sheets = self.samples.glob("step_*.png")
                for file in (self.best, self.last, self.state, self.metrics, self.curves, *sheets):
                    file.unlink(missing_ok=True)
        except OSError as error:
            raise DenoiseError(f"{self.path}: cannot be made ready ({error.strerror or error})") from error
        with replacing(self.config) as temporary:
            temporary.write_text(experiment.to_yaml(), encoding="utf-8")
        self.rows = [row for row in self._read_metrics() if int(row["step"]) <= step]

    def _read_metrics(self) -> list[dict[str, str]]:
        if not self.metrics.is_file():
            return []
        with self.metrics.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        if rows and not all(set(COLUMNS) <= row.keys() and row["step"].isdecimal() for row in rows):
            raise DenoiseError(
                f"{self.metrics}: not the metrics of a run; move it away to resume without them"
            )
        return rows

    # On the way --------------------------------------------------------------------------------------------

    def log(self, row: Row) -> None:
        """Adds a row to metrics.csv."""
        written = {column: f"{row[column]:.7g}" if column in row else "" for column in COLUMNS}
        self.rows.append(written | {"step": f"{row['step']:.0f}"})
        with replacing(self.metrics) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(self.rows)

    def draw(self, step: int, pictures: Sequence[Denoised]) -> None:
        """Draws the curves so far and a sheet of these pictures."""
        draw_curves(
            self.curves,
            losses=[self._curve("loss", "training"), self._curve("validation_loss", "validation")],
            psnrs=[self._curve("psnr", "validation")],
            noisy_psnr=float(self.rows[-1]["noisy_psnr"]),
            title=self.path.name,
        )
        sheet = []
        for each in pictures:
            noisy = f"{decibels(mse(each.pair.noisy, each.pair.clean)):.2f} dB"
            if each.sigma is not None:
                noisy += f", sigma {each.sigma:.3g}"
            result = f"{psnr(each.pixels, each.pair.clean):.2f} dB"
            sheet.append([Tile(each.pair.noisy, noisy), Tile(each.pair.clean), Tile(each.pixels, result)])
        draw_sheet(self.samples / f"step_{step:07d}.png", sheet, headings=["input", "target", "result"])

    def _curve(self, column: str, label: str) -> Curve:
        points = [(int(row["step"]), float(row[column])) for row in self.rows if row[column]]
        return Curve(label, [x for x, _ in points], [y for _, y in points])

    def save_best(self, net: Module, experiment: Experiment, about: Mapping[str, Any]) -> None:
        save_model(self.best, net, experiment, about)

    def save_last(self, net: Module, experiment: Experiment, about: Mapping[str, Any]) -> None:
        save_model(self.last, net, experiment, about)

    def save_state(self, state: TrainingState) -> None:
        save_training_state(self.state, state)
