"""What a user asks `headwater make` for, and the recipe (without digests yet) that this is: every value named, checked and known.

A value that was not given comes from the preset; without that, from the generator's defaults. For a set that grows, order and block
size come from the set.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from curate._foreign import check_module, new_generator
from curate._png import ENCODER
from curate.generation import (
    BLOCK_SIZE,
    MAX_BLOCK_SIZE,
    MAX_BLOCKS,
    MAX_CLASSES,
    MAX_INSTANCES,
    MAX_PICTURES,
    MAX_START,
    SAFE_INTEGER,
    SMALL_BLOCK_SIZE,
    SMALL_SET,
    Generation,
    Perturb,
    Processes,
    Rejection,
    load_recipe,
)
from headwater import plugins
from headwater.console import say
from headwater.errors import HeadwaterError, UsageError, nearest

ATTEMPTS = 16  # drawings of one picture before the last is kept although it is near-empty
STREAMS = ("indexed", "reference")
ORDERS = ("class", "instance")
# shards are read in order by a trainer, so they mix the classes; a recipe alone stands for shards
MIXED_SINKS = frozenset({"tar", "parquet", "recipe"})
SETTINGS = ("classes", "instances", "perturb", "base")  # keys of a preset that are no parameters


@dataclass(frozen=True)
class MakeRequest:
    """`headwater make`, before anything is looked up. None: not given."""

    generator: str
    preset: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)  # fields of the generator's Config
    classes: int | None = None
    instances: int | None = None
    seed: int = 0
    stream: str = "indexed"
    start_class: int = 0
    perturb: float | None = None
    base: int | None = None
    min_lit: float | None = None
    attempts: int | None = None  # ATTEMPTS, where there is a rejection
    processes: int | None = None  # reference stream: numof_thread of the script
    index: int | None = None  # reference stream: thread_num; None: all of them
    order: str | None = None
    block_size: int | None = None
    from_params: Path | None = None  # the categories are those of this table
    recipe: Generation | None = None  # to be made again: its digests must come out

    @classmethod
    def from_recipe(
        cls,
        path: Path,
        *,
        classes: int | None = None,
        instances: int | None = None,
        from_params: Path | None = None,
    ) -> MakeRequest:
        """Make again what a recipe names, or (with `--grow`) more of it.

        Raises MissingInput, IntegrityError for a recipe that is not sound, HeadwaterError for one that needs another version.
        """
        made = load_recipe(path)
        module = check_version(made, str(path))
        values = config_values(module, made.generator, made.parameters)
        made = made.model_copy(update={"parameters": values})
        one = made.reference is not None and made.reference.index is not None
        asked = made.classes * made.reference.processes if one and made.reference else made.classes
        return cls(
            generator=made.generator,
            parameters=made.parameters,
            classes=asked if classes is None else classes,
            instances=made.instances if instances is None else instances,
            seed=made.seed,
            stream=made.stream,
            start_class=made.start_class,
            perturb=made.perturb.delta if made.perturb else None,
            base=made.perturb.base if made.perturb else None,
            min_lit=made.rejection.min_lit if made.rejection else None,
            attempts=made.rejection.attempts if made.rejection else None,
            processes=made.reference.processes if made.reference else None,
            index=made.reference.index if made.reference else None,
            order=made.order,
            block_size=made.block_size,
            from_params=from_params,
            recipe=made,
        )


def check_version(made: Generation, name: str) -> ModuleType:
    """Raises HeadwaterError unless this program draws what `made` names, UsageError for an unknown generator; warns of another encoder."""
    module, _ = open_generator(made, name)
    if made.encoder != ENCODER:
        say(
            "warning",
            f"{name}: its files came from {made.encoder}; those of {ENCODER} hold the same pixels in other bytes",
        )
    return module


def open_generator(made: Generation, name: str = "the recipe") -> tuple[ModuleType, Any]:
    """(module, Generator) of a recipe, whose parameters are checked as those of a command line are.

    Raises HeadwaterError for another version, UsageError for an unknown generator or what it cannot draw.
    """
    module = check_module(made.generator, plugins.load("generators", made.generator))
    if module.VERSION != made.version:
        raise HeadwaterError(
            f"{name}: made by version {made.version} of {made.generator}; here is version {module.VERSION}, which draws other pixels",
            hint="install the Headwater that made it (its step.json names the version)",
        )
    if made.stream not in module.STREAMS:
        raise UsageError(f"{name}: {made.generator} has no {made.stream} stream")
    values = config_values(module, made.generator, made.parameters)
    return module, new_generator(made.generator, module, values, made.seed)


def resolve(request: MakeRequest, sink: str = "recipe", *, like: Generation | None = None) -> Generation:
    """The recipe that the request is, without category table and blocks. `like` is the set that grows.

    Raises UsageError naming what is wrong.
    """
    module = check_module(request.generator, plugins.load("generators", request.generator))
    preset = _preset(module, request)
    settings = {name: preset.pop(name, None) for name in SETTINGS}
    values = config_values(module, request.generator, {**preset, **request.parameters})
    table, records = None, None
    if request.from_params is not None or (request.recipe is not None and request.recipe.records):
        from curate._given import asked_table, check_table, listed

        table = asked_table(request, module)
        records = listed(table)
    classes = len(table) if table is not None and request.classes is None else None
    classes = _given(request.classes, classes, like.classes if like else None, settings["classes"])
    instances = _given(request.instances, like.instances if like else None, settings["instances"])
    classes = whole("--classes", classes, 1, MAX_CLASSES)
    instances = whole("--instances", instances, 1, MAX_INSTANCES)
    seed = whole("--seed", request.seed, 0, SAFE_INTEGER)
    start = whole("--start-class", request.start_class, 0, MAX_START)
    if table is not None:
        check_table(request, table, classes)
        start = table.first
    if request.stream not in module.STREAMS:
        offered = (
            f"it has {' and '.join(module.STREAMS)}"
            if request.stream in STREAMS
            else nearest(request.stream, module.STREAMS)
        )
        raise UsageError(f"--stream {request.stream}: {request.generator} has no such stream; {offered}")
    reference = _reference(request, classes) if request.stream == "reference" else None
    if reference is None and (request.processes is not None or request.index is not None):
        raise UsageError(
            "--processes and --index belong to the reference stream",
            hint="add --stream reference, or use --workers",
        )
    if reference:
        from curate.generators._script import ScriptStream

        # refuses what the script never ends on, and warns of the classes that it leaves out
        first = {"processes": reference.processes, "index": reference.index or 0, "start_class": start}
        ScriptStream(module.Config(**values), classes=classes, instances=instances, **first)
        if start:
            say(
                "warning",
                f"--start-class {start} only renames in the reference stream, as in the script: the pictures are those of 0",
            )
        share = classes // reference.processes
        classes = share if reference.index is not None else share * reference.processes
    order = request.order or (
        like.order if like else "instance" if sink in MIXED_SINKS and not reference else "class"
    )
    if order not in ORDERS:
        raise UsageError(f"--order {order}: {nearest(order, ORDERS)}")
    if reference and order != "class":
        raise UsageError(f"--order {order}: the reference stream draws class after class")
    usual = SMALL_BLOCK_SIZE if classes * instances < SMALL_SET else BLOCK_SIZE
    size = _given(request.block_size, like.block_size if like else None, usual)
    size = whole("--block-size", size, 1, MAX_BLOCK_SIZE)
    _check_total(classes, instances, size, reference.processes if reference else 1)
    perturb = _perturb(request, settings)
    generator = new_generator(
        request.generator, module, values, seed
    )  # refuses what nothing can be drawn from
    if perturb and records:
        raise UsageError("--perturb: the categories are those of the table", hint="leave one of them out")
    if perturb:
        generator.perturbed(generator.category(perturb.base), start, perturb.delta)  # as this does
    made = Generation(
        generator=request.generator,
        version=module.VERSION,
        stream=request.stream,  # type: ignore[arg-type]
        seed=seed,
        parameters=values,
        perturb=perturb,
        start_class=start,
        classes=classes,
        instances=instances,
        rejection=_rejection(request, module),
        reference=reference,
        order=order,  # type: ignore[arg-type]
        block_size=size,
        encoder=ENCODER,
        pixels="rgb8" if module.KIND == "colour" else "grey8",
        records=records,
    )
    if records is None:
        return made
    at = request.from_params or (request.recipe.table_at if request.recipe else None)
    return made.placed(at) if at else made


def _given(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def _preset(module: ModuleType, request: MakeRequest) -> dict[str, Any]:
    presets: dict[str, dict[str, Any]] = module.PRESETS
    if request.preset is None:
        return {} if request.recipe else dict(next(iter(presets.values())))
    if request.preset not in presets:
        raise UsageError(
            f"--preset {request.preset}: {request.generator} has no such preset; {nearest(request.preset, presets)}"
        )
    return dict(presets[request.preset])


def config_values(module: ModuleType, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Every field of the generator's Config, checked by type and finite. Raises UsageError naming the parameter."""
    fields = {f.name: f for f in dataclasses.fields(module.Config)}
    for key in given:
        if key not in fields:
            raise UsageError(f"{str(key)[:60]}: no parameter of {name}; {nearest(str(key)[:60], fields)}")
    values: dict[str, Any] = {}
    for key, one in fields.items():
        value = given.get(key, one.default)
        values[key] = _typed(key, value, type(one.default))
        choices = one.metadata.get("choices")
        if choices and values[key] not in choices:
            raise UsageError(f"{option(key)} {value}: {nearest(str(value), [str(c) for c in choices])}")
    return values


def option(name: str) -> str:
    """How the command line spells a parameter."""
    return f"--{name.replace('_', '-')}"


def _typed(name: str, value: Any, kind: Any) -> Any:
    if kind is float and type(value) is int and abs(value) <= SAFE_INTEGER:
        value = float(value)
    if kind is int and type(value) is float and value.is_integer() and abs(value) <= SAFE_INTEGER:
        value = int(value)  # a recipe may have been through a tool that knows only floats
    if type(value) is not kind:
        raise UsageError(
            f"{option(name)} is {str(value)[:60]}: must be {'a whole number' if kind is int else kind.__name__}"
        )
    if kind is float and not math.isfinite(value):
        raise UsageError(f"{option(name)} is {value}: must be a finite number")
    if kind is int and abs(value) > SAFE_INTEGER:
        raise UsageError(f"{option(name)} is {str(value)[:40]}: beyond 2^53")
    return value


def whole(name: str, value: Any, low: int, high: int) -> int:
    """`value` if it is a whole number within both ends."""
    if type(value) is not int:
        raise UsageError(f"{name} is {str(value)[:40]}: must be a whole number")
    if not low <= value <= high:
        raise UsageError(f"{name} is {_short(value)}: must be between {low:,} and {high:,}")
    return value


def _short(value: int) -> str:
    return f"{value:,}" if abs(value) < 10**18 else f"a number of {value.bit_length()} bits"


def _check_total(classes: int, instances: int, size: int, processes: int) -> None:
    total = classes * instances
    if total > MAX_PICTURES:
        raise UsageError(
            f"{classes:,} classes of {instances:,} instances are {total:,} pictures: more than {MAX_PICTURES:,}",
            hint="make several sets, with --start-class",
        )
    if total // size + 2 * processes > MAX_BLOCKS + 2:
        raise UsageError(
            f"{total:,} pictures in blocks of {size:,} are more than {MAX_BLOCKS:,} blocks",
            hint=f"--block-size {-(-total // MAX_BLOCKS)} or more",
        )


def _reference(request: MakeRequest, classes: int) -> Processes:
    processes = whole("--processes", 1 if request.processes is None else request.processes, 1, MAX_CLASSES)
    if request.index is not None and not 0 <= whole("--index", request.index, 0, SAFE_INTEGER) < processes:
        raise UsageError(
            f"--index {request.index}: with --processes {processes} the indices are 0 to {processes - 1}"
        )
    if classes < processes:
        raise UsageError(
            f"--processes {processes} for {classes} classes: the script would draw nothing",
            hint="fewer processes, or more classes",
        )
    for given, name in ((request.perturb, "--perturb"), (request.min_lit, "--min-lit")):
        if given is not None:
            raise UsageError(
                f"{name}: the reference stream draws what the published script draws, and that has no such thing"
            )
    if request.seed:
        raise UsageError(
            "--seed: the reference stream has its own seeds, the process index + 1", hint="leave --seed out"
        )
    return Processes(processes=processes, index=request.index)


def _perturb(request: MakeRequest, settings: Mapping[str, Any]) -> Perturb | None:
    delta = _given(request.perturb, settings["perturb"] if request.stream == "indexed" else None)
    if delta is None:
        if request.base is not None:
            raise UsageError("--base names the category that --perturb perturbs", hint="add --perturb DELTA")
        return None
    if (
        not isinstance(delta, (int, float))
        or isinstance(delta, bool)
        or not math.isfinite(delta)
        or delta <= 0
    ):
        raise UsageError(f"--perturb is {delta}: must be a finite number above 0")
    base = whole("--base", _given(request.base, settings["base"], 0), 0, MAX_START)
    return Perturb(delta=float(delta), base=base)


def _rejection(request: MakeRequest, module: ModuleType) -> Rejection | None:
    share = request.min_lit
    if share is None:
        if request.attempts is not None:
            raise UsageError(
                "--attempts tells how often --min-lit draws a picture again", hint="add --min-lit SHARE"
            )
        return None
    if not isinstance(share, (int, float)) or isinstance(share, bool) or not 0 < share < 1:
        raise UsageError(f"--min-lit is {share}: must be above 0 and below 1, a share of the pixels")
    if module.KIND != "grey":
        raise UsageError(
            f"--min-lit: pictures of {request.generator} have a background everywhere; none is near-empty"
        )
    return Rejection(
        min_lit=float(share), attempts=whole("--attempts", _given(request.attempts, ATTEMPTS), 2, 1000)
    )
