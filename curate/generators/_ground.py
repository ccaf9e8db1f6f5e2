"""Grounds of scenes: a picture of tones (0..255) that a palette colours later, of five kinds.

    flat        one tone, another in each scene
    gradient    tones along a direction
    smooth      value noise of three octaves, on every fourth pixel and linear between
    lines       a gradient, and straight lines of other tones over it
    contour     one atom of the contour kernel, wide enough to fill the picture

All in integers. Every random number stands at a fixed counter of the key it is given.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from curate._jit import kernel
from curate.generators import Category
from curate.generators._contour import ContourPainter
from curate.generators._random import below, fold
from curate.generators._trig import tables

Tones = npt.NDArray[np.uint8]
STEP = 4  # pixels between two points of the smooth ground
OCTAVES = 3
_M1, _M2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def draw_ground(tones: Tones, style: Category, key: int, contours: ContourPainter) -> None:
    """Fills `tones` (S, S) with the ground of `style`; `contours` is for S, too. `key` (64 bits) decides what is not in the style."""
    kind, size = style["background"], len(tones)
    if kind == "flat":
        tones.fill(below(key, 1, 256))
    elif kind == "smooth":
        _smooth(tones, style["cell"], np.uint64(key))
    elif kind == "contour":
        contours.clear(128)
        _contour(contours, style["lines"], key)
        np.copyto(tones, contours.pixels)
    else:
        turn = below(key, 1, 64)
        cosines, sines = tables(64)
        _gradient(tones, int(cosines[turn]) * 180 // size, int(sines[turn]) * 180 // size)
        if kind == "lines":
            ends = [[below(key, 8 * i + j + 2, size) for j in range(4)] for i in range(style["lines"])]
            values = [below(key, 8 * i + 6, 256) for i in range(style["lines"])]
            widths = [1 + below(key, 8 * i + 7, 3 * size // 256 + 1) for i in range(style["lines"])]
            _lines(tones, np.array(ends), np.array(values), np.array(widths))


def _contour(contours: ContourPainter, lines: int, key: int) -> None:
    size = contours.size
    orbits = 2 * lines
    reach = (
        (size << 16) * 5 // 8 // orbits
    )  # a step of the radius: the atom ends outside of most of the picture
    noise = reach * below(key, 1, 129) // 256
    contours.draw(
        vertices=64 + below(key, 2, 257),
        orbits=orbits,
        p_q16=noise,
        w_q16=reach - noise,
        radius_q16=below(key, 3, size // 8 << 16),
        oval_x_q16=65536 + below(key, 4, 65537),
        oval_y_q16=65536 + below(key, 5, 65537),
        n1=below(key, 6, 13),
        n2=below(key, 7, 13),
        centre_x_q16=below(key, 8, size) << 16,
        centre_y_q16=below(key, 9, size) << 16,
        key=fold(key, 1),
    )


@kernel
def _gradient(tones, across, down):  # type: ignore[no-untyped-def]
    size = len(tones)
    for y in range(size):
        for x in range(size):
            tone = 128 + ((np.int64(2 * x - size) * across + np.int64(2 * y - size) * down) >> 31)
            tones[y, x] = min(max(tone, 0), 255)


@kernel
def _lines(tones, ends, values, widths):  # type: ignore[no-untyped-def]
    size = len(tones)
    for i in range(len(ends)):
        x0, y0, x1, y1 = ends[i, 0], ends[i, 1], ends[i, 2], ends[i, 3]
        steep = abs(y1 - y0) > abs(x1 - x0)
        if steep:
            x0, y0, x1, y1 = y0, x0, y1, x1
        if x0 > x1:
            x0, y0, x1, y1 = x1, y1, x0, y0
        run, rise = max(x1 - x0, 1), y1 - y0
        for x in range(x0, x1 + 1):
            first = y0 + (2 * (x - x0) * rise + run) // (2 * run)
            for y in range(max(first, 0), min(first + widths[i], size)):
                if steep:
                    tones[x, y] = values[i]
                else:
                    tones[y, x] = values[i]


@kernel
def _lattice(key, octave, column, row):  # type: ignore[no-untyped-def]
    """16 bits of one point of the lattice."""
    place = np.uint64((octave << 48) | (column << 24) | row)
    z = key ^ (place * np.uint64(0x9E3779B97F4A7C15))
    z = (z ^ (z >> np.uint64(30))) * _M1
    z = (z ^ (z >> np.uint64(27))) * _M2
    return np.int64((z ^ (z >> np.uint64(31))) >> np.uint64(48))


@kernel
def _smooth(tones, cell, key):  # type: ignore[no-untyped-def]
    size = len(tones)
    points = (size + STEP - 1) // STEP + 1
    field = np.zeros((points, points), dtype=np.int64)
    for octave in range(OCTAVES):
        side = max(cell >> octave, np.int64(STEP))
        wide = (points * STEP) // side + 2
        lattice = np.empty((wide, wide), dtype=np.int64)
        for row in range(wide):
            for column in range(wide):
                lattice[row, column] = _lattice(key, octave, column, row)
        index = np.empty(points, dtype=np.int64)
        share = np.empty(points, dtype=np.int64)
        for i in range(points):
            index[i] = i * STEP // side
            f = (i * STEP % side) * 256 // side
            share[i] = (f * f * (768 - 2 * f)) >> 16  # 3 f^2 - 2 f^3, 0..256
        for j in range(points):
            above, below_, down = lattice[index[j]], lattice[index[j] + 1], share[j]
            for i in range(points):
                k, right = index[i], share[i]
                top = above[k] * (256 - right) + above[k + 1] * right
                bottom = below_[k] * (256 - right) + below_[k + 1] * right
                field[j, i] += ((top * (256 - down) + bottom * down) >> 16) >> octave
    low, high = field.min(), field.max()
    span = max(high - low, 1)
    for j in range(points):
        for i in range(points):
            field[j, i] = (field[j, i] - low) * 255 * 16 // span  # Q4
    for y in range(size):
        j, down = y // STEP, y % STEP
        for i in range((size + STEP - 1) // STEP):
            left = field[j, i] * (STEP - down) + field[j + 1, i] * down
            right_end = field[j, i + 1] * (STEP - down) + field[j + 1, i + 1] * down
            for x in range(i * STEP, min(i * STEP + STEP, size)):
                step = x - i * STEP
                tones[y, x] = (left * (STEP - step) + right_end * step) >> 8
