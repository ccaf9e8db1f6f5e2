"""Annotations as a folder of LabelMe sidecars that reads back as the same annotations, whatever they came from.

What LabelMe has no key for is noted under a key "headwater" of the first shape of an annotation, or of the sidecar, as the difference to
what reading would give without the note; a dataset from LabelMe needs none. A note about a shape's geometry counts only as long as nobody has
moved its points. Whatever belongs to no image that can have a sidecar stands in `headwater-dataset.json`.
"""

from __future__ import annotations

import shutil
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from curate._image_header import Header, read_header
from curate.polygons._digest import image_path
from curate.polygons._json_strict import loads
from curate.polygons._json_write import annotation_texts, image_texts
from curate.polygons.labelme import (
    FRESH_KEYS,
    OPTIONAL,
    STRUCTURE,
    Labels,
    frame_of,
    image_entry,
    image_name,
    numbered,
    path_from,
    sidecar_name,
)
from curate.polygons.labelme_drawn import shapes_of
from curate.polygons.labelme_files import DATASET_NAME, pretty
from curate.polygons.labelme_shapes import OURS, Entry, entries_of, notes_of
from curate.polygons.store import Annotations
from curate.polygons.turning import shown_size
from headwater.errors import UsageError
from headwater.files import FOLDER_MODE, atomic_file, named_io


@dataclass
class Written:
    """What is in the folder; `missing`: images whose picture was asked for and is not there."""

    sidecars: int = 0
    pictures: int = 0
    missing: list[str] = field(default_factory=list)


def write_labelme(
    annotations: Annotations, folder: Path | str, *, pictures: Path | str | None = None
) -> Written:
    """Write into a new or empty `folder`; copies of the images under `pictures` beside the sidecars where that is given.

    Raises UsageError when the folder holds something, IntegrityError for values that JSON cannot say.
    """
    root = Path(folder)
    with named_io(root):
        if root.exists() and any(root.iterdir()):
            raise UsageError(f"{root}: is not empty", hint="name a new folder")
        root.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    return _Writing(annotations, root, Path(pictures) if pictures is not None else None).all()


class _Writing:
    def __init__(self, annotations: Annotations, root: Path, pictures: Path | None) -> None:
        self.root, self.pictures = root, pictures
        self.images = [loads(text.encode()) for texts in image_texts(annotations) for text in texts]
        entries = [loads(text.encode()) for texts in annotation_texts(annotations) for text in texts]
        self.of_image: dict[int, list[Entry]] = defaultdict(list)
        for row, entry in zip(annotations.image_rows.tolist(), entries, strict=True):
            self.of_image[row].append(entry)
        self.header, self.missing = annotations.header, annotations.missing
        self.names: dict[Any, str] = {}
        for category in annotations.categories():
            if isinstance(category.get("name"), str) and type(category.get("id")) is int:
                self.names.setdefault(category["id"], category["name"])
        self.done = Written()
        self.count = 0

    def all(self) -> Written:
        places = self._places()
        left_images = [image for row, image in enumerate(self.images) if row not in places]
        left = [entry for row in sorted(self.of_image) if row not in places for entry in self.of_image[row]]
        plain = self._header(places)
        labels = Labels(self.header if plain is None else {})
        for number, row in enumerate(sorted(places, key=lambda row: self.images[row]["file_name"]), 1):
            left += self._image(row, number, places[row], labels)
        if plain is None or left_images or left or self.missing:
            document = {
                "format": "labelme-folder/1",
                "header": self.header,
                "missing": list(self.missing),
                "images": left_images,
                "annotations": left,
            }
            self._write(DATASET_NAME, document)
        return self.done

    def _header(self, places: dict[int, str]) -> Entry | None:
        """The header that reading gives by itself, where it is this one; else None."""
        labels = Labels({})
        for row in sorted(places, key=lambda row: self.images[row]["file_name"]):
            for entry in self.of_image.get(row, ()):
                if name := self.names.get(entry.get("category_id")):
                    labels.number(name)
        return labels.header if labels.header == self.header else None

    def _places(self) -> dict[int, str]:
        """Image row -> its sidecar; images that cannot have one are left out."""
        places: dict[int, str] = {}
        seen: set[str] = set()
        used = {DATASET_NAME}
        for row, image in enumerate(self.images):
            name = image.get("file_name")
            sound = isinstance(name, str) and str(PurePosixPath(name)) == name and image_path(self.root, name)
            if not sound or name in seen or name.lower().endswith(".json") or _hidden(name):
                continue
            record = image.get("labelme")
            own = record.get("sidecar") if isinstance(record, dict) else None
            choices = [own, sidecar_name(name), f"{name}.json"]
            for place in choices:
                if isinstance(place, str) and self._free(place, used):
                    seen.add(name)
                    used.add(place)
                    places[row] = place
                    break
        return places

    def _free(self, place: str, used: set[str]) -> bool:
        sound = (
            str(PurePosixPath(place)) == place
            and image_path(self.root, place) is not None
            and not _hidden(place)
        )
        return sound and place.endswith(".json") and place not in used

    def _image(self, row: int, number: int, sidecar: str, labels: Labels) -> list[Entry]:
        """Write one image; returns the annotations that found no place in its sidecar."""
        image = self.images[row]
        entries = self.of_image.get(row, [])
        header = self._picture(image["file_name"])
        document = _document(self.root, image, sidecar)
        if header and not entries and "labelme" not in image:
            bare = {
                "id": number,
                "file_name": image["file_name"],
                "width": header.width,
                "height": header.height,
            }
            bare |= {"exif_orientation": header.orientation} if header.orientation else {}
            if bare == image:
                return []
        plain = image_entry(document, image["file_name"], sidecar, header, number)
        if plain != image:
            new = {key: value for key, value in image.items() if key not in plain or plain[key] != value}
            document[OURS] = {"unset": sorted(plain.keys() - image.keys()), "set": new}
        left = self._shapes(document, image, entries, labels)
        self._write(sidecar, document)
        self.done.sidecars += 1
        return left

    def _shapes(self, document: Entry, image: Entry, entries: list[Entry], labels: Labels) -> list[Entry]:
        drawable = []
        for entry in entries:
            rest = {
                key: value for key, value in entry.items() if key not in ("id", "image_id", "category_id")
            }
            name = self.names.get(entry.get("category_id"))
            drawable.append({**({"category": name} if name else {}), **rest})
        if any(
            "category" in entry for entry in entries
        ):  # a key of that name, which would be taken for the label
            return entries
        shapes, places = shapes_of(drawable, frame_of(image))
        document["shapes"] = shapes
        read = entries_of(shapes, frame_of(image))
        owners = {tuple(sorted(where)): number for number, where in enumerate(places)}
        if sorted(owners) != sorted(tuple(sorted(where)) for _, where in read):
            document["shapes"] = []
            return entries
        for plain, where in read:
            self.count += 1
            entry, own = entries[owners[tuple(sorted(where))]], [shapes[at] for at in where]
            if notes := notes_of(numbered(plain, self.count, image, labels), entry, own):
                shapes[where[0]] = {**own[0], OURS: notes}
        return []

    def _picture(self, name: str) -> Header | None:
        """The header of an image's picture, after it was copied."""
        if self.pictures is None:
            return None
        source = image_path(self.pictures, name)
        if source is None or not source.is_file():
            self.done.missing.append(name)
            return None
        target = self.root / name
        with named_io(target):
            target.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
            shutil.copyfile(source, target)
        self.done.pictures += 1
        with open(target, "rb") as file:
            return read_header(file)

    def _write(self, name: str, document: Entry) -> None:
        path = self.root / name
        with named_io(path):
            path.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        with atomic_file(path, durable=False) as out:
            out.write(pretty(document))


def _hidden(name: str) -> bool:
    return any(part.startswith(".") for part in PurePosixPath(name).parts)


def _document(root: Path, image: Entry, sidecar: str) -> Entry:
    """The sidecar of an image, without shapes."""
    found = image.get("labelme")
    record: Entry = found if isinstance(found, dict) else {}
    keys, lacks, size = record.get("keys", FRESH_KEYS), record.get("lacks", []), record.get("size")
    document: Entry = (
        {key: value for key, value in keys.items() if key not in STRUCTURE} if isinstance(keys, dict) else {}
    )
    frame = frame_of(image)
    width, height = image.get("width"), image.get("height")
    if frame.turned:
        width, height = shown_size(frame.orientation, width or 0, height or 0)
    document |= {
        "shapes": [],
        "imagePath": _picture_path(root, sidecar, image, record.get("imagePath")),
        "imageData": None,
        "imageHeight": height,
        "imageWidth": width,
    }
    document |= (
        {key: value for key, value in size.items() if key in STRUCTURE} if isinstance(size, dict) else {}
    )
    return {
        key: value
        for key, value in document.items()
        if not (key in OPTIONAL and isinstance(lacks, list) and key in lacks)
    }


def _picture_path(root: Path, sidecar: str, image: Entry, declared: Any) -> str:
    """imagePath as the source wrote it, where that is still the image's place."""
    try:
        if image_name(root, sidecar, {"imagePath": declared}) == image["file_name"]:
            return str(declared)
    except ValueError:
        pass
    return path_from(sidecar, image["file_name"])
