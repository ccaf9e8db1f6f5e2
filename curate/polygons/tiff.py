"""EXIF blocks (TIFF): read with bounds on everything, and written again from chosen tags only.

An EXIF block is up to four directories of tags that lead to each other: the main one, Exif (0x8769), GPS (0x8825) and, of the
thumbnail, the second of the chain. Layout: TIFF 6.0 sections 2 and 15 (types), CIPA DC-008 (EXIF) section 4.6. Values are kept as
the bytes of the file with their type and count, so that a fraction stays the fraction it was.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from fractions import Fraction

# type -> (bytes of one value, struct letter); 7 is bytes, 2 text
TYPES = {
    1: (1, "B"), 2: (1, "s"), 3: (2, "H"), 4: (4, "I"), 5: (8, "II"), 6: (1, "b"), 7: (1, "s"), 8: (2, "h"),
    9: (4, "i"), 10: (8, "ii"), 11: (4, "f"), 12: (8, "d"), 13: (4, "I"), 129: (1, "s"),
}  # fmt: skip
EXIF_POINTER, GPS_POINTER, INTEROP_POINTER = 0x8769, 0x8825, 0xA005
MOST_BYTES = 64 << 20
MOST_TAGS = 4096  # of one directory


class BadTiff(ValueError):
    """An EXIF block that makes no sense; the message says where."""


@dataclass(frozen=True)
class Value:
    """The value of one tag, as the block has it (`order` is "<" or ">")."""

    kind: int
    count: int
    data: bytes
    order: str

    def numbers(self) -> list[int]:
        """Whole numbers; [] for another type."""
        size, letter = TYPES[self.kind]
        if len(letter) != 1 or letter in "sfd":
            return []
        return list(struct.unpack(f"{self.order}{self.count}{letter}", self.data))

    def pairs(self) -> list[tuple[int, int]]:
        """Numerators and denominators, not reduced; [] for another type."""
        letter = TYPES[self.kind][1]
        if len(letter) != 2:
            return []
        flat = struct.unpack(f"{self.order}{2 * self.count}{letter[0]}", self.data)
        return list(zip(flat[0::2], flat[1::2], strict=True))

    def fractions(self) -> list[Fraction] | None:
        """The values as fractions; None where one divides by zero or the type is another."""
        pairs = self.pairs()
        return [Fraction(*pair) for pair in pairs] if pairs and all(below for _, below in pairs) else None

    def text(self) -> str | None:
        """Text up to the first zero byte; None for another type, or where there is none."""
        if self.kind not in (2, 7, 129):
            return None
        return self.data.split(b"\0")[0].decode("utf-8", "replace").strip() or None


Tags = dict[int, Value]


@dataclass
class Block:
    """The directories of an EXIF block."""

    main: Tags = field(default_factory=dict)
    exif: Tags = field(default_factory=dict)
    gps: Tags = field(default_factory=dict)
    interop: Tags = field(default_factory=dict)
    thumbnail: Tags = field(default_factory=dict)
    order: str = "<"


def read(data: bytes) -> Block:
    """The block of TIFF bytes (without "Exif\\0\\0"). Raises BadTiff."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 8 or len(data) > MOST_BYTES:
        raise BadTiff("no TIFF header")
    magic, first = struct.unpack(f"{order}HI", data[2:8])
    if magic != 42:
        raise BadTiff("no TIFF header")
    block = Block(order=order)
    seen: set[int] = set()
    block.main, after = _directory(data, order, first, seen)
    block.exif = _linked(data, order, block.main.get(EXIF_POINTER), seen)
    block.gps = _linked(data, order, block.main.get(GPS_POINTER), seen)
    block.interop = _linked(data, order, block.exif.get(INTEROP_POINTER), seen)
    if after:
        block.thumbnail, _ = _directory(data, order, after, seen)
    return block


def _linked(data: bytes, order: str, pointer: Value | None, seen: set[int]) -> Tags:
    if pointer is None:
        return {}
    at = pointer.numbers()
    if len(at) != 1:
        raise BadTiff("a pointer to a directory is no number")
    return _directory(data, order, at[0], seen)[0]


def _directory(data: bytes, order: str, at: int, seen: set[int]) -> tuple[Tags, int]:
    """(tags, offset of the next directory); a tag that stands twice counts once, as first written."""
    if at in seen:
        raise BadTiff("a directory leads back to one before")
    seen.add(at)
    if not 8 <= at <= len(data) - 2:
        raise BadTiff(f"a directory at byte {at} of {len(data)}")
    (count,) = struct.unpack_from(f"{order}H", data, at)
    if count > MOST_TAGS or at + 2 + 12 * count > len(data):
        raise BadTiff(f"a directory of {count} tags")
    tags: Tags = {}
    total = 0
    for entry in range(count):
        place = at + 2 + 12 * entry
        tag, kind, number = struct.unpack_from(f"{order}HHI", data, place)
        if kind not in TYPES:
            continue  # readers shall skip types they do not know (TIFF 6.0, section 2)
        size = TYPES[kind][0] * number
        start = place + 8 if size <= 4 else struct.unpack_from(f"{order}I", data, place + 8)[0]
        if start + size > len(data):
            raise BadTiff(f"tag 0x{tag:04X} reaches beyond the block")
        total += size
        if total > 2 * len(data):  # tags that share their bytes again and again
            raise BadTiff("tags of more bytes than the block")
        tags.setdefault(tag, Value(kind, number, data[start : start + size], order))
    end = at + 2 + 12 * count
    after = struct.unpack_from(f"{order}I", data, end)[0] if end + 4 <= len(data) else 0
    return tags, after


def write(main: Tags, exif: Tags, order: str) -> bytes:
    """TIFF bytes with these tags, in order of their numbers; b"" where there is none. Values must be of the same byte order."""
    if not main and not exif:
        return b""
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8)
    main = {tag: value for tag, value in main.items() if tag not in (EXIF_POINTER, GPS_POINTER)}
    if exif:
        main[EXIF_POINTER] = Value(4, 1, bytes(4), order)
    body = _packed(main, order, len(head))
    if exif:
        where = struct.pack(f"{order}I", len(head) + len(body))
        main[EXIF_POINTER] = Value(4, 1, where, order)
        body = _packed(main, order, len(head))
        body += _packed(exif, order, len(head) + len(body))
    return head + body


def _packed(tags: Tags, order: str, at: int) -> bytes:
    entries, rest = [], b""
    behind = at + 2 + 12 * len(tags) + 4
    for tag, value in sorted(tags.items()):
        head = struct.pack(f"{order}HHI", tag, value.kind, value.count)
        if len(value.data) <= 4:
            entries.append(head + value.data.ljust(4, b"\0"))
            continue
        entries.append(head + struct.pack(f"{order}I", behind + len(rest)))
        rest += value.data + bytes(len(value.data) % 2)  # offsets are even
    return struct.pack(f"{order}H", len(tags)) + b"".join(entries) + bytes(4) + rest
