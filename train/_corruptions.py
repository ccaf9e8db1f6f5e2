"""Common corruptions of a picture at five strengths, after ImageNet-C, with numpy and Pillow only.

Source: Hendrycks and Dietterich, arXiv 1903.12261, whose constants for 224-pixel pictures (ImageNet-C) and for
64-pixel pictures (ImageNet-64x64-C) are both published. A picture of fewer than 120 pixels a side takes the second
table, others the first; lengths in pixels are scaled by side/64 or side/224, so that at 64 and 224 they are the published ones.

Published constants: all but those of `elastic`, of `glass_blur` at 64 pixels, and the texture of `frost`.
Ours: `elastic` (the published rows go from large to small distortions, so that row 3 alters less than row 2: ours weaken
the published last row); `glass_blur` at 64 pixels (the published first row moves pixels without blurring them and alters
more than the second: ours leave it out, go on, and add one at the end), and its pixels are swapped where the published
program, by mistake, copies them; the frost itself, a generated texture in place of photographs. Figures are therefore
comparable among our runs, and only roughly with those on ImageNet-C, which is moreover stored as JPEG.

One picture and one name give one stream of random numbers, used at all five strengths: the curve over strengths is then
not blurred by other noise. The result depends on (seed, key, name, strength) and on nothing else.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from train._pixels import Picture, bilinear, correlate, disk, gaussian, plasma, smear, zoom

STRENGTHS = (1, 2, 3, 4, 5)
SMALL_SIDE = 120  # pixels; about the geometric mean of 64 and 224

Pixels = NDArray[np.uint8]
Rng = np.random.Generator
Row = Any  # a number or a tuple of numbers, one row of a table

# name: (rows for 64 pixels, rows for 224 pixels)
TABLES: dict[str, tuple[tuple[Row, ...], tuple[Row, ...]]] = {
    # standard deviation, of full scale
    "gaussian_noise": ((0.04, 0.08, 0.12, 0.15, 0.18), (0.08, 0.12, 0.18, 0.26, 0.38)),
    # photons at full scale
    "shot_noise": ((250, 100, 50, 30, 15), (60, 25, 12, 5, 3)),
    # share of values set to 0 or 1
    "impulse_noise": ((0.01, 0.02, 0.05, 0.08, 0.14), (0.03, 0.06, 0.09, 0.17, 0.27)),
    # radius in pixels, softness of the rim
    "defocus_blur": (
        ((0.5, 0.6), (1, 0.1), (1.5, 0.1), (2.5, 0.01), (3, 0.1)),
        ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    ),
    # sigma in pixels, furthest swap in pixels, rounds
    "glass_blur": (
        ((0.5, 1, 1), (0.6, 1, 2), (0.7, 2, 1), (0.8, 2, 2), (0.9, 3, 2)),  # ours
        ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    ),
    # radius and sigma in pixels
    "motion_blur": (
        ((10, 1), (10, 1.5), (10, 2), (10, 2.5), (12, 3)),
        ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    ),
    # end and step of the zoom factors
    "zoom_blur": (
        ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
        ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
    ),
    # mean, deviation, zoom, threshold, radius, sigma (pixels), share of the picture that stays
    "snow": (
        (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.8),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.8),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.7),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.65),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.6),
        ),
        (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
    ),
    # weights of picture and frost
    "frost": (
        ((1, 0.3), (0.9, 0.4), (0.8, 0.45), (0.75, 0.5), (0.7, 0.55)),
        ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
    ),
    # weight of the cloud map, decay of its detail
    "fog": (
        ((0.4, 3), (0.7, 3), (1, 2.5), (1.5, 2), (2, 1.75)),
        ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
    ),
    # added to the value of HSV
    "brightness": ((0.1, 0.2, 0.3, 0.4, 0.5), (0.1, 0.2, 0.3, 0.4, 0.5)),
    # share of the contrast that stays
    "contrast": ((0.4, 0.3, 0.2, 0.1, 0.05), (0.4, 0.3, 0.2, 0.1, 0.05)),
    # ours: amplitude, smoothness and corner shift in pixels; the last row of each is the published one
    "elastic": (
        tuple((64 * 0.16 * f, 64 * 0.03, 64 * 0.02 * f) for f in (0.3, 0.45, 0.6, 0.8, 1.0)),
        tuple((244 * 0.12 * f, 244 * 0.01, 244 * 0.02 * f) for f in (0.3, 0.45, 0.6, 0.8, 1.0)),
    ),
    # share of the side that stays
    "pixelate": ((0.9, 0.8, 0.7, 0.6, 0.5), (0.6, 0.5, 0.4, 0.3, 0.25)),
    # quality
    "jpeg": ((65, 58, 50, 40, 25), (25, 18, 15, 10, 7)),
}


def corrupt(pixels: Pixels, name: str, strength: int, *, seed: int, key: str) -> Pixels:
    """One common corruption of a square RGB picture (side x side x 3, uint8) at `strength` 1..5."""
    side = pixels.shape[0]
    small, large = TABLES[name]
    row = (small if side < SMALL_SIDE else large)[strength - 1]
    scale = side / (64 if side < SMALL_SIDE else 224)
    rng = stream(seed, key, name)
    result = _CORRUPTIONS[name](pixels.astype(np.float64) / 255, row, scale, rng)
    return np.asarray(np.rint(np.clip(result, 0, 1) * 255), dtype=np.uint8)


def stream(seed: int, key: str, name: str) -> Rng:
    """Random numbers that belong to one picture and one corruption, whatever was drawn before."""
    digest = hashlib.sha256(f"{seed}\0{key}\0{name}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "big")))


def _gaussian_noise(x: Picture, row: Row, scale: float, rng: Rng) -> Picture:
    return np.asarray(x + rng.normal(size=x.shape) * row)


def _shot_noise(x: Picture, row: Row, scale: float, rng: Rng) -> Picture:
    return np.asarray(rng.poisson(x * row) / row)


def _impulse_noise(x: Picture, row: Row, scale: float, rng: Rng) -> Picture:
    hit, white = rng.random(x.shape) < row, rng.random(x.shape) < 0.5
    return np.asarray(np.where(hit, white, x))


def _defocus_blur(x: Picture, row: Row, scale: float, rng: Rng) -> Picture:
    radius, softness = row
    return correlate(x, disk(radius * scale, softness))


def _glass_blur(x: Picture, row: Row, scale: float, rng: Rng) -> Picture:
    sigma, furthest, rounds = row
    side = x.shape[0]
    reach = max(1, round(furthest * scale))
    blurred = gaussian(x, sigma * scale)
    inner = side - 2 * reach
    places = list(range(side * side))
    for _ in range(rounds):
        shifts = rng.integers(-reach, reach, size=(inner * inner, 2))
        jumps = (shifts[:, 0] * side + shifts[:, 1]).tolist()
        rows = np.arange(side - reach, reach, -1)
        starts = (rows[:, None] * side + rows[None, :]).ravel().tolist()
        for start, jump in zip(starts, jumps, strict=True):
            other = start + jump
            places[start], places[other] = places[other], places[start]
    return gaussian(blurred.reshape(-1, 3)[places].reshape(x.shape), sigma * scale)


def _motion_blur(x: Picture, row: Row, scale: float, rng: Rng) -> Picture:
    radius, sigma = row
    return smear(x, radius * scale, sigma * scale, float(rng.uniform(-45, 45)))


def _zoom_blur(x: Picture, row: Row, scale: float, rng: Rng) -> Picture:
    end, step = row
    factors = np.arange(1, end, step)
    return np.asarray((x + sum(zoom(x, float(factor)) for factor in factors)) / (len(factors) + 1))


def _snow(x: Picture, row: Row, scale: float, rng: Rng) -> Picture:
    mean, deviation, factor, threshold, radius, sigma, stays = row
    flakes = zoom((mean + deviation * rng.normal(size=x.shape[:2]))[..., None], factor)
    flakes = np.clip(np.where(flakes < threshold, 0, flakes), 0, 1)
    flakes = smear(flakes, radius * scale, sigma * scale, float(rng.uniform(-135, -45)))
    grey = x @ np.array([0.299, 0.587, 0.114])
    pale = np.maximum(x, grey[..., None] * 1.5 + 0.5)
    return np.asarray(stays * x + (1 - stays) * pale + flakes + np.rot90(flakes, 2))


def _frost(x: Picture, row: Row, scale: float, rng: Rng) -> Picture:
    of_picture, of_frost = row
    return np.asarray(of_picture * x + of_frost * _ice(x.shape[0], rng))


def _ice(side: int, rng: Rng) -> Picture:
    """Pale blue veins on a dark pane, denser towards the rim: sharp ridges of two cloud maps bent by a third."""
    bend = 0.15 * side * (plasma(side, 2.0, rng) - 0.5)
    rows, columns = np.meshgrid(np.arange(side), np.arange(side), indexing="ij")
    centre = (side - 1) / 2
    rim = np.maximum(np.abs(rows - centre), np.abs(columns - centre)) / max(centre, 1)
    veins = np.zeros((side, side))
    for decay, sharpness in ((1.8, 12), (1.4, 8)):
        ridge = 1 - np.abs(2 * plasma(side, decay, rng) - 1)
        bent = bilinear(ridge[..., None], rows + bend, columns - bend)[..., 0]
        veins = np.maximum(veins, bent ** (sharpness * (1.4 - rim)))
    brightness = 0.08 + 0.92 * veins
    return np.asarray(brightness[..., None] * np.array([0.88, 0.95, 1.0]))


def _fog(x: Picture, row: Row, scale: float, rng: Rng) -> Picture:
    weight, decay = row
    brightest = max(float(x.max()), 1e-3)  # a black picture would stay black under any fog
    cloud = plasma(x.shape[0], decay, rng)[..., None]
    return np.asarray((x + weight * cloud) * brightest / (brightest + weight))


def _brightness(x: Picture, row: Row, scale: float, rng: Rng) -> Picture:
    value = x.max(axis=2, keepdims=True)
    raised = np.minimum(value + row, 1)
    # hue and saturation stay when all three channels grow by one factor; black has neither and becomes grey
    return np.asarray(np.where(value > 0, x * raised / np.where(value > 0, value, 1), raised))


def _contrast(x: Picture, row: Row, scale: float, rng: Rng) -> Picture:
    means = x.mean(axis=(0, 1), keepdims=True)
    return np.asarray((x - means) * row + means)


def _elastic(x: Picture, row: Row, scale: float, rng: Rng) -> Picture:
    amplitude, smooth, shift = (value * scale for value in row)
    side = x.shape[0]
    third, centre = side // 3, side // 2
    corners = np.array(
        [[centre + third, centre + third], [centre + third, centre - third], [centre - third] * 2]
    )
    moved = corners + shift * rng.uniform(-1, 1, corners.shape)
    # the affine map that takes the three moved corners back
    affine = np.linalg.solve(np.column_stack([moved, np.ones(3)]), corners.astype(np.float64))
    rows, columns = np.meshgrid(np.arange(side), np.arange(side), indexing="ij")
    fields = [
        amplitude * gaussian(rng.uniform(-1, 1, (side, side)), smooth, truncate=3, border="symmetric")
        for _ in "yx"
    ]
    grid = np.stack([rows + fields[0], columns + fields[1], np.ones((side, side))], axis=-1) @ affine
    return bilinear(x, grid[..., 0], grid[..., 1])


def _pixelate(x: Picture, row: Row, scale: float, rng: Rng) -> Picture:
    from PIL import Image

    side = x.shape[0]
    picture = Image.fromarray(np.asarray(np.rint(x * 255), dtype=np.uint8))
    fewer = max(1, int(side * row))
    picture = picture.resize((fewer, fewer), Image.Resampling.BOX).resize((side, side), Image.Resampling.BOX)
    return np.asarray(picture, dtype=np.float64) / 255


def _jpeg(x: Picture, row: Row, scale: float, rng: Rng) -> Picture:
    from PIL import Image

    packed = io.BytesIO()
    Image.fromarray(np.asarray(np.rint(x * 255), dtype=np.uint8)).save(packed, "JPEG", quality=row)
    with Image.open(packed) as picture:
        return np.asarray(picture.convert("RGB"), dtype=np.float64) / 255


_CORRUPTIONS: dict[str, Callable[[Picture, Row, float, Rng], Picture]] = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "impulse_noise": _impulse_noise,
    "defocus_blur": _defocus_blur,
    "glass_blur": _glass_blur,
    "motion_blur": _motion_blur,
    "zoom_blur": _zoom_blur,
    "snow": _snow,
    "frost": _frost,
    "fog": _fog,
    "brightness": _brightness,
    "contrast": _contrast,
    "elastic": _elastic,
    "pixelate": _pixelate,
    "jpeg": _jpeg,
}
NAMES = tuple(_CORRUPTIONS)
