"""A dataset in the frame of its pictures as they are shown, for readers that obey EXIF orientation, or for pictures that were turned.

Points, boxes, run lengths and keypoints are turned; width and height too, and the orientation is gone. Images that are upright keep
every number as it is.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from curate.polygons._json_strict import dump, loads
from curate.polygons._rle import counts_of, leb_of
from curate.polygons.labelme_shapes import counts_of_mask, mask_of_counts, pairs
from curate.polygons.store import Annotations, set_column, values
from curate.polygons.turning import shown_size, to_shown, turn_pixels
from headwater.errors import BadInputs

PLACED = ("warp_img_to_vid", "valid_region", "assets", "auxiliary")  # image keys with a geometry of their own
BOX = tuple(f"bbox_{side}" for side in "xywh")


def as_shown(annotations: Annotations) -> Annotations:
    """The same dataset about the shown pictures.

    Raises BadInputs naming turned images whose size is unknown, or that carry keys with a geometry that is not understood here, and
    turned annotations whose run lengths do not fit their image.
    """
    orientation, _ = values(annotations.images, "orientation")
    turned = np.flatnonzero((orientation > 1) & (orientation <= 8))
    images = annotations.images.to_pylist()
    bad = [images[row]["file_name"] or row for row in turned.tolist() if not _turnable(images[row])]
    if bad:
        raise BadInputs(
            f"turned images without a size, or with keys that cannot be turned: {', '.join(map(str, bad[:5]))}"
        )
    sizes = {
        row: (int(orientation[row]), images[row]["width"], images[row]["height"]) for row in turned.tolist()
    }
    for row, (turn, width, height) in sizes.items():
        images[row]["width"], images[row]["height"] = shown_size(turn, width, height)
    for image in images:
        image["orientation"] = None
    table = annotations.images
    for name in ("width", "height", "orientation"):
        table = set_column(table, name, [image[name] for image in images])
    owners = annotations.image_rows
    touched = np.flatnonzero(np.isin(owners, turned))
    if not len(touched):
        return annotations.replace(images=table)
    rows = _rows(annotations, touched.tolist(), owners, sizes)
    return _points(annotations, owners, sizes).replace(images=table, annotations=rows)


def _turnable(image: dict[str, Any]) -> bool:
    if not (image["width"] or 0) > 0 or not (image["height"] or 0) > 0:
        return False
    extra = loads(image["extra"].encode()) if image["extra"] else {}
    return not any(extra.get(key) for key in PLACED)


def _points(annotations: Annotations, owners: npt.NDArray[np.int64], sizes: dict[int, Any]) -> Annotations:
    vertices = np.column_stack((annotations.x, annotations.y))
    parts = np.repeat(annotations.part_rows, np.diff(annotations.vertex_starts))
    of_image = owners[parts]
    order = np.argsort(of_image, kind="stable")
    starts = np.searchsorted(of_image[order], list(sizes), side="left")
    stops = np.searchsorted(of_image[order], list(sizes), side="right")
    for (turn, width, height), start, stop in zip(sizes.values(), starts, stops, strict=True):
        own = order[start:stop]
        vertices[own] = to_shown(vertices[own], turn, width, height)
    table = annotations.vertices
    for axis, name in enumerate("xy"):
        table = set_column(table, name, vertices[:, axis].copy())
    return annotations.replace(vertices=table)


def _rows(annotations: Annotations, touched: list[int], owners: Any, sizes: dict[int, Any]) -> Any:
    """The annotations table with boxes, run lengths and keypoints turned."""
    table = annotations.annotations
    columns = {
        name: table[name].to_pylist() for name in (*BOX, "rle", "rle_height", "rle_width", "keypoints")
    }
    for row in touched:
        turn, width, height = sizes[int(owners[row])]
        box = [columns[name][row] for name in BOX]
        if box[0] is not None:
            corners = to_shown(np.array([box[:2], [box[0] + box[2], box[1] + box[3]]]), turn, width, height)
            low = corners.min(axis=0).tolist()
            sides = (box[3], box[2]) if turn > 4 else (box[2], box[3])
            for name, value in zip(BOX, (*low, *sides), strict=True):
                columns[name][row] = value
        if columns["rle"][row] is not None:
            size = (columns["rle_height"][row], columns["rle_width"][row])
            mask = (
                mask_of_counts(counts_of(columns["rle"][row]).tolist(), *size)
                if size == (height, width)
                else None
            )
            if mask is None:
                raise BadInputs(
                    f"annotation {table['id'][row].as_py()}: its run lengths do not fit its image"
                )
            found = turn_pixels(mask, turn)
            columns["rle"][row] = leb_of(counts_of_mask(found))
            columns["rle_height"][row], columns["rle_width"][row] = found.shape
        if columns["keypoints"][row] is not None:
            columns["keypoints"][row] = dump(
                _keypoints(loads(columns["keypoints"][row].encode()), turn, width, height)
            )
    for name, column in columns.items():
        table = set_column(table, name, column)
    return table


def _keypoints(found: list[Any], turn: int, width: int, height: int) -> list[Any]:
    """COCO's x, y, v, x, y, v … (a point that is not there, v = 0, stays) or kwcoco's objects with "xy"; others stay."""
    if len(found) % 3 == 0 and all(type(value) in (int, float) for value in found):
        out: list[Any] = []
        for x, y, seen in zip(found[0::3], found[1::3], found[2::3], strict=True):
            out += [*(_one([x, y], turn, width, height) if seen else (x, y)), seen]
        return out
    return [
        {**entry, "xy": _one(entry["xy"], turn, width, height)}
        if isinstance(entry, dict) and pairs([entry.get("xy")])
        else entry
        for entry in found
    ]


def _one(point: list[float], turn: int, width: int, height: int) -> list[float]:
    return to_shown(np.array([point], np.float64), turn, width, height)[0].tolist()  # type: ignore[no-any-return]
