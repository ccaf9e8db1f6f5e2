"""Any picture of a set alone: row and instance in, pixels out; what a near-empty drawing is, and what follows it.

A picture is lit where it differs from the generator's background (its `BACKGROUND`, 0 where it names none). With a rejection in the recipe,
attempts 0, 1, … are drawn until one is lit enough; the last attempt is kept whatever it shows. So a picture follows from its own numbers
alone here too.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from curate.generation import Generation, load_recipe
from curate.generators import Category, Picture
from curate.make_request import open_generator
from headwater.errors import UsageError

RECORDS = 65_536  # category records kept at once


@dataclass(frozen=True)
class Drawn:
    """A picture (good until the next one is drawn) and how it came about."""

    picture: Picture
    rejected: int = 0  # near-empty drawings before it
    near_empty: bool = False  # the last attempt was one too


class Drawer:
    """Draws pictures of one recipe's indexed stream; loads the kernels when the first one is asked for. One a process and thread."""

    def __init__(self, generation: Generation) -> None:
        if generation.stream != "indexed":
            raise UsageError(
                f"the {generation.stream} stream has no picture alone: each follows from all before it",
                hint="--stream indexed, or make the set",
            )
        module, self._generator = open_generator(generation)
        self.generation = generation
        self.background: int = getattr(module, "BACKGROUND", 0)
        self._painter: Any = None
        self._records: dict[int, Category] = {}
        self._base: Category | None = None

    def index(self, row: int) -> int:
        """The generator's own index of category `row` of the set."""
        return self.generation.first_category + row

    def record(self, row: int) -> Category:
        """The parameters of category `row`."""
        found = self._records.get(row)
        if found is None:
            found = self.parameters(row)
            if len(self._records) >= RECORDS:
                self._records.clear()
            self._records[row] = found
        return found

    def adopt(self, records: dict[int, Category]) -> None:
        """Take over parameters that are known already."""
        if len(self._records) + len(records) > RECORDS:
            self._records.clear()
        for row, record in records.items():
            self._records.setdefault(row, record)

    def parameters(self, row: int) -> Category:
        """As `record`, computed anew."""
        perturb = self.generation.perturb
        if perturb is None:
            found: Category = self._generator.category(self.index(row))
            return found
        if self._base is None:
            self._base = self._generator.category(perturb.base)
        changed: Category = self._generator.perturbed(self._base, self.index(row), perturb.delta)
        return changed

    def cost(self, row: int) -> float:
        """Work of one picture of category `row`, in the generator's own unit."""
        return self.cost_of(self.record(row))

    def cost_of(self, record: Category) -> float:
        """Work of one picture with these parameters."""
        return float(self._generator.cost(record))

    def draw(self, row: int, instance: int) -> Drawn:
        """Picture `instance` of category `row`. Raises MissingExtra where the kernels cannot be loaded."""
        if self._painter is None:
            self._painter = self._generator.painter()
        record, index = self.record(row), self.generation.first_category + row
        rejection = self.generation.rejection
        if rejection is None:
            return Drawn(self._painter.paint(record, index, instance))
        for attempt in range(rejection.attempts):
            picture = self._painter.paint(record, index, instance, attempt)
            if self.lit(picture) >= rejection.min_lit:
                return Drawn(picture, attempt)
        return Drawn(picture, rejection.attempts - 1, near_empty=True)

    def lit(self, picture: Picture) -> float:
        """Share of the pixels that differ from the background."""
        pixels = picture.pixels
        dark = (
            pixels.size - np.count_nonzero(pixels)
            if not self.background
            else np.count_nonzero(pixels == self.background)
        )
        return 1 - int(dark) / pixels.size


def make_picture(recipe: Path | Generation, category: int, instance: int) -> Drawn:
    """The one picture `instance` of the category with that index, as it is in the set. Raises UsageError for one that is not in it."""
    generation = recipe if isinstance(recipe, Generation) else load_recipe(recipe)
    first = generation.first_category
    row = category - first
    if not 0 <= row < generation.classes:
        raise UsageError(f"category {category}: the set has {first} to {first + generation.classes - 1}")
    if not 0 <= instance < generation.instances:
        raise UsageError(
            f"instance {instance}: every category of the set has 0 to {generation.instances - 1}"
        )
    return Drawer(generation).draw(row, instance)
