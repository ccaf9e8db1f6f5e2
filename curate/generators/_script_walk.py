"""A place in the released script's sequence of random numbers: walking on from it, drawing from it, and its mark.

A mark is the Twister's state before the numbers of a picture, with that picture's category and centre, which were drawn before.
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from curate.generators._extra import need_numba
from headwater.errors import IntegrityError

if TYPE_CHECKING:
    from curate.generators._script import ScriptStream

Record = dict[str, Any]

_MARK = struct.Struct("<4s16sqHqqqqqqdddd")  # then 624 words
_MAGIC = b"HWS1"
_WORDS = 624
_SPAN_P, _SPAN_R = 4, 50  # perlin is drawn from [m, m + 4], radius from r..r + 50


class Walk:
    """A place in the sequence: before the numbers of picture `picture`, whose category and centre are drawn."""

    def __init__(self, stream: ScriptStream) -> None:
        self._begin(stream)
        self._mt, self._at = self._twister.seeded(stream.index + 1), _WORDS
        self.picture = 0
        self._draw_category()
        self._draw_centre()

    def _begin(self, stream: ScriptStream) -> None:
        need_numba()
        from curate.generators import _script_kernel, _twister

        self._kernel, self._twister = _script_kernel, _twister
        self._stream, self._config = stream, stream.config
        self._tables: Tables | None = None
        self._centre_bound = 2 * stream.config.start_pos + 1

    @classmethod
    def resumed(cls, stream: ScriptStream, mark: bytes) -> Walk:
        """The place of a mark of `stream`."""
        if len(mark) != _MARK.size + 4 * _WORDS or mark[:4] != _MAGIC:
            raise IntegrityError("a mark of the reference stream is damaged")
        self = cls.__new__(cls)
        self._begin(stream)
        head = _MARK.unpack_from(mark)
        if head[1] != stream.digest:
            raise IntegrityError(
                "a mark belongs to other parameters, instances or process index than this stream's"
            )
        self.picture, self._at = head[2:4]
        vertices, orbits, radius, nami_1, nami_2, both, perlin, line_width, oval_x, oval_y = head[4:]
        self._row, self._column = divmod(both, self._centre_bound)
        self._mt = np.frombuffer(mark, "<u4", offset=_MARK.size).astype(np.uint32)
        if not (0 <= self.picture < stream.pictures and 0 <= self._at <= _WORDS and vertices > 0):
            raise IntegrityError("a mark of the reference stream is damaged")
        self._set(vertices, orbits, perlin, line_width, radius, nami_1, nami_2, oval_x, oval_y)
        return self

    def mark(self) -> bytes:
        r = self.record
        both = self._row * self._centre_bound + self._column
        head = _MARK.pack(
            _MAGIC, self._stream.digest, self.picture, self._at,
            r["vertex_num"], r["line_num"], r["radius"], r["nami_1"], r["nami_2"], both,
            r["perlin"], r["line_width"], r["oval_x"], r["oval_y"],
        )  # fmt: skip
        words: bytes = self._mt.astype("<u4").tobytes()
        return head + words

    def centre(self) -> dict[str, float]:
        """Centre of the picture, pixels: the row goes with y and the sine."""
        size, spread = self._config.image_size, self._config.start_pos
        return {
            "centre_h": (size + (self._row - spread)) / 2,
            "centre_w": (size + (self._column - spread)) / 2,
        }

    def to(self, picture: int) -> Walk:
        """Walk on, without drawing, until right before `picture`."""
        bound = self._centre_bound
        while self.picture < picture:
            left = self._stream.instances - self.picture % self._stream.instances
            count = min(left, picture - self.picture)
            self._at, self._row, self._column = self._kernel.skip_pictures(
                self._mt,
                self._at,
                self.record["vertex_num"],
                self.record["line_num"],
                count,
                bound,
                bound.bit_length(),
            )
            self.picture += count
            self._next_category()
        return self

    def draw(self, pixels: npt.NDArray[np.uint8]) -> None:
        """Draw the picture; then `after_picture` must follow."""
        if self._tables is None:
            self._tables = Tables(self.record)
        t, centre = self._tables, self.centre()
        xs, ys = t.start_x + centre["centre_w"], t.start_y + centre["centre_h"]
        self._at = self._kernel.draw_picture(
            self._mt, self._at, self.record["line_num"], self.record["perlin"], self.record["line_width"],
            xs, ys, t.cos, t.sin, t.wave_1, t.wave_2, t.cells, pixels, t.words, t.noise, t.scratch, t.values, t.corners, *t.lines,
        )  # fmt: skip

    def after_picture(self) -> None:
        """The draws after a picture: the next centre, and the next category after the last instance."""
        self._draw_centre()
        self.picture += 1
        self._next_category()

    def _next_category(self) -> None:
        if self.picture % self._stream.instances == 0 and self.picture < self._stream.pictures:
            self._draw_category()
            self._draw_centre()

    def _draw_centre(self) -> None:
        self._row = self._integer(0, self._centre_bound - 1)
        self._column = self._integer(0, self._centre_bound - 1)

    def _draw_category(self) -> None:
        c = self._config
        vertices = self._integer(c.vertex_num_min, c.vertex_num_max)
        orbits = self._integer(c.line_num_min, c.line_num_max)
        perlin = self._uniform(c.perlin_min, c.perlin_min + _SPAN_P)
        line_width = self._uniform(0, c.line_width)
        radius = self._integer(c.radius_min, c.radius_min + _SPAN_R)
        nami_1 = self._integer(c.nami_1_min, c.nami_1_max)
        nami_2 = self._integer(c.nami_2_min, c.nami_2_max)
        while nami_1 == nami_2 != 0:
            nami_2 = self._integer(c.nami_2_min, c.nami_2_max)
        oval_x, oval_y = self._uniform(1, c.oval_rate), self._uniform(1, c.oval_rate)
        self._set(vertices, orbits, perlin, line_width, radius, nami_1, nami_2, oval_x, oval_y)

    def _set(
        self, vertices: int, orbits: int, perlin: float, line_width: float, radius: int, *rest: Any
    ) -> None:
        names = (
            "vertex_num",
            "line_num",
            "perlin",
            "line_width",
            "radius",
            "nami_1",
            "nami_2",
            "oval_x",
            "oval_y",
        )
        values = (vertices, orbits, perlin, line_width, radius, *rest)
        category = self._stream.first_category + self.picture // self._stream.instances
        self.record: Record = dict(zip(names, values, strict=True))
        self.record |= {"category": category, "label": self._stream.start_class + category}
        self._tables = None

    def _integer(self, low: int, high: int) -> int:
        bound = high - low + 1
        found, self._at = self._twister.below(self._mt, self._at, bound, bound.bit_length())
        return low + int(found)

    def _uniform(self, low: float, high: float) -> float:
        found, self._at = self._twister.random(self._mt, self._at)
        return low + (high - low) * float(found)


class Tables:
    """What is the same for all pictures of a category, computed as Python's interpreter does, and buffers of its size."""

    def __init__(self, record: Record) -> None:
        from curate.generators._gradient import CELLS
        from curate.generators._lines import lines_scratch

        vertices = record["vertex_num"]
        angle = 2 * math.pi / vertices
        angles = [angle * v for v in range(vertices)]
        self.cos, self.sin = np.array([math.cos(a) for a in angles]), np.array([math.sin(a) for a in angles])
        self.wave_1 = np.array([0.5 * math.sin(a * record["nami_1"]) for a in angles])
        self.wave_2 = np.array([0.5 * math.sin(a * record["nami_2"]) for a in angles])
        self.start_x = record["radius"] * record["oval_x"] * self.cos
        self.start_y = record["radius"] * record["oval_y"] * self.sin
        self.cells = CELLS
        self.words = np.empty(4 * vertices, np.uint32)
        self.noise, self.scratch = np.empty(2 * vertices, np.float32), np.empty(2 * vertices, np.int32)
        self.values = np.empty(vertices, np.float64)
        self.corners, self.lines = np.empty((2, vertices + 1), np.int32), lines_scratch(vertices)
