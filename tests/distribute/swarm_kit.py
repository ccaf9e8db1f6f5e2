"""Torrents, seeds, liars and trackers for tests, all on 127.0.0.1; the torrents are made by libtorrent's own creator."""

from __future__ import annotations

import hashlib
import http.server
import random
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distribute.transports._base import Context, Limits, Wanted
from tests.distribute.partners import free_port, need_module, need_program, running, until

NAME = "a set é"
PIECE = 64 << 10
BIG = 3_000_017


@dataclass
class Tree:
    """A folder of data below `parent`, and its torrent."""

    parent: Path
    raw: bytes
    torrent: Path
    files: dict[str, bytes] = field(default_factory=dict)

    @property
    def data(self) -> Path:
        return self.parent / NAME

    def wanted(self, *paths: str) -> list[Wanted]:
        """What to ask for: the paths, or all."""
        return [
            Wanted(path, len(content), sha256=hashlib.sha256(content).hexdigest())
            for path, content in self.files.items()
            if not paths or path in paths
        ]

    def copy(self, parent: Path) -> Tree:
        """The same data elsewhere."""
        write(parent / NAME, self.files)
        return Tree(parent, self.raw, self.torrent, self.files)

    def flip(self, path: str, at: int) -> None:
        """Change one bit on the disk."""
        with open(self.data / path, "r+b") as file:
            file.seek(at)
            (byte,) = file.read(1)
            file.seek(at)
            file.write(bytes([byte ^ 1]))


def content(*, big: int = BIG, small: int = 8, seed: int = 1) -> dict[str, bytes]:
    """One file of many pieces, small ones, an empty one, a space and é in paths."""
    chance = random.Random(seed)
    files = {"big.bin": chance.randbytes(big), "empty file.txt": b""}
    files |= {f"süß/part {n} é.bin": chance.randbytes(20_000 + 1_000 * n) for n in range(small)}
    files["z last.bin"] = chance.randbytes(PIECE + 1)
    return dict(sorted(files.items(), key=lambda item: item[0].encode()))


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for path, data in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    return folder


def make_tree(
    folder: Path,
    kind: str = "v1",
    files: dict[str, bytes] | None = None,
    *,
    piece: int = PIECE,
    trackers: tuple[str, ...] = (),
    web_seeds: tuple[str, ...] = (),
) -> Tree:
    """Data below `folder/data`, and a torrent of kind v1, v2 or hybrid."""
    lt = need_module("libtorrent")
    files = content() if files is None else files
    parent = folder / "data"
    write(parent / NAME, files)
    flags = {"v1": lt.create_torrent.v1_only, "v2": lt.create_torrent.v2_only, "hybrid": 0}[kind]
    entries = [lt.create_file_entry(f"{NAME}/{path}", len(data)) for path, data in files.items()]
    creator = lt.create_torrent(entries, piece, flags=flags)
    for url in trackers:
        creator.add_tracker(url, 0)
    for url in web_seeds:
        creator.add_url_seed(url)
    lt.set_piece_hashes(creator, str(parent))
    raw = lt.bencode(creator.generate())
    torrent = folder / f"{kind}.torrent"
    torrent.write_bytes(raw)
    return Tree(parent, raw, torrent, files)


def infohashes(raw: bytes) -> tuple[str, str]:
    """(v1, v2) in hex as libtorrent gives them."""
    hashes = need_module("libtorrent").load_torrent_buffer(raw).ti.info_hashes()
    return str(hashes.v1), str(hashes.v2)


def context(work: Path, *, peers: tuple[str, ...] = (), stall: float = 5.0) -> Context:
    """Loopback only."""
    return Context(work, Limits(stall_seconds=stall), allow_private=True, peers=peers, local_only=True)


class Ledger:
    """What `progress` and `liar` were told."""

    def __init__(self) -> None:
        self.bytes: dict[str, int] = {}
        self.liars: list[tuple[str, int, list[str]]] = []

    def progress(self, who: str, amount: int) -> None:
        self.bytes[who] = self.bytes.get(who, 0) + amount

    def liar(self, who: str, piece: int, files: list[str]) -> None:
        self.liars.append((who, piece, files))


class Liar:
    """A seed that does not look at what it sends. `port` on 127.0.0.1."""

    def __init__(self, tree: Tree) -> None:
        lt = need_module("libtorrent")
        from distribute.transports._torrent_basics import settings

        chosen = settings("127.0.0.1", 0, local_only=True)
        chosen["disable_hash_checks"] = True
        self.session = lt.session(lt.session_params(chosen))
        parameters = lt.load_torrent_buffer(tree.raw)
        parameters.save_path = str(tree.parent)
        parameters.url_seeds = []
        parameters.flags = lt.torrent_flags.seed_mode | lt.torrent_flags.upload_mode
        until(self.session.is_listening, seconds=10, what="the liar listens")
        self.handle = self.session.add_torrent(parameters)
        self.port = int(self.session.listen_port())

    def __enter__(self) -> Liar:
        return self

    def __exit__(self, *_: object) -> None:
        self.session.pause()
        del self.handle, self.session


@contextmanager
def web_seed(root: Path, answer: Callable[[str, bytes], tuple[int, bytes]] | None = None) -> Iterator[str]:
    """`http://127.0.0.1:PORT/` with Range over the files below `root`; `answer(path, bytes)` may lie."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = urllib.parse.unquote(self.path).lstrip("/")
            target = root / path
            data = target.read_bytes() if target.is_file() else b""
            status = 200 if target.is_file() else 404
            if answer is not None:
                status, data = answer(path, data)
            total = len(data)
            wanted = self.headers.get("Range")
            extra = {}
            if status == 200 and wanted:
                start, _, stop = wanted.removeprefix("bytes=").partition("-")
                last = min(int(stop or total - 1), total - 1)
                data, status = data[int(start) : last + 1], 206
                extra = {"Content-Range": f"bytes {start}-{last}/{total}"}
            self.send_response(status)
            for name, value in {"Content-Length": str(len(data)), **extra}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            pass  # a client that hangs up

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


@contextmanager
def tracker(folder: Path, make: Callable[[str], Tree]) -> Iterator[tuple[str, Tree]]:
    """Debian's opentracker, which serves a whitelist only: `make(announce)` gives the torrent, its hash is let in."""
    program = need_program("opentracker")
    port = free_port()
    announce = f"http://127.0.0.1:{port}/announce"
    tree = make(announce)
    v1, v2 = infohashes(tree.raw)
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o777)
    (folder / "whitelist.txt").write_text(f"{v1}\n{v2[:40]}\n")
    command = [
        program,
        "-i",
        "127.0.0.1",
        "-p",
        str(port),
        "-P",
        str(port),
        "-d",
        folder,
        "-u",
        "nobody",
        "-w",
        "whitelist.txt",
    ]
    with running([str(part) for part in command]):
        until(lambda: _answers(port), seconds=10, what="opentracker answers")
        yield announce, tree


def _answers(port: int) -> bool:
    import socket

    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def equal(folder: Path, files: dict[str, bytes]) -> None:
    """The folder holds these files, whole, and no other."""
    found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert sorted(found) == sorted(files)
    assert [path for path in files if found[path] != files[path]] == []


def main(arguments: list[str]) -> None:
    """`fetch TORRENT OUT WORK PEER`: one line for each file; `seed TORRENT PARENT PORT LIMIT`: the port, until killed."""
    from distribute.transports import bittorrent
    from distribute.transports._torrent_session import SeedSession

    if arguments[0] == "fetch":
        torrent, out, work, peer = arguments[1:]
        source = bittorrent.open_source(torrent, context(Path(work), peers=(peer,), stall=20))
        files = [Wanted(file.path, file.size_bytes, sha256="0" * 64) for file in source.outline()]
        ledger = Ledger()
        for path in source.download(files, Path(out), ledger.progress):
            print(path, flush=True)
        print(sum(ledger.bytes.values()), flush=True)
    else:
        torrent, parent, port, limit = arguments[1:]
        with SeedSession(
            [Path(torrent)], Path(parent), port=int(port), local_only=True, upload_limit=int(limit)
        ) as seed:
            print(seed.port, flush=True)
            while True:
                time.sleep(60)


if __name__ == "__main__":
    main(sys.argv[1:])
