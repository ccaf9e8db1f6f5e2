"""How a set is divided among workers: its category table, the cost of every block, and the tasks, dearest first.

Tasks are built when a worker is about to take them, so that the parameters of 21,000 categories are not held once a block.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from curate._foreign import new_generator
from curate._given import given_table
from curate._making_block import BlockTask, Rows, Survey, Take, category_rows, survey
from curate.categories import CategoryTable
from curate.drawing import Drawer
from curate.generation import Generation
from curate.generators import Category
from headwater import plugins
from headwater.console import track
from headwater.executor import Executor

F64 = npt.NDArray[np.float64]
CENTRES = {
    "centre_h": "double",
    "centre_w": "double",
}  # of the first instance: columns of the reference stream
PROBE = 32  # categories timed before the others
CHUNK = 256
ALONE_SECONDS = 2.0  # less than starting processes is worth
UNIT_SECONDS = 1e-8  # of one segment or point, roughly; only decides whether processes are started
PICTURE_SECONDS = 4e-4


def code_of(generator: str) -> tuple[Path, str] | None:
    """File and sha256 of a generator that the user named, for the workers."""
    plugin = plugins.find("generators", generator)
    return (plugin.path, plugin.sha256) if plugin.sha256 else None


def columns_of(generation: Generation) -> dict[str, str]:
    """Columns of the category table."""
    kinds = dict(plugins.load("generators", generation.generator).CATEGORY)
    return {**kinds, **CENTRES} if generation.stream == "reference" else kinds


def make_table(generation: Generation, executor: Executor) -> CategoryTable:
    """Parameters of all categories of the indexed stream."""
    if generation.records is not None:
        return given_table(generation)
    code = code_of(generation.generator)
    began = time.process_time()
    probe = category_rows(Rows(generation, 0, min(PROBE, generation.classes), code))
    each = (time.process_time() - began) / len(probe)
    starts = range(len(probe), generation.classes, CHUNK)
    tasks = [Rows(generation, start, min(start + CHUNK, generation.classes), code) for start in starts]
    found = executor.map_shards(category_rows, tasks, light=each * generation.classes < ALONE_SECONDS)
    with track("categories", total=generation.classes, unit="categories") as bar:
        rows = chain(probe, chain.from_iterable(found))
        return CategoryTable.collect(
            generation.first_category, columns_of(generation), rows, generation.classes, lambda n: bar.add(n)
        )


def make_survey(generation: Generation, executor: Executor) -> tuple[CategoryTable, list[bytes]]:
    """Parameters of all categories of the reference stream, and the marks of all blocks, process by process."""
    assert generation.reference is not None
    reference = generation.reference
    indices = range(reference.processes) if reference.index is None else [reference.index]
    light = generation.pictures * PICTURE_SECONDS < ALONE_SECONDS * 10
    marks: list[bytes] = []

    def records(bar: Any) -> Iterator[Category]:
        for found, some in executor.map_shards(survey, [Survey(generation, i) for i in indices], light=light):
            marks.extend(some)
            bar.add()
            yield from found

    with track("walk the stream", total=len(indices), unit="processes") as bar:
        table = CategoryTable.collect(
            generation.first_category, columns_of(generation), records(bar), generation.classes
        )
    return table, marks


def row_costs(generation: Generation, table: CategoryTable) -> F64:
    """Work of one picture of every category."""
    module = plugins.load("generators", generation.generator)
    generator = new_generator(generation.generator, module, generation.parameters, generation.seed)
    costs = np.empty(len(table))
    for start, records in table.batches():
        costs[start : start + len(records)] = [generator.cost(record) for record in records]
    return costs


def block_costs(generation: Generation, costs: F64) -> F64:
    """Work of every block."""
    edges = np.array([first for _, first, _ in generation.cut()] + [generation.pictures], np.int64)
    before = np.concatenate([[0.0], np.cumsum(costs)])
    padded = np.concatenate([costs, [0.0]])
    if generation.order == "class":
        row, instance = np.divmod(edges, generation.instances)
        total = before[row] * generation.instances + padded[row] * instance
    else:
        instance, row = np.divmod(edges, generation.classes)
        total = before[-1] * instance + before[row]
    return np.diff(total)


def is_light(generation: Generation, costs: F64) -> bool:
    """Whether drawing everything costs less than starting processes that load the kernels."""
    return float(costs.sum()) * UNIT_SECONDS + generation.pictures * PICTURE_SECONDS < ALONE_SECONDS


class Tasks(Sequence[BlockTask]):
    """The blocks in the order in which they are begun."""

    def __init__(
        self,
        generation: Generation,
        table: CategoryTable,
        costs: F64,
        *,
        sink: str,
        annotated: bool,
        parts: Path,
        marks: list[bytes] | None = None,
        takes: dict[str, Take] | None = None,
        objects: bool = False,
    ) -> None:
        self.generation, self._table = generation, table
        self._cut = list(generation.cut())
        self.costs = costs
        self.order = np.argsort(-costs, kind="stable").tolist()
        self._marks, self._takes = marks, takes or {}
        self._same: dict[str, Any] = {
            "sink": sink,
            "annotated": annotated,
            "parts": parts,
            "code": code_of(generation.generator),
            "objects": objects,
        }

    def __len__(self) -> int:
        return len(self.order)

    @overload
    def __getitem__(self, at: int) -> BlockTask: ...

    @overload
    def __getitem__(self, at: slice) -> list[BlockTask]: ...

    def __getitem__(self, at: int | slice) -> BlockTask | list[BlockTask]:
        if isinstance(at, slice):
            return [self[k] for k in range(*at.indices(len(self)))]
        return self.block(self.order[at])

    def block(self, number: int) -> BlockTask:
        """The task of block `number`."""
        name, first, pictures = self._cut[number]
        rows = rows_of(self.generation, first, pictures)
        records = dict(zip(rows, self._table.records(rows), strict=True))
        mark = self._marks[number] if self._marks else None
        take = self._takes.get(name)
        return BlockTask(
            generation=self.generation,
            name=name,
            first=first,
            pictures=pictures,
            records=records,
            mark=mark,
            take=take,
            **self._same,
        )


def rows_of(generation: Generation, first: int, pictures: int) -> Sequence[int] | range:
    """Rows of the categories that occur in a block."""
    last = first + pictures - 1
    if generation.order == "class":
        return range(first // generation.instances, last // generation.instances + 1)
    if pictures >= generation.classes:
        return range(generation.classes)
    low, high = first % generation.classes, last % generation.classes
    return range(low, high + 1) if low <= high else [*range(low, generation.classes), *range(high + 1)]


def drawer_costs(drawer: Drawer, rows: Sequence[int]) -> list[float]:
    """Work of one picture of some categories."""
    return [drawer.cost_of(drawer.parameters(row)) for row in rows]
