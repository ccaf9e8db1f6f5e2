"""Repairs of what a validation found, in a new dataset; each one is listed, and what is not listed was left as it was.

Order: annotations that are dropped for their references; rings (dropped, cleaned, cut at the image, turned round); forms and fields;
boxes and areas of the rings as they are then; ids. Nothing is guessed: where the right value is not known from the dataset itself (which
image an id meant, how a self-crossing ring should run), the finding stays, and the next validation tells it again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from curate.polygons._findings import Findings
from curate.polygons._repair_fields import Edits
from curate.polygons._repair_rings import (
    Part,
    cut,
    is_ring,
    keep,
    parts_of,
    signed_area,
    with_parts,
    without_repeats,
)
from curate.polygons._schema import Form
from curate.polygons.store import Annotations, numbers, values
from headwater.errors import UsageError

__all__ = ["Repair", "fix"]

DROPPED = {
    "image-id-missing": "dropped: it belongs to no image",
    "image-dangling": "dropped: its image is not there",
    "annotation-duplicate": "dropped: it stands twice",
    "shape-outside": "dropped: nothing of it is within its image",
}
RING_CODES = (
    "coordinate-range",
    "ring-short",
    "zero-area",
    "vertex-repeated",
    "vertex-outside",
    "hole-direction",
)


@dataclass(frozen=True)
class Repair:
    """What was done about one finding. `row` is that of the dataset before."""

    code: str
    table: str
    row: int
    image_id: int | None
    annotation_id: int | None
    done: str


def fix(annotations: Annotations, findings: Findings) -> tuple[Annotations, list[Repair]]:
    """(repaired copy, what was done, in the order of the findings' codes). The given dataset is not changed.

    Raises UsageError when the findings are of another dataset, MissingExtra without numba.
    """
    for table in ("images", "annotations", "parts", "vertices"):
        if findings.checked.get(table) != len(getattr(annotations, table)):
            raise UsageError(
                f"these findings are of other annotations: they saw {findings.checked.get(table)} {table}"
            )
    work = _Work(annotations, findings)
    work.drop()
    work.rings()
    work.fields()
    work.measured()
    return work.finish()


class _Work:
    """A repair under way; rows are those of the dataset before, dropped ones go last."""

    def __init__(self, annotations: Annotations, findings: Findings) -> None:
        self.before = annotations
        self.now = annotations
        self.findings = findings
        self.gone = np.zeros(len(annotations.annotations), bool)
        self.crossing: set[int] = (
            set()
        )  # rows whose rings may enclose nothing by the count of area, and still something
        self.changed: set[int] = set()  # rows whose rings are others now
        self.done: list[Repair] = []
        self._ids = {
            "images": values(annotations.images, "id"),
            "annotations": values(annotations.annotations, "id"),
        }
        self._owners = values(annotations.annotations, "image_id")

    def tell(self, code: str, row: int, done: str, table: str = "annotations") -> None:
        ids, known = self._ids[table]
        own = int(ids[row]) if known[row] else None
        owner = (
            (int(self._owners[0][row]) if self._owners[1][row] else None) if table == "annotations" else own
        )
        self.done.append(Repair(code, table, row, owner, own if table == "annotations" else None, done))

    def rows(self, *codes: str) -> list[int]:
        """Rows of annotations with one of these findings that are still there."""
        return [row for row in self.findings.rows(*codes).tolist() if not self.gone[row]]

    def drop(self) -> None:
        for code, done in DROPPED.items():
            for row in self.rows(code):
                self.gone[row] = True
                self.tell(code, row, done)

    def rings(self) -> None:
        form = numbers(self.before.annotations, "form")
        asked = {code: set(self.rows(code)) for code in RING_CODES}
        image = self.before.image_rows
        width, height = (values(self.before.images, key)[0] for key in ("width", "height"))
        self.crossing = set(self.rows("self-crossing", "crossing-unknown"))
        fresh: dict[int, list[Part]] = {}
        for row in sorted(set().union(*asked.values())):
            if form[row] not in (Form.COCO_POLYGONS, Form.KW_ONE, Form.KW_MANY):
                continue
            parts = self._sound(row, parts_of(self.before, row), asked)
            if row in asked["vertex-outside"] and not self.gone[row]:
                size = (float(width[image[row]]), float(height[image[row]]))
                parts = [Part(cut(part.ring, *size), part.hole, part.exterior) for part in parts]
                parts = keep(parts, [is_ring(part.ring, row in self.crossing) for part in parts])
                self._unless_empty(row, parts, "vertex-outside", "cut at the border of the image")
            if row in asked["hole-direction"] and not self.gone[row]:
                parts = self._turned(row, parts)
            if not self.gone[row]:
                fresh[row] = parts
                self.changed.add(row)
        self.now = with_parts(self.now, fresh)

    def _sound(self, row: int, parts: list[Part], asked: dict[str, set[int]]) -> list[Part]:
        """The parts that are rings, without repeated vertices where those were told."""
        codes = [code for code in ("coordinate-range", "ring-short", "zero-area") if row in asked[code]]
        if codes:
            left = keep(parts, [is_ring(part.ring, row in self.crossing) for part in parts])
            dropped = len(parts) - len(left)
            self._unless_empty(row, left, codes[0], f"{dropped} of {len(parts)} rings dropped")
            parts = left
        if row in asked["vertex-repeated"] and not self.gone[row]:
            clean = [Part(without_repeats(part.ring), part.hole, part.exterior) for part in parts]
            fewer = sum(len(part.ring) for part in parts) - sum(len(part.ring) for part in clean)
            if fewer:
                self.tell("vertex-repeated", row, f"{fewer} repeated vertices taken out")
            parts = clean
        return parts

    def _unless_empty(self, row: int, parts: list[Part], code: str, done: str) -> None:
        if parts:
            self.tell(code, row, done)
        else:
            self.gone[row] = True
            self.tell(code, row, "dropped: no ring is left")

    def _turned(self, row: int, parts: list[Part]) -> list[Part]:
        def same(part: Part) -> bool:
            return part.hole and signed_area(part.ring) * signed_area(parts[part.exterior].ring) > 0

        count = sum(map(same, parts))
        if count:
            self.tell("hole-direction", row, f"{count} holes turned round")
        return [
            Part(part.ring[::-1] if same(part) else part.ring, part.hole, part.exterior) for part in parts
        ]

    def fields(self) -> None:
        edits = Edits(self.now)
        for row in self.rows("iscrowd-missing"):
            edits.set("iscrowd", row, 0)
            self.tell("iscrowd-missing", row, "iscrowd is 0")
        for table in ("images", "annotations"):
            for row in self.findings.rows("field-null", table=table).tolist():
                if table == "annotations" and self.gone[row]:
                    continue
                keys = edits.drop_nulls(table, row)
                if keys:
                    self.tell("field-null", row, f"taken out: {', '.join(keys)}", table)
        for row in self.rows("segmentation-null"):
            if edits.drop_nulls("annotations", row, only="segmentation"):
                self.tell("segmentation-null", row, "taken out: segmentation")
        for row in self.rows("segmentation-kwcoco"):
            if edits.as_lists(row):
                self.tell("segmentation-kwcoco", row, "written as COCO's lists")
        for row, size in edits.image_sizes(self.findings):
            code = (
                "image-size-missing"
                if row in self.findings.rows("image-size-missing", table="images")
                else "image-size-range"
            )
            self.tell(code, row, f"the size of its file, {size[0]} x {size[1]}", "images")
        self._new_ids(edits)
        self.now = edits.finish()

    def _new_ids(self, edits: Edits) -> None:
        codes = ("id-missing", "id-type", "id-float", "id-range", "id-negative", "id-duplicate")
        ids, known = self._ids["annotations"]
        following = max(int(ids[known].max(initial=0)), 0) + 1
        told: set[int] = set()
        for code in codes:
            for row in self.rows(code):
                if row not in told and following < 1 << 63:
                    told.add(row)
                    edits.set("id", row, following)
                    self.tell(code, row, f"the new id is {following}")
                    following += 1

    def measured(self) -> None:
        from curate.polygons._check_shapes import OUTSIDE, TANGLED, sizes_of
        from curate.polygons._geometry import measure

        boxes = {code: set(self.rows(code)) for code in BOX_CODES}
        areas = {code: set(self.rows(code)) for code in AREA_CODES}
        asked = sorted(set().union(*boxes.values(), *areas.values(), self.changed))
        if not asked:
            return
        found = measure(self.now)
        form = numbers(self.now.annotations, "form")
        width, height = sizes_of(self.now)
        edits = Edits(self.now)
        has_box, has_area = (values(self.now.annotations, key)[1] for key in ("bbox_x", "area"))
        for row in asked:
            if self.gone[row] or form[row] in (Form.NONE, Form.SHAPE) or np.isnan(found.boxes[row]).any():
                continue
            x0, y0, x1, y1 = found.boxes[row].tolist()
            inside = (
                x0 >= -OUTSIDE
                and y0 >= -OUTSIDE
                and not (x1 > width[row] + OUTSIDE or y1 > height[row] + OUTSIDE)
            )
            codes = [
                code for code, rows in boxes.items() if row in rows and (inside or code != "bbox-outside")
            ]
            if codes or (row in self.changed and has_box[row]):
                edits.set_box(row, (x0, y0, x1 - x0, y1 - y0))
            for code in codes:
                self.tell(code, row, f"the box of its shape, {x0:g}, {y0:g}, {x1 - x0:g}, {y1 - y0:g}")
            if found.faults[row] & TANGLED:
                continue  # its area is not known
            codes = [code for code, rows in areas.items() if row in rows]
            if codes or (row in self.changed and has_area[row]):
                edits.set("area", row, float(found.areas[row]))
            for code in codes:
                self.tell(code, row, f"the area of its shape, {found.areas[row]:g}")
        self.now = edits.finish()

    def finish(self) -> tuple[Annotations, list[Repair]]:
        from curate.polygons._codes import ORDER

        left: npt.NDArray[np.int64] = np.flatnonzero(~self.gone)
        whole = self.now.take_annotations(left) if self.gone.any() else self.now.replace()
        self.done.sort(key=lambda repair: (ORDER[repair.code], repair.table, repair.row))
        return whole, self.done


BOX_CODES = ("bbox-missing", "bbox-type", "bbox-range", "bbox-empty", "bbox-mismatch", "bbox-outside")
AREA_CODES = ("area-missing", "area-type", "area-range", "area-mismatch")


def as_rows(repairs: list[Repair]) -> list[dict[str, Any]]:
    """Repairs as dictionaries, empty fields left out."""
    return [{key: value for key, value in vars(repair).items() if value is not None} for repair in repairs]
