"""Exact order statistics of a column in one pass: how often each value occurs, while there are not too many of them.

Up to MAX_VALUES distinct values everything is exact (scores of a pool have a few thousand). Beyond, values are cut to fewer and
fewer mantissa bits, `exact` turns False, and `relative_error` says how far a quantile can be off.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Values = np.ndarray[Any, Any]

MAX_VALUES = 1 << 18
FIRST_CUT = 32  # mantissa bits dropped from a double at the first cut: 20 stay


class ValueCounts:
    """Counts of the values that were added; NaN and nulls are the caller's to leave out."""

    def __init__(self, max_values: int = MAX_VALUES) -> None:
        self._max = max_values
        self._values: Values = np.zeros(0, np.float64)
        self._counts: Values = np.zeros(0, np.int64)
        self._held: list[tuple[Values, Values]] = []
        self._held_values = 0
        self._cut = 0
        self.total = 0

    @property
    def exact(self) -> bool:
        return self._cut == 0

    @property
    def relative_error(self) -> float:
        return 0.0 if self.exact else float(2.0 ** (self._cut - 52))

    def add(self, values: Values) -> None:
        """Count more values."""
        if len(values) == 0:
            return
        self.total += len(values)
        self._held.append(np.unique(self._shortened(values), return_counts=True))
        self._held_values += len(self._held[-1][0])
        if self._held_values > self._max // 2:
            self._merge()

    def _shortened(self, values: Values) -> Values:
        if self._cut == 0:
            return values
        bits = values.astype(np.float64).view(np.int64)
        return ((bits >> self._cut) << self._cut).view(np.float64)

    def _merge(self) -> None:
        if not self._held:
            return
        parts = [*self._held] if not len(self._values) else [(self._values, self._counts), *self._held]
        values = np.concatenate([part[0] for part in parts])
        counts = np.concatenate([part[1] for part in parts])
        self._held, self._held_values = [], 0
        self._values, self._counts = _sum(values, counts)
        while len(self._values) > self._max and self._cut < 52:
            self._cut = FIRST_CUT if self._cut == 0 else self._cut + 2
            self._values, self._counts = _sum(self._shortened(self._values), self._counts)

    def table(self) -> tuple[Values, Values]:
        """(values in order, how often each)."""
        self._merge()
        return self._values, self._counts

    def quantile(self, share: float) -> float | int | None:
        """The value at place floor(share x (n - 1)) of all values in order: one that occurs; None when there are none."""
        values, counts = self.table()
        if not self.total:
            return None
        at = int(np.searchsorted(np.cumsum(counts), int(share * (self.total - 1)), side="right"))
        value: float | int = values[at].item()
        return value

    def histogram(self, bins: int) -> dict[str, Any] | None:
        """Counts in `bins` equal steps from the least value to the 99th percentile; the last one holds all above it."""
        values, counts = self.table()
        finite = np.isfinite(values) if values.dtype.kind == "f" else np.ones(len(values), bool)
        values, counts = values[finite], counts[finite]
        if not len(values):
            return None
        low = float(values[0])
        at = int(np.searchsorted(np.cumsum(counts), int(0.99 * (counts.sum() - 1)), side="right"))
        high = float(values[at])
        step = (high - low) / bins or 1.0
        slot = np.clip(((values.astype(np.float64) - low) / step).astype(np.int64), 0, bins - 1)
        filled = np.bincount(slot, weights=counts, minlength=bins)
        return {"from": low, "step": step, "counts": [int(n) for n in filled]}


def _sum(values: Values, counts: Values) -> tuple[Values, Values]:
    order = np.argsort(values, kind="stable")
    values, counts = values[order], counts[order]
    starts = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
    return values[starts], np.add.reduceat(counts, starts)
