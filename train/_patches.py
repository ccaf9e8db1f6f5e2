"""Perturbations of single patches of a picture at five strengths: dropped, shuffled, or corrupted while the rest stays.

`patch_drop` and `patch_shuffle` follow "Intriguing Properties of Vision Transformers" (Naseer et al., arXiv
2105.10497): a random share of a 14 x 14 grid becomes black, with no regard to what is salient; the cells of an n x n
grid change places. The published sweep drops 10 to 90 % in steps of 10; ours takes 10, 30, 50, 70, 90. Shuffled grids
have side 2, 4, 7, 8, 14, the five divisors of 224 up to the patch grid (the choice of five is ours).

`patch_NAME`, for the name of a common corruption, follows "Are Vision Transformers Robust to Patch Perturbations?" (Gu
et al., arXiv 2111.10659): natural corruptions of ImageNet-C inside patches only, at its five severities. Which patches,
and how many, is varied there (recalled: the text was not at hand); here it is `patches` of the 14 x 14 grid, 49 (a
quarter) unless told (ours: a single patch of 196 moves the figure of a test set by too little to compare two runs). The
adversarial patches of both studies are left out: they need gradients and measure something else.

Drawn per picture and not per batch, and nested: what is dropped at strength 1 is dropped at all higher ones. On a
picture whose side is no multiple of the grid, cells differ by one pixel (dropped, corrupted) or are resampled
(shuffled).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from train._corruptions import NAMES as COMMON
from train._corruptions import Pixels, corrupt, stream

GRID = 14  # patches a side: 16 pixels of 224
TENTHS = (1, 3, 5, 7, 9)  # of the patches, dropped; rounded down, as published
SHUFFLES = (2, 4, 7, 8, 14)
PATCHES = 49  # corrupted patches of GRID x GRID

NAMES = ("patch_drop", "patch_shuffle", *(f"patch_{name}" for name in COMMON))


def perturb(
    pixels: Pixels, name: str, strength: int, *, seed: int, key: str, patches: int = PATCHES
) -> Pixels:
    """One patch perturbation of a square RGB picture (side x side x 3, uint8) at `strength` 1..5."""
    rng = stream(seed, key, name)
    if name == "patch_shuffle":
        return _shuffle(pixels, SHUFFLES[strength - 1], rng)
    count = GRID * GRID * TENTHS[strength - 1] // 10 if name == "patch_drop" else patches
    mask = _mask(pixels.shape[0], count, rng)
    if name == "patch_drop":
        return np.asarray(np.where(mask[..., None], np.uint8(0), pixels))
    changed = corrupt(pixels, name.removeprefix("patch_"), strength, seed=seed, key=key)
    return np.asarray(np.where(mask[..., None], changed, pixels))


def _mask(side: int, count: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """True on `count` cells of the grid; a larger count covers all cells of a smaller one."""
    chosen = np.zeros(GRID * GRID, dtype=bool)
    chosen[rng.permutation(GRID * GRID)[:count]] = True
    cell = np.arange(side) * GRID // side
    return np.asarray(chosen.reshape(GRID, GRID)[cell[:, None], cell[None, :]])


def _shuffle(pixels: Pixels, grid: int, rng: np.random.Generator) -> Pixels:
    from PIL import Image

    side = pixels.shape[0]
    fitting = -(-side // grid) * grid  # the next multiple; most model sizes are one already for 2, 4 and 8
    if fitting != side:
        picture = Image.fromarray(pixels).resize((fitting, fitting), Image.Resampling.BICUBIC)
        pixels = np.asarray(picture, dtype=np.uint8)
    cell = fitting // grid
    tiles = pixels.reshape(grid, cell, grid, cell, 3).swapaxes(1, 2).reshape(grid * grid, cell, cell, 3)
    tiles = tiles[rng.permutation(grid * grid)]
    mixed = tiles.reshape(grid, grid, cell, cell, 3).swapaxes(1, 2).reshape(fitting, fitting, 3)
    if fitting == side:
        return np.ascontiguousarray(mixed)
    picture = Image.fromarray(np.ascontiguousarray(mixed)).resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(picture, dtype=np.uint8)
