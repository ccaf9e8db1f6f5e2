"""dag-pb blocks and the UnixFS message inside them, as bytes: one node has exactly one encoding.

    PBNode  { repeated PBLink Links = 2; bytes Data = 1; }              links come first in the bytes
    PBLink  { bytes Hash = 1; string Name = 2; uint64 Tsize = 3; }
    UnixFS  { Type = 1; Data = 2; filesize = 3; blocksizes = 4; hashType = 5; fanout = 6; mode = 7; mtime = 8; }

Sources: IPLD's "DAG-PB" specification and the UnixFS specification (ipfs/specs). Links are sorted by the bytes of their names,
equal names keep their order. What is read from outside is refused with IntegrityError when it is not strictly of this form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from distribute.cid import Cid, read_varint, varint
from headwater.errors import IntegrityError

BLOCK_LIMIT_BYTES = 2 << 20  # what IPFS nodes exchange at most (Bitswap 1.2)
RAW_TYPE, DIRECTORY, FILE, METADATA, SYMLINK, HAMT = range(6)


class Link(NamedTuple):
    """One child: name ("" in files), CID, and the bytes of everything below it, blocks that repeat counted again."""

    name: str
    cid: Cid
    tsize: int


@dataclass(frozen=True, slots=True)
class Node:
    """A decoded dag-pb block."""

    links: list[Link]
    data: bytes


@dataclass(frozen=True, slots=True)
class UnixFs:
    """The UnixFS message. `filesize` is None where the message has none (folders)."""

    type: int
    data: bytes = b""
    filesize: int | None = None
    blocksizes: tuple[int, ...] = ()
    hash_type: int | None = None
    fanout: int | None = None

    def encode(self) -> bytes:
        """Its bytes. Empty data is left out, as Kubo does."""
        out = b"\x08" + varint(self.type)
        if self.data:
            out += b"\x12" + varint(len(self.data)) + self.data
        if self.filesize is not None:
            out += b"\x18" + varint(self.filesize)
        out += b"".join(b"\x20" + varint(size) for size in self.blocksizes)
        if self.hash_type is not None:
            out += b"\x28" + varint(self.hash_type)
        if self.fanout is not None:
            out += b"\x30" + varint(self.fanout)
        return out

    @classmethod
    def decode(cls, data: bytes) -> UnixFs:
        """From bytes; mode and mtime are passed over, since they are not part of what we publish. Raises IntegrityError."""
        seen: dict[int, int | bytes] = {}
        sizes: list[int] = []
        for field, value in _fields(data):
            if field == 4:
                sizes += [value] if isinstance(value, int) else _packed(value)
            elif field in seen:
                raise IntegrityError(f"field {field} of the UnixFS message comes twice")
            elif field > 8:
                raise IntegrityError(f"the UnixFS message has a field {field}")
            else:
                seen[field] = value
        kind = _number(seen, 1)
        if kind is None or kind > HAMT:
            raise IntegrityError("the UnixFS message has no type that is known")
        content = seen.get(2, b"")
        if isinstance(content, int):
            raise IntegrityError("the data of the UnixFS message are a number")
        return cls(kind, content, _number(seen, 3), tuple(sizes), _number(seen, 5), _number(seen, 6))


def check_name(name: str) -> bytes:
    """The UTF-8 bytes of a name inside a folder. Raises IntegrityError on one that no folder may hold."""
    if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
        raise IntegrityError(f"{name[:80]!r} cannot be the name of a file or folder")
    try:
        return name.encode()
    except UnicodeEncodeError:
        raise IntegrityError(f"the name {name[:80]!r} is not Unicode text") from None


def link_bytes(name: bytes, cid: bytes, tsize: int) -> bytes:
    """One link as it stands in a node, from the binary CID."""
    body = b"".join(
        (b"\x0a", varint(len(cid)), cid, b"\x12", varint(len(name)), name, b"\x18", varint(tsize))
    )
    return b"\x12" + varint(len(body)) + body


def node_bytes(links: Sequence[bytes], data: bytes) -> bytes:
    """A node from links made by `link_bytes`, already in order."""
    return b"".join((*links, b"\x0a", varint(len(data)), data))


def encode_node(links: Sequence[Link], data: bytes) -> bytes:
    """The bytes of a node; its links are brought into their order."""
    ordered = sorted(((link.name.encode(), link) for link in links), key=lambda pair: pair[0])
    return node_bytes([link_bytes(name, link.cid.bytes, link.tsize) for name, link in ordered], data)


def decode_node(block: bytes, *, limit_bytes: int = BLOCK_LIMIT_BYTES) -> Node:
    """Links and data of a dag-pb block.

    Raises IntegrityError on anything that is not strictly dag-pb, and above `limit_bytes`. Data before the links are taken:
    the specification allows them.
    """
    if len(block) > limit_bytes:
        raise IntegrityError(f"a dag-pb block of {len(block)} bytes is above the limit of {limit_bytes}")
    links: list[Link] = []
    data: bytes | None = None
    split = False  # data came after some links
    for field, value in _fields(block):
        if field == 2 and isinstance(value, bytes) and not split:
            links.append(_link(value))
        elif field == 1 and isinstance(value, bytes) and data is None:
            data, split = value, bool(links)
        else:
            raise IntegrityError("a dag-pb block has fields that are unknown, repeated or out of order")
    return Node(links, data or b"")


def decode_unixfs(cid: Cid, block: bytes) -> tuple[UnixFs, list[Link]]:
    """The message and links of the block of `cid`, with errors that name it. The block itself is checked by the caller."""
    try:
        node = decode_node(block)
        return UnixFs.decode(node.data), node.links
    except IntegrityError as error:
        raise IntegrityError(
            f"{cid.text}: not a UnixFS node: {error.message}", hint="this CID names something else than files"
        ) from None


def _link(data: bytes) -> Link:
    cid: Cid | None = None
    name, tsize, last = "", 0, 0
    for field, value in _fields(data):
        if field <= last:
            raise IntegrityError("the fields of a link are repeated or out of order")
        last = field
        if field == 1 and isinstance(value, bytes):
            cid, end = Cid.from_bytes(value)
            if end != len(value):
                raise IntegrityError("bytes follow the CID of a link")
        elif field == 2 and isinstance(value, bytes):
            try:
                name = value.decode()
            except UnicodeDecodeError:
                raise IntegrityError(f"the name of a link is not UTF-8: {value[:40]!r}") from None
        elif field == 3 and isinstance(value, int):
            tsize = value
        else:
            raise IntegrityError(f"a link has a field {field} that is unknown or of another kind")
    if cid is None:
        raise IntegrityError("a link has no CID")
    return Link(name, cid, tsize)


def _fields(data: bytes) -> list[tuple[int, int | bytes]]:
    """Protobuf fields in their order: a number for wire type 0, bytes for type 2; others are refused."""
    found: list[tuple[int, int | bytes]] = []
    at = 0
    while at < len(data):
        tag, at = read_varint(data, at, limit_bytes=10)
        if tag & 7 == 0:
            number, at = read_varint(data, at, limit_bytes=10)
            found.append((tag >> 3, number))
        elif tag & 7 == 2:
            size, at = read_varint(data, at, limit_bytes=10)
            if size > len(data) - at:
                raise IntegrityError("a field is cut short")
            found.append((tag >> 3, data[at : at + size]))
            at += size
        else:
            raise IntegrityError(f"a field has wire type {tag & 7}")
    return found


def _packed(data: bytes) -> list[int]:
    sizes = []
    at = 0
    while at < len(data):
        size, at = read_varint(data, at, limit_bytes=10)
        sizes.append(size)
    return sizes


def _number(seen: dict[int, int | bytes], field: int) -> int | None:
    value = seen.get(field)
    if isinstance(value, bytes):
        raise IntegrityError(f"field {field} of the UnixFS message is no number")
    return value
