"""Scenes: shapes, stripes and contours on grounds of many kinds, with exact masks, boxes and occlusion, in colour.

Pre-training and test data for detectors of things. A category is a style: the ground (flat, a gradient, smooth noise, clutter of
lines, or a contour), its colours, and how many things lie on it; an instance is one scene of that style. The classes of the things
are shapes (`_shapes`), and they are no part of the category: any scene may hold any of them.

What can be relied on:
    everything drawn as a thing is annotated, and nothing else is. The pixels of the mask are what one sees of it;
    a thing is put where at least `visible_min` of all its pixels can be seen, with those beyond the frame and below later things
    counted as unseen, and at least `area_min` pixels. A place that breaks this for itself or for an earlier thing is not
    taken; after eight places the thing is left out, and the scene has one less;
    `empty_share` of the scenes have no thing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any

from curate.generators import Category, Painter
from curate.generators._colours import HUES
from curate.generators._random import Draws
from curate.generators._shapes import MOST, shapes
from headwater.errors import UsageError

VERSION = 1
STREAMS = ("indexed",)
KIND = "colour"
ANNOTATED = True
SALT = "scenes"

GROUNDS = ("flat", "gradient", "smooth", "lines", "contour")
TEXTURES = ("stripes", "checks", "dots", "contour", "shaded", "plain", "speckle")
MOST_THINGS = 200
SIZES = (32, 4096)  # pixels a side: least and most


@dataclass(frozen=True)
class Config:
    """Parameters of a set of scenes. A thing below `area_min`, as the smallest are in a small picture, is left out."""

    image_size: int = field(default=512, metadata={"help": "side of the square picture in pixels"})
    shapes: int = field(
        default=20, metadata={"help": f"classes of things, 1 to {MOST}: the first so many shapes"}
    )
    things_min: int = field(default=1, metadata={"help": "fewest things in a scene that has any"})
    things_max: int = field(default=12, metadata={"help": "most things in a scene"})
    empty_share: float = field(default=0.1, metadata={"help": "share of scenes without things, 0 to 1"})
    size_min: float = field(
        default=0.04,
        metadata={"help": "about how far across the smallest things are, as a share of the picture's side"},
    )
    size_max: float = field(
        default=0.47,
        metadata={"help": "about how far across the largest things are, as a share of the picture's side"},
    )
    visible_min: float = field(
        default=0.3,
        metadata={"help": "least share of a thing's pixels, hidden and cut off ones counted, to be seen"},
    )
    area_min: int = field(default=32, metadata={"help": "fewest pixels to be seen of a thing"})
    wobble: float = field(
        default=0.03, metadata={"help": "how far corners stray, as a share of the radius, 0 to 0.3"}
    )
    background: str = field(
        default="any",
        metadata={"help": "kind of ground; any: drawn for each category", "choices": ("any", *GROUNDS)},
    )
    texture: str = field(
        default="any",
        metadata={
            "help": "fill of the things; any: drawn for each thing; class: goes with the shape, an easier task",
            "choices": ("any", "class", *TEXTURES),
        },
    )
    contrast: int = field(
        default=40,
        metadata={
            "help": "least difference of brightness from the ground, 0 to 100 of 255, where there is room"
        },
    )


PRESETS: dict[str, dict[str, Any]] = {
    "scenes-10k": {"classes": 100, "instances": 100},
    "scenes-100k": {
        "classes": 1000,
        "instances": 100,
        "image_size": 640,
        "shapes": 80,
        "things_max": 20,
        "size_min": 0.025,
        "size_max": 0.5,
    },
    "scenes-crowd": {
        "classes": 100,
        "instances": 100,
        "things_min": 20,
        "things_max": 60,
        "size_min": 0.03,
        "size_max": 0.3,
        "visible_min": 0.2,
        "empty_share": 0.05,
    },
    "scenes-small": {
        "classes": 100,
        "instances": 50,
        "image_size": 224,
        "shapes": 8,
        "things_max": 6,
        "size_min": 0.11,
        "size_max": 0.57,
        "visible_min": 0.4,
    },
    "scenes-nano": {
        "classes": 100,
        "instances": 20,
        "image_size": 128,
        "shapes": 3,
        "things_max": 3,
        "empty_share": 0.05,
        "size_min": 0.28,
        "size_max": 0.6,
        "visible_min": 0.7,
        "area_min": 64,
        "texture": "class",
        "contrast": 64,
    },
}

_NUMBERS = (
    "ground_luma",  # brightness of its middle tone, 0..255
    "ground_spread",  # from there to its darkest and its brightest
    "ground_hue",  # of the middle tone, 0..1535
    "ground_shift",  # of hue from there to the ends
    "ground_saturation",  # 0..255
    "cell",  # coarsest features, pixels
    "bands",  # tones the ground is made of
    "lines",  # of the clutter, or orbits of the contour
    "hue",  # middle of the things' hues
    "hue_spread",  # how far from there they go
    "things_min",
    "things_max",
)
CATEGORY: dict[str, str] = {"background": "string", **dict.fromkeys(_NUMBERS, "int32")}


def LABELS(config: Config) -> list[str]:
    """Names of the classes of things, in the order of their numbers."""
    return [shape.name for shape in shapes(config.shapes)]


class Generator:
    """Scenes of one configuration. Raises UsageError for parameters that no scene can be drawn from."""

    def __init__(self, config: Config, seed: int) -> None:
        check(config)
        self.config = config
        self.seed = seed

    def category(self, index: int) -> Category:
        """Style `index`. What stands in the configuration changes no number that is drawn for another field."""
        config, draws = self.config, Draws(self.seed, index, SALT)
        drawn = GROUNDS[draws.integer(0, len(GROUNDS) - 1)]
        style: Category = {"background": drawn if config.background == "any" else config.background}
        style["ground_luma"] = draws.integer(40, 215)
        style["ground_spread"] = draws.integer(8, 26)
        style["ground_hue"] = draws.integer(0, HUES - 1)
        style["ground_shift"] = draws.integer(0, HUES // 6)
        style["ground_saturation"] = draws.integer(0, 170)
        style["cell"] = config.image_size * draws.integer(16, 64) // 128
        style["bands"] = draws.integer(6, 24)
        style["lines"] = draws.integer(12, 60)
        style["hue"] = draws.integer(0, HUES - 1)
        style["hue_spread"] = draws.integer(HUES // 12, HUES // 2)
        counts = [draws.integer(config.things_min, config.things_max) for _ in range(2)]
        style["things_min"], style["things_max"] = min(counts), max(counts)
        return style

    def cost(self, category: Category) -> float:
        """About the nanoseconds of one scene, as fitted to the presets: by kind of ground, and by number and size of the things."""
        config = self.config
        pixel = (1.5, 1.7, 3.7, 2.5, 2.9)[GROUNDS.index(category["background"])]
        things: float = (category["things_min"] + category["things_max"]) / 2 * (1 - config.empty_share)
        squares = (config.size_min**2 + config.size_max**2) / 6 * config.image_size**2
        return float(pixel * config.image_size**2 + things * (130_000 + 15 * squares))

    def perturbed(self, category: Category, index: int, delta: float) -> Category:
        """Style `index` of those within `delta` of one: other colours and amounts, the same kind of ground."""
        from curate.generators._perturb import Span, perturb_fields

        spans = {
            "ground_luma": Span(0, 255),
            "ground_hue": Span(0, HUES - 1),
            "ground_saturation": Span(0, 255),
            "cell": Span(4, self.config.image_size),
            "bands": Span(2, 255),
            "lines": Span(1, 1000),
            "hue": Span(0, HUES - 1),
            "hue_spread": Span(0, HUES // 2),
        }
        return perturb_fields(category, index, delta, spans=spans, seed=self.seed, salt=SALT)

    def painter(self) -> Painter:
        from curate.generators._extra import need_numba

        need_numba()
        from curate.generators._scene import ScenePainter

        return ScenePainter(self.config, self.seed)


def check(config: Config) -> None:
    """Raises UsageError, naming the parameter, for values that no scene can be drawn from."""
    limits: dict[str, tuple[float, float]] = {
        "image_size": SIZES,
        "shapes": (1, MOST),
        "things_min": (0, MOST_THINGS),
        "things_max": (0, MOST_THINGS),
        "empty_share": (0, 1),
        "size_min": (0.01, 1),
        "size_max": (0.01, 1),
        "visible_min": (0, 1),
        "area_min": (1, config.image_size**2),
        "wobble": (0, 0.3),
        "contrast": (0, 100),
    }
    for item in fields(config):
        value = getattr(config, item.name)
        if item.name not in limits:
            if value not in item.metadata["choices"]:
                raise UsageError(f"{item.name} {value!r} is none of {', '.join(item.metadata['choices'])}")
            continue
        low, high = limits[item.name]
        whole = item.type == "int"
        if (
            isinstance(value, bool)
            or not isinstance(value, int if whole else (int, float))
            or not math.isfinite(value)
        ):
            raise UsageError(f"{item.name} {value!r} is not {'an integer' if whole else 'a finite number'}")
        if not low <= value <= high:
            raise UsageError(f"{item.name} {value} is not between {low} and {high}")
    for low_name, high_name in (("things_min", "things_max"), ("size_min", "size_max")):
        if getattr(config, low_name) > getattr(config, high_name):
            raise UsageError(
                f"{low_name} {getattr(config, low_name)} is above {high_name} {getattr(config, high_name)}"
            )
