"""Edits of single fields, gathered and then written into a new dataset in one go."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curate.polygons._field_rules import ANNOTATION, IMAGE
from curate.polygons._findings import Findings
from curate.polygons._json_strict import dump
from curate.polygons._schema import Form
from curate.polygons.store import Annotations, numbers

NULLS = {
    "images": {*IMAGE, "width", "height"},
    "annotations": {*ANNOTATION, "bbox", "area", "keypoints"},
}
CLEARED = {
    "id": "id",
    "area": "area",
    "iscrowd": "iscrowd",
    "bbox_x": "bbox",
}  # column -> key that `extra` must not have then


class Edits:
    """New values by table, column and row."""

    def __init__(self, annotations: Annotations) -> None:
        self._annotations = annotations
        self._new: dict[str, dict[str, dict[int, Any]]] = {"images": {}, "annotations": {}}
        self._form = numbers(annotations.annotations, "form")

    def set(self, column: str, row: int, value: Any, table: str = "annotations") -> None:
        """A new value; the key that stood for it among the other keys goes."""
        self._new[table].setdefault(column, {})[row] = value
        if column in CLEARED:
            self._drop(table, row, [CLEARED[column]])

    def set_box(self, row: int, box: tuple[float, float, float, float]) -> None:
        """A new box x, y, width, height."""
        for side, value in zip("xywh", box, strict=True):
            self.set(f"bbox_{side}", row, value)

    def _extra(self, table: str, row: int) -> dict[str, Any]:
        new = self._new[table].get("extra", {})
        text = new[row] if row in new else getattr(self._annotations, table)["extra"][row].as_py()
        found: dict[str, Any] = json.loads(text) if text else {}
        return found

    def _drop(self, table: str, row: int, keys: list[str]) -> None:
        extra = self._extra(table, row)
        if any(key in extra for key in keys):
            left = {key: value for key, value in extra.items() if key not in keys}
            self._new[table].setdefault("extra", {})[row] = dump(left) if left else None

    def drop_nulls(self, table: str, row: int, only: str | None = None) -> list[str]:
        """Take out the fields of kwcoco's schema that are null (or one field); which they were."""
        wanted = {only} if only else NULLS[table]
        keys = [key for key, value in self._extra(table, row).items() if value is None and key in wanted]
        self._drop(table, row, keys)
        return keys

    def as_lists(self, row: int) -> bool:
        """Write a shape of kwcoco's form in COCO's, if no hole and no other key of its polygons is lost."""
        first, end = self._annotations.part_starts[row], self._annotations.part_starts[row + 1]
        residue = self._annotations.annotations["segmentation_extra"][row].as_py()
        if self._form[row] not in (Form.KW_ONE, Form.KW_MANY) or self._annotations.holes[first:end].any():
            return False
        if residue is not None and any("keys" in entry for entry in json.loads(residue)):
            return False
        self.set("form", row, int(Form.COCO_POLYGONS))
        self.set("segmentation_extra", row, None)
        return True

    def image_sizes(self, findings: Findings) -> list[tuple[int, list[int]]]:
        """Set the sizes that findings suggest; [(row, [width, height])]."""
        found = []
        wanted = pc.is_in(findings.table["code"], pa.array(["image-size-missing", "image-size-range"]))
        for entry in findings.table.filter(wanted).to_pylist():
            size = json.loads(entry["suggested"]) if entry["suggested"] else None
            if size is not None:
                for key, value in zip(("width", "height"), size, strict=True):
                    self.set(key, entry["row"], value, "images")
                    self._drop("images", entry["row"], [key])
                found.append((entry["row"], size))
        return found

    def finish(self) -> Annotations:
        """The dataset with the new values."""
        tables = {}
        for name, columns in self._new.items():
            table = getattr(self._annotations, name)
            for column, new in columns.items():
                index = table.schema.get_field_index(column)
                field = table.schema.field(index)
                rows = np.array(sorted(new), np.int64)
                mask = np.zeros(len(table), bool)
                mask[rows] = True
                fresh = pa.array([new[row] for row in rows.tolist()], field.type)
                whole = pc.replace_with_mask(table[column].combine_chunks(), pa.array(mask), fresh)
                table = table.set_column(index, field, whole)
            tables[name] = table
        return self._annotations.replace(**tables)
