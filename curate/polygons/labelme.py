"""Folders of LabelMe sidecars in: one JSON file an image, read into Annotations; no file of the folder is changed.

LabelMe draws on the picture as EXIF turns it; here points are turned back to the picture as stored, and the orientation is kept. Images
are numbered from 1 in the order of their file names, annotations in the order of the files, categories as they first appear. Pictures without
a sidecar are images without annotations. What `labelme_writing` noted for other datasets (ids, scores, categories …) is read again.
An embedded `imageData` is left out, only counted: `labelme_strip` makes a copy of a folder without it.
"""

from __future__ import annotations

import copy
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from curate._image_header import SUFFIXES, Header, read_header
from curate.polygons import _schema
from curate.polygons._builder import Rows
from curate.polygons._digest import image_path
from curate.polygons._json_strict import dump
from curate.polygons._rows import fits, image_row
from curate.polygons.labelme_files import DATASET_NAME, is_labelme, read_dataset, read_document, walk
from curate.polygons.labelme_shapes import OURS, Entry, Frame, changed, entries_of
from curate.polygons.store import Annotations
from curate.polygons.turning import shown_size
from headwater.errors import HeadwaterError, IntegrityError, MissingInput, UsageError

OPTIONAL = ("imageData", "imageHeight", "imageWidth")
STRUCTURE = ("shapes", "imagePath", *OPTIONAL)
FRESH_KEYS = {"version": "5.4.1", "flags": {}}  # of a sidecar that we write anew
PATHS = ("declared", "beside")


@dataclass
class Found:
    """A folder as read. `bad`: (file, reason) of what is left out; `others`: JSON files that are not LabelMe's; `embedded`: sidecars
    with a picture inside, and its length in base64 letters.
    """

    annotations: Annotations
    bad: list[tuple[str, str]] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    embedded: dict[str, int] = field(default_factory=dict)


def read_labelme(folder: Path | str) -> Annotations:
    """As `scan_labelme`; raises IntegrityError naming the files that are bad, where there are any."""
    found = scan_labelme(folder)
    if found.bad:
        more = f" and {len(found.bad) - 5:,} more" if len(found.bad) > 5 else ""
        listed = "; ".join(f"{name}: {reason}" for name, reason in found.bad[:5])
        raise IntegrityError(f"{folder}: {listed}{more}", hint="mend or move these files")
    return found.annotations


def scan_labelme(folder: Path | str, *, paths: str = "declared") -> Found:
    """Read all sidecars and pictures under `folder`; bad ones are listed, not raised.

    `paths` "declared" takes a sidecar's imagePath, which must stay in the folder; "beside" takes the picture of the sidecar's own name.
    Raises MissingInput (no such folder), UsageError (no LabelMe file in it), IntegrityError (a dataset file that is damaged).
    """
    root = Path(folder)
    if paths not in PATHS:
        raise UsageError(f"paths {paths!r}: one of {', '.join(PATHS)}")
    if not root.is_dir():
        raise MissingInput(f"{root}: no such folder")
    reading = _Reading(root, paths)
    reading.files()
    if not reading.sides and not reading.found_bad and reading.dataset is None:
        raise UsageError(
            f"{root}: no LabelMe file (JSON with `shapes`) in it", hint="name the folder of the .json files"
        )
    return reading.finish()


@dataclass
class _Side:
    """One image of the folder; `document` without its imageData, None for a picture without a sidecar."""

    file_name: str
    sidecar: str | None
    document: Entry | None


class _Reading:
    def __init__(self, root: Path, paths: str) -> None:
        self.root, self.paths = root, paths
        self.sides: dict[str, _Side] = {}
        self.found_bad: list[tuple[str, str]] = []
        self.others: list[str] = []
        self.embedded: dict[str, int] = {}
        self.dataset: Entry | None = None

    def files(self) -> None:
        pictures = []
        for name in walk(self.root):
            if name == DATASET_NAME:
                self.dataset = read_dataset(self.root / name)
            elif name.lower().endswith(".json"):
                self._sidecar(name)
            elif name.rpartition(".")[2].lower() in SUFFIXES:
                pictures.append(name)
        has_sidecars = bool(self.sides or self.found_bad or self.dataset)
        for name in pictures if has_sidecars else ():
            if name not in self.sides:
                self.sides[name] = _Side(name, None, None)

    def _sidecar(self, name: str) -> None:
        try:
            document = read_document(self.root / name)
        except HeadwaterError as error:
            self.found_bad.append((name, error.message.removeprefix(f"{self.root / name}: ")))
            return
        if not is_labelme(document):
            self.others.append(name)
            return
        if document.get("imageData") is not None:
            data = document["imageData"]
            self.embedded[name] = len(data) if isinstance(data, str) else 0
            document["imageData"] = None
        try:
            image = self._image_name(name, document)
        except ValueError as error:
            self.found_bad.append((name, str(error)))
            return
        if image in self.sides:
            self.found_bad.append((name, f"{self.sides[image].sidecar} is about the same image {image!r}"))
            return
        self.sides[image] = _Side(image, name, document)

    def _image_name(self, sidecar: str, document: Entry) -> str:
        if self.paths == "beside":
            stem = sidecar[: -len(".json")]
            near = [f"{stem}.{suffix}" for suffix in (*SUFFIXES, *map(str.upper, SUFFIXES))]
            beside = [name for name in (stem, *near) if (self.root / name).is_file()]
            if not beside:
                raise ValueError("no picture of that name beside it")
            return beside[0]
        return image_name(self.root, sidecar, document)

    def finish(self) -> Found:
        dataset = self.dataset or {}
        labels = Labels(dataset.get("header", {}))
        images: list[Entry] = []
        rows = Rows()
        count = 0
        for name in sorted(self.sides):
            side = self.sides[name]
            try:
                image = self._image(side, len(images) + 1)
            except ValueError as error:
                self.found_bad.append((side.sidecar or name, str(error)))
                continue
            images.append(image)
            for entry, own in annotation_entries(side.document, image) if side.document else ():
                count += 1
                plain = numbered(entry, count, image, labels)
                rows.add(changed(plain, own))
        for entry in dataset.get("images", []):
            images.append(entry)
        for entry in dataset.get("annotations", []):
            rows.add(entry)
        missing = tuple(dataset.get("missing", []))
        found = rows.finish(labels.header, image_table(images), missing)
        return Found(found, sorted(self.found_bad), self.others, self.embedded)

    def _image(self, side: _Side, number: int) -> Entry:
        path = self.root / side.file_name
        header = None
        if path.is_file():
            with open(path, "rb") as file:
                header = read_header(file)
            if header is None:
                raise ValueError(f"{side.file_name} is no picture that can be read")
        if side.document is None:
            assert header is not None
            return _size(
                {"id": number, "file_name": side.file_name}, header.width, header.height, header.orientation
            )
        plain = image_entry(side.document, side.file_name, side.sidecar or "", header, number)
        image = noted_image(plain, side.document)
        if image.get("file_name") != side.file_name:
            raise ValueError("its notes name another image")
        if header is not None and (image.get("exif_orientation") or 1) != (header.orientation or 1):
            raise ValueError(
                f"the picture's orientation is {header.orientation or 1}, the sidecar was written for {image.get('exif_orientation') or 1}"
            )
        if (header and header.orientation or 1) != 1 and not frame_of(image).turned and not _as_stored(image):
            raise ValueError("a turned picture whose size is not said")
        return image


# ---- what reading and writing share


def annotation_entries(document: Entry, image: Entry) -> Iterator[tuple[Entry, list[Entry]]]:
    """(annotation object, its shapes) of a sidecar whose image object is `image`."""
    shapes = document.get("shapes", [])
    for entry, places in entries_of(shapes, frame_of(image)):
        yield entry, [shapes[at] for at in places]


def numbered(entry: Entry, number: int, image: Entry, labels: Labels) -> Entry:
    """`entry` with its ids: a running number, the image's, and its label's, unless the shape's notes say what its category is."""
    found: Entry = {"id": number}
    if "id" in image:
        found["image_id"] = image["id"]
    rest = dict(entry)
    label = rest.pop("category", None)
    if label is not None and (category := labels.number(label)) is not None:
        found["category_id"] = category
    return found | rest


def image_table(entries: list[Entry]) -> pa.Table:
    """The images table of image objects."""
    names = _schema.IMAGES.names
    columns: list[list[Any]] = [[] for _ in names]
    for entry in entries:
        row, extra = image_row(entry)
        for column, value in zip(columns, (*row, dump(extra) if extra else None), strict=True):
            column.append(value)
    return _schema.table(_schema.IMAGES, **dict(zip(names, columns, strict=True)))


class Labels:
    """Numbers of labels: those of the header's categories, then new ones; `header` grows with them."""

    def __init__(self, header: Entry) -> None:
        self.header = copy.deepcopy(header)
        self._known: dict[str, Any] = {}
        self._next = 1
        categories = self.header.get("categories")
        for entry in categories if isinstance(categories, list) else ():
            if isinstance(entry, dict) and fits(entry.get("id"), 63):
                self._next = max(self._next, entry["id"] + 1)
                if isinstance(entry.get("name"), str):
                    self._known.setdefault(entry["name"], entry["id"])

    def number(self, label: str) -> int | None:
        """The category id of a label; None where the header's categories are no list."""
        if label not in self._known and isinstance(self.header.setdefault("categories", []), list):
            self._known[label] = self._next
            self.header["categories"].append({"id": self._next, "name": label})
            self._next += 1
        return self._known.get(label)


def frame_of(image: Entry) -> Frame:
    """How the points of an image's sidecar lie."""
    orientation = image.get("exif_orientation")
    turned = type(orientation) is int and 1 <= orientation <= 8 and not _as_stored(image)
    sizes = (image.get("width"), image.get("height"))
    width, height = (size if type(size) is int and 0 < size < 1 << 31 else None for size in sizes)
    return Frame(orientation if turned and orientation else 1, width, height)


def _as_stored(image: Entry) -> bool:
    record = image.get("labelme")
    return isinstance(record, dict) and record.get("space") == "stored"


def image_entry(document: Entry, file_name: str, sidecar: str, header: Header | None, number: int) -> Entry:
    """The image object that a sidecar and its picture's header (None: not there) give, without notes."""
    keys = {key: value for key, value in document.items() if key not in (*STRUCTURE, OURS)}
    record: Entry = {}
    if keys != FRESH_KEYS:
        record["keys"] = keys
    if lacks := [key for key in OPTIONAL if key not in document]:
        record["lacks"] = lacks
    if sidecar != sidecar_name(file_name):
        record["sidecar"] = sidecar
    if document.get("imagePath") != path_from(sidecar, file_name):
        record["imagePath"] = document.get("imagePath")
    orientation = header.orientation if header else None
    width, height = document.get("imageWidth"), document.get("imageHeight")
    if type(width) is int and type(height) is int and fits(width, 32) and fits(height, 32):
        stored = (header.width, header.height) if header else None
        if (orientation or 1) > 4 and width != height and (width, height) == stored:
            record["space"] = "stored"  # somebody drew without turning
        else:
            width, height = shown_size(orientation or 1, width, height)
    else:
        odd = {key: document[key] for key in ("imageWidth", "imageHeight") if key in document}
        if odd:
            record["size"] = odd
        width, height = (header.width, header.height) if header else (None, None)
    entry = _size({"id": number, "file_name": file_name}, width, height, orientation)
    return entry | ({"labelme": record} if record else {})


def noted_image(plain: Entry, document: Entry) -> Entry:
    """`plain` with what the writer noted in the sidecar."""
    notes = document.get(OURS)
    if not isinstance(notes, dict):
        return plain
    unset, values = notes.get("unset"), notes.get("set")
    gone = set(map(str, unset)) if isinstance(unset, list) else set()
    return {key: value for key, value in plain.items() if key not in gone} | (
        values if isinstance(values, dict) else {}
    )


def _size(entry: Entry, width: int | None, height: int | None, orientation: int | None) -> Entry:
    found = {"width": width, "height": height, "exif_orientation": orientation}
    return entry | {key: value for key, value in found.items() if value is not None}


def sidecar_name(file_name: str) -> str:
    """Where LabelMe looks for the sidecar of a picture."""
    return str(PurePosixPath(file_name).with_suffix(".json"))


def path_from(sidecar: str, file_name: str) -> str:
    """imagePath of a sidecar: the picture's place seen from it."""
    return posixpath.relpath(file_name, posixpath.dirname(sidecar) or ".")


def image_name(root: Path, sidecar: str, document: Entry) -> str:
    """The picture that a sidecar names, from the folder's root; ValueError for one outside of it."""
    declared = document.get("imagePath")
    if not isinstance(declared, str) or not declared:
        raise ValueError("its imagePath names no picture")
    steps = posixpath.normpath(posixpath.join(posixpath.dirname(sidecar), declared.replace("\\", "/")))
    if declared.startswith(("/", "\\")) or "://" in declared or image_path(root, steps) is None:
        raise ValueError(f"its imagePath {declared!r} leads out of the folder")
    return steps
