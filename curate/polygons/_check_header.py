"""Checks of the lists at the top of a file: categories, videos, tracks, keypoint categories, licences."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from curate.polygons._field_rules import ENTRIES, integer
from curate.polygons._field_rules import name as name_rule
from curate.polygons._findings import Collector
from curate.polygons.store import Annotations

LISTS = (
    "images",
    "annotations",
    "categories",
    "licenses",
    *(name for name in ENTRIES if name != "categories"),
)


def check_header(annotations: Annotations, out: Collector) -> None:
    """All findings about lists; those of images and annotations themselves are of `_check_rows`."""
    header = annotations.header
    absent = [*annotations.missing, *(["categories"] if "categories" not in header else [])]
    for name in absent:
        out.whole("list-missing", name, f"there is no list of {name}")
    for name in LISTS:
        if name not in header:
            continue
        if not isinstance(header[name], list):
            # kwcoco takes anything as licenses
            if name != "licenses" or out.profile != "kwcoco":
                out.whole("list-type", name, f"{name} is no list")
            continue
        if name in ENTRIES:
            _entries(name, header[name], out)


def ids_of(annotations: Annotations, name: str) -> set[int]:
    """The ids of a list of the header that are whole numbers."""
    found = annotations.header.get(name)
    entries = found if isinstance(found, list) else []
    return {int(entry["id"]) for entry in entries if isinstance(entry, dict) and integer(entry.get("id"))}


def id_fault(value: Any) -> tuple[str, str] | None:
    """(code, message) for a value that is no good id; None for an integer from 0 of 63 bits."""
    if isinstance(value, float) and value.is_integer():
        return "id-float", f"the id {value!r} is a float"
    if not isinstance(value, int) or isinstance(value, bool):
        return "id-type", f"the id {_short(value)} is no integer"
    if not -(1 << 63) <= value < 1 << 63:
        return "id-range", f"the id {value} is beyond 64 bits"
    return ("id-negative", f"the id {value} is below 0") if value < 0 else None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:39] + "…"


def _entries(name: str, entries: list[Any], out: Collector) -> None:
    rules, required = ENTRIES[name]
    ids: dict[Hashable, int] = {}
    names: dict[str, int] = {}
    for row, entry in enumerate(entries):
        if not isinstance(entry, dict):
            out.add("list-type", name, [row], f"entry {row} of {name} is no object")
            continue
        if "id" not in entry:
            out.add("id-missing", name, [row], f"entry {row} of {name} has no id")
        elif (fault := id_fault(entry["id"])) is not None:
            out.add(fault[0], name, [row], fault[1])
        value = entry.get("id")
        if isinstance(value, int | float | str) and ids.setdefault(value, row) != row:
            out.add("id-duplicate", name, [row], f"the id {_short(value)} is also that of entry {ids[value]}")
        title = entry.get("name")
        if not name_rule(title) and ("name" in required or "name" in entry):
            out.add("name-missing", name, [row], f"entry {row} of {name} has no name that is a text")
        elif isinstance(title, str) and names.setdefault(title, row) != row and name != "tracks":
            out.add(
                "name-duplicate",
                name,
                [row],
                f"the name {_short(title)} is also that of entry {names[title]}",
            )
        for key, rule in rules.items():
            if key in entry and not rule(entry[key]):
                out.add("entry-field", name, [row], f"{key} is {_short(entry[key])}")
