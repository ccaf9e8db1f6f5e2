"""A path that was a folder in the older release and is a file in this one, or the reverse: what lies there has to go first.

Without `--prune` that is told and nothing is done. With it, what the older release left in the way is removed once everything
that can be taken from it was taken, and only when all of it is still as its manifest says.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field

from distribute.fetching.older import Older
from distribute.fetching.pieces import right_file
from distribute.fetching.target import Target
from distribute.transports._base import Wanted
from headwater.errors import HeadwaterError, IntegrityError


@dataclass
class Blocked:
    """What is in the way of a release."""

    paths: set[str] = field(default_factory=set)  # of its files, that cannot be put there yet
    files: list[str] = field(default_factory=list)  # of the older release, where a folder is to be
    folders: list[str] = field(default_factory=list)  # of the older release, where a file is to be

    def __bool__(self) -> bool:
        return bool(self.files or self.folders)


def find_blocked(older: Older, chosen: Iterable[Wanted], folders: Iterable[str], target: Target) -> Blocked:
    """Look for what older releases have in the way of the files `chosen` and of the empty `folders`."""
    found = Blocked()
    if not older.entries:
        return found
    was_folder: set[str] = set()
    for path in (*older.entries, *older.folders):
        above = path.rpartition("/")[0]
        while above and above not in was_folder:
            was_folder.add(above)
            above = above.rpartition("/")[0]
    empty = frozenset(older.folders)
    in_the_way: dict[str, bool] = {}
    for path, is_file in [*((file.path, True) for file in chosen), *((path, False) for path in folders)]:
        for place in [*_above(path), *(() if is_file else (path,))]:
            if place in older.entries:
                if place not in in_the_way:
                    in_the_way[place] = _kind(target, place) == stat.S_IFREG
                if in_the_way[place]:
                    found.paths.add(path)
        if is_file and (path in was_folder or path in empty) and _kind(target, path) == stat.S_IFDIR:
            found.paths.add(path)
            found.folders.append(path)
    found.files = [place for place, there in in_the_way.items() if there]
    return found


def refuse(found: Blocked, target: Target) -> None:
    """Raise IntegrityError with what is in the way, when `--prune` was not given."""
    path = target.root / min(found.files + found.folders)
    was, will = (
        ("file", "folder") if found.files and path == target.root / min(found.files) else ("folder", "file")
    )
    more = len(found.files) + len(found.folders) - 1
    raise IntegrityError(
        f"{path}: is a {was} of the older release, and a {will} in this one"
        + (f" (and {more:,} more such paths)" if more else ""),
        hint="--prune removes what the older release left in the way, unless it was edited; or choose another -o",
    )


def listed(found: Blocked, older: Older, target: Target) -> list[str]:
    """The files that have to go, sorted. Raises IntegrityError, and nothing is done, when one is not the older release's any more."""
    files = list(found.files)
    for folder in found.folders:
        for path, kind in target.below(folder):
            if kind == stat.S_IFREG:
                files.append(path)
            elif kind != stat.S_IFDIR:
                raise _kept(target, path)
    for path in files:
        entry = older.entries.get(path)
        if entry is None or not _unchanged(target, path, Wanted.of(entry)):
            raise _kept(target, path)
    return sorted(files, key=str.encode)


def clear(found: Blocked, files: list[str], target: Target) -> None:
    """Remove the files, then the folders; one that is not empty by now stays, and the file that needs its place says so."""
    for path in files:
        target.remove(path)
    for folder in found.folders:
        target.remove_folders(folder)


def _kept(target: Target, path: str) -> IntegrityError:
    return IntegrityError(
        f"{target.root / path}: was edited or added here, and is in the way of this release; nothing was changed",
        hint="move it elsewhere, or choose another -o",
    )


def _unchanged(target: Target, path: str, wanted: Wanted) -> bool:
    fd = target.open(path)
    try:
        return right_file(fd, wanted)
    finally:
        os.close(fd)


def _kind(target: Target, path: str) -> int | None:
    """S_IFREG, S_IFDIR …; None when nothing is there, or behind a link."""
    try:
        status = target.lstat(path)
    except (HeadwaterError, OSError):
        return None
    return None if status is None else stat.S_IFMT(status.st_mode)


def _above(path: str) -> list[str]:
    """The folders on the way to `path`."""
    parts = path.split("/")
    return ["/".join(parts[:upto]) for upto in range(1, len(parts))]
