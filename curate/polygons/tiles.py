"""One image of a polygon dataset made small, with its annotations drawn in their category's colour.

The pixels are shown upright: turned by the table's orientation, or by the file's own where the table has none; the shapes, which lie on the
image as stored, are turned alike. What is wrong with an image (no file, damaged, another size) is told beside it and never mended.
Bytes depend on file, table and tile size alone, given one version of the image decoder.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from curate.polygons._digest import image_path
from curate.polygons._geometry import measure
from curate.polygons._json_strict import loads
from curate.polygons._rle import counts_of
from curate.polygons._schema import Form
from curate.polygons.stats import category_names
from curate.polygons.store import Annotations, values
from curate.polygons.strokes import U8, Colour, Floats, Shape, label
from curate.polygons.turning import shown_size, to_shown, turn_pixels, unturn_pixels

PALETTE: tuple[Colour, ...] = (
    (255, 90, 95), (46, 196, 182), (255, 191, 60), (110, 168, 254), (199, 125, 255), (128, 216, 74),
    (255, 140, 66), (86, 207, 225), (255, 133, 192), (222, 214, 84), (160, 160, 255), (120, 230, 160),
)  # fmt: skip
GROUND: Colour = (44, 46, 52)  # in place of pixels that are not there
MOST_DRAWN = 1000  # annotations of an image: the largest
MOST_VERTICES = 4000  # of a ring
MOST_LABELS = 15  # on an image
MOST_MASK_PIXELS = 1 << 27  # of all masks of an image


@dataclass(frozen=True)
class Tile:
    """`pixels` (h, w, 3); `trouble` says what is wrong with the image; `counts`: (category id or None, annotations), most first."""

    pixels: U8
    row: int
    name: str
    counts: list[tuple[int | None, int]]
    trouble: str | None = None


@dataclass(frozen=True)
class _Frame:
    """Where stored coordinates lie on a tile: turned by `turn` in an image `size` (width, height as stored), then scaled."""

    turn: int
    size: tuple[int, int]
    tile: tuple[int, int]  # width, height

    def on_tile(self, points: Floats) -> Floats:
        shown = to_shown(points, self.turn, *self.size)
        return np.asarray(shown * (np.array(self.tile) / np.array(shown_size(self.turn, *self.size))))


class Painter:
    """Draws tiles of one dataset; `folder` is where its images lie, None where they are not at hand."""

    def __init__(self, annotations: Annotations, folder: Path | None, side: int) -> None:
        self.annotations, self.folder, self.side = annotations, folder, side
        self.budget = MOST_MASK_PIXELS
        self.names = category_names(annotations)
        ids, known = values(annotations.annotations, "category_id")
        self.categories = [int(n) if k else None for n, k in zip(ids.tolist(), known.tolist(), strict=True)]
        strange = sorted({n for n in self.categories if n is not None} - self.names.keys())
        self.ranks: dict[int | None, int] = {n: rank for rank, n in enumerate([*self.names, *strange])}
        self.files: list[str | None] = annotations.images["file_name"].to_pylist()

    @cached_property
    def rows_of(self) -> dict[int, list[int]]:
        """Image row -> its annotation rows."""
        found: dict[int, list[int]] = {}
        for row, image in enumerate(self.annotations.image_rows.tolist()):
            found.setdefault(image, []).append(row)
        return found

    def colour(self, category: int | None) -> Colour:
        """A category's colour; grey for none."""
        rank = self.ranks.get(category)
        return (190, 190, 190) if rank is None else PALETTE[rank % len(PALETTE)]

    def name(self, category: int | None) -> str:
        """A category's name."""
        return "no category" if category is None else self.names.get(category, f"category {category}")

    def tile(self, image: int) -> Tile:
        """The tile of an image row; its longer side is `side` pixels (fewer for a smaller image)."""
        base, frame, trouble = self._base(image)
        rows = self.rows_of.get(image, [])
        tally: dict[int | None, int] = {}
        for row in rows:
            tally[self.categories[row]] = tally.get(self.categories[row], 0) + 1
        counts = sorted(tally.items(), key=lambda item: (-item[1], self.ranks.get(item[0], -1)))
        told = [trouble, self._draw(base, frame, rows) if frame is not None else None]
        trouble = "; ".join(filter(None, told)) or None
        return Tile(base, image, self.files[image] or f"image row {image}", counts, trouble)

    def _base(self, image: int) -> tuple[U8, _Frame | None, str | None]:
        """(pixels to draw on, how to draw on them, what is wrong)."""
        table = self.annotations.images
        width, height, given = (table[key][image].as_py() for key in ("width", "height", "orientation"))
        stated = (width, height) if width and height and min(width, height) > 0 else None
        turn = given if given in range(1, 9) else None
        read, why = self._read(image)
        if read is None:
            if stated is None:
                told = "no size" if why is None else f"{why}, and no size"
                return np.full((self.side, self.side, 3), GROUND, np.uint8), None, told
            upright = turn or 1
            wide, high = shown_size(upright, *stated)
            scale = min(1.0, self.side / max(wide, high))
            tile = (max(1, round(wide * scale)), max(1, round(high * scale)))
            return np.full((tile[1], tile[0], 3), GROUND, np.uint8), _Frame(upright, stated, tile), why
        stored, size, own = read
        upright = turn or own
        pixels = np.array(turn_pixels(stored, upright), order="C")
        tile = pixels.shape[1], pixels.shape[0]
        if stated is None or stated == size:
            trouble = f"turned by {own} in the file, {turn} here" if turn and own not in (1, turn) else None
            return pixels, _Frame(upright, size, tile), trouble
        told = f"the file is {size[0]} x {size[1]}, not {stated[0]} x {stated[1]}"
        if upright >= 5 and stated == shown_size(upright, *size):  # drawn on the image as shown
            return pixels, _Frame(1, stated, tile), told
        return pixels, _Frame(upright, size, tile), told

    def _read(self, image: int) -> tuple[tuple[U8, tuple[int, int], int] | None, str | None]:
        """((small pixels as stored, (width, height) of the file, its orientation), None), or (None, what is wrong)."""
        from curate._picture_bytes import MAX_BYTES, PictureError, format_of, prepare
        from curate._picture_decode import decode

        if self.folder is None:
            return None, None
        path = image_path(self.folder, self.files[image])
        if path is None:
            return None, "no name of a file in the folder"
        try:
            with open(path, "rb") as file:
                data = file.read(MAX_BYTES + 1)
            own = prepare(data, format_of(data)).orientation
            picture = decode(data, self.side)
        except PictureError as error:
            return None, f"the file is {error.status}" if error.status != "damaged" else "the file is damaged"
        except OSError:
            return None, "no such file"
        size = picture.info["size"]
        return (unturn_pixels(np.asarray(picture), own), shown_size(own, *size), own), None

    @cached_property
    def areas(self) -> Floats:
        """(annotations,) pixels; -1 where nothing is measured."""
        return np.nan_to_num(measure(self.annotations, steps_a_vertex=0, more_steps=0).areas, nan=-1.0)

    def _draw(self, base: U8, frame: _Frame, rows: Sequence[int]) -> str | None:
        """Draw the largest first, so that small ones lie above; says how many could not be drawn."""
        order = sorted(rows, key=lambda row: -self.areas[row])[:MOST_DRAWN]
        boxes: list[tuple[tuple[float, float, float, float], int]] = []
        undrawn, self.budget = len(rows) - len(order), MOST_MASK_PIXELS
        for row in order:
            try:
                shape = self._shape(row, frame)
            except ValueError:  # run lengths that are none, a shape whose keys are no JSON
                undrawn += 1
                continue
            shape.paint(base, self.colour(self.categories[row]))
            boxes.append((shape.box, row))
        if len(rows) <= MOST_LABELS and len(self.ranks) > 1:
            for box, row in boxes:
                label(base, box, self.name(self.categories[row]), self.colour(self.categories[row]))
        return f"{undrawn:,} of {len(rows):,} annotations not drawn" if undrawn else None

    def _shape(self, row: int, frame: _Frame) -> Shape:
        annotations = self.annotations
        form = Form(int(annotations.forms[row]))
        if form in (Form.RLE_COUNTS, Form.RLE_STRING):
            return self._mask(row, frame)
        if form == Form.SHAPE:
            return self._figure(row, frame)
        rings = [
            (frame.on_tile(_thin(annotations.ring(part))), bool(annotations.holes[part]))
            for part in range(annotations.part_starts[row], annotations.part_starts[row + 1])
        ]
        return Shape(rings) if rings else self._bbox(row, frame)

    def _bbox(self, row: int, frame: _Frame) -> Shape:
        x, y, w, h = (self.annotations.annotations[f"bbox_{name}"][row].as_py() for name in "xywh")
        if None in (x, y, w, h):
            return Shape([])
        corners = np.array([(x, y), (x + w, y), (x + w, y + h), (x, y + h)])
        return Shape([(frame.on_tile(corners), False)], filled=False)

    def _figure(self, row: int, frame: _Frame) -> Shape:
        """A shape that is no ring: circle, rectangle, line or points."""
        part = int(self.annotations.part_starts[row])
        points = _thin(self.annotations.ring(part))
        extra = self.annotations.annotations["extra"][row].as_py()
        kind = loads(extra.encode()).get("shape_type") if extra else None
        if kind == "circle" and len(points) == 2:
            turns = np.linspace(0, 2 * math.pi, 64, endpoint=False)
            reach = math.dist(points[0], points[1])
            points = points[0] + reach * np.column_stack((np.cos(turns), np.sin(turns)))
        elif kind == "rectangle" and len(points) == 2:
            (a, b), (c, d) = points.tolist()
            points = np.array([(a, b), (c, b), (c, d), (a, d)])
        else:
            return Shape([(frame.on_tile(points), False)], filled=False, closed=False)
        return Shape([(frame.on_tile(points), False)])

    def _mask(self, row: int, frame: _Frame) -> Shape:
        table = self.annotations.annotations
        runs, high, wide = (table[name][row].as_py() for name in ("rle", "rle_height", "rle_width"))
        counts = counts_of(runs)
        self.budget -= max(high * wide, 0)
        if high < 1 or wide < 1 or self.budget < 0 or int(counts.sum()) != high * wide:
            raise ValueError("run lengths that do not add up to the image, or too many of them")
        mask = np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(wide, high).T
        return Shape([], mask=turn_pixels(mask, frame.turn), tile=frame.tile)


def _thin(ring: Floats) -> Floats:
    """Not more vertices than are drawn; what is no number, or far outside of every image, is left out."""
    ring = ring[(np.abs(ring) < 1e7).all(axis=1)]
    return ring[:: -(-len(ring) // MOST_VERTICES)] if len(ring) > MOST_VERTICES else ring
