"""How commands show what they found: results on stdout, messages on stderr."""

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def results() -> "Console":
    """Stdout. In a file or a pipe nothing is wrapped or cut: lines are as long as they are."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 10_000
    return console


def messages() -> "Console":
    """Stderr: progress, warnings, what is done."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def printable(text: str) -> str:
    """The text in one line: what cannot be printed, as file names may hold, is written as in Python."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def new_table(*columns: str, numbers: tuple[str, ...] = ()) -> "Table":
    """A table whose columns of `numbers` stand to the right and are never cut; the others wrap."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for column in columns:
        if column in numbers:
            table.add_column(column, justify="right", no_wrap=True)
        else:
            table.add_column(column, overflow="fold")
    return table


def print_json(data: Any) -> None:
    """Data for programs, on stdout: in ASCII, which stdout takes whatever its encoding."""
    print(json.dumps(data, indent=2))
