"""The BitTorrent transport's answers without a whole download: hostile input, addresses, what it holds, publishing, liveness."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from distribute.transports import _torrent_alive, bittorrent
from distribute.transports._base import NotThere, SourceError, Wanted
from distribute.transports._torrent_basics import allowed_urls, endpoint
from distribute.transports._torrent_session import SeedSession
from headwater.errors import IntegrityError, MissingExtra, MissingInput, UsageError
from headwater.release import OpenRelease, Release, Torrent
from tests.distribute.partners import need_module
from tests.distribute.swarm_kit import NAME, PIECE, Ledger, context, infohashes, make_tree


@pytest.fixture(autouse=True)
def _libtorrent() -> None:
    need_module("libtorrent")


def test_files_the_torrent_has_not(tmp_path: Path) -> None:
    tree = make_tree(tmp_path)
    source = bittorrent.open_source(str(tree.torrent), context(tmp_path / "work"))
    other = Wanted("big.bin", len(tree.files["big.bin"]) + 1, sha256="0" * 64)
    assert not source.holds(other)
    assert source.holds(tree.wanted("big.bin")[0])
    with pytest.raises(NotThere, match="none of the 2 files"):
        list(
            source.download(
                [other, Wanted("elsewhere", 5, sha256="0" * 64)], tmp_path / "out", Ledger().progress
            )
        )
    with pytest.raises(SourceError, match="whole files only"):
        source.read(other, 0, 1)


def test_another_v2_root_is_another_file(tmp_path: Path) -> None:
    tree = make_tree(tmp_path, "v2")
    source = bittorrent.open_source(str(tree.torrent), context(tmp_path / "work"))
    listing = source.listing()
    assert listing is not None
    mine = next(file for file in listing if file.path == "big.bin")
    assert source.holds(mine)
    assert not source.holds(Wanted(mine.path, mine.size_bytes, bt_v2_root="0" * 64))
    assert source.release_file("v2.torrent") == tree.raw
    assert source.release_file("v1.torrent") is None


def test_a_hostile_torrent_never_reaches_libtorrent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lt = need_module("libtorrent")
    monkeypatch.setattr(lt, "load_torrent_buffer", lambda *_: pytest.fail("libtorrent was asked"))
    tree = make_tree(tmp_path)
    hostile = [
        tree.raw.replace(b"7:big.bin", b"7:../../x"),
        tree.raw[:-20],
        b"d4:infod5:filesl" * 5000,
        b"",
    ]
    for raw in hostile:
        path = tmp_path / "hostile.torrent"
        path.write_bytes(raw)
        with pytest.raises(IntegrityError):
            bittorrent.open_source(str(path), context(tmp_path / "work"))
    for link in ("magnet:?xt=urn:btih:zz", "magnet:?dn=x", "magnet:?xt=urn:btih:" + "0" * 41):
        with pytest.raises(IntegrityError):
            bittorrent.open_source(link, context(tmp_path / "work"))
    with pytest.raises(UsageError):
        bittorrent.open_source("https://example/x.torrent", context(tmp_path / "work"))
    with pytest.raises(MissingInput):
        bittorrent.open_source(str(tmp_path / "none.torrent"), context(tmp_path / "work"))


def test_without_libtorrent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "libtorrent", None)
    with pytest.raises(MissingExtra) as caught:
        bittorrent.open_source("magnet:?xt=urn:btih:" + "0" * 40, context(tmp_path))
    assert caught.value.hint == "pip install 'headwater[torrent]'"
    with pytest.raises(MissingExtra):
        SeedSession([], tmp_path)


def test_private_addresses_are_refused_unless_allowed(tmp_path: Path) -> None:
    """A torrent from outside cannot make us talk to our own network, by peers, trackers or web seeds."""
    from distribute.transports._torrent_basics import _address_filter

    closed = _address_filter(local_only=False, allow_private=False, besides=["192.168.1.9", "a.name"])
    blocked = (
        "127.0.0.1",
        "10.1.2.3",
        "169.254.169.254",
        "100.64.0.1",
        "192.168.1.8",
        "::1",
        "fe80::1",
        "::ffff:7f00:1",
        "0.0.0.0",
    )
    assert [address for address in blocked if not closed.access(address)] == []
    assert [
        address
        for address in ("8.8.8.8", "192.168.1.9", "2606:4700::1", "172.15.0.1", "172.32.0.1")
        if closed.access(address)
    ] == []
    local = _address_filter(local_only=True, allow_private=True, besides=[])
    assert [
        address
        for address in ("8.8.8.8", "192.168.1.8", "2606:4700::1", "::2", "::")
        if not local.access(address)
    ] == []
    assert [address for address in ("127.0.0.1", "127.8.9.9", "::1") if local.access(address)] == []
    urls = [
        "http://127.0.0.1:1/a",
        "http://example.org/a",
        "udp://localhost:3",
        "file:///etc/passwd",
        "wss://x/",
        "http://[::1]:2/",
        "http://[x",
    ]
    assert allowed_urls(urls, local_only=True) == [
        "http://127.0.0.1:1/a",
        "udp://localhost:3",
        "http://[::1]:2/",
    ]
    assert allowed_urls(urls, local_only=False) == [
        "http://127.0.0.1:1/a",
        "http://example.org/a",
        "udp://localhost:3",
        "http://[::1]:2/",
    ]


def test_endpoints() -> None:
    assert endpoint("127.0.0.1:80") == ("127.0.0.1", 80)
    assert endpoint("[::1]:6881") == ("::1", 6881)
    for text in ("nothing", "host:", "host:0", "host:70000", ":5"):
        with pytest.raises(ValueError):
            endpoint(text)


def test_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_torrent_alive, "MEET_SECONDS", 0.5)
    tree = make_tree(tmp_path)
    with SeedSession([tree.torrent], tree.parent, local_only=True) as seed:
        there = context(tmp_path / "work", peers=(f"127.0.0.1:{seed.port}",))
        found = bittorrent.alive(bittorrent.open_source(str(tree.torrent), there), there, seed=3)
        assert found.alive, found
        assert (found.peers, found.seeds, found.error) == (1, 1, None)
        assert found.pieces == found.pieces_available == -(-sum(map(len, tree.files.values())) // PIECE)
        assert found.sampled_from == [f"127.0.0.1:{seed.port}"]
        assert found.sampled_files
    nobody = context(tmp_path / "other", stall=0.5)
    found = bittorrent.alive(bittorrent.open_source(str(tree.torrent), nobody), nobody)
    assert not found.alive
    assert found.error is not None
    assert "no peers" in found.error
    assert list(tmp_path.glob("*/sample-*")) == []


def test_publish_is_a_magnet_link(tmp_path: Path) -> None:
    from headwater.manifest import Manifest

    tree = make_tree(tmp_path, trackers=("http://127.0.0.1:9/announce",), web_seeds=("http://127.0.0.1:8/",))
    size = sum(map(len, tree.files.values()))
    told = Release(
        name=NAME,
        manifest_id="0" * 64,
        files=len(tree.files),
        size_bytes=size,
        cids={},
        torrents={
            "v1": Torrent(
                file="v1.torrent", infohash=infohashes(tree.raw)[0], piece_size_bytes=PIECE, size_bytes=size
            )
        },
    )
    release = OpenRelease(tmp_path, tree.data, Manifest(entries=[]), told)
    done = bittorrent.publish(release, "udp://127.0.0.1:7", context(tmp_path / "work"), dry_run=True)
    assert done.location is not None
    link = bittorrent.parse_magnet(done.location.url)
    assert link.infohash_v1 == infohashes(tree.raw)[0]
    assert link.trackers == ("udp://127.0.0.1:7", "http://127.0.0.1:9/announce")
    assert link.web_seeds == ("http://127.0.0.1:8/",)
    assert link.name == NAME
    bare = OpenRelease(tmp_path, tree.data, Manifest(entries=[]), told.model_copy(update={"torrents": {}}))
    with pytest.raises(NotThere):
        bittorrent.publish(bare, "", context(tmp_path / "work"), dry_run=True)
