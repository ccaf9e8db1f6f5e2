"""Polygons to pixels by a named rule, on windows instead of canvases; masks to COCO's run lengths and back.

Coordinates are float64 x, y with the origin at the top left corner of the first pixel; pixel (row r, column c) covers [c, c+1) x [r, r+1).
The rule changes the answer (an 8 x 8 square has 64 pixels, or 81), so it is named in every result:

    coco      what pycocotools makes of a polygon: vertices to fifths of a pixel, the outline walked on that grid (maskApi.c, rleFrPoly).
              COCO has no holes; here a hole's pixels by the same rule are taken away.
    opencv    cv2.fillPoly of OpenCV 5 on vertices rounded to whole numbers (halves to even); exterior and holes in one call, so the
              outlines of holes are filled.
    kwimage   the same on vertices cut toward zero: what kwimage 0.12, and so kwcoco's evaluator, fills.
    centre    a pixel is inside where its centre is, even-odd; exact for vertices rounded to 1/65536 of a pixel.

An annotation is the union of its polygons. `Crop` is a window of the image with all of its pixels; everything else is outside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from curate.generators._extra import need_numba
from curate.polygons._rle import counts_of, counts_of_string, string_of

Mask = npt.NDArray[np.bool_]
Vertices = npt.NDArray[np.float64]
Starts = npt.NDArray[np.int64]

RULES = ("coco", "opencv", "kwimage", "centre")  # in the kernel's numbering
FARTHEST = float(1 << 26)  # of a coordinate, pixels: integers made of it stay exact
MOST_SIDE = 1 << 20
MOST_PIXELS = 1 << 29  # of a window


@dataclass(frozen=True)
class Crop:
    """The mask of an annotation: `mask` (h, w) bool is the window at (top, left) of an image (height, width); no pixel is outside it."""

    height: int
    width: int
    left: int
    top: int
    mask: Mask
    rule: str

    @property
    def area(self) -> int:
        """Pixels."""
        return int(np.count_nonzero(self.mask))

    @property
    def box(self) -> tuple[int, int, int, int]:
        """x, y, width, height of the pixels; all 0 where there is none."""
        rows, columns = np.flatnonzero(self.mask.any(axis=1)), np.flatnonzero(self.mask.any(axis=0))
        if not len(rows):
            return 0, 0, 0, 0
        x, y = int(columns[0]), int(rows[0])
        return self.left + x, self.top + y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y

    @property
    def window(self) -> tuple[slice, slice]:
        """Where the mask lies in an array of the whole image."""
        h, w = self.mask.shape
        return slice(self.top, self.top + h), slice(self.left, self.left + w)

    def full(self) -> Mask:
        """The mask of the whole image."""
        out = np.zeros((self.height, self.width), dtype=np.bool_)
        out[self.window] = self.mask
        return out


@dataclass(frozen=True)
class Rle:
    """COCO's run lengths, uint32, down the columns, zeros first."""

    height: int
    width: int
    counts: npt.NDArray[np.uint32]

    @property
    def area(self) -> int:
        """Pixels."""
        return int(self.counts[1::2].sum(dtype=np.int64))

    @property
    def text(self) -> str:
        """The compressed string of COCO files."""
        return string_of(self.counts.astype(np.int64))


def rule_number(rule: str) -> int:
    """The kernel's number of a rule; ValueError for no rule."""
    if rule not in RULES:
        raise ValueError(f"{rule!r} is no rule of filling: {', '.join(RULES)}")
    return RULES.index(rule)


def polygons_in_order(
    starts: Starts, exteriors: npt.NDArray[Any] | None = None
) -> tuple[npt.NDArray[np.int64] | None, Starts]:
    """How rings stand polygon by polygon, each exterior first: their order (None: as they are), and where polygons begin, (p + 1,).

    `exteriors` (rings,) names each ring's exterior by its place, an exterior's own for itself; without it every ring is an exterior.
    ValueError for a hole of a hole, or a place that is none.
    """
    rings = len(starts) - 1
    if exteriors is None:
        return None, np.arange(rings + 1, dtype=np.int64)
    owner = np.asarray(exteriors).astype(np.int64)
    if owner.shape != (rings,) or (rings and (owner.min() < 0 or owner.max() >= rings)):
        raise ValueError(f"exteriors name places among {rings} rings")
    if (owner[owner] != owner).any():
        raise ValueError("a hole's exterior is a hole")
    own = owner == np.arange(rings)
    order = np.lexsort((~own, owner))
    bounds = np.append(np.flatnonzero(own[order]), rings).astype(np.int64)
    return (None if (order == np.arange(rings)).all() else order), bounds


def raster(
    vertices: Vertices,
    starts: Starts,
    height: int,
    width: int,
    rule: str,
    exteriors: npt.NDArray[Any] | None = None,
) -> Crop:
    """The pixels of one annotation in an image (height, width).

    vertices (n, 2) float64 x, y; ring i is vertices[starts[i] : starts[i + 1]], not closed by a repeated point (a repeated one changes
    nothing); `exteriors` as `polygons_in_order` takes them. ValueError for coordinates that are no numbers or farther away than 2^26
    pixels, and for a window of more than 2^29 pixels.
    """
    need_numba()
    from curate.polygons import _raster_kernel as kernels

    number = rule_number(rule)
    vertices, starts, polygons = _checked(vertices, starts, exteriors, height, width)
    left, top, right, bottom = kernels.windows(vertices, starts, polygons, height, width, number)
    if (bottom - top) * (right - left) > MOST_PIXELS:
        raise ValueError(f"a mask of {bottom - top} x {right - left} pixels is more than {MOST_PIXELS}")
    target = np.zeros((bottom - top, right - left), dtype=np.uint8)
    kernels.paint_polygons(target, left, top, height, width, vertices, starts, polygons, number, 1)
    return Crop(height, width, left, top, target.view(np.bool_), rule)


def raster_of(annotations: Any, row: int, rule: str, size: tuple[int, int] | None = None) -> Crop:
    """The pixels of annotation `row` of a `store.Annotations`; run lengths are taken as they are. `size`: (height, width) of its image.

    An annotation without a shape has none. ValueError for a shape that is no ring, an image without a size, run lengths of another size,
    and as `raster`.
    """
    from curate.polygons.store import Form, values

    table = annotations.annotations
    if size is None:
        image = int(annotations.image_rows[row])
        sides = [values(annotations.images, name) for name in ("height", "width")]
        if image < 0 or not all(known[image] for _, known in sides):
            raise ValueError("an annotation's image is not there, or has no size")
        size = int(sides[0][0][image]), int(sides[1][0][image])
    form = table["form"][row].as_py()
    if form == Form.SHAPE:
        raise ValueError("a circle, line or point is no ring")
    if form in (Form.RLE_COUNTS, Form.RLE_STRING):
        own = table["rle_height"][row].as_py(), table["rle_width"][row].as_py()
        if own != size:
            raise ValueError(f"run lengths of {own[0]} x {own[1]} in an image of {size[0]} x {size[1]}")
        return decode(rle_of_counts(counts_of(table["rle"][row].as_py()), *size))
    first, end = (int(place) for place in annotations.part_starts[row : row + 2])
    starts = annotations.vertex_starts[first : end + 1]
    inside = slice(int(starts[0]), int(starts[-1]))
    points = np.column_stack((annotations.x[inside], annotations.y[inside]))
    return raster(points, starts - starts[0], *size, rule, annotations.exteriors[first:end])


def areas(
    vertices: Vertices,
    starts: Starts,
    owners: Starts,
    heights: npt.NDArray[Any],
    widths: npt.NDArray[Any],
    rule: str,
    exteriors: npt.NDArray[Any] | None = None,
) -> npt.NDArray[np.int64]:
    """Pixels of many annotations in one call: annotation i owns rings owners[i] : owners[i + 1] in an image heights[i] x widths[i].

    `exteriors` are places among all rings, and a hole belongs to its exterior's annotation. The errors of `raster`.
    """
    need_numba()
    from curate.polygons import _raster_kernel as kernels

    number = rule_number(rule)
    heights, widths = np.asarray(heights).astype(np.int64), np.asarray(widths).astype(np.int64)
    tallest, widest = (int(side.max()) if len(side) else 1 for side in (heights, widths))
    vertices, starts, polygons = _checked(vertices, starts, exteriors, tallest, widest)
    if len(heights) and int((heights * widths).max()) > MOST_PIXELS:
        raise ValueError(f"an image of more than {MOST_PIXELS} pixels")
    bounds = np.searchsorted(polygons, owners).astype(np.int64)
    out = np.zeros(len(owners) - 1, dtype=np.int64)
    kernels.mask_areas(vertices, starts, polygons, bounds, heights, widths, number, out)
    return out


def _checked(
    vertices: Any, starts: Any, exteriors: Any, height: int, width: int
) -> tuple[Vertices, Starts, Starts]:
    """Contiguous vertices and starts with each polygon's rings together, and where polygons begin."""
    if not (0 < height <= MOST_SIDE and 0 < width <= MOST_SIDE):
        raise ValueError(f"an image of {height} x {width} pixels")
    vertices = np.ascontiguousarray(vertices, dtype=np.float64)
    starts = np.ascontiguousarray(starts, dtype=np.int64)
    if vertices.ndim != 2 or vertices.shape[1] != 2 or starts.ndim != 1 or not len(starts):
        raise ValueError(f"vertices are (n, 2) and starts (rings + 1,), not {vertices.shape}, {starts.shape}")
    if starts[0] < 0 or starts[-1] > len(vertices) or (np.diff(starts) < 0).any():
        raise ValueError(f"starts do not ascend within 0..{len(vertices)}")
    used = vertices[starts[0] : starts[-1]]
    if len(used) and not (np.abs(used).max() <= FARTHEST):
        raise ValueError(f"a coordinate is no number, or farther than {FARTHEST:.0f} pixels away")
    order, polygons = polygons_in_order(starts, exteriors)
    if order is not None:
        pieces = [vertices[starts[i] : starts[i + 1]] for i in order]
        starts = np.append(0, np.cumsum([len(piece) for piece in pieces])).astype(np.int64)
        vertices = np.concatenate(pieces)
    return vertices, starts, polygons


def encode(crop: Crop) -> Rle:
    """Run lengths of a mask, as pycocotools' encode gives them."""
    need_numba()
    from curate.polygons._rle_kernel import runs_of

    counts = runs_of(crop.mask.view(np.uint8), crop.left, crop.top, crop.height, crop.width)
    return Rle(crop.height, crop.width, counts)


def decode(rle: Rle) -> Crop:
    """The mask of run lengths, its rule "rle"."""
    need_numba()
    from curate.polygons._rle_kernel import paint_runs, runs_window

    left, top, right, bottom = (int(side) for side in runs_window(rle.counts, rle.height))
    if (bottom - top) * (right - left) > MOST_PIXELS:
        raise ValueError(f"a mask of {bottom - top} x {right - left} pixels is more than {MOST_PIXELS}")
    target = np.zeros((bottom - top, right - left), dtype=np.uint8)
    paint_runs(target, left, top, rle.counts, rle.height, 1)
    return Crop(rle.height, rle.width, left, top, target.view(np.bool_), "rle")


def rle_of_counts(counts: Any, height: int, width: int) -> Rle:
    """Run lengths from outside; ValueError unless they are whole, not negative, and add up to the image."""
    if not (0 < height <= MOST_SIDE and 0 < width <= MOST_SIDE):
        raise ValueError(f"run lengths of an image of {height} x {width} pixels")
    runs = np.asarray(counts)
    if runs.ndim != 1 or not len(runs) or runs.dtype.kind not in "iu":
        raise ValueError("run lengths are a list of whole numbers")
    if (runs < 0).any() or (runs > height * width).any() or int(runs.sum(dtype=np.uint64)) != height * width:
        raise ValueError(f"run lengths do not add up to the {height * width} pixels of {height} x {width}")
    return Rle(height, width, runs.astype(np.uint32))


def rle_of_text(text: str, height: int, width: int) -> Rle:
    """Run lengths of COCO's compressed string; ValueError for letters or lengths that are none."""
    return rle_of_counts(counts_of_string(text), height, width)


def overlaps(ones: Sequence[Rle], others: Sequence[Rle], crowds: Sequence[bool]) -> npt.NDArray[np.float64]:
    """COCO's overlap (ones, others) float64: shared pixels over those of both; over the first's alone where `crowds[j]` of the second.

    0 where nothing is shared. ValueError for masks of images of different sizes.
    """
    need_numba()
    from curate.polygons._rle_kernel import overlap

    if len(crowds) != len(others):
        raise ValueError("one flag for each of the second masks")
    if len({(rle.height, rle.width) for rle in [*ones, *others]}) > 1:
        raise ValueError("masks of images of different sizes")
    out = np.zeros((len(ones), len(others)), dtype=np.float64)
    sizes, other_sizes = [rle.area for rle in ones], [rle.area for rle in others]
    for i, one in enumerate(ones):
        for j, other in enumerate(others):
            both = int(overlap(one.counts, other.counts))
            if both:
                out[i, j] = both / (sizes[i] if crowds[j] else sizes[i] + other_sizes[j] - both)
    return out
