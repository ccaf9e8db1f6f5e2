"""Folders too large for one block: a tree of 256-way nodes, in which the hash of a name is the way to its entry.

Each node takes the next 8 bits of the 64-bit hash, highest first: its position there. An entry stands in the first node where
nobody shares its position. Links are called by the position in two upper-case hex digits, followed by the name for an entry
and by nothing for a child node. The node's data are a big-endian bit field of the taken positions, without leading zero bytes.

Source: UnixFS specification, "HAMT Sharding". The hash is the first half of MurmurHash3 x64 128 with seed 0, and
`hashType` is its multicodec 0x22 (murmur3-x64-64).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import NamedTuple

from distribute.dagpb import HAMT, Link, UnixFs, link_bytes, node_bytes
from headwater.errors import IntegrityError

FANOUT = 256
HASH_TYPE = 0x22
DEPTH_LIMIT = 8  # nodes on one way: the 64 bits of the hash are used up then
PREFIX_LETTERS = 2
_MASK = (1 << 64) - 1
_C1, _C2 = 0x87C37B91114253D5, 0x4CF5AD432745937F


class Entry(NamedTuple):
    """One child of a folder: UTF-8 name, binary CID, bytes below it."""

    name: bytes
    cid: bytes
    tsize: int


def name_hash(name: bytes) -> int:
    """The first 64 bits of MurmurHash3 x64 128 of `name`, seed 0."""
    h1 = h2 = 0
    size = len(name)
    whole = size & ~15
    for at in range(0, whole, 16):
        k1 = int.from_bytes(name[at : at + 8], "little") * _C1 & _MASK
        k2 = int.from_bytes(name[at + 8 : at + 16], "little") * _C2 & _MASK
        h1 ^= _turn(k1, 31) * _C2 & _MASK
        h1 = ((_turn(h1, 27) + h2) * 5 + 0x52DCE729) & _MASK
        h2 ^= _turn(k2, 33) * _C1 & _MASK
        h2 = ((_turn(h2, 31) + h1) * 5 + 0x38495AB5) & _MASK
    if size - whole > 8:
        h2 ^= _turn(int.from_bytes(name[whole + 8 :], "little") * _C2 & _MASK, 33) * _C1 & _MASK
    if size > whole:
        h1 ^= _turn(int.from_bytes(name[whole : whole + 8], "little") * _C1 & _MASK, 31) * _C2 & _MASK
    h1 ^= size
    h2 ^= size
    h1 = (h1 + h2) & _MASK
    h2 = (h2 + h1) & _MASK
    return (_mix(h1) + _mix(h2)) & _MASK


def build(
    entries: Sequence[Entry], cid_start: bytes, emit: Callable[[bytes, bytes], None]
) -> tuple[bytes, int]:
    """(digest of the root node, bytes of the whole DAG) of a folder with `entries`.

    `cid_start` is what stands before the digest in the binary CID of a node; `emit(digest, block)` gets every node, children
    before their parent. Raises IntegrityError when two names share all 64 bits of their hash.
    """
    placed = sorted((name_hash(entry.name), entry) for entry in entries)
    return _shard(placed, 0, cid_start, emit)


def _shard(
    placed: Sequence[tuple[int, Entry]], level: int, cid_start: bytes, emit: Callable[[bytes, bytes], None]
) -> tuple[bytes, int]:
    if level == DEPTH_LIMIT:
        one, two = (pair[1].name.decode() for pair in placed[:2])
        raise IntegrityError(
            f"the names {one!r} and {two!r} have one hash: no folder can hold both",
            hint="rename one of them",
        )
    shift = 56 - 8 * level
    links: list[bytes] = []
    field = total = 0
    for position, group in groupby(placed, key=lambda pair: pair[0] >> shift & 0xFF):
        field |= 1 << position
        label = b"%02X" % position
        inside = list(group)
        if len(inside) == 1:
            name, cid, tsize = inside[0][1]
            label += name
        else:
            digest, tsize = _shard(inside, level + 1, cid_start, emit)
            cid = cid_start + digest
        total += tsize
        links.append(link_bytes(label, cid, tsize))
    data = field.to_bytes((field.bit_length() + 7) // 8, "big")
    block = node_bytes(links, UnixFs(HAMT, data, hash_type=HASH_TYPE, fanout=FANOUT).encode())
    digest = hashlib.sha256(block).digest()
    emit(digest, block)
    return digest, total + len(block)


def read(message: UnixFs, links: Sequence[Link]) -> list[tuple[str, Link]]:
    """(name, link) of one node; the name is "" for a child node. Raises IntegrityError when links and bit field differ."""
    if message.fanout != FANOUT or message.hash_type != HASH_TYPE:
        raise IntegrityError(
            f"a folder is sharded by hash {message.hash_type} with {message.fanout} ways; only 34 (murmur3) with 256 is known"
        )
    if len(message.data) > FANOUT // 8:
        raise IntegrityError("the bit field of a sharded folder is too long")
    field = int.from_bytes(message.data, "big")
    found: list[tuple[str, Link]] = []
    for link in links:
        label = link.name[:PREFIX_LETTERS]
        if len(label) < PREFIX_LETTERS or label.strip("0123456789ABCDEF"):
            raise IntegrityError(f"a link of a sharded folder is called {link.name[:80]!r}, without position")
        bit = 1 << int(label, 16)
        if not field & bit:
            raise IntegrityError(f"position {label} of a sharded folder is not in its bit field, or twice")
        field ^= bit
        found.append((link.name[PREFIX_LETTERS:], link))
    if field:
        raise IntegrityError("the bit field of a sharded folder has positions without a link")
    return found


def _turn(number: int, bits: int) -> int:
    return (number << bits | number >> (64 - bits)) & _MASK


def _mix(number: int) -> int:
    number = (number ^ number >> 33) * 0xFF51AFD7ED558CCD & _MASK
    number = (number ^ number >> 33) * 0xC4CEB9FE1A85EC53 & _MASK
    return number ^ number >> 33
