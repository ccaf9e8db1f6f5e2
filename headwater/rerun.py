"""Making an output again from its record, to compare: what digests alone cannot show, since a record may have been rewritten too.

A member of the family `reruns` (curate/reruns, one file a step; the file's name is the step's) offers

    MARKER     name of the file of an output folder that says how it was made; a folder fetched from others has no step record
    rerun(output: Path, record: Step | None, *, sample: float | None, seed: int, executor: Executor) -> Rerun

It draws, computes or reads again what the record or the marker says, compares it with the output, and changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headwater import plugins
from headwater.errors import IntegrityError, UsageError, nearest
from headwater.executor import Executor
from headwater.manifest import Step


@dataclass(frozen=True)
class Rerun:
    """What was made again and compared. `unit` in the plural ("pictures")."""

    checked: int
    of: int
    unit: str
    problems: list[str] = field(default_factory=list)


def steps_that_can() -> list[str]:
    """Names of steps whose outputs can be made again for comparison."""
    return [plugin.name for plugin in plugins.family_members("reruns")]


def check_name(name: str) -> None:
    """Raises UsageError for a step that cannot be rerun; "all" means each that can."""
    if name != "all" and name not in steps_that_can():
        raise UsageError(
            f"--rerun {name}: no step that can be made again; {nearest(name, ['all', *steps_that_can()])}"
        )


def rerun_records(
    path: Path,
    found: Iterable[tuple[Path, Step]],
    name: str,
    *,
    sample: float | None,
    seed: int,
    workers: int | None,
) -> list[dict[str, Any]]:
    """Make again what the records (output, Step) of step `name` (or all that can) describe, or what the marker in PATH does.

    Raises UsageError when none of them can be, IntegrityError listing every difference.
    """
    able = steps_that_can()
    wanted = able if name == "all" else [name]
    members = {step: plugins.load("reruns", step) for step in wanted}
    chosen: list[tuple[str, Path, Step | None]] = [
        (record.identity.step, output, record) for output, record in found if record.identity.step in members
    ]
    if not chosen:
        below = sorted(one for one in path.iterdir() if one.is_dir()) if path.is_dir() else []
        for folder in (path, *below):  # of a release, the folder of its files
            chosen += [
                (step, folder, None) for step, member in members.items() if (folder / member.MARKER).is_file()
            ]
    if not chosen:
        raise UsageError(
            f"--rerun {name}: nothing here was made by a step that can be made again",
            hint=f"steps that can: {', '.join(able)}",
        )
    executor = Executor(workers=workers)
    done, problems = [], []
    for step, output, record in chosen:
        result = members[step].rerun(output, record, sample=sample, seed=seed, executor=executor)
        problems += result.problems
        done.append(
            {
                "step": step,
                "path": str(output),
                "checked": result.checked,
                "of": result.of,
                "unit": result.unit,
            }
        )
    if problems:
        listing = "".join(f"\n  {problem}" for problem in problems)
        count = "1 difference" if len(problems) == 1 else f"{len(problems):,} differences"
        raise IntegrityError(
            f"{count} from what was made again:{listing}",
            hint="the record or the files were changed, or they are of another version; nothing was changed now",
        )
    return done
