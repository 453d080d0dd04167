"""The formats, what each can carry, and what is lost on the way into it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from denoise_cli.errors import DenoiseError, UsageError
from denoise_cli.images import bmp, exif, jpeg, png, tiff, tiff_writing, webp
from denoise_cli.images.picture import Color, Picture, Samples

_UNLIMITED = 2**31
_NAMES = {
    "icc": "the ICC profile",
    "exif": "EXIF",
    "xmp": "XMP",
    "iptc": "IPTC",
    "dpi": "the resolution (dpi)",
}


@dataclass(frozen=True)
class Format:
    """One file format.

    Attributes:
        name, label: as options spell it, and as people do.
        suffixes: file name endings, in lower case.
        matches: does a file that begins with these bytes have this format?
        read, write: the codec: bytes -> pages, and pages -> a seekable binary file.
        colors, alpha, bits: what its samples can be; bits is the most a sample can have.
        carries: kind of metadata -> the most bytes of it that fit.
        max_side: the largest width or height.
        pages: can hold several pictures; and channels beyond colour and alpha.
    """

    name: str
    label: str
    suffixes: tuple[str, ...]
    matches: Callable[[bytes], bool]
    read: Callable[[bytes], list[Picture]]
    write: Callable[[list[Picture], BinaryIO], None]
    colors: frozenset[Color] = frozenset({"gray", "rgb"})
    alpha: bool = True
    bits: int = 8
    carries: Mapping[str, int] = field(default_factory=dict)
    max_side: int = 2**31 - 1
    pages: bool = False


def _starts(*signatures: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(signatures)


_ALL_COLORS: frozenset[Color] = frozenset({"gray", "rgb", "cmyk"})
_MOST = dict.fromkeys(("icc", "exif", "xmp", "dpi"), _UNLIMITED)
_EVERY_FORMAT = (
    Format("png", "PNG", (".png",), _starts(png.SIGNATURE), png.read, png.write, bits=16, carries=_MOST),
    Format(
        "jpeg",
        "JPEG",
        (".jpg", ".jpeg", ".jpe", ".jfif"),
        _starts(jpeg.SIGNATURE),
        jpeg.read,
        jpeg.write,
        colors=_ALL_COLORS,
        alpha=False,
        carries={**jpeg.LARGEST, "dpi": _UNLIMITED},
        max_side=jpeg.MAX_SIDE,
    ),
    Format(
        "webp",
        "WebP",
        (".webp",),
        webp.is_webp,
        webp.read,
        webp.write,
        carries=_MOST,
        max_side=webp.MAX_SIDE,
    ),
    Format(
        "tiff",
        "TIFF",
        (".tif", ".tiff"),
        _starts(*tiff.SIGNATURES),
        tiff.read,
        tiff_writing.write,
        colors=_ALL_COLORS,
        bits=16,
        carries={**_MOST, "iptc": _UNLIMITED},
        pages=True,
    ),
    Format(
        "bmp",
        "BMP",
        (".bmp", ".dib"),
        _starts(bmp.SIGNATURE),
        bmp.read,
        bmp.write,
        carries=dict.fromkeys(("icc", "dpi"), _UNLIMITED),
    ),
)
FORMATS = {entry.name: entry for entry in _EVERY_FORMAT}
SUFFIXES = {suffix: entry for entry in FORMATS.values() for suffix in entry.suffixes}


def sniff(head: bytes) -> Format | None:
    """The format of a file by its first bytes (12 are enough); its name plays no part."""
    return next((entry for entry in FORMATS.values() if entry.matches(head)), None)


def output_format(path: str | Path, name: str | None = None) -> Format:
    """The format to write: the named one, else by the file name's ending.

    Raises:
        UsageError: neither tells a format that can be written.
    """
    if name is not None:
        found = FORMATS.get(name.lower()) or SUFFIXES.get("." + name.lower())
        if found is None:
            raise UsageError(f"unknown format {name!r}: choose {', '.join(FORMATS)}")
        return found
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise UsageError(f"{path}: unknown format {suffix!r}: let the name end in {', '.join(SUFFIXES)}")
    return SUFFIXES[suffix]


def losses(pictures: list[Picture], target: Format) -> list[str]:
    """What writing these pages as `target` leaves behind, a short phrase each; [] when nothing is lost.

    Raises:
        DenoiseError: more than metadata or depth would be lost; the message says which format to choose.
    """
    if len(pictures) > 1 and not target.pages:
        raise DenoiseError(f"{len(pictures)} pages do not fit into a {target.label}: choose .tif")
    notes: dict[str, None] = {}
    for picture in pictures:
        notes.update(dict.fromkeys(_losses(picture, target)))
    return list(notes)


def _losses(picture: Picture, target: Format) -> list[str]:
    keep = picture.keep
    if is_original(picture, target):
        return []
    if picture.color not in target.colors:
        raise DenoiseError(f"{target.label} cannot hold CMYK: choose .tif or .jpg")
    if picture.alpha != "none" and not target.alpha:
        raise DenoiseError(f"{target.label} cannot hold transparency: choose .png, .tif or .webp")
    if picture.extra and not target.pages:
        raise DenoiseError(f"{target.label} cannot hold {picture.extra} more channels: choose .tif")
    if max(picture.width, picture.height) > target.max_side:
        raise DenoiseError(f"{target.label} ends at {target.max_side} pixels a side: choose .png or .tif")
    notes = list(keep.notes)
    if picture.bits > target.bits:
        notes.append(f"{target.label} has 8 bits a sample, the picture had 16")
    if picture.alpha == "premultiplied" and not target.pages:
        notes.append("the colours were stored multiplied by alpha, and are divided by it")
    uncarried = _uncarried(picture, target)
    if "exif" in uncarried and exif.orientation(keep.exif) != 1:
        notes.append("the pixels are turned upright, since their orientation is told by EXIF")
    for kind in uncarried:
        notes.append(f"{target.label} cannot hold {_NAMES[kind]}")
    if keep.format != target.name:
        notes += [f"{target.label} cannot hold {name}" for name in keep.bound]
    return notes


def is_original(picture: Picture, target: Format) -> bool:
    """Is the unchanged input file itself the best thing to write?"""
    return picture.keep.original is not None and picture.keep.format == target.name


def _uncarried(picture: Picture, target: Format) -> list[str]:
    """Kinds of metadata the picture has and the target cannot take."""
    kinds = []
    for kind in _NAMES:
        value = getattr(picture.keep, kind)
        too_long = value is not None and kind != "dpi" and len(value) > target.carries.get(kind, 0)
        if (value is not None and kind not in target.carries) or too_long:
            kinds.append(kind)
    if target.name == "webp" and picture.color == "gray" and picture.keep.icc and "icc" not in kinds:
        kinds.append("icc")  # WebP knows only colour, and a gray profile does not describe it
    return kinds


def fit(picture: Picture, target: Format) -> Picture:
    """The picture with all that `target` cannot carry taken away; see `losses`."""
    keep, samples, alpha = picture.keep, picture.samples, picture.alpha
    uncarried = _uncarried(picture, target)
    if alpha == "premultiplied" and not target.pages:
        samples, alpha = _straight(picture), "straight"
    if picture.bits > target.bits:
        samples = ((samples.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if "exif" in uncarried:
        orientation = exif.orientation(keep.exif)
        samples = upright(samples, orientation)
        if orientation >= 5 and keep.dpi:
            keep = replace(keep, dpi=keep.dpi[::-1])
    gone: dict[str, Any] = dict.fromkeys(uncarried)
    keep = replace(keep, native=keep.native if keep.format == target.name else None, original=None, **gone)
    return Picture(np.ascontiguousarray(samples), picture.color, alpha, keep)


def upright(samples: Samples, orientation: int) -> Samples:
    """Samples (H, W, S) turned as EXIF orientation 1 to 8 asks for viewing."""
    if orientation >= 5:
        samples = samples.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        samples = samples[::-1]
    if orientation in (2, 3, 6, 7):
        samples = samples[:, ::-1]
    return samples


def as_viewed(picture: Picture) -> Picture:
    """The picture turned as its EXIF orientation asks for viewing, and without its metadata."""
    turned = upright(picture.samples, exif.orientation(picture.keep.exif))
    return Picture(turned, picture.color, picture.alpha)


def as_stored(viewed: NDArray[Any], picture: Picture) -> NDArray[Any]:
    """An array (H, W, S) that was made for the picture as it is viewed, turned as the picture is stored."""
    orientation = exif.orientation(picture.keep.exif)
    return upright(viewed, {6: 8, 8: 6}.get(orientation, orientation))  # the others are their own inverses


def _straight(picture: Picture) -> Samples:
    """Colours divided by the alpha they were multiplied with; where alpha is 0 they stay as they are."""
    samples = picture.samples.copy()
    colors = 1 if picture.color == "gray" else 3
    peak = np.iinfo(samples.dtype).max
    alpha = samples[..., colors : colors + 1].astype(np.float64)
    divided = np.rint(samples[..., :colors] * (peak / np.maximum(alpha, 1)))
    samples[..., :colors] = np.where(alpha > 0, np.minimum(divided, peak), samples[..., :colors])
    return samples
