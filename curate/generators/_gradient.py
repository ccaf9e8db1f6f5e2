"""One-dimensional gradient noise in single precision, bit for bit `pnoise1` (one octave) of the package noise 1.2.2.

Every operation is rounded to float32 in that package's order. The gradients of the lattice points are those of `_noise`.
"""

from __future__ import annotations

import numpy as np

from curate._jit import kernel
from curate.generators._noise import GRADIENTS

# of a cell between two lattice points: the left one's gradient in the low 16 bits, the right one's above, both signed
CELLS = np.array([(GRADIENTS[(i + 1) & 255] << 16) | (GRADIENTS[i] & 0xFFFF) for i in range(256)], np.int32)

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
