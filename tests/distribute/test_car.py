"""CAR files: exact framing, and every way in which one can be damaged or hostile."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distribute.car import (
    BlockStore,
    CarLimits,
    MissingBlock,
    car_header,
    car_section,
    export_tree,
    load_car,
    read_car,
    write_car,
)
from distribute.cid import DAG_PB, RAW, Cid, varint
from distribute.dagpb import BLOCK_LIMIT_BYTES
from distribute.unixfs import PROFILES, Profile, file_bytes, tree, walk
from headwater.errors import IntegrityError

V1 = PROFILES["unixfs-v1-2025"]
TINY = Profile("tiny", 4, 3, True, 1, "block")
ONE, TWO = ((Cid.of(RAW, data), data) for data in (b"one", b"two two"))

# the first bytes of a CARv1 with one root, from the specification's example layout, written out by hand:
# a2 (map of 2) 65 "roots" 81 (list of 1) d82a (tag 42) 5825 (37 bytes) 00 CID … 67 "version" 01
HEADER = b"\x3a\xa2\x65roots\x81\xd8\x2a\x58\x25\x00" + ONE[0].bytes + b"\x67version\x01"


def car(*content: tuple[Cid, bytes], roots: tuple[Cid, ...] = (ONE[0],)) -> bytes:
    out = io.BytesIO()
    assert write_car(out, roots, content) == len(out.getvalue())
    return out.getvalue()


class Dribble(io.RawIOBase):
    """A connection: one byte at a time."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def read(self, size: int = -1, /) -> bytes:
        return self._data.read(min(size, 1))


def test_exact_bytes() -> None:
    assert car_header([ONE[0]]) == HEADER
    assert car(ONE) == HEADER + b"\x27" + ONE[0].bytes + b"one"
    assert car_header([]) == b"\x11\xa2\x65roots\x80\x67version\x01"


@pytest.mark.parametrize("wrap", [io.BytesIO, Dribble])
def test_a_car_leads_back(wrap: Callable[[bytes], io.RawIOBase]) -> None:
    reader = read_car(wrap(car(ONE, TWO, roots=(ONE[0], TWO[0]))))  # type: ignore[arg-type]
    assert reader.roots == [ONE[0], TWO[0]]
    assert list(reader) == [ONE, TWO]


def test_the_place_of_a_block_is_known() -> None:
    raw = car(ONE, TWO)
    reader = read_car(io.BytesIO(raw))
    for _, block in reader:
        assert raw[reader.place : reader.place + len(block)] == block


@pytest.mark.parametrize("count", [0, 1, 2, 23, 24, 255])
def test_many_roots(count: int) -> None:
    roots = [Cid.of(RAW, bytes([n])) for n in range(count)]
    assert read_car(io.BytesIO(car_header(roots))).roots == roots


def test_roots_of_both_versions() -> None:
    roots = [Cid.of(DAG_PB, b"", version=version) for version in (0, 1)]
    assert read_car(io.BytesIO(car_header(roots))).roots == roots


def test_keys_of_the_header_in_the_other_order_are_read() -> None:
    body = HEADER[1:]
    swapped = b"\xa2" + body[-9:] + body[1:-9]
    assert read_car(io.BytesIO(varint(len(swapped)) + swapped)).roots == [ONE[0]]


def flipped() -> bytes:
    raw = bytearray(car(TWO, ONE))
    raw[-1] ^= 1
    return bytes(raw)


def raw_section(cid: bytes, block: bytes) -> bytes:
    return varint(len(cid) + len(block)) + cid + block


NAME = ONE[0].text
BAD_BLOCKS = {
    "flipped bit": (flipped(), NAME),
    "block of another CID": (HEADER + raw_section(ONE[0].bytes, b"two two"), NAME),
    "no block": (HEADER + raw_section(ONE[0].bytes, b""), NAME),
    "cut in a block": (car(TWO, ONE)[:-1], f"{NAME}: the CAR is cut short"),
    "cut in a CID": (car(ONE)[:-20], "cut short"),
    "cut in a length": (HEADER + b"\x80", "cut short"),
    "length of 0": (HEADER + b"\0", "has 0 bytes"),
    "long varint": (HEADER + b"\xa7\x00" + car_section(*ONE)[1:], "shortest"),
    "endless varint": (HEADER + b"\xff" * 30, "too many"),
    "length of 8 EiB": (HEADER + varint(1 << 62), "are allowed"),
    "block above the limit": (car((Cid.of(RAW, bytes(BLOCK_LIMIT_BYTES + 99)), bytes(BLOCK_LIMIT_BYTES + 99))), "are allowed"),
    "sha-1 CID": (HEADER + raw_section(b"\x01\x55\x11\x14" + bytes(20), b"x"), "sha1"),
    "unknown hash": (HEADER + raw_section(b"\x01\x55\xb2\x40\x20" + bytes(32), b"x"), "hash"),
    "unknown codec": (HEADER + raw_section(b"\x01\x99\x01\x12\x20" + bytes(32), b"x"), "codec"),
    "identity CID": (HEADER + raw_section(b"\x01\x55\x00\x01x", b"x"), "carries 1 bytes"),
    "identity CID of 1 MB": (HEADER + raw_section(b"\x01\x55\x00\xc0\x84\x3d" + bytes(10**6), b""), "carries 1000000"),
    "no CID": (HEADER + b"\x03abc", "version 97"),
    "garbage behind": (car(ONE) + b"\r\n<html>", "block after " + NAME),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_BLOCKS)
def test_bad_blocks(name: str) -> None:
    raw, reason = BAD_BLOCKS[name]
    reader = read_car(io.BytesIO(raw))
    with pytest.raises(IntegrityError, match=reason):
        list(reader)
    with pytest.raises(IntegrityError, match=reason):
        load_car(io.BytesIO(raw))


BAD_HEADERS = {
    "empty": (b"", "empty"),
    "cut": (HEADER[:30], "cut short"),
    "cut in the length": (b"\x80", "cut short"),
    "v2": (b"\x0a\xa1\x67version\x02" + bytes(40), "CARv2"),
    "v3": (b"\x0a\xa1\x67version\x03", "no CAR"),
    "version 2 with roots": (HEADER[:-1] + b"\x02", "no CAR"),
    "no roots": (b"\x0a\xa1\x67version\x01", "no CAR"),
    "roots twice": (b"\x0f\xa2\x65roots\x80\x65roots\x80", "no CAR"),
    "bytes behind": (b"\x12\xa2\x65roots\x80\x67version\x01\0", "no CAR"),
    "HTML": (b"<!doctype html><html><body>rate limited</body></html>", "CAR"),
    "too long": (b"\x80\x80\x80\x01" + bytes(100), "are allowed"),
    "endless": (b"\xff" * 30, "too many"),
    "endless list of roots": (b"\x12\xa2\x65roots\x9f\x67version\x01\xff", "no CAR"),
    "more roots than there are": (b"\x11\xa2\x65roots\x85\x67version\x01", "no CAR"),
    "root with a byte behind": (
        b"\x3b\xa2\x65roots\x81\xd8\x2a\x58\x26\x00" + ONE[0].bytes + b"\0\x67version\x01",
        "no CAR",
    ),
    "root of SHA-1": (
        b"\x2d\xa2\x65roots\x81\xd8\x2a\x58\x19\x00\x01\x55\x11\x14" + bytes(20) + b"\x67version\x01",
        "sha1|no CAR|cut",
    ),
    "root without tag": (b"\x13\xa2\x65roots\x81\x41a\x67version\x01", "no CAR|bytes"),
}


@pytest.mark.parametrize("name", BAD_HEADERS)
def test_bad_headers(name: str) -> None:
    raw, reason = BAD_HEADERS[name]
    with pytest.raises(IntegrityError, match=reason):
        read_car(io.BytesIO(raw))


def test_limits() -> None:
    raw = car(ONE, TWO)
    assert len(list(read_car(io.BytesIO(raw), limits=CarLimits(blocks=2, total_bytes=len(raw))))) == 2
    with pytest.raises(IntegrityError, match="more than 1 blocks"):
        list(read_car(io.BytesIO(raw), limits=CarLimits(blocks=1)))
    with pytest.raises(IntegrityError, match=f"{ONE[0].text}.*above the limit"):
        list(read_car(io.BytesIO(raw), limits=CarLimits(total_bytes=len(raw) - 1)))
    with pytest.raises(IntegrityError, match="are allowed"):
        read_car(io.BytesIO(raw), limits=CarLimits(header_bytes=10))


FILES = {
    "a/one": b"0123456789",
    "a/two": b"0123456789",
    "b/c/d": b"xyz",
    "empty": b"",
    "five levels": bytes(300),
}


def built() -> tuple[Cid, BlockStore, list[tuple[Cid, bytes]]]:
    root = tree(TINY, {path: file_bytes(TINY, data) for path, data in FILES.items()}, ["none"])
    return root.cid, BlockStore(root.nodes), root.nodes


def read_file(path: str, offset: int, length: int) -> bytes:
    return FILES[path][offset : offset + length]


def test_a_whole_tree_as_car() -> None:
    cid, store, nodes = built()
    out = io.BytesIO()
    assert export_tree(out, cid, store.get, read_file) == len(out.getvalue())
    reader = read_car(io.BytesIO(out.getvalue()))
    found = list(reader)
    assert reader.roots == [cid] and found[0][0] == cid
    leaves = {data[at : at + 4] for data in FILES.values() for at in range(0, max(1, len(data)), 4)}
    assert {block for _, block in found} == leaves | {block for _, block in nodes}
    assert len(found) == len(leaves) + len(nodes)  # none twice


def test_a_file_that_changed_ends_an_export() -> None:
    cid, store, _ = built()
    with pytest.raises(IntegrityError, match="is not the one of this name"):
        export_tree(io.BytesIO(), cid, store.get, lambda path, offset, length: b"9999"[:length])


def test_order_repeats_and_blocks_that_do_not_belong_are_no_harm() -> None:
    cid, _, nodes = built()
    odd = [*reversed(nodes), TWO, *nodes, ONE]
    roots, store = load_car(io.BytesIO(car(*odd, roots=(cid,))))
    assert roots == [cid] and len(store) == len(nodes)
    assert ONE[0] not in store and TWO[0] not in store
    assert {node.path for node in walk(cid, store.get)} == {*FILES, "none"}


def test_a_missing_block_is_named() -> None:
    cid, _, nodes = built()
    for gone, _ in nodes:
        left = [node for node in nodes if node[0] != gone]
        _, store = load_car(io.BytesIO(car(*left, roots=(cid,))))
        with pytest.raises(MissingBlock, match=gone.text) as caught:
            export_tree(io.BytesIO(), cid, store.get, read_file)
        assert caught.value.exit_code == 13


def test_both_versions_of_a_block_are_one() -> None:
    block = b"\x0a\x02\x08\x01"
    old, new = (Cid.of(DAG_PB, block, version=version) for version in (0, 1))
    _, store = load_car(io.BytesIO(car((old, block), (new, block), roots=(new,))))
    assert len(store) == 1 and store.get(old) == store.get(new) == block


def test_every_single_cut_and_flip_is_noticed() -> None:
    """Whatever byte is lost or changed: an error, or a CAR of other roots or fewer blocks, never other bytes under a CID."""
    cid, _, nodes = built()
    raw = car(*nodes[:4], roots=(cid,))
    starts = {len(car(*nodes[:n], roots=(cid,))) for n in range(5)}
    for end in range(len(raw)):
        if end in starts:
            assert len(list(read_car(io.BytesIO(raw[:end])))) < 4
        else:
            with pytest.raises(IntegrityError):
                list(read_car(io.BytesIO(raw[:end])))
    for at in range(len(raw)):
        bad = bytearray(raw)
        bad[at] ^= 0x10
        try:
            reader = read_car(io.BytesIO(bytes(bad)))
            found = list(reader)
        except IntegrityError:
            continue
        assert reader.roots != [cid] or all(
            one[0].codec != two[0].codec for one, two in zip(found, nodes, strict=False)
        )


@settings(max_examples=200)
@given(st.binary(max_size=120))
def test_no_bytes_lead_to_another_error(tail: bytes) -> None:
    for raw in (tail, HEADER + tail, HEADER[:20] + tail):
        try:
            list(read_car(io.BytesIO(raw)))
        except IntegrityError:
            continue
