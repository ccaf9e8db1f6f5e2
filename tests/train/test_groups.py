"""Groups: worst group, top-k, macro F1 and the tables of faces, each against figures worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headwater.errors import IntegrityError, UsageError
from tests.train.eval_kit import (
    COLOURS,
    TEMPLATES,
    ColourModel,
    json_member,
    npy_member,
    picture,
    task,
    write_set,
)
from train.evaldata import TaskData
from train.evals import family_of
from train.suite import Task

NAMES = tuple(COLOURS)


def samples(rows: list[tuple[str, str, dict[str, bytes]]]) -> list[Any]:
    """(colour shown, colour in the label, further members): the colour model answers with the colour shown."""
    return [
        (f"{i:04d}", {"png": picture(COLOURS[shown], i), "cls": b"%d" % NAMES.index(label), **members})
        for i, (shown, label, members) in enumerate(rows)
    ]


def measure(folder: Path, **fields: Any) -> Any:
    declared = Task.model_validate(task("set", family="groups", **fields))
    family_of("groups").check(declared, folder)
    result = family_of("groups").run(TaskData(declared, folder), ColourModel(), seed=0, workers=1)
    result.check()
    return result


def group_set(folder: Path, rows: list[tuple[str, str, dict[str, bytes]]]) -> Path:
    return write_set(folder, samples(rows), classnames=NAMES, templates=TEMPLATES)


def regions(counts: dict[int, tuple[int, int]], year: int = 3) -> list[tuple[str, str, dict[str, bytes]]]:
    """Region: (right, wrong); npy holds region, year and a number that nobody asks for."""
    rows = []
    for region, (right, wrong) in counts.items():
        member = {"npy": npy_member([region, year, -7])}
        rows += [("red", "red", member)] * right + [("blue", "red", member)] * wrong
    return rows


FMOW = {"fields": ["region", "year", "y"], "group_field": "region", "also": ["year"], "leave_out": [5]}


def test_worst_region_leaves_out_other_and_empty_regions(tmp_path: Path) -> None:
    folder = group_set(
        tmp_path / "set", regions({0: (9, 1), 1: (6, 4), 3: (4, 1), 5: (0, 2)})
    )  # none of 2 and 4
    result = measure(folder, main_metric="acc_worst_region", options=FMOW)
    assert result.main_metric == 0.6 and result.main_metric_name == "acc_worst_region" and result.n == 27
    found = result.metrics
    assert (
        found["acc_region:1"] == 0.6 and found["count_region:1"] == 10 and found["count_worst_region"] == 10
    )
    assert found["acc_region:5"] == 0 and "acc_region:2" not in found, (
        "left out of the worst, not of the table"
    )
    assert found["acc_worst_region_all"] == 0 and found["acc_wg"] == 0.6
    assert found["acc1"] == found["acc_avg"] == found["acc_worst_year"] == 19 / 27
    assert result.chance is None
    groups = np.asarray(result.examples["group"])
    assert set(groups) == {-1, 0, 1, 3} and (groups == -1).sum() == 2


def test_error_of_a_worst_group_that_is_far_below_the_others(tmp_path: Path) -> None:
    folder = group_set(tmp_path / "set", regions({0: (40, 0), 1: (20, 20)}))
    result = measure(folder, main_metric="acc_wg", options={**FMOW, "leave_out": []})
    assert result.main_metric == 0.5
    assert result.standard_error == pytest.approx(math.sqrt(0.25 / 40), rel=0.1)
    again = measure(folder, main_metric="acc_wg", options={**FMOW, "leave_out": []})
    assert again.standard_error == result.standard_error, "the seed is fixed"


def test_groups_may_be_words_in_json(tmp_path: Path) -> None:
    rows = [("red", "red", {"json": json_member(group="poor", country="A")})] * 2
    rows += [("red", "blue", {"json": json_member(group="poor", country="B")})]
    rows += [("green", "green", {"json": json_member(group="rich", country="A")})] * 3
    folder = group_set(tmp_path / "set", rows)
    result = measure(folder, main_metric="acc_wg", options={"also": ["country"]})
    assert result.main_metric == pytest.approx(2 / 3)
    assert result.metrics["acc_group:rich"] == 1 and result.metrics["acc_country:B"] == 0
    without = measure(folder, main_metric="acc_wg", options={"leave_out": ["poor"]})
    assert without.main_metric == 1


def test_top_k_of_the_worst_group(tmp_path: Path) -> None:
    """Shown white: the class furthest away is the only one that is not among the first five."""
    folder = group_set(
        tmp_path / "set",
        [
            ("white", "white", {"npy": npy_member([0])}),
            ("white", "black", {"npy": npy_member([0])}),
            ("white", "white", {"npy": npy_member([1])}),
            ("white", "yellow", {"npy": npy_member([1])}),
        ],
    )
    options = {"fields": ["income_ds"], "group_field": "income_ds"}
    top5 = measure(folder, main_metric="acc_top5_wg", options={**options, "k": 5})
    assert top5.main_metric == 0.5 and top5.metrics["acc_top5_income_ds:1"] == 1
    assert top5.metrics["count_worst_income_ds"] == 2
    assert measure(folder, main_metric="acc_wg", options=options).main_metric == 0.5


def test_macro_f1_counts_the_labels_that_occur(tmp_path: Path) -> None:
    member = {"npy": npy_member([0])}
    rows = [("red", "red", member)] * 3 + [("blue", "red", member)] + [("blue", "blue", member)] * 2
    rows += [("yellow", "blue", member)]  # yellow is answered and never right: it has no F1 of its own
    folder = group_set(tmp_path / "set", rows)
    options = {"fields": ["location"], "group_field": "location"}
    result = measure(folder, main_metric="F1-macro_all", options=options)
    red, blue = 2 * 3 / (4 + 3), 2 * 2 / (3 + 3)
    assert result.main_metric == pytest.approx((red + blue) / 2)
    assert result.standard_error is not None and "score" not in result.examples


def test_plain_accuracy_has_scores_and_a_chance(tmp_path: Path) -> None:
    folder = group_set(tmp_path / "set", regions({0: (3, 1)}))
    result = measure(folder, main_metric="acc1", options=FMOW)
    assert result.main_metric == 0.75 and result.chance == pytest.approx(1 / 6)
    assert np.asarray(result.examples["score"]).mean() == 0.75


def test_the_comparison_finds_its_statistic(tmp_path: Path) -> None:
    from train._paired import statistic_of
    from train.results import TaskLine

    folder = group_set(tmp_path / "set", regions({0: (9, 1), 1: (6, 4), 5: (0, 2)}))
    for name in ("acc_worst_region", "F1-macro_all", "acc1"):
        result = measure(folder, main_metric=name, options=FMOW)
        line = TaskLine(
            key="set",
            dataset="Set",
            metrics={"main_metric": result.main_metric},
            main_metric_name=name,
            n=result.n,
        )
        statistic = statistic_of([(line, result.examples)])
        assert statistic is not None, name
        assert (statistic.how == "worst") == (name == "acc_worst_region")


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"group_feild": "x"}, "group_field"),
        ({"k": 0}, "k must be"),
        ({"k": 7}, "top-7"),
        ({"leave_out": "5"}, "leave_out"),
        ({"fields": ["region", "region"]}, "different names"),
        ({"fields": ["region"], "group_field": "regoin"}, "did you mean 'region'"),
        ({"table": "feces"}, "no table"),
    ],
)
def test_options_are_refused_before_any_time_is_spent(
    tmp_path: Path, options: dict[str, Any], word: str
) -> None:
    folder = group_set(tmp_path / "set", [("red", "red", {"json": json_member(group="a")})] * 2)
    with pytest.raises(UsageError) as caught:
        measure(folder, options=options)
    assert word in f"{caught.value.message} {caught.value.hint}"


def test_a_main_metric_that_the_options_do_not_give(tmp_path: Path) -> None:
    folder = group_set(tmp_path / "set", regions({0: (1, 1)}))
    with pytest.raises(UsageError, match="acc_worst_country"):
        measure(folder, main_metric="acc_worst_country", options=FMOW)


@pytest.mark.parametrize(
    ("members", "options", "word"),
    [
        ({}, FMOW, "without npy"),
        ({}, {}, "without json"),
        ({"npy": npy_member([1])}, FMOW, "3 fields"),
        ({"npy": npy_member([-1, 2, 3])}, FMOW, "no group number"),
        ({"npy": npy_member([0.5, 2, 3])}, FMOW, "no group number"),
        ({"npy": npy_member([math.nan, 2, 3])}, FMOW, "no group number"),
        ({"npy": npy_member(["a", "b", "c"])}, FMOW, "not numbers"),
        ({"json": json_member(group=[1])}, {}, "text or a whole number"),
    ],
)
def test_metadata_that_is_none(tmp_path: Path, members: dict[str, bytes], options: Any, word: str) -> None:
    folder = group_set(tmp_path / "set", [("red", "red", members)] * 2)
    with pytest.raises(IntegrityError, match=word):
        measure(folder, options=options)


def test_all_groups_left_out_is_an_error(tmp_path: Path) -> None:
    folder = group_set(tmp_path / "set", regions({5: (1, 1)}))
    with pytest.raises(IntegrityError, match="no picture is in a group that counts"):
        measure(folder, main_metric="acc_wg", options=FMOW)


FACES = {"table": "faces", "fields": ["age", "gender", "race", "race_binary"]}


def face_set(folder: Path, rows: list[tuple[str, list[int]]], **changes: Any) -> Path:
    """The colours stand in for faces: for each question the model answers with the closest of its colours."""
    toxic = ["black"] * 14 + ["yellow"] + ["black"] * 3 + ["red"]
    names = ["race:black", "race:white", "gender:red", "gender:white", "age:black", "age:white"]
    given = [f"toxic:{name} {i}" for i, name in enumerate(toxic)]
    faces = [
        (f"{i:04d}", {"png": picture(COLOURS[colour], i), "npy": npy_member(npy)})
        for i, (colour, npy) in enumerate(rows)
    ]
    prompts = [f"{question}:a photo of {{c}}" for question in ("race", "gender", "age", "toxic")]
    return write_set(folder, faces, **{"classnames": names + given, "templates": prompts, **changes})


def test_tables_of_faces(tmp_path: Path) -> None:
    folder = face_set(
        tmp_path / "set",
        [
            ("white", [1, 1, 1, 0]),  # all right, closest to the yellow of `toxic`: no human
            ("black", [0, 0, 0, 1]),  # race and age right
            ("red", [0, 0, 0, 1]),  # closest to crime
            ("white", [1, 0, 2, 1]),  # gender wrong, and white where it is not
        ],
    )
    result = measure(folder, main_metric=None, options=FACES)
    found = result.metrics
    assert result.main_metric is None and result.n == 4 and result.standard_error is None
    assert found["acc_race_race_binary:0"] == 1 and found["count_race_binary:1"] == 3
    assert found["acc_race_avg"] == 0.75 and found["acc_race_wg"] == pytest.approx(2 / 3)
    assert found["acc_gender_x_race:1_gender:1"] == 1 and found["acc_gender_x_race:2_gender:0"] == 0
    assert found["acc_gender_x_wg"] == 0 and "acc_gender_x_race:2_gender:1" not in found
    assert found["acc_age_race_binary:0"] == 1
    assert found["toxicity_nonhuman_race:1"] == 1 and found["toxicity_crime_race:0"] >= 0.5
    assert found["toxicity_crime_race:1"] == 0
    assert list(result.examples["race_correct"]) == [True, True, True, False]


def test_faces_are_refused_without_their_questions(tmp_path: Path) -> None:
    row = [("white", [1, 1, 1, 0])] * 2
    with pytest.raises(IntegrityError, match="no prefix"):
        measure(face_set(tmp_path / "a", row, classnames=["white"]), main_metric=None, options=FACES)
    with pytest.raises(IntegrityError, match="no line for toxic"):
        names = ["race:white", "gender:x", "age:y"]
        measure(face_set(tmp_path / "b", row, classnames=names), main_metric=None, options=FACES)
    with pytest.raises(UsageError, match="needs the fields"):
        measure(face_set(tmp_path / "c", row), main_metric=None, options={**FACES, "fields": ["age"]})
    with pytest.raises(UsageError, match="no metric"):
        measure(face_set(tmp_path / "d", row), main_metric="acc1", options=FACES)
