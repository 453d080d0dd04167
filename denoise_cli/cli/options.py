"""Options that several commands share, word for word."""

from pathlib import Path
from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]

Threads = Annotated[
    int | None, typer.Option(min=1, help="CPU threads; if not given, one a core.", show_default=False)
]

Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change a value, like optimizer.lr=0.5; may be repeated."
    ),
]

TrainData = Annotated[
    Path | None,
    typer.Option(metavar="PATH", help="Train on this folder or course file instead.", show_default=False),
]

ValData = Annotated[
    Path | None,
    typer.Option(metavar="PATH", help="Validate on this folder or course file instead.", show_default=False),
]
