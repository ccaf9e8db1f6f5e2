"""The peers' side of the polygon bench: run by their own Python, does what it is told line by line, and says what it cost.

A line of standard input is JSON [task, arguments…]; the answer is a line [CPU seconds, what was found]. Preparing is not counted.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

Work = Callable[[], Any]
_KEPT: dict[str, Any] = {}


def dataset(path: str) -> Any:
    """kwcoco's dataset, read once."""
    import kwcoco

    if path not in _KEPT:
        _KEPT[path] = kwcoco.CocoDataset(path)
    return _KEPT[path]


def load(path: str) -> Work:
    """Read and index a file."""
    import kwcoco

    return lambda: len(kwcoco.CocoDataset(path).annots())


def validate(path: str, backend: str) -> Work:
    """kwcoco's own validation by its JSON schema alone."""
    data = dataset(path)
    only = {"missing": False, "unique": False, "channels": False, "verbose": 0}

    def work() -> int:
        return len(data.validate(schema=True, schema_backend=backend, **only)["errors"])

    return work


def digest(path: str) -> Work:
    """kwcoco's hash of a dataset; its cache is cleared first."""
    data = dataset(path)

    def work() -> Any:
        for name in ("hashid", "hashid_parts"):
            if hasattr(data, name):
                setattr(data, name, None)
        return data._build_hashid()

    return work


def score(folder: str, name: str) -> Work:
    """One image as kwcoco.metrics.segmentation_metrics scores it: polygons filled on a canvas, scores moved up to 1,024 values, measures."""
    import kwarray
    import kwimage
    from kwcoco.metrics.confusion_vectors import BinaryConfusionVectors

    stored = np.load(f"{folder}/{name}.npz")
    scores, polygons = stored["scores"], [stored[key] for key in sorted(stored.files) if key != "scores"]
    multi = [kwimage.MultiPolygon([kwimage.Polygon(exterior=polygon)]) for polygon in polygons]
    edges = np.linspace(0, 1, 1024)

    def work() -> float:
        truth = np.zeros(scores.shape, np.float32)
        weights = np.ones(scores.shape, np.float32)
        for polygon in multi:
            truth = polygon.fill(truth, value=1)
        found = scores.copy()
        missing = np.isnan(found)
        found[missing] = 0
        weights[missing] = 0
        moved = edges[np.searchsorted(edges, found.ravel())]
        vectors = kwarray.DataFrameArray(
            {"is_true": truth.ravel(), "pred_score": moved, "weight": weights.ravel()}
        )
        return float(BinaryConfusionVectors(vectors).measures()["ap"])

    return work


def raster(count: int, images: int, way: str) -> Work:
    """Foreground pixels of the polygons: counted on a canvas for each image ("kwimage", "opencv"), or of run lengths ("rle", "rle decoded")."""
    import cv2
    import kwimage
    import polygon_data
    import pycocotools.mask as masks

    height, width = polygon_data.HEIGHT, polygon_data.WIDTH
    polygons = polygon_data.stars(count)
    groups = np.array_split(np.arange(count), images)
    shapes = [kwimage.Polygon(exterior=polygon) for polygon in polygons] if way == "kwimage" else []

    def canvases() -> int:
        found = 0
        for group in groups:
            canvas = np.zeros((height, width), np.uint8)
            for number in group:
                if shapes:
                    canvas = shapes[number].fill(canvas, value=1)
                else:
                    cv2.fillPoly(canvas, [np.rint(polygons[number]).astype(np.int32)], 1)
            found += int(np.count_nonzero(canvas.view(np.bool_)))
        return found

    def runs() -> int:
        found = 0
        for polygon in polygons:
            rle = masks.frPyObjects([polygon.ravel().tolist()], height, width)[0]
            found += int(masks.area(rle))
            if way == "rle decoded":
                masks.decode(rle)
        return found

    return runs if way.startswith("rle") else canvases


TASKS = {work.__name__: work for work in (load, validate, digest, score, raster)}


def main() -> None:
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the peers print is no reply
    warnings.simplefilter("ignore")
    prepared: dict[str, Work] = {}
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        if line not in prepared:
            prepared.clear()  # one at a time: canvases are large
            prepared[line] = TASKS[name](*arguments)
        began = time.process_time()
        found = prepared[line]()
        replies.write(json.dumps([time.process_time() - began, found]) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
