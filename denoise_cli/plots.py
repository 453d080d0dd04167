"""Pictures of a training: its curves, and sheets that set pictures side by side."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from denoise_cli.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TRAINING, VALIDATION, NOISY = "#1f6f8b", "#d1495b", "#8d99ae"
STYLE: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e3e6eb",
    "axes.axisbelow": True,
    "axes.edgecolor": "#5c677d",
    "axes.labelcolor": "#33415c",
    "xtick.color": "#5c677d",
    "ytick.color": "#5c677d",
    "legend.frameon": False,
    "text.parse_math": False,
}


LETTER, BOLD_LETTER = 0.08, 0.105
"""About how wide a letter is, in a legend and in a title, in inches."""

HANDLE = 7
"""As many letters wide is the sample of a line in a legend, with the space around it."""

MOST_BESIDE = 30
"""A legend is beside its panels where no label has more letters, and below them otherwise."""


@dataclass(frozen=True)
class Curve:
    """A line of a plot: one y for each x."""

    label: str
    x: Sequence[float]
    y: Sequence[float]


def draw_curves(
    path: Path,
    *,
    losses: Sequence[Curve],
    psnrs: Sequence[Curve] = (),
    noisy_psnr: float | None = None,
    title: str = "",
    loss_label: str = "loss",
    x_label: str = "step",
) -> None:
    """Writes a PNG of the losses and, in a second panel, of the PSNR beside that of the noisy input."""
    import matplotlib

    losses, psnrs = [c for c in losses if len(c.x)], [c for c in psnrs if len(c.x)]
    with matplotlib.rc_context(STYLE):
        figure = _figure(5.2 * (1 + bool(psnrs)), 3.9)
        panels = figure.subplots(1, 1 + bool(psnrs), squeeze=False)[0]
        for curve, colour in zip(losses, (TRAINING, VALIDATION, NOISY), strict=False):
            _line(panels[0], curve, colour)
        _log_scale(panels[0], [y for curve in losses for y in curve.y])
        panels[0].set(xlabel=x_label, ylabel=loss_label)
        if losses:
            panels[0].legend()
        for curve in psnrs:
            _line(panels[1], curve, VALIDATION)
        if psnrs:
            if noisy_psnr is not None:
                panels[1].axhline(noisy_psnr, color=NOISY, linestyle="--", linewidth=1.2, label="noisy input")
            panels[1].set(xlabel=x_label, ylabel="PSNR (dB)")
            panels[1].legend()
        if title:
            figure.suptitle(title, color="#33415c", fontweight="bold")
        _save(figure, path)


@dataclass(frozen=True)
class Band:
    """A line of a plot with a band around it: one y, the lowest and the highest, for each x.

    The legend has `remark` behind the label; it has lines without a single x too.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    remark: str = ""


def draw_bands(
    path: Path,
    panels: Mapping[str, Sequence[Band]],
    *,
    title: str = "",
    note: str = "",
    x_label: str = "",
    legend_title: str = "",
) -> None:
    """Writes a PNG of panels side by side, by their y labels; lines of the same place have the same colour.

    Lines whose labels are numbers are coloured in the order of a scale, others in colours that differ most.
    """
    import matplotlib

    with matplotlib.rc_context(STYLE):
        width = 5.2 * len(panels)
        figure = _figure(width, 4.2)
        for axes, (label, bands) in zip(
            figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
        ):
            for band, colour in zip(bands, _colours([band.label for band in bands]), strict=True):
                axes.fill_between(band.x, band.low, band.high, color=colour, alpha=0.18, linewidth=0)
                _line(axes, Curve(f"{band.label}{band.remark}", band.x, band.y), colour)
            _log_scale(axes, [y for band in bands for y in (*band.low, *band.high)])
            axes.set(xlabel=x_label, ylabel=label)
            if any(len(band.x) for band in bands):
                axes.xaxis.get_major_locator().set_params(integer=True)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        labels = [fill(label, int(width / LETTER) - HANDLE) for label in labels]
        longest = max(len(line) for text in [*labels, legend_title] for line in text.split("\n"))
        beside, columns = longest <= MOST_BESIDE, max(1, int(width / LETTER / (longest + HANDLE)))
        if handles and beside:
            figure.legend(handles, labels, title=legend_title or None, loc="outside right upper")
        elif handles:
            # the note comes along: at the foot of the figure it would lie on the legend
            heading = fill("; ".join(filter(None, [legend_title, note])), int(width / LETTER))
            figure.legend(handles, labels, title=heading or None, loc="outside lower center", ncols=columns)
            rows = math.ceil(sum(1 + label.count("\n") for label in labels) / columns)
            figure.set_figheight(4.2 + 0.22 * (rows + heading.count("\n")))
        if title:
            free = width - 0.4 - 2 * LETTER * (longest + HANDLE) * (beside and bool(handles))
            figure.suptitle(fill(title, int(free / BOLD_LETTER)), color="#33415c", fontweight="bold")
        if note and (beside or not handles):
            figure.supxlabel(note, color="#5c677d", fontsize=9)
        _save(figure, path)


def _colours(labels: Sequence[str]) -> Sequence[Any]:
    from matplotlib import colormaps

    try:
        numbers = [float(label) for label in labels]
    except ValueError:
        return [colormaps["tab10"](place % 10) for place in range(len(labels))]
    ranks = [sorted(numbers).index(number) for number in numbers]
    return [colormaps["viridis"](0.9 * rank / max(1, len(labels) - 1)) for rank in ranks]


@dataclass(frozen=True)
class Tile:
    """A picture of a sheet, (H, W, C) in [0, 1], and the line under it."""

    pixels: NDArray[np.floating[Any]]
    caption: str = ""


def draw_sheet(path: Path, rows: Sequence[Sequence[Tile]], *, headings: Sequence[str] = ()) -> None:
    """Writes a PNG of rows of pictures, a heading over each column and a caption under each picture.

    Small pictures are enlarged by a whole number, so that their pixels stay what they are.
    """
    import matplotlib

    tallest = max(tile.pixels.shape[0] for row in rows for tile in row)
    widest = max(tile.pixels.shape[1] for row in rows for tile in row)
    dots = 100
    scale = max(1, 192 // max(tallest, widest))
    cell_width, cell_height = (scale * widest + 14) / dots, (scale * tallest + 30) / dots
    columns = max(len(row) for row in rows)
    top = 0.32 if headings else 0.08
    width, height = cell_width * columns, cell_height * len(rows) + top
    with matplotlib.rc_context(STYLE):
        figure = _figure(width, height, dots, layout=None)
        for r, row in enumerate(rows):
            for c, tile in enumerate(row):
                tile_width, tile_height = (scale * n / dots for n in tile.pixels.shape[1::-1])
                left = c * cell_width + (cell_width - tile_width) / 2
                above = top + r * cell_height
                box = (
                    left / width,
                    1 - (above + tile_height) / height,
                    tile_width / width,
                    tile_height / height,
                )
                axes = figure.add_axes(box)
                axes.imshow(_rgb(tile.pixels), interpolation="nearest", aspect="auto")
                axes.set_axis_off()
                figure.text(
                    (left + tile_width / 2) / width,
                    1 - (above + tile_height + 0.04) / height,
                    tile.caption,
                    ha="center",
                    va="top",
                    color="#33415c",
                    fontsize=9,
                )
        for c, heading in enumerate(headings):
            place = ((c + 0.5) * cell_width / width, 1 - 0.08 / height)
            figure.text(
                *place, heading, ha="center", va="top", color="#33415c", fontsize=10, fontweight="bold"
            )
        _save(figure, path)


def _figure(width: float, height: float, dots: int = 120, layout: str | None = "constrained") -> "Figure":
    # a figure with its own canvas: pyplot would keep it for ever, and look for a display
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=dots, layout=layout)  # type: ignore[arg-type]
    FigureCanvasAgg(figure)
    return figure


def _save(figure: "Figure", path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix.removeprefix("."))


def _line(axes: Any, curve: Curve, colour: str) -> None:
    marker = "o" if len(curve.x) <= 30 else None
    axes.plot(curve.x, curve.y, color=colour, linewidth=1.6, marker=marker, markersize=3.5, label=curve.label)


def _log_scale(axes: Any, values: Sequence[float]) -> None:
    """A logarithmic axis with plain numbers on it, for values that span a factor of 2."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

    values = [value for value in values if math.isfinite(value)]
    if not values or min(values) <= 0 or max(values) < 2 * min(values):
        return
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    if max(values) < 1000 * min(values):
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    low, high = axes.get_ylim()
    if sum(low <= tick <= high for tick in axes.yaxis.get_majorticklocs()) < 3:
        axes.yaxis.set_major_locator(MaxNLocator(5))  # so narrow that even steps do better than 1, 2, 5


def _rgb(pixels: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    clipped: NDArray[np.floating[Any]] = np.clip(pixels, 0, 1)
    return np.repeat(clipped, 3, axis=2) if clipped.shape[2] == 1 else clipped
