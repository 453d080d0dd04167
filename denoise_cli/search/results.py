"""What came of a search: tables, the best config, and the figure."""

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np

from denoise_cli.files import replacing
from denoise_cli.plots import Band, draw_bands
from denoise_cli.search.folder import Epoch
from denoise_cli.search.settings import Point, Search, text
from denoise_cli.search.trials import Known, Trials

RESULTS, EPOCHS, BEST, FIGURE = "results.csv", "epochs.csv", "best.yaml", "losses.png"
MOST_LINES = 10


@dataclass(frozen=True)
class Score:
    """A point's trials taken together. PSNR is that of a trial's best epoch, as of its best model."""

    point: Point
    trials: Sequence[Known]
    epochs: Sequence[Sequence[Epoch]]

    @property
    def psnrs(self) -> list[float]:
        """Of the complete trials whose epochs are still there."""
        return [
            max(epoch.psnr for epoch in epochs)
            for trial, epochs in zip(self.trials, self.epochs, strict=True)
            if trial.state == "complete" and epochs
        ]

    @property
    def psnr(self) -> float:
        """The mean; -inf where no trial is complete."""
        return fmean(self.psnrs) if self.psnrs else -math.inf

    @property
    def spread(self) -> float:
        """The standard deviation over seeds; nan for fewer than two."""
        return stdev(self.psnrs) if len(self.psnrs) > 1 else math.nan

    @property
    def diverged(self) -> list[Sequence[Epoch]]:
        """The epochs of the trials that diverged, as far as they came."""
        both = zip(self.trials, self.epochs, strict=True)
        return [epochs for trial, epochs in both if trial.state == "diverged"]

    @property
    def seconds(self) -> float:
        """Time spent on training in one trial, on average."""
        return fmean(epochs[-1].seconds for epochs in self.epochs if epochs) if any(self.epochs) else math.nan


def scores(trials: Trials) -> list[Score]:
    """Every point that was tried, the best one first: of those with the most complete trials."""
    by_point: dict[Any, list[Known]] = {}
    for each in trials.known():
        by_point.setdefault(tuple(sorted(each.point.items())), []).append(each)
    found = [
        Score(group[0].point, group, [each.folder.epochs() for each in group]) for group in by_point.values()
    ]
    return sorted(found, key=lambda score: (len(score.psnrs), score.psnr), reverse=True)


def write_results(trials: Trials) -> None:
    """Writes results.csv, a row a trial; epochs.csv, a row an epoch of a trial; and best.yaml."""
    search, folder = trials.search, trials.folder
    known = trials.known()
    _write_csv(folder / RESULTS, [_result(search, each) for each in known])
    _write_csv(folder / EPOCHS, [row for each in known for row in _epochs(search, each)])
    best = next((score for score in scores(trials) if score.psnrs), None)
    if best:
        experiment = search.experiment(best.point, search.settings.seeds[0])
        with replacing(folder / BEST) as temporary:
            temporary.write_text(experiment.to_yaml(), encoding="utf-8")


def _what(search: Search, trial: Known) -> dict[str, Any]:
    values = {name: text(trial.point[name]) for name in search.axes}
    return {"trial": trial.number, **values, "seed": trial.seed}


def _result(search: Search, trial: Known) -> dict[str, Any]:
    row = {**_what(search, trial), "state": trial.state}
    epochs = trial.folder.epochs()
    if not epochs:
        names = ("epochs", "train_loss", "validation_loss", "lowest_validation_loss", "psnr", "best_psnr")
        return row | dict.fromkeys((*names, "seconds", "folder"), "") | {"folder": trial.folder.path.name}
    last = epochs[-1]
    return row | {
        "epochs": f"{last.epoch:g}",
        "train_loss": f"{last.train_loss:.6g}",
        "validation_loss": f"{last.validation_loss:.6g}",
        "lowest_validation_loss": f"{min(epoch.validation_loss for epoch in epochs):.6g}",
        "psnr": f"{last.psnr:.3f}",
        "best_psnr": f"{max(epoch.psnr for epoch in epochs):.3f}",
        "seconds": f"{last.seconds:.4g}",
        "folder": trial.folder.path.name,
    }


def _epochs(search: Search, trial: Known) -> Iterable[dict[str, Any]]:
    for each in trial.folder.epochs():
        yield _what(search, trial) | {
            "epoch": f"{each.epoch:g}",
            "train_loss": f"{each.train_loss:.6g}",
            "validation_loss": f"{each.validation_loss:.6g}",
            "psnr": f"{each.psnr:.3f}",
        }


def _write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else [])
        writer.writeheader()
        writer.writerows(rows)


# The figure -------------------------------------------------------------------------------------------------


def draw_results(trials: Trials) -> None:
    """Draws the losses by epoch: a line for each point, the mean of its seeds in a band of all of them."""
    search = trials.search
    shown = [score for score in scores(trials) if any(score.epochs) or score.diverged]
    title = search.settings.title or Path(search.source).stem
    if len(shown) > MOST_LINES:
        title += f" (the {MOST_LINES} best of {len(shown)})"
    order = {tuple(point.items()): place for place, point in enumerate(search.points())}
    shown = sorted(shown[:MOST_LINES], key=lambda score: order.get(tuple(score.point.items()), 0))
    seeds = max((len(score.trials) for score in shown), default=0)
    note = f"line: mean of {seeds} seeds, band: lowest to highest" if seeds > 1 else ""
    noisy = " (noisy targets)" if search.base.data.pairing == "noise2noise" else ""
    draw_bands(
        trials.folder / FIGURE,
        {
            f"train loss{noisy}": [_band(search, score, "train_loss") for score in shown],
            f"test loss{noisy and ' (clean targets)'}": [
                _band(search, score, "validation_loss") for score in shown
            ],
        },
        title=title,
        note=note,
        x_label="epoch",
        legend_title=search.label(next(iter(search.axes))) if len(search.axes) == 1 else "",
    )


def _band(search: Search, score: Score, figure: str) -> Band:
    """The mean, the lowest and the highest figure over a point's trials, epoch by epoch.

    It ends where the first of them diverged: a mean of the others would look as if nothing had happened.
    """
    end = min((len(epochs) for epochs in score.diverged), default=None)
    by_epoch: dict[float, list[float]] = {}
    for epochs in score.epochs:
        for each in epochs[:end]:
            by_epoch.setdefault(each.epoch, []).append(getattr(each, figure))
    x = sorted(by_epoch)
    alone = len(search.axes) == 1
    return Band(
        text(next(iter(score.point.values()))) if alone else search.describe(score.point),
        x,
        [float(np.mean(by_epoch[epoch])) for epoch in x],
        [min(by_epoch[epoch]) for epoch in x],
        [max(by_epoch[epoch]) for epoch in x],
        remark=f" ({len(score.diverged)} of {len(score.trials)} diverged)" if score.diverged else "",
    )
