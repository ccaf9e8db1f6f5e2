"""Kernels of the fractal generators: the chaos game of an affine function system, its cover of a raster, and its drawing.

From the released FractalDB script (ACCV 2020; `ifs_function.py`, `ifs_search.py`): the orbit starts at (0, 0), which is drawn like all
that follow; a map is chosen with probability |ad - bc| / sum; the points' box is stretched to the frame less a padding; a point is
written over what is there as a pixel, or as a 3 x 3 patch whose nine bits are drawn from 1..511, one place right of and below it.

Ours: everything is integers, so that pictures are the same on every machine. Parameters are Q20, coordinates Q28 in int64, products
are cut by an arithmetic shift (toward minus infinity). A map is looked up with 12 random bits, so probabilities are in 1/4096 and a
rarer map may not be used at all. An orbit that leaves -1024 <= x, y < 1024 goes back to (0, 0) and is counted as escaped; the script's
runs on to infinity and cuts its list there. Coordinates are scaled by a reciprocal in Q46 that is rounded up, so that the largest falls
on the frame's last column as it does in the script. A box without width is drawn at the padding.

Systems are drawn by one of two laws. FractalDB's: 2 to 7 maps, all six parameters uniform in -1..1, kept when 100,000 points hit a share
of a 512 px frame; about one in fifty does. And the contractive law of "Improving Fractal Pre-training" (arXiv 2110.03091), which the
released 1p-frac script uses: each map's matrix is rotation, singular values, rotation, with random signs; the values s1 >= s2 are at
most 1, and the sum of s1 + 2 s2 over the maps is drawn first, from (5 + n) / 2 .. (6 + n) / 2 for n maps or within 0.1 of a given sigma.
Ours: parameters are Q16, singular values Q20, angles 4,096ths of a turn, and each candidate of a category has its own numbers.
"""

from __future__ import annotations

import numpy as np

from curate._jit import kernel, njit

MAPS = 7  # most maps of a system
SLOTS = 4096  # of the table that a map is looked up in
PARAMETER_Q = 20
POINT_Q = 28
# parameters are at most 4 in size, so the sum of a step's two products stays within 2**61
LIMIT = 1024 << POINT_Q
LIMIT_BITS = POINT_Q + 11
SCALE_Q = 46
PATCH_COUNTER = 1 << 32  # where the patches' numbers begin in a picture's stream
ANGLES = 4096
NUMBERS = 64  # of a candidate: the first is the count of maps, the last the key of its orbit
_ONE = 1 << 20  # of the singular values
MARGIN = _ONE // 10  # of sigma, as in the 1p-frac script

_1 = np.uint64(1)
_2 = np.uint64(2)

# frames of the search, coarse to fine: (side, padding, points, divisor of the threshold). The last is the script's. The others have its
# points per pixel and ask for a thirty-second less; a system that fills the last fills them (255 of 255 in 12,000), so they spare time.
STAGES = np.array(
    [[33, 1, 390, 256], [64, 1, 1562, 64], [127, 1, 6250, 16], [256, 3, 25000, 4], [512, 6, 100000, 1]],
    dtype=np.int64,
)


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _number(key, counter):  # type: ignore[no-untyped-def]
    """`curate.generators._random.number` for uint64."""
    z = np.uint64(key) + np.uint64(counter) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@kernel
def build(params, count, weights, maps, slots):  # type: ignore[no-untyped-def]
    """(MAPS, 6) Q16 parameters a..f of `count` maps, times six Q16 weights, to `maps` (8 int64 a map, flat); and the table of choices.

    Choices go by the determinants before weighting, as in the script. a..d become Q20, e and f Q28. All parameters are within -2..2,
    all weights within 0..2. Where no map has an area, all are equally likely.
    """
    total = np.int64(0)
    area = np.zeros(MAPS, np.int64)
    for j in range(count):
        area[j] = abs(params[j, 0] * params[j, 3] - params[j, 1] * params[j, 2])
        total += area[j]
        for k in range(6):
            value = (params[j, k] * weights[k] + 2048) >> 12
            maps[8 * j + k] = value if k < 4 else value << (POINT_Q - PARAMETER_Q)
    if total == 0:
        area[:count] = 1
        total = np.int64(count)
    j = 0
    upto = area[0]
    for slot in range(SLOTS):
        while upto * SLOTS <= slot * total:
            j += 1
            upto += area[j]
        slots[slot] = j


@kernel
def walk(maps, slots, key, points, xs, ys, box):  # type: ignore[no-untyped-def]
    """`points` points of the orbit into xs, ys (Q28); box becomes min x, max x, min y, max y. Returns how often it escaped."""
    x = np.int64(0)
    y = np.int64(0)
    xs[0] = 0
    ys[0] = 0
    escapes = 0
    at = np.uint64(1)  # unsigned indices spare numba's check for negative ones
    end = np.uint64(points)
    for group in range(1, (points - 2) // 5 + 2):
        bits = _number(key, group)  # five choices of 12 bits
        upto = min(at + np.uint64(5), end)
        while at < upto:
            j = np.uint64(slots[bits & np.uint64(SLOTS - 1)]) * np.uint64(8)
            bits = bits >> np.uint64(12)
            x, y = (
                ((maps[j] * x + maps[j + _1] * y) >> PARAMETER_Q) + maps[j + np.uint64(4)],
                ((maps[j + _2] * x + maps[j + np.uint64(3)] * y) >> PARAMETER_Q) + maps[j + np.uint64(5)],
            )
            if ((x + LIMIT) | (y + LIMIT)) >> LIMIT_BITS != 0:
                x = np.int64(0)
                y = np.int64(0)
                escapes += 1
            xs[at] = x
            ys[at] = y
            at += _1
    # passes of their own, which the compiler turns into vector code
    left = right = top = bottom = np.int64(0)
    for i in range(points):
        left = min(left, xs[i])
        right = max(right, xs[i])
    for i in range(points):
        top = min(top, ys[i])
        bottom = max(bottom, ys[i])
    box[0] = left
    box[1] = right
    box[2] = top
    box[3] = bottom
    return escapes


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _scale(low, high, inner):  # type: ignore[no-untyped-def]
    span = high - low
    if span == 0:
        return np.int64(0)
    return ((np.int64(inner) << SCALE_Q) + span - 1) // span


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _place(value, low, scale, offset):  # type: ignore[no-untyped-def]
    return np.uint64((((value - low) * scale) >> SCALE_Q) + offset)


@kernel
def cover(xs, ys, points, box, size, pad, seen):  # type: ignore[no-untyped-def]
    """How many pixels of a size x size frame the first `points` points hit; `seen` is a scratch of at least size * size bytes."""
    across = _scale(box[0], box[1], size - 2 * pad)
    down = _scale(box[2], box[3], size - 2 * pad)
    seen[: size * size] = 0
    hit = 0
    for i in range(points):
        at = _place(ys[i], box[2], down, pad) * np.uint64(size) + _place(xs[i], box[0], across, pad)
        hit += seen[at] == 0
        seen[at] = 1
    return hit


@kernel
def fill(maps, slots, key, least, xs, ys, box, seen):  # type: ignore[no-untyped-def]
    """Pixels of the script's search frame (512 px, 100,000 points) that are hit; 0 where it escapes, or is below `least` in a stage."""
    hit = 0
    for stage in range(STAGES.shape[0]):
        size, pad, points, divisor = STAGES[stage]
        if walk(maps, slots, key, points, xs, ys, box) > 0:
            return 0
        hit = cover(xs, ys, points, box, size, pad, seen)
        if hit < (least if divisor == 1 else (least - (least >> 5)) // divisor):
            return 0
    return hit


@kernel
def points_over(xs, ys, points, box, pad, colours, size, canvas):  # type: ignore[no-untyped-def]
    """Writes point i as one pixel of colour i modulo len(colours) over the flat (S * S, channels) `canvas`, y downward."""
    across = _scale(box[0], box[1], size - 2 * pad)
    down = _scale(box[2], box[3], size - 2 * pad)
    for i in range(points):
        at = _place(ys[i], box[2], down, pad) * np.uint64(size) + _place(xs[i], box[0], across, pad)
        for channel in range(canvas.shape[1]):
            canvas[at, channel] = colours[i % colours.shape[0], channel]


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _mask(key, i, mask, bits):  # type: ignore[no-untyped-def]
    """Nine bits of patch i, 1..511: four patches share a number, 16 bits each. Returns them and what is left of the number."""
    if mask != 0:
        return np.uint64(mask), bits
    if i & 3 == 0:
        bits = _number(key, PATCH_COUNTER + (i >> 2))
    return _1 + (((bits & np.uint64(0xFFFF)) * np.uint64(511)) >> np.uint64(16)), bits >> np.uint64(16)


@kernel
def patches_over(xs, ys, points, box, pad, key, mask, value, size, canvas):  # type: ignore[no-untyped-def]
    """Writes every point as a 3 x 3 patch over the flat (S * S,) uint8 `canvas`, y downward.

    A patch is nine bits, row by row from bit 0: `value` where set, black where not. `mask` 0: each patch draws its own.
    """
    across = _scale(box[0], box[1], size - 2 * pad)
    down = _scale(box[2], box[3], size - 2 * pad)
    rows = np.zeros(32, np.uint8)  # of three bits: their pixels, four bytes apart
    for pattern in range(8):
        for bit in range(3):
            rows[4 * pattern + bit] = value * ((pattern >> bit) & 1)
    bits = np.uint64(0)
    for i in range(points):
        m, bits = _mask(key, i, mask, bits)
        at = _place(ys[i], box[2], down, pad + 1) * np.uint64(size) + _place(xs[i], box[0], across, pad + 1)
        for _ in range(3):
            row = (m & np.uint64(7)) * np.uint64(4)
            canvas[at] = rows[row]
            canvas[at + _1] = rows[row + _1]
            canvas[at + _2] = rows[row + _2]
            m = m >> np.uint64(3)
            at += np.uint64(size)


@kernel
def colour_patches_over(xs, ys, points, box, pad, key, mask, colours, size, canvas):  # type: ignore[no-untyped-def]
    """`patches_over` on a flat (S * S, 3) canvas; the set bits of patch i have colour i modulo len(colours)."""
    across = _scale(box[0], box[1], size - 2 * pad)
    down = _scale(box[2], box[3], size - 2 * pad)
    count = np.uint64(colours.shape[0])
    shades = np.zeros(
        (2 * colours.shape[0], 3), np.uint8
    )  # black first: a lookup where a branch would guess wrong half of the time
    shades[colours.shape[0] :] = colours
    bits = np.uint64(0)
    for i in range(points):
        m, bits = _mask(key, i, mask, bits)
        at = _place(ys[i], box[2], down, pad + 1) * np.uint64(size) + _place(xs[i], box[0], across, pad + 1)
        colour = np.uint64(i) % count
        for _ in range(3):
            for column in range(3):
                shade = colour + count * (m & _1)
                m = m >> _1
                for channel in range(3):
                    canvas[at + np.uint64(column), channel] = shades[shade, channel]
            at += np.uint64(size)


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _between(key, counter, low, high):  # type: ignore[no-untyped-def]
    """Uniform integer low..high; low where high is below it."""
    span = np.uint64(max(np.int64(high) - np.int64(low), np.int64(0)) + 1)
    return np.int64(low) + np.int64(((_number(key, counter) >> np.uint64(32)) * span) >> np.uint64(32))


@kernel
def uniform_system(key, first, count, params):  # type: ignore[no-untyped-def]
    """Six numbers a map from counter `first` on, to (MAPS, 6) Q16 `params`."""
    for j in range(count):
        for k in range(6):
            params[j, k] = _between(key, first + 6 * j + k, -65536, 65536)


@kernel
def contractive_system(key, first, count, sigma, cosines, sines, params):  # type: ignore[no-untyped-def]
    """Six numbers a map from counter `first` + 1 on; `sigma` in Q20, 0 for the law by the number of maps; tables in Q30."""
    if sigma > 0:
        total = _between(key, first, sigma - MARGIN, sigma + MARGIN)
    else:
        total = _between(key, first, (5 + count) * _ONE // 2, (6 + count) * _ONE // 2)
    spare = total - 3 * (count - 1) * _ONE  # what the others leave over when they take the most they can
    for j in range(count):
        at = first + 1 + 6 * j
        if j < count - 1:
            s1 = _between(key, at, max(0, -((-spare) // 3)), min(_ONE, total))
            spare -= s1
            total -= s1
            s2 = _between(key, at + 1, max(0, -((-spare) // 2)), min(s1, total // 2))
            spare += 3 * _ONE - 2 * s2
            total -= 2 * s2
        else:
            s2 = _between(key, at + 1, max(0, (total - _ONE + 1) // 2), total // 3)
            s1 = total - 2 * s2
        bits = _number(key, at + 2)
        turn = np.int64(bits & np.uint64(ANGLES - 1))
        back = np.int64((bits >> np.uint64(12)) & np.uint64(ANGLES - 1))
        if bits >> np.uint64(60) & np.uint64(1):
            s1 = -s1
        if bits >> np.uint64(61) & np.uint64(1):
            s2 = -s2
        left = np.int64(1) - 2 * np.int64(bits >> np.uint64(62) & np.uint64(1))
        right = np.int64(1) - 2 * np.int64(bits >> np.uint64(63))
        c1 = np.int64(cosines[turn]) * s1 >> 30
        d1 = np.int64(sines[turn]) * s1 >> 30
        c2 = np.int64(cosines[turn]) * s2 >> 30
        d2 = np.int64(sines[turn]) * s2 >> 30
        c = np.int64(cosines[back])
        d = np.int64(sines[back])
        params[j, 0] = left * ((c1 * c - d2 * d) >> 34)
        params[j, 1] = right * ((-c1 * d - d2 * c) >> 34)
        params[j, 2] = left * ((d1 * c + c2 * d) >> 34)
        params[j, 3] = right * ((-d1 * d + c2 * c) >> 34)
        params[j, 4] = _between(key, at + 4, -65536, 65536)
        params[j, 5] = _between(key, at + 5, -65536, 65536)


@kernel
def search(key, law, least, candidates, scratch, params):  # type: ignore[no-untyped-def]
    """The first candidate that fills `least` pixels of the search frame: (maps, pixels, candidates looked at); maps 0: none did.

    `law` is (fewest maps, most maps, contractive 0 or 1, sigma Q20); `scratch` is (cosines, sines, maps, slots, xs, ys, box, seen).
    """
    fewest, most, contractive, sigma = law
    cosines, sines, maps, slots, xs, ys, box, seen = scratch
    weights = np.full(6, 65536, np.int64)
    for candidate in range(candidates):
        first = 1 + candidate * NUMBERS
        count = _between(key, first, fewest, most)
        params[:] = 0
        if contractive:
            contractive_system(key, first + 1, count, sigma, cosines, sines, params)
        else:
            uniform_system(key, first + 1, count, params)
        build(params, count, weights, maps, slots)
        hit = fill(maps, slots, _number(key, first + NUMBERS - 1), least, xs, ys, box, seen)
        if hit:
            return count, hit, candidate + 1
    return 0, 0, candidates
