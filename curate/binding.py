"""A rule bound to a pool: where each column comes from, checked before anything is read but footers.

A column is the pool's own, a row scorer's, a scorer's that the rule lists, or one that lies beside the pool from an earlier `score`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from curate.clauses import CompiledRule
from curate.pool import Pool
from curate.pooldata import bind, outdated
from curate.rules import RuleFile
from curate.scoring import settings_of
from curate.sidecars import ScorerRef, StoredRef, as_stored, known_scorers, stored_scores
from headwater import plugins
from headwater.console import say
from headwater.errors import UsageError, nearest

MAX_CLAUSES = 120


@dataclass(frozen=True)
class Ready:
    """A rule bound to a pool: everything is checked, nothing has been read but footers."""

    pool: Pool
    rule: RuleFile
    base: Path
    compiled: CompiledRule
    scorers: Mapping[str, ScorerRef | StoredRef]  # output column -> scorer, for columns the rule uses
    types: Mapping[str, pa.DataType]
    whole: tuple[ScorerRef, ...] = ()  # scorers of the whole pool, which run before the first pass


def prepare(pool: Pool, rule: RuleFile, base: Path) -> Ready:
    """Check a rule against a pool. Raises UsageError for unknown columns and scorers, IntegrityError for schema drift."""
    if len(rule.keep) > MAX_CLAUSES:
        raise UsageError(f"rule {rule.name}: {len(rule.keep)} clauses; at most {MAX_CLAUSES}")
    compiled = CompiledRule(rule, base)
    # looking what scorers offer imports them all
    inside = compiled.columns().keys() <= set(pool.columns)
    offered: dict[str, ScorerRef | StoredRef] = {} if inside else dict(known_scorers())
    asked_for: set[str] = set()
    whole: dict[str, ScorerRef] = {}
    columns = compiled.columns()
    for score in rule.scores:
        name = plugins.named("scores", score.scorer, base)
        ref = ScorerRef(name, tuple(sorted(settings_of(name, score.config, base).items())))
        asked_for.update(ref.outputs)
        if ref.scope != "rows" and pool.shards and columns.keys() & ref.outputs.keys():
            for needed in ref.reads:
                _pool_type(pool, needed, f"scorer {ref.name}")
            ref = bind(ref, pool)
            whole.update(dict.fromkeys(ref.outputs, ref))
        offered.update(dict.fromkeys(ref.outputs, as_stored(ref, pool.cache) if ref.inputs else ref))
    scorers: dict[str, ScorerRef | StoredRef] = {}
    types: dict[str, pa.DataType] = {}
    stored = _stored_columns(pool, columns, {*offered, *pool.columns})
    offered |= stored
    for name, clause in columns.items():
        # a column of the pool wins over a scorer's column of the same name only when no scorer was asked for
        if name in offered and (name in asked_for or name not in pool.columns):
            scorers[name] = offered[name]
            types[name] = pa.type_for_alias(offered[name].outputs[name])
            for needed in offered[name].reads:
                types[needed] = _pool_type(pool, needed, f"scorer {offered[name].name}")
        else:
            types[name] = _pool_type(pool, name, f"clause {clause}", set(offered))
    if pool.shards:
        _pool_type(pool, "uid", "a pool")
        compiled.check(types)
    used = dict.fromkeys(whole[name] for name in scorers if name in whole)
    return Ready(pool, rule, base, compiled, scorers, types, tuple(used))


def stored_column(pool: Pool, name: str) -> StoredRef | None:
    """The scores beside the pool that have a column which the pool has not; None where there are none."""
    return _stored_columns(pool, (name,), set(pool.columns)).get(name)


def _stored_columns(pool: Pool, wanted: Iterable[str], known: set[str]) -> dict[str, StoredRef]:
    """Columns that neither pool nor rule provide, from scores that lie beside the pool; two sets with one column are refused."""
    missing = [name for name in wanted if name not in known]
    if not missing or not pool.shards:
        return {}
    shard = pool.shards[0]
    every = stored_scores(pool.cache, shard.name, pool.digests(shard).sha256)
    wanted_sets = [ref for ref in every if set(missing) & set(ref.outputs)]
    old = {ref.path: outdated(pool, ref.identity) for ref in wanted_sets}
    sets = [ref for ref in wanted_sets if not old[ref.path]]
    for ref in wanted_sets:
        if old[ref.path]:
            say("warning", f"scores {ref.path.name} {old[ref.path]}, and are ignored")
    found: dict[str, StoredRef] = {}
    for name in missing:
        makers = [ref for ref in sets if name in ref.outputs]
        if len(makers) > 1:
            folders = ", ".join(ref.path.name for ref in makers)
            raise UsageError(
                f"column {name!r} is in several sets of scores beside the pool: {folders}",
                hint="list the scorer with its config under `scores` of the rule, or remove the other folders",
            )
        if makers:
            found[name] = makers[0]
    return found


def _pool_type(pool: Pool, name: str, who: str, offered: set[str] = frozenset()) -> pa.DataType:  # type: ignore[assignment]
    if name in pool.columns:
        return pool.column_type(name)
    if not pool.shards:
        return pa.float32()
    hint = None
    maker = _maker_of(name)
    if maker:
        hint = f"scorer {maker} makes it: headwater score {maker} POOL, or list it under `scores` of the rule"
    elif name.startswith("clip_"):
        hint = (
            "this pool carries no CLIP scores; filters over captions, sizes and duplicates work without them"
        )
    raise UsageError(
        f"{who}: the pool has no column {name!r}: {nearest(name, {*pool.columns, *offered})}", hint=hint
    )


def _maker_of(column: str) -> str | None:
    """The scorer of a whole pool or of pictures that makes a column, at its default configuration."""
    for plugin in plugins.family_members("scores"):
        ref = ScorerRef(plugin.name)
        if not plugin.foreign and ref.scope != "rows" and column in ref.outputs:
            return plugin.name
    return None


def score_paths(ready: Ready) -> dict[str, dict[str, str]]:
    """Where the assets of the rule's scorers lie now: scorer -> setting -> absolute path."""
    found: dict[str, dict[str, str]] = {}
    for score in ready.rule.scores:
        name = plugins.named("scores", score.scorer, ready.base)
        settings = settings_of(name, score.config, ready.base)
        paths = {key: str(value.resolve()) for key, value in settings.items() if isinstance(value, Path)}
        if paths:
            found[name] = paths
    return found


def with_paths(rule: Mapping[str, Any], observation: Mapping[str, Any]) -> dict[str, Any]:
    """A recorded rule as a rule file, with the places of its scorers' assets that the record observed."""
    paths = observation.get("score_paths", {})
    scores = [
        {**score, "config": {**score["config"], **paths.get(score["scorer"], {})}}
        for score in rule.get("scores", [])
    ]
    return {"format": "rule/1", **rule, "scores": scores}
