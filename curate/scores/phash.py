"""Perceptual hashes of pictures: 64 bits by cosine transform, 64 by differences.

`phash` and `dhash` are those of the ImageHash package, as signed 64-bit numbers (see curate._picture_hash for the definition and the
one difference). Near pictures differ in few bits: `picture_groups` and `picture_contamination` look for them. `phash_contrast` is the
standard deviation of the 32 × 32 grey pixels: hashes of plain pictures (contrast near 0) say nothing. `phash_pixels` is equal for equal
pixels, however they are packed: the first 8 bytes, as a little-endian number, of BLAKE3 over width and height (32 bits each,
little-endian) and the RGB bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from curate import _picture_hash as hashes

if TYPE_CHECKING:
    from curate.pictures import Picture

VERSION = 1
SCOPE = "pictures"
PROCESSES = "many"
COLUMNS: tuple[str, ...] = ()
OUTPUT = {"phash": "int64", "dhash": "int64", "phash_contrast": "float32", "phash_pixels": "int64"}
COST = "costly"


@dataclass(frozen=True)
class Config:
    """Where the pictures are."""

    shards: Path | None = field(default=None, metadata={"help": "Folder of webdataset tars (or one tar)."})


class Scorer:
    """Hashes pictures; needs NumPy and Pillow only."""

    def __init__(self, config: Config) -> None:
        self.identity: dict[str, str] = {}

    def score_pictures(self, batch: list[Picture]) -> dict[str, Any]:
        """The columns, one row a picture; null for a picture that does not open. phash_contrast is in grey levels."""
        import pyarrow as pa

        from curate.pictures import PictureError

        count = len(batch)
        large, small = np.zeros((count, 32, 32), np.uint8), np.zeros((count, 8, 9), np.uint8)
        bad, pixels = np.zeros(count, np.bool_), np.zeros(count, np.int64)
        for at, picture in enumerate(batch):
            try:
                image = picture.open()
            except PictureError:
                bad[at] = True
                continue
            pixels[at] = hashes.pixels_hash(image)
            grey = image.convert("L")
            large[at], small[at] = hashes.grey_for_phash(grey), hashes.grey_for_dhash(grey)
        return {
            "phash": pa.array(hashes.phash_bits(large).view(np.int64), mask=bad),
            "dhash": pa.array(hashes.dhash_bits(small).view(np.int64), mask=bad),
            "phash_contrast": pa.array(hashes.contrast(large), mask=bad),
            "phash_pixels": pa.array(pixels, mask=bad),
        }
