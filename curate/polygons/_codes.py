"""The codes of findings: what each means, how bad it is in each profile, and what a fix does about it.

Severities: E error (the file fails), W warning (likely a mistake, readers cope), n note (a fact), - not told in that profile.
Profiles: coco (what COCO readers need: pycocotools and what is built on it), kwcoco (what kwcoco's schema and its integrity checks
need), strict (everything). `docs/polygon-findings.md` is made from this table.
"""

from __future__ import annotations

from dataclasses import dataclass

PROFILES = ("coco", "kwcoco", "strict")
SEVERITIES = {"E": "error", "W": "warning", "n": "note"}
KEPT = ""  # a fix leaves it as it is


@dataclass(frozen=True)
class Code:
    """One kind of finding."""

    name: str
    # profile -> error, warning or note; a profile that does not tell it is not there
    severities: dict[str, str]
    meaning: str
    fix: str


_TABLE = """
list-missing          | E-E | the file has no list of images, of annotations or of categories |
list-type             | EEE | a list at the top of the file is none, or an entry of it is no object |
entry-field           | -EE | a field of a category, video, track or keypoint category has another type than kwcoco's schema |
id-missing            | EEE | an image, annotation, category or other entry has no id | annotation: a new id
id-type               | EEE | an id is a string, null, a boolean or a fraction | annotation: a new id
id-float              | WWE | an id is a whole number written as a float (17.0) | annotation: a new id
id-range              | EWE | an id is an integer beyond 64 bits | annotation: a new id
id-negative           | WWE | an id is below 0 | annotation: a new id
id-duplicate          | EEE | an id stands twice in one list | annotation: a new id for the later ones
name-missing          | EEE | a category has no name, or one that is no text |
name-duplicate        | WEE | two categories, videos or keypoint categories have one name |
file-name-missing     | EEE | an image has neither a file name nor (kwcoco) a name with assets |
file-name-type        | EEE | a file name is no text |
file-name-unsafe      | EEE | a file name is absolute, a URL, has "..", a backslash, a drive letter or NUL: it leads out of the folder |
file-name-duplicate   | WWE | two images have one file name |
image-size-missing    | EWE | an image has no width or height | the size of its file, if that was looked at
image-size-type       | EEE | a width or height is no integer that 32 bits hold |
image-size-range      | EEE | a width or height is not above 0 | the size of its file, if that was looked at
orientation-range     | WWE | an EXIF orientation is not from 1 to 8 |
license-dangling      | nnW | an image names a licence that is not in the list |
field-null            | -EE | an optional field is null where kwcoco's schema wants a value or no such field | the field is taken out
field-type            | -EE | an optional field has another type than kwcoco's schema |
image-id-missing      | EEE | an annotation names no image, or not by an integer | the annotation is dropped
image-dangling        | EEE | an annotation names an image that is not there | the annotation is dropped
category-id-missing   | E-E | an annotation has no category |
category-id-type      | EEE | a category id is neither an integer nor (kwcoco) null |
category-dangling     | EEE | an annotation names a category that is not there |
track-dangling        | -WW | an annotation names a track that is not in the list of tracks |
iscrowd-missing       | W-W | iscrowd is not there; COCO's evaluation asks for it | 0
iscrowd-range         | EWE | iscrowd is neither 0 nor 1 |
keypoints-form        | EEE | keypoints are neither x, y, v triples nor (kwcoco) a list of objects |
bbox-missing          | E-E | an annotation has no box | the box of its shape
bbox-type             | EEE | a box is not four numbers | the box of its shape
bbox-range            | EWE | a box is not finite, or its width or height is below 0 | the box of its shape
bbox-empty            | WWE | the width or height of a box is 0 | the box of its shape, if that is not empty
bbox-outside          | WWE | a box leaves the image by more than half a pixel | the box of its shape, if its shape is within
bbox-mismatch         | WWE | a side of the box is more than 1 pixel from that of the shape, also if that is cut at the image | the box of its shape
area-missing          | E-E | an annotation has no area | the area of its shape
area-type             | EEE | an area is no number | the area of its shape
area-range            | EWE | an area is not finite or below 0 | the area of its shape
area-mismatch         | WWE | an area that no rule of drawing explains: it is off by more than half the outline and 1 pixel | the area of its shape
segmentation-missing  | n-W | an annotation has no shape |
segmentation-null     | WEE | the shape is null | the field is taken out
segmentation-form     | EEE | the shape is nothing that COCO or kwcoco know (odd number of coordinates, text, mixed lists) |
segmentation-kwcoco   | E-- | the shape is written as kwcoco does, which COCO readers cannot read | written as COCO's lists, if it has no hole
segmentation-empty    | WnE | the list of polygons is empty, or a mask has no pixel |
rle-form              | EEE | run lengths cannot be read |
rle-length            | EEE | run lengths do not add up to height times width |
rle-size              | EWE | a mask has another size than its image |
coordinate-range      | EEE | a coordinate is not finite or beyond 2^31 | the ring is dropped
ring-short            | EWE | a ring has fewer than 3 different vertices in a row | the ring is dropped
zero-area             | WWE | a ring that does not cross itself encloses less than a millionth of a pixel | the ring is dropped
vertex-repeated       | -nW | a vertex repeats the one before it, or the last the first | the repeats are taken out
vertex-outside        | WWE | a vertex leaves the image by more than half a pixel | the shape is cut at the border of the image
shape-outside         | WWE | a shape has nothing within its image | the annotation is dropped
self-crossing         | WWE | a ring crosses itself |
self-touching         | -nW | a ring touches itself or runs back along itself, without changing sides |
hole-outside          | WWE | a hole is not within its exterior |
holes-overlap         | WWE | two holes of one exterior overlap |
parts-overlap         | WWE | two exteriors of one annotation overlap |
hole-direction        | -nW | a hole runs in the direction of its exterior (kwcoco asks for the other) | the hole is turned round
crossing-unknown      | WWE | a shape so tangled that the search for crossings was ended |
annotation-duplicate  | WWE | an annotation has image, category and shape of an earlier one | the later one is dropped
image-duplicate       | WWE | an image has the bytes of an earlier one (sha256 as declared or as read) |
file-missing          | EEE | the file of an image is not there |
file-outside          | EEE | the file of an image is reached by a link that leads out of the folder |
file-unreadable       | EEE | the file of an image is not a picture, damaged, or beyond the limits |
file-size             | EEE | the file of an image has another size than declared |
file-orientation      | WWE | the file's EXIF orientation is other than declared, or turns the image and none is declared |
file-turned           | WWE | the declared size is that of the image as its EXIF orientation turns it |
file-digest           | EEE | the file of an image has another sha256 than declared |
"""


def _read(table: str) -> dict[str, Code]:
    codes = {}
    for line in table.strip().splitlines():
        name, marks, meaning, fix = (part.strip() for part in line.split("|", 3))
        severities = {
            profile: SEVERITIES[mark]
            for profile, mark in zip(PROFILES, marks, strict=True)
            if mark in SEVERITIES
        }
        codes[name] = Code(name, severities, meaning, fix or KEPT)
    return codes


CODES = _read(_TABLE)
ORDER = {name: place for place, name in enumerate(CODES)}


def as_markdown() -> str:
    """The table of `docs/polygon-findings.md`."""
    lines = [
        "| code | " + " | ".join(PROFILES) + " | meaning | what --fix does |",
        "| --- | " + "--- | " * len(PROFILES) + "--- | --- |",
    ]
    for code in CODES.values():
        marks = " | ".join(code.severities.get(profile, "–") for profile in PROFILES)
        lines.append(f"| `{code.name}` | {marks} | {code.meaning} | {code.fix or 'nothing: told only'} |")
    return "\n".join(lines) + "\n"
