"""Soups as a step: the run that comes out, how it goes on after a kill, and what is refused."""

from __future__ import annotations

import itertools
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headwater import console
from headwater.clip_model import CONFIG, WEIGHTS, load_model
from headwater.errors import HeadwaterError, IntegrityError, MissingInput, UsageError
from headwater.files import write_json
from headwater.manifest import Counts, diff_entries
from headwater.steps import Plan, RunOptions, Work, read_record, run_step
from headwater.weights import read_weights, same_shapes, state_digest, write_weights
from tests.train.kit import tiny_recipe, tiny_run
from train.recipe import parse_recipe, recipe_text
from train.runs import Run, config_document, open_run
from train.soup import plan_soup, run_soup

torch = pytest.importorskip("torch")

SUITE = "5" * 64
OPTIONS = RunOptions(command=("headwater", "soup"))


def state(value: float, *, seed: int = 0) -> dict[str, Any]:
    """A few tensors whose values depend on `seed` and whose bias is `value`."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "visual.weight": torch.randn(4, 3, generator=generator),
        "visual.bias": torch.full((3,), value),
        "logit_scale": torch.tensor(value),
        "text.mask": torch.arange(4),
    }


def made_run(
    folder: Path,
    tensors: dict[str, Any],
    *,
    seed: int = 0,
    data: str = "d" * 64,
    parts: Sequence[dict[str, Any]] = (),
    config: Path | None = None,
    **changes: Any,
) -> Path:
    """A run as training leaves it, with the weights given."""
    recipe = parse_recipe(tiny_recipe(**changes), "kit")

    def work(job: Work) -> Counts:
        document = config_document(recipe)
        (job.stage / CONFIG).write_text(config.read_text() if config else json.dumps(document))
        (job.stage / "recipe.yaml").write_text(recipe_text(recipe))
        write_weights(tensors, job.stage / WEIGHTS)
        (job.stage / "checkpoints").mkdir()
        for number, part in enumerate(parts, 1):
            write_weights(part, job.stage / "checkpoints" / f"part_{number}.safetensors")
        run = Run(
            recipe_id=recipe.id,
            resolved_id=recipe.id,
            recipe_name=recipe.name,
            data_id=data,
            seed=seed,
            conforming=True,
            placement={"device": "cpu"},
            steps=12,
            samples_seen=192,
            samples_asked=192,
            unique_samples=60 + seed,
            usable_samples=64,
            repeats={"3": 60},
            first_loss=2.7,
            last_loss=2.0,
            chance_loss=2.772,
            verdict="learned",
            parameters=10,
        )
        write_json(job.stage / "run.json", run.model_dump(mode="json"))
        return Counts(read=0, kept=0)

    run_step(Plan("train", 1, {"data": data}, [], folder, "folder", seed), work, RunOptions())
    return folder


def three(tmp_path: Path) -> list[Path]:
    """Runs of one recipe with biases 1, 2 and 4."""
    values = (1.0, 2.0, 4.0)
    return [made_run(tmp_path / f"run{n}", state(value, seed=n), seed=0) for n, value in enumerate(values)]


def by_bias(best: float) -> tuple[Callable[[Path], float], list[float]]:
    """A score that is the better the nearer the bias is to `best`, and the biases it was asked for."""
    asked: list[float] = []

    def score(folder: Path) -> float:
        assert (folder / CONFIG).is_file()
        bias = float(read_weights(folder / WEIGHTS)["visual.bias"][0])
        asked.append(bias)
        return -abs(bias - best)

    return score, asked


# the step


def test_a_uniform_soup_is_a_run_and_the_order_changes_no_byte(tmp_path: Path) -> None:
    runs = three(tmp_path)
    digests = set()
    for number, order in enumerate(itertools.permutations(runs)):
        outcome = run_soup(plan_soup(order, tmp_path / f"soup{number}", kind="uniform"), OPTIONS)
        assert outcome is not None
        digests.add(outcome.step.id)
        first = read_record(tmp_path / "soup0")
        assert first is not None
        assert diff_entries(first.identity.outputs, outcome.step.identity.outputs).empty
    assert len(digests) == 1
    soup = open_run(tmp_path / "soup0")
    assert soup.run is not None and soup.recipe is not None
    tensors = read_weights(soup.path / WEIGHTS)
    assert tensors["visual.bias"].tolist() == pytest.approx([7 / 3] * 3)
    assert float(tensors["logit_scale"]) == pytest.approx(7 / 3)
    assert tensors["text.mask"].tolist() == [0, 1, 2, 3]
    assert soup.run.conforming is False
    assert (soup.run.samples_seen, soup.run.steps, soup.run.unique_samples) == (576, 36, 60)
    assert soup.run.data_id == "d" * 64
    assert soup.run.extras["soup"] == "uniform"
    assert "selected_on" not in soup.run.extras
    assert [one["run"] for one in soup.run.extras["ingredients"]] == [
        open_run(run).id for run in sorted(runs, key=lambda run: digest(run / WEIGHTS))
    ]
    assert soup.step is not None
    assert soup.step.identity.counts.kept == 3
    assert sorted(ref.id for ref in soup.step.identity.inputs if ref.role == "weights") == sorted(
        digest(run / WEIGHTS) for run in runs
    )


def digest(path: Path) -> str:
    return state_digest(read_weights(path))


def test_a_soup_of_one_is_itself_and_says_so(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", state(1.0))
    told: list[str] = []

    class Sink(console.Silent):
        def message(self, level: str, text: str, fields: dict[str, Any]) -> None:
            told.append(text)

    token = console._sink.set(Sink())
    try:
        run_soup(plan_soup([run], tmp_path / "soup", kind="uniform"), OPTIONS)
    finally:
        console._sink.reset(token)
    assert (tmp_path / "soup" / WEIGHTS).read_bytes() == (run / WEIGHTS).read_bytes()
    assert any("the only one" in text for text in told)


def test_checkpoints_of_one_run_count_its_samples_once(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", state(3.0), parts=[state(1.0), state(2.0), state(3.0, seed=9)])
    parts = [run / "checkpoints" / f"part_{n}.safetensors" for n in (1, 2)]
    run_soup(plan_soup(parts, tmp_path / "soup", kind="uniform"), OPTIONS)
    soup = open_run(tmp_path / "soup").run
    assert soup is not None
    assert (soup.samples_seen, soup.steps) == (128, 8)  # two of three parts
    assert sorted(one["part"] for one in soup.extras["ingredients"]) == [1, 2]
    assert read_weights(tmp_path / "soup" / WEIGHTS)["visual.bias"].tolist() == [1.5] * 3
    # a soup may go into a soup
    run_soup(plan_soup([tmp_path / "soup", run], tmp_path / "more", kind="uniform"), OPTIONS)
    assert read_weights(tmp_path / "more" / WEIGHTS)["visual.bias"].tolist() == [2.25] * 3


def test_a_greedy_soup_records_every_decision(tmp_path: Path) -> None:
    runs = three(tmp_path)
    score, asked = by_bias(1.5)
    soup = plan_soup(
        runs, tmp_path / "soup", kind="greedy", suite=SUITE, metric="mean", task_digests=["7" * 64]
    )
    outcome = run_soup(soup, OPTIONS, score=score)
    assert outcome is not None
    decisions = outcome.step.details["decisions"]
    # alone: 1 and 2 are 0.5 away, 4 is 2.5; 1 and 2 together are exact; with 4 it is worse
    assert sorted(asked[:3]) == [1.0, 2.0, 4.0]
    assert asked[3] == 1.5 and asked[4] == pytest.approx(7 / 3)
    assert [decision["kept"] for decision in decisions] == [True, True, False]
    assert decisions[1]["before"] == -0.5 and decisions[1]["after"] == 0.0
    assert decisions[2]["before"] == 0.0 and decisions[2]["after"] == pytest.approx(-5 / 6)
    assert decisions[2]["weights"] == digest(runs[2] / WEIGHTS)
    run = open_run(tmp_path / "soup").run
    assert run is not None
    assert run.extras["selected_on"] == {"suite_id": SUITE, "task_digests": ["7" * 64]}
    assert run.extras["selected_by"] == "mean"
    assert run.extras["left_out"] == [digest(runs[2] / WEIGHTS)]
    counts = outcome.step.identity.counts
    assert (counts.read, counts.kept, counts.dropped) == (3, 2, {"lowers mean": 1})
    assert {ref.role for ref in outcome.step.identity.inputs} == {"weights", "run", "suite"}
    assert not list(tmp_path.glob(".soup*"))


def test_a_greedy_soup_that_failed_goes_on_where_it_was(tmp_path: Path) -> None:
    runs = three(tmp_path)
    score, asked = by_bias(1.5)

    def failing(folder: Path) -> float:
        if len(asked) == 4:
            raise HeadwaterError("the disk is gone")
        return score(folder)

    soup = plan_soup(runs, tmp_path / "soup", kind="greedy", suite=SUITE, metric="mean")
    with pytest.raises(HeadwaterError, match="disk"):
        run_soup(soup, OPTIONS, score=failing)
    assert not (tmp_path / "soup").exists()
    asked_before = list(asked)
    again = run_soup(soup, OPTIONS, score=score)
    assert len(asked) == len(asked_before) + 1 == 5
    whole = run_soup(
        plan_soup(runs, tmp_path / "whole", kind="greedy", suite=SUITE, metric="mean"),
        OPTIONS,
        score=by_bias(1.5)[0],
    )
    assert again is not None and whole is not None
    assert again.step.id == whole.step.id
    assert (tmp_path / "soup" / WEIGHTS).read_bytes() == (tmp_path / "whole" / WEIGHTS).read_bytes()
    assert run_soup(soup, OPTIONS, score=failing).cached  # type: ignore[union-attr]


KILLED = """
import os, signal, sys
from pathlib import Path
from headwater.steps import RunOptions
from train.soup import plan_soup, run_soup
from headwater.weights import read_weights
folder, limit = Path(sys.argv[1]), int(sys.argv[2])
asked = 0
def score(trial):
    global asked
    if asked == limit:
        os.kill(os.getpid(), signal.SIGKILL)
    asked += 1
    return -abs(float(read_weights(trial / "open_clip_model.safetensors")["visual.bias"][0]) - 1.5)
soup = plan_soup(sorted(folder.glob("run*")), folder / "soup", kind="greedy", suite="5" * 64, metric="mean")
run_soup(soup, RunOptions(), score=score)
print(asked)
"""


@pytest.mark.slow
def test_a_greedy_soup_that_was_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    three(tmp_path)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}

    def child(limit: int) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-c", KILLED, str(tmp_path), str(limit)]
        return subprocess.run(line, capture_output=True, text=True, env=environment, check=False)

    assert child(4).returncode == -9
    assert not (tmp_path / "soup").exists()
    done = child(4)
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
    runs = sorted(tmp_path.glob("run*"))
    whole = plan_soup(runs, tmp_path / "whole", kind="greedy", suite=SUITE, metric="mean")
    outcome = run_soup(whole, OPTIONS, score=by_bias(1.5)[0])
    assert outcome is not None
    assert open_run(tmp_path / "soup").id == outcome.step.id


# what is refused


def test_other_recipes_are_refused_and_the_fields_named(tmp_path: Path) -> None:
    one = made_run(tmp_path / "one", state(1.0))
    other = made_run(tmp_path / "other", state(2.0), **{"optim.lr": 2.0e-3, "schedule.warmup_steps": 3})
    with pytest.raises(
        UsageError, match=r"different recipes: they differ in optim\.lr, schedule\.warmup_steps"
    ):
        plan_soup([one, other], tmp_path / "soup", kind="uniform")


def test_labels_of_a_recipe_do_not_matter(tmp_path: Path) -> None:
    one = made_run(tmp_path / "one", state(1.0))
    other = made_run(tmp_path / "other", state(2.0), name="renamed")
    assert len(plan_soup([one, other], tmp_path / "soup", kind="uniform").ingredients) == 2


def test_other_data_is_allowed_and_told(tmp_path: Path) -> None:
    one = made_run(tmp_path / "one", state(1.0), data="a" * 64)
    other = made_run(tmp_path / "other", state(2.0), data="b" * 64)
    run_soup(plan_soup([one, other], tmp_path / "soup", kind="uniform"), OPTIONS)
    run = open_run(tmp_path / "soup").run
    assert run is not None
    assert run.data_id not in ("a" * 64, "b" * 64)
    assert run.extras["data_ids"] == ["a" * 64, "b" * 64]


def test_usage(tmp_path: Path) -> None:
    one = made_run(tmp_path / "one", state(1.0))
    copy = made_run(tmp_path / "copy", state(1.0), seed=1)
    with pytest.raises(UsageError, match="nothing to average"):
        plan_soup([], tmp_path / "soup", kind="uniform")
    with pytest.raises(UsageError, match="hold the same weights"):
        plan_soup([one, copy], tmp_path / "soup", kind="uniform")
    with pytest.raises(UsageError, match="did you mean 'greedy'"):
        plan_soup([one], tmp_path / "soup", kind="gredy")
    for named in ({"suite": SUITE}, {"metric": "mean"}, {}):
        with pytest.raises(UsageError, match="chosen by one metric"):
            plan_soup([one], tmp_path / "soup", kind="greedy", **named)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="chosen by one metric"):
        plan_soup([one], tmp_path / "soup", kind="uniform", suite=SUITE, metric="mean")
    with pytest.raises(UsageError, match="needs a held-out suite"):
        run_soup(plan_soup([one], tmp_path / "soup", kind="greedy", suite=SUITE, metric="mean"), OPTIONS)
    with pytest.raises(MissingInput, match=r"part_9\.safetensors: no such file"):
        plan_soup([one / "checkpoints" / "part_9.safetensors"], tmp_path / "soup", kind="uniform")
    with pytest.raises(MissingInput):
        plan_soup([tmp_path / "none"], tmp_path / "soup", kind="uniform")
    assert not (tmp_path / "soup").exists()


def test_weights_that_are_not_the_run_s(tmp_path: Path) -> None:
    one = made_run(tmp_path / "one", state(1.0))
    write_weights(state(2.0), tmp_path / "alone.safetensors")
    with pytest.raises(UsageError, match="belongs to no run"):
        plan_soup([tmp_path / "alone.safetensors"], tmp_path / "soup", kind="uniform")
    write_weights(state(2.0), one / "extra.safetensors")
    with pytest.raises(IntegrityError, match=r"extra\.safetensors: is not the file that the run's record"):
        plan_soup([one / "extra.safetensors"], tmp_path / "soup", kind="uniform")
    soup = plan_soup([one], tmp_path / "soup", kind="uniform")
    write_weights(state(2.0), one / WEIGHTS)
    with pytest.raises(IntegrityError, match="changed since"):
        run_soup(soup, OPTIONS)
    with pytest.raises(IntegrityError, match="is not the file that the run's record"):
        plan_soup([one], tmp_path / "soup", kind="uniform")
    other = made_run(tmp_path / "other", state(1.0))
    (other / CONFIG).write_text("{}")
    with pytest.raises(IntegrityError, match=f"other/{CONFIG}: is not the file"):
        plan_soup([other], tmp_path / "soup", kind="uniform")


def test_a_diverged_run_is_refused_by_name(tmp_path: Path) -> None:
    runs = [made_run(tmp_path / "one", state(1.0)), made_run(tmp_path / "other", state(math.nan))]
    with pytest.raises(HeadwaterError, match=r"other.*'logit_scale' holds NaN") as caught:
        run_soup(plan_soup(runs, tmp_path / "soup", kind="uniform"), OPTIONS)
    assert caught.value.hint == "leave this one out"


def test_other_shapes_are_refused_by_name(tmp_path: Path) -> None:
    wide = state(2.0) | {"visual.bias": torch.zeros(5)}
    runs = [made_run(tmp_path / "one", state(1.0)), made_run(tmp_path / "other", wide)]
    with pytest.raises(UsageError, match=r"'visual\.bias' is \["):
        run_soup(plan_soup(runs, tmp_path / "soup", kind="uniform"), OPTIONS)


@pytest.mark.slow
def test_a_soup_of_models_encodes(tmp_path: Path) -> None:
    models = [tiny_run(tmp_path / f"model{n}", seed=n) for n in (0, 1)]
    runs = [
        made_run(tmp_path / f"run{n}", read_weights(model / WEIGHTS), config=model / CONFIG)
        for n, model in enumerate(models)
    ]
    run_soup(plan_soup(runs, tmp_path / "soup", kind="uniform"), OPTIONS)
    loaded = load_model(tmp_path / "soup")
    features = loaded.encode_images(torch.zeros(2, 3, 32, 32))
    assert features.shape == (2, 32)
    assert np.linalg.norm(features, axis=1) == pytest.approx([1.0, 1.0], rel=1e-5)
    assert same_shapes(dict(loaded.model.state_dict()), read_weights(models[0] / WEIGHTS)) is None
