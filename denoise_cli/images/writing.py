"""Pictures into files and bytes: all or nothing, and never over a file that is there unless told to."""

import io
from pathlib import Path
from typing import BinaryIO

from denoise_cli.errors import DenoiseError
from denoise_cli.files import replacing
from denoise_cli.images.formats import Format, fit, is_original, losses, output_format
from denoise_cli.images.picture import Picture
from denoise_cli.images.reading import one_line


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
    with replacing(path, force=force) as temporary:
        try:
            notes = losses(pictures, target)
            with temporary.open("x+b") as file:
                _encode(pictures, target, file)
        except DenoiseError as error:
            raise DenoiseError(f"{path}: {error}") from error
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
