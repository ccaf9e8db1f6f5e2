"""Perceptual hashes of grey pictures: 64 bits that stay the same, or nearly, when a picture is scaled, packed again or toned.

`phash`: the picture in grey (ITU-R 601: 0.299 R + 0.587 G + 0.114 B, as Pillow converts it), 32 × 32 pixels by Lanczos resampling;
its two-dimensional DCT-II without scaling; the 8 × 8 coefficients of the lowest frequencies, the constant one included; a bit is 1
where a coefficient is above the median of the 64. `dhash`: 9 × 8 pixels; a bit is 1 where a pixel is brighter than its left neighbour.
Bits are read row by row, the first is the highest of the 64. Both are the definitions of the ImageHash package (`phash`, `dhash` at
hash_size 8), except that the cosines are taken as integers (steps of 2^-20), so that a coefficient that is zero is exactly zero: hashes of
symmetric and of plain pictures do not depend on the processor. There, and only there, bits differ from ImageHash's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL import Image

I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]
SIDE = 32
LOW = 8


def _cosines() -> I64:
    """(LOW, SIDE): cos(pi (2 x + 1) u / 64) in steps of 2^-20; halves of a row mirror each other exactly."""
    u, x = np.arange(LOW)[:, None], np.arange(SIDE // 2)[None, :]
    left = np.round(np.cos(np.pi * (2 * x + 1) * u / (2 * SIDE)) * (1 << 20)).astype(np.int64)
    return np.concatenate([left, left[:, ::-1] * np.where(u % 2, -1, 1)], axis=1)


COSINES = _cosines()


def grey_for_phash(image: Image.Image) -> U8:
    """(32, 32) pixels of a picture of any mode that Pillow turns into grey."""
    return _grey(image, (SIDE, SIDE))


def grey_for_dhash(image: Image.Image) -> U8:
    """(8, 9) pixels."""
    return _grey(image, (9, 8))


def _grey(image: Image.Image, size: tuple[int, int]) -> U8:
    from PIL import Image as image_module

    grey = image if image.mode == "L" else image.convert("L")
    return np.asarray(grey.resize(size, image_module.Resampling.LANCZOS), np.uint8)


def pixels_hash(image: Image.Image) -> int:
    """64 bits (signed) of an RGB picture, equal for equal pixels: from BLAKE3 over width, height and pixels."""
    from blake3 import blake3

    width, height = image.size
    hasher = blake3(width.to_bytes(4, "little") + height.to_bytes(4, "little"))
    hasher.update(image.tobytes())
    return int.from_bytes(hasher.digest()[:8], "little", signed=True)


def contrast(grey: U8) -> npt.NDArray[np.float32]:
    """(n,) standard deviations of (n, 32, 32) pixels, in grey levels."""
    return np.asarray(grey.astype(np.float64).std(axis=(1, 2)), np.float32)


def phash_bits(grey: U8) -> npt.NDArray[np.uint64]:
    """(n,) hashes of (n, 32, 32) pixels."""
    if not len(grey):
        return np.zeros(0, np.uint64)
    # below 2^58: 255 × 32 × 2^20 by rows, times 32 × 2^20 by columns
    low = np.einsum("ux,nxy->nuy", COSINES, grey.astype(np.int64))
    values = np.einsum("nuy,vy->nuv", low, COSINES).reshape(len(grey), LOW * LOW)
    middle = np.sort(values, axis=1)[:, 31:33].sum(axis=1)
    return _pack(2 * values > middle[:, None])


def dhash_bits(grey: U8) -> npt.NDArray[np.uint64]:
    """(n,) hashes of (n, 8, 9) pixels."""
    return _pack((grey[:, :, 1:] > grey[:, :, :-1]).reshape(len(grey), 64))


def _pack(bits: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint64]:
    packed = np.packbits(bits, axis=1) if len(bits) else np.zeros((0, 8), np.uint8)
    return packed.view(">u8").reshape(-1).astype(np.uint64)


def distance(a: npt.NDArray[np.uint64], b: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint8]:
    """How many of the 64 bits differ."""
    bits: npt.NDArray[np.uint8] = np.bitwise_count(a ^ b)
    return bits
