"""A folder as a source, and as a place to publish to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from distribute.transports import file
from distribute.transports._base import Context, NotThere, SourceError, Wanted, WrongBytes
from distribute.transports._registry import open_source, transport_of
from headwater.errors import HeadwaterError, MissingInput, UsageError
from headwater.release import open_release
from tests.distribute.release_kit import build_release, same, sample_files

FILES = sample_files(small=3, big=(300_000,))


@pytest.fixture
def release(tmp_path: Path) -> Path:
    (tmp_path / "rel").mkdir()
    build_release(tmp_path / "rel", FILES)
    return tmp_path / "rel"


def test_documents_and_ranges(release: Path, tmp_path: Path) -> None:
    source = open_source(str(release), Context(tmp_path))
    assert source.kind == "file" and source.label == str(release)
    assert source.release_file("manifest.json") == (release / "manifest.json").read_bytes()
    assert source.release_file("absent.json") is None
    wanted = Wanted("big0.bin", 300_000)
    assert b"".join(source.read(wanted, 70_001, 100_000)) == FILES["big0.bin"][70_001:170_001]
    assert b"".join(source.read(wanted, 0, 300_000)) == FILES["big0.bin"]
    # the manifest's own path, and a plain folder
    assert open_source(str(release / "manifest.json"), Context(tmp_path)).label == str(release)
    plain = open_source(str(release / "set"), Context(tmp_path))
    assert plain.release_file("manifest.json") is None
    assert b"".join(plain.read(wanted, 0, 5)) == FILES["big0.bin"][:5]


def test_what_is_not_right(release: Path, tmp_path: Path) -> None:
    source = file.FileSource(release)
    with pytest.raises(NotThere):
        list(source.read(Wanted("absent", 1), 0, 1))
    with pytest.raises(NotThere):
        list(source.read(Wanted("big0.bin/x", 1), 0, 1))
    with pytest.raises(WrongBytes, match="300,000 bytes, 1 are right"):
        list(source.read(Wanted("big0.bin", 1), 0, 1))
    for path in ("../manifest.json", "/etc/passwd", ""):
        with pytest.raises(HeadwaterError):
            list(source.read(Wanted(path, 1), 0, 1))
        with pytest.raises(HeadwaterError):
            source.release_file(path)
    os.mkfifo(release / "set/pipe")  # nobody writes into it: opening must not wait
    with pytest.raises(SourceError, match="no regular file"):
        list(source.read(Wanted("pipe", 1), 0, 1))
    with pytest.raises(MissingInput):
        file.FileSource(tmp_path / "absent")
    (release / "release.json").write_bytes(b"{}")
    with pytest.raises(WrongBytes):
        file.FileSource(release)


def test_publish_copies_and_goes_on(release: Path, tmp_path: Path) -> None:
    opened, target = open_release(release), tmp_path / "disk/copy"
    plan = file.publish(opened, str(target), Context(tmp_path), dry_run=True)
    assert not target.exists() and plan.files == len(FILES)
    done = file.publish(opened, str(target), Context(tmp_path), dry_run=False)
    assert (
        done.sent_bytes == plan.sent_bytes and done.location is not None and done.location.url == str(target)
    )
    assert same(target / "set", FILES)
    assert open_release(target).manifest.id == opened.manifest.id
    again = file.publish(opened, str(target), Context(tmp_path), dry_run=False)
    assert again.files == 0
    with pytest.raises(UsageError):
        file.publish(opened, str(release), Context(tmp_path), dry_run=False)


@pytest.mark.parametrize(
    ("location", "name"),
    [
        ("https://host/base/", "http"),
        ("HTTP://host/base", "http"),
        ("https://host/a/v1.torrent", "bittorrent"),
        ("https://host/a/v1.torrent?x=1", "bittorrent"),
        ("magnet:?xt=urn:btih:" + "a" * 40, "bittorrent"),
        ("ipfs://bafybeid2vs4mz5pgqmyl5j6yzwgepzk4b6zyw3ucxn2aopwxcov6cidf7u", "ipfs"),
        ("bafybeid2vs4mz5pgqmyl5j6yzwgepzk4b6zyw3ucxn2aopwxcov6cidf7u", "ipfs"),
        ("QmULkCELmmk5XNfCgTnCyFgAVxBRBXyDHGGMVoLFLiXENx"[:46], "ipfs"),
        ("girder+https://host/api/v1#folder/1", "girder"),
        ("s3://bucket/prefix", "s3"),
    ],
)
def test_which_transport_takes_a_location(location: str, name: str) -> None:
    assert transport_of(location) == name


def test_paths_come_before_guesses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.torrent").write_bytes(b"")
    Path("a:b").mkdir()
    assert (
        transport_of("x.torrent") == "bittorrent"
        and transport_of(".") == "file"
        and transport_of("a:b") == "file"
    )
    for location in ("absent", "", " ", "nosuch://x", "x" * 5000):
        with pytest.raises(HeadwaterError):
            transport_of(location)
