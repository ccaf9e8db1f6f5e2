"""IPFS: a folder CID is an address that proves its bytes; gateways and nodes only carry them.

    ipfs://CID  or a bare CID          ipfs://CID?manifest=ID says also which manifest belongs to it
    ipns://NAME                        what the user's own node says that it points at now
    fetch    from trustless gateways (Context.gateways) and a node's RPC (Context.ipfs_api), every block hashed
    publish  the whole DAG as one CAR stream into a node, made from the files while it is sent (`_ipfs_publish`)

A manifest is a block too: its id is the SHA-256 of its file, so it is asked for as the raw CID of that digest.
"""

from __future__ import annotations

import io
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from distribute.car import read_car
from distribute.cid import DAG_PB, Cid, raw_cid_of_sha256
from distribute.dagpb import DIRECTORY, HAMT, decode_unixfs
from distribute.transports._base import (
    Context,
    NotThere,
    Published,
    Source,
    Unreachable,
    Wanted,
    WrongBytes,
)
from distribute.transports._blocks import Ahead, Feed, Nodes, Stream, file_range
from distribute.transports._gateway import Gateway, Provider
from distribute.transports._ipfs_location import parse_location, resolved
from distribute.transports._providers import Either, Providers
from distribute.walking import walk
from headwater.errors import IntegrityError
from headwater.manifest import safe_relative
from headwater.release import MANIFEST_NAME, OpenRelease

SCHEMES = ("ipfs://", "ipns://", "bafy", "bafk", "Qm")
THREADS = 8  # blocks asked for ahead at once, over all reads of one source
CONNECTIONS = 64 + THREADS  # to one gateway, at most: all that a fetch may ask for, and these
CAR_FROM_BYTES = 4 << 20  # ranges of this length come as one stream, shorter ones block by block
CAR_SPARE_BYTES = 16 << 20  # what a stream may bring beyond the range that was asked for
ENTRIES = 2_000_000  # files and folders below one CID, when there is no manifest that names them


class IpfsSource(Source):
    """A folder, or a single file, by its CID. `close` sets `context.stop`."""

    kind = "ipfs"

    def __init__(
        self,
        cid: Cid,
        providers: Providers,
        context: Context,
        *,
        manifest_id: str | None = None,
        name: str = "",
    ) -> None:
        self.cid = cid
        self.label = f"ipfs://{cid.text}"
        self._manifest_id = manifest_id
        self._name = name or cid.text  # of a CID that is a file
        self._providers = providers
        self._context = context
        self._nodes = Nodes()
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="ipfs")
        self._lock = threading.Lock()
        self._files: dict[str, Wanted] | None = None

    def close(self) -> None:
        self._context.stop.set()  # requests on their way are not repeated
        self._providers.close()
        self._pool.shutdown(cancel_futures=True)
        self._providers.close()  # what a request opened meanwhile

    def release_file(self, name: str) -> bytes | None:
        if name != MANIFEST_NAME or self._manifest_id is None:
            return None
        return self.by_digest(self._manifest_id)

    def by_digest(self, digest: str) -> bytes | None:
        """The document with this SHA-256 (64 hex digits), such as a manifest by its id; None when nobody has it."""
        cid = raw_cid_of_sha256(bytes.fromhex(digest))
        try:
            return self._providers.block(cid, self._context.limits.document_bytes)
        except NotThere:
            return None

    def add_nodes(self, car: bytes) -> None:
        """Interior nodes out of a `nodes.car`, so that they are not fetched. Raises IntegrityError for a bad one."""
        for cid, block in read_car(io.BytesIO(car)):
            self._nodes.put(cid, block)

    def listing(self) -> list[Wanted]:
        """All files below the CID. Raises SourceError; WrongBytes for names, depths and numbers that are not allowed.

        The size of a file that is one raw block is what its folder says; reading the file proves it.
        """
        return list(self._listed().values())

    def read(self, wanted: Wanted, offset: int, length: int) -> Iterator[bytes]:
        """Bytes of a file, each block checked before it is handed on. By the CID of `wanted`, or of its path below our CID."""
        started = False
        cid = Cid.parse(wanted.cid) if wanted.cid is not None else self._by_path(wanted)
        try:
            for block in self._range(cid, wanted, offset, length):
                started = True
                yield block
            return
        except NotThere as error:
            # a manifest names the CIDs of one profile, this folder may have been made by another one
            if started:
                raise
            try:
                other = self._by_path(wanted)
            except NotThere:
                raise error from None
            if other.key == cid.key:
                raise
        yield from self._range(other, wanted, offset, length)

    def _range(self, cid: Cid, wanted: Wanted, offset: int, length: int) -> Iterator[bytes]:
        single = Ahead(self._providers.block, self._pool)
        feed: Feed = single
        if length >= CAR_FROM_BYTES and cid.codec == DAG_PB:
            last, whole = offset + length - 1, length == wanted.size_bytes
            feed = Stream(
                lambda: self._providers.car(cid, offset, last, whole=whole),
                length + length // 50 + CAR_SPARE_BYTES,
                single,
            )
        yield from file_range(cid, wanted.size_bytes, offset, length, feed, self._nodes, wanted.path)

    def _by_path(self, wanted: Wanted) -> Cid:
        found = self._listed().get(wanted.path)
        if found is None or found.cid is None:
            raise NotThere(f"{self.label}: has no file {wanted.path!r}")
        if found.size_bytes != wanted.size_bytes:
            raise WrongBytes(
                f"{self.label}: {wanted.path!r} has {found.size_bytes:,} bytes there, {wanted.size_bytes:,} are right"
            )
        return Cid.parse(found.cid)

    def _listed(self) -> dict[str, Wanted]:
        with self._lock:
            if self._files is None:
                self._files = self._walk()
            return self._files

    def _walk(self) -> dict[str, Wanted]:
        folders = _Folders(Ahead(self._providers.block, self._pool, THREADS), self._nodes)
        found = {}
        try:
            for node in walk(self.cid, folders.get, entries_limit=ENTRIES):
                if not node.is_folder:
                    path = safe_relative(node.path or self._name)
                    found[path] = Wanted(path, node.size_bytes, cid=node.cid.text)
        except IntegrityError as error:
            raise WrongBytes(f"{self.label}: {error.message}", hint=error.hint) from error
        finally:
            folders.close()
        return found


class _Folders:
    """Gives a walk its nodes; the children of a folder are asked for as soon as it is there."""

    def __init__(self, ahead: Ahead, nodes: Nodes) -> None:
        self._ahead = ahead
        self._nodes = nodes
        self._coming: deque[Cid] = deque()

    def get(self, cid: Cid) -> bytes:
        if self._coming and self._coming[0].key == cid.key:
            self._coming.popleft()
        block = self._nodes.get(cid)
        if block is None:
            block = self._ahead.take(cid, self._coming)
        if cid.codec == DAG_PB:
            message, links = decode_unixfs(cid, block)
            if links:
                self._nodes.put(cid, block)
            if message.type in (DIRECTORY, HAMT):
                self._coming.extendleft(link.cid for link in reversed(links) if link.cid.codec == DAG_PB)
        return block

    def close(self) -> None:
        self._ahead.close()


def open_providers(context: Context) -> list[Provider]:
    """Gateways in their order, then the node. Raises UsageError for an address that is none."""
    found: list[Provider] = [
        Gateway(address, context, connections=CONNECTIONS) for address in context.gateways
    ]
    if context.ipfs_api:
        from distribute.transports._kubo import Kubo

        found.append(Kubo(context.ipfs_api, context))
    return found


def open_source(location: str, context: Context) -> IpfsSource:
    """The source at a location. Raises Refused for a bad one, Unreachable when nobody is known who could be asked."""
    if location.lower().startswith("ipns://"):
        location = resolved(location, context)
    cid, manifest_id, name = parse_location(location)
    context = replace(context, stop=Either(context.stop))
    providers = open_providers(context)
    if not providers:
        raise Unreachable(
            f"ipfs://{cid.text}: nobody to ask for it",
            hint="name a gateway with --gateway https://HOST, or a node with --ipfs-api http://127.0.0.1:5001",
        )
    return IpfsSource(cid, Providers(providers, context.stop), context, manifest_id=manifest_id, name=name)


def publish(release: OpenRelease, target: str, context: Context, *, dry_run: bool) -> Published:
    """Put a release into the node at `target`, see `_ipfs_publish.publish`."""
    from distribute.transports import _ipfs_publish

    return _ipfs_publish.publish(release, target, context, dry_run=dry_run)


def alive(release: OpenRelease, context: Context) -> dict[str, Any]:
    """Whether the gateways and the node have a release, see `_ipfs_alive`."""
    from distribute.transports import _ipfs_alive

    return _ipfs_alive.alive(release, open_providers(context))
