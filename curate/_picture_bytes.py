"""What the bytes of a picture say before any decoder sees them: format, size, length, and how much work they ask for.

Signatures and layouts: JPEG (ITU-T T.81, annex B), PNG (ISO/IEC 15948), WebP (RFC 9649), GIF (GIF89a), BMP. Every loop here is bounded by
MAX_BLOCKS and MAX_FILL, since files of a million tiny blocks exist only to keep a reader busy.
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass

STATUSES = (
    "ok",
    "empty",
    "not a picture",
    "format not accepted",
    "too large",
    "too much work",
    "truncated",
    "damaged",
)
MAX_BYTES = 256 << 20
MAX_PIXELS = 1 << 26  # 67 million: 8,192 × 8,192
MAX_SIDE = 65_535
MAX_SCANS = 500  # what libjpeg-turbo's own fuzzers allow; encoders write about 10
MAX_SCANNED_PIXELS = 16 * MAX_PIXELS
_PNG = b"\x89PNG\r\n\x1a\n"
_OTHERS = (
    b"II*\0 MM\0* II+\0 MM\0+ 8BPS %!PS %PDF \xc5\xd0\xd3\xc6 \xff\x4f\xff\x51 \xff\x0a \x01\xda \0\0\1\0 \0\0\2\0 "
    b"DDS qoif icns FORM \x59\xa6\x6a\x95 v/1\x01 gimp \xd7\xcd\xc6\x9a"
).split(b" ")
MAX_BLOCKS = 1 << 20  # PNG chunks, GIF blocks
MAX_SEGMENTS = 1 << 14  # of a JPEG, scans included
MAX_RUN_BYTES = 4 << 20  # of a BMP that is packed by runs
MAX_FILL = 1 << 16  # bytes between the segments of a JPEG, before its first scan
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # ends a run of entropy-coded bytes (T.81, B.1.1)
_OTHER_STARTS = re.compile(rb"P[1-7]\s|\n[\x00\x02-\x05]\x01|.{4}(ftyp|jP  |JXL )|.{0,1000}<svg", re.DOTALL)
_NEEDED = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)


class PictureError(Exception):
    """A picture that cannot be used; `status` is one of STATUSES."""

    def __init__(self, status: str) -> None:
        super().__init__(status)
        self.status = status

    def __reduce__(self) -> tuple[type[PictureError], tuple[str]]:
        return (PictureError, (self.status,))


def format_of(data: bytes) -> str:
    """JPEG, PNG, WEBP, GIF or BMP, by the first bytes. Raises PictureError."""
    if not data:
        raise PictureError("empty")
    if len(data) > MAX_BYTES:
        raise PictureError("too large")
    if data[:3] == b"\xff\xd8\xff":
        return "JPEG"
    if data[:8] == _PNG:
        return "PNG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return "GIF"
    if data[:2] == b"BM" and int.from_bytes(data[14:18], "little") in _BMP_HEADERS:
        return "BMP"
    start = data[:1024]
    if any(start.startswith(magic) for magic in _OTHERS) or _OTHER_STARTS.match(start):
        raise PictureError("format not accepted")
    # the beginning of a picture format, and no more
    if len(data) < 12 and any(magic.startswith(data) for magic in (b"\xff\xd8\xff", _PNG, b"RIFF", b"GIF8")):
        raise PictureError("truncated")
    raise PictureError("not a picture")


def check_size(width: int, height: int) -> None:
    """Raise PictureError for a picture of these sides that is not decoded."""
    if width < 1 or height < 1:
        raise PictureError("damaged")
    if width > MAX_SIDE or height > MAX_SIDE or width * height > MAX_PIXELS:
        raise PictureError("too large")


@dataclass(frozen=True)
class Prepared:
    """The bytes to decode, without what their pixels do not need; how many scans they have; the EXIF orientation, 1 to 8."""

    data: bytes
    scans: int = 1
    orientation: int = 1


def prepare(data: bytes, kind: str) -> Prepared:
    """Look through a picture of this format. Raises PictureError for what is cut, too large by its header, or too much work."""
    if kind == "JPEG":
        return _plain_jpeg(data)
    if kind == "PNG":
        return _plain_png(data)
    if kind == "GIF":
        return Prepared(_first_frame(data))
    if kind == "WEBP":
        return Prepared(data, orientation=_check_webp(data))
    # runs are unpacked by a loop in Python
    if data[30:34] in (b"\1\0\0\0", b"\2\0\0\0") and len(data) > MAX_RUN_BYTES:
        raise PictureError("too much work")
    return Prepared(data)


def orientation_of(exif: bytes) -> int:
    """The orientation in an EXIF block (TIFF 6.0), 1 where there is none; nothing else of it is read."""
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None or len(exif) < 8:
        return 1
    (at,) = struct.unpack_from(order + "I", exif, 4)
    if at + 2 > len(exif):
        return 1
    (count,) = struct.unpack_from(order + "H", exif, at)
    for entry in range(at + 2, min(at + 2 + 12 * count, len(exif) - 11), 12):
        tag, kind, values = struct.unpack_from(order + "HHI", exif, entry)
        if tag == 0x0112:
            (value,) = struct.unpack_from(order + ("I" if kind == 4 else "H"), exif, entry + 8)
            return value if kind in (3, 4) and values == 1 and 1 <= value <= 8 else 1
    return 1


def _plain_jpeg(data: bytes) -> Prepared:
    """Without comments and applications' segments (JFIF's and Adobe's stay). An end-of-image marker must close the scans."""
    at, scans, fill, turn = 2, 0, 0, 0
    kept = [data[:2]]
    for _ in range(MAX_SEGMENTS):
        match = _MARKER.search(data, at)
        if match is None:
            raise PictureError("truncated")
        start, code = match.start(), data[match.end() - 1]
        fill += 0 if scans else start - at
        if fill > MAX_FILL:
            break
        at = match.end()
        if code == 0xD9:
            if not scans:
                raise PictureError("damaged")
            return Prepared(b"".join(kept), scans, turn or 1)
        if code == 0x01:
            continue
        if at + 2 > len(data):
            raise PictureError("truncated")
        if code in (0xC0, 0xC1, 0xC2) and at + 7 <= len(data):
            height, width = struct.unpack(">HH", data[at + 3 : at + 7])
            check_size(width, height or 1)
        at += int.from_bytes(data[at : at + 2], "big")
        if code == 0xE1 and not turn and data[start + 4 : start + 10] == b"Exif\0\0":
            turn = orientation_of(data[start + 4 : at])
        if code == 0xDA:
            if not scans:
                kept.append(data[start:])  # from the first scan on, bytes stay as they are
            scans += 1
            if scans > MAX_SCANS:
                break
        elif not scans and not (0xE1 <= code <= 0xEF and code != 0xEE or code == 0xFE):
            kept.append(data[start:at])
    raise PictureError("too much work")


def _plain_png(data: bytes) -> Prepared:
    """The PNG with the chunks that its pixels need, checksums verified: texts, profiles and further frames are left out."""
    at, end, turn = 8, len(data), 1
    pieces = [_PNG]
    for _ in range(MAX_BLOCKS):
        if at + 12 > end:
            raise PictureError("truncated")
        length = int.from_bytes(data[at : at + 4], "big")
        name = data[at + 4 : at + 8]
        last = at + 12 + length
        if at == 8:
            if name != b"IHDR" or length != 13:
                raise PictureError("damaged")
            check_size(*struct.unpack(">II", data[16:24]))
        if length >> 31:
            raise PictureError("damaged")
        if last > end:
            raise PictureError("truncated")
        if name == b"eXIf":
            turn = orientation_of(data[at + 8 : last - 4])
        if name in _NEEDED:
            if zlib.crc32(memoryview(data)[at + 4 : last - 4]) != int.from_bytes(
                data[last - 4 : last], "big"
            ):
                raise PictureError("damaged")
            pieces.append(data[at:last])
        if name == b"IEND":
            return Prepared(b"".join(pieces), orientation=turn)
        at = last
    raise PictureError("too much work")


def _first_frame(data: bytes) -> bytes:
    """The GIF up to its first picture: comments, applications' blocks and further frames are left out."""
    at = 13 + (3 << (data[10] & 7) + 1 if len(data) > 10 and data[10] & 0x80 else 0)
    kept = [data[:at]]
    blocks = 0
    while at + 1 < len(data):
        start, kind = at, data[at]
        if kind == 0x2C:
            if at + 10 > len(data):
                break
            at += 10 + (3 << (data[at + 9] & 7) + 1 if data[at + 9] & 0x80 else 0) + 1
        elif kind == 0x21:
            at += 2
        else:
            raise PictureError("damaged")
        while at < len(data) and data[at]:
            at += 1 + data[at]
            blocks += 1
            if blocks > MAX_BLOCKS:
                raise PictureError("too much work")
        if at >= len(data):
            break
        at += 1
        if kind == 0x2C or data[start + 1] == 0xF9:
            kept.append(data[start:at])
        if kind == 0x2C:
            return b"".join(kept) + b";"
    raise PictureError("truncated")


def _check_webp(data: bytes) -> int:
    """Canvas and length, before the decoder reserves memory for them (RFC 9649); the orientation."""
    end = int.from_bytes(data[4:8], "little") + 8
    if end > len(data):
        raise PictureError("truncated")
    first = data[12:16]
    if first == b"VP8X" and len(data) >= 30:
        check_size(int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1)
    elif first == b"VP8L" and len(data) >= 25:
        bits = int.from_bytes(data[21:25], "little")
        check_size((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    elif first == b"VP8 " and len(data) >= 30:
        sides = struct.unpack("<HH", data[26:30])
        check_size(sides[0] & 0x3FFF, sides[1] & 0x3FFF)
    at = 12
    for _ in range(MAX_BLOCKS if first == b"VP8X" and len(data) > 20 and data[20] & 8 else 0):
        if at + 8 > end:
            return 1
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        if data[at : at + 4] == b"EXIF":
            return orientation_of(data[at + 8 : at + 8 + length])
        at += 8 + length + (length & 1)
    return 1
