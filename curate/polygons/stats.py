"""Numbers of a polygon dataset: how many, how large, where, when and by whom; nothing is drawn here.

Sizes are COCO's: small below 32 x 32 pixels of area, large from 96 x 96 on. The area is that of the drawn shape (`_geometry`); where there is
none that can be measured, the annotation's own `area`, then its box. Centroids are those of the area (exteriors less holes), or
the middle of the box for masks and for what has no area. Images are as shown, turned by their orientation, unless a name says `stored`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from curate.polygons._geometry import measure
from curate.polygons._schema import Form
from curate.polygons.moments import Moments, moments_of
from curate.polygons.store import Annotations, values
from curate.polygons.turning import ORIENTATIONS, shown_size, to_shown

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

SMALL, MEDIUM = 32.0**2, 96.0**2  # pixels; COCO
SIZES = ("small", "medium", "large", "unknown")
QUARTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
FORMS = {
    Form.NONE: "no shape", Form.COCO_POLYGONS: "polygons", Form.KW_ONE: "polygons", Form.KW_MANY: "polygons",
    Form.RLE_COUNTS: "masks", Form.RLE_STRING: "masks", Form.SHAPE: "other shapes",
}  # fmt: skip


@dataclass(frozen=True)
class Category:
    """How often a category stands in the dataset. `id` is None for annotations without one."""

    id: int | None
    name: str
    annotations: int
    images: int
    median_area: float | None  # pixels; None where no area is known


@dataclass(frozen=True)
class Stats:
    """Arrays over the rows of a dataset, NaN where something is not known; nothing in them depends on the order of ids."""

    images: int
    annotations: int
    exteriors: int
    holes: int
    multipart: int  # annotations with more than one exterior
    crowds: int
    orphans: int  # annotations whose image is not there
    forms: dict[str, int]
    categories: list[Category]  # most annotations first
    sources: list[tuple[str | None, int]]  # provenance, most annotations first; None: not said
    per_image: Ints  # (images,) annotations
    areas: Floats  # (annotations,) pixels
    vertices: Ints  # (annotations,) of all rings; 0 for what has none
    boxes: Floats  # (annotations, 2) width, height as shown, pixels
    centroids_stored: Floats  # (annotations, 2) x, y as stored, pixels
    relative: Floats  # (annotations, 2) x, y as shares of the shown image
    shown: Floats  # (images, 2) width, height as shown, pixels
    image_rows: Ints  # (annotations,) -1 for orphans
    turned: int  # images whose orientation is not 1
    moments: Moments

    @property
    def annotated(self) -> int:
        """Images with at least one annotation."""
        return int(np.count_nonzero(self.per_image))

    @property
    def sizes(self) -> dict[str, int]:
        """Annotations of each of COCO's sizes."""
        known = self.areas[~np.isnan(self.areas)]
        small, below = int((known < SMALL).sum()), int((known < MEDIUM).sum())
        counts = (small, below - small, len(known) - below, len(self.areas) - len(known))
        return dict(zip(SIZES, counts, strict=True))

    @property
    def centroids(self) -> Floats:
        """(annotations, 2) x, y as shown, pixels."""
        inside = self.image_rows >= 0
        found = np.full_like(self.relative, np.nan)
        found[inside] = self.relative[inside] * self.shown[self.image_rows[inside]]
        return found

    def summary(self) -> dict[str, Any]:
        """All of it as JSON: counts, and the least, the quartiles and the most of every array."""
        when = self.moments
        dated = np.sort(when.taken[~np.isnat(when.taken)])
        return {
            "images": self.images,
            "images_with_annotations": self.annotated,
            "images_turned": self.turned,
            "annotations": self.annotations,
            "annotations_without_image": self.orphans,
            "exteriors": self.exteriors,
            "holes": self.holes,
            "annotations_of_several_parts": self.multipart,
            "crowds": self.crowds,
            "forms": self.forms,
            "sizes": self.sizes,
            "categories": [vars(category) for category in self.categories],
            "sources": [{"source": source, "annotations": count} for source, count in self.sources],
            "annotations_per_image": quartiles(self.per_image.astype(np.float64)),
            "area_pixels": quartiles(self.areas),
            "vertices": quartiles(self.vertices[self.vertices > 0].astype(np.float64)),
            "box_width_pixels": quartiles(self.boxes[:, 0]),
            "box_height_pixels": quartiles(self.boxes[:, 1]),
            "centroid_x_share": quartiles(self.relative[:, 0]),
            "centroid_y_share": quartiles(self.relative[:, 1]),
            "image_width_pixels": quartiles(self.shown[:, 0]),
            "image_height_pixels": quartiles(self.shown[:, 1]),
            "images_with_time": len(dated),
            "first_time": str(dated[0]) if len(dated) else None,
            "last_time": str(dated[-1]) if len(dated) else None,
            "images_with_place": int(np.count_nonzero(~np.isnan(when.latitude))),
        }


def quartiles(found: Floats) -> dict[str, float] | None:
    """Least, quartiles, most and mean of what is finite; None where nothing is."""
    finite = found[np.isfinite(found)]
    if not len(finite):
        return None
    names = ("least", "quarter", "middle", "three_quarters", "most")
    ranked = np.quantile(finite, QUARTILES).tolist()
    return {**dict(zip(names, ranked, strict=True)), "mean": math.fsum(finite.tolist()) / len(finite)}


def stats_of(annotations: Annotations) -> Stats:
    """The numbers of `annotations`. Raises MissingExtra without numba, which measures the shapes."""
    table = annotations.annotations
    forms = annotations.forms.astype(np.int64)
    measures = measure(annotations, steps_a_vertex=0, more_steps=0)  # crossings are not asked for here
    drawn = (forms != Form.NONE) & (forms != Form.SHAPE)
    boxes = _boxes(annotations, np.where(drawn[:, None], measures.boxes, np.nan))
    areas = np.where(drawn, measures.areas, np.nan)
    given, known = values(table, "area")
    areas = np.where(np.isnan(areas) & known, given, areas)
    areas = np.where(np.isnan(areas), (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]), areas)
    areas[~np.isfinite(areas) | (areas < 0)] = np.nan
    stored = _centroids(annotations, measures.part_areas, boxes, drawn)
    rows = annotations.image_rows
    inside = np.flatnonzero(rows >= 0)
    sides, turns = image_sides(annotations)
    relative = np.full((len(table), 2), np.nan)
    relative[inside] = shown_shares(stored[inside] / sides[rows[inside]], turns[rows[inside]])
    widths = boxes[:, 2:] - boxes[:, :2]
    swapped = np.zeros(len(table), bool)
    swapped[inside] = turns[rows[inside]] >= 5
    holes = int(np.count_nonzero(annotations.holes))
    exteriors = np.where(
        drawn, np.bincount(annotations.part_rows[~annotations.holes], minlength=len(table)), 0
    )
    corners = np.diff(annotations.vertex_starts[annotations.part_starts])
    crowd, _ = values(table, "iscrowd")
    return Stats(
        images=len(annotations.images),
        annotations=len(table),
        exteriors=int(exteriors.sum()),
        holes=holes,
        multipart=int((exteriors > 1).sum()),
        crowds=int((crowd != 0).sum()),
        orphans=len(table) - len(inside),
        forms=_forms(forms),
        categories=_categories(annotations, areas),
        sources=_sources(annotations),
        per_image=np.bincount(rows[inside], minlength=len(annotations.images)),
        areas=areas,
        vertices=np.where(drawn, corners, 0),
        boxes=np.where(swapped[:, None], widths[:, ::-1], widths),
        centroids_stored=stored,
        relative=relative,
        shown=np.where((turns >= 5)[:, None], sides[:, ::-1], sides),
        image_rows=rows,
        turned=int((turns != 1).sum()),
        moments=moments_of(annotations),
    )


def image_sides(annotations: Annotations) -> tuple[Floats, Ints]:
    """((images, 2) width, height as stored, NaN where unknown; (images,) orientation 1 to 8, 1 where it is not said)."""
    sides = np.full((len(annotations.images), 2), np.nan)
    for place, name in enumerate(("width", "height")):
        found, known = values(annotations.images, name)
        good = known & (found > 0)
        sides[good, place] = found[good]
    turns, known = values(annotations.images, "orientation")
    turns = turns.astype(np.int64)
    return sides, np.where(known & (turns >= 1) & (turns <= 8), turns, 1)


def shown_shares(points: Floats, turns: Ints) -> Floats:
    """Points (n, 2) as shares of the stored image -> as shares of the image as shown, by the orientations (n,)."""
    found = points.copy()
    for orientation in ORIENTATIONS[1:]:
        rows = np.flatnonzero(turns == orientation)
        if len(rows):
            found[rows] = to_shown(points[rows], orientation, *shown_size(orientation, 1, 1))
    return found


def _boxes(annotations: Annotations, drawn: Floats) -> Floats:
    """(annotations, 4) x0, y0, x1, y1 of the shapes, or of `bbox` where there is no shape with a box."""
    given = np.full_like(drawn, np.nan)
    columns = [values(annotations.annotations, f"bbox_{name}") for name in "xywh"]
    known = np.logical_and.reduce([valid for _, valid in columns])
    x, y, w, h = (found[known] for found, _ in columns)
    sound = (w >= 0) & (h >= 0)
    given[known] = np.where(sound[:, None], np.column_stack((x, y, x + w, y + h)), np.nan)
    return np.where(np.isnan(drawn[:, :1]), given, drawn)


def _centroids(
    annotations: Annotations, areas: Floats, boxes: Floats, drawn: npt.NDArray[np.bool_]
) -> Floats:
    """(annotations, 2) as stored."""
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2
    starts, count = annotations.vertex_starts, len(annotations.parts)
    owner = np.repeat(np.arange(count), np.diff(starts))
    after = np.arange(1, len(owner) + 1)
    filled = np.flatnonzero(np.diff(starts))
    after[starts[filled + 1] - 1] = starts[filled]
    firsts = np.zeros((count, 2))
    firsts[filled] = np.column_stack((annotations.x[starts[filled]], annotations.y[starts[filled]]))
    with np.errstate(all="ignore"):  # of coordinates that are no numbers, or of rings without area
        x = (
            annotations.x - firsts[owner, 0]
        )  # about the first vertex: nothing large is subtracted from something large
        y = annotations.y - firsts[owner, 1]
        cross = x * y[after] - x[after] * y
        # of a ring: its signed area times its centre; with the sign of the area taken out, holes count against exteriors
        sign = np.where(annotations.holes, -1.0, 1.0) * np.sign(areas)
        total = np.where(annotations.holes, -1.0, 1.0) * np.abs(areas)
        rows = annotations.part_rows
        sums = np.bincount(rows, total, len(boxes))
        found = np.empty_like(middles)
        for axis, along in enumerate((x, y)):
            moment = np.bincount(owner, (along + along[after]) * cross, count) / 6
            found[:, axis] = np.bincount(rows, sign * moment + total * firsts[:, axis], len(boxes)) / sums
        inside = ((found >= boxes[:, :2]) & (found <= boxes[:, 2:])).all(axis=1)
    return np.where((drawn & (sums > 0) & inside)[:, None], found, middles)


def _forms(forms: Ints) -> dict[str, int]:
    counts: dict[str, int] = {}
    for number, count in enumerate(np.bincount(forms, minlength=len(Form)).tolist()):
        counts[FORMS[Form(number)]] = counts.get(FORMS[Form(number)], 0) + count
    return {name: count for name, count in counts.items() if count}


def category_names(annotations: Annotations) -> dict[int, str]:
    """id -> name of the header's categories, in their order; what has no name is told by its id."""
    names: dict[int, str] = {}
    for entry in annotations.categories():
        number, name = entry.get("id"), entry.get("name")
        if type(number) is int:
            names.setdefault(number, name if isinstance(name, str) and name else f"category {number}")
    return names


def _categories(annotations: Annotations, areas: Floats) -> list[Category]:
    ids, known = values(annotations.annotations, "category_id")
    names = category_names(annotations)
    found, place = np.unique(ids[known], return_inverse=True)
    places = np.full(len(ids), len(found))
    places[known] = place
    counts = np.bincount(places, minlength=len(found) + 1)
    rows, width = annotations.image_rows, len(annotations.images) + 1
    pairs = np.unique((places * width + rows)[rows >= 0])
    images = np.bincount(pairs // width, minlength=len(found) + 1)
    order = np.lexsort((areas, places))  # NaN last within each category
    finite = np.bincount(places[~np.isnan(areas)], minlength=len(found) + 1)
    begins = np.cumsum(counts) - counts
    table = []
    for number, count in enumerate(counts.tolist()):
        some = areas[order[begins[number] : begins[number] + finite[number]]]
        middle = float(np.median(some)) if len(some) else None
        own = int(found[number]) if number < len(found) else None
        if own is not None or count:
            name = "no category" if own is None else names.get(own, f"no such category: {own}")
            table.append(Category(own, name, count, int(images[number]), middle))
    seen = {row.id for row in table}
    table += [Category(number, name, 0, 0, None) for number, name in names.items() if number not in seen]
    return sorted(table, key=lambda row: (-row.annotations, row.id is None, row.id or 0))


def _sources(annotations: Annotations) -> list[tuple[str | None, int]]:
    counted = pc.value_counts(annotations.annotations["source"])
    pairs = [(entry["values"].as_py(), entry["counts"].as_py()) for entry in counted]
    return sorted(pairs, key=lambda pair: (-pair[1], pair[0] is None, pair[0] or ""))
