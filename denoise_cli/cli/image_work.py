"""What `denoise image` does with each picture: read, denoise, write, and report."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from denoise_cli.cli.image_display import Display
from denoise_cli.cli.pipeline import Done
from denoise_cli.cli.plan import STREAM, Job, same_file
from denoise_cli.comparison import check_reference, draw_comparison
from denoise_cli.denoiser import Denoiser
from denoise_cli.denoising import Noise, Settings, denoise_picture, measure_noise
from denoise_cli.errors import DenoiseError, UsageError, in_one_line
from denoise_cli.files import check_place, replacing
from denoise_cli.hardware import give_back_memory
from denoise_cli.images import (
    Format,
    Picture,
    as_stored,
    as_viewed,
    encode_pages,
    losses,
    output_format,
    read_pages,
    read_picture,
    write_pages,
)
from denoise_cli.library import DEFAULT_MODEL
from denoise_cli.windows import ArraySource

DenoiserFor = Callable[[Picture], Denoiser]

_LARGE = 64 * 2**20
"""Bytes of samples from which on memory counts more than the time to take it anew."""


@dataclass(frozen=True)
class Pages:
    """The pages of a file, the noise of each, and the seconds it took to denoise them.

    `before`: the first page as it was, where a sheet is to show it.
    """

    pages: list[Picture]
    noises: list[Noise] = field(default_factory=list)
    seconds: float = 0.0
    before: Picture | None = None


@dataclass(frozen=True)
class Report:
    """What became of one file."""

    job: Job
    status: Literal["done", "skipped", "failed"]
    result: Pages | None = None
    notes: list[str] = field(default_factory=list)
    error: Exception | None = None

    @property
    def reason(self) -> str:
        return "" if self.error is None else in_one_line(self.error)

    def as_data(self) -> dict[str, Any]:
        """Everything as JSON can hold it. `pages` tells the noise of each."""
        pages = self.result.noises if self.result else []
        return {
            "input": str(self.job.source),
            "output": None if self.job.missing else str(self.job.target),
            "status": self.status,
            "pages": [{"sigma": noise.sigma, "channels": noise.channels} for noise in pages],
            "seconds": round(self.result.seconds, 3) if self.result else None,
            "notes": self.notes,
            "error": self.reason or None,
        }


@dataclass(frozen=True)
class Sheet:
    """Where the sheet of --compare goes, and the true picture, if it is known."""

    path: Path
    reference: Picture | None

    @classmethod
    def checked(cls, path: Path | None, reference: Path | None, job: Job, *, force: bool) -> "Sheet | None":
        """Raises UsageError for a sheet that cannot be, DenoiseError for a reference that cannot be read."""
        if path is None:
            if reference:
                raise UsageError("--reference is for the sheet of --compare")
            return None
        if path.suffix.lower() != ".png":
            raise UsageError(f"--compare {path}: the sheet is a PNG: let its name end in .png")
        for name, other in (("input", job.source), ("output", job.target), ("reference", reference)):
            if other and same_file(path, other):
                raise UsageError(f"--compare {path}: is the {name}: choose another name for the sheet")
        if path.exists() and not force:
            raise UsageError(f"{path}: exists already: choose another name, or --force to replace it")
        check_place(path)
        return cls(path, as_viewed(read_picture(reference)) if reference else None)


class Work:
    """The steps for one picture after the other. `read` and `write` run on other threads than `compute`."""

    def __init__(
        self,
        denoiser_for: DenoiserFor,
        settings: Settings,
        display: Display,
        *,
        format: str | None,
        force: bool,
        skip_existing: bool,
        sheet: Sheet | None = None,
    ) -> None:
        self.denoiser_for, self.settings, self.display = denoiser_for, settings, display
        self.format, self.force, self.skip_existing, self.sheet = format, force, skip_existing, sheet
        self._stdin = b""

    def take_stdin(self, jobs: list[Job]) -> None:
        """Waits for stdin where it is an input. Ctrl-C ends this on the main thread, and nowhere else."""
        if any(job.source == STREAM for job in jobs):
            if sys.stdin is None:
                raise DenoiseError("stdin: is closed")
            try:
                self._stdin = sys.stdin.buffer.read()
            except OSError as error:
                raise DenoiseError(f"stdin: cannot be read: {error.strerror}") from error

    def read(self, job: Job) -> list[Picture] | None:
        """The pages of the input; None where the output is there and that is enough."""
        if job.missing:
            raise DenoiseError(job.missing)
        if job.target != STREAM and job.target.exists() and not self.force:
            if self.skip_existing:
                return None
            raise DenoiseError(
                f"{job.target}: exists already: --force replaces it, --skip-existing leaves it"
            )
        if job.target != STREAM:
            check_place(job.target, make_folders=job.mirrored)
        if job.source == STREAM:
            data = self._stdin
            if not self.settings.changes_nothing:
                self._stdin = b""
            pages = read_pages(data, name="stdin")
        else:
            pages = read_pages(job.source)
        try:
            losses(pages, self._format(job, pages))  # what cannot be written fails before it is computed
        except UsageError:
            raise
        except DenoiseError as error:
            raise DenoiseError(f"{job.target}: {error}") from error
        if self.sheet:
            with _naming(job):
                check_reference(as_viewed(pages[0]), self.sheet.reference)
        return pages

    def compute(self, job: Job, pages: list[Picture] | None) -> Pages | None:
        """The pages without their noise."""
        if pages is None:
            return None
        self.display.begin(job.source.name)
        start = time.perf_counter()
        with _naming(job):
            results, noises = self._denoised(job, pages)
        seconds = time.perf_counter() - start
        if sum(page.samples.nbytes for page in results) > _LARGE:
            give_back_memory()
        return Pages(results, noises, seconds, before=pages[0] if self.sheet else None)

    def _denoised(self, job: Job, pages: list[Picture]) -> tuple[list[Picture], list[Noise]]:
        results, noises = [], []
        for number, page in enumerate(pages, 1):
            denoiser = self.denoiser_for(page)
            settings = self._settings_for(page)
            noise = measure_noise(denoiser, page, settings)
            result = denoise_picture(
                denoiser,
                page,
                settings,
                noise=noise,
                in_place=self.sheet is None,  # the sheet shows both
                progress=self.display.advance,
            )
            results.append(result)
            noises.append(noise)
            name = f"{job.source}, page {number}" if len(pages) > 1 else str(job.source)
            self.display.say(f"{name}: {_told(noise)}")
        return results, noises

    def _settings_for(self, page: Picture) -> Settings:
        """The settings, with the sigma map turned from upright to how the page is stored."""
        mask = self.settings.sigma_map
        if not isinstance(mask, ArraySource):
            return self.settings
        return replace(self.settings, sigma_map=ArraySource(as_stored(mask.array, page)))

    def write(self, job: Job, result: Pages | None) -> list[str]:
        """Writes the output, and then the sheet; what the output's format could not hold."""
        if result is None:
            return []
        notes = self._write_pages(job, result.pages)
        if self.sheet and result.before:
            before, after = as_viewed(result.before), as_viewed(result.pages[0])
            sigma, truth = result.noises[0].sigma, self.sheet.reference
            draw_comparison(self.sheet.path, before, after, sigma=sigma, reference=truth)
        return notes

    def _write_pages(self, job: Job, pages: list[Picture]) -> list[str]:
        if self.settings.changes_nothing and pages[0].keep.format == self._format(job, pages).name:
            self._write_file(job)
            return []
        if job.target == STREAM:
            target = self._format(job, pages)
            with _naming(job):
                _to_stdout(encode_pages(pages, target.name))
            return losses(pages, target)
        _make_folder(job)
        return write_pages(pages, job.target, force=self.force)

    def _write_file(self, job: Job) -> None:
        """Writes the input as it is, byte for byte: encoded again, not all of it might be the same."""
        data = self._stdin if job.source == STREAM else job.source.read_bytes()
        if job.target == STREAM:
            with _naming(job):
                _to_stdout(data)
            return
        _make_folder(job)
        with replacing(job.target, force=self.force) as temporary:
            temporary.write_bytes(data)

    def report(self, done: "Done[Pages | None, list[str]]") -> Report:
        """Tells what became of a picture, and keeps no pixels."""
        self.display.finish()
        job, result = done.job, done.computed
        if done.error is not None:
            return Report(job, "failed", error=done.error)
        if result is None:
            self.display.say(f"{job.source}: skipped, {job.target} exists")
            return Report(job, "skipped")
        for note in done.written or []:
            self.display.say(f"{job.target}: {note}")
        return Report(job, "done", replace(result, pages=[], before=None), done.written or [])

    def _format(self, job: Job, pages: list[Picture]) -> Format:
        if job.target != STREAM:
            return output_format(job.target)
        return output_format("", self.format or pages[0].keep.format)


def denoisers(
    model: str | None, *, self_taught: bool, seed: int, device: str, display: Display
) -> DenoiserFor:
    """What denoises a picture: the named model or the usual one, or what the picture itself teaches.

    Raises UsageError for a model or device that there is not.
    """
    from denoise_cli.checkpoint import load_model
    from denoise_cli.hardware import choose_device
    from denoise_cli.zero_shot import learn

    place = choose_device(device)
    if self_taught:

        def taught(picture: Picture) -> Denoiser:
            return learn(picture, seed=seed, device=place, progress=display.advance)

        return taught
    denoiser = load_model(model or DEFAULT_MODEL, place)
    return lambda picture: denoiser


def _make_folder(job: Job) -> None:
    if not job.mirrored:
        return
    folder = job.target.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DenoiseError(f"{job.source}: {folder}: cannot be made: {error.strerror}") from error


def _to_stdout(data: bytes) -> None:
    if sys.stdout is None:
        raise DenoiseError("stdout: is closed")
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except BrokenPipeError:  # the reader has enough, which is no error
        raise
    except OSError as error:
        raise DenoiseError(f"stdout: cannot be written: {error.strerror}") from error


@contextmanager
def _naming(job: Job) -> Iterator[None]:
    """Inside, an error names the picture that it is about: among many, nothing else would tell."""
    try:
        yield
    except DenoiseError as error:
        name = "stdin" if job.source == STREAM else job.source
        raise type(error)(f"{name}: {error}") from error


def _told(noise: Noise) -> str:
    """`noise 5.6, white noise 0.7 (red 0.6, green 0.7, blue 0.9)`: what the model is told, and how much of it
    a camera has not smoothed; models for white noise are told the latter."""
    if not noise.channels:
        return f"noise {noise.sigma:.1f}, as given"
    names = ("red", "green", "blue") if len(noise.channels) == 3 else ()
    channels = ", ".join(f"{name} {sigma:.1f}" for name, sigma in zip(names, noise.channels, strict=False))
    told = "" if noise.white == noise.sigma else f"noise {noise.sigma:.1f}, "
    return f"{told}white noise {noise.white:.1f}" + (f" ({channels})" if channels else "")
