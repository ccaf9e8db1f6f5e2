"""`headwater eval | compare | leaderboard | soup`: parse, call, render."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from headwater.errors import UsageError
from headwater.options import Settings, common, emit


@click.command("eval")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--suite", required=True, metavar="FOLDER|FILE|NAME", help="The suite: a folder with suite.yaml."
)
@click.option("--root", type=click.Path(file_okay=False, path_type=Path), help="Where the suite's sets lie.")
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="The results folder to write."
)
@click.option("--task", "tasks", multiple=True, metavar="KEY", help="Only this task; repeatable.")
@click.option(
    "--weights", type=click.Path(dir_okay=False, path_type=Path), help="Other weights than the run's own."
)
@click.option(
    "--device", default="auto", show_default=True, metavar="auto|cpu|cuda", help="Where to evaluate."
)
@click.option("--region", metavar="ISO3", help="Grid for CO2e, as DEU or WORLD.  [default: HEADWATER_REGION]")
@click.option("--pue", type=float, help="Power usage effectiveness of the room, for CO2e.")
@click.option("--strict", is_flag=True, help="A set that is not there is an error.")
@click.option("--allow-invalid", is_flag=True, help="End with 0 although some pictures were left out.")
@click.option(
    "--cache", type=click.Path(file_okay=False, path_type=Path), help="Where digests of the sets are kept."
)
@click.option("--distrust-cache", is_flag=True, help="Read every set again to know its digest.")
@common
def evaluate(
    settings: Settings,
    *,
    run: Path,
    suite: str,
    root: Path | None,
    output: Path,
    tasks: tuple[str, ...],
    weights: Path | None,
    device: str,
    region: str | None,
    pue: float | None,
    strict: bool,
    allow_invalid: bool,
    cache: Path | None,
    distrust_cache: bool,
) -> dict[str, Any] | None:
    """Measure a run, or a folder that open_clip reads, on every task of a suite.

    \b
    headwater eval run --suite examples/suites/small -o results
    headwater eval run --suite datacomp38 --root /data/datacomp-eval -o results
    """
    from headwater.steps import describe_plan
    from train._spent import of_training
    from train.commands import choose_device
    from train.evaluation import check_outcome, plan_eval, run_eval, subject_of
    from train.results import read_results, summary_lines
    from train.runs import need_training_packages, open_run
    from train.suite import load_suite

    need_training_packages()
    subject = subject_of(run, weights=weights, device=choose_device(device))
    seed = 0 if settings.seed is None else settings.seed
    evaluation = plan_eval(
        subject,
        load_suite(suite, root=root),
        output,
        tasks=tasks or None,
        seed=seed,
        strict=strict,
        cache=cache,
        distrust_cache=distrust_cache,
    )
    if settings.dry_run:
        facts = describe_plan(evaluation.plan)
        there = [task for task in evaluation.suite.tasks if task.key not in evaluation.missing]
        facts["tasks"], facts["missing"] = [task.key for task in there], list(evaluation.missing)
        facts["text"] = f"would evaluate {len(there)} tasks; {len(evaluation.missing)} sets are missing"
        return facts
    outcome = run_eval(evaluation, settings.run_options(), workers=settings.workers or 1)
    assert outcome is not None
    results = read_results(outcome.path)
    energy = outcome.step.energy
    trained = open_run(run)
    samples = trained.run.samples_seen if trained.run else None
    cost, cost_lines = of_training(trained.step, results, samples, region=region, pue=pue)
    already = " (already there)" if outcome.cached else ""
    lines = [f"{outcome.path}: {run.name} on {results.suite}{already}"]
    lines += [f"  {line}" for line in summary_lines(results)]
    if cost_lines:
        lines += ["  what the training cost, and each point of the main mean above chance:"]
        lines += [f"    {line}" for line in cost_lines]
    lines.append(
        f"  {energy.duration_seconds:.1f} s, {energy.cpu_seconds:.1f} CPU s; step {outcome.step.id[:12]}"
    )
    document = {
        "output": str(outcome.path),
        "step_id": outcome.step.id,
        "up_to_date": outcome.cached,
        "results": results.model_dump(mode="json"),
        "energy": energy.model_dump(mode="json"),
        "training_costs": cost,
        "text": "\n".join(lines),
    }
    emit(document, as_json=settings.as_json)
    check_outcome(outcome, allow_invalid=allow_invalid)
    return None


@click.command("compare")
@click.argument("results", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Also write a page (.html)."
)
@click.option(
    "--label", "labels", multiple=True, metavar="DATA=NAME", help="Name an arm by its data id or a folder."
)
@click.option("--each-run", is_flag=True, help="Every run is an arm of its own.")
@click.option("--allow-nonconforming", is_flag=True, help="Compare runs that changed their recipe.")
@click.option("--resamples", type=int, help="Of the bootstrap.")
@click.option("--region", metavar="ISO3", help="Grid for CO2e, as DEU or WORLD.  [default: HEADWATER_REGION]")
@click.option("--pue", type=float, help="Power usage effectiveness of the room, for CO2e.")
@common
def compare(
    settings: Settings,
    *,
    results: tuple[Path, ...],
    output: Path | None,
    labels: tuple[str, ...],
    each_run: bool,
    allow_nonconforming: bool,
    resamples: int | None,
    region: str | None,
    pue: float | None,
) -> dict[str, Any]:
    """Compare evaluations of trainings that differ only in their data; the first is the baseline.

    Runs on the same data are seeds of one arm. Paired bootstrap and McNemar over the same test examples; the error of the seeds is
    told apart from that of the test sets. Anything else that differs is refused by name.

    \b
    headwater compare all-s0 all-s1 all-s2 filtered-s0 filtered-s1 filtered-s2 -o compare.html
    """
    from headwater.carbon import check_pue, factor
    from train.comparison import compare as compare_results
    from train.statistics import RESAMPLES

    named = {}
    for label in labels:
        key, sign, name = label.partition("=")
        if not sign or not key or not name:
            raise UsageError(f"--label {label}: like --label shards=filtered")
        named[key] = name
    if resamples is not None and not 100 <= resamples <= 1_000_000:
        raise UsageError(f"--resamples {resamples}: from 100 to 1,000,000")
    found = compare_results(
        [_results_folder(path) for path in results],
        allow_nonconforming=allow_nonconforming,
        each_run=each_run,
        labels=named,
        seed=settings.seed or 0,
        resamples=resamples or RESAMPLES,
        factor=factor(region),
        pue=check_pue(pue) if pue is not None else None,
    )
    from train._comparison_page import page_of
    from train._comparison_text import text_of

    _write_page(output, settings, lambda: page_of(found))
    return {**found.model_dump(mode="json"), "page": str(output) if output else None, "text": text_of(found)}


@click.command("leaderboard")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Also write a page (.html)."
)
@common
def leaderboard(settings: Settings, *, folder: Path, output: Path | None) -> dict[str, Any]:
    """Rank the datasets of all evaluations below FOLDER: one table for each recipe, suite and list of tasks.

    \b
    headwater leaderboard experiments -o leaderboard.html
    """
    from train._leaderboard_page import page_of, text_of
    from train.leaderboard import leaderboard as build

    found = build(folder)
    _write_page(output, settings, lambda: page_of(found))
    return {**found.model_dump(mode="json"), "page": str(output) if output else None, "text": text_of(found)}


@click.command("soup")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="The run folder to write."
)
@click.option(
    "--kind", default="uniform", show_default=True, metavar="uniform|greedy", help="Which weights go in."
)
@click.option("--suite", metavar="FOLDER|FILE|NAME", help="Held-out suite that a greedy soup is chosen by.")
@click.option(
    "--task", "tasks", multiple=True, metavar="KEY", help="Only this task of the suite; repeatable."
)
@click.option(
    "--device", default="auto", show_default=True, metavar="auto|cpu|cuda", help="Where to evaluate."
)
@common
def soup(
    settings: Settings,
    *,
    runs: tuple[Path, ...],
    output: Path,
    kind: str,
    suite: str | None,
    tasks: tuple[str, ...],
    device: str,
) -> dict[str, Any]:
    """Average the weights of runs, or of checkpoints (RUN/checkpoints/part_N.safetensors), of one recipe.

    \b
    headwater soup run/checkpoints/part_3.safetensors run/checkpoints/part_4.safetensors run -o soup
    headwater soup run-a run-b run-c --kind greedy --suite held-out -o soup
    """
    from headwater.steps import describe_plan
    from train.commands import choose_device
    from train.evaluation import examine, held_out_score
    from train.runs import need_training_packages
    from train.soup import plan_soup, run_soup
    from train.suite import load_suite

    need_training_packages()
    if (kind == "greedy") != (suite is not None):
        raise UsageError(
            "--suite is what a greedy soup is chosen by: give both or neither",
            hint="headwater soup RUN… --kind greedy --suite SUITE -o SOUP",
        )
    score, chosen = None, None
    digests: tuple[str, ...] = ()
    if suite is not None:
        held_out, found, _ = examine(load_suite(suite), tasks=tasks or None, strict=True)
        chosen, digests = found.suite_id, tuple(d for d in found.tasks.values() if d)
        score = held_out_score(held_out, found, device=choose_device(device), workers=settings.workers or 1)
    metric = "mean of main metrics" if score else None
    plan = plan_soup(runs, output, kind=kind, suite=chosen, metric=metric, task_digests=digests)
    if settings.dry_run:
        return {
            **describe_plan(plan.plan),
            "text": f"would make a {kind} soup of {len(runs)} sets of weights",
        }
    outcome = run_soup(plan, settings.run_options(), score=score)
    assert outcome is not None
    there = " (already there)" if outcome.cached else ""
    counts = outcome.step.identity.counts
    return {
        "output": str(outcome.path),
        "step_id": outcome.step.id,
        "up_to_date": outcome.cached,
        "details": outcome.step.details,
        "text": f"{outcome.path}: {kind} soup of {counts.kept} of {counts.read} sets of weights{there}",
    }


def _results_folder(path: Path) -> Path:
    """The results folder that was meant; a run folder is a likely slip."""
    if (path / "run.json").is_file() and not (path / "results.json").is_file():
        raise UsageError(
            f"{path}: is a run, and runs are compared by their results",
            hint=f"headwater eval {path} --suite SUITE -o RESULTS",
        )
    return path


def _write_page(output: Path | None, settings: Settings, build: Any) -> None:
    if output is None or settings.dry_run:
        return
    from headwater.files import atomic_file

    if output.exists() and not settings.force and b"headwater" not in output.read_bytes()[:300]:
        raise UsageError(f"{output}: exists and is no page of ours", hint="--force replaces it")
    page = build()
    with atomic_file(output) as handle:
        handle.write(page if isinstance(page, bytes) else page.encode())
