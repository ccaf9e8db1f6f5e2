"""The two questions of a dedup clause: which rows may repeat, and what their whole keys are (see curate._exact_dedup).

A column named `sha256` that holds text is compared as 256-bit digests, read from its pages or from the side index:
digits of either case are equal, and a row whose value is not 64 hex digits has no key. Every other column is compared as it is.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate._exact_dedup import ROWS_AT_ONCE, Keys, Surplus, candidates, write_keys
from curate._exact_dedup_pages import PREFIX_COLUMN, REST_COLUMN, digests
from curate.clauses import DedupState, Scope, State, absent
from curate.pool import family
from curate.rules import Dedup
from curate.views import Column, Mask
from headwater.files import atomic_file

if TYPE_CHECKING:
    from curate.questions import Question


@dataclass(frozen=True)
class KeyQuestion:
    """Which rows may share their key with more than `at_most` others? (See curate._exact_dedup.)"""

    node: str
    clause: Dedup
    types: Mapping[str, pa.DataType]
    of_survivors: bool = True

    @property
    def columns(self) -> set[str]:
        """What is read from blocks besides prefixes of digests."""
        return set() if self.index_columns else set(self.clause.by)

    @property
    def index_columns(self) -> set[str]:
        """Columns of the side index that stand for the key."""
        return {PREFIX_COLUMN} if _by_digest(self.clause, self.types) else set()

    def start(self) -> list[_Seen]:
        return []

    def feed(self, answer: list[_Seen], scope: Scope, alive: Mask) -> list[_Seen]:
        found = scope.heads(self.clause.by[0]) if _by_digest(self.clause, self.types) else None
        if found is not None:
            hashes, bad = found
            wanted = alive if bad is None else alive & ~bad
            rows: Any = np.flatnonzero(wanted) if not wanted.all() else slice(None)
            hashes = hashes[rows]
        else:
            hashes, rows = key_hashes(self.clause.by, self.types, scope, alive)
            wanted = np.zeros(scope.rows, bool)
            wanted[rows] = True
        place = scope.row_numbers()
        numbers_ = np.arange(place.start, place.stop) if isinstance(place, slice) else place
        lost = numbers_[alive & ~wanted] if len(hashes) < scope.rows else np.zeros(0, np.int64)
        answer.append(_Seen(scope.shard, hashes, numbers_[rows], lost))
        return answer

    def finish(self, answer: list[_Seen], file: Path) -> Keys | None:
        if not answer:
            return None
        parts = [np.concatenate([getattr(s, name) for s in answer]) for name in ("hashes", "rows", "absent")]
        rows = int(parts[1].max(initial=0)) + 1
        return write_keys(answer[0].shard, rows, parts[0], parts[1], parts[2], file)

    def settle(self, answers: Sequence[Keys | None], folder: Path) -> State | Question:
        parts = [answer for answer in answers if answer is not None]
        absent_rows = {part.shard: part.absent for part in parts if part.absent is not None}
        files = candidates(parts, self.clause.at_most, folder, f"{self.node}.keys")
        for part in parts:
            Path(part.path).unlink(missing_ok=True)
        if not files:
            return DedupState({}, absent_rows)
        return RepeatQuestion(self.node, self.clause, self.types, files, absent_rows)


@dataclass(frozen=True)
class _Seen:
    """Keys of one block: hashes, the rows of the shard they belong to, and the rows without a key."""

    shard: str
    hashes: npt.NDArray[np.uint64]
    rows: npt.NDArray[np.int64]
    absent: npt.NDArray[np.int64]


@dataclass(frozen=True)
class RepeatQuestion:
    """What are the whole keys, uids and order columns of the candidates? They are compared exactly."""

    node: str
    clause: Dedup
    types: Mapping[str, pa.DataType]
    candidates: Mapping[str, str]  # shard -> file of row numbers
    absent: Mapping[str, str]
    of_survivors: bool = True

    @property
    def columns(self) -> set[str]:
        """What is read from blocks besides digests."""
        return set(self.clause.order) if self.index_columns else {*self.clause.by, *self.clause.order}

    @property
    def index_columns(self) -> set[str]:
        return {PREFIX_COLUMN, REST_COLUMN} if _by_digest(self.clause, self.types) else set()

    @property
    def raw(self) -> bool:
        """Whether only the shard itself answers: candidates of other keys are few, and its rows are in their order."""
        return not self.index_columns

    def start(self) -> list[tuple[str, pa.Table]]:
        return []

    def feed(
        self, answer: list[tuple[str, pa.Table]], scope: Scope, alive: Mask
    ) -> list[tuple[str, pa.Table]]:
        file, place = self.candidates.get(scope.shard), scope.row_numbers()
        if file is None or not scope.rows:
            return answer
        chosen = np.load(file, mmap_mode="r", allow_pickle=False)
        if isinstance(place, slice):
            first, last = np.searchsorted(chosen, [place.start, place.stop])
            numbers_ = np.asarray(chosen[first:last])
            rows = numbers_ - place.start
        else:
            wanted = np.zeros(int(max(place.max(), chosen[-1])) + 1, bool)
            wanted[chosen] = True
            rows = np.flatnonzero(wanted[place])
            numbers_ = place[rows]
        if len(rows):
            answer.append((scope.shard, self._table(scope, rows, numbers_)))
        return answer

    def _table(self, scope: Scope, rows: npt.NDArray[np.int64], numbers_: npt.NDArray[np.int64]) -> pa.Table:
        words = scope.some_uids(rows)
        columns: dict[str, Any] = {"uid_hi": words[:, 0], "uid_lo": words[:, 1], "row": numbers_}
        needed = np.zeros(scope.rows, bool)
        needed[rows] = True
        for prefix, names in (("k", self.clause.by), ("o", list(self.clause.order))):
            for number, name in enumerate(names):
                whole = scope.some_digests(name, rows) if is_digest(name, self.types[name]) else None
                if whole is None or prefix == "o":
                    values = _values(name, self.types[name], scope.column(name, needed), digest=prefix == "k")
                    columns[f"{prefix}{number}"] = values.take(pa.array(rows))
                else:
                    columns[f"{prefix}{number}"] = _binary(whole)
        key = [columns[f"k{number}"] for number in range(len(self.clause.by))]
        columns["hash"] = _first_words(key[0]) if _by_digest(self.clause, self.types) else _hashes(key)
        return pa.table(columns)

    def finish(self, answer: list[tuple[str, pa.Table]], file: Path) -> tuple[str, str] | None:
        if not answer:
            return None
        path = file.with_suffix(".repeats.arrow")
        table = pa.concat_tables([table for _, table in answer])
        with atomic_file(path, durable=False) as handle, pa.ipc.new_file(handle, table.schema) as writer:
            writer.write_table(table)
        return answer[0][0], str(path)

    def settle(self, answers: Sequence[tuple[str, str] | None], folder: Path) -> State | Question:
        files = dict(answer for answer in answers if answer)
        shards = sorted(files)
        parts = [pa.ipc.open_file(pa.memory_map(files[shard])).read_all() for shard in shards]
        ranges = max(1, -(-sum(part.num_rows for part in parts) // ROWS_AT_ONCE))
        found: dict[int, list[npt.NDArray[np.int64]]] = {}
        for number in range(ranges):
            surplus = Surplus(len(self.clause.by), list(self.clause.order.values()), self.clause.at_most)
            for table in _batches(parts, number, ranges):
                lost = surplus.add(table)
                codes, rows = lost["part"].to_numpy(), lost["row"].to_numpy()
                for code in np.unique(codes).tolist():
                    found.setdefault(code, []).append(rows[codes == code])
        dropped: dict[str, str] = {}
        for code, pieces in found.items():
            path = folder / f"{self.node}.{code}.surplus.npy"
            np.save(path, np.sort(np.concatenate(pieces)), allow_pickle=False)
            dropped[shards[code]] = str(path)
        return DedupState(dropped, self.absent)


def _batches(parts: Sequence[pa.Table], number: int, ranges: int) -> Iterator[pa.Table]:
    """Candidates whose hash lies in range `number` of `ranges`, about ROWS_AT_ONCE at a time, with the number of their part."""
    low, high = number * 2**64 // ranges, (number + 1) * 2**64 // ranges - 1
    waiting: list[pa.Table] = []
    for code, part in enumerate(parts):
        if ranges > 1:
            hashes = part["hash"].to_numpy()
            part = part.filter(pa.array((hashes >= np.uint64(low)) & (hashes <= np.uint64(high))))
        part = part.drop_columns(["hash"])
        waiting.append(part.append_column("part", pa.array(np.full(part.num_rows, code, np.int32))))
        if sum(table.num_rows for table in waiting) >= ROWS_AT_ONCE:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


@functools.cache
def _hashing_connection() -> Any:
    """One for all blocks of this process: making it costs more than hashing 131,072 rows."""
    from curate.questions import private_connection  # which asks the questions of this module

    return private_connection()


def is_digest(name: str, type_: pa.DataType) -> bool:
    """Whether a column is compared as 256-bit digests: text under the name that pools give the digest of the picture."""
    return name == "sha256" and family(type_) == "text"


def _by_digest(clause: Dedup, types: Mapping[str, pa.DataType]) -> bool:
    return len(clause.by) == 1 and is_digest(clause.by[0], types[clause.by[0]])


def key_hashes(
    names: list[str], types: Mapping[str, pa.DataType], scope: Scope, alive: Mask
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    """64-bit hashes of the key columns, and the block rows they belong to: alive, no null in any key."""
    arrays = []
    wanted = alive
    for name in names:
        array = _values(name, types[name], scope.column(name, alive), digest=True)
        missing = absent(array)
        if missing is not None:
            wanted = wanted & ~missing
        arrays.append(array)
    rows = np.flatnonzero(wanted)
    if not len(rows):
        return np.zeros(0, np.uint64), rows
    if len(rows) < scope.rows:
        arrays = [array.take(pa.array(rows)) for array in arrays]
    return _hashes(arrays), rows


def _values(name: str, type_: pa.DataType, column: Column, *, digest: bool) -> pa.Array:
    """A column as an array of one type for all shards and views; digests as 32 bytes, null where there is none."""
    array = pa.array(column) if isinstance(column, np.ndarray) else column
    if digest and is_digest(name, type_):
        words, bad = digests(array)
        return _binary(words, bad)
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_integer(array.type):  # the index holds integers in fewer bits, each shard in its own
        return array.cast(type_)
    return array.cast(pa.large_string()) if family(array.type) == "text" else array


def _binary(words: npt.NDArray[np.uint64], bad: Mask | None = None) -> pa.Array:
    body = np.ascontiguousarray(words, "<u8")
    kind = pa.binary(32)
    valid = None if bad is None else pa.py_buffer(np.packbits(~bad, bitorder="little"))
    return pa.Array.from_buffers(kind, len(body), [valid, pa.py_buffer(body)])


def _first_words(array: pa.Array) -> npt.NDArray[np.uint64]:
    return np.frombuffer(array.buffers()[1], "<u8", 4 * len(array), 32 * array.offset)[::4].copy()


def _hashes(arrays: Sequence[pa.Array]) -> npt.NDArray[np.uint64]:
    table = pa.table({f"k{number}": array for number, array in enumerate(arrays)})
    connection = _hashing_connection()
    connection.register("keys", table)
    try:
        found = connection.execute(
            f"select hash({', '.join(table.column_names)}) as h from keys"
        ).fetchnumpy()["h"]
    finally:
        connection.unregister("keys")
    return np.asarray(found, np.uint64)
