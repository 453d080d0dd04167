"""What `denoise train` shows on its way, on stderr."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from denoise_cli.cli.console import messages
from denoise_cli.training import StepRecord, ValidationRecord


@contextmanager
def training_display(name: str) -> Iterator["Bar | Lines"]:
    """A progress bar in a terminal, lines elsewhere; both take the records of `fit` in `show`."""
    console = messages()
    if not console.is_terminal:
        yield Lines(console)
        return
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
    )
    with Progress(*columns, console=console, expand=True, refresh_per_second=4) as progress:
        yield Bar(progress, name)


class Bar:
    """A progress bar in a terminal, and a line above it for each validation."""

    def __init__(self, progress: Progress, name: str) -> None:
        self.progress, self.name = progress, name
        self.pace, self.psnr = Pace(), ""
        self.task: TaskID | None = None

    def show(self, record: StepRecord | ValidationRecord) -> None:
        if isinstance(record, ValidationRecord):
            self.psnr = f"{record.psnr:.2f} dB  "
            self.progress.console.print(validated(record), markup=False)
        else:
            self.pace.count(record)
        figures = f"loss {self.pace.loss:.3g}  {self.psnr}{self.pace.pictures_per_second:.0f} pictures/s"
        if self.task is None:
            self.task = self.progress.add_task(self.name, total=record.steps, figures=figures)
        self.progress.update(self.task, completed=record.step, figures=figures)


class Lines:
    """Plain lines where nobody is at a terminal: at the start, now and then, and for each validation."""

    EVERY = 30.0  # seconds

    def __init__(self, console: Console) -> None:
        self.console, self.pace, self.shown = console, Pace(), -self.EVERY

    def show(self, record: StepRecord | ValidationRecord) -> None:
        if isinstance(record, ValidationRecord):
            self.console.print(validated(record), markup=False, soft_wrap=True)
            return
        self.pace.count(record)
        if time.monotonic() - self.shown >= self.EVERY:
            self.shown = time.monotonic()
            self.console.print(self._line(record), markup=False, soft_wrap=True)

    def _line(self, record: StepRecord) -> str:
        left = (record.steps - record.step) * self.pace.seconds_per_step
        return (
            f"step {record.step}/{record.steps}  loss {self.pace.loss:.3g}"
            f"  {self.pace.pictures_per_second:.0f} pictures/s  {duration(left)} left"
        )


class Pace:
    """Running means of loss and speed, over about the last 50 steps."""

    def __init__(self) -> None:
        self.steps, self.loss, self.seconds_per_step, self.pictures_per_second = 0, 0.0, 0.0, 0.0

    def count(self, record: StepRecord) -> None:
        self.steps += 1
        share = 1 / min(self.steps, 50)
        self.loss += share * (record.loss - self.loss)
        self.seconds_per_step += share * (record.seconds - self.seconds_per_step)
        self.pictures_per_second = record.pictures / self.seconds_per_step


def validated(record: ValidationRecord) -> str:
    best = ", the best so far" if record.best else ""
    return f"step {record.step}: PSNR {record.psnr:.2f} dB (noisy: {record.noisy_psnr:.2f} dB){best}"


def duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
