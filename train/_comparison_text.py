"""A comparison as text for a terminal: figures in percentage points, `±` one standard error, chance beside each figure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from headwater.console import printable
from train._comparison_record import Against, Arm, Comparison, Difference
from train._pages import p_text, points, quantity, short, signed

TEST_ONLY_MARK = "*"


def text_of(found: Comparison) -> str:
    """The whole comparison."""
    recipe = f"{found.recipe_name or 'recipe'} {short(found.recipe_id)}"
    lines = [f"{recipe} on suite {found.suite} {short(found.suite_id)}"]
    lines += [
        f"  {'baseline' if not place else 'arm'}: {_arm_words(arm)}" for place, arm in enumerate(found.arms)
    ]
    for pair in found.pairs:
        lines += ["", *_pair(found, pair)]
    lines += ["", *_legend(found)]
    energy = list(_energy(found.arms))
    if energy:
        lines += ["", "energy of each training; measured and modelled figures are never added", *energy]
    lines += [f"note: {text}" for text in found.warnings]
    return printable("\n".join(lines))


def _arm_words(arm: Arm) -> str:
    seeds = ", ".join("?" if run.seed is None else str(run.seed) for run in arm.runs)
    words = f"{arm.label}: {len(arm.runs)} {'run' if len(arm.runs) == 1 else 'runs'} (seed {seeds})"
    for name, values in (
        ("samples seen", {run.samples_seen for run in arm.runs}),
        ("unique", {run.unique_samples for run in arm.runs}),
    ):
        known = sorted(value for value in values if value is not None)
        if known:
            words += f", {known[0]:,}{f' to {known[-1]:,}' if len(known) > 1 else ''} {name}"
    return words


def _pair(found: Comparison, pair: Against) -> Iterator[str]:
    arms = {arm.label: arm for arm in found.arms}
    baseline, arm = arms[pair.baseline], arms[pair.arm]
    yield f"{pair.arm} against {pair.baseline}"
    head = [
        "task",
        "metric",
        "n",
        "chance",
        "baseline",
        "arm",
        "difference",
        "±test",
        "±seeds",
        "95 % interval",
    ]
    rows = [[*head, "p", "verdict"]]
    for task in found.tasks:
        row = next(d for d in pair.tasks if d.key == task.key)
        figures = [side.tasks[task.key] for side in (baseline, arm)]
        values = [points(f.mean) + ("c" if f.near_chance else "") for f in figures]
        rows.append([task.name, task.metric, f"{task.n:,}", points(task.chance), *values, *_cells(row)])
    for mean in found.aggregates:
        row = next(d for d in pair.aggregates if d.key == mean.name)
        values = [points(side.aggregates[mean.name].mean) for side in (baseline, arm)]
        name = mean.name if mean.complete else f"{mean.name} (incomplete)"
        rows.append([name, short(mean.task_list_id), "", points(mean.chance), *values, *_cells(row)])
    yield from table(rows, left={0, 1, 11})


def _cells(row: Difference) -> list[str]:
    interval = row.interval or row.test_interval
    reach = f"[{signed(interval[0])}, {signed(interval[1])}]" if interval else "–"
    mark = TEST_ONLY_MARK if row.basis == "test set only" else ""
    return [
        signed(row.difference),
        points(row.test_se),
        points(row.seed_se),
        reach,
        p_text(row.p_holm),
        row.verdict + mark,
    ]


def table(rows: Sequence[Sequence[str]], *, left: set[int]) -> list[str]:
    """Rows with aligned columns; those in `left` to the left, others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  "
        + "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _legend(found: Comparison) -> Iterator[str]:
    yield (
        f"  points are percent; ±test: resampling test examples ({found.resamples:,} times, paired), ±seeds: spread of whole runs;"
    )
    yield "  interval: both errors (Student's t), else the test set alone; p: Holm-corrected over the tasks (means: as they are)"
    every = [row for pair in found.pairs for row in (*pair.tasks, *pair.aggregates)]
    if any(row.basis == "test set only" for row in every):
        yield f"  {TEST_ONLY_MARK} one run on a side: no seed error, so this is about these models, not about their data"
    if any(figure.near_chance for arm in found.arms for figure in arm.tasks.values()):
        yield "  c: no run of that side is two standard errors of the test set above chance"


def _energy(arms: Sequence[Arm]) -> Iterator[str]:
    rows = [["run", "device", "known by", "joules", "kg CO2e", "J/1,000 samples", "J/point above chance"]]
    for arm in arms:
        for run in arm.runs:
            for cost in run.costs:
                if cost.sum and "+" not in cost.device:  # a sum of one is that one
                    continue
                how = f"{cost.method}, {cost.quality}" if cost.joules is not None else "nothing"
                least = "" if cost.complete or cost.joules is None else "≥ "
                rows.append(
                    [
                        run.label,
                        f"sum {cost.quality}" if cost.sum else cost.device,
                        cost.device if cost.sum else how,
                        *(
                            least + quantity(value) if value is not None else "not known"
                            for value in (
                                cost.joules,
                                cost.kg_co2e,
                                cost.joules_per_1000_samples,
                                cost.joules_per_point,
                            )
                        ),
                    ]
                )
    if len(rows) > 1:
        yield from table(rows, left={0, 1, 2})
