"""Balance over a list of entries (MetaCLIP): captions whose entries are common are kept with a smaller chance.

MetaCLIP, arXiv 2309.16671, algorithm 1 and the authors' code. Captions are spaced: `, . ; : ? ! `` ` get a blank on either side; tab,
LF and CR become blanks; a blank goes before and behind. An entry, with a blank before and behind and otherwise as it is written, is
looked for exactly, upper and lower case apart (curate._aho; the entry's own marks are not spaced, so "D.C." occurs nowhere, and
such entries are counted). With count_e the rows that hold entry e,

    p_e = t / max(count_e, t)        a row is kept when for any of its entries a draw is below p_e

so about `t` rows are kept for each common entry and all rows of rare ones; rows that hold no entry go. `t` was 20,000 for 400 million
pairs and 500,000 entries. A draw is a hash of uid, entry and seed: neither the order of entries and rows nor other rows decide it.

    metaclip_keep          kept by the draws
    metaclip_probability   chance of being kept, 1 − Π(1 − p_e); 0 without an entry
    metaclip_matches       how many entries the caption holds

Rows with a null caption have no score. `entries.parquet` beside the scores lists every entry with its rows and p_e. Memory: the
entries (about 500 bytes each) and one row group; what was found lies in a file until all is counted, 4 bytes a match.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from headwater.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa

    from curate._aho import Matcher
    from curate._entries import Entries
    from curate.pool import Shard
    from curate.pooldata import PoolData

VERSION = 1
SCOPE = "pool"
COLUMNS = ("text",)
OUTPUT = {"metaclip_keep": "bool", "metaclip_probability": "float32", "metaclip_matches": "int32"}
COST = "costly"
BLOCK_BYTES = 1 << 18  # of captions that are searched at a time: the words of one block stay in cache
LIGHT_ROWS = 300_000  # below this, starting processes costs more than the search
COUNTS_FILE = "entries.parquet"


@dataclass(frozen=True)
class Config:
    """`entries` is needed."""

    entries: Path | None = field(
        default=None, metadata={"help": "entries, one a line (UTF-8), or a .json list of strings"}
    )
    t: int = field(default=20_000, metadata={"help": "rows of an entry that are kept for certain"})
    seed: int = field(default=0, metadata={"help": "decides the draws"})


class Scorer:
    """Reads the list when made. Raises UsageError for an empty or missing one, IntegrityError by line for one that is damaged."""

    def __init__(self, config: Config) -> None:
        from curate._entries import read_entries

        if config.entries is None:
            raise UsageError("metaclip needs a list of entries", hint="--entries FILE, one entry a line")
        if config.t < 1:
            raise UsageError(f"metaclip: t is {config.t}: it must be at least 1")
        self._config = config
        self._entries = read_entries(config.entries)
        self.identity = {"entries": self._entries.id}

    def score_pool(self, data: PoolData) -> Iterator[dict[str, Any]]:
        """Search all captions, then decide shard by shard."""
        counts = self._search(data)
        chance = self._config.t / np.maximum(counts, self._config.t)
        self._told(data, counts, chance)
        names = np.array([_word(entry) for entry in self._entries.values], np.uint64)
        for number, shard in enumerate(data.shards):
            matches, entries = (np.load(path, mmap_mode="r") for path in _files(data.scratch, number))
            draws = _draws(data.uids(shard), matches, names[entries], self._config.seed)
            yield decide(np.asarray(matches), chance[entries], draws)

    def _search(self, data: PoolData) -> npt.NDArray[np.int64]:
        """Rows that hold each entry; leaves the matches of every shard in scratch."""
        from headwater.console import track

        listed = data.scratch / "entries"
        _write_list(listed, self._entries)
        kind = data.pool.column_type("text")
        jobs = [
            _Job(shard, kind, listed, self._entries.id, *_files(data.scratch, number))
            for number, shard in enumerate(data.shards)
        ]
        counts = np.zeros(len(self._entries.values), np.int64)
        light = data.pool.rows < LIGHT_ROWS
        with track("metaclip: search", total=data.pool.rows, unit="rows") as bar:
            for shard, (found, nulls) in zip(
                data.shards, data.executor.map_shards(_search_shard, jobs, light=light), strict=True
            ):
                counts += found
                data.invalid("text: null", nulls)
                bar.add(shard.rows)
        return counts

    def _told(self, data: PoolData, counts: npt.NDArray[np.int64], chance: npt.NDArray[np.float64]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        from curate._aho import can_match
        from headwater.console import say
        from headwater.files import atomic_file

        entries = self._entries
        if entries.repeated:
            shown = ", ".join(repr(e) for e in entries.repeats)
            say(
                "warning",
                f"metaclip: {entries.repeated:,} entries are repeats and count once, such as {shown}",
            )
        data.note("entries", len(entries.values))
        data.note("repeated_entries", entries.repeated)
        data.note("entries_that_cannot_match", sum(not can_match(e) for e in entries.values))
        data.note("entries_found", int(np.count_nonzero(counts)))
        data.note("entries_above_t", int(np.count_nonzero(counts > self._config.t)))
        data.note("matches", int(counts.sum()))
        table = pa.table(
            {
                "entry": pa.array([e.decode() for e in entries.values], pa.string()),
                "rows": counts,
                "probability": chance,
            }
        )
        with atomic_file(data.artifact(COUNTS_FILE), durable=False) as handle:
            pq.write_table(table, handle, compression="zstd")


def decide(
    matches: npt.NDArray[np.int32], chance: npt.NDArray[np.float64], draws: npt.NDArray[np.float64]
) -> dict[str, Any]:
    """Columns of one shard from the entries of each row (−1: no caption) and p_e and a draw in [0, 1) of each match."""
    import pyarrow as pa

    null = matches < 0
    each = np.where(null, 0, matches)
    some = np.flatnonzero(each)
    starts = (np.cumsum(each) - each)[some]
    keep = np.zeros(len(matches), bool)
    lost = np.ones(len(matches))
    if len(some):
        keep[some] = np.logical_or.reduceat(draws < chance, starts)
        lost[some] = np.multiply.reduceat(1 - chance, starts)
    return {
        "metaclip_keep": pa.array(keep, mask=null),
        "metaclip_probability": pa.array((1 - lost).astype(np.float32), mask=null),
        "metaclip_matches": pa.array(each.astype(np.int32), mask=null),
    }


@dataclass(frozen=True)
class _Job:
    shard: Shard
    kind: pa.DataType
    listed: Path
    entries_id: str
    matches: Path
    entries: Path


_matchers: dict[str, Matcher] = {}  # of this process: the last list


def _search_shard(job: _Job) -> tuple[npt.NDArray[np.int64], int]:
    """(rows that hold each entry, null captions) of one shard; its matches go to files."""
    from curate.views import RawView

    if job.entries_id not in _matchers:
        _matchers.clear()
        _matchers[job.entries_id] = _read_list(job.listed)
    matcher = _matchers[job.entries_id]
    matches, found = [np.zeros(0, np.int32)], [np.zeros(0, np.int32)]
    nulls = 0
    for block in RawView(job.shard, {"text": job.kind}).blocks():
        for texts, offsets, null in _captions(block.column("text")):
            text, entry = matcher.find(texts, offsets)
            each = np.bincount(text, minlength=len(null)).astype(np.int32)
            each[null] = -1  # a null has no bytes, and so no match
            nulls += int(np.count_nonzero(null))
            matches.append(each)
            found.append(entry)
    entries = np.concatenate(found)
    np.save(job.matches, np.concatenate(matches))
    np.save(job.entries, entries)
    return np.bincount(entries, minlength=matcher.size), nulls


def _captions(column: pa.Array) -> Iterator[tuple[Any, Any, npt.NDArray[np.bool_]]]:
    """(bytes, offsets, null) of rows of a string column, about BLOCK_BYTES at a time."""
    import pyarrow as pa

    from curate.scores import text_column

    if isinstance(column, np.ndarray):
        column = pa.array(column)  # of numbers: refused by name
    if not pa.types.is_null(column.type):  # a shard whose captions are all null may have that type
        column = text_column(pa.RecordBatch.from_arrays([column], ["text"]))
    column = column.cast(pa.large_string())
    null = np.asarray(column.is_null().to_numpy(zero_copy_only=False))
    if column.null_count:
        column = column.fill_null("")
    buffers = column.buffers()
    offsets = np.frombuffer(buffers[1], np.int64)[column.offset : column.offset + len(column) + 1]
    data = np.frombuffer(buffers[2], np.uint8) if buffers[2] is not None else np.zeros(0, np.uint8)
    first = 0
    while first < len(column):
        last = int(np.searchsorted(offsets, offsets[first] + BLOCK_BYTES, "right")) - 1
        last = max(min(last, len(column)), first + 1)
        yield data, offsets[first : last + 1], null[first:last]
        first = last


def _draws(
    uids: npt.NDArray[np.uint64], matches: Any, names: npt.NDArray[np.uint64], seed: int
) -> npt.NDArray[np.float64]:
    """A number in [0, 1) for each match."""
    from curate.clauses import mix

    salt = mix(np.array([seed & 0xFFFFFFFFFFFFFFFF], np.uint64))
    rows = mix(uids[:, 0] ^ mix(uids[:, 1] ^ salt))
    word = mix(np.repeat(rows, np.maximum(matches, 0)) ^ names)
    return np.asarray((word >> np.uint64(11)) * 2.0**-53)


def _word(entry: bytes) -> int:
    """64 bits that stand for an entry, whatever list it is in."""
    import hashlib

    return int.from_bytes(hashlib.blake2b(entry, digest_size=8).digest(), "little")


def _files(scratch: Path, number: int) -> tuple[Path, Path]:
    """Matches of each row of shard `number` (−1: no caption), and the entries one row after the other."""
    return scratch / f"{number:08d}.matches.npy", scratch / f"{number:08d}.entries.npy"


def _write_list(path: Path, entries: Entries) -> None:
    with open(path, "wb") as handle:
        for entry in entries.values:
            handle.write(len(entry).to_bytes(4, "little") + entry)


def _read_list(path: Path) -> Matcher:
    from curate._aho import Matcher

    data, at = path.read_bytes(), 0
    values = []
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "little")
        values.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    return Matcher(values)
