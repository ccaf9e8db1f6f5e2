"""CARv1: blocks one after another in a file, each behind its CID.

    header   varint length, dag-cbor {"roots": [CID, …], "version": 1}
    section  varint length, CID, block         once a block

Written as a stream. When read, each block is hashed before it is handed on, lengths are checked before anything is
allocated, and everything that does not fit is an IntegrityError naming the CID where it has one.

Sources: "CARv1" (ipld.io/specs/transport/car/carv1), dag-cbor. CARv2 is recognised and refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from distribute.cid import DAG_PB, Cid, read_varint, varint
from distribute.dagpb import BLOCK_LIMIT_BYTES, decode_node
from distribute.walking import Get, blocks
from headwater.errors import IntegrityError

_CID_LIMIT_BYTES = 64  # 2 varints of a codec and hash that are known, and 32 bytes


class Writer(Protocol):
    """What a CAR is written to."""

    def write(self, data: bytes, /) -> object: ...


class Reader(Protocol):
    """What a CAR is read from; `read` may give fewer bytes than asked, and none at the end."""

    def read(self, size: int, /) -> bytes: ...


class MissingBlock(IntegrityError):
    """A block that a DAG needs is not where it was looked for."""


@dataclass(frozen=True, slots=True)
class CarLimits:
    """What no CAR may exceed. Sizes in bytes."""

    header_bytes: int = 64 << 10
    block_bytes: int = BLOCK_LIMIT_BYTES
    blocks: int = 1 << 26
    total_bytes: int | None = None


def car_header(roots: Sequence[Cid]) -> bytes:
    """The header with its length."""
    count = len(roots)
    head = (
        bytes((0x80 | count,)) if count < 24 else b"\x98" + bytes((count,))
    )  # more roots than 255: OverflowError
    body = b"\xa2\x65roots" + head
    for cid in roots:
        link = b"\0" + cid.bytes
        body += b"\xd8\x2a\x58" + bytes((len(link),)) + link
    body += b"\x67version\x01"
    return varint(len(body)) + body


def car_section(cid: Cid, block: bytes) -> bytes:
    """One block with its CID and length."""
    name = cid.bytes
    return b"".join((varint(len(name) + len(block)), name, block))


def write_car(handle: Writer, roots: Sequence[Cid], content: Iterable[tuple[Cid, bytes]]) -> int:
    """Write a CAR, block by block; returns its bytes. Blocks are taken as they are: they are ours."""
    head = car_header(roots)
    handle.write(head)
    total = len(head)
    for cid, block in content:
        section = car_section(cid, block)
        handle.write(section)
        total += len(section)
    return total


def export_tree(handle: Writer, root: Cid, get: Get, read: Callable[[str, int, int], bytes]) -> int:
    """Write the CAR of a whole tree: nodes from `get`, leaves from `read(path, offset, length)`; returns its bytes.

    Every block once, depth first. Raises IntegrityError when a file is not what the DAG says; what is written is useless then.
    """
    return write_car(handle, [root], blocks(root, get, read))


class CarReader:
    """The roots, and by iteration the blocks with their CIDs, each of them verified. `place` is the offset of the block that
    was handed out last."""

    def __init__(self, handle: Reader, limits: CarLimits) -> None:
        self._handle = handle
        self._limits = limits
        self._at = 0
        self.place = 0
        size = self._length("the header", limits.header_bytes)
        if size is None:
            raise IntegrityError("this is no CAR: it is empty")
        self.roots = _decode_header(self._take(size, "the header of a CAR"))

    def __iter__(self) -> Iterator[tuple[Cid, bytes]]:
        limits = self._limits
        name = "the header"
        for _ in range(limits.blocks):
            size = self._length(f"the block after {name}", limits.block_bytes + _CID_LIMIT_BYTES)
            if size is None:
                return
            if limits.total_bytes is not None and self._at + size > limits.total_bytes:
                raise IntegrityError(
                    f"a CAR goes on after {name} above the limit of {limits.total_bytes} bytes"
                )
            # what is there of it may be short: when the CID is whole, the error below names it
            start = self._take(min(size, _CID_LIMIT_BYTES), f"the block after {name}", whole=False)
            try:
                cid, end = Cid.from_bytes(start)
            except IntegrityError as error:
                raise IntegrityError(f"the block after {name} in a CAR: {error.message}") from None
            name = cid.text
            block = start[end:] + self._take(size - len(start), name)
            cid.check(block)
            self.place = self._at - len(block)
            yield cid, block
        if self._length("the end", limits.block_bytes + _CID_LIMIT_BYTES) is not None:
            raise IntegrityError(f"a CAR has more than {limits.blocks} blocks")

    def _length(self, what: str, limit: int) -> int | None:
        """The next varint, or None at the end of the file."""
        raw = b""
        while not raw or raw[-1] & 0x80:
            byte = self._handle.read(1)
            if not byte:
                if raw:
                    raise IntegrityError(f"a CAR is cut short at {what}")
                return None
            raw += byte
            if len(raw) > 9:
                break
        self._at += len(raw)
        size, _ = read_varint(raw)
        if not 0 < size <= limit:
            raise IntegrityError(f"{what} of a CAR has {size} bytes; 1 to {limit} are allowed")
        return size

    def _take(self, size: int, what: str, *, whole: bool = True) -> bytes:
        parts = []
        while size:
            part = self._handle.read(size)
            if not part and not whole:
                break
            if not part:
                raise IntegrityError(f"{what}: the CAR is cut short")
            parts.append(part)
            size -= len(part)
            self._at += len(part)
        return b"".join(parts)


def read_car(handle: Reader, *, limits: CarLimits | None = None) -> CarReader:
    """Begin to read a CAR. Raises IntegrityError on a header that is no CARv1; iteration raises it for bad blocks."""
    return CarReader(handle, limits or CarLimits())


class BlockStore:
    """Blocks in memory by digest: CIDv0 and CIDv1 of one block are one entry. For the nodes of a release, not for its data."""

    def __init__(self, content: Iterable[tuple[Cid, bytes]] = ()) -> None:
        self._blocks: dict[bytes, bytes] = {}
        for cid, block in content:
            self.add(cid, block)

    def add(self, cid: Cid, block: bytes) -> None:
        """Keep a block that was verified."""
        self._blocks[cid.digest] = block

    def get(self, cid: Cid) -> bytes:
        """The block of `cid`. Raises MissingBlock naming it."""
        try:
            return self._blocks[cid.digest]
        except KeyError:
            raise MissingBlock(
                f"{cid.text}: this block is missing", hint="fetch it from another source"
            ) from None

    def __contains__(self, cid: Cid) -> bool:
        return cid.digest in self._blocks

    def __len__(self) -> int:
        return len(self._blocks)

    def keep_reachable(self, roots: Iterable[Cid]) -> int:
        """Drop what no root leads to; returns how many. Children that are not here are passed over.

        Raises IntegrityError, naming the CID, on a block that should be dag-pb and is not.
        """
        waiting = [root for root in roots if root in self]
        kept: dict[bytes, bytes] = {}
        while waiting:
            cid = waiting.pop()
            if cid.digest in kept:
                continue
            kept[cid.digest] = block = self._blocks[cid.digest]
            if cid.codec == DAG_PB:
                try:
                    node = decode_node(block)
                except IntegrityError as error:
                    raise IntegrityError(f"{cid.text}: {error.message}") from None
                waiting += [link.cid for link in node.links if link.cid in self]
        dropped = len(self._blocks) - len(kept)
        self._blocks = kept
        return dropped


def load_car(handle: Reader, *, limits: CarLimits | None = None) -> tuple[list[Cid], BlockStore]:
    """(roots, blocks) of a CAR that fits into memory, `nodes.car` above all: repeated blocks once, blocks that no root
    leads to left out, in any order."""
    reader = read_car(handle, limits=limits)
    store = BlockStore(reader)
    store.keep_reachable(reader.roots)
    return reader.roots, store


def _decode_header(body: bytes) -> list[Cid]:
    """The roots. Exactly the dag-cbor of a CARv1 header is taken, with its two keys in either order."""
    if body.startswith(b"\xa1\x67version\x02"):
        raise IntegrityError(
            "this is a CARv2; only CARv1 is read", hint="convert it: car extract-v1 FILE.car"
        )
    bad = IntegrityError("this is no CAR: its header is not that of CARv1")
    roots: list[Cid] | None = None
    version = False
    at = 1
    if body[:1] != b"\xa2":
        raise bad
    for _ in range(2):
        if body.startswith(b"\x67version\x01", at) and not version:
            version, at = True, at + 9
        elif body.startswith(b"\x65roots", at) and roots is None:
            roots, at = _decode_roots(body, at + 6, bad)
        else:
            raise bad
    if at != len(body) or roots is None:
        raise bad
    return roots


def _decode_roots(body: bytes, at: int, bad: IntegrityError) -> tuple[list[Cid], int]:
    head = body[at : at + 3]
    if not head or head[0] >> 5 != 4:
        raise bad
    count, size = head[0] & 0x1F, 1
    if count == 24 and len(head) > 1:
        count, size = head[1], 2
    elif count == 25 and len(head) > 2:
        count, size = int.from_bytes(head[1:3], "big"), 3
    elif count > 23:
        raise bad
    at += size
    roots = []
    for _ in range(count):
        if body[at : at + 3] != b"\xd8\x2a\x58" or at + 5 > len(body) or body[at + 4] != 0:
            raise bad
        end = at + 4 + body[at + 3]
        cid, after = Cid.from_bytes(body, at + 5)
        if after != end:
            raise bad
        roots.append(cid)
        at = end
    return roots, at
