"""TIFF: 8 and 16 bits, any number of channels and pages, every descriptive tag carried over.

tifffile codes the pixels. The tags are read by `exif`, since a TIFF's directory and an EXIF block are one
and the same; those that describe how the pixels are stored are tifffile's, and all others go back untouched.
"""

import io
import logging
import math
import struct
from dataclasses import dataclass
from typing import Any, BinaryIO

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
    parsed,
    resolution,
    resolution_entries,
    resolution_values,
    serialise,
)
from denoise_cli.images.picture import (
    COLOR_SAMPLES,
    MAX_PIXELS,
    Alpha,
    Color,
    Keep,
    Picture,
    Samples,
    check_size,
)

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_ICC, _XMP, _IPTC, _PHOTOSHOP, _DNG_VERSION = 34675, 700, 33723, 34377, 50706
_UNDEFINED, _BYTE = 7, 1
# Tags that tell how and where the pixels are stored: written anew.
_STORAGE = {
    *(254, 255, 256, 257, 258, 259, 262, 263, 264, 265, 266, 273, 277, 278, 279, 280, 281, 284, 288, 289),
    *(290, 291, 292, 293, 301, 317, 318, 319, 320, 322, 323, 324, 325, 330, 338, 339, 340, 341, 347),
    *range(512, 522),
    *(529, 530, 531, 532, 37724, 50838, 50839),
}
# Tags of the first directory that EXIF defines, and so may go into another format.
_EXIF_TAGS = {270, 271, 272, ORIENTATION, 305, 306, 315, 316, 33432, EXIF_IFD, GPS_IFD}
_RESOLUTION_TAGS = {X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT}
_COLORS: dict[int, Color] = {0: "gray", 1: "gray", 2: "rgb", 3: "rgb", 5: "cmyk", 6: "rgb"}
_PHOTOMETRIC = {"gray": "minisblack", "rgb": "rgb", "cmyk": "separated"}
_WHITE_IS_ZERO, _PALETTE, _CFA, _LINEAR_RAW = 0, 3, 32803, 34892
_COMPRESSION = {1: None, 5: "lzw", 32773: "packbits"}
_DEFLATE = "adobe_deflate"


@dataclass(frozen=True)
class Native:
    """How a page was stored: byte order ("<" or ">"), compression as TIFF numbers it, tags to carry over."""

    order: str
    compression: int
    entries: tuple[Entry, ...]


def read(data: bytes) -> list[Picture]:
    """Decode every page of a TIFF; reduced copies (thumbnails, pyramids) are left out, with a note.

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
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        pages: list[Any] = [file.pages[number] for number in range(count)]
        if not pages:
            raise DenoiseError("damaged: no picture in the file")
        if (
            _DNG_VERSION in pages[0].tags
            or pages[0].photometric in (_CFA, _LINEAR_RAW)
            or pages[0].is_reduced
        ):
            raise DenoiseError("is a camera raw file: develop it to TIFF first")
        full = [page for page in pages if not page.is_reduced]
        notes = ("the thumbnails in it are dropped",) if len(full) < len(pages) else ()
        for page in full:
            check_size(page.imagewidth, page.imagelength, page.samplesperpixel)
        if sum(page.imagewidth * page.imagelength for page in full) > MAX_PIXELS:
            raise DenoiseError(f"has {len(full)} pages of more than {MAX_PIXELS // 10**6} megapixels in all")
        return [_read_page(page, data, notes) for page in full]


def write(pictures: list[Picture], file: BinaryIO) -> None:
    """Encode as TIFF, one page a picture, with the input's compression where it is lossless, else Deflate."""
    import tifffile

    first = pictures[0].keep
    order: Any = _block(first).order
    total = sum(picture.samples.nbytes for picture in pictures)
    pointers: list[tuple[int, Entry]] = []
    with tifffile.TiffWriter(file, byteorder=order, bigtiff=total > 3.9e9) as writer:
        for number, picture in enumerate(pictures):
            entries = _block(picture.keep).entries
            pointers += [(number, entry) for entry in entries if entry.children]
            _write_page(writer, picture, order, entries)
    _write_directories(file, order, pointers)


def _read_page(page: Any, data: bytes, notes: tuple[str, ...]) -> Picture:
    color, bits = _COLORS.get(page.photometric), page.bitspersample
    if color is None:
        name = getattr(page.photometric, "name", "unknown")
        raise DenoiseError(f"has colours of the kind {name}: convert it to RGB first")
    if page.sampleformat != 1 or bits not in (1, 2, 4, 8, 16):
        kind = {1: "integer", 2: "signed", 3: "floating-point"}.get(page.sampleformat, "unusual")
        bits = bits if isinstance(bits, int) else "mixed"
        raise DenoiseError(f"has {bits}-bit {kind} samples: convert it to 8 or 16 bits first")
    if page.imagedepth > 1:
        raise DenoiseError("is a volume, not a picture: take its slices apart first")
    places = list(zip(page.dataoffsets, page.databytecounts, strict=False))
    outside = any(not count or not offset or offset + count > len(data) for offset, count in places)
    if outside or len(places) < math.prod(page.chunked):
        raise DenoiseError("truncated: a part of the picture lies behind the end of the file")
    samples = page.asarray(maxworkers=1).reshape(page.shaped)  # (planes, 1, H, W, samples)
    samples = np.moveaxis(samples[:, 0], 0, 2).reshape(page.imagelength, page.imagewidth, -1)
    if page.photometric == _PALETTE:
        samples = _through_palette(samples, page.colormap)
    elif bits < 8:
        samples = samples.astype(np.uint8) * np.uint8(255 // (2**bits - 1))
        notes += (f"its {bits} bits a sample become 8",)
    if page.photometric == _WHITE_IS_ZERO:
        samples = np.iinfo(samples.dtype).max - samples
    kinds = tuple(int(kind) for kind in page.extrasamples)
    alpha: Alpha = "none"
    if kinds and kinds[0] in (1, 2):
        alpha = "premultiplied" if kinds[0] == 1 else "straight"
    tags = parse(data, page.offset)
    if page.photometric == _PALETTE:
        notes += (f"its palette becomes {samples.dtype.itemsize * 8} bits a sample",)
    return Picture(np.ascontiguousarray(samples), color, alpha, _keep(tags, int(page.compression), notes))


def _through_palette(indices: Samples, palette: NDArray[Any]) -> Samples:
    """Colours of a palette picture: the palette has 16 bits, in most files 8-bit values times 257."""
    if not (palette % 257).any():
        palette = (palette // 257).astype(np.uint8)
    samples: Samples = palette.T[indices[..., 0]]
    return samples


def _keep(tags: Block, compression: int, notes: tuple[str, ...]) -> Keep:
    entries = tuple(entry for entry in tags.entries if entry.tag not in _STORAGE)
    values = {entry.tag: entry.data for entry in entries}
    exif = None
    if values.keys() & _EXIF_TAGS:
        exif = block(tags.order, (e for e in entries if e.tag in _EXIF_TAGS | _RESOLUTION_TAGS))
    known = {_ICC, _XMP, _IPTC, _PHOTOSHOP, *_EXIF_TAGS, *_RESOLUTION_TAGS}
    return Keep(
        format="tiff",
        icc=values.get(_ICC),
        exif=exif,
        xmp=values.get(_XMP),
        iptc=values.get(_IPTC),
        dpi=resolution(tags),
        native=Native(tags.order, compression, entries),
        bound=("its further tags",) if values.keys() - known else (),
        notes=notes,
    )


def _block(keep: Keep) -> Block:
    """The tags to write: the TIFF's own, or made of what came from another format."""
    if isinstance(keep.native, Native):
        return Block(keep.native.order, keep.native.entries)
    tags = parsed(keep.exif)
    entries = {entry.tag: entry for entry in tags.entries if entry.tag not in _STORAGE}
    for tag, kind, value in (
        (_ICC, _UNDEFINED, keep.icc),
        (_XMP, _BYTE, keep.xmp),
        (_IPTC, _UNDEFINED, keep.iptc),
    ):
        if value:
            entries[tag] = Entry(tag, kind, len(value), value)
    if keep.dpi:
        entries.update((entry.tag, entry) for entry in resolution_entries(tags.order, keep.dpi))
    return Block(tags.order, tuple(entries.values()))


def _write_page(writer: Any, picture: Picture, order: str, entries: tuple[Entry, ...]) -> None:
    native = picture.keep.native
    compression = _COMPRESSION.get(native.compression, _DEFLATE) if isinstance(native, Native) else _DEFLATE
    extra = picture.samples.shape[2] - COLOR_SAMPLES[picture.color]
    kinds = [0] * extra
    if picture.alpha != "none":
        kinds[0] = 1 if picture.alpha == "premultiplied" else 2
    samples = picture.samples[..., 0] if picture.samples.shape[2] == 1 else picture.samples
    ratios, unit = resolution_values(Block(order, entries)) or (None, None)
    pointer = (4, 1, bytes(4))  # a sub-directory's place is known only when the pages are written
    writer.write(
        samples,
        photometric=_PHOTOMETRIC[picture.color],
        planarconfig="contig",
        extrasamples=kinds or None,
        compression=compression,
        predictor=compression in ("lzw", _DEFLATE),
        metadata=None,
        software=False,
        resolution=ratios,
        resolutionunit=unit,
        contiguous=False,
        extratags=[
            (e.tag, *(pointer if e.children else (e.type, e.count, e.data)), False)
            for e in entries
            if e.tag not in _RESOLUTION_TAGS
        ],
    )


def _write_directories(file: BinaryIO, order: str, pointers: list[tuple[int, Entry]]) -> None:
    """Append the EXIF and GPS directories and set the tags that point to them."""
    import tifffile

    if not pointers:
        return
    file.seek(0)
    with tifffile.TiffFile(file) as written:
        pages: Any = written.pages
        places = [pages[number].tags[entry.tag].valueoffset for number, entry in pointers]
    for place, (_, entry) in zip(places, pointers, strict=True):
        end = file.seek(0, io.SEEK_END)
        end += file.write(bytes(end % 2))
        file.write(serialise(order, entry.children, end))
        file.seek(place)
        file.write(struct.pack(order + "I", end))
