"""`denoise search`: try values, over several seeds, and keep the best config."""

import math
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from denoise_cli.cli.options import Device, TrainData, ValData
from denoise_cli.errors import DenoiseError
from denoise_cli.processes import end_with_parent

if TYPE_CHECKING:
    import torch

    from denoise_cli.search import Score, Search


def search(
    config: Annotated[
        Path, typer.Option("--config", metavar="FILE", help="The YAML file of a search.", show_default=False)
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="DIR", help="The search's folder; the same one carries on a search.", show_default=False
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change a value of the base experiment, like train.epochs=5; may be repeated.",
        ),
    ] = None,
    train_data: TrainData = None,
    val_data: ValData = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that try values at the same time.")] = 1,
    device: Device = "auto",
    threads: Annotated[
        int | None,
        typer.Option(
            min=1, help="CPU threads of a worker; if not given, the cores are shared.", show_default=False
        ),
    ] = None,
) -> None:
    """Search for good values, by a grid, at random, or by a sampler that learns.

    Writes results.csv, epochs.csv, best.yaml for `denoise train`, and a figure of the losses.

    A search that was stopped goes on with the same command; several may work in one folder at once.
    """
    from contextlib import closing

    from denoise_cli.cli.console import messages
    from denoise_cli.cli.train import data_override
    from denoise_cli.config import PickleData
    from denoise_cli.data.pickles import load_pairs
    from denoise_cli.hardware import choose_device
    from denoise_cli.search import Trials, draw_results, load_search, scores, write_results

    found, changes = load_search(config, overrides or []), list(overrides or [])
    for section, path in {"train": train_data, "validation": val_data}.items():
        if path is not None:
            changes.append(data_override(section, path, getattr(found.base.data, section)))
    found = load_search(config, changes)
    for source in (found.base.data.train, found.base.data.validation):
        if isinstance(source, PickleData):
            load_pairs(source.path)  # what is wrong with them is told before a folder is made
    chosen = choose_device(device)
    with closing(Trials(found, out)) as trials:
        try:
            with _termination_as_interrupt():
                _work_together(found, out, workers, chosen, threads)
        except KeyboardInterrupt:
            messages().print("stopped; the same command carries on", markup=False)
            raise typer.Exit(130) from None
        with trials.lock:
            write_results(trials)
            draw_results(trials)
        _show(found, out, scores(trials))


def _work_together(
    search: "Search", folder: Path, workers: int, device: "torch.device", threads: int | None
) -> None:
    """So many processes work on the search, this one where that is 1. Raises DenoiseError if one fails."""
    import multiprocessing

    import torch

    threads = threads or max(1, torch.get_num_threads() // workers)
    if workers == 1:
        _work(search, folder, str(device), threads)
        return
    context = multiprocessing.get_context("spawn")  # forked processes cannot use CUDA, nor threads safely
    processes = [
        context.Process(target=_work_alone, args=(search, folder, str(device), threads))
        for _ in range(workers)
    ]
    try:
        for process in processes:
            process.start()
        for process in processes:
            process.join()
    finally:
        for process in processes:
            if process.is_alive():
                process.terminate()
                process.join()
    if failed := sum(process.exitcode != 0 for process in processes):
        raise DenoiseError(f"{failed} of {workers} workers failed; the same command carries on")


def _work_alone(search: "Search", folder: Path, device: str, threads: int) -> None:
    """What a worker process does."""
    from denoise_cli.cli.console import messages

    end_with_parent()
    try:
        with _termination_as_interrupt():
            _work(search, folder, device, threads)
    except KeyboardInterrupt:
        sys.exit(130)
    except DenoiseError as error:
        messages().print(f"error: {error}", markup=False, soft_wrap=True)
        sys.exit(error.exit_code)


@contextmanager
def _termination_as_interrupt() -> Iterator[None]:
    """Inside, SIGTERM does what Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _work(search: "Search", folder: Path, device: str, threads: int) -> None:
    import torch

    from denoise_cli.cli.console import messages
    from denoise_cli.search import run_search

    torch.set_num_threads(threads)
    for each in run_search(search, folder, device=device):
        figure = f"{each.psnr:.2f} dB" if math.isfinite(each.psnr) else ""
        state = each.outcome if each.outcome != "complete" else ""
        told = ", ".join(part for part in (figure, state) if part)
        messages().print(f"{each.done}/{each.total}  {each.label}: {told}", markup=False, soft_wrap=True)


def _show(search: "Search", folder: Path, scores: "list[Score]") -> None:
    """The table of all points, and what to do with the best."""
    from denoise_cli.cli.console import new_table, results

    numbers = ("PSNR (dB)", "spread", "trials", "seconds")
    table = new_table(*(search.label(name) for name in search.axes), *numbers, numbers=numbers)
    for score in scores:
        table.add_row(*_row(search, score))
    results().print(table)
    best = folder / "best.yaml"
    if best.exists():
        results().print(f"the best: denoise train --config {shlex.quote(str(best))}", markup=False)


def _row(search: "Search", score: "Score") -> list[str]:
    from denoise_cli.search.settings import text

    def number(value: float, digits: int) -> str:
        return f"{value:.{digits}f}" if math.isfinite(value) else "-"

    values: list[Any] = [text(score.point[name]) for name in search.axes]
    complete = f"{len(score.psnrs)} of {len(score.trials)}"
    return [*values, number(score.psnr, 2), number(score.spread, 2), complete, number(score.seconds, 1)]
