"""Rows 72, 73 and 95 of the catalogue: what a stranger's web server can do to a request."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

import pytest

from distribute.transports._base import (
    Context,
    Limits,
    NotThere,
    Refused,
    SourceError,
    Stalled,
    Unreachable,
    Wanted,
    WrongBytes,
)
from distribute.transports._web import Busy, NoRanges, Web
from distribute.transports.http import HttpSource
from headwater.errors import HeadwaterError
from tests.distribute import loopback
from tests.distribute.loopback import Mirror
from tests.faults import web_kit
from tests.faults.web_kit import DATA, FAST, HASTY, read

mirror, web = web_kit.mirror, web_kit.web


# 72: slow, endless, wrong


@pytest.mark.parametrize("wrong", [loopback.drip(0.05), loopback.drip(0.05, header=True), loopback.stall(3)])
def test_slow_and_silent_servers_are_given_up(mirror: Mirror, tmp_path: Path, wrong: loopback.Wrong) -> None:
    mirror.wrong["data.bin"] = wrong
    begun = time.monotonic()
    with Web(Context(tmp_path, limits=HASTY, allow_private=True)) as web:
        with pytest.raises(Stalled):
            read(web, mirror.url + "data.bin", length=len(DATA), attempts=1)
        with pytest.raises(Stalled):
            web.request("GET", mirror.url + "data.bin", attempts=1)
    assert time.monotonic() - begun < 10


def test_an_endless_body_is_cut(mirror: Mirror, web: Web) -> None:
    mirror.wrong["data.bin"] = loopback.endless
    with pytest.raises(WrongBytes, match="more than 1,000,000 bytes"):
        web.request("GET", mirror.url + "data.bin", limit_bytes=1_000_000)
    assert len(read(web, mirror.url + "data.bin", length=100_000)) == 100_000
    begun = time.monotonic()
    wanted = Wanted("data.bin", len(DATA))
    source = HttpSource(mirror.url, Context(Path(), limits=FAST, allow_private=True))
    assert len(b"".join(source.read(wanted, 0, len(DATA)))) == len(DATA)  # what is too much is not taken
    source.close()
    assert time.monotonic() - begun < 5


def test_wrong_lengths(mirror: Mirror, web: Web) -> None:
    mirror.wrong["data.bin"] = loopback.short
    with pytest.raises(Unreachable, match="broke off"):
        read(web, mirror.url + "data.bin", length=len(DATA), size=len(DATA))
    mirror.wrong["data.bin"] = lambda handler, path: handler.body(
        200, DATA[:10], Content_Length="999999999999"
    )
    with pytest.raises(WrongBytes, match="999,999,999,999"):
        read(web, mirror.url + "data.bin", length=len(DATA), size=len(DATA))
    mirror.wrong["data.bin"] = lambda handler, path: handler.body(200, DATA, Content_Length="-5")
    with pytest.raises(SourceError):
        read(web, mirror.url + "data.bin", length=len(DATA), size=len(DATA), attempts=1)


def test_chunked_garbage(mirror: Mirror, web: Web) -> None:
    def garbage(handler: loopback.Handler, path: Path) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n")
        handler.close_connection = True

    mirror.wrong["data.bin"] = garbage
    with pytest.raises(Unreachable):
        read(web, mirror.url + "data.bin", attempts=1)
    mirror.wrong["data.bin"] = lambda handler, path: (
        handler.wfile.write(b"\x16\x03\x01 not http\r\n\r\n") and None
    )
    with pytest.raises(SourceError):
        web.request("GET", mirror.url + "data.bin", attempts=1)


def test_a_packed_bomb_is_not_unpacked(mirror: Mirror, web: Web) -> None:
    mirror.wrong["manifest.json"] = loopback.bomb
    with pytest.raises(WrongBytes, match="more than 1,000,000 bytes"):
        web.request("GET", mirror.url + "manifest.json", limit_bytes=1_000_000)
    assert mirror.headers[-1]["Accept-Encoding"] == "identity"
    answer = web.request("GET", mirror.url + "manifest.json", limit_bytes=64 << 20)
    assert answer.body == bytes(64 << 20)  # what fits is taken
    mirror.wrong["manifest.json"] = lambda handler, path: handler.body(200, b"x", Content_Encoding="br")
    with pytest.raises(WrongBytes, match="packed as 'br'"):
        web.request("GET", mirror.url + "manifest.json")
    mirror.wrong["manifest.json"] = lambda handler, path: handler.body(
        200, b"\x1f\x8b\x08xx", Content_Encoding="gzip"
    )
    with pytest.raises(WrongBytes):
        web.request("GET", mirror.url + "manifest.json")


def test_a_page_is_no_document(mirror: Mirror, web: Web) -> None:
    mirror.wrong["x.json"] = loopback.page
    with pytest.raises(WrongBytes, match="no JSON \\(text/html"):
        web.request("GET", mirror.url + "x.json").json()
    with pytest.raises(WrongBytes, match="web page"):
        read(web, mirror.url + "x.json", length=500, size=500)


# 73: busy servers, other ranges, changed objects


def test_busy_servers_are_asked_again(mirror: Mirror, web: Web) -> None:
    mirror.wrong["data.bin"] = loopback.times(1, loopback.status(429, Retry_After="0"))
    assert web.request("GET", mirror.url + "data.bin").body == DATA
    mirror.wrong["data.bin"] = loopback.times(1, loopback.status(503))
    assert read(web, mirror.url + "data.bin") == DATA
    mirror.wrong["data.bin"] = loopback.times(1, loopback.status(500))
    assert read(web, mirror.url + "data.bin") == DATA


def test_a_long_wait_is_bounded(mirror: Mirror, web: Web) -> None:
    mirror.wrong["data.bin"] = loopback.status(503, Retry_After="1000000000")
    begun = time.monotonic()
    with pytest.raises(Busy) as caught:
        web.request("GET", mirror.url + "data.bin")
    assert time.monotonic() - begun < 5 and caught.value.wait_seconds == 1e9
    mirror.wrong["data.bin"] = loopback.status(429, Retry_After="Fri, 31 Dec 9999 23:59:59 GMT")
    with pytest.raises(Busy):
        web.request("GET", mirror.url + "data.bin")
    mirror.wrong["data.bin"] = loopback.status(429, Retry_After="soon")
    with pytest.raises(Busy) as caught:
        web.request("GET", mirror.url + "data.bin")
    assert caught.value.wait_seconds is None


def test_stop_ends_a_wait(mirror: Mirror, tmp_path: Path) -> None:
    context = Context(tmp_path, limits=Limits(backoff_limit_seconds=60), allow_private=True)
    mirror.wrong["data.bin"] = loopback.status(503, Retry_After="50")
    threading.Timer(0.2, context.stop.set).start()
    begun = time.monotonic()
    with Web(context) as web, pytest.raises(Busy):
        web.request("GET", mirror.url + "data.bin")
    assert time.monotonic() - begun < 20


def test_a_body_that_is_an_iterator_is_sent_once(
    mirror: Mirror, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loopback.Handler, "do_PUT", loopback.Handler.do_GET, raising=False)
    mirror.wrong["data.bin"] = loopback.status(500)
    with pytest.raises(Unreachable):
        web.request("PUT", mirror.url + "data.bin", content=iter([b""]))
    assert len(mirror.asked) == 1
    with pytest.raises(Unreachable):
        web.request("PUT", mirror.url + "data.bin", content=b"")
    assert len(mirror.asked) == 3


def test_ranges(mirror: Mirror, web: Web) -> None:
    url = mirror.url + "data.bin"
    assert read(web, url, 1000, 5000, size=len(DATA)) == DATA[1000:6000]
    assert read(web, url, len(DATA) - 3) == DATA[-3:]
    mirror.wrong["data.bin"] = loopback.other_range
    with pytest.raises(WrongBytes, match="sent bytes 101-"):
        read(web, url, 100, 50)
    mirror.wrong["data.bin"] = loopback.no_ranges
    with pytest.raises(NoRanges):
        read(web, url, 100, 50)
    assert read(web, url, 0, 50) == DATA[:50]
    mirror.wrong["data.bin"] = lambda handler, path: handler.body(
        206, DATA[:50], Content_Range="bytes nonsense"
    )
    with pytest.raises(WrongBytes, match="readable Content-Range"):
        read(web, url, 0, 50)
    mirror.wrong["data.bin"] = loopback.status(416)
    with pytest.raises(WrongBytes, match="shorter"):
        read(web, url, 100, 50)


def test_a_mirror_without_ranges_gives_parts_all_the_same(mirror: Mirror, tmp_path: Path) -> None:
    mirror.wrong["data.bin"] = loopback.no_ranges
    source = HttpSource(mirror.url, Context(tmp_path, limits=FAST, allow_private=True))
    assert b"".join(source.read(Wanted("data.bin", len(DATA)), 70_000, 5)) == DATA[70_000:70_005]
    assert not source.ranges
    source.close()


def test_an_object_that_changes_between_two_parts_is_told(mirror: Mirror, tmp_path: Path) -> None:
    mirror.wrong["data.bin"] = loopback.etags()
    source = HttpSource(mirror.url, Context(tmp_path, limits=FAST, allow_private=True))
    wanted = Wanted("data.bin", len(DATA))
    assert b"".join(source.read(wanted, 0, 10)) == DATA[:10]
    with pytest.raises(WrongBytes, match="changed there"):
        list(source.read(wanted, 10, 10))
    source.close()


# 95, for requests: no secret in any message or log


def test_no_secret_in_messages_and_logs(mirror: Mirror, web: Web, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    texts = []
    for url in (
        f"http://user:canary@127.0.0.1:{mirror.port}/absent?x=1",
        f"{mirror.url}absent?token=canary&x=1",
        f"{mirror.url}absent?X-Amz-Signature=canary&X-Amz-Credential=canary",
        "http://user:canary@127.0.0.1:1/?api_key=canary",
        "ftp://user:canary@host/",
        "http://user:canary@[::1",
    ):
        with pytest.raises(HeadwaterError) as caught:
            web.request("GET", url, headers={"Authorization": "Bearer canary"}, attempts=1)
        error: BaseException | None = caught.value
        while error is not None:  # what a traceback would show
            if not error.__suppress_context__ or error is caught.value:
                texts.append(f"{error} {getattr(error, 'hint', '')}")
            error = error.__cause__
    assert "canary" not in " ".join(texts) + caplog.text
    assert "***" in " ".join(texts)


def test_statuses(mirror: Mirror, web: Web) -> None:
    for code, kind in ((404, NotThere), (410, NotThere), (401, Refused), (403, Refused), (418, SourceError)):
        mirror.wrong["data.bin"] = loopback.status(code)
        with pytest.raises(kind, match=str(code)):
            web.request("GET", mirror.url + "data.bin")
    assert web.request("GET", mirror.url + "data.bin", ok=(418,)).status == 418
