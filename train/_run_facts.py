"""What the page of a run shows, as plain values: `RunFacts` and its parts, filled from a ledger and from records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from headwater.manifest import Energy
from train.ledger import Ledger, chance_loss


@dataclass(frozen=True)
class PartFacts:
    """One part of the budget, over all ranks. None: not measured."""

    part: int
    steps: int
    samples: int
    seconds: float
    samples_per_second: float | None
    wait_share: float | None


@dataclass(frozen=True)
class SkippedFacts:
    """One skipped sample; `sample` is its ordinal in the tar."""

    shard: str
    sample: int | None
    key: str | None
    reason: str


@dataclass(frozen=True)
class AttemptFacts:
    """One start of the training process. `samples_lost`: seen after its last checkpoint and so trained again; None: not known."""

    first_part: int
    last_part: int | None  # None: no part was finished
    ended: str  # finished, killed by signal 9, …
    samples_lost: int | None
    seconds: float | None


@dataclass(frozen=True)
class ComponentFacts:
    """Energy of one device; `joules` is None when nothing can tell."""

    device: str
    joules: float | None
    method: str
    quality: str
    share: str


@dataclass(frozen=True)
class EnergyFacts:
    """Sums are None when there is nothing to add; `carbon` tells factor, place and date in words."""

    components: Sequence[ComponentFacts]
    measured_joules: float | None
    modelled_joules: float | None
    provider: str
    duration_seconds: float | None = None
    cpu_seconds: float | None = None
    peak_rss_bytes: int | None = None
    kg_co2e: float | None = None
    carbon: str = ""

    @classmethod
    def of(cls, energy: Energy, *, carbon: str = "") -> EnergyFacts:
        """The figures of an `energy/1` record."""
        return cls(
            [ComponentFacts(c.device, c.joules, c.method, c.quality, c.share) for c in energy.components],
            energy.measured_joules,
            energy.modelled_joules,
            energy.provider,
            energy.duration_seconds,
            energy.cpu_seconds,
            energy.peak_rss_bytes,
            energy.kg_co2e,
            carbon,
        )


@dataclass(frozen=True)
class RunFacts:
    """All that the page shows. `ledger_facts` fills the fields of the ledger."""

    recipe_name: str
    recipe_id: str
    data_name: str
    data_id: str
    seed: int
    conforming: bool
    loss_kind: str
    global_batch: int
    steps: int
    samples_seen: int
    unique_samples: int
    readable_samples: int
    chance_loss: float
    final_loss: float | None
    verdict: str
    non_finite_steps: int
    curve_samples: Sequence[float]
    curve_loss: Sequence[float]
    curve_lr: Sequence[float]
    checkpoints: Sequence[int]
    repeats: Sequence[tuple[str, int]]  # how often seen, and how many samples
    skipped: Mapping[str, int]
    skipped_examples: Sequence[SkippedFacts] = ()
    parts: Sequence[PartFacts] = ()
    samples_per_second: float | None = None
    wait_share: float | None = None
    cpu_share: float | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    samples_budget: int | None = None
    run_id: str = ""
    world: int = 1
    attempts: Sequence[AttemptFacts] = ()
    energy: EnergyFacts | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()


def ledger_facts(ledger: Ledger, loss_kind: str) -> dict[str, Any]:
    """The fields of RunFacts that the ledger knows: `RunFacts(**ledger_facts(ledger, "softmax"), recipe_name=…)`."""
    chance, timing = chance_loss(loss_kind, ledger.global_batch), ledger.timing
    return {
        "loss_kind": loss_kind,
        "global_batch": ledger.global_batch,
        "steps": ledger.steps,
        "samples_seen": ledger.samples_seen,
        "unique_samples": ledger.unique_samples,
        "readable_samples": ledger.readable_samples,
        "chance_loss": chance,
        "final_loss": ledger.final_loss(),
        "verdict": ledger.verdict(chance),
        "non_finite_steps": ledger.non_finite_steps,
        "curve_samples": ledger.curve.samples.tolist(),
        "curve_loss": ledger.curve.loss.tolist(),
        "curve_lr": ledger.curve.lr.tolist(),
        "checkpoints": ledger.checkpoints,
        "repeats": [(one.label, one.samples) for one in ledger.repeats],
        "skipped": ledger.skipped,
        "skipped_examples": [SkippedFacts(e.shard, e.sample, e.key, e.reason) for e in ledger.examples],
        "parts": [
            PartFacts(p.part, p.steps, p.samples, p.seconds, p.samples_per_second, p.wait_share)
            for p in timing.parts
        ],
        "samples_per_second": timing.samples_per_second,
        "wait_share": timing.wait_share,
        "cpu_share": timing.cpu_share,
    }
