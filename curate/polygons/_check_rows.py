"""Checks of the rows of images and annotations: ids, references, fields. No geometry."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate.polygons._check_header import _short, id_fault, ids_of
from curate.polygons._field_rules import ANNOTATION, IMAGE, OWN_CODES, Rule, integer, list_of, number
from curate.polygons._findings import Collector
from curate.polygons.store import Annotations, values

Told = list[tuple[str, str]]  # (code, message)
Bools = npt.NDArray[np.bool_]

_UNSAFE = re.compile(r"^[/\\]|^[A-Za-z]:|^[A-Za-z][A-Za-z0-9+.-]*://|\\|\0|(?:^|/)\.\.(?:/|$)")
TRIPLES = list_of(number)


def safe_name(file_name: str) -> bool:
    """Whether a file name stays within the folder it is joined to (links aside)."""
    return bool(file_name) and _UNSAFE.search(file_name) is None


class Extras:
    """The other keys of rows: each different text is parsed and judged once."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        encoded = column.combine_chunks().dictionary_encode()
        self._texts: list[str] = encoded.dictionary.to_pylist()
        self.objects: list[dict[str, Any]] = [json.loads(text) for text in self._texts]
        codes = encoded.indices
        self.which = (
            codes.fill_null(-1).to_numpy(zero_copy_only=False) if codes.null_count else codes.to_numpy()
        )

    def having(self, *keys: str) -> Bools:
        """The rows with one of these keys."""
        hit = np.array([any(key in entry for key in keys) for entry in self.objects] + [False])
        return hit[self.which]  # type: ignore[no-any-return]

    def at(self, row: int) -> dict[str, Any]:
        """The other keys of a row."""
        place = self.which[row]
        return self.objects[place] if place >= 0 else {}

    def judge(self, rule: Callable[[dict[str, Any]], Told], table: str, out: Collector) -> None:
        """Add what `rule` tells of each row's other keys."""
        rows: dict[int, list[int]] | None = None
        for place, entry in enumerate(self.objects):
            for code, message in rule(entry):
                if rows is None:
                    rows = {}
                    for row, number_ in enumerate(self.which.tolist()):
                        rows.setdefault(number_, []).append(row)
                out.add(code, table, rows[place], message)


def fields(rules: dict[str, Rule], *, own: tuple[str, ...] = ()) -> Callable[[dict[str, Any]], Told]:
    """A rule for `Extras.judge` by kwcoco's schema; null in a field of `own`, which has codes itself, is told too."""

    def judge(entry: dict[str, Any]) -> Told:
        told: Told = []
        for key, value in entry.items():
            if value is None and key in own:
                told.append(("field-null", f"{key} is null"))
            elif key in rules and not rules[key](value):
                told.append(
                    ("field-null", f"{key} is null")
                    if value is None
                    else ("field-type", f"{key} is {_short(value)}")
                )
        return told

    return judge


def check_ids(table: pa.Table, name: str, extras: Extras, out: Collector) -> None:
    """Findings about the ids of images or annotations."""
    ids, known = values(table, "id")
    given = extras.having("id")
    out.add("id-missing", name, ~known & ~given, "there is no id")
    extras.judge(lambda entry: _id_told(entry), name, out)
    out.add("id-negative", name, known & (ids < 0), lambda row: f"the id {ids[row]} is below 0")
    rows = np.flatnonzero(known)
    order = rows[np.argsort(ids[rows], kind="stable")]
    later = order[1:][ids[order[1:]] == ids[order[:-1]]]
    out.add(
        "id-duplicate", name, np.sort(later), lambda row: f"the id {ids[row]} is that of an earlier entry"
    )


def _id_told(entry: dict[str, Any]) -> Told:
    fault = id_fault(entry["id"]) if "id" in entry else None
    return [fault] if fault else []


def check_images(
    annotations: Annotations, extras: Extras, sizes: dict[int, tuple[int, int]], out: Collector
) -> None:
    """Findings about the images; `sizes` are those of files that were looked at, by row."""
    table = annotations.images
    check_ids(table, "images", extras, out)
    _file_names(table, extras, out)
    width, has_width = values(table, "width")
    height, has_height = values(table, "height")
    absent = ~(has_width & has_height)
    unsure = extras.having("width", "height")
    rows = np.flatnonzero(absent & ~unsure).tolist()
    for row in np.flatnonzero(absent & unsure).tolist():
        entry = extras.at(row)
        if all(entry[key] is None for key in ("width", "height") if key in entry):
            rows.append(row)
        else:
            told = ", ".join(f"{key} is {_short(entry[key])}" for key in ("width", "height") if key in entry)
            out.add("image-size-type", "images", [row], told)
    rows.sort()
    out.add(
        "image-size-missing",
        "images",
        rows,
        "there is no width or no height",
        [sizes.get(row) for row in rows],
    )
    wrong = np.flatnonzero((has_width & (width < 1)) | (has_height & (height < 1)))
    told_sizes = [f"the size is {width[row]} x {height[row]}" for row in wrong]
    out.add("image-size-range", "images", wrong, told_sizes, [sizes.get(row) for row in wrong.tolist()])
    turn, turned = values(table, "orientation")
    out.add(
        "orientation-range",
        "images",
        turned & ((turn < 1) | (turn > 8)),
        lambda row: f"the orientation is {turn[row]}",
    )
    extras.judge(_orientation_told, "images", out)
    extras.judge(fields(IMAGE, own=("width", "height")), "images", out)
    if out.tells("license-dangling"):
        licenses = ids_of(annotations, "licenses")
        extras.judge(
            lambda entry: (
                (
                    [("license-dangling", f"there is no licence {_short(entry['license'])}")]
                    if entry.get("license") is not None and entry["license"] not in licenses
                    else []
                )
                if isinstance(entry.get("license"), int | float | str | None)
                else []
            ),
            "images",
            out,
        )


def _orientation_told(entry: dict[str, Any]) -> Told:
    key = "exif_orientation"
    return (
        [("orientation-range", f"the orientation is {_short(entry[key])}")]
        if entry.get(key) is not None
        else []
    )


def _file_names(table: pa.Table, extras: Extras, out: Collector) -> None:
    names = table["file_name"].to_pylist()
    missing, kinds, unsafe, twice = [], [], [], []
    seen: dict[str, int] = {}
    for row, name in enumerate(names):
        if name is None:
            entry = extras.at(row)
            if entry.get("file_name") is not None:
                kinds.append(row)
            elif not (out.profile == "kwcoco" and "id" not in entry and _has_assets(entry)):
                missing.append(row)
        else:
            if _UNSAFE.search(name) or not name:
                unsafe.append(row)
            if seen.setdefault(name, row) != row:
                twice.append(row)
    out.add("file-name-missing", "images", missing, "there is no file name")
    out.add(
        "file-name-type",
        "images",
        kinds,
        lambda row: f"the file name is {_short(extras.at(row)['file_name'])}",
    )
    out.add(
        "file-name-unsafe",
        "images",
        unsafe,
        lambda row: f"the file name {_short(names[row])} leads out of the folder",
    )
    out.add(
        "file-name-duplicate",
        "images",
        twice,
        lambda row: f"the file {_short(names[row])} is also that of image row {seen[names[row]]}",
    )


def _has_assets(entry: dict[str, Any]) -> bool:
    # kwcoco's schema also takes a null file name alone; an image must then be found by its assets
    return "file_name" in entry or ("name" in entry and ("assets" in entry or "auxiliary" in entry))


def check_references(annotations: Annotations, extras: Extras, out: Collector) -> None:
    """Findings about the ids and references of annotations."""
    table = annotations.annotations
    check_ids(table, "annotations", extras, out)
    image, given = values(table, "image_id")
    out.add("image-id-missing", "annotations", ~given, lambda row: _wrong("image_id", extras.at(row)))
    out.add(
        "image-dangling",
        "annotations",
        given & (annotations.image_rows < 0),
        lambda row: f"there is no image {image[row]}",
    )
    category, has = values(table, "category_id")
    odd = extras.having("category_id")
    nothing = [row for row in np.flatnonzero(odd).tolist() if extras.at(row)["category_id"] is None]
    odd[nothing] = False
    absent = ~has & ~odd
    if out.profile == "kwcoco":  # its schema takes 1.0 for an integer
        odd[[row for row in np.flatnonzero(odd).tolist() if integer(extras.at(row)["category_id"])]] = False
    out.add("category-id-missing", "annotations", absent, "there is no category")
    out.add("category-id-type", "annotations", odd, lambda row: _wrong("category_id", extras.at(row)))
    known = np.fromiter(
        (entry for entry in ids_of(annotations, "categories") if -(1 << 63) <= entry < 1 << 63), np.int64
    )
    out.add(
        "category-dangling",
        "annotations",
        has & ~np.isin(category, known),
        lambda row: f"there is no category {category[row]}",
    )
    if isinstance(annotations.header.get("tracks"), list):
        track, tracked = values(table, "track_id")
        tracks = np.fromiter(
            (entry for entry in ids_of(annotations, "tracks") if -(1 << 63) <= entry < 1 << 63), np.int64
        )
        out.add(
            "track-dangling",
            "annotations",
            tracked & ~np.isin(track, tracks),
            lambda row: f"there is no track {track[row]}",
        )


def check_fields(annotations: Annotations, extras: Extras, out: Collector) -> None:
    """Findings about the other fields of annotations."""
    table = annotations.annotations
    extras.judge(fields(ANNOTATION, own=("bbox", "area", "keypoints")), "annotations", out)
    crowd, has = values(table, "iscrowd")
    absent = ~has & ~extras.having("iscrowd")
    out.add("iscrowd-missing", "annotations", absent, "there is no iscrowd")
    out.add(
        "iscrowd-range",
        "annotations",
        has & (crowd != 0) & (crowd != 1),
        lambda row: f"iscrowd is {crowd[row]}",
    )
    extras.judge(_crowd_told, "annotations", out)
    _keypoints(table, extras, out)


def _crowd_told(entry: dict[str, Any]) -> Told:
    value = entry.get("iscrowd")
    return (
        [] if value is None or isinstance(value, bool) else [("iscrowd-range", f"iscrowd is {_short(value)}")]
    )


def _keypoints(table: pa.Table, extras: Extras, out: Collector) -> None:
    column = table["keypoints"]
    if column.null_count == len(column) and not extras.having("keypoints").any():
        return
    bad = []
    for row, text in enumerate(column.to_pylist()):
        if text is not None:
            found = json.loads(text)
            triples = TRIPLES(found) and len(found) % 3 == 0
            objects = out.profile != "coco" and OWN_CODES["keypoints"](found) and not TRIPLES(found)
            if not (triples or objects):
                bad.append(row)
    out.add("keypoints-form", "annotations", bad, "keypoints are no x, y, v triples")
    extras.judge(
        lambda entry: (
            [("keypoints-form", "keypoints are no list")] if entry.get("keypoints") is not None else []
        ),
        "annotations",
        out,
    )


def _wrong(key: str, entry: dict[str, Any]) -> str:
    return f"{key} is {_short(entry[key])}" if key in entry else f"there is no {key}"
