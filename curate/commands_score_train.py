"""`headwater score train`: parse, call, render."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from curate.commands import ANY, FILE, FOLDER, open_pool, step_result, with_pool_options
from headwater.options import Settings, common, emit


@click.command("train")
@click.argument("pool", type=ANY)
@click.option(
    "--shards", type=FOLDER, required=True, help="Folder of webdataset tars with the pool's pictures."
)
@click.option(
    "--trusted", type=FILE, required=True, help="Subset file (.npy) of rows whose captions you trust."
)
@click.option("-o", "--output", type=ANY, required=True, help="The folder to write.")
@click.option(
    "--held-out", type=int, default=500, show_default=True, help="Pairs kept apart, to measure the scorer on."
)
@click.option(
    "--towers",
    default="lite0+minilm",
    show_default=True,
    metavar="TOWERS",
    help="lite0+minilm, or local-dir:DIR: an open_clip folder, such as a run of headwater train.",
)
@click.option(
    "--folds",
    type=int,
    default=5,
    show_default=True,
    help="As many projections are fitted, each without one fold of the pairs, which it then scores. 1: a single one, which "
    "scores what it was trained on far too high.",
)
@click.option("--epochs", type=int, default=20, show_default=True, help="How often each pair is seen.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", help="Where the towers run.")
@click.option("--allow-invalid", is_flag=True, help="End with 0 although some trusted uids are no pair.")
@with_pool_options
@common
def train(
    settings: Settings,
    *,
    pool: Path,
    shards: Path,
    trusted: Path,
    output: Path,
    held_out: int,
    towers: str,
    folds: int,
    epochs: int,
    device: str,
    allow_invalid: bool,
    cache: Path | None,
    distrust_cache: bool,
) -> dict[str, Any] | None:
    """Fit a scorer of image-text pairs on rows of POOL that you trust, and measure it on pairs that are held out first.

    \b
    headwater filter-pool POOL -o trusted.npy --rule strict.yaml
    headwater score train POOL --shards SHARDS --trusted trusted.npy -o SCORER
    headwater score two_tower POOL --shards SHARDS --scorer SCORER
    """
    from curate.scorer_training import Job, plan_training, train_scorer
    from headwater.errors import BadInputs

    opened = open_pool(pool, cache, distrust_cache)
    job = Job(shards, trusted, output, towers, held_out, epochs, settings.seed or 0, device, folds)
    plan, facts = plan_training(opened, job, distrust_cache=distrust_cache)
    outcome = train_scorer(opened, job, plan, facts, options=settings.run_options())
    result = step_result(outcome, plan)
    invalid: dict[str, int] = {}
    if outcome is not None:
        invalid = outcome.step.identity.counts.invalid
        result["text"] = _text(outcome)
    emit(result, as_json=settings.as_json)
    if invalid and not allow_invalid:
        error = BadInputs(
            f"{sum(invalid.values()):,} trusted uids are no pair: "
            + ", ".join(f"{count:,} {why}" for why, count in invalid.items()),
            hint="the scorer is written, without them; --allow-invalid ends with 0",
        )
        error.told = True
        raise error
    return None


def _text(outcome: Any) -> str:
    counts, details = outcome.step.identity.counts, outcome.step.details
    lines = [f"{outcome.path}: trained on {counts.kept:,} of {counts.read:,} trusted pairs"]
    lines[0] += " (already there)" if outcome.cached else ""
    lines += [f"  {count:,} {why}" for why, count in {**counts.dropped, **counts.invalid}.items()]
    names = {"image_to_text_r": "picture to caption, R@", "text_to_image_r": "caption to picture, R@"}
    for name, facts in details.items():
        if isinstance(facts, dict) and name not in ("auc", "scores"):
            for start, label in names.items():
                if name.startswith(start):
                    shown = [f"{facts[key] * 100:.1f}" for key in ("value", "low", "high", "chance")]
                    label += name.removeprefix(start)
                    lines.append(
                        f"  {label:<25} {shown[0]:>5} %  [{shown[1]}, {shown[2]}]  chance {shown[3]}"
                    )
    auc = details["auc"]
    lines.append(
        f"  {'AUC, true against wrong':<25} {auc['value']:>5.3f}    [{auc['low']:.3f}, {auc['high']:.3f}]  chance 0.5"
    )
    scores = details["scores"]
    out_of_fold = scores["mean_score_out_of_fold"]
    if out_of_fold is not None:
        lines.append(
            f"  {'mean score, trained pairs':<25} {out_of_fold:>5.3f}    by projections that did not see them"
        )
    lines.append(f"  {'mean score, held out':<25} {scores['mean_score_held_out']:>5.3f}")
    return "\n".join(lines)
