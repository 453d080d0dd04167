"""Who tries what: the trials of a search, shared by all processes that work on it.

The trials are in an Optuna study, in a SQLite file of the search's folder. They are handed out under a lock,
so that no two processes get the same one, and a process that has one holds another lock until it ends. The
operating system frees the locks of a process that dies, however it dies: its trial is then handed out again.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
from filelock import BaseFileLock, FileLock, Timeout
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import URL
from sqlalchemy.exc import SQLAlchemyError

from denoise_cli.config import Experiment
from denoise_cli.data.sources import picture_files
from denoise_cli.errors import DenoiseError, UsageError
from denoise_cli.nn.arguments import SpecError
from denoise_cli.search.folder import TrialFolder
from denoise_cli.search.settings import Point, Search, Settings
from denoise_cli.trainer import flat

Outcome = Literal["complete", "pruned", "diverged"]
OCCUPIED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
MAY_CHANGE = ("title", "labels", "seeds", "trials")
"""The settings that may change when a search goes on, besides the paths of data; seeds and trials may only
become more."""


@dataclass(frozen=True)
class Trial:
    """A trial at work: what it tries and where, and Optuna's handle."""

    handle: optuna.Trial
    point: Point
    seed: int
    folder: TrialFolder
    lock: BaseFileLock

    def report(self, step: int, psnr: float) -> None:
        """Tells the other trials, for pruning."""
        done = self.handle.study.get_trials(deepcopy=False)[self.handle.number].intermediate_values
        if step not in done:
            self.handle.report(psnr, step)

    @property
    def should_stop(self) -> bool:
        return self.handle.should_prune()


@dataclass(frozen=True)
class Known:
    """What the study knows of a trial."""

    number: int
    point: Point
    seed: int
    state: Outcome | Literal["unfinished"]
    folder: TrialFolder


class Trials:
    """The trials in a folder. Raises UsageError where it holds something else, or another search."""

    def __init__(self, search: Search, folder: Path) -> None:
        self.search, self.folder = search, folder
        database = folder / "search.sqlite"
        try:
            if folder.exists() and not _is_ours(folder):
                raise UsageError(f"{folder}: is in use by something else; --out names another folder")
            (folder / "trials").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DenoiseError(f"{folder}: cannot be made ready ({error.strerror or error})") from error
        self.lock = FileLock(folder / "search.lock")
        with self.lock, _readable(database):
            url = URL.create("sqlite", database=str(database))  # with any character that a path may have
            self.storage = optuna.storages.RDBStorage(
                str(url), engine_kwargs={"connect_args": {"timeout": 60}}
            )
            self.study = optuna.create_study(
                study_name="search",
                storage=self.storage,
                direction="maximize",
                load_if_exists=True,
                pruner=optuna.pruners.MedianPruner() if search.settings.prune else optuna.pruners.NopPruner(),
            )
            self._agree()

    def close(self) -> None:
        self.storage.remove_session()
        self.storage.engine.dispose()

    def _agree(self) -> None:
        """Writes down what is searched; raises UsageError where the folder was begun for something else."""
        now = self.search.dump()
        before = self._complete(self.study.user_attrs.get("search", now))
        old, new = flat(before), flat(now)
        for key in sorted(old.keys() | new.keys()):
            free = key.split(".")[0] in MAY_CHANGE or (key.startswith("base.data.") and key.endswith(".path"))
            if not free and old.get(key) != new.get(key):
                raise UsageError(
                    f"{self.folder}: holds a search whose {key} is {old.get(key)}, here it is {new.get(key)};"
                    " --out names another folder"
                )
        if not set(before["seeds"]) <= set(now["seeds"]) or (before["trials"] or 0) > (now["trials"] or 0):
            raise UsageError(f"{self.folder}: holds a search of more seeds or trials; --out names another")
        files = _data_files(self.search.base)
        begun = {**files, **self.study.user_attrs.get("data", {})}
        for section, found in files.items():
            if begun[section] != found:
                raise UsageError(
                    f"{self.folder}: holds a search on other data: {section} had {begun[section]}, here"
                    f" {found}; --out names another folder"
                )
        self.study.set_user_attr("search", now)
        self.study.set_user_attr("data", begun)

    def _complete(self, dump: dict[str, Any]) -> dict[str, Any]:
        """What was written down, with the defaults of keys that came into being later."""
        try:
            settings, base = Settings.check(dump), Experiment.check(dump["base"])
        except SpecError as error:
            raise UsageError(
                f"{self.folder}: holds a search of another version ({error}); --out names another folder"
            ) from error
        return {**settings.model_dump(mode="json"), "base": base.dump()}

    # Handing out --------------------------------------------------------------------------------------------

    @contextmanager
    def claim(self) -> Iterator[Trial | None]:
        """The next trial, the caller's until the block ends; None where nothing is left to hand out.

        A trial that is not finished by then is handed out again, and goes on from what it saved.
        """
        with self.lock:
            trial = self._next()
        try:
            yield trial
        finally:
            if trial:
                trial.lock.release()

    def finish(self, trial: Trial, outcome: Outcome, psnr: float = 0.0) -> None:
        """Says how a trial ended, and the PSNR that a complete one is judged by."""
        with self.lock:  # nobody may find the trial running, and then its lock free
            trial.handle.set_user_attr("outcome", outcome)
            if outcome == "complete":
                self.study.tell(trial.handle, psnr)
            else:
                self.study.tell(trial.handle, state=TrialState.PRUNED)

    def known(self) -> list[Known]:
        """All trials that were begun, in the order of their beginning."""
        found = {_key(each): each for each in self._all() if each.state in OCCUPIED}
        return [
            Known(
                each.number,
                each.params,
                each.user_attrs["seed"],
                "unfinished" if each.state is TrialState.RUNNING else each.user_attrs["outcome"],
                TrialFolder(self.folder / each.user_attrs["folder"]),
            )
            for each in found.values()
            if "folder" in each.user_attrs
        ]

    @property
    def total(self) -> int:
        """How many trials the whole search has, those that pruning will spare included."""
        settings = self.search.settings
        return (len(self.search.points()) or settings.trials or 0) * len(settings.seeds)

    def _all(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def _next(self) -> Trial | None:
        for each in self._all():
            if each.state is TrialState.RUNNING and self._is_abandoned(each):
                self.study.tell(each.number, state=TrialState.FAIL)
        # A trial that waits already was put there by a process that died before it could take it.
        if not any(each.state is TrialState.WAITING for each in self._all()):
            missing = self._missing()
            if missing is None:
                return self._suggestion()
            point, seed = missing
            self.study.enqueue_trial(dict(point), user_attrs={"seed": seed})
        return self._begin(self.study.ask(self.search.distributions))

    def _is_abandoned(self, running: FrozenTrial) -> bool:
        """Whether the process that had a trial is gone."""
        if "folder" not in running.user_attrs:
            return True
        try:
            self._trial_lock(running.user_attrs["folder"]).acquire(blocking=False).lock.release()
        except Timeout:
            return False
        return True

    def _missing(self) -> tuple[Point, int] | None:
        """A point and a seed that nobody has tried or is trying."""
        trials, settings = self._all(), self.search.settings
        taken = {_key(each) for each in trials if each.state in OCCUPIED}
        ended = {_key(each) for each in trials if each.state in (TrialState.COMPLETE, TrialState.PRUNED)}
        given_up = [each.params for each in trials if each.user_attrs.get("outcome") == "pruned"]
        points = [each.params for each in trials if "suggested" in each.user_attrs] or self.search.points()
        for seed in settings.seeds:
            if settings.prune and seed != settings.seeds[0]:  # the first trial says whether there are more
                points = [point for point in points if (_sorted(point), settings.seeds[0]) in ended]
            for point in points:
                if point not in given_up and (_sorted(point), seed) not in taken:
                    return point, seed
        return None

    def _suggestion(self) -> Trial | None:
        """A trial of a point that earlier results make promising; None where there were enough."""
        settings = self.search.settings
        repeated = False
        while settings.sampler == "tpe":
            trials = self._all()
            before = [each.params for each in trials if "suggested" in each.user_attrs]
            if len(before) >= min(settings.trials or 0, self.search.size):
                break
            sampler = optuna.samplers.RandomSampler if repeated else optuna.samplers.TPESampler
            self.study.sampler = sampler(seed=len(trials))
            handle = self.study.ask(self.search.distributions)
            if handle.params not in before:
                handle.set_user_attr("suggested", True)
                handle.set_user_attr("seed", settings.seeds[0])
                return self._begin(handle)
            self.study.tell(handle, state=TrialState.FAIL)
            repeated = True  # what is near the best has been tried: look elsewhere
        return None

    def _begin(self, handle: optuna.Trial) -> Trial:
        """Takes a trial, and the folder of an abandoned one like it."""
        frozen = self._all()[handle.number]
        earlier = [each for each in self._all() if _key(each) == _key(frozen) and "folder" in each.user_attrs]
        name = earlier[-1].user_attrs["folder"] if earlier else f"trials/{handle.number:04d}"
        lock = self._trial_lock(name)
        lock.acquire()
        handle.set_user_attr("folder", name)
        return Trial(handle, frozen.params, frozen.user_attrs["seed"], TrialFolder(self.folder / name), lock)

    def _trial_lock(self, name: str) -> BaseFileLock:
        return FileLock(self.folder / f"{name}.lock")


def _is_ours(folder: Path) -> bool:
    """Whether a folder is empty or a search's, be it one that another process is only just making."""
    names = {file.name for file in folder.iterdir()} if folder.is_dir() else {""}
    return "search.sqlite" in names or names <= {"search.lock", "trials"}


@contextmanager
def _readable(database: Path) -> Iterator[None]:
    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        raise DenoiseError(
            f"{database}: damaged, or not the trials of a search; --out names another folder"
        ) from error


def _data_files(experiment: Experiment) -> dict[str, str]:
    """What the files of `data.train` and `data.validation` hold, wherever they lie.

    For a folder, names and sizes say so: reading all of its pictures would take too long.
    """
    found = {}
    for section in ("train", "validation"):
        path = getattr(getattr(experiment.data, section), "path", None)
        if path is not None and path.is_file():
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            found[f"data.{section}"] = f"{path.stat().st_size} bytes (sha256 {digest[:16]})"
        elif path is not None and path.is_dir():
            sizes = {str(file.relative_to(path)): file.stat().st_size for file in picture_files(path)}
            digest = hashlib.sha256(repr(sizes).encode()).hexdigest()
            found[f"data.{section}"] = f"{len(sizes)} files (sha256 {digest[:16]})"
    return found


def _key(trial: FrozenTrial) -> tuple[tuple[tuple[str, Any], ...], int | None]:
    """What makes two trials the same."""
    return _sorted(trial.params), trial.user_attrs.get("seed")


def _sorted(point: Point) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(point.items()))
