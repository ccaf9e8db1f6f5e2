"""Polygon datasets that the polygon bench makes for both sides; needs numpy alone, so that the peers' environment can use it too.

Run: python polygon_data.py FILE ANNOTATIONS [whole]     a COCO file of stars, four to an image of 12 megapixels
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

HEIGHT, WIDTH = 3024, 4032
PER_IMAGE = 4
SHAPES = {3: (1512, 2016), 12: (3024, 4032)}  # megapixels: height, width
OBJECTS = 6  # of an image that is scored


def star(rng: np.random.Generator, x: float, y: float, radius: float, corners: int) -> Any:
    """(corners, 2) vertices around a point, by angle; once rounded, a few in 20,000 cross themselves."""
    angles = np.sort(rng.random(corners)) * 2 * np.pi
    radii = radius * (0.7 + 0.3 * rng.random(corners))
    return np.stack([x + radii * np.cos(angles), y + radii * np.sin(angles)], axis=1)


def stars(count: int, digits: int = 2, seed: int = 0) -> list[Any]:
    """Polygons of 8 to 119 vertices in images of 12 megapixels, to hundredths of a pixel or to `digits`."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(count):
        x, y = rng.uniform(200, WIDTH - 200), rng.uniform(200, HEIGHT - 200)
        found.append(np.round(star(rng, x, y, rng.uniform(20, 110), int(rng.integers(8, 120))), digits))
    return found


def write_coco(path: Path, count: int, whole: bool = False) -> None:
    """A COCO file with everything that readers ask for: boxes and areas are those of the polygons. `whole`: coordinates are integers."""
    head = {
        "info": {"year": 2024},
        "licenses": [{"id": 1, "name": "none"}],
        "categories": [{"id": 1, "name": "leaf"}, {"id": 2, "name": "stone"}],
        "images": [
            {"id": n + 1, "file_name": f"img_{n:06d}.jpg", "width": WIDTH, "height": HEIGHT, "license": 1}
            for n in range(-(-count // PER_IMAGE))
        ],
    }
    with path.open("w") as file:
        file.write(json.dumps(head)[:-1] + ', "annotations": [')
        for number, xy in enumerate(stars(count, 0 if whole else 2)):
            turned = np.roll(xy, -1, axis=0)
            area = abs(float((xy[:, 0] * turned[:, 1] - turned[:, 0] * xy[:, 1]).sum())) / 2
            xy = xy.astype(int) if whole else xy
            low, high = xy.min(axis=0), xy.max(axis=0)
            entry = {
                "id": number + 1,
                "image_id": number // PER_IMAGE + 1,
                "category_id": 1 + number % 2,
                "segmentation": [xy.ravel().tolist()],
                "bbox": [*low.tolist(), *np.round(high - low, 2).tolist()],
                "area": round(area, 2),
                "iscrowd": 0,
            }
            file.write((", " if number else "") + json.dumps(entry))
        file.write("]}\n")


def scored(megapixels: int, kind: str) -> tuple[list[Any], Any]:
    """The polygons of an image and a map of scores: "dense" as a segmenter's, or "sparse": zero, but for four masks of one score each."""
    import cv2

    height, width = SHAPES[megapixels]
    rng = np.random.default_rng(megapixels)
    polygons = [
        star(rng, rng.uniform(200, width - 200), rng.uniform(200, height - 200), rng.uniform(20, 120), 60)
        for _ in range(OBJECTS)
    ]
    if kind == "dense":
        noise = cv2.GaussianBlur(rng.random((height, width), dtype=np.float32), (0, 0), 3)
        return polygons, np.clip(noise * 2 - 0.5, 0, 1)
    scores = np.zeros((height, width), np.float32)
    for polygon in polygons[:4]:
        cv2.fillPoly(scores, [(polygon + 5).astype(np.int32)], float(rng.random()))
    return polygons, scores


if __name__ == "__main__":
    write_coco(Path(sys.argv[1]), int(sys.argv[2]), "whole" in sys.argv[3:])
