"""What splits and leakage look at: values of an image under a key, local times, and images that belong together."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from curate.polygons._digest import canonical
from curate.polygons._json_strict import dump, loads
from curate.polygons.store import Annotations
from headwater.errors import IntegrityError, UsageError, nearest

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

FOLDER = "folder"  # the folder part of file_name
DAY = 86_400_000_000  # microseconds
# ISO 8601, and EXIF's form with colons in the date
_TIME = re.compile(
    r"(\d{4})([-:])(\d\d)\2(\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:[.,](\d+))?)?)?\s*(Z|[+-]\d\d:?\d\d)?"
)


def text_of(value: Any) -> str:
    """A value as canonical JSON: equal texts for equal values."""
    return dump(canonical(value))


@dataclass(frozen=True)
class Times:
    """Of each image: microseconds since the start of 0001-01-01 by its local clock, and its offset from UTC."""

    local: Ints
    known: Bools
    offset: Ints
    zoned: Bools  # whether the offset is known

    @property
    def days(self) -> Ints:
        """Proleptic ordinal days; 0001-01-01 is 1."""
        return self.local // DAY + 1

    @property
    def utc(self) -> Ints:
        """By UTC, where `zoned`."""
        return self.local - self.offset


def microseconds(when: datetime) -> int:
    """The count that `Times.local` has for a local time."""
    seconds = (when.hour * 60 + when.minute) * 60 + when.second
    return (when.toordinal() - 1) * DAY + seconds * 1_000_000 + when.microsecond


def parse_time(text: Any) -> tuple[int, int | None] | None:
    """(local microseconds, offset in microseconds or None) of a time; None where `text` is none."""
    found = _TIME.fullmatch(text.strip()) if isinstance(text, str) else None
    if not found:
        return None
    year, _, month, day, hour, minute, second, part, zone = found.groups()
    try:
        days = date(int(year), int(month), int(day)).toordinal() - 1
    except ValueError:
        return None
    clock = [int(hour or 0), int(minute or 0), int(second or 0)]
    if clock[0] > 23 or clock[1] > 59 or clock[2] > 60:  # 60: a leap second
        return None
    local = days * DAY + ((clock[0] * 60 + clock[1]) * 60 + clock[2]) * 1_000_000
    local += int((part or "")[:6].ljust(6, "0"))
    if zone is None:
        return local, None
    if zone == "Z":
        return local, 0
    away = int(zone[1:3]) * 60 + int(zone[-2:])
    return local, (-away if zone[0] == "-" else away) * 60_000_000


class Facts:
    """The images table by keys."""

    def __init__(self, annotations: Annotations) -> None:
        self.annotations = annotations
        self.images = len(annotations.images)
        self._texts: dict[str, list[str | None]] = {}

    @cached_property
    def extras(self) -> list[dict[str, Any]]:
        """The keys of each image that have no column. Raises IntegrityError."""
        found = []
        for row, text in enumerate(self.annotations.images["extra"].to_pylist()):
            try:
                extra = loads(text.encode()) if text else {}
            except ValueError as error:
                raise IntegrityError(f"image row {row}: its extra keys are no JSON ({error})") from error
            if not isinstance(extra, dict):
                raise IntegrityError(f"image row {row}: its extra keys are no object")
            found.append(extra)
        return found

    @cached_property
    def file_names(self) -> list[str | None]:
        return self.annotations.images["file_name"].to_pylist()  # type: ignore[no-any-return]

    @cached_property
    def names(self) -> list[str]:
        """Each image as messages call it."""
        ids = self.annotations.images["id"].to_pylist()
        return [
            name if name is not None else f"image {identity}" if identity is not None else f"image row {row}"
            for row, (name, identity) in enumerate(zip(self.file_names, ids, strict=True))
        ]

    def values(self, key: str) -> list[Any]:
        """The value of each image under `key`; None where it has none."""
        if key == FOLDER:
            return [name.rpartition("/")[0] if name and "/" in name else None for name in self.file_names]
        columns = self.annotations.images.schema.names
        if key in columns and key != "extra":
            return self.annotations.images[key].to_pylist()  # type: ignore[no-any-return]
        return [_within(extra, key) for extra in self.extras]

    def texts(self, key: str) -> list[str | None]:
        """The values as canonical JSON; None where there is none."""
        if key not in self._texts:
            self._texts[key] = [None if v is None else text_of(v) for v in self.values(key)]
        return self._texts[key]

    def known_keys(self) -> set[str]:
        """Every key under which an image has a value."""
        table = self.annotations.images
        names = {n for n in table.schema.names if n != "extra" and table[n].null_count < len(table)}
        nested = {
            f"{key}.{inner}"
            for extra in self.extras
            for key, value in extra.items()
            if isinstance(value, dict)
            for inner in value
        }
        return names | nested | {key for extra in self.extras for key in extra} | {FOLDER}

    def check_keys(self, keys: Iterable[str], where: str) -> None:
        """Raise UsageError for a key that no image has."""
        for key in sorted(keys):
            if self.images and all(value is None for value in self.values(key)):
                raise UsageError(
                    f"{where}: no image has {key!r}: {nearest(key, self.known_keys() - {key})}",
                    hint="a key that images may lack altogether is listed under `optional`",
                )

    def times(self, key: str) -> Times:
        """Local times under `key`."""
        local, offset = np.zeros(self.images, np.int64), np.zeros(self.images, np.int64)
        known, zoned = np.zeros(self.images, bool), np.zeros(self.images, bool)
        for row, value in enumerate(self.values(key)):
            found = parse_time(value)
            if found is not None:
                local[row], known[row] = found[0], True
                offset[row], zoned[row] = found[1] or 0, found[1] is not None
        return Times(local, known, offset, zoned)

    @cached_property
    def annotated(self) -> Bools:
        """Whether each image has annotations."""
        rows = self.annotations.image_rows
        return np.bincount(rows[rows >= 0], minlength=self.images)[: self.images] > 0


def _within(extra: dict[str, Any], key: str) -> Any:
    if key in extra or "." not in key:
        return extra.get(key)
    found: Any = extra
    for part in key.split("."):
        if not isinstance(found, dict):
            return None
        found = found.get(part)
    return found


@dataclass(frozen=True)
class Units:
    """Images that go together: `of` (images,) the unit of each, `first` (units,) the image that speaks for it.

    `name` is that image's first value of the grouping keys as KEY=VALUE, None for an image of no group.
    """

    of: Ints
    first: Ints
    size: Ints
    name: list[str | None]


def together(facts: Facts, keys: Sequence[str], times: Times) -> Units:
    """Units by `keys`: images with an equal value under one of them are together, and so is what they are together with."""
    count = facts.images
    root = np.arange(count, dtype=np.int64)

    def find(row: int) -> int:
        while root[row] != row:
            root[row] = root[root[row]]
            row = int(root[row])
        return row

    names: list[str | None] = [None] * count
    for key in keys:
        seen: dict[str, int] = {}
        for row, text in enumerate(facts.texts(key)):
            if text is None:
                continue
            names[row] = names[row] or f"{key}={text}"
            other = find(seen.setdefault(text, row))
            root[find(row)] = other
    roots = np.array([find(row) for row in range(count)], np.int64)
    _, of = np.unique(roots, return_inverse=True)
    of = of.astype(np.int64)
    # the first by time, then by file name, then by place
    late = np.where(times.known, times.local, np.iinfo(np.int64).max)
    files = np.array([name or "" for name in facts.file_names], object)
    order = np.array(sorted(range(count), key=lambda row: (late[row], files[row], row)), np.int64)
    units = int(of.max()) + 1 if count else 0
    first = np.full(units, -1, np.int64)
    first[of[order[::-1]]] = order[::-1]
    return Units(of, first, np.bincount(of, minlength=units), [names[row] for row in first.tolist()])
