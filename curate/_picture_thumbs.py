"""Looks at the pixels of pictures that are alike by their hashes: 32 × 32 RGB thumbnails and how they correlate.

The correlation is Pearson's over the 3,072 values of two thumbnails (all channels together): 1 for pictures that differ by brightness
or contrast alone, and lower where shapes or colours do. One that is plain (no value differs from the mean) correlates with nothing.
Thumbnails are averaged by area from the RGB picture as it is seen, whatever its shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from curate._picture_decode import PictureError
from curate._picture_tars import Tar, read_pictures, samples_of
from headwater.console import track
from headwater.executor import Executor

if TYPE_CHECKING:
    from PIL import Image

I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]
SIDE = 32
WIDTH = 3 * SIDE * SIDE
PAIRS_AT_ONCE = 2048


def thumbnail(image: Image.Image) -> U8:
    """(WIDTH,) values of an RGB picture."""
    from PIL import Image as image_module

    return np.asarray(image.resize((SIDE, SIDE), image_module.Resampling.BOX), np.uint8).reshape(-1)


def correlation(first: U8, second: U8) -> npt.NDArray[np.float64]:
    """(n,) Pearson correlation of (n, WIDTH) and (n, WIDTH), in exact integers up to the last division; 0 where one is plain."""
    a, b = first.astype(np.float64), second.astype(np.float64)  # sums stay below 2^53: 3,072 × 255² × 3,072
    sum_a, sum_b = a.sum(axis=1), b.sum(axis=1)
    over = WIDTH * np.einsum("ij,ij->i", a, b) - sum_a * sum_b
    spread_a = WIDTH * np.einsum("ij,ij->i", a, a) - sum_a * sum_a
    spread_b = WIDTH * np.einsum("ij,ij->i", b, b) - sum_b * sum_b
    under = np.sqrt(spread_a) * np.sqrt(spread_b)
    return np.where(under > 0, over / np.where(under > 0, under, 1), 0.0)


@dataclass(frozen=True)
class _Job:
    tar: Tar
    index: Path
    places: tuple[int, ...]


def make_thumbnails(
    tars: Sequence[Tar], starts: I64, index: Path, samples: I64, executor: Executor, path: Path
) -> npt.NDArray[np.uint8]:
    """A memory map (n, WIDTH) under `path`: the thumbnails of these samples (ascending). One that does not open stays black."""
    out: U8 = np.lib.format.open_memmap(path, "w+", np.uint8, (max(len(samples), 1), WIDTH))  # type: ignore[no-untyped-call]
    bounds = np.searchsorted(samples, starts)
    jobs = [
        _Job(tar, index, tuple((samples[a:b] - start).tolist()))
        for tar, start, a, b in zip(tars, starts[:-1].tolist(), bounds[:-1], bounds[1:], strict=True)
        if b > a
    ]
    at = 0
    with track("compare pictures", total=len(samples), unit="pictures") as bar:
        for made in executor.map_shards(_thumbnails, jobs):
            out[at : at + len(made)] = made
            at += len(made)
            bar.add(len(made))
    return out


def _thumbnails(job: _Job) -> U8:
    out = np.zeros((len(job.places), WIDTH), np.uint8)
    place = {row: at for at, row in enumerate(job.places)}
    for row, picture in read_pictures(samples_of(job.tar, job.index), job.places):
        try:
            out[place[row]] = thumbnail(picture.open())
        except PictureError:
            continue
    return out


def verify(thumbs: Any, first: I64, others: Any, second: I64) -> npt.NDArray[np.float64]:
    """(n,) correlations of thumbs[first] with others[second], a block at a time."""
    found = np.zeros(len(first))
    for at in range(0, len(first), PAIRS_AT_ONCE):
        piece = slice(at, at + PAIRS_AT_ONCE)
        found[piece] = correlation(np.asarray(thumbs[first[piece]]), np.asarray(others[second[piece]]))
    return found
