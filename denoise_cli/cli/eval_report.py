"""What `denoise eval` found, as tables, JSON and CSV."""

import csv
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.markup import escape

from denoise_cli.cli.console import new_table, results
from denoise_cli.denoiser import Denoiser
from denoise_cli.evaluation import ImageScore, SetScore
from denoise_cli.files import replacing
from denoise_cli.published import published

FIGURES = ("noisy PSNR", "PSNR", "noisy SSIM", "SSIM")


@dataclass(frozen=True)
class Result:
    """The figures of a set whose noise has this sigma, None where it is not one or not known."""

    sigma: float | None
    scores: list[ImageScore]
    total: SetScore


class Report:
    """The figures of a model on one or more sets."""

    def __init__(
        self, denoiser: Denoiser, data: str, results: Sequence[Result], *, blind: bool, compare: bool
    ) -> None:
        self.model, self.data, self.results = str(denoiser.meta["name"]), data, results
        sigmas = [result.sigma for result in results if result.sigma is not None]
        self.published = published(data, sigmas) if compare and len(sigmas) == len(results) else []
        self.estimates = denoiser.noise_level and (blind or None in [result.sigma for result in results])

    # For programs ------------------------------------------------------------------------------------------

    def as_data(self) -> dict[str, Any]:
        """Everything as JSON can hold it; null for a figure that is not finite, as of identical pictures."""
        return {
            "model": self.model,
            "data": self.data,
            "results": [
                {"sigma": result.sigma, **_finite(asdict(result.total))}
                | {"per_image": [_finite(_row(score)) for score in result.scores]}
                for result in self.results
            ],
            "published": [
                {"method": method.name, "paper": method.paper, "psnr": figures}
                for method, figures in self.published
            ],
        }

    def write_csv(self, path: Path) -> None:
        """One row for each picture of each set."""
        with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["set_sigma", "name", "sigma", "noisy_psnr", "psnr", "noisy_ssim", "ssim"])
            for result in self.results:
                for score in result.scores:
                    writer.writerow([result.sigma, *_row(score).values()])

    # For people --------------------------------------------------------------------------------------------

    def show(self, *, per_image: bool) -> None:
        """Prints tables."""
        console = results()
        for result in self.results if per_image else ():
            table = new_table("picture", "sigma", *FIGURES, numbers=("sigma", *FIGURES))
            for score in result.scores:
                table.add_row(escape(score.name), _sigma(score.sigma), *_figures(score))
            console.print(table)
        count = self.results[0].total.images
        pictures = "1 picture" if count == 1 else f"{count} pictures"
        console.print(f"[bold]{escape(self.model)}[/bold] on {escape(self.data)}, {pictures}")
        columns = ["sigma", *FIGURES, "noisy pooled", "pooled PSNR"]
        if self.estimates:
            columns.insert(1, "estimated")
        table = new_table(*columns, numbers=tuple(columns))
        for result in self.results:
            total = result.total
            estimate = (
                [_sigma(_mean([score.sigma or 0 for score in result.scores]))] if self.estimates else []
            )
            pooled = [_decibels(total.noisy_psnr_pooled), _decibels(total.psnr_pooled)]
            table.add_row(_sigma(result.sigma), *estimate, *_figures(total), *pooled)
        console.print(table)
        console.print(
            "PSNR in dB and SSIM are means over the pictures; pooled is the PSNR of one error over them all."
        )
        if self.published:
            self._show_published()

    def _show_published(self) -> None:
        console = results()
        sigmas = [f"{result.sigma:g}" for result in self.results]
        table = new_table("PSNR on the same set, as published", *sigmas, numbers=tuple(sigmas))
        for method, figures in self.published:
            cells = ["" if figure is None else f"{figure:.2f}" for figure in figures]
            table.add_row(f"{method.name} [dim]({method.paper})[/dim]", *cells)
        own = [_decibels(result.total.psnr) for result in self.results]
        table.add_row(f"[bold]{escape(self.model)}[/bold]", *own, style="bold")
        console.print()
        console.print(table)


def _row(score: ImageScore) -> dict[str, Any]:
    return {
        "name": score.name,
        "sigma": score.sigma,
        "noisy_psnr": score.noisy_psnr,
        "psnr": score.psnr,
        "noisy_ssim": score.noisy_ssim,
        "ssim": score.ssim,
    }


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in row.items()
    }


def _figures(score: ImageScore | SetScore) -> list[str]:
    return [
        _decibels(score.noisy_psnr),
        _decibels(score.psnr),
        _similarity(score.noisy_ssim),
        _similarity(score.ssim),
    ]


def _decibels(psnr: float) -> str:
    return "identical" if psnr == math.inf else f"{psnr:.2f}"


def _similarity(ssim: float) -> str:
    return "-" if math.isnan(ssim) else f"{ssim:.4f}"


def _sigma(sigma: float | None) -> str:
    return "-" if sigma is None else f"{sigma:.4g}"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
