"""The pictures of a page about a generation, drawn anew: sheet, one of each of more categories, outlines of things, near pairs.

Pictures are data URIs: PNG of grey ones (our own encoder), JPEG of coloured ones, a fifth as large.
"""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup, escape

from curate import _samples
from curate._made_facts import Pair
from curate._png import Encoder
from curate.generation import Generation
from curate.generators import Thing
from curate.sheets import contact_sheet, short, small
from headwater.pages import visible

U8 = npt.NDArray[np.uint8]
TILE, OUTLINED = 120, 384  # pixels a side
SHEET_CATEGORIES, SHEET_INSTANCES = 12, 4
MOST_TOLD, MOST_OUTLINED, MOST_THINGS = 9, 6, 200
COLOURS = 6  # of outlines, in the page's style
MOST_NAME = 60  # characters of a label


def sheet_uri(made: Generation, seed: int) -> str:
    """The contact sheet."""
    data = contact_sheet(made, categories=SHEET_CATEGORIES, instances=SHEET_INSTANCES, tile=TILE, seed=seed)
    if made.pixels == "grey8":
        return _data("png", data)
    from PIL import Image

    return uri(np.asarray(Image.open(io.BytesIO(data), formats=("PNG",))))


def uri(pixels: U8) -> str:
    """A data URI of (H, W) or (H, W, 3) pixels."""
    if pixels.ndim == 2:
        return _data("png", bytes(Encoder(*pixels.shape).encode(np.ascontiguousarray(pixels))))
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=85)
    return _data("jpeg", out.getvalue())


def _data(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def previews(made: Generation, wanted: int, seed: int) -> list[dict[str, Any]]:
    """Instance 0 of `wanted` categories, with their parameters."""
    if not wanted:
        return []
    return [
        {
            "uri": uri(small(next(one.pictures).pixels, TILE)),
            "number": f"{one.number:05d}",
            "told": [
                (name.replace("_", " "), short(value)) for name, value in list(one.record.items())[:MOST_TOLD]
            ],
        }
        for one in _samples.shown(made, _samples.some_rows(made, wanted, seed + 1), 1)
    ]


def outlined(made: Generation, seed: int) -> list[dict[str, Any]]:
    """Pictures with the outlines of what is in them, as paths to lie over them."""
    names = _samples.labels(made)
    cards = []
    for one in _samples.shown(made, _samples.some_rows(made, MOST_OUTLINED, seed + 2), 1):
        picture = next(one.pictures)
        side = len(picture.pixels)
        paths = [
            f'<path class="thing c{thing.label % COLOURS}" d="{_path(thing)}"><title>{_named(thing, names)}</title></path>'
            for thing in picture.things[:MOST_THINGS]
        ]
        cards.append(
            {
                "number": f"{one.number:05d}",
                "things": len(picture.things),
                "uri": uri(small(picture.pixels, min(OUTLINED, side))),
                "svg": Markup(  # noqa: S704 - put together from numbers and escaped text
                    f'<svg viewBox="0 0 {side} {side}" role="img" aria-label="outlines">{"".join(paths)}</svg>'
                ),
            }
        )
    return cards


def _named(thing: Thing, names: list[str]) -> str:
    name = names[thing.label] if 0 <= thing.label < len(names) else f"label {thing.label}"
    return str(escape(visible(name[:MOST_NAME])))


def _path(thing: Thing) -> str:
    return "".join(
        "M" + "L".join(f"{x:g} {y:g}" for x, y in polygon.tolist()) + "z" for polygon in thing.polygons
    )


def pair_card(made: Generation, pair: Pair, *, pictures: bool) -> dict[str, Any]:
    """Two categories side by side."""
    sides = []
    for row, number, instance in zip(pair.rows, pair.numbers, pair.instances, strict=True):
        pixels: U8 | None = None
        if pictures:
            for picture in next(_samples.shown(made, [row], instance + 1)).pictures:
                pixels = picture.pixels
        told = f"{number:05d}" + (f", instance {instance}" if instance else "")
        sides.append({"number": told, "uri": None if pixels is None else uri(small(pixels, TILE))})
    return {"sides": sides, "apart": f"{pair.apart:.3g}"}
