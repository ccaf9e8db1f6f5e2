"""An evaluation from suite to results: figures, records, what is missing, what is bad, and going on after a stop."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headwater.errors import IntegrityError, MissingInput, UsageError
from tests.train import eval_kit as kit
from tests.train.evaluation_kit import bytes_of, evaluate, identity, make_root
from train.evaldata import TaskData
from train.evals import retrieval, zeroshot
from train.evaluation import plan_eval
from train.results import read_examples, read_lines, read_results
from train.suite import Task, load_suite


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_root(tmp_path / "suite")


def test_results_are_whole_and_the_same_bytes_again(root: Path, tmp_path: Path) -> None:
    first = evaluate(root, tmp_path / "first")
    second = evaluate(root, tmp_path / "second", workers=3)
    assert bytes_of(first.path) == bytes_of(second.path)
    assert identity(first.step) == identity(second.step) and first.step.id == second.step.id
    assert evaluate(root, tmp_path / "first").cached
    assert sorted(bytes_of(first.path)) == [
        "eval_results.jsonl",
        "examples/captions.parquet",
        "examples/colours.parquet",
        "examples/recall.parquet",
        "results.json",
    ]
    counts = first.step.identity.counts
    assert (counts.read, counts.kept, counts.extra["tasks_missing"]) == (80, 80, 1)
    results = read_results(first.path)
    assert results.tasks == read_lines(first.path / "eval_results.jsonl")
    assert (results.run_id, results.recipe_id, results.seed, results.conforming) == (
        "a" * 64,
        "b" * 64,
        0,
        True,
    )


def test_figures_are_the_means_of_their_examples(root: Path, tmp_path: Path) -> None:
    evaluate(root, tmp_path / "out", kit.ColourModel(noise=1.0))  # words that are hard to tell apart
    results = read_results(tmp_path / "out")
    for key in ("colours", "captions"):
        line, rows = results.line(key), read_examples(tmp_path / "out", key)
        assert line is not None and line.n is not None
        score = np.asarray(rows["score"], np.float64)
        assert line.main_metric == pytest.approx(score.mean()) and 0 < score.mean() < 1
        assert line.standard_error == pytest.approx(score.std(ddof=1) / math.sqrt(line.n))
        assert np.asarray(rows["index"]).tolist() == list(range(line.n))
    rows, line = read_examples(tmp_path / "out", "recall"), results.line("recall")
    label, predicted = np.asarray(rows["label"]), np.asarray(rows["predicted"])
    recalls = [(predicted[label == c] == c).mean() for c in range(6)]
    assert line is not None and line.main_metric == pytest.approx(np.mean(recalls)) and "score" not in rows


def test_zero_shot_head_and_ranks_by_hand(root: Path) -> None:
    model = kit.ColourModel(noise=1.0)
    data = TaskData(Task(**kit.task("colours")), root / "colours")
    images = data.image_features(model)
    logits = []
    for name in kit.COLOURS:
        rows = model.encode_texts([template.format(c=name) for template in kit.TEMPLATES]).astype(np.float64)
        mean = rows.mean(axis=0)
        logits.append(100 * images.features @ (mean / np.linalg.norm(mean)))
    order = np.argsort(-np.array(logits).T, axis=1, kind="stable")
    result = zeroshot.run(data, model, seed=0, workers=1)
    assert result.metrics["acc1"] == pytest.approx((order[:, 0] == images.labels).mean())
    assert result.metrics["acc5"] == pytest.approx(
        (order[:, :5] == images.labels[:, None]).any(axis=1).mean()
    )
    assert np.asarray(result.examples["predicted"]).tolist() == order[:, 0].tolist()
    assert result.chance == pytest.approx(1 / 6)


def test_acc5_is_null_below_five_classes_and_refused_as_main_metric(tmp_path: Path) -> None:
    few = kit.colour_samples(8, names=("red", "blue"))
    folder = kit.write_set(tmp_path / "two", few, classnames=("red", "blue"), templates=("{c}",))
    result = zeroshot.run(TaskData(Task(**kit.task("two")), folder), kit.ColourModel(), seed=0, workers=1)
    assert result.metrics["acc5"] is None and result.chance == 0.5
    with pytest.raises(UsageError, match="acc5 says nothing with 2 classes"):
        zeroshot.check(Task(**kit.task("two", main_metric="acc5")), folder)


def test_class_names_with_braces_are_text(tmp_path: Path) -> None:
    asked: list[str] = []

    class Listener(kit.ColourModel):
        def encode_texts(self, texts: list[str]) -> Any:
            asked.extend(texts)
            return super().encode_texts(texts)

    names = ("{c}", "{0.__class__}")
    samples = kit.colour_samples(4, names=("red", "blue"))
    folder = kit.write_set(tmp_path / "odd", samples, classnames=names, templates=("a {c}", "{x} {c}%s"))
    zeroshot.check(Task(**kit.task("odd")), folder)
    zeroshot.run(TaskData(Task(**kit.task("odd")), folder), Listener(), seed=0, workers=1)
    assert asked == ["a {c}", "{x} {c}%s", "a {0.__class__}", "{x} {0.__class__}%s"]


def retrieval_of(folder: Path, samples: Any, metric: str = "mean_recall@1", model: Any = None) -> Any:
    kit.write_set(folder, samples, shards=1, kind="retrieval")
    task = Task(**kit.task(folder.name, family="retrieval", main_metric=metric))
    retrieval.check(task, folder)
    return retrieval.run(TaskData(task, folder), model or kit.ColourModel(), seed=0, workers=1)


def test_a_right_duplicate_is_right_by_group_and_wrong_by_index(tmp_path: Path) -> None:
    red, blue = (kit.picture(kit.COLOURS[name], 1) for name in ("red", "blue"))
    other_red = kit.picture(kit.COLOURS["red"], 2)
    samples = [
        ("a", {"png": red, "txt": b"red"}),
        ("b", {"png": blue, "txt": b"blue"}),
        ("c", {"png": other_red, "txt": b"red"}),  # the same caption for another picture
        ("d", {"png": blue, "txt": b"blue thing"}),  # the same picture with another caption
    ]
    found = retrieval_of(tmp_path / "dup", samples)
    assert found.metrics["mean_recall@1"] == 1.0
    assert (
        found.metrics["text_retrieval_recall@1_by_index"] == 0.5
    )  # c finds the first "red", b or d the other's
    assert found.metrics["image_retrieval_recall@1_by_index"] == 0.5
    assert found.metrics["mean_recall@5_by_index"] == 1.0
    assert found.examples["image_group"].tolist() == [0, 1, 2, 1]
    # p positives among four items: pictures a-d have 2, 2, 2, 2 captions, captions 2, 2, 2, 2 pictures
    assert found.chance == pytest.approx(0.5)


def test_groups_come_from_npy_or_json_and_are_not_chained(tmp_path: Path) -> None:
    pictures = [kit.picture(kit.COLOURS["red"], i) for i in range(4)]
    samples = [
        ("a", {"png": pictures[0], "txt": b"red\nred one", "npy": kit.npy_member(5)}),
        ("b", {"png": pictures[1], "txt": b"red two", "npy": kit.npy_member([5])}),
        ("c", {"png": pictures[2], "txt": b"red", "json": kit.json_member(group="x")}),
        ("d", {"png": pictures[3], "txt": b"red three", "json": kit.json_member(group="x")}),
    ]
    folder = kit.write_set(tmp_path / "groups", samples, kind="retrieval")
    images = TaskData(Task(**kit.task("groups")), folder).image_features(kit.ColourModel())
    groups = retrieval.image_groups(images)
    assert groups.tolist() == [0, 0, 1, 1]
    owner, captions = np.array([0, 0, 1, 2, 3]), np.array([0, 1, 2, 0, 3])
    texts, pictures_of = retrieval.group_positives(owner, groups, captions)
    # the shared caption "red" makes c right for a's "red", and a's "red one" not right for c
    assert [sorted(texts(i).tolist()) for i in range(4)] == [[0, 1, 2, 3], [0, 1, 2, 3], [0, 3, 4], [0, 3, 4]]
    assert [sorted(pictures_of(j).tolist()) for j in range(5)] == [
        [0, 1, 2, 3],
        [0, 1],
        [0, 1],
        [0, 1, 2, 3],
        [2, 3],
    ]
    assert texts.counts().tolist() == [4, 4, 3, 3] and pictures_of.counts().tolist() == [4, 2, 2, 4, 2]


@pytest.mark.parametrize(
    "metric", ["mean_recall@1", "text_retrieval_recall@5", "image_retrieval_recall@1_by_index"]
)
def test_rows_of_retrieval_average_to_the_main_metric(tmp_path: Path, metric: str) -> None:
    names = tuple(kit.COLOURS)
    samples = [
        (
            f"{i}",
            {
                "png": kit.picture(kit.COLOURS[names[i % 6]], i),
                "txt": "\n".join([names[i % 6]] * (1 + i % 3)).encode(),
            },
        )
        for i in range(9)
    ]
    found = retrieval_of(tmp_path / "many", samples, metric, kit.ColourModel(noise=1.0))
    assert found.main_metric == pytest.approx(float(np.asarray(found.examples["score"]).mean()), abs=1e-6)
    assert found.n == 9


def test_by_index_is_one_hot_recall(tmp_path: Path) -> None:
    """The definition of clip-benchmark, written out: a positive among the k best, positives told by index."""
    model = kit.ColourModel(noise=1.0)
    folder = kit.caption_set(tmp_path / "captions", n=40)
    data = TaskData(Task(**kit.task("captions", family="retrieval", main_metric="mean_recall@1")), folder)
    found = retrieval.run(data, model, seed=0, workers=1)
    images = data.image_features(model)
    texts = model.encode_texts([lines[0] for lines in images.captions])
    scores = texts.astype(np.float64) @ images.features.T.astype(np.float64)
    for k in (1, 5, 10):
        for name, table in (("image", scores), ("text", scores.T)):
            best = np.argsort(-table, axis=1)[:, :k]
            recall = (best == np.arange(40)[:, None]).any(axis=1).mean()
            assert found.metrics[f"{name}_retrieval_recall@{k}_by_index"] == pytest.approx(recall)
            assert found.metrics[f"{name}_retrieval_recall@{k}"] == pytest.approx(
                recall
            )  # nothing is there twice


def test_lines_are_what_datacomp_reads(root: Path, tmp_path: Path) -> None:
    evaluate(root, tmp_path / "out")
    lines = [json.loads(text) for text in (tmp_path / "out/eval_results.jsonl").read_text().splitlines()]
    # as DataComp's aggregation does: dataset -> main_metric; and its evaluation skips keys that are there
    table = {line["dataset"]: line["metrics"]["main_metric"] for line in lines}
    assert table["Colours"] == 1.0 and table["Absent"] is None
    assert {line["key"] for line in lines} == {"colours", "captions", "recall", "absent"}
    theirs = tmp_path / "theirs.jsonl"
    theirs.write_text(
        '{"key": "cars", "dataset": "Cars", "metrics": {"acc1": 0.5, "acc5": NaN, "main_metric": 0.5}, "more": 1}\n\n'
    )
    (line,) = read_lines(theirs)
    assert line.main_metric == 0.5 and line.metrics["acc5"] is None and line.task_digest is None
    theirs.write_text("{")
    with pytest.raises(IntegrityError, match="line 1"):
        read_lines(theirs)


def test_missing_sets_are_lines_with_null_and_aggregates_say_so(root: Path, tmp_path: Path) -> None:
    evaluate(root, tmp_path / "out")
    results = read_results(tmp_path / "out")
    line = results.line("absent")
    assert results.missing == ["absent"] and line is not None
    assert (line.status, line.main_metric, line.n, line.task_digest) == ("missing", None, None, None)
    easy, average = sorted(results.aggregates, key=lambda one: one.of_tasks)
    assert (easy.n_tasks, easy.of_tasks, easy.complete, easy.missing) == (1, 2, False, ["absent"])
    assert (average.n_tasks, average.complete) == (3, False) and "Average" not in (easy.name, average.name)
    assert easy.task_list_id != average.task_list_id
    with pytest.raises(MissingInput, match="1 sets are not .*absent"):
        evaluate(root, tmp_path / "strict", strict=True)
    with pytest.raises(MissingInput, match="none of its sets"):
        evaluate(root, tmp_path / "none", tasks=["absent"])


def test_chosen_tasks_are_a_suite_of_their_own(root: Path, tmp_path: Path) -> None:
    evaluate(root, tmp_path / "all")
    evaluate(root, tmp_path / "one", tasks=["captions"])
    one, everything = read_results(tmp_path / "one"), read_results(tmp_path / "all")
    assert one.suite_id != everything.suite_id and [line.key for line in one.tasks] == ["captions"]
    assert one.tasks[0] == everything.line("captions")
    with pytest.raises(UsageError, match="made by another run"):
        evaluate(root, tmp_path / "one")


def test_all_problems_are_told_at_once_before_the_model_is_loaded(root: Path, tmp_path: Path) -> None:
    (root / "colours/test/1.tar").unlink()
    kit.caption_set(root / "captions", n=19)
    with pytest.raises(IntegrityError, match=r"1 of 2 shards are missing: 1\.tar"):
        plan_eval(kit.subject(), load_suite(root), tmp_path / "out")
    kit.colour_set(root / "colours", n=31)
    (root / "colours/zeroshot_classification_templates.txt").write_text("a photo\n")
    with pytest.raises(IntegrityError) as told:
        plan_eval(kit.subject(), load_suite(root), tmp_path / "out")
    text = str(told.value)
    assert "2 problems, and nothing was evaluated" in text
    assert "line 1 has no {c}" in text and "19 examples, but the suite declares 20" in text
    assert text.count("has no {c}") == 1  # two tasks on the folder, one problem


def test_a_set_of_another_type_and_wrong_options_are_refused(root: Path) -> None:
    with pytest.raises(IntegrityError, match="is a retrieval set"):
        zeroshot.check(Task(**kit.task("captions")), root / "captions")
    with pytest.raises(UsageError, match="has no option 'k'"):
        zeroshot.check(Task(**kit.task("colours", options={"k": 1})), root / "colours")
    with pytest.raises(UsageError, match="did you mean 'acc1'"):
        zeroshot.check(Task(**kit.task("colours", main_metric="acc11")), root / "colours")
    with pytest.raises(IntegrityError, match="samples without txt"):
        (root / "colours/dataset_type.txt").write_text("retrieval")
        retrieval.check(Task(**kit.task("colours", family="retrieval", main_metric=None)), root / "colours")
