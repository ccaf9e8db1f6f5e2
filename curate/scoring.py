"""`headwater score`: one scorer over every row of a pool, stored beside it, shard by shard."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from curate.pool import Pool, Shard
from curate.sidecars import ScorerRef, read_sidecar, sweep, write_sidecar
from curate.views import RawView
from headwater import plugins
from headwater.console import track
from headwater.executor import Executor


@dataclass(frozen=True)
class _Job:
    shard: Shard
    sha256: str
    cache: Path
    ref: ScorerRef
    force: bool


def score_pool(
    pool: Pool, name: str, config: dict[str, Any], *, executor: Executor, force: bool, dry_run: bool
) -> dict[str, Any]:
    """Score every row that has no score yet. Returns {scorer, rows, rows_scored, shards, folder}."""
    plugins.find("scores", name)
    ref = ScorerRef(name, tuple(sorted(config.items())))
    for column in ref.reads:
        pool.column_type(column)
    _ = pool.id
    sweep(pool.cache, [ref])
    jobs = [_Job(shard, pool.digests(shard).sha256, pool.cache, ref, force) for shard in pool.shards]
    missing = [_missing(job) for job in jobs]
    facts = {"scorer": name, "rows": pool.rows, "shards": len(jobs), "folder": str(ref.folder(pool.cache))}
    if dry_run:
        return {**facts, "rows_scored": int(sum(missing))}
    wanted = [job for job, rows in zip(jobs, missing, strict=True) if rows]
    done = 0
    with track(f"score {name}", total=sum(job.shard.rows for job in wanted), unit="rows") as bar:
        for job, rows in zip(wanted, executor.map_shards(_score_shard, wanted), strict=True):
            done += rows
            bar.add(job.shard.rows)
    return {**facts, "rows_scored": done}


def _missing(job: _Job) -> int:
    """Rows that have no score yet: a column that is null although the scorer's input is not is asked for again."""
    if job.force:
        return job.shard.rows
    stored = read_sidecar(job.cache, job.ref, job.shard.name, job.sha256)
    if stored is None or stored.num_rows != job.shard.rows:
        return job.shard.rows
    return int(stored[next(iter(job.ref.outputs))].null_count)


def _score_shard(job: _Job) -> int:
    stored = None if job.force else read_sidecar(job.cache, job.ref, job.shard.name, job.sha256)
    first = next(iter(job.ref.outputs))
    pieces: list[pa.RecordBatch] = []
    uids: list[pa.Array] = []
    done = 0
    types = {name: job.shard.types[name] for name in job.ref.reads}
    for block in RawView(job.shard, types).blocks():
        columns = {name: block.column(name) for name in job.ref.reads}
        batch = pa.RecordBatch.from_pydict(
            {k: pa.array(v) if isinstance(v, np.ndarray) else v for k, v in columns.items()}
        )
        old = (
            None
            if stored is None
            else stored.slice(block.first_row, block.rows).combine_chunks().to_batches()
        )
        if old and len(old) == 1 and not old[0].column(first).null_count:
            pieces.append(old[0].select(list(job.ref.outputs)))
        else:
            pieces.append(job.ref.scorer.score(batch))
            done += block.rows
        uids.extend(chunk.cast(pa.string()) for chunk in block.uid_strings().chunks)
    schema = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in job.ref.outputs.items()])
    table = pa.Table.from_batches([piece.cast(schema) for piece in pieces], schema=schema)
    write_sidecar(
        job.cache,
        job.ref,
        shard=job.shard.name,
        shard_sha256=job.sha256,
        uids=pa.chunked_array(uids, pa.string()),
        scores=table,
    )
    return done
