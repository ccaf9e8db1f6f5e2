"""Sharded folders: Kubo's vectors, the hash, exact thresholds, and shards that must be refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distribute import hamt
from distribute.car import BlockStore
from distribute.cid import DAG_PB, RAW, Cid
from distribute.dagpb import DIRECTORY, HAMT, Link, UnixFs, decode_unixfs, encode_node
from distribute.unixfs import PROFILES, Built, Profile, file_bytes, folder, walk
from headwater.errors import IntegrityError
from tests.distribute.test_unixfs import LETTERS, keystream

V1, V0 = PROFILES["unixfs-v1-2025"], PROFILES["unixfs-v0-2015"]
LEAF = Cid.of(RAW, b"x")


def names(count: int, length: int, last: int, seed: str) -> list[str]:
    """File names of Kubo's profile tests, cut from the seeded stream."""
    stream = keystream(seed)(1 << 20)
    out = []
    for number in range(count):
        at = number * length
        part = stream[at : at + (last if number == count - 1 else length)]
        out.append("".join(chr(LETTERS[byte % len(LETTERS)]) for byte in part))
    return out


@pytest.mark.parametrize(
    ("profile", "asked", "cid"),
    [
        (V1, (4766, 11, 21), "bafybeic3h7rwruealwxkacabdy45jivq2crwz6bufb5ljwupn36gicplx4"),
        (V1, (4766, 11, 22), "bafybeiegvuterwurhdtkikfhbxcldohmxp566vpjdofhzmnhv6o4freidu"),
        (V0, (4096, 30, 30), "QmX5GtRk3TSSEHtdrykgqm4eqMEn3n2XhfkFAis5fjyZmN"),
        (V0, (4033, 31, 31), "QmeMiJzmhpJAUgynAcxTQYek5PPKgdv3qEvFsdV3XpVnvP"),
    ],
)
def test_vectors_at_and_over_the_threshold(profile: Profile, asked: tuple[int, int, int], cid: str) -> None:
    """Kubo's cid_profiles_test.go: 262,144 bytes stay flat, 262,145 are sharded."""
    one = file_bytes(profile, b"x")
    built = folder(profile, dict.fromkeys(names(*asked, f"hamt-{profile.name}"), one))
    assert built.cid.text == cid
    assert (len(built.nodes) > 1) == (asked[2] in (22, 31))
    found = list(
        walk(built.cid, BlockStore([*built.nodes, (one.cid, b"\x0a\x07\x08\x02\x12\x01x\x18\x01")]).get)
    )
    assert len(found) == asked[0] and len({node.path for node in found}) == asked[0]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        # first halves of MurmurHash3_x64_128 with seed 0, from the vectors of public implementations
        (b"", 0x0000000000000000),
        (b"hello", 0xCBD8A7B341BD9B02),
        (b"hello, world", 0x342FAC623A5EBC8E),
        (b"The quick brown fox jumps over the lazy dog.", 0xCD99481F9EE902C9),
    ],
)
def test_the_hash(text: bytes, number: int) -> None:
    assert hamt.name_hash(text) == number


NAMES = st.lists(
    st.text(st.characters(exclude_characters="/\\\0", exclude_categories=("Cs",)), min_size=1, max_size=12),
    min_size=2,
    max_size=300,
    unique=True,
).map(lambda found: [name for name in found if name not in (".", "..")])


@settings(max_examples=40, deadline=None)
@given(NAMES)
def test_every_entry_is_found_again_where_its_hash_says(found: list[str]) -> None:
    built = folder(replace(V1, hamt_above_bytes=0), {name: Built(LEAF, 1, 1) for name in found})
    assert decode_unixfs(*built.nodes[0])[0].type == HAMT
    walked = [node.path for node in walk(built.cid, BlockStore(built.nodes).get)]
    assert sorted(walked) == sorted(found)
    assert walked == sorted(found, key=lambda name: hamt.name_hash(name.encode()))


@pytest.mark.parametrize("by", ["block", "links"])
def test_strictly_above_the_threshold(by: str) -> None:
    profile = replace(V1, hamt_by=by, hamt_above_bytes=1000)
    link = 36 + (8 if by == "block" else 0)

    def kind(size: int) -> int:
        """The type of a folder of 20 entries that is `size` long by the profile's own measure."""
        left = size - (4 if by == "block" else 0) - 19 * (link + 4)
        entries = {f"{n:04d}": Built(LEAF, 1, 1) for n in range(19)}
        entries["z" * (left - link)] = Built(LEAF, 1, 1)
        built = folder(profile, entries)
        return decode_unixfs(*built.nodes[0])[0].type

    assert [kind(size) for size in (999, 1000, 1001)] == [DIRECTORY, DIRECTORY, HAMT]


def test_names_of_one_hash_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hamt, "name_hash", lambda name: 7)
    with pytest.raises(IntegrityError, match="'one' and 'two' have one hash"):
        folder(replace(V1, hamt_above_bytes=0), {name: Built(LEAF, 1, 1) for name in ("two", "one")})


def test_names_that_share_fifty_six_bits_stand_eight_nodes_deep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hamt, "name_hash", lambda name: 0xAB << 56 | name[0])
    built = folder(replace(V1, hamt_above_bytes=0), {name: Built(LEAF, 1, 1) for name in ("a", "b")})
    assert len(built.nodes) == 8
    assert {node.path for node in walk(built.cid, BlockStore(built.nodes).get)} == {"a", "b"}


A, B = "a", "b"  # their positions in a root shard
AT_A, AT_B = (f"{hamt.name_hash(name.encode()) >> 56:02X}" for name in (A, B))


def shard(labels: list[str], field: int | None = None, **other: int | None) -> tuple[Cid, BlockStore]:
    if field is None:
        field = 0
        for label in labels:
            field |= 1 << int(label[:2], 16)
    data = field.to_bytes(max(1, (field.bit_length() + 7) // 8), "big")
    values = {"hash_type": hamt.HASH_TYPE, "fanout": hamt.FANOUT, **other}
    block = encode_node([Link(label, LEAF, 1) for label in labels], UnixFs(HAMT, data, **values).encode())  # type: ignore[arg-type]
    cid = Cid.of(DAG_PB, block)
    return cid, BlockStore([(cid, block)])


def test_the_shard_that_the_bad_ones_are_made_from_is_good() -> None:
    cid, store = shard([AT_A + A, AT_B + B])
    assert sorted(node.path for node in walk(cid, store.get)) == [A, B]


BAD = {
    "no position": ([A], 1, {}, "without position"),
    "position in lower case": (["ab" + A], 1 << 0xAB, {}, "without position"),
    "not in the field": ([AT_A + A], 0, {}, "not in its bit field"),
    "field without link": ([AT_A + A], (1 << int(AT_A, 16)) | (1 << 255), {}, "without a link"),
    "two at one position": ([AT_A + A, AT_A + B], None, {}, "or twice"),
    "not where its hash says": (["00" + A], None, {}, "not where its hash"),
    "leaving the folder": ([f"{hamt.name_hash(b'..') >> 56:02X}.."], None, {}, "cannot be the name"),
    "other hash": ([AT_A + A], None, {"hash_type": 0x12}, "hash 18"),
    "other width": ([AT_A + A], None, {"fanout": 16}, "16 ways"),
    "no width": ([AT_A + A], None, {"fanout": None}, "None ways"),
    "field too long": ([AT_A + A], 1 << 300, {}, "too long"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_shards(name: str) -> None:
    labels, field, other, reason = BAD[name]
    cid, store = shard(labels, field, **other)
    with pytest.raises(IntegrityError, match=f"{cid.text}.*{reason}"):
        list(walk(cid, store.get))


def test_a_shard_below_a_shard_must_be_one() -> None:
    inner = encode_node([], UnixFs(DIRECTORY).encode())
    inner_cid = Cid.of(DAG_PB, inner)
    block = encode_node(
        [Link("00", inner_cid, 4)], UnixFs(HAMT, b"\x01", hash_type=hamt.HASH_TYPE, fanout=256).encode()
    )
    cid = Cid.of(DAG_PB, block)
    with pytest.raises(IntegrityError, match=inner_cid.text):
        list(walk(cid, BlockStore([(cid, block), (inner_cid, inner)]).get))
    raw = encode_node(
        [Link("00", LEAF, 1)], UnixFs(HAMT, b"\x01", hash_type=hamt.HASH_TYPE, fanout=256).encode()
    )
    cid = Cid.of(DAG_PB, raw)
    with pytest.raises(IntegrityError, match=LEAF.text):
        list(walk(cid, BlockStore([(cid, raw), (LEAF, b"x")]).get))


@pytest.mark.parametrize("nodes", [9, 20])
def test_shards_deeper_than_the_hash(nodes: int) -> None:
    """Eight are possible (above); a ninth has no bits of the hash left."""
    store = BlockStore()
    below = LEAF
    for number in range(nodes):
        label = "00" if number else "00a"
        block = encode_node(
            [Link(label, below, 1)], UnixFs(HAMT, b"\x01", hash_type=hamt.HASH_TYPE, fanout=256).encode()
        )
        below = Cid.of(DAG_PB, block)
        store.add(below, block)
    with pytest.raises(IntegrityError, match="more than 8 nodes deep"):
        list(walk(below, store.get))


@pytest.mark.slow
def test_a_folder_of_a_million_entries() -> None:
    """Built and walked with the memory of its blocks; the limit on entries is kept."""
    entries = dict.fromkeys((f"{number:07d}.jpg" for number in range(1_000_000)), Built(LEAF, 1, 1))
    built = folder(V1, entries)
    store = BlockStore(built.nodes)
    assert sum(1 for _ in walk(built.cid, store.get)) == 1_000_000
    with pytest.raises(IntegrityError, match="more than 10000 entries"):
        list(walk(built.cid, store.get, entries_limit=10_000))
