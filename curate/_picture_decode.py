"""Opens a picture from strangers: signature, then header, then pixels, each step only if the one before allows it.

Formats: JPEG, PNG, WebP, GIF and BMP, known by their first bytes and never by a name. All others (TIFF, PSD, SGI, JPEG 2000,
EPS, …) are refused before any reader sees them: their readers do work, or run interpreters, on opening.

A picture is one of

    empty                no bytes
    not a picture        the first bytes are of no picture format (such as HTML saved under .jpg)
    format not accepted  a picture format that is not in the list above
    too large            over MAX_BYTES, MAX_PIXELS or MAX_SIDE, by its header
    too much work        a JPEG of more than MAX_SCANS scans, or of more than MAX_SCANNED_PIXELS over all of them
    truncated            its bytes end too early
    damaged              its bytes do not decode
    ok                   all of its pixels are there

Work is bounded by these numbers (curate._picture_bytes) and not by a clock, so that a status does not depend on the machine. A JPEG
that was cut and then closed again decodes with grey in place of what is lost, and is ok.

Pixels are RGB, 8 bits: the first frame of an animation (the default picture of an animated PNG); 16 bits cut to their upper 8;
CMYK by Pillow's plain conversion; colour profiles are not applied (and not read); what is transparent lies on white; turned as
its EXIF orientation says.
"""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING

from curate._picture_bytes import (
    MAX_BYTES,
    MAX_SCANNED_PIXELS,
    STATUSES,
    PictureError,
    Prepared,
    check_size,
    format_of,
    prepare,
)

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["MAX_BYTES", "STATUSES", "PictureError", "decode"]


def decode(data: bytes, max_side: int | None = None) -> Image.Image:
    """The picture in RGB as it is to be seen; `info["size"]` is its (width, height) before any shrinking.

    With `max_side`, a picture whose longer side is above it is shrunk to that: a JPEG is decoded at the least of 1/1, 1/2, 1/4, 1/8
    that leaves twice the side, then pixels are averaged by area. Raises PictureError, whatever the bytes.
    """
    kind = format_of(data)
    ready = prepare(data, kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return _decode(ready, kind, max_side)
        except PictureError:
            raise
        except MemoryError:
            raise PictureError("too large") from None
        except Exception as error:  # Pillow raises many kinds for hostile bytes
            raise PictureError(_why(error)) from None


def _decode(ready: Prepared, kind: str, max_side: int | None) -> Image.Image:
    from PIL import Image

    with Image.open(io.BytesIO(ready.data), formats=(kind,)) as image:
        width, height = image.size
        check_size(width, height)
        if ready.scans * width * height > MAX_SCANNED_PIXELS:
            raise PictureError("too much work")
        if max_side is not None and kind == "JPEG" and image.mode in ("RGB", "L", "YCbCr"):
            longer = max(width, height)
            scale = max(1, longer // (2 * max_side))
            image.draft(image.mode, (width // scale, height // scale))
        image.load()
        flat = _rgb(image)
    if ready.orientation in _TURNS:
        turn = Image.Transpose(_TURNS[ready.orientation])
        flat = flat.transpose(turn)
        if ready.orientation > 4:
            width, height = height, width
    if max_side is not None and max(width, height) > max_side:
        longer = max(width, height)
        size = (max(1, round(width * max_side / longer)), max(1, round(height * max_side / longer)))
        flat = flat.resize(size, Image.Resampling.BOX)
    flat.info = {"size": (width, height)}
    return flat


# EXIF orientation -> what turns the stored pixels upright (Image.Transpose: FLIP_LEFT_RIGHT 0, FLIP_TOP_BOTTOM 1, ROTATE_90 2, …)
_TURNS = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}


def _rgb(image: Image.Image) -> Image.Image:
    from PIL import Image as image_module

    if image.mode.startswith("I"):  # 16 bits of grey
        import numpy as np

        values = np.asarray(image).astype(np.int64)
        image = image_module.fromarray(np.clip(values >> 8, 0, 255).astype(np.uint8))
    if image.has_transparency_data:
        colours = image.convert("RGBA")
        white = image_module.new("RGB", image.size, (255, 255, 255))
        white.paste(colours, mask=colours.getchannel("A"))
        return white
    return image.copy() if image.mode == "RGB" else image.convert("RGB")


def _why(error: Exception) -> str:
    text = str(error).lower()
    early = ("truncated", "unexpected end", "not enough data", "buffer is not large enough", "end of file")
    if isinstance(error, EOFError) or any(words in text for words in early):
        return "truncated"
    return "too large" if "decompression bomb" in text else "damaged"
