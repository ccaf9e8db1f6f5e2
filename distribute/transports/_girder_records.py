"""What Girder's documents are read into; a document that is not what it should be raises WrongBytes.

Ids go into addresses, so they must look like ids.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from distribute.transports._base import WrongBytes

OUR_METADATA = "headwater"  # the one metadata key that is ours
_ID = re.compile(r"[0-9a-f]{24}")


@dataclass(frozen=True)
class Folder:
    """A folder, a collection or a user: what has folders in it."""

    id: str
    name: str
    kind: str = "folder"


@dataclass(frozen=True)
class Item:
    """What people see as a file; `digests` is our metadata of it."""

    id: str
    name: str
    size_bytes: int
    digests: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class File:
    """The bytes in an item. `sha512` only where the server has the plug-in hashsum_download."""

    id: str
    item_id: str
    name: str
    size_bytes: int
    sha512: str | None = None


def checked_id(value: Any) -> str:
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise WrongBytes(f"{str(value)[:40]!r} is no id of Girder's", hint="an id has 24 hexadecimal digits")
    return value


def _fields(document: Any, what: str) -> dict[str, Any]:
    if not isinstance(document, dict) or not isinstance(document.get("name", ""), str):
        raise WrongBytes(f"Girder's answer is no {what}")
    return document


def _size(document: dict[str, Any]) -> int:
    size = document.get("size")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise WrongBytes("Girder's answer holds no size")
    return size


def parse_folder(document: Any, kind: str) -> Folder:
    found = _fields(document, "folder")
    return Folder(checked_id(found.get("_id")), found.get("name") or found.get("login") or "", kind)


def parse_item(document: Any) -> Item:
    found = _fields(document, "item")
    meta = found.get("meta")
    ours = meta.get(OUR_METADATA) if isinstance(meta, dict) else None
    digests = {str(k): v for k, v in ours.items() if isinstance(v, str)} if isinstance(ours, dict) else {}
    return Item(checked_id(found.get("_id")), found.get("name", ""), _size(found), digests)


def parse_file(document: Any) -> File:
    """A file from its document. Raises WrongBytes."""
    found = _fields(document, "file")
    sha512 = found.get("sha512")
    return File(
        checked_id(found.get("_id")),
        checked_id(found.get("itemId")),
        found.get("name", ""),
        _size(found),
        sha512 if isinstance(sha512, str) else None,
    )
