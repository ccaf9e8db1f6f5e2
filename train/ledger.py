"""The ledger: which samples the optimizer really saw and how often, which were skipped and why, and how long the loop waited.

The training process writes one file per part of the budget and rank (`train/_ledger_part.py` has the layout); `merge` adds them up
when the run ends. `Ledger` holds what the inputs and the seed decide; what only happened to be true (waiting, CPU, throughput) is
apart, in `Ledger.timing`, so that it never enters a described file.

    LEDGER/part_001_rank_000.npz … ── merge ──> Ledger ── write_seen ──> seen.parquet
                                                      └── write_curve ─> curve.parquet
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from headwater.errors import IntegrityError
from train._ledger_part import (
    AGAIN,
    MAX_SKIPPED_LISTED,
    SKIP_REASONS,
    PartLedger,
    part_name,
    read_part,
    write_part,
)
from train._ledger_sum import (
    RepeatBin,
    ShardInfo,
    Skipped,
    count_seen,
    examples_of,
    find_files,
    repeat_bins,
    times_histogram,
    unreadable,
)
from train._ledger_tables import seen_rows, write_curve, write_seen

__all__ = [
    "MAX_SKIPPED_LISTED",
    "SKIP_REASONS",
    "Curve",
    "Ledger",
    "PartLedger",
    "PartTiming",
    "RepeatBin",
    "ShardInfo",
    "Skipped",
    "Timing",
    "chance_loss",
    "merge",
    "part_name",
    "read_part",
    "seen_rows",
    "write_curve",
    "write_part",
    "write_seen",
]

Verdict = Literal["diverged", "worse than chance", "at chance", "learning"]
AT_CHANCE = 0.01  # of the chance level
LAST_SHARE = 0.1  # of the steps, that the verdict looks at


@dataclass(frozen=True)
class Curve:
    """Per optimizer step: steps done, samples seen by then, loss (mean over ranks), learning rate, logit scale."""

    step: npt.NDArray[np.int32]
    samples: npt.NDArray[np.int64]
    loss: npt.NDArray[np.float32]
    lr: npt.NDArray[np.float32]
    logit_scale: npt.NDArray[np.float32]


@dataclass(frozen=True)
class PartTiming:
    """One part over all ranks. Shares are None where no time was measured."""

    part: int
    steps: int
    samples: int
    seconds: float  # of the slowest rank
    samples_per_second: float | None
    wait_share: float | None


@dataclass(frozen=True)
class Timing:
    """Observed, never described. `wait_share`: time the loops waited for the loader; `cpu_share`: CPU of its workers."""

    seconds: float
    wait_seconds: float
    worker_cpu_seconds: float
    cpu_seconds: float
    wait_share: float | None
    cpu_share: float | None
    samples_per_second: float | None
    parts: tuple[PartTiming, ...]


@dataclass(frozen=True)
class Ledger:
    """All parts and ranks together. `skipped` counts occurrences: a bad sample that is drawn three times counts three times."""

    run_key: str
    global_batch: int
    steps: int
    samples_seen: int
    unique_samples: int
    readable_samples: int
    max_times: int
    repeats: tuple[RepeatBin, ...]
    skipped: dict[str, int]
    examples: tuple[Skipped, ...]
    examples_complete: bool  # each skipped sample of the parts is among those that were listed
    curve: Curve
    checkpoints: tuple[int, ...]  # samples seen at the end of each part
    timing: Timing
    shards: tuple[ShardInfo, ...] = field(repr=False)
    times: npt.NDArray[np.int32] = field(repr=False)  # per sample of all shards, one after the other
    unread: npt.NDArray[np.int64] = field(repr=False)  # places in `times` that are not readable, sorted

    @property
    def epochs(self) -> float | None:
        """Samples seen per readable sample."""
        return self.samples_seen / self.readable_samples if self.readable_samples else None

    def final_loss(self) -> float | None:
        """Median over the last tenth of the steps; None when one of them is not finite, or there is none."""
        last = _last(self.curve)
        return float(np.median(last)) if len(last) and bool(np.all(np.isfinite(last))) else None

    @property
    def non_finite_steps(self) -> int:
        """Steps whose loss was not finite; a run may get over a few early ones."""
        return int(np.count_nonzero(~np.isfinite(self.curve.loss)))

    def verdict(self, chance: float) -> Verdict:
        """What the last tenth of the steps says: a loss that is not finite, within 1 % of chance, above that, or below."""
        final = self.final_loss()
        if final is None:
            return "diverged"
        if abs(final - chance) <= AT_CHANCE * chance:
            return "at chance"
        return "learning" if final < chance else "worse than chance"


def _last(curve: Curve) -> npt.NDArray[np.float64]:
    count = max(1, math.ceil(len(curve.loss) * LAST_SHARE)) if len(curve.loss) else 0
    return curve.loss[len(curve.loss) - count :].astype(np.float64)


def chance_loss(kind: str, batch: int) -> float:
    """The loss, in nats, of a model that cannot tell which of `batch` captions belongs to a picture; `batch` is the global batch.

    softmax: cross entropy of the uniform distribution over the batch, ln(batch).
    sigmoid (SigLIP, arXiv 2303.15343, section 3): each of the batch² pairs is a yes-or-no question, 1 in `batch` of them yes. Without
    knowledge all pairs get one logit z, and the sum of -log σ(±z) over the pairs is batch² · H(p, σ(z)) with p = 1/batch, least
    where σ(z) = p: batch² · H(p), with H the binary entropy. The loss divides by the batch:
    batch · H(1/batch) = ln(batch) + (batch - 1) · ln(batch / (batch - 1)), which nears ln(batch) + 1.
    """
    if batch < 1:
        raise ValueError(f"a batch of {batch}")
    if kind == "softmax":
        return math.log(batch)
    if kind == "sigmoid":
        return math.log(batch) + ((batch - 1) * math.log(batch / (batch - 1)) if batch > 1 else 0.0)
    raise ValueError(f"no chance level is known for the loss {kind!r}")


@dataclass(frozen=True)
class _Spent:
    """Times of one part, one entry per rank."""

    number: int
    steps: int
    samples: int
    part: list[float]
    wait: list[float]
    workers: list[float]
    cpu: list[float]


def merge(
    folder: Path,
    *,
    parts: int,
    world: int | Sequence[int],
    shards: Sequence[ShardInfo],
    global_batch: int,
    run_key: str | None = None,
) -> Ledger:
    """Add up parts 1 to `parts` of all ranks; later parts (of an attempt whose checkpoint is not used) are ignored.

    `world` is the number of processes, or one number per part when it changed on resuming. Without `run_key` all files must carry the
    same one. Memory: 4 bytes per sample of the shards, and one file at a time (with a sorted copy). Raises IntegrityError naming the file that is missing,
    there twice, damaged, of another run or world, or that does not fit the shards; and when seen samples are not steps × batch.
    """
    worlds = [world] * parts if isinstance(world, int) else list(world)
    starts = np.zeros(len(shards) + 1, np.int64)
    np.cumsum([shard.samples for shard in shards], out=starts[1:])
    times = np.zeros(int(starts[-1]), np.int32)
    files = find_files(folder, parts, worlds)
    skipped: Counter[int] = Counter()
    listed: list[tuple[int, int, int]] = []
    curves: list[tuple[npt.NDArray[Any], ...]] = []
    spent: list[_Spent] = []
    seen = steps = 0
    for part, processes in enumerate(worlds, 1):
        mine: list[PartLedger] = []
        here = 0
        for rank in range(processes):
            one, name = read_part(files[part, rank]), part_name(part, rank)
            run_key = run_key or one.run_key
            if one.run_key != run_key:
                raise IntegrityError(f"{name}: of run {one.run_key[:16]}, not of {run_key[:16]}", hint=AGAIN)
            if one.world != processes:
                raise IntegrityError(f"{name}: of {one.world} processes, not {processes}", hint=AGAIN)
            if mine and not np.array_equal(one.step, mine[0].step):
                raise IntegrityError(f"{name}: has other steps than rank 0", hint=AGAIN)
            count_seen(one, name, shards, starts, times)
            for code, count in zip(one.skipped_reason.tolist(), one.skipped_count.tolist(), strict=True):
                skipped[code] += count
            places = (one.skipped_shard.tolist(), one.skipped_sample.tolist(), one.skipped_code.tolist())
            listed += zip(*places, strict=True)
            here += one.samples
            mine.append(
                replace(one, shard=one.shard[:0].copy(), sample=one.sample[:0].copy())
            )  # frees the long arrays
        step = mine[0].step
        if len(step) and (step[0] != steps + 1 or step[-1] != steps + len(step)):
            told = f"steps {step[0]:,} to {step[-1]:,} ({len(step):,} of them) do not follow step {steps:,}"
            raise IntegrityError(f"{part_name(part, 0)}: {told}", hint=AGAIN)
        if here != len(step) * global_batch:
            told = f"{here:,} samples seen, but {len(step):,} steps of {global_batch:,}"
            raise IntegrityError(f"{part_name(part, 0)} and its other ranks: {told}", hint=AGAIN)
        steps, seen = steps + len(step), seen + here
        curves.append((step, *(_mean(mine, name) for name in ("loss", "lr", "logit_scale"))))
        spent.append(
            _Spent(
                part,
                len(step),
                here,
                part=[one.part_seconds for one in mine],
                wait=[one.wait_seconds for one in mine],
                workers=[one.worker_cpu_seconds for one in mine],
                cpu=[one.cpu_seconds for one in mine],
            )
        )
    unread = unreadable(shards, starts, times, listed)
    counts = times_histogram(times)
    counts[0] -= len(unread)
    unique = int(counts[1:].sum())
    return Ledger(
        run_key=run_key or "",
        global_batch=global_batch,
        steps=steps,
        samples_seen=seen,
        unique_samples=unique,
        readable_samples=len(times) - len(unread),
        max_times=len(counts) - 1,
        repeats=repeat_bins(counts),
        skipped={name: skipped[code] for code, name in enumerate(SKIP_REASONS)},
        examples=examples_of(shards, listed),
        examples_complete=sum(skipped.values()) == len(listed),
        curve=_curve(curves, global_batch),
        checkpoints=tuple(np.cumsum([one.samples for one in spent], dtype=np.int64).tolist()),
        timing=_timing(spent),
        shards=tuple(shards),
        times=times,
        unread=unread,
    )


def _mean(mine: Sequence[PartLedger], name: str) -> npt.NDArray[np.float32]:
    with np.errstate(invalid="ignore", over="ignore"):
        total = np.sum([getattr(one, name).astype(np.float64) for one in mine], axis=0)
        return np.asarray(total / len(mine), np.float32)


def _curve(curves: Sequence[tuple[npt.NDArray[Any], ...]], global_batch: int) -> Curve:
    step, loss, lr, scale = (np.concatenate([np.zeros(0), *(curve[n] for curve in curves)]) for n in range(4))
    return Curve(
        step.astype(np.int32),
        step.astype(np.int64) * global_batch,
        loss.astype(np.float32),
        lr.astype(np.float32),
        scale.astype(np.float32),
    )


def _timing(spent: Sequence[_Spent]) -> Timing:
    parts = []
    for one in spent:
        slowest, total = max(one.part), sum(one.part)
        rate = one.samples / slowest if slowest else None
        share = sum(one.wait) / total if total else None
        parts.append(PartTiming(one.number, one.steps, one.samples, slowest, rate, share))
    seconds, samples = sum(part.seconds for part in parts), sum(part.samples for part in parts)
    total, wait = sum(sum(one.part) for one in spent), sum(sum(one.wait) for one in spent)
    workers, cpu = sum(sum(one.workers) for one in spent), sum(sum(one.cpu) for one in spent)
    return Timing(
        seconds=seconds,
        wait_seconds=wait,
        worker_cpu_seconds=workers,
        cpu_seconds=cpu,
        wait_share=wait / total if total else None,
        cpu_share=workers / cpu if cpu else None,
        samples_per_second=samples / seconds if seconds else None,
        parts=tuple(parts),
    )
