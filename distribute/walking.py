"""Reading a DAG that somebody else made: every block is checked against its CID before a byte of it is believed.

A caller gives `get(cid) -> bytes`; blocks may come from a gateway, a node, a CAR. What is true but hostile is refused as well:
names that leave the folder, a name twice, folders without end, files whose sizes do not add up. All errors are
IntegrityErrors that name the CID. Nothing recurses: the depth of a DAG is its maker's choice.

Sources: UnixFS specification (ipfs/specs), "Directory", "HAMT Sharding", "File".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple, TypeAlias

from distribute import hamt
from distribute.cid import CODECS, DAG_PB, RAW, Cid
from distribute.dagpb import (
    BLOCK_LIMIT_BYTES,
    DIRECTORY,
    FILE,
    HAMT,
    RAW_TYPE,
    Link,
    UnixFs,
    check_name,
    decode_unixfs,
)
from headwater.errors import IntegrityError

DEPTH_LIMIT = 256  # folders in each other
FILE_DEPTH_LIMIT = 32  # nodes over a leaf; 1024 links each make 8 EiB with six
ENTRIES_LIMIT = 5_000_000  # of all folders together, those met twice counted twice
LEAVES_LIMIT = 1 << 24  # of one file: 16 TiB in chunks of 1 MiB

Get: TypeAlias = Callable[[Cid], bytes]


class FileNode(NamedTuple):
    """One file, or an empty folder, that `walk` found. `path` is "" when the root itself is a file.

    `size_bytes` of a file that is one raw leaf is what its folder says; it is proved when the leaf is there.
    """

    path: str
    cid: Cid
    size_bytes: int
    is_folder: bool = False


class _Seen(NamedTuple):
    """One step of a walk: a file, a folder, or a further node of a sharded folder."""

    kind: Literal["file", "folder", "shard"]
    path: str
    cid: Cid
    block: bytes | None  # None for a raw leaf, which is not fetched
    size_bytes: int = 0
    is_empty: bool = False


def checked(cid: Cid, get: Get) -> bytes:
    """The block of `cid`, which is what its name says and not above BLOCK_LIMIT_BYTES."""
    block = get(cid)
    if len(block) > BLOCK_LIMIT_BYTES:
        raise IntegrityError(
            f"{cid.text}: a block of {len(block)} bytes, above the limit of {BLOCK_LIMIT_BYTES}"
        )
    cid.check(block)
    return block


def walk(
    root: Cid, get: Get, *, depth_limit: int = DEPTH_LIMIT, entries_limit: int = ENTRIES_LIMIT
) -> Iterator[FileNode]:
    """Every file and every empty folder below `root`, folder by folder, without fetching raw leaves.

    Takes the memory of the folders on the way to one file, and of a sharded folder only of one node a level.
    """
    for seen in _visit(root, get, depth_limit, entries_limit):
        if seen.kind == "file":
            yield FileNode(seen.path, seen.cid, seen.size_bytes)
        elif seen.is_empty:
            yield FileNode(seen.path, seen.cid, 0, True)


def blocks(
    root: Cid,
    get: Get,
    read: Callable[[str, int, int], bytes],
    *,
    depth_limit: int = DEPTH_LIMIT,
    entries_limit: int = ENTRIES_LIMIT,
) -> Iterator[tuple[Cid, bytes]]:
    """Every block of a tree once, parents before children, depth first (CAR `order=dfs; dups=n`).

    Nodes come from `get`, raw leaves from `read(path, offset, length)`; a file that is not any more what the DAG says is an
    IntegrityError. Leaves that are dag-pb blocks come from `get`, too.
    """
    sent: set[bytes] = set()
    for seen in _visit(root, get, depth_limit, entries_limit):
        if seen.block is not None and seen.cid.digest not in sent:
            sent.add(seen.cid.digest)
            yield seen.cid, seen.block
        if seen.kind != "file":
            continue
        for part in _parts(seen.cid, get, 0, None, seen.size_bytes, LEAVES_LIMIT):
            offset, length, cid, block, _ = part
            if cid.digest in sent:
                continue
            if block is None:
                block = read(seen.path, offset, length)
                cid.check(block)
            sent.add(cid.digest)
            yield cid, block


def _visit(root: Cid, get: Get, depth_limit: int, entries_limit: int) -> Iterator[_Seen]:
    """Folders, their shards and what they hold, parents first."""
    left = entries_limit
    # (link or root, path, depth in folders, level in a sharded folder, the way there in it)
    waiting: list[tuple[Cid, int, str, int, int, int]] = [(root, -1, "", 0, 0, 0)]
    while waiting:
        cid, tsize, path, depth, level, way = waiting.pop()
        if depth > depth_limit:
            raise IntegrityError(
                f"{cid.text}: more than {depth_limit} folders in each other, at {path[:200]!r}"
            )
        if cid.codec == RAW and level == 0:
            size = tsize if tsize >= 0 else len(checked(cid, get))
            yield _Seen("file", path, cid, None, size)
            continue
        if cid.codec != DAG_PB:
            raise IntegrityError(
                f"{cid.text}: a {CODECS.get(cid.codec, hex(cid.codec))} block has no place in a folder",
                hint="this CID names something else than files",
            )
        block = checked(cid, get)
        message, links = decode_unixfs(cid, block)
        below = f"{path}/" if path else ""
        if level and message.type != HAMT:
            raise IntegrityError(f"{cid.text}: a node inside the sharded folder {path!r} is none itself")
        try:
            if message.type == DIRECTORY:
                _check_names([link.name for link in links])
                found = [
                    (link.cid, link.tsize, below + link.name, depth + 1, 0, 0) for link in reversed(links)
                ]
            elif message.type == HAMT:
                found = _shard(message, links, path, below, depth, level, way)
            else:
                yield _Seen("file", path, cid, block, _file_size(cid, message))
                continue
        except IntegrityError as error:
            if error.message.startswith(cid.text):
                raise
            raise IntegrityError(f"{cid.text}: {error.message}", hint=error.hint) from None
        left -= len(found)
        if left < 0:
            raise IntegrityError(f"{cid.text}: more than {entries_limit} entries below {root.text}")
        yield _Seen("shard" if level else "folder", path, cid, block, is_empty=not level and not links)
        waiting += found


def _check_names(names: list[str]) -> None:
    seen: set[str] = set()
    for name in names:
        check_name(name)
        if name in seen:
            raise IntegrityError(f"a folder has the name {name[:80]!r} twice")
        seen.add(name)


def _shard(
    message: UnixFs, links: list[Link], path: str, below: str, depth: int, level: int, way: int
) -> list[tuple[Cid, int, str, int, int, int]]:
    """What is below one node of a sharded folder. An entry must stand where its hash says: then no name can be there twice."""
    found = []
    for name, link in reversed(hamt.read(message, links)):
        here = way << 8 | int(link.name[: hamt.PREFIX_LETTERS], 16)
        if name:
            if hamt.name_hash(check_name(name)) >> (56 - 8 * level) != here:
                raise IntegrityError(f"{name[:80]!r} is not where its hash puts it in a sharded folder")
            found.append((link.cid, link.tsize, below + name, depth + 1, 0, 0))
        elif level + 1 >= hamt.DEPTH_LIMIT:
            raise IntegrityError(
                f"the sharded folder {path[:200]!r} is more than {hamt.DEPTH_LIMIT} nodes deep"
            )
        else:
            found.append((link.cid, link.tsize, path, depth, level + 1, here))
    return found


def _file_size(cid: Cid, message: UnixFs) -> int:
    if message.type not in (FILE, RAW_TYPE):
        raise IntegrityError(
            f"{cid.text}: UnixFS type {message.type}: only files and folders are taken, no symbolic links",
            hint="this CID cannot be fetched as a folder of files",
        )
    size = sum(message.blocksizes) + len(message.data)
    if message.filesize not in (None, size):
        raise IntegrityError(f"{cid.text}: says it has {message.filesize} bytes, but its parts have {size}")
    return size


def iter_leaves(
    root: Cid,
    get: Get,
    *,
    offset: int = 0,
    length: int | None = None,
    size_bytes: int | None = None,
    limit: int = LEAVES_LIMIT,
) -> Iterator[tuple[int, int, Cid]]:
    """(offset, length, CID) of the leaves of one file that touch a range, in order. Only nodes on the way are fetched.

    `size_bytes` is needed for a file that is one raw leaf; without it the leaf is fetched. The lengths are what the nodes
    say: `leaf_data` proves them.
    """
    if length == 0:
        return
    for start, size, cid, _, is_leaf in _parts(root, get, offset, length, size_bytes, limit):
        # a file that is one leaf has no node above it that could have left it out
        if is_leaf and (not size or start + size > offset):
            yield start, size, cid


def leaf_layout(
    root: Cid, get: Get, *, size_bytes: int | None = None, limit: int = LEAVES_LIMIT
) -> list[tuple[int, int, Cid]]:
    """`iter_leaves` of the whole file as a list; about 200 bytes of memory a leaf."""
    return list(iter_leaves(root, get, size_bytes=size_bytes, limit=limit))


def leaf_data(cid: Cid, block: bytes, length: int) -> bytes:
    """The content of a leaf block, checked by its CID and for its length."""
    cid.check(block)
    if cid.codec == DAG_PB:
        message, links = decode_unixfs(cid, block)
        if links:
            raise IntegrityError(f"{cid.text}: is a node where a leaf is expected")
        _file_size(cid, message)
        block = message.data
    if len(block) != length:
        raise IntegrityError(f"{cid.text}: a leaf of {len(block)} bytes where {length} are expected")
    return block


def _parts(
    root: Cid, get: Get, offset: int, length: int | None, size: int | None, limit: int
) -> Iterator[tuple[int, int, Cid, bytes | None, bool]]:
    """(offset, length, CID, block, whether it is a leaf) of nodes and leaves; the block is None for a raw leaf."""
    end = None if length is None else offset + length
    if root.codec == RAW and size is None:
        size = len(checked(root, get))
    waiting: list[tuple[Cid, int, int | None, int]] = [(root, 0, size, 0)]
    left = limit
    while waiting:
        cid, start, size, depth = waiting.pop()
        left -= 1
        if left < 0 or depth > FILE_DEPTH_LIMIT:
            raise IntegrityError(f"{cid.text}: the file {root.text} has too many blocks")
        if cid.codec == RAW:
            yield start, size or 0, cid, None, True
            continue
        if cid.codec != DAG_PB:
            raise IntegrityError(f"{cid.text}: a {CODECS.get(cid.codec)} block has no place in a file")
        block = checked(cid, get)
        message, links = decode_unixfs(cid, block)
        whole = _file_size(cid, message)
        if size is not None and whole != size:
            raise IntegrityError(f"{cid.text}: has {whole} bytes where its parent says {size}")
        if not links:
            if message.blocksizes:
                raise IntegrityError(f"{cid.text}: has sizes of parts, but no parts")
            yield start, whole, cid, block, True
            continue
        if message.data or len(links) != len(message.blocksizes) or 0 in message.blocksizes:
            raise IntegrityError(f"{cid.text}: the parts of a file and their sizes do not fit each other")
        yield start, whole, cid, block, False
        at = start
        below: list[tuple[Cid, int, int | None, int]] = []
        for link, part in zip(links, message.blocksizes, strict=True):
            if at + part > offset and (end is None or at < end):
                below.append((link.cid, at, part, depth + 1))
            at += part
        waiting += reversed(below)
