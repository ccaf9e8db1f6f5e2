"""Several datasets in one, by one rule for ids.

An id of a later dataset stays as it is where no earlier dataset uses it, and else becomes the next number after the largest id that
any of them uses; in their order. So the first dataset keeps all its ids, and datasets without a common id keep theirs.

- Categories (and keypoint categories, licenses) with equal content but for the id are one; so are categories of one name when what both
  say agrees (a key that only one has is taken over); a category whose content differs is refused by name.
- Images, annotations, videos and tracks are never merged: a duplicate is for `polygons diff` and `validate` to find.
- What refers to an id follows it: image_id, category_id, track_id, and in `extra` video_id, license, keypoint_category_id.
- Other header keys: equal ones stay; `info` becomes a list of all; lists are joined; others that differ are refused by name.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate.polygons._json_strict import dump, loads
from curate.polygons.store import TABLES, Annotations, set_column, values
from headwater.errors import UsageError

Mapping = dict[int, int]
MERGED = ("categories", "keypoint_categories", "licenses")  # lists in the header whose equal entries are one
KEPT = ("videos", "tracks")  # lists in the header whose entries are never one
EXTRA_KEYS = {"video_id": "videos", "license": "licenses"}  # of an image


def concat_all(datasets: Sequence[Annotations]) -> Annotations:
    """See `store.concat`. Raises UsageError for headers that contradict each other, and for no dataset at all."""
    if not datasets:
        raise UsageError("nothing to put together", hint="name at least one dataset")
    if len(datasets) == 1:
        return datasets[0].replace()
    header, maps = _headers(datasets)
    images = _maps([_ids(dataset.images, "id") for dataset in datasets])
    annotations = _maps([_ids(dataset.annotations, "id") for dataset in datasets])
    tables: dict[str, list[pa.Table]] = {name: [] for name in TABLES}
    parts = vertices = 0
    for number, dataset in enumerate(datasets):
        mine = {name: maps[name][number] for name in maps}
        tables["images"].append(_images(dataset.images, images[number], mine))
        table = _renumbered(dataset.annotations, "id", annotations[number])
        table = _renumbered(table, "image_id", images[number])
        table = _renumbered(table, "category_id", mine["categories"])
        table = _renumbered(table, "track_id", mine["tracks"])
        table = _keypoints(table, mine["keypoint_categories"])
        tables["annotations"].append(set_column(table, "first_part", dataset.part_starts[:-1] + parts))
        tables["parts"].append(
            set_column(dataset.parts, "first_vertex", dataset.vertex_starts[:-1] + vertices)
        )
        tables["vertices"].append(dataset.vertices)
        parts += len(dataset.parts)
        vertices += len(dataset.vertices)
    missing = set.intersection(*(set(dataset.missing) for dataset in datasets))
    joined = {name: pa.concat_tables(found) for name, found in tables.items()}
    return Annotations(header, missing=tuple(name for name in TABLES if name in missing), **joined)


def _ids(table: pa.Table, column: str) -> npt.NDArray[np.int64]:
    found, given = values(table, column)
    return found[given]


def _maps(ids: Sequence[npt.NDArray[np.int64]]) -> list[Mapping]:
    """For each dataset the ids that change; a duplicate within one dataset changes with its twin."""
    used: set[int] = set()
    top = max((int(found.max()) for found in ids if len(found)), default=0)
    maps = []
    for found in ids:
        own = list(dict.fromkeys(found.tolist()))
        mapping: Mapping = {}
        for identity in own:
            if identity in used:
                top += 1
                mapping[identity] = top
        used.update(mapping.get(identity, identity) for identity in own)
        maps.append(mapping)
    return maps


def _renumbered(table: pa.Table, column: str, mapping: Mapping) -> pa.Table:
    if not mapping:
        return table
    found, given = values(table, column)
    old = np.array(sorted(mapping), np.int64)
    new = np.array([mapping[int(identity)] for identity in old], np.int64)
    place = np.minimum(np.searchsorted(old, found), len(old) - 1)
    changed = np.where(old[place] == found, new[place], found)
    return set_column(table, column, pa.array(changed, pa.int64(), mask=~given))


def _listed(header: dict[str, Any], name: str) -> list[dict[str, Any]]:
    found = header.get(name)
    entries = found if isinstance(found, list) else []
    return [entry for entry in entries if isinstance(entry, dict) and type(entry.get("id")) is int]


def _headers(datasets: Sequence[Annotations]) -> tuple[dict[str, Any], dict[str, list[Mapping]]]:
    headers = [dataset.header for dataset in datasets]
    if odd := {"images", "annotations"} & {name for header in headers for name in header}:
        raise UsageError(f"{odd.pop()!r} of a dataset is no list", hint="headwater polygons validate")
    joined: dict[str, Any] = {}
    maps: dict[str, list[Mapping]] = {name: [{} for _ in headers] for name in MERGED}
    for name in KEPT:
        maps[name] = _maps([_kept_ids(dataset, name) for dataset in datasets])
    for name in dict.fromkeys(name for header in headers for name in header):
        found = [copy.deepcopy(header.get(name)) for header in headers]
        given = [value for header, value in zip(headers, found, strict=True) if name in header]
        if name in MERGED and all(isinstance(value, list) for value in given):
            joined[name], maps[name] = _merged(name, found)
        elif name in KEPT and all(isinstance(value, list) for value in given):
            joined[name] = _kept(found, maps[name])
        elif all(dump(value) == dump(given[0]) for value in given):
            joined[name] = given[0]
        elif name == "info" or all(isinstance(value, list) for value in given):
            joined[name] = [
                entry for value in given for entry in (value if isinstance(value, list) else [value])
            ]
        else:
            raise UsageError(f"the datasets contradict each other: {name!r} differs in their headers")
    return joined, maps


def _kept_ids(dataset: Annotations, name: str) -> npt.NDArray[np.int64]:
    """Ids in a list of the header; tracks that it does not list count as well."""
    ids = [entry["id"] for entry in _listed(dataset.header, name)]
    used = _ids(dataset.annotations, "track_id").tolist() if name == "tracks" else []
    return np.array(ids + used, np.int64)


def _kept(found: list[Any], maps: list[Mapping]) -> list[Any]:
    entries = []
    for value, mapping in zip(found, maps, strict=True):
        for entry in value or []:
            if isinstance(entry, dict) and type(entry.get("id")) is int:
                entry["id"] = mapping.get(entry["id"], entry["id"])
            entries.append(entry)
    return entries


def _merged(name: str, found: list[Any]) -> tuple[list[Any], list[Mapping]]:
    entries: list[Any] = []
    maps: list[Mapping] = []
    top = max((entry["id"] for value in found for entry in _listed({name: value}, name)), default=0)
    for value in found:
        mapping: Mapping = {}
        for entry in value or []:
            if not isinstance(entry, dict) or type(entry.get("id")) is not int:
                if entry not in entries:
                    entries.append(entry)
                continue
            twin = _twin(name, entry, entries)
            if twin is not None:
                twin.update({key: item for key, item in entry.items() if key not in twin})
                if twin["id"] != entry["id"]:
                    mapping[entry["id"]] = twin["id"]
                continue
            if any(isinstance(other, dict) and other.get("id") == entry["id"] for other in entries):
                top += 1
                mapping[entry["id"]] = top
                entry = {**entry, "id": top}
            entries.append(entry)
        maps.append(mapping)
    return entries, maps


def _twin(name: str, entry: dict[str, Any], entries: list[Any]) -> dict[str, Any] | None:
    """The entry that is the same thing."""
    for other in entries:
        if not isinstance(other, dict) or type(other.get("id")) is not int:
            continue
        differing = [
            key for key in entry.keys() & other.keys() - {"id"} if dump(entry[key]) != dump(other[key])
        ]
        if entry.get("name") is not None and entry.get("name") == other.get("name"):
            if not differing:
                return other
            if name == "categories":
                raise UsageError(
                    f"the datasets contradict each other: category {entry['name']!r} differs in {', '.join(sorted(differing))}",
                    hint="rename one of them",
                )
        elif not differing and entry.keys() == other.keys():
            return other
    return None


def _images(table: pa.Table, mapping: Mapping, maps: dict[str, Mapping]) -> pa.Table:
    table = _renumbered(table, "id", mapping)
    changed = {key: maps[name] for key, name in EXTRA_KEYS.items() if maps[name]}
    if not changed:
        return table
    texts = []
    for text in table["extra"].to_pylist():
        extra = loads(text.encode()) if text else {}
        for key, new in changed.items():
            if type(extra.get(key)) is int:
                extra[key] = new.get(extra[key], extra[key])
        texts.append(dump(extra) if extra else None)
    return set_column(table, "extra", texts)


def _keypoints(table: pa.Table, mapping: Mapping) -> pa.Table:
    if not mapping:
        return table
    texts = []
    for text in table["keypoints"].to_pylist():
        points = loads(text.encode()) if text else None
        for point in points or []:
            if isinstance(point, dict) and type(point.get("keypoint_category_id")) is int:
                own = point["keypoint_category_id"]
                point["keypoint_category_id"] = mapping.get(own, own)
        texts.append(None if text is None else dump(points))
    return set_column(table, "keypoints", texts)
