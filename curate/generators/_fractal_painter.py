"""The buffers of the fractal kernels: a painter of pictures, and the search for systems."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from curate.generators import Category, Picture, _fractal
from curate.generators._random import number, picture_key
from curate.generators._trig import tables
from curate.generators.fractaldb import CANDIDATES, FRAME, GREY, Config, parameters, variation

COLOURS = 128  # of the script's palette, one a point, over and over


def palette() -> npt.NDArray[np.uint8]:
    """(128, 3) the script's colours: hue in 128 steps, saturation and intensity 3/4, cut to whole numbers.

    The script's comment has them in the order blue, green, red and it saves them as red, green, blue; so the pictures, and ours.
    """
    colours = np.zeros((COLOURS, 3), np.uint8)
    bright, dark = 191, 47  # 255 * 3/4, and that times 1/4
    for k in range(COLOURS):
        sextant, rest = divmod(6 * k, COLOURS)
        falling = 765 * (4 * COLOURS - 3 * rest) // (16 * COLOURS)
        rising = 765 * (4 * COLOURS - 3 * (COLOURS - rest)) // (16 * COLOURS)
        colours[k] = (
            (dark, rising, bright), (dark, bright, falling), (rising, bright, dark),
            (bright, falling, dark), (bright, dark, rising), (falling, dark, bright),
        )[sextant]  # fmt: skip
    return colours


class Searcher:
    """Looks for systems that fill the search frame; about 1.9 MB of buffers."""

    def __init__(self, config: Config) -> None:
        points = int(_fractal.STAGES[:, 2].max())
        self._least = math.ceil(Fraction(str(config.rate)) * FRAME)
        sigma = round(config.sigma * (1 << 20))
        self._law = (config.maps_min, config.maps_max, int(config.sampling == "contractive"), sigma)
        self._scratch = (
            *tables(_fractal.ANGLES),
            np.zeros(64, np.int64),
            np.zeros(_fractal.SLOTS, np.uint8),
            np.zeros(points, np.int64),
            np.zeros(points, np.int64),
            np.zeros(4, np.int64),
            np.zeros(FRAME, np.uint8),
        )

    def find(self, key: int) -> tuple[npt.NDArray[np.int64], int, int, int]:
        """(7, 6) Q16 parameters, maps, pixels filled, candidates looked at; maps is 0 where none of CANDIDATES fills enough."""
        params = np.zeros((_fractal.MAPS, 6), np.int64)
        maps, hit, tries = _fractal.search(
            np.uint64(key), self._law, max(1, self._least), CANDIDATES, self._scratch, params
        )
        return params, maps, hit, tries

    def fill(self, params: npt.NDArray[np.int64], maps: int, key: int, least: int) -> int:
        """Pixels of the search frame that a system fills; 0 where it escapes or stays below `least`."""
        weights = np.full(6, 65536, np.int64)
        _, _, flat, slots, xs, ys, box, seen = self._scratch
        _fractal.build(params, maps, weights, flat, slots)
        return int(_fractal.fill(flat, slots, np.uint64(key), max(1, least), xs, ys, box, seen))


class FractalPainter:
    """Draws categories of one configuration: 16 bytes a point, and two pictures."""

    def __init__(self, config: Config, seed: int, *, colour: bool) -> None:
        self.config = config
        self.seed = seed
        self.colour = colour
        size = config.image_size
        self._maps = np.zeros(64, np.int64)
        self._slots = np.zeros(_fractal.SLOTS, np.uint8)
        self._xs = np.zeros(config.iteration, np.int64)
        self._ys = np.zeros(config.iteration, np.int64)
        self._box = np.zeros(4, np.int64)
        shape = (size, size, 3) if colour else (size, size)
        self._canvas = np.zeros(shape, np.uint8)
        self._pixels = np.zeros(shape, np.uint8)
        self._colours = palette() if colour else np.full((1, 1), GREY, np.uint8)

    def paint(self, category: Category, index: int, instance: int, attempt: int = 0) -> Picture:
        """Picture `instance` of a system. Raises UsageError for a record that is none."""
        config = self.config
        weights, flip = variation(instance, attempt, config)
        key = np.uint64(picture_key(self.seed, index, instance, attempt))
        _fractal.build(parameters(category), category["maps"], weights, self._maps, self._slots)
        _fractal.walk(self._maps, self._slots, key, config.iteration, self._xs, self._ys, self._box)
        self._canvas[:] = 0
        self._draw(key)
        # y grows upward in the script's pictures, then comes the flip
        turned: Any = self._canvas if flip in (1, 3) else self._canvas[::-1]
        np.copyto(self._pixels, turned[:, ::-1] if flip in (2, 3) else turned)
        return Picture(self._pixels)

    def _draw(self, key: np.uint64) -> None:
        config, size, pad = self.config, self.config.image_size, self.config.pad_size
        flat = self._canvas.reshape(size * size, -1)
        points = (self._xs, self._ys, config.iteration, self._box, pad)
        if config.draw_type == "point":
            _fractal.points_over(*points, self._colours, size, flat)
            return
        mask = 511 if config.draw_type == "patch-full" else 0
        if config.draw_type == "patch-one":
            mask = 1 + ((number(int(key), _fractal.PATCH_COUNTER) & 0xFFFF) * 511 >> 16)
        if self.colour:
            _fractal.colour_patches_over(*points, key, mask, self._colours, size, flat)
        else:
            _fractal.patches_over(*points, key, mask, GREY, size, flat[:, 0])
