"""A copy of a LabelMe folder without the pictures that its sidecars carry inside; the folder itself is not touched.

A picture that is only inside its sidecar becomes a file of its own under the sidecar's imagePath. Everything else is copied as it is.
"""

from __future__ import annotations

import base64
import binascii
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from curate.polygons.containers import format_of
from curate.polygons.labelme import image_name
from curate.polygons.labelme_files import is_labelme, pretty, read_document, walk
from headwater.errors import HeadwaterError, MissingInput, UsageError
from headwater.files import FOLDER_MODE, atomic_file, named_io

SUFFIXES = {"JPEG": (".jpg", ".jpeg"), "PNG": (".png",), "WEBP": (".webp",)}


@dataclass
class Stripped:
    """What the copy holds; `bad`: (sidecar, reason) of those that were copied as they are."""

    copied: int = 0
    stripped: int = 0
    unpacked: list[str] = field(default_factory=list)
    bad: list[tuple[str, str]] = field(default_factory=list)


def strip_image_data(folder: Path | str, target: Path | str) -> Stripped:
    """Copy `folder` to the new or empty `target`; raises MissingInput, UsageError (target holds something or lies inside)."""
    source, root = Path(folder), Path(target)
    if not source.is_dir():
        raise MissingInput(f"{source}: no such folder")
    if root.exists() and any(root.iterdir()):
        raise UsageError(f"{root}: is not empty", hint="name a new folder")
    if root.resolve().is_relative_to(source.resolve()):
        raise UsageError(f"{root}: lies inside {source}", hint="name a folder elsewhere")
    done = Stripped()
    for name in walk(source):
        path = root / name
        with named_io(path):
            path.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        if name.lower().endswith(".json") and _sidecar(source, root, name, done):
            continue
        with named_io(path):
            if not path.exists():
                shutil.copyfile(source / name, path)
                done.copied += 1
    return done


def _sidecar(source: Path, root: Path, name: str, done: Stripped) -> bool:
    """Whether the sidecar was written without its picture."""
    try:
        document = read_document(source / name)
    except HeadwaterError as error:
        done.bad.append((name, error.message))
        return False
    if not is_labelme(document) or document.get("imageData") is None:
        return False
    try:
        image = image_name(source, name, document)
        if not (source / image).is_file():
            _unpack(root, image, document["imageData"])
            done.unpacked.append(image)
    except ValueError as error:
        done.bad.append((name, str(error)))
        return False
    document["imageData"] = None
    with atomic_file(root / name, durable=False) as out:
        out.write(pretty(document))
    done.stripped += 1
    return True


def _unpack(root: Path, image: str, text: object) -> None:
    try:
        data = base64.b64decode(text if isinstance(text, str) else "", validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("its imageData is no base64") from error
    form = format_of(data)
    if form is None or Path(image).suffix.lower() not in SUFFIXES[form]:
        raise ValueError(
            f"its imageData is {form or 'no picture'}, its imagePath says {Path(image).suffix!r}"
        )
    path = root / image
    with named_io(path):
        path.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    with atomic_file(path, durable=False) as out:
        out.write(data)
