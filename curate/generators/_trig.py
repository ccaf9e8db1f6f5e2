"""Sine and cosine of whole fractions of a turn, rounded once: no libm decides a pixel.

The entries are the integers nearest to 2**30 cos(2 pi v / V) and 2**30 sin(2 pi v / V). They are found with 128 binary digits after
the point in Python's integers: pi by Machin's formula, the first angle by Taylor's series, the others by rotation, so the error before
rounding is below V * 2**-124, far from where a rounding could turn.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

Q = 30  # binary digits after the point of the tables
_BITS = 128
_ONE = 1 << _BITS


def _arctan_inverse(n: int) -> int:
    """arctan(1 / n), scaled by 2**_BITS."""
    power = _ONE // n
    total, k = power, 1
    while power:
        power //= n * n
        k += 2
        total += -(power // k) if k % 4 == 3 else power // k
    return total


@functools.cache
def _two_pi() -> int:
    return 8 * (4 * _arctan_inverse(5) - _arctan_inverse(239))


def _first(vertices: int) -> tuple[int, int]:
    """cos and sin of 2 pi / vertices, scaled by 2**_BITS."""
    angle = _two_pi() // vertices
    cos, sin, term, k = 0, 0, _ONE, 0
    while term:
        if k % 2 == 0:
            cos += term if k % 4 == 0 else -term
        else:
            sin += term if k % 4 == 1 else -term
        k += 1
        term = (term * angle >> _BITS) // k
    return cos, sin


@functools.lru_cache(maxsize=1024)
def tables(vertices: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """cos and sin in Q30 of 2 pi v / vertices, v = 0..vertices-1: two int32 arrays, not writable, kept for the last 1,024 counts."""
    cos1, sin1 = _first(vertices)
    half, shift = 1 << (_BITS - Q - 1), _BITS - Q
    cosines, sines = [], []
    cos, sin = _ONE, 0
    for _ in range(vertices):
        cosines.append((cos + half) >> shift)
        sines.append((sin + half) >> shift)
        cos, sin = (cos * cos1 - sin * sin1) >> _BITS, (sin * cos1 + cos * sin1) >> _BITS
    both = np.array(cosines, dtype=np.int32), np.array(sines, dtype=np.int32)
    for table in both:
        table.setflags(write=False)
    return both
