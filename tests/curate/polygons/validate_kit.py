"""A sound small COCO file, and one wrong file for each code of findings."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from curate.polygons.coco import read_coco
from curate.polygons.store import Annotations

Document = dict[str, Any]
SQUARE = [10, 10, 30, 10, 30, 30, 10, 30]


def annotation(number: int, **fields: Any) -> Document:
    """A square of 20 pixels a side, moved by its number, with everything that strict asks for."""
    shape = [value + number for value in SQUARE]
    whole: Document = {
        "id": number,
        "image_id": 1,
        "category_id": 1,
        "bbox": [10 + number, 10 + number, 20, 20],
        "area": 400,
        "iscrowd": 0,
        "segmentation": [shape],
    }
    whole.update(fields)
    return {key: value for key, value in whole.items() if value is not ...}


def document(*annotations: Document, **lists: Any) -> Document:
    """A file that passes every profile, with these annotations; `lists` replace those at its top (... takes one out)."""
    whole: Document = {
        "images": [{"id": 1, "file_name": "a.png", "width": 100, "height": 80}],
        "categories": [{"id": 1, "name": "nut"}],
        "annotations": list(annotations) or [annotation(1), annotation(2)],
    }
    whole.update(lists)
    return {key: value for key, value in whole.items() if value is not ...}


def image(**fields: Any) -> Document:
    """An image that passes every profile, with other fields (... takes one out)."""
    whole: Document = {"id": 1, "file_name": "a.png", "width": 100, "height": 80, **fields}
    return {key: value for key, value in whole.items() if value is not ...}


def read(folder: Path, content: Document) -> Annotations:
    """The annotations of a file with this content."""
    path = folder / "file.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return read_coco(path)


def shaped(segmentation: Any, box: Any = None, area: Any = None) -> Document:
    """A file with one shape; box and area are those given."""
    return document(
        annotation(
            1, segmentation=segmentation, bbox=box or [10, 10, 20, 20], area=400 if area is None else area
        )
    )


def kw(exterior: list[float], *holes: list[float]) -> Document:
    """A polygon as kwcoco writes it, of flat lists."""
    return {"exterior": pairs(exterior), "interiors": [pairs(hole) for hole in holes]}


def pairs(flat: list[float]) -> list[list[float]]:
    """[x, y] pairs of a flat list."""
    return [list(pair) for pair in zip(flat[::2], flat[1::2], strict=True)]


def square(x: float, y: float, side: float, *, back: bool = False) -> list[float]:
    """Flat corners, clockwise as seen, or the other way."""
    corners = [(x, y), (x + side, y), (x + side, y + side), (x, y + side)]
    return [value for corner in (corners[::-1] if back else corners) for value in corner]


def rle(counts: Any, height: int = 80, width: int = 100) -> Document:
    return {"size": [height, width], "counts": counts}


FULL = [10 * 80 + 10, *([20, 60] * 19), 20]  # the square of `annotation(0)`
MASK = [*FULL, 8000 - sum(FULL)]

# code -> a file that has it; files that need pictures are in test_validate_files
WRONG: dict[str, Callable[[], Document]] = {
    "list-missing": lambda: document(categories=..., annotations=[]),
    "list-type": lambda: document(licenses={}, categories=[3, {"id": 1, "name": "nut"}]),
    "entry-field": lambda: document(categories=[{"id": 1, "name": "nut", "parents": "food"}]),
    "id-missing": lambda: document(annotation(1, id=...)),
    "id-type": lambda: document(annotation(1, id="one")),
    "id-float": lambda: document(annotation(1, id=1.0)),
    "id-range": lambda: document(annotation(1, id=2**63)),
    "id-negative": lambda: document(annotation(1, id=-1)),
    "id-duplicate": lambda: document(annotation(1), annotation(2, id=1)),
    "name-missing": lambda: document(categories=[{"id": 1, "name": ""}]),
    "name-duplicate": lambda: document(categories=[{"id": 1, "name": "nut"}, {"id": 2, "name": "nut"}]),
    "file-name-missing": lambda: document(images=[image(file_name=...)]),
    "file-name-type": lambda: document(images=[image(file_name=3)]),
    "file-name-unsafe": lambda: document(images=[image(file_name="../../etc/x")]),
    "file-name-duplicate": lambda: document(images=[image(), image(id=2)]),
    "image-size-missing": lambda: document(images=[image(width=...)]),
    "image-size-type": lambda: document(images=[image(width="100")]),
    "image-size-range": lambda: document(images=[image(width=0)]),
    "orientation-range": lambda: document(images=[image(exif_orientation=9)]),
    "license-dangling": lambda: document(images=[image(license=3)], licenses=[{"id": 1, "name": "CC0"}]),
    "field-null": lambda: document(images=[image(coco_url=None)]),
    "field-type": lambda: document(images=[image(flickr_url=3)]),
    "image-id-missing": lambda: document(annotation(1, image_id="1")),
    "image-dangling": lambda: document(annotation(1, image_id=7)),
    "category-id-missing": lambda: document(annotation(1, category_id=None)),
    "category-id-type": lambda: document(annotation(1, category_id="nut")),
    "category-dangling": lambda: document(annotation(1, category_id=7)),
    "track-dangling": lambda: document(annotation(1, track_id=5), tracks=[{"id": 1, "name": "t"}]),
    "iscrowd-missing": lambda: document(annotation(1, iscrowd=...)),
    "iscrowd-range": lambda: document(annotation(1, iscrowd=2)),
    "keypoints-form": lambda: document(annotation(1, keypoints=[1, "2", 3])),
    "bbox-missing": lambda: document(annotation(1, bbox=...)),
    "bbox-type": lambda: document(annotation(1, bbox=[1, 2, 3])),
    "bbox-range": lambda: document(annotation(1, bbox=[11, 11, -20, 20])),
    "bbox-empty": lambda: document(annotation(1, bbox=[11, 11, 0, 20])),
    "bbox-outside": lambda: document(annotation(1, bbox=[90, 11, 20, 20])),
    "bbox-mismatch": lambda: document(annotation(1, bbox=[11, 11, 20, 23])),
    "area-missing": lambda: document(annotation(1, area=...)),
    "area-type": lambda: document(annotation(1, area="400")),
    "area-range": lambda: document(annotation(1, area=-400)),
    "area-mismatch": lambda: document(annotation(1, area=442)),
    "segmentation-missing": lambda: document(annotation(1, segmentation=...)),
    "segmentation-null": lambda: document(annotation(1, segmentation=None)),
    "segmentation-form": lambda: document(annotation(1, segmentation=[[1, 2, 3, 4, 5, 6, 7]])),
    "segmentation-kwcoco": lambda: shaped([kw(square(10, 10, 20))]),
    "segmentation-empty": lambda: document(annotation(1, segmentation=[])),
    "rle-form": lambda: shaped(rle([-1, 3])),
    "rle-length": lambda: shaped(rle([*FULL, 1])),
    "rle-size": lambda: shaped(rle([0, 50 * 50], 50, 50), [0, 0, 50, 50], 2500),
    "coordinate-range": lambda: shaped([square(10, 10, 20), [0, 0, 1e300, 0, 0, 5]]),
    "ring-short": lambda: shaped([square(10, 10, 20), [40, 40, 50, 50, 50, 50]]),
    "zero-area": lambda: shaped([square(10, 10, 20), [40, 40, 50, 50, 45, 45]], [10, 10, 40, 40]),
    "vertex-repeated": lambda: shaped([[*square(10, 10, 20), 10, 10]]),
    "vertex-outside": lambda: shaped([square(90, 10, 20)], [90, 10, 10, 20]),
    "shape-outside": lambda: shaped([square(190, 10, 20)], [190, 10, 20, 20]),
    "self-crossing": lambda: shaped([[10, 10, 30, 30, 30, 10, 10, 30]]),
    "self-touching": lambda: shaped([[10, 10, 20, 20, 30, 10, 30, 30, 20, 20, 10, 30]], None, 200),
    "hole-outside": lambda: shaped([kw(square(10, 10, 20), square(25, 15, 10, back=True))]),
    "holes-overlap": lambda: shaped(
        [kw(square(10, 10, 20), square(12, 12, 8, back=True), square(14, 14, 8, back=True))]
    ),
    "parts-overlap": lambda: shaped([square(10, 10, 15), square(15, 15, 15)]),
    "hole-direction": lambda: shaped([kw(square(10, 10, 20), square(15, 15, 10))], None, 300),
    "crossing-unknown": lambda: document(annotation(1)),  # by limits of its own: see the test
    "annotation-duplicate": lambda: document(annotation(1), annotation(1, id=2)),
    "image-duplicate": lambda: document(
        images=[image(sha256="0" * 64), image(id=2, file_name="b.png", sha256="0" * 64)]
    ),
}
