"""Who has the recipe alone makes the files of a published set, and its release: the same manifest id, CIDs and torrents."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.curate.made_kit import SMALL, contents
from tests.faults.kit import Done, run

pytestmark = pytest.mark.slow
SET = [
    *("--classes", 4, "--instances", 30, "--start-class", 2, "--min-lit", 0.02, "--order", "instance"),
    *("--block-size", 50),
]


def ok(*words: object) -> Done:
    done = run(*words)
    assert done.code == 0, done.err
    return done


def options(values: dict[str, Any]) -> list[object]:
    return [word for name, value in values.items() for word in (f"--{name.replace('_', '-')}", value)]


def manifest(release: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((release / "manifest.json").read_bytes())
    return document


@pytest.mark.parametrize(
    ("name", "sink", "words"),
    [
        ("visualatom", "tar", [*options(SMALL), *SET]),
        ("visualatom", "parquet", [*options(SMALL), *SET]),
        (
            "visualatom",
            "folder",
            [*options(SMALL), "--stream", "reference", "--processes", 2, "--classes", 4, "--instances", 5],
        ),
        ("scenes", "tar", ["--preset", "scenes-nano", "--classes", 2, "--instances", 6, "--block-size", 5]),
    ],
)
def test_a_published_set_is_rebuilt_from_its_recipe(
    tmp_path: Path, name: str, sink: str, words: list[object]
) -> None:
    here, there = tmp_path / "here/atoms", tmp_path / "there/atoms"
    for folder in (here, there):
        folder.parent.mkdir()
    ok("make", name, *words, "--sink", sink, "-o", here)
    ok("publish", here, "-o", tmp_path / "release")
    # of the release, only the recipe travels
    ok("fetch", f"{tmp_path / 'release'}/", "--include", "recipe.json", "-o", tmp_path / "small")
    assert [path.name for path in (tmp_path / "small").glob("*.json")].count("recipe.json") == 1
    assert not list((tmp_path / "small").glob("*.tar"))
    ok("make", tmp_path / "small/recipe.json", "--sink", sink, "--workers", 2, "-o", there)
    assert contents(there).keys() >= contents(here).keys() - {".headwater/digests.sqlite"}
    ok("publish", there, "-o", tmp_path / "again")
    first, second = manifest(tmp_path / "release"), manifest(tmp_path / "again")
    assert first == second and first["step_id"] is not None
    assert "step.json" not in {entry["path"] for entry in first["entries"]} and len(first["entries"]) > 2
    for file in ("manifest.json", "release.json", "v1.torrent", "v2.torrent"):
        assert (tmp_path / "release" / file).read_bytes() == (tmp_path / "again" / file).read_bytes(), file
    ok("verify", tmp_path / "again", "--rerun", "make")


def test_a_recipe_without_pictures_is_published_and_made_elsewhere(tmp_path: Path) -> None:
    ok(
        "make",
        "visualatom",
        *options(SMALL),
        *SET,
        "--sink",
        "recipe",
        "--no-sheet",
        "-o",
        tmp_path / "atoms",
    )
    ok("publish", tmp_path / "atoms", "-o", tmp_path / "release")
    ok("fetch", f"{tmp_path / 'release'}/", "-o", tmp_path / "fetched")
    assert ok("verify", tmp_path / "fetched", "--rerun", "make").out.count("120 of 120 pictures made again")
    ok("make", tmp_path / "fetched/recipe.json", "--sink", "tar", "--no-sheet", "-o", tmp_path / "tars")
    ok("make", "visualatom", *options(SMALL), *SET, "--sink", "tar", "--no-sheet", "-o", tmp_path / "direct")
    assert contents(tmp_path / "tars") == contents(tmp_path / "direct")
    recipe = (tmp_path / "atoms/recipe.json").read_bytes()
    assert recipe == (tmp_path / "tars/recipe.json").read_bytes()
    # and a recipe that was changed on its way, with its record, makes nothing
    changed = json.loads(recipe)
    changed["seed"] = 1
    (tmp_path / "changed.json").write_text(json.dumps(changed))
    done = run("make", tmp_path / "changed.json", "-o", tmp_path / "no")
    assert done.code == 13 and "was changed" in done.err and not (tmp_path / "no").exists()
