"""What a tree's files were the last time: digests by (path, size, time of change, inode), in SQLite below `.headwater/`.

A cache that is damaged is put aside with a word, one that cannot be written costs time; neither changes a result. Each
row carries a checksum. A file changed within the last two seconds is not kept: a second change inside one tick of the
file system's clock would go unseen. Rows are committed about once a second, so a process killed on the way loses little.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path

from distribute._one_read import FileDigests, TreeFile, Wants
from headwater.console import say
from headwater.errors import IntegrityError
from headwater.hashing import RACY_SECONDS

CACHE_NAME = "digests.sqlite"
VERSION = 1
SAVE_SECONDS = 1.0
WAIT_SECONDS = 5.0  # for another process that is writing it
KEEP_ROWS = 10_000  # a cache smaller than this is not tidied
_SURROUNDINGS = {
    sqlite3.SQLITE_PERM, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PROTOCOL,
}  # fmt: skip
_TABLES = """
CREATE TABLE IF NOT EXISTS files (path BLOB PRIMARY KEY, key TEXT NOT NULL, body BLOB NOT NULL, checksum BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS pieces (key BLOB PRIMARY KEY, digest BLOB NOT NULL, checksum BLOB NOT NULL) WITHOUT ROWID;
"""


def _checksum(*parts: bytes) -> bytes:
    hasher = hashlib.sha256()
    for part in parts:
        hasher.update(len(part).to_bytes(8, "big") + part)
    return hasher.digest()[:16]


class TreeCache:
    """Digests kept in `folder/digests.sqlite`. One thread uses it.

    `distrust`: nothing is taken from it, and a file whose digests differ from what it has under the same key raises
    IntegrityError: its bytes changed although its size, time and inode did not.
    """

    def __init__(self, folder: Path, *, distrust: bool = False) -> None:
        self.file = folder / CACHE_NAME
        self._distrust = distrust
        self._connection: sqlite3.Connection | None = None
        self._dead = self._renewed = False
        self._saved = time.monotonic()

    # rows

    def get(self, file: TreeFile, wants: Wants) -> FileDigests | None:
        """What is known of `file`, when its key still fits and all that is wanted is there."""
        return None if self._distrust else self._row(file, wants)

    def _row(self, file: TreeFile, wants: Wants) -> FileDigests | None:
        path, key = file.path.encode(), _key(file, wants)
        row = self._one("SELECT key, body, checksum FROM files WHERE path = ?", path)
        if not row or row[0] != key:
            return None
        body, checksum = row[1], row[2]
        if not isinstance(body, bytes) or checksum != _checksum(path, key.encode(), body):
            return None
        found = _unpack(body)
        if not found.leaves.keys() >= {p.name for p in wants.profiles} or (
            wants.hybrid and found.padded is None
        ):
            return None
        return _only(found, wants)

    def put(self, file: TreeFile, wants: Wants, digests: FileDigests) -> None:
        """Keep what was computed. Raises IntegrityError with `distrust` when it is not what was kept."""
        if self._distrust:
            known = self._row(file, wants)
            if known and known.sha256 != digests.sha256:
                raise IntegrityError(
                    f"{file.absolute}: its bytes changed although size and time did not",
                    hint="the file is damaged: restore it from the source, then run again",
                )
        if time.time() - file.mtime_ns / 1e9 <= RACY_SECONDS:
            return
        path, key, body = file.path.encode(), _key(file, wants), _pack(digests)
        checksum = _checksum(path, key.encode(), body)
        self._write("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)", (path, key, body, checksum))

    def piece(self, key: bytes) -> bytes | None:
        """The v1 digest of the piece that is made of `key`."""
        row = None if self._distrust else self._one("SELECT digest, checksum FROM pieces WHERE key = ?", key)
        if not row or not isinstance(row[0], bytes) or row[1] != _checksum(key, row[0]):
            return None
        return row[0]

    def put_piece(self, key: bytes, digest: bytes) -> None:
        """Keep a piece."""
        self._write("INSERT OR REPLACE INTO pieces VALUES (?, ?, ?)", (key, digest, _checksum(key, digest)))

    def save(self, *, now: bool = False) -> None:
        """Commit, at most once in `SAVE_SECONDS` unless `now`."""
        if self._connection and (now or time.monotonic() - self._saved >= SAVE_SECONDS):
            self._saved = time.monotonic()
            try:
                self._connection.commit()
            except sqlite3.Error as error:
                self._failed(error)

    def prune(self, paths: Sequence[str], keys: Sequence[bytes]) -> None:
        """Forget what is not of this tree, once it is most of the cache."""
        for table, column, keep in (
            ("files", "path", [path.encode() for path in paths]),
            ("pieces", "key", keys),
        ):
            count = self._one(f"SELECT count(*) FROM {table}")
            if not count or not isinstance(count[0], int) or count[0] <= 4 * len(keep) + KEEP_ROWS:
                continue
            self._write("CREATE TEMP TABLE keep (name BLOB PRIMARY KEY) WITHOUT ROWID", ())
            for name in keep:
                self._write("INSERT OR IGNORE INTO keep VALUES (?)", (name,))
            self._write(f"DELETE FROM {table} WHERE {column} NOT IN (SELECT name FROM keep)", ())
            self._write("DROP TABLE keep", ())

    def close(self) -> None:
        """Commit and let go of the file; another use opens it again."""
        self.save(now=True)
        if self._connection:
            self._connection.close()
            self._connection = None

    # the file

    def _open(self) -> sqlite3.Connection | None:
        while not self._connection and not self._dead:
            try:
                self.file.parent.mkdir(parents=True, exist_ok=True)
                if self.file.is_symlink():
                    raise OSError("is a symbolic link, and what it leads to is not ours")
                self._connection = self._connect()
            except (OSError, sqlite3.Error) as error:
                self._failed(error)
        return self._connection

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.file, timeout=WAIT_SECONDS)
        try:
            connection.execute("PRAGMA trusted_schema = OFF")
            connection.execute("PRAGMA synchronous = OFF")  # a crash of the machine costs the cache, not more
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version != VERSION:  # new, or of another version of ours
                connection.executescript(
                    f"DROP TABLE IF EXISTS files; DROP TABLE IF EXISTS pieces; {_TABLES} PRAGMA user_version = {VERSION};"
                )
            connection.execute("SELECT count(*) FROM files").fetchone()
        except BaseException:
            connection.close()
            raise
        return connection

    def _one(self, query: str, *values: bytes) -> tuple[object, ...] | None:
        if not (connection := self._open()):
            return None
        try:
            row: tuple[object, ...] | None = connection.execute(query, values).fetchone()
            return row
        except sqlite3.Error as error:
            self._failed(error)
            return None

    def _write(self, query: str, values: tuple[object, ...]) -> None:
        if not (connection := self._open()):
            return
        try:
            connection.execute(query, values)
        except sqlite3.Error as error:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        """Begin a new file in the place of a damaged one, once; else go on without."""
        if self._connection:
            try:
                self._connection.close()
            except sqlite3.Error:
                pass  # nothing of it is used any more
            self._connection = None
        if _damaged(error) and not self._renewed:
            self._renewed = True
            say("warning", f"{self.file}: damaged, so digests are computed anew")
            try:
                for name in (self.file.name, f"{self.file.name}-journal"):
                    self.file.with_name(name).unlink(missing_ok=True)
                return
            except OSError as failure:
                error = failure
        self._dead = True
        say("warning", f"{self.file}: {error}; digests are computed again next time; use --cache DIR")


def _damaged(error: Exception) -> bool:
    """Whether the file is wrong, and not the disk, a right, or another process in the way."""
    code = getattr(
        error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT
    )  # Python's own errors, as for text, have none
    return isinstance(error, sqlite3.Error) and code & 0xFF not in _SURROUNDINGS


def _key(file: TreeFile, wants: Wants) -> str:
    return f"{file.size_bytes} {file.mtime_ns} {file.inode} {wants.piece_size}"


def _pack(digests: FileDigests) -> bytes:
    """A line of JSON with the lengths of the parts that follow it."""
    parts = {"layer": digests.layer, **{f"leaves {name}": leaves for name, leaves in digests.leaves.items()}}
    if digests.padded is not None:
        parts["padded"] = digests.padded
    head = {
        "size": digests.size_bytes,
        "sha256": digests.sha256,
        "blake3": digests.blake3,
        "root": digests.bt_v2_root,
        "parts": [[name, len(part)] for name, part in parts.items()],
    }
    return json.dumps(head).encode() + b"\n" + b"".join(parts.values())


def _unpack(body: bytes) -> FileDigests:
    line, _, rest = body.partition(b"\n")
    head = json.loads(line)
    parts, at = {}, 0
    for name, length in head["parts"]:
        parts[name] = rest[at : at + length]
        at += length
    leaves = {name[7:]: part for name, part in parts.items() if name.startswith("leaves ")}
    return FileDigests(
        head["size"],
        head["sha256"],
        head["blake3"],
        head["root"],
        parts["layer"],
        leaves,
        parts.get("padded"),
    )


def _only(found: FileDigests, wants: Wants) -> FileDigests:
    leaves = {profile.name: found.leaves[profile.name] for profile in wants.profiles}
    padded = found.padded if wants.hybrid else None
    return FileDigests(
        found.size_bytes, found.sha256, found.blake3, found.bt_v2_root, found.layer, leaves, padded
    )
