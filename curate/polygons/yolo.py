"""YOLO-seg out: one text file an image, one line an annotation, `data.yaml` beside.

    images/SPLIT/NAME.jpg    labels/SPLIT/NAME.txt:  class x y x y …   (shares of the width and height, to 8 decimals)

Readers of this format turn pictures as EXIF says, so labels are about the shown picture. The format has one ring an annotation: parts and
holes are joined by lines without width. Points outside of the picture are moved to its edge, since readers throw such a file away; counted as
`clipped`. Crowds, run lengths, and shapes that are no area have no place in it and are listed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from curate.polygons.exports import Exported, joined, new_folder, pictures_of, rings_of, rows_of_images
from curate.polygons.shown import as_shown
from curate.polygons.store import Annotations, Floats
from headwater.errors import UsageError
from headwater.files import FOLDER_MODE, atomic_file, named_io

SPLITS = ("train", "val", "test")


@dataclass
class ExportedYolo(Exported):
    """As Exported; `clipped` counts annotations with points that were moved to the picture's edge."""

    clipped: int = 0


def write_yolo(
    splits: Mapping[str, Annotations], folder: Path | str, *, pictures: Path | str
) -> ExportedYolo:
    """Write {"train": …, "val": …} into a new or empty `folder`, with copies of the images under `pictures`.

    Classes are numbered from 0 in the order in which the splits' categories first stand. Raises UsageError for other names of splits or
    a folder that holds something, and what `as_shown` raises.
    """
    if strange := sorted(set(splits) - set(SPLITS)):
        raise UsageError(f"unknown split {strange[0]!r} for YOLO", hint=f"known: {', '.join(SPLITS)}")
    root, done = new_folder(folder), ExportedYolo()
    classes: dict[str, int] = {}
    for part in splits.values():
        for category in part.categories():
            if isinstance(category.get("name"), str):
                classes.setdefault(category["name"], len(classes))
    for split, part in splits.items():
        _split(as_shown(part), split, root, Path(pictures), classes, done)
    lines = ["path: .", *(f"{split}: images/{split}" for split in SPLITS if split in splits), "names:"]
    lines += [f"  {number}: {_quoted(name)}" for name, number in classes.items()]
    _text(root / "data.yaml", "\n".join(lines) + "\n")
    done.files.append("data.yaml")
    return done


def _split(
    annotations: Annotations,
    split: str,
    root: Path,
    pictures: Path,
    classes: dict[str, int],
    done: ExportedYolo,
) -> None:
    names = {entry.get("id"): classes.get(entry.get("name", "")) for entry in annotations.categories()}
    numbers = [names.get(number) for number in annotations.annotations["category_id"].to_pylist()]
    crowds = annotations.annotations["iscrowd"].to_pylist()
    ids = annotations.annotations["id"].to_pylist()
    rows = rows_of_images(annotations, done)
    widths, heights = (annotations.images[name].to_pylist() for name in ("width", "height"))
    taken: set[str] = set()
    for image, name, path in pictures_of(annotations, pictures, done):
        stem = str(PurePosixPath(name).with_suffix(""))
        size = np.array([widths[image] or 0, heights[image] or 0], np.float64)
        if not (size > 0).all():
            done.left["images without a size"].append(name)
            continue
        if stem in taken:  # the label file would be the same
            done.left["images with another of the same name but for the suffix"].append(name)
            continue
        taken.add(stem)
        lines = []
        for row in rows[image]:
            if crowds[row]:
                done.left["annotations that are crowds"].append(ids[row])
            elif numbers[row] is None:
                done.left["annotations without a category"].append(ids[row])
            elif (rings := rings_of(annotations, row)) is None:
                done.left["annotations that are no polygon"].append(ids[row])
            else:
                lines.append(_line(numbers[row], joined(rings), size, done))
        target = root / "images" / split / name
        with named_io(target):
            target.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        _text(root / "labels" / split / f"{stem}.txt", "".join(line + "\n" for line in lines))
        done.images += 1
        done.annotations += len(lines)
        done.files += [f"images/{split}/{name}", f"labels/{split}/{stem}.txt"]


def _line(number: Any, ring: Floats, size: Floats, done: ExportedYolo) -> str:
    shares = ring / size
    inside = np.clip(shares, 0, 1)
    done.clipped += bool((inside != shares).any())
    return f"{number} " + " ".join(
        f"{value:.8f}".rstrip("0").rstrip(".") for value in inside.ravel().tolist()
    )


def _quoted(name: str) -> str:
    """A YAML string: JSON's are YAML's too."""
    return json.dumps(name, ensure_ascii=True)


def _text(path: Path, text: str) -> None:
    with named_io(path):
        path.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    with atomic_file(path, durable=False) as out:
        out.write(text.encode())
