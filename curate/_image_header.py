"""Width, height and EXIF orientation of a picture, from its header alone: no pixel is decoded.

Formats: JPEG, PNG, WebP, GIF and BMP. Others are refused, because their readers do work (or run interpreters) on opening.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import IO

from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
SUFFIXES = ("jpg", "jpeg", "png", "webp", "gif", "bmp")
ORIENTATION = 0x0112


@dataclass(frozen=True)
class Header:
    """`orientation` is the EXIF value 1-8, None where there is none. It is told, not applied."""

    width: int
    height: int
    orientation: int | None


def read_header(file: IO[bytes]) -> Header | None:
    """The header of the picture in `file`, None when it is not one."""
    limit = Image.MAX_IMAGE_PIXELS
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            Image.MAX_IMAGE_PIXELS = None  # the limit guards decoding; a size is only noted here
            with Image.open(file, formats=FORMATS) as image:
                width, height = image.size
                return (
                    Header(width, height, _orientation(image.info.get("exif"))) if width and height else None
                )
    except Exception:  # Pillow raises many kinds for hostile bytes, and each means the same here
        return None
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _orientation(raw: object) -> int | None:
    if not isinstance(raw, bytes) or len(raw) > 1 << 20:
        return None
    try:
        exif = Image.Exif()
        exif.load(raw)
        value = exif.get(ORIENTATION)
    except Exception:  # as above: a broken EXIF block says nothing
        return None
    return value if isinstance(value, int) and 1 <= value <= 8 else None
