"""JPEG: coded with the input's own quantisation tables and subsampling, every metadata segment carried over.

The file's header is taken apart into segments here; Pillow (libjpeg-turbo) sees only those that describe
the coding, and the others - EXIF with maker notes and thumbnail, XMP, IPTC, ICC, comments - go back unread.
"""

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from denoise_cli.errors import DenoiseError
from denoise_cli.images import exif as exif_block
from denoise_cli.images.picture import Color, Keep, Picture, check_size, from_pillow

SIGNATURE = b"\xff\xd8\xff"
MAX_SIDE = 65_500
_SEGMENT = 65_533
LARGEST = {"exif": _SEGMENT - 6, "xmp": _SEGMENT - 29, "iptc": _SEGMENT - 27, "icc": 255 * (_SEGMENT - 14)}
_SOI, _EOI, _SOS, _COM = 0xD8, 0xD9, 0xDA, 0xFE
_APP0, _APP1, _APP2, _APP11, _APP13, _APP14, _APP15 = 0xE0, 0xE1, 0xE2, 0xEB, 0xED, 0xEE, 0xEF
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_EXIF, _XMP, _ICC = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0", b"ICC_PROFILE\0"
_MPF, _JFIF, _PHOTOSHOP = b"MPF\0", b"JFIF\0", b"Photoshop 3.0\0"
_QUALITY = 95


@dataclass(frozen=True)
class Native:
    """How the input was coded, and the segments to carry over.

    Attributes:
        tables: one quantisation table (64 numbers) a component.
        subsampling: as Pillow numbers it: 0 is 4:4:4, 1 is 4:2:2, 2 is 4:2:0.
        rgb: the components are red, green and blue, not luma and chroma.
    """

    tables: tuple[tuple[int, ...], ...]
    subsampling: int
    progressive: bool
    rgb: bool
    segments: tuple[tuple[int, bytes], ...]


def read(data: bytes) -> list[Picture]:
    """Decode a JPEG.

    Raises:
        DenoiseError: damaged, truncated, of a kind libjpeg cannot decode, or too large.
    """
    from PIL import JpegImagePlugin

    segments, scan = _take_apart(data)
    frame = next((payload for marker, payload in segments if marker in _FRAMES), b"")
    if len(frame) < 6 or len(frame) < 6 + 3 * frame[5]:
        raise DenoiseError("damaged: no JPEG frame header")
    precision, height, width, components = struct.unpack_from(">BHHB", frame)
    if precision != 8:
        raise DenoiseError(f"has {precision} bits a sample; JPEG is read with 8 only")
    check_size(width, height, components)
    # A block of 8 x 8 takes a bit at least; where the data ends too early libjpeg would paint the rest gray.
    if -(-width // 8) * -(-height // 8) > 8 * (len(data) - scan):
        raise DenoiseError(f"damaged: too little data for {width} x {height} pixels")
    coding = [(marker, payload) for marker, payload in segments if not _is_metadata(marker)]
    image = JpegImagePlugin.JpegImageFile(io.BytesIO(_join(coding) + data[scan:]))
    samples = from_pillow(image)
    colors: dict[str, Color] = {"L": "gray", "RGB": "rgb", "CMYK": "cmyk"}
    adobe_rgb = image.info.get("adobe_transform") == 0 and components == 3
    tables = [tuple(image.quantization[frame[8 + 3 * i]]) for i in range(components)]
    if components == 4 and image.info.get("adobe_transform") == 2:  # luma and chroma of inks: written as inks
        tables = [tuple(map(min, *tables))] * 4
    native = Native(
        tables=tuple(tables),
        subsampling=_subsampling(frame, components),
        progressive=bool(image.info.get("progressive")),
        rgb=(adobe_rgb or bytes(frame[6:15:3]) == b"RGB") and "jfif" not in image.info,
        segments=tuple((m, p) for m, p in segments if _is_metadata(m) and _is_kept(m, p)),
    )
    notes: tuple[str, ...] = ()
    if any(m == _APP2 and p.startswith(_MPF) for m, p in segments):
        notes = ("the further pictures embedded in it (preview, depth or gain map) are dropped",)
    return [Picture(samples, colors[image.mode], keep=_keep(native, data, notes))]


def write(pictures: list[Picture], file: BinaryIO) -> None:
    """Encode as JPEG: with the tables and subsampling of the JPEG it was, or at quality 95 and 4:4:4."""
    from PIL import Image

    (picture,) = pictures
    keep = picture.keep
    samples = picture.samples
    mode = {"gray": "L", "rgb": "RGB", "cmyk": "CMYK"}[picture.color]
    size = picture.width, picture.height
    image = Image.frombuffer(mode, size, np.ascontiguousarray(samples), "raw", mode, 0, 1)
    native = keep.native if keep.format == "jpeg" else None
    coded = io.BytesIO()
    if native:
        tables = [list(table) for table in native.tables]
        while len(tables) > 1 and tables[-1] == tables[-2]:  # components without a table use the last one
            tables.pop()
        image.save(
            coded,
            "JPEG",
            qtables=tables,
            subsampling=native.subsampling,
            progressive=native.progressive,
            keep_rgb=native.rgb,
        )
    else:
        image.save(coded, "JPEG", quality=_QUALITY, subsampling=0)
    segments = list(native.segments) if native else list(_new_segments(keep))
    view = coded.getbuffer()
    start = 2
    if bytes(view[2:4]) == bytes((0xFF, _APP0)) and segments and segments[0][0] == _APP0:
        start += 2 + struct.unpack_from(">H", view, 4)[0]
    file.write(_join(segments))
    file.write(view[start:])


def _take_apart(data: bytes) -> tuple[list[tuple[int, bytes]], int]:
    """The segments (marker, payload) before the first scan, and where that scan starts."""
    segments: list[tuple[int, bytes]] = []
    place = 2
    while place + 4 <= len(data):
        marker = data[place + 1]
        if data[place] != 0xFF or marker in (0, 0xFF):  # padding, or stray bytes, which libjpeg skips too
            place += 1
            continue
        if marker == _SOS:
            return segments, place
        if marker == _EOI:
            break
        (length,) = struct.unpack_from(">H", data, place + 2)
        if length < 2 or place + 2 + length > len(data):
            break
        segments.append((marker, data[place + 4 : place + 2 + length]))
        place += 2 + length
    raise DenoiseError("truncated: the file ends before the picture")


def _join(segments: list[tuple[int, bytes]]) -> bytes:
    parts = [struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload for marker, payload in segments]
    return bytes((0xFF, _SOI)) + b"".join(parts)


def _is_metadata(marker: int) -> bool:
    """Application segments and comments, but for APP14 (Adobe): it tells the colour transform."""
    return (_APP0 <= marker <= _APP15 and marker != _APP14) or marker == _COM


def _is_kept(marker: int, payload: bytes) -> bool:
    """All metadata but what points behind the picture (MPF) or depends on its bytes (APP11: JUMBF, C2PA)."""
    return marker != _APP11 and not (marker == _APP2 and payload.startswith(_MPF))


def _subsampling(frame: bytes, components: int) -> int:
    """The input's chroma subsampling, or 4:4:4 where Pillow cannot write it: never less than before."""
    if components != 3:
        return 0
    (h, v), *chroma = [(frame[7 + 3 * i] >> 4, frame[7 + 3 * i] & 15) for i in range(3)]
    ratios = {(h / max(ch, 1), v / max(cv, 1)) for ch, cv in chroma}
    known = {frozenset({(2.0, 1.0)}): 1, frozenset({(2.0, 2.0)}): 2}
    return known.get(frozenset(ratios), 0)


def _keep(native: Native, data: bytes, notes: tuple[str, ...]) -> Keep:
    def first(marker: int, prefix: bytes) -> bytes | None:
        found = (p for m, p in native.segments if m == marker and p.startswith(prefix))
        return next((payload[len(prefix) :] for payload in found), None)

    profile = sorted(
        (p for m, p in native.segments if m == _APP2 and p.startswith(_ICC)), key=lambda p: p[12:13]
    )
    exif = first(_APP1, _EXIF)
    resources = first(_APP13, _PHOTOSHOP)
    return Keep(
        format="jpeg",
        icc=b"".join(payload[14:] for payload in profile) or None,
        exif=exif,
        xmp=first(_APP1, _XMP),
        iptc=_iptc(resources) if resources else None,
        dpi=_density(first(_APP0, _JFIF)) or exif_block.resolution(exif_block.parsed(exif)),
        lossy=True,
        native=native,
        bound=("its comment",) if any(m == _COM for m, _ in native.segments) else (),
        original=data,
        notes=notes,
    )


def _density(jfif: bytes | None) -> tuple[float, float] | None:
    if jfif is None or len(jfif) < 7:
        return None
    unit, x, y = struct.unpack_from(">BHH", jfif, 2)
    scale = {1: 1.0, 2: 2.54}.get(unit)
    return (x * scale, y * scale) if scale and x and y else None


def _iptc(resources: bytes) -> bytes | None:
    """The IPTC records among Photoshop's resources: "8BIM", number, padded name, length, padded data."""
    place = 0
    while resources[place : place + 4] == b"8BIM" and place + 12 <= len(resources):
        (number,) = struct.unpack_from(">H", resources, place + 4)
        place += 6 + (resources[place + 6] + 2) // 2 * 2
        if place + 4 > len(resources):
            break
        (length,) = struct.unpack_from(">I", resources, place)
        if number == 0x0404:
            return resources[place + 4 : place + 4 + length]
        place += 4 + (length + 1) // 2 * 2
    return None


def _new_segments(keep: Keep) -> Iterator[tuple[int, bytes]]:
    """Segments for metadata that came from another format."""
    if keep.dpi:
        x, y = (min(max(round(value), 1), 65_535) for value in keep.dpi)
        yield _APP0, _JFIF + struct.pack(">HBHHBB", 0x0101, 1, x, y, 0, 0)
    if keep.exif:
        yield _APP1, _EXIF + keep.exif
    if keep.xmp:
        yield _APP1, _XMP + keep.xmp
    if keep.icc:
        step = _SEGMENT - 14
        parts = [keep.icc[i : i + step] for i in range(0, len(keep.icc), step)]
        for number, part in enumerate(parts, 1):
            yield _APP2, _ICC + bytes((number, len(parts))) + part
    if keep.iptc:
        resource = b"8BIM" + struct.pack(">HHI", 0x0404, 0, len(keep.iptc)) + keep.iptc
        yield _APP13, _PHOTOSHOP + resource + b"\0" * (len(keep.iptc) % 2)
