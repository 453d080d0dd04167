"""`denoise_cli.denoise`: arrays, tensors and PIL images through the same denoiser as files."""

from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from denoise_cli.checkpoint import find_model, read_model
from denoise_cli.denoiser import Denoiser
from denoise_cli.denoising import Settings, denoise_pixels
from denoise_cli.errors import UsageError

T = TypeVar("T")
Array = NDArray[Any]

DEFAULT_MODEL = "photo"
"""The shipped model that is meant where none is named."""

_CHANNELS = (1, 3)
_MODES = ("L", "LA", "RGB", "RGBA")


def denoise_any(image: T, model: str | Path | Denoiser | None = None, **settings: Any) -> T:
    """`image` denoised, as the kind of object it is; see `denoise_cli.denoise`."""
    denoiser = model if isinstance(model, Denoiser) else _loaded(str(model or DEFAULT_MODEL))
    wanted = Settings(**settings)
    result: Any
    if isinstance(image, Image.Image):
        result = _image(denoiser, image, wanted)
    elif isinstance(image, Tensor):
        result = _tensor(denoiser, image, wanted)
    elif isinstance(image, np.ndarray):
        result = _array(denoiser, image, wanted)
    else:
        raise UsageError(f"an array, a tensor or a PIL image is needed, not {type(image).__name__}")
    return result  # type: ignore[no-any-return]


def _loaded(name: str) -> Denoiser:
    with find_model(name) as path:
        status = path.stat()
        return _read(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=2)
def _read(path: Path, _changed: int, _size: int) -> Denoiser:
    """The model of a file, kept until the file is another."""
    return read_model(path)


def _image(denoiser: Denoiser, image: Image.Image, settings: Settings) -> Image.Image:
    if image.mode not in _MODES:
        raise UsageError(f"a PIL image of mode {image.mode} is not supported: convert it to RGB or L")
    bands = image.split()
    colours = len(bands) - (image.mode[-1] == "A")
    pixels = np.stack([np.asarray(band) for band in bands[:colours]], axis=2)
    clean = _array(denoiser, pixels, settings)
    if image.mode[-1] == "A":  # what cannot be seen stays as it is
        clean = np.where(np.asarray(bands[-1])[..., None] == 0, pixels, clean)
    result = Image.merge(
        image.mode, [*(Image.fromarray(clean[..., c]) for c in range(colours)), *bands[colours:]]
    )
    result.info = dict(image.info)
    return result


def _tensor(denoiser: Denoiser, tensor: Tensor, settings: Settings) -> Tensor:
    if tensor.dim() == 4 and len(tensor):
        return torch.stack([_tensor(denoiser, each, settings) for each in tensor])
    if tensor.dim() not in (2, 3) or (tensor.dim() == 3 and tensor.shape[0] not in _CHANNELS):
        raise UsageError(
            f"a tensor must be (H, W), (C, H, W) or (N, C, H, W), C 1 or 3, not {tuple(tensor.shape)}"
        )
    # NumPy has no bfloat16; float32 holds all of it.
    exact = tensor.float() if tensor.is_floating_point() and tensor.dtype != torch.float64 else tensor
    pixels = exact[..., None] if tensor.dim() == 2 else exact.permute(1, 2, 0)
    clean = torch.from_numpy(_array(denoiser, pixels.cpu().numpy(), settings))
    clean = clean[..., 0] if tensor.dim() == 2 else clean.permute(2, 0, 1)
    return clean.to(tensor.device, tensor.dtype)


def _array(denoiser: Denoiser, array: Array, settings: Settings) -> Array:
    if array.ndim == 2:
        return _array(denoiser, array[..., None], settings)[..., 0]
    if array.ndim == 3 and array.shape[2] not in _CHANNELS and array.shape[0] in _CHANNELS:
        return _array(denoiser, array.transpose(1, 2, 0), settings).transpose(2, 0, 1)
    if array.ndim != 3 or array.shape[2] not in _CHANNELS or not array.size:
        raise UsageError(f"an array must be (H, W), (H, W, C) or (C, H, W), C 1 or 3, not {array.shape}")
    if array.dtype not in (np.uint8, np.uint16) and not np.issubdtype(array.dtype, np.floating):
        raise UsageError(f"samples must be uint8, uint16 or floating numbers, not {array.dtype}")
    if settings.changes_nothing:
        return array.copy()
    pixels = denoise_pixels(denoiser, array, settings)
    if np.issubdtype(array.dtype, np.floating):
        return pixels.astype(array.dtype)
    peak = np.iinfo(array.dtype).max
    samples: Array = np.rint(np.clip(pixels, 0, 1) * np.float32(peak)).astype(array.dtype)
    return samples
