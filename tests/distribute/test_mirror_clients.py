"""The HTTP mirror and those who talk to it: limits, clients that misbehave, addresses, and real programs."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from distribute.faces import server
from distribute.seeding import Seeding, SeedOptions
from headwater.errors import HeadwaterError
from tests.distribute.partners import free_port, need_module, need_program, until
from tests.distribute.seed_kit import (
    BIG,
    HTTP_ONLY,
    NAME,
    ask,
    make_release,
    raw_exchange,
    some_files,
    target,
)


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seeding]:
    release = make_release(tmp_path_factory.mktemp("mirror"))
    with Seeding(release, HTTP_ONLY) as seeding:
        yield seeding


def test_upload_limit(tmp_path: Path) -> None:
    release = make_release(tmp_path / "r")
    with Seeding(release, SeedOptions(bittorrent=False, gateway=False, upload_limit=4_000_000)) as seeding:
        start = time.monotonic()
        assert len(ask(seeding.port, target(BIG)).body) == (release.data / BIG).stat().st_size
        # 3.15 MB at 4 MB/s, of which the first quarter second is free
        assert time.monotonic() - start > 0.4


def test_a_connection_that_says_nothing_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "IDLE_SECONDS", 0.4)
    with Seeding(make_release(tmp_path / "r"), HTTP_ONLY) as seeding:
        for opening in (b"", b"GET /manifest.json HTTP/1.1\r\nX-Slow: "):
            assert raw_exchange(seeding.port, opening, seconds=10) == b""
        assert ask(seeding.port, "/manifest.json").status == 200
        until(lambda: seeding.open_connections == 0, seconds=5, what="no connection is left")


def test_a_client_that_takes_nothing_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "STEP_SECONDS", 0.3)
    release = make_release(tmp_path / "r", {"big": bytes(24 << 20)}, name="n", torrents=False)
    with Seeding(release, HTTP_ONLY) as seeding, socket.socket() as link:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        link.connect(("127.0.0.1", seeding.port))
        link.sendall(b"GET /n/big HTTP/1.1\r\nHost: x\r\n\r\n")
        until(lambda: seeding.open_connections == 1, seconds=5, what="it is connected")
        until(lambda: seeding.open_connections == 0, seconds=15, what="it is dropped")


def test_too_many_connections_are_told_so(tmp_path: Path) -> None:
    few = SeedOptions(bittorrent=False, gateway=False, connections=2)
    with Seeding(make_release(tmp_path / "r"), few) as seeding:
        held = [socket.create_connection(("127.0.0.1", seeding.port)) for _ in range(2)]
        until(lambda: seeding.open_connections == 2, seconds=5, what="both are there")
        got = raw_exchange(seeding.port, b"")
        assert got.startswith(b"HTTP/1.1 503 ")
        for link in held:
            link.close()
        until(lambda: seeding.open_connections == 0, seconds=5, what="both are gone")
        assert ask(seeding.port, "/manifest.json").status == 200
        assert seeding.totals().refused_connections == 1


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 5000 + b"\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_requests_that_are_none(mirror: Seeding, request_bytes: bytes) -> None:
    with socket.create_connection(("127.0.0.1", mirror.port), 10) as link:
        link.settimeout(10)
        try:
            link.sendall(request_bytes)
            link.shutdown(socket.SHUT_WR)
            got = link.recv(65536)
        except ConnectionError:
            got = b""
    assert got == b"" or got.split()[1][:1] == b"4" or got.split()[1] == b"200"
    assert b"Traceback" not in got
    assert ask(mirror.port, "/manifest.json").status == 200


def test_ipv6(tmp_path: Path) -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    options = SeedOptions(host="::1", bittorrent=False)
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")
    with Seeding(make_release(tmp_path / "r"), options) as seeding:
        assert seeding.url == f"http://[::1]:{seeding.port}/"
        assert ask(seeding.port, "/manifest.json", host="::1").status == 200


def test_an_address_that_is_taken_is_named(tmp_path: Path) -> None:
    release = make_release(tmp_path / "r")
    with Seeding(release, HTTP_ONLY) as seeding:
        with pytest.raises(HeadwaterError, match=f"port {seeding.port}.*in use"):
            Seeding(release, SeedOptions(port=seeding.port, bittorrent=False)).__enter__()
        port = seeding.port
    with Seeding(
        release, SeedOptions(port=port, bittorrent=False)
    ) as again:  # at once, with what is in TIME_WAIT
        assert ask(again.port, "/manifest.json").status == 200


def test_nothing_stays_open_and_nothing_is_written(tmp_path: Path) -> None:
    release = make_release(tmp_path / "r")
    before = {path: path.stat().st_mtime_ns for path in release.meta.rglob("*")}
    with Seeding(release, HTTP_ONLY) as seeding:
        ask(seeding.port, "/manifest.json")
    descriptors = len(os.listdir("/proc/self/fd"))
    with Seeding(release, HTTP_ONLY) as seeding:
        for method, part in (("GET", "bytes=0-1"), ("HEAD", ""), ("GET", "bytes=9999999-")):
            ask(seeding.port, target(BIG), method=method, Range=part)
        ask(seeding.port, target("a.txt"), If_None_Match="*")
    assert len(os.listdir("/proc/self/fd")) <= descriptors
    assert {path: path.stat().st_mtime_ns for path in release.meta.rglob("*")} == before


@pytest.mark.slow
def test_aria2_takes_it_in_parts_and_checks_the_digest(mirror: Seeding, tmp_path: Path) -> None:
    command = [
        need_program("aria2c"),
        "-x4",
        "-s4",
        "-k1M",
        "--no-conf",
        "-q",
        "-d",
        str(tmp_path),
        "-o",
        "x",
    ]
    address = f"http://127.0.0.1:{mirror.port}{target(BIG)}"
    subprocess.run([*command, address], check=True, timeout=60)
    assert (tmp_path / "x").read_bytes() == (mirror.release.data / BIG).read_bytes()


@pytest.mark.slow
def test_curl_resumes(mirror: Seeding, tmp_path: Path) -> None:
    data = (mirror.release.data / BIG).read_bytes()
    (tmp_path / "x").write_bytes(data[:1_234_567])
    address = f"http://127.0.0.1:{mirror.port}{target(BIG)}"
    command = [need_program("curl"), "-sSf", "-C", "-", "-o", str(tmp_path / "x"), address]
    subprocess.run(command, check=True, timeout=60)
    assert (tmp_path / "x").read_bytes() == data


@pytest.mark.slow
def test_libtorrent_takes_it_as_a_web_seed(mirror: Seeding, tmp_path: Path) -> None:
    lt = need_module("libtorrent")
    session = lt.session(
        {
            "listen_interfaces": f"127.0.0.1:{free_port()}",
            "enable_dht": False,
            "enable_lsd": False,
            "enable_upnp": False,
            "enable_natpmp": False,
            "ssrf_mitigation": False,
        }
    )
    parameters = lt.load_torrent_file(str(mirror.release.file("v1.torrent")))
    parameters.url_seeds = [mirror.url]
    parameters.save_path = str(tmp_path)
    handle = session.add_torrent(parameters)
    try:
        until(lambda: handle.status().is_seeding, seconds=60, what="the web seed gave everything")
        handle.flush_cache()
        files = some_files()
        until(
            lambda: all(
                (tmp_path / NAME / p).is_file() and (tmp_path / NAME / p).read_bytes() == d
                for p, d in files.items()
            ),
            seconds=20,
            what="it is on the disk",
        )
    finally:
        session.remove_torrent(handle)
        session.pause()
