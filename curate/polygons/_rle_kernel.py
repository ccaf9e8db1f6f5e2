"""Compiled part of COCO's run lengths: runs of 0 and 1 in turn down the columns, the first of zeros and perhaps 0 long."""

from __future__ import annotations

import numpy as np

from curate._jit import kernel


@kernel
def runs_of(mask, left, top, height, width):  # type: ignore[no-untyped-def]
    """Run lengths of an image (height, width) that is zero but for a window, (h, w) uint8 with its first pixel at (top, left)."""
    h, w = mask.shape
    found = np.empty(64, dtype=np.int64)
    count, last, value = 0, 0, np.int64(0)
    for c in range(w):
        for r in range(
            -1, h + 1
        ):  # the column's first row and the row below the window, where they are not in it
            if r < 0 or r == h:
                if (r < 0 and top == 0) or (r == h and top + h >= height):
                    continue
                here = np.int64(0)
            else:
                here = np.int64(mask[r, c] != 0)
            if here != value:
                place = (left + c) * height + (top + r if r >= 0 else 0)
                if count + 2 > len(found):
                    more = np.empty(2 * len(found), dtype=np.int64)
                    more[:count] = found[:count]
                    found = more
                found[count] = place - last
                count += 1
                last, value = place, here
    end = (left + w) * height
    if (
        value and end < height * width
    ):  # the last column ran to its foot, and the next one is outside the window
        if count + 2 > len(found):
            more = np.empty(2 * len(found), dtype=np.int64)
            more[:count] = found[:count]
            found = more
        found[count] = end - last
        count += 1
        last = end
    found[count] = height * width - last
    return found[: count + 1].astype(np.uint32)


@kernel
def runs_window(counts, height):  # type: ignore[no-untyped-def]
    """left, top, right, bottom of the ones of run lengths; all 0 where there is none."""
    left, top, right, bottom = np.int64(-1), np.int64(height), np.int64(0), np.int64(0)
    place = np.int64(0)
    for j in range(len(counts)):
        run = np.int64(counts[j])
        if j & 1 and run:
            first, last = place // height, (place + run - 1) // height
            if left < 0:
                left = first
            right = last + 1
            if first == last:
                top = min(top, place - first * height)
                bottom = max(bottom, place - first * height + run)
            else:
                top, bottom = np.int64(0), np.int64(height)
        place += run
    return (left, top, right, bottom) if right > 0 else (np.int64(0), np.int64(0), np.int64(0), np.int64(0))


@kernel
def paint_runs(target, left, top, counts, height, level):  # type: ignore[no-untyped-def]
    """Sets the ones of run lengths to `level` in a window that holds them."""
    place = np.int64(0)
    for j in range(len(counts)):
        run = np.int64(counts[j])
        if j & 1:
            column, row = place // height, place % height
            for _ in range(run):
                target[row - top, column - left] = level
                row += 1
                if row == height:
                    row = 0
                    column += 1
        place += run


@kernel
def overlap(one, two):  # type: ignore[no-untyped-def]
    """Pixels in both of two run lengths of one image."""
    both = np.int64(0)
    i, j = 0, 0
    a, b = np.int64(one[0]), np.int64(two[0])
    while True:
        step = min(a, b)
        if i & 1 and j & 1:
            both += step
        a -= step
        b -= step
        while a == 0 and i + 1 < len(one):
            i += 1
            a = np.int64(one[i])
        while b == 0 and j + 1 < len(two):
            j += 1
            b = np.int64(two[j])
        if a == 0 or b == 0:
            return both
