"""`denoise psnr`: how alike two pictures are."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from denoise_cli.cli.options import AsJson

if TYPE_CHECKING:
    from denoise_cli.windows import Pixels


def psnr(
    first: Annotated[Path, typer.Argument(metavar="A", help="A picture.", show_default=False)],
    second: Annotated[
        Path, typer.Argument(metavar="B", help="Another of the same size.", show_default=False)
    ],
    as_json: AsJson = False,
) -> None:
    """Compare two pictures: PSNR and SSIM of the whole and of each channel.

    PSNR is in decibels, and higher is closer. SSIM is 1 for identical pictures. Pictures are compared
    upright, and without alpha.
    """
    from denoise_cli.cli.console import new_table, print_json, results

    rows = _compare(first, second)
    if as_json:
        print_json(rows)
        return
    table = new_table("", "PSNR (dB)", "SSIM", numbers=("PSNR (dB)", "SSIM"))
    for name, row in rows.items():
        decibels = "identical" if row["identical"] else f"{row['psnr']:.2f}"
        table.add_row(name, decibels, "-" if row["ssim"] is None else f"{row['ssim']:.4f}")
    results().print(table)


def _compare(first: Path, second: Path) -> dict[str, dict[str, Any]]:
    """The figures by what they are of; null where there is no number. Raises UsageError for unlike sizes."""
    from denoise_cli.errors import UsageError
    from denoise_cli.images import as_viewed, read_picture

    a, b = (as_viewed(read_picture(path)) for path in (first, second))
    if (a.height, a.width) != (b.height, b.width):
        raise UsageError(
            f"{first} is {a.width} x {a.height} pixels, {second} {b.width} x {b.height}: sizes must be alike"
        )
    if a.channels != b.channels:
        gray, colour = (first, second) if a.channels == 1 else (second, first)
        raise UsageError(f"{gray} is gray, {colour} in colour: convert one of them")
    x, y = a.pixels, b.pixels
    rows = {"whole": _figures(x, y)}
    if a.channels == 3:
        for index, name in enumerate(("red", "green", "blue")):
            rows[name] = _figures(x[..., index : index + 1], y[..., index : index + 1])
    return rows


def _figures(x: "Pixels", y: "Pixels") -> dict[str, Any]:
    """PSNR without rounding, since what comes from files is rounded to their samples already."""
    import math

    from denoise_cli.metrics import decibels, mse, ssim

    error, likeness = decibels(mse(x, y)), ssim(x, y)
    return {
        "psnr": None if math.isinf(error) else error,
        "ssim": None if math.isnan(likeness) else likeness,
        "identical": math.isinf(error),
    }
