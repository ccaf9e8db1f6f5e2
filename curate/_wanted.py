"""The uids a reshard looks for: a sorted subset file as three flat arrays, one row per distinct uid.

Files in the plan folder, little-endian: `wanted-hi` and `wanted-lo` uint64, `wanted-copies` uint32 (how often the subset
repeats the uid), `wanted.json` {subset_sha256, rows}. Made in blocks of 4 M rows, read as memory maps: 20 B a distinct uid.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from curate._jsonuid import I64, U64, pairs_to_hex
from curate._tarwrite import write_file
from headwater.errors import UsageError

BLOCK_ROWS = 1 << 22
_COLUMNS = (("hi", "<u8"), ("lo", "<u8"), ("copies", "<u4"))


@dataclass(frozen=True)
class Wanted:
    """Distinct uids, ascending by (hi, lo), and how many copies of each."""

    hi: U64
    lo: U64
    copies: npt.NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.hi)

    def find(self, hi: U64, lo: U64) -> I64:
        """The row of each uid, -1 where it is not wanted."""
        if not len(self.hi) or not len(hi):
            return np.full(len(hi), -1, np.int64)
        at = np.searchsorted(self.hi, hi).astype(np.int64)
        inside = np.minimum(at, len(self.hi) - 1)
        close = self.hi[inside] == hi
        same = close & (self.lo[inside] == lo)
        row = np.where(same, at, -1)
        for sample in np.flatnonzero(close & ~same).tolist():  # another uid with the same high word
            start = int(at[sample])
            stop = int(np.searchsorted(self.hi, hi[sample], side="right"))
            found = start + int(np.searchsorted(self.lo[start:stop], lo[sample]))
            if found < stop and self.lo[found] == lo[sample]:
                row[sample] = found
        return row

    def text(self, rows: npt.NDArray[np.integer]) -> tuple[str, ...]:
        """The uids at some rows, as 32 digits."""
        return tuple(row.tobytes().decode() for row in pairs_to_hex(self.hi[rows], self.lo[rows]))


def save_wanted(plan: Path, subset: npt.NDArray[np.void]) -> str:
    """Check that a subset is sorted and write its table. Returns a SHA-256 of its contents (in blocks of columns)."""
    fields = subset.dtype.names
    if (
        subset.ndim != 1
        or fields is None
        or len(fields) != 2
        or any(subset.dtype[f] != np.uint64 for f in fields)
    ):
        raise UsageError(
            f"subset has type {subset.dtype} and shape {subset.shape}; it must be one row of u8,u8 records"
        )
    digest = hashlib.sha256()
    rows = 0
    with ExitStack() as stack:
        files = [stack.enter_context(open(plan / f"wanted-{name}.tmp", "wb")) for name, _ in _COLUMNS]
        before: tuple[np.uint64, np.uint64] | None = None
        repeats = 0  # of the last uid so far
        for start in range(0, len(subset), BLOCK_ROWS):
            block = np.asarray(subset[start : start + BLOCK_ROWS])
            hi = np.ascontiguousarray(block[fields[0]], "<u8")
            lo = np.ascontiguousarray(block[fields[1]], "<u8")
            digest.update(hi.data)
            digest.update(lo.data)
            new = np.ones(len(hi), np.bool_)
            new[1:] = (hi[1:] != hi[:-1]) | (lo[1:] != lo[:-1])
            falls = (hi[1:] < hi[:-1]) | ((hi[1:] == hi[:-1]) & (lo[1:] < lo[:-1]))
            if before is not None:
                new[0] = (hi[0], lo[0]) != before
                if (hi[0], lo[0]) < before:
                    _unsorted(start, hi[0], lo[0])
            if falls.any():
                row = int(falls.argmax()) + 1
                _unsorted(start + row, hi[row], lo[row])
            first = np.flatnonzero(new)
            ends = np.append(first, len(hi))
            counts = np.diff(ends)
            if before is not None:
                counts = np.concatenate([[repeats + int(ends[0])], counts])
            hi_new, lo_new = hi[first], lo[first]
            hi_new.tofile(files[0])
            lo_new.tofile(files[1])
            repeats = int(counts[-1])
            _copies(counts[:-1], files[2])
            rows += len(first)
            before = (hi[-1], lo[-1])
        if before is not None:
            _copies(np.array([repeats]), files[2])
    for name, _ in _COLUMNS:
        (plan / f"wanted-{name}.tmp").replace(plan / f"wanted-{name}")
    document = {"subset_sha256": digest.hexdigest(), "rows": rows}
    write_file(plan / "wanted.json", json.dumps(document, sort_keys=True).encode())
    return digest.hexdigest()


def open_wanted(plan: Path) -> Wanted:
    """The table written by `save_wanted`, memory-mapped."""
    rows = json.loads((plan / "wanted.json").read_bytes())["rows"]
    if not rows:
        return Wanted(*(np.empty(0, dtype) for _, dtype in _COLUMNS))
    return Wanted(
        *(np.memmap(plan / f"wanted-{name}", dtype, "r", shape=(rows,)) for name, dtype in _COLUMNS)
    )


def _copies(counts: npt.NDArray[np.integer], file: object) -> None:
    if len(counts) and int(counts.max()) >= 1 << 32:
        raise UsageError("a uid is repeated more than 4,294,967,295 times in the subset")
    counts.astype("<u4").tofile(file)  # type: ignore[arg-type]


def _unsorted(row: int, hi: np.uint64, lo: np.uint64) -> None:
    raise UsageError(
        f"subset is not sorted: row {row:,} (uid {int(hi):016x}{int(lo):016x}) is smaller than the row before it",
        hint="sort it first: numpy.save(path, numpy.sort(numpy.load(path)))",
    )
