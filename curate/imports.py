"""Subsets that others published, made into ours: sorted, checked uid by uid, and compared with a pool.

Read are `.npy` files of u8,u8 pairs (DataComp, DFN), the same records without a header, and lists of hex uids as text, CSV, JSON
lines or Parquet. A uid that occurs k times stays k times: in this format it means k copies. Memory does not grow with the file:
slices of it are sorted and merged on disk.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from curate._import_tables import Table, kind_of
from curate._order import _forget, first_unsorted, search_words, sort_words
from curate._pages import words_of
from curate.pool import Pool
from curate.subset import HEADER_BYTES, Words, load_words, merge_to, to_hex, write_sorted
from curate.views import RawView
from headwater.console import say, track
from headwater.errors import IntegrityError, UsageError
from headwater.hashing import digest_file
from headwater.manifest import Counts, InputRef
from headwater.steps import Outcome, Plan, RunOptions, Work, run_step

STEP, VERSION = "subset-import", 1
SLICE_ROWS = 4 << 20  # uids sorted at a time: 64 MB, and about twice that while sorting
STEP_ROWS = 1 << 18  # uids looked at at a time afterwards
EXAMPLES = 10


@dataclass
class Coverage:
    """How a subset and a pool meet. Uids are counted once each, entries as often as they occur."""

    uids: int = 0
    uids_in_pool: int = 0
    entries: int = 0
    entries_in_pool: int = 0
    pool_rows: int = 0
    pool_rows_covered: int = 0
    missing_examples: tuple[str, ...] = ()

    @property
    def facts(self) -> dict[str, Any]:
        """The figures with their differences, for records and JSON."""
        return {
            "uids": self.uids,
            "uids_in_pool": self.uids_in_pool,
            "uids_not_in_pool": self.uids - self.uids_in_pool,
            "entries": self.entries,
            "entries_in_pool": self.entries_in_pool,
            "entries_not_in_pool": self.entries - self.entries_in_pool,
            "pool_rows": self.pool_rows,
            "pool_rows_covered": self.pool_rows_covered,
            "pool_rows_not_covered": self.pool_rows - self.pool_rows_covered,
            "uids_not_in_pool_examples": list(self.missing_examples),
        }


def plan_import(path: Path, output: Path, *, pool: Pool | None, uid_column: str, only_in_pool: bool) -> Plan:
    """The Step that importing `path` is. Raises MissingInput, and UsageError for options that do not fit together."""
    if only_in_pool and pool is None:
        raise UsageError("--only-in-pool: name the pool with --pool")
    kind = kind_of(path)
    inputs = [InputRef(role="subset", id=digest_file(path, ("sha256",)).sha256)]
    config: dict[str, Any] = {"only_in_pool": only_in_pool}
    if kind in ("parquet", "csv", "jsonl"):
        config["uid_column"] = uid_column
    if pool is not None:
        inputs.append(InputRef(role="pool", id=pool.id))
    return Plan(STEP, VERSION, config, inputs, output)


def import_subset(
    path: Path,
    output: Path,
    *,
    options: RunOptions,
    pool: Pool | None = None,
    uid_column: str = "uid",
    only_in_pool: bool = False,
) -> Outcome | None:
    """Write `path` as a sorted subset file with its record; None on a dry run.

    Raises IntegrityError naming the line of a malformed uid, or for a file that is none of the kinds above.
    """
    plan = plan_import(path, output, pool=pool, uid_column=uid_column, only_in_pool=only_in_pool)

    def work(job: Work) -> Counts:
        job.parts.mkdir(exist_ok=True)
        return _import(path, job, pool, uid_column, only_in_pool)

    return run_step(plan, work, options)


def _import(path: Path, job: Work, pool: Pool | None, uid_column: str, only_in_pool: bool) -> Counts:
    runs, facts = read_runs(path, job.parts, uid_column)
    with open(job.stage, "wb") as handle:
        entries, surplus, _ = merge_to(handle, runs, once=False)
    job.details.update({**facts, "entries": entries, "uids": entries - surplus})
    if not facts["was_sorted"]:
        say("info", f"{path.name}: is not sorted; its copy is")
    extra = {"repeats": surplus}
    if pool is None:
        return Counts(unit="entries", read=entries, kept=entries, extra={**extra, "entries_written": entries})
    words = _records(job.stage, entries)
    present = np.memmap(job.parts / "present", np.bool_, "w+", shape=(max(entries, 1),))
    coverage = cover(words, pool, present)
    job.details["coverage"] = coverage.facts
    missing = coverage.entries - coverage.entries_in_pool
    if coverage.uids and not coverage.uids_in_pool:
        say(
            "warning",
            f"{path.name}: none of its uids is in {pool.path.name}: is it a subset of another pool?",
        )
    dropped: dict[str, int] = {}
    if only_in_pool and missing:
        smaller = job.stage.with_name("stage.smaller")
        with open(smaller, "wb") as handle:
            write_sorted(handle, (block[here] for block, here in _blocks(words, present)))
        os.replace(smaller, job.stage)
        dropped["not in the pool"] = missing
    kept = entries - sum(dropped.values())
    extra |= {"entries_written": kept, "pool_rows_covered": coverage.pool_rows_covered}
    return Counts(unit="entries", read=entries, kept=kept, dropped=dropped, extra=extra)


def _records(path: Path, count: int) -> Words:
    """The uids of a subset file that we wrote, mapped."""
    if not count:
        return np.zeros((0, 2), "<u8")
    return np.memmap(path, "<u8", "r", HEADER_BYTES, (count, 2))


def read_runs(path: Path, folder: Path, uid_column: str = "uid") -> tuple[list[Words], dict[str, Any]]:
    """The uids of a file as sorted runs, mapped, and what was found: {format, was_sorted}."""
    kind = kind_of(path)
    if kind in ("npy", "raw"):
        words = load_words(path, check_sorted=False)
        if first_unsorted(words) is None:
            return [words], {"format": kind, "was_sorted": True}
        return _sorted_runs(_mapped_slices(words), len(words), folder), {"format": kind, "was_sorted": False}
    table = Table(path, uid_column)
    order = _Order()
    runs = _sorted_runs(_slices(order.watch(_uids(table))), None, folder)
    return runs, {"format": kind, "was_sorted": order.sorted}


def _mapped_slices(words: Words) -> Iterator[Words]:
    for at in range(0, len(words), SLICE_ROWS):
        yield words[at : at + SLICE_ROWS]
        _forget([words])  # what was read does not count as memory of this process


class _Order:
    """Whether uids that pass by come in order."""

    sorted = True

    def watch(self, blocks: Iterator[Words]) -> Iterator[Words]:
        last = np.zeros((0, 2), "<u8")
        for block in blocks:
            self.sorted = self.sorted and first_unsorted(np.concatenate([last, block])) is None
            last = block[-1:]
            yield block


def _uids(table: Table) -> Iterator[Words]:
    row = 0
    for batch in table.batches([]):
        yield uids_of(table, batch, row)
        row += batch.num_rows


def uids_of(table: Table, batch: Any, row: int) -> Words:
    """Words of the uid column of a batch whose first row is number `row`; IntegrityError names a malformed one by line."""
    column = batch.column(0)
    try:
        words, bad = words_of(column)
    except ValueError as error:
        raise IntegrityError(f"{table.path}: {error}, and uids are text of 32 hex digits") from error
    if len(bad):
        value = column[int(bad[0])].as_py()
        value = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        told = "null" if value is None else f"{value!r:.80}"
        hint = (
            "lower-case its letters"
            if isinstance(value, str) and len(value) == 32
            else "repair the file, or leave the line out"
        )
        raise IntegrityError(
            f"{table.path}, {table.place(row + int(bad[0]))}: {told} is not a uid (32 lower-case hex digits)",
            hint=hint,
        )
    return words


def _slices(blocks: Iterator[Words]) -> Iterator[Words]:
    held: list[Words] = []
    for block in blocks:
        held.append(block)
        if sum(map(len, held)) >= SLICE_ROWS:
            yield np.concatenate(held)
            held = []
    if held:
        yield np.concatenate(held)


def _sorted_runs(slices: Iterator[Words], total: int | None, folder: Path) -> list[Words]:
    runs: list[Words] = []
    with track("sort uids", total=total, unit="uids") as bar:
        for number, piece in enumerate(slices):
            file = folder / f"{number:06d}.run"
            count = len(piece)
            with open(file, "wb") as handle:
                handle.write(sort_words(piece).data)
            if count:
                runs.append(np.memmap(file, "<u8", "r", shape=(count, 2)))
            bar.add(count)
    return runs


def _blocks(words: Words, present: npt.NDArray[np.bool_]) -> Iterator[tuple[Words, npt.NDArray[np.bool_]]]:
    """Blocks of sorted entries, and which of them are of uids whose first entry is marked in `present`."""
    last, marked = np.zeros((0, 2), "<u8"), False
    for at in range(0, len(words), STEP_ROWS):
        block = np.array(words[at : at + STEP_ROWS])
        first = _firsts(block, last)
        # every entry follows the mark of the nearest first entry before it
        mine = np.where(first, present[at : at + len(block)], False)
        place = np.maximum.accumulate(np.where(first, np.arange(len(block)), -1))
        here = np.where(place < 0, marked, mine[place])
        last, marked = block[-1:], bool(here[-1])
        yield block, here


def _firsts(block: Words, last: Words) -> npt.NDArray[np.bool_]:
    """Entries that differ from the one before them."""
    joined = np.concatenate([last, block])
    new = (joined[1:] != joined[:-1]).any(axis=1)
    first: npt.NDArray[np.bool_] = new if len(last) else np.concatenate([[True], new])[: len(block)]
    return first


def cover(words: Words, pool: Pool, present: npt.NDArray[np.bool_]) -> Coverage:
    """Compare sorted entries with the uids of a pool, shard by shard.

    `present` (one truth value an entry, all false) is set for the first entry of every uid that the pool has.
    """
    found = Coverage(entries=len(words), pool_rows=pool.rows)
    with track(f"look for uids in {pool.path.name}", total=pool.rows, unit="rows") as bar:
        for shard in pool.shards:
            for block in RawView(shard, {}).blocks():
                theirs, bad = block.uids()
                left, right = search_words(words, theirs)
                hit = right > left
                hit[bad] = False
                found.pool_rows_covered += int(np.count_nonzero(hit))
                present[left[hit]] = True
                bar.add(block.rows)
    missing: list[str] = []
    last = np.zeros((0, 2), "<u8")
    for entries, here in _blocks(words, present):
        first = _firsts(entries, last)
        last = entries[-1:]
        found.uids += int(np.count_nonzero(first))
        found.uids_in_pool += int(np.count_nonzero(first & here))
        found.entries_in_pool += int(np.count_nonzero(here))
        if len(missing) < EXAMPLES:
            missing += to_hex(entries[first & ~here][: EXAMPLES - len(missing)])
    found.missing_examples = tuple(missing)
    return found
