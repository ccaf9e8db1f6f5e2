"""What a training and its evaluation cost, as the commands tell it: per device, per 1,000 samples and per point above chance."""

from __future__ import annotations

from typing import Any

from headwater.carbon import check_pue, factor
from headwater.manifest import Energy, Step
from train import _totals as totals
from train.aggregate import chance_of, main_aggregate, mean, members
from train.costs import costs as cost_rows
from train.costs import document, points_above_chance, table
from train.results import Results

MOST_ATTEMPTS = 10_000  # a record that states more is made up


def check_stated(region: str | None, pue: float | None) -> None:
    """Raise UsageError for a region or PUE that cannot be, before the work that they are told about."""
    factor(region)
    check_pue(pue)


def training_energy(step: Step) -> totals.Total:
    """What a training used: its record is of the last attempt, and what those before it used went with them."""
    tried = step.details.get("attempts")
    before = tried - 1 if isinstance(tried, int) and 1 <= tried <= MOST_ATTEMPTS else 0
    return totals.attempts([*[None] * before, step.energy])


def spent(
    energy: Energy | totals.Total,
    *,
    samples: int | None,
    points: float | None,
    region: str | None,
    pue: float | None,
) -> tuple[dict[str, Any], list[str]]:
    """The costs of one step, for JSON and as lines. CO2e needs a region (or HEADWATER_REGION) and a PUE, else it is null."""
    where = factor(region)
    found = document(energy, samples=samples, points=points, factor=where, pue=pue)
    rows = cost_rows(energy, samples=samples, points=points, factor=where, pue=pue)
    if all(row.joules is None for row in rows):
        return found, []
    return found, table(rows, notes=found.get("notes", [])).splitlines()


def joules_of(energy: Energy) -> str:
    """What one step used, in a line: seconds, and the joules of each device with how they are known."""
    parts = [
        f"{part.device} {part.joules:.4g} J ({part.method}, {part.quality})"
        for part in energy.components
        if part.joules is not None
    ]
    used = ", ".join(parts) if parts else "joules not known"
    return f"{energy.duration_seconds:.1f} s, {energy.cpu_seconds:.1f} CPU s; {used}"


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
    """What the training behind an evaluation cost; None for a soup, and for a model that was trained elsewhere."""
    if step is None or step.identity.step != "train":
        return None, []
    points = points_of(results)
    return spent(training_energy(step), samples=samples, points=points, region=region, pue=pue)
