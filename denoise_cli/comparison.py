"""A sheet that shows what denoising did to a picture."""

from pathlib import Path

import numpy as np

from denoise_cli.errors import UsageError
from denoise_cli.metrics import psnr
from denoise_cli.plots import Tile, draw_sheet
from denoise_cli.windows import Pixels, Source

_SIDE = 512
"""Pictures are shown at most this wide and high."""
_PART = 96
"""Side of what is shown enlarged."""


def draw_comparison(
    path: Path, before: Source, after: Source, *, sigma: float | None = None, reference: Source | None = None
) -> None:
    """Writes a PNG: before, after and perhaps the truth side by side; below, a part of each enlarged.

    `sigma`: the noise level, for the caption. With a reference the captions tell PSNR. Raises UsageError for
    pictures of unlike sizes.
    """
    check_reference(before, reference)
    pictures = {"before": before, "after": after} | ({"truth": reference} if reference is not None else {})
    y, x, side = _place_of_detail(after)
    top, bottom = [], []
    for name, picture in pictures.items():
        whole = picture.window(0, picture.height, 0, picture.width)
        small = _shrunk(whole)
        top.append(Tile(small, _caption(name, whole, sigma, reference)))
        bottom.append(Tile(_enlarged(whole[y : y + side, x : x + side], max(small.shape[:2]))))
    draw_sheet(path, [top, bottom], headings=list(pictures))


def check_reference(picture: Source, reference: Source | None) -> None:
    """Raises UsageError for a reference that is not alike in size and channels."""
    if reference is not None and _shape(reference) != _shape(picture):
        h, w, c = _shape(reference)
        raise UsageError(f"the reference is {w} x {h} pixels in {c} channels: not a version of this picture")


def _caption(name: str, pixels: Pixels, sigma: float | None, reference: Source | None) -> str:
    parts = [f"noise {sigma:.1f}"] if name == "before" and sigma is not None else []
    if reference is not None and name != "truth":
        clean = reference.window(0, reference.height, 0, reference.width)
        parts.append(f"PSNR {psnr(pixels, clean):.2f} dB")
    return ", ".join(parts)


def _place_of_detail(picture: Source) -> tuple[int, int, int]:
    """Row and column of the most varied square of the picture, and its side."""
    side = min(_PART, picture.height, picture.width)
    places = [
        (y, x)
        for y in range(0, picture.height - side + 1, max(1, side // 2))
        for x in range(0, picture.width - side + 1, max(1, side // 2))
    ]
    y, x = max(places, key=lambda place: _variety(picture, place[0], place[1], side))
    return y, x, side


def _variety(picture: Source, y: int, x: int, side: int) -> float:
    return float(picture.window(y, y + side, x, x + side).var(axis=(0, 1)).sum())


def _shrunk(pixels: Pixels) -> Pixels:
    """Means over squares, where the picture is larger than the sheet has room for."""
    factor = -(-max(pixels.shape[:2]) // _SIDE)
    height, width = (max(1, size // factor) for size in pixels.shape[:2])
    if factor == 1:
        return pixels
    rows, columns = (min(factor, size) for size in pixels.shape[:2])
    cut = pixels[: height * rows, : width * columns]
    small: Pixels = cut.reshape(height, rows, width, columns, -1).mean(axis=(1, 3), dtype=np.float32)
    return small


def _enlarged(pixels: Pixels, side: int) -> Pixels:
    """Every pixel as a square of pixels, about `side` pixels in all."""
    factor = max(1, round(side / max(pixels.shape[:2])))
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1)


def _shape(picture: Source) -> tuple[int, int, int]:
    return picture.height, picture.width, picture.channels
