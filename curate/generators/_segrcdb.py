"""Painter of SegRCDB: objects one above the other, and for every pixel the object that it belongs to.

`owner` (S, S) holds 1 + the number of the object of a pixel, 0 for the background; the shape of every object is laid over it as it is
drawn. Masks, boxes, polygons and labels are read from it at the end, so that they fit each other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from curate._jit import kernel
from curate.generators import Category, Picture, Thing
from curate.generators._contour import ContourPainter
from curate.generators._mask import crossings, outline_labels, paint_fill, paint_line
from curate.generators._random import below, fold, picture_key, salt_key
from curate.generators.segrcdb import shape

if TYPE_CHECKING:
    from curate.generators.segrcdb import Generator


class ObjectPainter:
    """Draws the pictures of one generator."""

    def __init__(self, generator: Generator) -> None:
        config = generator.config
        self._generator = generator
        self._canvas = ContourPainter(config.image_size)
        self._owners = ContourPainter(config.image_size)
        self._aside = ContourPainter(1)  # for the corners of an orbit alone
        self._borders = config.polygons == "yes" or (config.polygons == "auto" and config.mode != "m1")
        self._masks: list[npt.NDArray[np.bool_]] = []
        self._used: list[tuple[int, int, int, int]] = []
        self._classes: list[dict[str, Any]] = []
        self._family: tuple[int, float] | None = None

    def paint(self, category: Category, index: int, instance: int, attempt: int = 0) -> Picture:
        """One picture, its labels, and the things of which anything is visible, in the order in which they were drawn."""
        generator, config = self._generator, self._generator.config
        generator.check_class(index)
        family = category.get("base", -1), category.get("delta", 0.0)
        if family != self._family:
            self._classes = [shape(each, config) for each in generator.classes_of(category)]
            self._family = family
        own = shape(category, config)
        key = fold(picture_key(generator.seed, index, instance, attempt), salt_key("segrcdb"))
        place = below(key, 1, config.instance_num)
        span = 2 * config.start_pos + 1
        corner = config.image_size - config.start_pos
        self._canvas.clear(0)
        self._owners.clear(0)
        labels, areas = [], []
        for number in range(config.instance_num):
            one = fold(key, 2 + number)
            label = index if number == place else below(one, 1, config.object_classes)
            atom = {
                **(own if number == place else self._classes[label]),
                "centre_y_q16": (corner + below(one, 2, span)) << 15,
                "centre_x_q16": (corner + below(one, 3, span)) << 15,
                "key": fold(one, 4),
            }
            labels.append(label)
            areas.append(self._draw(atom, number + 1))
        return self._picture(labels, areas)

    def _draw(self, atom: dict[str, Any], level: int) -> int:
        """Draws one object and gives it the pixels of its shape; how many they are."""
        config, owner = self._generator.config, self._owners.pixels
        self._canvas.draw(**atom, outline=config.mode != "m1")
        if config.mode == "m1":
            self._owners.draw(**atom, grey=level)
            return int(_count(owner, level))
        last = self._canvas.last
        if config.mode == "m3":
            return int(paint_fill(owner, last, level, True) + paint_line(owner, last, level))
        self._aside.draw(**{**atom, "orbits": 1}, outline=True)
        return int(_ring(owner, last, self._aside.last, level, config.clear_holes))

    def _picture(self, labels: list[int], areas: list[int]) -> Picture:
        for mask, (left, top, width, height) in zip(self._masks, self._used, strict=False):
            mask[top : top + height, left : left + width] = False
        self._used.clear()
        owner, things = self._owners.pixels, []
        boxes, polygons = outline_labels(owner, len(labels), self._borders)
        for number, box in enumerate(boxes):
            left, top, width, height = box
            if not width:
                continue
            if len(self._used) == len(self._masks):
                self._masks.append(np.zeros(owner.shape, dtype=np.bool_))
            mask = self._masks[len(self._used)]
            self._used.append(box)
            window = np.s_[top : top + height, left : left + width]
            np.equal(owner[window], number + 1, out=mask[window])
            things.append(Thing(labels[number], mask, polygons[number], box, areas[number]))
        levels = np.zeros(256, dtype=np.uint8)
        levels[1 : len(labels) + 1] = np.array(labels) + 1
        return Picture(self._canvas.pixels, levels[owner], things)


@kernel
def _count(owner, level):  # type: ignore[no-untyped-def]
    wanted, count = np.uint8(level), 0
    for r in range(owner.shape[0]):
        for c in range(owner.shape[1]):
            count += owner[r, c] == wanted
    return count


@kernel
def _ring(owner, outer, inner, level, clear):  # type: ignore[no-untyped-def]
    """Gives an object what `outer` encloses and `inner` does not, and both lines; with `clear`, the inside of `inner` to nobody."""
    height, width = owner.shape
    outer_first, outer_ends, outer_found = crossings(outer, height, width)
    inner_first, inner_ends, inner_found = crossings(inner, height, width)
    area, a, b = 0, 0, 0
    for r in range(height):
        a_end, b_end = a, b
        if 0 <= r - outer_first < len(outer_ends):
            a_end = outer_ends[r - outer_first]
        if 0 <= r - inner_first < len(inner_ends):
            b_end = inner_ends[r - inner_first]
        in_outer = in_inner = False
        here = 0
        while a < a_end or b < b_end:
            after_a = outer_found[a] >> 1 if a < a_end else width
            after_b = inner_found[b] >> 1 if b < b_end else width
            after = min(after_a, after_b)
            if in_inner:
                if clear:
                    owner[r, here:after] = 0
            elif in_outer:
                owner[r, here:after] = level
                area += after - here
            here = after
            if a < a_end and after_a == after:
                in_outer = not in_outer
                a += 1
            else:
                in_inner = not in_inner
                b += 1
    return area + paint_line(owner, inner, level) + paint_line(owner, outer, level)
