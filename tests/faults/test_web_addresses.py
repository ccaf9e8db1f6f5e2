"""Rows 68-71 of the catalogue: schemes, private addresses in every spelling, redirects, name servers."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import pytest

from distribute.transports import _addresses
from distribute.transports._addresses import is_public
from distribute.transports._base import (
    Context,
    Refused,
    SourceError,
    Unreachable,
)
from distribute.transports._registry import transport_of
from distribute.transports._web import Web
from tests.distribute import loopback
from tests.distribute.loopback import Mirror
from tests.faults import web_kit
from tests.faults.web_kit import DATA, FAST, HASTY

mirror, web = web_kit.mirror, web_kit.web


# 68: schemes


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://127.0.0.1/x",
        "data:text/plain,hello",
        "gopher://127.0.0.1:70/x",
        "javascript:alert(1)",
        "FILE:/etc/passwd",
    ],
)
def test_only_http_is_fetched(web: Web, url: str) -> None:
    with pytest.raises(Refused):
        web.request("GET", url)
    with pytest.raises(Refused):
        transport_of(url)


@pytest.mark.parametrize(
    "url", ["http://", "http:///x", "http://[::1", "http://a b/", "http://\0/", "http://x:0/", "//x"]
)
def test_addresses_that_are_none(web: Web, url: str) -> None:
    with pytest.raises(SourceError):
        web.request("GET", url, attempts=1)


# 69: private addresses, however they are written

PRIVATE = [
    "127.0.0.1", "127.1.2.3", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
    "::1", "::", "fe80::1", "fc00::1", "fec0::1", "::ffff:127.0.0.1", "::ffff:7f00:1", "::127.0.0.1",
    "64:ff9b::7f00:1", "64:ff9b:1::1", "2002:7f00:1::1", "2002:a00:1::1", "224.0.0.1", "ff02::1", "255.255.255.255",
    "192.0.2.1", "198.18.0.1", "240.0.0.1", "fe80::1%eth0", "nonsense",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_are_told(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"],
)
def test_public_addresses_are_told(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "0x7f.1", "2130706433", "0177.0.0.1", "0", "127.1", "localhost", "localhost.", "LOCALHOST", "[::1]",
        "[::ffff:7f00:1]", "[::ffff:127.0.0.1]", "①②⑦.⓪.⓪.①", "127。0。0。1", "10.0.0.1", "169.254.169.254", "100.64.0.1",
    ],
)  # fmt: skip
def test_private_hosts_are_refused_before_any_connection(mirror: Mirror, tmp_path: Path, host: str) -> None:
    with Web(Context(tmp_path, limits=FAST)) as web, pytest.raises(SourceError) as caught:
        web.request("GET", f"http://{host}:{mirror.port}/data.bin")
    assert isinstance(caught.value, (Refused, Unreachable))  # Unreachable: no such name
    assert mirror.asked == []


def test_allow_private_allows(mirror: Mirror, web: Web) -> None:
    assert web.request("GET", mirror.url + "data.bin").body == DATA
    assert web.request("GET", f"http://localhost:{mirror.port}/data.bin").body == DATA


# 70: redirects


def test_a_redirect_into_the_private_net_is_refused(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first host counts as public here (a stub), the second one is really private."""
    public = {"public.example"}
    monkeypatch.setattr(
        _addresses,
        "lookup",
        lambda host, port: [(socket.AF_INET, "127.0.0.1" if host in public else "10.0.0.7", port)],
    )
    monkeypatch.setattr(_addresses, "is_public", lambda address: address == "127.0.0.1")
    mirror.wrong["to-private"] = loopback.redirect("http://inside.example/secret")
    with Web(Context(tmp_path, limits=FAST)) as web, pytest.raises(Refused, match="10.0.0.7 is private"):
        web.request("GET", f"http://public.example:{mirror.port}/to-private")


def test_redirects_are_followed_to_a_limit(mirror: Mirror, web: Web) -> None:
    mirror.wrong["loop"] = loopback.redirect("/loop")
    with pytest.raises(Refused, match="more than 5 times"):
        web.request("GET", mirror.url + "loop")
    assert len(mirror.asked) == 6
    for hop in range(5):
        mirror.wrong[f"hop{hop}"] = loopback.redirect(
            f"hop{hop + 1}" if hop < 4 else "data.bin", 301 + hop % 2
        )
    answer = web.request("GET", mirror.url + "hop0")
    assert answer.body == DATA and answer.url == mirror.url + "data.bin"


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "ftp://127.0.0.1/", "javascript:x", "http://[::1", "data:,x"]
)
def test_a_redirect_to_another_scheme_is_refused(mirror: Mirror, web: Web, target: str) -> None:
    mirror.wrong["away"] = loopback.redirect(target)
    with pytest.raises(Refused):
        web.request("GET", mirror.url + "away")


def test_secret_headers_do_not_follow_to_another_host(mirror: Mirror, web: Web, tmp_path: Path) -> None:
    secret = {"Authorization": "Bearer canary", "Girder-Token": "canary", "X-Other": "kept"}
    with Mirror(tmp_path) as other:
        mirror.wrong["away"] = loopback.redirect(other.url + "data.bin")
        web.request("GET", mirror.url + "away", headers=secret)
        assert "canary" in str(mirror.headers) and "canary" not in str(other.headers)
        assert other.headers[0]["X-Other"] == "kept"
        with Web(Context(tmp_path, limits=FAST, allow_private=True), headers=secret) as own:
            own.request("GET", mirror.url + "away")
        assert "canary" not in str(other.headers)


def test_a_post_is_not_sent_on(mirror: Mirror, web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loopback.Handler, "do_POST", loopback.Handler.do_GET, raising=False)
    mirror.wrong["form"] = loopback.redirect("data.bin", 303)
    with pytest.raises(Refused, match="sends a POST on"):
        web.request("POST", mirror.url + "form", content=b"")


# 71: names


def test_rebinding_changes_nothing(mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is public when it is judged and private when it is asked again: the judged address is the one used."""
    answers = iter([["93.184.216.34"], ["127.0.0.1"], ["127.0.0.1"]])
    asked = []

    def lookup(host: str, port: int) -> list[_addresses.Address]:
        asked.append(host)
        return [(socket.AF_INET, address, port) for address in next(answers)]

    connected = []

    def connect(address: tuple[str, int], *_: object, **__: object) -> socket.socket:
        connected.append(address[0])
        raise ConnectionRefusedError(111, "refused")

    monkeypatch.setattr(_addresses, "lookup", lookup)
    monkeypatch.setattr(socket, "create_connection", connect)
    with Web(Context(tmp_path, limits=FAST)) as web:
        with pytest.raises(Unreachable):
            web.request("GET", f"http://rebind.example:{mirror.port}/", attempts=1)
        with pytest.raises(Refused, match="127.0.0.1 is private"):
            web.request("GET", f"http://rebind.example:{mirror.port}/", attempts=1)
    assert connected == ["93.184.216.34"] and asked == ["rebind.example"] * 2
    assert mirror.asked == []


def test_private_ones_among_many_answers_are_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = ["127.0.0.1", "10.1.1.1"] + [f"8.8.{n // 256}.{n % 256}" for n in range(1000)]
    monkeypatch.setattr(_addresses, "lookup", lambda host, port: [(socket.AF_INET, a, port) for a in many])
    found = _addresses.resolve("many.example", 80, allow_private=False, seconds=1)
    assert [address for _, address, _ in found] == many[2 : 2 + _addresses.MOST_ADDRESSES]


def test_slow_and_failing_name_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    web = Web(Context(tmp_path, limits=HASTY))
    release = threading.Event()
    monkeypatch.setattr(_addresses, "lookup", lambda host, port: release.wait(20) and [])
    begun = time.monotonic()
    with pytest.raises(Unreachable, match="not resolved within"):
        web.request("GET", "http://slow.example/", attempts=1)
    assert time.monotonic() - begun < 10
    release.set()

    def fail(host: str, port: int) -> list[_addresses.Address]:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(_addresses, "lookup", fail)
    with pytest.raises(Unreachable, match="no such name"):
        web.request("GET", "http://absent.example/", attempts=1)
