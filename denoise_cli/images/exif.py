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

Fractions = tuple[tuple[int, ...], tuple[int, ...]]


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


@dataclass(frozen=True)
class _Layout:
    """How a file's directories are laid out; a BigTIFF has wider counts and offsets."""

    order: str
    big: bool

    @classmethod
    def of(cls, data: bytes) -> "_Layout":
        order = {b"II": "<", b"MM": ">"}.get(bytes(data[:2]))
        if order is None or len(data) < 16:
            raise ValueError("not an EXIF block or TIFF file")
        return cls(order, struct.unpack_from(order + "H", data, 2)[0] == 43)

    def offset(self, data: bytes, place: int) -> int:
        return int(struct.unpack_from(self.order + ("Q" if self.big else "I"), data, place)[0])

    def first(self, data: bytes) -> int:
        return self.offset(data, 8 if self.big else 4)

    def entries(self, data: bytes, start: int) -> range:
        """Where the entries of the directory at `start` begin; they may lie beyond the data."""
        head, size = (8, 20) if self.big else (2, 12)
        if start + head > len(data):
            return range(0)
        (count,) = struct.unpack_from(self.order + ("Q" if self.big else "H"), data, start)
        return range(start + head, start + head + count * size, size)


def directories(data: bytes) -> list[int]:
    """Where the directory of each page of a TIFF file begins.

    Raises:
        ValueError: the chain of directories leaves the file, or comes back to where it was.
    """
    layout = _Layout.of(data)
    found: dict[int, None] = {}
    offset = layout.first(data)
    while offset:
        entries = layout.entries(data, offset)
        if not entries or entries.stop + (8 if layout.big else 4) > len(data):
            raise ValueError("a page lies behind the end of the file")
        if offset in found:
            raise ValueError("its pages go in a circle")
        found[offset] = None
        offset = layout.offset(data, entries.stop)
    return list(found)


def parse(data: bytes, offset: int | None = None) -> Block:
    """Read a directory: the first one of an EXIF block or a TIFF file (BigTIFF too), or the one at `offset`.

    An entry that does not fit into the data is left out.

    Raises:
        ValueError: the data is no TIFF structure at all.
    """
    layout = _Layout.of(data)
    return Block(layout.order, _directory(data, layout, layout.first(data) if offset is None else offset))


def _directory(data: bytes, layout: _Layout, offset: int, depth: int = 0) -> tuple[Entry, ...]:
    order, inline = layout.order, 8 if layout.big else 4
    entries: dict[int, Entry] = {}
    allowance = len(data)  # values that overlap could otherwise be made to fill the memory
    for start in layout.entries(data, offset):
        end = start + (20 if layout.big else 12)
        if end > len(data):
            break
        tag, kind, number = struct.unpack_from(order + ("HHQ" if layout.big else "HHI"), data, start)
        length = _TYPE_BYTES.get(kind, 0) * number
        place = end - inline
        if length > inline:
            place = layout.offset(data, place)
        if not length or place + length > len(data) or length > allowance or tag in entries:
            continue
        allowance -= length
        value = bytes(data[place : place + length])
        children: tuple[Entry, ...] = ()
        if tag in _POINTERS:
            target = int.from_bytes(value[:8], "little" if order == "<" else "big")
            children = _directory(data, layout, target, depth + 1) if depth < 2 else ()
            if not children:
                continue
        entries[tag] = Entry(tag, kind, number, value, children)
    return tuple(entries.values())


def serialise(order: str, entries: Iterable[Entry], start: int = 8) -> bytes:
    """A directory with its values and sub-directories, to be placed at byte `start` of its file.

    It is the last of its chain: the offset of the next one, after 2 + 12 bytes an entry, is 0.
    """
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
    value = parsed(exif).number(ORIENTATION)
    return int(value) if value is not None and value in range(1, 9) else 1


def resolution_values(tags: Block) -> tuple[Fractions, int] | None:
    """Horizontal and vertical resolution as fractions, and their unit: 1 none, 2 inch, 3 centimetre."""
    found = {entry.tag: entry for entry in tags.entries}
    x, y = found.get(X_RESOLUTION), found.get(Y_RESOLUTION)
    if x is None or y is None or (x.type, y.type) != (_RATIONAL, _RATIONAL):
        return None
    ratios = struct.unpack_from(tags.order + "II", x.data), struct.unpack_from(tags.order + "II", y.data)
    unit = int(tags.number(RESOLUTION_UNIT) or 2)
    return (ratios, unit) if all(map(all, ratios)) and unit in (1, 2, 3) else None


def resolution(tags: Block) -> tuple[float, float] | None:
    """Pixels per inch, horizontal and vertical, if the block tells them."""
    values = resolution_values(tags)
    if values is None or values[1] == 1:
        return None
    ((x, x_parts), (y, y_parts)), unit = values
    scale = 1.0 if unit == 2 else 2.54
    return scale * x / x_parts, scale * y / y_parts


def parsed(exif: bytes | None) -> Block:
    """The block, or an empty one if there is none or it is damaged."""
    try:
        return parse(exif) if exif else Block("<", ())
    except ValueError:
        return Block("<", ())


def with_resolution(exif: bytes | None, dpi: tuple[float, float] | None) -> bytes | None:
    """The block, with pixels per inch added if it tells no resolution of its own."""
    tags = parsed(exif)
    if dpi is None or resolution_values(tags) is not None or (exif and not tags.entries):
        return exif
    kept = [entry for entry in tags.entries if entry.tag not in (X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT)]
    return block(tags.order, [*kept, *resolution_entries(tags.order, dpi)])


def resolution_entries(order: str, dpi: tuple[float, float] | None) -> tuple[Entry, ...]:
    """The three tags that tell pixels per inch, or that none are known."""
    x, y = (Fraction(value).limit_denominator(10_000) for value in dpi or (1, 1))
    return (
        Entry(X_RESOLUTION, _RATIONAL, 1, struct.pack(order + "II", x.numerator, x.denominator)),
        Entry(Y_RESOLUTION, _RATIONAL, 1, struct.pack(order + "II", y.numerator, y.denominator)),
        Entry(RESOLUTION_UNIT, _SHORT, 1, struct.pack(order + "H", 2 if dpi else 1)),
    )
