"""Rows of ragged arrays: which items belong to chosen rows, by offsets alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


def items_of(starts: Ints, rows: Ints) -> tuple[Ints, Ints]:
    """Item numbers of `rows` in order, and the offsets (len(rows) + 1) of each row among them.

    `starts` (n + 1) are the offsets of all rows.
    """
    first = starts[rows]
    lengths = starts[rows + 1] - first
    offsets = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    items = np.arange(offsets[-1], dtype=np.int64)
    items += np.repeat(first - offsets[:-1], lengths)
    return items, offsets


def with_end(first: Ints, end: int) -> Ints:
    """`first` (n) with the end of the last row behind it."""
    starts = np.empty(len(first) + 1, np.int64)
    starts[:-1] = first
    starts[-1] = end
    return starts
