"""Manifests that name paths outside, and a target with links, folders and a full disk in the way."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from headwater.errors import HeadwaterError, IntegrityError
from tests.distribute import loopback
from tests.distribute.loopback import Mirror
from tests.distribute.release_kit import build_release
from tests.faults import fetch_kit
from tests.faults.fetch_kit import FILES, bring

release, mirror, healthy, said = fetch_kit.release, fetch_kit.mirror, fetch_kit.healthy, fetch_kit.said


# hostile manifests and a hostile target


@pytest.mark.parametrize(
    "path",
    [
        "../outside.txt",
        "/etc/outside",
        "a/../../outside",
        "a//b",
        "./a",
        "a\\..\\b",
        "",
        "a\0b",
        ".headwater/../../x",
    ],
)
def test_traversal_in_the_manifest(tmp_path: Path, path: str) -> None:
    data = b"evil"
    digest = hashlib.sha256(data).hexdigest()
    entry = {"path": path, "size_bytes": 4, "sha256": digest, "blake3": None, "cid": None, "bt_v2_root": None}
    from headwater.manifest import canonical

    document = {"format": "manifest/1", "entries": [entry], "cid_profile": None, "piece_size_bytes": None}
    raw = canonical({**document, "parents": [], "step_id": None, "extensions": {}})
    folder = tmp_path / "rel"
    folder.mkdir()
    (folder / "manifest.json").write_bytes(raw)
    before = sorted(tmp_path.rglob("*"))
    for pin in (None, hashlib.sha256(raw).hexdigest()):
        with pytest.raises(IntegrityError):
            bring(folder, to=tmp_path / "out", manifest=pin)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_manifest_that_writes_into_our_own_folder(tmp_path: Path) -> None:
    (tmp_path / "rel").mkdir()
    build_release(tmp_path / "rel", {".headwater/lock": b"x", "a": b"y"})
    with pytest.raises(IntegrityError, match=r"\.headwater"):
        bring(tmp_path / "rel", to=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "folders",
    [
        ["../../evil"],
        ["fine", "/evil"],
        [".headwater/partial/evil"],
        [".HEADWATER"],
        [""],
        ["a"],
        ["a/below"],
        ["n" * 300],
        ["/".join(["d"] * 300)],
        ["bell\x07"],
        ["fine", 7],
        [["fine"]],
        "fine",
        {"fine": 1},
        7,
        None,
    ],
)
def test_empty_folders_that_are_none(tmp_path: Path, folders: object) -> None:
    """Refused before a single file is asked for, and nothing is left behind."""
    (tmp_path / "rel").mkdir()
    pin = build_release(tmp_path / "rel", {"a": b"y", "b/c": b"z"}, extensions={"empty_folders": folders})
    before = sorted(tmp_path.rglob("*"))
    with Mirror(tmp_path / "rel") as mirror:
        for manifest in (None, pin, str(tmp_path / "rel/manifest.json")):
            with pytest.raises(IntegrityError) as caught:
                bring(mirror.url, to=tmp_path / "out", manifest=manifest)
            assert caught.value.exit_code == 13 and "\x07" not in caught.value.message
        assert not mirror.about("set/a") and not mirror.about("set/b/c")
    assert sorted(tmp_path.rglob("*")) == before


def test_too_many_empty_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distribute.fetching.paths.MOST_FOLDERS", 2)
    for number in (2, 3):
        folder = tmp_path / f"rel{number}"
        folder.mkdir()
        names = [f"d{n}" for n in range(number)]
        build_release(folder, {"a": b"y"}, extensions={"empty_folders": names})
    bring(tmp_path / "rel2", to=tmp_path / "out")
    assert (tmp_path / "out/d1").is_dir()
    with pytest.raises(IntegrityError, match="at most 2 paths"):
        bring(tmp_path / "rel3", to=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_source_with_such_a_manifest_does_not_hide_a_right_one(release: Path, tmp_path: Path) -> None:
    evil = tmp_path / "evil"
    evil.mkdir()
    build_release(evil, {"a": b"y"}, extensions={"empty_folders": ["../out"]})
    result = bring(evil, release, to=tmp_path / "out")
    assert result["files"] == len(FILES) and str(evil) in result["skipped"][0]["source"]


@pytest.mark.parametrize(
    "where", ["small", "small/003.bin", ".headwater", ".headwater/partial", ".headwater/release"]
)
def test_links_in_the_target_are_not_followed(release: Path, tmp_path: Path, where: str) -> None:
    out, outside = tmp_path / "out", tmp_path / "outside"
    outside.mkdir()
    place = out / where
    place.parent.mkdir(parents=True)
    place.symlink_to(outside if "bin" not in where else outside / "file")
    with pytest.raises(IntegrityError, match="symbolic link"):
        bring(release, to=out)
    assert list(outside.iterdir()) == []


def test_a_link_that_appears_while_fetching(release: Path, tmp_path: Path) -> None:
    out, outside = tmp_path / "out", tmp_path / "outside"
    outside.mkdir()

    def swap(handler: loopback.Handler, path: Path) -> None:
        if not (out / "small").is_symlink() and not (out / "small").exists():
            (out / "small").symlink_to(outside)
        handler.file(path)

    with Mirror(release) as mirror:
        mirror.wrong["set/big0.bin"] = swap
        mirror.pause, mirror.pause_below = 0.3, "set/small"
        with pytest.raises(IntegrityError, match="symbolic link"):
            bring(mirror.url, to=out)
    assert list(outside.iterdir()) == []


def test_a_folder_in_the_place_of_a_file(release: Path, tmp_path: Path) -> None:
    (tmp_path / "out/big0.bin").mkdir(parents=True)
    with pytest.raises(IntegrityError, match="no regular file"):
        bring(release, to=tmp_path / "out")


def test_a_full_disk(mirror: Mirror, small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distribute.fetching.plan.free_bytes", lambda _: 1 << 40)
    with pytest.raises(HeadwaterError, match="no space left"):
        bring(mirror.url, to=small_disk / "out")
