"""What an image or annotation says, apart from its ids: for finding what is equal, and which keys differ.

Categories count by name, so that renumbered categories change no annotation. A shape is its form, rings and run lengths.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curate.polygons._digest import TEXTS, canonical_bytes
from curate.polygons._json_strict import loads
from curate.polygons._ragged import items_of
from curate.polygons._schema import IMAGE_KEYS
from curate.polygons.store import Annotations
from headwater.errors import IntegrityError

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Row = dict[str, Any]
SHAPE = ("form", "rle", "rle_height", "rle_width", "segmentation_extra")
BOX = ("bbox_x", "bbox_y", "bbox_w", "bbox_h")
SEGMENTATION = "segmentation"


@dataclass(frozen=True)
class Side:
    """One of the two datasets."""

    annotations: Annotations

    @cached_property
    def category_names(self) -> dict[int, Any]:
        """Of each category id its name; the id itself where the name is none, or not the only one."""
        entries = [c for c in self.annotations.categories() if type(c.get("id")) is int]
        names = [c.get("name") for c in entries]
        found = {}
        for entry, name in zip(entries, names, strict=True):
            found[entry["id"]] = name if isinstance(name, str) and names.count(name) == 1 else entry["id"]
        return found

    def image(self, row: int) -> Row:
        """Keys of an image, those of `extra` among them, without its id."""
        return _spread(self.annotations.images.slice(row, 1).to_pylist()[0], ("id",))

    @cached_property
    def image_contents(self) -> list[bytes]:
        """Of each image a digest of `image` without its file name."""
        found = []
        for row in self.annotations.images.to_pylist():
            found.append(_digest(_spread(row, ("id", "file_name"))))
        return found

    def annotation(self, row: int) -> Row:
        """Keys of an annotation without its id and its image; `segmentation` is a digest of the shape."""
        return self.rows(np.array([row]))[0]

    def rows(self, rows: Ints) -> list[Row]:
        """The same for several."""
        made = self.annotations
        part_starts, vertex_starts = made.part_starts, made.vertex_starts
        found = []
        for row, entry in zip(rows.tolist(), made.annotations.take(rows).to_pylist(), strict=True):
            lone = made.image_rows[row] < 0  # then its image_id belongs to no pair of images
            without = ("id", "first_part") if lone else ("id", "first_part", "image_id")
            shape = {key: entry.pop(key) for key in SHAPE}
            box, category = [entry.pop(key) for key in BOX], entry.pop("category_id")
            own = _spread(entry, without)
            if category is not None:  # else `extra` may have one
                own["category" if "category" not in own else "category_id"] = self.category_names.get(
                    category, category
                )
            if any(value is not None for value in box):
                own["bbox"] = box
            if shape["rle"] is not None:
                shape["rle"] = shape["rle"].hex()
            shape[SEGMENTATION] = own.get(SEGMENTATION)
            parts = slice(int(part_starts[row]), int(part_starts[row + 1]))
            vertices = slice(int(vertex_starts[parts.start]), int(vertex_starts[parts.stop]))
            one = hashlib.sha256(canonical_bytes(shape))
            counts = np.diff(vertex_starts[parts.start : parts.stop + 1])
            one.update(
                np.column_stack((made.holes[parts], made.exteriors[parts], counts)).astype("<i8").tobytes()
            )
            one.update((np.column_stack((made.x[vertices], made.y[vertices])) + 0.0).astype("<f8").tobytes())
            own[SEGMENTATION] = one.hexdigest()
            found.append(own)
        return found

    def contents(self, rows: Ints) -> list[bytes]:
        """Digests of annotations."""
        found = []
        for at in range(0, len(rows), 4096):
            found += [_digest(own) for own in self.rows(rows[at : at + 4096])]
        return found

    @cached_property
    def boxes(self) -> npt.NDArray[np.float64]:
        """(annotations, 4) least x, y and greatest x, y of the vertices, else of the box; NaN without either."""
        made = self.annotations
        count = len(made.annotations)
        low, high = np.full((count, 2), np.inf), np.full((count, 2), -np.inf)
        owner = np.repeat(made.part_rows, np.diff(made.vertex_starts))
        for axis, along in enumerate((made.x, made.y)):
            np.minimum.at(low[:, axis], owner, along)
            np.maximum.at(high[:, axis], owner, along)
        found = np.hstack((low, high))
        box = np.column_stack([made.annotations[key].to_numpy(zero_copy_only=False) for key in BOX])
        told = np.column_stack((box[:, :2], box[:, :2] + box[:, 2:])).astype(np.float64)
        return np.where(np.isfinite(found).all(axis=1)[:, None], found, told)

    @cached_property
    def categories(self) -> list[str | None]:
        """Of each annotation the name of its category, else the id."""
        names = self.category_names
        ids = self.annotations.annotations["category_id"].to_pylist()
        return [None if identity is None else str(names.get(identity, identity)) for identity in ids]

    @cached_property
    def image_names(self) -> list[str]:
        """Each image as people call it, and last what is said for none."""
        columns = (self.annotations.images[key].to_pylist() for key in ("file_name", "id"))
        return [name or f"image {identity}" for name, identity in zip(*columns, strict=True)] + ["no image"]

    def vertex_count(self, row: int) -> int:
        """Vertices of an annotation."""
        first, stop = self.annotations.part_starts[row : row + 2]
        return int(self.annotations.vertex_starts[stop] - self.annotations.vertex_starts[first])


def _spread(row: Row, without: tuple[str, ...]) -> Row:
    """A row under the keys of its source, texts parsed; null columns and those of `without` are left out."""
    found, extra = {}, {}
    for key, value in row.items():
        if value is None or key in without:
            continue
        if key in TEXTS:
            try:
                value = loads(value.encode())
            except ValueError as error:
                raise IntegrityError(f"column {key} of the annotations holds no JSON: {error}") from error
        if key == "extra" and isinstance(value, dict):
            extra = value
        else:
            found[IMAGE_KEYS.get(key, key)] = value
    return found | extra


def _digest(value: Any) -> bytes:
    return hashlib.sha256(canonical_bytes(value)).digest()


def changed_keys(old: Row, new: Row) -> list[str]:
    """Keys whose value differs or that only one has, sorted."""
    return sorted(
        key
        for key in old.keys() | new.keys()
        if (key in old) != (key in new) or canonical_bytes(old[key]) != canonical_bytes(new[key])
    )


def equal_rows(old: Side, new: Side, first: Ints, second: Ints) -> Bools:
    """Whether annotation first[i] of `old` and second[i] of `new` are certainly equal, column by column; False may still be equal."""
    one, two = old.annotations.annotations, new.annotations.annotations
    same = np.ones(len(first), bool)
    if old.category_names != new.category_names:
        return np.zeros(len(first), bool)
    for name in one.schema.names:
        if name in ("id", "image_id", "first_part"):
            continue
        a, b = one[name].take(pa.array(first)), two[name].take(pa.array(second))
        both = pc.fill_null(pc.equal(a, b), False)
        neither = pc.and_(pc.is_null(a), pc.is_null(b))
        same &= pc.or_(both, neither).combine_chunks().to_numpy(zero_copy_only=False)
    lone = old.annotations.image_rows[first] < 0
    same &= ~lone  # these few are left to the digests, where image_id counts
    rows = np.flatnonzero(same)
    same[rows] &= _equal_shapes(old.annotations, new.annotations, first[rows], second[rows])
    return same


def _equal_shapes(old: Annotations, new: Annotations, first: Ints, second: Ints) -> Bools:
    parts_a, starts_a = items_of(old.part_starts, first)
    parts_b, starts_b = items_of(new.part_starts, second)
    counts = np.diff(starts_a)
    same: Bools = counts == np.diff(starts_b)
    if not same.all():  # the rest of the arrays would not lie side by side
        rows = np.flatnonzero(same)
        same[rows] = _equal_shapes(old, new, first[rows], second[rows])
        return same
    sizes = np.diff(old.vertex_starts)[parts_a]
    equal = (old.holes[parts_a] == new.holes[parts_b]) & (old.exteriors[parts_a] == new.exteriors[parts_b])
    equal &= sizes == np.diff(new.vertex_starts)[parts_b]
    owner = np.repeat(np.arange(len(first)), counts)
    same[owner[~equal]] = False
    if not same.all():
        rows = np.flatnonzero(same)
        same[rows] = _equal_shapes(old, new, first[rows], second[rows])
        return same
    at, _ = items_of(old.vertex_starts, parts_a)
    to, _ = items_of(new.vertex_starts, parts_b)
    moved = (old.x[at] != new.x[to]) | (old.y[at] != new.y[to])
    same[np.repeat(owner, sizes)[moved]] = False
    return same
