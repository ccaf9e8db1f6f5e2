"""`headwater report`: parse, call, render."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from curate.commands import with_plugin_files
from headwater.options import Settings, common

ANY = click.Path(path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command("report")
@click.argument("path", type=ANY)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="The page to write (.html).",
)
@click.option("--pool", type=FOLDER, help="The pool of the subset, if it has moved since.")
@click.option(
    "--shards", multiple=True, type=ANY, help="Folder of webdataset tars to take pictures from; repeatable."
)
@click.option(
    "--cache", type=FOLDER, help="Where scores, index and digests are kept (default: POOL/.headwater)."
)
@click.option("--title", help="Heading of the page.")
@click.option(
    "--thumbnails",
    type=int,
    default=24,
    show_default=True,
    help="Kept rows to show; a third as many for each reason; 0: none.",
)
@click.option("--images", type=FOLDER, help="Polygons: folder of the image files, if they lie elsewhere.")
@click.option(
    "--scatter", metavar="X,Y", help="Two numbers to draw against each other (default: the first two scores)."
)
@with_plugin_files
@common
def report(
    settings: Settings,
    *,
    path: Path,
    output: Path,
    pool: Path | None,
    shards: tuple[Path, ...],
    cache: Path | None,
    title: str | None,
    thumbnails: int,
    images: Path | None,
    scatter: str | None,
) -> dict[str, Any]:
    """Write one HTML page about PATH: a subset, a folder of resharded shards, a pool, pictures that headwater made, or polygons.

    The page is one file without scripts: funnel, histograms with the cuts, rows that were kept and dropped, duplicates, energy,
    digests, and the command that makes the output again. Which rows are shown depends on --seed.

    \b
    headwater report mine.npy -o mine.html
    headwater report mine.npy -o mine.html --shards TARS --thumbnails 48
    """
    from curate._report_made import build_made_report, is_made
    from curate._report_polygons import build_polygons_report, is_polygons
    from curate.report import MARK, build_report, check_page, find_subject

    check_page(output, MARK, force=settings.force)
    polygons = is_polygons(path)
    made = not polygons and is_made(path)  # looked at first: Parquet files in it would pass for a pool
    if settings.dry_run:
        kind = "polygons" if polygons else "generation" if made else find_subject(path).kind
        what = f"the pictures {path}" if made else f"the {kind} {path}"
        return {"kind": kind, "output": str(output), "text": f"{output}: would be made, about {what}"}
    if polygons:
        facts = build_polygons_report(
            path, output, images=images, title=title, thumbnails=thumbnails, seed=settings.seed or 0
        )
    elif made:
        facts = build_made_report(path, output, title=title, thumbnails=thumbnails, seed=settings.seed or 0)
    else:
        facts = build_report(
            path,
            output,
            pool=pool,
            shards=list(shards),
            cache=cache,
            executor=settings.executor(),
            title=title,
            thumbnails=thumbnails,
            seed=settings.seed or 0,
            scatter=[part.strip() for part in scatter.split(",")] if scatter else (),
        )
    lines = [
        f"{output}: {facts['size_bytes'] / 1e3:,.0f} kB, {facts['pictures']} pictures, {facts['rows_looked_at']:,} rows looked at"
    ]
    return {**facts, "text": "\n".join([*lines, *(f"  {note}" for note in facts["notes"])])}
