"""Pairs in the course's format, made from photographs.

A square of a photograph is reduced to 32 x 32 cells of k x k pixels. The noisy picture has one random pixel
of every cell, the clean one the cells' means: what the photograph varies by inside a cell is the noise.
"""

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from denoise_cli.data.batches import permutation
from denoise_cli.data.noise_models import cells, pick
from denoise_cli.data.sources import Bytes, FolderSource
from denoise_cli.errors import UsageError
from denoise_cli.files import replacing

SIZE = 32
"""Pixels of a picture's side."""

Second = Literal["noisy", "clean"]


def course_pairs(
    source: FolderSource, count: int, *, second: Second = "noisy", cell: int = 6, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Two uint8 tensors (count, 3, 32, 32): noisy pictures, and other noisy or the clean ones.

    Photographs take turns in a random order, and each time another square, half as wide as the photograph or
    wider, is taken; pair n follows from (source, seed, n) alone. Photographs with less than 32 cells on a
    side are left out; raises UsageError where none is left.
    """
    if count < 1 or cell < 2:
        raise UsageError(f"count must be at least 1 and cell 2; they are {count} and {cell}")
    side = SIZE * cell
    usable = [index for index in range(len(source)) if min(source.pixels(index).shape[:2]) >= side]
    if not usable:
        raise UsageError(
            f"{source.path}: no photograph of at least {side} x {side} pixels, which {SIZE} cells of {cell}"
            " pixels take; make the cells smaller"
        )
    first, other = np.empty((2, count, SIZE, SIZE, 3), np.uint8)
    for n in range(count):
        generator = np.random.default_rng([seed, n])
        turn, place = divmod(n, len(usable))
        index = usable[permutation(seed, turn, len(usable))[place]]
        values = cells(random_square(source.pixels(index), side, generator).astype(np.float32), cell)
        first[n] = np.round(pick(values, generator))
        other[n] = np.round(pick(values, generator) if second == "noisy" else values.mean(2))
    return _channels_first(first), _channels_first(other)


def random_square(photo: Bytes, side: int, generator: np.random.Generator) -> Bytes:
    """A square somewhere in a photograph, half to all of its shorter side wide, as side x side pixels."""
    height, width, _ = photo.shape
    size = int(generator.integers(max(side, min(height, width) // 2), min(height, width) + 1))
    top, left = int(generator.integers(height - size + 1)), int(generator.integers(width - size + 1))
    square = Image.fromarray(photo).crop((left, top, left + size, top + size))
    return np.asarray(square.resize((side, side), Image.Resampling.BICUBIC))


def save_pairs(path: Path, pairs: tuple[Tensor, Tensor], *, force: bool = False) -> None:
    """Writes the course's file: two uint8 tensors, in one torch file."""
    if path.exists() and not force:
        raise UsageError(f"{path}: exists already: choose another name, or --force to replace it")
    with replacing(path) as temporary, temporary.open("wb") as file:
        torch.save(pairs, file)


def _channels_first(pictures: Bytes) -> Tensor:
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous()
