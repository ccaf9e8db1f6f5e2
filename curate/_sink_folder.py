"""The folder sink: one file a picture, in a folder a category."""

from __future__ import annotations

import ctypes
import os
from typing import Any

from curate.sinks import BlockWriter
from headwater.files import FOLDER_MODE, fsync_folder, named_io


class FolderWriter(BlockWriter):
    """Writes image/CCCCC/KEY.png (or the path given) and, of annotated pictures, mask/CCCCC/KEY.png."""

    def _open(self) -> None:
        self._files: list[str] = []
        self._folders: set[str] = set()
        self._bytes = 0

    def _file_name(self, key: str, path: str | None) -> str:
        return path or f"image/{key.partition('_')[0]}/{key}.png"

    def _add(
        self,
        key: str,
        label: int,
        category: int,
        instance: int,
        png: bytes,
        mask: bytes,
        things: list[dict[str, Any]],
        path: str | None,
    ) -> None:
        name = self._file_name(key, path)
        self._write(name, png)
        if self.layout.annotated:
            self._write(f"mask/{name.removeprefix('image/')}", mask)

    def _write(self, name: str, content: bytes) -> None:
        path = self.folder / name
        parent = name.rpartition("/")[0]
        with named_io(path):
            if parent not in self._folders:
                path.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
                self._folders.add(parent)
            temporary = f"{path.parent}/.{path.name}.tmp-{os.getpid()}"
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
            try:
                view = memoryview(content)
                while len(view):
                    view = view[os.write(fd, view) :]
            except BaseException:
                os.unlink(temporary)
                raise
            finally:
                os.close(fd)
            os.rename(temporary, path)
        self._files.append(name)
        self._bytes += len(content)

    def _finish(self) -> tuple[list[str], int]:
        with named_io(self.folder):
            self._sync()
        return self._files, self._bytes

    def _sync(self) -> None:
        """Make the files durable: one call for the whole file system, far cheaper than an fsync for each of ten thousand files."""
        fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
            if syncfs is not None and syncfs(fd) == 0:
                return
        finally:
            os.close(fd)
        for name in self._files:
            fd = os.open(self.folder / name, os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        for parent in self._folders:
            fsync_folder(self.folder / parent)
