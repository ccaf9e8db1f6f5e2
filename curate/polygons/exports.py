"""What the exports share: which images and annotations go out, which stay behind and why, and rings joined into one.

An export never drops anything silently: what a format cannot hold is listed by reason, and the picture of every image is looked for
under one folder only.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from curate.polygons._digest import image_path
from curate.polygons.labelme_shapes import area_of
from curate.polygons.store import Annotations, Floats, Form
from headwater.errors import BadInputs, UsageError
from headwater.files import FOLDER_MODE, named_io

LISTED = 5
MOST_DISTANCES = 1 << 22  # beyond, a ring is tied by its first vertex


@dataclass
class Exported:
    """What was written: file names, counts, and {reason: [file names of images or ids of annotations]} of what was not."""

    images: int = 0
    annotations: int = 0
    files: list[str] = field(default_factory=list)
    left: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))


def exit_error(done: Exported, folder: Path) -> BadInputs | None:
    """The error to end with when something was left behind."""
    if not done.left:
        return None
    reasons = "; ".join(
        f"{len(found):,} {reason} ({', '.join(map(str, found[:LISTED]))}{' …' if len(found) > LISTED else ''})"
        for reason, found in sorted(done.left.items())
    )
    return BadInputs(
        f"{folder}: written, but left out: {reasons}", hint="headwater polygons validate lists them"
    )


def new_folder(folder: Path | str) -> Path:
    """Make `folder`; raises UsageError when it holds something."""
    path = Path(folder)
    with named_io(path):
        if path.exists() and any(path.iterdir()):
            raise UsageError(f"{path}: is not empty", hint="name a new folder")
        path.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    return path


def pictures_of(annotations: Annotations, root: Path, done: Exported) -> Iterator[tuple[int, str, Path]]:
    """(image row, file name, path) of every image whose picture is under `root`; the others are noted in `done`."""
    for row, name in enumerate(annotations.images["file_name"].to_pylist()):
        path = image_path(root, name)
        if path is None:
            done.left["images whose file name leads out of the folder, or that have none"].append(name or row)
        elif not path.is_file():
            done.left["images whose picture is missing"].append(name)
        else:
            yield row, name, path


def rows_of_images(annotations: Annotations, done: Exported) -> list[list[int]]:
    """Annotation rows of each image row; those without an image are noted in `done`."""
    rows: list[list[int]] = [[] for _ in range(len(annotations.images))]
    for row, image in enumerate(annotations.image_rows.tolist()):
        if image < 0:
            done.left["annotations without an image"].append(annotations.annotations["id"][row].as_py())
        else:
            rows[image].append(row)
    return rows


def suffix_of(name: str) -> str:
    """The suffix of a file name in small letters, without the dot."""
    return PurePosixPath(name).suffix.lower().removeprefix(".")


def rings_of(annotations: Annotations, row: int) -> list[tuple[Floats, bool]] | None:
    """(ring, whether a hole) of an annotation's polygons, rectangles as four corners; None where it is no area of rings."""
    form = int(annotations.annotations["form"][row].as_py())
    if form in (Form.COCO_POLYGONS, Form.KW_ONE, Form.KW_MANY):
        rings = [
            (ring, hole)
            for exterior, holes in annotations.polygons_of(row)
            if len(exterior) >= 3
            for ring, hole in ((exterior, False), *((inner, True) for inner in holes if len(inner) >= 3))
        ]
        return rings or None
    if form == Form.SHAPE:
        extra = annotations.annotations["extra"][row].as_py() or ""
        points = annotations.polygons_of(row)[0][0] if annotations.polygons_of(row) else np.zeros((0, 2))
        if '"shape_type":"rectangle"' in extra and len(points) == 2:
            (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
            return [(np.array([[left, top], [right, top], [right, bottom], [left, bottom]]), False)]
    return None


def joined(rings: list[tuple[Floats, bool]]) -> Floats:
    """One ring (n, 2) of the same area: parts and holes hang on lines that are walked there and back.

    Exteriors run in one sense, holes in the other; each ring is tied to the nearest vertex of those before it.
    """
    path = np.zeros((0, 2))
    for ring, hole in rings:
        own = ring if (_signed(ring) < 0) == hole else ring[::-1]
        if not len(path):
            path = own
            continue
        few = own if len(path) * len(own) <= MOST_DISTANCES else own[:1]
        apart = ((path[:, None, :] - few[None, :, :]) ** 2).sum(axis=2)
        here, there = np.unravel_index(int(apart.argmin()), apart.shape)
        around = np.roll(own, -int(there), axis=0)
        path = np.concatenate((path[: here + 1], around, around[:1], path[here:]))
    return path


def _signed(ring: Floats) -> float:
    x, y = (ring - ring[0]).T
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))


def area_of_rings(rings: list[tuple[Floats, bool]]) -> float:
    """Area of exteriors without their holes."""
    return sum(-area_of(ring) if hole else area_of(ring) for ring, hole in rings)
