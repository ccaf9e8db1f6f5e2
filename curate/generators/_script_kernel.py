"""Pictures of the reference stream: the released script's arithmetic in doubles, its order of operations, Pillow's one-pixel lines.

A state is that of `_twister`: (mt, at). Everything here is a function of the state and of the category's tables.
"""

from __future__ import annotations

import numpy as np

from curate._jit import kernel
from curate.generators._gradient import gradient_noise
from curate.generators._lines import closed_lines
from curate.generators._twister import below, skip, take

GREY_BOUND, GREY_BITS = 256, 9  # randint(0, 255)
NOISE_SPAN = 10000.0  # uniform(0, 10000)


@kernel
def skip_picture(mt, at, vertices, orbits):  # type: ignore[no-untyped-def]
    """`at` after the numbers of one picture."""
    for _ in range(orbits):
        _, at = below(mt, at, GREY_BOUND, GREY_BITS)
        at = skip(mt, at, 4 * vertices)
    return at


@kernel
def skip_pictures(mt, at, vertices, orbits, count, bound, bits):  # type: ignore[no-untyped-def]
    """(at, row, column) after `count` pictures of a category, each followed by the draw of the next centre (integers below `bound`)."""
    row, column = np.int64(0), np.int64(0)
    for _ in range(count):
        at = skip_picture(mt, at, vertices, orbits)
        row, at = below(mt, at, bound, bits)
        column, at = below(mt, at, bound, bits)
    return at, row, column


@kernel
def noise_of(words, cells, noise, scratch):  # type: ignore[no-untyped-def]
    """pnoise1(uniform(0, 10000)) for each pair of `words`."""
    for i in range(noise.shape[0]):
        high = np.float64(np.int32(words[2 * i] >> np.uint32(5)))
        low = np.float64(np.int32(words[2 * i + 1] >> np.uint32(6)))
        noise[i] = np.float32(NOISE_SPAN * ((high * 67108864.0 + low) * 2.0**-53))
    gradient_noise(noise, cells, scratch)


@kernel
def step(along, noise, turn, wave1, wave2, p, w, values, corners):  # type: ignore[no-untyped-def]
    """One orbit further in one coordinate; `corners` gets it cut to integers, toward zero. Two loops: few enough arrays each to be
    shown to be apart, so that they are vectorised."""
    for v in range(values.shape[0]):
        values[v] = np.float64(noise[v]) * p - p - wave1[v] - wave2[v] - w
    for v in range(values.shape[0]):
        x = along[v] - turn[v] * values[v]
        along[v] = x
        corners[v] = np.int32(x)


@kernel
def draw_picture(mt, at, orbits, p, w, xs, ys, cos, sin, wave1, wave2, cells, pixels, words, noise, scratch, values, corners,  # type: ignore[no-untyped-def]
                 packed, rows, lengths):  # fmt: skip
    """Draw one picture on `pixels`, from the start ellipse in xs, ys; `at` after it.

    Buffers: words (4V), noise and scratch (2V), values (V), corners (2, V + 1), and those of `closed_lines`.
    """
    vertices = xs.shape[0]
    cx, cy = corners[0], corners[1]
    zero, size = np.int32(0), np.int32(pixels.shape[0])
    pixels[:] = 0
    for _ in range(orbits):
        grey, at = below(mt, at, GREY_BOUND, GREY_BITS)
        at = take(mt, at, words)
        noise_of(words, cells, noise, scratch)
        step(xs, noise[:vertices], cos, wave1, wave2, p, w, values, cx)
        step(ys, noise[vertices:], sin, wave1, wave2, p, w, values, cy)
        cx[vertices], cy[vertices] = cx[0], cy[0]
        closed_lines(pixels, cx, cy, np.uint8(grey), zero, zero, size, size, packed, rows, lengths)
    return at
