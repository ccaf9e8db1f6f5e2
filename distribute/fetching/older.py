"""What a folder holds of older releases: files that are gone from the new one are told, and removed when that is asked for.

    .headwater/release/manifest.json     of the last fetch, until this one ends
                       partial.json      which of its files were brought, while patterns have left some out
                       leftovers.json    files of releases before it that it does not have and that still lie there

Only a file whose bytes are still those of its old manifest is ever removed: an edited one is its user's.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from distribute.fetching.paths import CONTROL, empty_folders
from distribute.fetching.pieces import right_file
from distribute.fetching.target import PRIVATE, Target
from distribute.transports._base import Wanted
from headwater.console import say
from headwater.errors import HeadwaterError
from headwater.files import write_json
from headwater.manifest import FileEntry, Manifest
from headwater.release import (
    INSIDE,
    LEFTOVERS_NAME,
    MANIFEST_NAME,
    PARTIAL_NAME,
    Leftovers,
    Partial,
    parse_manifest,
    read_document,
    read_limited,
)


@dataclass(frozen=True)
class Older:
    """Files of older releases in a folder, by path; nothing of this is believed without a look at the bytes."""

    manifest_id: str | None = None
    entries: dict[str, FileEntry] = field(default_factory=dict)
    brought: frozenset[str] = frozenset()  # paths of its manifest that a fetch has brought
    folders: tuple[str, ...] = ()  # its empty ones

    def changed(self, wanted: Wanted) -> bool:
        """Whether the older release has other bytes at this path."""
        entry = self.entries.get(wanted.path)
        return entry is not None and wanted.sha256 is not None and entry.sha256 != wanted.sha256


@dataclass
class Gone:
    """Paths of older releases that the new one does not have."""

    there: list[str] = field(default_factory=list)  # still in the folder
    pruned: list[str] = field(default_factory=list)


def read_older(root: Path, raw: bytes | None = None, new: Manifest | None = None) -> Older:
    """What earlier fetches into `root` have left. Never raises for what cannot be read: it is then nothing.

    `new` with its bytes `raw`: a manifest that is parsed already, and may be the same one.
    """
    meta = root / INSIDE
    try:
        there = read_limited(meta / MANIFEST_NAME)
        manifest = (
            new
            if new is not None and there == raw
            else parse_manifest(there, None, str(meta / MANIFEST_NAME))
        )
        folders = tuple(empty_folders(manifest, str(meta / MANIFEST_NAME)))
    except HeadwaterError:
        return Older()
    entries = {entry.path: entry for entry in manifest.entries}
    brought = frozenset(entries)
    try:
        if (meta / PARTIAL_NAME).exists():
            partial = read_document(meta / PARTIAL_NAME, Partial)
            brought &= frozenset(partial.paths if partial.manifest_id == manifest.id else ())
        if (meta / LEFTOVERS_NAME).exists():
            for entry in read_document(meta / LEFTOVERS_NAME, Leftovers).entries:
                if not CONTROL.search(entry.path):  # the folder may be somebody else's work
                    entries.setdefault(entry.path, entry)
    except HeadwaterError as error:
        say("warning", f"{error.message}; it is left out of account")
    ours = {path: entry for path, entry in entries.items() if path.partition("/")[0].lower() != PRIVATE}
    return Older(manifest.id, ours, brought & ours.keys(), folders)


def find_gone(older: Older, wanted: Iterable[Wanted], target: Target) -> list[FileEntry]:
    """Files of older releases that lie in the folder and are not in the new one, sorted by path."""
    new = {file.path for file in wanted}
    gone = [entry for path, entry in older.entries.items() if path not in new and _is_file(target, path)]
    return sorted(gone, key=lambda entry: entry.path.encode())


def _is_file(target: Target, path: str) -> bool:
    try:
        status = target.lstat(path)
    except (HeadwaterError, OSError):
        return False  # a link or a file in the place of a folder: not what a fetch has put there
    return status is not None and stat.S_ISREG(status.st_mode)


def prune(target: Target, entries: Iterable[FileEntry], folders: Iterable[str] = ()) -> Gone:
    """Remove the files that are still as their manifest says, and folders that this leaves empty but for those of `folders`."""
    gone, keep = Gone(), frozenset(folders)
    for entry in entries:
        fd = target.open(entry.path)
        try:
            unchanged = right_file(fd, Wanted.of(entry))
        finally:
            os.close(fd)
        if unchanged:
            target.remove(entry.path, keep)
            gone.pruned.append(entry.path)
        else:
            gone.there.append(entry.path)
    return gone


def write_leftovers(meta: Path, entries: list[FileEntry]) -> None:
    """Remember them, so that a later `--prune` still knows what they were."""
    if entries:
        write_json(meta / LEFTOVERS_NAME, Leftovers(entries=entries).model_dump(mode="json"), durable=False)
    else:
        (meta / LEFTOVERS_NAME).unlink(missing_ok=True)


def partial_of(older: Older, manifest: Manifest, chosen: Iterable[Wanted]) -> Partial | None:
    """What the folder holds of `manifest` after `chosen` were brought; None when it is all of it."""
    new = {entry.path: entry.sha256 for entry in manifest.entries}
    kept = {path for path in older.brought if new.get(path) == older.entries[path].sha256}
    paths = kept | {wanted.path for wanted in chosen}
    if len(paths) == len(new):
        return None
    return Partial(manifest_id=manifest.id, paths=sorted(paths, key=str.encode))
