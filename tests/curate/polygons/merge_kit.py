"""Documents of squares, and Annotations made from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from curate.polygons.coco import read_coco
from curate.polygons.store import Annotations

Document = dict[str, Any]


def document(images: int = 3, each: int = 2) -> Document:
    """Squares of different places and sizes."""
    annotations = []
    for image in range(images):
        for number in range(each):
            x, side = 20 * number, 5 + image
            ring = [x, 0, x + side, 0, x + side, side, x, side]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image + 1,
                    "category_id": 1 + number % 2,
                    "segmentation": [ring],
                    "area": side * side,
                    "weight": {"by": "ann"},
                }
            )
    return {
        "info": {"year": 2024},
        "categories": [{"id": 1, "name": "thing"}, {"id": 2, "name": "leaf"}],
        "images": [
            {"id": row + 1, "file_name": f"{row + 1}.jpg", "width": 100 + row, "height": 50}
            for row in range(images)
        ],
        "annotations": annotations,
    }


def made(folder: Path, content: Document) -> Annotations:
    path = folder / "made.json"
    path.write_text(json.dumps(content))
    return read_coco(path)
