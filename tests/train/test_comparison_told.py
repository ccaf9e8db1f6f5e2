"""headwater compare: the statistic behind each metric, and the three ways a comparison is told: text, page, document."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.train.comparison_kit import N, answers, arm
from tests.train.results_kit import hex_of, results, run_folder, run_id, task
from train._comparison_page import page_of
from train._comparison_record import Comparison
from train._comparison_text import text_of
from train._forest import axis_for
from train._paired import f1_parts
from train.comparison import compare
from train.leaderboard import leaderboard
from train.results import read_results


@pytest.fixture
def two_arms(tmp_path):
    return arm(tmp_path, "plain", 0.4) + arm(tmp_path, "filtered", 0.6)


def with_classes(folder, salt, metric, value_of, share=0.5):
    label = np.repeat([0, 1, 2], [300, 80, 20]).astype(np.int32)
    rng = np.random.default_rng(salt)
    predicted = np.where(rng.random(N) < share, label, rng.integers(0, 3, N)).astype(np.int32)
    columns = {"label": label, "predicted": predicted, "score": None}
    right = predicted == label
    return task(folder, "one", right, metric=metric, value=value_of(label, predicted), columns=columns)


def recall(label, predicted):
    return float(np.mean([(predicted[label == c] == c).mean() for c in range(3)]))


def f1(label, predicted):
    return float(
        np.mean(
            [
                2 * ((label == c) & (predicted == c)).sum() / ((label == c).sum() + (predicted == c).sum())
                for c in range(3)
            ]
        )
    )


@pytest.mark.parametrize(
    ("metric", "value_of", "words"),
    [
        ("mean_per_class_recall", recall, "mean over classes"),
        ("F1-macro_all", f1, "macro F1, by its linear part at each example"),
    ],
)
def test_the_statistic_is_the_one_that_gives_the_recorded_figure(tmp_path, metric, value_of, words):
    sides = [
        results(tmp_path / d, [with_classes(tmp_path / d, s, metric, value_of, share)], data=d)
        for d, s, share in (("a", 1, 0.4), ("b", 2, 0.7))
    ]
    found = compare(sides, resamples=1000)
    assert found.tasks[0].statistic == words
    one = found.pairs[0].tasks[0]
    values = [read_results(side).tasks[0].main_metric for side in sides]
    assert one.difference == pytest.approx(values[1] - values[0])
    rng = np.random.default_rng(0)
    data = [np.column_stack([np.repeat([0, 1, 2], [300, 80, 20]), _predicted(side)]) for side in sides]
    draws = []
    for _ in range(1000):
        rows = rng.integers(0, N, N)
        draws.append(value_of(*data[1][rows].T) - value_of(*data[0][rows].T))
    assert one.test_se == pytest.approx(np.std(draws), rel=0.12)


def _predicted(folder):
    import pyarrow.parquet as pq

    return pq.read_table(folder / "examples" / "one.parquet")["predicted"].to_numpy()


def test_worst_group_is_resampled_as_a_minimum(tmp_path):
    group = np.repeat([0, 1, -1], [200, 150, 50]).astype(np.int32)
    sides = []
    for data, share in (("a", 0.4), ("b", 0.6)):
        right = answers(share, 3)
        value = float(min(right[group == g].mean() for g in (0, 1)))
        line = task(
            tmp_path / data, "one", right, metric="acc_worst_region", value=value, columns={"group": group}
        )
        sides.append(results(tmp_path / data, [line], data=data))
    found = compare(sides, resamples=500)
    assert found.tasks[0].statistic == "worst group"
    assert found.pairs[0].tasks[0].verdict == "better"


def test_a_metric_nobody_knows_has_no_test_rather_than_a_wrong_one(tmp_path):
    sides = [
        results(tmp_path / d, [task(tmp_path / d, "one", answers(0.5, 1), metric="secret", value=v)], data=d)
        for d, v in (("a", 0.123), ("b", 0.456))
    ]
    found = compare(sides, resamples=50)
    one = found.pairs[0].tasks[0]
    assert (one.test_se, one.p, one.verdict, one.basis) == (None, None, "not tested", "none")
    assert "secret does not follow from the stored examples" in one.note
    assert one.difference == pytest.approx(0.333)
    assert found.pairs[0].aggregates[0].verdict == "not tested"


def test_pictures_of_one_group_are_drawn_together(tmp_path):
    sides = []
    for data, salt in (("a", 1), ("b", 2)):
        score = np.repeat(answers(0.5, salt, 100), 4).astype(np.float32)
        columns = {
            "score": score,
            "correct": None,
            "image_group": np.repeat(np.arange(100), 4).astype(np.int32),
        }
        line = task(tmp_path / data, "one", score, metric="mean_recall@1", columns=columns)
        sides.append(results(tmp_path / data, [line], data=data))
    one = compare(sides).pairs[0].tasks[0]
    gap = answers(0.5, 2, 100).astype(float) - answers(0.5, 1, 100)
    assert one.test_se == pytest.approx(gap.std() / 10, rel=0.05)
    assert one.mcnemar == []


def test_f1_parts_average_to_macro_f1():
    rng = np.random.default_rng(3)
    label, predicted = rng.integers(0, 3, 200), rng.integers(0, 5, 200)
    assert f1_parts(label, predicted).mean() == pytest.approx(f1(label, predicted))


def test_run_ids_of_the_kit_are_those_of_its_folders(tmp_path):
    step = json.loads((run_folder(tmp_path / "r", data="q", seed=4) / "step.json").read_bytes())
    assert step["id"] == run_id("q", 4)


# how it is told


def test_the_text_has_chance_and_both_errors(two_arms):
    text = text_of(compare(two_arms, resamples=200))
    (row,) = [line for line in text.splitlines() if line.startswith("  One ")]
    assert "10.00" in row
    assert row.endswith("better")
    assert "±test" in text
    assert "±seeds" in text
    assert "mean of 2 tasks" in text


def test_the_text_marks_a_verdict_without_seeds(tmp_path):
    paths = arm(tmp_path, "plain", 0.4, seeds=[0]) + arm(tmp_path, "filtered\x1b[2J", 0.6, seeds=[0])
    text = text_of(compare(paths, resamples=200))
    assert "\x1b" not in text
    assert "filtered\\x1b[2J" in text
    assert "better*" in text
    assert "* one run on a side" in text


def test_the_page_is_one_file_of_escaped_text(tmp_path):
    nasty = "<i>\u202eplain&"
    found = compare(
        arm(tmp_path, "plain", 0.1) + arm(tmp_path, "filtered", 0.6),
        labels={"plain-s0": nasty},
        resamples=200,
    )
    page = page_of(found).decode()
    assert page == page_of(found).decode()
    assert "<i>\u202e" not in page
    assert "\u202e" not in page
    assert "&lt;i&gt;‹U+202E›plain&amp;" in page
    assert "<script" not in page
    assert "src=" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert "chance: 10.00" in page
    assert page.count('class="both good"') == 3  # two tasks and their mean
    assert "No run is two standard errors of the test set above chance" in page


def test_the_document_reads_back(two_arms):
    found = compare(two_arms, resamples=50)
    assert Comparison.model_validate_json(found.model_dump_json()) == found


@pytest.mark.parametrize(
    ("values", "zero", "ticks"),
    [([0.013, 0.049], True, 6), ([-0.02, 0.09], True, None), ([], False, None), ([0.5], False, None)],
)
def test_the_axis_holds_its_values_between_round_ticks(values, zero, ticks):
    axis = axis_for(values, zero=zero)
    assert all(axis.low <= v <= axis.high for v in [*values, *([0.0] if zero else [])])
    assert (axis.ticks[0], axis.ticks[-1]) == (axis.low, axis.high)
    assert len(axis.ticks) <= 8
    assert ticks is None or len(axis.ticks) == ticks


def test_real_evaluations_are_compared_from_end_to_end(tmp_path):
    """Two models of colours, one with noisier words, through suite, families and files as the command does it."""
    from headwater.steps import RunOptions
    from tests.train import eval_kit as kit
    from train.evaluation import plan_eval, run_eval
    from train.suite import load_suite

    kit.colour_set(tmp_path / "suite/colours", n=60)
    kit.caption_set(tmp_path / "suite/captions", n=40)
    tasks = [
        kit.task("colours", groups=["easy"]),
        kit.task("captions", family="retrieval", main_metric="mean_recall@1", groups=["easy"]),
        kit.task("recall", folder="colours", main_metric="mean_per_class_recall"),
        kit.task("f1", folder="colours", main_metric="macro_f1"),
    ]
    suite = load_suite(kit.write_suite(tmp_path / "suite", tasks))
    folders = []
    for data, noise in (("clear", 0.05), ("noisy", 3.0)):
        subject = kit.subject(kit.ColourModel(noise=noise), id=hex_of(data), data_id=hex_of("data", data))
        outcome = run_eval(plan_eval(subject, suite, tmp_path / data), RunOptions())
        assert outcome is not None
        folders.append(outcome.path)
    found = compare(folders, resamples=500)
    (pair,) = found.pairs
    assert [task.statistic for task in found.tasks] == [
        "mean over examples",
        "mean over examples",
        "mean over classes",
        "macro F1, by its linear part at each example",
    ]
    assert {task.key: task.verdict for task in pair.tasks}["colours"] == "worse"
    assert all(task.test_se is not None for task in pair.tasks)
    assert [mean.key for mean in pair.aggregates] == ["easy: mean of 2 tasks", "mean of 4 tasks"]
    assert pair.aggregates[1].verdict == "worse"
    assert len(leaderboard(tmp_path).boards[0].rows) == 2
    assert "worse" in page_of(found).decode()
