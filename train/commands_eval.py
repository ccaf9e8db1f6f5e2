"""`headwater eval | compare | leaderboard | soup`: parse, call, render."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headwater.console import printable
from headwater.errors import BadInputs, IntegrityError, UsageError, nearest
from headwater.options import Settings, common, emit

if TYPE_CHECKING:
    from train.runs import RunFolder


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
    from headwater.clip_model import need_training_packages
    from headwater.steps import check_output, describe_plan
    from train._spent import check_stated, joules_of, of_training
    from train.commands import check_seed, choose_device
    from train.evaluation import check_outcome, plan_eval, run_eval, subject_of
    from train.results import read_results, summary_lines
    from train.runs import open_run
    from train.suite import load_suite

    check_stated(region, pue)
    seed, workers = check_seed(settings), _threads(settings)
    check_output(output, "folder")
    need_training_packages()
    trained = open_run(run)
    _check_model(trained, weights)
    if trained.step is not None and run.resolve() in output.resolve().parents:
        raise UsageError(
            f"{output}: lies inside the run, whose record names every file there",
            hint="choose an -o beside the run",
        )
    subject = subject_of(run, weights=weights, device=choose_device(device))
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
        what = "is there already:" if facts["up_to_date"] else "would evaluate"
        tasks_there = "1 task" if len(there) == 1 else f"{len(there)} tasks"
        facts["text"] = f"{output}: {what} {tasks_there}; sets that are missing: {len(evaluation.missing)}"
        return facts
    outcome = run_eval(evaluation, settings.run_options(), workers=workers)
    assert outcome is not None
    results = read_results(outcome.path)
    energy = outcome.step.energy
    samples = trained.run.samples_seen if trained.run else None
    step = None if weights is not None else trained.step  # a checkpoint cost less than its whole training
    cost, cost_lines = of_training(step, results, samples, region=region, pue=pue)
    already = " (already there)" if outcome.cached else ""
    model = f"{run.name} with {weights.name}" if weights is not None else run.absolute().name
    lines = [f"{outcome.path}: {model} on {results.suite}{already}"]
    lines += [f"  {line}" for line in summary_lines(results)]
    if cost_lines:
        lines += ["  what the training cost, and each point of the main mean above chance:"]
        lines += [f"    {line}" for line in cost_lines]
    lines.append(f"  this evaluation: {joules_of(energy)}; step {outcome.step.id[:12]}")
    document: dict[str, Any] = {
        "output": str(outcome.path),
        "step_id": outcome.step.id,
        "up_to_date": outcome.cached,
        "results": results.model_dump(mode="json"),
        "energy": energy.model_dump(mode="json"),
        "training_costs": cost,
        "text": printable("\n".join(lines)),  # names in it are the suite's
    }
    problem: BadInputs | None = None
    try:
        check_outcome(outcome, allow_invalid=allow_invalid)
    except BadInputs as error:
        problem = error
        document["problem"] = {"kind": "BadInputs", "message": error.message, "exit_code": error.exit_code}
    emit(document, as_json=settings.as_json)
    if problem is not None:
        problem.told = True  # standard output has it already
        raise problem
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
    told apart from that of the test sets. Anything else that differs is refused by name. A run stands for its only results.

    \b
    headwater compare all-s0 all-s1 all-s2 filtered-s0 filtered-s1 filtered-s2 -o compare.html
    """
    from headwater.carbon import factor
    from train._spent import check_stated
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
    check_stated(region, pue)
    _check_page(output, settings)
    grid = factor(region)
    found = compare_results(
        results,
        allow_nonconforming=allow_nonconforming,
        each_run=each_run,
        labels=named,
        seed=settings.seed or 0,
        resamples=resamples or RESAMPLES,
        factor=grid,
        pue=pue,
    )
    from train._comparison_page import page_of
    from train._comparison_text import text_of
    from train.costs import carbon_note

    page, text = _write_page(output, settings, lambda: page_of(found)), text_of(found)
    carbon = {"factor": grid.model_dump() if grid else None, "pue": pue}
    if any(row.joules is not None for arm in found.arms for run in arm.runs for row in run.costs):
        text = f"{text.rstrip()}\nnote: {carbon_note(grid, pue)}\n"
    return {**found.model_dump(mode="json"), "carbon": carbon, "page": page, "text": text}


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

    _check_page(output, settings)
    found = build(folder)
    page = _write_page(output, settings, lambda: page_of(found))
    return {**found.model_dump(mode="json"), "page": page, "text": text_of(found)}


@click.command("soup")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="The run folder to write."
)
@click.option(
    "--kind", default="uniform", show_default=True, metavar="uniform|greedy", help="Which weights go in."
)
@click.option("--suite", metavar="FOLDER|FILE|NAME", help="Held-out suite that a greedy soup is chosen by.")
@click.option("--root", type=click.Path(file_okay=False, path_type=Path), help="Where the suite's sets lie.")
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
    root: Path | None,
    tasks: tuple[str, ...],
    device: str,
) -> dict[str, Any]:
    """Average the weights of runs, or of checkpoints (RUN/checkpoints/part_N.safetensors), of one recipe.

    \b
    headwater soup run/checkpoints/part_3.safetensors run/checkpoints/part_4.safetensors run -o soup
    headwater soup run-a run-b run-c --kind greedy --suite held-out -o soup
    """
    from headwater.clip_model import need_training_packages
    from headwater.steps import check_output, describe_plan
    from train.commands import choose_device
    from train.evaluation import examine, held_out_score
    from train.soup import KINDS, plan_soup, run_soup
    from train.suite import load_suite

    if kind not in KINDS:
        raise UsageError(f"--kind {kind}: {nearest(kind, KINDS)}")
    workers, where = _threads(settings), choose_device(device)
    if suite is None and (tasks or root is not None):
        raise UsageError("--task and --root are about the suite, and there is no --suite")
    if (kind == "greedy") != (suite is not None):
        raise UsageError(
            "--suite is what a greedy soup is chosen by: give both or neither",
            hint="headwater soup RUN… --kind greedy --suite SUITE -o SOUP",
        )
    check_output(output, "folder")
    need_training_packages()
    score, chosen = None, None
    digests: tuple[str, ...] = ()
    if suite is not None:
        held_out, found, _ = examine(load_suite(suite, root=root), tasks=tasks or None, strict=True)
        chosen, digests = found.suite_id, tuple(d for d in found.tasks.values() if d)
        score = held_out_score(held_out, found, device=where, workers=workers)
    metric = "mean of main metrics" if score else None
    plan = plan_soup(runs, output, kind=kind, suite=chosen, metric=metric, task_digests=digests)
    if settings.dry_run:
        facts, many = describe_plan(plan.plan), f"{len(runs)} sets of weights"
        return {
            **facts,
            "text": f"{output}: {'is there already:' if facts['up_to_date'] else 'would make'} a {kind} soup of {many}",
        }
    outcome = run_soup(plan, settings.run_options(), score=score)
    assert outcome is not None
    there = " (already there)" if outcome.cached else ""
    counts, details = outcome.step.identity.counts, outcome.step.details
    lines = [f"{outcome.path}: {kind} soup of {counts.kept} of {counts.read} sets of weights{there}"]
    named = {one.sha256: str(one.path) for one in plan.ingredients}
    for one in details.get("decisions", []):
        told = f"{named.get(one['weights'], one['weights'][:12])}: {one['alone']:.2%} alone"
        if one["before"] is not None:
            told += f", {one['after']:.2%} with those before it, which have {one['before']:.2%}"
        lines.append(f"  {'kept' if one['kept'] else 'left out'}  {told}")
    return {
        "output": str(outcome.path),
        "step_id": outcome.step.id,
        "up_to_date": outcome.cached,
        "counts": counts.model_dump(mode="json"),
        "weights": named,
        "details": details,
        "energy": outcome.step.energy.model_dump(mode="json"),
        "text": "\n".join(lines),
    }


def _check_model(found: RunFolder, weights: Path | None) -> None:
    """That the model is the one its run's record names, and that weights from elsewhere are plain, before time is spent."""
    from headwater.clip_model import CONFIG, WEIGHTS, find_weights
    from headwater.hashing import digest_file
    from headwater.weights import read_weights

    if found.step is not None:
        recorded = {entry.path: entry.sha256 for entry in found.step.identity.outputs}
        for name in (CONFIG, WEIGHTS, "recipe.yaml", "run.json"):
            path = found.path / name
            if not path.is_file() or digest_file(path, ("sha256",)).sha256 != recorded.get(name):
                raise IntegrityError(
                    f"{path}: is not the file that the run's record names",
                    hint="restore it, or train again; --weights FILE measures other weights",
                )
    elsewhere = weights if weights is not None else None if found.step else find_weights(found.path)
    if elsewhere is not None:
        read_weights(elsewhere)  # names what a pickle would call; the suite may take minutes to look through


def _threads(settings: Settings) -> int:
    """Batches encoded side by side; the figures do not depend on it. More than 8 only fill memory."""
    asked = settings.executor().workers
    return int(asked if settings.workers else min(asked, 8))


def _check_page(output: Path | None, settings: Settings) -> None:
    """That a page can be written there, before the work that it is about."""
    if output is None:
        return
    from headwater.steps import check_output

    check_output(output, "file")
    if output.exists() and not settings.force:
        with open(output, "rb") as page:
            if b"headwater" not in page.read(300):
                raise UsageError(f"{output}: exists and is no page of ours", hint="--force replaces it")


def _write_page(output: Path | None, settings: Settings, build: Callable[[], str | bytes]) -> str | None:
    """Where the page is now; None where none was asked for, or on a dry run."""
    if output is None or settings.dry_run:
        return None
    from headwater.files import atomic_file

    page = build()
    with atomic_file(output) as handle:
        handle.write(page if isinstance(page, bytes) else page.encode())
    return str(output)
