"""Requests in order: bodies, parameters, limits, several threads at once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from distribute.transports._base import Context, Unreachable, WrongBytes
from distribute.transports._web import Web
from tests.distribute.loopback import Handler, Mirror

DATA = bytes(range(256)) * 4000


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    (tmp_path / "data.bin").write_bytes(DATA)

    def echo(handler: Handler) -> None:
        if handler.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(handler.rfile.readline(), 16):
                parts.append(handler.rfile.read(size))
                handler.rfile.readline()
            handler.rfile.readline()
            body = b"".join(parts)
        else:
            body = handler.rfile.read(int(handler.headers.get("Content-Length", "0")))
        with handler.server.mirror.lock:
            handler.server.mirror.asked.append((handler.command, handler.path, ""))
        told = {"path": handler.path, "body": body.decode(), "type": handler.headers.get("Content-Type", "")}
        handler.body(200, json.dumps(told).encode(), Content_Type="application/json")

    monkeypatch.setattr(Handler, "do_POST", echo, raising=False)
    monkeypatch.setattr(Handler, "do_PUT", echo, raising=False)
    with Mirror(tmp_path) as server:
        yield server


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    with Web(Context(tmp_path, allow_private=True)) as client:
        yield client


def test_bodies_and_parameters(mirror: Mirror, web: Web) -> None:
    url = mirror.url + "x"
    assert web.request("POST", url, json={"a": 1}).json()["body"] == '{"a":1}'
    assert web.request("POST", url, data={"a": "b c"}).json()["body"] == "a=b+c"
    assert web.request("POST", url, params={"q": "ü&"}).json()["path"] == "/x?q=%C3%BC%26"
    assert web.request("PUT", url, content=b"bytes").json()["body"] == "bytes"
    assert web.request("PUT", url, content=iter([b"by", b"tes"])).json()["body"] == "bytes"
    answer = web.request("POST", url, headers={"Content-Type": "text/x"}, content=b"1")
    assert answer.json()["type"] == "text/x" and answer.headers["content-TYPE"] == "application/json"
    form = web.request("POST", url, files={"file": ("name", b"inside")}).json()
    assert "inside" in form["body"] and form["type"].startswith("multipart/form-data")


def test_a_limit_is_exact(mirror: Mirror, web: Web) -> None:
    url = mirror.url + "data.bin"
    assert web.request("GET", url, limit_bytes=len(DATA)).body == DATA
    with pytest.raises(WrongBytes):
        web.request("GET", url, limit_bytes=len(DATA) - 1)
    assert web.request("HEAD", url).body == b""


def test_a_stream_is_lazy_and_exact(mirror: Mirror, web: Web) -> None:
    blocks = web.stream(mirror.url + "data.bin", offset=10, length=100)
    assert mirror.asked == []
    seen: dict[str, str] = {}
    assert b"".join(blocks) == DATA[10:110]
    assert b"".join(web.stream(mirror.url + "data.bin", seen=seen)) == DATA
    assert seen["content-length"] == str(len(DATA))
    part = web.stream(mirror.url + "data.bin")
    assert DATA.startswith(next(part))
    part.close()  # half read: the connection is given up, the next request is not disturbed
    assert web.request("GET", mirror.url + "data.bin").body == DATA


def test_many_threads_share_a_client(mirror: Mirror, web: Web) -> None:
    def one(number: int) -> bool:
        return (
            b"".join(web.stream(mirror.url + "data.bin", offset=number, length=5000))
            == DATA[number : number + 5000]
        )

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(one, range(60)))
    assert mirror.connections <= 8


def test_a_post_that_may_have_arrived_is_not_sent_again(
    mirror: Mirror, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    def vanish(handler: Handler) -> None:
        mirror.asked.append(("POST", handler.path, ""))
        handler.close_connection = True

    monkeypatch.setattr(Handler, "do_POST", vanish)
    with pytest.raises(Unreachable):
        web.request("POST", mirror.url + "y", content=b"once")
    assert len(mirror.asked) == 1
