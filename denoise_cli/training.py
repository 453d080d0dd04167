"""Training: batches go in, records come out, and a run folder keeps what is worth keeping.

    for record in fit(experiment, RunFolder(Path("runs/mine"))):
        ...

Everything follows from the experiment: the starting weights from its seed, batches and dropout from the seed
and the step. A training that was stopped and taken up again ends with the same bits as one that was not.
"""

from collections.abc import Generator, Mapping
from contextlib import closing

import torch
from torch import Tensor

from denoise_cli.checkpoint import TrainingState
from denoise_cli.config import Experiment
from denoise_cli.data.prefetching import sent_ahead
from denoise_cli.errors import DenoiseError
from denoise_cli.runs import RunFolder
from denoise_cli.trainer import NotFiniteError, StepRecord, Trainer, ValidationRecord

__all__ = ["DivergedError", "StepRecord", "ValidationRecord", "fit"]


class DivergedError(DenoiseError):
    """A training whose loss or weights stopped being finite."""


def fit(
    experiment: Experiment,
    run: RunFolder,
    *,
    state: TrainingState | None = None,
    start: Mapping[str, Tensor] | None = None,
    device: str | torch.device = "cpu",
) -> Generator[StepRecord | ValidationRecord]:
    """Trains, and tells of every step and every validation.

    `run`: the folder for models, metrics, curves and the state to resume from. `state`: where an interrupted
    training of this experiment goes on. `start`: weights to begin with, instead of those that follow from the
    seed. Whoever closes the generator leaves a state to resume from.

    Raises DivergedError for a loss that is not finite, after saving the last weights that gave one that was.
    """
    trainer = Trainer(experiment, device=device, start=start)
    if state:
        trainer.load_state(state)
    run.begin(experiment, step=trainer.step)
    try:
        yield from _train(trainer, run)
    except NotFiniteError as error:
        run.save_last(trainer.net, experiment, trainer.about)
        raise DivergedError(
            f"{error}; the last good weights are in {run.last}; a lower optimizer.lr or a train.clip may help"
        ) from None


def _train(trainer: Trainer, run: RunFolder) -> Generator[StepRecord | ValidationRecord]:
    batches = sent_ahead(trainer.batches.prefetch(trainer.step, trainer.steps), trainer.device)
    try:
        with closing(batches):
            while True:
                if trainer.validation_due:
                    record, pictures = trainer.validate()
                    run.log(trainer.row(record))
                    run.draw(trainer.step, pictures)
                    if record.best:
                        run.save_best(trainer.model, trainer.experiment, trainer.about)
                    yield record
                elif trainer.row_due:
                    run.log(trainer.row())
                if trainer.step == trainer.steps:
                    break
                if trainer.save_due:
                    save(run, trainer)
                yield trainer.train_step(next(batches))
    except GeneratorExit:
        save(run, trainer)
        raise
    save(run, trainer)


def save(run: RunFolder, trainer: Trainer) -> None:
    """Writes the model as it is and the state to resume from; raises NotFiniteError for bad weights."""
    trainer.check_weights()
    run.save_last(trainer.model, trainer.experiment, trainer.about)
    run.save_state(trainer.state())
