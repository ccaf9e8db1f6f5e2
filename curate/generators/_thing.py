"""One thing of a scene, before it has a place: its outline, and the stencil of its pixels.

All in integers; the outline is `_shapes`' formula, in Q16 pixels. A stencil is a small bool array, cut to the thing with `PAD` pixels of
nothing around, and its centre is a corner of its pixels, so that a thing has the same pixels wherever it is put.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt

import numpy as np
import numpy.typing as npt

from curate.generators._mask import fill_onto
from curate.generators._random import below
from curate.generators._shapes import Shape
from curate.generators._trig import tables

PAD = 4  # more than the widest line around a thing
TURNS = 1024  # directions a thing may be turned to


class Numbers:
    """Numbers of one key, in the order of the calls."""

    __slots__ = ("_counter", "_key")

    def __init__(self, key: int) -> None:
        self._key = key
        self._counter = 0

    def upto(self, low: int, high: int) -> int:
        """A uniform integer from low to high, both included."""
        self._counter += 1
        return low + below(self._key, self._counter, high - low + 1)


@dataclass(frozen=True)
class Stencil:
    """Pixels of a thing: `mask` (h, w), its first row and column counted from the thing's centre, and how many are set."""

    mask: npt.NDArray[np.bool_]
    top: int
    left: int
    pixels: int


def size_steps(low: int, high: int) -> list[int]:
    """33 integers from low to high, each the same multiple of the one before, rounded down."""
    steps = [low, high]
    for _ in range(5):
        between = [isqrt(a * b) for a, b in zip(steps, steps[1:], strict=False)]
        steps = [step for pair in zip(steps, between, strict=False) for step in pair] + [steps[-1]]
    return steps


def outline(
    shape: Shape, radius_q16: int, stretch: int, turn: int, wave: tuple[int, int, int]
) -> npt.NDArray[np.int64]:
    """(V, 2) x, y in Q16 around the centre. `stretch` in percent; `turn` in 1024ths; `wave` = (number, first corner, share in Q16)."""
    count = shape.vertices
    corner = np.arange(count)
    cosines, sines = tables(2 * count)
    cos, sin = cosines[1::2].astype(np.int64), sines[1::2].astype(np.int64)
    waves = tables(count)[0].astype(np.int64)
    radii = (
        (100 << 30) + shape.a * waves[shape.n * corner % count] + shape.b * waves[shape.m * corner % count]
    )
    radii = radius_q16 * (radii >> 14) // ((100 + (shape.a + shape.b) // 2) << 16)
    number, first, share_q16 = wave
    radii += (radii * ((share_q16 * waves[number * (corner + first) % count]) >> 30)) >> 16
    along = isqrt((stretch << 32) // 100)
    across = (1 << 32) // along
    x, y = (((radii * cos) >> 30) * along) >> 16, (((radii * sin) >> 30) * across) >> 16
    turn_cos, turn_sin = (int(table[turn]) for table in tables(TURNS))
    return np.stack([(x * turn_cos - y * turn_sin) >> 30, (x * turn_sin + y * turn_cos) >> 30], axis=1)


def cut(points: npt.NDArray[np.int64]) -> Stencil:
    """The stencil of an outline."""
    left, top = ((points.min(axis=0) >> 16) - PAD).tolist()
    right, bottom = ((points.max(axis=0) >> 16) + 1 + PAD).tolist()
    mask = np.zeros((bottom - top, right - left), dtype=np.bool_)
    fill_onto(mask, (points - [left << 16, top << 16]).astype(np.int32))
    return Stencil(mask, top, left, int(np.count_nonzero(mask)))
