"""The figures that kwcoco's pixel evaluator prints for merged images, so that published numbers can be set beside exact ones.

As in kwcoco 0.9.1 (kwcoco.metrics: Measures.combine with fixed thresholds, then populate_info), described in our words:

    1. Scores go up to the next of 1,024 even values. An image knows its counts at the values that it has (pixels of weight 0 included).
    2. Merging takes the step of each count from one of an image's own values to the next. Steps of true and false positives are put at
       the value where the pixels lie. Steps of false and true negatives are put at the *upper* end: pixels of value v are false
       negatives from the image's next value v' on, not from the first value above v on; those of its highest value never are.
       So within every gap between an image's own values it has too few false negatives, TP + FN is no constant, and recall is too high.
       Maps of a detector, zero but for a few masks, are all gap; dense maps have none.
    3. Precision is made never to rise as recall falls; AP is the mean of precision at 101 recalls (pycocotools' way), where recall
       need not ascend and the search is a plain binary one; AUC is the trapezoid of TP / all positives over FP / all found, and is right;
       F1 and TPR are those at the highest F1.

One image alone is not merged, and its figures are right but for the rules of 3. `lost` says how many false negatives are missing at the
threshold that is reported. Images of fewer than 7 pixels, which kwcoco pads with made-up ones, are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]

RECALLS = 101
FEWEST = 7


@dataclass(frozen=True)
class KwcocoFigures:
    """AP, AUC, highest F1 with its threshold, TPR and precision there; `lost` false negatives that the merge does not count there."""

    ap: float
    auc: float | None
    f1: float
    threshold: float
    tpr: float
    precision: float
    lost: int
    images: int
    rule: str


def merged(parts: Sequence[Any], levels: int) -> tuple[F64, F64, F64, F64]:
    """Thresholds from the highest down, and tp, fp, fn at each, as kwcoco merges them. `parts`: `metrics.Counts`, one per image."""
    grid = np.linspace(0.0, 1.0, levels)
    pos, neg, fn = (np.zeros(levels) for _ in range(3))
    for part in parts:
        places = np.searchsorted(grid, part.levels)
        own = part.positives.sum(axis=0)
        if part.missing and (not len(places) or places[0] != 0):  # without a score: weight 0 at score 0
            places, own = np.append(0, places), np.append(0, own)
            neg[places[1:]] += part.negatives
        else:
            neg[places] += part.negatives
        pos[places] += own
        fn[places[1:]] += own[:-1]
        if len(parts) == 1:
            tp, fp = np.cumsum(pos[::-1]), np.cumsum(neg[::-1])
            seen = np.zeros(levels, dtype=np.bool_)
            seen[places] = True
            seen = seen[::-1]
            return grid[::-1][seen], tp[seen], fp[seen], pos.sum() - tp[seen]
    return grid[::-1], np.cumsum(pos[::-1]), np.cumsum(neg[::-1]), np.cumsum(fn)[::-1]


def kwcoco_figures(parts: Sequence[Any]) -> KwcocoFigures:
    """What kwcoco's evaluator prints for these images: counts of the grid "kwcoco", one each, not pooled. ValueError otherwise.

    The numbers equal kwcoco's digit by digit, but for images of more than 2^24 pixels, whose sizes it adds up in float32. AUC is None
    where kwcoco gives NaN: no positive pixel.
    """
    if not parts:
        raise ValueError("no counts")
    for part in parts:
        if not part.grid.startswith("kwcoco:") or part.images != 1:
            raise ValueError(
                f"needs counts of single images on the grid kwcoco, not {part.images} on {part.grid}"
            )
        pixels = part.negatives.sum() + part.positives.sum() + part.voids.sum() + part.missing
        if pixels < FEWEST:
            raise ValueError(f"kwcoco adds made-up pixels to images of fewer than {FEWEST}")
    if len({part.rule for part in parts}) > 1:
        raise ValueError("counts of different rules")
    thresholds, tp, fp, fn = merged(parts, int(parts[0].grid.removeprefix("kwcoco:")))
    total = int(sum(int(part.positives.sum()) for part in parts))
    found = tp + fp
    precision = np.divide(tp, found, out=np.zeros_like(tp), where=found > 0)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    truth = tp + fn
    recall = tp / np.where(truth > 0, truth, 1.0)
    product, both = precision * recall, precision + recall
    f1 = 2.0 * product / np.where(both == 0, 1.0, both)
    best = int(np.argmax(f1))
    return KwcocoFigures(
        ap=_ap(recall, precision),
        auc=_auc(tp, fp, total),
        f1=float(f1[best]),
        threshold=float(thresholds[best]),
        tpr=float(recall[best]),
        precision=float(precision[best]),
        lost=total - int(truth[best]),
        images=len(parts),
        rule=parts[0].rule,
    )


def _ap(recall: F64, precision: F64) -> float:
    """The mean of precision at 101 recalls; past the first recall that the search does not find, zero."""
    last = int(np.searchsorted(recall, recall[-1]))
    places = np.searchsorted(recall[: last + 1], np.linspace(0.0, 1.0, RECALLS), side="left")
    beyond = np.flatnonzero(places > min(last, len(recall) - 1))
    known = int(beyond[0]) if len(beyond) else RECALLS
    found = np.zeros(RECALLS)
    found[:known] = precision[places[:known]]
    return float(found.mean())


def _auc(tp: F64, fp: F64, total: int) -> float | None:
    if not total:
        return None
    tpr, fpr = tp / total, fp / (fp[-1] or 1.0)
    if (fpr == fpr[0]).all():
        return float((tpr - fpr).max())  # a line straight up: Youden's J
    return float(np.sum(np.diff(fpr) * (tpr[1:] + tpr[:-1]) / 2.0))
