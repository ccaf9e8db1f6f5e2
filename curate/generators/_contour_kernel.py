"""The compiled part of radial contours: move the vertices of an orbit, see which segments are in sight, draw those.

Few plain passes an orbit, each simple for the machine: `_hash`, `_move` and `_sight` are loops over vertices without a branch, which LLVM
turns into vector code; `_ink` draws. All segments of an orbit have one grey level, so neither their order matters nor whether a pixel is
drawn twice: segments of at most 8 pixels (five in six) are eight stores at offsets from a table, those of at most 16 eight more, and
longer ones overlapping runs of eight. A loop over a segment's own length would cost more in mispredicted branches than its pixels do.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from curate._jit import njit
from curate.generators._random import GOLDEN

REACH = 16  # segments of up to so many pixels are drawn from `segment_table`
RUN = 8  # pixels drawn at once
SPARE = 64  # bytes behind the picture's last pixel; the last of them takes what lies outside

_GOLDEN = np.uint64(GOLDEN)
_SIDE = np.int32(2 * REACH + 1)
_CENTRE = np.int32((2 * REACH + 1) * REACH + REACH)  # the table's row of a segment of no length: one pixel
_HALF = np.int64(1) << 39  # of a slope in Q40

# Of functions that are only called from compiled ones: no way in from Python, which would have to be compiled, too. For the same reason
# min() and max() are spelled out: numba compiles each of them as a function for every combination of types.
_OUTER: dict[str, Any] = {"nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True}
_INNER: dict[str, Any] = {**_OUTER, "no_cpython_wrapper": True}


@njit(cache=True, inline="always", **_OUTER)
def mix64(value):  # type: ignore[no-untyped-def]
    """`_random.mix64`, compiled: uint64 to uint64."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@njit(**_INNER)
def _hash(out, vertices, low, high):  # type: ignore[no-untyped-def]
    for v in range(vertices):
        h = np.uint32(np.uint32(v) * np.uint32(0x9E3779B1) + low)
        h = np.uint32((h ^ (h >> np.uint32(16))) * np.uint32(0x7FEB352D))
        h = np.uint32((h ^ (h >> np.uint32(15)) ^ high) * np.uint32(0x846CA68B))
        out[v] = np.int32(h ^ (h >> np.uint32(16)))


@njit(**_INNER)
def _look_up(hashes, noise_x, noise_y, noise, vertices):  # type: ignore[no-untyped-def]
    # a loop of its own: a gather of vector code is slower than as many loads, and would hold up the loops around it
    for number in range(vertices):
        v = np.uint64(number)
        h = np.uint32(hashes[v])
        noise_x[v] = noise[h & np.uint32(4095)]
        noise_y[v] = noise[h >> np.uint32(20)]


@njit(**_INNER)
def _move(at, pixel, turn, wave, noise, vertices, base, p):  # type: ignore[no-untyped-def]
    """One coordinate of all vertices, one orbit on; `pixel` (from entry 1) takes it truncated toward zero."""
    for v in range(vertices):
        step = base + np.int64(wave[v]) - ((p * np.int64(noise[v])) >> 16)
        here = np.int32(at[v] + np.int32((np.int64(turn[v]) * step) >> 30))
        at[v] = here
        pixel[v + 1] = np.int32(here + ((here >> np.int32(31)) & np.int32(0xFFFF))) >> np.int32(16)


@njit(**_INNER)
def _sight(x, y, form, start, late, vertices, size, top, left, bottom, right):  # type: ignore[no-untyped-def]
    """What to do with each segment v -> v + 1; says whether any is in sight.

    `form`: its row in the table (-1: not wholly in sight), `start`: its first pixel, `late`: 1 if one run of pixels is not all of it.
    """
    seen = np.int32(0)
    for v in range(vertices):
        x0, y0, x1, y1 = x[v], y[v], x[v + 1], y[v + 1]
        x_low, x_high = x0 if x0 < x1 else x1, x1 if x0 < x1 else x0
        y_low, y_high = y0 if y0 < y1 else y1, y1 if y0 < y1 else y0
        partly = (x_high >= left) & (x_low < right) & (y_high >= top) & (y_low < bottom)
        wholly = (x_low >= left) & (x_high < right) & (y_low >= top) & (y_high < bottom)
        dx, dy = np.int32(x_high - x_low), np.int32(y_high - y_low)
        longer = dx if dx > dy else dy
        row = np.int32(np.int32(x1 - x0) * _SIDE + np.int32(y1 - y0) + _CENTRE)
        row = row if longer <= np.int32(REACH) else _CENTRE  # its first pixel: harmless, and no branch
        form[v] = row if wholly else np.int32(-1)
        start[v] = np.int32(y0 * size) + x0
        late[v] = np.int32(partly & ((longer > np.int32(RUN)) | (not wholly)))
        seen |= np.int32(partly)
    return seen != 0


@njit(forceinline=True, **_INNER)
def _line(flat, size, x0, y0, x1, y1, ink, wholly, top, left, bottom, right):  # type: ignore[no-untyped-def]
    """Bresenham's line without its last pixel; `wholly` in sight it has more than RUN of them.

    Pixel i lies round(i * minor / major) aside, halves up; the slope is rounded up in Q40, exact for less than 2**19 pixels.
    """
    dx, dy = x1 - x0, y1 - y0
    step_x, step_y = (dx >> 63) | 1, (dy >> 63) | 1
    dx, dy = dx * step_x, dy * step_y
    flatter = -np.int64(dx > dy)  # all bits set where x is the longer way
    count, aside = dx if flatter else dy, dy if flatter else dx
    if wholly:
        across, down = step_x, step_y * size
        swap = (across ^ down) & flatter
        major, minor = down ^ swap, across ^ swap
        start = y0 * size + x0
        slope = np.int64(np.uint64(aside << 40) // np.uint64(count)) + 1
        done = 0
        while done < count:
            first = done if done < count - RUN else count - RUN  # the last run overlaps the one before
            sum_q40 = _HALF + first * slope
            at = start + first * major
            for _ in range(RUN):
                flat[np.uint64(at + (sum_q40 >> 40) * minor)] = ink
                sum_q40 += slope
                at += major
            done += RUN
    else:
        spare = np.uint64(flat.size - 1)
        twice, error, flat_too = 2 * count, count, flatter & 1
        for _ in range(count):
            inside = (x0 >= left) & (x0 < right) & (y0 >= top) & (y0 < bottom)
            flat[np.uint64(y0 * size + x0) if inside else spare] = ink
            error += 2 * aside
            turn = np.int64(error >= twice)
            error -= twice * turn
            x0 += step_x * (turn | flat_too)
            y0 += step_y * (turn | (1 - flat_too))


@njit(**_INNER)
def _ink(flat, size, x, y, form, start, late, later, table, vertices, ink, top, left, bottom, right):  # type: ignore[no-untyped-def]
    # indices are unsigned, since numba would look at each signed one whether it counts from the end
    count = np.uint64(0)
    for number in range(vertices):
        v = np.uint64(number)
        later[count] = number
        count += np.uint64(late[v])
        row = np.int64(form[v])
        if row >= 0:
            at = np.uint64(start[v])
            entry = np.uint64(row * REACH)
            for i in range(RUN):
                flat[at + np.uint64(np.int64(table[entry + np.uint64(i)]))] = ink
    for number in range(count):
        v = np.uint64(later[np.uint64(number)])
        row = np.int64(form[v])
        if row >= 0 and row != _CENTRE:
            at = np.uint64(start[v])
            entry = np.uint64(row * REACH + RUN)
            for i in range(REACH - RUN):
                flat[at + np.uint64(np.int64(table[entry + np.uint64(i)]))] = ink
        else:
            w = v + np.uint64(1)
            x0, y0, x1, y1 = np.int64(x[v]), np.int64(y[v]), np.int64(x[w]), np.int64(y[w])
            _line(flat, size, x0, y0, x1, y1, ink, row >= 0, top, left, bottom, right)


@njit(cache=True, **_OUTER)
def draw_atom(  # type: ignore[no-untyped-def]
    flat, size, work, table, noise, cosines, sines, vertices, orbits, p, w, half_x, half_y, n1, n2, centre_x, centre_y, key,
    noise_factor, grey_max, grey, top, left, bottom, right,
):  # fmt: skip
    """`ContourPainter.draw`; `work` is (9, vertices + 1 or more) int32, rows 0 and 1 hold x and y in Q16 afterwards."""
    x, y, wave, pixel_x, pixel_y = work[0], work[1], work[2], work[3], work[4]
    form, start, late, later = work[5], work[6], work[7], work[8]  # unpacked, they would lose their layout
    first, second = 0, 0
    for v in range(vertices):
        x[v] = centre_x + ((half_x * np.int64(cosines[v])) >> 30)
        y[v] = centre_y + ((half_y * np.int64(sines[v])) >> 30)
        wave[v] = (np.int64(sines[first]) + np.int64(sines[second])) >> 15
        first += n1
        first -= vertices if first >= vertices else 0
        second += n2
        second -= vertices if second >= vertices else 0
    size_32, top_32, left_32 = np.int32(size), np.int32(top), np.int32(left)
    bottom_32, right_32 = np.int32(bottom), np.int32(right)
    for orbit in range(1, orbits + 1):
        number = mix64(key + np.uint64(orbit) * _GOLDEN)
        low, high = np.uint32(number), np.uint32(number >> np.uint64(32))
        level = grey
        if grey < 0:
            level = (np.int64(mix64(number + _GOLDEN) >> np.uint64(48)) * (grey_max + 1)) >> 16
        ink = np.uint8(level if level < 255 else 255)
        _hash(form, vertices, low, high)  # these rows are free until `_sight`
        _look_up(form, start, late, noise, vertices)
        _move(x, pixel_x, cosines, wave, start, vertices, w + p, noise_factor * p)
        _move(y, pixel_y, sines, wave, late, vertices, w + p, noise_factor * p)
        pixel_x[0], pixel_y[0] = pixel_x[vertices], pixel_y[vertices]
        if _sight(
            pixel_x, pixel_y, form, start, late, vertices, size_32, top_32, left_32, bottom_32, right_32
        ):
            _ink(
                flat, size, pixel_x, pixel_y, form, start, late, later, table, vertices, ink, top, left, bottom, right
            )  # fmt: skip


def segment_table(size: int) -> npt.NDArray[np.int32]:
    """Offsets of the pixels of every segment of at most REACH pixels in a picture `size` wide: REACH entries a segment.

    The row of (dx, dy) is (dx + REACH) * (2 REACH + 1) + dy + REACH; a shorter segment's last pixel is repeated.
    """
    side = np.arange(-REACH, REACH + 1, dtype=np.int64)
    dx, dy = side[:, None, None], side[None, :, None]
    major = np.maximum(np.maximum(abs(dx), abs(dy)), 1)
    minor = np.minimum(abs(dx), abs(dy))
    i = np.minimum(np.arange(REACH, dtype=np.int64), major - 1)
    aside = (2 * minor * i + major) // (2 * major)
    flatter = abs(dx) > abs(dy)
    x = np.sign(dx) * np.where(flatter, i, aside)
    y = np.sign(dy) * np.where(flatter, aside, i)
    offsets: npt.NDArray[np.int32] = (y * size + x).astype(np.int32).ravel()
    return offsets
