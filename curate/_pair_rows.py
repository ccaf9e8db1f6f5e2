"""What scorers of picture and caption share: pictures that open, the device, and the score from two sets of unit rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from headwater.errors import UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

    from curate.pictures import Picture

Rows = tuple[list[int], npt.NDArray[np.float32]]


def picture_rows(
    batch: list[Picture],
    prepare: Callable[[Image], Any],
    encode: Callable[[list[Any]], npt.NDArray[Any]],
    size: int,
    width: int,
) -> Rows:
    """Numbers and rows of the pictures that open, `size` of them prepared and encoded at a time; the others keep their status."""
    from curate.pictures import PictureError

    numbers: list[int] = []
    parts = [np.zeros((0, width), np.float32)]
    for start in range(0, len(batch), size):
        prepared = []
        for number in range(start, min(start + size, len(batch))):
            try:
                prepared.append(prepare(batch[number].open()))
            except PictureError:
                continue
            numbers.append(number)
        if prepared:
            parts.append(encode(prepared))
    return numbers, np.asarray(np.concatenate(parts), np.float32)


def captioned(batch: list[Picture]) -> tuple[list[int], list[str]]:
    """Numbers and captions of the samples that have one in the pool."""
    found = [(n, picture.caption_of_pool) for n, picture in enumerate(batch)]
    kept = [(n, text) for n, text in found if text and text.strip()]
    return [n for n, _ in kept], [text for _, text in kept]


def in_batches(
    encode: Callable[[list[Any]], npt.NDArray[Any]], items: list[Any], size: int, width: int
) -> npt.NDArray[np.float32]:
    """`encode` over the items, `size` at a time: (n, width)."""
    parts = [encode(items[start : start + size]) for start in range(0, len(items), size)]
    return np.asarray(np.concatenate([np.zeros((0, width), np.float32), *parts]), np.float32)


def check_batch(batch: int, most: int) -> None:
    """Raises UsageError unless 1 <= batch <= most."""
    if not 1 <= batch <= most:
        raise UsageError(f"--batch {batch}: from 1 to {most}")


def device_of(name: str) -> str:
    """`auto` as cuda or cpu. Raises UsageError for cuda without one."""
    import torch

    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise UsageError("--device cuda: torch sees no GPU here", hint="--device cpu, or auto")
    return ("cuda" if there else "cpu") if name == "auto" else name


def as_columns(
    count: int, images: Rows, texts: Rows, names: tuple[str, str, str]
) -> dict[str, npt.NDArray[Any]]:
    """Score, picture rows and caption rows of a batch: (row numbers, float32 unit rows) each, in places that had none zeros.

    The score is the float32 cosine of the rows before they are rounded, then rounded to float16 as the scores of DataComp's pools
    are; null (NaN) unless both are there. A row that is not finite has no score, and stays as it is for who reads the features.
    """
    width = max(images[1].shape[1], texts[1].shape[1])
    full = []
    for numbers, rows in (images, texts):
        placed = np.zeros((count, width), np.float32)
        placed[numbers] = rows
        full.append(placed)
    score = np.full(count, np.nan, np.float32)
    both = np.intersect1d(images[0], texts[0]).astype(np.int64)  # of empty lists it is of floats
    score[both] = np.einsum("ij,ij->i", full[0][both], full[1][both]).astype(np.float16)
    return {names[0]: score, names[1]: full[0].astype(np.float16), names[2]: full[1].astype(np.float16)}
