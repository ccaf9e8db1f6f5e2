"""How far a verification has come, so that one that was stopped goes on from there.

One line of JSON for each file found as recorded: [path, size, mtime_ns, inode, sha256]. A file that changed since has another
line to match, and is read again. The notes lie in the user's cache folder, never beside the data that is checked.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from pathlib import Path
from typing import IO

from headwater.manifest import FileEntry


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/headwater`, or `~/.cache/headwater`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "headwater"


class Checkpoint:
    """Notes about the files of one path. Notes that cannot be written cost time, never correctness."""

    def __init__(self, path: Path, *, resume: bool) -> None:
        name = hashlib.sha256(str(path.resolve()).encode(errors="surrogateescape")).hexdigest()[:32]
        self._file = cache_folder() / "verify" / f"{name}.jsonl"
        self._lock = threading.Lock()
        self._known: set[str] = set()
        self.skipped = 0
        self._handle: IO[str] | None = None
        try:
            if resume:
                # a line cut by a kill matches nothing
                self._known = set(self._file.read_text(errors="replace").splitlines())
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._handle = open(self._file, "a" if resume else "w", buffering=1)  # noqa: SIM115 - closed by `close`
            if resume:
                self._handle.write("\n")
        except OSError:
            pass

    def known(self, path: Path, entry: FileEntry) -> bool:
        """Whether this very file was found as recorded before."""
        if not self._known or self._line(path, entry) not in self._known:
            return False
        self.skipped += 1
        return True

    def note(self, path: Path, entry: FileEntry) -> None:
        """Remember a file that was found as recorded."""
        if self._handle is None:
            return
        try:
            with self._lock:
                self._handle.write(self._line(path, entry) + "\n")
        except OSError:
            self._handle = None

    def close(self, *, finished: bool) -> None:
        """End the notes; after a finished verification they are of no more use."""
        if self._handle is None:
            return
        try:
            self._handle.close()
            if finished:
                self._file.unlink(missing_ok=True)
        except OSError:
            pass  # a full disk: the notes are lost, nothing else

    @staticmethod
    def _line(path: Path, entry: FileEntry) -> str:
        stat = path.stat()
        return json.dumps([str(path.absolute()), stat.st_size, stat.st_mtime_ns, stat.st_ino, entry.sha256])
