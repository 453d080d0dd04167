"""`denoise data`: data sets to train on."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

data = typer.Typer(no_args_is_help=True, help="Make data sets to train on.")


class Pairs(StrEnum):
    """What stands beside a noisy picture."""

    noisy = "noisy"
    clean = "clean"


class Take(StrEnum):
    """Which part of a folder."""

    train = "train"
    holdout = "holdout"


@data.callback()
def _group() -> None:
    """Make data sets to train on."""


@data.command()
def course(
    folder: Annotated[
        Path, typer.Option("--from", metavar="FOLDER", help="Photographs; subfolders count too.")
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="The file to write, like train_data.pkl.")
    ],
    count: Annotated[int, typer.Option("--count", min=1, help="How many pairs.")] = 5000,
    pairs: Annotated[
        Pairs,
        typer.Option("--pairs", help="Noisy-noisy pairs to train on, noisy-clean ones to validate with."),
    ] = Pairs.noisy,
    cell: Annotated[
        int, typer.Option("--cell", min=2, help="Side of a cell, in pixels of the photograph.")
    ] = 6,
    holdout: Annotated[
        float, typer.Option("--holdout", min=0, max=1, help="Fraction of the photographs to hold out.")
    ] = 0.0,
    take: Annotated[
        Take, typer.Option("--take", help="Use the photographs that --holdout leaves, or those it holds out.")
    ] = Take.train,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Other seeds give other pairs.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it exists.")] = False,
) -> None:
    """Make pairs in the course's format: 32 x 32 pictures from photographs cut into cells.

    Of every cell, the noisy picture has one random pixel, the clean one the mean.
    """
    from denoise_cli.cli.console import messages
    from denoise_cli.data.course import course_pairs, save_pairs
    from denoise_cli.data.sources import FolderSource
    from denoise_cli.errors import UsageError

    if out.exists() and not force:  # said before the work, and again by save_pairs after it
        raise UsageError(f"{out}: exists already: choose another name, or --force to replace it")
    if not out.parent.is_dir():
        raise UsageError(f"{out}: the folder {out.parent} does not exist")
    source = FolderSource(path=folder, holdout=holdout, take=take.value)
    made = course_pairs(source, count, second=pairs.value, cell=cell, seed=seed)
    save_pairs(out, made, force=force)
    messages().print(f"{out}: {count} noisy-{pairs.value} pairs", markup=False, soft_wrap=True)
