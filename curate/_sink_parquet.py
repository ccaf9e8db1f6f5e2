"""The Parquet sink: one row a picture, the pictures as they are (PNG is compressed already), in the form that hub viewers show.

An image column is a struct of `bytes` and `path`, and the schema's metadata name it an image. Row groups are small, so that a viewer
can show one without reading more than some tens of megabytes.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from curate.sinks import BlockWriter
from headwater.files import atomic_file

if TYPE_CHECKING:
    import pyarrow as pa

ROW_GROUP = 64  # pictures at most: 3.6 MB of VisualAtom, which a writer holds several times
WAITING_BYTES = 4 << 20  # of masks and outlines: a row group ends with the picture that reaches it
NUMBER_BYTES = 40  # of a coordinate while it waits: Python's number and the list's pointer
_PLAIN = {"key": "string", "label": "int64", "category": "int32", "instance": "int32"}


def schema(annotated: bool) -> pa.Schema:
    """Columns of the file, with the viewer's description of them."""
    import pyarrow as pa

    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    fields = [("key", pa.string()), ("label", pa.int64()), ("category", pa.int32()), ("instance", pa.int32())]
    fields.append(("image", image))
    told: dict[str, Any] = {name: {"dtype": kind, "_type": "Value"} for name, kind in _PLAIN.items()}
    told["image"] = {"_type": "Image"}
    if annotated:
        thing = pa.struct(
            [
                ("category_id", pa.int32()),
                ("bbox", pa.list_(pa.float64())),
                ("area", pa.int64()),
                ("whole_area", pa.int64()),
                ("iscrowd", pa.int32()),
                ("segmentation", pa.list_(pa.list_(pa.float64()))),
                ("extra", pa.string()),
            ]
        )
        fields += [("mask", image), ("objects", pa.list_(thing))]
        told["mask"] = {"_type": "Image"}
        number, whole = {"dtype": "float64", "_type": "Value"}, {"dtype": "int64", "_type": "Value"}
        small, words = {"dtype": "int32", "_type": "Value"}, {"dtype": "string", "_type": "Value"}
        told["objects"] = [
            {
                "category_id": small,
                "bbox": [number],
                "area": whole,
                "whole_area": whole,
                "iscrowd": small,
                "segmentation": [[number]],
                "extra": words,
            }
        ]
    metadata = {"huggingface": json.dumps({"info": {"features": told}}, separators=(",", ":"))}
    return pa.schema(fields, metadata=metadata)


class ParquetWriter(BlockWriter):
    """Writes NAME.parquet."""

    def _open(self) -> None:
        import pyarrow.parquet as pq

        self._file = self._stack.enter_context(atomic_file(self.folder / f"{self.name}.parquet"))
        self._schema = schema(self.layout.annotated)
        self._rows: list[dict[str, Any]] = []
        self._held = 0
        self._writer = pq.ParquetWriter(
            self._file,
            self._schema,
            compression="none",
            use_dictionary=False,
            write_statistics=False,
            version="2.6",
        )
        self._stack.callback(self._writer.close)  # before the file, also after an error

    def _add(
        self,
        key: str,
        label: int,
        category: int,
        instance: int,
        png: bytes,
        mask: bytes,
        things: list[dict[str, Any]],
        path: str | None,
    ) -> None:
        row: dict[str, Any] = {
            "key": key,
            "label": label,
            "category": category,
            "instance": instance,
            "image": {"bytes": png, "path": f"{key}.png"},
        }
        if self.layout.annotated:
            row["mask"] = {"bytes": mask, "path": f"{key}.mask.png"}
            row["objects"] = [_object(thing) for thing in things]
            numbers = sum(len(polygon) for thing in things for polygon in thing["segmentation"])
            self._held += len(mask) + numbers * NUMBER_BYTES
        self._rows.append(row)
        if len(self._rows) == ROW_GROUP or self._held >= WAITING_BYTES:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        if self._rows:
            self._writer.write_table(
                pa.Table.from_pylist(self._rows, schema=self._schema), row_group_size=ROW_GROUP
            )
            self._rows, self._held = [], 0

    def _finish(self) -> tuple[list[str], int]:
        self._flush()
        self._writer.close()
        self._file.flush()
        return [f"{self.name}.parquet"], self._file.tell()


_KNOWN = ("category_id", "bbox", "area", "whole_area", "iscrowd", "segmentation")


def _object(thing: dict[str, Any]) -> dict[str, Any]:
    rest = {key: value for key, value in thing.items() if key not in _KNOWN}
    return {
        **{key: thing[key] for key in _KNOWN},
        "extra": json.dumps(rest, sort_keys=True) if rest else None,
    }
