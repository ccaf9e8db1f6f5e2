"""`headwater pool …`: parse, call, render."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from curate.commands import ANY, FILE, emit_then_check, open_pool, step_result, with_pool_options
from headwater.errors import UsageError
from headwater.options import Settings, common, emit


@click.group("pool")
def pool_group() -> None:
    """Import, describe, validate, query or index a pool of Parquet shards."""


@pool_group.command("import")
@click.argument("source", type=ANY)
@click.option("-o", "--output", type=ANY, required=True, help="The pool folder to write.")
@click.option(
    "--captions",
    type=FILE,
    help="CSV, JSONL or Parquet with file names and captions of a folder of pictures.",
)
@click.option("--layout", default="auto", show_default=True, help="auto, tars, images or parquet.")
@click.option(
    "--map",
    "mapping",
    multiple=True,
    metavar="COLUMN=SOURCE",
    help="Take COLUMN from the source's column SOURCE; repeatable.",
)
@click.option(
    "--uid",
    default="auto",
    show_default=True,
    help="auto: the source's uid where it has one; source: it must have one; make: a new one for every row.",
)
@click.option(
    "--on-bad",
    default="refuse",
    show_default=True,
    help="A malformed or repeated uid: refuse the import, or drop the row.",
)
@click.option(
    "--rows-per-shard", type=int, default=500_000, show_default=True, help="Rows of one Parquet shard."
)
@click.option("--no-features", is_flag=True, help="Leave .npz features behind.")
@click.option("--allow-invalid", is_flag=True, help="End with 0 although some rows were left out.")
@common
def import_(
    settings: Settings,
    *,
    source: Path,
    output: Path,
    captions: Path | None,
    layout: str,
    mapping: tuple[str, ...],
    uid: str,
    on_bad: str,
    rows_per_shard: int,
    no_features: bool,
    allow_invalid: bool,
) -> dict[str, Any] | None:
    """Make a pool of SOURCE: webdataset tars, a folder of pictures with captions, or Parquet files.

    \b
    headwater pool import SHARDS -o POOL
    headwater pool import PICTURES --captions captions.csv -o POOL
    headwater pool import table.parquet --map text=caption --map url=image_url -o POOL
    """
    from curate._memory import tune_process
    from curate.ingest import exit_error, prepare
    from headwater.steps import run_step

    tune_process()
    pairs = {}
    for text in mapping:
        column, sep, name = text.partition("=")
        if not sep or not column or not name:
            raise UsageError(f"--map {text!r}: write it as COLUMN=SOURCE")
        pairs[column] = name
    prepared = prepare(
        source,
        output,
        executor=settings.executor(),
        captions=captions,
        layout=layout,
        mapping=pairs,
        uid=uid,
        on_bad=on_bad,
        rows_per_shard=rows_per_shard,
        features=not no_features,
    )
    outcome = run_step(prepared.plan, prepared.work, settings.run_options())
    if outcome is None:
        return step_result(None, prepared.plan)
    result = step_result(outcome, prepared.plan)
    counts = outcome.step.identity.counts
    lost = "".join(f"\n  left out: {n:,} × {reason}" for reason, n in counts.invalid.items())
    result["text"] = (
        f"{output}: {counts.kept:,} of {counts.read:,} rows{' (already there)' if outcome.cached else ''}{lost}"
    )

    def check(outcome: Any, *, allow_invalid: bool) -> None:
        problem = exit_error(outcome)
        if problem is not None and not allow_invalid:
            raise problem

    emit_then_check(settings, result, outcome, allow_invalid, check)
    return None


@pool_group.command("describe")
@click.argument("pool", type=ANY)
@with_pool_options
@common
def describe(settings: Settings, *, pool: Path, cache: Path | None, distrust_cache: bool) -> dict[str, Any]:
    """What POOL holds: rows, columns, nulls, quantiles, captions, duplicates, features, scores."""
    from curate._describe_text import render
    from curate.describe import describe_pool

    facts = describe_pool(open_pool(pool, cache, distrust_cache))
    return {**facts, "text": render(facts)}


@pool_group.command("validate")
@click.argument("pool", type=ANY)
@click.option("--deep", is_flag=True, help="Also decode every page and check page checksums.")
@common
def validate(settings: Settings, *, pool: Path, deep: bool) -> None:
    """List everything that is wrong with POOL, with shard, column and row."""
    from curate._memory import tune_process
    from curate.validate import validate_pool

    tune_process()
    findings = validate_pool(pool, deep=deep, executor=settings.executor())
    emit({**findings.as_dict(), "text": findings.text()}, as_json=settings.as_json)
    problem = findings.exit_error()
    if problem is not None:
        problem.told = True
        raise problem


@pool_group.command("sql")
@click.argument("pool", type=ANY)
@click.argument("statement")
@click.option(
    "-o",
    "--output",
    type=ANY,
    help="Write the answer to a .parquet, .csv or .jsonl file, or - for CSV on standard output.",
)
@click.option("--rows", type=int, default=40, show_default=True, help="Rows shown on the terminal.")
@click.option("--memory", type=int, default=512, show_default=True, help="Memory DuckDB may use, in MiB.")
@with_pool_options
@common
def sql(
    settings: Settings,
    *,
    pool: Path,
    statement: str,
    output: Path | None,
    rows: int,
    memory: int,
    cache: Path | None,
    distrust_cache: bool,
) -> dict[str, Any] | None:
    """Run one SELECT over the tables `pool` (all shards, stored scores joined by row) and `scores`.

    \b
    headwater pool sql POOL "SELECT text, count(*) n FROM pool GROUP BY text ORDER BY n DESC LIMIT 10"
    """
    from curate.answers import as_rows, terminal_table, write_answer
    from curate.query import query

    opened = open_pool(pool, cache, distrust_cache)
    with query(opened, statement, limit_bytes=memory << 20, threads=settings.workers) as answer:
        if output is not None:
            written = write_answer(answer, output)
            return (
                None
                if str(output) == "-"
                else {"output": str(output), "rows": written, "text": f"{output}: {written:,} rows"}
            )
        if settings.as_json:
            return {"columns": answer.schema.names, "rows": as_rows(answer)}
        return {"text": terminal_table(answer, rows)}


@pool_group.command("index")
@click.argument("pool", type=ANY)
@with_pool_options
@common
def index(settings: Settings, *, pool: Path, cache: Path | None, distrust_cache: bool) -> dict[str, Any]:
    """Write the side index of POOL, from which filters over sizes, scores and caption lengths are answered several times faster."""
    from curate.index import build_index, index_state

    opened = open_pool(pool, cache, distrust_cache)
    if settings.dry_run:
        state = index_state(opened)
        return {
            **state,
            "text": f"{pool}: {state['fitting']} of {state['shards']} shards are indexed; {state['missing']} would be built",
        }
    facts = build_index(opened, settings.executor(), force=settings.force)
    per_row = facts["bytes"] / facts["rows"] if facts["rows"] else 0.0
    text = f"{pool}: {facts['built']} of {facts['shards']} shards indexed now; {facts['bytes'] / 1e6:,.1f} MB, {per_row:.0f} bytes a row"
    return {**facts, "text": text}
