"""Findings: what a validation found, as a table; and the collector that checks write them into."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate.polygons._codes import CODES, ORDER
from curate.polygons.store import Annotations, values
from headwater.errors import BadInputs

SCHEMA = pa.schema(
    [
        ("code", pa.string()),
        ("severity", pa.string()),  # error, warning, note
        ("table", pa.string()),  # images, annotations, or a key at the top of the file
        ("row", pa.int64()),  # of that table or list, from 0; null for the whole of it
        ("image_id", pa.int64()),  # null where it has none that is an integer
        ("annotation_id", pa.int64()),
        ("message", pa.string()),
        ("suggested", pa.string()),  # a value for a fix, as JSON
    ]
)
Bools = npt.NDArray[np.bool_]
Rows = Sequence[int] | npt.NDArray[np.int64]
Messages = str | Sequence[str] | Callable[[int], str]


@dataclass(frozen=True)
class Findings:
    """What was found. `table` has the columns of SCHEMA, ordered by code (as in the documentation), list and row."""

    profile: str
    table: pa.Table
    checked: dict[str, int] = field(default_factory=dict)  # images, annotations, parts, vertices, files

    @cached_property
    def counts(self) -> dict[str, int]:
        """Findings by code, in the order of the documentation."""
        return _tally(self.table["code"])

    @cached_property
    def severities(self) -> dict[str, int]:
        """Findings by severity: error, warning, note; all three are there."""
        return {"error": 0, "warning": 0, "note": 0} | _tally(self.table["severity"])

    @property
    def ok(self) -> bool:
        """Whether there is no error; warnings and notes do not fail a file."""
        return not self.severities["error"]

    def rows(self, *codes: str, table: str = "annotations") -> npt.NDArray[np.int64]:
        """The rows of `table` with one of these findings, sorted, each once."""
        wanted = pa.array(codes, pa.string())
        import pyarrow.compute as pc

        mask = pc.and_(pc.is_in(self.table["code"], wanted), pc.equal(self.table["table"], table))
        return np.unique(self.table["row"].filter(mask).drop_null().to_numpy())

    def as_rows(self) -> list[dict[str, Any]]:
        """All findings as dictionaries, empty fields left out."""
        return [
            {key: value for key, value in row.items() if value is not None} for row in self.table.to_pylist()
        ]


def exit_error(findings: Findings, path: Path | str) -> BadInputs | None:
    """The error to end a command with; None where the file passes its profile."""
    if findings.ok:
        return None
    codes = [code for code in findings.counts if CODES[code].severities.get(findings.profile) == "error"]
    told = ", ".join(f"{findings.counts[code]:,} {code}" for code in codes[:8]) + (
        ", …" if len(codes) > 8 else ""
    )
    return BadInputs(
        f"{path}: {findings.severities['error']:,} errors by the profile {findings.profile}: {told}",
        hint="--fix writes a repaired copy and lists what it did; docs/polygon-findings.md says what it can repair",
    )


class Collector:
    """Takes findings of one profile; codes that it does not tell cost nothing."""

    def __init__(self, annotations: Annotations, profile: str) -> None:
        self.profile = profile
        self._image_ids = values(annotations.images, "id")
        self._annotation_ids = values(annotations.annotations, "id")
        self._owner_ids = values(annotations.annotations, "image_id")
        self._found: list[tuple[int, str, pa.Table]] = []

    def tells(self, code: str) -> bool:
        """Whether the profile has this code at all."""
        return self.profile in CODES[code].severities

    def add(
        self,
        code: str,
        table: str,
        rows: Rows | Bools,
        messages: Messages,
        suggested: Iterable[Any] | None = None,
    ) -> None:
        """One finding for each row (numbers, or a mask); `messages` is one text, one a row, or makes one from a row number."""
        severity = CODES[code].severities.get(self.profile)
        if severity is None:
            return
        where = np.asarray(rows)
        where = np.flatnonzero(where) if where.dtype == bool else where.astype(np.int64)
        if not len(where):
            return
        texts = (
            [messages] * len(where)
            if isinstance(messages, str)
            else [messages(row) for row in where.tolist()]
            if callable(messages)
            else list(messages)
        )
        none = pa.nulls(len(where), pa.int64())
        image, annotation = none, none
        if table == "images":
            image = _picked(self._image_ids, where)
        elif table == "annotations":
            image, annotation = _picked(self._owner_ids, where), _picked(self._annotation_ids, where)
        hints = [json.dumps(value) for value in suggested] if suggested is not None else [None] * len(where)
        columns = [
            [code] * len(where),
            [severity] * len(where),
            [table] * len(where),
            where,
            image,
            annotation,
            texts,
            hints,
        ]
        self._put(code, table, columns)

    def whole(self, code: str, table: str, message: str) -> None:
        """A finding about a whole list."""
        severity = CODES[code].severities.get(self.profile)
        if severity is not None:
            self._put(code, table, [[code], [severity], [table], [None], [None], [None], [message], [None]])

    def _put(self, code: str, table: str, columns: list[Any]) -> None:
        arrays = [
            column if isinstance(column, pa.Array) else pa.array(column, kind.type)
            for column, kind in zip(columns, SCHEMA, strict=True)
        ]
        self._found.append((ORDER[code], table, pa.Table.from_arrays(arrays, schema=SCHEMA)))

    def finish(self, checked: dict[str, int]) -> Findings:
        """All findings in order."""
        self._found.sort(key=lambda entry: entry[:2])
        tables: list[pa.Table] = []
        for number, (place, table, found) in enumerate(self._found):
            if number and self._found[number - 1][:2] == (place, table):
                tables[-1] = pa.concat_tables([tables[-1], found]).sort_by("row")
            else:
                tables.append(found)
        whole = pa.concat_tables(tables).combine_chunks() if tables else SCHEMA.empty_table()
        return Findings(self.profile, whole, checked)


def _picked(column: tuple[npt.NDArray[Any], Bools], rows: npt.NDArray[np.int64]) -> pa.Array:
    found, known = column
    return pa.array(found[rows].astype(np.int64), pa.int64(), mask=~known[rows])


def _tally(column: pa.ChunkedArray) -> dict[str, int]:
    counted: dict[str, int] = {}
    for entry in column.value_counts().to_pylist():
        counted[entry["values"]] = entry["counts"]
    return dict(sorted(counted.items(), key=lambda entry: ORDER.get(entry[0], 0)))
