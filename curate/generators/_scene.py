"""Composes scenes: ground, then thing over thing, each put only where nothing becomes hidden further than the rule allows.

While a scene is made it is two pictures of bytes: `owner` (0 the ground, else 1 + the order of the thing that one sees there) and `tone`.
At the end every owner's palette turns them into colours, and its number into labels, masks, boxes and outlines, so that what is
annotated cannot differ from what is drawn.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from curate._jit import kernel
from curate.generators import Category, Picture, Thing
from curate.generators._colours import RIM, Palette, ground_palette, thing_colours
from curate.generators._contour import ContourPainter
from curate.generators._ground import draw_ground
from curate.generators._looks import fill_contour, fill_pattern
from curate.generators._mask import outline_polygons
from curate.generators._random import fold, picture_key
from curate.generators._shapes import shapes
from curate.generators._thing import TURNS, Numbers, cut, outline, size_steps
from curate.generators.scenes import SALT, TEXTURES, Config

PLACES = 8  # tried for a thing before it is left out
SMALL, LARGE = 32 * 32, 96 * 96  # COCO's bounds of area: small below the one, large from the other on
_GROUND = 1 << 32  # the ground's key under a scene's; things have their order, from 1
_SALT = int.from_bytes(SALT.encode(), "little")


class ScenePainter:
    """Draws scenes of one configuration; one a process and thread. What was drawn before never matters."""

    def __init__(self, config: Config, seed: int) -> None:
        self.config, self.seed = config, seed
        size = config.image_size
        self._contours = ContourPainter(size)
        self._owner = np.zeros((size, size), dtype=np.uint8)
        self._tone = np.zeros((size, size), dtype=np.uint8)
        self._pixels = np.zeros((size, size, 3), dtype=np.uint8)
        self._labels = np.zeros((size, size), dtype=np.uint8)
        self._masks = np.zeros((0, size, size), dtype=np.bool_)
        self._shapes = shapes(config.shapes)
        self._radii = size_steps(
            *(round(share * 32768) * size for share in (config.size_min, config.size_max))
        )
        self._need_q16 = round(config.visible_min * 65536)

    def paint(self, category: Category, index: int, instance: int, attempt: int = 0) -> Picture:
        """Scene `instance` of style `index`; its arrays are good until the next call."""
        key = fold(picture_key(self.seed, index, instance, attempt), _SALT)
        numbers = Numbers(key)
        empty = numbers.upto(0, 65535) < round(self.config.empty_share * 65536)
        count = 0 if empty else numbers.upto(category["things_min"], category["things_max"])
        draw_ground(self._tone, category, fold(key, _GROUND), self._contours)
        self._owner.fill(0)
        placed: list[dict[str, Any]] = []
        palettes = [ground_palette(category)]
        seen = np.zeros(count + 1, dtype=np.int64)  # pixels to be seen now, by owner
        least = np.zeros(count + 1, dtype=np.int64)
        for number in range(1, count + 1):
            self._add(category, fold(key, number), placed, palettes, seen, least)
        names = np.zeros(256, dtype=np.uint8)
        names[1 : len(placed) + 1] = [thing["label"] + 1 for thing in placed]
        _colour(self._pixels, self._labels, self._owner, self._tone, np.stack(palettes), names)
        return Picture(self._pixels, self._labels, self._things(placed, _extents(self._owner, len(palettes))))

    def _add(
        self,
        style: Category,
        key: int,
        placed: list[dict[str, Any]],
        palettes: list[Palette],
        seen: npt.NDArray[np.int64],
        least: npt.NDArray[np.int64],
    ) -> None:
        """Draws one more thing, if one of its places will do."""
        config, numbers, size = self.config, Numbers(key), self.config.image_size
        label = numbers.upto(0, config.shapes - 1)
        shape = self._shapes[label]
        step, between = divmod(numbers.upto(0, 32 * 256 - 1), 256)
        radius = (self._radii[step] * (256 - between) + self._radii[step + 1] * between) >> 8
        stretch, turn = numbers.upto(*shape.stretch), numbers.upto(0, TURNS - 1)
        stray = round(config.wobble * 65536)
        wave = numbers.upto(1, 3), numbers.upto(0, shape.vertices - 1), numbers.upto(-stray, stray)
        stencil = cut(outline(shape, radius, stretch, turn, wave))
        need = max(config.area_min, (self._need_q16 * stencil.pixels + 65535) >> 16)
        order = len(placed) + 1
        lost = np.zeros(len(seen), dtype=np.int64)
        for _ in range(PLACES):
            x, y = numbers.upto(0, size - 1), numbers.upto(0, size - 1)
            lost.fill(0)
            inside = _overlap(self._owner, stencil.mask, y + stencil.top, x + stencil.left, lost)
            if inside >= need and bool(np.all((lost == 0) | (seen - lost >= least))):
                break
        else:
            return
        seen -= lost
        seen[order], least[order] = inside, need
        numbers = Numbers(fold(key, 1))  # how it looks is apart from where it is
        texture = TEXTURES[numbers.upto(0, len(TEXTURES) - 1)]
        if config.texture == "class":
            texture = TEXTURES[label % len(TEXTURES)]
        elif config.texture != "any":
            texture = config.texture
        if texture == "contour":
            tones = fill_contour(stencil, radius, (x, y), self._contours, numbers)
        else:
            tones = fill_pattern(stencil, texture, radius, turn, numbers)
        line = 1 + (radius >> 16 >= 24) + (radius >> 16 >= 90)
        _stamp(self._owner, self._tone, stencil.mask, tones, y + stencil.top, x + stencil.left, order, line)
        palettes.append(thing_colours(style, config.contrast, Numbers(fold(key, 2))))
        placed.append({"label": label, "whole": inside, "pixels": stencil.pixels})

    def _things(self, placed: list[dict[str, Any]], boxes: npt.NDArray[np.int64]) -> list[Thing]:
        if len(self._masks) < len(placed):
            self._masks = np.zeros((len(placed), *self._owner.shape), dtype=np.bool_)
        things = []
        for order, thing in enumerate(placed):
            left, top, right, bottom, area = boxes[order + 1].tolist()
            mask = self._masks[order]
            mask.fill(False)
            window = np.s_[top:bottom, left:right]
            np.equal(self._owner[window], order + 1, out=mask[window])
            box = left, top, right - left, bottom - top
            extra = {
                "order": order,
                "visible_share": area / thing["whole"],
                "inside_share": thing["whole"] / thing["pixels"],
                "size": "small" if area < SMALL else "medium" if area < LARGE else "large",
            }
            things.append(
                Thing(thing["label"], mask, outline_polygons(mask, box), box, thing["whole"], extra)
            )
        return things


@kernel
def _overlap(owner, mask, top, left, lost):  # type: ignore[no-untyped-def]
    """Pixels of the mask inside the frame; counts in `lost` what each owner would lose there."""
    size = len(owner)
    inside = 0
    for row in range(max(-top, 0), min(len(mask), size - top)):
        for column in range(max(-left, 0), min(mask.shape[1], size - left)):
            if mask[row, column]:
                inside += 1
                lost[owner[top + row, left + column]] += 1
    lost[0] = 0
    return inside


@kernel
def _stamp(owner, tone, mask, tones, top, left, order, line):  # type: ignore[no-untyped-def]
    """Draws a thing's pixels; those with nothing of it `line` pixels away in one of four directions are its line."""
    size = len(owner)
    for row in range(max(-top, 0), min(len(mask), size - top)):
        for column in range(max(-left, 0), min(mask.shape[1], size - left)):
            if mask[row, column]:
                inner = (
                    mask[row - line, column]
                    and mask[row + line, column]
                    and mask[row, column - line]
                    and mask[row, column + line]
                )
                owner[top + row, left + column] = order
                tone[top + row, left + column] = tones[row, column] if inner else RIM


@kernel
def _colour(pixels, labels, owner, tone, palettes, names):  # type: ignore[no-untyped-def]
    size = len(owner)
    for y in range(size):
        for x in range(size):
            who, light = owner[y, x], tone[y, x]
            pixels[y, x, 0] = palettes[who, light, 0]
            pixels[y, x, 1] = palettes[who, light, 1]
            pixels[y, x, 2] = palettes[who, light, 2]
            labels[y, x] = names[who]


@kernel
def _extents(owner, count):  # type: ignore[no-untyped-def]
    """(count, 5): of each owner its left, top, right and bottom (the last two not included) and its pixels; by runs in a row."""
    size = len(owner)
    boxes = np.zeros((count, 5), dtype=np.int64)
    boxes[:, :2] = size
    for y in range(size):
        who, start = owner[y, 0], 0
        for x in range(1, size + 1):
            if x < size and owner[y, x] == who:
                continue
            if who:
                box = boxes[who]
                box[0], box[1] = min(box[0], start), min(box[1], y)
                box[2], box[3] = max(box[2], x), max(box[3], y + 1)
                box[4] += x - start
            if x < size:
                who, start = owner[y, x], x
    return boxes
