"""Generators: each file of this folder draws pictures from a formula, any of them alone, by its index.

One file is one generator: the file's name is the registered name, the first line of its docstring the help text.
Nothing is imported to list them, and importing one loads no kernel (numba is loaded by `Generator.painter`). A file holds

    VERSION     int; raised whenever the same index would get other pixels
    Config      frozen dataclass of parameters, every field with a default and metadata={"help": …} (optional "choices"); the fields
                are the options of `headwater make NAME` (underscores become hyphens); int, float, bool or str
    PRESETS     preset -> {"classes": C, "instances": M, field: value, …}; the first one is the default
    STREAMS     ("indexed",), or ("indexed", "reference") where a published script's own random numbers can be drawn again
    CATEGORY    column -> Arrow type name: what a category is made of, the columns of the category table
    KIND        "grey" or "colour": channels of a picture
    ANNOTATED   bool: whether pictures come with masks and polygons
    LABELS      optional function (Config) -> list of names: the classes of the annotated things (not of the pictures)
    Generator   the protocol below

The indexed stream is counter-based: every random number is a function of (seed, category, instance, attempt) and of where it is used
inside the picture, and only integers decide pixels. So a picture is the same on any machine, for any number of workers, in any
order, whatever else is made: a pool grows by more indices, and what it holds already never changes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Category = dict[str, Any]  # plain ints, floats and strings: one row of the category table


@dataclass(frozen=True)
class Thing:
    """One annotated thing of a picture, in the order in which they were drawn (later ones lie above).

    `polygons` are closed outlines of what is visible of it, (n, 2) float64 arrays of x, y in pixels, corner (0, 0) at the top left of the
    first pixel, as COCO has them; `mask` is the (H, W) bool array they stand for (COCO's raster of the polygons is not promised to be
    equal; the mask decides). `box` is x, y, width, height of the mask; `whole_area` its area before others hid a part.
    """

    label: int  # index into LABELS(config)
    mask: npt.NDArray[np.bool_]
    polygons: list[npt.NDArray[np.float64]]
    box: tuple[int, int, int, int]
    whole_area: int  # pixels inside the frame, hidden ones included
    extra: dict[str, Any] = field(default_factory=dict)  # further keys of its annotation


@dataclass(frozen=True)
class Picture:
    """Pixels, and what is in them. The arrays belong to the painter and are good until its next call."""

    pixels: npt.NDArray[np.uint8]  # (S, S), or (S, S, 3) where KIND is "colour"; C-contiguous
    labels: npt.NDArray[np.uint8] | None = None  # (S, S): 0 background, else 1 + index into LABELS(config)
    things: list[Thing] = field(default_factory=list)


class Painter(Protocol):
    """Draws pictures of one configuration; owns buffers, so one a process and thread."""

    def paint(self, category: Category, index: int, instance: int, attempt: int = 0) -> Picture:
        """Picture `instance` of the category with that index. `attempt` counts drawings that were rejected before this one."""
        ...


class Generator(Protocol):
    """`Generator(config, seed)`: constructing is light. Raises UsageError for parameters that nothing can be drawn from."""

    def category(self, index: int) -> Category:
        """The parameters of category `index` (0 or more), by its index alone: at most some tens of microseconds."""
        ...

    def cost(self, category: Category) -> float:
        """Work of one picture, proportional to its CPU time (segments, or points): what work is split by."""
        ...

    def perturbed(self, category: Category, index: int, delta: float) -> Category:
        """Category `index` of a set whose classes are all perturbations of `category`, none further than `delta` (1p-frac's idea)."""
        ...

    def painter(self) -> Painter:
        """Loads the kernels. Raises MissingExtra where numba is not installed."""
        ...


class GeneratorModule(Protocol):
    """What a file of this folder offers."""

    VERSION: int
    Config: type[Any]
    PRESETS: dict[str, dict[str, Any]]
    STREAMS: tuple[str, ...]
    CATEGORY: dict[str, str]
    KIND: str
    ANNOTATED: bool
    Generator: type[Any]
