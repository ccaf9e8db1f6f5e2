"""Several datasets in one, a part of one, and what differs between two releases (`_diff`).

`union` and `subset` give new Annotations and counts that close; neither changes what it is given.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curate.polygons._diff import Diff, diff
from curate.polygons.store import Annotations, concat
from headwater.errors import BadInputs, UsageError, nearest
from headwater.manifest import Counts

__all__ = ["Diff", "Merged", "diff", "subset", "union"]

Bools = npt.NDArray[np.bool_]
SAME = ("refuse", "first", "keep")


@dataclass(frozen=True)
class Merged:
    """The dataset, the images that went in and came out, and what somebody should know."""

    annotations: Annotations
    counts: Counts
    notes: list[str] = field(default_factory=list)


def union(datasets: Sequence[Annotations], same: str = "refuse") -> Merged:
    """All datasets in one; ids that clash are changed by the rule of `store.concat`, so the first keeps all of its ids.

    `same`: what becomes of an image of a later dataset whose file name an earlier one has: "refuse" (BadInputs naming them), "first"
    (left out with its annotations; where those or the image differ, that is told), "keep" (both stay). An equal name with another
    sha256 is another image, and is refused unless all are kept.
    """
    if same not in SAME:
        raise UsageError(f"same is {same!r}: {nearest(same, SAME)}")
    if same == "keep":
        joined = concat(datasets)
        return Merged(joined, Counts(unit="images", read=len(joined.images), kept=len(joined.images)))
    seen: dict[str, tuple[int, int]] = {}
    twice: list[list[tuple[int, tuple[int, int]]]] = []
    for number, dataset in enumerate(datasets):
        names = dataset.images["file_name"].to_pylist()
        hits = [(row, seen[name]) for row, name in enumerate(names) if name is not None and name in seen]
        twice.append(hits)
        for row, name in enumerate(names):
            if name is not None:
                seen.setdefault(name, (number, row))
    _refuse_other_contents(datasets, twice)
    total = sum(map(len, twice))
    if total and same == "refuse":
        names = [
            dataset.images["file_name"][row].as_py()
            for dataset, hits in zip(datasets, twice, strict=True)
            for row, _ in hits
        ]
        raise BadInputs(
            f"{total:,} images are in several of the datasets: {_some(names)}",
            hint="keep those of the first dataset that has them (first), or all (keep)",
        )
    parts, differ = [], 0
    for dataset, hits in zip(datasets, twice, strict=True):
        gone = np.zeros(len(dataset.images), bool)
        gone[[row for row, _ in hits]] = True
        differ += _differing(datasets, dataset, hits)
        parts.append(_without(dataset, gone))
    joined = concat(parts)
    notes = []
    if differ:
        notes.append(
            f"{differ:,} of {total:,} images that are in several datasets are not told alike; the first counts"
        )
    read = sum(len(dataset.images) for dataset in datasets)
    dropped = {"in an earlier dataset": total} if total else {}
    return Merged(joined, Counts(unit="images", read=read, kept=len(joined.images), dropped=dropped), notes)


def _without(dataset: Annotations, gone: Bools) -> Annotations:
    """Without these images and their annotations; annotations without an image stay."""
    if not gone.any():
        return dataset
    rows = dataset.image_rows
    kept = dataset.take_annotations(np.flatnonzero((rows < 0) | ~gone[rows]))
    return kept.replace(images=dataset.images.take(np.flatnonzero(~gone)))


def _refuse_other_contents(
    datasets: Sequence[Annotations], twice: Sequence[Sequence[tuple[int, tuple[int, int]]]]
) -> None:
    other = []
    for dataset, hits in zip(datasets, twice, strict=True):
        for row, (number, place) in hits:
            mine = dataset.images["sha256"][row].as_py()
            first = datasets[number].images["sha256"][place].as_py()
            if mine and first and mine != first:
                other.append(dataset.images["file_name"][row].as_py())
    if other:
        raise BadInputs(
            f"{len(other):,} file names stand for different images: {_some(other)}",
            hint="rename the files of one dataset, or put them under another folder",
        )


def _differing(
    datasets: Sequence[Annotations], dataset: Annotations, hits: Sequence[tuple[int, tuple[int, int]]]
) -> int:
    """How many of the images are told in another way than where they stand first."""
    found = 0
    for number in sorted({place[0] for _, place in hits}):
        mine = [row for row, place in hits if place[0] == number]
        first = [place[1] for _, place in hits if place[0] == number]
        change = diff(datasets[number].take(first), dataset.take(mine))
        found += change.changed_images
    return found


def _some(names: Sequence[Any]) -> str:
    more = f" and {len(names) - 5:,} more" if len(names) > 5 else ""
    return ", ".join(map(repr, names[:5])) + more


def subset(
    annotations: Annotations,
    *,
    ids: Iterable[int] | None = None,
    file_names: Iterable[str] | None = None,
    categories: Iterable[str] | None = None,
    where: str | None = None,
    only_categories: bool = False,
) -> Merged:
    """The images for which all that is given holds, with all of their annotations.

    `ids` and `file_names` are one list; `categories`: names, of which the image must have at least one annotation (with
    `only_categories` annotations of other categories are left out); `where`: an SQL expression over the images table, whose `annotations`
    column is a count (see `_where`). Raises UsageError for a name, id or category that is not there and for a bad expression.
    """
    count = len(annotations.images)
    kept, dropped, invalid = np.ones(count, bool), dict[str, int](), dict[str, int]()

    def keep(chosen: Bools, reason: str) -> None:
        nonlocal kept
        if lost := int((kept & ~chosen).sum()):
            dropped[reason] = lost
        kept = kept & chosen

    if ids is not None or file_names is not None:
        keep(_listed(annotations, list(ids or []), list(file_names or [])), "not listed")
    wanted: Bools | None = None
    if categories is not None:
        wanted = _of_categories(annotations, list(categories))
        rows = annotations.image_rows[wanted]
        chosen = np.zeros(count, bool)
        chosen[rows[rows >= 0]] = True
        keep(chosen, "none of the categories")
    if where is not None:
        from curate.polygons._where import holds

        true, known = holds(annotations, where)
        if dark := int((kept & ~known).sum()):
            invalid["the expression is neither true nor false"] = dark
        kept = kept & known
        keep(true, "the expression is false")
    found = annotations.take(np.flatnonzero(kept))
    notes = []
    if only_categories:
        if wanted is None:
            raise UsageError("no categories are named to keep only")
        stay = _of_categories(found, list(categories or []))
        if lost := int((~stay).sum()):
            notes.append(f"{lost:,} annotations of other categories are left out")
        found = found.take_annotations(np.flatnonzero(stay))
    counts = Counts(unit="images", read=count, kept=len(found.images), dropped=dropped, invalid=invalid)
    return Merged(found, counts, notes)


def _listed(annotations: Annotations, ids: list[int], names: list[str]) -> Bools:
    images = annotations.images
    own, files = images["id"].to_pylist(), images["file_name"].to_pylist()
    lost: list[Any] = [*sorted(set(ids) - set(own)), *sorted(set(names) - set(files))]
    if lost:
        close = f": {nearest(lost[0], [f for f in files if f])}" if isinstance(lost[0], str) else ""
        raise UsageError(f"no image is called {_some(lost)}{close if len(lost) == 1 else ''}")
    by_id = pc.is_in(images["id"], value_set=pa.array(ids, pa.int64()))
    by_name = pc.is_in(images["file_name"], value_set=pa.array(names, pa.string()))
    return pc.or_(by_id, by_name).to_numpy()  # type: ignore[no-any-return]


def _of_categories(annotations: Annotations, names: list[str]) -> Bools:
    """Which annotations are of a category with one of these names."""
    known = {c["name"] for c in annotations.categories() if isinstance(c.get("name"), str)}
    for name in names:
        if name not in known:
            raise UsageError(f"there is no category {name!r}: {nearest(name, known)}")
    ids = [c["id"] for c in annotations.categories() if c.get("name") in names and type(c.get("id")) is int]
    column = annotations.annotations["category_id"]
    return pc.is_in(column, value_set=pa.array(ids, pa.int64())).to_numpy()  # type: ignore[no-any-return]
