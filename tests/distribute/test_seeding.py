"""`headwater seed`: what it says, what it serves on all faces at once, how it ends, and that it comes back as it was."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from distribute.faces.facts import fetch_lines, is_loopback
from distribute.seeding import Facts, Seeding, SeedOptions, dry_run, seed
from distribute.torrents import parse_magnet
from headwater.errors import HeadwaterError, MissingInput, UsageError
from headwater.release import OpenRelease
from tests.conftest import clean_environment
from tests.distribute.partners import free_port, need_module, until
from tests.distribute.seed_kit import NAME, ask, hearing, make_release, no_threads, some_files

LOCAL = SeedOptions(local_only=True)


@pytest.fixture
def release(tmp_path: Path) -> OpenRelease:
    return make_release(tmp_path / "release")


@contextmanager
def command(
    release: OpenRelease, *options: str, home: Path
) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """The command in a process of its own, once it has said where it listens."""
    line = [sys.executable, "-P", "-m", "headwater.cli", "seed", str(release.meta), "--json", *options]
    process = subprocess.Popen(
        line,
        env=clean_environment(home),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        said = []
        for text in process.stderr:
            said.append(text)
            if text.startswith("{") and json.loads(text)["event"] == "seeding":
                break
        else:
            pytest.fail(f"it never said where: {said}")
        yield process, json.loads(text)
    finally:
        process.kill()
        process.communicate(timeout=20)


def test_facts_name_every_face(release: OpenRelease) -> None:
    need_module("libtorrent")
    with hearing() as heard, Seeding(release, LOCAL) as seeding:
        facts = seeding.facts
        assert facts.url == f"http://127.0.0.1:{seeding.port}/"
        assert facts.gateway == f"http://127.0.0.1:{seeding.port}"
        assert facts.peer is not None and facts.peer.startswith("127.0.0.1:")
        assert (facts.files, facts.present_files, facts.second_copy_bytes) == (8, 8, 0)
        assert facts.cids == release.release.cids
        v1, v2 = (parse_magnet(facts.magnets[kind]) for kind in ("v1", "v2"))
        assert v1.infohash_v1 == release.release.torrents["v1"].infohash
        assert v2.infohash_v2 == release.release.torrents["v2"].infohash
        assert v1.web_seeds == (facts.url,)
        assert v1.peers == v2.peers == (facts.peer,)
        words = shlex.split(facts.fetch)
        assert words[:3] == ["headwater", "fetch", facts.url]
        assert words[words.index("--manifest") + 1] == release.release.manifest_id
        assert words[-2:] == ["-o", NAME]
        assert "--allow-private" in words  # it would be refused without
        assert len(facts.alternatives) == 2
        assert json.loads(json.dumps(facts.document()))["magnets"] == facts.magnets
        assert facts.manifest_id in facts.text()
        assert not heard.messages


def test_on_every_address_the_magnet_names_no_peer(
    release: OpenRelease, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "box")
    # only the words are looked at: nobody listens beyond this machine in a test
    seeding = Seeding(release, SeedOptions(host="0.0.0.0", bittorrent=False))
    assert seeding.url.startswith("http://box:")
    assert not any("x.pe" in magnet for magnet in seeding.magnets.values())


def test_faces_can_be_left_out(release: OpenRelease) -> None:
    with Seeding(release, SeedOptions(bittorrent=False, gateway=False)) as seeding:
        facts = seeding.facts
        assert (facts.gateway, facts.peer, facts.magnets, facts.cids) == (None, None, {}, {})
        assert facts.alternatives == []
        root = next(iter(release.release.cids.values()))
        assert ask(seeding.port, f"/ipfs/{root}?format=raw").status == 404
        assert set(seeding.totals().faces) == {"http"}


def test_a_public_address_is_what_others_are_told(release: OpenRelease) -> None:
    options = SeedOptions(bittorrent=False, public_url="https://data.example.org/set")
    with Seeding(release, options) as seeding:
        assert seeding.url == "https://data.example.org/set/"
        assert seeding.gateway == "https://data.example.org/set"
        assert "--allow-private" not in seeding.facts.fetch
        assert ask(seeding.port, "/manifest.json").status == 200


@pytest.mark.parametrize(
    ("url", "private"),
    [
        ("http://127.0.0.1:1/", True),
        ("http://[::1]:1/", True),
        ("http://10.1.2.3/", True),
        ("http://box/", True),
        ("http://box.local/", True),
        ("https://data.example.org/", False),
        ("http://8.8.8.8/", False),
    ],
)
def test_the_fetch_line_has_the_word_for_private_addresses(
    release: OpenRelease, url: str, private: bool
) -> None:
    line, _ = fetch_lines(release, url, None, {})
    assert ("--allow-private" in line) == private


def test_loopback() -> None:
    assert [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost")] == [True] * 3
    assert not any(is_loopback(host) for host in ("0.0.0.0", "::", "10.0.0.1", "box"))


@pytest.mark.parametrize(
    "options",
    [
        SeedOptions(port=-1),
        SeedOptions(port=65536),
        SeedOptions(torrent_port=70000),
        SeedOptions(upload_limit=0),
        SeedOptions(connections=0),
        SeedOptions(host=""),
        SeedOptions(public_url="data.example.org"),
        SeedOptions(public_url="file:///etc"),
        SeedOptions(trackers=("javascript:x",)),
    ],
)
def test_impossible_options(release: OpenRelease, options: SeedOptions) -> None:
    with pytest.raises(UsageError):
        Seeding(release, options)


def test_an_address_of_another_machine(release: OpenRelease) -> None:
    with pytest.raises(HeadwaterError, match="cannot listen at 192.0.2.1"):
        Seeding(release, SeedOptions(host="192.0.2.1", bittorrent=False)).__enter__()
    until(no_threads, seconds=5, what="its threads have ended")


def test_seed_ends_when_told_and_counts(release: OpenRelease) -> None:
    stop = threading.Event()
    seen: list[Facts] = []

    def ready(facts: Facts) -> None:
        seen.append(facts)
        port = int(facts.url.rstrip("/").rpartition(":")[2])
        ask(port, "/manifest.json")
        ask(port, f"/ipfs/{facts.cids['kubo-v1-raw']}?format=raw")
        stop.set()

    totals = seed(release, SeedOptions(bittorrent=False), ready=ready, stop=stop)
    size = release.file("manifest.json").stat().st_size
    assert totals.faces["http"] == {"requests": 1, "sent_bytes": size}
    assert totals.faces["ipfs"]["requests"] == 1
    assert totals.sent_bytes > size
    document = json.loads(json.dumps(totals.document()))
    assert document["energy"]["stage"] == "seed"
    assert seen[0].name == NAME
    until(no_threads, seconds=5, what="its threads have ended")


def test_seed_ends_by_itself(release: OpenRelease) -> None:
    with hearing() as heard:
        totals = seed(release, SeedOptions(bittorrent=False), seconds=0.2)
    assert totals.seconds >= 0.2
    assert heard.fields[0]["level"] == "seeding"
    assert heard.fields[0]["manifest_id"] == release.release.manifest_id


def test_a_dry_run_listens_nowhere_and_tells_what_it_would_give(release: OpenRelease) -> None:
    (release.data / "a.txt").unlink()
    found = dry_run(release, LOCAL)
    assert (found["files"], found["missing_files"], found["second_copy_bytes"]) == (7, 1, 0)
    assert found["size_bytes"] == release.release.size_bytes - 6
    assert found["faces"] == ["http", "ipfs", "bittorrent"]
    assert "a.txt" in found["problems"][0]
    assert "no second copy" in found["text"]


def test_a_release_without_its_files(release: OpenRelease) -> None:
    for path in sorted(release.data.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    with pytest.raises(MissingInput, match="none of the 8 files"):
        Seeding(release, LOCAL)


def test_a_missing_file_stops_the_torrents_and_nothing_else(release: OpenRelease) -> None:
    need_module("libtorrent")
    (release.data / "a.txt").unlink()
    with hearing() as heard, Seeding(release, LOCAL) as seeding:
        assert seeding.peer is None
        assert seeding.facts.present_files == 7
        assert heard.said("are not seeded", "a.txt")
        assert ask(seeding.port, "/manifest.json").status == 200
        assert seeding.facts.magnets == {}


def test_an_empty_release(tmp_path: Path) -> None:
    release = make_release(tmp_path / "r", {}, name="n", torrents=False)
    with Seeding(release, LOCAL) as seeding:
        root = next(iter(release.release.cids.values()))
        assert ask(seeding.port, f"/ipfs/{root}?format=car").status == 200
        assert ask(seeding.port, "/").status == 200


def test_all_faces_read_the_files_of_the_release(release: OpenRelease) -> None:
    inodes = {path: path.stat().st_ino for path in release.meta.rglob("*")}
    with Seeding(release, LOCAL) as seeding:
        ask(seeding.port, "/manifest.json")
    assert {path: path.stat().st_ino for path in release.meta.rglob("*")} == inodes


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_the_ordinary_end(release: OpenRelease, tmp_path: Path, number: int) -> None:
    with command(release, "--port", "0", "--torrent-port", "0", home=tmp_path) as (process, facts):
        port = int(facts["url"].rstrip("/").rpartition(":")[2])
        assert ask(port, "/manifest.json").status == 200
        process.send_signal(number)
        out, _ = process.communicate(timeout=30)
        assert process.returncode == 0
        totals = json.loads(out)
        assert totals["faces"]["http"]["requests"] == 1
        assert set(totals["faces"]) == {"http", "ipfs", "bittorrent"}


@pytest.mark.slow
def test_killed_and_started_again_it_is_the_same(release: OpenRelease, tmp_path: Path) -> None:
    before = sorted((str(path), path.stat().st_mtime_ns) for path in release.meta.rglob("*"))
    ports = ["--port", str(free_port()), "--torrent-port", str(free_port())]
    said = []
    for _ in range(2):
        with command(release, *ports, home=tmp_path) as (process, facts):
            said.append(facts)
            port = int(facts["url"].rstrip("/").rpartition(":")[2])
            assert ask(port, "/manifest.json").status == 200
            process.send_signal(signal.SIGKILL)
            process.wait(20)
    assert said[0] == said[1]
    assert sorted((str(path), path.stat().st_mtime_ns) for path in release.meta.rglob("*")) == before


@pytest.mark.slow
def test_the_command_for_some_seconds_and_dry(release: OpenRelease, cli: Any) -> None:
    done = cli("seed", release.meta, "--port", "0", "--torrent-port", "0", "--for", "0.3")
    assert done.returncode == 0, done.stderr
    assert "headwater fetch http://127.0.0.1:" in done.stderr
    assert "sent 0 bytes" in done.stdout
    done = cli("seed", release.meta, "--dry-run", "--json")
    assert json.loads(done.stdout)["second_copy_bytes"] == 0
    done = cli("seed", release.meta.parent, "--json")
    assert done.returncode == 10
    for wrong in (("--port", "99999"), ("--for", "-1"), ("--for", "nan")):
        assert cli("seed", release.meta, *wrong).returncode == 2


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1, 2], ids=["http", "magnet", "ipfs"])
def test_the_printed_lines_fetch_it(release: OpenRelease, tmp_path: Path, cli: Any, number: int) -> None:
    need_module("libtorrent")
    with Seeding(release, LOCAL) as seeding:
        line = [seeding.facts.fetch, *seeding.facts.alternatives][number]
        program, *words = shlex.split(line)
        assert program == "headwater"
        done = cli(*words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        got = tmp_path / NAME
        assert {path: (got / path).read_bytes() for path in some_files()} == some_files()
        face = ("http", "bittorrent", "ipfs")[number]
        assert seeding.totals().faces[face]["sent_bytes"] >= release.release.size_bytes - 20_000  # the twin


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["v1", "v2"])
def test_libtorrent_fetches_by_magnet_from_this_peer_alone(
    release: OpenRelease, tmp_path: Path, kind: str
) -> None:
    lt = need_module("libtorrent")
    names = ("enable_dht", "enable_lsd", "enable_upnp", "enable_natpmp", "enable_outgoing_utp")
    options: dict[str, Any] = dict.fromkeys(names, False)
    options |= {"listen_interfaces": f"127.0.0.1:{free_port()}", "allow_multiple_connections_per_ip": True}
    into = tmp_path / "into"
    with Seeding(release, LOCAL) as seeding:
        session = lt.session(options)
        parameters = lt.parse_magnet_uri(seeding.magnets[kind])
        parameters.url_seeds = []
        parameters.save_path = str(into)
        handle = session.add_torrent(parameters)
        try:
            until(lambda: handle.status().is_seeding, seconds=60, what="all pieces came from the peer")
            handle.flush_cache()
            wanted = {path: hashlib.sha256(data).digest() for path, data in some_files().items()}
            until(lambda: _digests(into / NAME, wanted) == wanted, seconds=20, what="they are on the disk")
            assert seeding.totals().faces["bittorrent"]["sent_bytes"] >= release.release.size_bytes
        finally:
            session.pause()
    assert seeding.totals().faces["bittorrent"]["sent_bytes"] >= release.release.size_bytes


def _digests(folder: Path, paths: dict[str, bytes]) -> dict[str, bytes]:
    found = {}
    for path in paths:
        if os.path.isfile(folder / path):
            found[path] = hashlib.sha256((folder / path).read_bytes()).digest()
    return found
