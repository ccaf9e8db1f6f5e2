"""`headwater score import`: parse, call, render."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from curate.commands import ANY, open_pool, with_pool_options
from headwater.errors import BadInputs
from headwater.options import Settings, common, emit


@click.command("import")
@click.argument("pool", type=ANY)
@click.argument("tables", nargs=-1, required=True, type=ANY)
@click.option("--name", required=True, help="What to call these scores; a scorer of this name.")
@click.option("--uid-column", default="uid", show_default=True, help="Column of the tables with the uids.")
@click.option(
    "--columns",
    help="Columns to import, with commas between; NEW=OLD calls one otherwise (default: every number, truth value and text).",
)
@click.option("--allow-invalid", is_flag=True, help="End with 0 although some rows of the pool got no score.")
@with_pool_options
@common
def import_scores(
    settings: Settings,
    *,
    pool: Path,
    tables: tuple[Path, ...],
    name: str,
    uid_column: str,
    columns: str | None,
    allow_invalid: bool,
    cache: Path | None,
    distrust_cache: bool,
) -> None:
    """Keep the columns of TABLES beside POOL, joined by uid, so that rules and queries may use them.

    A table is Parquet, CSV, TSV or JSON lines, or a folder of them. A uid that occurs twice must have the same values.

    \b
    headwater score import POOL mflyt_inputs/ --name mflyt
    headwater filter-pool POOL -o top.npy --rule rule.yaml     # with a clause over the new columns
    """
    from curate.score_imports import import_scores as run
    from curate.score_imports import is_done, prepare

    opened = open_pool(pool, cache, distrust_cache)
    wanted = [part.strip() for part in columns.split(",")] if columns else []
    found = prepare(opened, tables, name, uid_column=uid_column, columns=wanted, force=settings.force)
    facts: dict[str, Any] = {
        "scorer": name,
        "rows": opened.rows,
        "shards": len(opened.shards),
        "tables": len(found.tables),
        "columns": list(found.columns),
        "folder": str(found.folder),
    }
    if settings.dry_run:
        state = "is there already" if is_done(found) else "would be made"
        emit(
            {**facts, "text": f"{found.folder}: {state} ({', '.join(found.columns)})"},
            as_json=settings.as_json,
        )
        return
    made = run(found, options=settings.run_options(), force=settings.force)
    counts, notes = made["counts"], made["notes"]
    lines = [
        f"{name}: {counts['kept']:,} of {opened.rows:,} rows have a score from {notes['table_rows']:,} rows of "
        f"{len(found.tables):,} table{'s' * (len(found.tables) != 1)}, in {found.folder} ({', '.join(found.columns)})"
        + (" (already there)" if made["cached"] else "")
    ]
    lines += [f"  no score: {rows:,} × {reason}" for reason, rows in counts["invalid"].items()]
    if notes["uids_not_in_pool"]:
        lines.append(
            f"  {notes['uids_not_in_pool']:,} uids of the table are not in the pool, such as {notes['uids_not_in_pool_examples'][0]}"
        )
    if notes["table_repeats"]:
        lines.append(f"  {notes['table_repeats']:,} rows say again what another row of their uid said")
    emit({**facts, **made, "text": "\n".join(lines)}, as_json=settings.as_json)
    lost = sum(counts["invalid"].values())
    if lost and not allow_invalid:
        error = BadInputs(
            f"{lost:,} of {opened.rows:,} rows of the pool have no score",
            hint="they are never kept by a rule; --allow-invalid ends with 0",
        )
        error.told = True
        raise error
