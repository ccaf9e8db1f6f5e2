"""A small release on disk, put together by hand from the format modules; and plain sockets to talk to what serves it."""

from __future__ import annotations

import hashlib
import http.client
import random
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from distribute import merkle
from distribute.cid import Cid, varint
from distribute.seeding import SeedOptions
from distribute.torrents import V2File, build_v1, build_v2, infohash_v1, infohash_v2
from distribute.unixfs import PROFILES, file_bytes, tree
from headwater import console
from headwater.manifest import FileEntry, Manifest
from headwater.release import (
    MANIFEST_NAME,
    NODES_NAME,
    RELEASE_NAME,
    Location,
    Locations,
    OpenRelease,
    Release,
    Torrent,
    open_release,
    write_canonical,
)

NAME = "odd name é"
BIG = "many chunks.bin"
HTTP_ONLY = SeedOptions(bittorrent=False, gateway=False)
PIECE = 1 << 18
MANY_CHUNKS = 3 * (1 << 20) + 4321  # four chunks of 1 MiB, thirteen of 256 KiB


def target(path: str, name: str = NAME) -> str:
    """The address of a file below the root of a mirror."""
    return "/" + quote(f"{name}/{path}")


def some_files(seed: int = 0) -> dict[str, bytes]:
    """Files around every limit: empty, of one block, of several chunks, twice the same, odd names, deep."""
    make = random.Random(seed)
    return {
        "a.txt": b"hello\n",
        "deep/er/b & <c>.bin": make.randbytes(70_000),
        "deep/same.bin": make.randbytes(20_000),
        "empty": b"",
        "many chunks.bin": make.randbytes(MANY_CHUNKS),
        "ünï #?%41.txt": b"percent\n",
        "zzz/one chunk.bin": make.randbytes(1 << 20),
    }


def make_release(
    folder: Path,
    files: Mapping[str, bytes] | None = None,
    *,
    name: str = NAME,
    profiles: tuple[str, ...] = ("unixfs-v1-2025", "kubo-v1-raw"),
    torrents: bool = True,
) -> OpenRelease:
    """The release of `files` at `folder`, as publish lays it out."""
    contents = dict(some_files() if files is None else files)
    if files is None:
        contents["deep/twin.bin"] = contents["deep/same.bin"]
    contents = dict(sorted(contents.items(), key=lambda pair: pair[0].encode()))
    (folder / name).mkdir(parents=True)
    for path, data in contents.items():
        target = folder / name / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    built = {
        profile: {path: file_bytes(PROFILES[profile], data) for path, data in contents.items()}
        for profile in profiles
    }
    roots = {profile: tree(PROFILES[profile], built[profile]) for profile in profiles}
    v2 = [_v2(path, data) for path, data in contents.items()]
    manifest = Manifest(
        entries=[
            FileEntry(
                path=path,
                size_bytes=len(data),
                sha256=hashlib.sha256(data).hexdigest(),
                cid=built[profiles[0]][path].cid.text,
                bt_v2_root=file.root.hex() if file.root else None,
            )
            for (path, data), file in zip(contents.items(), v2, strict=True)
        ],
        cid_profile=profiles[0],
        piece_size_bytes=PIECE,
    )
    write_canonical(folder / MANIFEST_NAME, manifest)
    release = Release(
        name=name,
        manifest_id=manifest.id,
        files=len(contents),
        size_bytes=sum(map(len, contents.values())),
        cids={profile: root.cid.text for profile, root in roots.items()},
        torrents=_torrents(folder, name, contents, v2) if torrents else {},
    )
    write_canonical(folder / RELEASE_NAME, release)
    places = Locations(manifest_id=manifest.id, locations=[Location(kind="http", url="https://h.example/")])
    write_canonical(folder / "locations.json", places)
    nodes = {cid.digest: (cid, block) for root in roots.values() for cid, block in root.nodes}
    car = car_bytes([root.cid for root in roots.values()], list(nodes.values()))
    (folder / NODES_NAME).write_bytes(car)
    return open_release(folder)


def car_bytes(roots: list[Cid], blocks: list[tuple[Cid, bytes]]) -> bytes:
    """A CARv1, written from its specification."""
    header = b"\xa2\x65roots" + bytes([0x80 | len(roots)])
    for root in roots:
        header += b"\xd8\x2a\x58" + bytes([1 + len(root.bytes)]) + b"\x00" + root.bytes
    header += b"\x67version\x01"
    return varint(len(header)) + header + b"".join(section(cid, block) for cid, block in blocks)


def section(cid: Cid, block: bytes) -> bytes:
    """One block of a CARv1."""
    return varint(len(cid.bytes) + len(block)) + cid.bytes + block


def _v2(path: str, data: bytes) -> V2File:
    if not data:
        return V2File(path, 0, None)
    return V2File(path, len(data), *merkle.root_and_layer(merkle.leaf_digests(data), PIECE, len(data)))


def _torrents(folder: Path, name: str, contents: Mapping[str, bytes], v2: list[V2File]) -> dict[str, Torrent]:
    whole = b"".join(contents.values())
    pieces = b"".join(
        hashlib.sha1(whole[at : at + PIECE]).digest()  # what BitTorrent v1 is made of
        for at in range(0, len(whole), PIECE)
    )
    sizes = [(path, len(data)) for path, data in contents.items()]
    made = {"v1": build_v1(name, sizes, PIECE, pieces), "v2": build_v2(name, v2, PIECE)}
    found = {}
    for kind, raw in made.items():
        (folder / f"{kind}.torrent").write_bytes(raw)
        infohash = infohash_v1(raw) if kind == "v1" else infohash_v2(raw)
        found[kind] = Torrent(
            file=f"{kind}.torrent", infohash=infohash, piece_size_bytes=PIECE, size_bytes=len(whole)
        )
    return found


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes


def ask(port: int, target: str, *, method: str = "GET", host: str = "127.0.0.1", **headers: str) -> Answer:
    """One request with the path exactly as given; `If_Range="x"` becomes the header If-Range."""
    connection = http.client.HTTPConnection(host, port, timeout=20)
    try:
        connection.putrequest(method, target, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read())
    finally:
        connection.close()


def raw_exchange(port: int, data: bytes, *, seconds: float = 10.0) -> bytes:
    """Everything the server says to these bytes until it closes."""
    with socket.create_connection(("127.0.0.1", port), seconds) as link:
        link.settimeout(seconds)
        link.sendall(data)
        found = b""
        while part := link.recv(65536):
            found += part
        return found


def flip(path: Path, offset: int) -> None:
    """Change one byte of a file in its place."""
    with open(path, "r+b") as handle:
        handle.seek(offset)
        (byte,) = handle.read(1)
        handle.seek(offset)
        handle.write(bytes([byte ^ 1]))


def no_threads() -> bool:
    """Whether no thread of a seed is left."""
    return not [thread for thread in threading.enumerate() if thread.name.startswith("seed")]


class Heard:
    """A sink that keeps what was said."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, str]] = []
        self.fields: list[dict[str, object]] = []

    def message(self, level: str, text: str, fields: dict[str, object]) -> None:
        self.messages.append((level, text))
        self.fields.append({"level": level, "text": text, **fields})

    def progress(self, task: object) -> None:
        pass

    def said(self, *parts: str) -> bool:
        """Whether one message holds all of these."""
        return any(all(part in text for part in parts) for _, text in list(self.messages))


@contextmanager
def hearing() -> Iterator[Heard]:
    """Everything said inside the block, also by threads that are started in it."""
    heard = Heard()
    token = console._sink.set(heard)
    try:
        yield heard
    finally:
        console._sink.reset(token)
