"""What a training and its evaluation cost, as the commands tell it: per device, per 1,000 samples and per point above chance."""

from __future__ import annotations

from typing import Any

from headwater.carbon import factor
from headwater.manifest import Energy, Step
from train.aggregate import chance_of, main_aggregate, mean, members
from train.costs import costs as cost_rows
from train.costs import document, points_above_chance, table
from train.results import Results


def spent(
    energy: Energy, *, samples: int | None, points: float | None, region: str | None, pue: float | None
) -> tuple[dict[str, Any], list[str]]:
    """The costs of one step, for JSON and as lines. CO2e needs a region (or HEADWATER_REGION) and a PUE, else it is null."""
    where = factor(region)
    found = document(energy, samples=samples, points=points, factor=where, pue=pue)
    if not any(component.joules is not None for component in energy.components):
        return found, []
    rows = cost_rows(energy, samples=samples, points=points, factor=where, pue=pue)
    return found, table(rows, notes=found.get("notes", [])).splitlines()


def points_of(results: Results) -> float | None:
    """Percentage points above chance of the main mean of an evaluation; None without one, or at chance."""
    main = main_aggregate(results.aggregates)
    if main is None:
        return None
    inside = members(main, results.tasks)
    chance = mean([chance_of(line) for line in inside]) if inside else None
    return points_above_chance(main.value, chance)


def of_training(
    step: Step | None, results: Results, samples: int | None, *, region: str | None, pue: float | None
) -> tuple[dict[str, Any] | None, list[str]]:
    """What the training behind an evaluation cost; None for a model that was trained elsewhere."""
    if step is None:
        return None, []
    return spent(step.energy, samples=samples, points=points_of(results), region=region, pue=pue)
