"""Which values kwcoco's schema (kwcoco 0.9, coco_schema.py) takes for the fields of images, annotations and entries of lists.

A rule is a function from a JSON value to whether it is taken. As in JSON Schema, 17.0 is an integer and true is no number.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

Rule = Callable[[Any], bool]

_REMOTE = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*:[^\s]+$")


def anything(_: Any) -> bool:
    return True


def number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def integer(value: Any) -> bool:
    return number(value) and (isinstance(value, int) or value.is_integer())


def text(value: Any) -> bool:
    return isinstance(value, str)


def name(value: Any) -> bool:
    return isinstance(value, str) and value.strip("/") != ""


def remote(value: Any) -> bool:
    return isinstance(value, str) and _REMOTE.search(value) is not None


def flag(value: Any) -> bool:
    return isinstance(value, bool) or integer(value)


def null(value: Any) -> bool:
    return value is None


def either(*rules: Rule) -> Rule:
    return lambda value: any(rule(value) for rule in rules)


def list_of(rule: Rule, length: int | None = None) -> Rule:
    return lambda value: isinstance(value, list) and length in (None, len(value)) and all(map(rule, value))


def object_of(rules: dict[str, Rule], *required: str) -> Rule:
    def rule(value: Any) -> bool:
        if not isinstance(value, dict) or any(key not in value for key in required):
            return False
        return all(rules[key](item) for key, item in value.items() if key in rules)

    return rule


SIZES: dict[str, Rule] = {"width": integer, "height": integer}
ASSET = object_of(
    {"file_name": text, "channels": text, "id": integer, "image_id": integer, **SIZES}, "file_name"
)
KEYPOINT = object_of(
    {"xy": list_of(number, 2), "visible": integer, "keypoint_category_id": integer, "keypoint_category": text}
)
POINTS = list_of(list_of(number, 2))
POLYGON = object_of({"exterior": POINTS, "interiors": list_of(POINTS)})
SEGMENTATION = either(list_of(POLYGON), list_of(list_of(number)), POLYGON, list_of(number), text)
RESOLUTION = either(number, text, null)

IMAGE: dict[str, Rule] = {
    "name": either(name, null),
    "coco_url": remote,
    "license": integer,
    "flickr_url": text,
    "date_captured": text,
    "video_id": integer,
    "timestamp": either(text, number),
    "frame_index": integer,
    "channels": either(text, null),
    "resolution": RESOLUTION,
    "auxiliary": list_of(ASSET),
    "assets": list_of(ASSET),
}
ANNOTATION: dict[str, Rule] = {
    "track_id": either(integer, text),
    "prob": list_of(number),
    "score": number,
    "weight": number,
    "iscrowd": flag,
    "ignore": flag,
    "caption": text,
    "role": either(text, null),
}
# fields whose value is judged by a code of its own; here for the check against kwcoco's schema
OWN_CODES: dict[str, Rule] = {
    "bbox": list_of(number, 4),
    "area": number,
    "category_id": either(integer, null),
    "segmentation": SEGMENTATION,
    "keypoints": either(list_of(number), list_of(KEYPOINT)),
}
SUPER = either(text, null)
ENTRIES: dict[str, tuple[dict[str, Rule], tuple[str, ...]]] = {
    "categories": (
        {"alias": list_of(name), "supercategory": SUPER, "parents": list_of(name)},
        ("id", "name"),
    ),
    "keypoint_categories": ({"supercategory": SUPER, "reflection_id": either(integer, null)}, ("id", "name")),
    "videos": ({"caption": text, "coco_url": remote, "resolution": RESOLUTION, **SIZES}, ("id", "name")),
    "tracks": ({}, ("id",)),
}
