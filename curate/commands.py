"""Commands of `curate/`: parse, call, render."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from headwater.errors import UsageError
from headwater.options import Settings, common, with_params

FOLDER = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)
ANY = click.Path(path_type=Path)

_POOL_OPTIONS = [
    click.option(
        "--cache", type=FOLDER, help="Where scores, index and digests are kept (default: POOL/.headwater)."
    ),
    click.option(
        "--distrust-cache", is_flag=True, help="Read every input again instead of trusting size and time."
    ),
]


def with_pool_options(function: Any) -> Any:
    for option in reversed(_POOL_OPTIONS):
        function = option(function)
    return function


def with_plugin_files(function: Any) -> Any:
    """Give a command `--plugin FILE`: only files named there may be run for a rule that names them as scorers."""

    def add(context: click.Context, parameter: click.Parameter, given: tuple[Path, ...]) -> None:
        from headwater.plugins import add_file

        for path in given:
            add_file("scores", path)

    return click.option(
        "--plugin",
        type=FILE,
        multiple=True,
        callback=add,
        expose_value=False,
        help="A scorer of yours (.py) that the rule names by its file; it is code, and this runs it. Repeatable.",
    )(function)


def open_pool(pool: Path, cache: Path | None, distrust_cache: bool) -> Any:
    from curate._memory import tune_process
    from curate.pool import Pool

    tune_process()
    return Pool.open(pool, cache=cache, distrust_cache=distrust_cache)


def step_result(outcome: Any, plan: Any, extra: dict[str, Any] | None = None) -> dict[str, Any]:
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
@click.option("--rule", type=FILE, help="Your own rule file (rule/1); - is standard input.")
@click.option("--arch", help="CLIP model of clip_score: b32 or l14.")
@click.option("--fraction", type=float, help="Share of the pool to keep, above 0 and at most 1.")
@click.option("--threshold", type=float, help="Lowest score to keep.")
@with_params
@click.option("--reasons", type=FILE, help="Also write why each row was kept or dropped (Parquet).")
@click.option(
    "--keep-repeated-uids",
    is_flag=True,
    help="A uid that lies in the pool k times is kept k times, as DataComp does.",
)
@click.option("--allow-invalid", is_flag=True, help="End with 0 although some rows could not be judged.")
@click.option("--no-index", is_flag=True, help="Do not use the side index.")
@with_plugin_files
@with_pool_options
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
    params: dict[str, Any],
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
    from curate.binding import prepare
    from curate.filtering import filter_pool as run
    from curate.filtering import plan_filter
    from curate.funnel import check_outcome

    opened = open_pool(pool, cache, distrust_cache)
    values = {"arch": arch, "fraction": fraction, "threshold": threshold, "seed": settings.seed, **params}
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
        facts = {
            "rows": opened.rows,
            "shards": len(opened.shards),
            "clauses": [c.text() for c in ready.rule.keep],
        }
        return step_result(None, plan, facts)
    result = step_result(outcome, plan)
    result["text"] = _funnel_text(outcome)
    emit_then_check(settings, result, outcome, allow_invalid, check_outcome)
    return None


def emit_then_check(
    settings: Settings, result: dict[str, Any], outcome: Any, allow: bool, check: Any
) -> None:
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
        raise UsageError(
            "give one of --name and --rule", hint="headwater plugins filters lists the named filters"
        )
    given = {key: value for key, value in values.items() if value is not None}
    if name is not None:
        return named_rule(name, given)
    assert rule is not None
    return load_rule(rule, given)


def _funnel_text(outcome: Any) -> str:
    step = outcome.step
    counts = step.identity.counts
    lines = [
        f"{outcome.path}: {counts.kept:,} of {counts.read:,} {counts.unit} kept"
        + (" (already there)" if outcome.cached else "")
    ]
    widest = max((len(c["id"]) for c in step.details["funnel"]), default=0)
    for clause in step.details["funnel"]:
        share = clause["out"] / counts.read if counts.read else 0.0
        cut = f"  cut {clause['cut']}" if clause.get("cut") is not None and clause["kind"] != "sql" else ""
        bar = "█" * round(share * 20)
        lines.append(
            f"  {clause['id']:<{widest}}  {clause['out']:>12,}  {share:>6.1%}  {bar:<20}  {clause['clause'][:70]}{cut}"
        )
    for reason, rows in counts.invalid.items():
        lines.append(f"  invalid: {rows:,} × {reason}")
    energy = step.energy
    joules = f", {energy.modelled_joules:.1f} J modelled" if energy.modelled_joules else ""
    joules = f", {energy.measured_joules:.1f} J measured" if energy.measured_joules else joules
    lines.append(
        f"  {energy.duration_seconds:.2f} s, {energy.cpu_seconds:.2f} CPU s{joules}; step {step.id[:12]}"
    )
    return "\n".join(lines)


@click.command("explain")
@click.argument("subset", type=FILE)
@click.argument("uids", nargs=-1, required=True)
@click.option("--pool", type=ANY, help="The pool, if it has moved since.")
@with_plugin_files
@with_pool_options
@common
def explain(
    settings: Settings,
    *,
    subset: Path,
    uids: tuple[str, ...],
    pool: Path | None,
    cache: Path | None,
    distrust_cache: bool,
) -> dict[str, Any]:
    """Tell for each uid whether SUBSET has it, and which clause dropped it, with the values it looked at."""
    import tempfile

    from curate.binding import prepare, with_paths
    from curate.reasons import explain as run
    from curate.rules import RuleFile
    from headwater.errors import IntegrityError, MissingInput
    from headwater.steps import read_record

    if not subset.is_file():
        raise MissingInput(f"{subset}: no such subset file")
    record = read_record(subset)
    if record is None or record.identity.step != "filter-pool":
        raise MissingInput(
            f"{subset}: has no record of a filter beside it",
            hint="only subsets made by filter-pool can be explained",
        )
    where = pool or Path(record.observation.get("pool", ""))
    opened = open_pool(where, cache, distrust_cache)
    if opened.id not in {ref.id for ref in record.identity.inputs}:
        raise IntegrityError(
            f"{where}: not the pool that {subset.name} was made from", hint="name it with --pool"
        )
    rule = RuleFile.model_validate(with_paths(record.identity.config["rule"], record.observation))
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
