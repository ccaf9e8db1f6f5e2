"""Boxes of text as sets of pixels: which pixels they cover, what share that is, and a picture with them filled in.

A box is four corners (x, y) in whole pixels of the detector's raster. A pixel belongs to it when its centre lies inside, by the
even-odd rule in exact integers; boxes may overlap, and be turned.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Quads = npt.NDArray[np.int64]  # (n, 4, 2)
Size = tuple[int, int]  # width, height
Mask = npt.NDArray[np.bool_]

RING = 4  # pixels round a box that its fill is taken from


def inside(quad: Quads, raster: Size, size: Size) -> tuple[slice, slice, Mask]:
    """Pixels of a picture of `size` in one box (4, 2) of a raster laid over it: rows, columns, and which of them."""
    # doubled coordinates, so that centres of pixels are whole numbers: x * 2 * width of the picture, centre (2 p + 1) * width of the raster
    scale = np.array([2 * size[0], 2 * size[1]], np.int64)
    corners = quad.astype(np.int64) * scale
    low = np.maximum(corners.min(axis=0) // (2 * np.array(raster)) - 1, 0)
    high = np.minimum(corners.max(axis=0) // (2 * np.array(raster)) + 2, size)
    x = (2 * np.arange(low[0], high[0]) + 1) * raster[0]
    y = ((2 * np.arange(low[1], high[1]) + 1) * raster[1])[:, None]
    odd = np.zeros((len(y), len(x)), bool)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        crosses = (y0 > y) != (y1 > y)  # the edge passes the height of the centre
        left = (x - x0) * (y1 - y0) < (y - y0) * (x1 - x0)  # the centre lies before it
        odd ^= crosses & (left if y1 > y0 else ~left & ((x - x0) * (y1 - y0) != (y - y0) * (x1 - x0)))
    return slice(int(low[1]), int(high[1])), slice(int(low[0]), int(high[0])), odd


def covered(quads: Quads, raster: Size, size: Size) -> Mask:
    """(height, width) pixels of a picture that any box covers."""
    mask = np.zeros((size[1], size[0]), bool)
    for quad in quads:
        rows, columns, part = inside(quad, raster, size)
        mask[rows, columns] |= part
    return mask


def heights(quads: Quads) -> npt.NDArray[np.float64]:
    """Height of each box as it is read: the mean of its two sides; its width where it is a column (half as high again as wide)."""
    sides = np.hypot(*np.moveaxis(np.diff(quads[:, [0, 1, 2, 3, 0]], axis=1), -1, 0))
    width, height = (sides[:, 0] + sides[:, 2]) / 2, (sides[:, 1] + sides[:, 3]) / 2
    return np.where(height >= 1.5 * width, width, height)


def reading_order(quads: Quads) -> Quads:
    """Lines from the top, each from the left: boxes whose tops differ by less than half the median height are of a line."""
    if not len(quads):
        return quads
    order = np.lexsort((quads[:, 0, 0], quads[:, 0, 1]))
    quads = quads[order]
    step = np.diff(quads[:, 0, 1]) >= np.median(heights(quads)) / 2
    line = np.concatenate([[0], np.cumsum(step)])
    return np.asarray(quads[np.lexsort((quads[:, 0, 1], quads[:, 0, 0], line))], np.int64)


def fill(pixels: npt.NDArray[np.uint8], quads: Quads, raster: Size) -> npt.NDArray[np.uint8]:
    """A copy of (height, width, 3) pixels with every box in the mean colour of what surrounds it.

    Surroundings: pixels at most RING rows and columns away from one of the box, and in no box; where there are none, all pixels in
    no box; where there are none of those either, grey (128). Means are rounded half up. A pixel of several boxes gets the fill of the
    first of them. T-MARS (arXiv 2307.03132) says to fill with the average colour of the surrounding pixels; how far they reach is ours
    (its published code holds the detection of text, not the filling).
    """
    height, width = pixels.shape[:2]
    every = covered(quads, raster, (width, height))
    out = pixels.copy()
    done = np.zeros_like(every)
    rest: Any = None
    for quad in quads:
        rows, columns, part = inside(quad, raster, (width, height))
        if not part.any():
            continue
        top, left = max(rows.start - RING, 0), max(columns.start - RING, 0)
        window = slice(top, rows.stop + RING), slice(left, columns.stop + RING)
        near = np.zeros(every[window].shape, bool)
        near[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = part
        for axis in (0, 1):
            near = _spread(near, axis)
        ring = pixels[window][near & ~every[window]]
        if not len(ring):
            if rest is None:
                rest = _mean(pixels[~every])
            colour = rest
        else:
            colour = _mean(ring)
        new = part & ~done[rows, columns]
        out[rows, columns][new] = colour
        done[rows, columns] |= part
    return out


def _spread(mask: Mask, axis: int) -> Mask:
    """Each pixel set carries RING pixels to both sides along an axis."""
    grown = mask.copy()
    length = mask.shape[axis]
    for step in range(1, min(RING, length - 1) + 1):
        ahead = [slice(None)] * 2
        behind = [slice(None)] * 2
        ahead[axis], behind[axis] = slice(step, None), slice(None, -step)
        grown[tuple(ahead)] |= mask[tuple(behind)]
        grown[tuple(behind)] |= mask[tuple(ahead)]
    return grown


def _mean(colours: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Mean of (n, 3) colours, rounded half up; grey of none."""
    count = len(colours)
    if not count:
        return np.full(3, 128, np.uint8)
    total = colours.astype(np.int64).sum(axis=0)
    return np.asarray((2 * total + count) // (2 * count), np.uint8)
