"""Commands of `curate/`: parse, call, render."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from headwater.errors import UsageError
from headwater.options import Settings, common

FOLDER = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)
ANY = click.Path(path_type=Path)

_POOL_OPTIONS = [
    click.option("--cache", type=FOLDER, help="Where scores, index and digests are kept (default: POOL/.headwater)."),
    click.option("--distrust-cache", is_flag=True, help="Read every input again instead of trusting size and time."),
]


def _with_pool_options(function: Any) -> Any:
    for option in reversed(_POOL_OPTIONS):
        function = option(function)
    return function


def _open(pool: Path, cache: Path | None, distrust_cache: bool) -> Any:
    from curate._memory import tune_process
    from curate.pool import Pool

    tune_process()
    return Pool.open(pool, cache=cache, distrust_cache=distrust_cache)


def _step_result(outcome: Any, plan: Any, extra: dict[str, Any] | None = None) -> dict[str, Any]:
    """What a command that runs a Step prints: the plan on a dry run, otherwise the record's essentials."""
    from headwater.steps import describe_plan

    if outcome is None:
        document = describe_plan(plan)
        state = "up to date: nothing to do" if document["up_to_date"] else "would be made"
        return {**document, **(extra or {}), "text": f"{document['output']}: {state} (key {plan.key[:12]})"}
    step = outcome.step
    return {
        "output": str(outcome.path),
        "cached": outcome.cached,
        "id": step.id,
        "key": step.key,
        "counts": step.identity.counts.model_dump(),
        "outputs": [entry.model_dump(exclude_none=True) for entry in step.identity.outputs[:20]],
        "details": step.details,
        "energy": step.energy.model_dump(),
        **(extra or {}),
    }


@click.command("filter-pool")
@click.argument("pool", type=ANY)
@click.option("-o", "--output", type=ANY, required=True, help="The subset file to write (.npy).")
@click.option("--name", help="A named filter: headwater plugins filters lists them.")
@click.option("--rule", type=FILE, help="Your own rule file (rule/1).")
@click.option("--arch", help="CLIP model of clip_score: b32 or l14.")
@click.option("--fraction", type=float, help="Share of the pool to keep, above 0 and at most 1.")
@click.option("--threshold", type=float, help="Lowest score to keep.")
@click.option("--reasons", type=FILE, help="Also write why each row was kept or dropped (Parquet).")
@click.option("--keep-repeated-uids", is_flag=True, help="A uid that lies in the pool k times is kept k times, as DataComp does.")
@click.option("--allow-invalid", is_flag=True, help="End with 0 although some rows could not be judged.")
@click.option("--no-index", is_flag=True, help="Do not use the side index.")
@_with_pool_options
@common
def filter_pool(
    settings: Settings,
    *,
    pool: Path,
    output: Path,
    name: str | None,
    rule: Path | None,
    arch: str | None,
    fraction: float | None,
    threshold: float | None,
    reasons: Path | None,
    keep_repeated_uids: bool,
    allow_invalid: bool,
    no_index: bool,
    cache: Path | None,
    distrust_cache: bool,
) -> dict[str, Any] | None:
    """Write the subset of POOL that a named filter or a rule file keeps.

    \b
    headwater filter-pool POOL -o english.npy --name basic_filter
    headwater filter-pool POOL -o top.npy --name clip_score --arch l14 --fraction 0.3
    headwater filter-pool POOL -o mine.npy --rule mine.yaml --reasons mine.reasons.parquet
    """
    from curate.filtering import check_outcome, plan_filter, prepare
    from curate.filtering import filter_pool as run

    opened = _open(pool, cache, distrust_cache)
    values = {"arch": arch, "fraction": fraction, "threshold": threshold, "seed": settings.seed}
    ready = prepare(opened, _rule(name, rule, values), rule.parent if rule else Path())
    plan = plan_filter(ready, output, keep_repeats=keep_repeated_uids)
    outcome = run(
        ready,
        output,
        executor=settings.executor(),
        options=settings.run_options(),
        reasons=reasons,
        keep_repeats=keep_repeated_uids,
        use_index=not no_index,
    )
    if outcome is None:
        facts = {"rows": opened.rows, "shards": len(opened.shards), "clauses": [c.text() for c in ready.rule.keep]}
        return _step_result(None, plan, facts)
    result = _step_result(outcome, plan)
    result["text"] = _funnel_text(outcome)
    _emit_then_check(settings, result, outcome, allow_invalid, check_outcome)
    return None


def _emit_then_check(settings: Settings, result: dict[str, Any], outcome: Any, allow: bool, check: Any) -> None:
    """The result first, then the error for rows that were invalid, so that neither hides the other."""
    from headwater.errors import BadInputs
    from headwater.options import emit

    problem: BadInputs | None = None
    try:
        check(outcome, allow_invalid=allow)
    except BadInputs as error:
        problem = error
        result["problem"] = {"kind": "BadInputs", "message": error.message, "exit_code": error.exit_code}
    emit(result, as_json=settings.as_json)
    if problem is not None:
        problem.told = True  # standard output has it already
        raise problem


def _rule(name: str | None, rule: Path | None, values: dict[str, Any]) -> Any:
    from curate.rules import load_rule, named_rule

    if (name is None) == (rule is None):
        raise UsageError("give one of --name and --rule", hint="headwater plugins filters lists the named filters")
    given = {key: value for key, value in values.items() if value is not None}
    if name is not None:
        return named_rule(name, given)
    assert rule is not None
    return load_rule(rule, given)


def _funnel_text(outcome: Any) -> str:
    step = outcome.step
    counts = step.identity.counts
    lines = [f"{outcome.path}: {counts.kept:,} of {counts.read:,} {counts.unit} kept" + (" (already there)" if outcome.cached else "")]
    widest = max((len(c["id"]) for c in step.details["funnel"]), default=0)
    for clause in step.details["funnel"]:
        share = clause["out"] / counts.read if counts.read else 0.0
        cut = f"  cut {clause['cut']}" if clause.get("cut") is not None and clause["kind"] != "sql" else ""
        bar = "█" * round(share * 20)
        lines.append(f"  {clause['id']:<{widest}}  {clause['out']:>12,}  {share:>6.1%}  {bar:<20}  {clause['clause'][:70]}{cut}")
    for reason, rows in counts.invalid.items():
        lines.append(f"  invalid: {rows:,} × {reason}")
    energy = step.energy
    joules = f", {energy.modelled_joules:.1f} J modelled" if energy.modelled_joules else ""
    joules = f", {energy.measured_joules:.1f} J measured" if energy.measured_joules else joules
    lines.append(f"  {energy.duration_seconds:.2f} s, {energy.cpu_seconds:.2f} CPU s{joules}; step {step.id[:12]}")
    return "\n".join(lines)


@click.command("explain")
@click.argument("subset", type=FILE)
@click.argument("uids", nargs=-1, required=True)
@click.option("--pool", type=ANY, help="The pool, if it has moved since.")
@_with_pool_options
@common
def explain(
    settings: Settings, *, subset: Path, uids: tuple[str, ...], pool: Path | None, cache: Path | None, distrust_cache: bool
) -> dict[str, Any]:
    """Tell for each uid whether SUBSET has it, and which clause dropped it, with the values it looked at."""
    import tempfile

    from curate.filtering import prepare
    from curate.reasons import explain as run
    from curate.rules import RuleFile
    from headwater.errors import IntegrityError, MissingInput
    from headwater.steps import read_record

    if not subset.is_file():
        raise MissingInput(f"{subset}: no such subset file")
    record = read_record(subset)
    if record is None or record.identity.step != "filter-pool":
        raise MissingInput(f"{subset}: has no record of a filter beside it", hint="only subsets made by filter-pool can be explained")
    where = pool or Path(record.observation.get("pool", ""))
    opened = _open(where, cache, distrust_cache)
    if opened.id not in {ref.id for ref in record.identity.inputs}:
        raise IntegrityError(f"{where}: not the pool that {subset.name} was made from", hint="name it with --pool")
    rule = RuleFile.model_validate({"format": "rule/1", **record.identity.config["rule"]})
    ready = prepare(opened, rule, Path(record.observation.get("base", ".")))
    with tempfile.TemporaryDirectory(prefix="headwater-explain-") as folder:
        entries = run(ready, list(uids), Path(folder), settings.executor())
    texts = {clause["id"]: clause["clause"] for clause in record.details.get("funnel", [])}
    lines = []
    for entry in entries:
        why = f" by {entry['reason']}: {texts.get(entry['reason'], '')}" if entry["reason"] else ""
        place = f" (shard {entry['shard']}, row {entry['row']})" if "shard" in entry else " from this pool"
        lines.append(f"{entry['uid']}  {entry['verdict']}{why}{place}")
        lines.extend(f"    {key} = {value!r}" for key, value in entry["values"].items())
    return {"subset": str(subset), "uids": entries, "text": "\n".join(lines)}


@click.command("score")
@click.argument("scorer")
@click.argument("pool", type=ANY)
@click.option("--model", help="Model file of scorers that take one.")
@_with_pool_options
@common
def score(
    settings: Settings, *, scorer: str, pool: Path, model: str | None, cache: Path | None, distrust_cache: bool
) -> dict[str, Any]:
    """Compute SCORER for every row of POOL and keep it beside the pool, for filters and queries."""
    from curate.scoring import score_pool

    config = {"model": model} if model else {}
    opened = _open(pool, cache, distrust_cache)
    facts = score_pool(opened, scorer, config, executor=settings.executor(), force=settings.force, dry_run=settings.dry_run)
    verb = "would score" if settings.dry_run else "scored"
    text = f"{scorer}: {verb} {facts['rows_scored']:,} of {facts['rows']:,} rows into {facts['folder']}"
    return {**facts, "text": text}


@click.group("subset")
def subset_group() -> None:
    """Combine, sample and compare subset files."""


def _load(paths: tuple[Path, ...], *, unsorted: bool = False) -> list[Any]:
    from curate._order import sort_words
    from curate.subset import load_words

    words = [load_words(path, check_sorted=not unsorted) for path in paths]
    return [sort_words(w) for w in words] if unsorted else words


def _subset_step(
    settings: Settings, what: str, output: Path, inputs: tuple[Path, ...], config: dict[str, Any], make: Any
) -> dict[str, Any]:
    """Run one operation of the algebra as a Step."""
    from curate.algebra import subset_plan, subset_step

    plan = subset_plan(what, output, inputs, config, settings.seed)
    outcome = subset_step(plan, make, settings.run_options())
    result = _step_result(outcome, plan)
    if outcome is not None:
        counts = outcome.step.identity.counts
        result["text"] = f"{output}: {counts.extra['entries_written']:,} entries"
    return result


_OUT = click.option("-o", "--output", type=ANY, required=True, help="The subset file to write.")
_UNSORTED = click.option("--unsorted", is_flag=True, help="Accept inputs that are not sorted, and sort them.")


@subset_group.command("union")
@click.argument("files", nargs=-1, required=True, type=FILE)
@_OUT
@_UNSORTED
@common
def union(settings: Settings, *, files: tuple[Path, ...], output: Path, unsorted: bool) -> dict[str, Any]:
    """Every uid of any FILE, as often as in the one that has it most."""
    from curate import subset

    return _subset_step(settings, "union", output, files, {}, lambda: subset.union(_load(files, unsorted=unsorted)))


@subset_group.command("intersect")
@click.argument("files", nargs=-1, required=True, type=FILE)
@_OUT
@_UNSORTED
@common
def intersect(settings: Settings, *, files: tuple[Path, ...], output: Path, unsorted: bool) -> dict[str, Any]:
    """Every uid that all FILES have, as often as in the one that has it least."""
    from curate import subset

    return _subset_step(settings, "intersect", output, files, {}, lambda: subset.intersect(_load(files, unsorted=unsorted)))


@subset_group.command("subtract")
@click.argument("first", type=FILE)
@click.argument("others", nargs=-1, required=True, type=FILE)
@_OUT
@_UNSORTED
@common
def subtract(settings: Settings, *, first: Path, others: tuple[Path, ...], output: Path, unsorted: bool) -> dict[str, Any]:
    """Entries of FIRST whose uid is in none of the OTHERS."""
    from curate import subset

    def make() -> Any:
        words = _load((first, *others), unsorted=unsorted)
        return subset.subtract(words[0], words[1:])

    return _subset_step(settings, "subtract", output, (first, *others), {}, make)


@subset_group.command("sample")
@click.argument("file", type=FILE)
@click.option("--count", type=int, help="How many entries.")
@click.option("--fraction", type=float, help="Share of the entries.")
@_OUT
@common
def sample(settings: Settings, *, file: Path, count: int | None, fraction: float | None, output: Path) -> dict[str, Any]:
    """A uniform choice of entries, without replacement (--seed)."""
    from curate import subset

    config = {"count": count, "fraction": fraction}

    def make() -> Any:
        return subset.sample(_load((file,))[0], count=count, fraction=fraction, seed=settings.seed or 0)

    return _subset_step(settings, "sample", output, (file,), config, make)


@subset_group.command("repeat")
@click.argument("file", type=FILE)
@click.option("--times", type=int, required=True, help="How often every entry occurs in the result.")
@_OUT
@common
def repeat(settings: Settings, *, file: Path, times: int, output: Path) -> dict[str, Any]:
    """Every entry several times."""
    from curate import subset

    return _subset_step(settings, "repeat", output, (file,), {"times": times}, lambda: subset.repeat(_load((file,))[0], times))


@subset_group.command("soft-cap")
@click.argument("file", type=FILE)
@click.argument("pool", type=ANY)
@click.option("--column", required=True, help="Score column of the pool.")
@click.option("--count", type=int, required=True, help="How many samples to draw.")
@click.option("--penalty", type=float, default=0.15, show_default=True, help="Taken from a row's score each time it is drawn.")
@click.option("--batch", type=int, default=100_000, show_default=True, help="Rows drawn without replacement at a time.")
@click.option("--scale", type=float, default=1.0, show_default=True, help="The score is multiplied by this to become a logit.")
@_OUT
@_with_pool_options
@common
def soft_cap(
    settings: Settings,
    *,
    file: Path,
    pool: Path,
    column: str,
    count: int,
    penalty: float,
    batch: int,
    scale: float,
    output: Path,
    cache: Path | None,
    distrust_cache: bool,
) -> dict[str, Any]:
    """Draw COUNT samples from FILE by a score of POOL, with repeats: soft-cap sampling (FLYT, arXiv 2503.08805)."""
    from curate import subset
    from curate.algebra import scores_of

    opened = _open(pool, cache, distrust_cache)
    config = {"column": column, "count": count, "penalty": penalty, "batch": batch, "scale": scale, "pool": opened.id}

    def make() -> Any:
        words = subset.unique(_load((file,))[0])
        scores = scores_of(opened, words, column) * scale
        return subset.soft_cap(words, scores, count=count, penalty=penalty, batch=batch, seed=settings.seed or 0)

    return _subset_step(settings, "soft-cap", output, (file,), config, make)


@subset_group.command("diff")
@click.argument("a", type=FILE)
@click.argument("b", type=FILE)
@common
def diff(settings: Settings, *, a: Path, b: Path) -> None:
    """How two subset files differ. Ends with 1 when they do."""
    from curate import subset
    from headwater.options import emit

    words = _load((a, b))
    facts = subset.difference(words[0], words[1])
    equal = words[0].shape == words[1].shape and bool((words[0] == words[1]).all())
    lines = [f"{'equal' if equal else 'different'}: {a} {facts['entries_a']:,} entries, {b} {facts['entries_b']:,} entries"]
    lines.append(f"  uids only in {a.name}: {facts['only_in_a']:,}; only in {b.name}: {facts['only_in_b']:,}; in both: {facts['in_both']:,}")
    emit({"equal": equal, **facts, "text": "\n".join(lines)}, as_json=settings.as_json)
    click.get_current_context().exit(0 if equal else 1)
