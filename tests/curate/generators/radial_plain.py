"""Radial contours without waves (those of `contour_plain`), closed lines and fills, stated slowly over sets of pixels and exact fractions."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from tests.curate.generators import contour_plain

Point = tuple[int, int]  # x, y


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
    _, drawn = contour_plain.orbits(
        vertices=vertices, orbits=count, p_q16=p, w_q16=w, radius_q16=radius, oval_x_q16=oval[0], oval_y_q16=oval[1],
        n1=0, n2=0, centre_x_q16=centre[0], centre_y_q16=centre[1], key=key, noise_factor=2, grey_max=grey_max,
    )  # fmt: skip
    return drawn


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
