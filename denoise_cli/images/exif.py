"""EXIF, which is a TIFF file without a picture: directories of tagged values, some pointing to others.

Between JPEG, PNG and WebP an EXIF block travels as it is, byte for byte. Only into and out of a TIFF, where
its first directory is the file's own, must it be taken apart; and one tag, the orientation, matters to us.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

ORIENTATION, X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 274, 282, 283, 296
EXIF_IFD, GPS_IFD, INTEROPERABILITY_IFD = 34665, 34853, 40965
_POINTERS = {EXIF_IFD, GPS_IFD, INTEROPERABILITY_IFD}
_TYPE_BYTES = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
}
_SHORT, _LONG, _RATIONAL = 3, 4, 5


@dataclass(frozen=True)
class Entry:
    """One tag: its value as raw bytes in the block's byte order, or the directory it points to."""

    tag: int
    type: int
    count: int
    data: bytes
    children: tuple["Entry", ...] = ()


@dataclass(frozen=True)
class Block:
    """The first directory of an EXIF block or TIFF file. `order` is "<" or ">", as `struct` names it."""

    order: str
    entries: tuple[Entry, ...]

    def number(self, tag: int) -> float | None:
        """The first value of a numeric tag, or None if it is missing or makes no sense."""
        code = {3: "H", 4: "I", 5: "II"}
        for entry in self.entries:
            if entry.tag == tag and entry.type in code and entry.count:
                value: tuple[int, ...] = struct.unpack_from(self.order + code[entry.type], entry.data)
                return value[0] / (value[1] or 1) if len(value) == 2 else value[0]
        return None


def parse(data: bytes, offset: int | None = None) -> Block:
    """Read a directory: the first one of an EXIF block or a TIFF file (BigTIFF too), or the one at `offset`.

    An entry that does not fit into the data is left out.

    Raises:
        ValueError: the data is no TIFF structure at all.
    """
    order = {b"II": "<", b"MM": ">"}.get(bytes(data[:2]))
    if order is None or len(data) < 8:
        raise ValueError("not an EXIF block")
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    if offset is None:
        offset = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)[0]
    return Block(order, _directory(data, order, offset, big=big, depth=0))


def _directory(data: bytes, order: str, offset: int, *, big: bool, depth: int) -> tuple[Entry, ...]:
    head, size, inline = (8, 20, 8) if big else (2, 12, 4)
    if offset + head > len(data):
        return ()
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, offset)
    entries: dict[int, Entry] = {}
    allowance = len(data)  # values that overlap could otherwise be made to fill the memory
    for start in range(offset + head, min(offset + head + count * size, len(data) - size + 1), size):
        tag, kind, number = struct.unpack_from(order + ("HHQ" if big else "HHI"), data, start)
        length = _TYPE_BYTES.get(kind, 0) * number
        place = start + size - inline
        if length > inline:
            (place,) = struct.unpack_from(order + ("Q" if big else "I"), data, place)
        if not length or place + length > len(data) or length > allowance or tag in entries:
            continue
        allowance -= length
        value = bytes(data[place : place + length])
        children: tuple[Entry, ...] = ()
        if tag in _POINTERS:
            target = int.from_bytes(value[:8], "little" if order == "<" else "big")
            children = _directory(data, order, target, big=big, depth=depth + 1) if depth < 2 else ()
            if not children:
                continue
        entries[tag] = Entry(tag, kind, number, value, children)
    return tuple(entries.values())


def serialise(order: str, entries: Iterable[Entry], start: int = 8) -> bytes:
    """A directory with its values and sub-directories, to be placed at byte `start` of its file."""
    entries = sorted(entries, key=lambda entry: entry.tag)
    head = struct.pack(order + "H", len(entries))
    place = start + 2 + 12 * len(entries) + 4
    tail = b""
    for entry in entries:
        if entry.children:
            target = place + len(tail)
            tail += serialise(order, entry.children, target)
            value, kind, count = struct.pack(order + "I", target), _LONG, 1
        else:
            value, kind, count = entry.data, entry.type, entry.count
            if len(value) > 4:
                value = struct.pack(order + "I", place + len(tail))
                tail += entry.data
        tail += b"\0" * (len(tail) % 2)
        head += struct.pack(order + "HHI", entry.tag, kind, count) + value.ljust(4, b"\0")
    return head + bytes(4) + tail


def block(order: str, entries: Iterable[Entry]) -> bytes:
    """A whole EXIF block: header and first directory."""
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return magic + struct.pack(order + "I", 8) + serialise(order, entries)


def orientation(exif: bytes | None) -> int:
    """How to turn the stored pixels for viewing: 1 (as they are) to 8, as EXIF numbers them."""
    value = _parsed_number(exif, ORIENTATION)
    return int(value) if value is not None and value in range(1, 9) else 1


def resolution(exif: bytes | None) -> tuple[float, float] | None:
    """Pixels per inch, horizontal and vertical, if the block tells them."""
    x, y = _parsed_number(exif, X_RESOLUTION), _parsed_number(exif, Y_RESOLUTION)
    unit = {2: 1.0, 3: 2.54}.get(int(_parsed_number(exif, RESOLUTION_UNIT) or 2))
    return (x * unit, y * unit) if x and y and unit else None


def _parsed_number(exif: bytes | None, tag: int) -> float | None:
    try:
        return parse(exif).number(tag) if exif else None
    except ValueError:
        return None


def resolution_entries(order: str, dpi: tuple[float, float]) -> tuple[Entry, ...]:
    """The three tags that tell pixels per inch."""
    x, y = (Fraction(value).limit_denominator(10_000) for value in dpi)
    return (
        Entry(X_RESOLUTION, _RATIONAL, 1, struct.pack(order + "II", x.numerator, x.denominator)),
        Entry(Y_RESOLUTION, _RATIONAL, 1, struct.pack(order + "II", y.numerator, y.denominator)),
        Entry(RESOLUTION_UNIT, _SHORT, 1, struct.pack(order + "H", 2)),
    )
