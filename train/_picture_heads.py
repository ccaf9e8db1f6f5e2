"""Is this a picture that a training can decode? Told from its first and last bytes where they are enough, else by decoding it.

    size_in(head)            width and height from the first bytes of a JPEG (ITU-T T.81, B.2.2), PNG (3rd edition, 11.2.1) or
                             WebP (RFC 9649, 2.5 to 2.7); None when they are not in there
    ends_well(...)           whether the end looks like one: a picture that does not is decoded before it is judged
    decode_error(data, …)    what Pillow says when it decodes it as the loader does
Other formats are refused by their first bytes: their readers do more work on opening than decoding a photograph takes.
"""

from __future__ import annotations

import io
import struct
import warnings

FORMATS = ("JPEG", "PNG", "WEBP")
HEAD_BYTES = 2_048
TAIL_BYTES = 64

_PNG = b"\x89PNG\r\n\x1a\n"
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_BARE = frozenset(range(0xD0, 0xD9)) | {0x01}


def format_in(head: bytes) -> str | None:
    """JPEG, PNG, WEBP, or None for anything else."""
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(_PNG):
        return "PNG"
    return "WEBP" if head[:4] == b"RIFF" and head[8:12] == b"WEBP" else None


def size_in(head: bytes) -> tuple[int, int] | None:
    """(width, height) in pixels, or None when the first bytes do not tell."""
    kind = format_in(head)
    if kind == "JPEG":
        return _jpeg(head)
    if kind == "PNG":
        return struct.unpack(">II", head[16:24]) if head[12:16] == b"IHDR" and len(head) >= 24 else None
    return _webp(head) if kind == "WEBP" and len(head) >= 30 else None


def _jpeg(head: bytes) -> tuple[int, int] | None:
    at, last = 2, len(head) - 9
    while at <= last and head[at] == 0xFF:
        marker = head[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
        elif marker in _BARE:
            at += 2
        elif marker in _FRAMES:
            return int.from_bytes(head[at + 7 : at + 9], "big"), int.from_bytes(head[at + 5 : at + 7], "big")
        elif marker == 0xDA:
            return None
        else:
            at += 2 + int.from_bytes(head[at + 2 : at + 4], "big")
    return None


def _webp(head: bytes) -> tuple[int, int] | None:
    chunk = head[12:16]
    if chunk == b"VP8 " and head[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack("<HH", head[26:30])
        return width & 0x3FFF, height & 0x3FFF
    if chunk == b"VP8L" and head[20] == 0x2F:
        bits = int.from_bytes(head[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if chunk == b"VP8X":
        return int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1
    return None


def ends_well(head: bytes, tail: bytes, size: int) -> bool:
    """True when the last bytes are those of a whole picture; False proves nothing."""
    kind = format_in(head)
    if kind == "JPEG":
        return b"\xff\xd9" in tail
    if kind == "PNG":
        return b"IEND" in tail
    return int.from_bytes(head[4:8], "little") + 8 <= size


def decode_error(data: bytes, max_pixels: int) -> str | None:
    """Why the picture in `data` cannot be decoded to RGB, None when it can. Raises nothing but MemoryError."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                if image.width * image.height > max_pixels:
                    return f"{image.width:,} x {image.height:,} pixels"
                image.load()
                image.convert("RGB")
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises many kinds for hostile bytes, and each means the same here
        return f"{type(error).__name__}: {error}"[:200]
    return None
