"""Parquet with the pictures inside, as hub viewers show it: one row an image, its annotations as a list of objects.

Viewers and the `datasets` library turn pictures as EXIF says, so width, height, boxes and rings are about the shown picture. The columns
`json` hold the image and annotation objects as they are in the store, about the picture as stored; with `header` in the file's metadata nothing
is lost.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curate.polygons._json_strict import dump
from curate.polygons._json_write import annotation_texts, image_texts
from curate.polygons.exports import Exported, new_folder, pictures_of, rings_of, rows_of_images
from curate.polygons.shown import as_shown
from curate.polygons.store import Annotations
from headwater.errors import UsageError
from headwater.files import FOLDER_MODE, atomic_file

GROUP_ROWS = 64  # some hundreds of megabytes of photos at most
FILE_BYTES = 512 << 20


def write_hub_parquet(
    annotations: Annotations,
    folder: Path | str,
    *,
    pictures: Path | str,
    split: str = "train",
    file_bytes: int = FILE_BYTES,
) -> Exported:
    """Write data/SPLIT-00000-of-N.parquet into a new or empty `folder`; a file is closed at `file_bytes` of pictures.

    Raises UsageError for a folder that holds something or a split name that is none, and what `as_shown` raises.
    """
    if not split or not split.replace("_", "").replace(".", "").isalnum():
        raise UsageError(f"split {split!r}: letters, digits, _ and . only")
    root, done = new_folder(folder), Exported()
    (root / "data").mkdir(mode=FOLDER_MODE)
    shown = as_shown(annotations)
    found = list(pictures_of(annotations, Path(pictures), done))
    files: list[list[tuple[int, str, Path]]] = [[]]
    total = 0
    for entry in found:
        size = entry[2].stat().st_size
        if files[-1] and total + size > file_bytes:
            files.append([])
            total = 0
        files[-1].append(entry)
        total += size
    rows = _Rows(annotations, shown, done)
    for number, entries in enumerate(files):
        name = f"data/{split}-{number:05}-of-{len(files):05}.parquet"
        with (
            atomic_file(root / name) as out,
            pq.ParquetWriter(out, rows.schema, compression="none", version="2.6") as writer,
        ):
            for start in range(0, len(entries), GROUP_ROWS):
                batch = [rows.row(*entry) for entry in entries[start : start + GROUP_ROWS]]
                writer.write_table(pa.Table.from_pylist(batch, schema=rows.schema), row_group_size=GROUP_ROWS)
        done.files.append(name)
    return done


class _Rows:
    def __init__(self, annotations: Annotations, shown: Annotations, done: Exported) -> None:
        self.shown, self.done = shown, done
        self.images = [text for texts in image_texts(annotations) for text in texts]
        self.texts = [text for texts in annotation_texts(annotations) for text in texts]
        self.of_image = rows_of_images(annotations, done)
        self.sizes = shown.images.select(["id", "width", "height"]).to_pylist()
        categories = [entry for entry in annotations.categories() if isinstance(entry.get("name"), str)]
        names = list(dict.fromkeys(entry["name"] for entry in categories))
        self.classes: dict[Any, int] = {}
        for entry in categories:
            self.classes.setdefault(entry.get("id"), names.index(entry["name"]))
        columns = ["id", "category_id", "area", "iscrowd", *(f"bbox_{side}" for side in "xywh")]
        self.objects = shown.annotations.select(columns).to_pylist()
        self.schema = schema(names, annotations.header)

    def row(self, image: int, name: str, path: Path) -> dict[str, Any]:
        objects = [self._object(row) for row in self.of_image[image]]
        self.done.images += 1
        self.done.annotations += len(objects)
        return {
            "image": {"bytes": path.read_bytes(), "path": name},
            "image_id": self.sizes[image]["id"],
            "width": self.sizes[image]["width"],
            "height": self.sizes[image]["height"],
            "objects": objects,
            "json": self.images[image],
        }

    def _object(self, row: int) -> dict[str, Any]:
        known = self.objects[row]
        box = [known[f"bbox_{side}"] for side in "xywh"]
        rings = rings_of(self.shown, row) or []
        return {
            "id": known["id"],
            "category": self.classes.get(known["category_id"]),
            "bbox": None if box[0] is None else box,
            "area": known["area"],
            "iscrowd": known["iscrowd"],
            "rings": [ring.ravel().tolist() for ring, _ in rings],
            "holes": [hole for _, hole in rings],
            "json": self.texts[row],
        }


def schema(names: list[str], header: dict[str, Any]) -> pa.Schema:
    """Columns of the files, with the viewer's description of them."""
    number, whole, words, flag = (
        {"dtype": kind, "_type": "Value"} for kind in ("float64", "int64", "string", "bool")
    )
    small = {"dtype": "int32", "_type": "Value"}
    thing = {
        "id": (pa.int64(), whole),
        "category": (pa.int64(), {"names": names, "_type": "ClassLabel"}),
        "bbox": (pa.list_(pa.float64()), [number]),
        "area": (pa.float64(), number),
        "iscrowd": (pa.int32(), small),
        "rings": (pa.list_(pa.list_(pa.float64())), [[number]]),
        "holes": (pa.list_(pa.bool_()), [flag]),
        "json": (pa.string(), words),
    }
    objects = pa.list_(pa.struct([(name, kind) for name, (kind, _) in thing.items()]))
    columns = {
        "image": (pa.struct([("bytes", pa.binary()), ("path", pa.string())]), {"_type": "Image"}),
        "image_id": (pa.int64(), whole),
        "width": (pa.int32(), small),
        "height": (pa.int32(), small),
        "objects": (objects, [{name: told for name, (_, told) in thing.items()}]),
        "json": (pa.string(), words),
    }
    told = {"info": {"features": {name: feature for name, (_, feature) in columns.items()}}}
    metadata = {"huggingface": json.dumps(told, separators=(",", ":")), "headwater": dump({"header": header})}
    return pa.schema([(name, kind) for name, (kind, _) in columns.items()], metadata=metadata)
