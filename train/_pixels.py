"""Filters and resampling on float pictures, in numpy alone: what the corruptions are made of.

A picture is float64, height x width x channels, values 0..1. Border rules are named as numpy's `pad` names them:
`edge` repeats the last pixel, `reflect` mirrors without repeating it, `symmetric` mirrors with it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.float64]


def gaussian(picture: Picture, sigma: float, *, truncate: float = 4.0, border: Any = "edge") -> Picture:
    """Gaussian blur; the kernel ends at `truncate` sigmas. `sigma` is in pixels."""
    reach = int(truncate * sigma + 0.5)
    if reach == 0:
        return picture.copy()
    for axis in (0, 1):
        picture = _along(picture, _bell(reach, sigma), axis, border)
    return picture


def correlate(picture: Picture, kernel: NDArray[np.float64]) -> Picture:
    """Correlate each channel with a square kernel of odd side, borders mirrored. Zero weights cost nothing."""
    reach = kernel.shape[0] // 2
    # a kernel may reach further than the picture is wide, which a single mirror does not cover
    padded = np.pad(picture, [(reach, reach), (reach, reach), (0, 0)], mode="reflect")
    height, width = picture.shape[:2]
    result = np.zeros_like(picture)
    for y, x in np.argwhere(kernel):
        result += kernel[y, x] * padded[y : y + height, x : x + width]
    return result


def disk(radius: float, softness: float) -> NDArray[np.float64]:
    """A filled circle as kernel of sum 1, its edge softened by a Gaussian of `softness` pixels."""
    reach = max(8, int(np.ceil(radius)))
    axis = np.arange(-reach, reach + 1)
    filled = (axis[:, None] ** 2 + axis[None, :] ** 2 <= radius**2).astype(np.float64)
    for along in (0, 1):
        filled = _along(filled, _bell(1 if radius <= 8 else 2, softness), along, "constant")
    return np.asarray(filled / filled.sum())


def smear(picture: Picture, radius: float, sigma: float, angle: float) -> Picture:
    """Motion blur: each pixel becomes a half-Gaussian mean of those behind it, as the program ImageMagick does it.

    `radius` and `sigma` are in pixels, `angle` in degrees; the kernel has 2 ceil(radius) + 1 taps on one side.
    """
    taps = 2 * int(np.ceil(radius)) + 1
    weights = np.exp(-0.5 * (np.arange(taps) / sigma) ** 2)
    weights /= weights.sum()
    step_y, step_x = np.sin(np.deg2rad(angle)), np.cos(np.deg2rad(angle))
    height, width = picture.shape[:2]
    result = np.zeros_like(picture)
    for i, weight in enumerate(weights):
        if weight < 1e-6:  # far below one grey level
            break
        rows = np.clip(np.arange(height) + int(np.ceil(i * step_y - 0.5)), 0, height - 1)
        columns = np.clip(np.arange(width) + int(np.ceil(i * step_x - 0.5)), 0, width - 1)
        result += weight * picture[rows[:, None], columns[None, :]]
    return result


def bilinear(picture: Picture, y: NDArray[np.float64], x: NDArray[np.float64]) -> Picture:
    """Values at fractional positions; positions outside are mirrored at the border pixels. Shape of `y`, then channels."""
    height, width = picture.shape[:2]
    y, x = _mirror(y, height), _mirror(x, width)
    top, left = np.floor(y).astype(np.intp), np.floor(x).astype(np.intp)
    below, right = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
    down, across = (y - top)[..., None], (x - left)[..., None]
    upper = picture[top, left] * (1 - across) + picture[top, right] * across
    lower = picture[below, left] * (1 - across) + picture[below, right] * across
    return np.asarray(upper * (1 - down) + lower * down)


def zoom(picture: Picture, factor: float) -> Picture:
    """The middle of the picture enlarged by `factor` >= 1 to the old size."""
    side = picture.shape[0]
    inner = int(np.ceil(side / factor))
    first = (side - inner) // 2
    enlarged = round(inner * factor)
    positions = first + np.arange(enlarged) * (inner - 1) / max(enlarged - 1, 1)
    trim = (enlarged - side) // 2
    positions = np.clip(positions[trim : trim + side], 0, side - 1)
    low = np.floor(positions).astype(np.intp)
    high = np.minimum(low + 1, side - 1)
    share = (positions - low)[:, None, None]
    picture = picture[low] * (1 - share) + picture[high] * share
    picture = picture.swapaxes(0, 1)
    return np.asarray((picture[low] * (1 - share) + picture[high] * share).swapaxes(0, 1))


def plasma(side: int, decay: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """A cloud map of values 0..1 by the diamond-square rule on a torus; detail shrinks by `decay` per level."""
    size = 1 << max(side - 1, 1).bit_length()
    heights = np.zeros((size, size))
    step, swing = size, 1.0
    while step >= 2:
        half = step // 2
        corners = heights[::step, ::step]
        square = (
            corners + np.roll(corners, -1, 0) + np.roll(corners, -1, 1) + np.roll(corners, (-1, -1), (0, 1))
        )
        centres = square / 4 + swing * rng.uniform(-1, 1, square.shape)
        heights[half::step, half::step] = centres
        beside = corners + np.roll(corners, -1, 1) + centres + np.roll(centres, 1, 0)
        heights[::step, half::step] = beside / 4 + swing * rng.uniform(-1, 1, beside.shape)
        above = corners + np.roll(corners, -1, 0) + centres + np.roll(centres, 1, 1)
        heights[half::step, ::step] = above / 4 + swing * rng.uniform(-1, 1, above.shape)
        step, swing = half, swing / decay
    heights -= heights.min()
    return np.asarray(heights / heights.max())[:side, :side]


def _mirror(positions: NDArray[np.float64], length: int) -> NDArray[np.float64]:
    if length == 1:
        return np.zeros_like(positions)
    period = 2.0 * (length - 1)
    folded = np.mod(positions, period)
    return np.asarray(np.where(folded > length - 1, period - folded, folded))


def _bell(reach: int, sigma: float) -> NDArray[np.float64]:
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    return np.asarray(weights / weights.sum())


def _along(values: Picture, weights: NDArray[np.float64], axis: int, border: Any) -> Picture:
    """Correlate along one axis."""
    reach = len(weights) // 2
    padded = np.pad(
        values, [(reach, reach) if i == axis else (0, 0) for i in range(values.ndim)], mode=border
    )
    moved = np.moveaxis(padded, axis, 0)
    total = np.zeros_like(moved[: values.shape[axis]])
    for i, weight in enumerate(weights):
        total += weight * moved[i : i + len(total)]
    return np.moveaxis(total, 0, axis)
