"""Which blocks answer a request for a CAR, in which order: the path to the end of the request, then the DAG below it.

Depth first, children in the order of their links, as `order=dfs` of the Trustless Gateway specification asks. Everything here
reads blocks, so it belongs into a thread; every block has been hashed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from distribute import hamt
from distribute.cid import DAG_PB, Cid
from distribute.dagpb import DIRECTORY, HAMT, Link, UnixFs
from distribute.faces.blocks import BlockMap, folder_links, is_file, unixfs_node
from distribute.faces.shelf import NotHere
from headwater.errors import IntegrityError

Scope: TypeAlias = Literal["block", "entity", "all"]


class Block(NamedTuple):
    """One block on its way out."""

    cid: Cid
    data: bytes


@dataclass(frozen=True)
class Bytes:
    """`entity-bytes`: first and last byte as the request has them; negative counts from the end, None is the end."""

    first: int
    last: int | None

    def within(self, size: int) -> tuple[int, int] | None:
        """[start, end) inside a file of `size` bytes, or None when nothing of it is meant."""
        start = max(self.first + size, 0) if self.first < 0 else self.first
        last = size - 1 if self.last is None else self.last + size if self.last < 0 else self.last
        end = min(last + 1, size)
        return (start, end) if start < end else None


@dataclass(frozen=True)
class Target:
    """The end of a path: its CID, and the blocks on the way to it."""

    cid: Cid
    way: list[Cid]
    roots: list[Cid]  # of each part of the path, the end included


def resolve(blocks: BlockMap, root: Cid, path: list[str]) -> Target:
    """Follow a path through folders. Raises NotHere for a part that is not there, IntegrityError for a node that is none."""
    way: list[Cid] = []
    roots = [root]
    here = root
    for name in path:
        way.append(here)
        message, links = _node(blocks, here)
        level = 0
        while message.type == HAMT:
            link, child = _in_shard(message, links, name, level)
            here = link.cid
            if not child:
                break
            way.append(here)
            message, links = _node(blocks, here)
            level += 1
        else:
            if message.type != DIRECTORY:
                raise NotHere(name)
            found = next((link for link in links if link.name == name), None)
            if found is None:
                raise NotHere(name)
            here = found.cid
        roots.append(here)
    return Target(here, way, roots)


def _in_shard(message: UnixFs, links: list[Link], name: str, level: int) -> tuple[Link, bool]:
    """(link, whether it is a child node) on the way to `name`."""
    if level >= hamt.DEPTH_LIMIT:
        raise NotHere(name)
    label = f"{hamt.name_hash(name.encode()) >> (56 - 8 * level) & 0xFF:02X}"
    for found, link in hamt.read(message, links):
        if link.name == label:
            return link, True
        if link.name.startswith(label) and found == name:
            return link, False
    raise NotHere(name)


def _node(blocks: BlockMap, cid: Cid) -> tuple[UnixFs, list[Link]]:
    if cid.codec != DAG_PB:
        raise NotHere(cid.text)
    return unixfs_node(blocks.read(cid.digest))


def walk(
    blocks: BlockMap, target: Target, scope: Scope, part: Bytes | None, *, repeat: bool
) -> Iterator[Block]:
    """Every block of the answer. With `repeat` (dups=y) a block comes as often as it occurs. Raises NotHere, Damaged."""
    seen = None if repeat else Seen(blocks)
    for cid in target.way:
        if seen is None or seen.new(cid.digest):
            yield Block(cid, blocks.read(cid.digest))
    yield from _below(blocks, target.cid, scope, part, seen)


def _below(
    blocks: BlockMap, top: Cid, scope: Scope, part: Bytes | None, seen: Seen | None
) -> Iterator[Block]:
    # a place in a file travels with its node: [start, end) of what is wanted, counted from the node's first byte
    waiting: list[tuple[Cid, tuple[int, int] | None]] = [(top, None)]
    done: set[tuple[bytes, tuple[int, int] | None]] = set()
    first = True
    while waiting:
        cid, span = waiting.pop()
        if seen is not None:
            # once is enough for a leaf; for a node too, unless another part of it is wanted now
            fresh = seen.new(cid.digest)
            if not fresh and (cid.codec != DAG_PB or (cid.digest, span) in done):
                continue
            if cid.codec == DAG_PB:
                done.add((cid.digest, span))
        else:
            fresh = True
        data = blocks.read(cid.digest)
        if fresh:
            yield Block(cid, data)
        if cid.codec != DAG_PB or scope == "block":
            first = False
            continue
        message, links = unixfs_node(data)
        if is_file(message):
            if first and part is not None:
                span = part.within(message.filesize or 0)
                if span is None:
                    return  # nothing of it is meant: the root block lets the client see why
            waiting += reversed(_in_file(message, links, span))
        else:
            children = folder_links(message, links)
            if scope == "entity":  # the nodes of this folder, not what it holds
                children = [(name, link) for name, link in children if not name and message.type == HAMT]
            waiting += [(link.cid, None) for _, link in reversed(children)]
        first = False


def _in_file(
    message: UnixFs, links: list[Link], span: tuple[int, int] | None
) -> list[tuple[Cid, tuple[int, int] | None]]:
    """The children of a file's node that hold bytes of `span` (None: all), each with its own part of it."""
    if span is None:
        return [(link.cid, None) for link in links]
    if len(message.blocksizes) != len(links):
        raise IntegrityError("a file's node has another number of sizes than of links")
    found: list[tuple[Cid, tuple[int, int] | None]] = []
    at = 0
    for link, size in zip(links, message.blocksizes, strict=True):
        if at < span[1] and at + size > span[0]:
            found.append((link.cid, (max(span[0] - at, 0), min(span[1] - at, size))))
        at += size
    return found


class Seen:
    """Which blocks went out already: a bit for each leaf, so that a stream of a million takes 125 kB."""

    def __init__(self, blocks: BlockMap) -> None:
        self._blocks = blocks
        self._leaves = bytearray(blocks.leaves // 8 + 1)
        self._nodes: set[bytes] = set()

    def new(self, digest: bytes) -> bool:
        """Whether it was not seen; it is from now on."""
        number = self._blocks.number(digest)
        if number is None:
            known = digest in self._nodes
            self._nodes.add(digest)
            return not known
        byte, bit = number >> 3, 1 << (number & 7)
        if self._leaves[byte] & bit:
            return False
        self._leaves[byte] |= bit
        return True


def batches(pieces: Iterator[bytes], limit: int) -> Iterator[bytes]:
    """The same bytes in pieces of about `limit`."""
    held: list[bytes] = []
    size = 0
    for piece in pieces:
        held.append(piece)
        size += len(piece)
        if size >= limit:
            yield b"".join(held)
            held, size = [], 0
    if held:
        yield b"".join(held)
