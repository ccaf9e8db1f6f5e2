"""What a report tells of a pool, gathered in one pass over its shards with bounded memory.

Per shard: histograms of every measure for all rows and for kept rows, values of categories, a few rows per reason chosen by a hash of
uid and seed, and 64-bit hashes of captions and image digests in a file each (8 bytes a row), for `_report_groups`.
"""

from __future__ import annotations

import functools
import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate import _guard
from curate import _report_alone as alone
from curate import _report_scatter as scatter
from curate._report_measure import Axis, Measure, axis_for, cut_value, evaluate
from curate.clauses import mix
from curate.pool import Pool, Shard
from curate.questions import private_connection
from curate.sidecars import ScorerRef, StoredRef, read_sidecar
from curate.subset import to_hex
from curate.views import Column, RawBlock, RawView
from headwater.console import track
from headwater.executor import Executor

TEXT, PICTURE = "text", "sha256"
GROUP_COLUMNS = (TEXT, PICTURE)
MOST_VALUES = 10_000  # distinct values of a category followed per shard
LOOKS, LOOK_ROWS = 8, 20_000  # row groups looked at to choose the axes, and rows of each
LIGHT_ROWS = 4_000_000  # below this, starting processes costs more than the scan (0.8 CPU s per million rows)
MOST_TEXT = 600  # characters of a caption kept
KEPT = 0


@dataclass(frozen=True)
class ScanTask:
    """One shard to look through; `codes` names one byte a row (0 kept, otherwise why not), None when all rows count as kept."""

    number: int
    shard: Shard
    sha256: str
    cache: Path
    codes: str | None
    types: Mapping[str, pa.DataType]
    scorers: Mapping[str, ScorerRef | StoredRef]
    measures: tuple[Measure, ...]
    axes: tuple[Axis | None, ...]
    categories: tuple[str, ...]
    shown: tuple[str, ...]
    folder: Path
    seed: int
    picks: int
    scatter: tuple[int, int] | None = None  # numbers of two measures
    rule: Any = None  # curate._report_alone.Rule, for what each clause removed alone


@dataclass
class Histogram:
    """Counts of one measure; row 0 of every pair is the pool, row 1 the kept rows."""

    bins: npt.NDArray[np.int64]
    below: list[int] = field(default_factory=lambda: [0, 0])
    above: list[int] = field(default_factory=lambda: [0, 0])
    without: list[int] = field(default_factory=lambda: [0, 0])
    right: list[int] = field(default_factory=list)  # of each cut, in the pool
    readable: bool = True

    def add(self, other: Histogram) -> None:
        self.bins = self.bins + other.bins
        for mine, theirs in (
            (self.below, other.below),
            (self.above, other.above),
            (self.without, other.without),
            (self.right, other.right),
        ):
            mine[:] = [a + b for a, b in zip(mine, theirs, strict=True)]
        self.readable &= other.readable

    @property
    def counted(self) -> int:
        return int(self.bins[0].sum()) + self.below[0] + self.above[0]


@dataclass(frozen=True, order=True)
class Pick:
    """One row that the page shows."""

    rank: int
    shard: str
    row: int
    uid: str
    caption: str | None
    caption_chars: int
    values: tuple[tuple[str, str], ...]


@dataclass
class Facts:
    """What a pass found."""

    rows: int = 0
    kept: int = 0
    histograms: list[Histogram] = field(default_factory=list)
    categories: dict[str, dict[str | None, list[int]]] = field(default_factory=dict)
    crowded: set[str] = field(default_factory=set)  # categories with more values than are followed
    picks: dict[int, list[Pick]] = field(default_factory=dict)
    scatter: npt.NDArray[np.int64] | None = None  # see curate._report_scatter
    alone: npt.NDArray[np.int64] | None = None  # see curate._report_alone


class Columns:
    """Columns of one shard's blocks: its own, of cheap scorers (computed), of costly scorers (as they were stored)."""

    def __init__(
        self, shard: Shard, sha256: str, cache: Path, scorers: Mapping[str, ScorerRef | StoredRef]
    ) -> None:
        self._shard, self._sha256, self._cache, self._scorers = shard, sha256, cache, scorers
        self._stored: dict[str, pa.Table | None] = {}
        self._made: dict[str, Column] = {}
        self._of = -1

    def get(self, block: RawBlock, name: str) -> Column:
        """Raises KeyError when the shard has no such column and no stored scores."""
        if block.group != self._of:
            self._made, self._of = {}, block.group
        ref = self._scorers.get(name)
        if ref is None:
            return block.column(name)
        if name not in self._made:
            self._made.update(self._score(block, ref))
        return self._made[name]

    def _score(self, block: RawBlock, ref: ScorerRef | StoredRef) -> dict[str, Column]:
        if isinstance(ref, ScorerRef) and not ref.costly:
            batch = pa.RecordBatch.from_pydict({c: _arrow(block.column(c)) for c in ref.reads})
            place = _guard.Place(self._shard.name, block.first_row, block.first_row + max(block.rows - 1, 0))
            made = _guard.score(ref, batch, place)
            return {name: made.column(name) for name in ref.outputs}
        key = str(ref.path) if isinstance(ref, StoredRef) else ref.name
        if key not in self._stored:
            self._stored[key] = read_sidecar(self._cache, ref, self._shard.name, self._sha256)
        table = self._stored[key]
        if table is None:
            raise KeyError(ref.name)
        part = table.slice(block.first_row, block.rows)
        return {name: _one(part[name]) for name in ref.outputs}


def _arrow(column: Column) -> pa.Array:
    return pa.array(column) if isinstance(column, np.ndarray) else column


def _one(column: pa.ChunkedArray) -> pa.Array:
    return (
        column.chunk(0)
        if column.num_chunks == 1
        else pa.concat_arrays(column.chunks or [pa.nulls(0, column.type)])
    )


def choose_axes(
    pool: Pool,
    measures: Sequence[Measure],
    types: Mapping[str, pa.DataType],
    scorers: Mapping[str, ScorerRef | StoredRef],
) -> tuple[Axis | None, ...]:
    """An axis per measure, from a few row groups spread evenly over the pool. Only the drawing depends on this look."""
    groups = [(shard, g) for shard in pool.shards for g, rows in enumerate(shard.row_group_rows) if rows]
    chosen = {groups[i * len(groups) // LOOKS] for i in range(LOOKS)} if len(groups) > LOOKS else set(groups)
    samples: list[list[npt.NDArray[np.float64]]] = [[] for _ in measures]
    for shard in pool.shards:
        wanted = {g for s, g in chosen if s.name == shard.name}
        if not wanted:
            continue
        columns = Columns(shard, pool.digests(shard).sha256, pool.cache, scorers)
        for block in RawView(shard, types).blocks():
            if block.group in wanted:
                for measure, sample in zip(measures, samples, strict=True):
                    try:
                        values = evaluate(measure.node, lambda name, b=block, c=columns: c.get(b, name))  # type: ignore[misc]
                    except KeyError:
                        continue
                    sample.append(values[:: max(1, len(values) // LOOK_ROWS)])
    return tuple(
        axis_for(np.concatenate(sample), [cut.value for cut in measure.cuts]) if sample else None
        for measure, sample in zip(measures, samples, strict=True)
    )


def gather(pool: Pool, tasks: list[ScanTask], executor: Executor) -> Facts:
    """Run the scan over all shards and put the results together in their order."""
    whole = Facts()
    with track("look at rows for the report", total=pool.rows, unit="rows") as bar:
        for part in executor.map_shards(scan, tasks, light=pool.rows < LIGHT_ROWS):
            _merge(whole, part, tasks[0].picks)
            bar.add(part.rows)
    return whole


def _merge(whole: Facts, part: Facts, picks: int) -> None:
    if not whole.histograms:
        whole.histograms = part.histograms
    else:
        for mine, theirs in zip(whole.histograms, part.histograms, strict=True):
            mine.add(theirs)
    whole.rows, whole.kept = whole.rows + part.rows, whole.kept + part.kept
    whole.crowded |= part.crowded
    for name, values in part.categories.items():
        into = whole.categories.setdefault(name, {})
        for value, (every, kept) in values.items():
            have = into.setdefault(value, [0, 0])
            have[0], have[1] = have[0] + every, have[1] + kept
    for name in ("scatter", "alone"):
        mine, theirs = getattr(whole, name), getattr(part, name)
        setattr(whole, name, theirs if mine is None else mine if theirs is None else mine + theirs)
    for code, rows in part.picks.items():
        whole.picks[code] = sorted([*whole.picks.get(code, []), *rows])[:picks]


def hash_file(folder: Path, number: int, column: str) -> Path:
    """Where the hashes of a shard's column are: u64, the lowest bit set for kept rows, 0 for null."""
    return folder / f"{number:08d}.{column}.hashes.npy"


def scan(task: ScanTask) -> Facts:
    """Look through one shard."""
    facts = Facts(rows=task.shard.rows)
    facts.histograms = [
        Histogram(
            np.zeros((2, axis.bins if axis else 0), np.int64),
            right=[0] * len(measure.cuts),
            readable=axis is not None,
        )
        for measure, axis in zip(task.measures, task.axes, strict=True)
    ]
    codes = None if task.codes is None else np.load(task.codes, mmap_mode="r", allow_pickle=False)
    columns = Columns(task.shard, task.sha256, task.cache, task.scorers)
    hashes: dict[str, list[npt.NDArray[np.uint64]]] = {c: [] for c in GROUP_COLUMNS if c in task.shard.types}
    connection = private_connection()
    xy = None if task.scatter is None else [(task.measures[n], task.axes[n]) for n in task.scatter]
    if xy and xy[0][1] and xy[1][1]:
        facts.scatter = scatter.start(xy[0][1], xy[1][1])
    if task.rule is not None:
        facts.alone = task.rule.start()
    for block in RawView(task.shard, task.types).blocks():
        mine = np.zeros(block.rows, np.uint8) if codes is None else np.asarray(codes[block.row_numbers()])
        kept = mine == KEPT
        facts.kept += int(np.count_nonzero(kept))
        for measure, axis, histogram in zip(task.measures, task.axes, facts.histograms, strict=True):
            _histogram(task, measure, axis, histogram, kept, lambda name, b=block: columns.get(b, name))
        for name in task.categories:
            _category(facts, name, columns, block, kept)
        for name, found in hashes.items():
            found.append(_hashes(connection, _arrow(block.column(name)), kept))
        if facts.scatter is not None and xy:
            _scatter(facts.scatter, xy, kept, lambda name, b=block: columns.get(b, name))
        if facts.alone is not None:
            get = functools.partial(columns.get, block)
            alone.add(facts.alone, task.rule, block, mine, get)
        _choose(task, facts, block, columns, mine)
    connection.close()
    for name, found in hashes.items():
        np.save(
            hash_file(task.folder, task.number, name),
            np.concatenate([np.zeros(0, np.uint64), *found]),
            allow_pickle=False,
        )
    return facts


def _histogram(
    task: ScanTask, measure: Measure, axis: Axis | None, into: Histogram, kept: Any, column: Any
) -> None:
    if axis is None:
        return
    try:
        values = evaluate(measure.node, column)
    except KeyError:
        into.readable = False
        return
    there = ~np.isnan(values)
    for number, wanted in enumerate((there, there & kept)):
        some = values[wanted]
        into.without[number] += int(np.count_nonzero(kept) if number else len(values)) - len(some)
        at = np.floor(
            (np.clip(some, axis.low - axis.step, axis.high + axis.step) - axis.low) / axis.step + 1e-9
        ).astype(np.int64)
        into.below[number] += int(np.count_nonzero(at < 0))
        into.above[number] += int(np.count_nonzero(at >= axis.bins))
        into.bins[number] += np.bincount(at[(at >= 0) & (at < axis.bins)], minlength=axis.bins)
        if number == 0:
            for place, cut in enumerate(measure.cuts):
                value = cut_value(cut, measure, task.types)
                into.right[place] += int(np.count_nonzero(some >= value if cut.at_least else some > value))


def _scatter(grid: Any, xy: Any, kept: Any, column: Any) -> None:
    try:
        xs, ys = (evaluate(measure.node, column) for measure, _ in xy)
    except KeyError:
        return
    scatter.add(grid, xy[0][1], xy[1][1], xs, ys, kept)


def _category(facts: Facts, name: str, columns: Columns, block: RawBlock, kept: Any) -> None:
    try:
        array = _arrow(columns.get(block, name))
    except KeyError:
        return
    counts = facts.categories.setdefault(name, {})
    for number, part in enumerate((array, array.filter(pa.array(kept)))):
        for entry in part.value_counts():
            value = entry["values"].as_py()
            value = None if value is None else str(value)
            if value in counts or len(counts) < MOST_VALUES:
                counts.setdefault(value, [0, 0])[number] += entry["counts"].as_py()
            else:
                facts.crowded.add(name)


def _hashes(connection: Any, array: pa.Array, kept: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint64]:
    if not len(array):
        return np.zeros(0, np.uint64)
    connection.register("block", pa.table({"c": array}))
    found = connection.execute("select hash(c) as h from block").fetchnumpy()["h"]
    connection.unregister("block")
    hashes = (np.asarray(found, np.uint64) & ~np.uint64(1)) | kept.astype(np.uint64)
    if array.null_count:
        hashes[np.asarray(array.is_null().to_numpy(zero_copy_only=False))] = 0
    return hashes


def _choose(
    task: ScanTask, facts: Facts, block: RawBlock, columns: Columns, codes: npt.NDArray[np.uint8]
) -> None:
    """Keep, per reason, the rows whose hash of uid and seed is lowest: the same rows whatever the number of workers."""
    if not block.rows or not task.picks:
        return
    words, _ = block.uids()
    ranks = mix(words[:, 0] ^ mix(words[:, 1] ^ mix(np.array([task.seed & (2**64 - 1)], np.uint64))))
    for code in np.unique(codes).tolist():
        rows = np.flatnonzero(codes == code)
        if len(rows) > task.picks:
            rows = rows[np.argpartition(ranks[rows], task.picks - 1)[: task.picks]]
        have = facts.picks.setdefault(code, [])
        worst = have[-1].rank if len(have) >= task.picks else None
        some = [r for r in rows.tolist() if worst is None or int(ranks[r]) <= worst]
        fresh = [describe(block, columns, task.shown, words, row, int(ranks[row])) for row in some]
        facts.picks[code] = heapq.nsmallest(task.picks, [*have, *fresh])


def describe(
    block: RawBlock, columns: Columns, shown: Sequence[str], words: Any, row: int, rank: int = 0
) -> Pick:
    """One row with its caption and the values that the rule looked at."""

    def value(name: str) -> Any:
        try:
            found = columns.get(block, name)[row]
            return found.as_py() if isinstance(found, pa.Scalar) else found.item()
        except KeyError:
            return None

    caption = value(TEXT) if TEXT in block.shard.types else None
    width, height = (
        value(n) if n in block.shard.types else None for n in ("original_width", "original_height")
    )
    values = [("", f"{width:,} × {height:,}")] if isinstance(width, int) and isinstance(height, int) else []
    others = [
        (name, value(name))
        for name in shown
        if name not in (TEXT, PICTURE, "original_width", "original_height")
    ]
    values += [(name, _short(found)) for name, found in others if found is not None]
    return Pick(
        rank=rank,
        shard=block.shard.name,
        row=block.first_row + row,
        uid=to_hex(words[row : row + 1])[0],
        caption=caption[:MOST_TEXT] if isinstance(caption, str) else None,
        caption_chars=len(caption) if isinstance(caption, str) else 0,
        values=tuple(values),
    )


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    text = str(value)
    if len(text) == 32 and not text.strip("0123456789abcdef"):
        return f"{text[:8]}…"  # the uid that a group is called after
    return text if len(text) <= 80 else text[:79] + "…"
