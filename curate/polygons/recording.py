"""Polygon datasets as outputs of Steps: inputs by what they say, the store or export written, the record last."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from curate.polygons.store import Annotations, digest, write_store
from headwater.errors import BadInputs, MissingInput, UsageError
from headwater.manifest import Counts, InputRef
from headwater.options import Settings
from headwater.steps import Outcome, Plan, Work, describe_plan, run_step

VERSION = 1


@dataclass(frozen=True)
class Made:
    """A dataset to be written, the counts behind it, and what somebody should know."""

    annotations: Annotations
    counts: Counts
    notes: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)


def input_of(role: str, annotations: Annotations) -> InputRef:
    """A dataset as the input of a step: what it says, wherever and however it is kept."""
    return InputRef(role=role, id=digest(annotations))


def file_input(role: str, path: Path) -> InputRef:
    """A small file of rules as the input of a step. Raises MissingInput."""
    if not path.is_file():
        raise MissingInput(f"{path}: no such file")
    return InputRef(role=role, id=hashlib.sha256(path.read_bytes()).hexdigest())


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
    for source in sources:
        if source.resolve() == output.resolve():
            raise UsageError(f"-o {output}: is the input", hint="write to another folder")
    plan = Plan(step, VERSION, config, list(inputs), output, kind="folder")

    def work(job: Work) -> Counts:
        made = make()
        write_store(made.annotations, job.stage)
        job.details.update(made.details | ({"notes": made.notes} if made.notes else {}))
        job.details["digest"] = digest(made.annotations)
        counts = made.counts
        extra = {"annotations": len(made.annotations.annotations), "vertices": len(made.annotations.vertices)}
        return counts.model_copy(update={"extra": {**counts.extra, **extra}})

    return told(plan, run_step(plan, work, settings.run_options()))


def told(plan: Plan, outcome: Outcome | None) -> dict[str, Any]:
    """What a command that wrote a dataset prints."""
    if outcome is None:
        document = describe_plan(plan)
        state = "up to date: nothing to do" if document["up_to_date"] else "would be made"
        return {**document, "text": f"{plan.output}: {state} (key {plan.key[:12]})"}
    step = outcome.step
    counts = step.identity.counts
    there = " (already there)" if outcome.cached else ""
    shapes = f", {counts.extra['annotations']:,} annotations" if "annotations" in counts.extra else ""
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


def invalid_error(result: dict[str, Any]) -> BadInputs | None:
    """The error to end with when some images could not be judged."""
    invalid = result.get("counts", {}).get("invalid", {})
    total = sum(invalid.values())
    if not total:
        return None
    return BadInputs(
        f"{result['output']} is written: {total:,} images could not be judged: {', '.join(invalid)}"
    )
