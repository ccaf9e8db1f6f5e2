"""Any picture of a set alone: row and instance in, pixels out; what a near-empty drawing is, and what follows it.

A picture is lit where it differs from the generator's background (its `BACKGROUND`, 0 where it names none). With a rejection in the recipe,
attempts 0, 1, … are drawn until one is lit enough; the last attempt is kept whatever it shows. So a picture follows from its own numbers
alone here too.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from curate.generation import Generation, load_recipe
from curate.generators import Category, Picture
from curate.make_request import open_generator
from headwater import plugins
from headwater.console import track
from headwater.errors import UsageError

if TYPE_CHECKING:
    from curate.categories import CategoryTable
    from curate.generators._script import ScriptStream

RECORDS = 65_536  # category records kept at once
STEPS = 10_000  # pictures walked between two reports


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
                f"pictures of the {generation.stream} stream follow from all before them: they are drawn in order",
                hint="curate.drawing.make_picture walks to one; --stream indexed has any at once",
            )
        module, self._generator = open_generator(generation)
        self.generation = generation
        self.background: int = getattr(module, "BACKGROUND", 0)
        self._painter: Any = None
        self._records: dict[int, Category] = {}
        self._base: Category | None = None
        self._table: CategoryTable | None = None

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
        if self.generation.records is not None:
            if self._table is None:
                from curate._given import given_table

                self._table = given_table(self.generation)
            return self._table.records([row])[0]
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
        try:
            return self._drawn(self.record(row), self.index(row), instance)
        except UsageError as error:
            if self.generation.records is None:
                raise
            raise UsageError(
                f"category {self.index(row)} of the table: {error.message}", hint=error.hint
            ) from error

    def _drawn(self, record: Category, index: int, instance: int) -> Drawn:
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
    """The one picture `instance` of the category with that index, as it is in the set. Raises UsageError for one that is not in it.

    In the reference stream the category's index is the label with which the set has it.
    """
    generation = recipe if isinstance(recipe, Generation) else load_recipe(recipe)
    first = generation.first_category
    row = category - first
    if not 0 <= row < generation.classes:
        raise UsageError(f"category {category}: the set has {first} to {first + generation.classes - 1}")
    if not 0 <= instance < generation.instances:
        raise UsageError(
            f"instance {instance}: every category of the set has 0 to {generation.instances - 1}"
        )
    if generation.stream == "reference":
        return _walked_to(generation, generation.number(row, instance))
    return Drawer(generation).draw(row, instance)


def _walked_to(generation: Generation, number: int) -> Drawn:
    """Picture `number` of the reference stream: everything before it is walked through, which is cheap beside drawing it."""
    open_generator(generation)  # refuses another version
    index, offset = divmod(number, share_of(generation))
    stream = script_stream(generation, index)
    with track("walk the stream", total=offset, unit="pictures") as bar:
        for stop in range(STEPS, offset, STEPS):
            stream.mark(stop)
            bar.add(STEPS)
        mark = stream.mark(offset)
        bar.add(offset - bar.done)
    ((_, _, _, pixels),) = stream.block(offset, 1, mark)
    return Drawn(Picture(pixels))


def share_of(generation: Generation) -> int:
    """Pictures of one process of the reference stream."""
    assert generation.reference is not None
    parts = 1 if generation.reference.index is not None else generation.reference.processes
    return generation.pictures // parts


def script_stream(generation: Generation, index: int) -> ScriptStream:
    """The stream of process `index`; of the only one that the set holds, where it does not hold all."""
    from curate.generators._script import ScriptStream

    assert generation.reference is not None
    module = plugins.load("generators", generation.generator)
    only, processes = generation.reference.index, generation.reference.processes
    return ScriptStream(
        module.Config(**generation.parameters),
        classes=generation.classes * (1 if only is None else processes),
        instances=generation.instances,
        processes=processes,
        index=index if only is None else only,
        start_class=generation.start_class,
    )
