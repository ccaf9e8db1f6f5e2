"""Which 64- or 128-bit keys occur more than once: exact, in bounded memory.

Shape: (n, words) uint64, one row per key. Up to `BUDGET_BYTES` the keys stay in memory; above it they are spread over
temporary files by a mix of their bits, so that equal keys meet in one file, and one file at a time is sorted.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

Words = np.ndarray[Any, np.dtype[np.uint64]]
Numbers = np.ndarray[Any, np.dtype[np.int64]]

BUDGET_BYTES = 24 << 20
MAX_PARTS = 64
_MIX = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F))


class Keys:
    """Collects keys; `repeated` tells those that came more than once, and then `distinct` is known."""

    def __init__(
        self, words: int, expected: int, *, folder: Path | None = None, budget_bytes: int = BUDGET_BYTES
    ) -> None:
        self.words = words
        self.total = 0
        self.distinct = 0
        parts = 1
        while parts < MAX_PARTS and expected * words * 8 > parts * budget_bytes:
            parts *= 2
        self._shift = np.uint64(64 - (parts - 1).bit_length())
        self._held: list[Words] = []
        self._files: list[IO[bytes]] = []
        if parts > 1:
            self._files = [tempfile.TemporaryFile(dir=folder) for _ in range(parts)]  # noqa: SIM115

    def __enter__(self) -> Keys:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files:
            file.close()

    def add(self, keys: Words) -> None:
        """Take (n, words) more keys; a flat array is taken as one word each."""
        keys = np.ascontiguousarray(keys, np.uint64).reshape(-1, self.words)
        self.total += len(keys)
        if not self._files:
            self._held.append(keys)
            return
        mixed = keys[:, 0] * _MIX[0]
        if self.words > 1:
            mixed = (mixed ^ (mixed >> np.uint64(29))) + keys[:, 1] * _MIX[1]
        slot = mixed >> self._shift
        order = np.argsort(slot, kind="stable")
        bounds = np.searchsorted(slot[order], np.arange(len(self._files) + 1, dtype=np.uint64))
        for file, start, stop in zip(self._files, bounds[:-1], bounds[1:], strict=True):
            if stop > start:
                file.write(keys[order[start:stop]].tobytes())

    def repeated(self) -> Iterator[tuple[Words, Numbers]]:
        """Blocks of (keys that occur more than once, how often each)."""
        self.distinct = 0
        for block in self._blocks():
            keys, counts, distinct = _repeats(block)
            self.distinct += distinct
            if len(keys):
                yield keys, counts

    def _blocks(self) -> Iterator[Words]:
        if not self._files:
            held = self._held
            yield np.concatenate(held) if held else np.zeros((0, self.words), np.uint64)
            return
        for file in self._files:
            file.seek(0)
            yield np.frombuffer(file.read(), np.uint64).reshape(-1, self.words)


def _repeats(keys: Words) -> tuple[Words, Numbers, int]:
    first = np.sort(keys[:, 0])
    again = np.unique(first[1:][first[1:] == first[:-1]])
    if len(again) == 0:
        return keys[:0], np.zeros(0, np.int64), len(keys)
    some = keys[find(again, keys[:, 0]) >= 0]
    if keys.shape[1] == 1:
        unique, counts = np.unique(some[:, 0], return_counts=True)
        unique = unique.reshape(-1, 1)
    else:
        some = some[np.lexsort(some.T[::-1])]
        starts = np.flatnonzero(np.concatenate([[True], (some[1:] != some[:-1]).any(axis=1)]))
        unique, counts = some[starts], np.diff(np.append(starts, len(some)))
    distinct = len(keys) - len(some) + len(unique)
    more = counts > 1
    return unique[more], counts[more].astype(np.int64), distinct


def find(ordered: Words, values: Words) -> Numbers:
    """Where each value is in `ordered` (sorted, one word), -1 where it is not."""
    if len(ordered) == 0:
        return np.full(len(values), -1, np.int64)
    at = np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)
    return np.where(ordered[at] == values, at, -1)


def rows_among(keys: Words, repeated: Words) -> Numbers:
    """Numbers of the rows of `keys` (n, 2) that are in `repeated` (m, 2)."""
    if len(repeated) == 0 or len(keys) == 0:
        return np.zeros(0, np.int64)
    candidates = np.flatnonzero(find(np.unique(repeated[:, 0]), keys[:, 0]) >= 0)
    known = {(int(a), int(b)) for a, b in repeated}
    return np.array(
        [row for row in candidates.tolist() if (int(keys[row, 0]), int(keys[row, 1])) in known], np.int64
    )
