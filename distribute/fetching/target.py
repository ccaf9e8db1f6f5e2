"""The folder that a fetch fills: every path is walked part by part, and no symbolic link inside it is ever followed.

    DIR/…                          files, placed by one rename when they are whole and checked
    DIR/.headwater/partial/        what is not whole yet, in the same file system
    DIR/.headwater/release/        manifest and the other documents
    DIR/.headwater/lock

Nothing is flushed file by file: a killed process loses nothing that the kernel has, and after a power cut the next run
checks every file again. `settle` flushes the file system once, before the record that says all is done.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from headwater.errors import HeadwaterError, IntegrityError
from headwater.files import FILE_MODE, FOLDER_MODE, explain_os_error
from headwater.manifest import safe_relative
from headwater.release import INSIDE

PRIVATE = ".headwater"
PARTIAL = f"{PRIVATE}/partial"
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Target:
    """An open folder. Raises IntegrityError for a symbolic link on the way, HeadwaterError for what the system says."""

    def __init__(self, root: Path, *, writable: bool = True) -> None:
        self.root = root
        self._fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.partial = -1
        if writable:
            try:
                with self._folder(f"{PARTIAL}/x", create=True) as fd:
                    self.partial = os.dup(fd)
            except BaseException:
                os.close(self._fd)
                raise

    def close(self) -> None:
        """Close its descriptors."""
        for fd in (self._fd, self.partial):
            if fd >= 0:
                os.close(fd)
        self._fd = self.partial = -1

    def __enter__(self) -> Target:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _folder(self, path: str, *, create: bool) -> Iterator[int]:
        """A descriptor of the folder that holds `path`."""
        here, parts = os.dup(self._fd), path.split("/")[:-1]
        try:
            for number, part in enumerate(parts):
                try:
                    below = os.open(part, _FOLDER_FLAGS, dir_fd=here)
                except FileNotFoundError:
                    if not create:
                        raise
                    try:
                        os.mkdir(part, FOLDER_MODE, dir_fd=here)
                    except FileExistsError:
                        pass  # another thread was faster, or it is a link: the next line tells
                    below = self._open_made(part, here, parts[: number + 1])
                except OSError as error:
                    raise self._told(error, parts[: number + 1]) from error
                os.close(here)
                here = below
            yield here
        finally:
            os.close(here)

    def _open_made(self, part: str, here: int, parts: list[str]) -> int:
        try:
            return os.open(part, _FOLDER_FLAGS, dir_fd=here)
        except OSError as error:
            raise self._told(error, parts) from error

    def _told(self, error: OSError, parts: list[str]) -> HeadwaterError:
        path = self.root.joinpath(*parts)
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            what = "a symbolic link" if path.is_symlink() else "not a folder"
            return IntegrityError(
                f"{path}: is {what}; nothing is written through it", hint="remove it, or choose another -o"
            )
        return explain_os_error(error, path)

    def lstat(self, path: str) -> os.stat_result | None:
        """The status of `path` itself, or None when it is not there. Raises IntegrityError for a link in a folder's place."""
        try:
            with self._folder(safe_relative(path), create=False) as fd:
                return os.stat(path.rpartition("/")[2], dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def check_place(self, path: str) -> os.stat_result | None:
        """Like lstat; raises IntegrityError when something that is no regular file is in the place of a file."""
        status = self.lstat(path)
        if status is not None and not stat.S_ISREG(status.st_mode):
            kind = "a symbolic link" if stat.S_ISLNK(status.st_mode) else "no regular file"
            raise IntegrityError(
                f"{self.root / path}: is {kind}, where a file is to be put",
                hint="remove it, or choose another -o",
            )
        return status

    def open(self, path: str) -> int:
        """A descriptor of a regular file, for reading."""
        with self._folder(safe_relative(path), create=False) as fd:
            return os.open(
                path.rpartition("/")[2], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=fd
            )

    def new_partial(self, name: str, *, fresh: bool) -> int:
        """A descriptor of a file in the folder of partial files, for reading and writing."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_TRUNC if fresh else 0)
        return os.open(name, flags, FILE_MODE, dir_fd=self.partial)

    def open_partial(self, name: str) -> int:
        """A descriptor of one of the partial files, for reading."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        return os.open(name, flags, dir_fd=self.partial)

    def link(self, path: str, name: str) -> None:
        """Give a file of the folder a second name, among the partial files."""
        with self._folder(safe_relative(path), create=False) as fd:
            os.link(
                path.rpartition("/")[2], name, src_dir_fd=fd, dst_dir_fd=self.partial, follow_symlinks=False
            )

    def remove(self, path: str, keep: frozenset[str] = frozenset()) -> None:
        """Remove a file, and the folders above it that are empty then and not in `keep`."""
        with self._folder(safe_relative(path), create=False) as fd:
            os.unlink(path.rpartition("/")[2], dir_fd=fd)
        above = path.rpartition("/")[0]
        while above and above not in keep:
            try:
                with self._folder(above, create=False) as fd:
                    os.rmdir(above.rpartition("/")[2], dir_fd=fd)
            except OSError:
                return  # it holds something else
            above = above.rpartition("/")[0]

    def below(self, folder: str) -> Iterator[tuple[str, int]]:
        """(path, kind as in S_IFMT) of everything in a folder, at any depth; links are named and not followed."""
        with self._folder(f"{safe_relative(folder)}/x", create=False) as top:
            for root, folders, files, fd in os.fwalk(".", dir_fd=top, follow_symlinks=False):
                for name in (*folders, *files):
                    kind = stat.S_IFMT(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode)
                    yield os.path.normpath(f"{folder}/{root}/{name}"), kind

    def remove_folders(self, folder: str) -> None:
        """Remove a folder and those in it, as far as they are empty."""
        inner = (
            [path for path, kind in self.below(folder) if kind == stat.S_IFDIR] if self.lstat(folder) else []
        )
        for path in [*sorted(inner, reverse=True), folder]:
            try:
                with self._folder(path, create=False) as fd:
                    os.rmdir(path.rpartition("/")[2], dir_fd=fd)
            except OSError:
                pass  # it holds something, or is gone

    def drop_partial(self, name: str) -> None:
        """Remove a partial file, when it is there."""
        try:
            os.unlink(name, dir_fd=self.partial)
        except FileNotFoundError:
            pass

    def place(self, name: str, path: str) -> None:
        """Move a finished partial file to its path."""
        last = path.rpartition("/")[2]
        with self._folder(safe_relative(path), create=True) as fd:
            try:
                os.rename(name, last, src_dir_fd=self.partial, dst_dir_fd=fd)
            except OSError as error:
                if error.errno in (errno.EISDIR, errno.ENOTEMPTY, errno.EEXIST):
                    raise IntegrityError(
                        f"{self.root / path}: is a folder, where a file is to be put",
                        hint="remove it, or choose another -o",
                    ) from error
                raise explain_os_error(error, self.root / path) from error

    def make_folder(self, path: str) -> None:
        """An empty folder."""
        with self._folder(f"{path}/x", create=True):
            pass

    def meta(self) -> Path:
        """The folder of the documents, made when it is not there."""
        self.make_folder(INSIDE)
        return self.root / INSIDE

    def settle(self) -> None:
        """Flush everything that was written to this file system to the disk, names included."""
        libc = ctypes.CDLL(None, use_errno=True)
        if not hasattr(libc, "syncfs"):
            os.sync()
        elif libc.syncfs(self._fd) != 0:
            raise explain_os_error(OSError(ctypes.get_errno(), "flush"), self.root)


def free_bytes(folder: Path) -> int:
    """Free space where `folder` is or will be."""
    for place in (folder, *folder.absolute().parents):
        try:
            status = os.statvfs(place)
        except OSError:
            continue
        return status.f_bavail * status.f_frsize
    return 0
