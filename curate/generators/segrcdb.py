"""SegRCDB: many radial contours in one picture, with masks that say which class each is of (ICCV 2023, Shinoda et al.).

The fields are the options of the two released scripts (SegRCDB_params.py, SegRCDB_render.py) under their own names, with the values of
their launcher; `script-m1` has the offset that the script itself defaults to. What the scripts do, and this does after them:

    class       vertices: the whole part of an exponential variate of mean vertex_num / 5, drawn again until it is 3..vertex_num; orbits,
                noise, offset, start radius, ellipse factors: uniform in their ranges
    picture     instance_num objects on black, each of a class and around a centre (S + u) / 2, u in -start_pos..start_pos, one above
                the other; orbits as RCDB's, in grey levels 0..255
    mask        m1: the lines of all orbits. m2: the ring between the first and the last drawn orbit, both lines included; what lies in
                its hole becomes background. m3: all that the last orbit encloses, its line included.

Ours: the indexed stream. A category is a class of objects, and a picture of category c holds at least one of it, at a drawn place in the
order; the others are of any class. So 254 categories x 79 instances are 20,066 pictures for the scripts' 20,000, each class equally
often, and the category table is what the scripts write to param/. Fills go by pixels' centres (`_mask`), where the scripts have
Pillow's polygons, and an object of one orbit has its line as ring, where the script has none. With `clear-holes` off, m2 keeps what
shows through a hole. Things of which nothing is visible are left out. The mode is m3 unless asked for, where the scripts' is m1: the
things of m1 have boxes and masks but, with polygons "auto", no polygons, which would be some 14,000 a picture. `object_classes` is the
scripts' numof_classes.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from curate.generators import Category, Painter
from curate.generators.rcdb import LAW_BITS, REACH, check_fields, check_reach, vertex_law
from curate.generators.rcdb import shape as contour
from curate.generators.visualatom import check_number, check_seed, q16
from headwater.errors import UsageError, nearest

VERSION = 1
STREAMS = ("indexed",)
KIND = "grey"
ANNOTATED = True

CATEGORY = {
    "vertex_num": "int32",
    "line_num": "int32",
    "perlin": "double",
    "line_width": "double",
    "radius": "int32",
    "oval_x": "double",
    "oval_y": "double",
    "color_gray": "int32",  # level of the class in a picture of labels: 1 + its index
    "base": "int32",  # class that it and all others of its pictures are perturbations of, or -1
    "delta": "double",
}

MODES = ("m1", "m2", "m3")
POLYGONS = ("auto", "yes", "no")
_ONE = 1 << 16  # of Q16
_LIMITS: dict[str, tuple[float, float, bool]] = {
    "object_classes": (1, 254, True),
    "instance_num": (1, 255, True),
    "vertex_num": (3, 10_000, True),
    "line_num_min": (1, 65_536, True),
    "line_num_max": (1, 65_536, True),
    "perlin_min": (0, REACH, False),
    "perlin_max": (0, REACH, False),
    "line_width": (0, REACH, False),
    "radius_min": (0, REACH, True),
    "radius_max": (0, REACH, True),
    "oval_rate": (1, REACH, False),
    "start_pos": (0, REACH, True),
    "image_size": (1, 8192, True),
}


def _at(default: Any, text: str, **more: Any) -> Any:
    return field(default=default, metadata={"help": text, **more})


@dataclass(frozen=True)
class Config:
    """Ranges that a class's parameters are drawn from, both ends included, and what a picture holds."""

    object_classes: int = _at(254, "classes of objects; also the most categories")
    instance_num: int = _at(32, "objects in a picture")
    mode: str = _at("m3", "mask of an object: m1 its lines, m2 its ring, m3 all it encloses", choices=MODES)
    clear_holes: bool = _at(True, "m2: what shows through the hole of a ring is background")
    polygons: str = _at("auto", "outlines of the masks as polygons; auto: for m2 and m3", choices=POLYGONS)
    vertex_num: int = _at(
        500, "most vertices of an orbit; the fewest are 3, the law's mean is a fifth of this"
    )
    line_num_min: int = _at(1, "fewest orbits")
    line_num_max: int = _at(50, "most orbits")
    perlin_min: float = _at(0.0, "smallest coefficient of the noise")
    perlin_max: float = _at(4.0, "largest coefficient of the noise")
    line_width: float = _at(0.1, "largest offset of an orbit from the one before, pixels; the smallest is 0")
    radius_min: int = _at(0, "smallest radius of the start ellipse, pixels")
    radius_max: int = _at(50, "largest radius of the start ellipse, pixels")
    oval_rate: float = _at(2.0, "largest factor of the ellipse's half-axes; the smallest is 1")
    start_pos: int = _at(
        512, "spread of the centres: they lie up to half of this beside the middle of the picture"
    )
    image_size: int = _at(512, "side of a picture, pixels")


PRESETS: dict[str, dict[str, Any]] = {
    "launcher-m3": {"classes": 254, "instances": 79},
    "launcher-m2": {"classes": 254, "instances": 79, "mode": "m2"},
    "launcher-m1": {"classes": 254, "instances": 79, "mode": "m1"},
    "script-m1": {"classes": 254, "instances": 79, "mode": "m1", "line_width": 0.01},
    "nano": {"classes": 5, "instances": 4},
}


def LABELS(config: Config) -> list[str]:
    """Names of the classes of objects: the numbers that the scripts name their parameter files with, from 00001 on."""
    return [f"{index + 1:05d}" for index in range(config.object_classes)]


class Generator:
    """The indexed stream. Raises UsageError, naming the option, for ranges that nothing can be drawn from."""

    def __init__(self, config: Config, seed: int) -> None:
        check_fields(config, _LIMITS)
        for name, choices in (("mode", MODES), ("polygons", POLYGONS)):
            value = getattr(config, name)
            if value not in choices:
                raise UsageError(
                    f"--{name} {value!r} is not one of its choices", hint=nearest(str(value), choices)
                )
        if not isinstance(config.clear_holes, bool):
            raise UsageError(f"--clear-holes {config.clear_holes!r} is neither true nor false")
        for name in ("line_num", "perlin", "radius"):
            least, most = getattr(config, name + "_min"), getattr(config, name + "_max")
            if least > most:
                option = "--" + name.replace("_", "-")
                raise UsageError(f"{option}-min {least} is above {option}-max {most}")
        check_reach(
            config,
            lines=config.line_num_max,
            perlin=config.perlin_max,
            offset=config.line_width,
            radius=config.radius_max,
        )
        self.config = config
        self.seed = check_seed(seed)
        self._mean: float | None = None

    def category(self, index: int) -> Category:
        """Parameters of class `index`, in the script's order; numbers that are not whole are multiples of 1/65536.

        Raises UsageError for a class that is not among the config's.
        """
        from curate.generators._random import Draws

        config = self.config
        self.check_class(index)
        draws = Draws(self.seed, index, "segrcdb")
        law = vertex_law(Fraction(config.vertex_num, 5), config.vertex_num)
        most = q16(config.oval_rate)
        return {
            "vertex_num": 3 + bisect.bisect_right(law, draws.bits(LAW_BITS)),
            "line_num": draws.integer(config.line_num_min, config.line_num_max),
            "perlin": draws.fixed(q16(config.perlin_min), q16(config.perlin_max)) / _ONE,
            "line_width": draws.fixed(0, q16(config.line_width)) / _ONE,
            "radius": draws.integer(config.radius_min, config.radius_max),
            "oval_x": draws.fixed(_ONE, most) / _ONE,
            "oval_y": draws.fixed(_ONE, most) / _ONE,
            "color_gray": index + 1,
            "base": -1,
            "delta": 0.0,
        }

    def check_class(self, index: int) -> None:
        count = self.config.object_classes
        if not 0 <= index < count:
            raise UsageError(
                f"category {index} is not among the {count} classes of objects (0 to {count - 1})",
                hint="ask for fewer classes, or raise --object-classes (up to 254); more pictures come from more instances",
            )

    def cost(self, category: Category) -> float:
        """Segments of a picture: its own class's, and those of the others at the classes' mean."""
        if self._mean is None:
            each = [self.category(index) for index in range(self.config.object_classes)]
            self._mean = sum(one["vertex_num"] * one["line_num"] for one in each) / len(each)
        return float(
            category["vertex_num"] * category["line_num"] + (self.config.instance_num - 1) * self._mean
        )

    def perturbed(self, category: Category, index: int, delta: float) -> Category:
        """Class `index` of those that lie within delta * |value| of `category`; the other objects of its pictures are of them, too."""
        from curate.generators._perturb import Span, perturb_fields

        config = self.config
        self.check_class(index)
        record = perturb_fields(
            category,
            index,
            delta,
            spans={
                "vertex_num": Span(3, config.vertex_num),
                "line_num": Span(config.line_num_min, config.line_num_max),
                "perlin": Span(config.perlin_min, config.perlin_max, 16),
                "line_width": Span(0, config.line_width, 16),
                "radius": Span(config.radius_min, config.radius_max),
                "oval_x": Span(1, config.oval_rate, 16),
                "oval_y": Span(1, config.oval_rate, 16),
            },
            seed=self.seed,
            salt="segrcdb",
        )
        return {**record, "color_gray": index + 1, "base": category["color_gray"] - 1, "delta": delta}

    def classes_of(self, category: Category) -> list[Category]:
        """The classes that the objects of a category's pictures are of, by index."""
        count, base = self.config.object_classes, category.get("base", -1)
        if base < 0:
            return [self.category(index) for index in range(count)]
        whole = self.category(base)
        return [self.perturbed(whole, index, category["delta"]) for index in range(count)]

    def painter(self) -> Painter:
        """Loads the kernels. Raises MissingExtra where numba is not installed."""
        from curate.generators._extra import need_numba

        need_numba()
        from curate.generators._segrcdb import ObjectPainter

        return ObjectPainter(self)


def shape(category: Category, config: Config) -> dict[str, Any]:
    """A class as the contour kernel takes it. Raises UsageError, naming the column, for a record that cannot be drawn."""
    out = contour(category)
    check_number("radius", category.get("radius"), 0, REACH, whole=True)
    for name in ("oval_x", "oval_y"):
        check_number(name, category.get(name), 0, REACH, whole=False)
    check_reach(
        config,
        lines=category["line_num"],
        perlin=category["perlin"],
        offset=category["line_width"],
        radius=category["radius"] * max(category["oval_x"], category["oval_y"]) / config.oval_rate,
    )  # a table that was read may hold more than the ranges
    out["radius_q16"] = category["radius"] << 16
    out["oval_x_q16"] = q16(category["oval_x"])
    out["oval_y_q16"] = q16(category["oval_y"])
    return out
