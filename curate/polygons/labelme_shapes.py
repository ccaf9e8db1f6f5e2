"""LabelMe's shapes as annotation objects of COCO's kind, and back; one image at a time, without ids.

Shapes of one label and one `group_id` are one annotation with several parts. A shape with the flag "hole" cuts a hole into the exterior
of its group that stands before it in the file (or the first, where none does). A "mask" becomes run lengths; circles, lines and other shapes
that are no ring stay points with their `shape_type`. What COCO has no key for lies under the annotation's key "labelme":

    shapes   for each part {keys: other keys of the shape, lacks: keys it did not have, points: its own where turning would round them}
    at       places of a group's shapes in the file
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import math
import struct
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from curate.polygons._json_strict import dump
from curate.polygons._rows import exact
from curate.polygons.turning import shown_size, to_shown, to_stored, unturn_pixels

Entry = dict[str, Any]
Floats = npt.NDArray[np.float64]

OURS = "headwater"  # key of a shape or sidecar: what LabelMe's own keys cannot say
FRESH: Entry = {
    "group_id": None,
    "description": "",
    "flags": {},
    "mask": None,
}  # as LabelMe 5 writes a new polygon
GEOMETRY = ("segmentation", "points", "shape_type", "bbox", "area")
MOST_MASK_PIXELS = 1 << 28


@dataclass(frozen=True)
class Frame:
    """The picture of a sidecar: its size as stored, and the turn by which LabelMe shows it; 1 where the points are as stored."""

    orientation: int
    width: int | None
    height: int | None

    @property
    def turned(self) -> bool:
        """Whether points have to be turned, which needs the size."""
        return self.orientation != 1 and self.width is not None and self.height is not None

    def stored(self, points: list[list[float]]) -> list[list[float]]:
        """Shown points as stored."""
        if not self.turned:
            return points
        found = to_stored(np.array(points, np.float64), self.orientation, self.width or 0, self.height or 0)
        return cast(list[list[float]], found.tolist())

    def shown(self, points: list[list[float]]) -> list[list[float]]:
        """Stored points as shown."""
        if not self.turned:
            return points
        found = to_shown(np.array(points, np.float64), self.orientation, self.width or 0, self.height or 0)
        return cast(list[list[float]], found.tolist())


def entries_of(shapes: list[Entry], frame: Frame) -> list[tuple[Entry, list[int]]]:
    """(annotation object with its label as "category", places of its shapes) in the order of their first shapes."""
    groups: dict[Any, list[int]] = {}
    for at, shape in enumerate(shapes):
        group = shape.get("group_id")
        together = type(group) in (int, str) and _is_ring(shape) and _named(shape)
        groups.setdefault((type(group), group, shape["label"]) if together else at, []).append(at)
    return [_entry(shapes, places, frame) for places in groups.values()]


def _entry(shapes: list[Entry], places: list[int], frame: Frame) -> tuple[Entry, list[int]]:
    own = [shapes[at] for at in places]
    entry: Entry = {}
    if _named(own[0]):
        entry["category"] = own[0]["label"]
    entry["iscrowd"] = 0
    if _is_ring(own[0]):
        places = [places[at] for at in _rings_in_order(own)]
        own = [shapes[at] for at in places]
        rings = [frame.stored(shape["points"]) for shape in own]
        entry |= _polygon(rings, [_is_hole(shape) for shape in own])
    elif pairs(own[0].get("points")):
        entry |= _figure(own[0], frame)
    records = [_record(shape, entry, frame) for shape in own]
    if len(own) > 1 or records != [{"keys": FRESH}]:
        entry["labelme"] = {"shapes": records} | ({"at": places} if len(places) > 1 else {})
    return entry, places


def changed(entry: Entry, own: list[Entry]) -> Entry:
    """`entry` with what the writer noted in its first shape; nothing about a shape that has been drawn again since."""
    notes = own[0].get(OURS)
    if not isinstance(notes, dict):
        return entry
    kept = notes.get("shape") == outline(own)
    unset, values = notes.get("unset"), notes.get("set")
    for name in unset if isinstance(unset, list) else ():
        if kept or name not in GEOMETRY:
            entry.pop(name, None)
    for name, value in values.items() if isinstance(values, dict) else ():
        if kept or name not in GEOMETRY:
            entry[name] = value
    return entry


def notes_of(plain: Entry, wanted: Entry, own: list[Entry]) -> Entry | None:
    """What `changed` needs to make `wanted` of `plain`; None where they are equal."""
    if plain == wanted:
        return None
    notes: Entry = {"shape": outline(own)}
    if gone := sorted(plain.keys() - wanted.keys()):
        notes["unset"] = gone
    if new := {key: value for key, value in wanted.items() if key not in plain or plain[key] != value}:
        notes["set"] = new
    return notes


def outline(own: list[Entry]) -> str:
    """A digest of the points of shapes: whether somebody drew since."""
    points = [
        [[float(x), float(y)] for x, y in shape["points"]] if pairs(shape.get("points")) else None
        for shape in own
    ]
    return hashlib.sha256(dump(points).encode()).hexdigest()[:16]


def pairs(points: Any) -> bool:
    """Whether a value is a list of pairs of numbers that a double holds."""
    return isinstance(points, list) and all(
        isinstance(point, list) and len(point) == 2 and exact(point[0]) and exact(point[1])
        for point in points
    )


def _named(shape: Entry) -> bool:
    return isinstance(shape.get("label"), str) and shape["label"] != ""


def _is_ring(shape: Entry) -> bool:
    return shape.get("shape_type", "polygon") == "polygon" and pairs(shape.get("points"))


def _is_hole(shape: Entry) -> bool:
    flags = shape.get("flags")
    return isinstance(flags, dict) and flags.get("hole") is True


def _rings_in_order(own: list[Entry]) -> list[int]:
    """Numbers of the shapes: each exterior, then its holes."""
    exteriors = [at for at, shape in enumerate(own) if not _is_hole(shape)]
    if not exteriors:
        return list(range(len(own)))
    holes: dict[int, list[int]] = {at: [] for at in exteriors}
    for at, shape in enumerate(own):
        if _is_hole(shape):
            before = [exterior for exterior in exteriors if exterior < at]
            holes[before[-1] if before else exteriors[0]].append(at)
    return [at for exterior in exteriors for at in (exterior, *holes[exterior])]


def _polygon(rings: list[list[list[float]]], holes: list[bool]) -> Entry:
    if all(holes):  # holes in nothing: rings of their own, the flag stays with them
        holes = [False] * len(rings)
    outer = [
        np.array(ring, np.float64).reshape(-1, 2) for ring, hole in zip(rings, holes, strict=True) if not hole
    ]
    inner = [
        np.array(ring, np.float64).reshape(-1, 2) for ring, hole in zip(rings, holes, strict=True) if hole
    ]
    measured: Entry = {}
    if sum(map(len, outer)):
        measured["bbox"] = box_of(np.concatenate(outer))
    area = sum(map(area_of, outer)) - sum(map(area_of, inner))
    if not inner:
        flat = [[value for point in ring for value in point] for ring in rings]
        return {**measured, "area": area, "segmentation": flat}
    polygons: list[Entry] = []
    for ring, hole in zip(rings, holes, strict=True):
        if hole:
            polygons[-1]["interiors"].append(ring)
        else:
            polygons.append({"exterior": ring, "interiors": []})
    return {**measured, "area": area, "segmentation": polygons if len(polygons) > 1 else polygons[0]}


def box_of(points: Floats) -> list[float]:
    """x, y, width, height around points (n, 2)."""
    low, high = points.min(axis=0), points.max(axis=0)
    return [*low.tolist(), *(high - low).tolist()]


def area_of(ring: Floats) -> float:
    """Area of a ring (n, 2), never negative."""
    if len(ring) < 3:
        return 0.0
    x, y = (ring - ring[0]).T
    return abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2


def _figure(shape: Entry, frame: Frame) -> Entry:
    """A shape that is no ring."""
    kind, points = shape.get("shape_type"), frame.stored(shape["points"])
    if kind == "mask" and (runs := _runs(shape, frame)) is not None:
        return runs
    found: Entry = {"shape_type": kind, "points": points}
    places = np.array(points, np.float64).reshape(-1, 2)
    if kind == "circle" and len(places) == 2:
        radius = math.dist(points[0], points[1])
        found["bbox"] = [*(places[0] - radius).tolist(), 2 * radius, 2 * radius]
        found["area"] = math.pi * radius * radius
    elif len(places):
        found["bbox"] = box_of(places)
        if kind == "rectangle" and len(places) == 2:
            found["area"] = found["bbox"][2] * found["bbox"][3]
    return found


def _record(shape: Entry, entry: Entry, frame: Frame) -> Entry:
    """What of a shape the annotation's own keys do not say."""
    keys = {key: value for key, value in shape.items() if key not in ("label", "points", "shape_type", OURS)}
    record: Entry = {"keys": keys}
    if "label" in shape and "category" not in entry:
        keys["label"] = shape["label"]
    lacks = [key for key in ("label", "points", "shape_type") if key not in shape]
    if lacks:
        record["lacks"] = lacks
    shown_kind = "mask" if is_runs(entry) else "polygon"
    if (
        "shape_type" in shape
        and shape["shape_type"] != shown_kind
        and entry.get("shape_type", shown_kind) == shown_kind
    ):
        keys["shape_type"] = shape["shape_type"]
    points: Any = shape.get("points")
    if "points" in shape and (
        not pairs(points) or is_runs(entry) or frame.shown(frame.stored(points)) != points
    ):
        record["points"] = points
    return record


def is_runs(entry: Entry) -> bool:
    """Whether an annotation object has run lengths."""
    segmentation = entry.get("segmentation")
    return isinstance(segmentation, dict) and "counts" in segmentation


def _runs(shape: Entry, frame: Frame) -> Entry | None:
    """A LabelMe mask (a PNG laid at its first point) as run lengths of the stored picture; None where it does not fit into it."""
    from PIL import Image

    width, height, text = frame.width, frame.height, shape.get("mask")
    if width is None or height is None or not isinstance(text, str) or len(shape["points"]) != 2:
        return None
    if width * height > MOST_MASK_PIXELS:
        return None
    try:
        with Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=["PNG"]) as image:
            across, down = image.size
            wide, high = shown_size(frame.orientation, width, height)
            left, top = (int(value) for value in shape["points"][0])
            if [left, top] != shape["points"][0] or not (
                0 <= left <= wide - across and 0 <= top <= high - down
            ):
                return None
            pixels = np.asarray(image.convert("L")) > 0
    except (
        OSError,
        ValueError,
        SyntaxError,
        binascii.Error,
        OverflowError,
        struct.error,
        Image.DecompressionBombError,
    ):
        return None
    canvas = np.zeros((high, wide), bool)
    canvas[top : top + down, left : left + across] = pixels
    stored = unturn_pixels(canvas, frame.orientation)
    counts = counts_of_mask(stored)
    rows, columns = np.flatnonzero(stored.any(axis=1)), np.flatnonzero(stored.any(axis=0))
    box = [0.0] * 4
    if len(rows):
        x, y = float(columns[0]), float(rows[0])
        box = [x, y, float(columns[-1]) + 1 - x, float(rows[-1]) + 1 - y]
    return {
        "bbox": box,
        "area": float(stored.sum()),
        "segmentation": {"size": [height, width], "counts": counts.tolist()},
    }


def counts_of_mask(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """COCO's run lengths of a mask (height, width): down the columns, zeros first."""
    flat = np.ascontiguousarray(mask.T).ravel()
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff(np.concatenate(([0], edges, [len(flat)])))
    return np.concatenate(([0], counts)) if len(flat) and flat[0] else counts


def mask_of_counts(counts: list[int], height: int, width: int) -> npt.NDArray[np.bool_] | None:
    """The mask (height, width) of run lengths; None where they do not fit or are too many pixels."""
    if not 0 < height * width <= MOST_MASK_PIXELS or sum(counts) != height * width:
        return None
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape(width, height).T
