"""Pictures with something private in every place of their format."""

from __future__ import annotations

import io
import struct
import warnings
from typing import Any

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin

from curate.polygons.containers import pieces_of
from tests.curate.polygons.photo_kit import GPS, exif_bytes, picture_bytes, pixels

FORMATS = ("JPEG", "PNG", "WEBP")
SECRET = "SeCrEt"


def private_exif(orientation: int | None, *, thumbnail: bool = True) -> bytes:
    """Every kind of private tag, and a second directory with a thumbnail."""
    main = {
        0x010F: "Maker",
        0x0110: "Model",
        0x013B: SECRET,
        0x010E: SECRET,
        0x8298: SECRET,
        0xC62F: SECRET,
        0x0131: SECRET,
    }
    exif = {
        0xA431: SECRET, 0xA435: SECRET, 0xA430: SECRET, 0xA420: SECRET, 0x927C: SECRET.encode(), 0x9286: SECRET.encode(),
        0x829A: 0.01, 0xBEEF: SECRET,
    }  # fmt: skip
    gps = GPS | {27: SECRET.encode()}
    raw = exif_bytes(orientation, taken="2024:05:01 10:20:30", zone="+02:00", gps=gps, main=main, exif=exif)
    block = bytearray(raw[6:])
    if thumbnail:
        order = "<" if block[:2] == b"II" else ">"
        (at,) = struct.unpack_from(f"{order}I", block, 4)
        (count,) = struct.unpack_from(f"{order}H", block, at)
        while len(block) % 2:
            block += b"\0"
        struct.pack_into(f"{order}I", block, at + 2 + 12 * count, len(block))
        small = picture_bytes("JPEG", pixels(8, 8)) + SECRET.encode()
        start = len(block) + 2 + 24 + 4
        block += (
            struct.pack(f"{order}HHHIIHHIII", 2, 0x0201, 4, 1, start, 0x0202, 4, 1, len(small), 0) + small
        )
    return b"Exif\0\0" + bytes(block)


def private_picture(form: str, orientation: int | None = 6, array: np.ndarray | None = None) -> bytes:
    """A picture with something private in every place of its format."""
    block = private_exif(orientation)
    if form == "JPEG":
        data = picture_bytes(form, array, block, comment=SECRET.encode(), icc_profile=b"profile")
        jfif = data.index(b"JFIF\0")
        small = b"\1\1" + b"\xaa\xbb\xcc"
        data = (
            data[: jfif - 2] + struct.pack(">H", 16 + 3) + data[jfif : jfif + 12] + small + data[jfif + 14 :]
        )
        extra = b""
        for marker, body in (
            (0xE0, b"JFXX\0\x10" + SECRET.encode()), (0xE1, b"http://ns.adobe.com/xap/1.0/\0" + SECRET.encode()),
            (0xE2, b"MPF\0" + SECRET.encode()), (0xED, b"Photoshop 3.0\0" + SECRET.encode()), (0xE5, SECRET.encode()),
            (0xE1, block),
        ):  # fmt: skip
            extra += b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body
        at = next(piece.start for piece in pieces_of(data) if piece.name == "DB")
        return data[:at] + extra + data[at:] + picture_bytes() + SECRET.encode()
    if form == "PNG":
        info = PngImagePlugin.PngInfo()
        info.add_text("Author", SECRET)
        info.add_itxt("XML:com.adobe.xmp", SECRET)
        info.add_text("Comment", SECRET, zip=True)
        info.add(b"prVt", SECRET.encode())
        return picture_bytes(form, array, block, pnginfo=info) + SECRET.encode()
    return picture_bytes(form, array, block, xmp=SECRET.encode(), lossless=True) + SECRET.encode()


def stored(data: bytes, *, shown: bool = False) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pillow, about the list of previews
        image = Image.open(io.BytesIO(data))
    return np.asarray(ImageOps.exif_transpose(image) if shown else image)
