"""A comparison as one HTML page: figures with chance, a forest of differences with both errors, energy, and who was compared."""

from __future__ import annotations

from typing import Any

from train import _forest as forest
from train._comparison_record import Against, Comparison, Difference
from train._pages import quantity, render, short

COLOURS = 8  # classes c0 … c7 of the page's style
TEMPLATE = "compare.html.j2"


def page_of(found: Comparison) -> bytes:
    """The page as bytes: the same comparison gives the same bytes."""
    return render(TEMPLATE, page(found))


def page(found: Comparison) -> dict[str, Any]:
    """What the template shows."""
    tasks = len(found.tasks)
    runs = sum(len(arm.runs) for arm in found.arms)
    every = [row for pair in found.pairs for row in (*pair.tasks, *pair.aggregates)]
    return {
        "title": f"{', '.join(pair.arm for pair in found.pairs)} against {found.arms[0].label}",
        "tiles": [
            (len(found.arms), "datasets"),
            (runs, "runs"),
            (tasks, "task" if tasks == 1 else "tasks"),
            (f"{sum(task.n for task in found.tasks):,}", "test examples"),
        ],
        "found": found,
        "recipe": f"{found.recipe_name or 'recipe'} {short(found.recipe_id)}",
        "colour": {arm.label: place % COLOURS for place, arm in enumerate(found.arms)},
        "figures": _figures(found),
        "pairs": [_pair(found, pair) for pair in found.pairs],
        "test_only": any(row.basis == "test set only" for row in every),
        "both": any(row.basis == "both errors" for row in every),
        "near_chance": any(f.near_chance for arm in found.arms for f in arm.tasks.values()),
        "energy": _energy(found),
    }


def _figures(found: Comparison) -> dict[str, Any]:
    """A strip for each mean and task, on one axis."""
    rows: list[tuple[str, str, float | None, dict[str, list[float]]]] = []
    for mean in found.aggregates:
        values = {
            arm.label: [v for v in arm.aggregates[mean.name].values if v is not None] for arm in found.arms
        }
        rows.append((mean.name, f"tasks {short(mean.task_list_id)}", mean.chance, values))
    for task in found.tasks:
        values = {arm.label: [v for v in arm.tasks[task.key].values if v is not None] for arm in found.arms}
        rows.append((task.name, f"{task.metric}, n {task.n:,}", task.chance, values))
    numbers = [
        v for _, _, chance, arms in rows for v in (*(x for a in arms.values() for x in a), chance or 0.0)
    ]
    axis = forest.axis_for(numbers, zero=True)
    return {
        "scale": forest.scale(axis, "percent"),
        "rows": [
            {
                "name": name,
                "note": note,
                "chance": chance,
                "means": [sum(a) / len(a) if a else None for a in arms.values()],
                "drawing": forest.strip(
                    axis,
                    chance,
                    [(label, place % COLOURS, a) for place, (label, a) in enumerate(arms.items()) if a],
                ),
                "mean": place < len(found.aggregates),
            }
            for place, (name, note, chance, arms) in enumerate(rows)
        ],
    }


def _pair(found: Comparison, pair: Against) -> dict[str, Any]:
    names = {task.key: task.name for task in found.tasks}
    rows = [*pair.aggregates, *pair.tasks]
    reach = [v for row in rows for v in (*(row.interval or ()), *(row.test_interval or ()), row.difference)]
    axis = forest.axis_for(reach, zero=True)
    arms = {arm.label: arm for arm in found.arms}
    shown = []
    for place, row in enumerate(rows):
        is_mean = place < len(pair.aggregates)
        figures = [
            arms[side].aggregates if is_mean else arms[side].tasks for side in (pair.baseline, pair.arm)
        ]
        shown.append(
            {
                "name": names.get(row.key, row.key),
                "mean": is_mean,
                "row": row,
                "baseline": figures[0][row.key].mean,
                "arm": figures[1][row.key].mean,
                "drawing": forest.difference(
                    axis, row.difference, row.test_interval, row.interval, row.verdict
                ),
                "mark": "*" if row.basis == "test set only" else "",
                "mcnemar": _mcnemar(row),
            }
        )
    return {"arm": pair.arm, "baseline": pair.baseline, "rows": shown, "scale": forest.scale(axis, "points")}


def _mcnemar(row: Difference) -> str:
    """One test: its counts and p; several (one for each seed): the range of p."""
    if not row.mcnemar:
        return "–"
    if len(row.mcnemar) == 1:
        one = row.mcnemar[0]
        return f"{one.p_exact:.3g} ({one.only_run_right:,} / {one.only_baseline_right:,})"
    found = sorted(test.p_exact for test in row.mcnemar)
    return f"{found[0]:.2g} to {found[-1]:.2g}"


def _energy(found: Comparison) -> list[dict[str, Any]]:
    rows = []
    for arm in found.arms:
        for run in arm.runs:
            for cost in run.costs:
                if cost.sum and "+" not in cost.device:  # a sum of one is that one
                    continue
                least = "" if cost.complete or cost.joules is None else "≥ "
                rows.append(
                    {
                        "run": run.label,
                        "device": f"sum, {cost.quality}" if cost.sum else cost.device,
                        "sum": cost.sum,
                        "how": cost.device if cost.sum else f"{cost.method}, {cost.quality}",
                        "figures": [
                            f"{least}{quantity(value)}" if value is not None else "not known"
                            for value in (
                                cost.joules,
                                cost.kg_co2e,
                                cost.joules_per_1000_samples,
                                cost.joules_per_point,
                            )
                        ],
                    }
                )
    return rows
