"""`headwater make GENERATOR`: one command a generator, whose options are the fields of its Config; or a recipe, to make again."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from curate.commands_score import _option, _prose
from headwater.errors import UsageError, nearest
from headwater.options import Settings, common

ANY = click.Path(path_type=Path)
Option = Callable[[Callable[..., Any]], Callable[..., Any]]

# what is made, whatever draws it
_SET: list[Option] = [
    click.option("--preset", help="Values of a published set: the first of the list below, when left out."),
    click.option("--classes", "--numof-classes", type=int, help="Number of categories."),
    click.option("--instances", "--numof-instances", type=int, help="Pictures of each category."),
    click.option(
        "--start-class",
        type=int,
        help="First category. The reference stream only renames by it, as the script does.  [default: 0]",
    ),
    click.option(
        "--from-params",
        type=ANY,
        help="The classes are those of this table: a Parquet file, or a folder of headerless CCCCC.csv files of key,value.",
    ),
    click.option(
        "--perturb",
        type=float,
        metavar="DELTA",
        help="All categories are perturbations of one, none further than DELTA from it.",
    ),
    click.option("--base", type=int, help="The category that --perturb perturbs.  [default: 0]"),
    click.option(
        "--min-lit",
        type=float,
        metavar="SHARE",
        help="Draw pictures again that light fewer than this share of their pixels; recorded.",
    ),
    click.option(
        "--attempts", type=int, help="Drawings of one picture before the last is kept.  [default: 16]"
    ),
]
_STREAM: list[Option] = [
    click.option(
        "--stream",
        type=click.Choice(["indexed", "reference"]),
        default="indexed",
        show_default=True,
        help="indexed: any picture by its number, on any machine; reference: the published script's own pictures.",
    ),
    click.option(
        "--processes",
        "--numof-thread",
        type=int,
        help="Reference stream: of how many processes.  [default: 1]",
    ),
    click.option(
        "--index", "--thread-num", type=int, help="Reference stream: which of them.  [default: all]"
    ),
]
_LAYOUT: list[Option] = [
    click.option(
        "--sink",
        type=click.Choice(["folder", "tar", "parquet", "recipe"]),
        help="Files, webdataset shards, Parquet shards, or only the recipe with the digests of the pixels."
        "  [default: folder]",
    ),
    click.option(
        "--order",
        type=click.Choice(["class", "instance"]),
        help="Which pictures come together: of a class (a set that grows by classes), or one of each class (shards that are"
        " ready for training).  [default: class for folders, instance for shards]",
    ),
    click.option(
        "--block-size",
        "--shard-size",
        type=int,
        help="Pictures in a shard.  [default: 10000; 1000 in a set of fewer than 100000]",
    ),
]
_HOW: list[Option] = [
    click.option(
        "--grow",
        is_flag=True,
        help="OUT holds fewer classes (or instances) of the same: make what is missing.",
    ),
    click.option(
        "--resume", is_flag=True, help="Go on where a killed run stopped (always done: for scripts)."
    ),
    click.option(
        "--param-csv/--no-param-csv",
        default=None,
        help="A headerless key,value file for each category.  [default: with --sink folder]",
    ),
    click.option("--sheet/--no-sheet", default=None, help="Draw the contact sheet.  [default: sheet]"),
    click.option(
        "--picture",
        metavar="CLASS/INSTANCE",
        help="Write this one picture of the set to OUT, a .png, and nothing else.",
    ),
]


class MakeGroup(click.Group):
    """Its commands are the files of curate/generators, found without importing them, and paths of recipes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        from headwater import plugins

        return [plugin.name for plugin in plugins.family_members("generators")]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in self.list_commands(ctx):
            return generator_command(cmd_name)
        if cmd_name.endswith(".py"):
            from headwater.plugins import add_file

            return generator_command(add_file("generators", Path(cmd_name)).name)
        return recipe_command(cmd_name) if is_path(cmd_name) else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        known = self.list_commands(ctx)
        first = args[0] if args else "-"
        if (
            not first.startswith("-")
            and first not in known
            and not is_path(first)
            and not ctx.resilient_parsing
        ):
            raise UsageError(
                f"unknown generator {first!r}: {nearest(first, known)}",
                hint="headwater plugins generators; a recipe is named by its path",
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from headwater import plugins

        with formatter.section("Generators"):
            formatter.write_dl([(p.name, p.summary) for p in plugins.family_members("generators")])


def is_path(text: str) -> bool:
    """Whether the word after `make` is a path (of a recipe, a made folder or a file of code) and no name."""
    return "/" in text or text.endswith((".json", ".py")) or Path(text).is_dir()


@click.command(
    "make",
    cls=MakeGroup,
    epilog="headwater make GENERATOR --help tells its parameters and presets. headwater make RECIPE -o OUT makes again what a"
    " recipe.json names, and compares every digest.",
)
def make() -> None:
    """Draw pictures from a formula: any of them again, alone, on any machine, from a recipe of a few bytes."""


def generator_command(name: str) -> click.Command:
    """The command of one generator; its module is imported, its kernels are not loaded."""
    from curate._foreign import check_module
    from headwater import plugins

    module = check_module(name, plugins.load("generators", name, whole=True))
    fields = dataclasses.fields(module.Config)
    names = [field.name for field in fields]

    @common
    def run(settings: Settings, *, output: Path, **values: Any) -> dict[str, Any]:
        from curate.make_request import MakeRequest

        how = {key: values.pop(key) for key in ("sink", "grow", "param_csv", "sheet", "picture")}
        values.pop("resume")
        parameters = {key: value for key in names if (value := values.pop(key)) is not None}
        given = {key: value for key, value in values.items() if value is not None}
        request = MakeRequest(generator=name, parameters=parameters, seed=settings.seed or 0, **given)
        return _run(settings, request, output, **how)

    for option in reversed(
        [*_SET, *(_STREAM if "reference" in module.STREAMS else _STREAM[:1]), *_LAYOUT, *_HOW]
    ):
        run = option(run)
    for field in reversed(fields):
        run = _option(field)(run)
    run = _output(run)
    return click.command(name, help=_prose(module.__doc__ or ""), epilog=_presets(module.PRESETS))(run)


def recipe_command(path: str) -> click.Command:
    """The command that makes again what the recipe at `path` names."""

    def add(context: click.Context, parameter: click.Parameter, paths: tuple[Path, ...]) -> None:
        from headwater.plugins import add_file

        for one in paths:
            add_file("generators", one)

    @_output
    @click.option(
        "--plugin",
        type=ANY,
        multiple=True,
        callback=add,
        expose_value=False,
        help="The generator of yours (.py) that the recipe was made with; it is code, and this runs it.",
    )
    @click.option(
        "--from-params", type=ANY, help="The recipe's table of categories, where it does not lie beside it."
    )
    @click.option("--classes", type=int, help="With --grow: how many.")
    @click.option("--instances", type=int, help="With --grow: how many.")
    @click.option(
        "--sink",
        type=click.Choice(["folder", "tar", "parquet", "recipe"]),
        help="Files, webdataset shards, Parquet shards, or only the recipe.  [default: folder]",
    )
    @common
    def run(
        settings: Settings,
        *,
        output: Path,
        classes: int | None,
        instances: int | None,
        from_params: Path | None,
        **how: Any,
    ) -> dict[str, Any]:
        from curate.make_request import MakeRequest

        if settings.seed is not None:
            raise UsageError("--seed: a recipe has its own seed", hint="leave --seed out")
        how.pop("resume")
        request = MakeRequest.from_recipe(
            Path(path), classes=classes, instances=instances, from_params=from_params
        )
        return _run(settings, request, output, **how)

    for option in reversed(_HOW):
        run = option(run)
    return click.command(path, help="Make again what this recipe names, and compare every digest.")(run)


def _output(run: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("-o", "--output", type=ANY, required=True, help="The folder to write.")(run)


def _presets(presets: dict[str, dict[str, Any]]) -> str:
    """The presets, for the end of the help text."""
    lines = [
        f"  {name}: {', '.join(f'{key} {value}' for key, value in values.items())}"
        for name, values in presets.items()
    ]
    return "\b\nPresets:\n" + "\n".join(lines)


def _run(
    settings: Settings,
    request: Any,
    output: Path,
    *,
    sink: str | None,
    grow: bool,
    param_csv: bool | None,
    sheet: bool | None,
    picture: str | None,
) -> dict[str, Any]:
    from curate import making
    from curate._memory import tune_process

    tune_process()
    if picture is not None:
        given = {"--sink": sink, "--grow": grow or None, "--param-csv": param_csv, "--sheet": sheet}
        if unused := [name for name, value in given.items() if value is not None]:
            raise UsageError(
                f"{unused[0]}: --picture writes one file and no set", hint="leave one of them out"
            )
        return _one_picture(settings, request, output, picture)
    plan = making.plan_make(
        request, output, sink=sink, param_csv=param_csv, sheet=sheet, grow=grow, force=settings.force
    )
    executor = settings.executor()
    if settings.dry_run:
        return _estimate(making.estimate(plan, executor), plan)
    outcome = making.run_make(plan, executor=executor, options=settings.run_options())
    assert outcome is not None
    return _said(plan, outcome)


def _one_picture(settings: Settings, request: Any, output: Path, picture: str) -> dict[str, Any]:
    from curate._one_picture import plan_picture, run_picture, which
    from curate.commands import step_result
    from curate.make_request import resolve

    generation = resolve(request)
    category, instance = which(picture)
    plan = plan_picture(generation, category, instance, output)
    outcome = run_picture(plan, generation, category, instance, settings.run_options())
    result = step_result(outcome, plan)
    if outcome is not None:
        there = " (already there)" if outcome.cached else ""
        result["text"] = f"{output}: picture {instance} of category {category}{there}"
    return result


def _estimate(facts: dict[str, Any], plan: Any) -> dict[str, Any]:
    """What a dry run tells."""
    from curate.commands import step_result

    return {**step_result(None, plan.step), **facts}


def _said(plan: Any, outcome: Any) -> dict[str, Any]:
    """What was made."""
    from curate._making_estimate import size_of
    from curate.commands import step_result

    result = step_result(outcome, plan.step)
    step = outcome.step
    counts, energy = step.identity.counts, step.energy
    size = size_of(sum(entry.size_bytes for entry in step.identity.outputs))
    there = " (already there)" if outcome.cached else ""
    made = plan.generation
    lines = [
        f"{outcome.path}: {counts.kept:,} pictures of {made.classes:,} categories, {size}{there}",
        *(f"  {number:,} × {reason}" for reason, number in counts.dropped.items() if number),
        *(f"  {counts.extra[name]:,} × {name}" for name in ("near-empty, kept",) if counts.extra.get(name)),
        f"  {energy.duration_seconds:.2f} s, {energy.cpu_seconds:.2f} CPU s; step {step.id[:12]}",
    ]
    result["text"] = "\n".join(lines)
    return result
