"""`headwater demo`: the main job on the real pool that the repository ships, one command after the other.

Where the two frozen towers are installed, a scorer is trained on the rows with trustworthy titles first, and the filter uses it. The
shards are published, seeded on this machine, fetched into another folder and verified there. At its end two small models are
trained, on the filtered and on the unfiltered pictures, evaluated on pictures that neither has seen, and compared. Beside them, a small
set of pictures is drawn from a formula, with its contact sheet, and made again from its recipe.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from headwater.errors import HeadwaterError, MissingInput, UsageError
from headwater.options import Settings, common

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
EXAMPLE = EXAMPLES / "openclipart"
SUITE = EXAMPLES / "suites" / "small"
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
    help="Rule file; with one of your own no scorer is trained.  [default: examples/openclipart/demo_scored.yaml]",
)
@click.option(
    "--suite",
    type=click.Path(file_okay=False, path_type=Path),
    default=SUITE,
    help="What the models are measured on.  [default: examples/suites/small]",
)
@click.option("--recipe", default="clip-nano", show_default=True, help="What the models are trained by.")
@click.option(
    "--no-train", is_flag=True, help="Leave out the scorer and the two trainings (about two minutes)."
)
@common
def demo(
    settings: Settings,
    *,
    output: Path,
    source: Path,
    rule: Path | None,
    suite: Path,
    recipe: str,
    no_train: bool,
) -> dict[str, Any] | None:
    """Import a real pool, train a scorer on its best titles, filter it, write the shards of the subset, draw the report; publish, seed, fetch and verify them; train a
    small model on them and one on everything, and compare the two.
    """
    from headwater.cli import cli
    from headwater.console import say

    wanted = rule is None and not no_train
    lacking = _missing_for_scoring() if wanted else ""
    scored = wanted and not lacking
    if rule is None:
        rule = EXAMPLE / ("demo_scored.yaml" if scored else "demo.yaml")
    if not source.is_dir() or not rule.is_file():
        raise MissingInput(
            f"{source if not source.is_dir() else rule}: not there",
            hint="the demo's data are in the repository: run it from a checkout, or name --source and --rule",
        )
    steps = _steps(output, source, rule, scored=scored)
    seed = ["seed", str(output / "release"), "--port", "0", "--torrent-port", "0"]
    if settings.dry_run:
        after = [seed, _fetch("URL", "ID", output), ["verify", str(output / "fetched")]]
        after += [] if no_train else _training(output, source, suite, recipe)
        after = [*_drawing(output), *after]
        lines = ["headwater " + " ".join(arguments) for arguments in [*steps, *after]]
        return {"commands": lines, "text": "\n".join(lines)}
    _fresh(output)
    started = time.monotonic()

    def run(arguments: list[str]) -> None:
        say("info", "\n$ headwater " + " ".join(arguments))
        begun = time.monotonic()
        extra = ["--quiet"] if settings.quiet else []
        cli.main([*arguments, *extra, *_engine(settings)], prog_name="headwater", standalone_mode=False)
        say("debug", f"{time.monotonic() - begun:.1f} s")

    if lacking:
        say("warning", f"no scorer is trained: {lacking}")
    for arguments in steps:
        run(arguments)
    drawn = None
    if importlib.util.find_spec("numba") is None:
        say("warning", "no pictures are drawn: numba is not installed (pip install 'headwater[synth]')")
    else:
        for arguments in _drawing(output):
            run(arguments)
        drawn = str(output / "atoms" / "sheet.png")
    if served := _missing_for_seeding():
        say("warning", f"not seeded and fetched: {served}")
    else:
        say("info", "\n$ headwater " + " ".join(seed) + " &")
        with _seeding(seed) as facts:
            run(_fetch(facts["url"], facts["manifest_id"], output))
        run(["verify", str(output / "fetched")])
    compared = None
    if no_train:
        say("debug", "no training was asked for")
    elif lacks := _missing_for_training(suite):
        say("warning", f"not trained and compared: {lacks}")
    else:
        for arguments in _training(output, source, suite, recipe):
            run(arguments)
        compared = str(output / "compare.html")
    seconds = time.monotonic() - started
    facts = {
        "seconds": round(seconds, 1),
        "report": str(output / "report.html"),
        "pictures": str(output / "shards"),
        "subset": str(output / "subset.npy"),
        "pool": str(output / "pool"),
        "release": str(output / "release"),
        "fetched": None if served else str(output / "fetched"),
        "compared": compared,
        "drawn": drawn,
    }
    text = (
        f"\nDone in {seconds:.1f} s. Look at {facts['report']} (pictures, funnel, histograms; one file, no network).\n"
        f"The kept pictures are in {facts['pictures']}/*.tar, their uids in {facts['subset']}.\n"
        f"headwater verify {facts['subset']}    checks that they are what the record says.\n"
        f"headwater seed {facts['release']}    gives the shards to everybody: HTTP, IPFS gateway, torrents."
        + (
            f"\nPictures that a formula drew: {drawn}; {output / 'atoms' / 'recipe.json'} makes them again."
            if drawn
            else ""
        )
        + (f"\nThe two trainings, with both kinds of error, are in {compared}." if compared else "")
    )
    return {**facts, "text": "" if settings.quiet else text}


def _scoring(output: Path, source: Path) -> list[list[str]]:
    """Groups of near-duplicate pictures, and a scorer that learns from trustworthy titles and then judges every row."""
    pool, trusted, scorer = str(output / "pool"), str(output / "trusted.npy"), str(output / "scorer")
    shards = ["--shards", str(source)]
    return [
        ["score", "picture_groups", pool, *shards],
        ["filter-pool", pool, "-o", trusted, "--rule", str(EXAMPLE / "trusted.yaml")],
        ["score", "train", pool, *shards, "--trusted", trusted, "--held-out", "200", "-o", scorer],
        ["score", "two_tower", pool, *shards, "--scorer", scorer],
    ]


def _steps(output: Path, source: Path, rule: Path, *, scored: bool) -> list[list[str]]:
    pool, subset, shards = str(output / "pool"), str(output / "subset.npy"), str(output / "shards")
    cache = str(output / "cache")
    return [
        # one title of the shipped pool is empty: left out, counted, and accepted here
        ["pool", "import", str(source), "-o", pool, "--allow-invalid"],
        ["pool", "index", pool],
        *(_scoring(output, source) if scored else []),
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
        ["publish", shards, "-o", str(output / "release"), "--name", "openclipart"],
    ]


def _drawing(output: Path) -> list[list[str]]:
    """A hundred VisualAtom pictures as a shard, compared with pictures that are drawn again from their recipe."""
    atoms = str(output / "atoms")
    return [
        ["make", "visualatom", "--preset", "nano", "--sink", "tar", "-o", atoms],
        ["verify", atoms, "--rerun", "make"],
    ]


def _training(output: Path, source: Path, suite: Path, recipe: str) -> list[list[str]]:
    """Two trainings that differ only in their data, and what they are worth on pictures that are in neither."""
    cache, everything = str(output / "cache"), str(output / "shards-all")
    steps = [
        ["filter-pool", str(output / "pool"), "-o", str(output / "all.npy"), "--name", "no_filter"],
        ["reshard", str(source), "-s", str(output / "all.npy"), "-o", everything, "--shard-size", "500"],
    ]
    steps[-1] += ["--cache", cache]
    for name, shards in (("all", everything), ("filtered", str(output / "shards"))):
        run, results = str(output / f"run-{name}"), str(output / f"eval-{name}")
        steps.append(["train", "--recipe", recipe, "--data", shards, "-o", run])
        steps.append(["eval", run, "--suite", str(suite), "-o", results, "--cache", cache])
    page = str(output / "compare.html")
    steps.append(["compare", str(output / "eval-all"), str(output / "eval-filtered"), "-o", page])
    return steps


def _fetch(url: str, manifest_id: str, output: Path) -> list[str]:
    # the address is this machine's own, which a fetch refuses unless it is told
    return ["fetch", url, "--manifest", manifest_id, "--allow-private", "-o", str(output / "fetched")]


def _missing_for_seeding() -> str:
    """What keeps this installation from seeding, or nothing."""
    try:
        import aiohttp  # noqa: F401
    except ImportError:
        return "the package aiohttp is not installed (pip install 'headwater[seed]')"
    return ""


def _missing_for_scoring() -> str:
    """What keeps this installation from training a scorer, or nothing."""
    from curate import assets

    if any(importlib.util.find_spec(name) is None for name in ("torch", "timm", "tokenizers")):
        return "torch, timm and tokenizers are not all installed (pip install 'headwater[towers]')"
    try:
        for name in ("lite0", "minilm"):
            assets.locate(name)
    except HeadwaterError as error:
        return f"{error.message} ({error.hint})"
    return ""


def _missing_for_training(suite: Path) -> str:
    """What keeps this installation from training, or nothing."""
    if any(importlib.util.find_spec(name) is None for name in ("torch", "open_clip_train")):
        return "torch and open_clip are not installed (pip install 'headwater[train]')"
    return "" if (suite / "suite.yaml").is_file() else f"{suite} is not there"


@contextmanager
def _seeding(arguments: list[str]) -> Iterator[dict[str, Any]]:
    """A seed in a process of its own, and what it says of itself; ended at the end, as a person would, by an interrupt."""
    command = [sys.executable, "-P", "-m", "headwater.cli", *arguments, "--json"]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line.decode(errors="replace"))
            event = json.loads(line) if line.startswith(b"{") else {}
            if event.get("event") == "seeding":
                # what else it says is of no use here, and must not fill the pipe
                threading.Thread(target=process.stderr.read, daemon=True).start()
                yield event
                return
        raise HeadwaterError(f"the seed did not start: {''.join(said).strip()}")
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)


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
