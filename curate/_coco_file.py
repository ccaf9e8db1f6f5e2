"""One COCO file for many blocks: workers write a JSON line a picture, and the lines become `annotations.json` with ids in their order.

    line     {"file_name", "height", "width", "label", "category", "instance", "objects": [...]}
    object   {"category_id", "bbox", "area", "iscrowd", "segmentation", "whole_area", …}

Category ids are 1 + label, as in the label maps; picture and annotation ids count from 1 (COCO's evaluation reads id 0 as "no match").
The lines are read twice, once for the pictures and once for the annotations, so memory does not grow with their number.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from headwater.errors import IntegrityError
from headwater.files import named_io

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from curate.generators import Picture


def things_of(picture: Picture) -> list[dict[str, Any]]:
    """The things of a picture as COCO writes them, without ids, in the order in which they were drawn."""
    objects = []
    for thing in picture.things:
        entry: dict[str, Any] = {
            "category_id": thing.label + 1,
            "bbox": [int(side) for side in thing.box],
            "area": int(thing.mask.sum()),
            "iscrowd": 0,
            "segmentation": [_flat(polygon) for polygon in thing.polygons],
            "whole_area": int(thing.whole_area),
        }
        objects.append({**thing.extra, **entry})
    return objects


def picture_line(
    file_name: str,
    height: int,
    width: int,
    label: int,
    category: int,
    instance: int,
    objects: list[dict[str, Any]],
) -> bytes:
    """One line of a block's JSON lines."""
    return (
        dump(
            {
                "file_name": file_name,
                "height": height,
                "width": width,
                "label": label,
                "category": category,
                "instance": instance,
                "objects": objects,
            }
        )
        + b"\n"
    )


def write_coco(
    out: IO[bytes], lines: Sequence[Path], names: Sequence[str], info: dict[str, Any] | None = None
) -> tuple[int, int]:
    """Write the COCO document of the blocks' `lines` (files, in block order) to `out`; returns (pictures, annotations).

    `names` are those of labels 0, 1, …; `info` goes into the document as it is. Raises IntegrityError for a line that cannot be read.
    """
    categories = [
        {"id": number, "name": name, "supercategory": "shape"} for number, name in enumerate(names, 1)
    ]
    out.write(b'{"info":' + dump(info or {}) + b',"licenses":[],"categories":' + dump(categories))
    out.write(b',"images":[')
    pictures = _write_list(out, _pictures(lines))
    out.write(b'],"annotations":[')
    annotations = _write_list(out, _annotations(lines))
    out.write(b"]}\n")
    return pictures, annotations


def _write_list(out: IO[bytes], items: Iterable[dict[str, Any]]) -> int:
    count = 0
    for count, item in enumerate(items, 1):
        out.write((b",\n" if count > 1 else b"\n") + dump(item))
    return count


def _pictures(lines: Sequence[Path]) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(_read(lines), 1):
        del line["objects"]
        yield {"id": number, **line}


def _annotations(lines: Sequence[Path]) -> Iterator[dict[str, Any]]:
    number = 0
    for picture, line in enumerate(_read(lines), 1):
        for entry in line["objects"]:
            number += 1
            yield {"id": number, "image_id": picture, **entry}


def _read(lines: Sequence[Path]) -> Iterator[dict[str, Any]]:
    for path in lines:
        with named_io(path), open(path, "rb") as file:
            for text in file:
                try:
                    yield json.loads(text)
                except ValueError as error:
                    raise IntegrityError(
                        f"{path}: a line is not JSON", hint="make the block again"
                    ) from error


def _flat(polygon: npt.NDArray[np.float64]) -> list[float]:
    flat = polygon.ravel()
    whole = flat.astype("int64")
    return whole.tolist() if (whole == flat).all() else flat.tolist()


def dump(document: Any) -> bytes:
    """Compact JSON."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
