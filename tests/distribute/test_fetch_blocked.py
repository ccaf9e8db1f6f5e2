"""Paths that were a folder in the older release and are a file in the newer one, or the reverse."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from distribute.fetch import FetchOptions, fetch
from headwater.errors import IntegrityError
from headwater.steps import RunOptions
from tests.distribute.loopback import Mirror
from tests.distribute.release_kit import build_release, same

MOVED = b"m" * 70_000
OLD = {"keep": b"k", "a": MOVED, "b/one": b"1" * 5000, "b/deep/two": b"2", "c": b"c", "e": b"e"}
NEW = {
    "keep": b"k",
    "a/inside/file": b"new",
    "b": b"now a file",
    "moved": MOVED,
    "one": b"1" * 5000,
    "f": b"f",
}


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    old, new = tmp_path_factory.mktemp("old"), tmp_path_factory.mktemp("new")
    build_release(old, OLD, extensions={"empty_folders": ["f/void", "b/void"]})
    build_release(new, NEW, extensions={"empty_folders": ["c/void", "e"]})
    return old, new


def bring(*locations: object, to: Path, dry_run: bool = False, **options: Any) -> dict[str, Any]:
    values: dict[str, Any] = {"allow_private": True, "stall_seconds": 2, "patience_seconds": 3, **options}
    return fetch([str(x) for x in locations], to, FetchOptions(**values), RunOptions(dry_run=dry_run))


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if ".headwater" not in path.parts}


def test_without_prune_it_is_told_and_nothing_is_done(releases: tuple[Path, Path], tmp_path: Path) -> None:
    old, new = releases
    out = tmp_path / "out"
    bring(old, to=out)
    before = tree(out)
    for dry_run in (True, False):
        with pytest.raises(
            IntegrityError, match=r"out/a: is a file of the older .* a folder in this one"
        ) as caught:
            bring(new, to=out, dry_run=dry_run)
        assert caught.value.exit_code == 13 and "--prune" in str(caught.value.hint)
        assert "4 more" in caught.value.message
    assert tree(out) == before and same(out, OLD)


def test_with_prune_files_and_folders_change_places(releases: tuple[Path, Path], tmp_path: Path) -> None:
    old, new = releases
    out = tmp_path / "out"
    bring(old, to=out)
    inode = os.stat(out / "a").st_ino
    before = tree(out)
    bring(new, to=out, dry_run=True, prune=True)
    assert tree(out) == before
    with Mirror(new) as mirror:
        result = bring(mirror.url, to=out, prune=True)
        asked = {path for _, path, _ in mirror.asked if path.startswith("set/")}
    assert asked == {"set/a/inside/file", "set/b", "set/f"}  # what was in the way is used all the same
    assert same(out, NEW) and os.stat(out / "moved").st_ino == inode
    assert tree(out) - set(NEW) == {"a", "a/inside", "c", "c/void", "e"}
    assert result["files_pruned"] == ["a", "b/deep/two", "b/one", "c", "e"] and result["files_gone"] == []
    # and back again
    result = bring(old, to=out, prune=True)
    assert same(out, OLD) and tree(out) - set(OLD) == {"b", "b/deep", "b/void", "f", "f/void"}
    assert result["files_pruned"] == ["a/inside/file", "b", "f", "moved", "one"]


@pytest.mark.parametrize("change", ["a", "b/one", "b/mine", "b/link"])
def test_what_the_user_changed_is_not_removed(
    releases: tuple[Path, Path], tmp_path: Path, change: str
) -> None:
    old, new = releases
    out = tmp_path / "out"
    bring(old, to=out)
    if change == "b/link":
        (tmp_path / "elsewhere").mkdir()
        (out / change).symlink_to(tmp_path / "elsewhere")
    else:
        (out / change).write_bytes(b"mine")
    before = tree(out)
    with pytest.raises(IntegrityError, match=f"out/{change}: was edited or added here"):
        bring(new, to=out, prune=True)
    assert tree(out) == before
    assert change == "b/link" or (out / change).read_bytes() == b"mine"


def test_only_what_is_fetched_is_looked_at(releases: tuple[Path, Path], tmp_path: Path) -> None:
    old, new = releases
    out = tmp_path / "out"
    bring(old, to=out)
    result = bring(new, to=out, include=("moved", "one"))
    assert (out / "moved").read_bytes() == MOVED and (out / "a").read_bytes() == MOVED
    assert result["files_reused"] == 2
    # the manifest there is now the new one: what is in the way are leftovers
    with pytest.raises(IntegrityError, match="of the older release"):
        bring(new, to=out)
    # leftovers are files: of an empty folder nobody knows any more whose it is
    with pytest.raises(IntegrityError, match="out/f: is no regular file"):
        bring(new, to=out, prune=True)
    (out / "f/void").rmdir()
    (out / "f").rmdir()
    bring(new, to=out, prune=True)
    assert same(out, NEW)


def test_killed_in_between_the_same_line_goes_on(releases: tuple[Path, Path], tmp_path: Path) -> None:
    old, new = releases
    out = tmp_path / "out"
    bring(old, to=out)
    with Mirror(new) as mirror:
        mirror.wrong["set/b"] = lambda handler, file: handler.body(404, b"")
        with pytest.raises(Exception, match="could not be had"):
            bring(mirror.url, to=out, prune=True)
        assert not (out / "b").exists()  # its place is free, and the old manifest still says what was there
        assert "b/one" in json.dumps(json.loads((out / ".headwater/release/manifest.json").read_bytes()))
        mirror.wrong.clear()
        bring(mirror.url, to=out, prune=True)
    assert same(out, NEW)
