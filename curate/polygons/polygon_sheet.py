"""A browsing sheet: a grid of images with their polygons drawn in the colours of their categories, as one PNG.

Images are chosen by a hash of the seed and their id (so the choice of a grown dataset keeps most of what it was), by ids, or by how many
annotations they have. The PNG is written by our own encoder; see `tiles` for how an image is drawn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from curate.polygons.store import Annotations
from curate.polygons.strokes import Colour, plain, text_mask
from curate.polygons.tiles import Painter, Tile
from headwater.errors import UsageError, nearest
from headwater.pages import visible

U8 = npt.NDArray[np.uint8]

ORDERS = ("random", "most", "fewest")
MARGIN, GUTTER, LINE = 20, 12, 15  # around the sheet, between cells, a line of text; pixels
BACK: Colour = (26, 26, 26)
INK: Colour = (236, 236, 236)
SOFT: Colour = (158, 158, 158)
WARN: Colour = (255, 150, 90)
SHAPE = 1.35  # columns over rows, about
MOST_IMAGES, TILES = 400, (48, 1024)
MOST_LEGEND_LINES = 3


@dataclass(frozen=True)
class Sheet:
    """`png`, the image rows on it in order, and (file name, what is wrong) of images that could not be shown as the table says."""

    png: bytes
    rows: list[int]
    troubles: list[tuple[str, str]]


def polygon_sheet(
    annotations: Annotations,
    folder: Path | None = None,
    *,
    images: int = 12,
    order: str = "random",
    ids: Sequence[int | str] = (),
    category: str | None = None,
    seed: int = 0,
    tile: int = 256,
    name: str = "",
) -> Sheet:
    """A sheet of `images` images: chosen as `choose` says; `tile` is the longer side of an image on it, in pixels.

    `folder` is where the image files lie; without it, and for files that cannot be read, shapes stand on a plain ground.
    Raises UsageError for sizes that make no sheet, an order or an id that is none; MissingExtra without numba.
    """
    if not TILES[0] <= tile <= TILES[1]:
        raise UsageError(f"a sheet with tiles of {tile} pixels: must be {TILES[0]} to {TILES[1]}")
    rows = choose(annotations, images, order=order, ids=ids, category=category, seed=seed)
    painter = Painter(annotations, folder, tile)
    tiles = [painter.tile(row) for row in rows]
    how = "by id" if ids else f"{order}, seed {seed}" if order == "random" else f"{order} annotations"
    about = (
        f"{_many(len(annotations.images), 'image')}  {_many(len(annotations.annotations), 'annotation')}  "
        f"{len(painter.names):,} {'category' if len(painter.names) == 1 else 'categories'}  {len(rows):,} shown ({how})"
    )
    from curate.sheets import png

    troubles = [(one.name, one.trouble) for one in tiles if one.trouble is not None]
    return Sheet(png(_compose(painter, tiles, name, about)), rows, troubles)


def choose(
    annotations: Annotations,
    count: int,
    *,
    order: str = "random",
    ids: Sequence[int | str] = (),
    category: str | None = None,
    seed: int = 0,
) -> list[int]:
    """Image rows: those of `ids` (image ids, or file names), or `count` by `order`; ties and "random" by a hash of seed and id.

    `category` leaves only images with an annotation of that name. Raises UsageError.
    """
    table = annotations.images
    numbers, names = table["id"].to_pylist(), table["file_name"].to_pylist()
    if not 1 <= max(count, len(ids)) <= MOST_IMAGES or count < 1:
        raise UsageError(f"a sheet of {max(count, len(ids))} images: must be 1 to {MOST_IMAGES}")
    if ids:
        places: dict[int | str, int] = {}
        for row, keys in enumerate(zip(numbers, names, strict=True)):
            for key in keys:
                if key is not None:
                    places.setdefault(key, row)
        for wanted in ids:
            if wanted not in places:
                near = nearest(str(wanted), [str(place) for place in places])
                raise UsageError(f"no image with the id or file name {wanted!r}: {near}")
        return list(dict.fromkeys(places[wanted] for wanted in ids))
    if order not in ORDERS:
        raise UsageError(f"a sheet in the order {order!r}: {nearest(order, ORDERS)}")
    inside = annotations.image_rows[annotations.image_rows >= 0]
    per_image = np.bincount(inside, minlength=len(table)).tolist()
    rows = list(range(len(table)))
    if category is not None:
        rows = _with_category(annotations, category)
    luck = {row: _hash(seed, numbers[row] if numbers[row] is not None else names[row]) for row in rows}
    sign = {"random": 0, "most": -1, "fewest": 1}[order]
    return sorted(rows, key=lambda row: (sign * per_image[row], luck[row], row))[:count]


def _with_category(annotations: Annotations, category: str) -> list[int]:
    from curate.polygons.stats import category_names
    from curate.polygons.store import values

    names = category_names(annotations)
    wanted = [number for number, name in names.items() if name == category]
    if not wanted:
        raise UsageError(f"no category called {category!r}: {nearest(category, list(names.values()))}")
    ids, known = values(annotations.annotations, "category_id")
    rows = annotations.image_rows[known & np.isin(ids, wanted)]
    return [int(row) for row in np.unique(rows[rows >= 0])]


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"


def _hash(seed: int, key: int | str | None) -> bytes:
    return hashlib.sha256(f"{seed}\n{key}".encode("utf-8", "surrogatepass")).digest()


def _compose(painter: Painter, tiles: Sequence[Tile], name: str, about: str) -> U8:
    cell = max(max(one.pixels.shape[1] for one in tiles), 96) if tiles else 96
    columns = min(range(1, len(tiles) + 1), key=lambda n: _off(n, len(tiles)), default=1)
    rows = [tiles[at : at + columns] for at in range(0, len(tiles), columns)]
    wide = max(columns * (cell + GUTTER) - GUTTER, 480)
    legend = _wrapped([(painter.name(number), painter.colour(number)) for number in painter.ranks], wide)
    top = MARGIN + LINE * (1 + bool(name) + len(legend)) + 10
    heights = [
        max(one.pixels.shape[0] for one in row) + LINE * (2 + any(one.trouble for one in row)) + GUTTER
        for row in rows
    ]
    canvas = np.full((top + sum(heights) + MARGIN - GUTTER, wide + 2 * MARGIN, 3), BACK, np.uint8)
    y = MARGIN - 4
    for line in [[(name, INK)]] * bool(name) + [[(about, SOFT)]] + legend:
        _write(canvas, MARGIN, y, line, wide)
        y += LINE
    y = top
    for row, high in zip(rows, heights, strict=True):
        for column, one in enumerate(row):
            x = MARGIN + column * (cell + GUTTER)
            h, w = one.pixels.shape[:2]
            canvas[y : y + h, x : x + w] = one.pixels
            _write(canvas, x, y + h + 4, [(_tail(one.name, cell), INK)], cell)
            told = [(f"{painter.name(c)} {n:,}", painter.colour(c)) for c, n in one.counts] or [
                ("none", SOFT)
            ]
            _write(canvas, x, y + h + 4 + LINE, told, cell)
            if one.trouble is not None:
                _write(canvas, x, y + h + 4 + 2 * LINE, [(one.trouble, WARN)], cell)
        y += high
    return canvas


def _off(columns: int, images: int) -> float:
    """How far so many columns are from a page: its shape, and places that stay empty."""
    rows = -(-images // columns)
    ratio = columns / rows
    return max(ratio / SHAPE, SHAPE / ratio) + 0.6 * (columns * rows - images) / columns


def _wrapped(words: Sequence[tuple[str, Colour]], room: int) -> list[list[tuple[str, Colour]]]:
    """Words in at most MOST_LEGEND_LINES lines; how many more there are is said at the end."""
    lines: list[list[tuple[str, Colour]]] = [[]] if words else []
    used = 0
    for place, (word, colour) in enumerate(words):
        wide = text_mask(plain(visible(word))).shape[1] + 12
        if used + wide > room - 60 and lines[-1]:
            if len(lines) == MOST_LEGEND_LINES:
                lines[-1].append((f"and {len(words) - place:,} more", SOFT))
                break
            lines.append([])
            used = 0
        lines[-1].append((word, colour))
        used += wide
    return lines


def _tail(text: str, room: int) -> str:
    """The end of a file name, which tells it from others."""
    text = plain(visible(text))
    most = max(room // 6, 8)  # letters of the built-in font are 6 pixels wide
    return text if len(text) <= most else f"...{text[3 - most :]}"


def _write(canvas: U8, x: int, y: int, words: Sequence[tuple[str, Colour]], room: int) -> None:
    """A line of words in their colours, cut at `room` pixels."""
    at = 0
    for text, colour in words:
        mask = text_mask(plain(visible(text))[: room // 6 + 1])[:, : max(room - at, 0)]
        if not mask.size:
            return
        place = canvas[y : y + mask.shape[0], x + at : x + at + mask.shape[1]]
        ink = mask[: place.shape[0], : place.shape[1]] > 127
        place[ink] = colour
        at += mask.shape[1] + 12
