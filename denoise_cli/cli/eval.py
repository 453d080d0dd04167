"""`denoise eval`: how good a model is."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from denoise_cli.cli.options import AsJson, Device, Threads
from denoise_cli.errors import UsageError

if TYPE_CHECKING:
    from denoise_cli.cli.eval_report import Result
    from denoise_cli.denoiser import Denoiser
    from denoise_cli.evaluation import Pair


def evaluate(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A shipped model's name, a run folder or a model file.")
    ],
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Clean pictures to add noise to, or a course file of pairs; if not given, what the model was"
            " validated on.",
            show_default=False,
        ),
    ] = None,
    sigma: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="Noise levels from 0 to 255, like 15,25,50.", show_default=False),
    ] = None,
    clean: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Clean pictures with partners in --noisy.", show_default=False),
    ] = None,
    noisy: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Noisy pictures, named as their partners.", show_default=False),
    ] = None,
    blind: Annotated[
        bool, typer.Option("--blind", help="Tell the model the noise estimated from each picture.")
    ] = False,
    per_image: Annotated[bool, typer.Option("--per-image", help="Show every picture's figures.")] = False,
    compare: Annotated[bool, typer.Option(help="Show published figures for the same set.")] = True,
    as_json: AsJson = False,
    csv: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write every picture's figures to a CSV file.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the results as PNG files.", show_default=False)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files of --csv and --out.")] = False,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Measure a model: PSNR and SSIM of noisy and of denoised pictures.

    Noise is Gaussian, not clipped, the same at every run, as in the published tables.
    """
    import torch

    from denoise_cli.checkpoint import load_model
    from denoise_cli.cli.console import print_json
    from denoise_cli.cli.eval_report import Report
    from denoise_cli.hardware import choose_device

    sigmas = _sigmas(sigma)
    for path in (csv, out):
        if path and path.exists() and not force and (path.is_file() or any(path.iterdir())):
            raise UsageError(f"{path}: exists already: choose another name, or --force to replace it")
    if csv and not csv.parent.is_dir():
        raise UsageError(f"{csv}: the folder {csv.parent} does not exist")
    if threads:
        torch.set_num_threads(threads)
    denoiser = load_model(model, choose_device(device))
    name, sets = _open(denoiser, data=data, clean=clean, noisy=noisy, sigmas=sigmas)
    results = [_measure(denoiser, each, blind=blind, out=out, force=force) for each in sets]
    report = Report(denoiser, name, results, blind=blind, compare=compare)
    if as_json:
        print_json(report.as_data())
    else:
        report.show(per_image=per_image)
    if csv:  # last: the figures are told even where the file cannot be written
        report.write_csv(csv)


@dataclass(frozen=True)
class Set:
    """Pairs to measure on, how many, and the sigma of their noise where it is one and known."""

    sigma: float | None
    pairs: "Iterable[Pair]"
    count: int
    folder: str = ""
    """The folder under --out, where there are several sets."""


def _sigmas(text: str | None) -> list[float]:
    try:
        sigmas = [float(part) for part in text.split(",")] if text is not None else []
    except ValueError:
        sigmas = [math.nan]
    if not all(0 <= sigma <= 255 for sigma in sigmas):
        raise UsageError(f"--sigma {text}: should be numbers from 0 to 255, like 25 or 15,25,50")
    return sigmas


# What is measured ----------------------------------------------------------------------------------------


def _open(
    denoiser: "Denoiser", *, data: Path | None, clean: Path | None, noisy: Path | None, sigmas: list[float]
) -> tuple[str, list[Set]]:
    """The name of what is measured on, and the sets."""
    from denoise_cli.data.pickles import load_pairs
    from denoise_cli.data.sources import picture_files
    from denoise_cli.evaluation import course_pairs, noised_folder, paired_folders

    if (clean is None) != (noisy is None) or (data and clean):
        raise UsageError("name --data PATH, or --clean DIR and --noisy DIR")
    if data is None and clean is None:
        return _validation(denoiser, sigmas)
    if data and data.is_dir():
        if not sigmas:
            raise UsageError(f"{data}: say how much noise to add, like --sigma 15,25,50")
        count, several = len(picture_files(data)), len(sigmas) > 1
        return data.resolve().name, [
            Set(s, noised_folder(data, s), count, f"sigma{s:g}" if several else "") for s in sigmas
        ]
    if len(sigmas) > 1:
        raise UsageError("these pictures are noisy already: give one --sigma at most, that of their noise")
    sigma = sigmas[0] if sigmas else None
    if data:
        return data.name, [Set(sigma, course_pairs(data, sigma), len(load_pairs(data)[0]))]
    assert clean
    assert noisy
    noisy, clean = noisy.resolve(), clean.resolve()
    name = noisy.parent.name if noisy.parent == clean.parent else noisy.name
    return name, [Set(sigma, paired_folders(noisy, clean, sigma), len(picture_files(clean)))]


def _validation(denoiser: "Denoiser", sigmas: list[float]) -> tuple[str, list[Set]]:
    from denoise_cli.evaluation import Pair, standard_noise, validation_pairs

    pairs = validation_pairs(denoiser.meta["experiment"])
    if not pairs:
        raise UsageError(f"{denoiser.meta['name']}: was trained without validation: name --data PATH")
    if not sigmas:
        return "its validation pictures", [Set(None, pairs, len(pairs))]
    several = len(sigmas) > 1
    return "its validation pictures", [
        Set(
            sigma,
            [Pair(p.name, standard_noise(p.clean, sigma), p.clean, sigma) for p in pairs],
            len(pairs),
            f"sigma{sigma:g}" if several else "",
        )
        for sigma in sigmas
    ]


def _measure(denoiser: "Denoiser", each: Set, *, blind: bool, out: Path | None, force: bool) -> "Result":
    from denoise_cli import evaluation
    from denoise_cli.cli.eval_report import Result
    from denoise_cli.images import Picture, write_picture

    scores = []
    files: set[Path] = set()
    with _progress(each.count) as advance:
        for denoised in evaluation.evaluate(denoiser, each.pairs, blind=blind):
            if out:
                file = out / each.folder / _png(denoised.pair.name, files)
                file.parent.mkdir(parents=True, exist_ok=True)
                write_picture(Picture.from_pixels(denoised.pixels), file, force=force)
            scores.append(denoised.score())
            advance()
    return Result(each.sigma, scores, evaluation.summarize(scores))


def _png(name: str, taken: set[Path]) -> Path:
    """The name of a picture as a PNG, which none of `taken` has; it is taken then."""
    file = Path(name).with_suffix(".png")
    while file in taken:  # a.jpg and a.png
        name += ".png"
        file = Path(name)
    taken.add(file)
    return file


@contextmanager
def _progress(total: int) -> Iterator[Any]:
    from rich.progress import Progress

    from denoise_cli.cli.console import messages

    console = messages()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("measuring", total=total)
        yield lambda: progress.advance(task)
