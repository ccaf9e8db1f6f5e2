"""JPEG, PNG and WebP files taken apart into pieces by what they say: the picture, its colours, or what somebody wrote about it.

No pixel is decoded. Pieces cover the file from its first byte to its last, in order, so a copy without some of them has the same pixels.
Layouts: ITU-T T.81 annex B (JPEG), W3C PNG third edition sections 5 and 11, RFC 9649 (WebP), CIPA DC-007 (previews behind a JPEG).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

MOST_BYTES = 1 << 30
MOST_PIECES = 1 << 20
# what a piece is; the first two are needed to show the picture as it is meant
PICTURE, COLOUR, EXIF, XMP, IPTC, TEXT, PREVIEW, OTHER, TRAILING = (
    "picture", "colour", "exif", "xmp", "iptc", "text", "preview", "other", "trailing",
)  # fmt: skip

_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_PNG_PICTURE = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"acTL", b"fcTL", b"fdAT"})
_PNG_COLOUR = frozenset(
    {b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"sBIT", b"bKGD", b"pHYs", b"cICP", b"mDCV", b"cLLI"}
)
_PNG_TEXT = frozenset({b"tEXt", b"zTXt", b"iTXt", b"tIME"})
_WEBP_PICTURE = frozenset({b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF"})
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


class BadPicture(ValueError):
    """A file whose layout makes no sense; the message says where."""


@dataclass(frozen=True)
class Piece:
    """Bytes start … end of a file; `name` is the format's own ("APP1", "tEXt"); `body` is where its content begins."""

    kind: str
    name: str
    start: int
    end: int
    body: int


def format_of(data: bytes) -> str | None:
    """JPEG, PNG, WEBP, or None for anything else."""
    if data[:3] == b"\xff\xd8\xff":
        return "JPEG"
    if data[:8] == PNG_MAGIC:
        return "PNG"
    return "WEBP" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else None


def pieces_of(data: bytes) -> list[Piece]:
    """The pieces of a file's bytes. Raises BadPicture for another format, a file cut short, or one beyond the limits."""
    form = format_of(data)
    if form is None:
        raise BadPicture("neither JPEG, PNG nor WebP")
    if len(data) > MOST_BYTES:
        raise BadPicture(f"{len(data):,} bytes are more than {MOST_BYTES:,}")
    found: list[Piece] = []
    try:
        for piece in {"JPEG": _jpeg, "PNG": _png, "WEBP": _webp}[form](data):
            found.append(piece)
            if len(found) > MOST_PIECES:
                raise BadPicture("too many pieces")
    except struct.error as error:
        raise BadPicture("cut short") from error
    if found[-1].end < len(data):
        found.append(Piece(TRAILING, "behind the end", found[-1].end, len(data), found[-1].end))
    return found


def exif_of(data: bytes, pieces: list[Piece]) -> bytes | None:
    """The TIFF bytes of the first EXIF piece, None without one."""
    for piece in pieces:
        if piece.kind == EXIF:
            body = data[piece.body : piece.end - (4 if piece.name == "eXIf" else 0)]
            return body.removeprefix(b"Exif\0\0")
    return None


def _jpeg(data: bytes) -> Iterator[Piece]:
    yield Piece(PICTURE, "SOI", 0, 2, 2)
    at = 2
    while True:
        start = at
        while data[at : at + 2] == b"\xff\xff":  # fill bytes
            at += 1
        if at + 2 > len(data):
            raise BadPicture("cut short: no end marker")
        if data[at] != 0xFF or data[at + 1] in (0x00, 0xD8):
            raise BadPicture(f"no marker at byte {at}")
        marker = data[at + 1]
        if marker == 0xD9:
            yield Piece(PICTURE, "EOI", start, at + 2, at + 2)
            return
        if marker == 0x01 or 0xD0 <= marker <= 0xD7:
            yield Piece(PICTURE, f"{marker:02X}", start, at + 2, at + 2)
            at += 2
            continue
        (length,) = struct.unpack_from(">H", data, at + 2)
        end = at + 2 + length
        if length < 2 or end > len(data):
            raise BadPicture(f"a segment at byte {at} reaches beyond the file")
        kind, name = _segment(marker, data[at + 4 : min(end, at + 40)])
        yield Piece(kind, name, start, end, at + 4)
        at = end
        if marker == 0xDA:  # what follows is coded pixels, up to the next marker that is none of theirs
            found = _NEXT_MARKER.search(data, at)
            if found is None:
                raise BadPicture("cut short: no end marker")
            if found.start() > at:
                yield Piece(PICTURE, "scan", at, found.start(), at)
            at = found.start()


def _segment(marker: int, head: bytes) -> tuple[str, str]:
    if marker == 0xFE:
        return TEXT, "COM"
    if not 0xE0 <= marker <= 0xEF:
        return PICTURE, f"{marker:02X}"
    name = f"APP{marker - 0xE0}"
    if marker == 0xE0 and head.startswith(b"JFIF\0"):
        thumbnail = head[12:14] not in (b"", b"\0", b"\0\0")
        return (PREVIEW if thumbnail else COLOUR), "JFIF"
    if marker == 0xE0 and head.startswith(b"JFXX\0"):
        return PREVIEW, "JFXX"
    if marker == 0xE1 and head.startswith(b"Exif\0"):
        return EXIF, name
    if marker == 0xE1 and head.startswith(b"http://ns.adobe.com/"):
        return XMP, name
    if marker == 0xE2 and head.startswith(b"ICC_PROFILE\0"):
        return COLOUR, name
    if marker == 0xE2 and head.startswith(b"MPF\0"):
        return PREVIEW, "MPF"
    if marker == 0xED:
        return IPTC, name
    return (COLOUR if marker == 0xEE and head.startswith(b"Adobe") else OTHER), name


def _png(data: bytes) -> Iterator[Piece]:
    yield Piece(PICTURE, "signature", 0, 8, 8)
    at = 8
    while True:
        (length,) = struct.unpack_from(">I", data, at)
        name = data[at + 4 : at + 8]
        end = at + 12 + length
        if end > len(data):
            raise BadPicture(f"a chunk at byte {at} reaches beyond the file")
        if name in _PNG_PICTURE:
            kind = PICTURE
        elif name in _PNG_COLOUR:
            kind = COLOUR
        elif name == b"eXIf":
            kind = EXIF
        else:
            kind = (
                XMP
                if data[at + 8 : at + 30].startswith(b"XML:com.adobe.xmp")
                else TEXT
                if name in _PNG_TEXT
                else OTHER
            )
        yield Piece(kind, name.decode("latin-1"), at, end, at + 8)
        at = end
        if name == b"IEND":
            return


def _webp(data: bytes) -> Iterator[Piece]:
    (size,) = struct.unpack_from("<I", data, 4)
    stop = 8 + size
    if stop > len(data):
        raise BadPicture("cut short")
    yield Piece(PICTURE, "RIFF", 0, 12, 12)
    at = 12
    while at + 8 <= stop:
        name = data[at : at + 4]
        (length,) = struct.unpack_from("<I", data, at + 4)
        end = min(at + 8 + length + length % 2, stop)
        if at + 8 + length > stop:
            raise BadPicture(f"a chunk at byte {at} reaches beyond the file")
        kind = (
            PICTURE
            if name in _WEBP_PICTURE
            else {b"ICCP": COLOUR, b"EXIF": EXIF, b"XMP ": XMP}.get(name, OTHER)
        )
        yield Piece(kind, name.decode("latin-1").strip(), at, end, at + 8)
        at = end
    if at < stop:
        yield Piece(OTHER, "rest", at, stop, at)
