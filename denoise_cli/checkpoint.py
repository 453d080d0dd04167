"""Models and interrupted trainings as safetensors files.

A model file holds the weights and, as JSON in its metadata, the experiment that made them, its noise, step,
time and scores: nothing else is needed to use it. A training state holds in one file all that decides how a
training goes on. Nothing is ever unpickled.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import as_file, files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from denoise_cli.config import Experiment
from denoise_cli.denoiser import Denoiser
from denoise_cli.errors import DenoiseError, UsageError
from denoise_cli.files import replacing
from denoise_cli.nn.arguments import unknown
from denoise_cli.nn.module import Module

VERSION = 1
MODEL, STATE = "model", "training state"
BEST, LAST = "best.safetensors", "last.safetensors"
SUFFIX = ".safetensors"


# Models -------------------------------------------------------------------------------------------------


def save_model(
    path: Path,
    net: Module,
    experiment: Experiment,
    extra: Mapping[str, Any],
    dtype: torch.dtype | None = None,
) -> None:
    """Writes a model file, at once or not at all.

    `extra`: what else is known of it, as JSON can hold it (step, seconds, scores ...). `dtype`: that of the
    weights on the disk; torch.float16 halves the file. Raises DenoiseError where it cannot be written.
    """
    state = {
        name: tensor.to(dtype=dtype) if tensor.is_floating_point() else tensor
        for name, tensor in net.state().items()
    }
    _write(path, MODEL, state, experiment, {"noise": experiment.dump()["data"]["noise"], **extra})


def load_model(name_or_path: str | Path, device: str | torch.device = "cpu") -> Denoiser:
    """A shipped model by its name, a run folder's best model (its last where none was validated), or a file.

    Raises UsageError where there is no such model, DenoiseError where the file is not a model.
    """
    with find_model(name_or_path) as path:
        return read_model(path, device)


def read_model(path: Path, device: str | torch.device = "cpu") -> Denoiser:
    """The model of a file. Its `meta` holds name, file, experiment and the `extra` it was saved with."""
    state, experiment, extra = _read(path, MODEL)
    net = experiment.build_model()
    try:
        net.load_state(state)
    except ValueError as error:
        raise DenoiseError(f"{path}: its weights do not fit its own config: {error}") from error
    name = path.parent.name if path.name in (BEST, LAST) else path.stem
    return Denoiser(
        net.train(False).to(device=device),
        channels=experiment.input.channels,
        noise_level=experiment.input.noise_level,
        estimator=experiment.input.estimator,
        meta={**extra, "name": name, "file": str(path), "experiment": experiment},
    )


def shipped_models() -> dict[str, Traversable]:
    """The models that come with the package, by name."""
    found = {
        file.name.removesuffix(SUFFIX): file
        for file in files("denoise_cli.models").iterdir()
        if file.name.endswith(SUFFIX)
    }
    return {name: found[name] for name in sorted(found)}


@contextmanager
def find_model(name_or_path: str | Path) -> Iterator[Path]:
    """The model file that a user means. Raises UsageError as `load_model`."""
    text, path = str(name_or_path), Path(name_or_path)
    shipped = shipped_models()
    if text in shipped:
        with as_file(shipped[text]) as file:
            yield file
    elif path.is_dir():
        found = [path / name for name in (BEST, LAST) if (path / name).is_file()]
        if not found:
            raise UsageError(f"{path}: a folder without a model ({BEST} or {LAST})")
        yield found[0]
    elif path.exists():
        yield path
    elif path.suffix == SUFFIX or len(path.parts) > 1:
        raise UsageError(f"{path}: no such model file or run folder")
    else:
        raise UsageError(
            f"{unknown('model', text, shipped)} (a run folder or a {SUFFIX} file may be given too)"
        )


# Trainings ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainingState:
    """All that decides how a training goes on: batches and dropout are functions of the seed and the step.

    `tensors`: weights, their moving average and what the optimizer keeps, each under its own prefix.
    `progress`: step, best score and so on, as JSON can hold them.
    """

    experiment: Experiment
    tensors: Mapping[str, Tensor]
    progress: Mapping[str, Any]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors under a prefix, without it."""
        start = f"{prefix}."
        return {name.removeprefix(start): t for name, t in self.tensors.items() if name.startswith(start)}


def save_training_state(path: Path, state: TrainingState) -> None:
    """Writes a training state, at once or not at all."""
    _write(path, STATE, state.tensors, state.experiment, state.progress)


def load_training_state(path: Path) -> TrainingState:
    """The state that `save_training_state` wrote. Raises UsageError, DenoiseError as `load_model` does."""
    tensors, experiment, progress = _read(path, STATE, dtype=None)
    return TrainingState(experiment, tensors, progress)


# The file -----------------------------------------------------------------------------------------------


def _write(
    path: Path, kind: str, tensors: Mapping[str, Tensor], experiment: Experiment, meta: Mapping[str, Any]
) -> None:
    # copies, because the format allows neither strides nor tensors that share memory
    contiguous = {name: tensor.to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    header = {
        "denoise": f"{kind} {VERSION}",
        "experiment": json.dumps(experiment.dump()),
        "meta": json.dumps(meta),
    }
    with replacing(path) as temporary:
        temporary.write_bytes(save(contiguous, metadata=header))


def _read(
    path: Path, kind: str, dtype: torch.dtype | None = torch.float32
) -> tuple[dict[str, Tensor], Experiment, dict[str, Any]]:
    """Tensors (floating ones as `dtype`), experiment and meta of a file of this kind."""
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except SafetensorError as error:
        raise DenoiseError(f"{path}: not a {kind} of denoise: damaged, or another kind of file") from error
    except OSError as error:
        raise DenoiseError(f"{path}: cannot be read ({error.strerror or error})") from error
    found, _, version = header.get("denoise", "").rpartition(" ")
    if found != kind:
        raise DenoiseError(f"{path}: not a {kind} of denoise{f', but a {found}' if found else ''}")
    if version != str(VERSION):
        raise DenoiseError(
            f"{path}: its format is {version}, this denoise reads {VERSION}: install a newer denoise"
        )
    try:
        experiment = Experiment.load(json.loads(header["experiment"]), str(path))
        meta = json.loads(header["meta"])
    except UsageError as error:
        raise DenoiseError(str(error)) from error
    except (KeyError, ValueError) as error:
        raise DenoiseError(f"{path}: not a {kind} of denoise: its description is damaged") from error
    return (
        {name: t.to(dtype=dtype) if t.is_floating_point() else t for name, t in tensors.items()},
        experiment,
        meta,
    )
