"""The eight EXIF orientations as maps of points: from the picture as stored to the picture as shown, and back.

Points are continuous, their origin the top left corner of the first pixel, so a picture's far edge is its width (not width - 1):

    1  x, y           stored upright              5  y, x           transposed
    2  W - x, y       mirrored left to right      6  H - y, x       shown a quarter turn clockwise
    3  W - x, H - y   upside down                 7  H - y, W - x   transposed along the other diagonal
    4  x, H - y       mirrored top to bottom      8  y, W - x       shown a quarter turn anticlockwise

W, H are the width and height as stored (EXIF 2.32, tag 0x0112; CIPA DC-008). `W - x` rounds for most x of more than half a picture's bits,
so there and back again may differ in the last bit; who needs the very same number keeps it (as `labelme` does).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float64]

ORIENTATIONS = range(1, 9)
# orientation -> (axes swapped, first shown coordinate runs backwards, second runs backwards)
_TURNS = {
    1: (False, False, False),
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, True, False),
    7: (True, True, True),
    8: (True, False, True),
}


def shown_size(orientation: int, width: int, height: int) -> tuple[int, int]:
    """(width, height) of the shown picture from those of the stored one; the same map leads back."""
    return (height, width) if _TURNS[orientation][0] else (width, height)


def to_shown(points: Points, orientation: int, width: int, height: int) -> Points:
    """Points (n, 2) of the stored picture (`width`, `height`) where the shown picture has them."""
    swapped, *backwards = _TURNS[orientation]
    out = np.array(points, np.float64).reshape(-1, 2)
    out = out[:, ::-1].copy() if swapped else out
    for axis, side in enumerate(shown_size(orientation, width, height)):
        if backwards[axis]:
            out[:, axis] = side - out[:, axis]
    return out


def to_stored(points: Points, orientation: int, width: int, height: int) -> Points:
    """Points (n, 2) of the shown picture where the stored one (`width`, `height`) has them."""
    swapped, *backwards = _TURNS[orientation]
    out = np.array(points, np.float64).reshape(-1, 2)
    for axis, side in enumerate(shown_size(orientation, width, height)):
        if backwards[axis]:
            out[:, axis] = side - out[:, axis]
    return out[:, ::-1].copy() if swapped else out


def turn_pixels(pixels: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """A stored picture (height, width, …) as it is shown."""
    swapped, first, second = _TURNS[orientation]
    if swapped:
        pixels = np.swapaxes(pixels, 0, 1)
    return pixels[:: -1 if second else 1, :: -1 if first else 1]


def unturn_pixels(pixels: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """A shown picture (height, width, …) as it is stored."""
    swapped, first, second = _TURNS[orientation]
    pixels = pixels[:: -1 if second else 1, :: -1 if first else 1]
    return np.swapaxes(pixels, 0, 1) if swapped else pixels
