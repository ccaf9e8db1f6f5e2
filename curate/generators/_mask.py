"""Masks of outlines, and outlines of masks: exact both ways.

Coordinates are those of the line raster, which truncates: pixel (row r, column c) covers [c, c+1) x [r, r+1), its centre is
(c + 1/2, r + 1/2). Points are (n, 2) int32 arrays of x, y in Q16 (pixels times 65536), so integers alone decide a fill.

    fill        a pixel is inside when its centre is: an edge crosses a row where y0 <= centre < y1 (or the reverse), and a centre is
                right of a crossing where crossing <= centre. No centre is undecided, and two polygons that share an edge share no
                pixel. Rules "even-odd" and "non-zero".
    trace       the pixels of the closed line itself, as the contour kernel draws it.
    outlines    the borders of a mask along pixels' edges, corners only. A polygon is one part of the mask (parts that touch at a
                corner are one), and its holes are joined to it by cuts of no width: COCO's lists have no holes, a second polygon
                would fill them. Filled by either rule, the polygons give back exactly the mask.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from curate._jit import kernel
from curate.generators._outline import outlines

Mask = npt.NDArray[np.bool_]
Points = npt.NDArray[np.int32]
Polygons = list[npt.NDArray[np.float64]]
Box = tuple[int, int, int, int]

MOST = 1 << 14  # pixels a side


def fill_polygon(points: Points, height: int, width: int, rule: str = "even-odd") -> Mask:
    """The (height, width) mask of one closed polygon, (n, 2) int32 x, y in Q16; nothing is inside fewer than three points.

    Raises ValueError for another shape, type or rule.
    """
    mask = np.zeros((height, width), dtype=np.bool_)
    fill_onto(mask, points, rule)
    return mask


def fill_onto(mask: Mask, points: Points, rule: str = "even-odd") -> None:
    """Adds the pixels of a closed polygon to a mask."""
    _check(points, mask)
    if rule not in ("even-odd", "non-zero"):
        raise ValueError(f"{rule!r} is no rule of filling: even-odd or non-zero")
    paint_fill(mask.view(np.uint8), points, 1, rule == "even-odd")


def trace_onto(mask: Mask, points: Points) -> None:
    """Adds the pixels of the closed line through `points`: ends truncated toward zero, Bresenham as Pillow's lines of width 1."""
    _check(points, mask)
    paint_line(mask.view(np.uint8), points, 1)


def mask_box(mask: Mask) -> Box:
    """x, y, width, height of the pixels that are set; (0, 0, 0, 0) where none is."""
    rows = np.flatnonzero(mask.any(axis=1))
    if not len(rows):
        return 0, 0, 0, 0
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    columns = np.flatnonzero(mask[top:bottom].any(axis=0))
    left, right = int(columns[0]), int(columns[-1]) + 1
    return left, top, right - left, bottom - top


def outline_polygons(mask: Mask, box: Box | None = None) -> Polygons:
    """Closed outlines of a mask, (n, 2) float64 x, y at pixels' corners, in the order of their first pixel (rows first).

    The first point is not repeated at the end; outer borders run clockwise as seen. `box` (x, y, width, height) says where the mask
    lies, where that is known.
    """
    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise ValueError(f"a mask is a (H, W) bool array, not {mask.shape} {mask.dtype}")
    left, top, width, height = (0, 0, mask.shape[1], mask.shape[0]) if box is None else box
    window = np.ascontiguousarray(mask[top : top + height, left : left + width]).view(np.uint8)
    _, points, lengths, _ = outlines(window, 1, True)
    return _cut(points + (left, top), lengths)


def outline_labels(
    labels: npt.NDArray[np.uint8], count: int, borders: bool = True
) -> tuple[list[Box], list[Polygons]]:
    """Boxes and outlines of the masks labels == 1 .. labels == count, of all in one pass; no outlines without `borders`.

    `labels` is (H, W) uint8 with nothing above `count`; entry i belongs to label i + 1. ValueError for anything else.
    """
    if labels.ndim != 2 or labels.dtype != np.uint8 or (labels.size and int(labels.max()) > count):
        raise ValueError(f"labels are a (H, W) uint8 array of 0..{count}")
    boxes, points, lengths, owners = outlines(np.ascontiguousarray(labels), count, borders)
    boxes[:, 2:] -= boxes[:, :2]
    polygons: list[Polygons] = [[] for _ in range(count)]
    for owner, polygon in zip(owners.tolist(), _cut(points, lengths), strict=True):
        polygons[owner - 1].append(polygon)
    return [tuple(box) for box in boxes.tolist()], polygons


def _cut(points: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> Polygons:
    exact = points.astype(np.float64)
    ends = np.cumsum(lengths).tolist()
    return [exact[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]


def _check(points: Any, mask: Any) -> None:
    if points.ndim != 2 or points.shape[1] != 2 or points.dtype != np.int32:
        raise ValueError(f"points are (n, 2) int32 in Q16, not {points.shape} {points.dtype}")
    if mask.ndim != 2 or mask.dtype != np.bool_ or max(mask.shape) > MOST:
        raise ValueError(
            f"a mask is a (H, W) bool array of at most {MOST} a side, not {mask.shape} {mask.dtype}"
        )


@kernel
def crossings(points, height, width):  # type: ignore[no-untyped-def]
    """Where the edges of a closed polygon cross the centres of rows.

    First row, where each row's crossings end in the list, and the list: 2 * first column whose centre is not left of it, + 1 where the
    edge goes down; ascending within a row.
    """
    n = len(points)
    steps = np.zeros(height + 1, dtype=np.int64)
    first, last = height, 0
    for i in range(n):
        y0, y1 = np.int64(points[i - 1, 1]), np.int64(points[i, 1])
        begin = min(max((min(y0, y1) + 32767) >> 16, 0), height)
        end = min(max((max(y0, y1) + 32767) >> 16, 0), height)
        if begin < end:
            steps[begin] += 1
            steps[end] -= 1
            first, last = min(first, begin), max(last, end)
    rows = max(last - first, 0)
    ends = np.empty(
        rows, dtype=np.int64
    )  # first where they begin; moved on with every crossing that is put there
    total, here = 0, 0
    for r in range(rows):
        here += steps[first + r]
        ends[r] = total
        total += here
    found = np.empty(total, dtype=np.int32)
    for i in range(n):
        x0, y0 = np.int64(points[i - 1, 0]), np.int64(points[i - 1, 1])
        x1, y1 = np.int64(points[i, 0]), np.int64(points[i, 1])
        down = np.int64(y1 > y0)
        if not down:
            x0, y0, x1, y1 = x1, y1, x0, y0
        begin = max((y0 + 32767) >> 16, first)
        end = min((y1 + 32767) >> 16, last)
        if begin >= end:
            continue
        # crossing = x0 +- product / dy; both factors of the first product are below 2^32. From row to row whole and rest go on exactly
        dy, run = np.uint64(y1 - y0), np.uint64(abs(x1 - x0))
        product = np.uint64((begin << 16) + 32768 - y0) * run
        whole = product // dy
        rest = product - whole * dy
        more = (run << np.uint64(16)) // dy
        more_rest = (run << np.uint64(16)) - more * dy
        for r in range(begin - first, end - first):
            x = x0 - np.int64(whole) if x1 < x0 else x0 + np.int64(whole) + np.int64(rest != 0)  # rounded up
            column = min(max((x + 32767) >> 16, 0), width)
            found[ends[r]] = 2 * column + down
            ends[r] += 1
            whole += more
            rest += more_rest
            if rest >= dy:
                rest -= dy
                whole += np.uint64(1)
    begin = 0
    for r in range(rows):
        if ends[r] - begin == 2:
            if found[begin] > found[begin + 1]:
                found[begin], found[begin + 1] = found[begin + 1], found[begin]
        else:
            found[begin : ends[r]].sort()
        begin = ends[r]
    return first, ends, found


@kernel
def paint_fill(target, points, level, even_odd):  # type: ignore[no-untyped-def]
    """Sets the pixels inside a closed polygon to `level` in a (H, W) uint8 array; how many they are."""
    first, ends, found = crossings(points, target.shape[0], target.shape[1])
    area, at = 0, 0
    for r in range(len(ends)):
        count = 0
        while at < ends[r]:
            begin = found[at] >> 1
            count += 1 if even_odd or found[at] & 1 else -1
            at += 1
            if at < ends[r] and (count & 1 if even_odd else count != 0):
                end = found[at] >> 1
                target[first + r, begin:end] = level
                area += end - begin
    return area


@kernel
def paint_line(target, points, level):  # type: ignore[no-untyped-def]
    """Sets the pixels of a closed line to `level` in a (H, W) uint8 array; how many had another value."""
    height, width = target.shape
    new = 0
    for i in range(len(points)):
        # toward zero
        x = (np.int64(points[i - 1, 0]) + ((np.int64(points[i - 1, 0]) >> 63) & 0xFFFF)) >> 16
        y = (np.int64(points[i - 1, 1]) + ((np.int64(points[i - 1, 1]) >> 63) & 0xFFFF)) >> 16
        x1 = (np.int64(points[i, 0]) + ((np.int64(points[i, 0]) >> 63) & 0xFFFF)) >> 16
        y1 = (np.int64(points[i, 1]) + ((np.int64(points[i, 1]) >> 63) & 0xFFFF)) >> 16
        if max(x, x1) < 0 or max(y, y1) < 0 or min(x, x1) >= width or min(y, y1) >= height:
            continue
        dx, dy = abs(x1 - x), abs(y1 - y)
        sx, sy = (1 if x1 > x else -1), (1 if y1 > y else -1)
        long, short = max(dx, dy), min(dx, dy)
        error = 2 * short - long
        for _ in range(long + 1):
            if 0 <= x < width and 0 <= y < height and target[y, x] != level:
                target[y, x] = level
                new += 1
            both = error >= 0
            if both:
                error -= 2 * long
            error += 2 * short
            if dx > dy:
                x += sx
                y += sy if both else 0
            else:
                y += sy
                x += sx if both else 0
    return new
