"""Filtering a pool by a rule: passes over the shards, one subset file, one Step record.

The rule's clauses run in order. Clauses that look only at a row are evaluated together in one pass; a clause that looks at the whole
pool (top fraction, exact k, duplicates) first has its questions answered by passes of their own. The last pass leaves one sorted run
of kept uids per shard, and the runs are merged into the subset. Memory does not grow with the pool, and a killed run goes on from
the shards that are finished.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from curate import funnel
from curate.binding import Ready, score_paths
from curate.clauses import State
from curate.index import index_path
from curate.pooldata import ensure_scored
from curate.questions import Question, first_question
from curate.reasons import reasons_key, write_reasons
from curate.scoring import path_settings
from curate.shardpass import Pass, Result, Task, run_pass
from curate.sidecars import (
    sidecar_path,
    sweep,
)
from curate.subset import HEADER_BYTES as SUBSET_HEADER_BYTES
from curate.subset import Words, merge_to
from headwater import plugins
from headwater.console import track
from headwater.errors import UsageError
from headwater.executor import Executor
from headwater.files import named_io
from headwater.manifest import Counts, InputRef
from headwater.steps import Outcome, Plan, RunOptions, Work, check_output, run_step

STEP = "filter-pool"
VERSION = 1
# 64 MB of uids; a pool this size is filtered again faster than its parts are checked
IN_MEMORY_ROWS = 4_000_000
LIGHT_ROWS = 2_000_000  # below this, starting processes costs more than the work
COSTLY_LIGHT_ROWS = 20_000  # the same, when a costly scorer has rows to score
INDEX_LIGHT_ROWS = 20_000_000  # the same, when every shard has an index


def plan_filter(ready: Ready, output: Path, *, keep_repeats: bool) -> Plan:
    """The Step that this rule over this pool is."""
    check_output(output)  # before every shard is read for the pool's id
    rule = ready.rule.model_dump(
        mode="json", by_alias=True, exclude_none=True, exclude={"summary", "source", "parameters"}
    )
    for score in rule.get("scores", []):
        score["scorer"] = plugins.named("scores", score["scorer"], ready.base)
        # where an asset lies decides nothing; its digest is among the scorers' identities
        for key in path_settings(score["scorer"]) & score["config"].keys():
            del score["config"][key]
    refs = {ref.name: ref for ref in ready.scorers.values()}
    config = {
        "rule": rule,
        "scorers": {name: refs[name].identity for name in sorted(refs)},
        "repeated_uids": "kept" if keep_repeats else "once",
    }
    inputs = [InputRef(role="pool", id=ready.pool.id)]
    for node, clause in ready.compiled.nodes():
        if clause.in_ is not None and clause.in_.subset is not None:
            from headwater.hashing import digest_file

            inputs.append(
                InputRef(
                    role=f"subset:{node}", id=digest_file(ready.base / clause.in_.subset, ("sha256",)).sha256
                )
            )
    return Plan(STEP, VERSION, config, inputs, output)


def filter_pool(
    ready: Ready,
    output: Path,
    *,
    executor: Executor,
    options: RunOptions,
    reasons: Path | None = None,
    keep_repeats: bool = False,
    use_index: bool = True,
) -> Outcome | None:
    """Write the subset that the rule keeps, and its Step record. None on a dry run."""
    plan = plan_filter(ready, output, keep_repeats=keep_repeats)
    if reasons is not None and reasons.exists() and not options.force and reasons_key(reasons) is None:
        raise UsageError(
            f"{reasons}: exists and is not a reasons file",
            hint="--force replaces it, or choose another --reasons",
        )
    observation = {
        **options.observation,
        "pool": str(ready.pool.path.resolve()),
        "base": str(ready.base.resolve()),
        "score_paths": score_paths(ready),
    }

    def work(job: Work) -> Counts:
        return _filter(ready, job, executor, reasons, keep_repeats=keep_repeats, use_index=use_index)

    outcome = run_step(plan, work, dataclasses.replace(options, observation=observation))
    if outcome is not None and outcome.cached and reasons is not None and reasons_key(reasons) != plan.key:
        import tempfile

        with tempfile.TemporaryDirectory(dir=reasons.parent, prefix=f".{reasons.name}.tmp-") as folder:
            job = Work(plan.key, Path(folder) / "stage", Path(folder))
            _filter(ready, job, executor, reasons, keep_repeats=keep_repeats, use_index=use_index)
    return outcome


def _filter(
    ready: Ready, job: Work, executor: Executor, reasons: Path | None, *, keep_repeats: bool, use_index: bool
) -> Counts:
    states, results = run_passes(
        ready, job.parts, executor, keep_reasons=reasons is not None, use_index=use_index
    )
    runs = [_words(result.run) for result in results if result.kept]
    needed = SUBSET_HEADER_BYTES + 16 * sum(result.kept for result in results)
    with named_io(job.output or job.stage, bytes_needed=needed), open(job.stage, "wb") as handle:
        written, surplus, repeated = merge_to(handle, runs, once=not keep_repeats)
    counts = funnel.counts(ready, results, written, 0 if keep_repeats else surplus)
    job.details.update(funnel.details(ready, states, results, counts))
    if repeated:
        job.details["repeated_uids"] = [
            {"uid": uid, "places": places} for uid, places in funnel.locate(ready.pool, repeated).items()
        ]
    if reasons is not None:
        once = runs if surplus and not keep_repeats else ()
        write_reasons(ready, job.parts, reasons, key=job.key, once=once)
    return counts


def _words(run: Any) -> Words:
    return run if isinstance(run, np.ndarray) else np.memmap(run, "<u8", "r").reshape(-1, 2)


def run_passes(
    ready: Ready,
    parts: Path,
    executor: Executor,
    *,
    keep_reasons: bool,
    use_index: bool,
    store_scores: bool = True,
) -> tuple[dict[str, State], list[Result]]:
    """Answer all questions, then run the final pass. Results are in shard order."""
    for ref in ready.whole:
        ensure_scored(ready.pool, ref, executor=executor)
    sweep(ready.pool.cache, {ref for ref in ready.scorers.values() if ref.costly})
    states: dict[str, State] = {}
    merged = [Result(n, s.rows, [], []) for n, s in enumerate(ready.pool.shards)]
    barriers = _barriers(ready)
    # who survives the clauses before the first one is known without reasons
    keep_reasons = keep_reasons or any(
        position and q.of_survivors for position, questions in barriers.items() for q in questions
    )
    work = Pass(
        rule=ready.rule,
        base=ready.base,
        cache=ready.pool.cache,
        parts=parts,
        types=ready.types,
        scorers=ready.scorers,
        states=states,
        first=0,
        last=0,
        keep_reasons=keep_reasons,
        use_index=use_index,
        store_scores=store_scores,
    )
    light = ready.pool.rows < _light_rows(ready, use_index=use_index)
    at = 0
    for position in sorted(barriers):
        questions = barriers[position]
        while questions:
            # earlier clauses only matter to questions about survivors
            last = position if any(q.of_survivors for q in questions) else at
            ask = dataclasses.replace(
                work, states=dict(states), first=at, last=last, questions=tuple(questions)
            )
            results = list(_run(ready, ask, executor, light, f"look at {ready.rule.reason(position)}"))
            _add(merged, results, at)
            at = last
            questions = _settle(questions, results, states, parts)
    alone = executor.engine == "serial" or executor.workers == 1 or light
    final = dataclasses.replace(
        work,
        states=dict(states),
        first=at,
        last=len(ready.rule.keep),
        final=True,
        in_memory=alone and ready.pool.rows <= IN_MEMORY_ROWS,
    )
    results = list(_run(ready, final, executor, light, f"filter by {ready.rule.name}"))
    _add(merged, results, at)
    return states, merged


def _light_rows(ready: Ready, *, use_index: bool) -> int:
    """Below how many rows this process does the work alone."""
    cache, shards = ready.pool.cache, ready.pool.shards
    costly = {ref for ref in ready.scorers.values() if ref.costly}
    if any(not sidecar_path(cache, ref, shard.name).is_file() for ref in costly for shard in shards):
        return COSTLY_LIGHT_ROWS
    if use_index and all(index_path(cache, shard.name).is_file() for shard in shards):
        return INDEX_LIGHT_ROWS
    return LIGHT_ROWS


def _barriers(ready: Ready) -> dict[int, list[Question]]:
    found: dict[int, list[Question]] = {}
    for node, clause in ready.compiled.nodes():
        position = int(node.split(".")[0])
        name = clause.id or ready.rule.reason(position)
        question = first_question(
            node, clause, name=name, rows=ready.pool.rows, dtype=lambda c: _number_type(ready, c)
        )
        if question is not None and ready.pool.shards:
            found.setdefault(position, []).append(question)
    return found


def _number_type(ready: Ready, column: str) -> Any:
    return ready.types[column]


def _settle(
    questions: Sequence[Question], results: list[Result], states: dict[str, State], folder: Path
) -> list[Question]:
    again: list[Question] = []
    for number, question in enumerate(questions):
        answer = question.settle([result.answers[number] for result in results], folder)
        if isinstance(answer, State):
            states[question.node] = answer
        else:
            again.append(answer)
    return again


def _run(ready: Ready, work: Pass, executor: Executor, light: bool, what: str) -> Iterator[Result]:
    _ = ready.pool.id
    tasks = [Task(n, s, ready.pool.digests(s).sha256, work) for n, s in enumerate(ready.pool.shards)]
    kept = seen = 0
    with (
        track(what, total=ready.pool.rows, unit="rows") as bar,
        closing(executor.map_shards(run_pass, tasks, light=light)) as results,  # type: ignore[type-var]
    ):
        for result in results:
            kept, seen = kept + result.kept, seen + result.rows
            bar.add(result.rows, f"kept {kept / max(seen, 1):.1%}" if work.final else None)
            yield result


def _add(merged: list[Result], results: list[Result], at: int) -> None:
    for whole, part in zip(merged, results, strict=True):
        whole.dropped[at:] = part.dropped if part.dropped else whole.dropped[at:]
        whole.invalid[at:] = part.invalid if part.invalid else whole.invalid[at:]
        whole.null_uids += part.null_uids
        whole.kept, whole.run = part.kept, part.run
        whole.indexed = part.indexed
        for name, rows in part.scored.items():
            whole.scored[name] = whole.scored.get(name, 0) + rows
