"""JSON documents of every shape that COCO and kwcoco files have, and of shapes that they should not have."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from hypothesis import strategies as st

from curate.polygons._rle import string_of

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
COORDINATES = (
    st.integers(-3, 5000)
    | st.floats(-10, 5000, allow_nan=False).map(lambda value: round(value, 2))
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.integers(2**53 - 2, 2**53 + 2)
)
FLAT = st.lists(st.tuples(COORDINATES, COORDINATES), max_size=5).map(
    lambda pairs: [item for pair in pairs for item in pair]
)
POINTS = st.lists(st.tuples(COORDINATES, COORDINATES).map(list), max_size=5)
POLYGON = st.fixed_dictionaries(
    {"exterior": POINTS},
    optional={"interiors": st.lists(POINTS, max_size=3), "holds": VALUES},
) | st.fixed_dictionaries({"interiors": st.lists(POINTS, max_size=2), "exterior": POINTS})
COUNTS = st.lists(st.integers(0, 40) | st.integers(0, 2**31), max_size=9)
SIZE = st.lists(st.integers(0, 5000), min_size=2, max_size=2)
RLE = st.fixed_dictionaries(
    {
        "size": SIZE,
        "counts": COUNTS
        | COUNTS.map(lambda counts: string_of(np.array(counts, np.int64)))
        | st.text(max_size=4),
    },
    optional={"order": VALUES},
) | st.fixed_dictionaries({"counts": COUNTS, "size": SIZE | VALUES})
SEGMENTATION = (
    st.lists(FLAT, max_size=3)
    | POLYGON
    | st.lists(POLYGON, max_size=3)
    | RLE
    | VALUES
    | st.lists(POLYGON | FLAT | RLE | VALUES, max_size=3)
)
OTHER = st.dictionaries(
    st.sampled_from(["caption", "weight", "ids", "é", 'a"b', "\\", "ignore"]) | st.text(max_size=3),
    VALUES,
    max_size=3,
)


def _row(known: dict[str, Any]) -> Any:
    return st.tuples(st.fixed_dictionaries({}, optional=known), OTHER).map(
        lambda pair: {**pair[1], **pair[0]}
    )


WHOLE = st.integers(0, 9) | st.integers(2**63 - 1, 2**63) | VALUES
ANNOTATION = _row(
    {
        "id": WHOLE,
        "image_id": WHOLE,
        "category_id": WHOLE,
        "track_id": WHOLE,
        "bbox": st.lists(COORDINATES, min_size=3, max_size=5) | VALUES,
        "area": COORDINATES | VALUES,
        "score": COORDINATES | VALUES,
        "iscrowd": st.integers(0, 1) | st.integers(-129, 128) | VALUES,
        "segmentation": SEGMENTATION,
        "keypoints": st.lists(COORDINATES, max_size=6) | VALUES,
        "source": st.text(max_size=5) | VALUES,
        "points": POINTS | VALUES,
        "shape_type": st.just("circle"),
    }
)
IMAGE = _row(
    {
        "id": WHOLE,
        "file_name": st.text(max_size=8) | VALUES,
        "width": st.integers(0, 5000) | st.just(640.0) | st.integers(2**31 - 1, 2**31) | VALUES,
        "height": st.integers(0, 5000) | VALUES,
        "datetime": st.text(max_size=5) | VALUES,
        "exif_orientation": st.integers(1, 8) | VALUES,
        "sha256": st.text(max_size=5) | VALUES,
        "coco_url": st.none() | st.text(max_size=5),
    }
)
DOCUMENT = st.fixed_dictionaries(
    {},
    optional={
        "info": VALUES,
        "licenses": VALUES,
        "categories": st.lists(_row({"id": WHOLE, "name": st.text(max_size=5)}), max_size=3),
        "images": st.lists(IMAGE, max_size=5)
        | VALUES.filter(lambda value: not isinstance(value, list) or not value),
        "annotations": st.lists(ANNOTATION, max_size=6)
        | VALUES.filter(lambda value: not isinstance(value, list) or not value),
        "more": VALUES,
    },
)
LAYOUT = st.fixed_dictionaries(
    {
        "ensure_ascii": st.booleans(),
        "indent": st.sampled_from([None, 0, 1]),
        "separators": st.sampled_from([(",", ":"), (", ", " : ")]),
    }
)


def same(one: Any, other: Any) -> bool:
    """Equal JSON values: numbers by value, truth values are no numbers, key order does not count."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def text_of(document: Any, layout: dict[str, Any]) -> bytes:
    """The document as a file may write it; lone halves of surrogate pairs stay escaped."""
    text = json.dumps(document, **layout)
    try:
        return text.encode()
    except UnicodeEncodeError:
        return json.dumps(document, **{**layout, "ensure_ascii": True}).encode()
