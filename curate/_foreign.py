"""Generators in files of others: what they must define is checked when they are named, and what they raise or return while they draw is
told as theirs, with the category and the picture it happened at.

Generators of Headwater itself pass through untouched.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from curate.generators import Category, Picture
from headwater import plugins
from headwater.errors import HeadwaterError, UsageError

MOST_PIXELS = 1 << 30
KINDS = re.compile(r"bool|u?int(8|16|32|64)|float|float32|double|float64|(large_)?string")
_PROMISES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "VERSION": ("a whole number, 0 or more", lambda v: type(v) is int and 0 <= v < 2**53),
    "Config": (
        "a dataclass whose fields are int, float, bool or str with a default",
        lambda v: (
            isinstance(v, type)
            and dataclasses.is_dataclass(v)
            and all(type(field.default) in (int, float, bool, str) for field in dataclasses.fields(v))
        ),
    ),
    "PRESETS": (
        "a dict of at least one preset, name -> dict",
        lambda v: isinstance(v, dict) and bool(v) and all(isinstance(p, dict) for p in v.values()),
    ),
    "STREAMS": ('("indexed",)', lambda v: tuple(v) == ("indexed",)),
    "CATEGORY": (
        "a dict of column -> Arrow type name",
        lambda v: (
            isinstance(v, dict)
            and bool(v)
            and all(isinstance(k, str) and isinstance(t, str) and KINDS.fullmatch(t) for k, t in v.items())
        ),
    ),
    "KIND": ('"grey" or "colour"', lambda v: v in ("grey", "colour")),
    "ANNOTATED": ("True or False", lambda v: type(v) is bool),
    "Generator": ("a class", callable),
}
_NEVER = object()


def check_module(name: str, module: ModuleType) -> ModuleType:
    """`module`, if it keeps what curate/generators/__init__.py asks of a generator. Raises UsageError naming what it does not."""
    plugin = plugins.find("generators", name)
    if not plugin.foreign:
        return module
    for word, (wanted, holds) in _PROMISES.items():
        value = getattr(module, word, _NEVER)
        if value is _NEVER:
            raise UsageError(
                f"{plugin.path}: defines no {word}: {wanted}",
                hint="curate/generators/__init__.py says what a generator needs",
            )
        with plugins.contained(str(plugin.path), f"{word} cannot be used"):
            sound = holds(value)
        if not sound:
            raise UsageError(f"{plugin.path}: {word} is {str(value)[:60]}: it must be {wanted}")
    return module


def new_generator(name: str, module: ModuleType, values: dict[str, Any], seed: int) -> Any:
    """Its Generator for these parameters; one of others is watched."""
    plugin = plugins.find("generators", name)
    if not plugin.foreign:
        return module.Generator(module.Config(**values), seed)
    check_module(name, module)
    with plugins.contained(str(plugin.path), "its Generator cannot be made"):
        inner = module.Generator(module.Config(**values), seed)
    return _Watched(inner, plugin.path, module)


class _Watched:
    """A generator of others."""

    def __init__(self, inner: Any, path: Path, module: ModuleType) -> None:
        self._inner, self._path, self._module = inner, str(path), module

    def category(self, index: int) -> Category:
        with plugins.contained(self._path, f"category {index}"):
            return self._record(self._inner.category(index), index)

    def perturbed(self, category: Category, index: int, delta: float) -> Category:
        with plugins.contained(self._path, f"category {index}, perturbed"):
            return self._record(self._inner.perturbed(category, index, delta), index)

    def cost(self, category: Category) -> float:
        with plugins.contained(self._path, "the cost of a category"):
            cost = float(self._inner.cost(category))
        if not 0 <= cost < 1e15:
            raise HeadwaterError(f"{self._path}: the cost of a category is {cost}: it must be 0 or more")
        return cost

    def painter(self) -> _WatchedPainter:
        with plugins.contained(self._path, "its painter cannot be made"):
            return _WatchedPainter(self._inner.painter(), self._path, self._module.KIND)

    def _record(self, record: Any, index: int) -> Category:
        if not isinstance(record, dict) or record.keys() != self._module.CATEGORY.keys():
            told = ", ".join(map(str, record)) if isinstance(record, dict) else type(record).__name__
            raise HeadwaterError(
                f"{self._path}: category {index} is {told[:100]}: it must be a dict of {', '.join(self._module.CATEGORY)}"
            )
        return record


class _WatchedPainter:
    """Its painter."""

    def __init__(self, inner: Any, path: str, kind: str) -> None:
        self._inner, self._path, self._channels = inner, path, 3 if kind == "colour" else 1
        self._shape: tuple[int, ...] | None = None
        paint = inner.paint

        @functools.wraps(paint)  # whether it takes a window is asked of its signature
        def watched(category: Category, index: int, instance: int, *more: Any, **named: Any) -> Picture:
            with plugins.contained(path, f"picture {instance} of category {index}"):
                return self._checked(paint(category, index, instance, *more, **named), index, instance)

        self.paint = watched

    def _checked(self, picture: Any, index: int, instance: int) -> Picture:
        pixels = getattr(picture, "pixels", None)
        where = f"{self._path}: picture {instance} of category {index}"
        if not isinstance(picture, Picture) or not isinstance(pixels, np.ndarray):
            raise HeadwaterError(
                f"{where} is {type(picture).__name__}: it must be a curate.generators.Picture"
            )
        dimensions = 3 if self._channels == 3 else 2
        if (
            pixels.dtype != np.uint8
            or pixels.ndim != dimensions
            or pixels.shape[2:] not in ((), (3,))
            or not 0 < pixels.size <= MOST_PIXELS
            or not pixels.flags.c_contiguous
        ):
            form = "(H, W, 3)" if self._channels == 3 else "(H, W)"
            raise HeadwaterError(
                f"{where} has pixels {pixels.dtype} {pixels.shape}: they must be uint8 {form}, C-contiguous"
            )
        self._shape = self._shape or pixels.shape
        if pixels.shape != self._shape:
            raise HeadwaterError(f"{where} is of {pixels.shape} pixels, those before it of {self._shape}")
        return picture
