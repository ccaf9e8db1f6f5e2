"""Model soups: the mean of the weights of several runs or checkpoints of one recipe, as a Step whose output is a run again.

    uniform   all of them
    greedy    best first by a held-out metric; each next one stays if the mean with it is not worse than without it

After Wortsman et al. 2022, arXiv 2203.05482, section 2 and algorithm 1 ("recipe" 1). Their models start from the same weights;
means of runs that started from different random weights are usually poor, and that is told. The mean is taken in float64 in
the order of the weights' digests, so that the order of the command line changes no byte.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headwater.clip_model import CONFIG, WEIGHTS
from headwater.console import say, track
from headwater.errors import HeadwaterError, IntegrityError, MissingInput, UsageError, nearest
from headwater.files import named_io, write_json
from headwater.hashing import digest_file
from headwater.manifest import Counts, InputRef, identity_id
from headwater.steps import Outcome, Plan, RunOptions, Work, check_output, run_step
from headwater.weights import not_finite, read_weights, same_shapes, write_weights
from train._greedy import Decision, Scores, greedy
from train.recipe import differences
from train.runs import Run, RunFolder, open_run

if TYPE_CHECKING:
    from torch import Tensor

STEP, VERSION = "soup", 1
KINDS = ("uniform", "greedy")
TAKEN = (CONFIG, "recipe.yaml", "run.json")  # of a run beside its weights


@dataclass(frozen=True)
class Ingredient:
    """Weights that may go into a soup, and the run they are of."""

    path: Path
    sha256: str
    folder: RunFolder
    run: Run
    part: int | None = None  # which checkpoint of the run; None for its last weights

    def load(self) -> dict[str, Tensor]:
        """The tensors, which must be the planned bytes and finite."""
        tensors = read_weights(self.path)
        if digest_file(self.path, ("sha256",)).sha256 != self.sha256:
            raise IntegrityError(
                f"{self.path}: changed since it was looked at", hint="run the same line again"
            )
        broken = not_finite(tensors)
        if broken:
            raise HeadwaterError(
                f"{self.path}: {next(iter(broken))!r} holds NaN or infinite values, which a mean would spread",
                hint="leave this one out",
            )
        return tensors


@dataclass(frozen=True)
class Soup:
    """What `plan_soup` found: the step, and its ingredients in the order of their digests."""

    plan: Plan
    kind: str
    ingredients: tuple[Ingredient, ...]
    suite: str | None = None
    metric: str | None = None
    task_digests: tuple[str, ...] = ()


def plan_soup(
    sources: Sequence[Path],
    output: Path,
    *,
    kind: str,
    suite: str | None = None,
    metric: str | None = None,
    task_digests: Sequence[str] = (),
) -> Soup:
    """A soup of `sources`: run folders, or files of weights inside them (RUN/checkpoints/part_N.safetensors).

    A greedy one needs the id of the suite and the name of the metric it is chosen by, a uniform one has neither; `task_digests` are
    those of the suite's tasks, so that another suite with one of them is known to flatter the soup too.
    Raises UsageError (nothing to average, the same weights twice, other recipes: the fields that differ are named), MissingInput,
    or IntegrityError (weights that are not those their run's record names).
    """
    check_output(output, "folder")
    if kind not in KINDS:
        raise UsageError(f"there is no soup {kind!r}: {nearest(kind, KINDS)}")
    if (kind == "greedy") != (suite is not None) or (suite is None) != (metric is None):
        raise UsageError(
            "a greedy soup is chosen by one metric of a held-out suite, a uniform one by none",
            hint="name both the suite and the metric with greedy, neither with uniform",
        )
    if not sources:
        raise UsageError("nothing to average", hint="name runs, or RUN/checkpoints/part_N.safetensors")
    found = sorted((_ingredient(path) for path in sources), key=lambda one: one.sha256)
    _check_alike(found)
    if len(found) == 1:
        say("warning", f"{found[0].path}: the only one, so the soup is a copy of it")
    if len({one.run.seed for one in found}) > 1:
        say(
            "warning",
            "these runs have different seeds, so they started from different random weights; the mean of such runs is usually far "
            "worse than each of them: evaluate it before use",
        )
    config = {
        "kind": kind,
        "metric": metric,
        "ingredients": [{"weights": one.sha256, "run": one.folder.id, "part": one.part} for one in found],
    }
    inputs = [InputRef(role="weights", id=one.sha256) for one in found]
    inputs += [InputRef(role="run", id=id_) for id_ in sorted({one.folder.id for one in found})]
    if suite is not None:
        inputs.append(InputRef(role="suite", id=suite))
    plan = Plan(STEP, VERSION, config, inputs, output, kind="folder", resumable=True)
    return Soup(plan, kind, tuple(found), suite, metric, tuple(sorted(task_digests)))


def run_soup(
    soup: Soup, options: RunOptions, *, score: Callable[[Path], float] | None = None
) -> Outcome | None:
    """Make the soup. `score` gives the held-out metric (more is better) of a folder that open_clip can read; greedy needs it.

    Scores are kept beside the output until it is finished, so a greedy soup that was killed asks for none twice.
    """
    if soup.kind == "greedy" and score is None:
        raise UsageError("a greedy soup needs a held-out suite to choose by")

    def work(job: Work) -> Counts:
        pot = list(soup.ingredients)
        decisions: list[Decision] = []
        if soup.kind == "greedy" and score is not None:
            decisions = _choose(soup, score, job)
            pot = [one for one in soup.ingredients if one.sha256 in {d.weights for d in decisions if d.kept}]
        _write(pot, job.stage)
        shutil.copyfile(pot[0].folder.path / "recipe.yaml", job.stage / "recipe.yaml")
        write_json(job.stage / "run.json", soup_run(soup, pot).model_dump(mode="json"))
        job.details["kind"] = soup.kind
        job.details["ingredients"] = [{"path": str(one.path), "weights": one.sha256} for one in pot]
        job.details["decisions"] = [decision.document() for decision in decisions]
        left = len(soup.ingredients) - len(pot)
        dropped = {f"lowers {soup.metric}": left} if left else {}
        return Counts(unit="weights", read=len(soup.ingredients), kept=len(pot), dropped=dropped)

    return run_step(soup.plan, work, options)


def _choose(soup: Soup, score: Callable[[Path], float], job: Work) -> list[Decision]:
    by_digest = {one.sha256: one for one in soup.ingredients}
    trial = job.parts / "trial"

    def measure(chosen: frozenset[str]) -> float:
        shutil.rmtree(trial, ignore_errors=True)
        trial.mkdir()
        _write([by_digest[digest] for digest in sorted(chosen)], trial)
        value = float(score(trial))
        shutil.rmtree(trial)
        return value

    # each alone, then each but the first together with what was kept
    with track("soup", 2 * len(by_digest) - 1, "evaluations") as bar:
        scores = Scores(job.parts / "scores.json", measure, on_each=bar.add)
        return greedy(sorted(by_digest), scores)


def _write(pot: Sequence[Ingredient], folder: Path) -> None:
    """The mean of `pot` as a folder that open_clip can read."""
    with named_io(folder):
        shutil.copyfile(pot[0].folder.path / CONFIG, folder / CONFIG)
    write_weights(average([(str(one.path), one.load) for one in pot]), folder / WEIGHTS)


def average(states: Sequence[tuple[str, Callable[[], dict[str, Tensor]]]]) -> dict[str, Tensor]:
    """The mean of named sets of tensors, summed in float64 in the order given and rounded once to each tensor's type.

    At most two sets are in memory beside the sum. The mean of equal float32 (or narrower) tensors is that tensor to the bit. The learned
    temperature `logit_scale` is a logarithm and is averaged as such. Whole numbers and truth values cannot be averaged and must be
    equal. Raises UsageError naming the first tensor that differs in name, shape or type.
    """
    import torch

    (first_name, load), *others = states
    first = load()
    total = {key: tensor.to(_wide(tensor), copy=True) for key, tensor in first.items() if _wide(tensor)}
    for name, load in others:
        state = load()
        difference = same_shapes(first, state)
        if difference:
            raise UsageError(f"{first_name} and {name} are of different models: {difference}")
        for key, tensor in state.items():
            if key in total:
                total[key] += tensor
            elif not torch.equal(first[key], tensor):
                raise UsageError(
                    f"{first_name} and {name} differ in {key!r}, which counts and cannot be averaged",
                    hint="models with batch normalisation have no plain mean",
                )
    return {
        key: (total[key] / len(states)).to(tensor.dtype) if key in total else tensor
        for key, tensor in first.items()
    }


def _wide(tensor: Tensor) -> Any:
    """The type to sum a tensor in, None for one that has no mean."""
    import torch

    if tensor.is_complex():
        return torch.complex128
    return torch.float64 if tensor.is_floating_point() else None


def _ingredient(path: Path) -> Ingredient:
    """One source of the command line."""
    if path.is_dir():
        home, weights = path, path / WEIGHTS
    else:
        home, weights = path.parent, path
        if not (home / "run.json").is_file():
            home = home.parent
    if not weights.is_file():
        raise MissingInput(
            f"{weights}: no such file", hint="name a run, or RUN/checkpoints/part_N.safetensors"
        )
    if not (home / "run.json").is_file():
        raise UsageError(
            f"{path}: belongs to no run, so nothing says which recipe it is of",
            hint="a soup is made of runs that headwater train wrote",
        )
    folder = open_run(home)
    if folder.run is None or folder.step is None:
        raise UsageError(f"{home}: is no run of headwater train")
    relative = weights.relative_to(home).as_posix()
    recorded = {entry.path: entry.sha256 for entry in folder.step.identity.outputs}
    digests = {name: digest_file(home / name, ("sha256",)).sha256 for name in (relative, *TAKEN)}
    for name, digest in digests.items():
        if recorded.get(name) != digest:
            raise IntegrityError(
                f"{home / name}: is not the file that the run's record names",
                hint="restore it, or train again",
            )
    number = re.fullmatch(r"checkpoints/part_([0-9]{1,9})\.safetensors", relative)
    return Ingredient(weights, digests[relative], folder, folder.run, int(number[1]) if number else None)


def _check_alike(found: Sequence[Ingredient]) -> None:
    """That all are of one recipe, one configuration, and none is there twice."""
    first = found[0]
    for before, one in zip(found, found[1:], strict=False):
        if before.sha256 == one.sha256:
            raise UsageError(
                f"{before.path} and {one.path} hold the same weights", hint="name each only once"
            )
    for one in found[1:]:
        if (one.run.recipe_id, one.run.resolved_id) != (first.run.recipe_id, first.run.resolved_id):
            recipes = first.folder.recipe, one.folder.recipe
            fields = differences(recipes[0], recipes[1]) if recipes[0] and recipes[1] else []
            what = f"they differ in {', '.join(fields[:8])}" if fields else "one was trained with overrides"
            raise UsageError(
                f"{first.folder.path} and {one.folder.path} are of different recipes: {what}",
                hint="a soup is of one recipe",
            )
        if (one.folder.path / CONFIG).read_bytes() != (first.folder.path / CONFIG).read_bytes():
            raise UsageError(f"{first.folder.path} and {one.folder.path} differ in {CONFIG}")


def soup_run(soup: Soup, pot: Sequence[Ingredient]) -> Run:
    """`run/1` of a soup of `pot`. Steps and samples are what went into these weights: each run once, up to its last part here.

    `unique_samples` is that of the run that saw most, a lower bound when there are several. A soup is never `conforming`: it
    costs more than the recipe's budget.
    """
    reach: dict[str, tuple[Run, int, int]] = {}  # run, parts that went in, parts that it has
    for one in pot:
        parts = one.folder.recipe.budget.checkpoints if one.folder.recipe else 1
        before = reach[one.folder.id][1] if one.folder.id in reach else 0
        reach[one.folder.id] = one.run, max(one.part or parts, before), parts
    runs = [run for run, _, _ in reach.values()]
    first, data = pot[0].run, sorted({run.data_id for run in runs})
    members = [
        {"weights": one.sha256, "run": one.folder.id, "part": one.part, "seed": one.run.seed} for one in pot
    ]
    kept = {one.sha256 for one in pot}
    extras: dict[str, Any] = {
        "made_by": STEP,
        "soup": soup.kind,
        "ingredients": members,
        "left_out": [one.sha256 for one in soup.ingredients if one.sha256 not in kept],
        "data_ids": data,
        "seeds": sorted({run.seed for run in runs}),
    }
    if soup.suite is not None:
        # a figure of this suite is optimistic: the soup was chosen by it
        extras["selected_on"] = {"suite_id": soup.suite, "task_digests": list(soup.task_digests)}
        extras["selected_by"] = soup.metric
    return first.model_copy(
        update={
            "data_id": data[0] if len(data) == 1 else identity_id({"data": data}),
            "seed": min(run.seed for run in runs),
            "conforming": False,
            "placement": {},
            "steps": sum(run.steps * part // parts for run, part, parts in reach.values()),
            "samples_seen": sum(run.samples_seen * part // parts for run, part, parts in reach.values()),
            "samples_asked": sum(run.samples_asked for run in runs),
            "unique_samples": max(run.unique_samples for run in runs),
            "usable_samples": max(run.usable_samples for run in runs),
            "repeats": {},
            "skipped": {},
            "first_loss": None,
            "last_loss": None,
            "verdict": f"soup of {len(pot)}",
            "extras": extras,
        }
    )
