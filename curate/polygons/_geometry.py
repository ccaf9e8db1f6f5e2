"""Measures of all shapes of a dataset at once: areas, outlines, boxes, and which rings cross themselves or each other.

Areas, lengths and boxes are in pixels. Whether rings cross is decided without rounding (`_geometry_kernel`, `_crossing_kernel`);
coordinates nearer to 0 than 2^-200 count as 0, and those beyond 2^31 are not looked at: no image has so many pixels.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from curate.polygons._schema import Form
from curate.polygons.store import Annotations, numbers
from headwater.errors import MissingExtra

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.uint8]

LARGEST = 2.0**31


@dataclass(frozen=True)
class Measures:
    """Arrays over the parts, the annotations (rows) and the rows that were searched for crossings."""

    part_flags: Flags  # (parts,) NOT_FINITE, HUGE, REPEATED of _geometry_kernel
    part_areas: Floats  # (parts,) signed; positive where a ring runs clockwise as seen
    part_boxes: Floats  # (parts, 4) x0, y0, x1, y1; NaN for rings without vertices or not measured
    part_repeats: Ints  # (parts,) vertices equal to the one before them, in the round
    areas: (
        Floats  # (rows,) exteriors less holes; foreground pixels of run lengths; NaN without a measured shape
    )
    lengths: Floats  # (rows,) of all outlines; 0 for run lengths
    boxes: Floats  # (rows, 4) x0, y0, x1, y1 of the exteriors; NaN where there is none
    faults: Flags  # (rows,) bits of _crossing_kernel; 0 for run lengths and SHAPEs
    contacts: Ints  # (rows, 2) vertices at which the two edges of a self-contact begin; -1 without one
    rle_totals: Ints  # (rows,) sum of the run lengths; -1 for annotations without
    rle_whole: npt.NDArray[np.bool_]  # (rows,) the bytes of the run lengths can be read


def need_numba() -> None:
    """Raises MissingExtra where numba, which compiles the geometry, is not installed."""
    if importlib.util.find_spec("numba") is None:
        raise MissingExtra(
            "geometry of polygons needs numba, which is not installed",
            hint="pip install 'headwater[annotate]'",
        )


def measure(
    annotations: Annotations, *, steps_a_vertex: int | None = None, more_steps: int | None = None
) -> Measures:
    """All measures; the two numbers bound the search for crossings of one annotation (its vertices times the first, plus the second).

    Raises MissingExtra without numba.
    """
    need_numba()
    from curate.polygons import _crossing_kernel as crossing
    from curate.polygons import _geometry_kernel as kernel

    x, y, starts, part_starts = (
        annotations.x,
        annotations.y,
        annotations.vertex_starts,
        annotations.part_starts,
    )
    holes, exteriors = annotations.holes, annotations.exteriors
    parts, rows = len(annotations.parts), len(annotations.annotations)
    flags = np.zeros(parts, np.uint8)
    areas, lengths = np.zeros(parts), np.zeros(parts)
    boxes = np.full((parts, 4), np.nan)
    repeats = np.zeros(parts, np.int64)
    kernel.measure(x, y, starts, LARGEST, flags, areas, lengths, boxes, repeats)
    if (flags & kernel.TINY).any():
        x, y = (np.where(np.abs(axis) < kernel.LEAST, 0.0, axis) for axis in (x, y))
    shapes = numbers(annotations.annotations, "form") == Form.SHAPE
    total, outline, box = _of_rows(annotations, flags, areas, lengths, boxes)
    counts = np.diff(part_starts)
    plain = np.zeros(rows, bool)  # one ring that is surely simple
    single = np.flatnonzero(counts == 1)
    plain[single] = (flags[part_starts[single]] & kernel.STAR) != 0
    asked = np.flatnonzero((counts > 0) & ~plain & ~shapes)
    found, where = np.zeros(len(asked), np.uint8), np.full((len(asked), 2), -1, np.int64)
    crossing.crossings(
        x, y, part_starts, starts, holes, exteriors, flags, areas, asked, found, where,
        crossing.STEPS_A_VERTEX if steps_a_vertex is None else steps_a_vertex,
        crossing.STEPS if more_steps is None else more_steps,
    )  # fmt: skip
    faults, contacts = np.zeros(rows, np.uint8), np.full((rows, 2), -1, np.int64)
    faults[asked], contacts[asked] = found, where
    totals, whole = _run_lengths(annotations, total, box)
    return Measures(flags, areas, boxes, repeats, total, outline, box, faults, contacts, totals, whole)


def _of_rows(
    annotations: Annotations, flags: Flags, areas: Floats, lengths: Floats, boxes: Floats
) -> tuple[Floats, Floats, Floats]:
    """(areas, lengths of outline, boxes) of annotations, from those of their parts."""
    from curate.polygons import _geometry_kernel as kernel

    rows = len(annotations.annotations)
    owner, holes = annotations.part_rows, annotations.holes
    magnitude = np.abs(areas)
    total = np.bincount(owner, np.where(holes, -magnitude, magnitude), rows).astype(np.float64)
    outline = np.bincount(owner, lengths, rows).astype(np.float64)
    box = np.full((rows, 4), np.nan)
    outer = np.flatnonzero(~holes & ~np.isnan(boxes[:, 0]))
    if len(outer):
        first = np.flatnonzero(np.diff(owner[outer], prepend=-1))
        box[owner[outer[first]], :2] = np.minimum.reduceat(boxes[outer, :2], first)
        box[owner[outer[first]], 2:] = np.maximum.reduceat(boxes[outer, 2:], first)
    unknown = np.isnan(box[:, 0])
    unknown[owner[(flags & (kernel.NOT_FINITE | kernel.HUGE)) != 0]] = True
    total[unknown] = np.nan
    box[unknown] = np.nan
    return total, outline, box


def _run_lengths(
    annotations: Annotations, areas: Floats, boxes: Floats
) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """(sums, readable) of run lengths; writes the areas and boxes of their masks into the given arrays."""
    from curate.polygons import _geometry_kernel as kernel

    table = annotations.annotations
    totals, whole = np.full(len(table), -1, np.int64), np.ones(len(table), bool)
    column = table["rle"].chunk(0)
    rows = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))
    if not len(rows):
        return totals, whole
    _, offsets, data = column.buffers()
    ends = np.frombuffer(offsets, np.int32)[column.offset : column.offset + len(column) + 1].astype(np.int64)
    heights = table["rle_height"].chunk(0).fill_null(0).to_numpy().astype(np.int64)
    octets = np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8)
    kernel.run_lengths(octets, ends, rows, heights, totals, whole, areas, boxes)
    return totals, whole
