"""`headwater make` as a Step: blocks of pictures drawn by workers, the recipe with their digests, the category table, the record.

    OUT/recipe.json           what the set is (generation/1), with one digest of the pixels of every block
    OUT/param/categories.parquet    what every category is made of; param/CCCCC.csv the same for other tools
    OUT/…                     the pictures, as the sink stores them; sizes.json counts those of each tar
    OUT/annotations.json, OUT/polygons/    things of annotated sets in a folder: as COCO, and the same as a store of polygons
    OUT/sheet.png             a contact sheet

A block that is finished is kept when the run is stopped. A set grows by making the larger set: blocks that it has already are linked,
not drawn, once their files are found to be as recorded. Pixels that differ from those of a recipe that is made again, or grows, are
an error, and nothing is written.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from curate._making_block import BlockDone, Take, make_block, out_folder
from curate._making_check import allowed_growth, check_against, load_grown, refuse_other
from curate._making_estimate import estimate_generation, size_of
from curate._making_space import check_space, room
from curate._making_tasks import Tasks, block_costs, is_light, make_survey, make_table, row_costs
from curate._making_things import write_things
from curate.categories import TABLE_NAME, CategoryTable
from curate.drawing import Drawer as Drawer
from curate.drawing import make_picture as make_picture
from curate.generation import RECIPE_NAME, Block, Generation, Table
from curate.make_request import MakeRequest as MakeRequest
from curate.make_request import resolve
from curate.sinks import SINKS, picture_key
from headwater import plugins
from headwater.console import say, track
from headwater.errors import IntegrityError, UsageError, nearest
from headwater.executor import Executor
from headwater.files import atomic_file, write_json
from headwater.manifest import Counts, FileEntry
from headwater.steps import Outcome, Plan, RunOptions, Work, check_output, run_step

STEP = "make"
VERSION = 1
MAX_FILES = 300_000  # pictures of one folder sink: its record names every file
SHEET_NAME, SIZES_NAME = "sheet.png", "sizes.json"


@dataclass(frozen=True)
class MakePlan:
    """One set to be made. `step` is the Plan that headwater.steps runs."""

    request: MakeRequest
    generation: Generation  # without table and digests
    sink: str
    step: Plan
    param_csv: bool
    sheet: bool
    annotated: bool
    grows: Generation | None = None  # the set that is there, and grows
    entries: tuple[FileEntry, ...] = field(default=(), repr=False)  # its files


def plan_make(
    request: MakeRequest,
    output: Path,
    *,
    sink: str | None = None,  # None: folder; with `grow`, the one that the set has
    param_csv: bool | None = None,  # None: with the folder sink
    sheet: bool | None = None,  # None: yes
    grow: bool = False,
    force: bool = False,
) -> MakePlan:
    """Check everything and say what would be made; writes and draws nothing.

    Raises UsageError (also for an output that holds another recipe's pictures, naming what differs), MissingInput, IntegrityError.
    """
    if sink is not None and sink not in SINKS:
        raise UsageError(f"--sink {sink}: {nearest(sink, SINKS)}")
    if str(output) == "-":
        raise UsageError("-o -: a set is a folder of files", hint="name the folder to write")
    check_output(output, "folder")
    grown = load_grown(output) if grow else None
    if grown:
        old = grown.config
        sink = sink or str(old["sink"])
        param_csv = bool(old["param_csv"]) if param_csv is None else param_csv
        sheet = bool(old["sheet"]) if sheet is None else sheet
    sink = sink or "folder"
    param_csv = sink == "folder" if param_csv is None else param_csv
    sheet = True if sheet is None else sheet
    generation = resolve(request, sink, like=grown.generation if grown else None)
    if request.recipe is not None and not continues(request.recipe, generation):
        raise IntegrityError(
            "the recipe contradicts itself: what it names are other pictures than those it has digests of",
            hint="fetch it again; with --grow only what its order allows can be more",
        )
    if sink == "folder" and generation.pictures > MAX_FILES:
        raise UsageError(
            f"{generation.pictures:,} pictures are too many for loose files (at most {MAX_FILES:,})",
            hint="--sink tar or --sink parquet"
            + (
                "; or one --index at a time"
                if generation.reference and generation.reference.index is None
                else ""
            ),
        )
    config = step_config(generation, sink, param_csv=param_csv, sheet=sheet)
    annotated = bool(plugins.load("generators", generation.generator).ANNOTATED)
    step = Plan(STEP, VERSION, config, [], output, kind="folder", seed=generation.seed, resumable=True)
    if grown:
        allowed_growth(grown, generation, config, output)
    elif not force:
        refuse_other(output, step.key, config, generation)
    return MakePlan(
        request=request,
        generation=generation,
        sink=sink,
        step=step,
        param_csv=param_csv,
        sheet=sheet,
        annotated=annotated,
        grows=grown.generation if grown and grown.key != step.key else None,
        entries=tuple(grown.entries) if grown else (),
    )


def step_config(generation: Generation, sink: str, *, param_csv: bool, sheet: bool) -> dict[str, Any]:
    """The config of the Step: the recipe's identity without what only drawing can tell, and how it is stored."""
    told = generation.model_dump(mode="json", exclude={"id", "format", "seed", "categories", "blocks"})
    return {**told, "sink": sink, "param_csv": param_csv, "sheet": sheet}


def run_make(
    plan: MakePlan, *, executor: Executor, options: RunOptions, observation: dict[str, Any] | None = None
) -> Outcome | None:
    """Make the set; resumes what an earlier run left. None on a dry run.

    Raises IntegrityError when pixels are not those of the recipe that is made again or grows, and what drawing and writing raise.
    """
    options = replace(
        options,
        force=options.force or plan.grows is not None,
        observation={**options.observation, **(observation or {})},
    )

    def work(job: Work) -> Counts:
        return _work(plan, job, executor)

    outcome = run_step(plan.step, work, options)
    if outcome is not None and outcome.cached and plan.request.recipe is not None:
        check_against(plan.request.recipe, outcome.path)
    return outcome


def estimate(plan: MakePlan, executor: Executor) -> dict[str, Any]:
    """What a dry run tells: pictures, blocks, bytes, CPU seconds, memory, energy (modelled), from the cost of the categories.

    Draws a few pictures in memory, for about half a second once the kernels are loaded.
    """
    facts = estimate_generation(
        plan.generation, plan.sink, annotated=plan.annotated, workers=executor.workers
    )
    free, _ = room(plan.step.output.parent)
    if facts["bytes"] > free:
        facts["text"] += f"\nthere is no room for it: {size_of(free)} are free in {plan.step.output.parent}"
    return {**facts, "free_bytes": free}


def _work(plan: MakePlan, job: Work, executor: Executor) -> Counts:
    generation = plan.generation
    _check_space(plan, job.parts)
    marks = None
    if generation.stream == "reference":
        table, marks = make_survey(generation, executor)
    else:
        table = make_table(generation, executor)
    costs = row_costs(generation, table)
    for name in ("out", "blocks", "objects"):
        (job.parts / name).mkdir(exist_ok=True)
    _sweep(job.parts)
    tasks = Tasks(
        generation,
        table,
        block_costs(generation, costs),
        sink=plan.sink,
        annotated=plan.annotated,
        parts=job.parts,
        marks=marks,
        takes=_takes(plan, table),
        objects=plan.annotated and plan.sink == "folder",
    )
    done = _draw(plan, tasks, executor, light=is_light(generation, costs))
    blocks = [
        Block(
            name=one.name,
            first=first,
            pictures=one.pictures,
            pixels=one.pixels,
            rejected=one.rejected,
            near_empty=one.near_empty,
        )
        for one, (_, first, _) in zip(done, generation.cut(), strict=True)
    ]
    listed = Table(rows=len(table), sha256=table.sha256())
    recipe = generation.model_copy(update={"categories": listed, "blocks": blocks}).sealed()
    _write_rest(plan, recipe, table, job.parts)
    _hand_over(job, done)
    job.details.update(_details(plan, recipe, done, float(costs.sum())))
    rejected = sum(block.rejected for block in blocks)
    kept_empty = sum(block.near_empty for block in blocks)
    return Counts(
        unit="pictures",
        read=recipe.pictures + rejected,
        kept=recipe.pictures,
        dropped={"near-empty, drawn again": rejected} if generation.rejection else {},
        extra={"categories": len(table), "blocks": len(blocks)}
        | ({"near-empty, kept": kept_empty} if generation.rejection else {}),
    )


def _check_space(plan: MakePlan, parts: Path) -> None:
    """Raises HeadwaterError where what is missing of the set does not fit on the disk."""
    there = {path.stem for path in (parts / "blocks").glob("*.json")}
    if plan.grows is not None and continues(plan.grows, plan.generation):
        cut = set(plan.generation.cut())
        there |= {b.name for b in plan.grows.blocks if (b.name, b.first, b.pictures) in cut}
    check_space(
        plan.generation, plan.sink, annotated=plan.annotated, folder=plan.step.output.parent, there=there
    )


def _draw(plan: MakePlan, tasks: Tasks, executor: Executor, *, light: bool) -> list[BlockDone]:
    """Every block, in the order of the set. Progress is counted in pictures of mean cost."""
    generation = plan.generation
    expected, cut = _expected(plan), list(generation.cut())
    share = tasks.costs / max(float(tasks.costs.sum()), 1e-9) * generation.pictures
    done: dict[int, BlockDone] = {}
    spent, drawn, damaged = 0.0, 0, []
    with track("draw", total=generation.pictures, unit="pictures") as bar:
        results = executor.map_shards(make_block, tasks, light=light)
        for number, one in zip(tasks.order, results, strict=True):
            _check_pixels(expected.get(cut[number]), one, cut[number][1])
            done[number] = one
            damaged += [one.name] if one.how == "damaged" else []
            spent += float(share[number])
            drawn += one.pictures
            bar.add(round(spent) - bar.done, note=f"{drawn:,} drawn")
    for name in sorted(damaged):
        say(
            "warning",
            f"{plan.step.output}: block {name} was missing or damaged; drawn again, with the same pixels",
        )
    return [done[number] for number in range(len(tasks))]


def _expected(plan: MakePlan) -> dict[tuple[str, int, int], str]:
    """Digests that must come out, by (name, first, pictures) of the block: those of a set whose numbers mean the same pictures."""
    found: dict[tuple[str, int, int], str] = {}
    for made in (plan.grows, plan.request.recipe):
        if made is not None and continues(made, plan.generation):
            found |= {(b.name, b.first, b.pictures): b.pixels for b in made.blocks}
    return found


def continues(made: Generation, larger: Generation) -> bool:
    """Whether picture n of `made` is picture n of `larger`."""
    same = "instances" if made.order == "class" else "classes"
    return (
        made.drawn() == larger.drawn()
        and made.order == larger.order
        and getattr(made, same) == getattr(larger, same)
    )


def _check_pixels(wanted: str | None, one: BlockDone, first: int) -> None:
    """Raises IntegrityError where a block has other pixels than the recipe says."""
    if wanted is not None and wanted != one.pixels:
        raise IntegrityError(
            f"block {one.name} (pictures from {first:,} on): its pixels are {one.pixels[:12]}…, the recipe says {wanted[:12]}…",
            hint="the recipe was changed, or this program draws other pixels under the same version: please report it",
        )


def _takes(plan: MakePlan, table: CategoryTable) -> dict[str, Take]:
    """Blocks that the set that grows has already, with their files."""
    made = plan.grows
    if made is None or not continues(made, plan.generation) or made.block_size != plan.generation.block_size:
        return {}
    if plan.annotated and plan.sink == "folder":
        return {}  # the lines of its COCO file are not kept block by block
    entries = {entry.path: entry for entry in plan.entries}
    cut = set(plan.generation.cut())
    takes = {}
    for block in made.blocks:
        if (block.name, block.first, block.pictures) not in cut:
            continue
        paths = block_paths(plan.generation, plan.sink, block, table)
        if all(path in entries for path in paths):
            takes[block.name] = Take(plan.step.output, tuple(entries[path] for path in paths), block)
    return takes


def block_paths(generation: Generation, sink: str, block: Block, table: CategoryTable) -> list[str]:
    """Files of a block, sorted."""
    from curate._making_block import file_name

    if sink in ("tar", "parquet"):
        return [f"{block.name}.{sink}"]
    if sink == "recipe":
        return []
    found = []
    base = generation.first_category
    for number in range(block.first, block.first + block.pictures):
        row, instance = generation.place(number)
        key = picture_key(base + row, instance)
        own = None
        if generation.stream == "reference":
            own = file_name(generation, row, instance, table.records([row])[0])
        found.append(own or f"image/{key.partition('_')[0]}/{key}.png")
    return sorted(found)


def _write_rest(plan: MakePlan, recipe: Generation, table: CategoryTable, parts: Path) -> None:
    """Everything besides the pictures."""
    folder = out_folder(parts)
    write_json(folder / RECIPE_NAME, recipe.model_dump(mode="json"))
    (folder / TABLE_NAME).parent.mkdir(exist_ok=True)
    table.write_parquet(folder / TABLE_NAME)
    if plan.param_csv:
        table.write_params(folder)
    if plan.sink == "tar":
        write_json(folder / SIZES_NAME, {f"{block.name}.tar": block.pictures for block in recipe.blocks})
    if plan.annotated and plan.sink == "folder":
        write_things(recipe, folder, parts)
    if plan.sheet:
        _write_sheet(recipe, folder / SHEET_NAME)


def _write_sheet(recipe: Generation, path: Path) -> None:
    from curate.sheets import contact_sheet

    with atomic_file(path) as handle:
        handle.write(contact_sheet(recipe))


def _hand_over(job: Work, done: Sequence[BlockDone]) -> None:
    """Move the finished folder to where the step takes it from; single files stay here too, until the step is through."""
    folder = out_folder(job.parts)
    _sweep(folder)
    for path in sorted(folder.iterdir()):
        target = job.stage / path.name
        if path.is_dir():
            os.rename(path, target)
            continue
        try:
            os.link(path, target)
        except OSError:
            os.rename(path, target)
    job.described.update({entry.path: entry for one in done for entry in one.entries})


def _sweep(folder: Path) -> None:
    """Remove what a killed run was writing."""
    for path in folder.rglob(".*.tmp-*"):
        path.unlink(missing_ok=True)


def _details(plan: MakePlan, recipe: Generation, done: Sequence[BlockDone], cost: float) -> dict[str, Any]:
    return {
        "recipe": recipe.id,
        "generator": recipe.generator,
        "pictures": recipe.pictures,
        "blocks": len(done),
        "picture_bytes": sum(one.size_bytes for one in done),
        "cost": round(cost * recipe.instances),
        "near_empty_kept": sum(one.near_empty for one in done) if recipe.rejection else None,
    }
