"""VisualAtom's indexed stream in plain Python, from docs/indexed-stream.md alone: lists, whole numbers and Pillow's own lines."""

from __future__ import annotations

import functools
import math
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

M32, M64 = (1 << 32) - 1, (1 << 64) - 1


def mix64(z: int) -> int:
    """SplitMix64's finaliser."""
    z &= M64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & M64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & M64
    return z ^ (z >> 31)


def counted(key: int, counter: int) -> int:
    """The number at a counter of a key."""
    return mix64(key + counter * 0x9E3779B97F4A7C15)


def vertex_hash(orbit: int, v: int) -> int:
    """32 bits of vertex v."""
    h = (v * 0x9E3779B1 + (orbit & M32)) & M32
    h = ((h ^ h >> 16) * 0x7FEB352D) & M32
    h = ((h ^ h >> 15 ^ orbit >> 32) * 0x846CA68B) & M32
    return h ^ h >> 16


GRADIENT_BITS = """
709baf3d9f052971c47e5e83505a7e6478ab0a5eecbb53b09118d587e4d8b84f a576b0b6d2e73f5ac356c9c97e5846f619f118091c4b092984724cf644d6da30
492acb5a636ef254feb3f0a16dcaf7a57882ca36d95b7bc9167d32cef1082908 a614b221e20cf321131b9efb106f57ad84c0392df46eacdde23d883d03e27dc4
"""


@functools.cache
def noise_table() -> list[int]:
    """The 4,096 quantiles of the noise, Q16."""
    g = [-1 if int(d, 16) & 8 else (int(d, 16) & 7) + 1 for d in "".join(GRADIENT_BITS.split())]
    found = []
    for c in range(256):
        for t in range(1, 512, 2):
            f = t**3 * (6 * t * t - 15 * 512 * t + 10 * 512**2)
            left, right = g[c] * t, g[(c + 1) % 256] * (t - 512)
            found.append((left * 2**45 + f * (right - left), 40 if c < 16 else 39))
    found.sort()
    whole, at, sums, table = sum(weight for _, weight in found), -1, 0, []
    for q in range(4096):
        while 8192 * sums <= (2 * q + 1) * whole:
            at += 1
            sums += found[at][1]
        y = 2 * (found[at][0] >> 8)
        table.append((2 * y + 5 * 2**30) // (10 * 2**30))
    return table


def fold(key: int, part: int) -> int:
    """Key of a part under a key."""
    return mix64((key + 0x9E3779B97F4A7C15) & M64 ^ part)


def salt(text: str) -> int:
    """Key of a use."""
    data, key = text.encode(), 0
    for at in range(0, len(data), 8):
        key = fold(key, int.from_bytes(data[at : at + 8], "little"))
    return fold(key, len(data))


def visualatom_category(config: Any, seed: int, c: int) -> dict[str, int]:
    """Parameters of a category of VisualAtom as whole numbers: Q16 where they are not counts."""
    key, i = fold(fold(salt("visualatom"), seed), c), 0

    def integer(low: int, high: int) -> int:
        nonlocal i
        n = high - low + 1
        while True:
            i += 1
            m = counted(key, i) * n
            if m % 2**64 >= 2**64 % n:
                return low + (m >> 64)

    def q16(x: float) -> int:
        return round(x * 65536)

    out = {
        "vertices": integer(config.vertex_num_min, config.vertex_num_max),
        "orbits": integer(config.line_num_min, config.line_num_max),
        "p_q16": integer(q16(config.perlin_min), q16(config.perlin_min) + 4 * 65536),
        "w_q16": integer(0, q16(config.line_width)),
        "radius_q16": integer(config.radius_min, config.radius_min + 50) * 65536,
        "n1": integer(config.nami_1_min, config.nami_1_max),
        "n2": integer(config.nami_2_min, config.nami_2_max),
    }
    while out["n2"] == out["n1"] != 0:
        out["n2"] = integer(config.nami_2_min, config.nami_2_max)
    out["oval_x_q16"] = integer(65536, q16(config.oval_rate))
    out["oval_y_q16"] = integer(65536, q16(config.oval_rate))
    return out


def visualatom(
    config: Any, seed: int, category: int, instance: int, attempt: int = 0
) -> npt.NDArray[np.uint8]:
    """One picture of VisualAtom."""
    key = fold(fold(fold(fold(salt("picture"), seed), category), instance), attempt)
    size, spread = config.image_size, config.start_pos
    row = size + ((counted(key, 1) >> 32) * (2 * spread + 1) >> 32) - spread
    column = size + ((counted(key, 2) >> 32) * (2 * spread + 1) >> 32) - spread
    atom = visualatom_category(config, seed, category)
    _, drawn = orbits(**atom, centre_x_q16=column << 15, centre_y_q16=row << 15, key=fold(key, 3))
    return draw(np.zeros((size, size), dtype=np.uint8), drawn)


def turns(vertices: int) -> tuple[list[int], list[int]]:
    """Cosines and sines in Q30 by floats: right unless the exact value lies within 1e-6 of a half, which is refused."""
    cosines, sines = [], []
    for v in range(vertices):
        for table, value in (
            (cosines, math.cos(2 * math.pi * v / vertices)),
            (sines, math.sin(2 * math.pi * v / vertices)),
        ):
            scaled = value * (1 << 30)
            assert abs(abs(scaled - math.floor(scaled)) - 0.5) > 1e-6
            table.append(round(scaled))
    return cosines, sines


def orbits(
    *, vertices: int, orbits: int, p_q16: int, w_q16: int, radius_q16: int, oval_x_q16: int, oval_y_q16: int,
    n1: int, n2: int, centre_x_q16: int, centre_y_q16: int, key: int, noise_factor: int = 1, grey_max: int = 255,
    grey: int | None = None,
) -> tuple[list[tuple[int, int]], list[tuple[int, list[tuple[int, int]]]]]:  # fmt: skip
    """The start ellipse, then (grey level, corners) of each orbit; corners are x, y in Q16."""
    cosines, sines = turns(vertices)
    noise = noise_table()
    x = [centre_x_q16 + ((radius_q16 * oval_x_q16 >> 16) * c >> 30) for c in cosines]
    y = [centre_y_q16 + ((radius_q16 * oval_y_q16 >> 16) * s >> 30) for s in sines]
    first = list(zip(x, y, strict=True))
    wave = [(sines[n1 * v % vertices] + sines[n2 * v % vertices]) >> 15 for v in range(vertices)]
    drawn = []
    for k in range(1, orbits + 1):
        number = counted(key, k)
        level = (counted(number, 1) >> 48) * (grey_max + 1) >> 16 if grey is None else grey
        for v in range(vertices):
            h = vertex_hash(number, v)
            for at, turn, index in ((x, cosines, h & 4095), (y, sines, h >> 20)):
                step = w_q16 + p_q16 + wave[v] - (noise_factor * p_q16 * noise[index] >> 16)
                at[v] += turn[v] * step >> 30
        drawn.append((min(level, 255), list(zip(x, y, strict=True))))
    return first, drawn


def toward_zero(q16: int) -> int:
    """The whole pixels of a Q16 number, its fraction dropped."""
    return int(Fraction(q16, 1 << 16))


def draw(
    pixels: npt.NDArray[np.uint8], drawn: list[tuple[int, list[tuple[int, int]]]]
) -> npt.NDArray[np.uint8]:
    """A copy of `pixels` with the orbits drawn over it: V lines of width 1 each, by Pillow."""
    image = Image.fromarray(pixels.copy())
    pen = ImageDraw.Draw(image)
    for level, corners in drawn:
        whole = [(toward_zero(x), toward_zero(y)) for x, y in corners]
        for start, end in zip(whole, whole[1:] + whole[:1], strict=True):
            pen.line([start, end], fill=level, width=1)
    return np.array(image)
