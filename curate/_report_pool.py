"""The part of a report that looks at a pool: reasons of all rows, then one scan, then pictures."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from curate import _report_alone as alone
from curate import shardpass
from curate._report_data import GROUP_COLUMNS, LIGHT_ROWS, TEXT, Facts, ScanTask, choose_axes, gather
from curate._report_groups import Groups, find_groups
from curate._report_measure import Axis, Measure, collect
from curate._report_scatter import choose as choose_scatter
from curate._report_similar import Cluster, Pair, Stored
from curate._report_similar import clusters as find_clusters
from curate._report_similar import pairs as find_pairs
from curate.binding import Ready, prepare, with_paths
from curate.filtering import run_passes
from curate.pool import Pool, family
from curate.pooldata import outdated
from curate.reasons import meanings
from curate.rules import RuleFile
from curate.sidecars import ScorerRef, StoredRef, known_scorers, sidecar_path, stored_scores
from headwater.console import say
from headwater.errors import IntegrityError, MissingInput
from headwater.executor import Executor
from headwater.manifest import Step

TOP_GROUPS = 12


@dataclass
class Look:
    """What was seen of a pool."""

    pool: Pool
    facts: Facts
    measures: Sequence[Measure] = ()
    axes: Sequence[Axis | None] = ()
    reasons: Mapping[int, tuple[str, str | None]] = field(default_factory=dict)
    wanted: Mapping[str, Sequence[str]] = field(
        default_factory=dict
    )  # category -> values that the rule keeps
    groups: dict[str, Groups] = field(default_factory=dict)
    scatter: tuple[int, int] | None = None  # numbers of the two measures that facts.scatter counts
    clauses: Sequence[tuple[str, str]] = ()  # id and text, of the rows of facts.alone
    clusters: Sequence[Cluster] = ()
    pairs: Sequence[Pair] = ()
    notes: list[str] = field(default_factory=list)


def open_pool(record: Step, named: Path | None, cache: Path | None, notes: list[str]) -> Pool | None:
    """The pool that a filter read. One that was named must be the right one; one that is gone is a note on the page."""
    place = named or Path(str(record.observation.get("pool") or ""))
    if named is None and not place.is_absolute():
        notes.append("The record does not say where the pool lies: name it with --pool to see its rows here.")
        return None
    try:
        pool = Pool.open(place, cache=cache)
        if pool.id not in {ref.id for ref in record.identity.inputs}:
            raise IntegrityError(
                f"{place}: not the pool that this subset was made from", hint="name it with --pool"
            )
    except (MissingInput, IntegrityError) as error:
        if named is not None:
            raise
        notes.append(f"The pool could not be looked at ({error}): this page tells what the record holds.")
        say("warning", f"{error}: the report has no rows")
        return None
    return pool


def look(
    pool: Pool,
    record: Step | None,
    *,
    executor: Executor,
    picks: int,
    seed: int,
    reasons_files: Sequence[Path] = (),
    scatter: Sequence[str] = (),
) -> Look:
    """Everything the page shows of the rows of a pool: as the filter `record` judged them, or (None) as they are.

    `scatter` names two numbers to be drawn against each other; by default they are the first two scores.
    """
    if record is None:
        with tempfile.TemporaryDirectory(prefix="headwater-report-") as folder:
            return _scan(pool, None, {}, executor, Path(folder), picks=picks, seed=seed, scatter=scatter)
    rule = RuleFile.model_validate(with_paths(record.identity.config["rule"], record.observation))
    ready = prepare(pool, rule, Path(str(record.observation.get("base", "."))))
    with tempfile.TemporaryDirectory(prefix="headwater-report-") as folder:
        parts = Path(folder)
        states = alone.states_of(ready.compiled, record.details.get("funnel", []))
        if states is None or not any(_read_reasons(ready, file, parts, record) for file in reasons_files):
            # with the costly scores stored, judging the rows again is light work
            light = pool.rows < LIGHT_ROWS and _scores_stored(ready)
            states, _ = run_passes(
                ready, parts, Executor("serial") if light else executor, keep_reasons=True, use_index=True
            )
        cuts = {}
        for position, entry in enumerate(record.details.get("funnel", [])):
            if isinstance(entry.get("cut"), int | float) and entry.get("column"):
                cuts[position] = (str(entry["column"]), float(entry["cut"]))
        costly = frozenset(n for n, ref in ready.scorers.items() if ref.costly and ref.scope == "rows")
        asked = alone.Rule(ready.rule, ready.base, alone.as_placed(states), costly)
        seen = _scan(pool, ready, cuts, executor, parts, picks=picks, seed=seed, scatter=scatter, asked=asked)
    invalid = record.identity.counts.invalid.get(shardpass.DUPLICATE_UID, 0)
    if seen.facts.kept != record.identity.counts.kept + invalid:
        seen.notes.append(
            f"Judged again for this page, the rule keeps {seen.facts.kept:,} rows where the record has "
            f"{record.identity.counts.kept:,}: a scorer of another version, or other settings, is at work here."
        )
        say("warning", seen.notes[-1])
    return seen


def _scores_stored(ready: Ready) -> bool:
    costly = {ref.name: ref for ref in ready.scorers.values() if ref.costly}.values()
    return all(
        sidecar_path(ready.pool.cache, ref, s.name).is_file() for ref in costly for s in ready.pool.shards
    )


def _scan(
    pool: Pool,
    ready: Ready | None,
    cuts: Mapping[int, tuple[str, float]],
    executor: Executor,
    folder: Path,
    *,
    picks: int,
    seed: int,
    scatter: Sequence[str] = (),
    asked: alone.Rule | None = None,
) -> Look:
    types: dict[str, pa.DataType] = dict(ready.types) if ready else {}
    scorers: dict[str, ScorerRef | StoredRef] = dict(ready.scorers) if ready else {}
    floats = []
    for name in pool.columns:
        numeric = all(name in s.types and family(s.types[name]) in ("integer", "float") for s in pool.shards)
        if name not in types and numeric:
            try:
                types[name] = pool.column_type(name)
            except IntegrityError:
                continue
            if family(types[name]) == "float":
                floats.append(name)
    if TEXT in pool.columns and all(TEXT in s.types and family(s.types[TEXT]) == "text" for s in pool.shards):
        types.setdefault(TEXT, pa.string())
        words = known_scorers().get("n_words")
        if words is not None and not words.costly:
            for name, kind in words.outputs.items():
                if name not in types:
                    types[name], scorers[name] = pa.type_for_alias(kind), words
    floats.sort(key=lambda name: ("score" not in name, name))
    floats += _stored_floats(pool, types, scorers)
    floats = [*(name for name in scatter if name in types), *floats]
    wanted: dict[str, list[str]] = {}
    for _, clause in ready.compiled.nodes() if ready else ():
        if clause.in_ is not None and clause.in_.column is not None:
            wanted.setdefault(clause.in_.column, []).extend(str(v) for v in clause.in_.values or [])
    measures = collect(ready.compiled if ready else None, cuts, types, floats)
    look = Look(
        pool,
        Facts(),
        measures=measures,
        reasons=meanings(ready) if ready else {0: ("kept", None)},
        wanted=wanted,
    )
    if not pool.shards:
        return look
    _ = pool.id
    look.scatter = choose_scatter(measures, types, scatter)
    if asked is not None:
        look.clauses = [(asked.rule.reason(n), clause.text()) for n, clause in enumerate(asked.rule.keep)]
    look.axes = choose_axes(pool, measures, types, scorers)
    # fresh references: those used above hold loaded modules, which do not travel to other processes
    fresh = {
        id(ref): ref if isinstance(ref, StoredRef) else ScorerRef(ref.name, ref.config)
        for ref in scorers.values()
    }
    tasks = [
        ScanTask(
            number=number,
            shard=shard,
            sha256=pool.digests(shard).sha256,
            cache=pool.cache,
            codes=str(shardpass.reasons_file(folder, number)) if ready else None,
            types=types,
            scorers={name: fresh[id(ref)] for name, ref in scorers.items()},
            measures=tuple(measures),
            axes=tuple(look.axes),
            categories=tuple(wanted),
            shown=tuple(ready.compiled.columns()) if ready else (),
            folder=folder,
            seed=seed,
            picks=picks,
            scatter=look.scatter,
            rule=asked,
        )
        for number, shard in enumerate(pool.shards)
    ]
    look.facts = gather(pool, tasks, executor)
    for column in GROUP_COLUMNS:
        groups = find_groups(pool, tasks, column, top=TOP_GROUPS)
        if groups is not None:
            look.groups[column] = groups
    if picks:
        used = ready.scorers.values() if ready else ()
        stored = Stored(pool, tasks, [ref for ref in used if isinstance(ref, StoredRef)])
        look.clusters = find_clusters(stored, seed)
        look.pairs = find_pairs(stored, seed, _dropping(ready) if ready else None)
    return look


def _dropping(ready: Ready) -> dict[str, list[int]]:
    """Column -> codes of rows that a clause over it dropped."""
    found: dict[str, list[int]] = {}
    for node, _ in ready.compiled.nodes():
        position = int(node.split(".")[0])
        for name in alone.columns_of(ready.compiled, position):
            found.setdefault(name, []).append(shardpass.dropped_code(position))
    return found


def _stored_floats(
    pool: Pool, types: dict[str, pa.DataType], scorers: dict[str, ScorerRef | StoredRef]
) -> list[str]:
    """Scores beside the pool that neither the pool nor the rule has: they are added to `types` and `scorers`."""
    if not pool.shards:
        return []
    first, found = pool.shards[0], []
    for ref in stored_scores(pool.cache, first.name, pool.digests(first).sha256):
        if outdated(pool, ref.identity):
            continue
        for name, kind in ref.outputs.items():
            if name not in types and name not in pool.columns and kind in ("float", "double"):
                types[name], scorers[name] = pa.type_for_alias(kind), ref
                found.append(name)
    return found


def _read_reasons(ready: Ready, file: Path, parts: Path, record: Step) -> bool:
    """Turn a reasons table into one byte a row; False when it does not fit the pool and the record."""
    if not file.is_file():
        return False
    codes = {meaning: code for code, meaning in meanings(ready).items()}
    numbers = {shard.name: n for n, shard in enumerate(ready.pool.shards)}
    arrays: dict[str, npt.NDArray[np.uint8]] = {}
    rows = 0
    try:
        with pq.ParquetFile(file) as table:
            if table.metadata.num_rows != ready.pool.rows:
                raise ValueError("it has another number of rows")
            for batch in table.iter_batches(columns=["shard", "row", "verdict", "reason"]):
                names = ("shard", "verdict", "reason")
                shards, verdicts, reasons = (_plain(batch.column(name)) for name in names)
                kinds = (
                    pa.table([shards, verdicts, reasons], names=list(names))
                    .group_by(list(names))
                    .aggregate([])
                )
                for shard, verdict, reason in (
                    tuple(kind[name] for name in names) for kind in kinds.to_pylist()
                ):
                    mask = _equal(shards, shard) & _equal(verdicts, verdict) & _equal(reasons, reason)
                    if shard not in arrays:
                        at = numbers[shard]
                        arrays[shard] = np.lib.format.open_memmap(  # type: ignore[no-untyped-call]
                            shardpass.reasons_file(parts, at), "w+", np.uint8, (ready.pool.shards[at].rows,)
                        )
                    places = np.asarray(batch.column("row"))[mask]
                    arrays[shard][places] = codes[(verdict, reason)]
                    rows += len(places)
        for name, at in numbers.items():
            if name not in arrays:
                np.save(
                    shardpass.reasons_file(parts, at),
                    np.zeros(ready.pool.shards[at].rows, np.uint8),
                    allow_pickle=False,
                )
        if rows != ready.pool.rows or _dropped(ready, arrays) != {
            k: v for k, v in record.identity.counts.dropped.items() if v
        }:
            raise ValueError("its counts are not those of the record")
    except (pa.ArrowException, OSError, ValueError, KeyError, IndexError) as error:
        say("warning", f"{file}: not used for the report: {error}")
        for number in numbers.values():
            shardpass.reasons_file(parts, number).unlink(missing_ok=True)
        return False
    return True


def _dropped(ready: Ready, arrays: Mapping[str, npt.NDArray[np.uint8]]) -> dict[str, int]:
    total = np.zeros(256, np.int64)
    for array in arrays.values():
        total += np.bincount(array, minlength=256)
    return {
        str(reason): int(total[code])
        for code, (verdict, reason) in meanings(ready).items()
        if verdict == "dropped" and total[code]
    }


def _plain(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _equal(column: pa.Array, value: str | None) -> npt.NDArray[np.bool_]:
    import pyarrow.compute as pc

    answer = column.is_null() if value is None else pc.fill_null(pc.equal(column, value), False)
    return np.asarray(answer.to_numpy(zero_copy_only=False))
