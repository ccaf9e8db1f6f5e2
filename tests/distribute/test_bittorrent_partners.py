"""The torrent and the seed against programs that share no code with us: aria2, rtorrent, qBittorrent, Debian's opentracker."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from distribute.transports import bittorrent
from distribute.transports._torrent_session import SeedSession
from tests.distribute.partners import free_port, need_module, need_program, running, until
from tests.distribute.swarm_kit import (
    NAME,
    Ledger,
    Tree,
    content,
    context,
    equal,
    infohashes,
    make_tree,
    tracker,
    web_seed,
)

pytestmark = pytest.mark.slow
PIECE = 256 << 10
SECONDS = 90.0  # for one fetch of 25 MB on a machine with other work


@pytest.fixture(autouse=True)
def _libtorrent() -> None:
    need_module("libtorrent")


def tree_for(folder: Path, kind: str = "v1", **more: Any) -> Tree:
    """About 25 MB, one empty file, a space and é in paths."""
    return make_tree(folder, kind, content(big=24_000_000, small=40), piece=PIECE, **more)


def whole(folder: Path, tree: Tree) -> bool:
    """Whether every file is there with its bytes."""
    try:
        return all((folder / path).read_bytes() == data for path, data in tree.files.items())
    except OSError:
        return False


@contextmanager
def tracked_seed(
    tmp_path: Path, kind: str = "v1", host: str = "127.0.0.1"
) -> Iterator[tuple[Tree, SeedSession]]:
    """Our seed, known to a tracker."""
    with (
        tracker(tmp_path / "tracker", lambda url: tree_for(tmp_path, kind, trackers=(url,))) as (_, tree),
        SeedSession([tree.torrent], tree.parent, host, local_only=True) as seed,
    ):
        # a client that asks before the seed has said that it is there asks again after half an hour
        until(
            lambda: seed._handles[0].status().current_tracker, seconds=20, what="the tracker knows our seed"
        )
        yield tree, seed


# ---- the tracker


@pytest.mark.parametrize("kind", ["v1", "v2", "hybrid"])
def test_our_reader_finds_our_seed_by_the_tracker(tmp_path: Path, kind: str) -> None:
    ledger = Ledger()
    with tracked_seed(tmp_path, kind) as (tree, seed):
        link = seed.magnets()[0].partition("&x.pe")[0]
        assert "&tr=http" in link
        source = bittorrent.open_source(link, context(tmp_path / "work", stall=30))
        list(source.download(tree.wanted(), tmp_path / "out", ledger.progress))
        assert len(ledger.bytes) == 1  # whoever of the two dialled
    equal(tmp_path / "out", tree.files)


# ---- aria2: v1 only


def aria2(torrent: Path, folder: Path, *more: str) -> list[str]:
    return [
        need_program("aria2c"),
        f"--dir={folder}",
        "--interface=lo",
        f"--listen-port={free_port()}",
        "--enable-dht=false",
        "--enable-dht6=false",
        "--bt-enable-lpd=false",
        "--enable-peer-exchange=false",
        "--file-allocation=none",
        "--bt-tracker-interval=2",
        "--no-conf=true",
        "--console-log-level=error",
        "--summary-interval=0",
        *more,
        str(torrent),
    ]


def test_aria2_fetches_from_our_seed(tmp_path: Path) -> None:
    need_program("aria2c")
    with tracked_seed(tmp_path) as (tree, seed):
        with running(aria2(tree.torrent, tmp_path / "out", "--seed-time=0")) as process:
            assert process.wait(SECONDS) == 0
        assert seed.stats()["uploaded_bytes"] >= sum(map(len, tree.files.values()))
    equal(tmp_path / "out" / NAME, tree.files)


def test_aria2_fetches_from_a_web_seed_of_ours(tmp_path: Path) -> None:
    """The torrent names it (url-list, BEP 19), with nobody else there."""
    need_program("aria2c")
    with web_seed(tmp_path / "data") as base:
        tree = tree_for(tmp_path, web_seeds=(base,))
        with running(aria2(tree.torrent, tmp_path / "out", "--seed-time=0")) as process:
            assert process.wait(SECONDS) == 0
    equal(tmp_path / "out" / NAME, tree.files)


def test_we_fetch_from_aria2(tmp_path: Path) -> None:
    need_program("aria2c")
    ledger = Ledger()
    with tracker(tmp_path / "tracker", lambda url: tree_for(tmp_path, trackers=(url,))) as (_, tree):
        arguments = ("--seed-ratio=0", "--check-integrity=true", "--allow-overwrite=true")
        with running(aria2(tree.torrent, tree.parent, *arguments)):
            source = bittorrent.open_source(str(tree.torrent), context(tmp_path / "work", stall=40))
            list(source.download(tree.wanted(), tmp_path / "out", ledger.progress))
    equal(tmp_path / "out", tree.files)
    assert len(ledger.bytes) == 1


# ---- rtorrent: v1 only


@contextmanager
def rtorrent(tmp_path: Path, torrent: Path, folder: Path) -> Iterator[None]:
    """rtorrent as a daemon on 127.0.0.1."""
    program = need_program("rtorrent")
    port = free_port()
    session = tmp_path / "rtorrent"
    session.mkdir()
    folder.mkdir(exist_ok=True)
    (session / "rc").write_text(
        "\n".join(
            [
                "system.daemon.set = true",
                "network.bind_address.set = 127.0.0.1",
                f"network.port_range.set = {port}-{port}",
                "dht.mode.set = disable",
                "protocol.pex.set = no",
                "trackers.use_udp.set = no",
                f"session.path.set = {session}",
                f"directory.default.set = {folder}",
                "",
            ]
        )
    )
    with running([program, "-n", "-o", f"import={session / 'rc'}", str(torrent)], cwd=session):
        yield


def test_rtorrent_fetches_from_our_seed(tmp_path: Path) -> None:
    """The seed has an address of its own: rtorrent takes whoever shares its address for itself at times."""
    need_program("rtorrent")
    with (
        tracked_seed(tmp_path, host="127.0.0.2") as (tree, seed),
        rtorrent(tmp_path, tree.torrent, tmp_path / "out"),
    ):
        until(lambda: whole(tmp_path / "out" / NAME, tree), seconds=SECONDS, what="rtorrent has every file")
        assert seed.stats()["uploaded_bytes"] >= sum(map(len, tree.files.values()))
    equal(tmp_path / "out" / NAME, tree.files)


# ---- qBittorrent 4.5: all three


class Qbittorrent:
    """The web API of a qbittorrent-nox of our own."""

    def __init__(self, base: str) -> None:
        self.base = base

    def get(self, path: str, **query: str) -> bytes:
        with urllib.request.urlopen(
            f"{self.base}/api/v2/{path}?{urllib.parse.urlencode(query)}", timeout=10
        ) as answer:
            return bytes(answer.read())

    def post(self, path: str, fields: dict[str, str], torrent: bytes | None = None) -> bytes:
        border = uuid.uuid4().hex
        parts = [
            f'--{border}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
            for name, value in fields.items()
        ]
        if torrent is not None:
            head = f'--{border}\r\nContent-Disposition: form-data; name="torrents"; filename="x.torrent"\r\n'
            parts.append(
                head.encode() + b"Content-Type: application/x-bittorrent\r\n\r\n" + torrent + b"\r\n"
            )
        body = b"".join(parts) + f"--{border}--\r\n".encode()
        headers = {"Content-Type": f"multipart/form-data; boundary={border}"}
        request = urllib.request.Request(f"{self.base}/api/v2/{path}", body, headers)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return bytes(answer.read())

    def state(self) -> dict[str, Any]:
        """Of its only torrent, empty before it is there."""
        found = json.loads(self.get("torrents/info"))
        return dict(found[0]) if found else {}


@contextmanager
def qbittorrent(tmp_path: Path, port: int) -> Iterator[Qbittorrent]:
    """Loopback only, TCP only, no discovery; the legal notice is answered in its configuration."""
    program = need_program("qbittorrent-nox")
    web = free_port()
    profile = tmp_path / "qbittorrent-profile"
    config = profile / "qBittorrent" / "config" / "qBittorrent.conf"
    config.parent.mkdir(parents=True)
    config.write_text(
        "[LegalNotice]\nAccepted=true\n"
        "[BitTorrent]\nSession\\DHTEnabled=false\nSession\\LSDEnabled=false\nSession\\PeXEnabled=false\n"
        "Session\\BTProtocol=TCP\nSession\\Interface=lo\nSession\\InterfaceName=lo\nSession\\InterfaceAddress=127.0.0.1\n"
        f"Session\\Port={port}\nSession\\MultiConnectionsPerIp=true\nSession\\QueueingSystemEnabled=false\n"
        "Session\\SSRFMitigation=false\nSession\\Preallocation=false\n"
        f"Session\\DefaultSavePath={tmp_path / 'qbittorrent'}\n"
        "[Network]\nPortForwardingEnabled=false\n"
        "[Preferences]\nWebUI\\Address=127.0.0.1\n"
        f"WebUI\\Port={web}\nWebUI\\LocalHostAuth=false\nWebUI\\CSRFProtection=false\n"
        "WebUI\\HostHeaderValidation=false\nWebUI\\UseUPnP=false\n"
    )
    with running(
        [program, f"--profile={profile}", f"--webui-port={web}"],
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "LANG": "C.UTF-8"},
    ):
        api = Qbittorrent(f"http://127.0.0.1:{web}")

        def up() -> bool:
            try:
                return api.get("app/version").startswith(b"v")
            except (urllib.error.URLError, OSError):
                return False

        until(up, seconds=30, what="qbittorrent-nox answers")
        yield api


@pytest.mark.parametrize("kind", ["v1", "v2", "hybrid"])
def test_qbittorrent_fetches_from_our_seed(tmp_path: Path, kind: str) -> None:
    need_program("qbittorrent-nox")
    tree = tree_for(tmp_path, kind)
    with (
        SeedSession([tree.torrent], tree.parent, local_only=True) as seed,
        qbittorrent(tmp_path, free_port()) as api,
    ):
        api.post("torrents/add", {"savepath": str(tmp_path / "out")}, tree.raw)
        until(api.state, seconds=20, what="qbittorrent has the torrent")
        one = api.state()["hash"]
        api.post("torrents/addPeers", {"hashes": one, "peers": f"127.0.0.1:{seed.port}"})
        until(lambda: api.state().get("progress") == 1, seconds=SECONDS, what="qbittorrent has it all")
        until(lambda: whole(tmp_path / "out" / NAME, tree), seconds=20, what="its files are on the disk")
        assert seed.stats()["uploaded_bytes"] >= sum(map(len, tree.files.values()))
    equal(tmp_path / "out" / NAME, tree.files)


@pytest.mark.parametrize("kind", ["v1", "v2", "hybrid"])
def test_we_fetch_from_qbittorrent(tmp_path: Path, kind: str) -> None:
    need_program("qbittorrent-nox")
    tree, ledger, port = tree_for(tmp_path, kind), Ledger(), free_port()
    with qbittorrent(tmp_path, port) as api:
        api.post("torrents/add", {"savepath": str(tree.parent), "skip_checking": "true"}, tree.raw)
        until(lambda: api.state().get("progress") == 1, seconds=30, what="qbittorrent seeds")
        v1, v2 = infohashes(tree.raw)
        link = f"magnet:?xt=urn:btmh:1220{v2}" if kind == "v2" else f"magnet:?xt=urn:btih:{v1}"
        source = bittorrent.open_source(
            link, context(tmp_path / "work", peers=(f"127.0.0.1:{port}",), stall=20)
        )
        list(source.download(tree.wanted(), tmp_path / "out", ledger.progress))
    equal(tmp_path / "out", tree.files)
    assert list(ledger.bytes) == [f"127.0.0.1:{port}"]
