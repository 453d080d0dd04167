"""What `denoise image` tells on its way, on stderr: a line for every picture, and bars in a terminal."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from denoise_cli.cli.console import messages, printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress


class Display:
    """Lines only."""

    def __init__(self, console: "Console", *, quiet: bool = False) -> None:
        self.console, self.quiet = console, quiet

    def say(self, text: str) -> None:
        """A line of news."""
        if not self.quiet:
            self.warn(text)

    def warn(self, text: str) -> None:
        """A line that is shown even where nothing else is."""
        self.console.print(printable(text), markup=False, soft_wrap=True)

    def begin(self, name: str) -> None:
        """A picture's turn has come."""

    def advance(self, done: int, total: int) -> None:
        """So much of the picture is computed."""

    def finish(self) -> None:
        """A picture is done, one way or another."""


class Bars(Display):
    """Lines above a bar for the picture, and one for all of them where there are several."""

    def __init__(self, progress: "Progress", pictures: int) -> None:
        super().__init__(progress.console)
        self.progress = progress
        self.all = progress.add_task("all pictures", total=pictures) if pictures > 1 else None
        self.one = progress.add_task("", total=None, visible=False)

    def begin(self, name: str) -> None:
        self.progress.reset(self.one, total=None, description=printable(name), visible=True)

    def advance(self, done: int, total: int) -> None:
        self.progress.update(self.one, completed=done, total=total)

    def finish(self) -> None:
        if self.all is not None:
            self.progress.advance(self.all)


@contextmanager
def display(pictures: int, *, quiet: bool) -> Iterator[Display]:
    """Bars in a terminal, lines elsewhere, and warnings alone where it should be quiet."""
    console = messages()
    if quiet or not console.is_terminal:
        yield Display(console, quiet=quiet)
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),  # a [ in a file name is no markup
        BarColumn(bar_width=None),
        TaskProgressColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
    )
    with Progress(*columns, console=console, expand=True, transient=True, refresh_per_second=4) as progress:
        yield Bars(progress, pictures)
