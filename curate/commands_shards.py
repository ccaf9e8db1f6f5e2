"""`headwater reshard`: parse, call, render."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from curate.commands import ANY, FILE, FOLDER, emit_then_check, step_result
from headwater.options import Settings, common


@click.command("reshard")
@click.argument("shards", type=ANY)
@click.option(
    "-s",
    "--subset",
    type=FILE,
    required=True,
    help="Subset file (.npy); a uid that occurs k times is written k times.",
)
@click.option("-o", "--output", type=ANY, required=True, help="The folder to write.")
@click.option("--shard-size", type=int, default=10_000, show_default=True, help="Samples per output tar.")
@click.option(
    "--max-bytes", type=int, default=3_000_000_000, show_default=True, help="A tar is also cut here."
)
@click.option("--first-shard", type=int, default=0, show_default=True, help="First input shard by number.")
@click.option("-n", "--num-shards", type=int, help="How many input shards (default: all).")
@click.option(
    "--shard-format", default="{:08d}.tar", show_default=True, help="Names of input and output tars."
)
@click.option(
    "--shard-stats-format", default="{:08d}_stats.json", show_default=True, help="Names of statistics files."
)
@click.option("--no-index", is_flag=True, help="Walk every tar, and keep no shard index beside them.")
@click.option(
    "--allow-invalid", is_flag=True, help="End with 0 although samples or parts of shards were left out."
)
@click.option(
    "--cache", type=FOLDER, help="Where digests and the shard index are kept (default: SHARDS/.headwater)."
)
@click.option(
    "--distrust-cache", is_flag=True, help="Read every input again instead of trusting size and time."
)
@common
def reshard(
    settings: Settings,
    *,
    shards: Path,
    subset: Path,
    output: Path,
    shard_size: int,
    max_bytes: int,
    first_shard: int,
    num_shards: int | None,
    shard_format: str,
    shard_stats_format: str,
    no_index: bool,
    allow_invalid: bool,
    cache: Path | None,
    distrust_cache: bool,
) -> dict[str, Any] | None:
    """Write new webdataset tars that hold exactly the samples of SHARDS whose uid is in the subset.

    \b
    headwater reshard POOL_TARS -s subset.npy -o SHARDS
    """
    from curate import resharding
    from curate._memory import tune_process

    tune_process()
    layout = resharding.Layout(
        shard_size, max_bytes, first_shard, num_shards, shard_format, shard_stats_format
    )
    found = resharding.open_shards(shards, layout)
    cache = cache or resharding.default_cache(shards)
    plan = resharding.plan_reshard(
        shards, found, subset, output, layout, cache, distrust_cache=distrust_cache
    )
    outcome = resharding.run_reshard(
        plan,
        found,
        subset,
        layout,
        executor=settings.executor(),
        options=settings.run_options(),
        index_dir=None if no_index else cache / "shards",
        observation={"shards": str(shards.resolve()), "subset": str(subset.resolve())},
    )
    if outcome is None:
        size = sum(shard.size_bytes for shard in found)
        return step_result(None, plan, {"input_shards": len(found), "input_bytes": size})
    result = step_result(outcome, plan)
    counts = outcome.step.identity.counts
    extra = counts.extra
    there = " (already there)" if outcome.cached else ""
    wrote = f"{extra['copies_written']:,} samples in {extra['shards_written']:,} shards{there}"
    lines = [f"{outcome.path}: {wrote}; {counts.kept:,} of {counts.read:,} input samples are in the subset"]
    if extra["uids_not_found"]:
        examples = ", ".join(outcome.step.details["not_found"]["examples"][:3])
        lines.append(f"  {extra['uids_not_found']:,} uids of the subset are in no shard, such as {examples}")
    energy = outcome.step.energy
    lines.append(
        f"  {energy.duration_seconds:.2f} s, {energy.cpu_seconds:.2f} CPU s; step {outcome.step.id[:12]}"
    )
    result["text"] = "\n".join(lines)
    emit_then_check(settings, result, outcome, allow_invalid, resharding.check_outcome)
    return None
