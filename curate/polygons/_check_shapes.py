"""Checks of shapes: rings, masks, boxes, areas, and annotations that stand twice."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from curate.polygons import _crossing_kernel as crossing
from curate.polygons import _geometry_kernel as kernel
from curate.polygons._check_header import _short
from curate.polygons._check_rows import Extras
from curate.polygons._field_rules import list_of, number, text
from curate.polygons._findings import Collector
from curate.polygons._geometry import Measures
from curate.polygons._schema import Form
from curate.polygons.store import Annotations, numbers, values

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

OUTSIDE = 0.5  # pixels that a box or vertex may leave its image by
BOX_OFF = 1.0  # pixels that a side of a box may be off: boxes are often rounded
NO_AREA = 1e-6  # square pixels
TANGLED = (
    crossing.SELF_CROSS
    | crossing.HOLE_OUTSIDE
    | crossing.HOLES_OVERLAP
    | crossing.PARTS_OVERLAP
    | crossing.UNFINISHED
)


def sizes_of(annotations: Annotations) -> tuple[Floats, Floats]:
    """(width, height) of each annotation's image; NaN where it is not known."""
    rows = annotations.image_rows
    found = []
    for key in ("width", "height"):
        size, known = values(annotations.images, key)
        whole = np.append(np.where(known & (size > 0), size, np.nan), np.nan)
        found.append(whole[rows])
    return found[0], found[1]


def check_shapes(annotations: Annotations, measures: Measures, extras: Extras, out: Collector) -> None:
    """All findings that need geometry."""
    form = numbers(annotations.annotations, "form")
    rings = (form == Form.COCO_POLYGONS) | (form == Form.KW_ONE) | (form == Form.KW_MANY)
    masks = (form == Form.RLE_COUNTS) | (form == Form.RLE_STRING)
    width, height = sizes_of(annotations)
    _forms(annotations, form, rings, masks, measures, extras, out)
    _parts(annotations, rings, measures, width, height, out)
    _masks(annotations, masks, measures, width, height, out)
    _crossings(annotations, measures, out)
    boxes = _boxes(annotations, extras, width, height, out)
    sound = (rings | masks) & ~np.isnan(measures.boxes[:, 0])
    if masks.any():
        sound &= ~masks | (
            measures.rle_whole & (measures.rle_totals == _mask_sizes(annotations).prod(axis=1))
        )
    _against_shape(annotations, boxes, sound, masks, measures, extras, (width, height), out)
    _twice(annotations, form, boxes, out)


def _forms(
    annotations: Annotations,
    form: Any,
    rings: Bools,
    masks: Bools,
    measures: Measures,
    extras: Extras,
    out: Collector,
) -> None:
    given = extras.having("segmentation")
    out.add("segmentation-missing", "annotations", (form == Form.NONE) & ~given, "there is no shape")
    for row in np.flatnonzero(given).tolist():
        value = extras.at(row)["segmentation"]
        if value is None:
            out.add("segmentation-null", "annotations", [row], "the shape is null")
        elif isinstance(value, dict) and "counts" in value:
            out.add("rle-form", "annotations", [row], "the run lengths cannot be read")
        elif out.profile == "kwcoco" and (text(value) or list_of(number)(value)):
            continue  # its schema takes them; no reader of ours does
        else:
            out.add("segmentation-form", "annotations", [row], f"the shape is {_short(value)}")
    kwcoco = (form == Form.KW_ONE) | (form == Form.KW_MANY)
    out.add("segmentation-kwcoco", "annotations", kwcoco, "the shape is written as kwcoco does")
    empty = rings & (np.diff(annotations.part_starts) == 0)
    out.add("segmentation-empty", "annotations", empty, "the list of polygons is empty")
    out.add(
        "segmentation-empty",
        "annotations",
        masks & (measures.areas == 0) & measures.rle_whole,
        "the mask has no pixel",
    )


def _parts(
    annotations: Annotations, rings: Bools, measures: Measures, width: Floats, height: Floats, out: Collector
) -> None:
    if not len(annotations.parts):
        return
    owner = annotations.part_rows
    ours = rings[owner]
    lengths = np.diff(annotations.vertex_starts)
    wild = ours & ((measures.part_flags & (kernel.NOT_FINITE | kernel.HUGE)) != 0)
    short = ours & ~wild & (lengths - measures.part_repeats < 3)
    # the two halves of a ring that crosses itself may cancel out: that one does enclose something
    tangled = (measures.faults[owner] & (crossing.SELF_CROSS | crossing.UNFINISHED)) != 0
    flat = ours & ~wild & ~short & ~tangled & (np.abs(measures.part_areas) <= NO_AREA)
    _told(annotations, "coordinate-range", wild, "a coordinate is not finite or beyond 2^31", out)
    _told(annotations, "ring-short", short, "fewer than 3 different vertices in a row", out)
    _told(annotations, "zero-area", flat, "encloses nothing", out)
    _told(
        annotations,
        "vertex-repeated",
        ours & ~wild & ~short & (measures.part_repeats > 0),
        "repeats vertices",
        out,
    )
    outer = annotations.part_starts[owner] + annotations.exteriors
    same = measures.part_areas * measures.part_areas[outer] > 0
    bad = wild | short | flat
    _told(
        annotations,
        "hole-direction",
        ours & annotations.holes & same & ~bad & ~bad[outer],
        "runs as its exterior",
        out,
    )
    box = measures.part_boxes
    wide, high = width[owner], height[owner]
    beyond = (
        (box[:, 0] < -OUTSIDE) | (box[:, 1] < -OUTSIDE) | (box[:, 2] > wide + OUTSIDE) | (box[:, 3] > high + OUTSIDE)
    )  # fmt: skip
    _told(annotations, "vertex-outside", ours & beyond, "leaves the image", out, box)
    whole = measures.boxes
    gone = (whole[:, 2] <= 0) | (whole[:, 3] <= 0) | (whole[:, 0] >= width) | (whole[:, 1] >= height)
    out.add("shape-outside", "annotations", rings & gone, "nothing of it is within the image")


def _told(
    annotations: Annotations, code: str, parts: Bools, what: str, out: Collector, boxes: Floats | None = None
) -> None:
    """One finding an annotation, that names its first such part and how many there are."""
    found = np.flatnonzero(parts)
    if not len(found) or not out.tells(code):
        return
    rows, first, count = np.unique(annotations.part_rows[found], return_index=True, return_counts=True)
    messages = []
    for at, many in zip(first.tolist(), count.tolist(), strict=True):
        part = found[at]
        kind = "hole" if annotations.holes[part] else "ring"
        more = f"; {many - 1} more parts do" if many > 1 else ""
        where = (
            "" if boxes is None else " to x {:g} to {:g}, y {:g} to {:g}".format(*boxes[part, [0, 2, 1, 3]])
        )
        messages.append(f"part {annotations.part_numbers[part]} ({kind}): {what}{where}{more}")
    out.add(code, "annotations", rows, messages)


def _mask_sizes(annotations: Annotations) -> Ints:
    table = annotations.annotations
    return np.column_stack([values(table, key)[0].astype(np.int64) for key in ("rle_height", "rle_width")])


def _masks(
    annotations: Annotations, masks: Bools, measures: Measures, width: Floats, height: Floats, out: Collector
) -> None:
    if not masks.any():
        return
    sizes = _mask_sizes(annotations)
    whole = measures.rle_whole
    out.add("rle-form", "annotations", masks & ~whole, "the run lengths cannot be read")
    wrong = masks & whole & ((measures.rle_totals != sizes.prod(axis=1)) | (sizes < 0).any(axis=1))
    out.add(
        "rle-length",
        "annotations",
        wrong,
        lambda row: (
            f"the run lengths cover {measures.rle_totals[row]} of {sizes[row, 0]} x {sizes[row, 1]} pixels"
        ),
    )
    other = masks & ((sizes[:, 0] != height) | (sizes[:, 1] != width)) & ~np.isnan(width) & ~np.isnan(height)
    out.add(
        "rle-size",
        "annotations",
        other,
        lambda row: (
            f"the mask is {sizes[row, 1]} x {sizes[row, 0]}, its image {width[row]:g} x {height[row]:g}"
        ),
    )


def _crossings(annotations: Annotations, measures: Measures, out: Collector) -> None:
    faults = measures.faults

    def near(row: int) -> str:
        first, second = measures.contacts[row].tolist()
        part = int(np.searchsorted(annotations.vertex_starts, first, side="right")) - 1
        start = int(annotations.vertex_starts[part])
        at = f"({annotations.x[first]:g}, {annotations.y[first]:g})"
        return f"part {annotations.part_numbers[part]}: the edges from vertices {first - start} and {second - start}, near {at}"

    crosses = (faults & crossing.SELF_CROSS) != 0
    out.add("self-crossing", "annotations", crosses, near)
    flat = np.zeros(len(faults), bool)
    flat[annotations.part_rows[np.abs(measures.part_areas) <= NO_AREA]] = (
        True  # runs back along itself: zero-area says so
    )
    out.add("self-touching", "annotations", ((faults & crossing.SELF_TOUCH) != 0) & ~crosses & ~flat, near)
    for code, bit, message in (
        ("hole-outside", crossing.HOLE_OUTSIDE, "a hole is not within its exterior"),
        ("holes-overlap", crossing.HOLES_OVERLAP, "two holes overlap"),
        ("parts-overlap", crossing.PARTS_OVERLAP, "two exteriors overlap"),
        ("crossing-unknown", crossing.UNFINISHED, "the search for crossings was ended"),
    ):
        out.add(code, "annotations", (faults & bit) != 0, message)


def _boxes(annotations: Annotations, extras: Extras, width: Floats, height: Floats, out: Collector) -> Floats:
    """(rows, 4) x, y, w, h; NaN where there is no box that can be used."""
    table = annotations.annotations
    columns = [values(table, f"bbox_{side}") for side in "xywh"]
    box = np.column_stack([column for column, _ in columns]).astype(np.float64)
    has = columns[0][1] & columns[1][1] & columns[2][1] & columns[3][1]
    odd = extras.having("bbox")
    for row in np.flatnonzero(odd).tolist():
        value = extras.at(row)["bbox"]
        if value is None:
            odd[row] = False
        else:
            out.add("bbox-type", "annotations", [row], f"the box is {_short(value)}")
    out.add("bbox-missing", "annotations", ~has & ~odd, "there is no box")

    def told(row: int) -> str:
        return "the box is " + ", ".join(f"{side:g}" for side in box[row])

    wild = has & ~(np.isfinite(box).all(axis=1) & (box[:, 2] >= 0) & (box[:, 3] >= 0))
    out.add("bbox-range", "annotations", wild, told)
    box[wild | ~has] = np.nan
    out.add("bbox-empty", "annotations", (box[:, 2] == 0) | (box[:, 3] == 0), told)
    beyond = (
        (box[:, 0] < -OUTSIDE) | (box[:, 1] < -OUTSIDE)
        | (box[:, 0] + box[:, 2] > width + OUTSIDE) | (box[:, 1] + box[:, 3] > height + OUTSIDE)
    )  # fmt: skip
    out.add(
        "bbox-outside",
        "annotations",
        beyond,
        lambda row: f"{told(row)}; the image is {width[row]:g} x {height[row]:g}",
    )
    return box


def _against_shape(
    annotations: Annotations,
    boxes: Floats,
    sound: Bools,
    masks: Bools,
    measures: Measures,
    extras: Extras,
    size: tuple[Floats, Floats],
    out: Collector,
) -> None:
    corners = boxes.copy()
    corners[:, 2:] += corners[:, :2]
    off = np.abs(corners - measures.boxes).max(axis=1, initial=0)
    # a box may be that of the shape cut at the image
    most = np.column_stack((*size, *size))
    off = np.fmin(off, np.abs(corners - np.clip(measures.boxes, 0, most)).max(axis=1, initial=0))
    out.add(
        "bbox-mismatch",
        "annotations",
        sound & (off > BOX_OFF),
        lambda row: f"a side of the box is {off[row]:.6g} pixels from that of the shape",
    )
    area, has = values(annotations.annotations, "area")
    odd = extras.having("area")
    for row in np.flatnonzero(odd).tolist():
        value = extras.at(row)["area"]
        if value is None:
            odd[row] = False
        else:
            out.add("area-type", "annotations", [row], f"the area is {_short(value)}")
    out.add("area-missing", "annotations", ~has & ~odd, "there is no area")
    fine = np.isfinite(area) & (area >= 0)
    out.add("area-range", "annotations", has & ~fine, lambda row: f"the area is {area[row]:g}")
    allowed = np.where(masks, 0.5, 0.5 * measures.lengths + 1) + 1e-9 * np.abs(measures.areas)
    wrong = (
        has & fine & sound & ((measures.faults & TANGLED) == 0) & (np.abs(area - measures.areas) > allowed)
    )
    out.add(
        "area-mismatch",
        "annotations",
        wrong,
        lambda row: f"the area is {area[row]:.12g}, that of the shape {measures.areas[row]:.12g}",
    )


def _twice(annotations: Annotations, form: Any, boxes: Floats, out: Collector) -> None:
    if not out.tells("annotation-duplicate") or len(form) < 2:
        return
    table = annotations.annotations
    marks = np.zeros(len(form), np.uint64)
    bits = [np.ascontiguousarray(axis).view(np.uint64) for axis in (annotations.x, annotations.y)]
    kernel.fingerprints(*bits, annotations.part_starts, annotations.vertex_starts, annotations.holes, marks)
    category, _ = values(table, "category_id")
    image = annotations.image_rows
    shapeless = form == Form.NONE
    rle = table["rle"].chunk(0)
    keys = [image, category, form.astype(np.int64), marks.view(np.int64)]
    if rle.null_count < len(rle):
        keys.append(rle.dictionary_encode().indices.fill_null(-1).to_numpy(zero_copy_only=False))
    for side in range(4) if shapeless.any() else ():
        keys.append(np.where(shapeless, boxes[:, side], 0).view(np.int64))
    mixed = np.zeros(len(form), np.uint64)
    for key in keys:
        kernel.mix_in(mixed, np.ascontiguousarray(key, np.int64).view(np.uint64))
    order = np.argsort(mixed, kind="stable")
    equal = mixed[order[1:]] == mixed[order[:-1]]
    if not equal.any():
        return
    suspects = np.unique(np.concatenate((order[1:][equal], order[:-1][equal])))
    seen: dict[Any, int] = {}
    later, earlier = [], []
    for row in suspects.tolist():
        nothing = shapeless[row] and np.isnan(boxes[row]).any()
        if image[row] < 0 or nothing:
            continue
        key = _exactly(annotations, row, rle[row].as_py(), boxes[row].tobytes() if shapeless[row] else b"")
        first = seen.setdefault((int(image[row]), int(category[row]), int(form[row]), key), row)
        if first != row:
            later.append(row)
            earlier.append(first)
    ids, known = values(table, "id")
    messages = [f"the same as annotation {ids[row] if known[row] else f'row {row}'}" for row in earlier]
    out.add("annotation-duplicate", "annotations", later, messages)


def _exactly(annotations: Annotations, row: int, rle: bytes | None, box: bytes) -> tuple[Any, ...]:
    parts = slice(int(annotations.part_starts[row]), int(annotations.part_starts[row + 1]))
    starts = annotations.vertex_starts[parts.start : parts.stop + 1]
    span = slice(int(starts[0]), int(starts[-1]))
    lengths = (starts - starts[0]).tobytes()
    holes = annotations.holes[parts].tobytes()
    return (lengths, holes, annotations.x[span].tobytes(), annotations.y[span].tobytes(), rle, box)
