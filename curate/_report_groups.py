"""Rows with the same caption or the same picture, from 64-bit hashes that a scan left in one file per shard.

A slice of the hashes is sorted at a time, so memory does not grow with the pool. Two different texts with one hash (63 bits)
would count as one group.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from curate._report_data import Columns, Pick, ScanTask, describe, hash_file
from curate.pool import Pool
from curate.views import RawView

SLICE_ROWS = 1 << 23  # hashes sorted at a time
MEMBERS = 3  # rows of a group that are read


@dataclass(frozen=True)
class Group:
    """Rows with the same caption or the same picture."""

    rows: int
    kept: int
    members: tuple[Pick, ...]


@dataclass(frozen=True)
class Groups:
    """All groups of two and more rows of one column."""

    groups: int
    rows: int
    distinct: int
    top: tuple[Group, ...]


def find_groups(pool: Pool, tasks: Sequence[ScanTask], column: str, *, top: int) -> Groups | None:
    """Groups of equal values of `column`, the `top` largest with their first rows; None when a shard lacks the column."""
    files = [hash_file(task.folder, task.number, column) for task in tasks]
    if not files or not all(file.is_file() for file in files):
        return None
    parts = [np.load(file, mmap_mode="r", allow_pickle=False) for file in files]
    starts = np.cumsum([0, *map(len, parts)])
    slices = max(1, -(-int(starts[-1]) // SLICE_ROWS))
    groups = rows = distinct = 0
    best: list[tuple[int, int, int, int]] = []  # (-rows, first place, kept, hash)
    for number in range(slices):
        low, high = number * 2**63 // slices * 2, (number + 1) * 2**63 // slices * 2 - 1
        hashes, places = _slice(parts, starts, low, high)
        keys = hashes >> np.uint64(1)
        ordered = np.sort(keys)
        same = ordered[1:] == ordered[:-1]
        distinct += len(ordered) - int(np.count_nonzero(same))
        again = np.unique(ordered[1:][same])
        if not len(again):
            continue
        at = np.minimum(np.searchsorted(again, keys), len(again) - 1)
        mine = again[at] == keys
        at = at[mine]
        counts = np.bincount(at, minlength=len(again))
        kept = np.bincount(
            at, weights=(hashes[mine] & np.uint64(1)).astype(np.float64), minlength=len(again)
        ).astype(np.int64)
        first = np.full(len(again), np.iinfo(np.int64).max)
        np.minimum.at(first, at, places[mine])
        groups, rows = groups + len(again), rows + int(counts.sum())
        order = np.lexsort((first, -counts))[:top]
        best += [(-int(counts[i]), int(first[i]), int(kept[i]), int(again[i])) for i in order]
    best = sorted(best)[:top]
    members = _members(pool, parts, [entry[3] for entry in best], tasks)
    return Groups(
        groups, rows, distinct, tuple(Group(-n, kept, members.get(key, ())) for n, _, kept, key in best)
    )


def _slice(
    parts: Sequence[Any], starts: Any, low: int, high: int
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    hashes, places = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
    for part, start in zip(parts, starts, strict=False):
        wanted = np.flatnonzero((part >= np.uint64(low)) & (part <= np.uint64(high)) & (part > 1))
        hashes.append(np.asarray(part[wanted]))
        places.append(wanted + start)
    return np.concatenate(hashes), np.concatenate(places)


def _members(
    pool: Pool, parts: Sequence[Any], keys: Sequence[int], tasks: Sequence[ScanTask]
) -> dict[int, tuple[Pick, ...]]:
    """The first three rows of each group, in the order of the pool."""
    wanted = np.array(sorted(keys), np.uint64)
    found: dict[int, list[tuple[int, int]]] = {key: [] for key in keys}
    for number, part in enumerate(parts):
        short = [key for key in keys if len(found[key]) < MEMBERS]
        if not short:
            break
        rows = np.flatnonzero(np.isin(np.asarray(part) >> np.uint64(1), wanted))
        for row in rows.tolist():
            places = found[int(part[row]) >> 1]
            if len(places) < MEMBERS:
                places.append((number, row))
    picks = dict(fetch(pool, sorted({p for places in found.values() for p in places}), tasks))
    return {key: tuple(picks[place] for place in places) for key, places in found.items()}


def fetch(
    pool: Pool, places: Sequence[tuple[int, int]], tasks: Sequence[ScanTask]
) -> Iterator[tuple[tuple[int, int], Pick]]:
    for number in sorted({n for n, _ in places}):
        shard, task = pool.shards[number], tasks[number]
        rows = [row for n, row in places if n == number]
        columns = Columns(shard, task.sha256, task.cache, task.scorers)
        for block in RawView(shard, task.types).blocks():
            inside = [
                row - block.first_row for row in rows if block.first_row <= row < block.first_row + block.rows
            ]
            if inside:
                words, _ = block.uids()
                for row in inside:
                    yield (number, block.first_row + row), describe(block, columns, (), words, row)
