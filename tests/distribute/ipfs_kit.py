"""A trustless gateway on loopback that can be told to lie, and small DAGs for it.

The answers follow the IPFS "Trustless Gateway" specification (2026-03). This is a contract written by hand: real partners are
in test_ipfs_partners.py.
"""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from distribute.car import car_header, car_section, write_car
from distribute.cid import DAG_PB, RAW, Cid
from distribute.dagpb import FILE, decode_unixfs
from distribute.transports._base import Context, Limits
from distribute.unixfs import PROFILES, Built, file_bytes, leaf_wrap, tree
from headwater.manifest import FileEntry, Manifest
from headwater.release import (
    MANIFEST_NAME,
    NODES_NAME,
    RELEASE_NAME,
    OpenRelease,
    Release,
    open_release,
    write_canonical,
)

DEFAULT = "unixfs-v1-2025"
Section = tuple[Cid, bytes]


SHORT = 0.6  # seconds of silence, for tests of silence; a busy machine may be silent for longer


def quick(work: Path, *gateways: str, stall: float = 10.0, **more: Any) -> Context:
    """A context for loopback that soon gives up trying again."""
    limits = Limits(connect_seconds=5.0, stall_seconds=stall, attempts=2, backoff_limit_seconds=0.1)
    return Context(work=work, limits=limits, allow_private=True, gateways=gateways, **more)


@dataclass
class Dag:
    """All blocks of a tree under one profile."""

    root: Cid
    files: dict[str, Built]
    contents: dict[str, bytes]
    nodes: dict[bytes, Section]
    leaves: dict[bytes, Section]

    @property
    def blocks(self) -> dict[bytes, Section]:
        return self.nodes | self.leaves

    def ordered(self) -> list[Section]:
        """Depth first, each once."""
        return list(dict.fromkeys(dfs(self.blocks, self.root)))


def make_dag(contents: Mapping[str, bytes], profile: str = DEFAULT) -> Dag:
    """The blocks of files by path."""
    how = PROFILES[profile]
    files = {path: file_bytes(how, data) for path, data in contents.items()}
    built = tree(how, files)
    leaves: dict[bytes, Section] = {}
    for data in contents.values():
        for at in range(0, max(len(data), 1), how.chunk_bytes):
            chunk = data[at : at + how.chunk_bytes]
            before, after = leaf_wrap(how, len(chunk))
            block = before + chunk + after
            version = 1 if how.raw_leaves else how.cid_version
            cid = Cid.of(RAW if how.raw_leaves else DAG_PB, block, version=version)
            leaves[cid.digest] = (cid, block)
    nodes = {cid.digest: (cid, block) for cid, block in built.nodes}
    return Dag(built.cid, files, dict(contents), nodes, leaves)


def some_files(seed: int = 1) -> dict[str, bytes]:
    """A few files around the limits, one of nine chunks of 1 MiB."""
    make = random.Random(seed)
    return {
        "a b/é.bin": make.randbytes(300_000),
        "big.bin": make.randbytes((8 << 20) + 4321),
        "empty": b"",
        "zeros.bin": bytes(5 << 20),
        "z/deep/er/one.txt": b"hello\n",
    }


def dfs(
    blocks: Mapping[bytes, Section], root: Cid, first: int = 0, last: int | None = None
) -> Iterator[Section]:
    """Blocks of a DAG in the order of `order=dfs; dups=y`, of a file only those of bytes `first` to `last`; skips absent ones."""
    if root.digest not in blocks:
        return
    _, block = blocks[root.digest]
    yield root, block
    if root.codec != DAG_PB:
        return
    message, links = decode_unixfs(root, block)
    at = 0
    for number, link in enumerate(links):
        if message.type == FILE and last is not None:
            size = message.blocksizes[number]
            if at <= last and at + size > first:
                yield from dfs(blocks, link.cid, max(first - at, 0), last - at)
            at += size
        else:
            yield from dfs(blocks, link.cid)


def make_release(
    folder: Path, contents: Mapping[str, bytes], *profiles: str, name: str = "data"
) -> OpenRelease:
    """A release of `contents` with its nodes.car, as publish lays it out; no torrents."""
    dags = {profile: make_dag(contents, profile) for profile in profiles or (DEFAULT,)}
    own = next(iter(dags))
    entries = []
    for path in sorted(contents, key=str.encode):
        target = folder / name / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(contents[path])
        digest = hashlib.sha256(contents[path]).hexdigest()
        cid = dags[own].files[path].cid.text
        entries.append(FileEntry(path=path, size_bytes=len(contents[path]), sha256=digest, cid=cid))
    manifest = Manifest(entries=entries, cid_profile=own)
    write_canonical(folder / MANIFEST_NAME, manifest)
    size = sum(map(len, contents.values()))
    cids = {profile: dag.root.text for profile, dag in dags.items()}
    release = Release(name=name, manifest_id=manifest.id, files=len(entries), size_bytes=size, cids=cids)
    write_canonical(folder / RELEASE_NAME, release)
    with open(folder / NODES_NAME, "wb") as handle:
        nodes = [section for dag in dags.values() for section in dag.nodes.values()]
        write_car(handle, [dag.root for dag in dags.values()], nodes)
    return open_release(folder)


@dataclass
class Reply:
    """What a double answers. `body` parts may be callables: they are called (to wait, say) and send nothing."""

    body: Iterable[bytes | Callable[[], object]] = ()
    status: int = 200
    kind: str = "application/octet-stream"
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False  # end without the last chunk


class Double:
    """An HTTP server on a free loopback port. `stopping` is set when it is to end, for answers that wait."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.stopping = threading.Event()
        self._lock = threading.Lock()
        double = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 10
            disable_nagle_algorithm = True

            def handle_one(self) -> None:
                with double._lock:
                    double.asked.append(f"{self.command} {self.path}")
                try:
                    double._send(self, double.answer(self))
                except (OSError, ValueError):
                    self.close_connection = True

            do_GET = do_POST = handle_one

            def log_message(self, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, request: Any, address: Any) -> None:
                pass  # a client that went away

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def answer(self, request: BaseHTTPRequestHandler) -> Reply:
        raise NotImplementedError

    def wait(self, seconds: float = 30.0) -> None:
        """Part of a body: nothing comes."""
        self.stopping.wait(seconds)

    def _send(self, request: BaseHTTPRequestHandler, reply: Reply) -> None:
        request.send_response(reply.status)
        headers = {"Content-Type": reply.kind, "Transfer-Encoding": "chunked"} | reply.headers
        for name, value in headers.items():
            request.send_header(name, value)
        request.end_headers()
        for part in reply.body:
            if not isinstance(part, bytes):
                part()
            elif part:
                request.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
        if reply.cut:
            request.close_connection = True
        else:
            request.wfile.write(b"0\r\n\r\n")

    def close(self) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class GatewayDouble(Double):
    """A trustless gateway over some blocks. `raw` and `car` may be replaced to lie."""

    def __init__(self, blocks: Mapping[bytes, Section]) -> None:
        self.blocks = dict(blocks)
        super().__init__()

    def answer(self, request: BaseHTTPRequestHandler) -> Reply:
        parts = urlsplit(request.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        cid = Cid.parse(parts.path.removeprefix("/ipfs/"))
        if query.get("format") == "raw":
            return self.raw(cid)
        if query.get("format") == "car":
            first, _, last = query.get("entity-bytes", "0:*").partition(":")
            return self.car(cid, int(first), None if last == "*" else int(last))
        return Reply([b"no format"], 400, "text/plain")

    def raw(self, cid: Cid) -> Reply:
        """One block."""
        if cid.digest not in self.blocks:
            return Reply([b"not here"], 404, "text/plain")
        return Reply([self.blocks[cid.digest][1]], kind="application/vnd.ipld.raw")

    def car(self, cid: Cid, first: int, last: int | None) -> Reply:
        """The blocks of a range of a file."""
        if cid.digest not in self.blocks:
            return Reply([b"not here"], 404, "text/plain")
        return self.car_of(cid, self.sections(dfs(self.blocks, cid, first, last)))

    def sections(self, found: Iterable[Section]) -> Iterable[Section]:
        """Hook: which blocks a CAR brings, and in which order."""
        return found

    def car_of(self, cid: Cid, sections: Iterable[Section]) -> Reply:
        """Hook: the bytes of a CAR."""

        def body() -> Iterator[bytes]:
            yield car_header([cid])
            for name, block in sections:
                yield car_section(name, block)

        return Reply(body(), kind="application/vnd.ipld.car; version=1; order=dfs; dups=y")


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """That the block ends in time: a bound far above what it takes, for what must never hang."""
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < seconds
