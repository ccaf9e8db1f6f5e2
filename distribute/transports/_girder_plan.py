"""Where a release goes in Girder, and what must be done there: compared before anything is sent.

    girder+https://HOST/api/v1#collection/NAME/FOLDER…   or #user/LOGIN/FOLDER…, #folder/ID[/FOLDER…]

A file is kept when an item of its name has its size and, in our metadata, its SHA-256.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import quote, unquote, urlsplit

from distribute.transports._base import NotThere
from distribute.transports._girder_api import KEY_VARIABLE, Girder
from distribute.transports._girder_records import Folder, Item
from headwater.errors import HeadwaterError, UsageError

_BEGINNINGS = ("girder+http://", "girder+https://")
EXAMPLE = "girder+https://HOST/api/v1#collection/NAME/FOLDER"
_PLACE = re.compile(r"(collection|user|folder)/(.+)")


@dataclass(frozen=True)
class Place:
    """A location, taken apart. Holds no secret."""

    base: str  # http(s)://HOST/api/v1
    kind: str  # collection, user, folder
    top: str  # its name, login or id
    folders: tuple[str, ...]

    @property
    def text(self) -> str:
        """The location again."""
        parts = "/".join(quote(part, safe=" ") for part in (self.top, *self.folders))
        return f"girder+{self.base}#{self.kind}/{parts}"


def parse_place(location: str) -> Place:
    """Read a location. Raises UsageError, never repeating what may be a secret in it."""
    scheme = next((s for s in _BEGINNINGS if location.lower().startswith(s)), None)
    if scheme is None:
        raise UsageError("no location of Girder's", hint=EXAMPLE)
    try:
        parts = urlsplit(location[len("girder+") :])
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise UsageError("a Girder location with a host or port that is none", hint=EXAMPLE) from None
    if parts.username is not None or parts.password is not None or parts.query:
        raise UsageError(
            f"girder+{parts.scheme}://{host}: a location holds no password, key or query",
            hint=f"put an API key in the environment variable {KEY_VARIABLE}",
        )
    found = _PLACE.fullmatch(parts.fragment.rstrip("/"))
    if not host or found is None:
        raise UsageError(f"girder+{parts.scheme}://{host or ''}: names no folder there", hint=EXAMPLE)
    names = tuple(unquote(name) for name in found[2].split("/"))
    for name in names:
        if name != name.strip() or name in ("", ".", "..") or not name.isprintable():
            raise UsageError(f"{name!r} is no name of a collection or folder", hint=EXAMPLE)
    base = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
    return Place(base, found[1], names[0], names[1:])


def find_root(girder: Girder, place: Place) -> tuple[Folder | None, tuple[str, ...]]:
    """The folder furthest along a place that is there, and the names that are missing below it."""
    folder = girder.top(place.kind, place.top)
    if folder is None:
        return None, (place.top, *place.folders)
    for number, name in enumerate(place.folders):
        inside = girder.folders(folder, name)
        if not inside:
            return folder, place.folders[number:]
        folder = inside[0]
    return folder, ()


def make_root(girder: Girder, place: Place, there: Folder | None, missing: tuple[str, ...]) -> Folder:
    """Make what `find_root` found missing; only a collection is made at the top."""
    if there is None:
        if place.kind != "collection":
            raise NotThere(
                f"{place.base}: no {place.kind} {place.top!r}, or it may not be seen", hint=EXAMPLE
            )
        there, missing = girder.make_collection(place.top), missing[1:]
    for name in missing:
        there = girder.make_folder(there, name)
    return there


@dataclass(frozen=True)
class Outgoing:
    """One file of the release: `path` is where it goes below the root, `digests` its metadata."""

    path: str
    source: Path
    size_bytes: int
    digests: dict[str, str]

    @property
    def parent(self) -> str:
        return self.path.rpartition("/")[0]

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


@dataclass(frozen=True)
class Task:
    """What to do about one file."""

    kind: Literal["upload", "replace", "keep"]
    file: Outgoing
    item: Item | None = None


@dataclass
class Plan:
    """What is there and what is to be done. Folder "" is the root."""

    folders: dict[str, Folder] = field(default_factory=dict)
    make: list[str] = field(default_factory=list)  # folders, parents first
    tasks: list[Task] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)  # there, and not of this release: left alone

    @property
    def sends(self) -> list[Task]:
        return [task for task in self.tasks if task.kind != "keep"]

    @property
    def bytes_to_send(self) -> int:
        return sum(task.file.size_bytes for task in self.sends)

    def lines(self) -> list[str]:
        """One line each, for people; what is kept is summed up."""
        kept = [task.file.size_bytes for task in self.tasks if task.kind == "keep"]
        lines = [f"create folder {path}/" for path in self.make]
        lines += [f"{task.kind} {task.file.path} ({task.file.size_bytes:,} bytes)" for task in self.sends]
        lines += [f"keep {len(kept):,} files ({sum(kept):,} bytes)"] if kept else []
        return lines + [f"leave alone {path}: not of this release" for path in self.extra]


def make_plan(girder: Girder, root: Folder | None, files: Iterable[Outgoing]) -> Plan:
    """Compare the files of a release with what is below `root` (None: nothing yet). Two requests a folder.

    Raises UsageError for a name that Girder would change, HeadwaterError where a folder has a file's name or the other way.
    """
    by_folder: dict[str, list[Outgoing]] = {"": []}
    for file in files:
        _check_names(file.path)
        path = file.parent
        while path not in by_folder:
            by_folder[path] = []
            path = path.rpartition("/")[0]
        by_folder[file.parent].append(file)
    plan = Plan(folders={} if root is None else {"": root})
    for path in sorted(by_folder):  # a parent sorts before what is in it
        folder = plan.folders.get(path)
        if folder is None:
            plan.make += [path] if path else []
            plan.tasks += [Task("upload", file) for file in by_folder[path]]
            continue
        inside = {f"{path}/{child.name}".lstrip("/"): child for child in girder.folders(folder)}
        items: dict[str, list[Item]] = {}
        for item in girder.items(folder):
            items.setdefault(item.name, []).append(item)
        for child, found in inside.items():
            if child in by_folder:
                plan.folders[child] = found
            else:
                plan.extra.append(f"{child}/")
        for file in by_folder[path]:
            if file.path in inside:
                raise HeadwaterError(
                    f"{girder.base}: {file.path!r} is a folder there and a file here",
                    hint="publish into another folder",
                )
            plan.tasks.append(_task(file, items.pop(file.name, [])))
        for name in items:
            if f"{path}/{name}".lstrip("/") in by_folder:
                raise HeadwaterError(
                    f"{girder.base}: {name!r} is an item there and a folder here",
                    hint="publish into another folder",
                )
        plan.extra += [f"{path}/{name}".lstrip("/") for name in items]
    return plan


def _task(file: Outgoing, items: list[Item]) -> Task:
    for item in items:  # one, but Girder lets two writers make two
        if item.size_bytes == file.size_bytes and item.digests.get("sha256") == file.digests["sha256"]:
            return Task("keep", file, item)
    return Task("replace", file, items[0]) if items else Task("upload", file)


def _check_names(path: str) -> None:
    """Girder takes blanks off both ends of a name, after which two names may be one."""
    for name in path.split("/"):
        if name != name.strip():
            raise UsageError(
                f"{path!r}: Girder keeps no blanks at the ends of a name",
                hint="rename it, or use another network",
            )
