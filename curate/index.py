"""The side index of a pool: narrow columns, sorted by uid, from which most filters are answered without the captions.

    POOL/.headwater/index/<shard>.parquet

One file per shard, uncompressed, no nulls where the shard has none: `uid_hi`, `uid_lo` (the uid as two u64), `row` (where the row
lies in the shard), the sizes in the narrowest integer that holds them all, `n_words` and `n_chars` of the caption (exact), every
float column, and the picture's digest: `sha256_prefix` (its first 64 bits) and `sha256_rest` (24 bytes). It carries the sha256
of the shard it was made from and is ignored, with a word, when the shard has changed. Building one costs about as much as two
queries of the pool.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from curate._captions import count_captions_any
from curate._exact_dedup_pages import PREFIX_COLUMN, REST_COLUMN, digests
from curate._memory import tune_process
from curate._order import order_of
from curate.pool import Pool, Shard, family
from curate.sidecars import METADATA_KEY
from curate.views import Column, IndexView, RawView, index_footer
from headwater.console import say, track
from headwater.errors import IntegrityError
from headwater.executor import Executor
from headwater.files import atomic_file, named_io, remove_stale_temporaries

VERSION = 3  # 2: sha256_prefix is null unless all 64 digits are hex; 3: sha256_rest
ROW_GROUP_ROWS = 131_072
SIZES = ("original_width", "original_height")
OWN_COLUMNS = frozenset({"uid_hi", "uid_lo", "row", "n_words", "n_chars", PREFIX_COLUMN, REST_COLUMN})


def index_path(cache: Path, shard: str) -> Path:
    """The index file of one shard."""
    return cache / "index" / f"{shard}.parquet"


def index_view(cache: Path, shard: Shard, sha256: str) -> IndexView | None:
    """The index of a shard, if there is one that was made from these bytes."""
    path = index_path(cache, shard.name)
    if not path.is_file():
        return None
    try:
        footer = index_footer(path)
        facts = dict(json.loads((footer.metadata or {}).get(METADATA_KEY, b"{}")))
        if facts.get("shard_sha256") == sha256 and footer.num_rows != shard.rows:
            raise ValueError(f"{footer.num_rows:,} rows for the shard's {shard.rows:,}")
    except (pa.ArrowException, OSError, ValueError, TypeError) as error:
        say("warning", f"{path}: cannot be read and is ignored ({str(error).splitlines()[0]})")
        return None
    if facts.get("shard_sha256") != sha256 or facts.get("index_version") != VERSION:
        why = (
            "the shard has changed since"
            if facts.get("shard_sha256") != sha256
            else "another version made it"
        )
        say(
            "warning",
            f"the index of shard {shard.name} is stale ({why}): headwater pool index makes it again",
        )
        return None
    return IndexView(shard, path)


@dataclass(frozen=True)
class _Job:
    shard: Shard
    sha256: str
    cache: Path
    types: Mapping[str, pa.DataType]


def build_index(pool: Pool, executor: Executor, *, force: bool = False) -> dict[str, Any]:
    """Index every shard that has no fitting index yet. Returns {shards, built, rows, bytes}."""
    with named_io(pool.cache):  # before every shard is read for the pool's id
        (pool.cache / "index").mkdir(parents=True, exist_ok=True)
        remove_stale_temporaries(pool.cache / "index")
    _ = pool.id
    jobs = []
    for shard in pool.shards:
        sha256 = pool.digests(shard).sha256
        if force or index_view(pool.cache, shard, sha256) is None:
            jobs.append(
                _Job(shard, sha256, pool.cache, {name: pool.column_type(name) for name in _columns(pool)})
            )
    with track("index", total=sum(job.shard.rows for job in jobs), unit="rows") as bar:
        light = sum(job.shard.rows for job in jobs) < 500_000
        for rows in executor.map_shards(_index_shard, jobs, light=light):
            bar.add(rows)
    size = sum(index_path(pool.cache, shard.name).stat().st_size for shard in pool.shards)
    return {"shards": len(pool.shards), "built": len(jobs), "rows": pool.rows, "bytes": size}


def index_state(pool: Pool) -> dict[str, Any]:
    """How many shards have a fitting index: {shards, fitting, missing}."""
    _ = pool.id
    fitting = sum(
        index_view(pool.cache, shard, pool.digests(shard).sha256) is not None for shard in pool.shards
    )
    return {"shards": len(pool.shards), "fitting": fitting, "missing": len(pool.shards) - fitting}


def _columns(pool: Pool) -> list[str]:
    wanted = [name for name in ("text", *SIZES, "sha256") if name in pool.columns]
    if "sha256" in wanted and family(pool.column_type("sha256")) != "text":
        wanted.remove("sha256")
    floats = [name for name in pool.columns if any(_is_float(shard, name) for shard in pool.shards)]
    return wanted + [name for name in floats if name not in OWN_COLUMNS]


def _is_float(shard: Shard, name: str) -> bool:
    return name in shard.types and family(shard.types[name]) == "float"


def _index_shard(job: _Job) -> int:
    tune_process()
    pieces: dict[str, list[Any]] = {}
    words = []
    for block in RawView(job.shard, job.types).blocks():
        found, bad = block.uids()
        if len(bad):
            row = block.first_row + int(bad[0])
            raise IntegrityError(
                f"shard {job.shard.name}, column uid, row {row}: null or malformed",
                hint="headwater pool validate lists all such rows",
            )
        words.append(found)
        for name in job.types:
            if name == "text":
                n_words, n_chars = count_captions_any(
                    block.file, block.group, shard_name=job.shard.name, file=block.handle
                )
                pieces.setdefault("n_words", []).append(_masked(n_words))
                pieces.setdefault("n_chars", []).append(_masked(n_chars))
            elif name == "sha256":
                prefixes, rests = _digest(_array(block.column(name)))
                pieces.setdefault(PREFIX_COLUMN, []).append(prefixes)
                pieces.setdefault(REST_COLUMN, []).append(rests)
            else:
                pieces.setdefault(name, []).append(_array(block.column(name)))
    uids = np.concatenate([np.zeros((0, 2), "<u8"), *words])
    order = _order(uids)
    uids = uids[order]
    columns: dict[str, Any] = {
        "uid_hi": np.ascontiguousarray(uids[:, 0]),
        "uid_lo": np.ascontiguousarray(uids[:, 1]),
    }
    columns["row"] = order.astype(np.uint32)
    for name, parts in pieces.items():
        columns[name] = _narrow(pa.concat_arrays(parts).take(pa.array(order)))
    facts = {"shard_sha256": job.sha256, "index_version": VERSION}
    arrays = {
        name: pa.array(column) if isinstance(column, np.ndarray) else column
        for name, column in columns.items()
    }
    fields = [pa.field(name, array.type, nullable=array.null_count > 0) for name, array in arrays.items()]
    schema = pa.schema(fields, metadata={METADATA_KEY: json.dumps(facts, sort_keys=True).encode()})
    table = pa.Table.from_arrays(list(arrays.values()), schema=schema)
    path = index_path(job.cache, job.shard.name)
    with atomic_file(path) as handle:
        # one plain page per column and row group: see curate._plain
        pq.write_table(
            table,
            handle,
            compression="none",
            use_dictionary=False,
            row_group_size=ROW_GROUP_ROWS,
            data_page_size=1 << 26,
            write_batch_size=ROW_GROUP_ROWS,
            max_rows_per_page=ROW_GROUP_ROWS,
            write_statistics=False,
        )
    return job.shard.rows


def _order(uids: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """The permutation that sorts uids; high words are nearly always distinct, so they are sorted alone first."""
    order = order_of(uids[:, 0])
    high = uids[:, 0][order]
    if (high[1:] == high[:-1]).any():
        order = np.lexsort((uids[:, 1], uids[:, 0]))
    return order


def _array(column: Column) -> pa.Array:
    return pa.array(column) if isinstance(column, np.ndarray) else column


def _masked(counts: npt.NDArray[np.int32]) -> pa.Array:
    return pa.array(counts, mask=counts < 0)


def _narrow(array: pa.Array) -> pa.Array:
    """Integers in the narrowest unsigned type that holds them all; anything negative or too large stays as it is."""
    if not pa.types.is_integer(array.type) or not len(array) or array.null_count == len(array):
        return array
    import pyarrow.compute as pc

    bounds = pc.min_max(array)
    low, high = bounds["min"].as_py(), bounds["max"].as_py()
    if low < 0:
        return array
    for kind in (pa.uint16(), pa.uint32()):
        if high < 2**kind.bit_width:
            return array.cast(kind)
    return array


def _digest(array: pa.Array) -> tuple[pa.Array, pa.Array]:
    """The first 64 bits of each digest as u64, null where the value is not 64 hex digits; and the others, then zero."""
    words, bad = digests(array)
    rest = pa.py_buffer(np.ascontiguousarray(words[:, 1:], "<u8"))
    prefixes = pa.array(np.ascontiguousarray(words[:, 0]), mask=bad)
    return prefixes, pa.Array.from_buffers(pa.binary(24), len(words), [None, rest])
