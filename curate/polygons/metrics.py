"""Pixel metrics of score maps, exact: integer counts of positive and negative pixels by score, which merge in any order.

An image gives `Counts`: for each level of score that occurs, how many pixels of background, of objects (by stratum) and of what is left out
have it. Adding counts up (`pool`) loses nothing, so a number does not depend on the order or the grouping of images. Three grids:

    bins      level k / n holds scores of k / n up to, not including, (k + 1) / n; 0 and 1 are levels of their own, since detectors' and
              saturated maps are full of them. n a power of two (4,096), so that no product is rounded. Pixels of one level are one
              threshold: numbers are exact for thresholds k / n, and come with the bounds of the number without bins.
    exact     every score is its own level; the bounds meet. Costs a sort of each image.
    kwcoco    1,024 values from 0 to 1, scores moved up to the next one: the grid of kwcoco's evaluator, for `kwcoco_figures`.

Scores are floats in 0..1, or uint8 / uint16 maps meaning v / 255 and v / 65535. A pixel without a score (not a number) is left out and
counted. AP is the sum over thresholds of precision times the step in recall, as scikit-learn's average_precision_score; AUC the area
under the ROC curve with ties as trapezoids; F1, precision and TPR are of score >= threshold. What is undefined (no positives) is None.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from curate.generators._extra import need_numba
from curate.polygons._kwcoco_figures import KwcocoFigures, kwcoco_figures
from curate.polygons._pixel_counts import (
    LEAST,
    MOST_BINS,
    OBJECT,
    VOID,
    flat_scores,
    label_rows,
    object_shares,
    on_bins,
    on_grid,
    on_values,
)
from curate.polygons._resample import Interval, bootstrap
from curate.polygons.raster import Crop

__all__ = [
    "BINS",
    "VOID",
    "At",
    "Counts",
    "Interval",
    "KwcocoFigures",
    "Measures",
    "at",
    "bootstrap",
    "coarser",
    "count",
    "kwcoco_figures",
    "labels_of",
    "measure",
    "pool",
    "size_strata",
]

I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]

BINS = 4096
KWCOCO_LEVELS = 1024
SIZES = (32 * 32, 96 * 96)  # COCO's borders of small, medium and large objects, pixels


@dataclass(frozen=True, eq=False)
class Counts:
    """Pixels by level of score: `levels` (n,) float64 ascending, `negatives` (n,), `positives` (strata, n), `voids` (n,) int64.

    `shares` (n,) is `OBJECT` per object spread over its pixels, or None; `objects` how many; `missing` pixels had no score.
    `grid` ("bins:4096", "exact", "kwcoco:1024") and `rule`, of the raster that made the truth, must be the same to pool.
    """

    levels: F64
    negatives: I64
    positives: I64
    voids: I64
    missing: int
    grid: str
    rule: str
    images: int = 1
    shares: I64 | None = None
    objects: int = 0


@dataclass(frozen=True)
class Measures:
    """Numbers of one pool of pixels; `_low` and `_high` bound the number that scores without bins would give."""

    ap: float | None
    ap_low: float | None
    ap_high: float | None
    auc: float | None
    auc_low: float | None
    auc_high: float | None
    f1: float | None  # the highest over thresholds, chosen on these very pixels
    f1_high: float | None
    threshold: float | None  # where F1 is highest; the highest of equals
    tpr: float | None  # there
    precision: float | None  # there
    ap_balanced: float | None  # every object counts alike
    positives: int
    negatives: int
    void: int
    missing: int
    images: int
    grid: str
    rule: str

    def record(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


def size_strata(areas: Sequence[int], borders: Sequence[int] = SIZES) -> list[int]:
    """1, 2 .. len(borders) + 1: the stratum of objects of so many pixels; an area at a border is above it (COCO counts it on both sides)."""
    return [1 + sum(area >= border for border in borders) for area in areas]


def labels_of(
    crops: Sequence[Crop],
    height: int,
    width: int,
    strata: Sequence[int] | None = None,
    void: Sequence[Crop] = (),
) -> npt.NDArray[np.uint8]:
    """The truth (height, width) uint8: 0 background, 1.. the stratum of the object there (1 without `strata`), `VOID` left out.

    A pixel of several objects belongs to the smallest, of equals to the lowest stratum; objects lie over what is left out.
    """
    labels = np.zeros((height, width), dtype=np.uint8)
    own = [1] * len(crops) if strata is None else list(strata)
    if len(own) != len(crops) or any(not 1 <= stratum < VOID for stratum in own):
        raise ValueError(f"one stratum of 1..{VOID - 1} for each object")
    for crop in [*crops, *void]:
        if (crop.height, crop.width) != (height, width):
            raise ValueError(f"a mask of an image of {crop.height} x {crop.width}, not of {height} x {width}")
    for crop in void:
        labels[crop.window][crop.mask] = VOID
    if strata is not None:
        order = sorted(range(len(crops)), key=lambda i: (-crops[i].area, -own[i]))
    else:
        order = list(range(len(crops)))
    for i in order:
        labels[crops[i].window][crops[i].mask] = own[i]
    return labels


def count(
    scores: npt.NDArray[Any],
    truth: npt.NDArray[Any],
    rule: str,
    *,
    grid: str = "bins",
    bins: int = BINS,
    strata: int = 1,
    objects: Sequence[Crop] | None = None,
) -> Counts:
    """Counts of one image: `scores` (H, W), `truth` (H, W) bool, or labels as `labels_of` gives them, by the raster rule `rule`.

    `objects` (grid bins, floats only) also counts each object alike. ValueError for scores outside 0..1, labels above `strata`, other
    shapes or types.
    """
    need_numba()
    if scores.shape != truth.shape or scores.ndim != 2 or not scores.size:
        raise ValueError(f"scores {scores.shape} and truth {truth.shape} are not one image")
    if bins < 1 or bins & (bins - 1) or bins > MOST_BINS:
        raise ValueError(f"{bins} bins: a power of two up to {MOST_BINS}")
    labels, rows = label_rows(truth, strata)
    flat = flat_scores(scores)
    if grid == "bins":
        levels, counts, missing = on_bins(flat, labels, rows, bins)
        name = f"bins:{bins}"
    elif grid == "kwcoco":
        levels = np.linspace(0.0, 1.0, KWCOCO_LEVELS)
        counts, missing = on_grid(flat, labels, rows, levels)
        name = f"kwcoco:{KWCOCO_LEVELS}"
    elif grid == "exact":
        levels, counts, missing = on_values(flat, labels, rows)
        name = "exact"
    else:
        raise ValueError(f"{grid!r} is no grid: bins, exact, kwcoco")
    used = counts.any(axis=0)
    shares, seen = None, 0
    if objects is not None:
        if grid != "bins" or flat.dtype.kind != "f":
            raise ValueError("objects count alike on the grid bins, with scores as floats, only")
        shares, seen = object_shares(flat.reshape(scores.shape), objects, bins)
        used |= shares != 0
    kept = counts[:, used]
    return Counts(
        levels=levels[used],
        negatives=kept[0],
        positives=kept[1 : strata + 1],
        voids=kept[strata + 1] if rows > strata + 1 else np.zeros(kept.shape[1], dtype=np.int64),
        missing=missing,
        grid=name,
        rule=rule,
        shares=None if shares is None else shares[used],
        objects=seen,
    )


def pool(parts: Sequence[Counts]) -> Counts:
    """The counts of all images together; ValueError where grids, rules or strata differ, or there is none."""
    if not parts:
        raise ValueError("no counts to pool")
    kinds = {(part.grid, part.rule, len(part.positives), part.shares is None) for part in parts}
    if len(kinds) > 1:
        raise ValueError(f"counts of different grids, rules or strata do not add up: {sorted(kinds)}")
    return parts[0] if len(parts) == 1 else _gathered(parts, [part.levels for part in parts], parts[0].grid)


def coarser(counts: Counts, bins: int) -> Counts:
    """The same pixels on fewer bins; ValueError from the grid kwcoco, or to more bins than there are."""
    if bins < 1 or bins & (bins - 1) or counts.grid.startswith("kwcoco"):
        raise ValueError(f"counts of grid {counts.grid} cannot be put into {bins} bins")
    if counts.grid != "exact" and bins > int(counts.grid.removeprefix("bins:")):
        raise ValueError(f"{bins} bins are more than those of grid {counts.grid}")
    levels = np.floor(counts.levels * bins) / bins
    levels[(levels == 0.0) & (counts.levels > 0.0)] = LEAST
    return _gathered([counts], [levels], f"bins:{bins}")


def _gathered(parts: Sequence[Counts], levels: Sequence[F64], grid: str) -> Counts:
    """One record of several, each with the levels given for it."""
    merged, places = np.unique(np.concatenate(levels), return_inverse=True)

    def total(columns: Sequence[I64]) -> I64:
        out = np.zeros(len(merged), dtype=np.int64)
        np.add.at(out, places, np.concatenate(columns))
        return out

    objects = sum(part.objects for part in parts)
    if objects >= (1 << 63) // OBJECT:
        raise ValueError(f"{objects} objects are too many to count alike")
    shares = [part.shares for part in parts if part.shares is not None]
    return Counts(
        levels=merged,
        negatives=total([part.negatives for part in parts]),
        positives=np.stack([total(rows) for rows in zip(*(part.positives for part in parts), strict=True)]),
        voids=total([part.voids for part in parts]),
        missing=sum(part.missing for part in parts),
        grid=grid,
        rule=parts[0].rule,
        images=sum(part.images for part in parts),
        shares=total(shares) if shares else None,
        objects=objects,
    )


@dataclass(frozen=True)
class At:
    """What score >= threshold finds: pixels, and the numbers made of them."""

    threshold: float
    tp: int
    fp: int
    fn: int
    tn: int
    f1: float | None
    tpr: float | None
    precision: float | None


def at(counts: Counts, threshold: float, stratum: int | None = None) -> At:
    """The numbers at a threshold that was chosen elsewhere (on validation); exact, so on bins it must be k / n.

    ValueError for a threshold between two bins' borders, or on the grid kwcoco, whose scores were moved.
    """
    if counts.grid.startswith("kwcoco"):
        raise ValueError("the grid kwcoco moves scores up: no threshold is exact on it")
    if counts.grid != "exact":
        bins = int(counts.grid.removeprefix("bins:"))
        on_border = threshold * bins == math.floor(threshold * bins) or threshold == LEAST
        if not on_border or not 0.0 <= threshold <= 1.0:
            raise ValueError(
                f"threshold {threshold} is no border of {bins} bins; the nearest is {round(threshold * bins) / bins}"
            )
    positives = _positives(counts, stratum)
    above = counts.levels >= threshold
    tp, fp = int(positives[above].sum()), int(counts.negatives[above].sum())
    fn, tn = int(positives.sum()) - tp, int(counts.negatives.sum()) - fp
    return At(
        threshold,
        tp,
        fp,
        fn,
        tn,
        f1=2 * tp / (2 * tp + fp + fn) if tp + fn else None,
        tpr=tp / (tp + fn) if tp + fn else None,
        precision=tp / (tp + fp) if tp + fp else None,
    )


def measure(counts: Counts, stratum: int | None = None) -> Measures:
    """The numbers of pooled counts; of one stratum: its positives against all of the background, other objects left out."""
    positives = _positives(counts, stratum)
    pos, neg = positives[::-1], counts.negatives[::-1]  # from the highest score down
    tp, fp = np.cumsum(pos), np.cumsum(neg)
    total, others = int(positives.sum()), int(counts.negatives.sum())
    ap = ap_low = ap_high = auc = spread = f1 = f1_high = threshold = tpr = precision = None
    if total:
        seen = np.flatnonzero(pos + neg)
        p, n, t, f = (column[seen].astype(np.float64) for column in (pos, neg, tp, fp))
        mixed = _mixed(counts)[::-1][seen]
        ap = math.fsum(p * (t / (t + f))) / total
        ap_low, ap_high = _ap_bounds(p, n, t, f, mixed, total)
        f1s = 2.0 * t / (total + t + f)
        best = int(np.argmax(f1s))
        f1, threshold = float(f1s[best]), float(counts.levels[::-1][seen[best]])
        f1_high = float((2.0 * t / (total + t + f - np.where(mixed, n, 0.0))).max())
        tpr, precision = float(t[best]) / total, float(t[best] / (t[best] + f[best]))
        if others:
            auc = math.fsum(n * (t - 0.5 * p)) / total / others
            spread = math.fsum(np.where(mixed, 0.5 * n * p, 0.0)) / total / others
    return Measures(
        ap,
        ap_low,
        ap_high,
        auc,
        None if auc is None or spread is None else auc - spread,
        None if auc is None or spread is None else auc + spread,
        f1,
        f1_high,
        threshold,
        tpr,
        precision,
        None if stratum is not None else _balanced(counts, total),
        positives=total,
        negatives=others,
        void=int(counts.voids.sum()) + int(counts.positives.sum()) - total,
        missing=counts.missing,
        images=counts.images,
        grid=counts.grid,
        rule=counts.rule,
    )


def _positives(counts: Counts, stratum: int | None) -> I64:
    if stratum is None:
        every: I64 = counts.positives.sum(axis=0)
        return every
    if not 1 <= stratum <= len(counts.positives):
        raise ValueError(f"no stratum {stratum} of {len(counts.positives)}")
    own: I64 = counts.positives[stratum - 1]
    return own


def _mixed(counts: Counts) -> npt.NDArray[np.bool_]:
    """Which levels may hold more than one score."""
    if counts.grid == "exact":
        return np.zeros(len(counts.levels), dtype=np.bool_)
    mixed: npt.NDArray[np.bool_] = counts.levels > 0.0
    return mixed & (counts.levels < 1.0) if counts.grid.startswith("bins:") else mixed


def _ap_bounds(
    p: F64, n: F64, t: F64, f: F64, mixed: npt.NDArray[np.bool_], total: int
) -> tuple[float, float]:
    """Between which AP lies however the pixels of mixed levels are ordered, ties among them included.

    A positive of a level with p positives and n negatives, t and f of them at or above it, has a precision of at most t / (t + f - n).
    The i-th of them has one of at least (t - p + i) / (t - p + i + f), and a sum of a rising function is at least its integral.
    """
    tied = p * (t / (t + f))
    high = np.where(mixed, p * (t / np.maximum(t + f - n, 1.0)), tied)
    area = np.where(f > 0, p - f * np.log1p(p / np.maximum(t - p + f, 1.0)), p)
    low = np.where(mixed, np.clip(area, 0.0, tied), tied)
    return math.fsum(low) / total, math.fsum(high) / total


def _balanced(counts: Counts, total: int) -> float | None:
    """AP where objects weigh alike, and together as much as their pixels did: kwcoco's balance_area."""
    if counts.shares is None or not total or not counts.objects:
        return None
    shares = counts.shares[::-1].astype(np.float64) / (float(OBJECT) * counts.objects)
    found = np.cumsum(shares) * total
    fp = np.cumsum(counts.negatives[::-1]).astype(np.float64)
    precision = found / np.maximum(found + fp, 1e-300)
    return math.fsum(shares * precision)
