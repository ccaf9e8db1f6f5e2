"""The HTTP mirror: right bytes under the right names, RFC 9110's conditions and ranges, nothing else of the disk, limits."""

from __future__ import annotations

import base64
import gzip
import hashlib
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from distribute.faces.mirror import parse_range
from distribute.seeding import Seeding, SeedOptions
from headwater.release import open_release
from tests.distribute.seed_kit import (
    BIG,
    HTTP_ONLY,
    NAME,
    Heard,
    ask,
    flip,
    hearing,
    make_release,
    some_files,
    target,
)


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seeding]:
    release = make_release(tmp_path_factory.mktemp("mirror"))
    with Seeding(release, HTTP_ONLY) as seeding:
        yield seeding


@pytest.fixture
def heard() -> Iterator[Heard]:
    with hearing() as heard:
        yield heard


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
