"""A folder on this disk as a source: a release, a fetched folder, or any folder with files of the right names.

Another disk, a mounted share, a partly finished copy: what it holds is checked like the bytes of a stranger.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

from distribute.transports._base import Context, NotThere, Published, Source, SourceError, Wanted, WrongBytes
from headwater.errors import HeadwaterError, MissingInput, UsageError
from headwater.files import FOLDER_MODE, atomic_file, named_io
from headwater.hashing import digest_file
from headwater.manifest import FileEntry, safe_relative
from headwater.release import (
    INSIDE,
    MANIFEST_NAME,
    RELEASE_NAME,
    Location,
    OpenRelease,
    Release,
    public_documents,
    read_document,
    read_limited,
)

SCHEMES: tuple[str, ...] = ()  # paths only; `file:` addresses are refused
BLOCK_BYTES = 1 << 20


class FileSource(Source):
    """One folder."""

    kind = "file"

    def __init__(self, folder: Path) -> None:
        folder = folder.parent if folder.name == MANIFEST_NAME and folder.is_file() else folder
        if not folder.is_dir():
            raise MissingInput(f"{folder}: no such folder")
        self.label = str(folder)
        meta = [folder, folder / INSIDE]
        self._meta = next((m for m in meta if (m / MANIFEST_NAME).is_file()), folder)
        self._data = folder
        if self._meta == folder and (folder / RELEASE_NAME).is_file():
            try:
                self._data = folder / safe_relative(read_document(folder / RELEASE_NAME, Release).name)
            except HeadwaterError as error:
                raise WrongBytes(error.message, hint=error.hint) from error

    def release_file(self, name: str) -> bytes | None:
        """A document beside the manifest."""
        path = self._meta / safe_relative(name)
        return read_limited(path) if path.is_file() else None

    def read(self, wanted: Wanted, offset: int, length: int) -> Iterator[bytes]:
        """Bytes of a file; pipes, devices and the like are not opened."""
        path = self._data / safe_relative(wanted.path)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                raise NotThere(f"{path}: no such file") from error
            raise SourceError(f"{path}: {os.strerror(error.errno or 0)}") from error
        try:
            status = os.fstat(fd)
            if not os.path.isfile(path):
                raise NotThere(f"{path}: no regular file")
            if status.st_size != wanted.size_bytes:
                raise WrongBytes(f"{path}: has {status.st_size:,} bytes, {wanted.size_bytes:,} are right")
            while length:
                try:
                    block = os.pread(fd, min(length, BLOCK_BYTES), offset)
                except OSError as error:
                    raise SourceError(f"{path}: {os.strerror(error.errno or 0)}") from error
                if not block:
                    raise WrongBytes(f"{path}: became shorter while it was read")
                offset, length = offset + len(block), length - len(block)
                yield block
        finally:
            os.close(fd)


def open_source(location: str, context: Context) -> FileSource:
    """The folder `location`. Raises MissingInput when it is not there."""
    return FileSource(Path(location))


def publish(release: OpenRelease, target: str, context: Context, *, dry_run: bool) -> Published:
    """Copy RELEASE into the folder `target` (another disk, a share), documents last; what is there and equal in size stays.

    Raises UsageError when the target is the release itself.
    """
    folder = Path(target)
    if folder.resolve() == release.meta.resolve():
        raise UsageError(f"{target}: is the release itself")
    sent, copied = 0, 0
    for entry in release.manifest.entries:
        there = folder / release.release.name / safe_relative(entry.path)
        if _has(there, entry):
            continue
        sent, copied = sent + entry.size_bytes, copied + 1
        if not dry_run:
            with named_io(there):
                there.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
            _copy(release.data / entry.path, there)
    names = public_documents(release)
    for name in names:
        sent += (release.meta / name).stat().st_size
        if not dry_run:
            _copy(release.meta / name, folder / name)
    actions = [f"copy {copied:,} files and {len(names)} documents, {sent:,} bytes, to {folder}"]
    return Published(Location(kind="file", url=str(folder)), sent, copied, actions, actions[0])


def _has(path: Path, entry: FileEntry) -> bool:
    """Whether the file is there already, by size and digest."""
    if not path.is_file() or path.stat().st_size != entry.size_bytes:
        return False
    return digest_file(path, ("sha256",)).sha256 == entry.sha256


def _copy(source: Path, target: Path) -> None:
    with named_io(source), open(source, "rb") as read, atomic_file(target, durable=False) as write:
        while block := read.read(BLOCK_BYTES):
            write.write(block)
