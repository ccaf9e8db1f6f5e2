"""What lies at an output already: another recipe's pictures (refused, naming what differs), a set that grows, a recipe made again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curate.generation import RECIPE_NAME, Generation, load_recipe
from curate.make_request import option
from headwater.errors import IntegrityError, UsageError
from headwater.hashing import digest_file
from headwater.manifest import FileEntry, Step, identity_id
from headwater.steps import RECORD_NAME, read_record

SHOWN = 5  # differences named
STEP = "make"


@dataclass(frozen=True)
class Grown:
    """A set that is there."""

    generation: Generation
    key: str
    config: dict[str, Any]
    entries: list[FileEntry]


def load_grown(output: Path) -> Grown | None:
    """The set at `output`; None when there is none. Raises IntegrityError for one that contradicts its record."""
    moved = output.with_name(f".{output.name}.headwater") / "old"  # a run was killed while it took its place
    if not (output / RECORD_NAME).is_file() and (moved / RECORD_NAME).is_file():
        output = moved
    record = read_record(output) if output.is_dir() else None
    if record is None:
        return None
    if record.identity.step != STEP:
        raise UsageError(f"{output}: was made by {record.identity.step}, and is no set of generated pictures")
    if identity_id(record.identity) != record.id:
        raise IntegrityError(f"{output}: its record was changed", hint="--force makes the whole set again")
    recipe = load_recipe(output)
    if not _named(record, recipe, output):
        raise IntegrityError(
            f"{output / RECIPE_NAME}: is not the recipe that the record names",
            hint="--force makes the whole set again",
        )
    return Grown(recipe, record.key, record.identity.config, record.identity.outputs)


def contradicts(record: Step, recipe: Generation) -> list[str]:
    """What the recipe says otherwise than the record's config."""
    told = {**record.identity.config, "seed": record.identity.seed}
    mine = recipe.model_dump(mode="json", exclude={"id", "format", "categories", "blocks"})
    return [
        f"the record says otherwise: {text}"
        for _, text in differences({key: told.get(key) for key in mine}, mine)
    ]


def _named(record: Step, recipe: Generation, output: Path) -> bool:
    wanted = {entry.path: entry.sha256 for entry in record.identity.outputs}.get(RECIPE_NAME)
    return (
        not contradicts(record, recipe)
        and {"sink", "param_csv", "sheet"} <= record.identity.config.keys()
        and digest_file(output / RECIPE_NAME, ("sha256",)).sha256 == wanted
    )


def allowed_growth(grown: Grown, generation: Generation, config: dict[str, Any], output: Path) -> None:
    """Raises UsageError unless the set at `output` can become `generation` by adding pictures behind its last."""
    old = grown.generation
    differs = differences({**grown.config, "seed": old.seed}, {**config, "seed": generation.seed})
    other = [text for name, text in differs if name not in ("classes", "instances")]
    if other:
        raise UsageError(
            f"{output}: cannot grow, it holds pictures of another recipe: {shown(other)}",
            hint=f"headwater make {output / RECIPE_NAME} --grow -o {output} takes everything else from it",
        )
    free, fixed = ("classes", "instances") if old.order == "class" else ("instances", "classes")
    for name in ("classes", "instances"):
        if getattr(generation, name) < getattr(old, name):
            raise UsageError(
                f"{output}: has {getattr(old, name):,} {name}, {option(name)} {getattr(generation, name):,} would drop some"
            )
    if getattr(generation, fixed) != getattr(old, fixed):
        raise UsageError(
            f"{output}: its pictures are in order of {old.order}, so it grows by {option(free)}; {option(fixed)} stays {getattr(old, fixed):,}",
            hint="make a set of its own for the others"
            + (f": --start-class {old.first_category + old.classes}" if fixed == "classes" else ""),
        )
    if old.reference is not None and old.classes != generation.classes:
        raise UsageError(
            f"{output}: the reference stream cannot grow: its pictures depend on how many there are"
        )


def refuse_other(output: Path, key: str, config: dict[str, Any], generation: Generation) -> None:
    """Raises UsageError where `output` holds pictures of another recipe, naming what differs."""
    record = read_record(output) if output.is_dir() else None
    if record is None or record.key == key or record.identity.step != STEP:
        return  # the step itself tells what else is there
    old = {**record.identity.config, "seed": record.identity.seed}
    texts = [text for _, text in differences(old, {**config, "seed": generation.seed})]
    raise UsageError(
        f"{output}: holds pictures of another recipe: {shown(texts) if texts else 'made by another version of the step'}",
        hint="choose another -o; --grow adds to it where only classes or instances are more; --force replaces it",
    )


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[tuple[str, str]]:
    """(name, "--name is A there, B here") of every setting that differs, parameters by their own names."""
    found = []
    for name in sorted(old.keys() | new.keys()):
        there, here = old.get(name), new.get(name)
        if there == here:
            continue
        if isinstance(there, dict) and isinstance(here, dict) and name != "records":
            found += differences(there, here)
        else:
            shown_as = "--from-params" if name == "records" else option(name)
            found.append((name, f"{shown_as} is {_told(there)} there, {_told(here)} here"))
    return found


def _told(value: Any) -> str:
    if isinstance(value, dict) and value.keys() == {"rows", "sha256"}:
        return f"a table of {value['rows']} categories ({str(value['sha256'])[:12]}…)"
    return "not set" if value is None else str(value)[:60]


def shown(texts: list[str]) -> str:
    """Some of them, and how many more."""
    more = f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return "; ".join(texts[:SHOWN]) + more


def check_against(recipe: Generation, output: Path) -> None:
    """Raises IntegrityError when the set that is there already has other pixels than `recipe` says."""
    there = {(b.name, b.first, b.pictures): b.pixels for b in load_recipe(output).blocks}
    for block in recipe.blocks:
        found = there.get((block.name, block.first, block.pictures))
        if found is not None and found != block.pixels:
            raise IntegrityError(
                f"{output}: block {block.name} has pixels {found[:12]}…, the recipe says {block.pixels[:12]}…"
            )
