"""dag-pb and UnixFS messages: exact bytes out, strict reading in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distribute.cid import DAG_PB, RAW, Cid, varint
from distribute.dagpb import (
    BLOCK_LIMIT_BYTES,
    DIRECTORY,
    FILE,
    HAMT,
    Link,
    Node,
    UnixFs,
    decode_node,
    decode_unixfs,
    encode_node,
)
from headwater.errors import IntegrityError

CID = Cid.of(RAW, b"one")
LINK = b"\x0a\x24" + CID.bytes + b"\x12\x01a\x18\x03"  # as the dag-pb specification lays a link out


def field(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def test_exact_bytes() -> None:
    assert encode_node([], b"") == b"\x0a\x00"
    assert encode_node([Link("a", CID, 3)], b"\x08\x01") == field(2, LINK) + b"\x0a\x02\x08\x01"
    assert UnixFs(FILE, b"", 0).encode() == b"\x08\x02\x18\x00"
    assert UnixFs(FILE, b"hello\n", 6).encode() == b"\x08\x02\x12\x06hello\n\x18\x06"
    assert (
        UnixFs(FILE, filesize=300, blocksizes=(256, 44)).encode()
        == b"\x08\x02\x18\xac\x02\x20\x80\x02\x20\x2c"
    )
    assert (
        UnixFs(HAMT, b"\x03", hash_type=0x22, fanout=256).encode()
        == b"\x08\x05\x12\x01\x03\x28\x22\x30\x80\x02"
    )


def test_links_are_sorted_by_the_bytes_of_their_names() -> None:
    names = ["b", "a", "", "é", "z", "a!", "\U0001f600", "\ufffd"]
    found = [link.name for link in decode_node(encode_node([Link(n, CID, 1) for n in names], b"")).links]
    assert found == sorted(names, key=str.encode)
    same = [Link("", Cid.of(RAW, bytes([n])), n) for n in range(5)]
    assert decode_node(encode_node(same, b"")).links == same  # equal names keep their order


@given(
    st.lists(
        st.tuples(st.text(st.characters(exclude_categories=("Cs",)), max_size=9), st.integers(0, 2**64 - 1))
    ),
    st.binary(max_size=50),
)
def test_nodes_lead_back(names: list[tuple[str, int]], data: bytes) -> None:
    links = sorted((Link(name, CID, size) for name, size in names), key=lambda link: link.name.encode())
    assert decode_node(encode_node(links, data)) == Node(links, data)


messages = st.builds(
    UnixFs,
    st.integers(0, 5),
    st.binary(max_size=20),
    st.none() | st.integers(0, 2**64 - 1),
    st.lists(st.integers(0, 2**64 - 1), max_size=5).map(tuple),
    st.none() | st.just(0x22),
    st.none() | st.just(256),
)


@given(messages)
def test_messages_lead_back(message: UnixFs) -> None:
    assert UnixFs.decode(message.encode()) == message


def test_packed_sizes_and_times_of_other_writers_are_read() -> None:
    packed = b"\x08\x02\x18\x05" + field(4, b"\x02\x03") + b"\x38\xa4\x03" + field(8, b"\x08\x01")
    assert UnixFs.decode(packed) == UnixFs(FILE, b"", 5, (2, 3))
    data_first = b"\x0a\x02\x08\x01" + field(2, LINK)
    assert decode_node(data_first) == Node([Link("a", CID, 3)], b"\x08\x01")


BAD_NODES = {
    "data twice": b"\x0a\x00\x0a\x00",
    "links around data": field(2, LINK) + b"\x0a\x00" + field(2, LINK),
    "unknown field": field(3, b""),
    "data as number": b"\x08\x01",
    "wire type 5": b"\x0d\0\0\0\0",
    "group": b"\x0b\x0c",
    "cut": field(2, LINK)[:-1],
    "long length": b"\x0a\x81\x00x",
    "length above the block": b"\x0a\xff\xff\xff\xff\x0f",
    "link without CID": field(2, b"\x12\x01a"),
    "link with two names": field(2, LINK[:38] + b"\x12\x01a\x12\x01a"),
    "link out of order": field(2, b"\x12\x01a" + LINK[:38]),
    "name not UTF-8": field(2, LINK[:38] + b"\x12\x01\xff"),
    "bytes after the CID": field(2, b"\x0a\x25" + CID.bytes + b"\0"),
    "identity CID": field(2, field(1, b"\x01\x55\x00\x01a")),
    "sha-1 CID": field(2, field(1, b"\x01\x55\x11\x14" + bytes(20))),
    "size as bytes": field(2, LINK[:38] + b"\x1a\x01a"),
}


@pytest.mark.parametrize("name", BAD_NODES)
def test_bad_nodes(name: str) -> None:
    with pytest.raises(IntegrityError):
        decode_node(BAD_NODES[name])


BAD_MESSAGES = {
    "empty": b"",
    "no type": b"\x18\x01",
    "type 6": b"\x08\x06",
    "type twice": b"\x08\x02\x08\x02",
    "type as bytes": b"\x0a\x01\x02",
    "data as number": b"\x08\x02\x10\x01",
    "size twice": b"\x08\x02\x18\x01\x18\x01",
    "size above 64 bits": b"\x08\x02\x18" + b"\xff" * 9 + b"\x7f",
    "unknown field": b"\x08\x02\x48\x01",
}


@pytest.mark.parametrize("name", BAD_MESSAGES)
def test_bad_messages(name: str) -> None:
    block = encode_node([], BAD_MESSAGES[name])
    cid = Cid.of(DAG_PB, block)
    with pytest.raises(IntegrityError, match=cid.text):
        decode_unixfs(cid, block)


def test_a_large_block_is_not_looked_at() -> None:
    with pytest.raises(IntegrityError, match="above the limit"):
        decode_node(b"\xff" * (BLOCK_LIMIT_BYTES + 1))


@given(st.binary(max_size=200))
def test_no_bytes_lead_to_another_error(raw: bytes) -> None:
    for decode in (decode_node, UnixFs.decode):
        try:
            decode(raw)
        except IntegrityError:
            continue


@given(st.integers(0, 60), st.integers(1, 255))
def test_no_change_of_a_byte_leads_to_another_error(at: int, flip: int) -> None:
    raw = bytearray(encode_node([Link("ab", CID, 300)], UnixFs(DIRECTORY).encode()))
    raw[at % len(raw)] ^= flip
    try:
        decode_unixfs(CID, bytes(raw))
    except IntegrityError as error:
        assert CID.text in str(error)
