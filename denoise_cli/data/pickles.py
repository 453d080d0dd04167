"""Pairs in the course's format: one torch file that holds two uint8 tensors of shape (N, 3, 32, 32)."""

import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from denoise_cli.data.sources import Bytes
from denoise_cli.errors import UsageError


class PickleSource:
    """The pairs of a course file: (noisy, noisy) to train on, (noisy, clean) to validate with.

    `limit` keeps the first so many. `first` and `second` are (N, H, W, C) bytes. The file is read without
    running anything that it may contain; one that is not in this format raises UsageError.
    """

    def __init__(self, *, path: Path | str, channels: int = 3, limit: int | None = None) -> None:
        if limit is not None and limit < 1:
            raise UsageError(f"data: limit must be at least 1; it is {limit}")
        first, second = load_pairs(Path(path))
        if first.shape[1] != channels:
            raise UsageError(
                f"{path}: its pictures have {first.shape[1]} channels, input.channels is {channels}"
            )
        self.first, self.second = (_channels_last(tensor[:limit]) for tensor in (first, second))

    def __len__(self) -> int:
        return len(self.first)


def load_pairs(path: Path) -> tuple[Tensor, Tensor]:
    """The two uint8 tensors (N, C, H, W) of a course file; raises UsageError where it holds anything else."""
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's remarks on a file that is refused below
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a file made to mislead can fail in any way; none of them runs its code
        raise UsageError(
            f"{path}: not a file of tensors in the course's format; nothing in it was run"
        ) from error
    if not (isinstance(content, tuple | list) and len(content) == 2 and all(map(torch.is_tensor, content))):
        raise UsageError(f"{path}: holds {_kind(content)} where two tensors, (noisy, target), belong")
    first, second = content
    for tensor in content:
        if tensor.layout != torch.strided or tensor.dtype != torch.uint8:
            raise UsageError(
                f"{path}: holds {tensor.dtype} tensors where uint8 ones belong".replace("torch.", "")
            )
    if first.shape != second.shape or not _is_square_pictures(first.shape):
        raise UsageError(
            f"{path}: tensors of shape {tuple(first.shape)} and {tuple(second.shape)}; both must be"
            " (N, 3, 32, 32) or of another square size"
        )
    return first, second


def _is_square_pictures(shape: torch.Size) -> bool:
    return len(shape) == 4 and shape[1] in (1, 3) and shape[2] == shape[3] and 0 not in shape


def _channels_last(tensor: Tensor) -> Bytes:
    return np.ascontiguousarray(tensor.permute(0, 2, 3, 1).numpy())


def _kind(content: object) -> str:
    return f"{len(content)} things" if isinstance(content, tuple | list) else f"a {type(content).__name__}"
