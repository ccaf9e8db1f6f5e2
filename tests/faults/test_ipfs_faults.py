"""Rows 77 and 80 of the fault catalogue, as the IPFS transport meets them: lying, broken, slow and absent gateways.

Each case twice: alone the fault is an error of one exact kind that names gateway and CID, within a bounded time; beside a healthy
gateway the right bytes come all the same, and the one that lied is named.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from distribute.car import car_header, car_section
from distribute.cid import RAW, Cid, varint
from distribute.dagpb import DIRECTORY, decode_unixfs
from distribute.transports import _blocks, ipfs
from distribute.transports._base import (
    NotThere,
    Refused,
    SourceError,
    Stalled,
    Unreachable,
    Wanted,
    WrongBytes,
)
from distribute.transports._providers import STRIKES
from distribute.transports.ipfs import IpfsSource, open_source
from headwater import console
from tests.distribute.ipfs_kit import (
    SHORT,
    Dag,
    GatewayDouble,
    Reply,
    Section,
    dfs,
    make_dag,
    quick,
    some_files,
    within,
)
from tests.distribute.ipfs_node_double import NodeDouble

RAW_KIND = "application/vnd.ipld.raw"
CAR_KIND = "application/vnd.ipld.car; version=1"
PAGE = b"<!doctype html><html><body>Please sign in, or wait while we check your browser</body></html>"


@pytest.fixture(scope="module")
def dag() -> Dag:
    return make_dag(some_files(7))


@pytest.fixture
def told() -> Iterator[list[str]]:
    """Warnings that were said."""
    heard: list[str] = []

    class Sink(console.Silent):
        def message(self, level: str, text: str, fields: dict[str, Any]) -> None:
            if level == "warning":
                heard.append(text)

    before = console._sink.set(Sink())
    yield heard
    console._sink.reset(before)


def wanted(dag: Dag, path: str) -> Wanted:
    return Wanted(path, len(dag.contents[path]), cid=dag.files[path].cid.text)


def read(source: IpfsSource, file: Wanted) -> bytes:
    try:
        return b"".join(source.read(file, 0, file.size_bytes))
    finally:
        source.close()


def flipped(block: bytes) -> bytes:
    middle = len(block) // 2
    return block[:middle] + bytes([block[middle] ^ 0x10]) + block[middle + 1 :]


# single blocks

LIES: dict[str, tuple[Callable[[GatewayDouble, Cid], Reply], type[SourceError]]] = {
    "a flipped bit": (lambda g, c: Reply([flipped(g.blocks[c.digest][1])], kind=RAW_KIND), WrongBytes),
    "the block of another CID": (
        lambda g, c: Reply([next(b for d, (_, b) in g.blocks.items() if d != c.digest)], kind=RAW_KIND),
        WrongBytes,
    ),
    "a block cut short": (lambda g, c: Reply([g.blocks[c.digest][1][:-1]], kind=RAW_KIND), WrongBytes),
    "nothing": (lambda g, c: Reply([], kind=RAW_KIND), WrongBytes),
    "HTML with 200": (lambda g, c: Reply([PAGE], kind="text/html"), WrongBytes),
    "a block without end": (
        lambda g, c: Reply(iter(lambda: bytes(1 << 16), None), kind=RAW_KIND),
        WrongBytes,
    ),
    "not here": (lambda g, c: Reply([b"no"], 404), NotThere),
    "gone": (lambda g, c: Reply([b"no"], 410), NotThere),
    "forbidden": (lambda g, c: Reply([b"no"], 403), Refused),
    "gateway timeout": (lambda g, c: Reply([b"no"], 504), Unreachable),
    "a connection that breaks": (lambda g, c: Reply([b"x"], kind=RAW_KIND, cut=True), Unreachable),
    "silence": (lambda g, c: Reply([b"x", g.wait], kind=RAW_KIND), Stalled),
    "on to a file": (lambda g, c: Reply([], 302, headers={"Location": "file:///etc/passwd"}), Refused),
}


class Liar(GatewayDouble):
    """Gives single blocks only, by one of LIES."""

    lie: Callable[[GatewayDouble, Cid], Reply]

    def raw(self, cid: Cid) -> Reply:
        return self.lie(self, cid)

    def car(self, cid: Cid, first: int, last: int | None) -> Reply:
        return Reply([b"no CARs here"], 406, "text/plain")


SLOW = pytest.mark.slow  # silence takes its time, twice


@pytest.mark.parametrize("name", [pytest.param(n, marks=SLOW) if n == "silence" else n for n in LIES])
def test_a_lie_about_a_block(name: str, dag: Dag, tmp_path: Path, told: list[str]) -> None:
    lie, kind = LIES[name]
    file = wanted(dag, "a b/é.bin")
    stall = SHORT if name == "silence" else 10.0
    with Liar(dag.blocks) as liar, GatewayDouble(dag.blocks) as good:
        liar.lie = lie  # type: ignore[method-assign,assignment]
        with within(60), pytest.raises(SourceError) as caught:
            read(open_source(dag.root.text, quick(tmp_path, liar.url, stall=stall)), file)
        assert type(caught.value) is kind and caught.value.exit_code == (13 if kind is WrongBytes else 1)
        assert file.cid is not None and file.cid in caught.value.message
        assert liar.url in caught.value.message
        if name == "HTML with 200":
            assert "text/html" in caught.value.message
        told.clear()
        with within(60):
            found = read(open_source(dag.root.text, quick(tmp_path, liar.url, good.url, stall=stall)), file)
        assert found == dag.contents[file.path]
        if kind is not NotThere:
            assert any(liar.url in text for text in told)
        assert not any(good.url in text for text in told)


def test_every_block_of_a_listing_is_checked(dag: Dag, tmp_path: Path) -> None:
    with Liar(dag.blocks) as liar:
        lie = LIES["a flipped bit"][0]
        tops = {built.cid.digest for built in dag.files.values()} | {
            digest for digest in dag.nodes if decode_unixfs(*dag.nodes[digest])[0].type == DIRECTORY
        }
        for victim in tops & dag.nodes.keys():

            def one(gateway: GatewayDouble, cid: Cid, victim: bytes = victim) -> Reply:
                return lie(gateway, cid) if cid.digest == victim else GatewayDouble.raw(gateway, cid)

            liar.lie = one  # type: ignore[method-assign,assignment]
            source = open_source(dag.root.text, quick(tmp_path, liar.url))
            with pytest.raises(WrongBytes, match=dag.nodes[victim][0].text):
                source.listing()
            source.close()


def test_a_liar_is_asked_no_more(dag: Dag, tmp_path: Path, told: list[str]) -> None:
    file = wanted(dag, "big.bin")
    with Liar(dag.blocks) as liar, Liar(dag.blocks) as good:
        liar.lie = LIES["a flipped bit"][0]  # type: ignore[method-assign,assignment]
        good.lie = GatewayDouble.raw  # type: ignore[method-assign,assignment]
        source = open_source(dag.root.text, quick(tmp_path, liar.url, good.url))
        assert read(source, file) == dag.contents["big.bin"]
        raw = [line for line in liar.asked if "format=raw" in line]
        # blocks that were on their way when the last strike fell come on top
        assert STRIKES <= len(raw) <= STRIKES + ipfs.THREADS
    assert sum("asked no more" in text for text in told) == 1
    assert sum("not the block" in text for text in told) == 1


def test_alone_a_liar_stays_a_liar(dag: Dag, tmp_path: Path) -> None:
    with Liar(dag.blocks) as liar:
        liar.lie = LIES["a flipped bit"][0]  # type: ignore[method-assign,assignment]
        source = open_source(dag.root.text, quick(tmp_path, liar.url))
        for _ in range(STRIKES + 2):
            with pytest.raises(WrongBytes, match=liar.url):
                source.listing()
        assert len(liar.asked) == STRIKES
        source.close()


def test_a_silent_gateway_costs_its_time_once(dag: Dag, tmp_path: Path) -> None:
    with Liar(dag.blocks) as sleeper, GatewayDouble(dag.blocks) as good:
        sleeper.lie = LIES["silence"][0]  # type: ignore[method-assign,assignment]
        source = open_source(dag.root.text, quick(tmp_path, sleeper.url, good.url, stall=SHORT))
        with within(60):
            for file in source.listing():
                assert b"".join(source.read(file, 0, file.size_bytes)) == dag.contents[file.path]
        assert len(sleeper.asked) <= ipfs.THREADS
        source.close()


# CAR streams

Change = Callable[[list[Section]], Iterable[Section]]


def _extra(found: list[Section]) -> Iterator[Section]:
    for number, section in enumerate(found):
        other = b"nobody asked for %d" % number
        yield Cid.of(RAW, other), other
        yield section


SHUFFLES: dict[str, tuple[Change, int]] = {  # and the most single blocks that may be asked for on top
    "extra blocks": (_extra, 0),
    "repeated blocks": (
        lambda found: [s for section in found for s in (section, found[0], found[-1])],
        0,
    ),
    "leaves backwards": (lambda found: [found[0], *reversed(found[1:])], 0),
    "root last": (lambda found: [*found[1:], found[0]], 0),
    "a block missing": (lambda found: [*found[:4], *found[5:]], 1),
    "only the root": (lambda found: found[:1], 9),
    "no blocks": (lambda found: [], 10),
    "tiny blocks without end": (
        lambda found: ((Cid.of(RAW, b"%d" % n), b"%d" % n) for n in range(1 << 60)),
        10,
    ),
}


@pytest.mark.parametrize("name", SHUFFLES)
def test_a_car_in_any_order(name: str, dag: Dag, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ipfs, "CAR_SPARE_BYTES", 2 << 20)
    monkeypatch.setattr(
        _blocks, "ENTRY_BYTES", 4096
    )  # so that what never ends does so in a few thousand blocks
    change, most = SHUFFLES[name]
    file = wanted(dag, "big.bin")

    class Odd(GatewayDouble):
        def sections(self, found: Iterable[Section]) -> Iterable[Section]:
            return change(list(found))

    with Odd(dag.blocks) as gateway, within(60):
        found = read(open_source(dag.root.text, quick(tmp_path, gateway.url)), file)
        assert found == dag.contents["big.bin"]
        assert sum("format=raw" in line for line in gateway.asked) == most


def _car(sections: list[Section]) -> bytes:
    return b"".join([car_header([sections[0][0]]), *(car_section(*section) for section in sections)])


BROKEN: dict[str, Callable[[list[Section]], Reply]] = {
    "cut between two blocks": lambda s: Reply([_car(s[:3])], kind=CAR_KIND),
    "cut inside a block": lambda s: Reply([_car(s)[: 3 << 20]], kind=CAR_KIND),
    "cut inside a length": lambda s: Reply([_car(s[:2]), varint(1 << 20)[:1]], kind=CAR_KIND),
    "connection lost": lambda s: Reply([_car(s)[: 3 << 20]], kind=CAR_KIND, cut=True),
    "empty": lambda s: Reply([], kind=CAR_KIND),
    "a flipped bit": lambda s: Reply([flipped(_car(s))], kind=CAR_KIND),
    "a length without end": lambda s: Reply([_car(s[:2]), b"\xff" * 12], kind=CAR_KIND),
    "a length of exabytes": lambda s: Reply([_car(s[:2]), varint(1 << 62)], kind=CAR_KIND),
    "a CARv2": lambda s: Reply([b"\x0a\xa1\x67version\x02" + bytes(40)], kind=CAR_KIND),
    "HTML": lambda s: Reply([PAGE * 40], kind="text/html"),
    "HTML that calls itself a CAR": lambda s: Reply([PAGE * 40], kind=CAR_KIND),
    "a SHA-1 block": lambda s: Reply(
        [_car(s[:2]), varint(24 + 3), b"\x01\x55\x11\x14" + hashlib.sha1(b"abc").digest() + b"abc"],
        kind=CAR_KIND,
    ),
    "another folder": lambda s: Reply([_car(make_dag({"x": b"y"}).ordered())], kind=CAR_KIND),
    "not acceptable": lambda s: Reply([b"no"], 406),
    "not here": lambda s: Reply([b"no"], 404),
    "out of order": lambda s: Reply([b"no"], 500),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_car_falls_back_to_blocks(name: str, dag: Dag, tmp_path: Path, told: list[str]) -> None:
    file = wanted(dag, "big.bin")

    class Odd(GatewayDouble):
        def car(self, cid: Cid, first: int, last: int | None) -> Reply:
            return BROKEN[name](list(dfs(self.blocks, cid, first, last)))

    with Odd(dag.blocks) as gateway, within(60):
        found = read(open_source(dag.root.text, quick(tmp_path, gateway.url)), file)
        assert found == dag.contents["big.bin"]
    if name in ("a flipped bit", "a length of exabytes", "HTML that calls itself a CAR", "a CARv2"):
        assert any(gateway.url in text for text in told)


def test_a_car_that_stalls_is_taken_over(dag: Dag, tmp_path: Path, told: list[str]) -> None:
    file = wanted(dag, "big.bin")

    class Sleeper(GatewayDouble):
        def car(self, cid: Cid, first: int, last: int | None) -> Reply:
            whole = _car(list(dfs(self.blocks, cid, first, last)))
            return Reply([whole[: 4 << 20], self.wait, whole[4 << 20 :]], kind=CAR_KIND)

    with Sleeper(dag.blocks) as sleeper, GatewayDouble(dag.blocks) as good, within(60):
        source = open_source(dag.root.text, quick(tmp_path, sleeper.url, good.url, stall=SHORT))
        assert read(source, file) == dag.contents["big.bin"]
        assert good.asked
    assert any("stalled" in text and sleeper.url in text for text in told)


def test_a_car_with_bad_bytes_and_no_other_source(dag: Dag, tmp_path: Path) -> None:
    """One leaf is bad wherever it is asked for: the bytes before it come, then an error that names it and the file."""
    file = wanted(dag, "big.bin")
    bad_cid, bad_block = list(dfs(dag.blocks, Cid.parse(file.cid or "")))[5]
    blocks = dag.blocks | {bad_cid.digest: (bad_cid, flipped(bad_block))}
    with GatewayDouble(blocks) as gateway, within(60):
        source = open_source(dag.root.text, quick(tmp_path, gateway.url))
        got = b""
        with pytest.raises(WrongBytes, match=bad_cid.text):
            for part in source.read(file, 0, file.size_bytes):
                got += part
        assert got == dag.contents["big.bin"][: 4 << 20]
        source.close()


# who is there


def test_everybody_down(dag: Dag, tmp_path: Path) -> None:
    with GatewayDouble({}) as first, NodeDouble() as second:
        pass
    source = open_source(dag.root.text, quick(tmp_path, first.url, ipfs_api=second.url))
    with within(60), pytest.raises(Unreachable) as caught:
        source.listing()
    assert first.url in caught.value.message and second.url in caught.value.message
    assert caught.value.exit_code == 1
    source.close()


def test_a_dead_gateway_and_a_node(dag: Dag, tmp_path: Path, told: list[str]) -> None:
    with GatewayDouble({}) as dead:
        pass
    with NodeDouble(dag.blocks) as node, within(60):
        source = open_source(dag.root.text, quick(tmp_path, dead.url, ipfs_api=node.url))
        assert read(source, wanted(dag, "big.bin")) == dag.contents["big.bin"]
    assert any(dead.url in text for text in told)


def test_half_here_and_half_there(dag: Dag, tmp_path: Path) -> None:
    """Each gateway lacks half of the blocks."""
    halves: tuple[dict[bytes, Section], dict[bytes, Section]] = ({}, {})
    for number, (digest, section) in enumerate(dag.blocks.items()):
        halves[number % 2][digest] = section
    with GatewayDouble(halves[0]) as first, GatewayDouble(halves[1]) as second:
        source = open_source(dag.root.text, quick(tmp_path, first.url, second.url))
        for file in source.listing():
            assert b"".join(source.read(file, 0, file.size_bytes)) == dag.contents[file.path]
        source.close()


def test_secrets_in_a_gateway_address_are_not_told(dag: Dag, tmp_path: Path, told: list[str]) -> None:
    with GatewayDouble({}) as gateway:
        address = gateway.url.replace("http://", "http://user:canary-9f@")
        source = open_source(dag.root.text, quick(tmp_path, address))
        with pytest.raises(NotThere) as caught:
            source.listing()
        source.close()
    assert "canary" not in caught.value.message + "".join(told)
