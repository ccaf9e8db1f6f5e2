"""Puts a finished training together: weights, configuration, account and page, as the run folder that `train/runs.py` describes."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headwater.clip_model import CONFIG, WEIGHTS
from headwater.console import say
from headwater.errors import IntegrityError
from headwater.files import atomic_file, write_json
from headwater.manifest import Counts, canonical
from headwater.steps import OBSERVED_NAMES, Outcome, Work
from train import _engine as engine
from train._run_facts import AttemptFacts, EnergyFacts, RunFacts, ledger_facts
from train.ledger import Ledger, ShardInfo, chance_loss, merge, write_curve, write_seen
from train.recipe import recipe_text
from train.runs import Run, config_document

if TYPE_CHECKING:
    from train.training import Job


def assemble(
    step: Work, job: Job, scan: Any, folder: Path, attempts: list[dict[str, Any]]
) -> tuple[Counts, RunFacts]:
    """Write the run into the step's stage; returns the counts of the record, and what its page shows."""
    recipe, placement, stage = job.recipe, job.placement, step.stage
    shards = [_shard_info(shard) for shard in scan.shards]
    ledger = merge(
        folder / engine.LEDGER,
        parts=recipe.budget.checkpoints,
        world=placement.processes,
        shards=shards,
        global_batch=recipe.budget.global_batch,
        run_key=step.key,
    )
    chance = chance_loss(recipe.loss.kind, recipe.budget.global_batch)
    parameters = _weights(stage, folder, job)
    _json(stage / CONFIG, config_document(recipe))
    (stage / "recipe.yaml").write_text(recipe_text(recipe), encoding="utf-8")
    write_seen(stage / "seen.parquet", ledger)
    write_curve(stage / "curve.parquet", ledger)
    run = Run(
        recipe_id=job.asked.id,
        resolved_id=recipe.id,
        recipe_name=recipe.name,
        data_id=job.data_id,
        seed=job.seed,
        conforming=job.conforming,
        overrides=job.overrides,
        placement=placement.document(),
        steps=ledger.steps,
        samples_seen=ledger.samples_seen,
        samples_asked=recipe.budget.samples_seen,
        unique_samples=ledger.unique_samples,
        usable_samples=sum(shard.samples for shard in shards),
        repeats={_label(one.low, one.high): one.samples for one in ledger.repeats},
        skipped={name: count for name, count in ledger.skipped.items() if count},
        first_loss=_rounded(float(ledger.curve.loss[0]) if ledger.steps else None),
        last_loss=_rounded(ledger.final_loss()),
        chance_loss=chance,
        verdict=ledger.verdict(chance),
        parameters=parameters,
    )
    _json(stage / "run.json", run.model_dump(mode="json"))
    timing = {"attempts": attempts, **dataclasses.asdict(ledger.timing)}
    write_json(stage / "timing.json", timing)
    step.undescribed = OBSERVED_NAMES
    step.details.update(_details(job, run, ledger, attempts, scan))
    if run.verdict == "at chance":
        say(
            "warning",
            f"the loss stayed at chance ({chance:.3f}): the model learned nothing that this loss can see",
        )
    return _counts(scan, ledger), _facts(job, run, ledger, attempts)


def _shard_info(shard: Any) -> ShardInfo:
    def keys() -> list[str]:
        from train.preflight import read_table

        table, _ = read_table(shard.path)
        return [key.decode("utf-8", "backslashreplace") for key in table.keys]

    return ShardInfo(shard.name, int(shard.usable), keys)


def _weights(stage: Path, folder: Path, job: Job) -> int:
    """Move the weights into place; returns the number of parameters."""
    from headwater.weights import read_weights

    parts = job.recipe.budget.checkpoints
    last = folder / engine.WEIGHTS / f"part_{parts}.safetensors"
    if not last.is_file():
        raise IntegrityError(
            f"{last.name}: the training ended without its last weights", hint="--force trains again"
        )
    if job.recipe.ema is not None:
        shutil.copyfile(folder / engine.AVERAGE / f"part_{parts}.safetensors", stage / WEIGHTS)
        shutil.copyfile(last, stage / "raw.safetensors")
    else:
        shutil.copyfile(last, stage / WEIGHTS)
    if job.recipe.keep_checkpoints:
        (stage / "checkpoints").mkdir()
        for part in range(1, parts + 1):
            name = f"part_{part}.safetensors"
            shutil.copyfile(folder / engine.WEIGHTS / name, stage / "checkpoints" / name)
    return sum(int(tensor.numel()) for tensor in read_weights(stage / WEIGHTS).values())


def _json(path: Path, document: Any) -> None:
    path.write_bytes(canonical(document))


def _label(low: int, high: int) -> str:
    return str(low) if low == high else f"{low}-{high}"


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")


def _counts(scan: Any, ledger: Ledger) -> Counts:
    """Samples of the shards: read, usable, and those without a picture or caption; what the loop saw stands beside the sum."""
    invalid = {}
    if scan.samples > scan.usable:
        invalid["no_image_or_caption"] = scan.samples - scan.usable
    extra = {
        "samples_seen": ledger.samples_seen,
        "unique_samples": ledger.unique_samples,
        "steps": ledger.steps,
        "skipped_while_training": sum(ledger.skipped.values()),
    }
    return Counts(unit="samples", read=scan.samples, kept=scan.usable, invalid=invalid, extra=extra)


def _details(job: Job, run: Run, ledger: Ledger, attempts: list[dict[str, Any]], scan: Any) -> dict[str, Any]:
    timing = ledger.timing
    return {
        "recipe": run.recipe_name,
        "conforming": run.conforming,
        "verdict": run.verdict,
        "last_loss": run.last_loss,
        "chance_loss": run.chance_loss,
        "attempts": len(attempts),
        "training_cpu_seconds": round(timing.cpu_seconds, 3),
        "loader_wait_share": timing.wait_share,
        "loader_cpu_share": timing.cpu_share,
        "samples_per_second": timing.samples_per_second,
        "skipped_examples": [
            {"shard": one.shard, "sample": one.sample, "key": one.key, "reason": one.reason}
            for one in ledger.examples[:20]
        ],
        "shards": [shard.name for shard in scan.shards[:1000]],
    }


def _facts(job: Job, run: Run, ledger: Ledger, attempts: list[dict[str, Any]]) -> RunFacts:
    parts = job.recipe.budget.checkpoints
    per_part = ledger.samples_seen // max(parts, 1)
    told = []
    for number, attempt in enumerate(attempts):
        after = attempts[number + 1].get("from_part") if number + 1 < len(attempts) else parts
        reached, first = attempt.get("samples_reached"), attempt.get("from_part", 0)
        lost = max(reached - after * per_part, 0) if reached is not None and after is not None else None
        ended = "finished" if "finished_at" in attempt else "stopped"
        last = after if after is not None and after > first else None
        told.append(
            AttemptFacts(
                first + 1, last, ended, None if ended == "finished" else lost, attempt.get("seconds")
            )
        )
    return RunFacts(
        recipe_name=run.recipe_name,
        recipe_id=run.recipe_id,
        data_name=", ".join(path.name for path in job.data),
        data_id=run.data_id,
        seed=run.seed,
        conforming=run.conforming,
        overrides=run.overrides,
        samples_budget=run.samples_asked,
        world=job.placement.processes,
        attempts=told,
        recipe=job.recipe.model_dump(mode="json"),
        **ledger_facts(ledger, job.recipe.loss.kind),
    )


def write_page(outcome: Outcome, facts: RunFacts) -> None:
    """`report.html` of a finished run, with the energy of its step."""
    from train.run_report import build_run_report

    observed = outcome.step.observation
    packages = {str(k): str(v) for k, v in observed.get("packages", {}).items()}
    environment = {
        **packages,
        "python": str(observed.get("python")),
        "platform": str(observed.get("platform")),
    }
    energy = EnergyFacts.of(outcome.step.energy)
    page = dataclasses.replace(facts, run_id=outcome.step.id, energy=energy, environment=environment)
    with atomic_file(outcome.path / "report.html") as handle:
        handle.write(build_run_report(page))
