"""FractalDB's picture and search, said again in plain Python integers from their definition. Slow."""

from __future__ import annotations

from collections.abc import Iterator

from curate.generators import Category
from curate.generators._random import below, number, picture_key

Point = tuple[int, int]


def matrices(category: Category, weights: list[int]) -> list[list[int]]:
    """Parameters a..f in Q20 after weighting (both in Q16 before)."""
    return [
        [
            (round(category[f"{letter}{j}"] * 65536) * weight + 2048) // 4096
            for letter, weight in zip("abcdef", weights, strict=True)
        ]
        for j in range(1, category["maps"] + 1)
    ]


def chances(category: Category) -> list[int]:
    """Which map each of the 4,096 values of 12 bits chooses: proportional to |ad - bc| before weighting."""
    plain = matrices(category, [65536] * 6)
    areas = [abs(a * d - b * c) for a, b, c, d, _, _ in plain]
    if not any(areas):
        areas = [1] * len(areas)
    slots = []
    for slot in range(4096):
        chosen = 0
        while sum(areas[: chosen + 1]) * 4096 <= slot * sum(areas):
            chosen += 1
        slots.append(chosen)
    return slots


def choices(slots: list[int], key: int) -> Iterator[int]:
    counter = 1
    while True:
        bits = number(key, counter)
        for k in range(5):
            yield slots[(bits >> (12 * k)) % 4096]
        counter += 1


def orbit(maps: list[list[int]], slots: list[int], key: int, points: int) -> tuple[list[Point], int]:
    """Points in Q28, and how often it escaped."""
    x = y = escapes = 0
    path = [(0, 0)]
    for j in choices(slots, key):
        if len(path) == points:
            return path, escapes
        a, b, c, d, e, f = maps[j]
        x, y = ((a * x + b * y) >> 20) + e * 256, ((c * x + d * y) >> 20) + f * 256
        if not (-(1024 << 28) <= x < 1024 << 28 and -(1024 << 28) <= y < 1024 << 28):
            x = y = 0
            escapes += 1
        path.append((x, y))
    raise AssertionError


def places(path: list[Point], size: int, pad: int) -> list[Point]:
    """Column and row of each point: its box stretched to the frame less the padding."""
    result = []
    ends = [(min(p[k] for p in path), max(p[k] for p in path)) for k in (0, 1)]
    for point in path:
        place = []
        for value, (low, high) in zip(point, ends, strict=True):
            scale = -(-((size - 2 * pad) << 46) // (high - low)) if high > low else 0
            place.append(pad + ((value - low) * scale >> 46))
        result.append((place[0], place[1]))
    return result


def weights_of(instance: int, attempt: int, step: int) -> list[int]:
    weights = [65536] * 6
    rows = [(None, 0)] + [(k, m) for k in range(6) for m in (-2, -1, 1, 2)]
    which, times = rows[(instance + attempt) % 25] if step else rows[0]
    if which is not None:
        weights[which] += times * step
    return weights


def picture(
    category: Category, seed: int, index: int, instance: int, attempt: int, *,
    size: int, pad: int, points: int, draw_type: str, step: int, flips: bool, palette: list[tuple[int, ...]],
) -> list[list[tuple[int, ...]]]:  # fmt: skip
    """Rows of pixels; point i has palette[i % len(palette)]."""
    key = picture_key(seed, index, instance, attempt)
    maps = matrices(category, weights_of(instance, attempt, step))
    path, _ = orbit(maps, chances(category), key, points)
    black = (0,) * len(palette[0])
    rows = [[black] * size for _ in range(size)]
    once = 1 + ((number(key, 1 << 32) % 65536) * 511 >> 16)
    for i, (x, y) in enumerate(places(path, size, pad)):
        colour = palette[i % len(palette)]
        if draw_type == "point":
            rows[y][x] = colour
            continue
        mask = 1 + ((number(key, (1 << 32) + i // 4) >> 16 * (i % 4)) % 65536 * 511 >> 16)
        mask = {"patch": mask, "patch-one": once, "patch-full": 511}[draw_type]
        for k in range(9):
            rows[y + 1 + k // 3][x + 1 + k % 3] = colour if mask >> k & 1 else black
    rows = rows[::-1]  # y upward
    flip = instance // (25 if step else 1) % 4 if flips else 0
    if flip in (1, 3):
        rows = rows[::-1]
    if flip in (2, 3):
        rows = [row[::-1] for row in rows]
    return rows


def filled(category: Category, key: int, size: int, pad: int, points: int) -> int:
    """Pixels hit; 0 where the orbit escapes."""
    path, escapes = orbit(matrices(category, [65536] * 6), chances(category), key, points)
    return 0 if escapes else len(set(places(path, size, pad)))


def candidate(key: int, place: int, fewest: int, most: int) -> tuple[Category, int]:
    """Uniform candidate `place` of a category's search, and the key of its orbit."""
    first = 1 + 64 * place
    record: Category = {"maps": fewest + below(key, first, most - fewest + 1)}
    for j in range(record["maps"]):
        for k, letter in enumerate("abcdef"):
            record[f"{letter}{j + 1}"] = (below(key, first + 1 + 6 * j + k, 131073) - 65536) / 65536
    return record, number(key, first + 63)
