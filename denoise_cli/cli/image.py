"""`denoise image`: noisy pictures in, clean ones out."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from denoise_cli.cli.options import AsJson
from denoise_cli.errors import UsageError

if TYPE_CHECKING:
    from denoise_cli.cli.image_work import Report
    from denoise_cli.windows import Source

LOOK, FILES, COMPUTING = "How much", "Files", "Computing"
_NAMES = 5
"""So many files that are passed over are named."""


def image(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="IN... OUT",
            help="Pictures, folders of them or patterns, and at last the output: a file, or a folder for"
            " several. - is stdin or stdout.",
            show_default=False,
        ),
    ],
    strength: Annotated[
        float,
        typer.Option(
            help="0 changes nothing, 1 is the model's answer, up to 2 cleans more.", rich_help_panel=LOOK
        ),
    ] = 1.0,
    luma: Annotated[
        float | None,
        typer.Option(help="Strength for brightness alone.", show_default=False, rich_help_panel=LOOK),
    ] = None,
    chroma: Annotated[
        float | None,
        typer.Option(help="Strength for colour alone.", show_default=False, rich_help_panel=LOOK),
    ] = None,
    sigma: Annotated[
        float | None,
        typer.Option(
            help="The noise level on the 0-255 scale; if not given, it is measured.",
            show_default=False,
            rich_help_panel=LOOK,
        ),
    ] = None,
    sigma_map: Annotated[
        Path | None,
        typer.Option(
            metavar="MASK",
            help="A gray picture of the same size: white has the full noise level, black stays untouched.",
            show_default=False,
            rich_help_panel=LOOK,
        ),
    ] = None,
    ensemble: Annotated[
        bool,
        typer.Option(
            "--ensemble", help="The mean over eight flips and turns: a little better.", rich_help_panel=LOOK
        ),
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="A shipped model's name, a run folder or a model file; photo if not given.",
            show_default=False,
            rich_help_panel=LOOK,
        ),
    ] = None,
    self_taught: Annotated[
        bool,
        typer.Option(
            "--self",
            help="No model: learn from the picture itself, whatever its noise.",
            rich_help_panel=LOOK,
        ),
    ] = False,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="For --self.", rich_help_panel=LOOK)] = 0,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Folders in folders too.", rich_help_panel=FILES)
    ] = False,
    suffix: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="No OUT: write beside each input, with this added to its name, like _clean.",
            show_default=False,
            rich_help_panel=FILES,
        ),
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="png, jpeg, webp, tiff or bmp, where OUT does not tell; if not given, that of the input.",
            show_default=False,
            rich_help_panel=FILES,
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace outputs that exist.", rich_help_panel=FILES)
    ] = False,
    skip_existing: Annotated[
        bool,
        typer.Option("--skip-existing", help="Leave out inputs whose output exists.", rich_help_panel=FILES),
    ] = False,
    compare: Annotated[
        Path | None,
        typer.Option(
            metavar="SHEET",
            help="Also write a sheet: before, after, and a part of each enlarged.",
            show_default=False,
            rich_help_panel=FILES,
        ),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            metavar="CLEAN",
            help="The true picture, for PSNR on the sheet.",
            show_default=False,
            rich_help_panel=FILES,
        ),
    ] = None,
    tile: Annotated[
        str,
        typer.Option(
            metavar="PIXELS",
            help="Side of what is computed at once, auto (by free memory) or off. It never shows.",
            rich_help_panel=COMPUTING,
        ),
    ] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.", rich_help_panel=COMPUTING)] = "auto",
    precision: Annotated[str, typer.Option(help="float32 or bf16.", rich_help_panel=COMPUTING)] = "float32",
    threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="CPU threads; if not given, one a core.",
            show_default=False,
            rich_help_panel=COMPUTING,
        ),
    ] = None,
    jobs: Annotated[
        int,
        typer.Option(min=1, help="Files read and written beside computing.", rich_help_panel=COMPUTING),
    ] = 1,
    as_json: AsJson = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
) -> None:
    """Take the noise out of pictures.

    denoise image noisy.png clean.png

    The noise is measured first, and told on stderr. Size, depth, transparency, colour profile, EXIF and the
    rest stay as they are. A file that fails stops none of the others.
    """
    import torch

    from denoise_cli.cli.console import print_json
    from denoise_cli.cli.image_display import display
    from denoise_cli.cli.image_work import Sheet, Work, denoisers
    from denoise_cli.cli.pipeline import forget_frames, run
    from denoise_cli.cli.plan import STREAM, plan
    from denoise_cli.denoising import Settings
    from denoise_cli.hardware import choose_precision
    from denoise_cli.nn.precision import products_in

    if self_taught and (model or sigma is not None):
        raise UsageError(f"--self and {'--model' if model else '--sigma'} exclude each other")
    if force and skip_existing:
        raise UsageError("--force and --skip-existing exclude each other")
    settings = Settings(
        sigma=sigma,
        strength=strength,
        luma=luma,
        chroma=chroma,
        ensemble=ensemble or self_taught,  # its network is so small that this costs little
        tile=_tile(tile),
    )
    found = plan(paths, suffix=suffix, recursive=recursive, format=format)
    planned = found.jobs
    if as_json and any(job.target == STREAM for job in planned):
        raise UsageError("--json: stdout is taken by the picture")
    if (compare or reference) and len(planned) != 1:
        raise UsageError(f"--compare is for one picture, not for {len(planned)}")
    if sigma_map:
        settings = replace(settings, sigma_map=_read_map(sigma_map))  # upright, as the pictures are seen
    if threads:
        torch.set_num_threads(threads)
    with products_in(choose_precision(precision)), display(len(planned), quiet=quiet) as shown:
        work = Work(
            denoisers(model, self_taught=self_taught, seed=seed, device=device, display=shown),
            settings,
            shown,
            format=format,
            force=force,
            skip_existing=skip_existing,
            sheet=Sheet.checked(compare, reference, planned[0], force=force),
        )
        if found.left_out:
            why = f"their names end in {suffix}" if suffix else f"they lie in {paths[-1]}"
            shown.say(f"left out as results of an earlier run, because {why}: {found.left_out}")
        if found.passed_over:
            shown.say(_told_others(found.passed_over))
        work.take_stdin(planned)
        reports = []
        for done in run(planned, work.read, work.compute, work.write, threads=jobs):
            reports.append(work.report(done))
            if done.error and len(planned) > 1:  # a single one is raised, and --traceback shows its frames
                shown.warn(f"failed: {reports[-1].reason}")
                forget_frames(done.error)
    if as_json:
        print_json([report.as_data() for report in reports])
    _conclude(reports, quiet=quiet)


def _told_others(paths: Sequence[Path]) -> str:
    """`passed over, being none of PNG, JPEG, WebP, TIFF and BMP: a.gif, b.heic and 3 more`."""
    from denoise_cli.images import FORMATS

    labels = [entry.label for entry in FORMATS.values()]
    names = ", ".join(str(path) for path in paths[:_NAMES])
    more = f" and {len(paths) - _NAMES} more" if len(paths) > _NAMES else ""
    return f"passed over, being none of {', '.join(labels[:-1])} and {labels[-1]}: {names}{more}"


def _tile(text: str) -> "int | Literal['auto', 'off']":
    if text == "auto":
        return "auto"
    if text == "off":
        return "off"
    if not text.isdecimal():
        raise UsageError(f"--tile {text}: should be a number of pixels, auto or off")
    return int(text)


def _read_map(path: Path) -> "Source":
    from denoise_cli.images import as_viewed, in_channels, read_picture
    from denoise_cli.windows import ArraySource

    return ArraySource(in_channels(as_viewed(read_picture(path)).pixels, 1))


def _conclude(reports: "list[Report]", *, quiet: bool) -> None:
    """Sums up a batch. Raises what a single picture failed with; leaves with 1 if any of several failed."""
    from denoise_cli.cli.console import messages, printable

    failed = [report for report in reports if report.error is not None]
    if len(reports) == 1 and failed:
        assert failed[0].error
        raise failed[0].error
    if len(reports) > 1 and (failed or not quiet):
        done = sum(report.status == "done" for report in reports)
        skipped = len(reports) - done - len(failed)
        counts = (
            [f"{done} done"]
            + [f"{skipped} skipped"] * bool(skipped)
            + [f"{len(failed)} failed"] * bool(failed)
        )
        messages().print(", ".join(counts) + (":" if failed else ""))
        for report in failed:
            messages().print(f"  {printable(report.reason)}", markup=False, soft_wrap=True)
    if failed:
        raise typer.Exit(1)
