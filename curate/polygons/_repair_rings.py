"""Repairs of rings: dropped, cleaned, turned round, cut at the border of the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate.polygons import _schema
from curate.polygons._geometry import LARGEST
from curate.polygons.store import Annotations, set_column

Floats = npt.NDArray[np.float64]
NO_AREA = 1e-6  # as in _check_shapes


@dataclass(frozen=True)
class Part:
    """One ring of an annotation; `exterior` is the number of its exterior among the annotation's parts."""

    ring: Floats
    hole: bool
    exterior: int


def parts_of(annotations: Annotations, row: int) -> list[Part]:
    """The rings of an annotation."""
    first, end = int(annotations.part_starts[row]), int(annotations.part_starts[row + 1])
    return [
        Part(annotations.ring(part), bool(annotations.holes[part]), int(annotations.exteriors[part]))
        for part in range(first, end)
    ]


def signed_area(ring: Floats) -> float:
    """Positive where the ring runs clockwise as seen (y down); taken about the first vertex."""
    if len(ring) < 3:
        return 0.0
    a = ring - ring[0]
    b = np.roll(a, -1, axis=0)
    return float(0.5 * np.sum(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]))


def without_repeats(ring: Floats) -> Floats:
    """The ring without vertices equal to the one before them, the first included."""
    return ring[(ring != np.roll(ring, 1, axis=0)).any(axis=1)] if len(ring) > 1 else ring


def is_ring(ring: Floats, crossing: bool = False) -> bool:
    """Whether a ring can be measured and encloses something; one that crosses itself does, whatever its area comes to."""
    if not (np.abs(ring) <= LARGEST).all():  # false for NaN
        return False
    return len(without_repeats(ring)) >= 3 and (crossing or abs(signed_area(ring)) > NO_AREA)


def cut(ring: Floats, width: float, height: float) -> Floats:
    """The part of a ring within [0, width] x [0, height] (Sutherland and Hodgman 1974).

    Where a ring comes back in elsewhere, the pieces stay joined by edges along the border.
    """
    points = [(float(x), float(y)) for x, y in ring]
    for axis, limit, keep_below in ((0, 0.0, False), (0, width, True), (1, 0.0, False), (1, height, True)):
        found: list[tuple[float, float]] = []
        for (ax, ay), (bx, by) in zip(points[-1:] + points[:-1], points, strict=True):
            a, b = (ax, bx) if axis == 0 else (ay, by)
            a_in, b_in = (a <= limit, b <= limit) if keep_below else (a >= limit, b >= limit)
            if a_in != b_in:
                share = (limit - a) / (b - a)
                if axis == 0:
                    found.append((limit, ay + share * (by - ay)))
                else:
                    found.append((ax + share * (bx - ax), limit))
            if b_in:
                found.append((bx, by))
        points = found
        if not points:
            break
    return without_repeats(np.array(points, np.float64).reshape(-1, 2))


def keep(parts: Sequence[Part], wanted: Sequence[bool]) -> list[Part]:
    """The wanted parts with their exteriors renumbered; a hole goes with its exterior."""
    stays = [wanted[number] and wanted[part.exterior] for number, part in enumerate(parts)]
    places = np.cumsum(stays) - 1
    return [
        Part(part.ring, part.hole, int(places[part.exterior]))
        for part, stay in zip(parts, stays, strict=True)
        if stay
    ]


def with_parts(annotations: Annotations, changed: dict[int, list[Part]]) -> Annotations:
    """The dataset with other rings for some rows."""
    if not changed:
        return annotations
    xs: list[Floats] = []
    ys: list[Floats] = []
    lengths: list[npt.NDArray[np.int64]] = []
    holes: list[npt.NDArray[np.bool_]] = []
    exteriors: list[npt.NDArray[np.int32]] = []
    counts = np.diff(annotations.part_starts)
    all_lengths = np.diff(annotations.vertex_starts)

    def unchanged(first: int, end: int) -> None:
        parts = slice(int(annotations.part_starts[first]), int(annotations.part_starts[end]))
        span = slice(int(annotations.vertex_starts[parts.start]), int(annotations.vertex_starts[parts.stop]))
        xs.append(annotations.x[span])
        ys.append(annotations.y[span])
        lengths.append(all_lengths[parts])
        holes.append(annotations.holes[parts])
        exteriors.append(annotations.exteriors[parts])

    done = 0
    for row in sorted(changed):
        unchanged(done, row)
        parts = changed[row]
        counts[row] = len(parts)
        xs.extend(part.ring[:, 0] for part in parts)
        ys.extend(part.ring[:, 1] for part in parts)
        lengths.append(np.array([len(part.ring) for part in parts], np.int64))
        holes.append(np.array([part.hole for part in parts], bool))
        exteriors.append(np.array([part.exterior for part in parts], np.int32))
        done = row + 1
    unchanged(done, len(counts))
    sizes = np.concatenate(lengths)
    return annotations.replace(
        annotations=set_column(annotations.annotations, "first_part", np.cumsum(counts) - counts),
        parts=_schema.table(
            _schema.PARTS,
            first_vertex=np.cumsum(sizes) - sizes,
            hole=pa.array(np.concatenate(holes)),
            exterior=np.concatenate(exteriors),
        ),
        vertices=_schema.table(_schema.VERTICES, x=np.concatenate(xs), y=np.concatenate(ys)),
    )
