"""Polygon datasets as outputs of Steps: inputs by what they say, the store or export written, the record last."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curate.polygons._digest import image_path
from curate.polygons.store import Annotations, digest, write_store
from headwater.console import printable, track
from headwater.errors import BadInputs, HeadwaterError, MissingInput, UsageError
from headwater.files import atomic_file
from headwater.hashing import digest_file
from headwater.manifest import Counts, InputRef
from headwater.options import Settings
from headwater.steps import Outcome, Plan, Work, describe_plan, run_step

VERSION = 1
MOST_LISTED = 1000  # entries of a list in a record; the counts have all of them
MOST_SHOWN = 50  # lines of a list on the screen


@dataclass(frozen=True)
class Made:
    """A dataset to be written, the counts behind it, and what somebody should know; `beside`: tables by the name of their file."""

    annotations: Annotations
    counts: Counts
    notes: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    beside: dict[str, pa.Table] = field(default_factory=dict)
    digest: str | None = None  # of `annotations`, where it is known already


def input_of(role: str, annotations: Annotations) -> InputRef:
    """A dataset as the input of a step: what it says, wherever and however it is kept."""
    return InputRef(role=role, id=digest(annotations))


def photos_input(role: str, folder: Path, names: Iterable[str | None]) -> InputRef:
    """Files under `folder` as the input of a step: their names and bytes, in any order; those that are not there count as such.

    Raises MissingInput (no such folder).
    """
    if not folder.is_dir():
        raise MissingInput(f"{folder}: no such folder")
    wanted = sorted({name for name in names if name is not None})
    found = hashlib.sha256()
    with track("digests", len(wanted), "files") as bar:
        for name in wanted:
            found.update(f"{_file_digest(folder, name)}  {name}\n".encode(errors="surrogatepass"))
            bar.add()
    return InputRef(role=role, id=found.hexdigest())


def _file_digest(folder: Path, name: str) -> str:
    path = image_path(folder, name)
    if path is None or not path.is_file():
        return "none"
    try:
        return digest_file(path, ["sha256"]).sha256
    except HeadwaterError:
        return "unreadable"  # whoever reads it tells why


def apart(output: Path, sources: Iterable[Path | None], images: Iterable[Path | None] = ()) -> None:
    """That writing `output`, also with --force, touches none of these; `images` are folders that it may lie in.

    Raises UsageError.
    """
    own = output.resolve()
    for source in sources:
        if source is not None and own.is_relative_to(source.resolve()):
            where = "is" if own == source.resolve() else "lies inside"
            raise UsageError(f"-o {output}: {where} the input {source}", hint="write somewhere else")
    for source in (*sources, *images):
        if source is not None and source.resolve().is_relative_to(own):
            raise UsageError(
                f"-o {output}: the input {source} lies there and would be replaced",
                hint="write somewhere else",
            )


def store_step(
    settings: Settings,
    step: str,
    config: dict[str, Any],
    inputs: Sequence[InputRef],
    output: Path,
    make: Callable[[], Made],
    *,
    sources: Sequence[Path] = (),
) -> dict[str, Any]:
    """Run `make`, write its dataset as a store to `output`, and tell; on a dry run, say what would be done."""
    apart(output, sources)
    plan = Plan(step, VERSION, config, list(inputs), output, kind="folder")

    def work(job: Work) -> Counts:
        made = make()
        write_store(made.annotations, job.stage)
        for name, table in made.beside.items():
            write_table(table, job.stage / name)
        job.details.update(made.details | ({"notes": made.notes} if made.notes else {}))
        job.details["digest"] = made.digest or digest(made.annotations)
        counts = made.counts
        extra = {"annotations": len(made.annotations.annotations), "vertices": len(made.annotations.vertices)}
        return counts.model_copy(update={"extra": {**counts.extra, **extra}})

    return told(plan, run_step(plan, work, settings.run_options()))


def write_table(table: pa.Table, path: Path) -> None:
    """A table that goes with a dataset, as Parquet."""
    with atomic_file(path) as out:
        pq.write_table(table, out, compression="zstd", write_page_checksum=True)


def told(plan: Plan, outcome: Outcome | None) -> dict[str, Any]:
    """What a command that wrote a dataset prints."""
    if outcome is None:
        document = describe_plan(plan)
        state = "up to date: nothing to do" if document["up_to_date"] else "would be made"
        return {**document, "text": f"{plan.output}: {state} (key {plan.key[:12]})"}
    step = outcome.step
    counts = step.identity.counts
    there = " (already there)" if outcome.cached else ""
    whole = counts.extra.get("annotations") if counts.unit != "annotations" else None
    shapes = f", {whole:,} annotations" if whole is not None else ""
    lines = [f"{outcome.path}: {counts.kept:,} of {counts.read:,} {counts.unit}{shapes}{there}"]
    for reasons in (counts.dropped, counts.invalid):
        lines += [f"  {number:,} × {reason}" for reason, number in reasons.items() if number]
    lines += [f"  {note}" for note in step.details.get("notes", [])]
    return {
        "output": str(outcome.path),
        "cached": outcome.cached,
        "id": step.id,
        "key": step.key,
        "counts": counts.model_dump(),
        "details": step.details,
        "energy": step.energy.model_dump(),
        "text": "\n".join(lines),
    }


def sayable_text(text: str) -> str:
    """A file's name or a reason on one line, without what no UTF-8 text can hold and what steers a terminal."""
    return printable(text.encode(errors="backslashreplace").decode()).replace("\n", "\\n")


def sayable(bad: Iterable[Sequence[str]]) -> list[list[str]]:
    """[name, reason] lists that can be written anywhere."""
    return [[sayable_text(text) for text in entry] for entry in bad]


def bad_lines(bad: Sequence[Sequence[str]]) -> list[str]:
    """[name, reason] lists as lines."""
    lines = [f"{name}: {reason}" for name, reason in bad[:MOST_SHOWN]]
    return lines + [f"… and {len(bad) - MOST_SHOWN:,} more"] * (len(bad) > MOST_SHOWN)


def with_bad(
    settings: Settings, result: dict[str, Any], output: Path, bad: Sequence[Sequence[str]], what: str
) -> tuple[dict[str, Any], BadInputs | None]:
    """`result`, and the error to end with when some inputs are bad; it names the first few."""
    if not bad:
        return result, None
    result["bad"] = [list(entry) for entry in bad]
    named = "; ".join(f"{name}: {reason}" for name, reason in bad[:3]) + ("; …" if len(bad) > 3 else "")
    done = "would be" if settings.dry_run else "is"
    return result, BadInputs(
        f"{output} {done} written; {what}: {named}",
        hint="--json lists them; mend them and run again with --force",
    )


def invalid_error(result: dict[str, Any]) -> BadInputs | None:
    """The error to end with when some images could not be judged."""
    invalid = result.get("counts", {}).get("invalid", {})
    total = sum(invalid.values())
    if not total:
        return None
    return BadInputs(
        f"{result['output']} is written: {total:,} images could not be judged: {', '.join(invalid)}"
    )
