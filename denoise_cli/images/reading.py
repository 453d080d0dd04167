"""Pictures from files and bytes. Whatever is wrong with one comes out as a single line that names it."""

import errno
import os
import stat
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from denoise_cli.errors import DenoiseError
from denoise_cli.images.formats import FORMATS, sniff
from denoise_cli.images.picture import Picture, Pixels

if TYPE_CHECKING:
    from torch import Tensor

_MAX_BYTES = 4 * 2**30
_LUMA = np.array([[0.299], [0.587], [0.114]], np.float32)


def read_picture(source: str | Path | bytes, *, name: str | None = None) -> Picture:
    """Read a picture with one page from a file, or from the bytes of one.

    Args:
        name: what messages call it; the path by default.

    Raises:
        DenoiseError: it cannot be read, is damaged or too large, or holds something this program does not do:
            one line that says which.
    """
    pages = read_pages(source, name=name)
    if len(pages) > 1:
        raise DenoiseError(f"{_name(source, name)}: has {len(pages)} pages: take them apart first")
    return pages[0]


def read_pages(source: str | Path | bytes, *, name: str | None = None) -> list[Picture]:
    """Read every page: one for most files, several for a multi-page TIFF. Raises as `read_picture` does."""
    name = _name(source, name)
    data = source if isinstance(source, bytes) else _read_file(Path(source), name)
    if not data:
        raise DenoiseError(f"{name}: is empty")
    found = sniff(data[:12])
    if found is None:
        labels = ", ".join(entry.label for entry in FORMATS.values())
        raise DenoiseError(f"{name}: is none of {labels}: convert it first")
    try:
        return found.read(data)
    except DenoiseError as error:
        raise DenoiseError(f"{name}: {error}") from error
    except MemoryError as error:
        raise DenoiseError(f"{name}: not enough memory to read it") from error
    except Exception as error:  # decoders fail with every kind of exception on damaged files
        raise DenoiseError(f"{name}: damaged, or an unusual kind of {found.label}{_reason(error)}") from error


def in_channels(pixels: Pixels, channels: int) -> Pixels:
    """Pixels (H, W, 1 or 3) in 1 or 3 channels.

    Colour becomes gray as luma (ITU-R BT.601, the protocol of the gray benchmarks), gray becomes three equal
    channels.
    """
    if channels == pixels.shape[2]:
        return pixels
    return pixels @ _LUMA if channels == 1 else np.repeat(pixels, 3, axis=2)


def to_tensor(pixels: NDArray[Any]) -> "Tensor":
    """Pixels (H, W, C) as a torch tensor (C, H, W), channels last in memory, without a copy if it can be."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)


def to_pixels(tensor: "Tensor") -> NDArray[Any]:
    """A torch tensor (C, H, W) as pixels (H, W, C), without a copy where it lies in main memory."""
    pixels: NDArray[Any] = tensor.detach().cpu().permute(1, 2, 0).numpy()
    return pixels


def one_line(error: BaseException) -> str:
    """An exception's message, or its name, cut to one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else text[:157] + "..."


def _reason(error: Exception) -> str:
    """What the decoder said, unless it stumbled: then its words are about itself, not about the file."""
    stumbled = isinstance(error, (TypeError, AttributeError, LookupError, ArithmeticError, struct.error))
    return "" if stumbled or isinstance(error, UnicodeError) else f": {one_line(error)}"


def _name(source: str | Path | bytes, name: str | None) -> str:
    return name or ("the picture" if isinstance(source, bytes) else str(source))


def _read_file(path: Path, name: str) -> bytes:
    try:
        # Without O_NONBLOCK a pipe nobody writes to would be waited for here.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        # Unbuffered, because a buffer would have to be joined with the rest, which takes the file twice.
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
                raise DenoiseError(f"{name}: is {kind}")
            if status.st_size > _MAX_BYTES:
                raise DenoiseError(f"{name}: is larger than {_MAX_BYTES // 2**30} GB")
            head = file.read(12)
            if sniff(head) is None:
                return head
            file.seek(0)
            return file.read()
    except OSError as error:
        if error.errno == errno.EISDIR or (path.is_dir() and os.access(path, os.R_OK)):
            raise DenoiseError(f"{name}: is a folder") from error
        raise DenoiseError(f"{name}: cannot be read: {error.strerror}") from error
    except ValueError as error:  # a null character in the name
        raise DenoiseError(f"{name!r}: is no file name") from error
