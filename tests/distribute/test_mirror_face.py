"""The HTTP mirror: right bytes under the right names, RFC 9110's conditions and ranges, nothing else of the disk, limits."""

from __future__ import annotations

import base64
import gzip
import hashlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from distribute.faces import server
from distribute.faces.mirror import parse_range
from distribute.seeding import Seeding, SeedOptions
from headwater.errors import HeadwaterError
from headwater.release import open_release
from tests.distribute.partners import free_port, need_module, need_program, until
from tests.distribute.seed_kit import (
    NAME,
    Heard,
    ask,
    flip,
    hearing,
    make_release,
    raw_exchange,
    some_files,
)

HTTP_ONLY = SeedOptions(bittorrent=False, gateway=False)
BIG = "many chunks.bin"


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seeding]:
    release = make_release(tmp_path_factory.mktemp("mirror"))
    with Seeding(release, HTTP_ONLY) as seeding:
        yield seeding


@pytest.fixture
def heard() -> Iterator[Heard]:
    with hearing() as heard:
        yield heard


def target(path: str, name: str = NAME) -> str:
    return "/" + quote(f"{name}/{path}")


def test_every_file_and_document_comes_with_its_digest(mirror: Seeding) -> None:
    release = mirror.release
    documents = [path for path in release.meta.iterdir() if path.is_file()]
    assert len(documents) == 6
    wanted = {target(entry.path): release.data / entry.path for entry in release.manifest.entries}
    wanted |= {"/" + path.name: path for path in documents}
    for address, path in wanted.items():
        data = path.read_bytes()
        digest = hashlib.sha256(data)
        for method in ("GET", "HEAD"):
            got = ask(mirror.port, address, method=method)
            assert got.status == 200
            assert got.body == (data if method == "GET" else b"")
            assert got.headers["Content-Length"] == str(len(data))
            assert got.headers["ETag"] == f'"{digest.hexdigest()}"'
            assert got.headers["Repr-Digest"] == f"sha-256=:{base64.b64encode(digest.digest()).decode()}:"
            assert got.headers["X-Content-Type-Options"] == "nosniff"


RANGES: list[tuple[str, int, slice]] = [
    ("bytes=0-0", 206, slice(0, 1)),
    ("bytes=5-1048580", 206, slice(5, 1048581)),
    ("bytes=3150048-", 206, slice(3150048, None)),
    ("bytes=3150040-99999999", 206, slice(3150040, None)),
    ("bytes=-7", 206, slice(-7, None)),
    ("bytes=-99999999", 206, slice(0, None)),
    ("bytes=0-", 206, slice(0, None)),
    ("Bytes = 1-2", 206, slice(1, 3)),
    ("bytes=3150049-", 416, slice(0, 0)),
    ("bytes=-0", 416, slice(0, 0)),
    # what is not understood is as if it were not there (RFC 9110, 14.2)
    ("bytes=2-1", 200, slice(0, None)),
    ("bytes=-", 200, slice(0, None)),
    ("bytes=0-1,5-6", 200, slice(0, None)),
    ("lines=0-1", 200, slice(0, None)),
    ("bytes=a-b", 200, slice(0, None)),
    ("bytes=0x1-2", 200, slice(0, None)),
    ("bytes=99999999999999999999999-", 200, slice(0, None)),
]


@pytest.mark.parametrize(("header", "status", "part"), RANGES)
def test_ranges(mirror: Seeding, header: str, status: int, part: slice) -> None:
    data = (mirror.release.data / BIG).read_bytes()
    got = ask(mirror.port, target(BIG), Range=header)
    assert got.status == status
    if status == 416:
        assert got.headers["Content-Range"] == f"bytes */{len(data)}"
    else:
        assert got.body == data[part]
        assert got.headers["Content-Length"] == str(len(got.body))
    if status == 206:
        first, last, _ = part.indices(len(data))
        assert got.headers["Content-Range"] == f"bytes {first}-{last - 1}/{len(data)}"


def test_ranges_of_an_empty_file() -> None:
    assert parse_range("bytes=0-", 0) == ()
    assert parse_range("bytes=-5", 0) == ()


def test_conditions(mirror: Seeding) -> None:
    port, address = mirror.port, target("a.txt")
    tag = f'"{hashlib.sha256(b"hello" + bytes([10])).hexdigest()}"'
    assert ask(port, address, If_None_Match=tag).status == 304
    assert ask(port, address, If_None_Match=f'"x", W/{tag}').status == 304
    assert ask(port, address, If_None_Match="*").status == 304
    assert ask(port, address, If_None_Match='"x"').status == 200
    assert ask(port, address, If_Match=tag).status == 200
    assert ask(port, address, If_Match=f"W/{tag}").status == 412
    assert ask(port, address, If_Match='"x"').status == 412
    assert ask(port, address, Range="bytes=0-1", If_Range=tag).body == b"he"
    # another version, a weak tag, a date: the whole file, never a part of something else
    for other in ('"x"', f"W/{tag}", "Fri, 20 Nov 2026 09:00:00 GMT"):
        got = ask(port, address, Range="bytes=0-1", If_Range=other)
        assert (got.status, got.body) == (200, b"hello\n")


NOT_SERVED = [
    "/step.json",
    "/nothing",
    "/" + quote(NAME),
    "/" + quote(NAME) + "/",
    "/" + quote(NAME) + "/deep",
    "/" + quote(NAME) + "/deep/",
    "/" + quote(NAME) + "/extra.txt",
    "/" + quote(NAME) + "/../manifest.json",
    "/" + quote(NAME) + "/deep/../a.txt",
    "/" + quote(NAME) + "/%2e%2e/manifest.json",
    "/" + quote(NAME) + "/..%2f..%2f..%2fetc%2fpasswd",
    "/../../../../etc/passwd",
    "/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
    "//etc/passwd",
    "/./manifest.json",
    "/manifest.json/",
    "/manifest.json%00",
    "/manifest.json;x",
    "/MANIFEST.JSON",
    "/.headwater/lock",
    "/" + quote(quote(NAME)) + "/a.txt",
    "/ipfs/bafkqaaa?format=raw",  # the gateway is off here
]


@pytest.mark.parametrize("address", NOT_SERVED)
def test_nothing_else_of_the_disk(mirror: Seeding, address: str) -> None:
    (mirror.release.meta / "step.json").write_text("{}")
    (mirror.release.data / "extra.txt").write_text("not in the manifest")
    assert ask(mirror.port, address).status == 404


@pytest.mark.parametrize("address", ["/%ff%fe", "*", "http://127.0.0.1/manifest.json"])
def test_addresses_that_are_no_path(mirror: Seeding, address: str) -> None:
    assert ask(mirror.port, address).status in (400, 404)


def test_only_reading(mirror: Seeding) -> None:
    for method in ("POST", "PUT", "DELETE", "PROPFIND", "TRACE"):
        assert ask(mirror.port, "/manifest.json", method=method).status == 405


def test_a_query_does_not_change_the_file(mirror: Seeding) -> None:
    assert ask(mirror.port, "/manifest.json?x=/../y").status == 200


def test_the_page_escapes_everything(tmp_path: Path) -> None:
    name = "<script> & co"
    files = {"<img src=x onerror=y>.txt": b"x", "q\"uote'.txt": b"y"}
    with Seeding(make_release(tmp_path / "r", files, name=name), HTTP_ONLY) as seeding:
        got = ask(seeding.port, "/")
        text = got.body.decode()
        assert got.status == 200
        assert "<script" not in text
        assert "<img" not in text
        assert "&lt;img src=x onerror=y&gt;" in text
        assert seeding.release.release.manifest_id in text
        assert "default-src 'none'" in got.headers["Content-Security-Policy"]
        links = [part.split('"')[0] for part in text.split('href="')[1:]]
        assert {ask(seeding.port, link).status for link in links} == {200}


def test_files_are_never_declared_as_pages(tmp_path: Path) -> None:
    files = {
        "x.html": b"<script>1</script>",
        "x.svg": b"<svg/>",
        "x.json": b"{}",
        "x.gz": gzip.compress(b"x"),
    }
    with Seeding(make_release(tmp_path / "r", files, name="n"), HTTP_ONLY) as seeding:
        kinds = {path: ask(seeding.port, f"/n/{path}").headers for path in files}
        assert kinds["x.html"]["Content-Type"] == kinds["x.svg"]["Content-Type"] == "application/octet-stream"
        assert kinds["x.json"]["Content-Type"] == "application/json"
        assert {headers["Content-Security-Policy"] for headers in kinds.values()} == {
            "sandbox; default-src 'none'"
        }
        assert kinds["x.gz"]["Content-Encoding"] is None  # what comes is the file, not what is packed in it


def test_links_and_devices_are_not_followed(tmp_path: Path) -> None:
    release = make_release(
        tmp_path / "r", {"a.txt": b"a", "d/b.txt": b"b", "c.txt": b"c", "e.txt": b"e"}, name="n"
    )
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "b.txt").write_bytes(b"b")
    (release.data / "a.txt").unlink()
    (release.data / "a.txt").symlink_to(secret / "b.txt")
    shutil.rmtree(release.data / "d")
    (release.data / "d").symlink_to(secret)
    (release.data / "c.txt").unlink()
    os.mkfifo(release.data / "c.txt")
    with Seeding(release, HTTP_ONLY) as seeding:
        for path in ("a.txt", "d/b.txt", "c.txt"):
            assert ask(seeding.port, f"/n/{path}").status == 404
        assert ask(seeding.port, "/n/e.txt").body == b"e"
        (release.data / "e.txt").unlink()
        (release.data / "e.txt").symlink_to(secret / "b.txt")
        assert ask(seeding.port, "/n/e.txt").status == 404


def test_a_changed_file_is_not_served_until_it_is_right_again(tmp_path: Path, heard: Heard) -> None:
    release = make_release(tmp_path / "r")
    path, address = release.data / BIG, target(BIG)
    good = path.read_bytes()
    with Seeding(release, HTTP_ONLY) as seeding:
        assert ask(seeding.port, address).status == 200
        os.utime(path, ns=(1, 1))
        assert ask(seeding.port, address).body == good  # touched: read once, and right
        flip(path, 2_000_000)
        os.utime(path, ns=(2, 2))
        assert [ask(seeding.port, address).status for _ in range(3)] == [410] * 3
        assert [BIG in text for _, text in heard.messages].count(
            True
        ) == 1  # told once, not with each request
        path.write_bytes(good[:-1])
        assert ask(seeding.port, address, Range="bytes=0-5").status == 410
        path.unlink()
        assert ask(seeding.port, address).status == 404
        path.write_bytes(good)
        assert ask(seeding.port, address).body == good
        assert ask(seeding.port, target("a.txt")).status == 200


def test_a_changed_manifest_is_not_served(tmp_path: Path) -> None:
    release = make_release(tmp_path / "r")
    with Seeding(release, HTTP_ONLY) as seeding:
        assert ask(seeding.port, "/manifest.json").status == 200
        (release.meta / "manifest.json").write_bytes(b"{}")
        assert ask(seeding.port, "/manifest.json").status == 410


def test_documents_that_may_change_are_served_as_they_are(tmp_path: Path) -> None:
    release = make_release(tmp_path / "r")
    with Seeding(release, HTTP_ONLY) as seeding:
        assert ask(seeding.port, "/latest.json").status == 404
        (release.meta / "latest.json").write_bytes(b"{}")
        first = ask(seeding.port, "/latest.json")
        (release.meta / "latest.json").write_bytes(b"[1]")
        second = ask(seeding.port, "/latest.json")
        assert (first.body, second.body) == (b"{}", b"[1]")
        assert first.headers["ETag"] != second.headers["ETag"]
        assert second.headers["Cache-Control"] == "no-cache"


def test_a_file_that_changes_while_it_is_sent_breaks_the_connection(tmp_path: Path, heard: Heard) -> None:
    release = make_release(tmp_path / "r")
    slow = SeedOptions(bittorrent=False, gateway=False, upload_limit=2_000_000)
    with Seeding(release, slow) as seeding:
        with socket.create_connection(("127.0.0.1", seeding.port), 20) as link:
            link.sendall(f"GET {target(BIG)} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            got = len(link.recv(1000))
            path = release.data / BIG
            path.write_bytes(path.read_bytes())
            try:
                while part := link.recv(1 << 16):
                    got += len(part)
            except ConnectionResetError:
                pass
        assert got < (release.data / BIG).stat().st_size
        assert heard.said(BIG, "while it was sent")


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


def test_a_fetched_folder_is_seeded_as_it_lies(tmp_path: Path) -> None:
    made = make_release(tmp_path / "r")
    fetched = tmp_path / "fetched"
    shutil.copytree(made.data, fetched)
    inside = fetched / ".headwater" / "release"
    inside.mkdir(parents=True)
    for path in made.meta.iterdir():
        if path.is_file():
            shutil.copy(path, inside)
    with Seeding(open_release(fetched), HTTP_ONLY) as seeding:
        for path, data in some_files().items():
            assert ask(seeding.port, target(path)).body == data
        assert ask(seeding.port, "/v1.torrent").body == made.file("v1.torrent").read_bytes()


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
