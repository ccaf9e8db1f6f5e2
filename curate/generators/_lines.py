"""Closed polygons of one-pixel lines as Pillow 9 to 13 draw them (Bresenham's), many short segments at a time and nearly free of branches.

After i pixels a line of length L along its longer axis and s along the other has gone floor(i s / L + 1/2) steps sideways. So all pixels
of a polygon can be found at once, four of every segment, then four more of those that are longer, in loops that a compiler vectorises;
what is left for one value at a time is the store of a byte. Only integers decide (a float32 quotient has room for its error, see SHORT).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from curate._jit import kernel, njit

Lines = tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.int32]]

SHORT = 500  # longer segments are drawn pixel by pixel
_Q = 21  # bits of the slope's fraction: too large by at most 2.2 units of 2**-21 a step, and 500 * 2.2 / 2**21 < 1 / (2 * 500)

_C0, _C1, _C2, _C3, _C4 = (np.int32(i) for i in range(5))
_LONGEST, _BITS, _HALF = np.int32(SHORT), np.int32(_Q), np.int32(1 << (_Q - 1))
_L_AT, _S_AT, _S_BITS = np.int32(12), np.int32(3), np.int32(511)
_OUT, _PARTLY = np.int32(-1), np.int32(-2)
_ONE = np.float32(1 << _Q)
_BASE_BITS, _WORD = np.int64(0xFFFFFFFF), np.int64(32)


def lines_scratch(vertices: int) -> Lines:
    """Buffers of `closed_lines` for polygons of up to so many corners."""
    return np.empty(vertices, np.int64), np.empty((4, vertices), np.int32), np.empty(vertices, np.int32)


@kernel
def _pack(xs, ys, stride, left, top, right, bottom, packed):  # type: ignore[no-untyped-def]
    """A segment's first pixel (low word) and its shape (high word: L, s, which axis, signs; negative: not wholly inside).

    Returns how many are partly inside (their shape is _PARTLY).
    """
    width, height = np.uint32(right - left), np.uint32(bottom - top)
    count = np.int32(0)
    for v in range(xs.shape[0] - 1):
        x0, y0, x1, y1 = xs[v], ys[v], xs[v + 1], ys[v + 1]
        dx, dy = np.int32(x1 - x0), np.int32(y1 - y0)
        ax, ay = np.int32(abs(dx)), np.int32(abs(dy))
        long = np.int32(max(ax, ay))
        inside = (
            (np.uint32(x0 - left) < width)
            & (np.uint32(x1 - left) < width)
            & (np.uint32(y0 - top) < height)
            & (np.uint32(y1 - top) < height)
            & (long <= _LONGEST)
        )
        outside = (
            ((x0 < left) & (x1 < left))
            | ((y0 < top) & (y1 < top))
            | ((x0 >= right) & (x1 >= right))
            | ((y0 >= bottom) & (y1 >= bottom))
        )
        shape = np.int32(np.int32(long << _L_AT) | np.int32(np.int32(min(ax, ay)) << _S_AT))
        signs = np.int32((_C4 if ax <= ay else _C0) | (_C2 if dy < 0 else _C0) | (_C1 if dx < 0 else _C0))
        shape = np.int32(shape | signs)
        shape = shape if inside else (_OUT if outside else _PARTLY)
        count = np.int32(count + (_C1 if shape == _PARTLY else _C0))
        packed[v] = (np.int64(shape) << _WORD) | np.int64(np.uint32(y0 * stride + x0))
    return count


@kernel
def _clipped(flat, stride, left, top, right, bottom, x, y, x1, y1, grey):  # type: ignore[no-untyped-def]
    """One segment, each pixel looked at."""
    ax, ay = abs(x1 - x), abs(y1 - y)
    sx = _C1 if x1 >= x else -_C1
    sy = _C1 if y1 >= y else -_C1
    steep = ax <= ay
    long, short = (ay, ax) if steep else (ax, ay)
    error = short + short - long
    for _ in range(long + 1):
        if left <= x < right and top <= y < bottom:
            flat[y * stride + x] = grey
        if error >= 0:
            error -= long + long
            if steep:
                x += sx
            else:
                y += sy
        error += short + short
        if steep:
            y += sy
        else:
            x += sx


@kernel
def closed_lines(pixels, xs, ys, grey, left, top, right, bottom, packed, rows, lengths):  # type: ignore[no-untyped-def]
    """Draw a closed polygon into `pixels` (H, W) uint8, C-contiguous, H * W < 2**31.

    xs, ys: (V + 1,) int32, the last corner the first again, |x| and |y| below 2**15 (further out is the caller's to refuse). Only pixels of
    the window left <= x < right, top <= y < bottom (int32, inside the picture) are drawn, all of them. The rest is `lines_scratch`.
    """
    stride = np.int32(pixels.shape[1])
    flat = pixels.reshape(pixels.size)
    vertices = xs.shape[0] - 1
    partly = _pack(xs, ys, stride, left, top, right, bottom, packed)
    if partly > 0:
        found = np.int64(0)
        for v in range(vertices):
            lengths[found] = v
            found += np.int64((packed[v] >> _WORD) == np.int64(_PARTLY))
        for t in range(found):
            v = lengths[t]
            _clipped(flat, stride, left, top, right, bottom, xs[v], ys[v], xs[v + 1], ys[v + 1], grey)
    count = np.int64(0)
    for v in range(vertices):
        one = packed[v]
        packed[count] = one
        count += np.int64(one >= 0)
    _inside(flat, stride, count, grey, packed, rows, lengths)


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _pixel(base, i, along, slope, aside):  # type: ignore[no-untyped-def]
    # the casts keep 32 bits, where the compiler's rules would go on with 64: twice the lanes
    step = np.int32(np.int32(np.int32(i * slope) + _HALF) >> _BITS)
    return np.int32(base + np.int32(i * along) + np.int32(step * aside))


@kernel
def _inside(flat, stride, count, grey, packed, rows, lengths):  # type: ignore[no-untyped-def]
    """The `count` segments in `packed`. A segment's last pixel may be left to the next one, which starts with it."""
    r0, r1, r2, r3 = rows[0], rows[1], rows[2], rows[3]
    done = np.int32(0)
    while count > 0:
        for t in range(count):
            one = packed[t]
            shape = np.int32(one >> _WORD)
            base = np.int32(one & _BASE_BITS)
            long = np.int32(shape >> _L_AT)
            short = np.int32(np.int32(shape >> _S_AT) & _S_BITS)
            lengths[t] = long
            slope = np.int32(np.int32(np.float32(short) * _ONE / np.float32(np.int32(max(long, _C1)))) + _C2)
            sx = np.int32(_C1 - np.int32(np.int32(shape & _C1) << _C1))
            sy = np.int32(stride - np.int32(np.int32(shape & _C2) * stride))
            steep = (shape & _C4) != 0
            along = sy if steep else sx
            aside = sx if steep else sy
            r0[t] = _pixel(base, np.int32(min(done, long)), along, slope, aside)
            r1[t] = _pixel(base, np.int32(min(np.int32(done + _C1), long)), along, slope, aside)
            r2[t] = _pixel(base, np.int32(min(np.int32(done + _C2), long)), along, slope, aside)
            r3[t] = _pixel(base, np.int32(min(np.int32(done + _C3), long)), along, slope, aside)
        for t in range(count):
            flat[np.uint32(r0[t])] = grey
            flat[np.uint32(r1[t])] = grey
            flat[np.uint32(r2[t])] = grey
            flat[np.uint32(r3[t])] = grey
        done = np.int32(done + _C4)
        longer = np.int64(0)
        for t in range(count):
            packed[longer] = packed[t]
            longer += np.int64(lengths[t] > done)
        count = longer
