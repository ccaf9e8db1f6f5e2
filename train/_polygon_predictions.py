"""Predictions beside the truth: read, joined by ids, and refused as a whole where they do not fit it.

Predictions are COCO results (a list of {"image_id", "category_id", "score", "segmentation" and/or "bbox"}), or a dataset whose annotations
have scores (COCO, kwcoco, a store). A dataset lists its images: they must be the truth's, by id and file name, since numbers of other
images, or of a part of them, are the commonest mistake here.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from curate.polygons.raster import Crop, raster, raster_of
from curate.polygons.store import Annotations, Form, open_annotations, values
from headwater.errors import BadInputs, MissingInput, UsageError, nearest
from headwater.files import named_io

Ints = npt.NDArray[np.int64]
Size = tuple[int, int]  # height, width
SHOWN = 8  # findings in a message


class Findings:
    """What is wrong with a file, told together at the end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: list[str] = []

    def add(self, texts: Iterable[str]) -> None:
        """Note some."""
        self.found += texts

    def check(self) -> None:
        """Raises BadInputs naming them."""
        if self.found:
            more = f"\n  and {len(self.found) - SHOWN:,} more" if len(self.found) > SHOWN else ""
            listing = "".join(f"\n  {text}" for text in self.found[:SHOWN])
            raise BadInputs(
                f"{self.path}: cannot be scored:{listing}{more}",
                hint="mend these at their source; nothing was scored",
            )


@dataclass(frozen=True)
class Kinds:
    """Categories by their place: 0 is "no category", then those of the truth in the order of their ids."""

    ids: tuple[int, ...]
    names: tuple[str, ...]  # of `ids`
    counted: frozenset[int]  # places
    ignored: frozenset[int]

    def places(self, annotations: Annotations) -> Ints:
        """The place of each annotation's category; -1 for one that the truth does not have."""
        wanted, given = values(annotations.annotations, "category_id")
        known = np.array(self.ids, np.int64)
        place = np.minimum(np.searchsorted(known, wanted), max(len(known) - 1, 0))
        there = known[place] == wanted if len(known) else np.zeros(len(wanted), bool)
        return np.where(given, np.where(there, place + 1, -1), 0)


def kinds_of(truth: Annotations, counted: Collection[str], ignored: Collection[str]) -> Kinds:
    """The truth's categories; without `counted`, all that are not `ignored` count. Raises UsageError for names that are none."""
    found = {
        entry["id"]: str(entry.get("name")) for entry in truth.categories() if type(entry.get("id")) is int
    }
    ids = tuple(sorted(found))
    names = tuple(found[number] for number in ids)
    for name in [*counted, *ignored]:
        if name not in names:
            raise UsageError(f"category {name!r}: the truth has none of that name: {nearest(name, names)}")
    if both := set(counted) & set(ignored):
        raise UsageError(f"category {min(both)!r} cannot be counted and ignored")
    left_out = {place for place, name in enumerate(names, 1) if name in ignored}
    chosen = {place for place, name in enumerate(names, 1) if name in counted}
    return Kinds(ids, names, frozenset(chosen or set(range(len(ids) + 1)) - left_out), frozenset(left_out))


def read_predictions(path: Path) -> Annotations:
    """Results or a dataset; strict JSON and limits are those of `open_annotations`. Raises as it does."""
    if path.is_dir() or path.suffix == ".zip":
        return open_annotations(path)
    if not path.is_file():
        raise MissingInput(f"{path}: no such file")
    with named_io(path), open(path, "rb") as source:
        first = source.read(4096).lstrip(b" \t\r\n")[:1]
        if first != b"[":
            return open_annotations(path)
        source.seek(0)
        with tempfile.TemporaryDirectory(
            prefix="headwater-"
        ) as folder:  # a list of results, as the dataset it is part of
            whole = Path(folder) / path.name
            with open(whole, "wb") as out:
                out.write(b'{"images":[],"annotations":')
                shutil.copyfileobj(source, out, 1 << 20)
                out.write(b"}")
            return open_annotations(whole)


@dataclass(frozen=True)
class Joined:
    """Predictions in terms of the truth: for each its image row, category place and score."""

    annotations: Annotations
    images: Ints
    places: Ints
    scores: npt.NDArray[np.float64]


def join(truth: Annotations, predictions: Annotations, kinds: Kinds, path: Path) -> Joined:
    """Raises BadInputs naming the predictions that have no score in 0..1, no image or category of the truth, or no shape and no box."""
    troubles = Findings(path)
    ids, known = values(truth.images, "id")
    wanted, given = values(predictions.annotations, "image_id")
    order = np.argsort(ids, kind="stable")
    rows = np.full(len(wanted), -1, np.int64)
    if len(order):
        hit = order[np.minimum(np.searchsorted(ids[order], wanted), len(order) - 1)]
        rows = np.where(given & known[hit] & (ids[hit] == wanted), hit, -1)
    name = _namer(predictions)
    troubles.add(_other_images(truth, predictions))
    troubles.add(_other_names(kinds, predictions))
    troubles.add(f"{name(row)}: its image is not one of the truth's" for row in np.flatnonzero(rows < 0))
    places = kinds.places(predictions)
    troubles.add(
        f"{name(row)}: a category that the truth does not have" for row in np.flatnonzero(places < 0)
    )
    scores, scored = values(predictions.annotations, "score")
    sound = scored & (scores >= 0.0) & (scores <= 1.0)
    troubles.add(
        f"{name(row)}: " + ("a score outside 0..1" if scored[row] else "has no score")
        for row in np.flatnonzero(~sound)
    )
    boxed = values(predictions.annotations, "bbox_w")[1]
    bare = np.isin(predictions.forms, (Form.NONE, Form.SHAPE)) & ~(boxed & (predictions.forms == Form.NONE))
    troubles.add(f"{name(row)}: neither rings, run lengths nor a box" for row in np.flatnonzero(bare))
    troubles.check()
    return Joined(predictions, rows, places, scores)


def _namer(annotations: Annotations) -> Callable[[int], str]:
    ids, known = values(annotations.annotations, "id")
    return lambda row: f"annotation {ids[row]}" if known[row] else f"number {row + 1}"


def _other_images(truth: Annotations, predictions: Annotations) -> list[str]:
    """How the list of images differs, where there is one."""
    if not len(predictions.images):
        return []
    mine, theirs = (_names_by_id(one) for one in (truth, predictions))
    found = [
        f"image {number} ({mine[number]!r}) of the truth is not among its images"
        for number in mine.keys() - theirs.keys()
    ]
    found += [
        f"image {number} ({theirs[number]!r}) is not the truth's" for number in theirs.keys() - mine.keys()
    ]
    found += [
        f"image {number} is {theirs[number]!r}, in the truth {mine[number]!r}"
        for number in mine.keys() & theirs.keys()
        if mine[number] != theirs[number]
    ]
    return sorted(found)


def _names_by_id(annotations: Annotations) -> dict[Any, Any]:
    table = annotations.images
    return dict(zip(table["id"].to_pylist(), table["file_name"].to_pylist(), strict=True))


def _other_names(kinds: Kinds, predictions: Annotations) -> list[str]:
    mine = dict(zip(kinds.ids, kinds.names, strict=True))
    return [
        f"category {entry['id']} is {entry.get('name')!r}, in the truth {mine[entry['id']]!r}"
        for entry in predictions.categories()
        if type(entry.get("id")) is int
        and entry["id"] in mine
        and str(entry.get("name")) != mine[entry["id"]]
    ]


def crop_of(annotations: Annotations, row: int, rule: str, size: Size) -> Crop:
    """The pixels of an annotation in an image of `size`: of its rings or run lengths, else of its box. ValueError as `raster_of`."""
    if annotations.forms[row] != Form.NONE:
        return raster_of(annotations, row, rule, size)
    box = [annotations.annotations[f"bbox_{side}"][row].as_py() for side in "xywh"]
    if any(side is None for side in box):
        raise ValueError("has no shape")
    x, y, w, h = box
    if w < 0 or h < 0:
        raise ValueError(f"a box of {w} x {h}")
    ring = np.array([[x, y], [x + w, y], [x + w, y + h], [x, y + h]], dtype=np.float64)
    return raster(ring, np.array([0, 4]), *size, rule)


def rows_by_image(images: Ints, count: int) -> list[Ints]:
    """For each image row, the rows of the annotations on it, in their order."""
    order = np.argsort(images, kind="stable")
    bounds = np.searchsorted(images[order], np.arange(count + 1))
    return [order[bounds[i] : bounds[i + 1]] for i in range(count)]
