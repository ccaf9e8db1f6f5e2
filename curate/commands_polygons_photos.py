"""`headwater polygons intake|scrub|unseal|strip|key`: what is done with folders of photos. Parse, call, render."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from curate.commands_polygons import ANY, _emit_then_raise
from headwater.errors import MissingInput, UsageError
from headwater.options import Settings, common


@click.command("intake")
@click.argument("folder", type=ANY)
@click.option("-o", "--output", type=ANY, required=True, help="The folder of the store to write.")
@click.option(
    "--roles",
    default="before,after,negative",
    show_default=True,
    help="What the photos of a group are, in order of time; the first has the annotations.",
)
@click.option(
    "--gap",
    type=float,
    default=600.0,
    show_default=True,
    metavar="SECONDS",
    help="Photos further apart are of no one group.",
)
@click.option(
    "--near-bits",
    type=int,
    default=6,
    show_default=True,
    help="Photos whose perceptual hashes differ in no more of 64 bits are listed as near: a guess. 0 to 11.",
)
@click.option(
    "--source",
    help="Who drew the annotations that name nobody: person:NAME, model:NAME@VERSION, or model:NAME@VERSION+person:NAME.",
)
@common
def intake(
    settings: Settings,
    *,
    folder: Path,
    output: Path,
    roles: str,
    gap: float,
    near_bits: int,
    source: str | None,
) -> None:
    """Take the photos of FOLDER, and LabelMe files beside them, into a store: time with zone, place as exact fractions, orientation, groups.

    photos.parquet has all facts of each photo, same.parquet the pairs that are the same in bytes, in pixels, or nearly so. FOLDER is never
    changed. Photos that cannot be read are listed and left out: exit code 3.
    """
    from curate.polygons.photo_steps import run_intake
    from curate.polygons.provenance import parse
    from headwater.steps import check_output

    check_output(output, "folder")
    found = parse(source) if source is not None else None
    if source is not None and found is None:
        raise UsageError(
            f"--source {source}: says nobody", hint="person:ann, model:sam2@2.1, or model:sam2@2.1+person:ann"
        )
    words = [word.strip() for word in roles.split(",")]
    if not all(words):
        raise UsageError(f"--roles {roles}: an empty word")
    result, error = run_intake(
        settings, folder, output, roles=words, gap_seconds=gap, near_bits=near_bits, source=found
    )
    _emit_then_raise(settings, result, error)


@click.command("scrub")
@click.argument("path", type=ANY)
@click.option("--images", type=ANY, required=True, help="Folder of the photos; never changed.")
@click.option(
    "-o", "--output", type=ANY, required=True, help="The folder to write: a store, its photos in images/."
)
@click.option(
    "--orientation",
    type=click.Choice(["keep", "apply"]),
    default="keep",
    show_default=True,
    help="keep the EXIF orientation, and every pixel's bytes; or turn photos and polygons upright, which codes turned photos again.",
)
@click.option("--drop-times", is_flag=True, help="Take the times out too.")
@click.option("--sealed", type=ANY, help="Folder to write what was taken out to, encrypted; keep it private.")
@click.option("--key", type=ANY, help="The key file for --sealed (headwater polygons key makes one).")
@common
def scrub(
    settings: Settings,
    *,
    path: Path,
    images: Path,
    output: Path,
    orientation: str,
    drop_times: bool,
    sealed: Path | None,
    key: Path | None,
) -> None:
    """Copy PATH and its photos without GPS, serial numbers, owners, thumbnails and notes; only what is known to be harmless is kept.

    Photos that cannot be read are listed and left out with their annotations: exit code 3. scrubbed.parquet says what went from each photo.
    """
    from curate.polygons.photo_steps import run_scrub
    from curate.polygons.sealing import read_key
    from curate.polygons.store import open_annotations
    from headwater.steps import check_output

    if (sealed is None) != (key is None):
        raise UsageError("--sealed and --key go together", hint="headwater polygons key FILE makes a key")
    check_output(output, "folder")
    private = (sealed, read_key(key)) if sealed and key else None
    if not images.is_dir():
        raise MissingInput(f"{images}: no such folder")
    result, error = run_scrub(
        settings,
        path,
        open_annotations(path),
        images,
        output,
        orientation=orientation,
        keep_times=not drop_times,
        sealed=private,
    )
    _emit_then_raise(settings, result, error)


@click.command("unseal")
@click.argument("scrubbed", type=ANY)
@click.option("--sealed", type=ANY, required=True, help="The folder that scrub wrote beside it.")
@click.option("--key", type=ANY, required=True, help="The key file it was sealed with.")
@click.option("-o", "--output", type=ANY, required=True, help="The folder to write the original photos to.")
@common
def unseal(settings: Settings, *, scrubbed: Path, sealed: Path, key: Path, output: Path) -> None:
    """Make the original photos again from SCRUBBED (what scrub wrote, or its images/), byte for byte; every one is compared with its digest."""
    from curate.polygons.photo_steps import run_unseal
    from curate.polygons.sealing import read_key
    from headwater.steps import check_output

    check_output(output, "folder")
    result, error = run_unseal(settings, scrubbed, sealed, read_key(key), output)
    _emit_then_raise(settings, result, error)


@click.command("strip")
@click.argument("folder", type=ANY)
@click.option("-o", "--output", type=ANY, required=True, help="The copy to write.")
@common
def strip(settings: Settings, *, folder: Path, output: Path) -> None:
    """Copy the LabelMe FOLDER without the pictures inside its files (imageData); a picture that is nowhere else becomes a file.

    Files that cannot be read are copied as they are and listed: exit code 3. FOLDER is never changed.
    """
    from curate.polygons.photo_steps import run_strip
    from headwater.steps import check_output

    check_output(output, "folder")
    result, error = run_strip(settings, folder, output)
    _emit_then_raise(settings, result, error)


@click.command("key")
@click.argument("file", type=ANY)
@common
def key(settings: Settings, *, file: Path) -> dict[str, Any]:
    """Make a key FILE for scrub --sealed, which only its owner may read. It is never overwritten, also not with --force."""
    from curate.polygons.sealing import make_key

    if file.exists() or file.is_symlink():
        raise UsageError(f"{file}: exists", hint="a key is never overwritten: name a new file")
    if not settings.dry_run:
        make_key(file)
    done = "would be made" if settings.dry_run else "made; who loses it loses what is sealed with it"
    return {"output": str(file), "text": f"{file}: {done}"}
