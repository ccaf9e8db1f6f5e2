"""Compiled part of the pixel metrics: histograms of scores, one for each label, in one pass."""

from __future__ import annotations

import numpy as np

from curate._jit import kernel


@kernel
def bin_pixels(scores, labels, bins, counts):  # type: ignore[no-untyped-def]
    """Adds pixels to counts (labels, bins + 4) int64: column 0 holds scores of 0, column k + 1 those of k / bins up to the next.

    So column `bins` + 1 holds scores of 1; the last two hold scores that are no number, and those outside 0..1. `scores` are flat floats,
    `labels` flat uint8 below the rows; `bins` a power of two, so that the product is exact. A pixel like the one before costs little.
    """
    scale = scores.dtype.type(bins)
    last = scores.dtype.type(-1.0)
    last_label, place, run = np.int64(-1), np.int64(0), np.int64(0)
    for i in range(len(scores)):
        score, label = scores[i], np.int64(labels[i])
        if score == last and label == last_label:
            run += 1
            continue
        counts[max(last_label, 0), place] += run
        if score >= 0.0 and score <= 1.0:
            place = np.int64(score * scale) + 1 if score != 0.0 else np.int64(0)
        else:
            place = np.int64(bins + 3 if score == score else bins + 2)
        last, last_label, run = score, label, np.int64(1)
    counts[max(last_label, 0), place] += run


@kernel
def grid_pixels(scores, labels, grid, counts):  # type: ignore[no-untyped-def]
    """As `bin_pixels`, by the first value of an even, ascending grid from 0 to 1 that is not below the score; two columns more."""
    n = len(grid)
    scale = np.float64(n - 1)
    last = scores.dtype.type(-1.0)
    last_label, place, run = np.int64(-1), np.int64(0), np.int64(0)
    for i in range(len(scores)):
        score, label = scores[i], np.int64(labels[i])
        if score == last and label == last_label:
            run += 1
            continue
        counts[max(last_label, 0), place] += run
        if score >= 0.0 and score <= 1.0:
            exact = np.float64(score)
            place = np.int64(exact * scale)
            while place > 0 and grid[place - 1] >= exact:
                place -= 1
            while grid[place] < exact:
                place += 1
        else:
            place = np.int64(n + 1 if score == score else n)
        last, last_label, run = score, label, np.int64(1)
    counts[max(last_label, 0), place] += run


@kernel
def value_pixels(values, labels, counts):  # type: ignore[no-untyped-def]
    """Adds pixels of whole-number maps to counts (labels, values) int64."""
    for i in range(len(values)):
        counts[labels[i], values[i]] += 1


@kernel
def balanced_pixels(scores, mask, bins, whole, counts):  # type: ignore[no-untyped-def]
    """Shares `whole` evenly among the pixels of a mask that have a score, in counts (bins + 2,) int64; how many those are."""
    scale = scores.dtype.type(bins)
    seen = 0
    for r in range(mask.shape[0]):
        for c in range(mask.shape[1]):
            seen += mask[r, c] and scores[r, c] >= 0.0 and scores[r, c] <= 1.0
    if seen == 0:
        return 0
    share = np.int64(whole) // seen
    for r in range(mask.shape[0]):
        for c in range(mask.shape[1]):
            score = scores[r, c]
            if mask[r, c] and score >= 0.0 and score <= 1.0:
                counts[np.int64(score * scale) + 1 if score != 0.0 else 0] += share
    return seen
