"""RCDB: radial contours on white, orbits around an ellipse that grow noisier and have no waves (CVPR 2022, arXiv 2206.09132).

The fields are the options of the released script (make_rcdb.py of the CVPR 2022 repository) under its own names, with its values; its
launchers for 1,000 and 21,000 classes pass the same. What the script does, and this does after it:

    category    vertices: the whole part of an exponential variate of mean 100, drawn again until it is 3..vertex_num; line_num_min and up
                to 199 more orbits; noise: perlin_min and up to 4 more; offset: 0..line_width
    picture     start radius: radius_min and up to 100 more; ellipse factors 1..oval_rate; centre (S + u) / 2, u in -start_pos..start_pos,
                for the row and for the column: all of them anew for every picture of a category
    orbit       vertices move outwards by offset + noise (1 - 2 e), e from gradient noise, for x and for y apart; lines of width 1 in one
                grey level, 0..256 with 256 stored as 255, on white

Ours: the indexed stream and its integers, the law of the vertices as a table of exact shares; the grey levels are those of 512 pixels
at every size (the script takes 0..S/2). The category table has no radius, ellipse and centre, which belong to the pictures here; the
script's own parameter files hold those of the first picture.
"""

from __future__ import annotations

import bisect
import decimal
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from fractions import Fraction
from typing import Any

from curate.generators import Category, Painter, Picture
from curate.generators.visualatom import check_number, check_seed, q16
from headwater.errors import UsageError

VERSION = 1
STREAMS = ("indexed",)
KIND = "grey"
ANNOTATED = False
BACKGROUND = 255  # white; what counts as unlit here
CATEGORY = {"vertex_num": "int32", "line_num": "int32", "perlin": "double", "line_width": "double"}

MEAN = 100  # of the exponential law
MORE_LINES, MORE_NOISE, MORE_RADIUS = 199, 4, 100  # how far the ranges go above their minimum
GREY_MAX = 256
LAW_BITS = 48
REACH = 32_000  # pixels from the origin that the kernel can count
_ONE = 1 << 16  # of Q16

# field -> least, most, whole
LIMITS: dict[str, tuple[float, float, bool]] = {
    "vertex_num": (3, 10_000, True),
    "line_num_min": (1, 65_536, True),
    "perlin_min": (0, REACH, False),
    "line_width": (0, REACH, False),
    "radius_min": (0, REACH, True),
    "oval_rate": (1, REACH, False),
    "start_pos": (0, REACH, True),
    "image_size": (1, 8192, True),
}


def _at(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Config:
    """Ranges that a category's parameters are drawn from. Both ends belong to every range."""

    vertex_num: int = _at(200, "most vertices of an orbit; the fewest are 3")
    line_num_min: int = _at(1, "fewest orbits; the most are 199 more")
    perlin_min: float = _at(0.0, "smallest coefficient of the noise; the largest is 4 more")
    line_width: float = _at(0.1, "largest offset of an orbit from the one before, pixels; the smallest is 0")
    radius_min: int = _at(0, "smallest radius of the start ellipse, pixels; the largest is 100 more")
    oval_rate: float = _at(2.0, "largest factor of the ellipse's half-axes; the smallest is 1")
    start_pos: int = _at(
        400, "spread of the centre: it lies up to half of this beside the middle of the picture"
    )
    image_size: int = _at(512, "side of a picture, pixels")


PRESETS: dict[str, dict[str, Any]] = {
    "launcher-1k": {"classes": 1000, "instances": 1000},
    "launcher-21k": {"classes": 21_000, "instances": 1000},
    "nano": {"classes": 10, "instances": 10},
}


def check_fields(config: Any, limits: Mapping[str, tuple[float, float, bool]]) -> None:
    """Raises UsageError, naming the option, for a field of `config` that its limits (least, most, whole) do not allow."""
    for each in fields(config):
        if each.name in limits:
            low, high, whole = limits[each.name]
            option = "--" + each.name.replace("_", "-")
            check_number(option, getattr(config, each.name), low, high, whole=whole)


def check_reach(config: Any, *, lines: float, perlin: float, offset: float, radius: float) -> None:
    """Raises UsageError where a contour could leave what the kernel counts: an orbit moves by less than offset + 3 noise + 1."""
    reach = radius * config.oval_rate + lines * (offset + 3 * perlin + 1)
    reach += (config.image_size + config.start_pos) / 2
    if reach > REACH:
        raise UsageError(
            f"contours of these ranges could reach {reach:,.0f} pixels, more than the {REACH:,} that can be counted",
            hint="fewer orbits, less noise, or a smaller offset, radius, oval-rate, start-pos or image-size",
        )


@functools.lru_cache(maxsize=16)
def vertex_law(mean: Fraction, most: int) -> tuple[int, ...]:
    """Shares of 3, 3..4, 3..5, … 3..most in 2^-48: the whole part of an exponential variate of that mean, drawn again until it fits.

    P(v) is proportional to exp(-v / mean); the weights have 28 decimals, and Decimal's exp is correctly rounded: one table everywhere.
    """
    context = decimal.Context(prec=30)
    weights = []
    for v in range(most - 2):
        power = context.divide(decimal.Decimal(-v * mean.denominator), decimal.Decimal(mean.numerator))
        weights.append(int(context.scaleb(context.exp(power), 28)))
    whole, before, table = sum(weights), 0, []
    for weight in weights:
        before += weight
        table.append((before << LAW_BITS) // whole)
    return tuple(table)


class Generator:
    """The indexed stream. Raises UsageError, naming the option, for ranges that nothing can be drawn from."""

    def __init__(self, config: Config, seed: int) -> None:
        check_fields(config, LIMITS)
        self._reach(
            config, config.line_num_min + MORE_LINES, config.perlin_min + MORE_NOISE, config.line_width
        )
        self.config = config
        self.seed = check_seed(seed)

    @staticmethod
    def _reach(config: Config, lines: float, perlin: float, offset: float) -> None:
        radius = config.radius_min + MORE_RADIUS
        check_reach(config, lines=lines, perlin=perlin, offset=offset, radius=radius)

    def category(self, index: int) -> Category:
        """Parameters of category `index`, drawn in the script's order; numbers that are not whole are multiples of 1/65536."""
        from curate.generators._random import Draws

        config = self.config
        draws = Draws(self.seed, index, "rcdb")
        law = vertex_law(Fraction(MEAN), config.vertex_num)
        least = q16(config.perlin_min)
        return {
            "vertex_num": 3 + bisect.bisect_right(law, draws.bits(LAW_BITS)),
            "line_num": draws.integer(config.line_num_min, config.line_num_min + MORE_LINES),
            "perlin": draws.fixed(least, least + MORE_NOISE * _ONE) / _ONE,
            "line_width": draws.fixed(0, q16(config.line_width)) / _ONE,
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
                "vertex_num": Span(3, config.vertex_num),
                "line_num": Span(config.line_num_min, config.line_num_min + MORE_LINES),
                "perlin": Span(config.perlin_min, config.perlin_min + MORE_NOISE, 16),
                "line_width": Span(0, config.line_width, 16),
            },
            seed=self.seed,
            salt="rcdb",
        )

    def painter(self) -> Painter:
        """Loads the kernel. Raises MissingExtra where numba is not installed."""
        return _Painter(self)


def shape(category: Category) -> dict[str, Any]:
    """A category as the contour kernel takes it. Raises UsageError, naming the column, for a record that cannot be drawn."""
    for name, least in (("vertex_num", 3), ("line_num", 1)):
        check_number(name, category.get(name), least, 65_536, whole=True)
    for name in ("perlin", "line_width"):
        check_number(name, category.get(name), 0, REACH, whole=False)
    return {
        "vertices": category["vertex_num"],
        "orbits": category["line_num"],
        "p_q16": q16(category["perlin"]),
        "w_q16": q16(category["line_width"]),
        "n1": 0,
        "n2": 0,
        "noise_factor": 2,
    }


class _Painter:
    def __init__(self, generator: Generator) -> None:
        from curate.generators._extra import need_numba

        need_numba()
        from curate.generators import _random
        from curate.generators._contour import ContourPainter

        self._random = _random
        self._generator = generator
        self._canvas = ContourPainter(generator.config.image_size)
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
        config = self._generator.config
        if category is not self._category:
            shaped = shape(category)
            self._generator._reach(
                config, category["line_num"], category["perlin"], category["line_width"]
            )  # a table that was read may hold more than the ranges
            self._shape, self._category = shaped, category
        root = self._random.picture_key(self._generator.seed, index, instance, attempt)
        key = self._random.fold(root, self._random.salt_key("rcdb"))
        span, most = 2 * config.start_pos + 1, q16(config.oval_rate)
        radius = config.radius_min + self._random.below(key, 1, MORE_RADIUS + 1)
        oval_x = _ONE + self._random.below(key, 2, most - _ONE + 1)
        oval_y = _ONE + self._random.below(key, 3, most - _ONE + 1)
        row = config.image_size + self._random.below(key, 4, span) - config.start_pos
        column = config.image_size + self._random.below(key, 5, span) - config.start_pos
        canvas = self._canvas
        canvas.clear(BACKGROUND)
        canvas.draw(
            **self._shape,
            radius_q16=radius << 16,
            oval_x_q16=oval_x,
            oval_y_q16=oval_y,
            centre_x_q16=column << 15,
            centre_y_q16=row << 15,
            key=self._random.fold(key, 6),
            grey_max=GREY_MAX,
            window=window,
        )
        return Picture(canvas.pixels)
