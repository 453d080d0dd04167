"""PNG: libpng codes the pixels (16-bit colour included), and every other block is carried over as it is.

The file is taken apart into its blocks here, so that libpng sees nothing but the picture's own, and text,
gamma, chromaticities, profile, EXIF and density of the input can be put back into the output untouched.
"""

import logging
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from denoise_cli.errors import DenoiseError
from denoise_cli.images.picture import Alpha, Color, Keep, Picture, check_size

SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Measured on photographs: searching them for repeats finds nothing, so the run-length strategy is 6 times as
# fast as level 6 and 1 % smaller (8 bits: 0.1 s a megapixel against 0.67 s; 16 bits: 0.2 s against 0.61 s).
_LEVEL, _STRATEGY_RLE, _FILTER_PAETH = 1, 3, 128
_INCH = 0.0254
_LARGEST_TEXT = 64 * 2**20
_PICTURE = {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS"}
# Blocks that say something about samples we are about to replace, or about an animation we do not read.
_NOT_KEPT = {b"tRNS", b"sBIT", b"bKGD", b"hIST", b"sPLT"}
_KEPT = {b"cHRM", b"gAMA", b"iCCP", b"sRGB", b"cICP", b"mDCV", b"cLLI", b"tIME"}
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}  # of a colour type
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a colour type
_XMP_KEYWORD = b"XML:com.adobe.xmp"


@dataclass(frozen=True)
class Block:
    kind: bytes
    data: bytes

    def __bytes__(self) -> bytes:
        check = zlib.crc32(self.data, zlib.crc32(self.kind))
        return struct.pack(">I", len(self.data)) + self.kind + self.data + struct.pack(">I", check)

    @property
    def safe_to_copy(self) -> bool:
        """The format's own mark for blocks that stay true when the pixels change."""
        return bool(self.kind[3] & 0x20)


@dataclass(frozen=True)
class Native:
    """Blocks to carry over: those that stood before the pixels, and those after."""

    before: tuple[Block, ...]
    after: tuple[Block, ...]


def read(data: bytes) -> list[Picture]:
    """Decode a PNG.

    Raises:
        DenoiseError: damaged, truncated, animated or too large.
    """
    import imagecodecs

    # libpng's complaints become the message of an error here.
    logging.getLogger("imagecodecs").setLevel(logging.CRITICAL + 1)
    header, critical, native, notes = _take_apart(data)
    width, height, depth, color_type = header
    samples = imagecodecs.png_decode(critical)
    samples = samples.reshape(height, width, -1)
    color: Color = "gray" if samples.shape[2] < 3 else "rgb"
    alpha: Alpha = "straight" if samples.shape[2] in (2, 4) else "none"
    if color_type == 3 or depth < 8:
        notes += (f"its {'palette' if color_type == 3 else f'{depth}-bit gray'} becomes 8 bits a sample",)
    elif samples.shape[2] != _CHANNELS[color_type]:
        notes += ("its transparent colour becomes a channel of its own",)
    expanded = depth < 8 or samples.shape[2] != _CHANNELS[color_type]
    blocks = {block.kind: block.data for block in reversed(native.before + native.after)}
    keep = Keep(
        format="png",
        icc=_inflate(blocks[b"iCCP"].partition(b"\0")[2][1:]) if b"iCCP" in blocks else None,
        exif=blocks.get(b"eXIf"),
        xmp=_xmp(native),
        dpi=_dpi(blocks.get(b"pHYs")),
        native=native,
        bound=_bound(native),
        original=data if expanded else None,
        notes=notes,
    )
    return [Picture(samples, color, alpha, keep)]


def write(pictures: list[Picture], file: BinaryIO) -> None:
    """Encode as PNG: the blocks that came from a PNG, or new ones for what came from another format."""
    import imagecodecs

    (picture,) = pictures
    samples = picture.samples[..., 0] if picture.samples.shape[2] == 1 else picture.samples
    # Noise does not shrink, and each row has a filter byte before it: imagecodecs' own room is too small.
    room = (samples.nbytes + picture.height) * 9 // 8 + 2**16
    coded = imagecodecs.png_encode(
        np.ascontiguousarray(samples), level=_LEVEL, strategy=_STRATEGY_RLE, filter=_FILTER_PAETH, out=room
    )
    native = picture.keep.native if picture.keep.format == "png" else None
    native = native or Native(tuple(_new_blocks(picture.keep)), ())
    first_end = len(SIGNATURE) + 25  # IHDR, always 13 bytes long and first
    view = memoryview(coded)
    file.write(view[:first_end])
    file.writelines(bytes(block) for block in native.before)
    file.write(view[first_end:-12])
    file.writelines(bytes(block) for block in native.after)
    file.write(view[-12:])


def _blocks(data: bytes) -> Iterator[tuple[Block, bool]]:
    """Every block up to IEND, and whether its checksum holds."""
    place = len(SIGNATURE)
    while place + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        end = place + 12 + length
        if end > len(data):
            break
        if not kind.isalpha():
            raise DenoiseError("damaged: a block without a name")
        block = Block(kind, data[place + 8 : end - 4])
        yield block, zlib.crc32(block.data, zlib.crc32(kind)) == struct.unpack_from(">I", data, end - 4)[0]
        if kind == b"IEND":
            return
        place = end
    raise DenoiseError("truncated: the file ends in the middle of the picture")


def _take_apart(data: bytes) -> tuple[tuple[int, int, int, int], bytes, Native, tuple[str, ...]]:
    """Split into header, the picture alone, and the blocks to keep; notes name the damaged ones."""
    header: tuple[int, int, int, int] | None = None
    critical: list[bytes] = [SIGNATURE]
    before: list[Block] = []
    after: list[Block] = []
    notes: list[str] = []
    packed = 0
    for block, sound in _blocks(data):
        needed = block.kind in _PICTURE
        if block.kind[:1].isupper() and not needed:
            raise DenoiseError(
                f"has a block {block.kind.decode()} that is needed to read it and is not known"
            )
        if needed and not sound:
            raise DenoiseError(f"damaged: wrong checksum in {block.kind.decode()}")
        if block.kind == b"acTL":
            raise DenoiseError("is an animation; take its frames apart first")
        if header is None:
            if block.kind != b"IHDR" or len(block.data) != 13:
                raise DenoiseError("damaged: no PNG header")
            width, height, depth, color_type, *methods = struct.unpack(">IIBBBBB", block.data)
            header = width, height, depth, color_type
            if depth not in _DEPTHS.get(color_type, ()) or methods not in ([0, 0, 0], [0, 0, 1]):
                raise DenoiseError("damaged: a header that no PNG has")
            check_size(width, height, 4 * max(depth // 8, 1))
        if needed:
            critical.append(bytes(block))
            packed += len(block.data) if block.kind == b"IDAT" else 0
        elif not sound:
            notes.append(f"its damaged {block.kind.decode()} block is dropped")
        elif block.kind in _KEPT or (block.safe_to_copy and block.kind not in _NOT_KEPT):
            (after if packed else before).append(block)
    assert header is not None  # _blocks ends at IEND or raises
    width, height, depth, color_type = header
    # Deflate packs 1032 to 1 at best: what claims more than its data can hold is refused unallocated.
    if width * height * _CHANNELS[color_type] * depth / 8 > 1040 * packed + 1024:
        raise DenoiseError(f"damaged: too little data for {width} x {height} pixels")
    return header, b"".join(critical), Native(tuple(before), tuple(after)), tuple(notes)


def _bound(native: Native) -> tuple[str, ...]:
    kinds = {block.kind for block in native.before + native.after if not block.data.startswith(_XMP_KEYWORD)}
    text = bool(kinds & {b"tEXt", b"zTXt", b"iTXt"})
    color = bool(kinds & {b"gAMA", b"cHRM", b"cICP"}) and not kinds & {b"iCCP", b"sRGB"}
    return ("its text",) * text + ("its gamma and primaries",) * color


def _inflate(data: bytes) -> bytes | None:
    """The unpacked data, or None if it is damaged or grows beyond all measure."""
    unpacker = zlib.decompressobj()
    try:
        unpacked = unpacker.decompress(data, _LARGEST_TEXT)
    except zlib.error:
        return None
    return unpacked if unpacker.eof else None


def _xmp(native: Native) -> bytes | None:
    """The packet in the text block of that name: keyword, compression, language, translated keyword, text."""
    for block in native.before + native.after:
        keyword, _, rest = block.data.partition(b"\0")
        if block.kind == b"iTXt" and keyword == _XMP_KEYWORD and len(rest) > 2:
            text = rest[2:].split(b"\0", 2)[-1]
            return _inflate(text) if rest[0] else text
    return None


def _dpi(data: bytes | None) -> tuple[float, float] | None:
    if data is None or len(data) != 9:
        return None
    x, y, unit = struct.unpack(">IIB", data)
    return (x * _INCH, y * _INCH) if unit == 1 and x and y else None


def _new_blocks(keep: Keep) -> Iterator[Block]:
    if keep.icc:
        yield Block(b"iCCP", b"ICC profile\0\0" + zlib.compress(keep.icc))
    if keep.dpi:
        x, y = (min(round(value / _INCH), 2**31 - 1) for value in keep.dpi)
        yield Block(b"pHYs", struct.pack(">IIB", x, y, 1))
    if keep.exif:
        yield Block(b"eXIf", keep.exif)
    if keep.xmp:
        yield Block(b"iTXt", _XMP_KEYWORD + b"\0\0\0\0\0" + keep.xmp)
