"""Contact sheets: a labelled grid that shows what a generation draws, a row of instances for each of some categories.

A sheet's bytes depend on the recipe and the seed alone: tiles are exact averages, letters are those built into Pillow as a bitmap (no
font file, nothing that changes between versions), and the PNG is written by our own encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from headwater.errors import UsageError

if TYPE_CHECKING:
    from curate.generation import Generation

U8 = npt.NDArray[np.uint8]
Group = tuple[str, str, list[U8]]  # a category's name, its parameters, its tiles

GUTTER, MARGIN, LINE, GAP = (
    4,
    20,
    17,
    14,
)  # between tiles, around the sheet, a line of text, between categories; pixels
GROUND, INK, SOFT = 26, 236, 158  # grey levels
MOST_PIXELS = 64_000_000
MOST_INSTANCES = 64
TILES = (16, 512)
SPACE, MOST_LINES = 12, 2  # between words, pixels; lines under a category
SHAPE = 1.35  # width over height that a sheet comes near to


def contact_sheet(
    generation: Generation,
    *,
    categories: int | Sequence[int] = 12,
    instances: int = 4,
    tile: int = 128,
    seed: int = 0,
) -> bytes:
    """PNG of the first `instances` pictures of some categories of `generation`, each category with its number and parameters.

    `categories`: how many, chosen by `seed` (all of them when there are no more), or which, counted from 0 within the generation; of
    the reference stream, categories far from the start of a process take long. `tile` is the side of a picture on the sheet, in pixels.
    Raises UsageError for sizes that make no sheet.
    """
    if not 1 <= instances <= MOST_INSTANCES:
        raise UsageError(f"a contact sheet of {instances} instances: must be between 1 and {MOST_INSTANCES}")
    if not TILES[0] <= tile <= TILES[1]:
        raise UsageError(f"a contact sheet with tiles of {tile} pixels: must be {TILES[0]} to {TILES[1]}")
    rows = _rows(generation, categories, seed)
    across = min(instances, generation.instances)
    if len(rows) * across * tile * tile > MOST_PIXELS:
        raise UsageError(
            f"a contact sheet of {len(rows)} categories, {across} pictures each, {tile} pixels a side: too large",
            hint="fewer categories, fewer instances or a smaller tile",
        )
    from curate._samples import shown

    groups = [
        (f"{one.number:05d}", parameters(one.record), [small(p.pixels, tile) for p in one.pictures])
        for one in shown(generation, rows, across)
    ]
    return png(sheet(generation.generator, about(generation), groups))


def about(generation: Generation) -> str:
    """One line on what is drawn."""
    text = f"{generation.classes:,} categories, {generation.pictures:,} pictures, {generation.stream} stream"
    return f"{text}, seed {generation.seed}" if generation.stream == "indexed" else text


def _rows(generation: Generation, wanted: int | Sequence[int], seed: int) -> list[int]:
    from curate._samples import some_rows

    if isinstance(wanted, int):
        if wanted < 1:
            raise UsageError(f"a contact sheet of {wanted} categories: at least 1")
        return some_rows(generation, min(wanted, MOST_PIXELS), seed)
    for row in wanted:
        if not 0 <= row < generation.classes:
            raise UsageError(f"category {row}: the generation has 0 to {generation.classes - 1}")
    if not wanted:
        raise UsageError("a contact sheet of no category")
    return list(wanted)


def parameters(record: dict[str, Any]) -> str:
    """A category in one line: names without underscores, numbers short, two spaces between."""
    return "  ".join(f"{name.replace('_', ' ')} {short(value)}" for name, value in record.items())


def short(value: Any) -> str:
    """A number in few digits."""
    if isinstance(value, float):
        return f"{value:.3g}"
    return str(value)[:40]


@lru_cache(maxsize=4)
def _shares(size: int, tile: int) -> npt.NDArray[np.float64]:
    """(tile, size): how much of each source pixel, in parts of `tile`, lies in each pixel of the tile."""
    edges = np.arange(tile + 1) * size
    low, high = edges[:-1, None], edges[1:, None]
    left = np.arange(size)[None, :] * tile
    shared = np.minimum(high, left + tile) - np.maximum(low, left)
    return np.asarray(np.clip(shared, 0, None), np.float64)


def small(pixels: U8, tile: int) -> U8:
    """(S, S) or (S, S, 3) pixels as a (tile, tile[, 3]) copy: area averages, rounded half up; the sums are whole and below 2^53."""
    size = len(pixels)
    if size == tile:
        return pixels.copy()
    shares = _shares(size, tile)
    if pixels.ndim == 3:
        return np.stack([small(np.ascontiguousarray(pixels[..., c]), tile) for c in range(3)], axis=-1)
    sums = shares @ pixels.astype(np.float64) @ shares.T
    return np.floor(sums / (size * size) + 0.5).astype(np.uint8)


def sheet(name: str, about: str, groups: Sequence[Group]) -> U8:
    """(H, W) or (H, W, 3) pixels: `name` and `about` above, then the groups in as many columns as make a page."""
    across, tile = len(groups[0][2]), len(groups[0][2][0])
    colour = any(pixels.ndim == 3 for _, _, tiles in groups for pixels in tiles)
    wide = across * tile + (across - 1) * GUTTER
    texts = [_lines(label, told, wide) for label, told, _ in groups]
    high = tile + 4 + LINE * max(len(text) for text in texts)
    columns = min(range(1, len(groups) + 1), key=lambda n: _off(n, len(groups), wide, high))
    rows = -(-len(groups) // columns)
    width = 2 * MARGIN + columns * wide + (columns - 1) * GAP
    head = _lines(name, about, width - 2 * MARGIN)
    top = MARGIN + LINE * len(head) + 8
    height = top + rows * high + (rows - 1) * GAP + MARGIN
    canvas = np.full((height, width, 3) if colour else (height, width), GROUND, np.uint8)
    _write(canvas, MARGIN, MARGIN - 4, head, width - 2 * MARGIN)
    for place, (_, _, tiles) in enumerate(groups):
        x = MARGIN + place % columns * (wide + GAP)
        y = top + place // columns * (high + GAP)
        for number, pixels in enumerate(tiles):
            left = x + number * (tile + GUTTER)
            whole = pixels[..., None] if colour and pixels.ndim == 2 else pixels
            canvas[y : y + tile, left : left + tile] = whole
        _write(canvas, x, y + tile + 4, texts[place], wide)
    return canvas


def _off(columns: int, groups: int, wide: int, high: int) -> tuple[float, int]:
    """How far so many columns are from a page: its shape, and places that stay empty."""
    rows = -(-groups // columns)
    ratio = (columns * (wide + GAP)) / (rows * (high + GAP))
    empty = columns * rows - groups
    return max(ratio / SHAPE, SHAPE / ratio) + 0.15 * empty / columns, columns


def _lines(label: str, told: str, room: int) -> list[list[tuple[str, int]]]:
    """Label and text in at most MOST_LINES lines of `room` pixels, broken between parameters; what has no room is left out."""
    from PIL import ImageFont

    font = ImageFont.load_default_imagefont()
    lines: list[list[tuple[str, int]]] = [[(_latin(label), INK)]]
    used = font.getlength(_latin(label))
    for word in _latin(told).split("  "):
        wide = font.getlength(word) + SPACE
        if used + wide > room:
            if len(lines) == MOST_LINES or wide - SPACE > room:
                break
            lines.append([])
            used = -SPACE
        lines[-1].append((word, SOFT))
        used += wide
    return lines


def _latin(text: str) -> str:
    return text.encode("latin-1", "replace").decode("latin-1")


def _write(canvas: U8, x: int, y: int, lines: Sequence[Sequence[tuple[str, int]]], room: int) -> None:
    """Lines of text in the built-in bitmap letters, each piece in its grey."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default_imagefont()
    image = Image.new("L", (room, LINE * len(lines)), GROUND)
    pen = ImageDraw.Draw(image)
    for number, line in enumerate(lines):
        at = 0
        for text, grey in line:
            pen.text((at, number * LINE), text, fill=grey, font=font)
            at += int(font.getlength(text)) + SPACE
    pixels = np.asarray(image)
    canvas[y : y + len(pixels), x : x + room] = pixels[..., None] if canvas.ndim == 3 else pixels


def png(pixels: U8) -> bytes:
    """The picture as our own encoder writes it."""
    from curate._png import Encoder

    channels = 1 if pixels.ndim == 2 else 3
    return bytes(Encoder(pixels.shape[0], pixels.shape[1], channels).encode(np.ascontiguousarray(pixels)))
