"""Energy records added up: the steps of a chain, or the attempts of a training that was killed and resumed.

Equal device, method, quality and share belong together, so a measured figure never meets a modelled one. A component without joules
adds nothing; the total keeps how many were missing, and where, so that nobody takes "at least" for "all".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from headwater.carbon import emissions_kg
from headwater.manifest import Energy, EnergyComponent

Key = tuple[str, str, str, str]  # device, method, quality, share
MEASURED = ("measured",)
MODELLED = ("modelled", "assumed")


@dataclass(frozen=True)
class Total:
    """Several records added up. `energy` is None when not one of them was there."""

    energy: Energy | None
    records: int
    lost: int = 0  # attempts without a record
    seen: dict[Key, int] = field(default_factory=dict)  # records that gave this figure
    present: dict[str, int] = field(default_factory=dict)  # device -> records that name it
    unknown: dict[str, int] = field(default_factory=dict)  # device -> records that could not tell its joules
    measured_in: int = 0  # records with a measured figure
    modelled_in: int = 0
    overlapping: int = 0

    @property
    def of_records(self) -> int:
        """Records that should have been there."""
        return self.records + self.lost

    def is_whole(self, part: EnergyComponent) -> bool:
        """Whether this figure holds all that its device used: nothing unknown, lost, or known in another way."""
        everywhere = self.seen.get(key_of(part), 0) == self.present.get(part.device, 0)
        missing = self.lost or self.unknown.get(part.device, 0)
        return part.joules is not None and everywhere and not missing

    def notes(self) -> list[str]:
        """What a reader of the sums has to know, one sentence each."""
        told = []
        if self.lost:
            told.append(
                f"{self.lost} of {self.of_records} left no record of their energy: every figure is at least"
            )
        for device, number in sorted(self.unknown.items()):
            told.append(f"{device}: not known in {number} of {self.of_records}")
        if self.overlapping:
            told.append(
                f"{self.overlapping} overlap in time: figures of the whole machine may count the same joules twice"
            )
        return told


def add(energies: Sequence[Energy]) -> Total:
    """The sum of several steps, component by component; its times are those of the first and the last, as given.

    A component without joules adds nothing and makes its device's figures, and the sums, "at least". So does one of 0 joules: some
    tools write that for a sensor that is not there.
    """
    return attempts(energies)


def attempts(energies: Iterable[Energy | None]) -> Total:
    """`add` for the attempts of one piece of work; None is an attempt that was killed before it could write its record."""
    every = list(energies)
    known = [_believed(energy) for energy in every if energy is not None]
    seen: Counter[Key] = Counter()
    present: Counter[str] = Counter()
    unknown: Counter[str] = Counter()
    sums: dict[Key, EnergyComponent] = {}
    for energy in known:
        for part in energy.components:
            key = key_of(part)
            sums[key] = _plus(sums.get(key), part)
        present.update({part.device for part in energy.components})
        seen.update({key_of(part) for part in energy.components if part.joules is not None})
        unknown.update({part.device for part in energy.components if part.joules is None})
    told = {key[0] for key, part in sums.items() if part.joules is not None}
    parts = [part for key, part in sums.items() if part.joules is not None or key[0] not in told]
    return Total(
        energy=_merged(known, parts) if known else None,
        records=len(known),
        lost=len(every) - len(known),
        seen=dict(seen),
        present=dict(present),
        unknown=dict(unknown),
        measured_in=sum(energy_in(energy, MEASURED) is not None for energy in known),
        modelled_in=sum(energy_in(energy, MODELLED) is not None for energy in known),
        overlapping=_overlapping(known),
    )


def energy_in(energy: Energy, qualities: tuple[str, ...]) -> float | None:
    """Joules of the components of these qualities, None when there is none."""
    known = [p.joules for p in energy.components if p.joules is not None and p.quality in qualities]
    return sum(known) if known else None


def key_of(part: EnergyComponent) -> Key:
    return part.device, part.method, part.quality, part.share


def _believed(energy: Energy) -> Energy:
    unknown: dict[str, Any] = {"joules": None, "method": "none", "quality": "none"}
    parts = [
        part if part.joules is None or part.joules > 0 else part.model_copy(update=unknown)
        for part in energy.components
    ]
    return energy.model_copy(update={"components": parts})


def _plus(before: EnergyComponent | None, part: EnergyComponent) -> EnergyComponent:
    if before is None or before.joules is None:
        return part
    if part.joules is None:
        return before
    seconds = _sum([before.interval_seconds, part.interval_seconds])
    return part.model_copy(update={"joules": before.joules + part.joules, "interval_seconds": seconds})


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None


def _merged(energies: Sequence[Energy], parts: list[EnergyComponent]) -> Energy:
    pues, grams = {e.pue for e in energies}, {e.carbon_g_per_kwh for e in energies}
    pue, gram = pues.pop() if len(pues) == 1 else None, grams.pop() if len(grams) == 1 else None
    merged = Energy(
        stage="+".join(dict.fromkeys(energy.stage for energy in energies)),
        started_at=energies[0].started_at,
        finished_at=energies[-1].finished_at,
        duration_seconds=sum(energy.duration_seconds for energy in energies),
        cpu_seconds=sum(energy.cpu_seconds for energy in energies),
        peak_rss_bytes=max(
            (e.peak_rss_bytes for e in energies if e.peak_rss_bytes is not None), default=None
        ),
        components=parts,
        measured_joules=None,
        modelled_joules=None,
        idle_baseline_joules=_sum([energy.idle_baseline_joules for energy in energies]),
        pue=pue,
        carbon_g_per_kwh=gram,
        provider=" + ".join(dict.fromkeys(energy.provider for energy in energies)),
    )
    measured, modelled = energy_in(merged, MEASURED), energy_in(merged, MODELLED)
    kg = emissions_kg(measured, modelled, pue, gram)
    return merged.model_copy(update={"measured_joules": measured, "modelled_joules": modelled, "kg_co2e": kg})


def _overlapping(energies: Sequence[Energy]) -> int:
    """Records with figures of a whole machine that begin before another such one has ended."""
    spans = []
    for energy in energies:
        if any(part.share == "machine" and part.joules is not None for part in energy.components):
            try:
                times = (energy.started_at, energy.finished_at)
                spans.append([datetime.fromisoformat(at).astimezone(UTC) for at in times])
            except (ValueError, OverflowError):
                continue  # a time nobody can read overlaps with nothing
    found, latest = 0, None
    for start, end in sorted(spans):
        found += latest is not None and start < latest
        latest = end if latest is None else max(latest, end)
    return found
