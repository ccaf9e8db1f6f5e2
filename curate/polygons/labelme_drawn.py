"""Annotation objects of COCO's kind as LabelMe's shapes: the way back of `labelme_shapes`.

A shape that came from LabelMe is written as it was, with the label and the points that the annotation has now. Parts of other annotations
become a group with a number of its own, holes get the flag "hole", run lengths become a mask. What cannot be drawn at all becomes a shape
without points, so that `labelme` can note the rest in it.
"""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import numpy.typing as npt

from curate.polygons._rows import exact
from curate.polygons.labelme_shapes import (
    FRESH,
    OURS,
    Entry,
    Frame,
    entries_of,
    is_runs,
    mask_of_counts,
    pairs,
)
from curate.polygons.turning import turn_pixels

WHOLE = 1 << 30
Rings = list[tuple[list[list[float]], bool]]  # points, whether a hole


def shapes_of(entries: list[Entry], frame: Frame) -> tuple[list[Entry], list[list[int]]]:
    """(shapes in the order of the file, places of each entry's shapes) of the annotations of one image."""
    records = [_records(entry) for entry in entries]
    numbers = [record["keys"].get("group_id") for found in records for record in found]
    group = max((number for number in numbers if type(number) is int and number >= 0), default=-1) + 1
    taken: set[Any] = set()
    drawn = []
    for entry, own in zip(entries, records, strict=True):
        shapes = _drawn(entry, own, frame, group)
        if not taken.isdisjoint(_groups(shapes)):  # another annotation's group: these parts get a new one
            shapes = _drawn(entry, [], frame, group)
        group += 1
        if len(entries_of(shapes, frame)) > 1:  # parts that would not be put together again
            shapes = shapes[:1]
        taken |= _groups(shapes)
        drawn.append(shapes)
    places = _places(entries, drawn)
    laid: dict[int, Entry] = {
        at: shape
        for own, where in zip(drawn, places, strict=True)
        for at, shape in zip(where, own, strict=True)
    }
    return [laid[at] for at in range(len(laid))], places


def _groups(shapes: list[Entry]) -> set[Any]:
    groups = ((shape.get("group_id"), shape.get("label")) for shape in shapes)
    return {(type(number), number, label) for number, label in groups if type(number) in (int, str)}


def _places(entries: list[Entry], drawn: list[list[Entry]]) -> list[list[int]]:
    """Groups stand where they stood, as far as these places are there and free; the others fill the rest in order."""
    total = sum(map(len, drawn))
    fixed: dict[int, list[int]] = {}
    used: set[int] = set()
    for number, (entry, own) in enumerate(zip(entries, drawn, strict=True)):
        at: Any = entry["labelme"].get("at") if isinstance(entry.get("labelme"), dict) else None
        if _usable(at, len(own), total) and used.isdisjoint(at):
            fixed[number] = at
            used.update(at)
    free = iter(place for place in range(total) if place not in used)
    return [
        fixed[number] if number in fixed else [next(free) for _ in own] for number, own in enumerate(drawn)
    ]


def _usable(at: Any, count: int, total: int) -> bool:
    sound = isinstance(at, list) and all(type(place) is int and 0 <= place < total for place in at)
    return sound and len(at) == count == len(set(at))


def _drawn(entry: Entry, records: list[Entry], frame: Frame, group: int) -> list[Entry]:
    rings = _rings(entry.get("segmentation"))
    if rings:
        return _drawn_rings(entry, rings, records, frame, group)
    if is_runs(entry) and (mask := _drawn_runs(entry, records, frame)) is not None:
        return [mask]
    record = records[0] if records else {"keys": FRESH}
    if pairs(entry.get("points")):
        return [_shape(entry, record, frame, entry["points"], entry.get("shape_type"))]
    return [_shape(entry, record, frame, [], "polygon")]


def _records(entry: Entry) -> list[Entry]:
    found = entry.get("labelme")
    records = found.get("shapes") if isinstance(found, dict) else None
    if not isinstance(records, list):
        return []
    sound = all(
        isinstance(record, dict)
        and isinstance(record.get("keys"), dict)
        and OURS not in record["keys"]
        and isinstance(record.get("lacks", []), list)
        for record in records
    )
    return records if sound else []


def _rings(segmentation: Any) -> Rings:
    """(points, whether a hole) of each ring of a segmentation object, exteriors before their holes; [] for anything else."""
    if (
        isinstance(segmentation, list)
        and segmentation
        and all(isinstance(ring, list) for ring in segmentation)
    ):
        if all(len(ring) % 2 == 0 and all(map(exact, ring)) for ring in segmentation):
            return [
                ([[x, y] for x, y in zip(ring[0::2], ring[1::2], strict=True)], False)
                for ring in segmentation
            ]
        return []
    polygons = segmentation if isinstance(segmentation, list) else [segmentation]
    rings = []
    for polygon in polygons:
        if not isinstance(polygon, dict) or "counts" in polygon or not pairs(polygon.get("exterior")):
            return []
        holes = polygon.get("interiors", [])
        if not isinstance(holes, list) or not all(map(pairs, holes)):
            return []
        rings += [(polygon["exterior"], False), *((hole, True) for hole in holes)]
    return rings


def _drawn_rings(entry: Entry, rings: Rings, records: list[Entry], frame: Frame, group: int) -> list[Entry]:
    if len(records) != len(rings):
        records = []
    drawn = []
    for number, (points, hole) in enumerate(rings):
        record: Entry = records[number] if records else {"keys": dict(FRESH)}
        if not records and len(rings) > 1:
            record["keys"]["group_id"] = group
        if not records and hole:
            record["keys"]["flags"] = {"hole": True}
        drawn.append(_shape(entry, record, frame, points, "polygon"))
    return drawn


def _shape(entry: Entry, record: Entry, frame: Frame, points: list[list[float]], kind: Any) -> Entry:
    keys, lacks = record["keys"], record.get("lacks") or []
    own = record.get("points")
    shown = frame.shown(points)
    if own is not None and (not pairs(own) or (own and frame.stored(own) == points)):
        shown = own
    shape: Entry = {}
    if "category" in entry:
        shape["label"] = entry["category"]
    elif "label" not in lacks:
        shape["label"] = ""
    if "points" not in lacks:
        shape["points"] = shown
    if "shape_type" not in lacks:
        shape["shape_type"] = kind
    shape.update(keys)
    return shape


def _drawn_runs(entry: Entry, records: list[Entry], frame: Frame) -> Entry | None:
    """A mask: LabelMe's own where it still says the same, else a new one; None for run lengths that fit nowhere."""
    segmentation: Any = entry["segmentation"]
    if len(records) == 1:
        own = _shape(entry, records[0], frame, [], "mask")
        if pairs(records[0].get("points")):
            own["points"] = records[0]["points"]
        if entries_of([own], frame)[0][0].get("segmentation") == segmentation:
            return own
    counts, size = segmentation.get("counts"), segmentation.get("size")
    if size != [frame.height, frame.width] or frame.width is None or frame.height is None:
        return None
    if isinstance(counts, str):
        from curate.polygons._rle import counts_of_string

        try:
            counts = counts_of_string(counts).tolist()
        except ValueError:
            return None
    if not isinstance(counts, list) or not all(type(count) is int and 0 <= count < WHOLE for count in counts):
        return None
    mask = mask_of_counts(counts, frame.height, frame.width)
    if mask is None or not mask.any():
        return None
    return _mask_shape(entry, mask, frame)


def _mask_shape(entry: Entry, mask: npt.NDArray[np.bool_], frame: Frame) -> Entry:
    from PIL import Image

    shown = turn_pixels(mask, frame.orientation)
    rows, columns = np.flatnonzero(shown.any(axis=1)), np.flatnonzero(shown.any(axis=0))
    top, bottom, left, right = int(rows[0]), int(rows[-1]), int(columns[0]), int(columns[-1])
    crop = np.ascontiguousarray(shown[top : bottom + 1, left : right + 1])
    packed = io.BytesIO()
    Image.fromarray(crop.astype(np.uint8) * 255).convert("1").save(packed, "PNG")
    shape: Entry = {"label": entry["category"]} if "category" in entry else {"label": ""}
    return {
        **shape,
        "points": [[float(left), float(top)], [float(right), float(bottom)]],
        "shape_type": "mask",
        **FRESH,
        "mask": base64.b64encode(packed.getvalue()).decode(),
    }
