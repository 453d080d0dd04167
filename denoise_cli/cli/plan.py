"""From what a user named to files to read and files to write, settled before the first is read."""

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from denoise_cli.errors import UsageError
from denoise_cli.files import is_hidden

STREAM = Path("-")
"""Stands for stdin and stdout."""


@dataclass(frozen=True)
class Job:
    """A picture to read and the file to write; either may be STREAM.

    `mirrored`: the file mirrors the place of the input, and its folders are made with it. `missing`: why a
    name stands for no picture; the job then fails with that.
    """

    source: Path
    target: Path
    mirrored: bool = False
    missing: str | None = None


@dataclass(frozen=True)
class Plan:
    """The jobs, and what was found in folders that is no input.

    `left_out`: how many pictures are results of an earlier run. `passed_over`: files of other formats.
    """

    jobs: list[Job]
    left_out: int = 0
    passed_over: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Found:
    """A file that was named: by itself, or by its way from `root`, a folder that was named or searched.

    `missing`: why there is none of that name. `readable`: it is of a format that is read, by its ending.
    """

    path: Path
    relative: Path
    root: Path | None
    missing: str | None = None
    readable: bool = True


def plan(
    names: Sequence[str], *, suffix: str | None = None, recursive: bool = False, format: str | None = None
) -> Plan:
    """The jobs of `denoise image NAMES...`.

    Without a suffix the last name is the output: a file, or for several inputs a folder that mirrors the way
    to each. With one, every output lies beside its input. `format` names that of outputs without a name of
    their own. A pattern or folder without pictures is a job that fails, beside others that do not. Raises
    UsageError where no sense can be made of it, nothing is found at all, or two files would become one.
    """
    from denoise_cli.images import SUFFIXES

    if suffix is None and len(names) < 2:
        raise UsageError(
            "name the output too: denoise image IN OUT, or give --suffix to write beside the input"
        )
    inputs = names if suffix is not None else names[:-1]
    everything = [each for name in inputs for each in _find(name, set(SUFFIXES), recursive=recursive)]
    missing = [each for each in everything if each.missing]
    passed_over = tuple(dict.fromkeys(each.path for each in everything if not each.readable))
    found = [each for each in everything if not each.missing and each.readable]
    if not found:
        raise UsageError("; ".join(str(each.missing) for each in missing))
    if any(each.path == STREAM for each in found) and len(found) > 1:
        raise UsageError("- (stdin) is one picture: it cannot be named beside others")
    if suffix is not None:
        jobs = _beside(found, suffix, format)
    elif names[-1] == str(STREAM) or not _is_folder(names[-1], inputs):
        jobs = [_into_file(found, names[-1], format)]
    else:
        jobs = _into_folder(found, Path(names[-1]), format)
    if not jobs:
        raise UsageError(
            f"{', '.join(inputs)}: nothing to denoise: all pictures are results of an earlier run"
        )
    left_out = len(found) - len(jobs)
    jobs = list(dict.fromkeys(jobs))  # named twice, denoised once
    _check(jobs)
    output = Path(names[-1])
    jobs += [Job(each.path, output, missing=each.missing) for each in missing]
    return Plan(jobs, left_out, passed_over)


def refuse_same_file(source: Path, target: Path) -> None:
    """Raises UsageError if both names are one file: what is read must not be what is written."""
    if source != STREAM and same_file(source, target):
        raise UsageError(f"{target}: is the input itself: choose another name for the output")


def same_file(one: Path, other: Path) -> bool:
    """Whether both names are one file, be it there or not."""
    try:
        return one.samefile(other)
    except OSError:  # one of them is not there
        return one.resolve() == other.resolve()


def _find(name: str, suffixes: set[str], *, recursive: bool) -> list[Found]:
    """The files that a name stands for. A file that is not there is one too: reading it will say so."""
    path = Path(name)
    if path.is_dir():
        found = list(_files_in(path, suffixes, recursive=recursive))
        if not any(each.readable for each in found):
            advice = "" if recursive else " (--recursive looks into its folders too)"
            return [Found(path, Path(), root=path, missing=f"{path}: has no pictures in it{advice}")]
        return found
    if glob.has_magic(name) and not path.exists():
        root = Path(*_before_pattern(path))
        try:
            pattern = path.relative_to(root)
            files = sorted(match for match in root.glob(str(pattern)) if match.is_file())
            if not is_hidden(pattern):
                files = [match for match in files if not is_hidden(match.relative_to(root))]
        except ValueError as error:
            raise UsageError(f"{name}: is not a pattern: {error}") from error
        if not files:
            return [Found(path, Path(), root=root, missing=f"{name}: matches no file")]
        return [Found(each, each.relative_to(root), root=root) for each in files]
    return [Found(path, Path(path.name), root=None)]


def _files_in(folder: Path, suffixes: set[str], *, recursive: bool) -> Iterator[Found]:
    """Visible files; `readable` are those with one of these endings.

    Links to folders are not followed: they may go round. A folder that cannot be opened counts as a readable
    file: reading it will say what is wrong.
    """
    closed: list[Path] = []
    for place, folders, names in os.walk(folder, onerror=lambda error: closed.append(Path(error.filename))):
        folders[:] = sorted(each for each in folders if recursive and not is_hidden(Path(each)))
        for name in sorted(names):
            if not is_hidden(Path(name)):
                path = Path(place) / name
                readable = path.suffix.lower() in suffixes
                yield Found(path, path.relative_to(folder), root=folder, readable=readable)
    yield from (Found(each, each.relative_to(folder), root=folder) for each in closed)


def _before_pattern(path: Path) -> list[str]:
    """The parts of a pattern that are plain names."""
    parts = []
    for part in path.parts[:-1]:
        if glob.has_magic(part):
            break
        parts.append(part)
    return parts


def _is_folder(name: str, inputs: Sequence[str]) -> bool:
    """Whether an output is meant as a folder: it is one, looks like one, or several pictures go there."""
    first = Path(inputs[0])
    several = len(inputs) > 1 or first.is_dir() or (glob.has_magic(inputs[0]) and not first.exists())
    return several or name.endswith(("/", os.sep)) or Path(name).is_dir()


def _into_file(found: list[Found], name: str, format: str | None) -> Job:
    from denoise_cli.images import output_format

    if len(found) > 1:
        raise UsageError(f"{len(found)} pictures do not go into one output: name a folder")
    source, target = found[0].path, Path(name)
    is_there = source == STREAM or os.path.lexists(source)
    if target != STREAM and is_there:  # else reading it will tell what is wrong
        if format:
            raise UsageError(f"--format: the name {target} tells its format already")
        output_format(target)  # an ending without a format fails here, before any work
    return Job(source, target)


def _into_folder(found: list[Found], folder: Path, format: str | None) -> list[Job]:
    from denoise_cli.images import SUFFIXES

    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: must be a folder, because several pictures go there")
    if found[0].path == STREAM:
        raise UsageError("a picture from stdin has no name: name the output file")
    if not folder.exists() and folder.suffix.lower() in SUFFIXES:
        raise UsageError(
            f"{folder}: is the name of a picture, but a folder of them goes there: name a folder"
        )
    return [
        Job(each.path, _renamed(folder / each.relative, format), mirrored=True)
        for each in found
        if not _is_result(each, folder.resolve())
    ]


def _is_result(found: Found, folder: Path) -> bool:
    """Whether a file comes from an earlier run: the search for pictures has come upon the output folder."""
    if found.root is None or found.root.resolve() not in folder.parents:
        return False
    return folder in found.path.resolve().parents


def _beside(found: list[Found], suffix: str, format: str | None) -> list[Job]:
    if found[0].path == STREAM:
        raise UsageError("a picture from stdin has no name for --suffix: name the output file")
    if os.sep in suffix or "/" in suffix:
        raise UsageError(f"--suffix {suffix}: must be a part of a file name")
    beside = {each: each.path.with_name(each.path.stem + suffix + each.path.suffix) for each in found}
    jobs = {each: Job(each.path, _renamed(target, format)) for each, target in beside.items()}
    if not suffix:
        return list(jobs.values())
    results = {job.target for job in jobs.values()}  # of an earlier run, where they are there already
    return [
        job
        for each, job in jobs.items()
        if each.path not in results and (each.root is None or not each.path.stem.endswith(suffix))
    ]


def _renamed(path: Path, format: str | None) -> Path:
    """The path with the ending of a format, if one is asked for."""
    from denoise_cli.images import output_format

    if format is None:
        return path
    wanted = output_format("", format)
    return path if path.suffix.lower() in wanted.suffixes else path.with_suffix(wanted.suffixes[0])


def _check(jobs: list[Job]) -> None:
    sources: dict[Path, Path] = {}
    for job in jobs:
        refuse_same_file(job.source, job.target)
        if job.target != STREAM and (other := sources.setdefault(job.target, job.source)) != job.source:
            raise UsageError(f"{other} and {job.source} would both become {job.target}")
    inputs = {job.source.resolve() for job in jobs}
    for job in jobs:
        if job.target != STREAM and job.target.resolve() in inputs:
            raise UsageError(f"{job.target}: is an input too: choose another place for the outputs")
