"""Draws generated pictures again from their recipe and compares: pixels, labels, masks and the category table.

All pictures, or a share of them chosen by the seed, are drawn and compared with what the files decode to. A block that is drawn whole is
also compared with its digest in the recipe; a set without files is compared by whole blocks alone. What digests of files cannot show is
found here: pictures that were changed together with their records.
"""

from __future__ import annotations

import math
import random
from pathlib import Path

from curate._making_check import contradicts
from curate._making_tasks import Tasks, block_costs, is_light, make_survey, make_table, row_costs
from curate._stored import Check, check_block
from curate.categories import TABLE_NAME, CategoryTable, read_parquet
from curate.generation import RECIPE_NAME, Generation, load_recipe
from curate.make_request import check_version
from curate.sinks import SINKS
from headwater import plugins
from headwater.console import track
from headwater.errors import HeadwaterError, IntegrityError
from headwater.executor import Executor
from headwater.manifest import Step
from headwater.rerun import Rerun

MARKER = RECIPE_NAME


def rerun(output: Path, record: Step | None, *, sample: float | None, seed: int, executor: Executor) -> Rerun:
    """Draw (a share of) the pictures of `output` again and compare. Changes nothing.

    Raises IntegrityError for a recipe that is not sound, HeadwaterError for one that needs another version of the generator.
    """
    recipe = load_recipe(output)
    check_version(recipe, str(output / RECIPE_NAME))
    if not recipe.blocks or recipe.categories is None:
        raise IntegrityError(
            f"{output / RECIPE_NAME}: has no digests to compare with", hint="make the set again"
        )
    sink = stored_as(output, record, recipe)
    problems = [f"{output / RECIPE_NAME}: {text}" for text in (contradicts(record, recipe) if record else [])]
    marks = None
    if recipe.stream == "reference":
        table, marks = make_survey(recipe, executor)
    else:
        table = make_table(recipe, executor)
    problems += _table_problems(output, recipe, table)
    costs = row_costs(recipe, table)
    plain = recipe.model_copy(update={"blocks": [], "categories": None})
    annotated = bool(plugins.load("generators", recipe.generator).ANNOTATED)
    tasks = Tasks(
        plain, table, block_costs(recipe, costs), sink=sink, annotated=annotated, parts=output, marks=marks
    )
    wanted = choose(recipe, sink, sample, seed)
    numbers = sorted(wanted) if wanted is not None else range(len(recipe.blocks))
    checks = [(number, None if wanted is None else wanted[number]) for number in numbers]
    work = _Checks(tasks, recipe, output, checks)
    checked = 0
    with track("draw again", total=sum(work.count(k) for k in range(len(work))), unit="pictures") as bar:
        for found in executor.map_shards(check_block, work, light=is_light(recipe, costs)):  # type: ignore[arg-type]
            checked += found.checked
            problems += found.problems
            bar.add(found.checked)
    return Rerun(checked, recipe.pictures, "pictures", problems)


class _Checks:
    """The blocks to check, each built when a worker takes it."""

    def __init__(
        self, tasks: Tasks, recipe: Generation, output: Path, checks: list[tuple[int, frozenset[int] | None]]
    ) -> None:
        self._tasks, self._recipe, self._output, self._checks = tasks, recipe, output, checks

    def __len__(self) -> int:
        return len(self._checks)

    def __getitem__(self, at: int) -> Check:
        number, wanted = self._checks[at]
        return Check(self._tasks.block(number), self._output, self._recipe.blocks[number].pixels, wanted)

    def count(self, at: int) -> int:
        """Pictures of one check."""
        number, wanted = self._checks[at]
        return self._recipe.blocks[number].pictures if wanted is None else len(wanted)


def choose(
    recipe: Generation, sink: str, sample: float | None, seed: int
) -> dict[int, frozenset[int] | None] | None:
    """Numbers of the pictures to check, by block (None: the whole block); None: everything.

    The reference stream is drawn by whole blocks, and a set without files can only be compared so.
    """
    if sample is None or sample >= 1:
        return None
    draw = random.Random(seed)
    if recipe.stream == "reference" or sink == "recipe":
        blocks = len(recipe.blocks)
        return dict.fromkeys(draw.sample(range(blocks), math.ceil(sample * blocks)))
    chosen = sorted(draw.sample(range(recipe.pictures), math.ceil(sample * recipe.pictures)))
    found: dict[int, set[int]] = {}
    for number in chosen:
        found.setdefault(number // recipe.block_size, set()).add(number)
    return {block: frozenset(numbers) for block, numbers in found.items()}


def stored_as(output: Path, record: Step | None, recipe: Generation) -> str:
    """The sink of a set, from its record, else from what lies there."""
    if record is not None:
        sink = record.identity.config.get("sink")
        if sink not in SINKS:
            raise IntegrityError(
                f"{output}: its record names no sink", hint="the record was changed; make the set again"
            )
        return str(sink)
    first = recipe.blocks[0].name
    for sink in ("tar", "parquet"):
        if (output / f"{first}.{sink}").is_file():
            return sink
    return "folder" if (output / "image").is_dir() else "recipe"


def _table_problems(output: Path, recipe: Generation, table: CategoryTable) -> list[str]:
    """What differs between the categories that are drawn, the recipe's digest, and the table that lies there."""
    assert recipe.categories is not None
    problems = []
    if table.sha256() != recipe.categories.sha256 or len(table) != recipe.categories.rows:
        problems.append(f"{output / RECIPE_NAME}: the categories drawn are not those of its digest")
    path = output / TABLE_NAME
    try:
        there = read_parquet(path, table.kinds)
        if there.first != table.first or there.sha256() != table.sha256():
            problems.append(f"{path}: other categories than those drawn")
    except HeadwaterError as error:
        problems.append(error.message)
    return problems
