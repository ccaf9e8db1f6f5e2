"""VisualAtom: radial contours around one centre, waves and noise on every orbit (Visual Atoms, CVPR 2023, arXiv 2303.01112).

The fields are the options of the released script (repository masora1030/CVPR2023-FDSL-on-VisualAtom) under its own names, with the values
of its launcher, which the published sets are made with; `script-1k` and `script-21k` have the defaults of the script itself. Radii, steps
and start_pos are in pixels and do not follow image_size. `line_width` is an offset of every orbit, not the width of a stroke.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any

from curate.generators import Category, Painter, Picture
from headwater.errors import UsageError

VERSION = 1
STREAMS = ("indexed", "reference")
KIND = "grey"
ANNOTATED = False

_ONE = 1 << 16  # of Q16
_LIMIT = 32_000  # pixels from the origin that the kernel can count


def _at(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Config:
    """Ranges that a category's parameters are drawn from. Both ends belong to every range."""

    vertex_num_min: int = _at(200, "fewest vertices of an orbit")
    vertex_num_max: int = _at(1000, "most vertices of an orbit")
    line_num_min: int = _at(1, "fewest orbits")
    line_num_max: int = _at(200, "most orbits")
    perlin_min: float = _at(0.0, "smallest coefficient of the noise; the largest is 4 more")
    line_width: float = _at(0.1, "largest offset of an orbit from the one before, pixels; the smallest is 0")
    radius_min: int = _at(10, "smallest radius of the start ellipse, pixels; the largest is 50 more")
    oval_rate: float = _at(2.0, "largest factor of the ellipse's half-axes; the smallest is 1")
    start_pos: int = _at(
        512, "spread of the centre: it lies up to half of this beside the middle of the picture"
    )
    nami_1_min: int = _at(0, "smallest frequency of the first wave")
    nami_1_max: int = _at(20, "largest frequency of the first wave")
    nami_2_min: int = _at(0, "smallest frequency of the second wave")
    nami_2_max: int = _at(20, "largest frequency of the second wave")
    image_size: int = _at(512, "side of a picture, pixels")


_SCRIPT = {"perlin_min": 2.0, "line_width": 0.01, "radius_min": 0}
PRESETS: dict[str, dict[str, Any]] = {
    "launcher-1k": {"classes": 1000, "instances": 1000},
    "launcher-21k": {"classes": 21_000, "instances": 1000},
    "script-1k": {"classes": 1000, "instances": 1000, **_SCRIPT},
    "script-21k": {"classes": 21_000, "instances": 1000, **_SCRIPT},
    "nano": {"classes": 10, "instances": 10},
}

CATEGORY = {
    "vertex_num": "int32",
    "line_num": "int32",
    "perlin": "double",
    "line_width": "double",
    "radius": "int32",
    "nami_1": "int32",
    "nami_2": "int32",
    "oval_x": "double",
    "oval_y": "double",
}

_RANGES = (("vertex_num", 1, 65_536), ("line_num", 1, 65_536), ("nami_1", 0, 65_536), ("nami_2", 0, 65_536))


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def check_number(name: str, value: object, low: float, high: float, *, whole: bool) -> None:
    """Raises UsageError unless `value` is a number between low and high (both included), whole where asked."""
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise UsageError(f"{name} {value!r} is not {'a whole number' if whole else 'a number'}")
    if not math.isfinite(value):
        raise UsageError(f"{name} {value!r} is not a finite number")
    if not low <= value <= high:
        raise UsageError(f"{name} {value!r} is not between {low:g} and {high:g}")


def check_config(config: Config) -> None:
    """Raises UsageError, naming the option, for ranges that nothing can be drawn from; the same for both streams."""
    limits: dict[str, tuple[float, float, bool]] = {
        "perlin_min": (0, _LIMIT, False),
        "line_width": (0, _LIMIT, False),
        "radius_min": (0, _LIMIT, True),
        "oval_rate": (1, _LIMIT, False),
        "start_pos": (0, _LIMIT, True),
        "image_size": (1, 8192, True),
    }
    for name, least, most in _RANGES:
        limits[name + "_min"] = limits[name + "_max"] = (least, most, True)
    for option in fields(config):
        low, high, whole = limits[option.name]
        check_number(_option(option.name), getattr(config, option.name), low, high, whole=whole)
    for name, _, _ in _RANGES:
        least, most = getattr(config, name + "_min"), getattr(config, name + "_max")
        if least > most:
            raise UsageError(f"{_option(name)}-min {least} is above {_option(name)}-max {most}")
    only = config.nami_2_min
    if only == config.nami_2_max != 0 and config.nami_1_min <= only <= config.nami_1_max:
        raise UsageError(
            f"the two frequencies must differ, but --nami-2-min and --nami-2-max leave only {only}, "
            "which the first may take, too",
            hint="widen --nami-2-min..--nami-2-max, or keep the first frequency's range off it",
        )
    orbit = config.line_width + 2 * (config.perlin_min + 4) + 1
    reach = (config.radius_min + 50) * config.oval_rate + config.line_num_max * orbit
    reach += (config.image_size + config.start_pos) / 2
    if reach > _LIMIT:
        raise UsageError(
            f"an atom of these ranges could reach {reach:,.0f} pixels, more than the {_LIMIT:,} that can be counted",
            hint="lower --line-num-max, --perlin-min, --line-width, --radius-min, --oval-rate, --start-pos or --image-size",
        )


def check_seed(seed: object) -> int:
    """The seed, if it is of 64 bits; else UsageError."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 1 << 64:
        raise UsageError(f"--seed {seed!r} is not a whole number from 0 to 2^64 - 1")
    return seed


def q16(value: float) -> int:
    """The Q16 integer nearest to a number; exact for what a category holds."""
    return round(value * _ONE)


class Generator:
    """The indexed stream; the reference stream is `_script.ScriptStream`."""

    def __init__(self, config: Config, seed: int) -> None:
        check_config(config)
        self.config = config
        self.seed = check_seed(seed)

    def category(self, index: int) -> Category:
        """Parameters of category `index`, drawn in the script's order; numbers that are not whole are multiples of 1/65536."""
        from curate.generators._random import Draws

        config = self.config
        draws = Draws(self.seed, index, "visualatom")
        vertices = draws.integer(config.vertex_num_min, config.vertex_num_max)
        orbits = draws.integer(config.line_num_min, config.line_num_max)
        least = q16(config.perlin_min)
        perlin = draws.fixed(least, least + 4 * _ONE)
        offset = draws.fixed(0, q16(config.line_width))
        radius = draws.integer(config.radius_min, config.radius_min + 50)
        nami_1 = draws.integer(config.nami_1_min, config.nami_1_max)
        nami_2 = draws.integer(config.nami_2_min, config.nami_2_max)
        while nami_2 == nami_1 != 0:
            nami_2 = draws.integer(config.nami_2_min, config.nami_2_max)
        most = q16(config.oval_rate)
        return {
            "vertex_num": vertices,
            "line_num": orbits,
            "perlin": perlin / _ONE,
            "line_width": offset / _ONE,
            "radius": radius,
            "nami_1": nami_1,
            "nami_2": nami_2,
            "oval_x": draws.fixed(_ONE, most) / _ONE,
            "oval_y": draws.fixed(_ONE, most) / _ONE,
        }

    def cost(self, category: Category) -> float:
        """Segments of a picture."""
        return float(category["vertex_num"] * category["line_num"])

    def perturbed(self, category: Category, index: int, delta: float) -> Category:
        """Record `index` of those whose parameters all lie within delta * |value| of `category`; see `_perturb`."""
        from curate.generators._perturb import Span, perturb_fields

        config = self.config
        return perturb_fields(
            category,
            index,
            delta,
            spans={
                "vertex_num": Span(config.vertex_num_min, config.vertex_num_max),
                "line_num": Span(config.line_num_min, config.line_num_max),
                "perlin": Span(config.perlin_min, config.perlin_min + 4, 16),
                "line_width": Span(0, config.line_width, 16),
                "radius": Span(config.radius_min, config.radius_min + 50),
                "nami_1": Span(config.nami_1_min, config.nami_1_max),
                "nami_2": Span(config.nami_2_min, config.nami_2_max),
                "oval_x": Span(1, config.oval_rate, 16),
                "oval_y": Span(1, config.oval_rate, 16),
            },
            seed=self.seed,
            salt="visualatom",
            valid=lambda record: record["nami_1"] != record["nami_2"] or record["nami_1"] == 0,
        )

    def painter(self) -> Painter:
        """Loads the kernel. Raises MissingExtra where numba is not installed."""
        return _Painter(self.config, self.seed)


class _Painter:
    def __init__(self, config: Config, seed: int) -> None:
        from curate.generators._extra import need_numba

        need_numba()
        from curate.generators import _random
        from curate.generators._contour import ContourPainter

        self._random = _random
        self._canvas = ContourPainter(config.image_size)
        self._config = config
        self._seed = seed
        self._category: Category | None = None
        self._shape: dict[str, Any] = {}

    def paint(
        self,
        category: Category,
        index: int,
        instance: int,
        attempt: int = 0,
        *,
        window: tuple[int, int, int, int] | None = None,
    ) -> Picture:
        """One picture; with `window` (top, left, height, width) only its pixels are promised."""
        if category is not self._category:
            self._shape = shape(category)
            self._category = category
        key = self._random.picture_key(self._seed, index, instance, attempt)
        size, spread = self._config.image_size, self._config.start_pos
        row = size + self._random.below(key, 1, 2 * spread + 1) - spread
        column = size + self._random.below(key, 2, 2 * spread + 1) - spread
        canvas = self._canvas
        canvas.clear(0)
        canvas.draw(
            **self._shape,
            centre_x_q16=column << 15,
            centre_y_q16=row << 15,
            key=self._random.fold(key, 3),
            window=window,
        )
        return Picture(canvas.pixels)


def shape(category: Category) -> dict[str, Any]:
    """A category as the contour kernel takes it. Raises UsageError, naming the column, for a record that cannot be drawn."""
    for name, low, high in _RANGES:
        check_number(name, category.get(name), low, high, whole=True)
    check_number("radius", category.get("radius"), 0, _LIMIT, whole=True)
    for name in ("perlin", "line_width", "oval_x", "oval_y"):
        check_number(name, category.get(name), 0, _LIMIT, whole=False)
    out = {
        "vertices": category["vertex_num"],
        "orbits": category["line_num"],
        "p_q16": q16(category["perlin"]),
        "w_q16": q16(category["line_width"]),
        "radius_q16": category["radius"] << 16,
        "oval_x_q16": q16(category["oval_x"]),
        "oval_y_q16": q16(category["oval_y"]),
        "n1": category["nami_1"],
        "n2": category["nami_2"],
    }
    step = out["w_q16"] + 2 * out["p_q16"] + _ONE
    oval = max(out["oval_x_q16"], out["oval_y_q16"])
    if category["radius"] * oval + out["orbits"] * step > (_LIMIT - 12_288) << 16:
        raise UsageError(
            f"an atom of {category['line_num']} orbits of these steps would leave what can be counted"
        )
    return out
