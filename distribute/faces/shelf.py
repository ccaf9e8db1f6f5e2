"""Which files a seeded release has, and whether each still holds the bytes that the manifest names.

Nothing is read at the start: a file with the size of its entry is taken as right as long as device, inode, size and time of
change stay what they were. A file that differs is read once and compared with its SHA-256; one that is wrong is not served.
Only names known here are ever opened, and never through a symbolic link.
"""

from __future__ import annotations

import hashlib
import mimetypes
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from headwater.console import say
from headwater.release import (
    LATEST_NAME,
    LOCATIONS_NAME,
    MANIFEST_NAME,
    METALINK_NAME,
    NODES_NAME,
    RELEASE_NAME,
    OpenRelease,
)

DOCUMENTS = (MANIFEST_NAME, RELEASE_NAME, LOCATIONS_NAME, LATEST_NAME, NODES_NAME, METALINK_NAME)
READ_BYTES = 1 << 20
MEDIA_TYPES = {
    ".car": "application/vnd.ipld.car; version=1",
    ".meta4": "application/metalink4+xml",
    ".torrent": "application/x-bittorrent",
}


class NotHere(Exception):
    """There is no such regular file on this disk."""


class NotRight(Exception):
    """The file is there, and its bytes are not those of the manifest."""


class Unknown(Exception):
    """The file is not as it was at the start: it must be read before anybody knows (`Shelf.examine`)."""


class Stamp(NamedTuple):
    """What changes when a file is replaced or written to (not the time of the inode: another hard link changes it)."""

    device: int
    inode: int
    size_bytes: int
    mtime_ns: int

    @classmethod
    def of(cls, descriptor: int) -> Stamp:
        found = os.fstat(descriptor)
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


@dataclass
class Item:
    """One file that may be served. `sha256` is None for a document that may change (locations, latest)."""

    name: str  # in addresses, decoded: `manifest.json`, `NAME/a/b.jpg`
    path: Path
    sha256: str | None
    size_bytes: int | None
    right: Stamp | None = None  # the state that is known, or taken, to be right
    wrong: Stamp | None = None  # the state that was read and found wrong
    digest: str = ""  # hex SHA-256 of the bytes of `right`; empty: not computed yet

    @property
    def media_type(self) -> str:
        """For the Content-Type header; text is never declared as something a browser would run."""
        known = MEDIA_TYPES.get(Path(self.name).suffix)
        guess = known or mimetypes.guess_type(self.name)[0] or "application/octet-stream"
        return "application/octet-stream" if guess in ("text/html", "image/svg+xml") else guess


class Opened(NamedTuple):
    """A file that is right at this moment; the caller closes the descriptor."""

    descriptor: int
    stamp: Stamp
    digest: str
    item: Item


class Shelf:
    """Every file of a release that may be served, by the name it has in addresses."""

    def __init__(self, release: OpenRelease) -> None:
        self.release = release
        self.name = release.release.name
        self.items: dict[str, Item] = {}
        self.problems: list[str] = []
        self.closed = False  # a file that is being read is given up
        torrents = sorted(t.file for t in release.release.torrents.values())
        for name in (*DOCUMENTS, *torrents):
            wanted = release.release.manifest_id if name == MANIFEST_NAME else None
            self.items[name] = Item(name, release.file(name), wanted, None)
        self.data: list[Item] = []  # in the order of the manifest
        folders: dict[Path, bool] = {release.data: True}
        for entry in release.manifest.entries:
            path = release.data / entry.path
            item = Item(f"{self.name}/{entry.path}", path, entry.sha256, entry.size_bytes)
            item.digest = entry.sha256
            self.items[item.name] = item
            self.data.append(item)
            self._look(item, folders)

    @property
    def present(self) -> int:
        """Number of data files that could be served at the start."""
        return sum(item.right is not None for item in self.data)

    def _look(self, item: Item, folders: dict[Path, bool]) -> None:
        if not _no_link(item.path.parent, folders):
            return self._problem(item, "a folder above it is missing or a symbolic link")
        try:
            descriptor = open_plain(item.path)
        except NotHere:
            return self._problem(item, "not there, or no plain file")
        try:
            stamp = Stamp.of(descriptor)
        finally:
            os.close(descriptor)
        if stamp.size_bytes != item.size_bytes:
            item.wrong = stamp
            return self._problem(item, f"{stamp.size_bytes:,} bytes, the manifest says {item.size_bytes:,}")
        item.right = stamp
        return None

    def _problem(self, item: Item, text: str) -> None:
        self.problems.append(f"{item.path}: {text}; it is not served")

    def size_of(self, name: str) -> int:
        """Bytes of a document, 0 when it is not there."""
        try:
            return self.items[name].path.stat().st_size
        except OSError:
            return 0

    def open(self, item: Item) -> Opened:
        """The file, if its state is known to be right. Raises NotHere, NotRight, Unknown."""
        descriptor = open_plain(item.path)
        stamp = Stamp.of(descriptor)
        if stamp == item.right and item.digest:
            return Opened(descriptor, stamp, item.digest, item)
        os.close(descriptor)
        if stamp == item.wrong:
            raise NotRight(item.name)
        raise Unknown(item.name)

    def examine(self, item: Item) -> None:
        """Read the whole file, and settle whether it is right. Takes its time: not for an event loop. Raises as `open`."""
        if item.size_bytes is not None and not _no_link(item.path.parent, {self.release.data: True}):
            raise NotHere(item.name)
        descriptor = open_plain(item.path)
        try:
            before = Stamp.of(descriptor)
            digest = self._sha256(descriptor)
            after = Stamp.of(descriptor)
        finally:
            os.close(descriptor)
        if before != after:
            raise Unknown(item.name)  # somebody writes it at this moment
        if item.sha256 is not None and digest != item.sha256:
            item.wrong = after
            say("warning", f"{item.path}: changed: not what the manifest names, so it is not served")
            raise NotRight(item.name)
        if item.wrong is not None:
            say("info", f"{item.path}: right again")
        item.right, item.wrong, item.digest = after, None, digest

    def _sha256(self, descriptor: int) -> str:
        digest = hashlib.sha256()
        offset = 0
        while data := os.pread(descriptor, READ_BYTES, offset):
            if self.closed:
                raise Unknown
            digest.update(data)
            offset += len(data)
        return digest.hexdigest()

    def distrust(self, item: Item) -> None:
        """Somebody found wrong bytes in it: it is read before it is served again."""
        item.right = None


def still(opened: Opened) -> bool:
    """Whether an open file is in the state that it was opened in, and nobody has found damage in it since."""
    return Stamp.of(opened.descriptor) == opened.stamp == opened.item.right


def open_plain(path: Path) -> int:
    """A descriptor of a regular file that is no symbolic link; raises NotHere."""
    # O_NONBLOCK: a FIFO in the place of a file must not hold us up
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise NotHere(str(path)) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NotHere(str(path))
    return descriptor


def _no_link(folder: Path, known: dict[Path, bool]) -> bool:
    """Whether every folder from a known one down to `folder` is a real one."""
    if folder not in known:
        known[folder] = (
            folder.parent != folder
            and _no_link(folder.parent, known)
            and folder.is_dir()
            and not folder.is_symlink()
        )
    return known[folder]
