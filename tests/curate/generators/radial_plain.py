"""Radial contours without waves, closed lines and fills, stated slowly over sets of pixels and exact fractions.

Numbers and tables (sines, quantiles of the noise) are taken from the product, which tests them apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from curate.generators._noise import ENTRIES, quantiles
from curate.generators._random import number
from curate.generators._trig import tables

Point = tuple[int, int]  # x, y
U32 = (1 << 32) - 1


def _vertex_bits(orbit: int, v: int) -> int:
    """32 bits of one vertex from its orbit's 64-bit number: two multiplicative rounds."""
    low, high = orbit & U32, orbit >> 32
    h = (v * 0x9E3779B1 + low) & U32
    h = ((h ^ (h >> 16)) * 0x7FEB352D) & U32
    h = ((h ^ (h >> 15) ^ high) * 0x846CA68B) & U32
    return h ^ (h >> 16)


def orbits(
    *,
    vertices: int,
    count: int,
    p: int,
    w: int,
    radius: int,
    oval: Point,
    centre: Point,
    key: int,
    grey_max: int,
) -> list[tuple[int, list[Point]]]:
    """Grey level and corners (Q16) of each orbit: steps w + p (1 - 2 e), all parameters in Q16."""
    cosines, sines = (table.tolist() for table in tables(vertices))
    noise = quantiles().tolist()
    assert len(noise) == ENTRIES == 4096
    half = (radius * oval[0]) >> 16, (radius * oval[1]) >> 16
    x = [centre[0] + ((half[0] * cos) >> 30) for cos in cosines]
    y = [centre[1] + ((half[1] * sin) >> 30) for sin in sines]
    found = []
    for k in range(1, count + 1):
        orbit = number(key, k)
        grey = min(((number(orbit, 1) >> 48) * (grey_max + 1)) >> 16, 255)
        for v in range(vertices):
            bits = _vertex_bits(orbit, v)
            step_x = w + p - ((2 * p * noise[bits & 4095]) >> 16)
            step_y = w + p - ((2 * p * noise[bits >> 20]) >> 16)
            x[v] += (cosines[v] * step_x) >> 30
            y[v] += (sines[v] * step_y) >> 30
        found.append((grey, list(zip(x, y, strict=True))))
    return found


def line(points: Sequence[Point]) -> set[Point]:
    """Pixels of a closed line through Q16 corners, ends toward zero, Bresenham with integers."""
    whole = [tuple(abs(value) // 65536 * (1 if value >= 0 else -1) for value in point) for point in points]
    pixels = set()
    for (x, y), (x1, y1) in zip([whole[-1], *whole[:-1]], whole, strict=True):
        dx, dy = abs(x1 - x), abs(y1 - y)
        steep = dx <= dy
        long, short = max(dx, dy), min(dx, dy)
        error = 2 * short - long
        pixels.add((x, y))
        for _ in range(long):
            diagonal = error >= 0
            error += 2 * short - (2 * long if diagonal else 0)
            if diagonal or not steep:
                x += 1 if x1 > x else -1 if x1 < x else 0
            if diagonal or steep:
                y += 1 if y1 > y else -1 if y1 < y else 0
            pixels.add((x, y))
        assert (x, y) == (x1, y1)
    return pixels


def inside(points: Sequence[Point], width: int, height: int, rule: str = "even-odd") -> set[Point]:
    """Pixels of the frame whose centre lies inside a closed polygon of Q16 corners."""
    found = set()
    for row in range(height):
        level = Fraction(row) + Fraction(1, 2)
        crossed = []
        for i, (x1, y1) in enumerate(points):
            x0, y0 = (Fraction(value, 65536) for value in points[i - 1])
            x1, y1 = Fraction(x1, 65536), Fraction(y1, 65536)  # type: ignore[assignment]
            if y0 <= level < y1 or y1 <= level < y0:
                crossed.append((x0 + (level - y0) * (x1 - x0) / (y1 - y0), 1 if y1 > y0 else -1))
        for column in range(width):
            turns = [turn for at, turn in crossed if at <= Fraction(column) + Fraction(1, 2)]
            if len(turns) % 2 if rule == "even-odd" else sum(turns):
                found.add((column, row))
    return found
