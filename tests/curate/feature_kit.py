"""Small pools with feature arrays, and one scorer run over them."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from curate.pool import Pool
from curate.pooldata import ensure_scored
from curate.scoring import settings_of
from curate.sidecars import ScorerRef, read_sidecar
from headwater.executor import Executor


def uid_of(number: int) -> str:
    """The uid of row `number` in pools that are given none: rising with the number."""
    return f"{number:032x}"


def split(rows: int, shards: int | Sequence[int]) -> list[int]:
    """Rows of each shard: a number of shards of about one size, or the sizes themselves."""
    if not isinstance(shards, int):
        assert sum(shards) == rows
        return list(shards)
    return [len(part) for part in np.array_split(np.arange(rows), shards)]


def feature_pool(
    folder: Path,
    arrays: Mapping[str, npt.NDArray[Any]],
    *,
    shards: int | Sequence[int] = 2,
    columns: Mapping[str, Any] | None = None,
    uids: Sequence[str | None] | None = None,
    names: Sequence[str] | None = None,
    order: npt.NDArray[np.int64] | None = None,
    packed: bool = False,
) -> Path:
    """Write Parquet shards with an npz each. `columns` are lists or Arrow arrays as long as the arrays (without them the
    pool has uid and text); `order` permutes rows before they are cut into shards; `packed` deflates the npz.
    """
    columns = dict(columns or {})
    rows = len(next(iter([*arrays.values(), *columns.values(), uids or []])))
    every = [uid_of(i) for i in range(rows)] if uids is None else list(uids)
    table = pa.table(
        {
            "uid": pa.array(every, pa.string()),
            **({} if "text" in columns else {"text": pa.array([f"caption {u}" for u in every], pa.string())}),
            **columns,
        }
    )
    order = np.arange(rows) if order is None else order
    folder.mkdir(parents=True)
    first = 0
    for number, size in enumerate(split(rows, shards)):
        part = order[first : first + size]
        first += size
        name = names[number] if names else f"{number:08d}"
        pq.write_table(table.take(pa.array(part, pa.int64())), folder / f"{name}.parquet", row_group_size=7)
        if arrays:
            write_npz(folder / f"{name}.npz", {k: v[part] for k, v in arrays.items()}, packed=packed)
    return folder


def write_npz(path: Path, arrays: Mapping[str, npt.NDArray[Any]], *, packed: bool = False) -> Path:
    """An npz with the same bytes each time."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, values in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy")  # a fixed time
            entry.compress_type = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
            with archive.open(entry, "w", force_zip64=True) as handle:
                np.lib.format.write_array(handle, np.ascontiguousarray(values), allow_pickle=False)
    return path


def open_pool(path: Path) -> Pool:
    """The pool, opened anew."""
    return Pool.open(path)


def scored(
    path: Path, name: str, *, memory_bytes: int | None = None, force: bool = False, **config: Any
) -> pa.Table:
    """Run one scorer over the pool: uid and its columns, ordered by uid."""
    return scored_with_facts(path, name, memory_bytes=memory_bytes, force=force, **config)[0]


def scored_with_facts(
    path: Path, name: str, *, memory_bytes: int | None = None, force: bool = False, **config: Any
) -> tuple[pa.Table, dict[str, Any]]:
    """Like `scored`, and {"counts", "notes", "folder"} of the run."""
    from curate.pooldata import DEFAULT_MEMORY_BYTES, bind

    pool = Pool.open(path)
    ref = bind(ScorerRef(name, tuple(sorted(settings_of(name, config).items()))), pool)
    facts = ensure_scored(
        pool,
        ref,
        executor=Executor("serial", 1),
        memory_bytes=memory_bytes or DEFAULT_MEMORY_BYTES,
        force=force,
    )
    parts = []
    for shard in pool.shards:
        columns = read_sidecar(pool.cache, ref, shard.name, pool.digests(shard).sha256)
        assert columns is not None
        uids = pq.read_table(shard.path, columns=["uid"])["uid"]
        parts.append(columns.add_column(0, "uid", uids))
    facts["folder"] = ref.folder(pool.cache)
    table = pa.concat_tables(parts) if parts else pa.table({"uid": pa.array([], pa.string())})
    return table.sort_by("uid").combine_chunks(), facts
