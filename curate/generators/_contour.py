"""Radial contours: closed orbits that grow outwards around a centre, the one kernel behind VisualAtom and its relatives.

An atom is K orbits of V vertices. Orbit by orbit every vertex moves along its own angle by a step of offset, noise and two waves, and the
closed polygon is drawn in one grey level over what is there (arXiv 2303.01112; the released script's rules, in integers here). Formats:
positions, radii, steps and noise in Q16, sines and cosines in Q30, all shifts downwards; docs/indexed-stream.md defines every step.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from curate.generators._contour_kernel import SPARE, draw_atom, segment_table
from curate.generators._noise import quantiles
from curate.generators._random import MASK64
from curate.generators._trig import tables

LIMIT_Q16 = 32_000 << 16  # no vertex may come further from the origin than so many pixels


class ContourPainter:
    """Draws atoms into a square grey picture of its own; one a process and thread. What was drawn before never matters."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._flat = np.zeros(size * size + SPARE, dtype=np.uint8)
        self.pixels: npt.NDArray[np.uint8] = self._flat[: size * size].reshape(size, size)
        self.first: npt.NDArray[np.int32] = np.zeros((0, 2), dtype=np.int32)
        self.last: npt.NDArray[np.int32] = np.zeros((0, 2), dtype=np.int32)
        self._table = segment_table(size)
        self._noise = quantiles()
        self._work = np.zeros((9, 0), dtype=np.int32)

    def clear(self, value: int) -> None:
        """Sets every pixel to `value`, 0 to 255."""
        self.pixels.fill(value)

    def draw(
        self,
        *,
        vertices: int,
        orbits: int,
        p_q16: int,
        w_q16: int,
        radius_q16: int,
        oval_x_q16: int,
        oval_y_q16: int,
        n1: int,
        n2: int,
        centre_x_q16: int,
        centre_y_q16: int,
        key: int,
        noise_factor: int = 1,
        grey_max: int = 255,
        grey: int | None = None,
        window: tuple[int, int, int, int] | None = None,
        outline: bool = False,
    ) -> None:
        """Draws one atom of `orbits` closed polygons of `vertices` corners over what is there.

        The step of a vertex is w + p (1 - noise_factor e) + sin(n1 a) / 2 + sin(n2 a) / 2, a its angle, e a draw of the noise; x and y
        have draws of their own. `key` (64 bits) decides the draws and the grey levels: uniform 0..grey_max (at most 65,535), what is
        above 255 drawn as 255; `grey` fixes the level of all orbits. `window` (top, left, height, width) is where pixels are wanted:
        inside they are as without it, outside some may be left out. With `outline`, `first` and `last` are (V, 2) int32 arrays of
        x, y in Q16 afterwards: the ellipse that the atom starts from (which is not drawn) and the last orbit; good until the next call.

        Nothing is checked for range: see `reach_q16`, which a generator checks its parameters with.
        """
        if self._work.shape[1] <= vertices:
            self._work = np.zeros((9, (vertices // 64 + 1) * 64), dtype=np.int32)
        cosines, sines = tables(vertices)
        half_x, half_y = (radius_q16 * oval_x_q16) >> 16, (radius_q16 * oval_y_q16) >> 16
        top, left, height, width = window or (0, 0, self.size, self.size)
        draw_atom(
            self._flat,
            self.size,
            self._work,
            self._table,
            self._noise,
            cosines,
            sines,
            vertices,
            orbits,
            p_q16,
            w_q16,
            half_x,
            half_y,
            n1 % vertices,
            n2 % vertices,
            centre_x_q16,
            centre_y_q16,
            np.uint64(key & MASK64),
            noise_factor,
            grey_max,
            -1 if grey is None else grey,
            max(top, 0),
            max(left, 0),
            min(top + height, self.size),
            min(left + width, self.size),
        )
        if outline:
            x = centre_x_q16 + ((half_x * cosines.astype(np.int64)) >> 30)
            y = centre_y_q16 + ((half_y * sines.astype(np.int64)) >> 30)
            self.first = np.stack([x, y], axis=1).astype(np.int32)
            self.last = np.ascontiguousarray(self._work[:2, :vertices].T)


def reach_q16(
    *, orbits: int, p_q16: int, w_q16: int, radius_q16: int, oval_q16: int, noise_factor: int = 1
) -> int:
    """How far from its centre an atom can come at most, in Q16: with the centre's own distance it must stay below LIMIT_Q16."""
    step = w_q16 + p_q16 * (1 + noise_factor) + (1 << 16)
    return ((radius_q16 * oval_q16) >> 16) + orbits * step
