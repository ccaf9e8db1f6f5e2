"""`headwater train`: parse, call, render."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from headwater.errors import UsageError
from headwater.options import Settings, common

MAX_SEED = 2**31 - 1


@click.command("train")
@click.option(
    "--recipe", required=True, metavar="NAME|FILE", help="A recipe: headwater plugins recipes lists them."
)
@click.option(
    "--data",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path),
    help="Folder of webdataset tars, or one tar; repeatable.",
)
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="The run folder to write."
)
@click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda", help="Where to train.")
@click.option(
    "--processes", type=int, default=1, show_default=True, help="Training processes (torchrun), one a GPU."
)
@click.option(
    "--micro-batch", type=int, help="Samples a process takes at once.  [default: what fits the global batch]"
)
@click.option("--accumulation", type=int, default=1, show_default=True, help="Micro batches to one step.")
@click.option(
    "--threads", type=int, help="Threads of the arithmetic, each process.  [default: cores / processes]"
)
@click.option(
    "--override", multiple=True, metavar="FIELD=VALUE", help="Change a field of the recipe; recorded."
)
@click.option("--region", metavar="ISO3", help="Grid for CO2e, as DEU or WORLD.  [default: HEADWATER_REGION]")
@click.option("--pue", type=float, help="Power usage effectiveness of the room, for CO2e.")
@click.option("--allow-invalid", is_flag=True, help="Train without the samples that are bad.")
@click.option(
    "--cache", type=click.Path(file_okay=False, path_type=Path), help="Where digests of shards are kept."
)
@click.option("--distrust-cache", is_flag=True, help="Read every shard again to know its id.")
@common
def train(
    settings: Settings,
    *,
    recipe: str,
    data: tuple[Path, ...],
    output: Path,
    device: str,
    processes: int,
    micro_batch: int | None,
    accumulation: int,
    threads: int | None,
    override: tuple[str, ...],
    region: str | None,
    pue: float | None,
    allow_invalid: bool,
    cache: Path | None,
    distrust_cache: bool,
) -> dict[str, Any] | None:
    """Train the model of a recipe on shards: only data and seed vary.

    \b
    headwater train --recipe clip-nano --data shards --seed 0 -o run
    headwater train --recipe clip-small --data shards --seed 0 -o run --processes 4
    """
    from headwater.steps import check_output
    from train import training
    from train._spent import check_stated
    from train.arguments import place
    from train.recipe import load_recipe
    from train.recipe import override as override_recipe

    check_stated(region, pue)
    seed = check_seed(settings)
    asked = load_recipe(recipe)
    resolved, changes, conforming = override_recipe(asked, override)
    where = choose_device(device)
    cores = len(os.sched_getaffinity(0))
    placement = place(
        resolved,
        device=where,
        processes=processes,
        micro_batch=micro_batch,
        accumulation=accumulation,
        threads=threads if threads is not None else max(cores // max(processes, 1), 1),
    )
    check_output(output, "folder")
    job = training.Job(
        asked=asked,
        recipe=resolved,
        overrides=changes,
        conforming=conforming,
        data=data,
        data_id=training.data_id(data, cache, distrust_cache=distrust_cache),
        seed=seed,
        placement=placement,
        loader_processes=training.loaders(settings.workers, resolved, placement),
        allow_invalid=allow_invalid,
    )
    plan = training.plan_training(job, output)
    if settings.dry_run:
        return training.dry_run(plan, job)
    outcome = training.run_training(plan, job, settings.run_options())
    assert outcome is not None
    return training.result(outcome, region=region, pue=pue)


def check_seed(settings: Settings) -> int:
    """The seed that was asked for, 0 without one. Raises UsageError for one that not every generator takes."""
    seed = 0 if settings.seed is None else settings.seed
    if not 0 <= seed <= MAX_SEED:
        raise UsageError(f"--seed {seed}: must be from 0 to {MAX_SEED:,}")
    return seed


def choose_device(name: str) -> str:
    """`auto` looks for a GPU without loading torch, which takes seconds."""
    if name == "auto":
        return "cuda" if os.path.exists("/dev/nvidiactl") else "cpu"
    if name not in ("cpu", "cuda"):
        raise UsageError(f"--device {name}: auto, cpu or cuda")
    if name == "cuda" and not os.path.exists("/dev/nvidiactl"):
        raise UsageError("--device cuda: this machine has no NVIDIA driver", hint="--device cpu")
    return name
