"""The run folder of a trial, and its training epoch by epoch."""

from dataclasses import dataclass
from typing import Any

from denoise_cli.runs import RunFolder


@dataclass(frozen=True)
class Epoch:
    """The figures between two validations, an epoch where `validate_every` is null.

    `train_loss`: the mean over its batches, while the network was learning from them. The others are those of
    the validation at its end; `seconds` is the time spent on training since the beginning.
    """

    epoch: float
    train_loss: float
    validation_loss: float
    psnr: float
    seconds: float


class TrialFolder(RunFolder):
    """A run folder without pictures: drawing them after every epoch would take longer than many a trial."""

    def draw(self, *_: Any) -> None:
        pass

    def epochs(self) -> list[Epoch]:
        """What metrics.csv says; a resumed training tells the same as one that was never stopped."""
        found, total, begin, last = [], 0.0, 0, 0
        for row in self._read_metrics():
            step = int(row["step"])
            total += float(row["loss"]) * (step - last)
            last = step
            if row["psnr"]:
                loss, figures = total / (step - begin), ("epoch", "validation_loss", "psnr", "seconds")
                epoch, validation_loss, psnr, seconds = (float(row[name]) for name in figures)
                found.append(Epoch(epoch, loss, validation_loss, psnr, seconds))
                total, begin = 0.0, step
        return found
