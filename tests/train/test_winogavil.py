"""WinoGAViL: the choice, its Jaccard index against sets written out, chance against all choices, and items that are none."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.errors import IntegrityError, UsageError
from tests.train.eval_kit import COLOURS, ColourModel, picture, task, write_set
from train.evaldata import TaskData
from train.evals import family_of
from train.evals.winogavil import choose, guess, overlap, prompt
from train.suite import Task

NAMES = tuple(COLOURS)  # red green blue yellow black white


def wino_set(folder: Path, items: list[Any], *, pictures: int = 24, damaged: tuple[int, ...] = ()) -> Path:
    """Picture i, key 000i, shows colour i mod 6."""
    shown = [
        (f"{i:04d}", {"png": b"no picture" if i in damaged else picture(COLOURS[NAMES[i % 6]], i)})
        for i in range(pictures)
    ]
    write_set(folder, shown)
    lines = [item if isinstance(item, str) else json.dumps(item) for item in items]
    (folder / "items.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def item(cue: str, right: list[int], candidates: int = 10) -> dict[str, Any]:
    return {
        "cue": cue,
        "candidates": [f"{i:04d}" for i in range(candidates)],
        "associations": [f"{i:04d}" for i in right],
    }


def measure(folder: Path, **fields: Any) -> tuple[Any, TaskData]:
    fields = {"main_metric": "jaccard_score_10-12", **fields}
    declared = Task.model_validate(task("set", family="winogavil", **fields))
    family_of("winogavil").check(declared, folder)
    data = TaskData(declared, folder)
    result = family_of("winogavil").run(data, ColourModel(), seed=0, workers=1)
    result.check()
    return result, data


def test_scores_of_items_and_what_is_counted(tmp_path: Path) -> None:
    folder = wino_set(
        tmp_path / "set",
        [
            item("red", [0, 6]),  # both reds: 1
            item("blue", [2, 3], 12),  # 2 and 8 are chosen: one of three
            item("yellow", [3], 5),  # right, and of a size that is not counted
            item("yellow", [0], 6),  # wrong
        ],
    )
    result, _ = measure(folder, size=4)
    assert result.main_metric == pytest.approx((1 + 1 / 3) / 2)
    assert result.n == 2 and np.asarray(result.examples["score"]) == pytest.approx([1, 1 / 3])
    found = result.metrics
    assert found["jaccard_score_10-12"] == result.main_metric
    assert (found["jaccard_score_5"], found["jaccard_score_6"]) == (1, 0)
    assert found["avg_jaccard_score"] == pytest.approx((1 + 1 / 3 + 1 + 0) / 4)
    assert result.chance == pytest.approx((guess(10, 2) + guess(12, 2)) / 2)
    every, _ = measure(folder, main_metric="avg_jaccard_score")
    assert every.n == 4 and every.main_metric == found["avg_jaccard_score"]


def test_the_sizes_that_count_are_an_option(tmp_path: Path) -> None:
    folder = wino_set(tmp_path / "set", [item("red", [0], 4), item("red", [1], 10)])
    result, _ = measure(folder, main_metric="jaccard_score_4", options={"candidates": [4]})
    assert result.main_metric == 1 and result.n == 1 and result.standard_error is None
    with pytest.raises(UsageError, match="jaccard_score_10-12"):
        measure(folder, options={"candidates": [4]})


def test_an_item_with_a_picture_that_cannot_be_decoded_is_left_out(tmp_path: Path) -> None:
    folder = wino_set(tmp_path / "set", [item("red", [0, 6]), item("blue", [2], 12)], damaged=(11,))
    result, data = measure(folder)
    assert result.n == 1 and result.main_metric == 1 and len(data.invalid["test"]) == 1


@pytest.mark.parametrize(
    ("cue", "expected"),
    [("Owl", "An owl"), ("bird", "A bird"), ("Unicorn", "An unicorn"), ("hour", "A hour")],
)
def test_prompt_is_the_one_of_datacomp(cue: str, expected: str) -> None:
    assert prompt(cue) == expected


def test_ties_go_to_the_candidate_named_first() -> None:
    cue, same = np.array([1.0, 0.0], np.float32), np.array([[1, 0], [0, 1], [1, 0], [1, 0]], np.float32)
    assert choose(cue, same, 2) == (0, 2)


@given(st.integers(1, 8), st.data())
def test_chance_is_the_mean_over_all_choices(candidates: int, data: Any) -> None:
    k = data.draw(st.integers(1, candidates))
    right = tuple(range(k))
    choices = list(itertools.combinations(range(candidates), k))
    assert guess(candidates, k) == pytest.approx(sum(overlap(c, right) for c in choices) / len(choices))


@pytest.mark.parametrize(
    ("items", "word"),
    [
        ([], "line 1: not JSON"),
        (["[1, 2]"], "no object"),
        (["{"], "not JSON"),
        (["[" * 5000], "line 1"),
        ([{**item("red", [0]), "cue": " "}], "no cue"),
        ([{**item("red", [0]), "candidates": "0001"}], "no list of keys"),
        ([{**item("red", [0]), "candidates": ["a", "a"]}], "twice"),
        ([{**item("red", [0]), "associations": []}], "empty"),
        ([{**item("red", [0]), "associations": ["9999"]}], "no candidate"),
        ([item("red", [0], 30)], "no item has 10 or 12"),
        ([item("red", [0]), {**item("red", [0]), "candidates": ["0000", "gone"]}], "'gone'"),
        ([item("red", [0], 5)], "no item has 10 or 12 candidates"),
    ],
)
def test_items_that_are_none_are_told_before_any_time_is_spent(
    tmp_path: Path, items: list[Any], word: str
) -> None:
    with pytest.raises(IntegrityError, match=word):
        measure(wino_set(tmp_path / "set", items))


def test_size_counts_items_and_keys_are_unique(tmp_path: Path) -> None:
    folder = wino_set(tmp_path / "set", [item("red", [0])])
    with pytest.raises(IntegrityError, match="1 items, but the suite declares 24"):
        measure(folder, size=24)
    doubled = [("0000", {"png": picture(COLOURS["red"], i)}) for i in range(2)]
    write_set(folder, doubled, shards=2)
    (folder / "items.jsonl").write_text(json.dumps({**item("red", [0], 1)}) + "\n")
    with pytest.raises(IntegrityError, match="names two pictures|no item"):
        measure(folder)


def test_the_items_are_part_of_the_digest(tmp_path: Path) -> None:
    from train.suite import Suite, task_files

    wino_set(tmp_path / "set", [item("red", [0])])
    declared = Task.model_validate(task("set", family="winogavil", main_metric="jaccard_score_10-12"))
    assert "set/items.jsonl" in task_files(Suite("x", tmp_path, (declared,)), declared)
