"""A bucket as a source and as a place to publish to: real s3fs against a small store on 127.0.0.1."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import pytest

from distribute.fetch import FetchOptions, fetch
from distribute.transports import s3
from distribute.transports._base import Context, Limits, NotThere, Refused, SourceError, Wanted, WrongBytes
from headwater.errors import MissingExtra, UsageError
from headwater.release import open_release
from tests.distribute.partners import need_module
from tests.distribute.release_kit import build_release, same, sample_files

FILES = sample_files(small=3, big=(9 << 20,))


class Bucket(BaseHTTPRequestHandler):
    """GET with Range, HEAD, PUT and ListObjectsV2 over a dictionary; signatures are not looked at."""

    protocol_version = "HTTP/1.1"
    server: Any

    def log_message(self, *_: object) -> None:
        pass

    def _key(self) -> str:
        return unquote(urlsplit(self.path).path).removeprefix("/bucket").lstrip("/")

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"Content_Length": str(len(body))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        if "list-type" in query:
            prefix = query.get("prefix", [""])[0]
            keys = sorted(key for key in self.server.objects if key.startswith(prefix))
            items = "".join(
                f"<Contents><Key>{escape(key)}</Key><Size>{len(self.server.objects[key][0])}</Size>"
                "<LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>x</ETag></Contents>"
                for key in keys
            )
            text = f"<ListBucketResult><IsTruncated>false</IsTruncated><KeyCount>{len(keys)}</KeyCount>{items}</ListBucketResult>"
            self._answer(200, text.encode(), Content_Type="application/xml")
            return
        if self.server.trouble:
            self._answer(self.server.trouble)
            return
        if self._key() not in self.server.objects:
            self._answer(404, b"<Error><Code>NoSuchKey</Code><Message>no</Message></Error>")
            return
        data, meta = self.server.objects[self._key()]
        extra = {"Last_Modified": "Thu, 01 Jan 2026 00:00:00 GMT", "ETag": '"x"'} | meta
        span = self.headers.get("Range")
        if span:
            start, _, last = span.removeprefix("bytes=").partition("-")
            end = min(int(last) + 1 if last else len(data), len(data))
            extra["Content_Range"] = f"bytes {start}-{end - 1}/{len(data)}"
            part = data[int(start) : end]
            self._answer(206, part, **extra)
            return
        self._answer(200, data, **extra | {"Content_Length": str(len(data))})

    do_HEAD = do_GET

    def do_PUT(self) -> None:
        if self.headers.get("Transfer-Encoding") == "chunked" or "aws-chunked" in self.headers.get(
            "Content-Encoding", ""
        ):
            body = self._chunks()
        else:
            body = self.rfile.read(int(self.headers["Content-Length"]))
        meta = {
            k.replace("-", "_"): v for k, v in self.headers.items() if k.lower().startswith("x-amz-meta-")
        }
        self.server.objects[self._key()] = (body, meta)
        self.server.puts.append(self._key())
        self._answer(200, ETag='"x"')

    def _chunks(self) -> bytes:
        raw = (
            self.rfile.read(int(self.headers["Content-Length"])) if "Content-Length" in self.headers else b""
        )
        parts = []
        while raw:
            line, _, raw = raw.partition(b"\r\n")
            size = int(line.partition(b";")[0], 16)
            if not size:
                break
            parts.append(raw[:size])
            raw = raw[size + 2 :]
        return b"".join(parts)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    need_module("s3fs")
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Bucket)
    server.daemon_threads = True
    server.objects, server.puts, server.trouble = {}, [], 0
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "canary-id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def release(tmp_path: Path) -> Path:
    (tmp_path / "rel").mkdir()
    build_release(tmp_path / "rel", FILES)
    return tmp_path / "rel"


@pytest.mark.slow
def test_publish_and_fetch(store: Any, release: Path, tmp_path: Path) -> None:
    opened = open_release(release)
    context = Context(tmp_path, limits=Limits(stall_seconds=10))
    plan = s3.publish(opened, "s3://bucket/data/set-1", context, dry_run=True)
    assert store.puts == []
    done = s3.publish(opened, "s3://bucket/data/set-1/", context, dry_run=False)
    assert done.sent_bytes == plan.sent_bytes and store.puts[-1] == "data/set-1/manifest.json"
    assert store.objects["data/set-1/set/big0.bin"][0] == FILES["big0.bin"]
    again = s3.publish(opened, "s3://bucket/data/set-1", context, dry_run=False)
    assert again.files == 0  # what is there by size and sha256 is not sent again
    result = fetch(["s3://bucket/data/set-1"], tmp_path / "out", FetchOptions(manifest=opened.manifest.id))
    assert same(tmp_path / "out", FILES)
    assert result["sources"][0]["source"] == "s3://bucket/data/set-1"
    assert "canary" not in str(result)


@pytest.mark.slow
def test_what_is_not_right(store: Any, release: Path, tmp_path: Path) -> None:
    s3.publish(open_release(release), "s3://bucket/x", Context(tmp_path), dry_run=False)
    source = s3.open_source("s3://bucket/x/manifest.json", Context(tmp_path, limits=Limits(stall_seconds=5)))
    assert source.release_file("absent") is None
    with pytest.raises(NotThere):
        list(source.read(Wanted("absent", 5), 0, 5))
    store.objects["x/set/small/001.bin"] = (b"short", {})
    with pytest.raises(SourceError):
        list(source.read(Wanted("small/001.bin", 1977), 0, 1977))
    store.trouble = 403
    with pytest.raises(Refused) as caught:
        list(source.read(Wanted("big0.bin", 100), 0, 100))
    assert "canary" not in str(caught.value)


def test_keys_are_no_part_of_a_location(tmp_path: Path) -> None:
    for location in ("s3://id:canary@bucket/x", "s3://bucket/x?secret=canary"):
        with pytest.raises(UsageError) as caught:
            s3.open_source(location, Context(tmp_path))
        assert "canary" not in str(caught.value)
    with pytest.raises(UsageError):
        s3.open_source("s3://", Context(tmp_path))


def test_a_missing_package_is_told_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(MissingExtra) as caught:
        s3.open_source("s3://bucket/x", Context(tmp_path)).release_file("manifest.json")
    assert caught.value.hint == "pip install 'headwater[s3]'"


def test_other_stores_come_through_fsspec(release: Path, tmp_path: Path) -> None:
    """fsspec's own memory store stands for any other."""
    fsspec = need_module("fsspec")
    memory = fsspec.filesystem("memory")
    source = s3.S3Source("memory://bucket/y", Context(tmp_path))
    memory.pipe_file("bucket/y/release.json", (release / "release.json").read_bytes())
    memory.pipe_file("bucket/y/set/big0.bin", FILES["big0.bin"])
    got = b"".join(source.read(Wanted("big0.bin", 9 << 20), 5, (9 << 20) - 5))
    assert got == FILES["big0.bin"][5:]
    with pytest.raises(WrongBytes):
        list(source.read(Wanted("big0.bin", 10 << 20), 0, 10 << 20))
