"""The work on a search, one trial after the other."""

import math
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch

from denoise_cli.search.results import write_results
from denoise_cli.search.settings import Search
from denoise_cli.search.trials import Outcome, Trial, Trials
from denoise_cli.training import DivergedError, ValidationRecord, fit


@dataclass(frozen=True)
class Finished:
    """A trial that has ended: what was tried, how it ended, and its best PSNR."""

    label: str
    outcome: Outcome
    psnr: float
    done: int
    total: int


def run_search(search: Search, folder: Path, *, device: str | torch.device = "cpu") -> Generator[Finished]:
    """Trains what is left to try, and tells of every trial that has ended.

    Any number of processes may do so at once, and again after some were stopped. The tables of the folder are
    written after every trial. Raises UsageError where the folder holds something else.
    """
    with closing(Trials(search, folder)) as trials:
        while True:
            with trials.claim() as trial:
                if trial is None:
                    return
                outcome = _train(trial, search, device)
                psnr = max((each.psnr for each in trial.folder.epochs()), default=math.nan)
                if not math.isfinite(psnr):
                    outcome = "diverged"
                trials.finish(trial, outcome, psnr)
            with trials.lock:
                write_results(trials)
            done = sum(each.state != "unfinished" for each in trials.known())
            label = f"{search.describe(trial.point)}, seed {trial.seed}"
            yield Finished(label, outcome, psnr, done, trials.total)


def _train(trial: Trial, search: Search, device: str | torch.device) -> Outcome:
    experiment = search.experiment(trial.point, trial.seed)
    state = trial.folder.interrupted() if trial.folder.state.exists() else None
    try:
        with closing(fit(experiment, trial.folder, state=state, device=device)) as records:
            for record in records:
                if isinstance(record, ValidationRecord) and math.isfinite(record.psnr):
                    trial.report(record.step, record.psnr)
                    # a point worth repeating is repeated to the end, or its spread would be a lie
                    if trial.seed == search.settings.seeds[0] and trial.should_stop:
                        return "pruned"
    except DivergedError:
        return "diverged"
    return "complete"
