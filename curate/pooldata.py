"""What a scorer of a whole pool sees: shards, columns, uids, features, other scores, and places to write to.

A scorer of scope "pool" is a file of curate/scores with

    SCOPE = "pool"
    class Scorer:
        identity: dict[str, str]                       digests of assets that decide the result
        def inputs(self, pool) -> dict[str, str]       optional: role -> id of what is read besides the shards (features)
        def score_pool(self, data: PoolData) -> Iterator[dict[str, array]]

`score_pool` yields one dict of columns for each shard, in the order of `data.shards`, each as long as the shard has rows; null
for a row that has no score, and each such row counted once with `data.invalid(reason, rows)`. Memory beyond `data.memory_bytes`
goes to files under `data.scratch`; what others need again (centroids) is written to `data.artifact(name)`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate.features import Features, open_features
from curate.pool import Pool, Shard
from curate.sidecars import (
    ScorerRef,
    StoredRef,
    as_stored,
    read_sidecar,
    sidecar_fault,
    sweep,
    write_sidecar,
)
from curate.views import Column, RawBlock, RawView
from headwater.console import say, track
from headwater.errors import HeadwaterError, UsageError
from headwater.executor import Executor
from headwater.files import write_json
from headwater.manifest import Counts, InputRef

RECORD = "step.json"
DEFAULT_MEMORY_BYTES = 1 << 30
STEP = "score"


@dataclass
class PoolData:
    """One scorer's view of a pool while it runs."""

    pool: Pool
    ref: ScorerRef
    executor: Executor
    folder: Path
    memory_bytes: int = DEFAULT_MEMORY_BYTES
    options: Any = None  # RunOptions: what goes into records
    counts: dict[str, int] = field(default_factory=dict)  # reason -> rows without a score
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def shards(self) -> list[Shard]:
        return self.pool.shards

    @cached_property
    def scratch(self) -> Path:
        """A folder for spilled data; removed at the end."""
        path = self.folder / "scratch"
        path.mkdir(parents=True, exist_ok=True)
        return path

    def artifact(self, name: str) -> Path:
        """Where a file lies that goes with the scores, such as centroids; write it with headwater.files.atomic_file."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder / name

    def features(self, name: str) -> Features:
        """A feature array of the pool; see curate.features."""
        return open_features(self.pool, name)

    def blocks(self, shard: Shard, columns: tuple[str, ...] | list[str]) -> Iterator[RawBlock]:
        """Row groups of a shard with their columns."""
        types = {name: self.pool.column_type(name) for name in columns}
        yield from RawView(shard, types).blocks()

    def columns(self, shard: Shard, names: tuple[str, ...] | list[str]) -> dict[str, Column]:
        """Whole columns of one shard: NumPy where there are no nulls, else Arrow arrays."""
        pieces: dict[str, list[Any]] = {name: [] for name in names}
        for block in self.blocks(shard, names):
            for name in names:
                pieces[name].append(block.column(name))
        out: dict[str, Column] = {}
        for name, parts in pieces.items():
            if parts and all(isinstance(part, np.ndarray) for part in parts):
                out[name] = np.concatenate(parts)
            else:
                arrays = [pa.array(p) if isinstance(p, np.ndarray) else p for p in parts]
                kind = self.pool.column_type(name)
                out[name] = pa.concat_arrays(arrays) if arrays else pa.nulls(0, kind)
        return out

    def uids(self, shard: Shard) -> npt.NDArray[np.uint64]:
        """(rows, 2) words of the uids of a shard; null and malformed ones are as `curate.views` gives them."""
        parts = [block.uids()[0] for block in RawView(shard, {}).blocks()]
        return np.concatenate([np.zeros((0, 2), "<u8"), *parts])

    def stored(self, scorer: str, config: Mapping[str, Any]) -> Stored:
        """Scores of another scorer over the same pool, computed first when they are not there."""
        ref = bind(ScorerRef(scorer, tuple(sorted(config.items()))), self.pool)
        ensure_scored(
            self.pool, ref, executor=self.executor, memory_bytes=self.memory_bytes, options=self.options
        )
        return Stored(self.pool, as_stored(ref, self.pool.cache))

    def invalid(self, reason: str, rows: int) -> None:
        """Count rows that get no score."""
        if rows:
            self.counts[reason] = self.counts.get(reason, 0) + int(rows)

    def note(self, name: str, value: Any) -> None:
        """A fact for the record (what it is made of must be JSON)."""
        self.notes[name] = value


@dataclass(frozen=True)
class Stored:
    """Scores that lie beside a pool."""

    pool: Pool
    ref: StoredRef

    def columns(self, shard: Shard) -> dict[str, pa.ChunkedArray]:
        """The stored columns of one shard, in its row order."""
        table = read_sidecar(self.pool.cache, self.ref, shard.name, self.pool.digests(shard).sha256)
        if table is None or table.num_rows != shard.rows:
            raise HeadwaterError(
                f"shard {shard.name}: its scores of {self.ref.name} are not there",
                hint=f"headwater score {self.ref.name} makes them",
            )
        return {name: table[name] for name in self.ref.outputs}

    def artifact(self, name: str) -> Path:
        """A file that the scorer left beside its scores."""
        return self.ref.path / name


def bind(ref: ScorerRef, pool: Pool) -> ScorerRef:
    """`ref` with the ids of everything it reads from this pool, so that other inputs make other scores."""
    if ref.scope == "rows" or ref.inputs:
        return ref
    inputs = {"pool": pool.id}
    if ref.scope == "pictures":
        from curate.pictures import inputs_of

        inputs.update(inputs_of(ref))
    more = getattr(ref.scorer, "inputs", None)
    if more is not None:
        inputs.update(more(pool))
    return ScorerRef(ref.name, ref.config, tuple(sorted(inputs.items())))


def is_scored(pool: Pool, ref: ScorerRef) -> bool:
    """Whether the scores of every shard are there (their record is written last)."""
    folder = ref.folder(pool.cache)
    if not (folder / RECORD).is_file():
        return False
    if ref.scope == "pictures":
        from curate.pictures import features_are_there

        if not features_are_there(pool, ref):
            return False
    for shard in pool.shards:
        fault = sidecar_fault(pool.cache, ref, shard.name, pool.digests(shard).sha256, shard.rows)
        if fault:
            say("warning", f"scores of {ref.name} are made again: {folder / shard.name}.parquet {fault}")
            return False
    return True


def outdated(pool: Pool, identity: Mapping[str, Any]) -> str:
    """Why scores with this identity are not those of the pool as it is now: other shards or other features; "" when they are.

    What lies outside the pool (targets, tars) is not known from here.
    """
    for role, made_from in (identity.get("inputs") or {}).items():
        if role == "pool" and made_from != pool.id:
            return "were made when the pool had other shards"
        if role.startswith("features:"):
            name = role.partition(":")[2]
            try:
                now = open_features(pool, name).id
            except HeadwaterError:
                return f"were made from features {name}, which cannot be read now"
            if now != made_from:
                return f"were made from other features {name}"
    return ""


def ensure_scored(
    pool: Pool,
    ref: ScorerRef,
    *,
    executor: Executor,
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
    options: Any = None,
    force: bool = False,
) -> dict[str, Any]:
    """Run a scorer of scope pool or pictures unless its scores are there; returns counts and notes of its record."""
    if is_scored(pool, ref) and not force:
        document = json.loads((ref.folder(pool.cache) / RECORD).read_bytes())
        counts = document["identity"]["counts"]
        return {"counts": counts, "notes": document.get("details", {}), "rows_scored": 0}
    from headwater.energy import Meter
    from headwater.files import locked

    for column in ref.reads:
        pool.column_type(column)
    folder = ref.folder(pool.cache)
    folder.mkdir(parents=True, exist_ok=True)
    data = PoolData(pool, ref, executor, folder, memory_bytes, options)
    meter = Meter(f"{STEP} {ref.name}")
    with locked(folder, folder):
        sweep(pool.cache, [ref])
        (folder / RECORD).unlink(missing_ok=True)
        with meter:
            kept = _write_all(data)
        counts = Counts(unit="rows", read=pool.rows, kept=kept, invalid=dict(sorted(data.counts.items())))
        counts.check()
        _record(data, counts, meter)
        shutil.rmtree(folder / "scratch", ignore_errors=True)
    return {"counts": counts.model_dump(), "notes": data.notes, "rows_scored": pool.rows}


def _write_all(data: PoolData) -> int:
    pool, ref = data.pool, data.ref
    schema = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in ref.outputs.items()])
    first = schema.names[0]
    kept = done = 0
    if ref.scope == "pictures":
        from curate.pictures import score_pictures

        made = score_pictures(data)
    else:
        made = _contained(data) if ref.plugin.foreign else iter(ref.scorer.score_pool(data))
    with track(f"score {ref.name}", total=pool.rows, unit="rows") as bar:
        for shard in pool.shards:
            columns = next(made, None)
            if columns is None or set(columns) != set(schema.names):
                raise UsageError(
                    f"scorer {ref.name} gave other columns than it declares for shard {shard.name}"
                )
            arrays = [_array(columns[field.name], field.type) for field in schema]
            if any(len(array) != shard.rows for array in arrays):
                raise UsageError(f"scorer {ref.name} gave another number of rows than shard {shard.name} has")
            table = pa.Table.from_arrays(arrays, schema=schema)
            strings = [
                c.cast(pa.string()) for b in RawView(shard, {}).blocks() for c in b.uid_strings().chunks
            ]
            write_sidecar(
                pool.cache,
                ref,
                shard=shard.name,
                shard_sha256=pool.digests(shard).sha256,
                uids=pa.chunked_array(strings, pa.string()),
                scores=table,
                required=True,
            )
            kept += shard.rows - table[first].null_count
            done += shard.rows
            bar.add(shard.rows)
    if next(made, None) is not None:
        raise UsageError(f"scorer {ref.name} gave more shards than the pool has")
    return kept


def _contained(data: PoolData) -> Iterator[dict[str, Any]]:
    """What a scorer of someone else gives; what it raises or prints goes no further than an error that names it."""
    from headwater.plugins import contained

    iterator: Iterator[dict[str, Any]] | None = None
    while True:
        with contained(f"scorer {data.ref.name}", "raised"):
            iterator = iter(data.ref.scorer.score_pool(data)) if iterator is None else iterator
            columns = next(iterator, None)
            if columns is not None and not isinstance(columns, dict):
                raise TypeError(f"gave {type(columns).__name__}, not a dict of columns")
            for name, kind in data.ref.outputs.items():
                if columns is not None and name in columns and not isinstance(columns[name], np.ndarray):
                    values = columns[name]
                    values = values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values)
                    columns[name] = _array(values, pa.type_for_alias(kind))
        if columns is None:
            return
        yield columns


def _array(values: Any, kind: pa.DataType) -> pa.Array:
    if isinstance(values, np.ndarray):
        missing = np.isnan(values) if values.dtype.kind == "f" else None
        return pa.array(values, mask=missing).cast(kind)  # a score is a number or null, never NaN
    array = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    return array.cast(kind)


def _record(data: PoolData, counts: Counts, meter: Any) -> None:
    from headwater.manifest import describe_file
    from headwater.steps import Plan, RunOptions, make_record

    ref, folder = data.ref, data.folder
    plan = Plan(
        STEP,
        1,
        dict(ref.identity),
        [InputRef(role=role, id=value) for role, value in ref.inputs],
        folder,
        kind="folder",
    )
    names = sorted(p.name for p in folder.iterdir() if p.is_file() and p.name not in (RECORD, "lock"))
    outputs = [describe_file(folder / name) for name in names if not name.startswith(".")]
    record = make_record(plan, data.options or RunOptions(), counts, outputs, data.notes, meter)
    write_json(folder / RECORD, record.model_dump(mode="json"))
