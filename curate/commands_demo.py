"""`headwater demo`: the main job on the real pool that the repository ships, one command after the other."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import click

from headwater.errors import MissingInput, UsageError
from headwater.options import Settings, common

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "openclipart"
MARK = ".headwater-demo"


@click.command("demo")
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("demo"),
    show_default=True,
    help="Folder to write into; made anew each time.",
)
@click.option(
    "--source",
    type=click.Path(file_okay=False, path_type=Path),
    default=EXAMPLE / "pool",
    help="Folder of webdataset tars.  [default: the openclipart pool of this repository]",
)
@click.option(
    "--rule",
    type=click.Path(dir_okay=False, path_type=Path),
    default=EXAMPLE / "demo.yaml",
    help="Rule file.  [default: examples/openclipart/demo.yaml]",
)
@common
def demo(settings: Settings, *, output: Path, source: Path, rule: Path) -> dict[str, Any] | None:
    """Import a real pool, index it, filter it, write the shards of the subset, and draw the report."""
    from headwater.cli import cli
    from headwater.console import say

    if not source.is_dir() or not rule.is_file():
        raise MissingInput(
            f"{source if not source.is_dir() else rule}: not there",
            hint="the demo's data are in the repository: run it from a checkout, or name --source and --rule",
        )
    steps = _steps(output, source, rule)
    if settings.dry_run:
        lines = ["headwater " + " ".join(arguments) for arguments in steps]
        return {"commands": lines, "text": "\n".join(lines)}
    _fresh(output)
    started = time.monotonic()
    for arguments in steps:
        say("info", "\n$ headwater " + " ".join(arguments))
        begun = time.monotonic()
        extra = ["--quiet"] if settings.quiet else []
        cli.main([*arguments, *extra, *_engine(settings)], prog_name="headwater", standalone_mode=False)
        say("debug", f"{time.monotonic() - begun:.1f} s")
    seconds = time.monotonic() - started
    facts = {
        "seconds": round(seconds, 1),
        "report": str(output / "report.html"),
        "pictures": str(output / "shards"),
        "subset": str(output / "subset.npy"),
        "pool": str(output / "pool"),
    }
    text = (
        f"\nDone in {seconds:.1f} s. Look at {facts['report']} (pictures, funnel, histograms; one file, no network).\n"
        f"The kept pictures are in {facts['pictures']}/*.tar, their uids in {facts['subset']}.\n"
        f"headwater verify {facts['subset']}    checks that they are what the record says."
    )
    return {**facts, "text": "" if settings.quiet else text}


def _steps(output: Path, source: Path, rule: Path) -> list[list[str]]:
    pool, subset, shards = str(output / "pool"), str(output / "subset.npy"), str(output / "shards")
    cache = str(output / "cache")
    return [
        # one title of the shipped pool is empty: left out, counted, and accepted here
        ["pool", "import", str(source), "-o", pool, "--allow-invalid"],
        ["pool", "index", pool],
        [
            "filter-pool",
            pool,
            "-o",
            subset,
            "--rule",
            str(rule),
            "--reasons",
            str(output / "subset.npy.reasons.parquet"),
        ],
        ["reshard", str(source), "-s", subset, "-o", shards, "--shard-size", "500", "--cache", cache],
        ["report", subset, "-o", str(output / "report.html"), "--shards", str(source)],
    ]


def _engine(settings: Settings) -> list[str]:
    extra = ["--engine", settings.engine]
    return extra + (["--workers", str(settings.workers)] if settings.workers else [])


def _fresh(output: Path) -> None:
    """An empty folder that an earlier demo made, or none; anything else of the user's is left alone."""
    mark = output / MARK
    if output.exists() and any(output.iterdir()):
        if not mark.is_file():
            raise UsageError(f"{output}: exists and was not made by the demo", hint="choose another -o")
        shutil.rmtree(output)
    output.mkdir(parents=True, exist_ok=True)
    mark.touch()
