"""Small polygon datasets for the tests of their numbers, sheets and pages."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from curate.polygons.store import Annotations, open_annotations

Entry = dict[str, Any]


def image(number: int, width: int = 100, height: int = 80, **keys: Any) -> Entry:
    return {"id": number, "file_name": f"{number}.png", "width": width, "height": height, **keys}


def polygon(number: int, of: int, points: Any, category: int | None = 1, **keys: Any) -> Entry:
    flat = [float(value) for point in points for value in point]
    entry = {"id": number, "image_id": of, "category_id": category, "segmentation": [flat], **keys}
    return {key: value for key, value in entry.items() if value is not None}


def run_lengths(width: int, height: int, low: tuple[int, int], high: tuple[int, int]) -> Entry:
    """COCO's run lengths of a box from (x, y) `low` to `high`."""
    mask = np.zeros((height, width), bool)
    mask[low[1] : high[1], low[0] : high[0]] = True
    flat = mask.T.ravel()
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    return {"size": [height, width], "counts": np.diff([0, *edges, len(flat)]).tolist()}


def write(path: Path, images: Sequence[Entry], annotations: Sequence[Entry], categories: Any = None) -> Path:
    """A COCO file."""
    named = [{"id": 1, "name": "nut"}] if categories is None else categories
    document = {"images": list(images), "annotations": list(annotations), "categories": named}
    path.write_text(json.dumps(document))
    return path


def dataset(images: Sequence[Entry], annotations: Sequence[Entry], categories: Any = None) -> Annotations:
    """The same, read."""
    with TemporaryDirectory() as folder:
        return open_annotations(write(Path(folder) / "a.json", images, annotations, categories))
