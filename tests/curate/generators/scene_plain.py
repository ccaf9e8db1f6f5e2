"""A scene stated slowly: plain Python over dictionaries of pixels, from the definitions in the modules' words.

Numbers, tables, colours and shapes are taken from the product (they have tests of their own), and so is the contour painter; the
grounds, outlines, fills, patterns, places, lines and labels are stated anew.
"""

from __future__ import annotations

from fractions import Fraction
from math import isqrt
from typing import Any

from curate.generators import Category
from curate.generators._colours import ground_palette, thing_colours
from curate.generators._contour import ContourPainter
from curate.generators._random import MASK64, below, fold, mix64, picture_key
from curate.generators._shapes import Shape, shapes
from curate.generators._thing import Numbers, size_steps
from curate.generators._trig import tables
from curate.generators.scenes import TEXTURES, Config

Point = tuple[int, int]  # column, row
GOLDEN = 0x9E3779B97F4A7C15


def clamp(value: int, low: int, high: int) -> int:
    return min(max(value, low), high)


def ground(style: Category, key: int, size: int) -> dict[Point, int]:
    """Tones of the ground by pixel."""
    everywhere = [(x, y) for y in range(size) for x in range(size)]
    kind = style["background"]
    if kind == "flat":
        return dict.fromkeys(everywhere, below(key, 1, 256))
    if kind == "smooth":
        return smooth(style["cell"], key, size)
    if kind == "contour":
        return contour_ground(style["lines"], key, size)
    turn = below(key, 1, 64)
    across, down = (int(table[turn]) * 180 // size for table in tables(64))
    tones = {
        (x, y): clamp(128 + (((2 * x - size) * across + (2 * y - size) * down) >> 31), 0, 255)
        for x, y in everywhere
    }
    if kind == "lines":
        for i in range(style["lines"]):
            x0, y0, x1, y1 = (below(key, 8 * i + j + 2, size) for j in range(4))
            value, width = below(key, 8 * i + 6, 256), 1 + below(key, 8 * i + 7, 3 * size // 256 + 1)
            for pixel in line(x0, y0, x1, y1, width):
                if pixel in tones:
                    tones[pixel] = value
    return tones


def line(x0: int, y0: int, x1: int, y1: int, width: int) -> list[Point]:
    """One pixel for each step of the longer side, at the rounded place of the other, and `width` - 1 more beside it."""
    if abs(y1 - y0) > abs(x1 - x0):
        return [(x, y) for y, x in line(y0, x0, y1, x1, width)]
    if x0 > x1:
        x0, y0, x1, y1 = x1, y1, x0, y0
    run = max(x1 - x0, 1)
    found = []
    for x in range(x0, x1 + 1):
        nearest = y0 + (Fraction((x - x0) * (y1 - y0), run) + Fraction(1, 2)).__floor__()
        found += [(x, nearest + i) for i in range(width)]
    return found


def contour_ground(lines: int, key: int, size: int) -> dict[Point, int]:
    step = (size * 65536) * 5 // 8 // (2 * lines)
    noise = step * below(key, 1, 129) // 256
    painter = ContourPainter(size)
    painter.clear(128)
    painter.draw(
        vertices=64 + below(key, 2, 257),
        orbits=2 * lines,
        p_q16=noise,
        w_q16=step - noise,
        radius_q16=below(key, 3, size // 8 * 65536),
        oval_x_q16=65536 + below(key, 4, 65537),
        oval_y_q16=65536 + below(key, 5, 65537),
        n1=below(key, 6, 13),
        n2=below(key, 7, 13),
        centre_x_q16=below(key, 8, size) * 65536,
        centre_y_q16=below(key, 9, size) * 65536,
        key=fold(key, 1),
    )
    return {(x, y): int(painter.pixels[y, x]) for y in range(size) for x in range(size)}


def smooth(cell: int, key: int, size: int) -> dict[Point, int]:
    """Octaves with cells of the half, and half the weight; known on every fourth pixel, straight between."""

    def corner(octave: int, column: int, row: int) -> int:
        place = (octave << 48) | (column << 24) | row
        return mix64(key ^ (place * GOLDEN & MASK64)) >> 48

    def ease(f: int) -> int:
        return (f * f * (768 - 2 * f)) >> 16

    known = {}
    for j in range(0, size + 4, 4):
        for i in range(0, size + 4, 4):
            total = 0
            for octave in range(3):
                side = max(cell >> octave, 4)
                column, row = i // side, j // side
                right, down = ease(i % side * 256 // side), ease(j % side * 256 // side)
                top = corner(octave, column, row) * (256 - right) + corner(octave, column + 1, row) * right
                low = (
                    corner(octave, column, row + 1) * (256 - right)
                    + corner(octave, column + 1, row + 1) * right
                )
                total += ((top * (256 - down) + low * down) >> 16) >> octave
            known[i, j] = total
    least, most = min(known.values()), max(known.values())
    known = {place: (value - least) * 4080 // max(most - least, 1) for place, value in known.items()}
    tones = {}
    for y in range(size):
        for x in range(size):
            i, j, right, down = x - x % 4, y - y % 4, x % 4, y % 4
            left_edge = known[i, j] * (4 - down) + known[i, j + 4] * down
            right_edge = known[i + 4, j] * (4 - down) + known[i + 4, j + 4] * down
            tones[x, y] = (left_edge * (4 - right) + right_edge * right) >> 8
    return tones


def corners(shape: Shape, radius: int, stretch: int, turn: int, wave: tuple[int, int, int]) -> list[Point]:
    """The outline around (0, 0), Q16."""
    count = shape.vertices
    cosines, sines = ([int(v) for v in table] for table in tables(2 * count))
    waves = [int(v) for v in tables(count)[0]]
    turn_cos, turn_sin = (int(table[turn]) for table in tables(1024))
    along = isqrt((stretch << 32) // 100)
    across = (1 << 32) // along
    found = []
    for v in range(count):
        percent = (100 << 30) + shape.a * waves[shape.n * v % count] + shape.b * waves[shape.m * v % count]
        r = radius * (percent >> 14) // ((100 + (shape.a + shape.b) // 2) << 16)
        r += (r * ((wave[2] * waves[wave[0] * (v + wave[1]) % count]) >> 30)) >> 16
        x = (((r * cosines[2 * v + 1]) >> 30) * along) >> 16
        y = (((r * sines[2 * v + 1]) >> 30) * across) >> 16
        found.append(((x * turn_cos - y * turn_sin) >> 30, (x * turn_sin + y * turn_cos) >> 30))
    return found


def inside(points: list[Point], x: int, y: int) -> bool:
    """Whether the centre of pixel (x, y) has an odd number of edges on its left side (or through it)."""
    centre_x, centre_y = x * 65536 + 32768, y * 65536 + 32768
    odd = False
    for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1], strict=True):
        if (y0 <= centre_y) != (y1 <= centre_y) and x0 + Fraction(
            (centre_y - y0) * (x1 - x0), y1 - y0
        ) <= centre_x:
            odd = not odd
    return odd


def pixels_of(points: list[Point]) -> set[Point]:
    columns = [x >> 16 for x, _ in points]
    rows = [y >> 16 for _, y in points]
    return {
        (x, y)
        for y in range(min(rows) - 1, max(rows) + 2)
        for x in range(min(columns) - 1, max(columns) + 2)
        if inside(points, x, y)
    }


def pattern(texture: str, thing: set[Point], radius: int, turn: int, numbers: Numbers) -> dict[Point, int]:
    coarse = numbers.upto(0, 255)
    cell = max(radius * (128 + coarse // 2 if texture == "speckle" else 340 + coarse) // 1024, 3 * 65536)
    turn = (turn + numbers.upto(-128, 128)) % 1024
    phase_u, phase_v = numbers.upto(0, 2**32 - 1), numbers.upto(0, 2**32 - 1)
    if texture == "shaded":
        cell, phase_u, phase_v = 2 * radius, 0, 0
    key = numbers.upto(0, 2**32 - 1)
    cos, sin = (int(table[turn]) * 2**18 // cell for table in tables(1024))
    tones = {}
    for x, y in thing:
        u, v = phase_u + x * cos + y * sin, phase_v - x * sin + y * cos
        column, row, right, down = u // 2**32, v // 2**32, u % 2**32 // 2**24, v % 2**32 // 2**24
        if texture == "plain":
            tone = 100
        elif texture == "shaded":
            tone = clamp(127 + u // 2**24, 0, 254)
        elif texture == "stripes":
            tone = 224 if right < 128 else 30
        elif texture == "checks":
            tone = 224 if (column + row) % 2 == 0 else 30
        elif texture == "dots":
            tone = 24 if (right - 128) ** 2 + (down - 128) ** 2 < 8100 else 230
        else:
            place = ((column << 20) ^ (row % 2**20)) & MASK64
            tone = min(mix64(key ^ (place * GOLDEN & MASK64)) >> 56, 254)
        tones[x, y] = tone
    return tones


def contour_fill(radius: int, x: int, y: int, size: int, numbers: Numbers) -> dict[Point, int]:
    painter = ContourPainter(size)
    painter.clear(127)
    pitch = numbers.upto(2 * 65536, 5 * 65536)
    painter.draw(
        vertices=numbers.upto(24, 120),
        orbits=max(radius * 2 // pitch, 2),
        p_q16=pitch // 2,
        w_q16=pitch - pitch // 2,
        radius_q16=0,
        oval_x_q16=65536,
        oval_y_q16=65536,
        n1=numbers.upto(0, 9),
        n2=numbers.upto(0, 9),
        centre_x_q16=x * 65536,
        centre_y_q16=y * 65536,
        key=numbers.upto(0, 2**32 - 1),
        grey_max=254,
    )
    return {(i - x, j - y): int(painter.pixels[j, i]) for j in range(size) for i in range(size)}


def scene(config: Config, seed: int, style: Category, index: int, instance: int) -> dict[str, Any]:
    """`rgb` and `owner` by pixel, and `things`: label, number of visible pixels before others came, number of all."""
    size = config.image_size
    key = fold(picture_key(seed, index, instance, 0), int.from_bytes(b"scenes", "little"))
    numbers = Numbers(key)
    empty = numbers.upto(0, 65535) < round(config.empty_share * 65536)
    count = 0 if empty else numbers.upto(style["things_min"], style["things_max"])
    tones = ground(style, fold(key, 2**32), size)
    palette = ground_palette(style)
    rgb = {pixel: tuple(palette[tone].tolist()) for pixel, tone in tones.items()}
    owner = dict.fromkeys(tones, 0)
    things: list[dict[str, int]] = []
    radii = size_steps(round(config.size_min * 32768) * size, round(config.size_max * 32768) * size)
    for number in range(1, count + 1):
        own = fold(key, number)
        numbers = Numbers(own)
        label = numbers.upto(0, config.shapes - 1)
        shape = shapes(config.shapes)[label]
        at = numbers.upto(0, 8191)
        radius = (radii[at // 256] * (256 - at % 256) + radii[at // 256 + 1] * (at % 256)) >> 8
        stretch, turn = numbers.upto(*shape.stretch), numbers.upto(0, 1023)
        stray = round(config.wobble * 65536)
        wave = numbers.upto(1, 3), numbers.upto(0, shape.vertices - 1), numbers.upto(-stray, stray)
        whole = pixels_of(corners(shape, radius, stretch, turn, wave))
        need = max(config.area_min, -(-round(config.visible_min * 65536) * len(whole) // 65536))
        for _ in range(8):
            x, y = numbers.upto(0, size - 1), numbers.upto(0, size - 1)
            here = {(x + i, y + j) for i, j in whole} & owner.keys()
            left = [
                sum(1 for p, who in owner.items() if who == k + 1 and p not in here)
                for k in range(len(things))
            ]
            touched = {owner[p] for p in here} - {0}
            if len(here) >= need and all(left[k - 1] >= things[k - 1]["need"] for k in touched):
                break
        else:
            continue
        numbers = Numbers(fold(own, 1))
        texture = TEXTURES[numbers.upto(0, len(TEXTURES) - 1)]
        if config.texture != "any":
            texture = TEXTURES[label % len(TEXTURES)] if config.texture == "class" else config.texture
        if texture == "contour":
            tones = contour_fill(radius, x, y, size, numbers)
        else:
            tones = pattern(texture, whole, radius, turn, numbers)
        wide = 1 if radius < 24 * 65536 else 2 if radius < 90 * 65536 else 3
        palette = thing_colours(style, config.contrast, Numbers(fold(own, 2)))
        things.append({"label": label, "need": need, "inside": len(here), "whole": len(whole)})
        for i, j in whole:
            if (x + i, y + j) in owner:
                owner[x + i, y + j] = len(things)
                around = {(i - wide, j), (i + wide, j), (i, j - wide), (i, j + wide)}
                rgb[x + i, y + j] = tuple(palette[tones[i, j] if around <= whole else 255].tolist())
    return {"rgb": rgb, "owner": owner, "things": things}
