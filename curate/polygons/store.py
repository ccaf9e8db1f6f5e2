"""Annotations: a polygon dataset as four tables joined by row numbers.

    images ──id──< annotations ──first_part──< parts ──first_vertex──< vertices
    a part is one ring: an exterior, or a hole of the exterior before it

A store is a folder with one Parquet file a table and `annotations.json` (header, row counts, digests of the files), written last.
Coordinates are float64; their origin is the top left corner of the first pixel of the image as stored (not as EXIF would turn it).
`_schema` has the columns.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate.polygons import _schema
from curate.polygons._ragged import items_of, with_end
from curate.polygons._schema import ANNOTATIONS, IMAGES, PARTS, VERTICES, Form
from headwater.errors import IntegrityError, MissingInput, UsageError

__all__ = ["Annotations", "Form", "concat", "digest", "open_annotations", "pixel_digest", "write_store"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Polygon = tuple[Floats, list[Floats]]  # exterior (n, 2), holes [(m, 2), …]


@dataclass(frozen=True, eq=False)
class Annotations:
    """A polygon dataset; immutable. Raises IntegrityError when the tables do not fit together.

    `header` is every other top-level key of the source (info, licenses, categories, videos, tracks …); `missing` names the lists
    ("images", "annotations") that the source did not have at all.
    """

    header: dict[str, Any]
    images: pa.Table
    annotations: pa.Table
    parts: pa.Table
    vertices: pa.Table
    missing: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, schema in TABLES.items():
            table: pa.Table = getattr(self, name)
            if table.schema != schema:
                raise IntegrityError(
                    f"table {name} of the annotations has other columns than {_schema.FORMAT}"
                )
            if any(column.num_chunks != 1 for column in table.columns):
                object.__setattr__(self, name, _one_chunk(table))
        _check_offsets("first_part", self.part_starts)
        _check_offsets("first_vertex", self.vertex_starts)
        self._check_exteriors()

    def _check_exteriors(self) -> None:
        own = self.part_numbers
        exterior = self.exteriors
        counts = np.diff(self.part_starts)
        if len(self.forms) and not (self.forms.min() >= 0 and self.forms.max() <= max(Form)):
            raise IntegrityError("an annotation has a form that does not exist")
        sound = (exterior >= 0) & (exterior <= own) & ((exterior == own) != self.holes)
        if not sound.all() or len(own) != counts.sum():
            raise IntegrityError("a hole of the annotations names an exterior that is not there")
        outer = np.repeat(self.part_starts[:-1], counts) + exterior
        if self.holes[outer].any():
            raise IntegrityError("a hole of the annotations names a hole as its exterior")

    @cached_property
    def part_starts(self) -> Ints:
        """(annotations + 1,) offsets into `parts`."""
        return _fixed(with_end(numbers(self.annotations, "first_part"), len(self.parts)))

    @cached_property
    def vertex_starts(self) -> Ints:
        """(parts + 1,) offsets into `vertices`."""
        return _fixed(with_end(numbers(self.parts, "first_vertex"), len(self.vertices)))

    @cached_property
    def part_numbers(self) -> Ints:
        """(parts,) the number of each part within its annotation, from 0."""
        counts = np.diff(self.part_starts)
        return _fixed(np.arange(len(self.parts), dtype=np.int64) - np.repeat(self.part_starts[:-1], counts))

    @cached_property
    def part_rows(self) -> Ints:
        """(parts,) the row of the annotation that each part belongs to."""
        return _fixed(np.repeat(np.arange(len(self.annotations), dtype=np.int64), np.diff(self.part_starts)))

    @cached_property
    def holes(self) -> npt.NDArray[np.bool_]:
        """(parts,) whether a part is a hole."""
        return _fixed(numbers(self.parts, "hole"))

    @cached_property
    def exteriors(self) -> npt.NDArray[np.int32]:
        """(parts,) number within the annotation of the exterior that a part belongs to; its own for an exterior."""
        return numbers(self.parts, "exterior")

    @cached_property
    def x(self) -> Floats:
        """(vertices,) read-only view."""
        return numbers(self.vertices, "x")

    @cached_property
    def y(self) -> Floats:
        """(vertices,) read-only view."""
        return numbers(self.vertices, "y")

    @cached_property
    def image_rows(self) -> Ints:
        """(annotations,) the first image row with the annotation's image_id; -1 where there is none."""
        ids, known = values(self.images, "id")
        rows = np.flatnonzero(known)
        order = rows[np.argsort(ids[rows], kind="stable")]
        wanted, given = values(self.annotations, "image_id")
        if not len(order):
            return _fixed(np.full(len(wanted), -1, np.int64))
        place = np.searchsorted(ids[order], wanted)
        hit = order[np.minimum(place, len(order) - 1)]
        return _fixed(np.where(given & (ids[hit] == wanted), hit, -1))

    @cached_property
    def forms(self) -> npt.NDArray[np.int8]:
        """(annotations,) the Form of each."""
        return numbers(self.annotations, "form")

    def polygons_of(self, row: int) -> list[Polygon]:
        """[(exterior (n, 2), [holes (m, 2)])] of an annotation row, in the source's order; [] where it has no rings.

        A SHAPE's points come as one exterior: look at `form` first.
        """
        first, end = self.part_starts[row], self.part_starts[row + 1]
        polygons: dict[int, Polygon] = {}
        for part in range(first, end):
            ring = self.ring(part)
            if self.holes[part]:
                polygons[int(self.exteriors[part])][1].append(ring)
            else:
                polygons[part - int(first)] = (ring, [])
        return list(polygons.values())

    def ring(self, part: int) -> Floats:
        """The vertices (n, 2) of a part."""
        span = slice(self.vertex_starts[part], self.vertex_starts[part + 1])
        return np.column_stack((self.x[span], self.y[span]))

    def categories(self) -> list[dict[str, Any]]:
        """The header's categories that are objects."""
        found = self.header.get("categories")
        return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []

    def equals(self, other: Annotations) -> bool:
        """Whether every value of both is the same, in the same order."""
        return (
            self.header == other.header
            and self.missing == other.missing
            and all(getattr(self, name).equals(getattr(other, name)) for name in TABLES)
        )

    def take(self, image_rows: Iterable[int] | Ints) -> Annotations:
        """These images, in this order, with all annotations whose image they are (in the annotations' order).

        Shares nothing that could be edited with this one. Annotations without an image are in no subset.
        """
        rows = np.asarray(image_rows if isinstance(image_rows, np.ndarray) else list(image_rows), np.int64)
        chosen = np.zeros(len(self.images) + 1, bool)  # the last entry: annotations without an image
        chosen[rows] = True
        chosen[-1] = False
        return self.replace(images=self.images.take(rows)).take_annotations(
            np.flatnonzero(chosen[self.image_rows])
        )

    def take_annotations(self, rows: Iterable[int] | Ints) -> Annotations:
        """The same images with these annotations, in this order."""
        rows = np.asarray(rows if isinstance(rows, np.ndarray) else list(rows), np.int64)
        parts, part_starts = items_of(self.part_starts, rows)
        vertices, vertex_starts = items_of(self.vertex_starts, parts)
        annotations = self.annotations.take(rows)
        return self.replace(
            annotations=set_column(annotations, "first_part", part_starts[:-1]),
            parts=set_column(self.parts.take(parts), "first_vertex", vertex_starts[:-1]),
            vertices=_schema.table(VERTICES, x=self.x[vertices], y=self.y[vertices]),
        )

    def replace(self, **fields: Any) -> Annotations:
        """A copy with other tables or another header; the header is copied deep, tables cannot be edited."""
        fields.setdefault("header", copy.deepcopy(self.header))
        return replace(self, **fields)


TABLES = {"images": IMAGES, "annotations": ANNOTATIONS, "parts": PARTS, "vertices": VERTICES}


def numbers(table: pa.Table, column: str) -> npt.NDArray[Any]:
    """A numeric column without nulls as a read-only view; raises IntegrityError when it has nulls."""
    array = table[column].chunk(0)
    if array.null_count:
        raise IntegrityError(f"column {column} of the annotations has empty entries")
    return array.to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]


def _fixed(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    array.flags.writeable = False
    return array


def values(table: pa.Table, column: str) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """A numeric column as (values with 0 for null, whether there is a value)."""
    array = table[column].combine_chunks() if table[column].num_chunks != 1 else table[column].chunk(0)
    if not array.null_count:
        return array.to_numpy(), np.ones(len(array), bool)
    return array.fill_null(0).to_numpy(), array.is_valid().to_numpy(zero_copy_only=False)


def set_column(table: pa.Table, column: str, new: Any) -> pa.Table:
    """`table` with one column replaced."""
    index = table.schema.get_field_index(column)
    field = table.schema.field(index)
    return table.set_column(index, field, pa.array(new, field.type))


def _one_chunk(table: pa.Table) -> pa.Table:
    columns = [
        column.chunk(0)
        if column.num_chunks == 1
        else pa.concat_arrays(column.chunks)
        if column.num_chunks
        else pa.array([], column.type)
        for column in table.columns
    ]
    return pa.Table.from_arrays(columns, schema=table.schema)


def _check_offsets(column: str, starts: Ints) -> None:
    if starts[0] != 0 or (np.diff(starts) < 0).any():
        raise IntegrityError(
            f"column {column} of the annotations is no list of offsets from 0 that never falls"
        )


def open_annotations(path: Path | str) -> Annotations:
    """Read a store folder, a COCO or kwcoco file (.json, .zip), or a LabelMe folder; what it is, is told from its content.

    Raises MissingInput, IntegrityError (not JSON, damaged), UsageError (none of these).
    """
    path = Path(path)
    if path.is_dir():
        from curate.polygons._store_files import HEADER_NAME, read_store

        if (path / HEADER_NAME).is_file():
            # a folder of made pictures has a COCO file of that name
            stored = any((path / f"{name}.parquet").exists() for name in TABLES)
            return read_store(path) if stored else _coco_beside(path / HEADER_NAME)
        if any(path.rglob("*.json")):
            from curate.polygons.labelme import read_labelme

            found: Annotations = read_labelme(path)
            return found
        raise UsageError(
            f"{path}: neither a store nor a folder of LabelMe files", hint="name a folder with .json files"
        )
    if not path.exists():
        raise MissingInput(f"{path}: no such file or folder")
    if not path.is_file():
        raise UsageError(f"{path}: neither a file nor a folder", hint="write it to a file first")
    from curate.polygons.coco import read_coco

    return read_coco(path)


def _coco_beside(path: Path) -> Annotations:
    from curate.polygons.coco import read_coco

    found = read_coco(path)
    if found.header.get("format") == _schema.FORMAT:
        raise MissingInput(f"{path.parent}: the tables of this store are gone", hint="make the store again")
    return found


def write_store(annotations: Annotations, folder: Path | str) -> None:
    """Write `annotations` as a store into a new or empty `folder`; the bytes depend on the annotations alone.

    Raises UsageError when the folder holds something.
    """
    from curate.polygons._store_files import write_store_files

    write_store_files(annotations, Path(folder))


def concat(datasets: Sequence[Annotations]) -> Annotations:
    """All datasets in one; see `_concat` for the rule by which ids that clash are changed."""
    from curate.polygons._concat import concat_all

    return concat_all(datasets)


def digest(annotations: Annotations) -> str:
    """SHA-256 (hex) of what the annotations say, whatever the order of images, annotations and keys; see `_digest`."""
    from curate.polygons._digest import digest_of

    return digest_of(annotations)


def pixel_digest(folder: Path | str, annotations: Annotations) -> str:
    """SHA-256 (hex) over the file names and file bytes of all images under `folder`; see `_digest`."""
    from curate.polygons._digest import pixel_digest_of

    return pixel_digest_of(Path(folder), annotations)
