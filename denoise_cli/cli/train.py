"""`denoise train`: from a config to a model."""

import json
import shlex
import signal
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from denoise_cli.cli.options import Device, Overrides, Threads, TrainData, ValData
from denoise_cli.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from denoise_cli.config import Experiment
    from denoise_cli.runs import RunFolder


def train(
    config: Annotated[
        Path,
        typer.Option("--config", metavar="FILE", help="The YAML file of an experiment.", show_default=False),
    ],
    overrides: Overrides = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="The run folder; if not given, runs/ and the config's name.",
            show_default=False,
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Start anew in a run folder that is in use.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Carry on the run that stopped in the folder.")
    ] = False,
    init_from: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Start from these weights: a shipped model's name, a run folder or a file.",
            show_default=False,
        ),
    ] = None,
    train_data: TrainData = None,
    val_data: ValData = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Other seeds give other weights and batches.", show_default=False),
    ] = None,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Train a network as a config describes it.

    Models (best and last), metrics, curves and samples go to the run folder.

    Ctrl-C finishes the step and saves what --resume needs.
    """
    import torch

    from denoise_cli.cli.console import messages, results
    from denoise_cli.cli.training_display import training_display
    from denoise_cli.hardware import choose_device
    from denoise_cli.runs import RunFolder
    from denoise_cli.training import fit

    if resume and (force or init_from):
        raise UsageError(f"--resume and {'--force' if force else '--init-from'} exclude each other")
    experiment = _experiment(config, overrides or [], seed, {"train": train_data, "validation": val_data})
    run = RunFolder(out or _default_folder(config))
    if not (resume or force):
        run.refuse_if_used()
    state = run.interrupted() if resume else None
    start = _weights(init_from, experiment, config) if init_from else None
    if threads:
        torch.set_num_threads(threads)

    records = fit(experiment, run, state=state, start=start, device=choose_device(device))
    with closing(records), _Stop() as stop, training_display(run.path.name) as display:
        for record in records:
            display.show(record)
            stop.may_wait = True
            if stop.wanted:
                break
    if stop.wanted:
        command = f"denoise train --config {shlex.quote(str(run.config))} --resume"
        messages().print(
            f"stopped at step {run.interrupted().progress['step']}; carry on with: {command}",
            markup=False,
            soft_wrap=True,
        )
        raise typer.Exit(130)
    results().print(_summary(run), markup=False)


def _experiment(
    config: Path, overrides: list[str], seed: int | None, data: dict[str, Path | None]
) -> "Experiment":
    from denoise_cli.config import load_config

    experiment = load_config(config, overrides)
    more = [] if seed is None else [f"seed={seed}"]
    for section, path in data.items():
        if path is not None:
            more.append(data_override(section, path, getattr(experiment.data, section)))
    return load_config(config, [*overrides, *more]) if more else experiment


def data_override(section: str, path: Path, present: Any) -> str:
    """The KEY=VALUE that puts other data where `present` is: into data.train or data.validation."""
    if not path.exists():
        raise UsageError(f"{path}: no such folder or course file")
    source = "folder" if path.is_dir() else "pickle"
    quoted = json.dumps(str(path), ensure_ascii=False)  # YAML does not join the halves of JSON's \ud83d\udcf7
    if present is not None and present.source == source:
        return f"data.{section}.path={quoted}"
    return f"data.{section}={{source: {source}, path: {quoted}}}"


def _default_folder(config: Path) -> Path:
    """runs/NAME for NAME.yaml; a run's own config.yaml means that run."""
    return config.parent if config.name == "config.yaml" else Path("runs") / config.stem


def _weights(model: str, experiment: "Experiment", config: Path) -> "dict[str, Tensor]":
    from denoise_cli.checkpoint import load_model

    weights = load_model(model).net.state()
    try:
        experiment.build_model().load_state(weights)
    except ValueError as error:
        raise UsageError(f"--init-from {model}: does not fit the model of {config}: {error}") from error
    return weights


def _summary(run: "RunFolder") -> str:
    """The model and its score in one line, and what to do with it in another."""
    from denoise_cli.checkpoint import read_model

    meta = read_model(run.model).meta
    line = f"{run.model}: step {meta['step']}"
    if found := meta.get("validation"):
        line += (
            f", PSNR {found['psnr']:.2f} dB on {found['images']} validation pictures"
            f" (noisy: {found['noisy_psnr']:.2f} dB)"
        )
    return f"{line}\ntry it: denoise image noisy.png clean.png --model {shlex.quote(str(run.path))}"


class _Stop:
    """Ctrl-C and SIGTERM, made to wait for the end of the step; the second one does not wait."""

    def __init__(self) -> None:
        self.wanted = self.may_wait = False

    def __enter__(self) -> "_Stop":
        self._before = {
            number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, *_: object) -> None:
        if self.wanted or not self.may_wait:
            raise KeyboardInterrupt
        self.wanted = True
