"""Basics of pictures: whether they open, their size, blur, flatness and entropy.

`picture_status` is "ok" or why the picture does not open (curate._picture_decode lists the reasons; a rule keeps
`picture_status = 'ok'`); it is null only where there is no picture. The other columns are null unless it is "ok", except
`picture_bytes`. Width and height are those to be seen: the EXIF orientation is applied.

Blur, flatness and entropy look at the picture in grey (0.299 R + 0.587 G + 0.114 B), shrunk so that its longer side is 256 pixels
where it is longer (curate._picture_decode):

    picture_blur      variance of the Laplacian (4 x centre - its 4 neighbours) over inner pixels; low is blurred (0 below 3 x 3)
    picture_flat      share of the pixels that have the most frequent grey level, 1 for a plain picture
    picture_entropy   Shannon entropy of the grey levels in bits, 0 to 8
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from curate.pictures import Picture

VERSION = 1
SCOPE = "pictures"
PROCESSES = "many"
COLUMNS: tuple[str, ...] = ()
OUTPUT = {
    "picture_status": "string",
    "picture_width": "int32",
    "picture_height": "int32",
    "picture_bytes": "int32",
    "picture_blur": "float32",
    "picture_flat": "float32",
    "picture_entropy": "float32",
}
COST = "costly"
SIDE = 256


@dataclass(frozen=True)
class Config:
    """Where the pictures are."""

    shards: Path | None = field(default=None, metadata={"help": "Folder of webdataset tars (or one tar)."})


class Scorer:
    """Opens every picture; needs NumPy and Pillow only."""

    def __init__(self, config: Config) -> None:
        self.identity: dict[str, str] = {}

    def score_pictures(self, batch: list[Picture]) -> dict[str, Any]:
        """One row a picture; see the module."""
        import pyarrow as pa

        from curate.pictures import PictureError

        rows: list[tuple[Any, ...]] = []
        for picture in batch:
            try:
                image = picture.open(SIDE)
            except PictureError as error:
                rows.append((error.status, None, None, len(picture.data), None, None, None))
                continue
            width, height = image.info["size"]
            grey = np.asarray(image.convert("L"), np.uint8)
            counts = np.bincount(grey.reshape(-1), minlength=256)
            rows.append(("ok", width, height, len(picture.data), blur(grey), flat(counts), entropy(counts)))
        columns = zip(*rows, strict=True)
        return {
            name: pa.array(values, pa.type_for_alias(kind))
            for (name, kind), values in zip(OUTPUT.items(), columns, strict=True)
        }


def blur(grey: npt.NDArray[np.uint8]) -> float:
    """Variance of the Laplacian of (height, width) grey levels, in exact integers up to the last division."""
    if min(grey.shape) < 3:
        return 0.0
    values = grey.astype(np.int32)
    edges = (
        4 * values[1:-1, 1:-1] - values[:-2, 1:-1] - values[2:, 1:-1] - values[1:-1, :-2] - values[1:-1, 2:]
    )
    count, total = edges.size, int(edges.sum(dtype=np.int64))
    squares = int(np.square(edges).sum(dtype=np.int64))
    return (count * squares - total * total) / (count * count)


def flat(counts: npt.NDArray[np.integer[Any]]) -> float:
    """Share of the most frequent grey level, of its 256 counts."""
    return float(counts.max() / counts.sum())


def entropy(counts: npt.NDArray[np.integer[Any]]) -> float:
    """Bits a pixel, of the counts of grey levels."""
    share = counts[counts > 0] / counts.sum()
    return abs(float(-(share * np.log2(share)).sum()))
