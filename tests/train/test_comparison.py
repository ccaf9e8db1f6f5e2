"""headwater compare: what is refused and how it is said, both kinds of error, verdicts, and the three ways it is told."""

from __future__ import annotations

import math

import numpy as np
import pytest

from headwater.errors import IntegrityError, MissingInput, UsageError
from tests.train.comparison_kit import N, answers, arm
from tests.train.results_kit import RECIPE, hex_of, results, run_folder, task
from train.comparison import compare
from train.results import TaskLine, read_results
from train.statistics import mcnemar


@pytest.fixture
def two_arms(tmp_path):
    return arm(tmp_path, "plain", 0.4) + arm(tmp_path, "filtered", 0.6)


def test_both_errors_are_told_apart(two_arms):
    found = compare(two_arms, resamples=2000)
    assert [a.label for a in found.arms] == ["plain", "filtered"]
    assert [[r.seed for r in a.runs] for a in found.arms] == [[0, 1, 2], [0, 1, 2]]
    (pair,) = found.pairs
    assert (pair.baseline, pair.arm) == ("plain", "filtered")
    one = pair.tasks[0]
    means = [found.arms[side].tasks["one"].mean for side in (1, 0)]
    assert one.difference == pytest.approx(means[0] - means[1])
    values = [found.arms[side].tasks["one"].values for side in (1, 0)]
    seed_se = math.sqrt(sum(np.var(side, ddof=1) / 3 for side in values))
    assert one.seed_se == pytest.approx(seed_se)
    per_example = [
        np.mean([answers(s + 0.01 * k, len(d) * 100 + k) for k in range(3)], axis=0)
        for d, s in (("filtered", 0.6), ("plain", 0.4))
    ]
    analytic = (per_example[0] - per_example[1]).std() / math.sqrt(N)
    assert one.test_se == pytest.approx(analytic, rel=0.06)
    assert one.combined_se == pytest.approx(math.hypot(one.test_se, one.seed_se))
    assert one.interval[0] < one.difference < one.interval[1]
    assert (one.basis, one.verdict) == ("both errors", "better")
    assert one.above_chance == pytest.approx(one.difference / 0.9)
    assert len(one.mcnemar) == 3
    assert found.tasks[0].statistic == "mean over examples"
    assert found.warnings == []


def test_the_mean_over_tasks_has_both_errors_too(two_arms):
    found = compare(two_arms, resamples=2000)
    mean = found.pairs[0].aggregates[0]
    tasks = found.pairs[0].tasks
    assert found.aggregates[0].name == mean.key == "mean of 2 tasks"
    assert mean.difference == pytest.approx(np.mean([t.difference for t in tasks]))
    assert mean.test_se == pytest.approx(math.hypot(tasks[0].test_se, tasks[1].test_se) / 2)
    assert mean.seed_se is not None
    assert mean.verdict == "better"
    assert found.aggregates[0].chance == pytest.approx(0.1)


def test_one_seed_has_no_seed_error_and_says_so(tmp_path):
    paths = arm(tmp_path, "plain", 0.4, seeds=[7]) + arm(tmp_path, "filtered", 0.6, seeds=[8])
    found = compare(paths, resamples=1000)
    one = found.pairs[0].tasks[0]
    assert (one.seed_se, one.combined_se, one.interval) == (None, None, None)
    assert (one.basis, one.verdict) == ("test set only", "better")
    assert one.p == one.test_p
    (test,) = one.mcnemar
    a, b = answers(0.6 + 0.08, 808), answers(0.4 + 0.07, 507)
    assert test.p_exact == mcnemar(a, b).p_exact
    assert (test.only_run_right, test.only_baseline_right) == (int((a & ~b).sum()), int((b & ~a).sum()))
    assert any("no seed error" in text for text in found.warnings)
    assert found.pairs[0].aggregates[0].verdict == "better"
    assert found.arms[0].tasks["one"].seed_se is None


def test_equal_arms_show_no_difference(tmp_path):
    found = compare(arm(tmp_path, "abcd", 0.5) + arm(tmp_path, "efgh", 0.5), resamples=500)
    (pair,) = found.pairs
    assert [t.verdict for t in pair.tasks] == ["no difference shown"] * 2
    assert [t.difference for t in pair.tasks] == [0, 0]


def test_holm_decides_over_all_tasks(tmp_path):
    """A p-value that would do for one task does not do for twenty."""
    sides = []
    for data, extra in (("plain", 0), ("other", 9)):
        folder = tmp_path / data
        base = np.r_[np.ones(100), np.zeros(100)]
        better = base.copy()
        better[100 : 100 + extra] = 1
        better[:1] = 0 if extra else 1
        lines = [task(folder, "one", better)] + [task(folder, f"same{i:02d}", base) for i in range(19)]
        sides.append(results(folder, lines, data=data))
    (pair,) = compare(sides).pairs
    one = pair.tasks[0]
    assert one.p < 0.05 < one.p_holm
    assert one.verdict == "no difference shown"


def test_three_arms_are_each_against_the_first(tmp_path):
    paths = arm(tmp_path, "plain", 0.4) + arm(tmp_path, "good", 0.6) + arm(tmp_path, "bad", 0.2)
    found = compare(paths, resamples=500)
    assert [(p.baseline, p.arm) for p in found.pairs] == [("plain", "good"), ("plain", "bad")]
    assert [p.tasks[0].verdict for p in found.pairs] == ["better", "worse"]


def test_the_same_input_gives_the_same_document(two_arms):
    once = compare(two_arms, resamples=300).model_dump_json()
    assert once == compare(two_arms, resamples=300).model_dump_json()
    assert once != compare(two_arms, resamples=300, seed=1).model_dump_json()


def test_near_chance_is_said(tmp_path):
    found = compare(arm(tmp_path, "plain", 0.15) + arm(tmp_path, "filtered", 0.6), resamples=200)
    rate = found.arms[0].tasks["one"].mean
    assert rate < 0.12
    assert found.arms[0].tasks["one"].near_chance is True
    assert found.arms[1].tasks["one"].near_chance is False


# what is refused


def refused(paths, **more):
    with pytest.raises(UsageError) as caught:
        compare(paths, resamples=10, **more)
    return caught.value.message


def single(root, data, seed=0, lines=None, **more):
    folder = root / f"{data}{seed}"
    lines = lines(folder) if lines else [task(folder, "one", answers(0.5, 1))]
    return results(folder, lines, data=data, seed=seed, **more)


def test_another_recipe_is_named_field_by_field(tmp_path):
    a, b = single(tmp_path, "a"), single(tmp_path, "b", recipe_id="b" * 64)
    assert "recipe bbbbbbbbbbbb against aaaaaaaaaaaa" in refused([a, b])
    run_folder(
        tmp_path / "run-a", data="a", recipe="name: one\nbudget: {samples_seen: 12800}\noptim: {lr: 0.001}\n"
    )
    run_folder(
        tmp_path / "run-b", data="b", recipe="name: two\nbudget: {samples_seen: 128000}\noptim: {lr: 0.001}\n"
    )
    message = refused([a, b])
    assert "budget.samples_seen 128000 against 12800" in message
    assert "optim" not in message
    assert "two" not in message


def test_another_split_is_named_by_task(tmp_path):
    a = single(tmp_path, "a")
    other = hex_of("other")
    b = single(
        tmp_path, "b", lines=lambda f: [task(f, "one", answers(0.5, 1), task_digest=other)], suite_id="6" * 64
    )
    message = refused([a, b])
    assert "task one has other data, prompts or options" in message
    assert other[:12] in message


@pytest.mark.parametrize(
    ("lines", "more", "said"),
    [
        (
            lambda f: [task(f, "one", answers(0.5, 1)), task(f, "two", [1, 0])],
            {"suite_id": "6" * 64},
            "task two is only in one",
        ),
        (lambda f: [task(f, "one", answers(0.5, 1), metric="acc5")], {}, "is judged by acc5 against acc1"),
        (
            lambda f: [task(f, "one", answers(0.5, 1), family_version=2)],
            {},
            "zeroshot version 2 against zeroshot version 1",
        ),
        (lambda f: [task(f, "one", answers(0.5, 1, 399))], {}, "399 test examples against 400"),
        (None, {"eval_seed": 3}, "evaluation seed 3 against 0"),
        (None, {"suite_id": "6" * 64, "suite": "big"}, "the suite ('big' against 'small'"),
    ],
)
def test_every_other_difference_is_named(tmp_path, lines, more, said):
    a, b = single(tmp_path, "a"), single(tmp_path, "b", lines=lines, **more)
    assert said in refused([a, b])
    assert said in refused([a, b], allow_nonconforming=True)


def test_a_missing_set_on_one_side_is_named(tmp_path):
    absent = TaskLine(key="one", dataset="One", metrics={"main_metric": None}, status="missing")
    a, b = single(tmp_path, "a"), single(tmp_path, "b", lines=lambda f: [absent])
    assert "the set of task one was there for one evaluation only" in refused([a, b])


def test_an_overridden_run_needs_leave(tmp_path):
    a, b = single(tmp_path, "a"), single(tmp_path, "b", conforming=False)
    run_folder(tmp_path / "run-b", data="b", conforming=False, overrides={"optim.lr": 0.1})
    assert "changed optim.lr" in refused([a, b])
    found = compare([a, b], allow_nonconforming=True, resamples=50)
    assert "b0 does not conform to its recipe" in found.warnings
    assert found.recipe_id == RECIPE


def test_one_arm_or_one_run_is_nothing_to_compare(tmp_path):
    paths = arm(tmp_path, "plain", 0.4)
    assert "saw the same data" in refused(paths)
    assert "one evaluation" in refused(paths[:1])
    assert "same run" in refused([paths[0], paths[0]])
    found = compare(paths[:2], each_run=True, resamples=50)
    assert [a.label for a in found.arms] == ["plain-s0", "plain-s1"]
    same = labels_of(
        compare(paths[:2], each_run=True, resamples=50, labels={"plain-s0": "x", "plain-s1": "x"})
    )
    assert len(set(same)) == 2


def labels_of(found):
    return [a.label for a in found.arms]


def test_other_examples_under_the_same_digest_are_found(tmp_path):
    a = single(tmp_path, "a")
    keys = {"key": [f"{i:05d}" for i in reversed(range(N))]}
    b = single(tmp_path, "b", lines=lambda f: [task(f, "one", answers(0.5, 1), columns=keys)])
    assert "do not list the same test examples" in refused([a, b])


def test_changed_examples_are_an_integrity_error(tmp_path):
    a, b = single(tmp_path, "a"), single(tmp_path, "b")
    path = b / "examples" / "one.parquet"
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(IntegrityError, match="changed since it was written"):
        compare([a, b], resamples=10)


def test_what_is_no_evaluation_says_what_makes_one(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingInput, match=r"holds neither results\.json nor run\.json"):
        compare([tmp_path / "empty", tmp_path / "empty"])
    with pytest.raises(MissingInput, match="no such folder"):
        compare([tmp_path / "nowhere", tmp_path / "empty"])


# runs, labels, and where a model came from


def test_a_run_folder_stands_for_its_only_results(tmp_path):
    for data in "ab":
        run = run_folder(tmp_path / f"run-{data}", data=data)
        single(run, data)  # results inside the run
    paths = [tmp_path / "run-a", tmp_path / "run-b"]
    found = compare(paths, resamples=50)
    assert [a.label for a in found.arms] == ["run-a", "run-b"]
    assert found.arms[0].runs[0].samples_seen == 12_800
    assert found.arms[0].runs[0].unique_samples == 4_000
    assert found.recipe_name == "clip-nano"
    single(tmp_path, "a")  # and now a second one, beside it
    assert "has 2 results (run-a/a0, a0)" in refused(paths)


def test_a_run_without_results_says_how_to_get_them(tmp_path):
    run_folder(tmp_path / "run-a", data="a")
    single(tmp_path, "b")  # of another run
    with pytest.raises(MissingInput, match="has not been evaluated"):
        compare([tmp_path / "run-a", tmp_path / "b0"])


def test_a_model_picked_on_this_suite_is_flagged(tmp_path):
    a, b = single(tmp_path, "a"), single(tmp_path, "b")
    picked = {"selected_on": {"suite_id": read_results(b).suite_id}}
    run_folder(tmp_path / "run-b", data="b", extras=picked)
    found = compare([a, b], resamples=50)
    assert found.arms[1].runs[0].selected_on_suite
    assert any("selected by its figures on this very suite" in text for text in found.warnings)
    run_folder(tmp_path / "run-b", data="b", extras={"selected_on": hex_of("another suite")})
    assert not compare([a, b], resamples=50).arms[1].runs[0].selected_on_suite


def test_a_soup_is_no_seed_of_its_ingredients(tmp_path):
    """It has their data and the seed of one of them, but its spread is not that of seeds."""
    paths = arm(tmp_path, "plain", 0.4)
    soup = single(
        tmp_path,
        "plain",
        seed=9,
        lines=lambda f: [task(f, "one", answers(0.5, 9)), task(f, "two", answers(0.5, 8))],
    )
    run_folder(tmp_path / "run-soup", data="plain", seed=9, extras={"made_by": "soup", "soup": "uniform"})
    found = compare([*paths, soup], resamples=50)
    assert [len(a.runs) for a in found.arms] == [3, 1]


def test_labels_name_arms(two_arms):
    found = compare(
        two_arms, labels={"plain-s1": "no filter", hex_of("data", "filtered")[:8]: "CLIP 30 %"}, resamples=20
    )
    assert [a.label for a in found.arms] == ["no filter", "CLIP 30 %"]
    assert "'nothing'" in refused(two_arms, labels={"nothing": "x"})


def test_energy_stands_beside_each_run(tmp_path):
    a, b = single(tmp_path, "a"), single(tmp_path, "b")
    run_folder(tmp_path / "run-a", data="a")
    found = compare([a, b], resamples=50)
    rows = {(r.device, r.quality): r for r in found.arms[0].runs[0].costs if not r.sum}
    assert rows["gpu0", "measured"].joules == 900
    assert rows["gpu0", "measured"].joules_per_1000_samples == pytest.approx(900 / 12.8)
    value = found.arms[0].aggregates["mean of 1 task"].mean
    assert rows["cpu", "modelled"].joules_per_point == pytest.approx(500 / (100 * (value - 0.1)))
    sums = {r.quality: r.joules for r in found.arms[0].runs[0].costs if r.sum}
    assert sums == {"measured": 900, "modelled or assumed": 500}
    assert found.arms[1].runs[0].costs == []


# metrics that are no plain mean
