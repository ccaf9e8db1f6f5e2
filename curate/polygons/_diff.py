"""What differs between two releases: images and annotations added, removed, changed (with keys and vertices) and renumbered.

Images are paired by id where their file name or sha256 agrees too; what is left by sha256, then by file name, then by equal content
with equal annotations (a renamed image). Annotations are paired within a pair of images: equal ones first, by id before others; then
by id, or, where the equal ones show that ids were renumbered, by category and boxes that overlap by half or more (the best first). What is
left was removed and added. Categories count by name.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate.polygons._diff_pairs import Matched, image_pairs
from curate.polygons._diff_rows import SEGMENTATION, Side, changed_keys
from curate.polygons._digest import canonical_bytes
from curate.polygons.store import Annotations

Ints = npt.NDArray[np.int64]
ADDED, REMOVED, CHANGED, RENUMBERED = "added", "removed", "changed", "renumbered"
CHANGES = {
    "change": pa.string(),
    "old_id": pa.int64(),
    "new_id": pa.int64(),
    "image": pa.string(),
    "keys": pa.list_(pa.string()),
}
IMAGE_CHANGES = pa.schema(list(CHANGES.items()))
ANNOTATION_CHANGES = pa.schema(
    [
        *CHANGES.items(),
        ("category", pa.string()),
        ("old_vertices", pa.int64()),
        ("new_vertices", pa.int64()),
        ("moved", pa.int64()),  # vertices at another place; null unless there are as many in as many parts
        ("farthest", pa.float64()),  # of those, in pixels
    ]
)


@dataclass
class Diff:
    """`images` and `annotations` list what is not equal; `counts` say how many of each, the equal ones too."""

    images: pa.Table
    annotations: pa.Table
    counts: dict[str, dict[str, int]]
    categories: list[dict[str, Any]] = field(default_factory=list)
    header: list[str] = field(
        default_factory=list
    )  # keys of the header that differ, categories not among them
    changed_images: int = 0  # pairs of images where the image or any annotation differs, ids apart

    @property
    def equal(self) -> bool:
        """Whether nothing differs, ids included."""
        return not (len(self.images) or len(self.annotations) or self.categories or self.header)

    def data(self, most: int = 1000) -> dict[str, Any]:
        """As plain data, with at most so many rows of each table."""
        return {
            "equal": self.equal,
            "counts": self.counts,
            "categories": self.categories,
            "header": self.header,
            "images": self.images.slice(0, most).to_pylist(),
            "annotations": self.annotations.slice(0, most).to_pylist(),
            "not_listed": max(0, len(self.images) - most) + max(0, len(self.annotations) - most),
        }

    def text(self, most: int = 20) -> str:
        """For people."""
        if self.equal:
            return "nothing differs"
        lines = []
        for what, counts in self.counts.items():
            told = ", ".join(f"{count:,} {change}" for change, count in counts.items() if count)
            lines.append(f"{what}: {told or 'none'}")
        if self.header:
            lines.append(f"header: {', '.join(self.header)}")
        lines += [f"category {entry['name']}: {entry['change']}{_keys(entry)}" for entry in self.categories]
        for what, table in (("image", self.images), ("annotation", self.annotations)):
            lines += [_line(what, row) for row in table.slice(0, most).to_pylist()]
            if len(table) > most:
                lines.append(f"and {len(table) - most:,} more {what}s")
        return "\n".join(lines)


def _keys(row: dict[str, Any]) -> str:
    return f" ({', '.join(row['keys'])})" if row["keys"] else ""


def _line(what: str, row: dict[str, Any]) -> str:
    ids = [str(row[key]) for key in ("old_id", "new_id") if row[key] is not None]
    who = " -> ".join(dict.fromkeys(ids))
    name = f" {row['image']}" if what == "image" else f" of {row['image']}"
    kind = f" {row['category']}" if row.get("category") else ""
    text = f"{row['change']}: {what} {who}{kind}{name}{_keys(row)}"
    if row["change"] != CHANGED or SEGMENTATION not in row["keys"]:
        return text
    if row["moved"] is not None:
        return f"{text}: {row['moved']:,} vertices moved, by at most {row['farthest']:g} pixels"
    return f"{text}: {row['old_vertices']:,} -> {row['new_vertices']:,} vertices"


def diff(old: Annotations, new: Annotations) -> Diff:
    """What `new` has that `old` has not, and the other way round; neither is changed."""
    one, two = Side(old), Side(new)
    pairs = image_pairs(one, two)
    images = _Table(IMAGE_CHANGES)
    annotations = _Table(ANNOTATION_CHANGES)
    differing = _images(one, two, pairs, images)
    differing |= _annotations(one, two, pairs, annotations)
    totals = {
        "images": images.counts(len(old.images), len(new.images)),
        "annotations": annotations.counts(len(old.annotations), len(new.annotations)),
    }
    categories = _categories(one, two)
    return Diff(
        images.table(), annotations.table(), totals, categories, _header(old, new, categories), len(differing)
    )


def _header(old: Annotations, new: Annotations, categories: list[dict[str, Any]]) -> list[str]:
    """Keys that differ; the order of objects with an id counts as little as for `store.digest`."""
    keys = sorted(old.header.keys() | new.header.keys())
    found = [key for key in keys if _told(old.header, key) != _told(new.header, key)]
    if categories and "categories" in found:
        found.remove("categories")
    return found + ([] if old.missing == new.missing else ["missing lists"])


def _told(header: dict[str, Any], key: str) -> bytes | None:
    if key not in header:
        return None
    value = header[key]
    if isinstance(value, list) and all(isinstance(entry, dict) and "id" in entry for entry in value):
        return b"\n".join(sorted(canonical_bytes(entry) for entry in value))
    return canonical_bytes(value)


class _Table:
    """Rows of changes, in the order in which they are sorted at the end: by change, then by ids."""

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema
        self.rows: list[dict[str, Any]] = []

    def add(self, change: str, old_id: int | None, new_id: int | None, image: str, **more: Any) -> None:
        row = {"change": change, "old_id": old_id, "new_id": new_id, "image": image, "keys": [], **more}
        self.rows.append(row)

    def counts(self, old: int, new: int) -> dict[str, int]:
        """How many of each change; old = removed + changed + renumbered + equal, new = added + the same."""
        found = Counter(row["change"] for row in self.rows)
        counts = {change: found[change] for change in (ADDED, REMOVED, CHANGED, RENUMBERED)}
        equal = old - counts[REMOVED] - counts[CHANGED] - counts[RENUMBERED]
        assert equal == new - counts[ADDED] - counts[CHANGED] - counts[RENUMBERED]
        return {**counts, "equal": equal}

    def table(self) -> pa.Table:
        order = {change: number for number, change in enumerate((REMOVED, ADDED, CHANGED, RENUMBERED))}
        self.rows.sort(key=lambda row: (order[row["change"]], row["old_id"] or 0, row["new_id"] or 0))
        return pa.Table.from_pylist(self.rows, schema=self.schema)


def _images(one: Side, two: Side, pairs: Ints, table: _Table) -> set[int]:
    """Fill in changes of images; old rows of pairs that differ."""
    ids_a = one.annotations.images["id"].to_pylist()
    ids_b = two.annotations.images["id"].to_pylist()
    files_a, files_b = (side.annotations.images["file_name"].to_pylist() for side in (one, two))
    differing = set()
    for a, b in pairs.tolist():
        equal = one.image_contents[a] == two.image_contents[b] and files_a[a] == files_b[b]
        if not equal:
            keys = changed_keys(one.image(a), two.image(b))
            table.add(CHANGED, ids_a[a], ids_b[b], two.image_names[b], keys=keys)
            differing.add(a)
        elif ids_a[a] != ids_b[b]:
            table.add(RENUMBERED, ids_a[a], ids_b[b], two.image_names[b])
    for row in sorted(set(range(len(ids_a))) - set(pairs[:, 0].tolist())):
        table.add(REMOVED, ids_a[row], None, one.image_names[row])
    for row in sorted(set(range(len(ids_b))) - set(pairs[:, 1].tolist())):
        table.add(ADDED, None, ids_b[row], two.image_names[row])
    return differing


def _annotations(one: Side, two: Side, pairs: Ints, table: _Table) -> set[int]:
    """Fill in changes of annotations; old rows of image pairs where anything but numbers differs."""
    matched = Matched(one, two, pairs)
    old_ids, new_ids = matched.old_ids, matched.new_ids
    for a, b in matched.equal:
        if old_ids[a] != new_ids[b]:
            count = two.vertex_count(b)
            facts = {"category": two.categories[b], "old_vertices": count, "new_vertices": count}
            table.add(RENUMBERED, old_ids[a], new_ids[b], _image_of(two, b), **facts)
    for _, a, b in matched.changed:
        keys = changed_keys(one.annotation(a), two.annotation(b))
        table.add(CHANGED, old_ids[a], new_ids[b], _image_of(two, b), keys=keys, **_facts(one, two, a, b))
    for _, a in matched.removed:
        facts = {"category": one.categories[a], "old_vertices": one.vertex_count(a)}
        table.add(REMOVED, old_ids[a], None, _image_of(one, a), **facts)
    for b in [*(b for _, b in matched.added), *matched.lone]:
        facts = {"category": two.categories[b], "new_vertices": two.vertex_count(b)}
        table.add(ADDED, None, new_ids[b], _image_of(two, b), **facts)
    touched = {image for image, *_ in (*matched.changed, *matched.removed, *matched.added)}
    return touched & set(pairs[:, 0].tolist())


def _image_of(side: Side, row: int) -> str:
    return side.image_names[int(side.annotations.image_rows[row])]


def _facts(one: Side, two: Side, a: int, b: int) -> dict[str, Any]:
    """Category and vertices of a pair."""
    old, new = one.annotations, two.annotations
    spans = [slice(*side.part_starts[row : row + 2]) for side, row in ((old, a), (new, b))]
    counts = [
        np.diff(side.vertex_starts[span.start : span.stop + 1])
        for side, span in zip((old, new), spans, strict=True)
    ]
    facts: dict[str, Any] = {
        "category": two.categories[b],
        "old_vertices": int(counts[0].sum()),
        "new_vertices": int(counts[1].sum()),
    }
    if np.array_equal(counts[0], counts[1]):
        rings = [
            np.concatenate([side.ring(part) for part in range(span.start, span.stop)] or [np.zeros((0, 2))])
            for side, span in zip((old, new), spans, strict=True)
        ]
        away = np.hypot(*(rings[1] - rings[0]).T)
        facts |= {"moved": int((away > 0).sum()), "farthest": float(away.max(initial=0.0))}
    return facts


def _categories(one: Side, two: Side) -> list[dict[str, Any]]:
    """Categories by name (else by id) that are not equal."""
    old, new = _by_name(one), _by_name(two)
    found = []
    for name in sorted(old.keys() | new.keys(), key=str):
        if name not in new:
            found.append({"name": name, "change": REMOVED, "keys": []})
        elif name not in old:
            found.append({"name": name, "change": ADDED, "keys": []})
        else:
            keys = changed_keys(old[name], new[name])
            if keys:
                found.append(
                    {"name": name, "change": RENUMBERED if keys == ["id"] else CHANGED, "keys": keys}
                )
    return found


def _by_name(side: Side) -> dict[Any, dict[str, Any]]:
    return {
        side.category_names.get(entry["id"], entry["id"])
        if type(entry.get("id")) is int
        else str(entry.get("name")): entry
        for entry in side.annotations.categories()
    }
