"""The marginal of the reference's noise as a table: what is left of gradient noise when it is read at independent random points.

The released script reads `pnoise1` at uniform points of 0..10000, so an orbit has no smoothness and only the distribution matters. Here
that distribution is worked out in integers: 256 points in each of the 256 lattice cells (cells 0..15 come up 40 times in 10,000, the
others 39 times), sorted by value; entry q is the value below which a share (q + 1/2) / ENTRIES of the weight lies, in Q16.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

# Gradients of the 256 lattice points, from the low four bits h (a hexadecimal digit each) of Perlin's permutation ("Improving Noise",
# 2002; one entry as in the package noise 1.2.2): (h and 7) + 1, or -1 where bit 3 is set.
_LOW_BITS = (
    "709baf3d9f052971c47e5e83505a7e6478ab0a5eecbb53b09118d587e4d8b84f"
    "a576b0b6d2e73f5ac356c9c97e5846f619f118091c4b092984724cf644d6da30"
    "492acb5a636ef254feb3f0a16dcaf7a57882ca36d95b7bc9167d32cef1082908"
    "a614b221e20cf321131b9efb106f57ad84c0392df46eacdde23d883d03e27dc4"
)
GRADIENTS = tuple(-1 if h & 8 else (h & 7) + 1 for h in (int(digit, 16) for digit in _LOW_BITS))

ENTRIES = 4096
_POINTS = 256  # in a cell, at (2 j + 1) / 512
_SPAN = 10_000  # the script's range of arguments


@functools.cache
def quantiles() -> npt.NDArray[np.int32]:
    """(ENTRIES,) int32: the noise's quantiles, rising, in Q16 (about -0.95 to 0.95); not writable."""
    gradient = np.array(GRADIENTS, dtype=np.int64)
    t = 2 * np.arange(_POINTS, dtype=np.int64) + 1  # in 1/512
    one = 2 * _POINTS
    fade = t**3 * (6 * t * t - 15 * one * t + 10 * one * one)  # in 1/512**5 = 1/2**45
    left = gradient[:, None] * t
    right = np.roll(gradient, -1)[:, None] * (t - one)
    value = (left << 45) + fade * (right - left)  # in 1/2**54
    cells = np.arange(256)
    weight = np.repeat((_SPAN - 1 - cells) // 256 + 1, _POINTS)
    flat = value.ravel()
    order = np.argsort(flat, kind="stable")
    below = np.cumsum(weight[order])
    # first entry of the sorted values whose cumulated weight exceeds (2 q + 1) / (2 ENTRIES) of the whole
    wanted = (2 * np.arange(ENTRIES, dtype=np.int64) + 1) * int(below[-1])
    at = np.searchsorted(2 * ENTRIES * below, wanted, side="right")
    chosen = flat[order][at]
    # times 0.4, to Q16, to the nearest: value / 2**54 * 2/5 * 2**16, computed as (value / 2**8) * 2 / (5 * 2**30)
    scaled = 2 * (chosen >> 8)
    table: npt.NDArray[np.int32] = ((2 * scaled + 5 * (1 << 30)) // (10 * (1 << 30))).astype(np.int32)
    table.setflags(write=False)
    return table
