"""Where clean pictures come from. They stay in memory as bytes: a photograph is decoded once."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from denoise_cli.data.noise_models import to_bytes
from denoise_cli.errors import DenoiseError, UsageError
from denoise_cli.files import is_hidden
from denoise_cli.images import SUFFIXES, in_channels, read_picture
from denoise_cli.images.picture import COLOR_SAMPLES

Bytes = NDArray[np.uint8]
"""(H, W, C)."""

Part = Literal["train", "holdout"]


class Source(Protocol):
    """Clean pictures by number."""

    def __len__(self) -> int: ...

    def picture(self, index: int) -> Tensor:
        """A whole picture: (C, H, W), float32 in [0, 1]."""
        ...

    def crop(self, index: int, size: int, generator: np.random.Generator) -> Tensor:
        """A random part of a picture: (C, size, size), float32 in [0, 1]."""
        ...


class Pictures:
    """A source of pictures that `pixels` gives as bytes."""

    def __len__(self) -> int:
        raise NotImplementedError

    def pixels(self, index: int) -> Bytes:
        raise NotImplementedError

    def picture(self, index: int) -> Tensor:
        return as_float(self.pixels(index))

    def crop(self, index: int, size: int, generator: np.random.Generator) -> Tensor:
        """A random crop; a picture that is smaller than it is continued by reflection."""
        pixels = self.pixels(index)
        height, width, _ = pixels.shape
        top = int(generator.integers(max(height - size, 0) + 1))
        left = int(generator.integers(max(width - size, 0) + 1))
        part = pixels[top : top + size, left : left + size]
        missing = [(0, size - part.shape[0]), (0, size - part.shape[1]), (0, 0)]
        return as_float(np.pad(part, missing, mode="reflect") if np.any(missing) else part)


class FolderSource(Pictures):
    """The photographs of a folder and of the folders inside it, sorted by path.

    `holdout` is the fraction kept for validation, and `take` says which part this source gives. A file's part
    follows from its name alone, so adding files never moves another one between the parts.

    Raises UsageError for a folder that gives nothing, DenoiseError for a file that does not decode.
    """

    def __init__(
        self, *, path: Path | str, channels: int = 3, holdout: float = 0.0, take: Part = "train"
    ) -> None:
        self.path = Path(path)
        self.files = [
            file for file in picture_files(self.path) if is_held_out(file, holdout) == (take == "holdout")
        ]
        if not self.files:
            raise UsageError(
                f"{path}: holdout: {holdout:g} leaves no picture for take: {take}; choose another fraction"
                " (the same for training and validation)"
            )
        self._pictures = decode_all(self.path, self.files, channels)

    def __len__(self) -> int:
        return len(self._pictures)

    def pixels(self, index: int) -> Bytes:
        return self._pictures[index]


def picture_files(folder: Path) -> list[Path]:
    """The picture files below a folder, sorted; hidden ones and those of hidden folders are left out."""
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder of pictures")
    files = sorted(
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in SUFFIXES and not is_hidden(file.relative_to(folder)) and file.is_file()
    )
    if not files:
        raise UsageError(f"{folder}: holds no picture ({', '.join(sorted(SUFFIXES))})")
    return files


def is_held_out(file: Path, fraction: float) -> bool:
    """Whether a file is held out: a hash of its name, uniform in [0, 1), lies under the fraction."""
    digest = hashlib.blake2b(file.name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < fraction * 2**64


def decode_all(folder: Path, files: Sequence[Path], channels: int) -> list[Bytes]:
    """Every file as bytes; stops in time where they would not fit into memory."""
    limit, held = 0.7 * _physical_memory(), 0
    pictures: list[Bytes] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            for pixels in pool.map(lambda file: decode(file, channels), files):
                held += pixels.nbytes
                if held > limit:
                    raise DenoiseError(
                        f"{folder}: its pictures do not fit into memory ({len(pictures)} of {len(files)} take"
                        f" {held / 2**30:.1f} GiB decoded); reduce them or use fewer"
                    )
                pictures.append(pixels)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return pictures


def decode(file: Path, channels: int) -> Bytes:
    """One file as bytes (H, W, channels)."""
    picture = read_picture(file)
    if picture.samples.dtype == np.uint8 and COLOR_SAMPLES[picture.color] == channels:
        # As they are: float pixels between would take several times the memory.
        return np.ascontiguousarray(picture.samples[..., :channels])
    return to_bytes(in_channels(picture.pixels, channels))


def as_float(pixels: Bytes) -> Tensor:
    """(H, W, C) bytes -> (C, H, W) float32 in [0, 1]."""
    return torch.from_numpy(pixels.astype(np.float32) * np.float32(1 / 255)).permute(2, 0, 1)


def _physical_memory() -> float:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # a system that does not tell
        return float("inf")
