"""Paths that strangers name, judged before anything is asked for: ours are taboo, and none is a file and a folder.

`headwater.release.parse_manifest` judges the files of a manifest; here is what it leaves to us.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from distribute.fetching.target import PRIVATE
from headwater.errors import IntegrityError
from headwater.manifest import Manifest, safe_relative
from headwater.release import FOLDERS, NAME_BYTES, PATH_BYTES

EMPTY_FOLDERS = "empty_folders"  # extension of a manifest: part of its CIDs
MOST_FOLDERS = 1_000_000
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")  # they would act on the terminal


def no_private(paths: Iterable[str], label: str) -> None:
    """Nobody but us writes into `.headwater`, in whatever case a file system takes for the same. Raises IntegrityError."""
    for path in paths:
        if path.partition("/")[0].lower() == PRIVATE:
            raise IntegrityError(
                f"{label}: unsafe path {path!r} in a manifest: {PRIVATE} is ours", hint="do not use it"
            )


def no_clash(paths: list[str], label: str) -> None:
    """No file twice, and none in the place of a folder. Raises IntegrityError."""
    known = set(paths)
    if len(known) != len(paths):
        raise IntegrityError(f"{label}: a file occurs twice in it", hint="do not use it")
    for path in paths:
        if (above := _file_above(path, known)) is not None:
            raise IntegrityError(f"{label}: {above!r} is a file and a folder in it", hint="do not use it")


def empty_folders(manifest: Manifest, label: str) -> list[str]:
    """The folders without files that the manifest names; all of them safe. Raises IntegrityError for anything else there."""
    named = manifest.extensions.get(EMPTY_FOLDERS, [])
    if not isinstance(named, list) or len(named) > MOST_FOLDERS:
        raise IntegrityError(
            f"{label}: its {EMPTY_FOLDERS} are no list of at most {MOST_FOLDERS:,} paths",
            hint="do not use it",
        )
    files = {entry.path for entry in manifest.entries}
    for path in named:
        if not isinstance(path, str):
            raise IntegrityError(f"{label}: one of its {EMPTY_FOLDERS} is no path", hint="do not use it")
        parts = safe_relative(path).split("/")
        long = len(path.encode(errors="replace")) > PATH_BYTES or len(parts) > FOLDERS
        if (
            long
            or CONTROL.search(path)
            or any(len(part.encode(errors="replace")) > NAME_BYTES for part in parts)
        ):
            raise IntegrityError(
                f"{label}: the folder {path[:100]!r} is too long or holds control characters",
                hint="do not use it",
            )
        if (file := path if path in files else _file_above(path, files)) is not None:
            raise IntegrityError(
                f"{label}: {file!r} is a file and an empty folder in it", hint="do not use it"
            )
    no_private(named, label)
    return named


def _file_above(path: str, files: set[str]) -> str | None:
    """The first folder on the way to `path` that is one of `files`."""
    at = path.find("/")
    while at >= 0:
        if path[:at] in files:
            return path[:at]
        at = path.find("/", at + 1)
    return None
