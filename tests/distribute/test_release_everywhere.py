"""One release of one `headwater publish`, fetched by everybody who can: by us over every face, and by other people's programs.

200 files, an empty one among them, spaces and é in paths. "Equal" is `diff -r`: the same files, the same bytes, none more.
"""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from distribute.car import read_car
from distribute.cid import Cid
from tests.bench.transports_servers import (
    Seed,
    changed,
    headwater,
    opentracker,
    rclone,
    rtorrent,
    seaweed,
    seed,
    seeders,
)
from tests.distribute.partners import free_port, need_module, need_program, running, until
from tests.distribute.partners_girder.serve import real_girder
from tests.distribute.swarm_kit import infohashes
from tests.distribute.test_bittorrent_partners import aria2, qbittorrent
from tests.distribute.test_ipfs_partners import flatfs, kubo_node

pytestmark = pytest.mark.slow
NAME = "a set é"
SECONDS = 90.0  # for one fetch of 30 MB on a machine with other work


@dataclass
class Published:
    """The user's folder, and what one call of publish made of it."""

    source: Path
    release: Path
    car: Path
    facts: dict[str, Any]
    web: int  # port of HTTP that its torrents and its Metalink name
    tracker: int
    command: list[str]  # the same again does nothing but send

    @property
    def manifest(self) -> str:
        return str(self.release / "manifest.json")

    @property
    def size(self) -> int:
        return int(self.facts["size_bytes"])

    def equal(self, folder: Path) -> None:
        """`folder` holds the files of the source, and no other."""
        command = ["diff", "-r", "-x", ".headwater", str(self.source), str(folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:]

    def there(self, folder: Path) -> bool:
        """The same without a word, for programs that do not say when they are done."""
        command = ["diff", "-rq", "-x", ".headwater", str(self.source), str(folder)]
        return subprocess.run(command, capture_output=True).returncode == 0


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    base = tmp_path_factory.mktemp("everywhere")
    source, chance = base / NAME, random.Random(3)
    files = {f"süß {n % 7}/part {n:03} é.bin": chance.randbytes(30_000 + 300 * n) for n in range(198)}
    files |= {"big.bin": chance.randbytes(18_000_003), "empty file.txt": b""}
    for path, data in files.items():
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).write_bytes(data)
    web, tracker = free_port(), free_port()
    release, car = base / "release", base / "all.car"
    options = ["--mirror", f"http://127.0.0.1:{web}/", "--tracker", f"http://127.0.0.1:{tracker}/announce"]
    command = ["publish", str(source), "-o", str(release), *options]
    facts = headwater(*command, "--car", car)
    assert facts["files"] == 200 and facts["second_copy_bytes"] == 0
    return Published(source, release, car, facts, web, tracker, command)


@pytest.fixture(scope="module")
def ours(published: Published, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seed]:
    """Our seed of it: three faces, one process."""
    need_module("aiohttp")
    need_module("libtorrent")
    log = tmp_path_factory.mktemp("seed") / "log"
    with seed(published.release, log, port=published.web) as found:
        yield found


@pytest.fixture
def tracked(published: Published, tmp_path: Path) -> Iterator[Seed]:
    """A seed of its own that a tracker knows, for programs that find peers no other way."""
    infohash, _ = infohashes((published.release / "v1.torrent").read_bytes())
    need_program("opentracker")
    with (
        opentracker(tmp_path / "tracker", published.tracker, infohash) as announce,
        seed(published.release, tmp_path / "seed.log", "--no-gateway") as found,
    ):
        until(lambda: seeders(announce, infohash), seconds=30, what="the tracker knows our seed")
        yield found


def bring(published: Published, out: Path, *locations: str, **environment: str) -> list[dict[str, Any]]:
    """`headwater fetch`, compared; the rows of its sources."""
    told = headwater(
        "fetch", *locations, "-o", out, "--manifest", published.manifest, "--local", **environment
    )
    published.equal(out)
    assert told["pinned"] and told["bytes_wrong"] == 0 and told["skipped"] == []
    rows: list[dict[str, Any]] = told["sources"]
    assert sum(row["used_bytes"] for row in rows) == published.size
    return rows


# ---- headwater fetch from headwater seed


@pytest.mark.parametrize("face", ["http", "v1", "v2", "unixfs-v1-2025", "kubo-v1-raw"])
def test_our_fetch_over_each_face(published: Published, ours: Seed, face: str, tmp_path: Path) -> None:
    places = {"http": (ours.url,)}
    # without the web seed, or HTTP would bring a part of it
    places |= {
        kind: (link.replace(f"&ws={ours.url.replace(':', '%3A').replace('/', '%2F')}", ""),)
        for kind, link in ours.facts["magnets"].items()
    }
    places |= {name: (f"ipfs://{cid}", "--gateway", ours.gateway) for name, cid in ours.facts["cids"].items()}
    (row,) = bring(published, tmp_path / "out", *places[face])
    assert row["kind"] == {"http": "http", "v1": "bittorrent", "v2": "bittorrent"}.get(face, "ipfs")
    if row["kind"] == "bittorrent":
        assert list(row["peers"]) == [ours.peer]


def test_from_three_faces_at_once(published: Published, ours: Seed, tmp_path: Path) -> None:
    places = (ours.url, ours.facts["magnets"]["v2"], ours.cid(), "--gateway", ours.gateway)
    rows = bring(published, tmp_path / "out", *places)
    assert sorted(row["kind"] for row in rows) == ["bittorrent", "http", "ipfs"]
    assert sum(row["used_bytes"] > 0 for row in rows) > 1  # a fast one may leave nothing to one of them


# ---- other programs from headwater seed


def test_aria2_from_our_torrent_session(published: Published, tracked: Seed, tmp_path: Path) -> None:
    torrent = changed(published.release / "v1.torrent", tmp_path / "x.torrent", drop=["url-list"])
    with running(aria2(torrent, tmp_path / "out", "--seed-time=0")) as process:
        assert process.wait(SECONDS) == 0
    published.equal(tmp_path / "out" / NAME)


def test_aria2_from_our_web_seed(published: Published, ours: Seed, tmp_path: Path) -> None:
    torrent = changed(published.release / "v1.torrent", tmp_path / "x.torrent", drop=["announce"])
    with running(aria2(torrent, tmp_path / "out", "--seed-time=0")) as process:
        assert process.wait(SECONDS) == 0
    published.equal(tmp_path / "out" / NAME)


def test_aria2_by_metalink(published: Published, ours: Seed, tmp_path: Path) -> None:
    """It checks the SHA-256 of each file itself."""
    command = aria2(published.release / "release.meta4", tmp_path / "out", "--seed-time=0")
    with running(command) as process:
        assert process.wait(SECONDS) == 0
    published.equal(tmp_path / "out" / NAME)


def test_rtorrent_from_our_torrent_session(published: Published, tracked: Seed, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = rtorrent(tmp_path / "rtorrent", published.release / "v1.torrent", out)
    with running(command, cwd=tmp_path / "rtorrent"):
        until(lambda: published.there(out / NAME), seconds=SECONDS, what="rtorrent has every file")
    published.equal(out / NAME)


@pytest.mark.parametrize("kind", ["v1", "v2"])
def test_qbittorrent_from_our_torrent_session(
    published: Published, ours: Seed, kind: str, tmp_path: Path
) -> None:
    torrent = changed(published.release / f"{kind}.torrent", tmp_path / "x", drop=["url-list", "announce"])
    out = tmp_path / "out"
    with qbittorrent(tmp_path, free_port()) as api:
        api.post("torrents/add", {"savepath": str(out)}, torrent.read_bytes())
        until(api.state, seconds=20, what="qbittorrent has the torrent")
        api.post("torrents/addPeers", {"hashes": api.state()["hash"], "peers": ours.peer})
        until(lambda: api.state().get("progress") == 1, seconds=SECONDS, what="qbittorrent has it all")
        until(lambda: published.there(out / NAME), seconds=20, what="its files are on the disk")
    published.equal(out / NAME)


# ---- a mirror that knows nothing of releases


def test_any_web_server_is_a_mirror(published: Published, tmp_path: Path) -> None:
    with rclone(published.release) as (base, _):
        (row,) = bring(published, tmp_path / "out", base)
    assert row["kind"] == "http"


@pytest.mark.parametrize("who", ["aria2", "ours"])
def test_any_web_server_is_a_web_seed(published: Published, who: str, tmp_path: Path) -> None:
    with rclone(published.release) as (base, _):
        torrent = changed(
            published.release / "v1.torrent", tmp_path / "x.torrent", drop=["announce"], web_seed=base
        )
        if who == "ours":
            (row,) = bring(published, tmp_path / "out", str(torrent))
            assert row["kind"] == "bittorrent"
            return
        with running(aria2(torrent, tmp_path / "out", "--seed-time=0")) as process:
            assert process.wait(SECONDS) == 0
    published.equal(tmp_path / "out" / NAME)


# ---- sent to other people's servers


def test_kubo_gives_it_to_kubo_by_bitswap(published: Published, tmp_path: Path) -> None:
    """Kubo 0.22 without its RPC: the blocks of our CAR are put into its store, and it pins what they are."""
    first, second, out = tmp_path / "first", tmp_path / "second", tmp_path / "out"
    with open(published.car, "rb") as handle:
        car = read_car(handle)
        (root,) = car.roots
        blocks: dict[bytes, tuple[Cid, bytes]] = {cid.digest: (cid, block) for cid, block in car}
    assert root.text == published.facts["cids"]["unixfs-v1-2025"]
    with kubo_node(first):
        pass  # lays out its block store
    flatfs(first, blocks)
    with kubo_node(first) as giver, kubo_node(second) as taker:
        assert giver.ask("pin", cid=root.text) == 0
        assert taker.ask("connect", address=giver.address) == 0
        assert taker.ask("download", cid=root.text, path=str(out)) == 0
    published.equal(out)


def test_girder_takes_it_and_gives_it_back(published: Published, tmp_path: Path) -> None:
    with real_girder(tmp_path / "girder") as server:
        keys = {"GIRDER_API_KEY": server.key, "GIRDER_API_URL": server.api}
        target = f"girder+{server.api}#collection/everywhere/release"
        again = [*published.command, "--via", "girder", "--girder", target]
        told = headwater(*again, **keys)
        assert told["up_to_date"] and told["sent"]["girder"]["files"] > 200
        (row,) = bring(published, tmp_path / "out", told["sent"]["girder"]["location"], **keys)
        assert row["kind"] == "girder"
        assert headwater(*again, **keys)["sent"]["girder"]["files"] <= 1  # locations.json may name it now


def test_s3_takes_it_and_gives_it_back(published: Published, tmp_path: Path) -> None:
    need_module("s3fs")
    with seaweed(tmp_path / "weed") as bucket:
        again = [*published.command, "--via", "http", "--http-target", "s3://releases/some/where"]
        told = headwater(*again, **bucket.environment)["sent"]["s3"]
        assert told["files"] == 200
        (row,) = bring(published, tmp_path / "out", told["location"], **bucket.environment)
        assert row["kind"] == "s3"
        assert headwater(*again, **bucket.environment)["sent"]["s3"]["files"] == 0


def test_the_release_is_as_it_was(published: Published, ours: Seed) -> None:
    """Nobody who was served has changed a file."""
    told = headwater("verify", published.release)
    assert told["ok"]
    assert (
        os.stat(published.release / NAME / "big.bin").st_ino == os.stat(published.source / "big.bin").st_ino
    )
