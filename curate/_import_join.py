"""Joining tables with a pool by uid, on disk: uids sorted in slices, values left where they were written.

`score_imports.prepare` has checked everything; here the rows are moved.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curate._import_tables import Table
from curate._order import search_words, sort_words
from curate.imports import uids_of
from curate.pool import Pool
from curate.sidecars import StoredRef, write_sidecar
from curate.subset import Words, to_hex, unique
from curate.views import RawView
from headwater.console import track
from headwater.errors import IntegrityError
from headwater.manifest import Counts

SLICE_ROWS = 4 << 20  # uids sorted at a time
SAMPLE = 64  # uids looked at per slice to cut the slices
CHUNK_ROWS = 1 << 18  # rows of a piece of the values on disk
EXAMPLES = 10
NOT_THERE, NO_VALUE = "not in the table", "in the table without a value"


@dataclass(frozen=True)
class Join:
    """What is joined: `columns` are our names -> those of the tables; `ref` says where the scores go and under which types."""

    pool: Pool
    tables: Sequence[Table]
    columns: Mapping[str, str]
    ref: StoredRef


def join(found: Join, scratch: Path) -> tuple[Counts, dict[str, Any]]:
    """Write the sidecars of all shards to the folder of `found.ref`; returns counts that close and facts for the record.

    `scratch` takes about 60 bytes and the values for each row of the tables. Raises IntegrityError naming the line of a malformed
    uid, or a uid whose rows differ.
    """
    values, rows = _spill(found, scratch)
    index = _sorted(scratch, rows)
    words, source, repeats = _once(found, index, values, scratch)
    present = np.memmap(scratch / "present", np.bool_, "w+", shape=(max(len(words), 1),))
    found.ref.path.mkdir()
    kept, missing, empty = 0, 0, 0
    pool = found.pool
    with track(f"score {found.ref.name}", total=pool.rows, unit="rows") as bar:
        for shard in pool.shards:
            at, strings = [np.zeros(0, np.int64)], []
            for block in RawView(shard, {}).blocks():
                theirs, bad = block.uids()
                left, right = search_words(words, theirs)
                hit = right > left
                hit[bad] = False
                present[left[hit]] = True
                at.append(
                    np.where(hit, source[np.minimum(left, len(source) - 1)], -1) if len(source) else left - 1
                )
                strings += [chunk.cast(pa.string()) for chunk in block.uid_strings().chunks]
            rows_of = np.concatenate(at)
            table = values.take(rows_of)
            some = np.zeros(shard.rows, bool)
            for column in table.columns:
                some |= np.asarray(column.is_valid())
            absent = rows_of < 0
            kept += int(np.count_nonzero(some))
            missing += int(np.count_nonzero(absent))
            empty += int(np.count_nonzero(~absent & ~some))
            write_sidecar(
                pool.cache,
                found.ref,
                shard=shard.name,
                shard_sha256=pool.digests(shard).sha256,
                uids=pa.chunked_array(strings, pa.string()),
                scores=table,
                required=True,
            )
            bar.add(shard.rows)
    used = int(np.count_nonzero(present[: len(words)]))
    invalid = {reason: n for reason, n in ((NOT_THERE, missing), (NO_VALUE, empty)) if n}
    counts = Counts(unit="rows", read=pool.rows, kept=kept, invalid=invalid)
    strangers = np.flatnonzero(~present[: len(words)][:SLICE_ROWS])[:EXAMPLES]
    notes = {
        "table_rows": rows,
        "table_uids": len(words),
        "table_repeats": repeats,
        "uids_not_in_pool": len(words) - used,
        "uids_not_in_pool_examples": to_hex(np.asarray(words[strangers])),
    }
    return counts, notes


class _Values:
    """Columns on disk, mapped: rows are taken out by number without reading the others."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._schema = schema
        self._batches: list[pa.RecordBatch] = []
        if path.stat().st_size:
            reader = pa.ipc.open_file(pa.memory_map(str(path)))
            self._batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        self._ends = np.cumsum([0, *(batch.num_rows for batch in self._batches)])

    def take(self, rows: npt.NDArray[np.int64]) -> pa.Table:
        """The rows of these numbers in this order; -1 gives a row of nulls."""
        order = np.argsort(rows, kind="stable")
        ordered = rows[order]
        cuts = np.searchsorted(ordered, self._ends)
        pieces = [self._nulls(int(cuts[0]))]
        for batch, start, first, last in zip(self._batches, self._ends, cuts, cuts[1:], strict=False):
            if last > first:
                pieces.append(batch.take(pa.array(ordered[first:last] - start)))
        back = np.empty(len(rows), np.int64)
        back[order] = np.arange(len(rows))
        return pa.Table.from_batches(pieces, self._schema).combine_chunks().take(pa.array(back))

    def _nulls(self, count: int) -> pa.RecordBatch:
        return pa.RecordBatch.from_arrays(
            [pa.nulls(count, f.type) for f in self._schema], schema=self._schema
        )


def _spill(found: Join, scratch: Path) -> tuple[_Values, int]:
    """All rows of the tables in their order: values as an Arrow file, uids as raw words."""
    schema = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in found.ref.columns])
    rows = 0
    with (
        open(scratch / "values", "wb") as handle,
        pa.ipc.new_file(handle, schema) as writer,
        open(scratch / "uids", "wb") as words,
        track("read tables", total=None, unit="rows") as bar,
    ):
        for table in found.tables:
            first = 0
            for batch in table.batches(list(found.columns.values())):
                words.write(np.ascontiguousarray(uids_of(table, batch, first)).data)
                arrays = [_cast(table, batch.column(found.columns[f.name]), f, first) for f in schema]
                made = pa.RecordBatch.from_arrays(arrays, schema=schema)
                writer.write_table(pa.Table.from_batches([made]), max_chunksize=CHUNK_ROWS)
                first += batch.num_rows
                bar.add(batch.num_rows)
            rows += first
    return _Values(scratch / "values", schema), rows


def _cast(table: Table, array: pa.Array, wanted: pa.Field, first: int) -> pa.Array:
    try:
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        if pa.types.is_floating(array.type):
            # a score is a number or null, never NaN
            array = pc.if_else(pc.is_nan(array), pa.scalar(None, array.type), array)
        made = array.cast(wanted.type)
        if wanted.type == pa.string():
            made.validate(full=True)
        return made
    except (pa.ArrowException, ValueError) as error:
        where = f"{table.path}, rows {first} to {first + len(array) - 1}"
        raise IntegrityError(
            f"{where}: column {wanted.name!r} does not fit {wanted.type}: {str(error).splitlines()[0][:160]}"
        ) from error


def _sorted(scratch: Path, rows: int) -> npt.NDArray[np.uint64]:
    """(rows, 3) on disk, mapped: both words of each uid and the number of its row, sorted by all three."""
    if not rows:
        return np.zeros((0, 3), np.uint64)
    words: Words = np.memmap(scratch / "uids", "<u8", "r", shape=(rows, 2))
    out = np.memmap(scratch / "index", "<u8", "w+", shape=(rows, 3))
    slices = -(-rows // SLICE_ROWS)
    sample = sort_words(np.asarray(words[:: max(rows // (slices * SAMPLE), 1)]))
    cuts = unique(sample[:: max(len(sample) // slices, 1)][1:]) if slices > 1 else sample[:0]
    sizes = np.zeros(len(cuts) + 1, np.int64)
    for at in range(0, rows, SLICE_ROWS):
        sizes += np.bincount(_slot(cuts, words[at : at + SLICE_ROWS]), minlength=len(sizes))
    ends = np.concatenate([[0], np.cumsum(sizes)])
    free = ends[:-1].copy()
    for at in range(0, rows, SLICE_ROWS):
        some = np.array(words[at : at + SLICE_ROWS])
        slot = _slot(cuts, some)
        order = np.argsort(slot, kind="stable")
        starts = np.searchsorted(slot[order], np.arange(len(sizes) + 1))
        for number in np.flatnonzero(np.diff(starts)).tolist():
            mine = order[starts[number] : starts[number + 1]]
            place = slice(int(free[number]), int(free[number]) + len(mine))
            out[place, :2], out[place, 2] = some[mine], mine + at
            free[number] += len(mine)
    for first, last in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
        part = np.array(out[first:last])
        out[first:last] = part[np.lexsort((part[:, 2], part[:, 1], part[:, 0]))]
    return out


def _slot(cuts: Words, words: Words) -> npt.NDArray[np.int64]:
    """Which slice each uid belongs to: how many cuts are at or below it."""
    return search_words(cuts, np.asarray(words))[1]


def _once(
    found: Join, index: npt.NDArray[np.uint64], values: _Values, scratch: Path
) -> tuple[Words, npt.NDArray[np.int64], int]:
    """Sorted different uids with the first row of each, and how many rows said the same again.

    Raises IntegrityError naming a uid whose rows differ.
    """
    repeats = kept = 0
    last = index[:0]
    with open(scratch / "once", "wb") as words, open(scratch / "rows", "wb") as rows:
        for block in _pieces(index):
            joined = np.concatenate([last, block])
            again = (joined[1:, :2] == joined[:-1, :2]).all(axis=1)
            if again.any():
                _same(found, values, joined[:-1][again], joined[1:][again])
            fresh = ~again if len(last) else np.concatenate([[True], ~again])
            words.write(np.ascontiguousarray(block[fresh, :2]).data)
            rows.write(block[fresh, 2].astype("<i8").data)
            repeats, kept = repeats + int(np.count_nonzero(again)), kept + int(np.count_nonzero(fresh))
            last = block[-1:]
    if not kept:
        return np.zeros((0, 2), "<u8"), np.zeros(0, np.int64), 0
    return (
        np.memmap(scratch / "once", "<u8", "r", shape=(kept, 2)),
        np.memmap(scratch / "rows", "<i8", "r", shape=(kept,)),
        repeats,
    )


def _pieces(index: npt.NDArray[np.uint64]) -> Iterator[npt.NDArray[np.uint64]]:
    for at in range(0, len(index), CHUNK_ROWS):
        yield np.array(index[at : at + CHUNK_ROWS])


def _same(found: Join, values: _Values, one: npt.NDArray[np.uint64], two: npt.NDArray[np.uint64]) -> None:
    a, b = (values.take(side[:, 2].astype(np.int64)) for side in (one, two))
    for name in a.column_names:
        both_null = pc.and_(pc.is_null(a[name]), pc.is_null(b[name]))
        equal = pc.or_kleene(pc.equal(a[name], b[name]), both_null)
        differ = np.flatnonzero(~np.asarray(pc.fill_null(equal, False).to_numpy()))
        if len(differ):
            row = int(differ[0])
            told = " and ".join(_told(side[name][row].as_py()) for side in (a, b))
            raise IntegrityError(
                f"uid {to_hex(one[row : row + 1, :2])[0]}: is in the table twice, with {found.columns[name]} {told}",
                hint="make the table say one thing about each uid",
            )


def _told(value: Any) -> str:
    return "null" if value is None else f"{value!r:.60}"
