"""The files of a LabelMe folder: sidecars read strictly and with limits, written readably, found without leaving the folder."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from curate.polygons._digest import image_path
from curate.polygons._json_strict import loads
from headwater.errors import IntegrityError
from headwater.files import named_io

DATASET_NAME = "headwater-dataset.json"  # what belongs to no single image; only where there is such a thing
MOST_BYTES = 256 << 20  # of one sidecar, embedded picture included
MOST_DEPTH = 80  # a COCO file's 64, and what notes add


def pretty(document: Any) -> bytes:
    """A sidecar's bytes; text that UTF-8 cannot hold is escaped."""
    try:
        return json.dumps(document, ensure_ascii=False, indent=2, allow_nan=False).encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(document, indent=2, allow_nan=False).encode() + b"\n"


def is_labelme(document: Any) -> bool:
    """Whether a JSON value is a LabelMe sidecar: an object with a list of shape objects."""
    shapes = document.get("shapes") if isinstance(document, dict) else None
    return isinstance(shapes, list) and all(isinstance(shape, dict) for shape in shapes)


def read_document(path: Path) -> Any:
    """A JSON file, strictly. Raises MissingInput, IntegrityError (too large, too deep, not JSON)."""
    with named_io(path), open(path, "rb") as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise IntegrityError(f"{path}: more than {MOST_BYTES:,} bytes")
    if data.startswith(b"\xef\xbb\xbf") or 0 in data[:4]:
        raise IntegrityError(f"{path}: it begins with a byte order mark, or is not UTF-8")
    try:
        document = loads(data)
    except ValueError as error:
        raise IntegrityError(f"{path}: not JSON: {error}") from error
    if _depth(document) > MOST_DEPTH:
        raise IntegrityError(f"{path}: nested deeper than {MOST_DEPTH} levels")
    return document


def _depth(value: Any) -> int:
    level, depth = [value], 0
    while level := [entry for entry in level if isinstance(entry, list | dict)]:
        depth += 1
        level = [item for entry in level for item in (entry.values() if isinstance(entry, dict) else entry)]
        if depth > MOST_DEPTH:
            break
    return depth


def read_dataset(path: Path) -> dict[str, Any]:
    """The dataset file of a folder that we wrote. Raises IntegrityError."""
    document = read_document(path)
    lists = ("images", "annotations", "missing")
    if not isinstance(document, dict) or document.get("format") != "labelme-folder/1":
        raise IntegrityError(f"{path}: no dataset file of ours", hint="move it away")
    sound = isinstance(document.get("header"), dict) and all(
        isinstance(document.get(name), list) for name in lists
    )
    if not sound or not all(isinstance(entry, dict) for name in lists[:2] for entry in document[name]):
        raise IntegrityError(f"{path}: damaged")
    return document


def walk(root: Path) -> Iterator[str]:
    """Names of the files under `root`, "/" between folders, in order; hidden ones, links that lead out and pipes are passed over."""
    for folder, names, files in os.walk(root):
        names[:] = sorted(name for name in names if not name.startswith("."))
        for name in sorted(files):
            path = Path(folder, name).relative_to(root).as_posix()
            found = None if name.startswith(".") else image_path(root, path)
            if found is not None and found.is_file():
                yield path
