"""What of an image or annotation object goes into which column: the one statement of the rule that a column takes what it holds exactly.

`_coco_kernel` follows the same rule for plain annotations; here is all the rest.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from curate.polygons._rle import MOST, counts_of_string, leb_of, string_of
from curate.polygons._schema import Form

BIG = 1 << 53  # integers beyond are not all doubles
INTS = ("id", "image_id", "category_id", "track_id")
NUMBERS = ("area", "score")

Ring = npt.NDArray[np.float64]  # flat: x, y, x, y …


@dataclass
class Shape:
    """The shape of an annotation as columns: rings with their exterior's number, or run lengths."""

    form: Form
    rings: list[Ring] = field(default_factory=list)
    exteriors: list[int] = field(default_factory=list)  # the ring's own number for an exterior
    extra: list[dict[str, Any]] | None = None  # for each exterior: other keys of its object
    size: tuple[int, int] | None = None  # height, width
    rle: bytes | None = None


def exact(value: Any) -> bool:
    """Whether a JSON value is a number that a double holds exactly."""
    if type(value) is float:
        return True
    return type(value) is int and -BIG <= value <= BIG


def fits(value: Any, bits: int) -> bool:
    """Whether a JSON value is an integer of so many bits, with sign."""
    return type(value) is int and -(1 << bits - 1) <= value < 1 << bits - 1


def text_fits(value: Any) -> bool:
    """Whether a JSON value is a string that UTF-8 can hold."""
    if type(value) is not str:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def shape_of(value: Any) -> Shape | None:
    """The shape that a JSON value of "segmentation" describes; None where no form holds it exactly."""
    if isinstance(value, dict):
        if next(iter(value), None) in ("size", "counts"):
            return _run_lengths(value)
        return _polygons(Form.KW_ONE, [value])
    if not isinstance(value, list):
        return None
    if value and all(isinstance(entry, dict) for entry in value):
        return _polygons(Form.KW_MANY, value)
    rings = [_numbers(ring) for ring in value]
    if any(ring is None or len(ring) % 2 for ring in rings):
        return None
    return Shape(Form.COCO_POLYGONS, [ring for ring in rings if ring is not None], list(range(len(rings))))


def points_of(value: Any) -> Shape | None:
    """The shape of LabelMe points [[x, y] …] that are no ring."""
    ring = _pairs(value)
    return None if ring is None else Shape(Form.SHAPE, [ring], [0])


def _numbers(value: Any) -> Ring | None:
    """A list of numbers that doubles hold exactly, as an array."""
    if not isinstance(value, list):
        return None
    kinds = set(map(type, value))
    if not kinds <= {int, float}:  # also without truth values
        return None
    try:
        found = np.array(value, np.float64)
    except OverflowError:
        return None
    if int in kinds and (np.abs(found) >= BIG).any() and not all(map(exact, value)):
        return None
    return found


def _pairs(value: Any) -> Ring | None:
    """A list of pairs of such numbers, as a flat array."""
    if not isinstance(value, list) or not set(map(type, value)) <= {list} or not set(map(len, value)) <= {2}:
        return None
    return _numbers(list(itertools.chain.from_iterable(value)))


def _polygons(form: Form, entries: list[dict[str, Any]]) -> Shape | None:
    shape = Shape(form)
    residue: list[dict[str, Any]] = []
    for entry in entries:
        other = {key: value for key, value in entry.items() if key not in ("exterior", "interiors")}
        left: dict[str, Any] = {"keys": other} if other else {}
        interiors = entry.get("interiors")
        if "interiors" not in entry:
            left["no_interiors"] = True
            interiors = []
        exterior = _pairs(entry.get("exterior"))
        if exterior is None or not isinstance(interiors, list):
            return None
        own = len(shape.rings)
        shape.rings.append(exterior)
        shape.exteriors.append(own)
        for interior in interiors:
            hole = _pairs(interior)
            if hole is None:
                return None
            shape.rings.append(hole)
            shape.exteriors.append(own)
        residue.append(left)
    if any(residue):
        shape.extra = residue
    return shape


def _run_lengths(value: dict[str, Any]) -> Shape | None:
    size, counts = value.get("size"), value.get("counts")
    if not (isinstance(size, list) and len(size) == 2 and fits(size[0], 32) and fits(size[1], 32)):
        return None
    other = {key: item for key, item in value.items() if key not in ("size", "counts")}
    shape = Shape(Form.RLE_COUNTS, size=(size[0], size[1]), extra=[{"keys": other}] if other else None)
    if isinstance(counts, list):
        if not all(type(count) is int and 0 <= count <= MOST for count in counts):
            return None
        shape.rle = leb_of(np.array(counts, np.int64))
        return shape
    if not isinstance(counts, str):
        return None
    try:
        numbers = counts_of_string(counts)
    except ValueError:
        return None
    if string_of(numbers) != counts:  # written in another way than COCO does: kept as text
        return None
    shape.form, shape.rle = Form.RLE_STRING, leb_of(numbers)
    return shape


def image_row(entry: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """([id, file_name, width, height, datetime, orientation, sha256], the other keys) of an image object."""
    row: list[Any] = [None] * 7
    extra: dict[str, Any] = {}
    for key, value in entry.items():
        place, whole = _IMAGE_PLACES.get(key, (-1, 0))
        if place in (2, 3) and type(value) is float and value.is_integer():
            value = int(value)
        if place >= 0 and (fits(value, whole) if whole else text_fits(value)):
            row[place] = value
        else:
            extra[key] = entry[key]
    return row, extra


_IMAGE_PLACES = {
    "id": (0, 64),
    "file_name": (1, 0),
    "width": (2, 32),
    "height": (3, 32),
    "datetime": (4, 0),
    "exif_orientation": (5, 8),
    "sha256": (6, 0),
}
