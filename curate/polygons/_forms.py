"""From COCO's way to write a shape to kwcoco's and back, without touching a coordinate.

COCO's lists know no holes. `keyhole` writes a polygon with holes as one ring: the exterior, back to its first vertex, over to the first
hole, around it against the exterior's sense, back over the same line, and so on. The two ways over the line cancel out, so that area and
mask are those of the polygon with its holes. The key "keyholes" keeps how the rings were joined, and `unlock` takes them apart again.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate.polygons import _schema
from curate.polygons._json_strict import dump, loads
from curate.polygons.store import Annotations, Floats, Form, set_column
from headwater.errors import BadInputs, UsageError

KEY = "keyholes"
HOLES = ("refuse", "keyhole")
LISTED = 10  # ids in a message


def to_kwcoco_shapes(annotations: Annotations) -> Annotations:
    """COCO's polygon lists as lists of objects with exterior and interiors (none)."""
    forms = annotations.forms
    some = np.diff(annotations.part_starts) > 0
    return _with_forms(annotations, np.where((forms == Form.COCO_POLYGONS) & some, Form.KW_MANY, forms))


def to_coco_shapes(annotations: Annotations, holes: str = "refuse") -> Annotations:
    """kwcoco's polygons as COCO's lists; `holes` says what becomes of holes: "refuse" or "keyhole".

    Raises BadInputs naming the annotations that have holes (with "refuse") or polygons with keys of their own.
    """
    if holes not in HOLES:
        raise UsageError(f"unknown way to write holes {holes!r}", hint=f"known: {', '.join(HOLES)}")
    forms = annotations.forms
    wanted = np.isin(forms, (Form.KW_ONE, Form.KW_MANY))
    residue = annotations.annotations["segmentation_extra"].chunk(0)
    keyed = [row for row in np.flatnonzero(wanted) if _has_keys(residue[int(row)].as_py())]
    if keyed:
        raise BadInputs(
            f"polygons with keys of their own have no place in COCO's lists: {_named(annotations, keyed)}"
        )
    holed = np.zeros(len(forms), bool)
    holed[annotations.part_rows[annotations.holes]] = True
    holed &= wanted
    if holed.any() and holes == "refuse":
        raise BadInputs(
            f"COCO's lists know no holes: {_named(annotations, np.flatnonzero(holed).tolist())}",
            hint="write kwcoco, or join the rings: holes=keyhole",
        )
    plain = np.array(
        [None if want else text for want, text in zip(wanted, residue.to_pylist(), strict=True)], object
    )
    found = _with_forms(annotations, np.where(wanted, Form.COCO_POLYGONS, forms))
    found = found.replace(annotations=set_column(found.annotations, "segmentation_extra", plain))
    return _joined(found, holed) if holed.any() else found


def unlock(annotations: Annotations) -> Annotations:
    """Take apart what `to_coco_shapes` joined: annotations with the key "keyholes" get their holes back (as kwcoco's shape)."""
    rows: dict[int, list[list[int]]] = {}
    for row, text in enumerate(annotations.annotations["extra"].to_pylist()):
        if text and KEY in text and annotations.forms[row] == Form.COCO_POLYGONS:
            joints = loads(text.encode()).get(KEY)
            if _sound(annotations, row, joints):
                rows[row] = joints
    if not rows:
        return annotations.replace()
    rings: list[Floats] = []
    holes: list[bool] = []
    exteriors: list[int] = []
    counts = []
    for row in range(len(annotations.annotations)):
        before = len(rings)
        for place, part in enumerate(range(*annotations.part_starts[row : row + 2])):
            own = len(rings) - before
            pieces = (
                _apart(annotations.ring(part), rows[row][place]) if row in rows else [annotations.ring(part)]
            )
            hole = bool(annotations.holes[part])
            exterior = int(annotations.exteriors[part])
            rings += pieces
            holes += [hole] + [True] * (len(pieces) - 1)
            exteriors += [exterior if row not in rows else own] * len(pieces)
        counts.append(len(rings) - before)
    forms = annotations.forms.copy()
    forms[list(rows)] = Form.KW_MANY
    texts = annotations.annotations["extra"].to_pylist()
    for row in rows:
        left = {key: value for key, value in loads(texts[row].encode()).items() if key != KEY}
        texts[row] = dump(left) if left else None
    found = _rebuilt(annotations, rings, holes, exteriors, counts)
    return _with_forms(found.replace(annotations=set_column(found.annotations, "extra", texts)), forms)


def _with_forms(annotations: Annotations, forms: npt.NDArray[Any]) -> Annotations:
    return annotations.replace(annotations=set_column(annotations.annotations, "form", forms.astype(np.int8)))


def _has_keys(text: str | None) -> bool:
    return bool(text) and any(entry.get("keys") for entry in loads((text or "").encode()))


def _named(annotations: Annotations, rows: list[int]) -> str:
    ids = [annotations.annotations["id"][int(row)].as_py() for row in rows[:LISTED]]
    more = f" and {len(rows) - LISTED:,} more" if len(rows) > LISTED else ""
    return f"annotation{'s' * (len(rows) > 1)} {', '.join(map(str, ids))}{more}"


def _joined(annotations: Annotations, holed: npt.NDArray[np.bool_]) -> Annotations:
    rings: list[Floats] = []
    counts = []
    texts = annotations.annotations["extra"].to_pylist()
    for row in range(len(annotations.annotations)):
        before = len(rings)
        if not holed[row]:
            rings += [annotations.ring(part) for part in range(*annotations.part_starts[row : row + 2])]
        else:
            joints = []
            for exterior, holes in annotations.polygons_of(row):
                ring, joint = _together(exterior, holes)
                rings.append(ring)
                joints.append(joint)
            extra = loads(texts[row].encode()) if texts[row] else {}
            if KEY in extra:
                raise BadInputs(f"{_named(annotations, [row])} has a key {KEY!r} already")
            texts[row] = dump({**extra, KEY: joints})
        counts.append(len(rings) - before)
    own = np.concatenate([np.arange(count) for count in counts])
    found = _rebuilt(annotations, rings, [False] * len(rings), own.tolist(), counts)
    return found.replace(annotations=set_column(found.annotations, "extra", texts))


def _together(exterior: Floats, holes: list[Floats]) -> tuple[Floats, list[int]]:
    """(ring, [vertices of the exterior, of each hole; negative where it was turned round])."""
    joint = [len(exterior)]
    pieces = [exterior]
    sense = _area(exterior) > 0
    for hole in holes:
        turned = (_area(hole) > 0) == sense
        joint.append(-len(hole) if turned else len(hole))
        way = hole[::-1] if turned else hole
        pieces += [exterior[:1], way, way[:1]]
    if holes:
        pieces.append(exterior[:1])
    return np.concatenate(pieces), joint


def _apart(ring: Floats, joint: list[int]) -> list[Floats]:
    pieces = [ring[: joint[0]]]
    at = joint[0]
    for count in joint[1:]:
        at += min(joint[0], 1)
        hole = ring[at : at + abs(count)]
        pieces.append(hole[::-1] if count < 0 else hole)
        at += abs(count) + min(abs(count), 1)
    return pieces


def _sound(annotations: Annotations, row: int, joints: Any) -> bool:
    """Whether the record fits the rings."""
    sizes = np.diff(annotations.vertex_starts)[slice(*annotations.part_starts[row : row + 2])].tolist()
    if not isinstance(joints, list) or len(joints) != len(sizes):
        return False
    for joint, size in zip(joints, sizes, strict=True):
        if not (
            isinstance(joint, list) and joint and all(type(count) is int for count in joint) and joint[0] >= 0
        ):
            return False
        holes = [abs(count) for count in joint[1:]]
        one = min(joint[0], 1)
        if size != joint[0] + sum(count + min(count, 1) + one for count in holes) + (one if holes else 0):
            return False
    return True


def _area(ring: Floats) -> float:
    x, y = ring[:, 0], ring[:, 1]
    return float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)) / 2


def _rebuilt(
    annotations: Annotations, rings: list[Floats], holes: list[bool], exteriors: list[int], counts: list[int]
) -> Annotations:
    """The annotations with other parts: `counts` parts each."""
    sizes = np.array([len(ring) for ring in rings], np.int64)
    points = np.concatenate(rings) if rings else np.zeros((0, 2))
    first_vertex = np.concatenate(([0], np.cumsum(sizes)[:-1])) if len(sizes) else sizes
    first_part = np.concatenate(([0], np.cumsum(counts)[:-1])) if counts else np.zeros(0)
    parts = _schema.table(
        _schema.PARTS, first_vertex=first_vertex.astype(np.int64), hole=holes, exterior=exteriors
    )
    return annotations.replace(
        annotations=set_column(annotations.annotations, "first_part", pa.array(first_part.astype(np.int64))),
        parts=parts,
        vertices=_schema.table(_schema.VERTICES, x=points[:, 0].copy(), y=points[:, 1].copy()),
    )
