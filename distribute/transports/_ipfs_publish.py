"""A release goes into an IPFS node as one CAR stream, made from the user's files while it is sent; and is asked for again.

The node keeps a second full copy of the data (its block store); on our side there is none. Files that the node has already,
from an earlier release or an upload that broke off, are left out; that it can pin the folder proves that nothing is missing.
The manifest goes along as a raw block of its own, for its id is the SHA-256 of its file.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from distribute.car import BlockStore, car_header, car_section, load_car
from distribute.cid import DAG_PB, RAW, Cid, raw_cid_of_sha256
from distribute.dagpb import BLOCK_LIMIT_BYTES, decode_node
from distribute.transports._base import Context, Published, SourceError, WrongBytes
from distribute.transports._kubo import Kubo
from distribute.walking import iter_leaves, walk
from headwater.console import say, track
from headwater.errors import IntegrityError, MissingInput
from headwater.files import named_io
from headwater.release import MANIFEST_NAME, NODES_NAME, Location, OpenRelease, read_limited

PROBES = 16  # files that a node is asked for before it is asked for all
THREADS = 8


def publish(release: OpenRelease, target: str, context: Context, *, dry_run: bool) -> Published:
    """Import and pin a release at the RPC `target`, and ask the node whether it has it.

    `target` is http://HOST:PORT or a multiaddr; `#key=NAME` after it also points the IPNS name of that key at the folder.
    What the node has is not sent again. Raises SourceError, and IntegrityError when a file is not what the release says.
    """
    address, _, key = target.partition("#key=")
    dag = _Dag.of(release)
    location = Location(kind="ipfs", url=f"ipfs://{dag.root.text}")
    with closing(Kubo(address, context)) as node:
        software = node.version()
        complete = all(node.pins(cid) for cid in dag.roots)
        has = frozenset() if complete else _present(node, release)
        left_out = sum(e.size_bytes for e in release.manifest.entries if e.cid in has)
        size = 0 if complete else release.release.size_bytes - left_out + dag.nodes_bytes
        actions = _plan(release, f"{node.label} ({software})", dag, complete, size, left_out)
        if key:
            actions.append(f"point the IPNS name of the key {key!r} at it")
        if dry_run:
            return Published(location, size, release.release.files, actions)
        sent = 0 if complete else _send(node, release, dag, has)
        _confirm(node, dag)
        text = f"{location.url}?manifest={release.release.manifest_id}" if dag.extra else location.url
        if key:
            text += f"\nipns://{node.publish_name(dag.root, key)}"
        return Published(location, sent, release.release.files, actions, text)


@dataclass(frozen=True)
class _Dag:
    """What is sent besides the leaves."""

    root: Cid
    store: BlockStore
    nodes_bytes: int
    extra: dict[Cid, bytes] = field(default_factory=dict)  # the manifest, when it fits into a block

    @property
    def roots(self) -> list[Cid]:
        return [self.root, *self.extra]

    @classmethod
    def of(cls, release: OpenRelease) -> _Dag:
        path = release.file(NODES_NAME)
        with named_io(path), open(path, "rb") as handle:
            _, store = load_car(handle)
        raw = read_limited(release.file(MANIFEST_NAME))
        manifest = raw_cid_of_sha256(bytes.fromhex(release.release.manifest_id))
        extra = {manifest: raw} if len(raw) <= BLOCK_LIMIT_BYTES else {}
        root = root_cid(release)
        nodes = sum(len(block) for _, block in _nodes(root, store))
        return cls(root, store, nodes + sum(map(len, extra.values())), extra)


def root_cid(release: OpenRelease) -> Cid:
    """The folder CID under the manifest's own profile. Raises MissingInput when the release has none."""
    cids = release.release.cids
    text = cids.get(release.manifest.cid_profile or "") or next(iter(cids.values()), None)
    if text is None:
        raise MissingInput(
            f"{release.meta}: this release has no CID", hint="publish it again without leaving out ipfs"
        )
    return Cid.parse(text)


def _plan(release: OpenRelease, node: str, dag: _Dag, complete: bool, size: int, left_out: int) -> list[str]:
    if complete:
        return [f"{node} has pinned it already: nothing is sent"]
    plan = [f"send {size:,} bytes as a CAR to {node} and pin it as {release.release.name!r}"]
    if left_out:
        plan.append(f"leave out {left_out:,} bytes of files that the node has")
    plan.append(
        f"the node then keeps a second full copy of {release.release.size_bytes + dag.nodes_bytes:,} bytes"
    )
    if not dag.extra:
        plan.append(
            f"the manifest is above {BLOCK_LIMIT_BYTES:,} bytes, too large for a block: give it by other means"
        )
    return plan


def _present(node: Kubo, release: OpenRelease) -> frozenset[str]:
    """CIDs of the files whose first block the node has. A few are tried first: most often it has none, or nearly all."""
    cids = list({entry.cid for entry in release.manifest.entries if entry.cid is not None})
    probes = random.sample(cids, min(PROBES, len(cids)))
    with ThreadPoolExecutor(THREADS) as pool:
        if not any(pool.map(lambda text: node.has(Cid.parse(text)), probes)):
            return frozenset()
        answers = pool.map(lambda text: node.has(Cid.parse(text)), cids)
        return frozenset(text for text, has in zip(cids, answers, strict=True) if has)


def _send(node: Kubo, release: OpenRelease, dag: _Dag, has: frozenset[str]) -> int:
    """Import and pin; again with everything when the node's copies turn out to be incomplete. Bytes sent."""
    sent = 0

    def car(leave_out: frozenset[str]) -> Iterator[bytes]:
        nonlocal sent
        with (
            track(f"to {node.label}", release.release.size_bytes, "bytes") as bar,
            closing(FileRanges(release.data)) as files,
        ):
            head = car_header(dag.roots)
            sent += len(head)
            yield head
            for cid, block in (*dag.extra.items(), *_nodes(dag.root, dag.store)):
                part = car_section(cid, block)
                sent += len(part)
                yield part
            for cid, block in _leaves(dag, files, leave_out):
                part = car_section(cid, block)
                sent += len(part)
                bar.add(len(block))
                yield part

    try:
        pinned = node.import_car(car(has))
    except SourceError as error:
        if not has:
            raise
        say("info", f"{error.message}: what it has is not complete; everything is sent")
        pinned = node.import_car(car(frozenset()))
    if dag.root.key not in {cid.key for cid in pinned}:
        raise SourceError(f"{node.label}: took the CAR, but did not pin {dag.root.text}")
    for cid in dag.roots:
        name = release.release.name + ("" if cid == dag.root else " manifest")
        try:
            node.pin(cid, name)
        except SourceError as error:  # it is pinned; older nodes know no names
            say("debug", f"{node.label}: the pin of {cid.text} has no name: {error.message}")
    return sent


def _nodes(root: Cid, store: BlockStore) -> Iterator[tuple[Cid, bytes]]:
    """Folders and the nodes of files, each once."""
    waiting, seen = [root], {root.digest}
    while waiting:
        cid = waiting.pop()
        if cid.codec != DAG_PB:
            continue
        block = store.get(cid)
        yield cid, block
        for link in reversed(decode_node(block).links):
            if link.cid.digest not in seen:
                seen.add(link.cid.digest)
                waiting.append(link.cid)


def _leaves(dag: _Dag, files: FileRanges, leave_out: frozenset[str]) -> Iterator[tuple[Cid, bytes]]:
    """Raw leaves, each once, read from the files and checked: a file may have changed since it was published."""
    seen: set[bytes] = set()
    for file in walk(dag.root, dag.store.get):
        if file.is_folder or file.cid.text in leave_out:
            continue
        for offset, length, cid in iter_leaves(file.cid, dag.store.get, size_bytes=file.size_bytes):
            if cid.digest in seen:
                continue
            seen.add(cid.digest)
            block = files.read(file.path, offset, length)
            try:
                cid.check(block)
            except IntegrityError as error:
                raise IntegrityError(
                    f"{file.path}: bytes {offset:,} to {offset + length:,} are not what the release says",
                    hint="the file was changed after it was published: publish again",
                ) from error
            yield cid, block


def _confirm(node: Kubo, dag: _Dag) -> None:
    """Ask the node for what it was given."""
    root = dag.root
    if not node.pins(root):
        raise SourceError(f"{node.label}: does not list {root.text} among its pins")
    if root.codec == RAW:
        return
    size, expected = node.block_size(root), len(dag.store.get(root))
    if size != expected:
        raise WrongBytes(f"{node.label}: its block {root.text} has {size:,} bytes, {expected:,} are right")


class FileRanges:
    """Ranges of the files of a folder; the file that was read last stays open."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = ""
        self._handle: BinaryIO | None = None

    def read(self, path: str, offset: int, length: int) -> bytes:
        """Exactly `length` bytes, or fewer at the end of the file. Raises MissingInput when it is gone."""
        whole = self._folder / path if path else self._folder
        with named_io(whole):
            if self._handle is None or path != self._path:
                self.close()
                self._handle, self._path = open(whole, "rb"), path  # noqa: SIM115 - stays open
            self._handle.seek(offset)
            return self._handle.read(length)

    def close(self) -> None:
        if self._handle is not None:
            self._handle.close()
            self._handle = None
