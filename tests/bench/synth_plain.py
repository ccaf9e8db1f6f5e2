"""VisualAtom in plain Python and Pillow: the yardstick of the synth bench, and a second statement for the tests.

Written from the description of the algorithm (arXiv 2303.01112; the released script's draws, order of operations and defaults), one
vertex at a time in the interpreter, lines by Pillow, one call each, pictures saved as RGB PNG with Pillow's defaults. It gives the golden
pictures. Nothing is made slow on purpose: noise is the C package `noise` where it is installed, else one compiled call a sample.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import cos, pi, sin
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

Noise = Callable[[float], float]


def noise_function() -> tuple[str, Noise]:
    """(name, one-octave 1-D gradient noise)."""
    try:
        from noise import pnoise1  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError:
        return "compiled here", compiled_noise()
    return "package noise", pnoise1


def compiled_noise() -> Noise:
    """The same values from a compiled scalar function: about the cost of a call into the C package."""
    import numpy as np
    from numba import njit

    from curate.generators._gradient import CELLS

    one, six, ten, fifteen, scale = (np.float32(x) for x in (1, 6, 10, 15, 0.4))

    @njit(error_model="numpy")
    def pnoise1(x: float) -> float:
        single = np.float32(x)
        cell = np.floor(single)
        at = single - cell
        both = CELLS[np.int64(cell) & 255]
        left = np.float32(np.int16(both & 0xFFFF)) * at
        right = np.float32(both >> 16) * (at - one)
        fade = at * at * at * (at * (at * six - fifteen) + ten)
        return float((left + fade * (right - left)) * scale)

    made: Noise = pnoise1
    return made


@dataclass
class Category:
    vertices: int
    orbits: int
    p: float
    w: float
    radius: int
    n1: int
    n2: int
    oval_x: float
    oval_y: float


def draw_category(config: Any) -> Category:
    vertices = random.randint(config.vertex_num_min, config.vertex_num_max)
    orbits = random.randint(config.line_num_min, config.line_num_max)
    p = random.uniform(config.perlin_min, config.perlin_min + 4)
    w = random.uniform(0, config.line_width)
    radius = random.randint(config.radius_min, config.radius_min + 50)
    n1 = random.randint(config.nami_1_min, config.nami_1_max)
    n2 = random.randint(config.nami_2_min, config.nami_2_max)
    while n1 == n2 and n1 != 0:
        n2 = random.randint(config.nami_2_min, config.nami_2_max)
    return Category(
        vertices, orbits, p, w, radius, n1, n2, random.uniform(1, config.oval_rate), random.uniform(1, config.oval_rate)
    )  # fmt: skip


def draw_centre(config: Any) -> tuple[float, float]:
    """(row, column)."""
    row = (config.image_size + random.randint(-config.start_pos, config.start_pos)) / 2
    return row, (config.image_size + random.randint(-config.start_pos, config.start_pos)) / 2


def draw_picture(category: Category, centre: tuple[float, float], size: int, pnoise1: Noise) -> Image.Image:
    c = category
    angle = 2 * pi / c.vertices
    xs = [c.radius * c.oval_x * cos(angle * v) + centre[1] for v in range(c.vertices)]
    ys = [c.radius * c.oval_y * sin(angle * v) + centre[0] for v in range(c.vertices)]
    image = Image.new("RGB", (size, size), (0, 0, 0))
    draw = ImageDraw.Draw(image)
    for _ in range(c.orbits):
        grey = random.randint(0, 255)
        noise_x = [pnoise1(random.uniform(0, 10000)) for _ in range(c.vertices)]
        noise_y = [pnoise1(random.uniform(0, 10000)) for _ in range(c.vertices)]
        for v in range(c.vertices):
            at = angle * v
            wave_1, wave_2 = 0.5 * sin(at * c.n1), 0.5 * sin(at * c.n2)
            xs[v] -= cos(at) * (noise_x[v] * c.p - c.p - wave_1 - wave_2 - c.w)
            ys[v] -= sin(at) * (noise_y[v] * c.p - c.p - wave_1 - wave_2 - c.w)
        for v in range(c.vertices):
            after = (v + 1) % c.vertices
            draw.line((xs[v], ys[v], xs[after], ys[after]), fill=(grey, grey, grey), width=1)
    return image


def pictures(
    config: Any,
    classes: int,
    instances: int,
    processes: int = 1,
    index: int = 0,
    pnoise1: Noise | None = None,
) -> Iterator[tuple[int, int, Category, Image.Image]]:
    """(category index, instance, category, picture) of one process, in its order."""
    pnoise1 = pnoise1 or noise_function()[1]
    random.seed(index + 1)
    share = int(classes / processes)
    for number in range(index * share, (index + 1) * share):
        category = draw_category(config)
        centre = draw_centre(config)
        for instance in range(instances):
            yield number, instance, category, draw_picture(category, centre, config.image_size, pnoise1)
            centre = draw_centre(config)


def write(folder: Path, config: Any, classes: int, instances: int, pnoise1: Noise) -> int:
    """Write the pictures as the script does; how many bytes."""
    written = 0
    for number, instance, category, image in pictures(config, classes, instances, pnoise1=pnoise1):
        path = folder / f"{number:05d}" / f"vertex_{category.vertices:04d}_instance_{instance:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, quality=95)
        written += path.stat().st_size
    return written
