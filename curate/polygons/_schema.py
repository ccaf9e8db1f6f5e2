"""The four tables of a polygon dataset, column by column.

A value of the source stands in its column when it fits there exactly; else the column is null and `extra` keeps the value under its
own key, as it was. So null means "not there", nothing is rounded, and what a column cannot hold (an id that is a string) is not lost.
"""

from __future__ import annotations

from enum import IntEnum

import pyarrow as pa

FORMAT = "annotations/1"


class Form(IntEnum):
    """How the source wrote an annotation's shape, so that it can be written back in the same way."""

    NONE = 0  # no shape, or one that no other form can hold (then `extra` has the key "segmentation")
    COCO_POLYGONS = 1  # a list of flat lists x, y, x, y …: every list an exterior
    KW_ONE = 2  # {"exterior": [[x, y] …], "interiors": […]}
    KW_MANY = 3  # a list of those
    RLE_COUNTS = 4  # {"size": [height, width], "counts": [background, foreground, …]}, columns first
    RLE_STRING = 5  # the same with COCO's compressed string
    SHAPE = 6  # points that are no ring (a circle, a line … of LabelMe): one part; `extra` has "shape_type"


IMAGES = pa.schema(
    [
        ("id", pa.int64()),
        ("file_name", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("datetime", pa.string()),
        ("orientation", pa.int8()),
        ("sha256", pa.string()),
        ("extra", pa.string()),
    ]
)
ANNOTATIONS = pa.schema(
    [
        ("id", pa.int64()),
        ("image_id", pa.int64()),
        ("category_id", pa.int64()),
        ("track_id", pa.int64()),
        ("bbox_x", pa.float64()),
        ("bbox_y", pa.float64()),
        ("bbox_w", pa.float64()),
        ("bbox_h", pa.float64()),
        ("area", pa.float64()),
        ("iscrowd", pa.int8()),
        ("score", pa.float64()),
        ("form", pa.int8()),
        ("rle_height", pa.int32()),
        ("rle_width", pa.int32()),
        ("rle", pa.binary()),
        ("keypoints", pa.string()),
        ("source", pa.string()),
        ("segmentation_extra", pa.string()),
        ("extra", pa.string()),
        ("first_part", pa.int64()),
    ]
)
PARTS = pa.schema([("first_vertex", pa.int64()), ("hole", pa.bool_()), ("exterior", pa.int32())])
VERTICES = pa.schema([("x", pa.float64()), ("y", pa.float64())])

# column of the images table -> key of an image in a file; keys of one name are not listed
IMAGE_KEYS = {"orientation": "exif_orientation"}


def empty(schema: pa.Schema) -> pa.Table:
    """A table of that schema without rows."""
    return schema.empty_table()


def table(schema: pa.Schema, **columns: object) -> pa.Table:
    """A table of `schema` from `columns` (arrays or lists of one length); columns not given are null.

    Raises pyarrow's errors where a value does not fit its column.
    """
    known = set(schema.names)
    if strange := set(columns) - known:
        raise KeyError(f"no such column: {', '.join(sorted(strange))}")
    arrays = {
        name: value
        if isinstance(value, pa.Array | pa.ChunkedArray)
        else pa.array(value, schema.field(name).type)
        for name, value in columns.items()
    }
    rows = len(next(iter(arrays.values()))) if arrays else 0
    filled = [arrays[field.name] if field.name in arrays else pa.nulls(rows, field.type) for field in schema]
    return pa.Table.from_arrays(filled, schema=schema)
