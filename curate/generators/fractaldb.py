"""FractalDB: fractals of random affine function systems; OFDB and 1p-frac are presets of it.

FractalDB (ACCV 2020) plays the chaos game: 200,000 points of 2 to 7 random affine maps on 362 px, each point a grey 3 x 3 patch of random
bits. A category is a system that fills 0.2 of a frame. An instance is one of 25 weights (none, or one of the six parameters times
1 - 2w, 1 - w, 1 + w, 1 + 2w with w = 0.4), then one of 4 flips, then one of any number of draws of the patches, 10 in the paper's 1,000
instances; the weight changes fastest, so that few instances are already different shapes, and instance 0 is the plain one. OFDB (ICCV
2023) keeps instance 0 alone (its script takes the first row of the weights, which shrinks one parameter to 0.2 of its size; ours does
not). 1p-frac (ECCV 2024) perturbs one contractive system of two maps; see `_perturb`.

Ours: all arithmetic is in integers (`_fractal` tells the rules and the laws of the systems), the points as well as the
patches are drawn anew for every picture, and the rejected drawing of a picture is followed by that of the next weight.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from curate.generators import Category, Painter
from curate.generators._extra import need_numba
from curate.generators._perturb import Span, perturb_fields
from curate.generators._random import Draws
from headwater.errors import UsageError

VERSION = 1
STREAMS = ("indexed",)
KIND = "grey"
ANNOTATED = False

MAPS = 7
LETTERS = "abcdef"  # x' = a x + b y + e, y' = c x + d y + f
NAMES = tuple(f"{letter}{j + 1}" for j in range(MAPS) for letter in LETTERS)
ONE = 65536  # parameters are whole numbers of 1 / ONE
FRAME = 512 * 512  # pixels of the search frame
CANDIDATES = 50_000  # systems looked at before the search gives up; one in fifty fills 0.2
GREY = 127  # of the released script

CATEGORY = {
    "maps": "int8",
    "fill": "float32",
    "tries": "int32",
    **dict.fromkeys(NAMES, "float32"),
}  # all of them exact


@dataclass(frozen=True)
class Config:
    """Parameters; names follow the released scripts where they have one."""

    image_size: int = field(default=362, metadata={"help": "side of the square picture in pixels"})
    pad_size: int = field(default=6, metadata={"help": "pixels left free around the points"})
    iteration: int = field(default=200_000, metadata={"help": "points of a picture"})
    draw_type: str = field(
        default="patch",
        metadata={
            "help": "a point is a 3 x 3 patch of random bits of its own (patch), of bits drawn once a picture (patch-one), a full one"
            " (patch-full), or one pixel (point)",
            "choices": ("patch", "patch-one", "patch-full", "point"),
        },
    )
    weight: float = field(
        default=0.4, metadata={"help": "step of the weights of the instances, up to 0.5; 0: none"}
    )
    flips: bool = field(default=True, metadata={"help": "whether instances are flipped"})
    rate: float = field(default=0.2, metadata={"help": "share of the search frame that a category fills"})
    maps_min: int = field(default=2, metadata={"help": "fewest maps of a system"})
    maps_max: int = field(default=7, metadata={"help": "most maps of a system, up to 7"})
    sampling: str = field(
        default="uniform",
        metadata={
            "help": "law of the systems: FractalDB's (uniform) or by singular values",
            "choices": ("uniform", "contractive"),
        },
    )
    sigma: float = field(
        default=0.0,
        metadata={"help": "size of contractive systems, their values within 0.1; 0: by their maps"},
    )
    perturbed_rate: float = field(
        default=0.05, metadata={"help": "share of the search frame that a perturbed category fills"}
    )


_ONE_SHAPE: dict[str, Any] = {
    "instances": 1, "perturb": 0.1, "base": 0, "image_size": 512, "iteration": 100_000, "weight": 0.0, "flips": False,
    "sampling": "contractive", "maps_min": 2, "maps_max": 2, "sigma": 4.0, "rate": 0.05,
}  # fmt: skip

PRESETS: dict[str, dict[str, Any]] = {
    "fractaldb-1k": {"classes": 1000, "instances": 1000},
    "fractaldb-10k": {"classes": 10_000, "instances": 1000},
    "ofdb-1k": {"classes": 1000, "instances": 1},
    "ofdb-21k": {"classes": 21_000, "instances": 1},
    "1p-frac": {"classes": 1000, **_ONE_SHAPE},
    "1p-frac-21k": {"classes": 21_000, **_ONE_SHAPE},
    "nano": {"classes": 10, "instances": 10, "image_size": 64, "pad_size": 4, "iteration": 5000},
}


class Generator:
    """Systems by index; the search for one looks at fifty on average and takes two to three milliseconds, then it is remembered."""

    kind = KIND

    def __init__(self, config: Config, seed: int) -> None:
        _check(config)
        self.config = config
        self.seed = seed
        self._found: dict[int, tuple[int, int, int, bytes]] = {}
        self._search: Any = None

    def category(self, index: int) -> Category:
        """System `index`. Raises UsageError where none of 50,000 fills `rate` of the frame, MissingExtra without numba."""
        if index < 0:
            raise UsageError(f"category {index} is negative")
        if index not in self._found:
            key = Draws(self.seed, index, "fractaldb").bits(64)
            params, maps, hit, tries = self._searcher().find(key)
            if not maps:
                raise UsageError(
                    f"none of {CANDIDATES:,} systems fills {self.config.rate} of the frame (category {index})",
                    hint="lower --rate; FractalDB's is 0.2",
                )
            if len(self._found) >= 1 << 16:
                self._found.clear()
            self._found[index] = (maps, hit, tries, params.astype(np.int32).tobytes())
        maps, hit, tries, data = self._found[index]
        values = (np.frombuffer(data, np.int32) / ONE).tolist()
        return {"maps": maps, "fill": hit / FRAME, "tries": tries, **dict(zip(NAMES, values, strict=True))}

    def cost(self, category: Category) -> float:
        """Points of a picture: the same for all categories."""
        return float(self.config.iteration)

    def perturbed(self, category: Category, index: int, delta: float) -> Category:
        """Each parameter of the maps times 1 + u, |u| <= delta, as in 1p-frac; kept when it fills `perturbed_rate` of the frame.

        The frame is the search's (100,000 single points on 512 px), where the script looks at the patches of the picture itself.
        `tries` is 0: perturbations are taken in the order of `perturb_fields`.
        """
        key = Draws(self.seed, index, "fractaldb/perturbed").bits(64)
        least = math.ceil(Fraction(str(self.config.perturbed_rate)) * FRAME)
        hits: list[int] = []

        def fills(record: Category) -> bool:
            hits.append(self._searcher().fill(parameters(record), record["maps"], key, least))
            return hits[-1] > 0

        spans = {name: Span(-2, 2, 16) for name in NAMES[: 6 * category["maps"]]}
        record = perturb_fields(
            category, index, delta, spans=spans, seed=self.seed, salt="fractaldb", valid=fills
        )
        return {**record, "fill": hits[-1] / FRAME, "tries": 0}

    def painter(self) -> Painter:
        """Loads the kernels. Raises MissingExtra where numba is not installed."""
        need_numba()
        from curate.generators._fractal_painter import FractalPainter

        return FractalPainter(self.config, self.seed, colour=self.kind == "colour")

    def _searcher(self) -> Any:
        if self._search is None:
            need_numba()
            from curate.generators._fractal_painter import Searcher

            self._search = Searcher(self.config)
        return self._search

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_search": None}  # its buffers are no luggage for a worker process


def parameters(category: Category) -> npt.NDArray[np.int64]:
    """(7, 6) Q16 parameters of a category's maps. Raises UsageError for a record that no fractal can be drawn from."""
    maps = category.get("maps")
    if isinstance(maps, bool) or not isinstance(maps, (int, np.integer)) or not 1 <= maps <= MAPS:
        raise UsageError(f"a fractal has 1 to {MAPS} maps, not {maps!r}")
    values: npt.NDArray[np.float64] = np.array([float(category[name]) for name in NAMES]).reshape(MAPS, 6)
    if not (np.abs(values) <= 2).all():  # NaN fails, too
        raise UsageError("a parameter of a fractal is not within -2 .. 2")
    whole: npt.NDArray[np.int64] = np.rint(values * ONE).astype(np.int64)
    return whole


def variation(instance: int, attempt: int, config: Config) -> tuple[npt.NDArray[np.int64], int]:
    """Six Q16 weights of an instance, and its flip: 0 none, 1 top to bottom, 2 left to right, 3 both."""
    step = round(config.weight * ONE)
    weights = np.full(6, ONE, np.int64)
    kinds = 25 if step else 1
    number = (instance + attempt) % kinds
    if number:
        parameter, place = divmod(number - 1, 4)
        weights[parameter] += (-2, -1, 1, 2)[place] * step
    return weights, (instance // kinds) % 4 if config.flips else 0


def _check(config: Config) -> None:
    for name, low, high in (
        ("image_size", 16, 16_384), ("pad_size", 4, 4096), ("iteration", 2, 5_000_000), ("maps_min", 2, MAPS), ("maps_max", 2, MAPS),
    ):  # fmt: skip
        value = getattr(config, name)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise UsageError(f"{name} is {value!r}, not an integer from {low} to {high}")
    for name, above, most in (
        ("weight", 0.0, 0.5),
        ("rate", 0.0, 0.28),
        ("sigma", 0.0, 21.0),
        ("perturbed_rate", 0.0, 0.28),
    ):
        value = getattr(config, name)
        if (
            isinstance(value, bool) or not isinstance(value, (int, float)) or not above <= value <= most
        ):  # NaN fails, too
            raise UsageError(f"{name} is {value!r}, not within {above} to {most}")
    if config.image_size <= 2 * config.pad_size:
        raise UsageError(f"pad_size {config.pad_size} leaves nothing of image_size {config.image_size}")
    if config.maps_min > config.maps_max:
        raise UsageError(f"maps_min {config.maps_min} is above maps_max {config.maps_max}")
    for name, known in (
        ("draw_type", ("patch", "patch-one", "patch-full", "point")),
        ("sampling", ("uniform", "contractive")),
    ):
        if getattr(config, name) not in known:
            raise UsageError(f"{name} is {getattr(config, name)!r}, not one of {', '.join(known)}")
    if config.sigma and not 0.2 <= config.sigma <= 3 * config.maps_min - 0.2:
        raise UsageError(
            f"sigma {config.sigma} is not within 0.2 to {3 * config.maps_min - 0.2:.1f}, what {config.maps_min} maps can have",
            hint="take 0, which is a law by the number of maps, or more maps",
        )
