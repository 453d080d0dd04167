"""Pictures into files and bytes: all or nothing, and never over a file that is there unless told to."""

import errno
import io
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from denoise_cli.errors import DenoiseError
from denoise_cli.images.formats import Format, fit, is_original, losses, output_format
from denoise_cli.images.picture import Picture
from denoise_cli.images.reading import one_line

_NO_HARD_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES, errno.EXDEV}


def write_picture(
    picture: Picture, path: str | Path, *, force: bool = False, format: str | None = None
) -> list[str]:
    """Write a picture into a file, whole or not at all.

    Args:
        force: replace a file that is there.
        format: "png", "jpeg", "webp", "tiff" or "bmp"; by the file name's ending when None.

    Returns:
        What this format could not carry, a short phrase each; see `losses`.

    Raises:
        UsageError: no format to be told by name or ending.
        DenoiseError: the file is there already, cannot be written, or the format cannot hold the picture.
    """
    return write_pages([picture], path, force=force, format=format)


def write_pages(
    pictures: list[Picture], path: str | Path, *, force: bool = False, format: str | None = None
) -> list[str]:
    """Write the pages of a document into one file; only a TIFF takes more than one. See `write_picture`."""
    path = Path(path)
    target = output_format(path, format)
    try:
        notes = losses(pictures, target)
        with _replacing(path, force=force) as file:
            _encode(pictures, target, file)
    except DenoiseError as error:
        raise DenoiseError(f"{path}: {error}") from error
    except OSError as error:
        raise DenoiseError(f"{path}: {_reason(error, path)}") from error
    return notes


def encode_picture(picture: Picture, format: str) -> bytes:
    """The bytes of a picture's file; `losses([picture], output_format("", format))` tells what they lack."""
    return encode_pages([picture], format)


def encode_pages(pictures: list[Picture], format: str) -> bytes:
    """The bytes of a document's file."""
    target = output_format("", format)
    losses(pictures, target)
    buffer = io.BytesIO()
    _encode(pictures, target, buffer)
    return buffer.getvalue()


def _encode(pictures: list[Picture], target: Format, file: BinaryIO) -> None:
    if len(pictures) == 1 and is_original(pictures[0], target):
        file.write(pictures[0].keep.original or b"")
        return
    try:
        target.write([fit(picture, target) for picture in pictures], file)
    except (DenoiseError, OSError):
        raise
    except MemoryError as error:
        raise DenoiseError("not enough memory to write it") from error
    except Exception as error:  # encoders fail with every kind of exception
        raise DenoiseError(f"cannot be written as {target.label}: {one_line(error)}") from error


@contextmanager
def _replacing(path: Path, *, force: bool) -> Iterator[BinaryIO]:
    """A temporary file in the same folder that takes its name only when it is complete and on the disk."""
    if path.is_dir():
        raise DenoiseError("is a folder")
    if not force and os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, "exists")
    temporary = path.parent / f".denoise-{secrets.token_hex(8)}.part"
    try:
        with temporary.open("x+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if force:
            temporary.replace(path)
        else:
            _link(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _link(temporary: Path, path: Path) -> None:
    """Give the file its name, failing if another has taken it meanwhile."""
    try:
        path.hardlink_to(temporary)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, "exists") from error
        temporary.replace(path)


def _reason(error: OSError, path: Path) -> str:
    if isinstance(error, FileExistsError):
        return "exists already: choose another name, or --force to replace it"
    if isinstance(error, FileNotFoundError) and not path.parent.exists():
        return f"the folder {path.parent} does not exist"
    return f"cannot be written: {error.strerror or one_line(error)}"
