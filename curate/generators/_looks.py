"""What fills a thing of a scene: tones 0..254 on its stencil, from a pattern that turns with it, or from a contour around its centre.

    plain       one tone
    shaded      tones from one end to the other
    stripes, checks, dots   in cells of a third to three fifths of the radius
    speckle     a random tone for each cell, of an eighth to a quarter of the radius
    contour     the orbits of an atom

The position in cells is Q32, so a pattern is adds and shifts.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from curate._jit import kernel
from curate.generators._contour import ContourPainter
from curate.generators._thing import TURNS, Numbers, Stencil
from curate.generators._trig import tables

PATTERNS = ("plain", "shaded", "stripes", "checks", "dots", "speckle")
PLAIN, SHADED, STRIPES, CHECKS, DOTS, SPECKLE = range(6)
Tones = npt.NDArray[np.uint8]
_M1, _M2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def fill_pattern(stencil: Stencil, texture: str, radius_q16: int, turn: int, numbers: Numbers) -> Tones:
    """Tones of the stencil's pixels, 0 elsewhere: `texture` in cells that go with the radius, turned about as the thing is."""
    kind = PATTERNS.index(texture)
    coarse = numbers.upto(0, 255)
    period = radius_q16 * (128 + coarse // 2 if kind == SPECKLE else 340 + coarse) // 1024
    period = max(period, 3 << 16)
    turn = (turn + numbers.upto(-TURNS // 8, TURNS // 8)) % TURNS
    phase = [numbers.upto(0, (1 << 32) - 1) for _ in range(2)]
    if kind == SHADED:  # one cell each way from the centre
        period, phase = 2 * radius_q16, [0, 0]
    cos, sin = (int(table[turn]) for table in tables(TURNS))
    across, down = (cos << 18) // period, (sin << 18) // period
    tones = np.zeros(stencil.mask.shape, dtype=np.uint8)
    key = np.uint64(numbers.upto(0, (1 << 32) - 1))
    _fill(tones, stencil.mask, kind, across, down, stencil.top, stencil.left, phase[0], phase[1], key)
    return tones


def fill_contour(
    stencil: Stencil, radius_q16: int, place: tuple[int, int], contours: ContourPainter, numbers: Numbers
) -> Tones:
    """Tones of an atom drawn around the thing's centre, `place` = (x, y) in the picture `contours` is for; what lies outside is 0."""
    x, y = place
    (height, width), size = stencil.mask.shape, contours.size
    top, left = y + stencil.top, x + stencil.left
    rows, columns = range(size)[max(top, 0) : top + height], range(size)[max(left, 0) : left + width]
    window = np.s_[rows.start : rows.stop, columns.start : columns.stop]
    contours.pixels[window] = 127
    pitch = numbers.upto(2 << 16, 5 << 16)
    contours.draw(
        vertices=numbers.upto(24, 120),
        orbits=max(radius_q16 * 2 // pitch, 2),
        p_q16=pitch // 2,
        w_q16=pitch - pitch // 2,
        radius_q16=0,
        oval_x_q16=65536,
        oval_y_q16=65536,
        n1=numbers.upto(0, 9),
        n2=numbers.upto(0, 9),
        centre_x_q16=x << 16,
        centre_y_q16=y << 16,
        key=numbers.upto(0, (1 << 32) - 1),
        grey_max=254,
        window=(rows.start, columns.start, len(rows), len(columns)),
    )
    tones = np.zeros(stencil.mask.shape, dtype=np.uint8)
    tones[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = contours.pixels[
        window
    ]
    return tones


@kernel
def _fill(tones, mask, kind, across, down, top, left, phase_u, phase_v, key):  # type: ignore[no-untyped-def]
    height, width = mask.shape
    for row in range(height):
        for column in range(width):
            if not mask[row, column]:
                continue
            x, y = np.int64(left + column), np.int64(top + row)
            u = phase_u + x * across + y * down
            v = phase_v - x * down + y * across
            tone = np.int64(100)
            if kind == SHADED:
                tone = min(max(127 + (u >> 24), np.int64(0)), np.int64(254))
            elif kind == STRIPES:
                tone = np.int64(30) if (u >> 31) & 1 else np.int64(224)
            elif kind == CHECKS:
                tone = np.int64(30) if ((u >> 32) + (v >> 32)) & 1 else np.int64(224)
            elif kind == DOTS:
                a, b = ((u >> 24) & 255) - 128, ((v >> 24) & 255) - 128
                tone = np.int64(24) if a * a + b * b < 8100 else np.int64(230)
            elif kind == SPECKLE:
                z = key ^ (
                    np.uint64(((u >> 32) << 20) ^ ((v >> 32) & 0xFFFFF)) * np.uint64(0x9E3779B97F4A7C15)
                )
                z = (z ^ (z >> np.uint64(30))) * _M1
                z = (z ^ (z >> np.uint64(27))) * _M2
                tone = min(np.int64(z >> np.uint64(56)), np.int64(254))
            tones[row, column] = tone
