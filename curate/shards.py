"""Lists webdataset tars, indexes where each sample lies, and reads one sample back.

`ShardIndex` is one Parquet file per tar (zstd level 1), one row per valid sample in tar order:
    uid_hi, uid_lo   uint64            the two halves of the uid
    shard            dictionary<string> name of the tar
    offset, length   int64 bytes       span of the sample's members, their headers included
    n_members        int32
    extensions       dictionary<string> of its members, joined by '/', in tar order
    data_offset, size  list<int64> bytes  of its members, in tar order
    uid_text         string            as spelt, only where that is not 32 lower-case digits
Schema metadata `headwater`: JSON of the tar's size_bytes, mtime_ns, sha256 (null when not asked for) and the walk's summary
(counts of what is not in the table). An index whose tar has another size or mtime_ns is ignored with a word.
"""

from __future__ import annotations

import json
import os
import re
import string
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from curate import tar
from curate._jsonuid import I64, OK, REASONS, U64
from curate._tarwalk import Batch, Members, Walk
from headwater.console import say
from headwater.errors import IntegrityError, MissingInput, UsageError

if TYPE_CHECKING:
    import pyarrow as pa

INDEX_VERSION = 1
MAX_EXAMPLES = 20  # problems listed by name, per shard
MAX_SAMPLE_BYTES = 1 << 30


@dataclass(frozen=True)
class TarShard:
    """A tar as listed. `expected` is the sample count its statistics file states, None without one."""

    path: Path
    name: str
    size_bytes: int
    mtime_ns: int
    expected: int | None = None


@dataclass
class Summary:
    """What a walk saw besides valid samples. Plain values, so it goes through JSON unchanged."""

    samples: int = 0
    invalid: dict[str, int] = field(default_factory=dict)
    examples: list[dict[str, Any]] = field(default_factory=list)  # {key, offset, reason}
    skipped_members: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    damage: dict[str, Any] | None = None  # {offset, reason}
    other_key: int = 0


def as_shard(path: Path, *, name: str | None = None, stats: Path | None = None) -> TarShard:
    """The shard at `path`."""
    try:
        found = path.stat()
    except OSError as error:
        raise MissingInput(f"shard {path} cannot be read: {error.strerror}") from error
    expected = None
    if stats is not None and stats.is_file():
        try:
            stated = json.loads(stats.read_bytes()[: 1 << 20]).get("successes")
            expected = stated if type(stated) is int and stated >= 0 else None
        except (ValueError, AttributeError):
            say("warning", f"{stats.name} is no statistics file; ignored")
    return TarShard(path, name or path.name, found.st_size, found.st_mtime_ns, expected)


def number_in(name: str, shard_format: str) -> int | None:
    """The shard number in `name`, None when it does not follow `shard_format`."""
    fields = list(string.Formatter().parse(shard_format))
    if sum(part[1] is not None for part in fields) != 1:
        raise UsageError(
            f"shard format {shard_format!r} needs exactly one number field", hint="like {:08d}.tar"
        )
    pattern = "".join(re.escape(text) + ("" if spec is None else r"(\d+)") for text, _, spec, _ in fields)
    match = re.fullmatch(pattern, name, re.ASCII)
    if match is None or len(match[1]) > 18 or shard_format.format(int(match[1])) != name:
        return None
    return int(match[1])


def list_shards(
    folder: Path,
    *,
    first_shard: int = 0,
    num_shards: int | None = None,
    shard_format: str = "{:08d}.tar",
    stats_format: str = "{:08d}_stats.json",
) -> tuple[list[TarShard], list[str]]:
    """The shards of a folder in number order (else, where no name has a number, every .tar by name), and notes.

    A hole in the numbering is a note, not the end of the list; a tar without statistics is read like any other.
    """
    if not folder.is_dir():
        raise MissingInput(f"folder {folder} does not exist")
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_file())
    numbers = sorted(number for name in names if (number := number_in(name, shard_format)) is not None)
    notes: list[str] = []
    if not numbers:
        if first_shard or num_shards is not None:
            raise MissingInput(f"{folder} has no shard named like {shard_format.format(first_shard)}")
        shards = [as_shard(folder / name) for name in names if name.endswith(".tar")]
        if not shards:
            raise MissingInput(f"folder {folder} holds no .tar file", hint="unpack compressed shards first")
        return shards, notes
    stop = numbers[-1] + 1 if num_shards is None else first_shard + num_shards
    wanted = [number for number in numbers if first_shard <= number < stop]
    missing = stop - first_shard - len(wanted)
    if not wanted:
        raise MissingInput(f"{folder} has no shard from {first_shard} to {stop - 1}")
    if missing:
        have = set(wanted)
        gaps = (number for number in range(first_shard, stop) if number not in have)
        first = [shard_format.format(number) for number, _ in zip(gaps, range(5), strict=False)]
        notes.append(f"{missing} shard(s) of the numbering are not there: {', '.join(first)}")
    strays = [name for name in names if name.endswith(".tar") and number_in(name, shard_format) is None]
    if strays:
        notes.append(
            f"{len(strays)} .tar file(s) not named like {shard_format!r} left out: {', '.join(strays[:5])}"
        )
    return [
        as_shard(folder / shard_format.format(n), stats=folder / stats_format.format(n)) for n in wanted
    ], notes


class Scan:
    """The samples of one shard, from its index when there is one that fits, else from a walk. Iterate, then read."""

    def __init__(self, shard: TarShard, index_dir: Path | None = None) -> None:
        self.shard = shard
        self.summary = Summary()
        self.extensions: list[str] = []
        self.spelled: dict[int, str] = {}
        self._index_dir = index_dir

    def batches(self) -> Iterator[Batch]:
        table = load_index(self._index_dir, self.shard) if self._index_dir else None
        if table is None and self._index_dir:
            table = build_index(self.shard)
            save_index(self._index_dir, self.shard, table)
        if table is not None:
            yield self._from_index(table)
            return
        walk = Walk(self.shard.path, self.shard.name)
        self.extensions, self.spelled = walk.extensions, walk.spelled
        for batch in walk.batches():
            self._count(batch)
            yield batch
        summary = self.summary
        summary.skipped_members, summary.notes, summary.other_key = walk.skipped, walk.notes, walk.other_key
        if walk.damage is not None:
            summary.damage = {"offset": walk.damage.offset, "reason": walk.damage.reason}

    def _count(self, batch: Batch) -> None:
        summary = self.summary
        summary.samples += len(batch)
        bad = np.flatnonzero(batch.state != OK)
        for row in bad.tolist():
            reason = REASONS[int(batch.state[row])]
            summary.invalid[reason] = summary.invalid.get(reason, 0) + 1
            if len(summary.examples) < MAX_EXAMPLES:
                offset = int(batch.offset[row])
                summary.examples.append({"key": self._key_at(offset), "offset": offset, "reason": reason})

    def _key_at(self, offset: int) -> str:
        with open(self.shard.path, "rb") as file:
            fd = file.fileno()
            item = tar.next_member(
                lambda at, length: os.pread(fd, length, at), self.shard.size_bytes, self.shard.name, offset
            )
        split = tar.split_name(item.name) if isinstance(item, tar.Member) else ""
        return "" if isinstance(split, str) else split[0].decode("utf-8", "backslashreplace")

    def _from_index(self, table: pa.Table) -> Batch:
        meta = json.loads(table.schema.metadata[b"headwater"])
        self.summary = Summary(**meta["summary"])
        shapes = table.column("extensions").combine_chunks()
        shapes = shapes if not hasattr(shapes, "chunks") else shapes.chunk(0)
        codes: dict[str, int] = {}
        per_shape = [
            [codes.setdefault(ext, len(codes)) for ext in shape.split("/")]
            for shape in shapes.dictionary.to_pylist()
        ]
        self.extensions = list(codes)
        which = np.asarray(shapes.indices)
        count = table.num_rows
        counts = np.asarray(table.column("n_members")).astype(np.int64)
        first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        code = np.zeros(int(first[-1]), np.int64)
        for number, shape in enumerate(per_shape):
            rows = np.flatnonzero(which == number)
            code[first[rows][:, None] + np.arange(len(shape))] = shape
        data, size = (_flat(table.column(name)) for name in ("data_offset", "size"))
        if len(data) != first[-1] or len(size) != first[-1]:
            raise IntegrityError(f"index of {self.shard.name}: its lists do not fit", hint="delete the index")
        text = table.column("uid_text")
        if text.null_count < count:
            for row, value in enumerate(text.to_pylist()):
                if value is not None:
                    self.spelled[int(data[first[row]])] = value
        empty = np.empty(0, np.uint64)
        members = Members(data, data, size, code, np.empty(0, np.bool_), empty, empty, np.empty(0, np.uint8))
        hi, lo, offset, length = (
            np.asarray(table.column(n)) for n in ("uid_hi", "uid_lo", "offset", "length")
        )
        return Batch(hi, lo, np.zeros(count, np.uint8), offset, length, first, members)


def _flat(column: pa.ChunkedArray) -> I64:
    parts = [np.asarray(chunk.flatten()) for chunk in column.chunks]
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def spelled_uid(scan: Scan, batch: Batch, row: int) -> str | None:
    """The uid of a sample as its json spells it, None when that is 32 lower-case digits."""
    if not scan.spelled:
        return None
    for at in batch.members.data[batch.first[row] : batch.first[row + 1]].tolist():
        if at in scan.spelled:
            return scan.spelled[at]
    return None


def build_index(shard: TarShard, *, sha256: str | None = None) -> pa.Table:
    """Walk a tar and return its ShardIndex."""
    import pyarrow as pa

    scan = Scan(shard)
    columns: dict[str, list[Any]] = {name: [] for name in ("hi", "lo", "offset", "length", "n")}
    data: list[I64] = []
    size: list[I64] = []
    shapes: list[str] = []
    texts: list[str | None] = []
    for batch in scan.batches():
        keep = np.flatnonzero(batch.state == OK)
        counts = np.diff(batch.first)[keep]
        rows = expand(batch.first[keep], counts)
        for name, values in zip(columns, (batch.hi, batch.lo, batch.offset, batch.length), strict=False):
            columns[name].append(values[keep])
        columns["n"].append(counts)
        data.append(batch.members.data[rows])
        size.append(batch.members.size[rows])
        codes = batch.members.code[rows].tolist()
        at = 0
        for count in counts.tolist():
            shapes.append("/".join(scan.extensions[code] for code in codes[at : at + count]))
            at += count
        texts.extend(spelled_uid(scan, batch, row) for row in keep.tolist())
    joined = {
        name: _join(parts, np.uint64 if name in ("hi", "lo") else np.int64) for name, parts in columns.items()
    }
    ends = np.concatenate([[0], np.cumsum(joined["n"])]).astype(np.int32)
    meta = {
        "version": INDEX_VERSION,
        "size_bytes": shard.size_bytes,
        "mtime_ns": shard.mtime_ns,
        "sha256": sha256,
        "summary": asdict(scan.summary),
    }
    table = pa.table(
        {
            "uid_hi": joined["hi"],
            "uid_lo": joined["lo"],
            "shard": pa.DictionaryArray.from_arrays(np.zeros(len(joined["hi"]), np.int32), [shard.name]),
            "offset": joined["offset"],
            "length": joined["length"],
            "n_members": joined["n"].astype(np.int32),
            "extensions": pa.array(shapes, pa.string()).dictionary_encode(),
            "data_offset": pa.ListArray.from_arrays(pa.array(ends), pa.array(_join(data, np.int64))),
            "size": pa.ListArray.from_arrays(pa.array(ends), pa.array(_join(size, np.int64))),
            "uid_text": pa.array(texts, pa.string()),
        }
    )
    return table.replace_schema_metadata({"headwater": json.dumps(meta, sort_keys=True)})


def _join(parts: list[Any], dtype: type) -> Any:
    return np.concatenate(parts) if parts else np.empty(0, dtype)


def expand(starts: I64, counts: I64) -> I64:
    """Row numbers start, start+1, … for each (start, count), one behind the other."""
    before = np.cumsum(counts) - counts
    return np.repeat(starts - before, counts) + np.arange(int(counts.sum()), dtype=np.int64)


def index_path(index_dir: Path, shard: TarShard) -> Path:
    """Where the index of a shard lies."""
    return index_dir / (shard.name.replace("/", "_") + ".index.parquet")


def save_index(index_dir: Path, shard: TarShard, table: pa.Table) -> Path:
    """Write an index: temporary name, fsync, rename."""
    import pyarrow.parquet as pq

    index_dir.mkdir(parents=True, exist_ok=True)
    path = index_path(index_dir, shard)
    part = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    with open(part, "wb") as file:
        pq.write_table(table, file, compression="zstd", compression_level=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
    return path


def load_index(index_dir: Path, shard: TarShard) -> pa.Table | None:
    """The index of a shard, or None (with a word, if there is one that does not fit)."""
    path = index_path(index_dir, shard)
    if not path.is_file():
        return None
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            meta = json.loads((file.schema_arrow.metadata or {})[b"headwater"])
            fits = meta["version"] == INDEX_VERSION and meta["size_bytes"] == shard.size_bytes
            if fits and meta["mtime_ns"] == shard.mtime_ns:
                return file.read()
            why = "its tar has changed"
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        why = f"it cannot be read ({type(error).__name__})"
    say("warning", f"index {path.name} is ignored: {why}")
    return None


def find_in_index(table: pa.Table, hi: int, lo: int) -> list[tuple[int, int]]:
    """(offset, length) of each sample with this uid."""
    highs: U64 = np.asarray(table.column("uid_hi"))
    rows = np.flatnonzero((highs == np.uint64(hi)) & (np.asarray(table.column("uid_lo")) == np.uint64(lo)))
    offsets, lengths = table.column("offset"), table.column("length")
    return [(offsets[row].as_py(), lengths[row].as_py()) for row in rows.tolist()]


def read_sample(tar_path: Path, offset: int, length: int) -> dict[str, bytes]:
    """The members of one sample by extension. Bytes only: nothing is decoded, whatever the extension."""
    if not 0 < length <= MAX_SAMPLE_BYTES:
        raise IntegrityError(f"{tar_path.name}: a sample of {length:,} bytes at byte {offset:,}")
    with open(tar_path, "rb") as file:
        span = os.pread(file.fileno(), length, offset)
    if len(span) < length - tar.BLOCK:
        raise IntegrityError(
            f"{tar_path.name}: no {length:,} bytes at byte {offset:,}", hint="build the index again"
        )
    found: dict[str, bytes] = {}
    for item in tar.members(lambda at, size: span[at : at + size], len(span), tar_path.name):
        if isinstance(item, tar.Member) and item.kind == "file":
            split = tar.split_name(item.name)
            extension = None if isinstance(split, str) else tar.clean_extension(split[1])
            if extension is not None:
                found[extension] = span[item.data_offset : item.data_offset + item.size_bytes]
    return found
