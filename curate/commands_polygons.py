"""`headwater polygons`: what is done with one polygon dataset. Parse, call, render."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import click

from headwater.console import printable
from headwater.errors import BadInputs, UsageError
from headwater.options import Settings, common, emit

ANY = click.Path(path_type=Path)
PROFILES = ("strict", "coco", "kwcoco")
FORMATS = ("coco", "kwcoco", "labelme", "yolo", "parquet", "webdataset")

# commands of other modules: name -> module, and attribute in it
SETS, PHOTOS = "curate.commands_polygons_sets", "curate.commands_polygons_photos"
OTHERS = {
    "split": SETS,
    "union": SETS,
    "subset": SETS,
    "diff": SETS,
    "leakage": SETS,
    "intake": PHOTOS,
    "scrub": PHOTOS,
    "unseal": PHOTOS,
    "strip": PHOTOS,
    "key": PHOTOS,
    "score": "train.commands_polygons_score",
}


class PolygonsGroup(click.Group):
    """Its own commands, and those of other modules, which are imported only for them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *OTHERS])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in OTHERS:
            command = getattr(importlib.import_module(OTHERS[cmd_name]), cmd_name)
            assert isinstance(command, click.Command), cmd_name
            return command
        return super().get_command(ctx, cmd_name)


@click.group("polygons", cls=PolygonsGroup)
def polygons() -> None:
    """Polygon datasets: photos, LabelMe, COCO and kwcoco in and out, checks, splits, numbers and pictures."""


@polygons.command("import")
@click.argument("source", type=ANY)
@click.option("-o", "--output", type=ANY, required=True, help="The folder of the store to write.")
@common
def import_polygons(settings: Settings, *, source: Path, output: Path) -> None:
    """Read SOURCE (a LabelMe folder, a COCO or kwcoco .json or .zip, or a store) into a store: Parquet tables, without loss.

    SOURCE is never changed. What it is, is told from its content. Files of a LabelMe folder that cannot be read are listed and left out:
    exit code 3.
    """
    from curate.polygons.importing import run_import
    from headwater.steps import check_output

    check_output(output, "folder")
    result, error = run_import(settings, source, output)
    _emit_then_raise(settings, result, error)


@polygons.command("validate")
@click.argument("path", type=ANY)
@click.option(
    "--profile", type=click.Choice(PROFILES), default="strict", show_default=True, help="What must hold."
)
@click.option("--images", type=ANY, help="Folder of the image files, to check them too.")
@click.option(
    "--fix",
    type=ANY,
    metavar="STORE",
    help="Write a repaired copy to this new folder, and list every repair.",
)
@click.option("--allow-findings", is_flag=True, help="End with 0 although there are errors.")
@common
def validate_polygons(
    settings: Settings,
    *,
    path: Path,
    profile: str,
    images: Path | None,
    fix: Path | None,
    allow_findings: bool,
) -> None:
    """Check PATH and list every finding: ids, references, boxes, self-crossing, out of the picture, duplicates, files.

    PATH is never changed. Exit code 3 when there are errors; with --fix, when errors are left in the repaired copy.
    docs/polygon-findings.md has the codes, and what --fix does about each.
    """
    from curate.polygons.importing import open_all
    from curate.polygons.validate import exit_error, validate
    from headwater.steps import check_output

    if fix is not None:
        check_output(fix, "folder")
    annotations, bad = open_all(path)
    findings = validate(annotations, profile=profile, folder=images)
    rows = findings.as_rows()
    shown = [f"error: {name}: {reason}" for name, reason in bad]
    shown += [f"{row['severity']}: {row['code']}: {_of(row)}{row['message']}" for row in rows[:50]]
    if len(rows) > 50:
        shown.append(f"… and {len(rows) - 50:,} more (--json lists all)")
    told = ", ".join(f"{count:,} {severity}s" for severity, count in findings.severities.items())
    lines = [*shown, f"{path}: profile {profile}: {told}"]
    result = {
        "ok": findings.ok and not bad,
        "profile": profile,
        "checked": findings.checked,
        "severities": findings.severities,
        "counts": findings.counts,
        "bad": bad,
        "findings": rows,
    }
    error = exit_error(findings, path)
    if fix is not None:
        from curate.polygons.fix_step import run_fix

        fixed, left = run_fix(settings, path, annotations, findings, images, fix)
        lines.append(fixed.pop("text"))
        result["fixed"] = fixed
        error = error if settings.dry_run else left
    if bad and error is None:
        error = BadInputs(f"{path}: {len(bad):,} files cannot be read: {bad[0][0]}: {bad[0][1]}")
    result["text"] = "\n".join(lines)
    _emit_then_raise(settings, result, None if allow_findings else error)


def _of(row: dict[str, Any]) -> str:
    """Which object a finding is about."""
    kind = str(row["table"])
    number = row.get({"annotations": "annotation_id", "images": "image_id"}.get(kind, ""))
    return f"{kind.removesuffix('s')} {number}: " if number is not None else f"{kind}: "


@polygons.command("stats")
@click.argument("path", type=ANY)
@common
def stats_polygons(settings: Settings, *, path: Path) -> None:
    """Numbers of PATH: images, annotations, categories, sizes, vertices, times, who drew them."""
    from curate.polygons.stats import stats_of
    from curate.polygons.stats_text import lines_of
    from curate.polygons.store import open_annotations

    stats = stats_of(open_annotations(path))
    _emit_then_raise(settings, {**stats.summary(), "text": "\n".join(lines_of(stats))}, None)


@polygons.command("sheet")
@click.argument("path", type=ANY)
@click.option("-o", "--output", type=ANY, required=True, help="The picture to write (.png).")
@click.option(
    "--images", type=ANY, help="Folder of the image files; without it shapes stand on a plain ground."
)
@click.option("--count", type=int, default=12, show_default=True, help="How many images.")
@click.option(
    "--order",
    type=click.Choice(["random", "most", "fewest"]),
    default="random",
    show_default=True,
    help="Which: by --seed, or those with the most or fewest annotations.",
)
@click.option("--id", "ids", multiple=True, help="This image, by id or file name; repeatable.")
@click.option("--category", help="Images with this category only.")
@click.option(
    "--tile", type=int, default=256, show_default=True, help="Longer side of an image on the sheet."
)
@common
def sheet_polygons(
    settings: Settings,
    *,
    path: Path,
    output: Path,
    images: Path | None,
    count: int,
    order: str,
    ids: tuple[str, ...],
    category: str | None,
    tile: int,
) -> None:
    """Draw a browsing sheet of PATH: images with their polygons in the colours of their categories."""
    from curate.polygons.polygon_sheet import polygon_sheet
    from curate.polygons.recording import apart
    from curate.polygons.store import open_annotations
    from headwater.files import atomic_file
    from headwater.steps import check_output

    check_output(output)
    apart(output, [path], [images])
    if output.exists() and not settings.force:
        raise UsageError(f"{output}: exists", hint="--force replaces it, or choose another -o")
    chosen = [int(one) if one.isdecimal() else one for one in ids]
    sheet = polygon_sheet(
        open_annotations(path),
        images,
        images=count,
        order=order,
        ids=chosen,
        category=category,
        seed=settings.seed or 0,
        tile=tile,
        name=path.name,
    )
    if not settings.dry_run:
        with atomic_file(output) as handle:
            handle.write(sheet.png)
    lines = [f"{output}: {len(sheet.rows):,} images" + (" (not written)" if settings.dry_run else "")]
    lines += [f"  {name}: {what}" for name, what in sheet.troubles]
    result = {
        "output": str(output),
        "images": len(sheet.rows),
        "troubles": sheet.troubles,
        "text": "\n".join(lines),
    }
    problem = (
        f"{len(sheet.troubles):,} images could not be shown as the dataset says" if sheet.troubles else ""
    )
    _emit_then_raise(settings, result, BadInputs(problem) if problem else None)


@polygons.command("export")
@click.argument("path", type=ANY)
@click.option("-o", "--output", type=ANY, required=True, help="The file (coco, kwcoco) or folder to write.")
@click.option("--format", "form", type=click.Choice(FORMATS), required=True, help="What to write.")
@click.option("--images", type=ANY, help="Folder of the image files; needed by all but coco and kwcoco.")
@click.option(
    "--holes",
    type=click.Choice(["refuse", "keyhole"]),
    default="refuse",
    show_default=True,
    help="COCO has no holes: refuse them by name, or join the rings.",
)
@click.option("--split", default="train", show_default=True, help="What yolo and parquet call this set.")
@common
def export_polygons(
    settings: Settings, *, path: Path, output: Path, form: str, images: Path | None, holes: str, split: str
) -> None:
    """Write PATH as COCO, kwcoco, LabelMe, YOLO, Parquet as hub viewers read it, or webdataset."""
    from curate.polygons.exporting import KIND, export
    from curate.polygons.recording import apart
    from curate.polygons.store import open_annotations
    from headwater.steps import check_output

    check_output(output, KIND[form])
    apart(output, [path], [images])
    result, error = export(settings, open_annotations(path), output, form, images, holes=holes, split=split)
    _emit_then_raise(settings, result, error)


def _emit_then_raise(settings: Settings, result: dict[str, Any], error: BadInputs | None) -> None:
    """The result first, so that the error does not hide it; its text may hold names from outside."""
    if "text" in result:
        result["text"] = printable(result["text"])
    if error is not None:
        result["problem"] = {"kind": "BadInputs", "message": error.message, "exit_code": error.exit_code}
    emit(result, as_json=settings.as_json)
    if error is not None:
        error.told = settings.as_json
        raise error
