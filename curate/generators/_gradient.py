"""One-dimensional gradient noise in single precision, bit for bit `pnoise1` (one octave) of the package noise 1.2.2.

Every operation is rounded to float32 in that package's order. A lattice point's gradient follows from Perlin's permutation ("Improving
Noise", 2002): an entry h gives (h and 7) + 1, or -1 where bit 3 is set.
"""

from __future__ import annotations

import numpy as np

from curate._jit import kernel

# the low four bits of the permutation's 256 entries, a hexadecimal digit each
_LOW_BITS = (
    "709baf3d9f052971c47e5e83505a7e6478ab0a5eecbb53b09118d587e4d8b84f"
    "a576b0b6d2e73f5ac356c9c97e5846f619f118091c4b092984724cf644d6da30"
    "492acb5a636ef254feb3f0a16dcaf7a57882ca36d95b7bc9167d32cef1082908"
    "a614b221e20cf321131b9efb106f57ad84c0392df46eacdde23d883d03e27dc4"
)

_GRADIENTS = [-1 if h & 8 else (h & 7) + 1 for h in (int(digit, 16) for digit in _LOW_BITS)]

# of a cell between two lattice points: the left one's gradient in the low 16 bits, the right one's above, both signed
CELLS = np.array([(_GRADIENTS[(i + 1) & 255] << 16) | (_GRADIENTS[i] & 0xFFFF) for i in range(256)], np.int32)

_F04, _F1, _F6, _F10, _F15 = (np.float32(x) for x in (0.4, 1.0, 6.0, 10.0, 15.0))
_HALF, _LOW_8 = np.int32(16), np.int32(255)


@kernel
def gradient_noise(values, cells, scratch):  # type: ignore[no-untyped-def]
    """float32 noise in place of the float32 `values`, 0 <= x < 2**24. `cells` is CELLS, `scratch` an int32 array as long as `values`.

    Three loops, because only the middle one, the look-up, has to go one by one.
    """
    for i in range(values.shape[0]):
        x = values[i]
        cell = np.int32(x)
        values[i] = x - np.float32(cell)
        scratch[i] = np.int32(cell & _LOW_8)
    for i in range(values.shape[0]):
        scratch[i] = cells[np.uint32(scratch[i])]
    for i in range(values.shape[0]):
        x, both = values[i], scratch[i]
        fade = x * x * x * (x * (x * _F6 - _F15) + _F10)
        left = np.float32(np.int32(np.int32(both << _HALF) >> _HALF)) * x
        right = np.float32(np.int32(both >> _HALF)) * (x - _F1)
        values[i] = (left + fade * (right - left)) * _F04
