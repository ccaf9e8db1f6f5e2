"""Drawing on pixels: filled outlines, masks and labels, smooth at their edges, the same bytes everywhere.

Whatever is drawn is drawn FINE times larger in whole numbers, then averaged and laid over the pixels.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL import Image

U8 = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]
Colour = tuple[int, int, int]

FINE = 4  # drawn so many times larger, then averaged
LINE, HALO = 1.5, 3.0  # widths of outlines and of the dark below them, pixels of the tile
FILL, SHADE = 72, 96  # opacity of 255


class Shape:
    """Something to draw, in coordinates of the tile: rings with whether they are holes, or a mask of the whole image as shown."""

    def __init__(
        self,
        rings: list[tuple[Floats, bool]],
        *,
        filled: bool = True,
        closed: bool = True,
        mask: npt.NDArray[Any] | None = None,
        tile: tuple[int, int] = (0, 0),
    ) -> None:
        self.rings = [(ring, hole) for ring, hole in rings if len(ring)]
        self.filled, self.closed = filled, closed
        self.mask, self.tile = mask, tile

    @cached_property
    def box(self) -> tuple[float, float, float, float]:
        """x0, y0, x1, y1."""
        if self.mask is not None:
            rows, columns = np.flatnonzero(self.mask.any(axis=1)), np.flatnonzero(self.mask.any(axis=0))
            if not len(rows):
                return 0.0, 0.0, 0.0, 0.0
            high, wide = self.mask.shape
            across, down = self.tile[0] / wide, self.tile[1] / high
            return columns[0] * across, rows[0] * down, (columns[-1] + 1) * across, (rows[-1] + 1) * down
        if not self.rings:
            return 0.0, 0.0, 0.0, 0.0
        points = np.concatenate([ring for ring, _ in self.rings])
        return (*points.min(axis=0).tolist(), *points.max(axis=0).tolist())

    def paint(self, base: U8, colour: Colour) -> None:
        """Draw it onto `base` (h, w, 3)."""
        x0, y0, x1, y1 = self.box
        left, top = max(math.floor(x0) - 3, 0), max(math.floor(y0) - 3, 0)
        right, bottom = min(math.ceil(x1) + 3, base.shape[1]), min(math.ceil(y1) + 3, base.shape[0])
        if right <= left or bottom <= top:
            return
        window = base[top:bottom, left:right]
        size = ((right - left) * FINE, (bottom - top) * FINE)
        fill, line, halo = (
            self._masks(size, left, top) if self.mask is not None else self._strokes(size, left, top)
        )
        _blend(window, fill, FILL, colour)
        _blend(window, halo, SHADE, (0, 0, 0))
        _blend(window, line, 255, colour)

    def _strokes(self, size: tuple[int, int], left: int, top: int) -> tuple[U8, U8, U8]:
        from PIL import Image, ImageDraw

        layers = [Image.new("L", size, 0) for _ in range(3)]
        fill, line, halo = (ImageDraw.Draw(layer) for layer in layers)
        for ring, hole in self.rings:
            points = [(x, y) for x, y in np.rint((ring - (left, top)) * FINE - 0.5).astype(np.int64).tolist()]
            if self.filled and len(points) > 2:
                fill.polygon(points, fill=0 if hole else 255)
            path = [*points, points[0]] if self.closed else points
            for pen, wide in ((line, LINE), (halo, HALO)):
                if len(path) > 1:
                    pen.line(
                        path, fill=255, width=round(wide * FINE), joint="curve" if len(path) < 400 else None
                    )
                if len(points) < 3:
                    for x, y in points:
                        r = round(wide * FINE)
                        pen.ellipse((x - r, y - r, x + r, y + r), fill=255)
        return _small(layers[0]), _small(layers[1]), _small(layers[2])

    def _masks(self, size: tuple[int, int], left: int, top: int) -> tuple[U8, U8, U8]:
        assert self.mask is not None
        high, wide = self.mask.shape
        x = ((np.arange(size[0]) + 0.5) / FINE + left) * wide / self.tile[0]
        y = ((np.arange(size[1]) + 0.5) / FINE + top) * high / self.tile[1]
        inside = self.mask[np.minimum(y.astype(np.int64), high - 1)][
            :, np.minimum(x.astype(np.int64), wide - 1)
        ]
        line = inside & ~_eroded(inside, round(LINE * FINE))
        return _mean(inside), _mean(line), np.zeros((size[1] // FINE, size[0] // FINE), np.uint8)


def _eroded(inside: npt.NDArray[np.bool_], reach: int) -> npt.NDArray[np.bool_]:
    """Places whose neighbours up to `reach` along both axes are inside, too; beyond the edge all is inside."""
    found: npt.NDArray[np.bool_] = np.pad(inside, reach, constant_values=True)
    for axis in (0, 1):
        windows = np.lib.stride_tricks.sliding_window_view(found, 2 * reach + 1, axis)
        found = np.asarray(windows.all(axis=-1))
    return found


def _mean(fine: npt.NDArray[np.bool_]) -> U8:
    high, wide = fine.shape[0] // FINE, fine.shape[1] // FINE
    sums = fine.reshape(high, FINE, wide, FINE).sum(axis=(1, 3), dtype=np.int64)
    return np.asarray((sums * 255 + FINE * FINE // 2) // (FINE * FINE), np.uint8)


def _small(layer: Image.Image) -> U8:
    return _mean(np.asarray(layer) > 127)


def _blend(window: U8, cover: U8, opacity: int, colour: Colour) -> None:
    """Lay `colour` over `window` where `cover` (0 to 255) says; whole numbers, rounded to the nearest."""
    share = cover.astype(np.int64)[..., None] * opacity
    mixed = window.astype(np.int64) * (255 * 255 - share) + np.array(colour) * share
    window[:] = (mixed + 255 * 255 // 2) // (255 * 255)


def label(base: U8, box: tuple[float, float, float, float], text: str, colour: Colour) -> None:
    """The name of a category on a plate of its colour, at the upper left corner of a box that is about as wide."""
    words = text_mask(plain(text)[:24])
    high, wide = words.shape
    if box[2] - box[0] < 0.7 * wide or box[3] - box[1] < high + 2:
        return
    x = min(max(int(box[0]), 0), max(base.shape[1] - wide - 6, 0))
    y = min(max(int(box[1]), 0), max(base.shape[0] - high - 2, 0))
    plate = base[y : y + high + 2, x : x + wide + 6]
    plate[:] = colour
    inner = plate[1 : 1 + high, 3 : 3 + wide]
    inner[words[: inner.shape[0], : inner.shape[1]] > 127] = (16, 16, 16)


def plain(text: str) -> str:
    """Text in the letters that the built-in font has; others are told by a question mark."""
    return text.encode("latin-1", "replace").decode("latin-1")


def text_mask(text: str) -> U8:
    """(height, width) of a line in Pillow's built-in bitmap letters, 255 where there is ink."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default_imagefont()
    image = Image.new("L", (max(1, math.ceil(font.getlength(text))), 12), 0)
    ImageDraw.Draw(image).text((0, 0), text, fill=255, font=font)
    return np.asarray(image)
