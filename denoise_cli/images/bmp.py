"""BMP: Pillow reads its many kinds; written are 8-bit gray, 24-bit colour, and 32 bits with transparency."""

import io
import struct
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from denoise_cli.errors import DenoiseError
from denoise_cli.images.picture import Color, Keep, Picture, check_size, from_pillow

if TYPE_CHECKING:
    from PIL.BmpImagePlugin import BmpImageFile

SIGNATURE = b"BM"
_INCH = 0.0254
_BITFIELDS = 3
_SRGB, _EMBEDDED = 0x73524742, 0x4D424544
_V5 = 124


def read(data: bytes) -> list[Picture]:
    """Decode a BMP.

    Raises:
        DenoiseError: damaged, truncated or too large.
    """
    from PIL import BmpImagePlugin

    image = BmpImagePlugin.BmpImageFile(io.BytesIO(data))
    check_size(*image.size, 4)
    plain = image.mode in ("L", "RGB", "RGBA")
    notes: tuple[str, ...] = () if plain else ("its palette becomes 8 bits a sample",)
    if _fills_reserved_bytes(image, data):
        notes += ("the fourth byte of its pixels, which this kind of BMP does not use, is dropped",)
    samples = from_pillow(image if plain else image.convert("L" if image.mode == "1" else "RGB"))
    x, y = image.info.get("dpi", (0, 0))
    keep = Keep(
        format="bmp",
        icc=_profile(data),
        dpi=(x, y) if x and y else None,
        original=None if plain else data,
        notes=notes,
    )
    color: Color = "gray" if samples.shape[2] == 1 else "rgb"
    return [Picture(samples, color, "straight" if samples.shape[2] == 4 else "none", keep)]


def write(pictures: list[Picture], file: BinaryIO) -> None:
    """Encode as BMP: rows from the bottom, blue first, each padded to four bytes.

    The header is the plain one of 40 bytes, or version 5 where transparency or a profile needs it.
    """
    (picture,) = pictures
    samples, icc = picture.samples, picture.keep.icc
    if picture.color == "gray" and picture.alpha != "none":
        samples = samples[..., [0, 0, 0, 1]]
    height, width, depth = samples.shape
    order = [0] if depth == 1 else [2, 1, 0, 3][:depth]
    rows = np.zeros((height, (width * depth + 3) // 4 * 4), np.uint8)
    rows[:, : width * depth] = samples[::-1, :, order].reshape(height, -1)
    palette = bytes(v for level in range(256) for v in (level, level, level, 0)) if depth == 1 else b""
    version5 = depth == 4 or icc is not None
    start = 14 + (_V5 if version5 else 40) + len(palette)
    x, y = (min(round(value / _INCH), 2**31 - 1) for value in picture.keep.dpi or (0, 0))
    colors = 256 if palette else 0
    compression = _BITFIELDS if depth == 4 else 0
    head = struct.pack("<iiHHIIiiII", width, height, 1, 8 * depth, compression, rows.size, x, y, colors, 0)
    if version5:
        masks = (0xFF0000, 0xFF00, 0xFF, 0xFF000000) if depth == 4 else (0, 0, 0, 0)
        place = (start - 14 + rows.size, len(icc)) if icc else (0, 0)
        head += struct.pack("<5I48xIIII", *masks, _EMBEDDED if icc else _SRGB, 4, *place, 0)
    total = start + rows.size + len(icc or b"")
    if total >= 2**32:
        raise DenoiseError("too large for a BMP of 4 GB: choose .png or .tif")
    file.write(struct.pack("<2sIHHI", b"BM", total, 0, 0, start))
    file.write(struct.pack("<I", len(head) + 4) + head + palette)
    file.write(rows.data)
    file.write(icc or b"")


def _fills_reserved_bytes(image: "BmpImageFile", data: bytes) -> bool:
    """Whether pixels of 32 bits without transparency hold more than colour: some programs put it there."""
    (tile,) = image.tile
    kind = tile.args[0] if isinstance(tile.args, tuple) else ""
    if len(kind) != 4 or "X" not in kind:
        return False
    reserved = data[tile.offset + kind.index("X") :][: 4 * image.width * image.height : 4]
    return reserved.count(reserved[:1]) < len(reserved)


def _profile(data: bytes) -> bytes | None:
    """The ICC profile a version 5 header points to."""
    if len(data) < 14 + _V5:
        return None
    (size,) = struct.unpack_from("<I", data, 14)
    (kind,) = struct.unpack_from("<I", data, 14 + 56)
    place, length = struct.unpack_from("<II", data, 14 + 112)
    if size != _V5 or kind != _EMBEDDED or 14 + place + length > len(data):
        return None
    return data[14 + place : 14 + place + length] or None
