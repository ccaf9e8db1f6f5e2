"""Where on the image the annotations lie: every shape laid over one canvas, each image stretched to it, and counted.

A cell counts an annotation whose shape covers the cell's centre: of rings by their winding (a hole takes away what its exterior gave; a
ring that crosses itself may count twice or not at all where it does), of masks by the pixel there. Shapes of images without a size, and
what has neither rings nor a mask, are left out; so are rings with coordinates beyond those of any image.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from curate.polygons._geometry import LARGEST
from curate.polygons._rle import counts_of
from curate.polygons._schema import Form
from curate.polygons.stats import image_sides, shown_shares
from curate.polygons.store import Annotations
from curate.polygons.turning import turn_pixels

Grid = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

CROSSINGS_AT_ONCE = 1 << 21
MIRRORED = (2, 4, 5, 7)  # orientations that turn clockwise rings around


def overlay(annotations: Annotations, height: int, width: int) -> Grid:
    """(height, width) how many annotations cover the centre of each cell of a canvas laid over every image as shown.

    Raises ValueError for masks whose run lengths do not add up.
    """
    steps = np.zeros((height, width + 1), np.int64)
    sides, turns = image_sides(annotations)
    rows = annotations.image_rows
    inside = rows >= 0
    sized = np.zeros(len(rows), bool)
    sized[inside] = ~np.isnan(sides[rows[inside]]).any(axis=1)
    forms = annotations.forms
    _rings(annotations, steps, sides, turns, sized & (forms != Form.SHAPE))
    grid = np.maximum(np.cumsum(steps, axis=1)[:, :width], 0)
    masks = np.flatnonzero(sized & ((forms == Form.RLE_COUNTS) | (forms == Form.RLE_STRING)))
    _masks(annotations, grid, turns, masks)
    return grid


def _rings(
    annotations: Annotations, steps: Grid, sides: Floats, turns: Ints, wanted: npt.NDArray[np.bool_]
) -> None:
    """Write into `steps` (height, width + 1) where along a row of cells rings begin (+1) and end (-1)."""
    height, width = steps.shape[0], steps.shape[1] - 1
    starts = annotations.vertex_starts
    owner = np.repeat(annotations.part_rows, np.diff(starts))
    image = annotations.image_rows[owner]
    used = wanted[owner] & (np.abs(annotations.x) < LARGEST) & (np.abs(annotations.y) < LARGEST)
    shares = np.full((len(owner), 2), np.nan)
    stored = np.column_stack((annotations.x[used], annotations.y[used]))
    shares[used] = shown_shares(stored / sides[image[used]], turns[image[used]])
    x, y = shares[:, 0] * width, shares[:, 1] * height
    after = np.arange(1, len(owner) + 1)
    filled = np.flatnonzero(np.diff(starts))
    after[starts[filled + 1] - 1] = starts[filled]
    part = np.repeat(np.arange(len(annotations.parts)), np.diff(starts))
    with np.errstate(invalid="ignore"):
        areas = np.bincount(part, x * y[after] - x[after] * y, len(annotations.parts))
    sign = np.where(annotations.holes, -1, 1) * np.where(np.isnan(areas), 0, np.sign(areas)).astype(np.int64)
    # rows of cells whose centres lie between the ends of each edge, the upper end included
    with np.errstate(invalid="ignore"):
        ends = np.nan_to_num(np.ceil(np.clip(np.stack((y, y[after])), 0, height) - 0.5)).astype(np.int64)
    first, last = np.clip(ends.min(axis=0), 0, height), np.clip(ends.max(axis=0), 0, height)
    edges = np.flatnonzero((last > first) & (sign[part] != 0))
    counts = last[edges] - first[edges]
    bounds = np.searchsorted(np.cumsum(counts), np.arange(0, counts.sum() + 1, CROSSINGS_AT_ONCE), "right")
    flat = steps.reshape(-1)
    for low, high in zip(bounds, [*bounds[1:], len(edges)], strict=True):
        some, each = edges[low:high], counts[low:high]
        edge = np.repeat(some, each)
        row = first[edge] + np.arange(len(edge)) - np.repeat(np.cumsum(each) - each, each)
        to = after[edge]
        at = x[edge] + (row + 0.5 - y[edge]) * (x[to] - x[edge]) / (y[to] - y[edge])
        column = np.ceil(np.clip(at, 0, width) - 0.5).astype(np.int64)
        up = np.where(y[to] < y[edge], 1, -1) * sign[part[edge]]
        flat += _summed(row * (width + 1) + column, up, flat.size)


def _summed(places: Ints, changes: Ints, size: int) -> Ints:
    up, down = places[changes > 0], places[changes < 0]
    return np.bincount(up, minlength=size) - np.bincount(down, minlength=size)


def _masks(annotations: Annotations, grid: Grid, turns: Ints, rows: Ints) -> None:
    """Add the masks of these annotations to `grid`, pixel by cell centre."""
    columns = [annotations.annotations[name] for name in ("rle", "rle_height", "rle_width")]
    height, width = grid.shape
    for row in rows.tolist():
        runs, high, wide = (column[row].as_py() for column in columns)
        turn = int(turns[annotations.image_rows[row]])
        down, across = (width, height) if turn >= 5 else (height, width)
        ends = np.cumsum(counts_of(runs))
        if high < 1 or wide < 1 or not len(ends) or ends[-1] != high * wide:
            raise ValueError(f"annotation row {row}: run lengths do not add up to {high} x {wide} pixels")
        y = ((np.arange(down) + 0.5) * high / down).astype(np.int64)
        x = ((np.arange(across) + 0.5) * wide / across).astype(np.int64)
        pixels = (x[None, :] * high + y[:, None]).reshape(-1)  # down the columns
        inside = np.searchsorted(ends, pixels, "right") % 2 == 1
        grid += turn_pixels(inside.reshape(down, across), turn)
