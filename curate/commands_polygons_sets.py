"""`headwater polygons split|union|subset|diff|leakage`: what is done with several polygon datasets. Parse, call, render."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from curate.commands_polygons import ANY, _emit_then_raise
from headwater.errors import BadInputs, UsageError
from headwater.options import Settings, common


@click.command("split")
@click.argument("path", type=ANY)
@click.option("--rule", type=ANY, required=True, help="The split file (split/1, YAML); - is standard input.")
@click.option("-o", "--output", type=ANY, required=True, help="The folder to write: one store a split.")
@click.option(
    "--previous", type=ANY, help="membership.parquet of an earlier split: its images stay where they are."
)
@click.option("--images", type=ANY, help="Folder of the image files, for the digest of the pixels.")
@click.option("--allow-invalid", is_flag=True, help="End with 0 although a rule could not judge some images.")
@common
def split(
    settings: Settings,
    *,
    path: Path,
    rule: Path,
    output: Path,
    previous: Path | None,
    images: Path | None,
    allow_invalid: bool,
) -> None:
    """Cut PATH into the splits of a rule file. An image that was in a split stays there when the dataset grows.

    OUTPUT gets a store for each split, named SPLIT_imgs<N>_<hash8>, splits.json with both digests of each, and membership.parquet.
    """
    from curate.polygons.recording import apart, invalid_error
    from curate.polygons.split_step import run_split
    from curate.polygons.splits import load_split, membership_of
    from curate.polygons.store import open_annotations
    from headwater.steps import check_output

    check_output(output, "folder")
    apart(output, [path], [images])
    before = membership_of(previous) if previous else None
    result = run_split(settings, open_annotations(path), load_split(rule), output, before, images)
    _emit_then_raise(settings, result, None if allow_invalid else invalid_error(result))


@click.command("union")
@click.argument("paths", type=ANY, nargs=-1, required=True)
@click.option("-o", "--output", type=ANY, required=True, help="The folder of the store to write.")
@click.option(
    "--same",
    type=click.Choice(["refuse", "first", "keep"]),
    default="refuse",
    show_default=True,
    help="Images whose file name several datasets have: refuse, take the first, or keep all.",
)
@common
def union(settings: Settings, *, paths: tuple[Path, ...], output: Path, same: str) -> dict[str, Any]:
    """Join datasets. The first keeps its ids; ids of others that clash are changed by one stated rule."""
    from curate.polygons import merge
    from curate.polygons.recording import Made, input_of, store_step
    from curate.polygons.store import open_annotations
    from headwater.steps import check_output

    check_output(output, "folder")
    datasets = [open_annotations(path) for path in paths]

    def make() -> Made:
        found = merge.union(datasets, same)
        return Made(found.annotations, found.counts, found.notes)

    inputs = [input_of(f"dataset {number}", one) for number, one in enumerate(datasets)]
    return store_step(settings, "polygons-union", {"same": same}, inputs, output, make, sources=paths)


@click.command("subset")
@click.argument("path", type=ANY)
@click.option("-o", "--output", type=ANY, required=True, help="The folder of the store to write.")
@click.option("--id", "ids", multiple=True, type=int, help="An image by id; repeatable.")
@click.option("--file", "files", multiple=True, help="An image by file name; repeatable.")
@click.option("--category", "categories", multiple=True, help="Images with an annotation of it; repeatable.")
@click.option("--only-categories", is_flag=True, help="Leave annotations of other categories out.")
@click.option("--where", help="An SQL expression over the images (`annotations` is their count).")
@click.option("--allow-invalid", is_flag=True, help="End with 0 although some images could not be judged.")
@common
def subset(
    settings: Settings,
    *,
    path: Path,
    output: Path,
    ids: tuple[int, ...],
    files: tuple[str, ...],
    categories: tuple[str, ...],
    only_categories: bool,
    where: str | None,
    allow_invalid: bool,
) -> None:
    """Take the images for which all that is given holds, with their annotations."""
    from curate.polygons import merge
    from curate.polygons.recording import Made, input_of, invalid_error, store_step
    from curate.polygons.store import open_annotations
    from headwater.steps import check_output

    if not (ids or files or categories or where):
        raise UsageError("nothing says which images", hint="--id, --file, --category or --where")
    check_output(output, "folder")
    dataset = open_annotations(path)

    def make() -> Made:
        found = merge.subset(
            dataset,
            ids=ids or None,
            file_names=files or None,
            categories=categories or None,
            where=where,
            only_categories=only_categories,
        )
        return Made(found.annotations, found.counts, found.notes)

    config = {
        "ids": sorted(ids),
        "files": sorted(files),
        "categories": sorted(categories),
        "only_categories": only_categories,
        "where": where,
    }
    inputs = [input_of("dataset", dataset)]
    result = store_step(settings, "polygons-subset", config, inputs, output, make, sources=[path])
    _emit_then_raise(settings, result, None if allow_invalid else invalid_error(result))


@click.command("diff")
@click.argument("old", type=ANY)
@click.argument("new", type=ANY)
@common
def diff(settings: Settings, *, old: Path, new: Path) -> None:
    """Tell what NEW has that OLD has not, and the other way round: images, annotations, keys and vertices."""
    from curate.polygons import merge
    from curate.polygons.store import open_annotations

    found = merge.diff(open_annotations(old), open_annotations(new))
    _emit_then_raise(settings, {**found.data(), "text": found.text()}, None)


@click.command("leakage")
@click.argument("paths", type=ANY, nargs=-1, required=True)
@click.option("--images", type=ANY, help="Folder of the image files, to compare their pixels.")
@click.option("--allow-findings", is_flag=True, help="End with 0 although something is in two splits.")
@common
def leakage(
    settings: Settings, *, paths: tuple[Path, ...], images: Path | None, allow_findings: bool
) -> None:
    """Compare splits: equal and near-equal images, groups, tracks and times that several of them have."""
    from curate.polygons.leakage import leakage as compare
    from curate.polygons.store import open_annotations

    named = {path.name: open_annotations(path) for path in paths}
    if len(named) < len(paths):
        raise UsageError("two of the splits have one name", hint="rename one of the folders")
    found = compare(named, folders=images, threads=settings.executor().workers)
    errors = found.found["error"]
    error = BadInputs(f"{errors:,} images or names are in more than one split") if errors else None
    _emit_then_raise(settings, {**found.data(), "text": found.text()}, None if allow_findings else error)
