"""Target embeddings: rows of numbers that a pool is compared with, whatever they lie in, given out in blocks.

    FILE.npz          the array that is asked for, or the only one it has
    FILE.npy          the array of (rows, width)
    FILE.parquet      the list column of the array's name, or its only list column of floats; a column `uid` names the rows
    FOLDER            such files, in the order of their names
    POOL              the folder of another pool: its features, named by uid

Values are float16, 32 or 64 and are given out as float32. A row without a direction (zero, NaN, infinite, null) is left out
and counted. What a file holds decides its id, where it lies does not. Nothing is ever unpickled.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate._target_files import HINT, Part, content_id, existing, parts_of
from curate.features import NOT_FINITE, REASONS, ZERO, Floats, to_float32, unusable
from headwater.console import say
from headwater.errors import IntegrityError, UsageError

BLOCK_ROWS = 65_536


@dataclass(frozen=True)
class TargetBlock:
    """Some usable rows: `numbers` (m,) counts all rows of the target, `values` is (m, width) float32."""

    numbers: npt.NDArray[np.int64]
    values: Floats


class Target:
    """All rows of a target. `left_out` says how many could not be used, by reason; `id` is the digest of the contents."""

    def __init__(self, path: Path, parts: list[Part], width: int, id_: str) -> None:
        self.path, self.parts, self.width, self.id = path, parts, width, id_
        self.rows = sum(part.rows for part in parts)
        self.left_out: dict[str, int] = {}
        self._uids: dict[int, pa.Array] = {}

    @property
    def used(self) -> int:
        """Rows that `blocks` gives."""
        return self.rows - sum(self.left_out.values())

    def blocks(self, rows: int = BLOCK_ROWS) -> Iterator[TargetBlock]:
        """Usable rows in order, `rows` at a time, across files."""
        numbers: list[npt.NDArray[np.int64]] = []
        values: list[Floats] = []
        held = 0
        for first, block, bad in self._read():
            good = bad == 0
            numbers.append(first + np.flatnonzero(good))
            values.append(block[good])
            held += len(values[-1])
            while held >= rows:
                number, value = np.concatenate(numbers), np.concatenate(values)
                yield TargetBlock(number[:rows], value[:rows])
                numbers, values, held = [number[rows:]], [value[rows:]], held - rows
        if held:
            yield TargetBlock(np.concatenate(numbers), np.concatenate(values))

    def labels(self, numbers: npt.NDArray[np.int64]) -> pa.Array:
        """The ids of rows: the uid where the file has one, else FILE:ROW; null for a negative number."""
        starts = np.cumsum([0] + [part.rows for part in self.parts])
        owner = np.searchsorted(starts, numbers, "right") - 1
        out: list[str | None] = [None] * len(numbers)
        for at in np.unique(owner[numbers >= 0]):
            part = self.parts[at]
            places = np.flatnonzero((owner == at) & (numbers >= 0))
            rows = numbers[places] - starts[at]
            if part.uids is None:
                names = [f"{part.name}:{row}" for row in rows]
            else:
                if int(at) not in self._uids:
                    self._uids[int(at)] = part.uids()
                found = self._uids[int(at)].take(pa.array(rows)).to_pylist()
                names = [uid or f"{part.name}:{row}" for uid, row in zip(found, rows, strict=True)]
            for place, name in zip(places, names, strict=True):
                out[place] = name
        return pa.array(out, pa.string())

    def check(self) -> Target:
        """Look at every row once. Raises UsageError when there is none that can be used."""
        bad = np.zeros(3, np.int64)
        for _, _, codes in self._read():
            bad += np.bincount(codes, minlength=3)
        self.left_out = {REASONS[code]: int(bad[code]) for code in (ZERO, NOT_FINITE) if bad[code]}
        if not self.used:
            what = "has no rows" if not self.rows else f"has {self.rows:,} rows, and none can be used"
            raise UsageError(f"target {self.path}: {what}", hint=HINT)
        for reason, rows in self.left_out.items():
            say("warning", f"target {self.path}: {rows:,} of {self.rows:,} rows are left out ({reason})")
        return self

    def _read(self) -> Iterator[tuple[int, Floats, npt.NDArray[np.uint8]]]:
        """First row number, values and codes (see curate.features) of pieces of the target."""
        first = 0
        for part in self.parts:
            begun = first
            for piece in part.blocks():
                values = to_float32(piece)
                yield first, values, unusable(values)
                first += len(values)
            if first - begun != part.rows:
                raise IntegrityError(f"target {part.name}: {first - begun:,} rows, but it says {part.rows:,}")


def read_target(path: Path | None, *, width: int, array: str) -> Target:
    """The rows of a target that is to be compared with features `array` of `width` numbers.

    Raises UsageError (none given, nothing usable in it), MissingInput (not there), IntegrityError (another width, no float
    array, Python objects, damaged).
    """
    path = existing(path)
    parts = parts_of(path, array)
    for part in parts:
        if part.rows and part.width != width:
            raise IntegrityError(
                f"target {part.name}: {part.width:,} numbers a row, but features {array} have {width:,}",
                hint="embed the target with the model that made the features",
            )
    return Target(path, parts, width, target_id(path, array)).check()


def target_id(path: Path | None, array: str) -> str:
    """SHA-256 over the names and digests of the files that `read_target` would read."""
    return content_id(existing(path), array)
