"""One score against another: counts in a grid of two measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate._report_measure import Axis, Measure
from curate.pool import family
from headwater.errors import UsageError, nearest

MOST_CELLS = 48  # along one side
Grid = npt.NDArray[np.int64]  # (2, y, x): all rows, kept rows


def choose(
    measures: Sequence[Measure], types: Mapping[str, pa.DataType], wanted: Sequence[str]
) -> tuple[int, int] | None:
    """Which two measures: those that were named, or the first two scores, those with a cut first. None without two."""
    if wanted:
        titles = [measure.text.strip('"') for measure in measures]
        for name in wanted:
            if name not in titles:
                raise UsageError(f"--scatter: no numbers called {name!r} here: {nearest(name, titles)}")
        return titles.index(wanted[0]), titles.index(wanted[1])
    scores = [
        number
        for number, measure in enumerate(measures)
        if measure.node.op == "col" and family(types[measure.node.value]) == "float"
    ]
    first = sorted(scores, key=lambda n: not measures[n].cuts)[:2]
    return (first[0], first[1]) if len(first) == 2 else None


def grid_axis(axis: Axis) -> tuple[int, int]:
    """Bins of the axis that are put together into one cell, and cells."""
    together = -(-axis.bins // MOST_CELLS)
    return together, -(-axis.bins // together)


def start(x: Axis, y: Axis) -> Grid:
    return np.zeros((2, grid_axis(y)[1], grid_axis(x)[1]), np.int64)


def add(
    grid: Grid,
    x: Axis,
    y: Axis,
    xs: npt.NDArray[np.float64],
    ys: npt.NDArray[np.float64],
    kept: npt.NDArray[np.bool_],
) -> None:
    """Count rows that have both numbers inside the picture."""
    columns, rows = _cells(x, xs), _cells(y, ys)
    inside = (columns >= 0) & (columns < grid.shape[2]) & (rows >= 0) & (rows < grid.shape[1])
    place = rows * grid.shape[2] + columns
    for number, some in enumerate((inside, inside & kept)):
        grid[number] += np.bincount(place[some], minlength=grid[number].size).reshape(grid[number].shape)


def _cells(axis: Axis, values: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    together, _ = grid_axis(axis)
    with np.errstate(invalid="ignore"):
        at = np.floor(
            (np.clip(values, axis.low - axis.step, axis.high + axis.step) - axis.low) / axis.step + 1e-9
        )
    at[~np.isfinite(at) | (at < 0) | (at >= axis.bins)] = -together
    return np.asarray(np.floor_divide(at, together), np.int64)
