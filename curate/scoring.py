"""`headwater score`: one scorer over every row of a pool, stored beside it, shard by shard."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from curate import _guard
from curate.pool import Pool, Shard
from curate.pooldata import DEFAULT_MEMORY_BYTES, bind, ensure_scored, is_scored
from curate.sidecars import ScorerRef, read_sidecar, scorer_module, sweep, write_sidecar
from curate.views import RawView
from headwater import plugins
from headwater.console import track
from headwater.errors import UsageError, nearest
from headwater.executor import Executor


@dataclass(frozen=True)
class _Job:
    shard: Shard
    sha256: str
    cache: Path
    ref: ScorerRef
    force: bool
    time_limit_seconds: float | None = None


def score_pool(
    pool: Pool,
    name: str,
    config: dict[str, Any],
    *,
    executor: Executor,
    force: bool,
    dry_run: bool,
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
    options: Any = None,
    time_limit_seconds: float | None = None,
) -> dict[str, Any]:
    """Score every row that has no score yet. Returns {scorer, rows, rows_scored, shards, folder, columns}, for scorers of a whole
    pool also {counts, notes}, and for one of someone else that gave NaN {counts}. `time_limit_seconds` is for one block of rows, of
    a scorer of someone else.
    """
    plugins.find("scores", name)
    ref = ScorerRef(name, tuple(sorted(config.items())))
    for column in ref.reads:
        pool.column_type(column)
    if ref.scope != "rows":
        return _score_whole(pool, ref, executor, force, dry_run, memory_bytes, options)
    _ = pool.id
    sweep(pool.cache, [ref])
    jobs = [
        _Job(shard, pool.digests(shard).sha256, pool.cache, ref, force, time_limit_seconds)
        for shard in pool.shards
    ]
    missing = [_missing(job) for job in jobs]
    facts = _facts(pool, ref)
    if dry_run:
        return {**facts, "rows_scored": int(sum(missing))}
    wanted = [job for job, rows in zip(jobs, missing, strict=True) if rows]
    done = nan = 0
    with track(f"score {name}", total=sum(job.shard.rows for job in wanted), unit="rows") as bar:
        for job, (rows, wrong) in zip(wanted, executor.map_shards(_score_shard, wanted), strict=True):
            done, nan = done + rows, nan + wrong
            bar.add(job.shard.rows)
    if nan:
        facts["counts"] = {"unit": "rows", "invalid": {"NaN": nan}}
    return {**facts, "rows_scored": done}


def _facts(pool: Pool, ref: ScorerRef) -> dict[str, Any]:
    facts = {"scorer": ref.name, "rows": pool.rows, "shards": len(pool.shards)}
    return {**facts, "columns": list(ref.outputs), "folder": str(ref.folder(pool.cache))}


def _score_whole(
    pool: Pool,
    ref: ScorerRef,
    executor: Executor,
    force: bool,
    dry_run: bool,
    memory_bytes: int,
    options: Any,
) -> dict[str, Any]:
    ref = bind(ref, pool)
    if dry_run:
        return {**_facts(pool, ref), "rows_scored": 0 if is_scored(pool, ref) and not force else pool.rows}
    made = ensure_scored(
        pool, ref, executor=executor, memory_bytes=memory_bytes, options=options, force=force
    )
    return {**_facts(pool, ref), **made}


def settings_of(name: str, given: Mapping[str, Any], base: Path = Path()) -> dict[str, Any]:
    """Values of the command line or a file as the types of the scorer's Config; an unknown key offers the nearest.

    Relative paths start at `base`, the folder of the file that names them. Raises UsageError naming the key whose value does not fit.
    """
    import dataclasses

    module = scorer_module(name)
    fields = {field.name: field for field in dataclasses.fields(module.Config)}
    out: dict[str, Any] = {}
    for key, value in given.items():
        key = key.replace("-", "_")
        if key not in fields:
            raise UsageError(f"scorer {name} has no setting {key!r}: {nearest(key, fields)}")
        typed = _typed(name, key, str(fields[key].type), value)
        out[key] = base / typed if isinstance(typed, Path) else typed
    return out


def path_settings(name: str) -> set[str]:
    """Settings of a scorer that say where something lies."""
    import dataclasses

    fields = dataclasses.fields(plugins.load("scores", name).Config)
    return {field.name for field in fields if "Path" in str(field.type)}


def _typed(scorer: str, key: str, kind: str, value: Any) -> Any:
    """`value` as the annotated type; a Path setting is a Path, whatever wrote it."""
    try:
        if value is None or (isinstance(value, str) and value == "" and "None" in kind):
            return None
        if "Path" in kind:
            return Path(str(value))
        if "bool" in kind:
            if not isinstance(value, bool):
                raise ValueError
            return value
        if kind.startswith("int"):
            if isinstance(value, bool) or float(value) != int(value):
                raise ValueError
            return int(value)
        if kind.startswith("float"):
            number = float(value)
            if isinstance(value, bool) or not math.isfinite(number):
                raise ValueError
            return number
        return value if "str" not in kind or isinstance(value, str) else str(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise UsageError(f"scorer {scorer}: {key} is {value!r}, which is no {kind}") from error


def _missing(job: _Job) -> int:
    """Rows that have no score yet: a column that is null although the scorer's input is not is asked for again."""
    if job.force:
        return job.shard.rows
    stored = read_sidecar(job.cache, job.ref, job.shard.name, job.sha256)
    if stored is None or stored.num_rows != job.shard.rows:
        return job.shard.rows
    return int(stored[next(iter(job.ref.outputs))].null_count)


def _score_shard(job: _Job) -> tuple[int, int]:
    """Score one shard; returns (rows scored, rows whose score was NaN)."""
    stored = None if job.force else read_sidecar(job.cache, job.ref, job.shard.name, job.sha256)
    first = next(iter(job.ref.outputs))
    pieces: list[pa.RecordBatch] = []
    uids: list[pa.Array] = []
    done = 0
    tally = _guard.Tally()
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
            place = _guard.Place(job.shard.name, block.first_row, block.first_row + max(block.rows - 1, 0))
            pieces.append(_guard.score(job.ref, batch, place, seconds=job.time_limit_seconds, tally=tally))
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
        required=True,
    )
    return done, tally.nan
