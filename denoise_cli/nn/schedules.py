"""Schedules: the learning rate's factor over a run, in [0, 1].

A schedule is a function of the step alone, `schedule(step, steps)` with `step` counted from 0: nothing to
save, nothing to restore.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Schedule(ABC):
    """A linear rise over the first `warmup` steps, the last of them at 1, then the schedule's own curve."""

    yaml_name: ClassVar[str] = ""

    warmup: int = 0

    def __post_init__(self) -> None:
        if self.warmup < 0:
            raise ValueError(f"warmup must not be negative, got {self.warmup}")

    def __call__(self, step: int, steps: int) -> float:
        """The factor for step `step` of `steps`."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        return self.curve(min(1.0, (step - self.warmup) / max(1, steps - self.warmup)))

    @abstractmethod
    def curve(self, progress: float) -> float:
        """The factor where `progress`, from 0 to 1, of the steps after the warmup are done."""


@dataclass(frozen=True)
class Constant(Schedule):
    """1."""

    yaml_name = "constant"

    def curve(self, progress: float) -> float:
        return 1.0


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine from 1 to `final`: final + (1 - final) * (1 + cos(pi t)) / 2 (arXiv:1608.03983)."""

    yaml_name = "cosine"

    final: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.final <= 1:
            raise ValueError(f"final must be in [0, 1], got {self.final}")

    def curve(self, progress: float) -> float:
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * progress)) / 2


@dataclass(frozen=True)
class Trapezoid(Schedule):
    """1, then straight down to 0 over the last `decay` of the steps (a fraction; arXiv:2405.18392)."""

    yaml_name = "trapezoid"

    decay: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.decay <= 1:
            raise ValueError(f"decay must be in (0, 1], got {self.decay}")

    def curve(self, progress: float) -> float:
        return min(1.0, (1 - progress) / self.decay)


SCHEDULES: dict[str, type[Schedule]] = {cls.yaml_name: cls for cls in (Constant, Cosine, Trapezoid)}
