"""What is in a folder, and what must not be published: one walk before any file is hashed.

    links, sockets, FIFOs, devices, unreadable things, names that break lists    refused always
    hidden names, keys, passwords, tokens                                        blocked, unless allowed by exact path
    names that some systems cannot hold                                          warned of, or refused ("refuse")

Nothing is left out in silence: what is not published is named, and then nothing is. Only a `.headwater` folder at the top,
which holds our own caches, is no part of the tree. Catalogue rows 85 to 89.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NoReturn

from distribute import names, secrets
from distribute.digests import TreeFile
from headwater.console import say
from headwater.errors import HeadwaterError, MissingInput, UsageError
from headwater.files import named_io

PRIVATE = ".headwater"
LISTED = 50  # lines of a message; the count is always told

Portable = Literal["warn", "refuse", "off"]


@dataclass(frozen=True)
class Problem:
    """One thing that must not, or should not, be published. `path` is fit for printing; `detail` never holds a secret."""

    kind: Literal["link", "special", "unreadable", "name", "hidden", "secret", "portable", "allow"]
    path: str
    detail: str

    def __str__(self) -> str:
        return f"{self.path}: {self.detail}"


@dataclass(frozen=True)
class Scan:
    """The tree below `folder`: files sorted by path (UTF-8 order), folders without entries, and what is wrong."""

    folder: Path
    files: list[TreeFile]
    empty_folders: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)

    def raise_for_problems(self) -> None:
        """Raise one error that lists all problems: UsageError, or HeadwaterError when some could not be read."""
        if not self.problems:
            return
        count = len(self.problems)
        lines = [f"  {problem}" for problem in self.problems[:LISTED]]
        lines += [f"  … and {count - LISTED:,} more"] if count > LISTED else []
        things = "1 thing in it" if count == 1 else f"{count:,} things in it"
        kinds = {str(problem.kind) for problem in self.problems}
        error = HeadwaterError if "unreadable" in kinds else UsageError
        raise error(
            "\n".join([f"{names.shown(str(self.folder))}: not published because of {things}:", *lines]),
            hint=" · ".join(self._hints(kinds)),
        )

    def _hints(self, kinds: set[str]) -> list[str]:
        hints = []
        if kinds & {"hidden", "secret"}:
            hints.append("take out what is not for the public, or name each path that is: --allow PATH")
        if "link" in kinds:
            hints.append("put the file itself in the place of a link")
        if kinds & {"special", "name"}:
            hints.append("remove or rename the rest" if hints else "remove or rename them")
        if "unreadable" in kinds:
            hints.append("make everything readable by you")
        if "portable" in kinds:
            hints.append("rename what other systems cannot hold, or --portable warn")
        return hints

    def say_warnings(self) -> None:
        """Tell the warnings, at most 50 of them one by one."""
        for problem in self.warnings[:LISTED]:
            say("warning", str(problem), path=problem.path, kind=problem.kind)
        if len(self.warnings) > LISTED:
            say("warning", f"… and {len(self.warnings) - LISTED:,} more warnings of this kind")


def scan_tree(
    folder: Path,
    *,
    portable: Portable = "warn",
    allow: Iterable[str] = frozenset(),
    secrets: bool = True,
) -> Scan:
    """Walk `folder` once. What is wrong is collected, so that one message can name all of it.

    `allow`: exact paths, relative to the folder, whose hidden name or content is let through; a folder's path says nothing
    about what is in it. Raises MissingInput when the folder is not there, UsageError when it is none, or holds nothing.
    """
    with named_io(folder):
        if not stat.S_ISDIR(os.stat(folder).st_mode):
            raise UsageError(f"{folder}: not a folder", hint="name the folder that holds the files")
    walk = _Walk(folder, portable, frozenset(path.rstrip("/") for path in allow), secrets)
    walk.run()
    scan = walk.result()
    if not scan.files and not scan.problems:
        raise UsageError(f"{folder}: holds no files, so there is nothing to publish")
    return scan


class _Walk:
    def __init__(self, folder: Path, portable: Portable, allow: frozenset[str], secrets: bool) -> None:
        self._folder = folder
        self._portable = portable
        self._allow = allow
        self._secrets = secrets
        self._met: set[str] = set()  # of the allowed paths
        self._files: list[TreeFile] = []
        self._empty: list[str] = []
        self._problems: list[Problem] = []
        self._unportable: list[Problem] = []
        self._unread: list[Problem] = []

    def run(self) -> None:
        todo = [("", os.fspath(self._folder))]
        while todo:  # no recursion: a tree may be deeper than Python's stack
            relative, absolute = todo.pop()
            try:
                with os.scandir(absolute) as found:
                    entries = [entry for entry in found if relative or not _private(entry)]
            except OSError as error:
                if not relative:
                    _unreadable_top(self._folder, error)
                self._problem("unreadable", relative, _why(error, "the folder cannot be read"))
                continue
            if not entries and relative:
                self._empty.append(relative)
            if self._portable != "off":
                self._collisions(relative, [entry.name for entry in entries])
            for entry in entries:
                path = f"{relative}/{entry.name}" if relative else entry.name
                if self._take(entry, path):
                    todo.append((path, entry.path))

    def result(self) -> Scan:
        refuse = self._portable == "refuse"
        warned = [] if refuse else self._unportable
        missing = [
            Problem("allow", names.shown(path), "allowed, but nothing there needs it")
            for path in self._allow - self._met
        ]
        return Scan(
            self._folder,
            sorted(self._files, key=lambda file: file.path.encode("utf-8", "surrogateescape")),
            sorted(self._empty, key=os.fsencode),
            sorted([*self._problems, *(self._unportable if refuse else [])], key=lambda p: (p.path, p.kind)),
            sorted([*warned, *missing, *self._unread], key=lambda p: (p.path, p.kind)),
        )

    def _take(self, entry: os.DirEntry[str], path: str) -> bool:
        """Record one entry; True for a folder to go into."""
        name = entry.name
        if why := names.unsafe(name):
            self._problem("name", path, why)
            return False
        if len(entry.path) * 4 >= names.PATH_BYTES and len(os.fsencode(entry.path)) >= names.PATH_BYTES:
            self._problem(
                "name", path[:200] + "…", f"its whole path is longer than {names.PATH_BYTES:,} bytes"
            )
            return False
        if path.count("/") >= names.FOLDERS:
            self._problem("name", path[:200] + "…", f"more than {names.FOLDERS} folders deep")
            return False
        try:
            status = entry.stat(follow_symlinks=False)
        except OSError as error:
            self._problem("unreadable", path, _why(error, "cannot be looked at"))
            return False
        # a long path is told once, of the file at its end
        long = names.long_path(path) if not stat.S_ISDIR(status.st_mode) else None
        if self._portable != "off" and (odd := names.unportable(name) or long):
            self._unportable.append(Problem("portable", names.shown(path), odd))
        kind = secrets.name_kind(path) if self._secrets or name[0] == "." else None
        if kind and not self._allowed(path):
            self._problem(
                "hidden" if kind == "hidden" else "secret", path, _HIDDEN if kind == "hidden" else kind
            )
        if stat.S_ISDIR(status.st_mode):
            return True
        if not stat.S_ISREG(status.st_mode):
            link = stat.S_ISLNK(status.st_mode)
            self._problem(
                "link" if link else "special",
                path,
                _KINDS.get(stat.S_IFMT(status.st_mode), "no regular file"),
            )
            return False
        self._file(entry, path, status, named=kind is not None)
        return False

    def _file(self, entry: os.DirEntry[str], path: str, status: os.stat_result, *, named: bool) -> None:
        if not os.access(entry.path, os.R_OK, effective_ids=True):
            self._problem("unreadable", path, "the file cannot be read by this user")
            return
        absolute = Path(entry.path)
        self._files.append(TreeFile(path, absolute, status.st_size, status.st_mtime_ns, status.st_ino))
        if not self._secrets or (named and path in self._allow):
            return
        if not secrets.to_read(path, status.st_size):
            if path.lower().endswith(".ipynb") and status.st_size:
                self._unread.append(
                    Problem("secret", names.shown(path), "too large to be looked through for tokens")
                )
            return
        try:
            found = secrets.read_secrets(entry.path, path)
        except OSError as error:
            self._problem("unreadable", path, _why(error, "the file cannot be read"))
            return
        if found and not self._allowed(path):
            for finding in found:
                self._problem("secret", path, f"{finding.kind} in line {finding.line:,}")

    def _allowed(self, path: str) -> bool:
        if path in self._allow:
            self._met.add(path)
            return True
        return False

    def _problem(
        self,
        kind: Literal["link", "special", "unreadable", "name", "hidden", "secret"],
        path: str,
        detail: str,
    ) -> None:
        self._problems.append(Problem(kind, names.shown(path), detail))

    def _collisions(self, relative: str, found: list[str]) -> None:
        for group in names.collisions(found):
            for name in group[1:]:
                path = names.shown(f"{relative}/{name}" if relative else name)
                same = names.why_same(group[0], name)
                self._unportable.append(Problem("portable", path, f"{same} from {names.shown(group[0])}"))


_HIDDEN = "hidden"
_KINDS = {
    stat.S_IFLNK: "symbolic link",
    stat.S_IFSOCK: "socket",
    stat.S_IFIFO: "FIFO",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
}


def _private(entry: os.DirEntry[str]) -> bool:
    # a link of that name would make us write our caches elsewhere
    return entry.name == PRIVATE and entry.is_dir(follow_symlinks=False)


def _why(error: OSError, what: str) -> str:
    return f"{what}: {os.strerror(error.errno or errno.EIO)}"


def _unreadable_top(folder: Path, error: OSError) -> NoReturn:
    if error.errno == errno.ENOENT:
        raise MissingInput(f"{folder}: no such file or folder") from error
    raise HeadwaterError(f"{folder}: {_why(error, 'the folder cannot be read')}") from error
