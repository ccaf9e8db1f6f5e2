"""`headwater train` as a Step: shards checked, open_clip's loop run in a process of its own, and a run folder with its account.

The finished parts of the budget lie in the step's private folder (`parts/job`), so a killed training goes on after its last
checkpoint, draws the samples it would have drawn, and ends with the same weights.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headwater.clip_model import CONFIG, need_training_packages
from headwater.console import say
from headwater.energy import utc_now
from headwater.errors import UsageError
from headwater.files import write_json
from headwater.manifest import Counts, InputRef
from headwater.steps import Outcome, Plan, RunOptions, Work, describe_plan, run_step
from train import _engine as engine
from train._assemble import assemble, write_page
from train._child import run_child
from train._run_facts import RunFacts
from train.arguments import Placement, argument_list, batches_per_part, steps_per_part
from train.recipe import Recipe
from train.runs import config_document

STEP = "train"
VERSION = 2  # 1: crops depended on the micro batch; docs/experiments/001-filters was made with it
MAX_PIXELS = 50_000_000  # of one training picture


@dataclass(frozen=True)
class Job:
    """One training as it was asked for."""

    asked: Recipe  # before overrides
    recipe: Recipe
    overrides: dict[str, Any]
    conforming: bool
    data: Sequence[Path]
    data_id: str
    seed: int
    placement: Placement
    loader_processes: int = 1
    allow_invalid: bool = False
    cache: Path | None = None
    observation: dict[str, Any] = field(default_factory=dict)


def plan_training(job: Job, output: Path) -> Plan:
    """The Step that a job is. Where it runs is part of the key: other placements round otherwise."""
    config = {
        "recipe_id": job.asked.id,
        "resolved_id": job.recipe.id,
        "recipe": job.recipe.content,
        "placement": job.placement.document(),
        "allow_invalid": job.allow_invalid,
    }
    return Plan(
        STEP,
        VERSION,
        config,
        [InputRef(role="shards", id=job.data_id)],
        output,
        kind="folder",
        seed=job.seed,
        resumable=True,
    )


def run_training(plan: Plan, job: Job, options: RunOptions) -> Outcome | None:
    """Check the shards, train, and write the run. Raises what the checks raise, and Diverged."""
    need_training_packages()
    pages: list[RunFacts] = []

    def work(step: Work) -> Counts:
        return _train(step, job, pages)

    outcome = run_step(plan, work, options)
    if outcome is not None and pages:
        write_page(outcome, pages[0])  # after the step, since only then its energy is known
    return outcome


def data_id(data: Sequence[Path], cache: Path | None, *, distrust_cache: bool = False) -> str:
    """Identity of the shards: SHA-256 over their sorted names and digests. A tar that was seen before is not read again."""
    from train import preflight

    return preflight.data_id(preflight.list_sources(data), cache=cache, distrust_cache=distrust_cache)


def loaders(wanted: int | None, recipe: Recipe, placement: Placement) -> int:
    """Loader processes for each training process: what was asked for, or what the cores leave; it never changes the result."""
    from train.loader import loader_processes

    if wanted is not None and wanted < 1:
        raise UsageError(f"--workers {wanted}: must be 1 or more")
    cores = len(os.sched_getaffinity(0))
    spare = cores // placement.processes if placement.device != "cpu" else 1
    return loader_processes(wanted if wanted is not None else spare, recipe.sampling.streams)


def dry_run(plan: Plan, job: Job) -> dict[str, Any]:
    """What would be done: the shards are checked all the same, since that costs seconds and a training hours."""
    scan = check_shards(job)
    steps = steps_per_part(job.recipe, job.placement) * job.recipe.budget.checkpoints
    samples = steps * job.recipe.budget.global_batch
    usable = sum(int(shard.usable) for shard in scan.shards)
    facts = describe_plan(plan)
    facts.update(
        {
            "recipe_id": job.asked.id,
            "conforming": job.conforming,
            "shards": len(scan.shards),
            "usable_samples": usable,
            "steps": steps,
            "samples_seen": samples,
            "repeats_per_sample": round(samples / usable, 3) if usable else None,
        }
    )
    facts["text"] = (
        f"would train {job.recipe.name} ({job.asked.id[:12]}{'' if job.conforming else ', not conforming'}) on "
        f"{usable:,} samples in {len(scan.shards):,} shards: {steps:,} steps, {samples:,} samples seen, each "
        f"{samples / max(usable, 1):.1f} times on average"
    )
    return facts


def result(outcome: Outcome, *, region: str | None = None, pue: float | None = None) -> dict[str, Any]:
    """What the command tells of a finished training."""
    from train._spent import spent, training_energy
    from train.runs import Run

    step = outcome.step
    run = Run.model_validate_json((outcome.path / "run.json").read_bytes())
    energy, details = step.energy, step.details
    wait, cpu = details.get("loader_wait_share"), details.get("loader_cpu_share")
    shares = [f"loop waited {wait:.1%} for the loader" if wait is not None else ""]
    shares += [f"loader {cpu:.1%} of the CPU time" if cpu is not None else ""]
    there = " (already there)" if outcome.cached else ""
    rate = details.get("samples_per_second")
    changed = ", ".join(f"{name}={value}" for name, value in run.overrides.items())
    first = f"{outcome.path}: {run.recipe_name} on {run.data_id[:12]}, seed {run.seed}{there}"
    seen = (
        f"{run.samples_seen:,} samples seen, {run.unique_samples:,} of {run.usable_samples:,} at least once"
    )
    lines = [
        first if run.conforming else f"{first}; NOT conforming: {changed}",
        f"  {seen}; loss {run.last_loss} (chance {run.chance_loss:.3f}): {run.verdict}",
        "  " + ", ".join([f"{rate:,.0f} samples/s" if rate else "", *shares]).strip(", "),
    ]
    if run.skipped:
        lines.append("  skipped while training: " + ", ".join(f"{k} {v:,}" for k, v in run.skipped.items()))
    attempts = details.get("attempts", 1)
    resumed = f"; attempt {attempts}" if attempts > 1 else ""
    lines.append(
        f"  {energy.duration_seconds:.1f} s, {energy.cpu_seconds:.1f} CPU s{resumed}; step {step.id[:12]}"
    )
    costs, cost_lines = spent(
        training_energy(step), samples=run.samples_seen, points=None, region=region, pue=pue
    )
    lines += [f"  {line}" for line in cost_lines]
    document = {
        "output": str(outcome.path),
        "step_id": step.id,
        "up_to_date": outcome.cached,
        "run": run.model_dump(mode="json"),
        "details": details,
        "energy": energy.model_dump(mode="json"),
        "costs": costs,
    }
    return {**document, "text": "\n".join(lines)}


def check_shards(job: Job) -> Any:
    """The scan of the shards; raises for everything that would spoil the training."""
    from train.preflight import check_data, scan_data

    recipe = job.recipe
    scan = scan_data(job.data, workers=max(job.loader_processes, 1), seed=job.seed, max_pixels=MAX_PIXELS)
    check_data(
        scan,
        min_shards=recipe.data_contract.min_shards,
        world=job.placement.processes,
        loader_workers=recipe.sampling.streams
        if recipe.sampling.mode == "shuffled"
        else job.loader_processes,
        resampled=recipe.sampling.mode == "resampled",
        global_batch=recipe.budget.global_batch,
        samples_needed=recipe.budget.samples_seen,
        allow_invalid=job.allow_invalid,
    )
    return scan


def _train(step: Work, job: Job, pages: list[RunFacts]) -> Counts:
    scan = check_shards(job)
    folder = step.parts / "job"
    _prepare(folder, step.key, job, scan)
    attempts = _begin_attempt(folder)
    begun = time.monotonic()
    total = _samples_a_part(job) * job.recipe.budget.checkpoints
    from_part = run_child(folder, job.placement, total_samples=total, samples_a_part=_samples_a_part(job))
    attempts[-1].update(
        {"from_part": from_part, "finished_at": utc_now(), "seconds": round(time.monotonic() - begun, 3)}
    )
    _write_attempts(folder, attempts)
    counts, facts = assemble(step, job, scan, folder, attempts)
    pages.append(facts)
    return counts


def _samples_a_part(job: Job) -> int:
    batches = batches_per_part(job.recipe, job.placement)
    return batches * job.placement.micro_batch * job.placement.processes


def _prepare(folder: Path, key: str, job: Job, scan: Any) -> None:
    """Write what the training process reads; what an earlier attempt finished stays."""
    for name in (engine.MODEL, engine.LEDGER, engine.LOGS):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / engine.FAILURE).unlink(missing_ok=True)
    recipe, placement = job.recipe, job.placement
    write_json(folder / engine.MODEL / CONFIG, config_document(recipe))
    model = _builtin(recipe) or f"local-dir:{engine.MODEL}"
    shards = [str(shard.path.absolute()) for shard in scan.shards]
    data = "::".join(str(path.absolute()) for path in job.data)
    arguments = argument_list(
        recipe, placement, train_data=data, model=model, logs=engine.LOGS, name=engine.NAME, seed=job.seed
    )
    document = {
        "run_key": key,
        "arguments": arguments,
        "placement": placement.document(),
        "global_batch": recipe.budget.global_batch,
        "batches_per_part": batches_per_part(recipe, placement),
        "parts": recipe.budget.checkpoints,
        "keep": recipe.keep_checkpoints,
        "ema": recipe.ema.model_dump() if recipe.ema else None,
        "loader_processes": job.loader_processes,
        "source": {
            "tars": shards,
            "usable": [int(shard.usable) for shard in scan.shards],
            "mode": recipe.sampling.mode,
            "buffer": recipe.sampling.shuffle_buffer,
            "initial": recipe.sampling.shuffle_initial,
            "streams": recipe.sampling.streams,
            "seed": job.seed,
            "max_pixels": MAX_PIXELS,
        },
    }
    write_json(folder / engine.JOB, document)


def _builtin(recipe: Recipe) -> str | None:
    """open_clip's own name of the configuration, if it still means the same towers."""
    name = recipe.model.builtin
    if name is None:
        return None
    from open_clip import get_model_config

    found = dict(get_model_config(name) or {})
    if found == recipe.model.open_clip_config:
        return name
    say("debug", f"this open_clip's {name} is not the recipe's; the recipe's own configuration is used")
    return None


def _begin_attempt(folder: Path) -> list[dict[str, Any]]:
    """The attempts so far with a new one at the end; what a killed one had done is read from what it said last."""
    path = folder / "attempts.json"
    attempts: list[dict[str, Any]] = []
    try:
        attempts = json.loads(path.read_bytes())
    except (OSError, ValueError):
        pass
    events = folder / engine.EVENTS
    if attempts and "finished_at" not in attempts[-1]:
        attempts[-1].update({"ended": "stopped", "samples_reached": _last_event(events).get("samples")})
    events.unlink(missing_ok=True)
    attempts.append({"started_at": utc_now()})
    _write_attempts(folder, attempts)
    return attempts


def _write_attempts(folder: Path, attempts: list[dict[str, Any]]) -> None:
    path = folder / "attempts.json"
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(attempts))
    os.replace(temporary, path)


def _last_event(path: Path) -> dict[str, Any]:
    try:
        lines = path.read_bytes()[-4096:].splitlines()
    except OSError:
        return {}
    for line in reversed(lines):
        try:
            found = json.loads(line)
        except ValueError:
            continue  # cut by the kill
        if isinstance(found, dict):
            return found
    return {}
