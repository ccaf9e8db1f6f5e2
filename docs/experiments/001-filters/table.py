#!/usr/bin/env python3
"""The tables of README.md from the comparisons that run.py leaves.

python docs/experiments/001-filters/table.py WORK
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FILTERS = ("size", "caption", "dedup", "cap", "all")
MEAN = "mean of 4 tasks"


def load(path: Path) -> dict[str, Any]:
    """One comparison/1 document."""
    found: dict[str, Any] = json.loads(path.read_bytes())
    return found


def points(value: float | None, *, sign: bool = False) -> str:
    """Percentage points with two decimals; an error that is not known is a dash."""
    return "–" if value is None else f"{100 * value:{'+' if sign else ''}.2f}"


def against(found: dict[str, Any], arm: str) -> str:
    """Difference of the mean, both errors, p and verdict."""
    pair = next(pair for pair in found["pairs"] if pair["arm"] == arm)
    row = next(row for row in pair["aggregates"] if row["key"] == MEAN)
    low, high = row["interval"] or row["test_interval"]
    errors = f"± {points(row['test_se'])} test ± {points(row['seed_se'])} seeds"
    return (
        f"{points(row['difference'], sign=True)} {errors} [{points(low)}, {points(high)}], "
        f"p {row['p']:.3f}: {row['verdict']}"
    )


def summary(work: Path) -> Iterator[str]:
    """Every filter against no filter, and against a random subset of its size."""
    everything = load(work / "compare-none.json")
    arms = {arm["label"]: arm for arm in everything["arms"]}
    yield "| data | samples | mean of 4 tasks (chance 2.79) | random of equal size | against no filter | against random of equal size |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for name in ("none", *FILTERS):
        size = json.loads((work / "runs" / f"{name}-s0" / "run.json").read_bytes())["usable_samples"]
        mean = arms[name]["aggregates"][MEAN]
        cells = [f"`{name}`", f"{size:,}", f"{points(mean['mean'])} ± {points(mean['seed_se'])}"]
        if name == "none":
            cells += ["", "", ""]
        else:
            equal = arms[f"random-{name}"]["aggregates"][MEAN]
            cells.append(f"{points(equal['mean'])} ± {points(equal['seed_se'])}")
            cells.append(against(everything, name))
            cells.append(against(load(work / f"compare-random-{name}.json"), name))
        yield "| " + " | ".join(cells) + " |"


def tasks(work: Path) -> Iterator[str]:
    """Means over the seeds of every task."""
    found = load(work / "compare-none.json")
    names = [f"{task['name']} ({points(task['chance'])})" for task in found["tasks"]]
    yield "| data | " + " | ".join(names) + " |"
    yield "| --- |" + " --- |" * len(names)
    for arm in found["arms"]:
        figures = [arm["tasks"][task["key"]] for task in found["tasks"]]
        cells = [f"{points(one['mean'])} ± {points(one['seed_se'])}" for one in figures]
        yield f"| `{arm['label']}` | " + " | ".join(cells) + " |"


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    sys.stdout.write("\n".join([*summary(folder), "", *tasks(folder)]) + "\n")
