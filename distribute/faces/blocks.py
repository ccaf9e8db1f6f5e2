"""CID -> file, offset, length: the blocks of a release, found without reading the data or copying it.

Leaves are ranges of the files themselves; only nodes (folders, and the tree over the chunks of large files) lie in nodes.car.
The digests of all leaves stand in those nodes, and a file of one chunk is its own leaf, so a start costs one pass over nodes.car.
A million leaves take 0.6 s of CPU and about 80 MB: digests sorted by their first eight bytes, and where each begins.
Every block is hashed before it is given out: a damaged file gives an error, never a wrong block.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from distribute import hamt
from distribute.car import read_car
from distribute.cid import DAG_PB, DIGEST_BYTES, RAW, Cid
from distribute.dagpb import FILE, HAMT, Link, UnixFs, decode_node
from distribute.faces.shelf import Item, NotHere, Shelf, open_plain
from distribute.unixfs import PROFILES, Profile, leaf_count
from distribute.walking import walk
from headwater.console import say
from headwater.errors import IntegrityError
from headwater.release import MANIFEST_NAME, NODES_NAME

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEVELS = 10  # of nodes over the leaves of one file
_LEAF_LINK = b"\x0a\x24\x01\x55\x12\x20"  # a link's CID field: CIDv1, raw, sha2-256
_LEAF_LINK_END = b"\x12\x00\x18"  # no name, then Tsize


class Damaged(Exception):
    """The bytes on this disk are not the block; the message names file and chunk."""


class Place(NamedTuple):
    """Where a leaf lies."""

    item: Item
    offset: int
    length: int


class BlockMap:
    """Every block of a release that can be given out, by SHA-256 digest."""

    def __init__(self, shelf: Shelf) -> None:
        import numpy

        self._shelf = shelf
        self._told: set[tuple[str, int]] = set()
        self._car = shelf.release.file(NODES_NAME)
        self._nodes = self._index_nodes()
        self._digests: list[bytes] = []
        self._files: list[int] = []
        self._chunks: list[int] = []  # chunk size of each run of leaves
        self._one_chunk = max(profile.chunk_bytes for profile in PROFILES.values())
        for number, item in enumerate(shelf.data):
            assert item.sha256 is not None and item.size_bytes is not None
            if item.size_bytes <= self._one_chunk:
                self._add(bytes.fromhex(item.sha256), number, self._one_chunk)
        self.roots: dict[str, Cid] = {}
        numbers = {item.name: number for number, item in enumerate(shelf.data)}
        for name, text in shelf.release.release.cids.items():
            self._walk(name, text, numbers)
        counts = numpy.array([len(run) // DIGEST_BYTES for run in self._digests], numpy.int64)
        joined = b"".join(self._digests)
        rows: NDArray[numpy.uint64] = numpy.frombuffer(joined, ">u8").reshape(-1, 4).astype(numpy.uint64)
        order = numpy.argsort(rows[:, 0], kind="stable")
        first = numpy.cumsum(counts) - counts
        within = numpy.arange(len(rows), dtype=numpy.int64) - numpy.repeat(first, counts)
        chunk = numpy.repeat(numpy.array(self._chunks, numpy.int64), counts)
        self._key = rows[order, 0]
        self._all = numpy.frombuffer(joined, numpy.uint8).reshape(-1, 32)[order]
        self._file = numpy.repeat(numpy.array(self._files, numpy.int32), counts)[order]
        self._offset = (within * chunk)[order]
        self._chunk = chunk[order].astype(numpy.int32)
        self._digests, self._files, self._chunks = [], [], []
        manifest = shelf.items[MANIFEST_NAME]
        self.manifest = bytes.fromhex(shelf.release.release.manifest_id)
        self._manifest = Place(manifest, 0, 0)

    @property
    def leaves(self) -> int:
        """How many leaves are known, those that occur twice counted twice."""
        return len(self._key)

    def places(self, digest: bytes) -> list[Place]:
        """Every place of a leaf, in the order of the manifest."""
        if digest == self.manifest:
            return [self._manifest._replace(length=self._manifest.item.path.stat().st_size)]
        return [self._place(at) for at in self._matches(digest)]

    def _matches(self, digest: bytes) -> Iterator[int]:
        import numpy

        key = numpy.uint64(int.from_bytes(digest[:8], "big"))
        at = int(numpy.searchsorted(self._key, key, "left"))
        while at < len(self._key) and self._key[at] == key:
            if self._all[at].tobytes() == digest:
                yield at
            at += 1

    def _place(self, at: int) -> Place:
        item, offset = self._shelf.data[int(self._file[at])], int(self._offset[at])
        return Place(item, offset, min(int(self._chunk[at]), (item.size_bytes or 0) - offset))

    def number(self, digest: bytes) -> int | None:
        """A number below `leaves` for a leaf, the same for each of its places; None when it is none."""
        return next(self._matches(digest), None)

    def size(self, digest: bytes) -> int | None:
        """Length of a block in bytes, None when this release has no such block."""
        if digest in self._nodes:
            return self._nodes[digest][1]
        try:
            return next((place.length for place in self.places(digest)), None)
        except OSError:
            return None

    def read(self, digest: bytes) -> bytes:
        """The block, hashed. Raises NotHere when no file here can have it, Damaged when those that should have other bytes."""
        if digest in self._nodes:
            return self.node(digest)
        damaged = ""
        for place in self.places(digest) if len(digest) == DIGEST_BYTES else ():
            try:
                descriptor = open_plain(place.item.path)
            except NotHere:
                continue
            try:
                data = os.pread(descriptor, place.length, place.offset)
            finally:
                os.close(descriptor)
            if hashlib.sha256(data).digest() == digest:
                return data
            damaged = self._tell(place, len(data))
        if damaged:
            raise Damaged(damaged)
        raise NotHere(digest.hex())

    def _tell(self, place: Place, found: int) -> str:
        end = place.offset + place.length
        text = f"{place.item.path}: bytes {place.offset:,} to {end:,} are not what the manifest's CID says"
        if found < place.length:
            text = f"{place.item.path}: ends before byte {end:,}"
        if (place.item.name, place.offset) not in self._told:
            self._told.add((place.item.name, place.offset))
            self._shelf.distrust(place.item)
            say("error", f"{text}: this block is not served", file=place.item.name, offset=place.offset)
        return text

    def node(self, digest: bytes) -> bytes:
        """A block of nodes.car, hashed. Raises NotHere, Damaged."""
        try:
            offset, length = self._nodes[digest]
            with open(self._car, "rb", buffering=0) as handle:
                block = os.pread(handle.fileno(), length, offset)
        except (KeyError, OSError) as error:
            raise NotHere(digest.hex()) from error
        if hashlib.sha256(block).digest() != digest:
            raise Damaged(f"{self._car}: its block at byte {offset:,} was changed")
        return block

    # -- the start -----------------------------------------------------------------------------------

    def _index_nodes(self) -> dict[bytes, tuple[int, int]]:
        """Digest -> (offset, length) of every block of nodes.car; what follows a damaged one is told and left out."""
        found: dict[bytes, tuple[int, int]] = {}
        try:
            with open(self._car, "rb") as handle:
                reader = read_car(handle)
                for cid, block in reader:
                    found[cid.digest] = (reader.place, len(block))
        except OSError as error:
            if self._shelf.release.release.cids:
                say("warning", f"{self._car}: {error.strerror}: only files of one chunk can be had by CID")
        except IntegrityError as error:
            say("warning", f"{self._car}: {error.message}: what follows in it cannot be had by CID")
        return found

    def _add(self, digests: bytes, number: int, chunk: int) -> None:
        self._digests.append(digests)
        self._files.append(number)
        self._chunks.append(chunk)

    def _walk(self, name: str, text: str, numbers: dict[str, int]) -> None:
        """Take up the leaves of the folder `text` of one profile."""
        profile = PROFILES.get(name)
        try:
            root = Cid.parse(text)
            if profile is None or not profile.raw_leaves:
                raise IntegrityError(f"the profile {name!r} has no raw leaves, or is not known")
            for file in walk(root, lambda cid: self.node(cid.digest)):
                number = numbers.get(f"{self._shelf.name}/{file.path}")
                if number is not None and file.cid.codec == DAG_PB:
                    self._take(profile, file.cid, number)
            self.roots[name] = root
        except (IntegrityError, Damaged, NotHere) as error:
            say("warning", f"the CIDs of {name} cannot all be served: {error}")

    def _take(self, profile: Profile, cid: Cid, number: int) -> None:
        item = self._shelf.data[number]
        count = leaf_count(profile, item.size_bytes or 0)
        leaves = self._leaves_of(cid.digest, 0, count)
        if len(leaves) != count * DIGEST_BYTES:
            raise IntegrityError(
                f"{item.name}: {len(leaves) // DIGEST_BYTES} leaves do not make {item.size_bytes} bytes"
            )
        self._add(leaves, number, profile.chunk_bytes)

    def _leaves_of(self, digest: bytes, depth: int, limit: int) -> bytes:
        """Digests of the leaves below a node of a file, in order, 32 bytes each, at most `limit`.

        A node without leaves is refused, so that nodes that repeat cannot make this long: a fetched nodes.car is a stranger's.
        """
        if depth > LEVELS:
            raise IntegrityError("the nodes of a file have too many levels")
        run, rest = equal_links(self.node(digest))
        parts, found = [run], len(run) // DIGEST_BYTES
        for link in decode_node(rest).links:
            if link.cid.codec == RAW:
                parts.append(link.cid.digest)
            else:
                parts.append(self._leaves_of(link.cid.digest, depth + 1, limit - found))
            found += len(parts[-1]) // DIGEST_BYTES
            if found > limit:
                break
        if not 0 < found <= limit:
            raise IntegrityError("a node of a file has no leaves, or too many")
        return b"".join(parts)


def equal_links(block: bytes) -> tuple[bytes, bytes]:
    """(digests, rest): the leaf links of one length and Tsize that a node begins with, and the node without them."""
    import numpy

    start_ok = block[:1] == b"\x12" and block[2:8] == _LEAF_LINK and block[40:43] == _LEAF_LINK_END
    if not start_ok or block[1] > 0x7F:
        return b"", block
    stride = 2 + block[1]
    rows = numpy.frombuffer(block, numpy.uint8, len(block) // stride * stride).reshape(-1, stride)
    same = (rows[:, :8] == rows[0, :8]).all(axis=1) & (rows[:, 40:] == rows[0, 40:]).all(axis=1)
    count = len(rows) if same.all() else int(same.argmin())
    return rows[:count, 8:40].tobytes(), block[count * stride :]


def unixfs_node(block: bytes) -> tuple[UnixFs, list[Link]]:
    """UnixFS message and links of a dag-pb block. Raises IntegrityError."""
    node = decode_node(block)
    return UnixFs.decode(node.data), node.links


def folder_links(message: UnixFs, links: list[Link]) -> list[tuple[str, Link]]:
    """(name, link) of a folder's node; the name is "" for a child node of a sharded folder."""
    return hamt.read(message, links) if message.type == HAMT else [(link.name, link) for link in links]


def is_file(message: UnixFs) -> bool:
    """Whether a node is (part of) a file."""
    return message.type in (FILE, 0)
