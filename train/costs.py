"""What a run cost, as a table: joules per device, how each figure is known, CO2e, per 1,000 samples and per point.

Each device stands alone; below them stand two sums that are never added: of what was measured, and of what was modelled or assumed.
A device that nothing could measure adds nothing to either and is told instead: the sums are then "at least". The same holds for
records that were added up (the steps of a chain, the attempts of a resumed training) and for attempts that left no record.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from headwater.carbon import JOULES_PER_KWH, CarbonFactor, check_pue, kg_co2e
from headwater.manifest import Energy, Record
from train._totals import MEASURED, MODELLED, Total, energy_in, key_of
from train._totals import add as add
from train._totals import attempts as attempts

Quality = Literal["measured", "modelled", "assumed", "none", "modelled or assumed"]


class CostRow(Record):
    """One device, or one of the two sums. What is not known is null; `complete` False means "at least"."""

    device: str
    sum: bool = False
    quality: Quality
    method: str
    share: str
    joules: float | None
    kwh: float | None
    kg_co2e: float | None
    joules_per_1000_samples: float | None
    kg_co2e_per_1000_samples: float | None
    joules_per_point: float | None
    kg_co2e_per_point: float | None
    records: int = 1
    of_records: int = 1
    unknown: int = 0
    complete: bool = True


def points_above_chance(main_metric: float | None, chance: float | None) -> float | None:
    """Percentage points above chance: 100 x (main metric - chance level), both as fractions.

    None when either is not known, and when the model is not better than chance: a price of nothing is no price.
    """
    if main_metric is None or chance is None or main_metric <= chance:
        return None
    return 100 * (main_metric - chance)


def costs(
    energy: Energy | Total,
    *,
    samples: int | None = None,
    points: float | None = None,
    factor: CarbonFactor | None = None,
    pue: float | None = None,
) -> list[CostRow]:
    """One row per device and two rows of sums, in joules, kWh and kg CO2e.

    `samples` are the samples that were seen in training (or examples evaluated). `points` are percentage points of the main metric
    above chance (`points_above_chance`); where it is None, or 0 or less, what a point cost is null. `factor` and `pue` None stand
    for those in the record; without either the CO2e is null. Raises UsageError for a PUE below 1.
    """
    total = energy if isinstance(energy, Total) else add([energy])
    record = total.energy
    pue = check_pue(pue if pue is not None or record is None else record.pue)
    factor = factor or _stated(record)
    parts = record.components if record is not None else []

    def row(joules: float | None, **more: Any) -> CostRow:
        kwh = None if joules is None else joules / JOULES_PER_KWH
        kg = kg_co2e(kwh, pue, factor)
        return CostRow(
            joules=joules,
            kwh=kwh,
            kg_co2e=kg,
            joules_per_1000_samples=_per(joules, samples, 1000),
            kg_co2e_per_1000_samples=_per(kg, samples, 1000),
            joules_per_point=_per(joules, points),
            kg_co2e_per_point=_per(kg, points),
            of_records=total.of_records,
            **more,
        )

    rows = []
    for part in parts:
        rows.append(
            row(
                part.joules,
                device=part.device,
                quality=part.quality,
                method=part.method,
                share=part.share,
                records=total.seen.get(key_of(part), 0),
                unknown=total.unknown.get(part.device, 0) + total.lost,
                complete=total.is_whole(part),
            )
        )
    missing = sum(total.unknown.values()) + total.lost
    for quality, kinds, records in (
        ("measured", MEASURED, total.measured_in),
        ("modelled or assumed", MODELLED, total.modelled_in),
    ):
        adding = [part for part in parts if part.quality in kinds and part.joules is not None]
        rows.append(
            row(
                energy_in(record, kinds) if record is not None else None,
                device="+".join(dict.fromkeys(part.device for part in adding)),
                sum=True,
                quality=quality,
                method="+".join(sorted({part.method for part in adding})),
                share="+".join(sorted({part.share for part in adding})),
                records=records,
                unknown=missing,
                complete=bool(adding) and not missing and all(total.is_whole(part) for part in adding),
            )
        )
    return rows


def document(
    energy: Energy | Total,
    *,
    samples: int | None = None,
    points: float | None = None,
    factor: CarbonFactor | None = None,
    pue: float | None = None,
) -> dict[str, Any]:
    """`costs` with everything they were computed from, for JSON; `notes` are what a reader has to know."""
    total = energy if isinstance(energy, Total) else add([energy])
    rows = costs(total, samples=samples, points=points, factor=factor, pue=pue)
    record = total.energy
    used = factor or _stated(record)
    pue = pue if pue is not None or record is None else record.pue
    return {
        "rows": [row.model_dump() for row in rows],
        "samples": samples,
        "points_above_chance": points if points is not None and points > 0 else None,
        "carbon": None if used is None else used.model_dump(),
        "pue": pue,
        "duration_seconds": None if record is None else record.duration_seconds,
        "cpu_seconds": None if record is None else record.cpu_seconds,
        "records": total.records,
        "lost": total.lost,
        "notes": [*total.notes(), carbon_note(used, pue)],
    }


def carbon_note(factor: CarbonFactor | None, pue: float | None) -> str:
    """How the CO2e was computed, or what is missing for it, in one sentence."""
    if factor is None:
        return "CO2e is not known: no region is stated (HEADWATER_REGION)"
    grid = f"{factor.g_per_kwh:g} g CO2e per kWh ({factor.region}, {factor.year}, {factor.kind}; {factor.source})"
    if pue is None:
        return f"CO2e is not known: no PUE is stated (1 is the machine alone); the grid gives {grid}"
    return f"CO2e is kWh x PUE {pue:g} x {grid}"


def table(rows: Sequence[CostRow], *, notes: Sequence[str] = ()) -> str:
    """The rows as text, right-aligned figures, `≥` before what is only a lower bound; a figure nobody knows is "not known"."""
    head = ["device", "known by", "joules", "kWh", "kg CO2e", "J/1,000 samples", "J/point"]
    lines = [head]
    for row in rows:
        name = f"sum {row.quality}" if row.sum else row.device
        how = (
            row.device if row.sum else f"{row.method}, {row.quality}" if row.joules is not None else "nothing"
        )
        if row.of_records > 1:
            how += f" ({row.records} of {row.of_records})"
        figures = (row.joules, row.kwh, row.kg_co2e, row.joules_per_1000_samples, row.joules_per_point)
        lines.append([name, how, *(_figure(value, row.complete) for value in figures)])
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    text = [
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return "\n".join([*text, *(f"note: {note}" for note in notes)])


def _figure(value: float | None, complete: bool) -> str:
    if value is None:
        return "not known"
    text = f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.4g}"
    return text if complete else f"≥ {text}"


def _per(value: float | None, divisor: float | None, times: float = 1) -> float | None:
    return None if value is None or divisor is None or divisor <= 0 else value / divisor * times


def _stated(record: Energy | None) -> CarbonFactor | None:
    if record is None or record.carbon_g_per_kwh is None or record.carbon_g_per_kwh < 0:
        return None
    year = int(record.started_at[:4]) if record.started_at[:4].isdigit() else 0
    return CarbonFactor(
        g_per_kwh=record.carbon_g_per_kwh, region="stated", source="stated in the record", year=year
    )
