"""Means over tasks: plain, named after what went in, with the hash of their list; chance correction as an extra."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.train.results_kit import hex_of
from train.aggregate import (
    above_chance,
    aggregates,
    chance_of,
    datacomp_lists,
    main_aggregate,
    mean_above_chance,
    mean_error,
    members,
)
from train.results import TaskLine
from train.suite import load_suite


def line(key, value, metric="acc1", **more):
    fields = {
        "key": key,
        "dataset": key,
        "metrics": {"main_metric": value},
        "main_metric_name": metric,
        "standard_error": 0.02,
        "chance": 0.1,
        "task_digest": hex_of(key),
    }
    return TaskLine(**(fields | more))


def missing(key):
    return TaskLine(key=key, dataset=key, metrics={"main_metric": None}, status="missing")


def datacomp_lines():
    suite = load_suite("datacomp38")
    return suite, [
        line(task.key, 0.5, task.main_metric) if task.main_metric else missing(task.key)
        for task in suite.tasks
    ]


def test_a_mean_of_six_says_six():
    lines = [line(f"t{i}", i / 10) for i in range(6)]
    (found,) = aggregates(lines, {"average": [f"t{i}" for i in range(6)]})
    assert found.name == "mean of 6 tasks"
    assert found.value == pytest.approx(0.25)
    assert found.standard_error == pytest.approx(0.02 / math.sqrt(6))
    assert (found.n_tasks, found.of_tasks, found.complete, found.missing) == (6, 6, True, [])


def test_what_is_missing_is_counted_and_named():
    lines = [line("a", 0.2), missing("b"), line("c", None)]
    (found,) = aggregates(lines, {"average": ["a", "b", "c", "d"]})
    assert found.name == "mean of 1 of 4 tasks"
    assert found.value == 0.2
    assert (found.complete, found.missing) == (False, ["b", "c", "d"])


def test_nothing_there_is_null_not_zero():
    (found,) = aggregates([missing("a")], {"average": ["a"]})
    assert (found.value, found.standard_error, found.n_tasks, found.complete) == (None, None, 0, False)


def test_datacomps_names_are_for_datacomps_lists():
    suite, lines = datacomp_lines()
    found = {a.name: a for a in aggregates(lines, suite.groups())}
    assert list(found) == ["VTAB", "ImageNet", "ImageNet dist. shifts", "Retrieval", "Average"]
    assert found["Average"].n_tasks == 38
    assert found["VTAB"].n_tasks == 13
    assert all(a.complete for a in found.values())


def test_an_average_with_one_task_short_is_none():
    suite, lines = datacomp_lines()
    lines = [missing(one.key) if one.key == "mnist" else one for one in lines]
    names = [a.name for a in aggregates(lines, suite.groups())]
    assert "Average" not in names
    assert "mean of 37 of 38 tasks" in names
    assert "VTAB" in names


@pytest.mark.parametrize("group", ["Average", "average", "VTAB", "imagenet", " Retrieval"])
def test_a_suite_of_ones_own_cannot_take_such_a_name(group):
    (found,) = aggregates([line("mine", 0.9), line("yours", 0.8)], {group: ["mine", "yours"]})
    assert "2 tasks" in found.name
    assert found.name.lower() != group.lower()


def test_the_right_tasks_with_another_metric_are_another_mean():
    lines = [line("imagenet1k", 0.7, "acc5")]
    assert aggregates(lines, {"imagenet": ["imagenet1k"]})[0].name == "imagenet: mean of 1 task"
    assert aggregates([line("imagenet1k", 0.7)], {"imagenet": ["imagenet1k"]})[0].name == "ImageNet"


def test_the_hash_is_of_the_list_not_of_its_order_or_figures():
    a, b = line("a", 0.1), line("b", 0.2)

    def of(*lines):
        return aggregates(list(lines), {"g": [one.key for one in lines]})[0].task_list_id

    assert of(a, b) == of(b, a) == of(line("a", 0.9), b)
    assert len({of(a), of(b), of(a, b), of(a, line("b", 0.2, task_digest=hex_of("other")))}) == 4


def test_members_are_proven_by_the_hash():
    lines = [line("a", 0.1), line("b", 0.2), missing("c")]
    (whole,) = aggregates(lines, {"average": ["a", "b", "c"]})
    assert [one.key for one in members(whole, lines)] == ["a", "b"]
    changed = [line("a", 0.1, task_digest=hex_of("other")), lines[1]]
    assert members(whole, changed) is None
    suite, every = datacomp_lines()
    vtab = next(a for a in aggregates(every, suite.groups()) if a.name == "VTAB")
    assert {(one.key, one.main_metric_name) for one in members(vtab, every)} == datacomp_lists()["vtab"]


def test_the_main_mean_is_the_one_over_everything():
    lines = [line("a", 0.1), line("b", 0.2)]
    found = aggregates(lines, {"half": ["a"], "average": ["a", "b"], "other": ["b"]})
    assert main_aggregate(found).name == "mean of 2 tasks"
    assert main_aggregate([]) is None


def test_chance_is_an_extra_and_null_when_unknown():
    assert above_chance(0.55, 0.1) == pytest.approx(0.5)
    assert above_chance(0.1, 0.1) == 0
    assert above_chance(0.05, 0.1) < 0
    assert above_chance(0.5, None) is None
    assert above_chance(None, 0.1) is None
    assert above_chance(0.5, 1.0) is None
    assert mean_above_chance([line("a", 0.55), line("b", 0.1)]) == pytest.approx(0.25)
    assert mean_above_chance([line("a", 0.55), line("b", 0.1, chance=None)]) is None


def test_chance_falls_back_on_what_datacomp_states_for_that_metric():
    assert chance_of(line("vtab/kitti_closest_vehicle_distance", 0.3, chance=None)) == pytest.approx(0.295289)
    assert chance_of(line("vtab/kitti_closest_vehicle_distance", 0.3, chance=0.25)) == 0.25
    assert chance_of(line("vtab/kitti_closest_vehicle_distance", 0.3, "acc5", chance=None)) is None
    assert chance_of(line("mine", 0.3, chance=None)) is None


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_the_error_of_a_mean_of_equal_errors_shrinks_with_the_root(errors):
    found = mean_error(errors)
    assert found == pytest.approx(math.sqrt(sum(e * e for e in errors)) / len(errors))
    assert mean_error([*errors, None]) is None
