"""Annotations to one JSON object, in pieces: coordinates become text column by column, the rest row by row.

Every number is written so that it reads back as the same double; whole ones without a point. The bytes depend on the annotations alone.
"""

from __future__ import annotations

import functools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curate.polygons._json_strict import dump, loads
from curate.polygons._rle import counts_of, string_of
from curate.polygons._schema import IMAGE_KEYS, Form
from curate.polygons.store import Annotations
from headwater.errors import IntegrityError
from headwater.files import atomic_file

PIECE_ROWS = 4096
ZIP_TIME = (1980, 1, 1, 0, 0, 0)


def write_document(annotations: Annotations, path: Path) -> None:
    """Write as JSON, or as the same JSON in a zip where the name ends in .zip; atomically.

    Raises IntegrityError where a value cannot be written as JSON (NaN, infinity, an `extra` that is no object).
    """
    with atomic_file(path) as out:
        if path.suffix.lower() != ".zip":
            _write(annotations, out)
            return
        inner = path.name[: -len(".zip")]
        info = zipfile.ZipInfo(inner if inner.endswith(".json") else f"{inner}.json", ZIP_TIME)
        info.compress_type = zipfile.ZIP_DEFLATED
        info.external_attr = 0o644 << 16
        with zipfile.ZipFile(out, "w") as archive, archive.open(info, "w", force_zip64=True) as member:
            _write(annotations, member)


def _write(annotations: Annotations, out: IO[bytes]) -> None:
    out.write(b"{")
    comma = b""
    for key, value in annotations.header.items():
        try:
            out.write(comma + dump(key).encode() + b":" + dump(value).encode())
        except (ValueError, TypeError) as error:
            raise IntegrityError(f"the header's {key!r} cannot be written as JSON: {error}") from error
        comma = b",\n"
    for name, pieces in (("images", image_texts), ("annotations", annotation_texts)):
        if name in annotations.missing or name in annotations.header:
            continue
        out.write(comma + f'"{name}":['.encode())
        lead = b"\n"
        for texts in pieces(annotations):
            out.write(lead + ",\n".join(texts).encode())
            lead = b",\n"
        out.write(b"\n]")
        comma = b",\n"
    out.write(b"}\n")


def image_texts(annotations: Annotations) -> Iterator[list[str]]:
    """The JSON of each image, some rows at a time."""
    for start in range(0, len(annotations.images), PIECE_ROWS):
        texts = []
        for row in annotations.images.slice(start, PIECE_ROWS).to_pylist():
            extra = row.pop("extra")
            found = {IMAGE_KEYS.get(key, key): value for key, value in row.items() if value is not None}
            texts.append(_joined(dump(found)[1:-1], found, extra))
        yield texts


def annotation_texts(annotations: Annotations) -> Iterator[list[str]]:
    """The JSON of each annotation, some rows at a time."""
    for start in range(0, len(annotations.annotations), PIECE_ROWS):
        stop = min(start + PIECE_ROWS, len(annotations.annotations))
        rings = _ring_texts(annotations, start, stop)
        first = int(annotations.part_starts[start])
        texts = []
        for offset, row in enumerate(annotations.annotations.slice(start, stop - start).to_pylist()):
            span = slice(
                *(int(at) - first for at in annotations.part_starts[start + offset : start + offset + 2])
            )
            exteriors = annotations.exteriors[first + span.start : first + span.stop]
            texts.append(_annotation(row, rings[span], exteriors))
        yield texts


def _annotation(row: dict[str, Any], rings: list[str], exteriors: npt.NDArray[np.int32]) -> str:
    found: dict[str, Any] = {}
    parts: list[str] = []
    for key in ("id", "image_id", "category_id", "track_id"):
        if row[key] is not None:
            found[key] = True
            parts.append(f'"{key}":{row[key]}')
    shape = _shape(row, rings, exteriors)
    if shape is not None:
        found["points" if row["form"] == Form.SHAPE else "segmentation"] = True
        parts.append(shape)
    if row["bbox_x"] is not None:
        found["bbox"] = True
        sides = ",".join(number(row[f"bbox_{side}"]) for side in "xywh")
        parts.append(f'"bbox":[{sides}]')
    for key in ("area", "score"):
        if row[key] is not None:
            found[key] = True
            parts.append(f'"{key}":{number(row[key])}')
    if row["iscrowd"] is not None:
        found["iscrowd"] = True
        parts.append(f'"iscrowd":{row["iscrowd"]}')
    if row["keypoints"] is not None:
        found["keypoints"] = True
        parts.append(f'"keypoints":{_value(row["keypoints"])}')
    if row["source"] is not None:
        found["source"] = True
        parts.append(f'"source":{dump(row["source"])}')
    return _joined(",".join(parts), found, row["extra"])


def _shape(row: dict[str, Any], rings: list[str], exteriors: npt.NDArray[np.int32]) -> str | None:
    form = row["form"]
    residue = loads(row["segmentation_extra"].encode()) if row["segmentation_extra"] else None
    if form == Form.NONE:
        return None
    if form == Form.SHAPE:
        return f'"points":{_pairs(rings[0]) if rings else "[]"}'
    if form == Form.COCO_POLYGONS:
        return f'"segmentation":[{",".join([f"[{ring}]" for ring in rings])}]'.replace(";", ",")
    if form in (Form.RLE_COUNTS, Form.RLE_STRING):
        counts = counts_of(row["rle"] or b"")
        text = dump(string_of(counts)) if form == Form.RLE_STRING else dump(counts.tolist())
        other = "".join(f",{dump(key)}:{dump(value)}" for key, value in _keys(residue, 0).items())
        return f'"segmentation":{{"size":[{row["rle_height"]},{row["rle_width"]}],"counts":{text}{other}}}'
    polygons: dict[int, list[str]] = {}
    for ring, exterior in zip(rings, exteriors.tolist(), strict=True):
        polygons.setdefault(exterior, []).append(_pairs(ring))
    texts = [_polygon(found, residue, place) for place, found in enumerate(polygons.values())]
    if form == Form.KW_ONE and len(texts) == 1:
        return f'"segmentation":{texts[0]}'
    return f'"segmentation":[{",".join(texts)}]'


def _polygon(rings: list[str], residue: Any, place: int) -> str:
    keys = _keys(residue, place)
    text = f'"exterior":{rings[0]}'
    if not (residue and residue[place].get("no_interiors")) and "interiors" not in keys:
        text += f',"interiors":[{",".join(rings[1:])}]'
    return "{" + text + "".join(f",{dump(key)}:{dump(value)}" for key, value in keys.items()) + "}"


def _keys(residue: Any, place: int) -> dict[str, Any]:
    found = residue[place].get("keys", {}) if residue else {}
    assert isinstance(found, dict)
    return found


def _pairs(ring: str) -> str:
    """[[x,y],…] from the text "x,y;x,y"."""
    return f"[[{ring.replace(';', '],[')}]]" if ring else "[]"


def _ring_texts(annotations: Annotations, start: int, stop: int) -> list[str]:
    """The text "x,y;x,y…" of each part of the annotation rows start … stop."""
    parts = slice(int(annotations.part_starts[start]), int(annotations.part_starts[stop]))
    offsets = annotations.vertex_starts[parts.start : parts.stop + 1]
    if len(offsets) < 2:
        return []
    vertices = slice(int(offsets[0]), int(offsets[-1]))
    points = pc.binary_join_element_wise(
        texts_of(annotations.x[vertices]), texts_of(annotations.y[vertices]), ","
    )
    lists = pa.LargeListArray.from_arrays(pa.array(offsets - offsets[0]), points)
    return pc.binary_join(lists, ";").to_pylist()  # type: ignore[no-any-return]


def texts_of(values: npt.NDArray[np.float64]) -> pa.Array:
    """The shortest text of each double, as JSON. Raises IntegrityError for NaN and infinity."""
    if not np.isfinite(values).all():
        raise IntegrityError(
            "a coordinate is NaN or infinite, which JSON cannot say",
            hint="headwater polygons validate lists them",
        )
    texts = pc.cast(pa.array(values), pa.string())
    negative_zero = (values == 0) & np.signbit(values)
    return pc.if_else(pa.array(negative_zero), "-0.0", texts) if negative_zero.any() else texts


def number(value: float) -> str:
    """One double as JSON, as `texts_of` writes it where it is whole and small."""
    if value.is_integer() and abs(value) < 1e15 and (value or str(value) == "0.0"):
        return str(int(value))
    if not np.isfinite(value):
        raise IntegrityError(
            "a number is NaN or infinite, which JSON cannot say",
            hint="headwater polygons validate lists them",
        )
    return repr(value)


def _joined(text: str, found: dict[str, Any], extra: str | None) -> str:
    """The object of `text` (columns) and `extra`."""
    if extra is None:
        return "{" + text + "}"
    inside, keys = _inside(extra)
    if twice := keys & found.keys():
        raise IntegrityError(f"the key {sorted(twice)[0]!r} stands in a column and in `extra`")
    return "{" + text + ("," if text and inside else "") + inside + "}"


@functools.lru_cache(4096)
def _inside(extra: str) -> tuple[str, frozenset[str]]:
    try:
        found = loads(extra.encode())
    except ValueError as error:
        raise IntegrityError(f"an `extra` is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise IntegrityError("an `extra` is no JSON object")
    return dump(found)[1:-1], frozenset(found)


@functools.lru_cache(4096)
def _value(text: str) -> str:
    try:
        return dump(loads(text.encode()))
    except ValueError as error:
        raise IntegrityError(f"`keypoints` is not JSON: {error}") from error
