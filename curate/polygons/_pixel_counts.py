"""Pixels of one image by label and level of score, on each of the grids of `metrics`; scores outside 0..1 are refused here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from curate.polygons.raster import Crop

I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]
Labels = npt.NDArray[np.uint8]

MOST_BINS = 1 << 20
LEAST = float(np.nextafter(0.0, 1.0))  # the smallest score above 0
VOID = 255  # label of pixels that are left out
OBJECT = 1 << 44  # the weight of one object, shared by its pixels, where objects count alike


def label_rows(truth: npt.NDArray[Any], strata: int) -> tuple[Labels, int]:
    """Flat labels below the number of rows that goes with them: background, strata, and what is left out where that occurs."""
    if not 1 <= strata < VOID:
        raise ValueError(f"{strata} strata: 1..{VOID - 1}")
    labels: Labels = np.ascontiguousarray(truth).reshape(-1)
    if labels.dtype == np.bool_:
        return labels.view(np.uint8), strata + 1
    if labels.dtype != np.uint8:
        raise ValueError(f"truth is bool or uint8, not {truth.dtype}")
    highest = int(labels.max())
    if highest <= strata:
        return labels, strata + 1
    void = labels == VOID
    if highest != VOID or int(labels.max(where=~void, initial=0)) > strata:
        raise ValueError(f"a label above {strata} strata that is not {VOID}")
    return np.where(void, np.uint8(strata + 1), labels), strata + 2


def flat_scores(scores: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Flat scores of a type the kernels take: float32, float64, uint8 or uint16."""
    if scores.dtype == np.float16:
        scores = scores.astype(np.float32)
    if scores.dtype not in (np.float32, np.float64, np.uint8, np.uint16):
        raise ValueError(f"scores are floats, uint8 or uint16, not {scores.dtype}")
    return np.ascontiguousarray(scores).reshape(-1)


def bin_levels(bins: int) -> F64:
    """The lowest score of each level (bins + 2,): 0 alone, above 0, 1 / bins, 2 / bins, .. and 1 alone."""
    return np.concatenate([[0.0, LEAST], np.arange(1, bins + 1, dtype=np.float64) / bins])


def on_bins(flat: npt.NDArray[Any], labels: Labels, rows: int, bins: int) -> tuple[F64, I64, int]:
    """Levels (bins + 2,), counts (rows, bins + 2) and how many pixels have no score."""
    from curate.polygons import _pixel_kernel as kernels

    levels = bin_levels(bins)
    if flat.dtype.kind == "u":
        by_value, most = _by_value(flat, labels, rows)
        places = np.arange(most + 1, dtype=np.int64) * bins // most + 1
        places[0] = 0
        return levels, _moved(by_value, places, len(levels)), 0
    counts = np.zeros((rows, bins + 4), dtype=np.int64)
    kernels.bin_pixels(flat, labels, bins, counts)
    return levels, counts[:, : bins + 2], _missing(counts, bins + 2)


def on_grid(flat: npt.NDArray[Any], labels: Labels, rows: int, levels: F64) -> tuple[I64, int]:
    """Counts (rows, levels), each score at the first level that is not below it, and how many pixels have no score."""
    from curate.polygons import _pixel_kernel as kernels

    if flat.dtype.kind == "u":
        by_value, most = _by_value(flat, labels, rows)
        places = np.searchsorted(levels, np.arange(most + 1) / most).astype(np.int64)
        return _moved(by_value, places, len(levels)), 0
    counts = np.zeros((rows, len(levels) + 2), dtype=np.int64)
    kernels.grid_pixels(flat, labels, levels, counts)
    return counts[:, : len(levels)], _missing(counts, len(levels))


def on_values(flat: npt.NDArray[Any], labels: Labels, rows: int) -> tuple[F64, I64, int]:
    """Levels (n,): the scores that occur; counts (rows, n) and how many pixels have no score."""
    if flat.dtype.kind == "u":
        by_value, most = _by_value(flat, labels, rows)
        return np.arange(most + 1) / most, by_value, 0
    known = flat == flat
    missing = len(flat) - int(np.count_nonzero(known))
    if missing:
        flat, labels = flat[known], labels[known]
    if not len(flat):
        return np.zeros(0), np.zeros((rows, 0), dtype=np.int64), missing
    if not (flat.min() >= 0.0 and flat.max() <= 1.0):
        raise ValueError("scores outside 0..1")
    flat = flat + flat.dtype.type(0.0)  # -0 is 0
    if (
        flat.dtype == np.float32
    ):  # bits of floats from 0 up are in their order, and up to 1 there are 30 of them
        kind, shift = (np.uint32, 2) if rows <= 4 else (np.uint64, 8)
        keys: npt.NDArray[Any] = flat.view(np.uint32).astype(kind)
        keys = (keys << kind(shift)) | labels
        keys.sort()
        firsts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1]))
        values = (keys[firsts] >> kind(shift)).astype(np.uint32).view(np.float32)
        owners = (keys[firsts] & kind((1 << shift) - 1)).astype(np.int64)
    else:
        order = np.lexsort((labels, flat))
        flat, labels = flat[order], labels[order]
        firsts = np.flatnonzero(np.append(True, (flat[1:] != flat[:-1]) | (labels[1:] != labels[:-1])))
        values, owners = flat[firsts], labels[firsts].astype(np.int64)
    many = np.diff(np.append(firsts, len(flat)))
    new = np.append(True, values[1:] != values[:-1])
    counts = np.zeros((rows, int(new.sum())), dtype=np.int64)
    counts[owners, np.cumsum(new) - 1] = many
    return values[new].astype(np.float64), counts, missing


def object_shares(scores: npt.NDArray[Any], objects: Sequence[Crop], bins: int) -> tuple[I64, int]:
    """`OBJECT` of each object spread over its pixels with a score, by level (bins + 2,); how many objects have such pixels."""
    from curate.polygons import _pixel_kernel as kernels

    shares = np.zeros(bins + 2, dtype=np.int64)
    seen = 0
    for crop in objects:
        if (crop.height, crop.width) != scores.shape:
            raise ValueError(f"a mask of an image of {crop.height} x {crop.width}, not of {scores.shape}")
        window = np.ascontiguousarray(scores[crop.window])
        seen += bool(kernels.balanced_pixels(window, crop.mask, bins, OBJECT, shares))
    return shares, seen


def _by_value(flat: npt.NDArray[Any], labels: Labels, rows: int) -> tuple[I64, int]:
    from curate.polygons import _pixel_kernel as kernels

    most = int(np.iinfo(flat.dtype).max)
    counts = np.zeros((rows, most + 1), dtype=np.int64)
    kernels.value_pixels(flat, labels, counts)
    return counts, most


def _moved(counts: I64, places: I64, levels: int) -> I64:
    out = np.zeros((len(counts), levels), dtype=np.int64)
    for row, many in zip(out, counts, strict=True):
        np.add.at(row, places, many)
    return out


def _missing(counts: I64, levels: int) -> int:
    """How many pixels have no score; ValueError where some have one outside 0..1."""
    outside = int(counts[:, levels + 1].sum())
    if outside:
        raise ValueError(f"{outside} pixels have scores outside 0..1")
    return int(counts[:, levels].sum())
