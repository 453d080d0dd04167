"""What a search tries, as its YAML file says it.

    title: Learning rate
    base: configs/report/transpose.yaml      # or the experiment itself
    values:
      optimizer.lr: [0.5, 1, 2, 4, 8, 16]
    seeds: [0, 1, 2]

One point of a search has a value for each entry of `values`; a trial is a point with a seed.
"""

import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from pydantic import Field

from denoise_cli import strict_yaml
from denoise_cli.config import SECTIONS, Experiment, Positive, Section, Seed
from denoise_cli.errors import UsageError
from denoise_cli.nn.arguments import SpecError, show, unknown

Value = str | int | float
"""The label of one of several alternatives, or a number of a range."""

Point = Mapping[str, Value]
"""A value for each entry of `values`."""


class Range(Section):
    """All numbers from `low` to `high`; whole ones where both are written so."""

    low: int | float
    high: int | float
    log: bool = False
    """Whether equal factors are equally likely, instead of equal differences."""


class Settings(Section):
    """A search file."""

    title: str = ""
    """The title of the figure."""
    base: Any
    """The experiment that the values change, or the path of its file: from here, or from the search file."""
    values: dict[str, Any]
    """What to try. By a key of the experiment: a list of values, or a range {low, high, log}. By any other
    name: alternatives {label: {key: value, ...}} that change several keys at once, or none."""
    labels: dict[str, str] = Field(default={})
    """Names for entries of `values`, shown in their place."""
    sampler: Literal["grid", "random", "tpe"] = "grid"
    """grid: every combination. random: `trials` of them. tpe: `trials`, drawn near those that were good."""
    trials: Positive | None = None
    """How many points random and tpe try."""
    prune: bool = False
    """Whether to stop a trial whose PSNR is below the median of earlier ones after as many steps. It is not
    repeated with other seeds then."""
    seeds: list[Seed] = Field(default=[0], min_length=1)
    """Each point is tried with each of these."""


@dataclass(frozen=True)
class Alternatives:
    """A finite axis: by label, the keys that change and their new values."""

    changes_by_label: Mapping[str, Mapping[str, Any]]

    @property
    def distribution(self) -> BaseDistribution:
        return CategoricalDistribution(list(self.changes_by_label))

    @property
    def size(self) -> float:
        return len(self.changes_by_label)

    @property
    def keys(self) -> Sequence[str]:
        return [key for changes in self.changes_by_label.values() for key in changes]

    def changes(self, value: Value) -> Mapping[str, Any]:
        return self.changes_by_label[str(value)]


@dataclass(frozen=True)
class Interval:
    """An axis of numbers: the key that takes them."""

    key: str
    range: Range

    @property
    def distribution(self) -> BaseDistribution:
        low, high = self.range.low, self.range.high
        if isinstance(low, int) and isinstance(high, int):
            return IntDistribution(low, high, log=self.range.log)
        return FloatDistribution(low, high, log=self.range.log)

    @property
    def size(self) -> float:
        low, high = self.range.low, self.range.high
        return high - low + 1 if isinstance(low, int) and isinstance(high, int) else math.inf

    @property
    def keys(self) -> Sequence[str]:
        return [self.key]

    def changes(self, value: Value) -> Mapping[str, Any]:
        return {self.key: value}


Axis = Alternatives | Interval


class Search:
    """A search that can be done: every point that is known beforehand is an experiment that can be trained.

    `settings` as in the file, `base` the experiment that they change, `axes` by the names of `values`. Raises
    SpecError or UsageError.
    """

    def __init__(self, settings: Settings, base: Experiment, source: str) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)  # its news of studies and trials are not ours
        self.settings, self.base, self.source = settings, base, source
        self.axes = {name: _axis(f"values.{name}", name, spec) for name, spec in settings.values.items()}
        self._check()

    def experiment(self, point: Point, seed: int) -> Experiment:
        """The experiment of a trial. Raises UsageError where it cannot be trained."""
        data, source = self.base.dump(), f"{self.source}: with {self.describe(point)}"
        for name, value in point.items():
            for key, new in self.axes[name].changes(value).items():
                data = strict_yaml.replace(data, key, new, SECTIONS, f"{self.source}: values.{name}")
        return Experiment.load({**data, "seed": seed}, source)

    def points(self) -> list[Point]:
        """The points of a grid or of random draws, in order; tpe has none beforehand."""
        if self.settings.sampler == "grid":
            labels = [axis.changes_by_label for axis in self.axes.values() if isinstance(axis, Alternatives)]
            return [dict(zip(self.axes, each, strict=True)) for each in itertools.product(*labels)]
        if self.settings.sampler == "random":
            study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
            points: list[Point] = []
            while len(points) < min(self.settings.trials or 0, self.size):
                point = study.ask(self.distributions).params
                if point not in points:
                    points.append(point)
            return points
        return []

    @property
    def size(self) -> float:
        """How many points there are to choose from."""
        return math.prod(axis.size for axis in self.axes.values())

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        return {name: axis.distribution for name, axis in self.axes.items()}

    def dump(self) -> dict[str, Any]:
        """What makes this search another than one that was begun, as plain data."""
        return {**self.settings.model_dump(mode="json"), "base": self.base.dump()}

    def label(self, name: str) -> str:
        return self.settings.labels.get(name, name)

    def describe(self, point: Point) -> str:
        """`learning rate 4, width 96`; the label alone for alternatives of several keys."""
        return ", ".join(
            text(value) if self._is_named(name) else f"{self.label(name)} {text(value)}"
            for name, value in point.items()
        )

    def _is_named(self, name: str) -> bool:
        return isinstance(self.settings.values[name], Mapping) and isinstance(self.axes[name], Alternatives)

    def _check(self) -> None:
        """Raises SpecError or UsageError for settings that contradict each other, and for bad experiments."""
        settings = self.settings
        if not settings.values:
            raise SpecError("values", "is empty: name a key of the experiment and the values to try")
        for name in settings.labels:
            if name not in settings.values:
                raise SpecError("labels", unknown("entry of values", name, settings.values))
        if len(set(settings.seeds)) < len(settings.seeds):
            raise SpecError("seeds", "repeats itself")
        if (settings.sampler == "grid") != (settings.trials is None):
            need = (
                "takes no trials: it tries everything" if settings.trials else "needs trials, how many to try"
            )
            raise SpecError("sampler", f"{settings.sampler} {need}")
        for name, axis in self.axes.items():
            if settings.sampler == "grid" and isinstance(axis, Interval):
                raise SpecError(f"values.{name}", "a grid needs a list of values; random and tpe take ranges")
        self._check_keys()
        for point in self.points() or self._probes():
            if self.experiment(point, settings.seeds[0]).data.validation is None:
                raise SpecError("base", "has no data.validation, so nothing would tell which trial is better")

    def _check_keys(self) -> None:
        """Raises SpecError for an axis that changes the seed, or what an earlier axis has changed."""
        earlier: list[tuple[list[str], str]] = []
        for name, axis in self.axes.items():
            for key in axis.keys:
                steps = strict_yaml.steps_of(key)
                if steps == ["seed"]:
                    raise SpecError(f"values.{name}", "a trial takes its seed from seeds; list them there")
                for other, where in earlier:
                    if other[: len(steps)] == steps:
                        raise SpecError(f"values.{name}", f"sets {key}, so that values.{where} has no effect")
            earlier += [(strict_yaml.steps_of(key), name) for key in axis.keys]

    def _probes(self) -> list[Point]:
        """Every label and both ends of every range, each with the first values of the others."""
        ends = {
            name: [axis.range.low, axis.range.high]
            if isinstance(axis, Interval)
            else list(axis.changes_by_label)
            for name, axis in self.axes.items()
        }
        first = {name: values[0] for name, values in ends.items()}
        return [{**first, name: value} for name, values in ends.items() for value in values]


def load_search(path: Path, overrides: Sequence[str] = ()) -> Search:
    """The search of a YAML file; `overrides` are `key=value` changes of its base experiment.

    Raises UsageError, one line, for a file that cannot be read and for anything that cannot be tried.
    """
    data = strict_yaml.read(path)
    try:
        settings = Settings.check(data)
        base, source = settings.base, str(path)
        if isinstance(base, str):
            beside = path.parent / base
            base = strict_yaml.read(beside if beside.exists() and not Path(base).exists() else Path(base))
        for assignment in overrides:
            base = strict_yaml.override(base, assignment, SECTIONS)
            source += f" with --set {assignment}"
        named = isinstance(settings.base, str)
        experiment = Experiment.load(base, settings.base if named else f"{source}: base")
        return Search(settings, experiment, source)
    except SpecError as error:
        raise UsageError(f"{path}: {error}") from error


def text(value: Value) -> str:
    """A value as people write it."""
    return value if isinstance(value, str) else f"{value:.4g}"


def _axis(path: str, name: str, spec: Any) -> Axis:
    if isinstance(spec, list):
        if not spec:
            raise SpecError(path, "an empty list; give at least one value")
        return Alternatives(_distinct(path, ((_label(value), {name: value}) for value in spec)))
    if isinstance(spec, Mapping) and spec and all(isinstance(each, Mapping) for each in spec.values()):
        return Alternatives(spec)
    if not isinstance(spec, Mapping):
        raise SpecError(
            path, f"should be a list of values, or a range {{low: 1, high: 10}}, not {show(spec)}"
        )
    found = Range.check(spec, path)
    if not found.low < found.high or (found.log and found.low <= 0):
        raise SpecError(path, f"low must be less than high{', and more than 0 with log' * found.log}")
    return Interval(name, found)


def _label(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value)


def _distinct(path: str, items: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for label, changes in items:
        if label in found:
            raise SpecError(path, f"has {label} twice")
        found[label] = changes
    return found
