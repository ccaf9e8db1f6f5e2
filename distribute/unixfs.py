"""Files and folders as IPFS names them: chunks, a balanced tree over them, folders over files; nothing but SHA-256.

    leaf   one chunk: a raw block, or in the old profile a dag-pb block around it
    node   up to `width` links to leaves or nodes; as few levels as needed, filled from the left
    folder links by name; above 256 KiB a HAMT (`distribute.hamt`)

How a file is cut is said by a profile (`distribute.profiles`). Source: UnixFS specification (ipfs/specs); the layouts are
Kubo's, byte for byte.
Only digests of leaves are needed here (`file_from_leaves`): the one read of the data happens elsewhere.
Reading a DAG from outside is `distribute.walking`, whose functions are found here as well as the profiles.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from distribute import hamt
from distribute.cid import DAG_PB, DIGEST_BYTES, RAW, Cid
from distribute.dagpb import DIRECTORY, FILE, UnixFs, check_name, link_bytes, node_bytes
from distribute.profiles import (
    DEFAULT_PROFILE,
    HAMT_ABOVE_BYTES,
    PROFILES,
    Profile,
    leaf_count,
    leaf_digest,
    leaf_wrap,
    profile_named,
)
from distribute.walking import FileNode, blocks, iter_leaves, leaf_data, leaf_layout, walk
from headwater.errors import IntegrityError

__all__ = [
    "DEFAULT_PROFILE", "HAMT_ABOVE_BYTES", "PROFILES", "Built", "Child", "FileNode", "Nodes", "Profile", "blocks",
    "file_bytes", "file_from_leaves", "folder", "iter_leaves", "leaf_count", "leaf_data", "leaf_digest", "leaf_layout",
    "leaf_wrap", "profile_named", "tree", "walk",
]  # fmt: skip

_DIRECTORY_DATA = UnixFs(DIRECTORY).encode()
Nodes: TypeAlias = list[tuple[Cid, bytes]]


class Child(Protocol):
    """What a folder must know of its children; `Built` is one."""

    @property
    def cid(self) -> Cid: ...

    @property
    def dag_bytes(self) -> int: ...

    @property
    def size_bytes(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Built:
    """A file, a folder or a tree: root CID, bytes of all blocks below it (Tsize), bytes of content, and the blocks that
    are made here (dag-pb nodes, without leaves), root first."""

    cid: Cid
    dag_bytes: int
    size_bytes: int
    nodes: Nodes = field(default_factory=list, repr=False)


def file_from_leaves(
    profile: Profile, leaves: bytes | bytearray | memoryview, size_bytes: int, *, keep_nodes: bool = True
) -> Built:
    """The DAG of a file from the digests of its leaf blocks, 32 bytes each, one after another.

    Takes the memory of one node and one small tuple a node, not one object a leaf. Raises IntegrityError when the number of
    leaves does not fit `size_bytes`.
    """
    count = leaf_count(profile, size_bytes)
    if len(leaves) != count * DIGEST_BYTES:
        raise IntegrityError(
            f"a file of {size_bytes} bytes has {count} leaves in {profile.name}, not {len(leaves) / DIGEST_BYTES:g}"
        )
    nodes: Nodes = []
    level = _lowest(profile, memoryview(leaves), size_bytes)
    start = profile.leaf_start
    if count == 1:
        (digest, tsize, _) = next(level)
        codec = RAW if profile.raw_leaves else DAG_PB
        return Built(Cid(1 if profile.raw_leaves else profile.cid_version, codec, digest), tsize, size_bytes)
    while True:
        above = list(_parents(profile, level, start, nodes if keep_nodes else None))
        if len(above) == 1:
            digest, tsize, _ = above[0]
            nodes.reverse()
            return Built(Cid(profile.cid_version, DAG_PB, digest), tsize, size_bytes, nodes)
        level, start = iter(above), profile.node_start


def file_bytes(profile: Profile, data: bytes) -> Built:
    """The DAG of a file whose bytes are in memory (tests, documents)."""
    view = memoryview(data)
    starts = range(0, max(1, len(data)), profile.chunk_bytes)
    leaves = b"".join(leaf_digest(profile, view[at : at + profile.chunk_bytes]) for at in starts)
    return file_from_leaves(profile, leaves, len(data))


def _lowest(profile: Profile, leaves: memoryview, size_bytes: int) -> Iterator[tuple[bytes, int, int]]:
    """(digest, Tsize, content bytes) of each leaf."""
    step = profile.chunk_bytes
    extra = sum(map(len, leaf_wrap(profile, step)))
    last = len(leaves) - DIGEST_BYTES
    for at in range(0, last, DIGEST_BYTES):
        yield bytes(leaves[at : at + DIGEST_BYTES]), step + extra, step
    rest = size_bytes - last // DIGEST_BYTES * step
    yield bytes(leaves[last:]), rest + sum(map(len, leaf_wrap(profile, rest))), rest


def _parents(
    profile: Profile, level: Iterable[tuple[bytes, int, int]], start: bytes, nodes: Nodes | None
) -> Iterator[tuple[bytes, int, int]]:
    """The nodes over one level, `width` links each; the last may have fewer, also only one."""
    links: list[bytes] = []
    sizes: list[int] = []
    below = 0

    def close() -> tuple[bytes, int, int]:
        content = sum(sizes)
        block = node_bytes(links, UnixFs(FILE, filesize=content, blocksizes=tuple(sizes)).encode())
        digest = hashlib.sha256(block).digest()
        if nodes is not None:
            nodes.append((Cid(profile.cid_version, DAG_PB, digest), block))
        return digest, below + len(block), content

    for digest, tsize, content in level:
        if len(links) == profile.width:
            yield close()
            links, sizes, below = [], [], 0
        links.append(link_bytes(b"", start + digest, tsize))
        sizes.append(content)
        below += tsize
    yield close()


def folder(profile: Profile, entries: Mapping[str, Child]) -> Built:
    """The DAG of one folder; `nodes` are its own blocks only. Raises IntegrityError on a name that is no name."""
    rows = sorted(
        hamt.Entry(check_name(name), child.cid.bytes, child.dag_bytes) for name, child in entries.items()
    )
    content = sum(child.size_bytes for child in entries.values())
    nodes: Nodes = []

    def emit(digest: bytes, block: bytes) -> None:
        nodes.append((Cid(profile.cid_version, DAG_PB, digest), block))

    links = _flat(profile, rows)
    if links is None:
        digest, total = hamt.build(rows, profile.node_start, emit)
    else:
        block = node_bytes(links, _DIRECTORY_DATA)
        digest, total = hashlib.sha256(block).digest(), len(block) + sum(row.tsize for row in rows)
        emit(digest, block)
    nodes.reverse()
    return Built(Cid(profile.cid_version, DAG_PB, digest), total, content, nodes)


def _flat(profile: Profile, rows: list[hamt.Entry]) -> list[bytes] | None:
    """The links of a folder in one block, or None when it must be a HAMT: strictly above the threshold."""
    if profile.hamt_by == "links":
        if sum(len(row.name) + len(row.cid) for row in rows) > profile.hamt_above_bytes:
            return None
        return [link_bytes(*row) for row in rows]
    size = 2 + len(_DIRECTORY_DATA)
    links: list[bytes] = []
    for row in rows:
        links.append(link_bytes(*row))
        size += len(links[-1])
        if size > profile.hamt_above_bytes:
            return None
    return links


class _Open(dict[str, "_Open | Child"]):
    """A folder that is still being filled."""


def tree(
    profile: Profile,
    files: Mapping[str, Child],
    empty_folders: Iterable[str] = (),
    *,
    emit: Callable[[Cid, bytes], None] | None = None,
) -> Built:
    """The DAG of a whole tree from the DAGs of its files by path.

    `nodes` are the blocks of all folders and files, root first, none twice; with `emit` they are handed on instead, children
    first, and `nodes` is empty: the folders of a million files then need no memory for their blocks.
    Raises IntegrityError on an unsafe path, and when one path is both a file and a folder.
    """
    root = _Open()
    for path, child in files.items():
        *above, name = path.split("/")
        into = _enter(root, above, path)
        if name in into:
            raise IntegrityError(f"{path!r} is there twice, as a file or as a folder")
        check_name(name)
        into[name] = child
    for path in empty_folders:
        _enter(root, path.split("/"), path)
    nodes: Nodes = []
    seen: set[bytes] = set()

    def take(cid: Cid, block: bytes) -> None:
        if cid.digest not in seen:
            seen.add(cid.digest)
            if emit is None:
                nodes.append((cid, block))
            else:
                emit(cid, block)

    top = _close(profile, root, take)
    nodes.reverse()
    return Built(top.cid, top.dag_bytes, top.size_bytes, nodes)


def _enter(root: _Open, names: Iterable[str], path: str) -> _Open:
    """The open folder below `root`, made with all above it where it is new; `path` is for messages."""
    here = root
    for name in names:
        found = here.get(name)
        if found is None:
            check_name(name)
            here[name] = found = _Open()
        elif not isinstance(found, _Open):
            raise IntegrityError(f"{name!r} in {path[:200]!r} is both a file and a folder")
        here = found
    return here


def _close(profile: Profile, root: _Open, take: Callable[[Cid, bytes], None]) -> Built:
    """Folders from the deepest up, without recursion: depth is the publisher's choice."""
    waiting: list[tuple[_Open, str, _Open]] = [(root, "", root)]
    order: list[tuple[_Open, str, _Open]] = []
    while waiting:
        above, name, here = waiting.pop()
        order.append((above, name, here))
        waiting += [(here, below, child) for below, child in here.items() if isinstance(child, _Open)]
    closed: dict[int, Built] = {}
    for _, _, here in reversed(order):
        children: dict[str, Child] = {}
        for name, child in here.items():
            if isinstance(child, _Open):
                child = closed.pop(id(child))
            elif isinstance(child, Built):
                for cid, block in reversed(child.nodes):
                    take(cid, block)
            children[name] = child
        made = folder(profile, children)
        for cid, block in reversed(made.nodes):
            take(cid, block)
        closed[id(here)] = Built(made.cid, made.dag_bytes, made.size_bytes)
    return closed[id(root)]
