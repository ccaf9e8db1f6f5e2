"""A newer release into a folder that holds an older one, files that this disk has already, and parts of a release."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from distribute.commands_fetch import fetch as command
from distribute.fetch import FetchOptions, fetch
from distribute.fetching.record import FetchLedger
from headwater.errors import MissingInput
from headwater.release import Leftovers, Partial, read_document
from headwater.steps import RunOptions
from tests.distribute.loopback import Mirror
from tests.distribute.release_kit import MIB, build_release, same, sample_files

OLD = sample_files(small=6, big=(9 * MIB + 5,)) | {"old/deep/moved.bin": b"m" * 70_000, "old/gone.txt": b"g"}
NEW = {path: data for path, data in OLD.items() if not path.startswith("old/")} | {
    "new/place.bin": OLD["old/deep/moved.bin"],
    "small/001.bin": b"changed",
    "added.txt": b"added",
}
GONE = ["old/deep/moved.bin", "old/gone.txt"]


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("old")
    build_release(folder, OLD)
    return folder


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("new")
    build_release(folder, NEW)
    return folder


def bring(*locations: object, to: Path, dry_run: bool = False, **options: Any) -> dict[str, Any]:
    values: dict[str, Any] = {"allow_private": True, "stall_seconds": 2, "patience_seconds": 3, **options}
    return fetch([str(x) for x in locations], to, FetchOptions(**values), RunOptions(dry_run=dry_run))


def meta(out: Path, name: str) -> Path:
    return out / ".headwater/release" / name


def test_only_what_is_new_is_fetched_and_what_is_gone_is_told(old: Path, new: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    bring(old, to=out)
    with Mirror(new) as mirror:
        result = bring(mirror.url, to=out)
        asked = {path for _, path, _ in mirror.asked if path.startswith("set/")}
    assert asked == {"set/small/001.bin", "set/added.txt"}
    assert result["files_reused"] == 1 and result["bytes_reused"] == 70_000
    assert result["files_gone"] == GONE and result["files_pruned"] == []
    assert "old/gone.txt" in result["text"] and "--prune" in result["text"]
    assert same(out, NEW | {path: OLD[path] for path in GONE})
    # a copy: an edit in one place does not show in the other
    assert os.stat(out / "new/place.bin").st_nlink == 1
    assert FetchLedger.model_validate_json(meta(out, "fetch.json").read_bytes()).files_gone == GONE


def test_prune_knows_the_leftovers_of_an_earlier_fetch(old: Path, new: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    bring(old, to=out)
    bring(new, to=out)
    assert [e.path for e in read_document(meta(out, "leftovers.json"), Leftovers).entries] == GONE
    (out / "old/mine.txt").write_bytes(b"mine")
    dry = bring(new, to=out, dry_run=True, prune=True)
    assert dry["files_gone"] == GONE and "would remove old/gone.txt" in dry["text"]
    assert (out / "old/gone.txt").exists()
    result = bring(new, to=out, prune=True)
    assert result["files_pruned"] == GONE and result["files_gone"] == []
    assert same(out, NEW | {"old/mine.txt": b"mine"})
    assert not (out / "old/deep").exists() and not meta(out, "leftovers.json").exists()
    assert bring(new, to=out, prune=True)["files_pruned"] == []


def test_pruned_files_that_moved_are_not_copied(old: Path, new: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    bring(old, to=out)
    inode = os.stat(out / "old/deep/moved.bin").st_ino
    result = bring(new, to=out, prune=True)
    assert result["files_reused"] == 1 and result["files_pruned"] == GONE
    assert os.stat(out / "new/place.bin").st_ino == inode
    assert same(out, NEW) and not (out / "old").exists()


def test_an_edited_file_is_neither_reused_nor_removed(old: Path, new: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    bring(old, to=out)
    edited = b"M" + OLD["old/deep/moved.bin"][1:]
    (out / "old/deep/moved.bin").write_bytes(edited)
    result = bring(new, to=out, prune=True)
    assert result["files_reused"] == 0
    assert result["files_pruned"] == ["old/gone.txt"] and result["files_gone"] == ["old/deep/moved.bin"]
    assert "edited" in result["text"]
    assert same(out, NEW | {"old/deep/moved.bin": edited})
    assert os.stat(out / "old/deep/moved.bin").st_nlink == 1


def test_nothing_behind_a_link_is_touched(old: Path, new: Path, tmp_path: Path) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    bring(old, to=out)
    (out / "old").rename(elsewhere)
    (out / "old").symlink_to(elsewhere)
    result = bring(new, to=out, prune=True)
    assert result["files_pruned"] == [] and result["files_reused"] == 0
    assert (elsewhere / "gone.txt").read_bytes() == b"g" and (out / "old").is_symlink()
    assert (out / "new/place.bin").read_bytes() == NEW["new/place.bin"]


def test_files_that_changed_their_names_with_each_other(tmp_path: Path) -> None:
    one, two = {"a": b"A" * 5000, "b": b"B" * 6000}, {"a": b"B" * 6000, "b": b"A" * 5000}
    for name, files in (("one", one), ("two", two)):
        (tmp_path / name).mkdir()
        build_release(tmp_path / name, files)
    bring(tmp_path / "one", to=tmp_path / "out")
    result = bring(tmp_path / "two", to=tmp_path / "out")
    assert same(tmp_path / "out", two)
    assert result["files_reused"] == 2 and result["bytes_received"] == 0


@pytest.mark.parametrize("fetched", [True, False])
def test_equal_files_of_another_folder_are_copied(
    old: Path, new: Path, tmp_path: Path, fetched: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = old
    if fetched:
        shelf = tmp_path / "shelf"
        bring(old, to=shelf)
        damaged = bytearray(OLD["small/002.bin"])
        damaged[7] ^= 1
        (shelf / "small/002.bin").write_bytes(damaged)
        (shelf / "small/003.bin").unlink()
    else:  # a file system that cannot share blocks
        monkeypatch.setattr(os, "copy_file_range", refuse)
    with Mirror(new) as mirror:
        dry = bring(mirror.url, to=tmp_path / "out", reuse=(str(shelf),), dry_run=True)
        result = bring(mirror.url, to=tmp_path / "out", reuse=(str(shelf),))
        asked = {path for _, path, _ in mirror.asked if path.startswith("set/")}
    wrong = {"set/small/002.bin", "set/small/003.bin"} if fetched else set()
    assert asked == {"set/small/001.bin", "set/added.txt"} | wrong
    assert same(tmp_path / "out", NEW)
    assert dry["bytes_reusable"] > 9 * MIB and result["bytes_reused"] > 9 * MIB
    assert os.stat(tmp_path / "out/big0.bin").st_nlink == 1
    with pytest.raises(MissingInput, match="no release"):
        bring(new, to=tmp_path / "not", reuse=(str(tmp_path),))
    assert not (tmp_path / "not").exists()


def refuse(*_: Any) -> int:
    raise OSError(18, "not here")


def test_documents_of_the_older_release_do_not_stay(tmp_path: Path) -> None:
    for name, text in (("one", b"1"), ("two", b"2")):
        (tmp_path / name).mkdir()
        build_release(tmp_path / name, {"a": text * 20_000}, layers=name == "one")
    bring(tmp_path / "one", to=tmp_path / "out")
    assert meta(tmp_path / "out", "v2.torrent").exists()
    bring(tmp_path / "two", to=tmp_path / "out")
    assert not meta(tmp_path / "out", "v2.torrent").exists()


def test_a_part_of_a_release_says_what_it_holds(old: Path, new: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    bring(old, to=out, include=("small/00?.bin",))
    partial = read_document(meta(out, "partial.json"), Partial)
    small = sorted(path for path in OLD if path.startswith("small/"))
    assert partial.paths == small
    assert json.loads(meta(out, "partial.json").read_bytes())["format"] == "partial/1"
    # other patterns add to it
    bring(old, to=out, include=("old",))
    assert read_document(meta(out, "partial.json"), Partial).paths == sorted([*small, *GONE])
    # of a newer release it holds what did not change, and what comes
    bring(new, to=out, include=("added.txt",))
    partial = read_document(meta(out, "partial.json"), Partial)
    assert partial.paths == sorted([*(p for p in small if OLD[p] == NEW[p]), "added.txt"])
    # whole
    bring(new, to=out)
    assert not meta(out, "partial.json").exists()
    # a part of what is whole leaves it whole
    bring(new, to=out, include=("added.txt",))
    assert not meta(out, "partial.json").exists()


def test_files_that_patterns_leave_out_are_not_pruned(old: Path, new: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    bring(old, to=out)
    result = bring(new, to=out, include=("added.txt",), prune=True)
    assert result["files_pruned"] == GONE
    assert (out / "small/001.bin").read_bytes() == OLD["small/001.bin"]


def test_a_link_that_a_killed_fetch_left_is_never_written_to(
    old: Path, new: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    bring(old, to=out)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("distribute.fetch.place", killed)
    with pytest.raises(KeyboardInterrupt):
        bring(new, to=out, prune=True)
    monkeypatch.undo()
    assert os.stat(out / "old/deep/moved.bin").st_nlink == 2
    edited = b"x" * 70_000
    (out / "old/deep/moved.bin").write_bytes(edited)  # the same file, under both names
    bring(new, to=out, prune=True)
    assert same(out, NEW | {"old/deep/moved.bin": edited})


def test_the_options_of_the_command(old: Path, new: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def run(*words: object) -> dict[str, Any]:
        done = CliRunner().invoke(command, [*map(str, words), "--json"], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    run(old, "-o", out, "--quiet")
    other = tmp_path / "other"
    found = run(new, "-o", other, "--reuse", out, "--reuse", old, "--quiet")
    assert found["files_reused"] >= 6 and same(other, NEW)
    found = run(new, "-o", out, "--prune", "--quiet")
    assert found["files_pruned"] == GONE and same(out, NEW)


def test_hostile_leftovers_reach_nothing_outside(old: Path, new: Path, tmp_path: Path) -> None:
    """A folder that somebody hands over may say anything about what it holds."""
    out = tmp_path / "out"
    bring(old, to=out)
    (tmp_path / "victim").write_bytes(b"v")
    (out / ".headwater/mine").write_bytes(b"v")
    digest = hashlib.sha256(b"v").hexdigest()
    paths = ["../victim", str(tmp_path / "victim"), ".headwater/mine", "x\x1b[2J"]
    entries = [{"path": path, "size_bytes": 1, "sha256": digest} for path in paths]
    meta(out, "leftovers.json").write_text(json.dumps({"format": "leftovers/1", "entries": entries}))
    result = bring(new, to=out, prune=True)
    assert result["files_pruned"] == GONE
    assert (tmp_path / "victim").exists() and (out / ".headwater/mine").exists()
    meta(out, "leftovers.json").write_bytes(b"[" * 100_000)
    meta(out, "partial.json").write_bytes(b"\0")
    assert bring(new, to=out, prune=True)["files_pruned"] == []
