"""What every eval family must do, whichever file it is in. A new family adds a set that it can measure to SETS."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import train.evals
from headwater.errors import HeadwaterError, IntegrityError, UsageError
from headwater.plugins import family_members
from headwater.steps import RunOptions
from tests.conftest import clean_environment
from tests.train import eval_kit as kit
from train.evaldata import TaskData
from train.evals import family_of
from train.evaluation import plan_eval, run_eval
from train.results import Results, TaskResult, read_examples, read_results
from train.suite import Task, load_suite, task_files

FOLDER = Path(train.evals.__file__).parent
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_"))


def with_groups(folder: Path) -> dict[str, Any]:
    samples = kit.colour_samples(24)
    for number, (_, members) in enumerate(samples):
        members["json"] = kit.json_member(group="even" if number % 2 == 0 else "odd")
    kit.write_set(folder, samples, classnames=tuple(kit.COLOURS), templates=kit.TEMPLATES)
    return {"main_metric": "acc_wg", "size": 24}


def winogavil(folder: Path) -> dict[str, Any]:
    kit.colour_set(folder, n=12)
    keys = [f"0-{i:04d}" for i in range(12)]
    items = []
    for number, name in enumerate(kit.COLOURS):
        candidates = keys[: 10 + number % 3]
        right = [key for place, key in enumerate(candidates) if place % 6 == number]
        items.append({"cue": name, "candidates": candidates, "associations": right})
    (folder / "items.jsonl").write_text("\n".join(json.dumps(item) for item in items) + "\n")
    return {"main_metric": "jaccard_score_10-12", "size": 6}


def plain(**fields: Any) -> Callable[[Path], dict[str, Any]]:
    def build(folder: Path) -> dict[str, Any]:
        kit.colour_set(folder, n=24, train=36)
        return {"main_metric": "acc1", "size": 24, **fields}

    return build


def captions(folder: Path) -> dict[str, Any]:
    kit.caption_set(folder, n=24)
    return {"main_metric": "mean_recall@1", "size": 24}


SETS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "groups": with_groups,
    "probe": plain(),
    "retrieval": captions,
    "robustness": plain(
        main_metric="mean_corrupted_acc1",
        options={"corruptions": ["gaussian_noise", "patch_shuffle"], "strengths": [1, 5]},
    ),
    "winogavil": winogavil,
    "zeroshot": plain(),
}


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    if request.param == "probe":
        pytest.importorskip("torch")
    return str(request.param)


@pytest.fixture
def task(name: str, tmp_path: Path) -> Task:
    assert name in SETS, f"tests/contract/test_evals.py: add a small set for the family {name} to SETS"
    fields = SETS[name](tmp_path / "suite" / "set")
    document = kit.task("set", family=name, **fields)
    kit.write_suite(tmp_path / "suite", [document])
    return Task(**document)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "suite" / "set"


def measured(name: str, task: Task, folder: Path, *, workers: int = 1, seed: int = 0) -> TaskResult:
    data = TaskData(task, folder, workers)
    return family_of(name).run(data, kit.ColourModel(noise=0.6, side=16), seed=seed, workers=workers)


def test_the_file_is_a_family(name: str) -> None:
    family = family_of(name)
    summary = {one.name: one.summary for one in family_members("evals")}[name]
    assert 10 < len(summary) <= 140 and summary[-1] in ".:;"
    assert family.version >= 1 and "test" in family.splits
    assert [*inspect.signature(family.check).parameters] == ["task", "folder"]
    parameters = inspect.signature(family.run).parameters
    assert [*parameters] == ["task", "model", "seed", "workers"]
    assert all(parameters[option].kind is inspect.Parameter.KEYWORD_ONLY for option in ("seed", "workers"))


def test_listing_and_checking_load_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom train.evals import family_of\n"
        f"for name in {NAMES!r}: family_of(name)\n"
        "assert not {'torch', 'open_clip', 'torchvision', 'pyarrow'} & set(sys.modules)"
    )
    env = clean_environment(tmp_path)
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, env=env, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_a_good_set_passes_and_its_figures_hold_together(name: str, task: Task, folder: Path) -> None:
    family_of(name).check(task, folder)
    result = measured(name, task, folder)
    result.check()
    assert result.main_metric_name == task.main_metric
    assert result.main_metric is not None and result.metrics[task.main_metric or ""] == result.main_metric
    assert result.standard_error is None or 0 <= result.standard_error < 1
    assert result.chance is None or 0 <= result.chance <= 1
    assert 0 < result.n <= 24
    index, keys = np.asarray(result.examples["index"]), result.examples["key"]
    assert index.dtype == np.int32 and index.tolist() == sorted(set(index.tolist()))
    assert all(isinstance(key, str) for key in keys)
    if "score" in result.examples:
        score = np.asarray(result.examples["score"])
        assert score.dtype == np.float32
        assert result.main_metric == pytest.approx(float(score.astype(np.float64).mean()), abs=1e-6)
    if "correct" in result.examples:
        assert np.asarray(result.examples["correct"]).dtype in (np.bool_, np.float32)
    if "group" in result.examples:
        assert np.asarray(result.examples["group"]).dtype == np.int32


def test_figures_are_the_same_again_and_on_any_number_of_workers(name: str, task: Task, folder: Path) -> None:
    first, again = measured(name, task, folder), measured(name, task, folder, workers=3)
    assert first.metrics == again.metrics and first.standard_error == again.standard_error
    assert first.examples.keys() == again.examples.keys()
    for column, values in first.examples.items():
        assert np.array_equal(np.asarray(values), np.asarray(again.examples[column])), column


def test_a_figure_is_the_model_s(name: str, task: Task, folder: Path) -> None:
    """A model that sees and reads nothing must not be as good as one that does."""

    class Blind(kit.ColourModel):
        def encode_images(self, batch: Any) -> Any:
            return super().encode_images(batch * 0 + 0.3)

    data = TaskData(task, folder)
    try:
        blind = family_of(name).run(data, Blind(side=16), seed=0, workers=1)
    except HeadwaterError:
        return  # it may also say so
    seeing = measured(name, task, folder)
    assert blind.main_metric is not None and seeing.main_metric is not None
    assert blind.main_metric <= seeing.main_metric
    assert blind.main_metric < 0.5


@pytest.mark.parametrize("damage", ["shard", "nshards", "size", "tar", "empty"])
def test_a_set_that_is_not_whole_is_refused_before_any_model(
    name: str, task: Task, folder: Path, damage: str
) -> None:
    if damage == "shard":
        (folder / "test/1.tar").unlink()
    elif damage == "nshards":
        (folder / "test/nshards.txt").write_text("3")
    elif damage == "size":
        task = task.model_copy(update={"size": 1_000})
    elif damage == "tar":
        raw = (folder / "test/1.tar").read_bytes()
        (folder / "test/1.tar").write_bytes(raw[: len(raw) // 2 - 100])
    else:
        for shard in ("0.tar", "1.tar"):
            kit.write_tar(folder / "test" / shard, [])
    with pytest.raises(IntegrityError):
        family_of(name).check(task, folder)


def test_unknown_options_and_metrics_are_refused(name: str, task: Task, folder: Path) -> None:
    with pytest.raises(UsageError, match="corruptoins"):
        family_of(name).check(task.model_copy(update={"options": {**task.options, "corruptoins": 1}}), folder)
    with pytest.raises(UsageError, match="accuracy"):
        family_of(name).check(task.model_copy(update={"main_metric": "accuracy"}), folder)


def test_a_bad_picture_is_left_out_and_told(name: str, task: Task, folder: Path) -> None:
    from train._evaltar import samples

    whole = [sample for shard in ("0.tar", "1.tar") for sample in samples(folder / "test" / shard)]
    whole[1][1]["png"] = whole[1][1]["png"][:-40]  # its header is good
    kit.write_split(folder / "test", whole)
    data = TaskData(task, folder)
    family_of(name).check(task, folder)
    try:
        result = family_of(name).run(data, kit.ColourModel(side=16), seed=0, workers=1)
    except IntegrityError:
        assert name == "winogavil"  # every question may need the picture
        return
    result.check()
    assert data.invalid["test"] == [(whole[1][0], "picture cannot be decoded")]
    assert whole[1][0] not in list(result.examples["key"])


def test_the_whole_way_to_results(name: str, task: Task, folder: Path, tmp_path: Path) -> None:
    suite = load_suite(folder.parent)
    for path in family_of(name).files:
        assert f"set/{path}" in task_files(suite, suite.tasks[0])
    plan = plan_eval(kit.subject(kit.ColourModel(side=16)), suite, tmp_path / "out")
    assert run_eval(plan, RunOptions()) is not None
    results = read_results(tmp_path / "out")
    assert Results.model_validate_json(results.model_dump_json()) == results
    assert results.tasks[0].n == len(read_examples(tmp_path / "out", "set")["index"])
