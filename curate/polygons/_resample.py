"""Intervals of pixel numbers by drawing images again: pixels of one image are not independent, images (or groups of them) nearly are.

A replicate draws as many groups as there are, with replacement, and adds their counts up: whole numbers below 2^53 in float64, so the
sums are exact in any order. Draws are raw words of Philox with the seed as its key, for groups in the order of their names, so the same
seed gives the same draws whatever the order of images or the version of numpy's distributions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]

MOST_LEVELS = 1 << 16
AT_ONCE = 64  # replicates


@dataclass(frozen=True)
class Interval:
    """Percentile interval of a number over replicates; `undefined` replicates had none (no positives) and are left out."""

    low: float | None
    high: float | None
    replicates: int
    undefined: int


def draws(groups: int, replicates: int, seed: int) -> npt.NDArray[np.int64]:
    """How often each group is drawn, (replicates, groups); every row adds up to `groups`."""
    words = np.random.Philox(key=seed).random_raw(replicates * groups)
    picks = ((words >> np.uint64(32)) * np.uint64(groups)) >> np.uint64(32)
    rows = np.repeat(np.arange(replicates, dtype=np.int64), groups)
    flat = np.bincount(rows * groups + picks.astype(np.int64), minlength=replicates * groups)
    return flat.reshape(replicates, groups).astype(np.int64)


def bootstrap(
    parts: Mapping[str, Any],
    groups: Mapping[str, str] | None = None,
    *,
    replicates: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, Interval]:
    """Intervals of "ap", "auc" and "f1" (the highest) over images named by the keys of `parts` (`metrics.Counts` of one grid and rule).

    `groups` names each image's group (a place, a day); without it every image is its own. Percentiles are linear between replicates.
    ValueError for no image, counts that do not add up, or more than 65,536 levels (`metrics.coarser` helps).
    """
    from curate.polygons.metrics import pool

    if not 0.0 < confidence < 1.0 or replicates < 1:
        raise ValueError(f"{replicates} replicates at a confidence of {confidence}")
    names = sorted(parts)
    levels = pool([parts[name] for name in names]).levels
    if len(levels) > MOST_LEVELS:
        raise ValueError(f"{len(levels)} levels are more than {MOST_LEVELS}: put them into bins first")
    keys = sorted({groups[name] if groups else name for name in names})
    rows = {key: row for row, key in enumerate(keys)}
    pos, neg = (np.zeros((len(keys), len(levels)), dtype=np.float64) for _ in range(2))
    for name in names:
        row = rows[groups[name] if groups else name]
        places = np.searchsorted(levels, parts[name].levels)
        pos[row, places] += parts[name].positives.sum(axis=0)
        neg[row, places] += parts[name].negatives
    weights = draws(len(keys), replicates, seed).astype(np.float64)
    found = [
        _numbers(weights[i : i + AT_ONCE] @ pos, weights[i : i + AT_ONCE] @ neg)
        for i in range(0, replicates, AT_ONCE)
    ]
    edge = (1.0 - confidence) / 2.0
    out = {}
    for name, column in zip(("ap", "auc", "f1"), np.concatenate(found).T, strict=True):
        known = column[~np.isnan(column)]
        low, high = np.quantile(known, [edge, 1.0 - edge]).tolist() if len(known) else (None, None)
        out[name] = Interval(low, high, replicates, replicates - len(known))
    return out


def _numbers(pos: F64, neg: F64) -> F64:
    """AP, AUC and highest F1 (rows, 3) of histograms (rows, levels), NaN where undefined."""
    pos, neg = pos[:, ::-1], neg[:, ::-1]
    tp, fp = np.cumsum(pos, axis=1), np.cumsum(neg, axis=1)
    total, others = tp[:, -1:], fp[:, -1:]
    with np.errstate(invalid="ignore", divide="ignore"):
        ap = (pos * (tp / np.maximum(tp + fp, 1.0))).sum(axis=1) / total[:, 0]
        auc = (neg * (tp - 0.5 * pos)).sum(axis=1) / total[:, 0] / others[:, 0]
        f1 = (2.0 * tp / (total + tp + fp)).max(axis=1)
    f1[total[:, 0] == 0] = np.nan
    return np.column_stack([ap, auc, f1])
