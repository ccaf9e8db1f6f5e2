"""Leakage: what one split knows of another.

    same content     equal bytes (column sha256, or the files)                                 error
    same pixels      equal pixels in other bytes, as they are to be seen                       error
    same file name   two splits have an image of one name                                      error
    near duplicate   other pixels, but perceptual hashes that differ in few bits, and thumbnails that correlate  warning
    same KEY         a value of a key (group, video_id, contributor …) in both                 warning; note for `loose` keys
    same track       annotations of one track                                                  warning
    near in time     taken within so many seconds of each other                                note

Values, contents and tracks: one finding for each value and pair of splits, with how many images there are on each side. Near duplicates: one
for each pair of images. Time: one for each image of the second split, with the nearest image of the first. What could not be looked
at is listed as well (`checked`): no finding is no proof where nothing was compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate.polygons._leak_pictures import Pictures, look
from curate.polygons._split_facts import Facts, Times
from curate.polygons.store import Annotations, values
from headwater.errors import UsageError

__all__ = ["Leakage", "Limits", "leakage"]

ERROR, WARNING, NOTE = "error", "warning", "note"
FINDINGS = pa.schema(
    [
        ("kind", pa.string()),
        ("severity", pa.string()),
        ("first_split", pa.string()),
        ("first_image", pa.string()),
        ("first_images", pa.int64()),  # how many images of the first split this is about
        ("second_split", pa.string()),
        ("second_image", pa.string()),
        ("second_images", pa.int64()),
        ("value", pa.string()),
        ("distance", pa.float64()),  # bits, or seconds; null where things are equal
    ]
)
MOST_FINDINGS = 100_000  # of each severity
MOST_PAIRS = 10_000_000  # of near hashes, between two splits
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Limits:
    """What counts as near. Defaults: those of the scorer picture_groups; one hour, the span of a before/after pair."""

    bits: int = 6
    correlation: float = 0.95
    contrast: float = 4.0
    seconds: float = 3600.0
    findings: int = MOST_FINDINGS

    def __post_init__(self) -> None:
        from curate._picture_near import MAX_DISTANCE

        if not 0 <= self.bits <= MAX_DISTANCE:
            raise UsageError(f"bits is {self.bits}: it must be 0 to {MAX_DISTANCE}")
        if not -1 <= self.correlation <= 1:
            raise UsageError(f"correlation is {self.correlation}: it must be -1 to 1")
        if not 0 <= self.seconds < float("inf"):
            raise UsageError(f"seconds is {self.seconds}: it must be 0 or more")


@dataclass
class Leakage:
    """`findings` (FINDINGS, errors first), `checked` (check -> what was compared, in words), and how many findings did not fit."""

    splits: dict[str, int]
    findings: pa.Table
    checked: dict[str, str]
    left_out: int = 0

    @property
    def found(self) -> dict[str, int]:
        """Findings by severity; those that did not fit are not in it."""
        return {
            severity: int(np.count_nonzero(self.findings["severity"].to_numpy() == severity))
            for severity in (ERROR, WARNING, NOTE)
        }

    def data(self, most: int = 1000) -> dict[str, Any]:
        """As plain data, with at most so many findings."""
        return {
            "splits": self.splits,
            "found": self.found,
            "checked": self.checked,
            "left_out": self.left_out + max(0, len(self.findings) - most),
            "findings": self.findings.slice(0, most).to_pylist(),
        }

    def text(self, most: int = 20) -> str:
        """For people."""
        lines = [", ".join(f"{name}: {count:,} images" for name, count in self.splits.items())]
        lines += [f"  {check}: {what}" for check, what in self.checked.items()]
        lines.append(", ".join(f"{severity}s: {count:,}" for severity, count in self.found.items()))
        for row in self.findings.slice(0, most).to_pylist():
            both = " and ".join(
                f"{row[f'{side}_split']} {row[f'{side}_image']}"
                + (f" (of {row[f'{side}_images']:,})" if row[f"{side}_images"] > 1 else "")
                for side in ("first", "second")
            )
            value = f" {row['value']}" if row["value"] is not None else ""
            unit = "s" if row["kind"] == "near in time" else " bits"
            away = f", {row['distance']:g}{unit} apart" if row["distance"] is not None else ""
            lines.append(f"{row['severity']}: {row['kind']}{value}: {both}{away}")
        more = max(0, len(self.findings) - most) + self.left_out
        return "\n".join([*lines, *([f"and {more:,} more"] if more > 0 else [])])


def leakage(
    splits: Mapping[str, Annotations],
    *,
    folders: Mapping[str, Path] | Path | None = None,
    keys: Sequence[str] = ("intake.group", "group", "cohort", "video_id"),
    loose: Sequence[str] = ("contributor", "folder"),
    time_key: str = "datetime",
    limits: Limits | None = None,
    threads: int = 1,
) -> Leakage:
    """Compare every two of `splits`; `folders` (one, or one for each split) is where the files of the images are.

    Without it the pixels are not looked at. Ids of tracks and values of keys mean the same in all splits. Raises UsageError.
    """
    if len(splits) < 2:
        raise UsageError("leakage is between splits, and fewer than two are given")
    limits = limits or Limits()
    sides = [_Side(name, Facts(split)) for name, split in splits.items()]
    report = _Report(limits.findings)
    if folders is not None:
        for side in sides:
            where = folders.get(side.name) if isinstance(folders, Mapping) else folders
            side.pictures = look(where, side.facts.file_names, threads) if where is not None else None
    _contents(report, sides)
    report.shared(sides, "file name", ERROR, [side.facts.file_names for side in sides])
    _near(report, sides, limits)
    for key in dict.fromkeys((*keys, *loose)):
        severity = NOTE if key in loose else WARNING
        report.shared(sides, key, severity, [side.facts.texts(key) for side in sides])
    report.shared(sides, "track", WARNING, [_tracks(side) for side in sides])
    _times(report, sides, [side.facts.times(time_key) for side in sides], limits.seconds)
    return Leakage(
        {side.name: side.facts.images for side in sides}, report.table(), report.checked, report.left_out
    )


@dataclass
class _Side:
    name: str
    facts: Facts
    pictures: Pictures | None = None

    @property
    def seen(self) -> npt.NDArray[np.int64]:
        """Rows of images whose pixels are known."""
        return np.flatnonzero(self.pictures.seen) if self.pictures else np.zeros(0, np.int64)


@dataclass
class _Report:
    most: int
    checked: dict[str, str] = field(default_factory=dict)
    left_out: int = 0
    rows: dict[str, list[tuple[Any, ...]]] = field(default_factory=lambda: {ERROR: [], WARNING: [], NOTE: []})

    def add(self, severity: str, *row: Any) -> None:
        """Keep a finding while there is room for its severity."""
        if len(self.rows[severity]) < self.most:
            self.rows[severity].append(row)
        else:
            self.left_out += 1

    def cover(self, check: str, sides: Sequence[_Side], known: Sequence[int]) -> None:
        """Note how many images of each split a check could look at."""
        if not any(known):
            self.checked[check] = "not checked: no image has it"
            return
        counts = zip(sides, known, strict=True)
        self.checked[check] = ", ".join(
            f"{side.name} {count:,} of {side.facts.images:,}" for side, count in counts
        )

    def shared(
        self, sides: Sequence[_Side], what: str, severity: str, columns: Sequence[Iterable[Any]]
    ) -> None:
        """One finding for each value that two splits have; a column has a value, a tuple of values, or None for each image."""
        found = [_first_rows(column) for column in columns]
        self.cover(what, sides, [sum(counts.values()) for _, counts in found])
        for (a, (rows_a, counts_a)), (b, (rows_b, counts_b)) in combinations(enumerate(found), 2):
            for value in sorted(rows_a.keys() & rows_b.keys()):
                first = sides[a].facts.names[rows_a[value]], counts_a[value]
                second = sides[b].facts.names[rows_b[value]], counts_b[value]
                self.add(severity, f"same {what}", sides[a].name, *first, sides[b].name, *second, value, None)

    def table(self) -> pa.Table:
        """All findings."""
        rows = [
            {
                **dict(zip([n for n in FINDINGS.names if n != "severity"], row, strict=True)),
                "severity": severity,
            }
            for severity, found in self.rows.items()
            for row in found
        ]
        return pa.Table.from_pylist(rows, schema=FINDINGS)


def _first_rows(column: Iterable[Any]) -> tuple[dict[str, int], Counter[str]]:
    """Of each value: the first image that has it, and how many have."""
    rows: dict[str, int] = {}
    counts: Counter[str] = Counter()
    for row, own in enumerate(column):
        for value in own if isinstance(own, tuple) else (own,):
            if value is not None:
                rows.setdefault(value, row)
                counts[value] += 1
    return rows, counts


def _contents(report: _Report, sides: Sequence[_Side]) -> None:
    columns = []
    for side in sides:
        told = side.facts.texts("sha256")
        own = side.pictures.sha256 if side.pictures else [None] * side.facts.images
        columns.append(
            [read or (text.strip('"') if text else None) for read, text in zip(own, told, strict=True)]
        )
    report.shared(sides, "content", ERROR, columns)


def _tracks(side: _Side) -> list[tuple[str, ...] | None]:
    ids, given = values(side.facts.annotations.annotations, "track_id")
    rows = side.facts.annotations.image_rows
    found: list[set[str]] = [set() for _ in range(side.facts.images)]
    for row, track in zip(rows[given].tolist(), ids[given].tolist(), strict=True):
        if row >= 0:
            found[row].add(str(track))
    return [tuple(sorted(own)) or None for own in found]


def _near(report: _Report, sides: Sequence[_Side], limits: Limits) -> None:
    """Equal pixels in other bytes, and near duplicates among different pixels."""
    shas = [_by_pixels(side) for side in sides]
    columns: list[list[Any]] = []
    for side, own in zip(sides, shas, strict=True):
        others = [other for other in shas if other is not own]
        column: list[Any] = [None] * side.facts.images
        for row in side.seen.tolist():
            value = _pixels(side, row)
            if any(len(own[value] | other.get(value, set())) > 1 for other in others):
                column[row] = value  # else their bytes are equal too, and told as such
        columns.append(column)
    report.shared(sides, "pixels", ERROR, columns)
    report.cover("pixels", sides, [len(side.seen) for side in sides])
    if not any(side.pictures for side in sides):
        report.checked["pixels"] = report.checked["near duplicates"] = "not checked: no files are named"
        return
    rows = [_distinct(side, limits) for side in sides]
    report.cover("near duplicates", sides, [len(own) for own in rows])
    for a, b in combinations(range(len(sides)), 2):
        _near_of(report, sides[a], sides[b], rows[a], rows[b], limits)


def _near_of(report: _Report, a: _Side, b: _Side, rows_a: Rows, rows_b: Rows, limits: Limits) -> None:
    from curate._picture_hash import distance
    from curate._picture_near import near_pairs
    from curate._picture_thumbs import PAIRS_AT_ONCE, correlation

    if a.pictures is None or b.pictures is None:
        return
    one, two, compared = a.pictures, b.pictures, 0
    found: list[tuple[int, int, float]] = []
    for block_i, block_j in near_pairs(one.bits[rows_a], two.bits[rows_b], limits.bits):
        compared += len(block_i)
        if compared > MOST_PAIRS:
            report.checked["near duplicates"] += (
                f"; {a.name} and {b.name}: stopped after {MOST_PAIRS:,} pairs of near hashes"
            )
            break
        for at in range(0, len(block_i), PAIRS_AT_ONCE):
            i, j = rows_a[block_i[at : at + PAIRS_AT_ONCE]], rows_b[block_j[at : at + PAIRS_AT_ONCE]]
            alike = correlation(one.thumbs[i], two.thumbs[j]) >= limits.correlation
            alike &= one.pixels[i] != two.pixels[j]
            apart = distance(one.bits[i], two.bits[j])
            found += [(int(i[n]), int(j[n]), float(apart[n])) for n in np.flatnonzero(alike)]
    for row_a, row_b, bits in sorted(found):
        name_a, name_b = a.facts.names[row_a], b.facts.names[row_b]
        report.add(WARNING, "near duplicate", a.name, name_a, 1, b.name, name_b, 1, None, bits)


def _pixels(side: _Side, row: int) -> str:
    assert side.pictures is not None
    return f"{int(side.pictures.pixels[row]) & (1 << 64) - 1:016x}"


def _by_pixels(side: _Side) -> dict[str, set[str | None]]:
    """Of each pixel value: the digests of the files that show it."""
    found: dict[str, set[str | None]] = {}
    for row in side.seen.tolist():
        assert side.pictures is not None
        found.setdefault(_pixels(side, row), set()).add(side.pictures.sha256[row])
    return found


def _distinct(side: _Side, limits: Limits) -> Rows:
    """Rows of images that are not plain, the first of each pixel value."""
    if side.pictures is None:
        return np.zeros(0, np.int64)
    rows = side.seen[side.pictures.contrast[side.seen] >= limits.contrast]
    _, first = np.unique(side.pictures.pixels[rows], return_index=True)
    return rows[np.sort(first)]


def _times(report: _Report, sides: Sequence[_Side], times: Sequence[Times], seconds: float) -> None:
    """By UTC where every time has its offset, else by local clocks."""
    zoned = all((time.zoned | ~time.known).all() for time in times)
    report.cover("time", sides, [int(time.known.sum()) for time in times])
    if any(time.known.any() for time in times):
        report.checked["time"] += " (by UTC)" if zoned else " (by local clocks: not every time has an offset)"
    clocks = [time.utc if zoned else time.local for time in times]
    for (a, first), (b, second) in combinations(enumerate(clocks), 2):
        rows_a, rows_b = np.flatnonzero(times[a].known), np.flatnonzero(times[b].known)
        if not len(rows_a) or not len(rows_b):
            continue
        rows_a = rows_a[np.argsort(first[rows_a], kind="stable")]
        place = np.searchsorted(first[rows_a], second[rows_b])
        low, high = rows_a[np.maximum(place - 1, 0)], rows_a[np.minimum(place, len(rows_a) - 1)]
        nearer = np.abs(first[low] - second[rows_b]) <= np.abs(first[high] - second[rows_b])
        nearest = np.where(nearer, low, high)
        away = np.abs(first[nearest] - second[rows_b]) / 1e6
        for n in np.flatnonzero(away <= seconds).tolist():
            mine, other = sides[a].facts.names[nearest[n]], sides[b].facts.names[rows_b[n]]
            report.add(
                NOTE, "near in time", sides[a].name, mine, 1, sides[b].name, other, 1, None, float(away[n])
            )
