"""One read of a file, many digests; and a cache so that a file seen once is not read again to know its name.

Algorithms: `sha256` (FIPS 180-4) and `blake3`. The publishing part adds CIDs and BitTorrent roots to the same read.
A cache entry is keyed by (name, size, mtime_ns, inode). A file changed within the last two seconds is not cached: a
second change inside one clock tick of the file system would go unseen.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path
from typing import Any, Protocol

from headwater.console import say
from headwater.errors import HeadwaterError, IntegrityError
from headwater.files import named_io, remove_stale_temporaries, write_json

BLOCK_BYTES = 1 << 20
RACY_SECONDS = 2.0
ALGORITHMS = ("sha256", "blake3")


class _Hasher(Protocol):
    def update(self, data: bytes | memoryview, /) -> Any: ...

    def hexdigest(self) -> str: ...


def _hasher(algorithm: str) -> _Hasher:
    if algorithm == "blake3":
        from blake3 import blake3

        return blake3()
    return hashlib.new(algorithm)


@dataclass(frozen=True)
class Digests:
    """Size and hex digests of one file's bytes."""

    size_bytes: int
    hex: Mapping[str, str]

    @property
    def sha256(self) -> str:
        return self.hex["sha256"]


def digest_file(path: Path, algorithms: Iterable[str] = ALGORITHMS) -> Digests:
    """Read `path` once and return all `algorithms`.

    Raises IntegrityError when the file changes while it is read.
    """
    hashers = {name: _hasher(name) for name in algorithms}
    with named_io(path), open(path, "rb", buffering=0) as handle:
        before = os.fstat(handle.fileno())
        buffer = bytearray(BLOCK_BYTES)
        view = memoryview(buffer)
        size = 0
        while count := _read(handle, buffer, path):
            for hasher in hashers.values():
                hasher.update(view[:count])
            size += count
            if size > before.st_size:
                break  # it grows, perhaps without end
        after = os.fstat(handle.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or size != after.st_size:
        raise IntegrityError(
            f"{path}: changed while it was read", hint="stop what writes to it and run again"
        )
    return Digests(size, {name: hasher.hexdigest() for name, hasher in hashers.items()})


def _read(handle: RawIOBase, buffer: bytearray, path: Path) -> int:
    try:
        return handle.readinto(buffer) or 0
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        raise IntegrityError(
            f"{path}: cannot be read: {os.strerror(errno.EIO)}",
            hint="the disk or the file is damaged: restore it from the source, then run again",
        ) from error


def _sound(entry: Any) -> bool:
    digests = entry.get("hex") if isinstance(entry, dict) else None
    return isinstance(digests, dict) and all(isinstance(digests.get(name), str) for name in ALGORITHMS)


class DigestCache:
    """Digests of the files of one folder, kept in `CACHE/digests.json`.

    `distrust` reads every file again. A cache that cannot be read or written costs time, never correctness.
    """

    def __init__(self, folder: Path, cache: Path, *, distrust: bool = False) -> None:
        self._folder = folder
        self._file = cache / "digests.json"
        self._distrust = distrust
        self._entries: dict[str, dict[str, Any]] = {}
        self._changed = False
        self.read_bytes = 0  # how much had to be read this time
        try:
            loaded = json.loads(self._file.read_bytes())
        except (OSError, ValueError, RecursionError):
            loaded = {}
        if isinstance(loaded, dict):
            self._entries = {name: entry for name, entry in loaded.items() if _sound(entry)}

    def get(self, name: str) -> Digests:
        """Digests of `folder/name`, from the cache when its key still fits."""
        path = self._folder / name
        with named_io(path):
            stat = path.stat()
        key = [stat.st_size, stat.st_mtime_ns, stat.st_ino]
        entry = self._entries.get(name)
        if entry and not self._distrust and entry.get("key") == key:
            return Digests(stat.st_size, entry["hex"])
        digests = digest_file(path)
        self.read_bytes += digests.size_bytes
        if self._distrust and entry and entry.get("key") == key and entry["hex"] != dict(digests.hex):
            raise IntegrityError(
                f"{path}: its bytes changed although size and time did not",
                hint="the file is damaged: restore it from the source, then run again",
            )
        if time.time() - stat.st_mtime > RACY_SECONDS:
            self._entries[name] = {"key": key, "hex": dict(digests.hex)}
            self._changed = True
        return digests

    def save(self) -> None:
        """Write the cache back if it grew."""
        if not self._changed:
            return
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            remove_stale_temporaries(self._file.parent, self._file.name)
            write_json(self._file, self._entries, durable=False)
            self._changed = False
        except (OSError, HeadwaterError):
            say(
                "warning",
                f"{self._file.parent}: cannot be written, so digests are computed again next time; use --cache DIR",
            )
