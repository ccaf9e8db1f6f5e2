"""Fetch as a whole: one source and several, patterns, what is there already, the ledger, and what is left behind."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from distribute.fetch import FetchOptions, fetch
from distribute.fetching.plan import matcher
from distribute.fetching.record import FetchLedger
from distribute.transports._base import Refused
from headwater.errors import IntegrityError, Locked, MissingInput, UsageError
from headwater.files import locked
from headwater.manifest import Step
from headwater.release import open_release
from headwater.steps import RunOptions
from headwater.verify import verify_path
from tests.distribute import loopback
from tests.distribute.loopback import Mirror
from tests.distribute.release_kit import MIB, PIECE_BYTES, build_release, same, sample_files

FILES = sample_files()
OPTIONS = FetchOptions(allow_private=True, stall_seconds=2, patience_seconds=3)


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("release")
    build_release(folder, FILES, extensions={"empty_folders": ["void/deep"]})
    return folder


def manifest_id(release: Path) -> str:
    return hashlib.sha256((release / "manifest.json").read_bytes()).hexdigest()


def bring(
    *locations: object, to: Path, dry_run: bool = False, force: bool = False, **options: Any
) -> dict[str, Any]:
    values = {**OPTIONS.__dict__, **options}
    return fetch(
        [str(x) for x in locations], to, FetchOptions(**values), RunOptions(dry_run=dry_run, force=force)
    )


def test_everything_comes_from_one_mirror(release: Path, tmp_path: Path) -> None:
    with Mirror(release) as mirror:
        result = bring(mirror.url, to=tmp_path / "out", manifest=manifest_id(release))
        spans = mirror.about("set/big0.bin")
    assert same(tmp_path / "out", FILES)
    assert (tmp_path / "out/void/deep").is_dir()
    assert sorted(spans) == ["bytes=0-8388607", "bytes=8388608-12595256"]
    assert result["manifest_id"] == manifest_id(release) and result["pinned"]
    assert result["files"] == len(FILES) and result["files_kept"] == 0
    size = sum(map(len, FILES.values()))
    (row,) = result["sources"]
    assert row["received_bytes"] == row["used_bytes"] == result["bytes_received"] == size
    assert row["wrong_bytes"] == 0 and not row["errors"]
    assert row["requests"] == len(FILES)  # one run more for the large file, none for the empty one
    assert not (tmp_path / "out/.headwater/partial").exists()


def test_what_was_fetched_is_a_release(release: Path, tmp_path: Path) -> None:
    bring(release, to=tmp_path / "out")
    opened = open_release(tmp_path / "out")
    assert opened.manifest.id == manifest_id(release) and opened.data == tmp_path / "out"
    meta = tmp_path / "out/.headwater/release"
    assert (meta / "v2.torrent").read_bytes() == (release / "v2.torrent").read_bytes()
    assert (meta / "manifest.json").read_bytes() == (release / "manifest.json").read_bytes()
    step = Step.model_validate_json((meta / "fetch.step.json").read_bytes())
    assert step.identity.step == "fetch" and step.identity.inputs[0].id == manifest_id(release)
    assert step.identity.counts.read == step.identity.counts.kept == len(FILES)
    assert FetchLedger.model_validate_json((meta / "fetch.json").read_bytes()).step_id == step.id
    assert not verify_path(tmp_path / "out").problems
    # it can be fetched from again, from the disk and over HTTP
    bring(tmp_path / "out", to=tmp_path / "second")
    with Mirror(tmp_path / "out") as mirror:
        bring(mirror.url, to=tmp_path / "third", manifest=manifest_id(release))
    assert same(tmp_path / "second", FILES) and same(tmp_path / "third", FILES)


def test_several_sources_share_the_work(release: Path, tmp_path: Path) -> None:
    with Mirror(release) as one, Mirror(release) as two:
        one.pause = two.pause = 0.02
        one.pause_below = two.pause_below = "set/"
        result = bring(one.url, two.url, to=tmp_path / "out")
    assert same(tmp_path / "out", FILES)
    rows = result["sources"]
    assert all(row["used_bytes"] > 0 for row in rows)
    assert sum(row["used_bytes"] for row in rows) == sum(map(len, FILES.values()))


def test_a_second_run_fetches_nothing_and_checks_everything(release: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    bring(release, to=out)
    with Mirror(release) as mirror:
        result = bring(mirror.url, to=out)
        assert not [path for _, path, _ in mirror.asked if path.startswith("set/")]
    assert result["files_kept"] == len(FILES) and result["bytes_received"] == 0


def test_only_what_is_damaged_is_fetched_again(release: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    bring(release, to=out)
    with open(out / "big0.bin", "r+b") as handle:  # a bit in the middle: one piece of 49
        handle.seek(5 * MIB)
        handle.write(b"\0\1\2")
    (out / "small/003.bin").write_bytes(b"other")
    (out / "small/004.bin").unlink()
    (out / "mine.txt").write_bytes(b"not of the release")
    with Mirror(release) as mirror:
        result = bring(mirror.url, to=out)
        assert mirror.about("set/big0.bin") == [f"bytes={5 * MIB}-{5 * MIB + PIECE_BYTES - 1}"]
        asked = {path for _, path, _ in mirror.asked if path.startswith("set/")}
    assert asked == {"set/big0.bin", "set/small/003.bin", "set/small/004.bin"}
    assert result["bytes_received"] == PIECE_BYTES + len(FILES["small/003.bin"]) + len(FILES["small/004.bin"])
    assert result["files_replaced"] == 2
    (out / "mine.txt").unlink()
    assert same(out, FILES)


def test_patterns(release: Path, tmp_path: Path) -> None:
    result = bring(
        release, to=tmp_path / "out", include=("small/*", "*.txt"), exclude=("small/01?.bin", "empty.txt")
    )
    wanted = {p: d for p, d in FILES.items() if p.startswith(("small/00", "notes/"))}
    assert same(tmp_path / "out", wanted)
    assert result["files"] == len(wanted) and result["files_left_out"] == len(FILES) - len(wanted)
    # the rest joins later
    bring(release, to=tmp_path / "out")
    assert same(tmp_path / "out", FILES)


def test_a_pattern_without_a_match_is_a_usage_error(release: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="big9"):
        bring(release, to=tmp_path / "out", include=("big9.bin",))
    with pytest.raises(UsageError, match="leaves no file"):
        bring(release, to=tmp_path / "out", exclude=("**",))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("*.jpg", "a/b/c.jpg", True),
        ("a/*.jpg", "a/b/c.jpg", False),
        ("a/**/c.jpg", "a/b/c.jpg", True),
        ("a/**/c.jpg", "a/c.jpg", True),
        ("a", "a/b/c.jpg", True),
        ("b/", "a/b/c.jpg", True),
        ("a/b", "a/bc", False),
        ("/a/b", "a/b/c", True),
        ("a?c", "a/c", False),
        ("**", "x", True),
        ("[a]", "a", False),
        ("c.jpg", "a/b/cXjpg", False),
    ],
)
def test_pattern_rules(pattern: str, path: str, expected: bool) -> None:
    assert matcher(pattern)(path) is expected


def test_dry_run_writes_nothing(release: Path, tmp_path: Path) -> None:
    with Mirror(release) as mirror:
        result = bring(mirror.url, to=tmp_path / "out", dry_run=True)
        assert not [path for _, path, _ in mirror.asked if path.startswith("set/")]
    assert not (tmp_path / "out").exists()
    assert result["bytes_to_fetch"] == sum(map(len, FILES.values()))
    assert result["sources"] == [mirror.url.rstrip("/")] and result["enough_space"]


def test_another_manifest_is_left_out_by_name(release: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    build_release(other, {**FILES, "empty.txt": b"not empty"})
    result = bring(release, other, to=tmp_path / "out")
    assert same(tmp_path / "out", FILES)
    assert [s["source"] for s in result["skipped"]] == [str(other)]
    result = bring(release, other, to=tmp_path / "second", manifest=str(other / "manifest.json"))
    assert [s["source"] for s in result["skipped"]] == [str(release)]
    assert (tmp_path / "second/empty.txt").read_bytes() == b"not empty"


def test_only_another_manifest_is_an_integrity_error(release: Path, tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="wanted is the manifest 000"):
        bring(release, to=tmp_path / "out", manifest="0" * 64)
    assert not (tmp_path / "out").exists()


def test_when_every_source_is_left_out_the_reason_is_told(release: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    build_release(other, {"a": b"b"})
    with pytest.raises(IntegrityError, match="serves another manifest"):
        bring(release, to=tmp_path / "out", manifest=str(other / "manifest.json"))
    with Mirror(release) as mirror, pytest.raises(Refused, match="private or local"):
        bring(mirror.url, to=tmp_path / "out", manifest=str(release / "manifest.json"), allow_private=False)
    with pytest.raises(UsageError, match="at least one location"):
        bring(to=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_server_that_forbids_its_files(release: Path, tmp_path: Path) -> None:
    with Mirror(release) as mirror:
        for path in FILES:
            mirror.wrong[f"set/{path}"] = loopback.status(403)
        with pytest.raises(Refused, match="403") as caught:
            bring(mirror.url, to=tmp_path / "out")
    assert caught.value.exit_code == 1


def test_a_plain_folder_helps_when_the_manifest_comes_from_elsewhere(release: Path, tmp_path: Path) -> None:
    result = bring(release / "set", to=tmp_path / "out", manifest=str(release / "manifest.json"))
    assert same(tmp_path / "out", FILES) and result["manifest_id"] == manifest_id(release)


def test_nothing_there(tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    with pytest.raises(MissingInput, match="nothing"):
        bring(tmp_path / "nothing", to=tmp_path / "out")
    with Mirror(tmp_path / "nothing") as mirror, pytest.raises(MissingInput):
        bring(mirror.url, to=tmp_path / "out")
    with pytest.raises(MissingInput, match="no such folder"):
        bring(tmp_path / "absent", to=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_folder_is_locked(release: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    bring(release, to=out)
    with locked(out / ".headwater", out), pytest.raises(Locked):
        bring(release, to=out)


def test_files_of_somebody_else_are_not_replaced(release: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "big0.bin").write_bytes(b"mine")
    with pytest.raises(UsageError, match="not from a fetch"):
        bring(release, to=out)
    assert (out / "big0.bin").read_bytes() == b"mine"
    bring(release, to=out, force=True)
    assert same(out, FILES)


def test_without_piece_hashes_files_are_checked_as_a_whole(tmp_path: Path) -> None:
    files = sample_files(small=2, big=(9 * MIB,))
    (tmp_path / "rel").mkdir()
    build_release(tmp_path / "rel", files, layers=False)
    with Mirror(tmp_path / "rel") as mirror:
        bring(mirror.url, to=tmp_path / "out")
        assert mirror.about("set/big0.bin") == [""]
    assert same(tmp_path / "out", files)


def test_a_whole_file_goes_on_where_it_broke_off(tmp_path: Path) -> None:
    files = sample_files(small=1, big=(9 * MIB,))
    (tmp_path / "rel").mkdir()
    build_release(tmp_path / "rel", files, layers=False)
    with Mirror(tmp_path / "rel") as mirror:
        mirror.wrong["set/big0.bin"] = loopback.times(1, loopback.short)
        result = bring(mirror.url, to=tmp_path / "out")
        assert mirror.about("set/big0.bin") == ["", f"bytes={9 * MIB // 2}-{9 * MIB - 1}"]
    assert same(tmp_path / "out", files)
    assert result["bytes_received"] == sum(map(len, files.values()))


def test_too_little_space_names_both_figures(
    release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distribute.fetching.plan.free_bytes", lambda _: 1000)
    with pytest.raises(Exception, match=r"12,\d{3},\d{3} bytes are needed, 1,000 are free"):
        bring(release, to=tmp_path / "out")


def test_no_descriptor_and_no_thread_stays(release: Path, tmp_path: Path) -> None:
    bring(release, to=tmp_path / "warm")
    before = set(os.listdir("/proc/self/fd"))
    bring(release, to=tmp_path / "out")
    assert len(os.listdir("/proc/self/fd")) <= len(before)
