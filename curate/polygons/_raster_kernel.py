"""Compiled part of rasterising: the pixels of one polygon (an exterior with its holes) by one of four rules.

Pixel (row r, column c) covers [c, c+1) x [r, r+1). Every rule works in the image's coordinates and paints into a window of it: `target`
(h, w) uint8 whose first pixel is (row `top`, column `left`). Rules `coco` and `centre` put toggles where the inside begins and ends and
run an exclusive-or over them, so no crossing is ever stored or sorted; `opencv` marks pixels of its own beside them. Memory is that of
the window, work at most edges times a side of the image, however far vertices lie outside it.
"""

from __future__ import annotations

import numpy as np

from curate._jit import kernel

COCO, OPENCV, KWIMAGE, CENTRE = 0, 1, 2, 3
ONE = 65536  # a pixel in Q16


@kernel
def coco_toggles(target, left, top, height, width, ring):  # type: ignore[no-untyped-def]
    """Toggles of one ring by COCO's rule (maskApi.c, rleFrPoly) at the rows where a column's inside begins or ends.

    Vertices are taken to fifths of a pixel, `int(5 x + 0.5)`; the outline is walked point by point on that grid; where its x steps from
    5 m + 2 to 5 m + 3 or back, column m changes at row ceil((v - 2) / 5), v the smaller y of the two points. Only those steps are computed.
    """
    h = target.shape[0]
    n = len(ring)
    for j in range(n):
        k = j + 1 if j + 1 < n else 0
        xs, ys = np.int64(5.0 * ring[j, 0] + 0.5), np.int64(5.0 * ring[j, 1] + 0.5)
        xe, ye = np.int64(5.0 * ring[k, 0] + 0.5), np.int64(5.0 * ring[k, 1] + 0.5)
        first = max(-((2 - min(xs, xe)) // 5), left)
        last = min((max(xs, xe) - 3) // 5, left + target.shape[1] - 1, width - 1)
        if first > last:
            continue
        dx, dy = abs(xe - xs), abs(ye - ys)
        flat = dx >= dy
        if (flat and xs > xe) or (not flat and ys > ye):
            xs, ys, xe, ye = xe, ye, xs, ys
        slope = np.float64(ye - ys) / np.float64(dx) if flat else np.float64(xe - xs) / np.float64(dy)
        for column in range(first, last + 1):
            if flat:
                t = 5 * column + 2 - xs
                one = np.int64(np.float64(ys) + slope * np.float64(t) + 0.5)
                two = np.int64(np.float64(ys) + slope * np.float64(t + 1) + 0.5)
                v = min(one, two)
            else:
                edge = np.float64(5 * column + 3)  # the first point at or beyond it, as its x was rounded
                t = np.int64((edge - 0.5 - np.float64(xs)) / slope)
                if slope > 0.0:
                    while np.float64(xs) + slope * np.float64(t) + 0.5 < edge:
                        t += 1
                    while np.float64(xs) + slope * np.float64(t - 1) + 0.5 >= edge:
                        t -= 1
                else:
                    while np.float64(xs) + slope * np.float64(t) + 0.5 >= edge:
                        t += 1
                    while np.float64(xs) + slope * np.float64(t - 1) + 0.5 < edge:
                        t -= 1
                v = ys + t - 1
            row = min((v + 2) // 5, height) if v > 0 else 0
            row = max(row - top, 0)
            if row < h:
                target[row, column - left] ^= 1


@kernel
def down(target):  # type: ignore[no-untyped-def]
    """Toggles down each column become the pixels between them."""
    for r in range(1, target.shape[0]):
        for c in range(target.shape[1]):
            target[r, c] ^= target[r - 1, c]


@kernel
def across(target):  # type: ignore[no-untyped-def]
    """Toggles (bit 0) along each row become the pixels between them; marks (bit 1) are pixels too."""
    for r in range(target.shape[0]):
        here = np.uint8(0)
        for c in range(target.shape[1]):
            here ^= target[r, c] & 1
            target[r, c] = here | target[r, c] >> 1


@kernel
def _product(a, b):  # type: ignore[no-untyped-def]
    """a * b of two whole numbers below 2^50 as a sum of two floats, exactly (Dekker 1971)."""
    high = a * b
    split = 134217729.0
    t = split * a
    a1 = t - (t - a)
    a2 = a - a1
    t = split * b
    b1 = t - (t - b)
    b2 = b - b1
    return high, ((a1 * b1 - high) + a1 * b2 + a2 * b1) + a2 * b2


@kernel
def _reached(x, y, x0, y0, dx, dy):  # type: ignore[no-untyped-def]
    """Whether (x, y) lies on the line from (x0, y0) along (dx, dy), dy > 0, or right of it: exact."""
    high, low = _product(x - x0, dy)
    other_high, other_low = _product(y - y0, dx)
    return high > other_high or (high == other_high and low >= other_low)


@kernel
def centre_toggles(target, left, top, ring):  # type: ignore[no-untyped-def]
    """Toggles of one ring where a row's inside begins or ends: a pixel is inside where its centre is, even-odd.

    Vertices are rounded to 1/65536 of a pixel; after that nothing is rounded. An edge crosses a row's centre line where
    y0 <= centre < y1; a centre is right of a crossing where crossing <= centre. Polygons that share an edge share no pixel.
    """
    h, w = target.shape
    n = len(ring)
    for j in range(n):
        k = j + 1 if j + 1 < n else 0
        x0, y0 = np.rint(ring[j, 0] * ONE), np.rint(ring[j, 1] * ONE)
        x1, y1 = np.rint(ring[k, 0] * ONE), np.rint(ring[k, 1] * ONE)
        if y0 > y1:
            x0, y0, x1, y1 = x1, y1, x0, y0
        begin = max(np.int64(np.ceil(y0 / ONE - 0.5)) - top, 0)
        end = min(np.int64(np.ceil(y1 / ONE - 0.5)) - top, h)
        dx, dy = x1 - x0, y1 - y0
        for row in range(begin, end):
            y = np.float64(row + top) * ONE + 32768.0
            place = (x0 + (y - y0) * dx / dy) / ONE - 0.5
            column = np.int64(np.ceil(place))
            if abs(place - np.rint(place)) < 0.001:
                column = np.int64(np.rint(place))
                if not _reached(np.float64(column) * ONE + 32768.0, y, x0, y0, dx, dy):
                    column += 1
            column = max(column - left, np.int64(0))
            if column < w:
                target[row, column] ^= 1


@kernel
def _divide(a, b):  # type: ignore[no-untyped-def]
    """Whole division toward zero, as C does it."""
    q = abs(a) // abs(b)
    return q if (a >= 0) == (b > 0) else -q


@kernel
def _clip(height, width, x1, y1, x2, y2):  # type: ignore[no-untyped-def]
    """OpenCV's clipLine: whether anything of a line is seen, and its ends, moved to the border where they were outside."""
    right, bottom = width - 1, height - 1
    c1 = (x1 < 0) + (x1 > right) * 2 + (y1 < 0) * 4 + (y1 > bottom) * 8
    c2 = (x2 < 0) + (x2 > right) * 2 + (y2 < 0) * 4 + (y2 > bottom) * 8
    if (c1 & c2) == 0 and (c1 | c2) != 0:
        if c1 & 12:
            a = 0 if c1 < 8 else bottom
            x1 += _divide((a - y1) * (x2 - x1), y2 - y1)
            y1 = a
            c1 = (x1 < 0) + (x1 > right) * 2
        if c2 & 12:
            a = 0 if c2 < 8 else bottom
            x2 += _divide((a - y2) * (x2 - x1), y2 - y1)
            y2 = a
            c2 = (x2 < 0) + (x2 > right) * 2
        if (c1 & c2) == 0 and (c1 | c2) != 0:
            if c1:
                a = 0 if c1 == 1 else right
                y1 += _divide((a - x1) * (y2 - y1), x2 - x1)
                x1 = a
                c1 = 0
            if c2:
                a = 0 if c2 == 1 else right
                y2 += _divide((a - x2) * (y2 - y1), x2 - x1)
                x2 = a
                c2 = 0
    return (c1 | c2) == 0, x1, y1, x2, y2


@kernel
def _line(target, left, top, x1, y1, x2, y2):  # type: ignore[no-untyped-def]
    """Marks OpenCV's 8-connected line between two points of the image, drawn left to right."""
    if x2 < x1:
        x1, y1, x2, y2 = x2, y2, x1, y1
    dx, dy = x2 - x1, abs(y2 - y1)
    step = 1 if y2 >= y1 else -1
    steep = dy > dx
    long, short = max(dx, dy), min(dx, dy)
    error = long - 2 * short
    x, y = x1 - left, y1 - top
    for _ in range(long + 1):
        if 0 <= x < target.shape[1] and 0 <= y < target.shape[0]:
            target[y, x] |= 2
        both = error < 0
        error -= 2 * short
        if both:
            error += 2 * long
        x += 1 if both or not steep else 0
        y += step if both or steep else 0


@kernel
def opencv_toggles(target, left, top, height, width, ring, rounded):  # type: ignore[no-untyped-def]
    """Toggles and marks of one ring as cv2.fillPoly fills it (8-connected, no shift).

    It draws the outline, and fills each row from the 1st edge to the 2nd, the 3rd to the 4th and so on, both ends' pixels included where
    they are whole numbers. An edge's x goes on from row to row by a slope in 1/65536, cut toward zero. The slope is that between the ends
    as cut off at the image's border.
    """
    h, w = target.shape
    n = len(ring)
    for j in range(n):
        k = j - 1 if j else n - 1
        if rounded:
            px, py = np.int64(np.rint(ring[k, 0])), np.int64(np.rint(ring[k, 1]))
            qx, qy = np.int64(np.rint(ring[j, 0])), np.int64(np.rint(ring[j, 1]))
        else:
            px, py = np.int64(ring[k, 0]), np.int64(ring[k, 1])
            qx, qy = np.int64(ring[j, 0]), np.int64(ring[j, 1])
        seen, ax, ay, bx, by = _clip(height, width, px, py, qx, qy)
        if seen:
            _line(target, left, top, ax, ay, bx, by)
        if py == qy:
            continue
        if ay == by:
            ay, by = py, qy
        slope = _divide((bx - ax) * ONE, by - ay)
        first, x = (py, ax * ONE + (py - ay) * slope) if py < qy else (qy, bx * ONE + (qy - by) * slope)
        for row in range(max(first, top), min(max(py, qy), top + h)):
            here = x + (row - first) * slope
            column = max(-(-here >> 16), 0) - left
            if here & 65535 == 0 and 0 <= (here >> 16) - left < w:
                target[row - top, (here >> 16) - left] |= 2
            if max(column, 0) < w:
                target[row - top, max(column, 0)] ^= 1


@kernel
def paint_polygon(target, left, top, height, width, vertices, starts, rule):  # type: ignore[no-untyped-def]
    """Sets the pixels of one polygon in a window of zeros; ring i is vertices[starts[i] : starts[i + 1]], ring 0 its exterior."""
    if rule == COCO:
        coco_toggles(target, left, top, height, width, vertices[starts[0] : starts[1]])
        down(target)
        for i in range(1, len(starts) - 1):
            hole = np.zeros_like(target)
            coco_toggles(hole, left, top, height, width, vertices[starts[i] : starts[i + 1]])
            down(hole)
            for r in range(target.shape[0]):
                for c in range(target.shape[1]):
                    target[r, c] &= 1 - hole[r, c]
    elif rule == CENTRE:
        for i in range(len(starts) - 1):
            centre_toggles(target, left, top, vertices[starts[i] : starts[i + 1]])
        across(target)
    else:
        for i in range(len(starts) - 1):
            ring = vertices[starts[i] : starts[i + 1]]
            opencv_toggles(target, left, top, height, width, ring, rule == OPENCV)
        across(target)


@kernel
def polygon_window(vertices, begin, end, height, width, rule):  # type: ignore[no-untyped-def]
    """left, top, right, bottom of a window of the image that holds the pixels of a polygon; empty where right <= left."""
    if begin == end:
        return 0, 0, 0, 0
    x0, y0, x1, y1 = vertices[begin, 0], vertices[begin, 1], vertices[begin, 0], vertices[begin, 1]
    for i in range(begin + 1, end):
        x0, x1 = min(x0, vertices[i, 0]), max(x1, vertices[i, 0])
        y0, y1 = min(y0, vertices[i, 1]), max(y1, vertices[i, 1])
    left, top = max(np.int64(np.floor(x0)) - 1, 0), max(np.int64(np.floor(y0)) - 1, 0)
    right, bottom = min(np.int64(np.ceil(x1)) + 2, width), min(np.int64(np.ceil(y1)) + 2, height)
    outside = x0 < 0.0 or y0 < 0.0 or x1 > width - 1.0 or y1 > height - 1.0
    if rule in (OPENCV, KWIMAGE) and outside and right > left:
        left, right = 0, width  # a clipped edge is carried on from whole pixels, and may stray
    return left, top, max(right, left), max(bottom, top)


@kernel
def windows(vertices, starts, polygons, height, width, rule):  # type: ignore[no-untyped-def]
    """The window that holds all polygons; polygon p is the rings polygons[p] : polygons[p + 1], its exterior first."""
    left, top, right, bottom = width, height, 0, 0
    for p in range(len(polygons) - 1):
        x0, y0, x1, y1 = polygon_window(
            vertices, starts[polygons[p]], starts[polygons[p + 1]], height, width, rule
        )
        if x1 > x0 and y1 > y0:
            left, top, right, bottom = min(left, x0), min(top, y0), max(right, x1), max(bottom, y1)
    return (left, top, right, bottom) if right > left and bottom > top else (0, 0, 0, 0)


@kernel
def paint_polygons(target, left, top, height, width, vertices, starts, polygons, rule, level):  # type: ignore[no-untyped-def]
    """Sets the pixels of the union of polygons to `level`."""
    for p in range(len(polygons) - 1):
        a, b = polygons[p], polygons[p + 1]
        x0, y0, x1, y1 = polygon_window(vertices, starts[a], starts[b], height, width, rule)
        x0, y0 = max(x0, left), max(y0, top)
        x1, y1 = min(x1, left + target.shape[1]), min(y1, top + target.shape[0])
        if x1 <= x0 or y1 <= y0:
            continue
        own = np.zeros((y1 - y0, x1 - x0), dtype=np.uint8)
        paint_polygon(own, x0, y0, height, width, vertices, starts[a : b + 1], rule)
        for r in range(y1 - y0):
            for c in range(x1 - x0):
                if own[r, c]:
                    target[r + y0 - top, c + x0 - left] = level


@kernel
def mask_areas(vertices, starts, polygons, owners, heights, widths, rule, areas):  # type: ignore[no-untyped-def]
    """Pixels of each annotation: annotation i owns the polygons owners[i] : owners[i + 1] in an image heights[i] x widths[i]."""
    for i in range(len(owners) - 1):
        own = polygons[owners[i] : owners[i + 1] + 1]
        left, top, right, bottom = windows(vertices, starts, own, heights[i], widths[i], rule)
        target = np.zeros((bottom - top, right - left), dtype=np.uint8)
        paint_polygons(target, left, top, heights[i], widths[i], vertices, starts, own, rule, 1)
        total = 0
        for r in range(bottom - top):
            for c in range(right - left):
                total += target[r, c]
        areas[i] = total
