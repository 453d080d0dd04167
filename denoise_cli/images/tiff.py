"""Reading TIFF: 8 and 16 bits, any number of channels and pages, with every descriptive tag.

tifffile decodes the pixels. The tags are read by `exif`, since a TIFF's directory and an EXIF block are one
and the same; all but those that describe how the pixels are stored are kept for writing.
"""

import io
import logging
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from denoise_cli.errors import DenoiseError
from denoise_cli.images.exif import (
    EXIF_IFD,
    GPS_IFD,
    ORIENTATION,
    RESOLUTION_UNIT,
    X_RESOLUTION,
    Y_RESOLUTION,
    Block,
    Entry,
    block,
    directories,
    parse,
    resolution,
)
from denoise_cli.images.picture import (
    MAX_PIXELS,
    Alpha,
    Color,
    Keep,
    Picture,
    Samples,
    check_size,
)

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
ICC, XMP, IPTC, _PHOTOSHOP, _DNG_VERSION = 34675, 700, 33723, 34377, 50706
_SUB_IFDS = 330
# Tags that tell how and where the pixels are stored: written anew.
NOT_CARRIED = {
    *(254, 255, 256, 257, 258, 259, 262, 263, 264, 265, 266, 273, 277, 278, 279, 280, 281, 284, 288, 289),
    *(290, 291, 292, 293, 301, 317, 320, 322, 323, 324, 325, 330, 338, 339, 340, 341, 347),
    *range(512, 522),
    *(529, 530, 531, 532, 37724, 50838, 50839),
}
# Those of them that say more than that, and so are missed.
_DROPPED = {
    301: "its transfer function is dropped",
    37724: "its layers (of Photoshop) are dropped",
}
# Tags of the first directory that EXIF defines, and so may go into another format.
_EXIF_TAGS = {270, 271, 272, ORIENTATION, 305, 306, 315, 316, 33432, EXIF_IFD, GPS_IFD}
_RESOLUTION_TAGS = {X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT}
_COLORS: dict[int, Color] = {0: "gray", 1: "gray", 2: "rgb", 3: "rgb", 5: "cmyk", 6: "rgb"}
_AT_ONCE = 2**24
"""Bytes of strips that are taken from the file before they are decoded."""
_WHITE_IS_ZERO, _PALETTE, _YCBCR, _CFA, _LINEAR_RAW = 0, 3, 6, 32803, 34892
_JPEG = (6, 7)
"""Compressions whose decoder turns luma and chroma into red, green and blue."""


@dataclass(frozen=True)
class Native:
    """How a page was stored: byte order ("<" or ">"), compression as TIFF numbers it, tags to carry over."""

    order: str
    compression: int
    entries: tuple[Entry, ...]


def read(data: bytes) -> list[Picture]:
    """Decode every page of a TIFF; reduced copies and pictures under a page are left out, with a note.

    Raises:
        DenoiseError: damaged, truncated, too large, camera raw, or samples not 8- or 16-bit integers.
    """
    import tifffile

    # What tifffile would log becomes the message of an error here.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)
    try:
        count = len(directories(data))
    except ValueError as error:
        raise DenoiseError(f"damaged or truncated: {error}") from error
    # Closed by hand: a TiffFile and its pages hold each other, and would hold the data until they are found.
    with io.BytesIO(data) as stream, tifffile.TiffFile(stream) as file:
        pages: list[Any] = [file.pages[number] for number in range(count)]
        if not pages:
            raise DenoiseError("damaged: no picture in the file")
        if _is_raw(pages[0]):
            raise DenoiseError("is a camera raw file: develop it to TIFF first")
        full = [page for page in pages if not page.is_reduced]
        thumbnails = len(full) < len(pages)
        further = any(_SUB_IFDS in page.tags for page in full)
        notes = ("the thumbnails in it are dropped",) * thumbnails
        notes += ("the further pictures under its pages (SubIFDs) are dropped",) * further
        for page in full:
            check_size(page.imagewidth, page.imagelength, page.samplesperpixel)
        if sum(page.imagewidth * page.imagelength for page in full) > MAX_PIXELS:
            raise DenoiseError(f"has {len(full)} pages of more than {MAX_PIXELS // 10**6} megapixels in all")
        pictures = [_read_page(page, data, notes) for page in full]
    if len(pictures) == 1 and (full[0].photometric == _PALETTE or full[0].bitspersample < 8):
        return [replace(pictures[0], keep=replace(pictures[0].keep, original=data))]
    return pictures


def _is_raw(page: Any) -> bool:
    """Camera raw files are TIFFs by their outside: a sensor's mosaic, or a thumbnail first."""
    return _DNG_VERSION in page.tags or page.photometric in (_CFA, _LINEAR_RAW) or page.is_reduced


def _check_page(page: Any, file_size: int) -> None:
    """Refuse what is no picture of 8 or 16 bits, and what the file does not hold."""
    bits = page.bitspersample
    if page.photometric not in _COLORS or (page.photometric == _YCBCR and page.compression not in _JPEG):
        name = getattr(page.photometric, "name", "unknown")
        raise DenoiseError(f"has colours of the kind {name}: convert it to RGB first")
    if page.sampleformat != 1 or bits not in (1, 2, 4, 8, 16):
        kind = {1: "integer", 2: "signed", 3: "floating-point"}.get(page.sampleformat, "unusual")
        bits = bits if isinstance(bits, int) else "mixed"
        raise DenoiseError(f"has {bits}-bit {kind} samples: convert it to 8 or 16 bits first")
    if page.imagedepth > 1:
        raise DenoiseError("is a volume, not a picture: take its slices apart first")
    places = list(zip(page.dataoffsets, page.databytecounts, strict=False))
    outside = any(not count or not offset or offset + count > file_size for offset, count in places)
    if outside or len(places) < math.prod(page.chunked):
        raise DenoiseError("truncated: a part of the picture lies behind the end of the file")


def _read_page(page: Any, data: bytes, notes: tuple[str, ...]) -> Picture:
    _check_page(page, len(data))
    bits = page.bitspersample
    samples = page.asarray(maxworkers=1, buffersize=_AT_ONCE)
    samples = samples.reshape(page.shaped)  # (planes, 1, H, W, samples)
    samples = np.moveaxis(samples[:, 0], 0, 2).reshape(page.imagelength, page.imagewidth, -1)
    if page.photometric == _PALETTE:
        samples = _through_palette(samples, page.colormap)
        notes += (f"its palette becomes {8 * samples.dtype.itemsize} bits a sample",)
    elif bits < 8:
        samples = samples.astype(np.uint8) * np.uint8(255 // (2**bits - 1))
        notes += (f"its {bits} bits a sample become 8",)
    if page.photometric == _WHITE_IS_ZERO:
        samples = np.iinfo(samples.dtype).max - samples
    kinds = tuple(int(kind) for kind in page.extrasamples)
    alpha: Alpha = "none"
    if kinds and kinds[0] in (1, 2):
        alpha = "premultiplied" if kinds[0] == 1 else "straight"
    notes += tuple(note for tag, note in _DROPPED.items() if tag in page.tags)
    keep = _keep(parse(data, page.offset), int(page.compression), notes)
    return Picture(np.ascontiguousarray(samples), _COLORS[page.photometric], alpha, keep)


def _through_palette(indices: Samples, palette: NDArray[Any]) -> Samples:
    """Colours of a palette picture: the palette has 16 bits, in most files 8-bit values times 256 or 257."""
    high = palette >> 8
    if np.array_equal(palette, high * 256) or np.array_equal(palette, high * 257):
        palette = high.astype(np.uint8)
    samples: Samples = palette.T[indices[..., 0]]
    return samples


def _keep(tags: Block, compression: int, notes: tuple[str, ...]) -> Keep:
    entries = tuple(entry for entry in tags.entries if entry.tag not in NOT_CARRIED)
    values = {entry.tag: entry.data for entry in entries}
    exif = None
    if values.keys() & _EXIF_TAGS:
        exif = block(tags.order, (e for e in entries if e.tag in _EXIF_TAGS | _RESOLUTION_TAGS))
    known = {ICC, XMP, IPTC, _PHOTOSHOP, *_EXIF_TAGS, *_RESOLUTION_TAGS}
    return Keep(
        format="tiff",
        icc=values.get(ICC),
        exif=exif,
        xmp=values.get(XMP),
        iptc=values.get(IPTC),
        dpi=resolution(tags),
        native=Native(tags.order, compression, entries),
        bound=("its further tags",) if values.keys() - known else (),
        notes=notes,
    )
