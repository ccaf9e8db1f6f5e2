"""NormSim-D against its steps written out: sizes, rounds, last scores and ties, in any layout."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.scores import normsim_d
from curate.scores.normsim_d import Config, best_rows, sizes
from curate.subset import from_hex, write_sorted
from headwater.errors import IntegrityError, MissingInput, UsageError
from tests.curate.feature_kit import uid_of
from tests.curate.target_kit import Rows, invalid, layouts, run, usable, whole_rows


def steps_written_out(
    rows: Rows, start: list[int], end: int, steps: int, geometric: bool
) -> tuple[dict[int, int], dict[int, float]]:
    """Rounds and scores by row number; the number is also the order of uids."""

    def score(x: int, members: list[int]) -> np.float32:
        total = 0
        for y in members:
            total += sum(int(a) * int(b) for a, b in zip(rows[x], rows[y], strict=True)) ** 2
        return np.float32(math.sqrt(total))

    members, rounds, last = list(start), {}, {}
    n0, end = len(start), min(len(start), end)
    for t in range(1, steps + 1):
        size = n0 - (t * (n0 - end)) // steps
        if geometric:
            size = end if t == steps or not n0 else max(end, math.floor(n0 * (end / n0) ** (t / steps)))
        scores = {x: score(x, members) for x in members}
        kept = sorted(members, key=lambda x: (-scores[x], x))[:size]
        for x in set(members) - set(kept):
            rounds[x], last[x] = t - 1, scores[x]
        members = sorted(kept)
    for x in members:
        rounds[x], last[x] = steps, score(x, members)
    return rounds, {x: float(value) for x, value in last.items()}


def subset_file(path: Path, numbers: list[int]) -> Path:
    with path.open("wb") as handle:
        write_sorted(handle, [from_hex([uid_of(n) for n in sorted(numbers)])] if numbers else [])
    return path


@settings(max_examples=15)
@given(st.data())
def test_it_is_the_steps_written_out_in_any_layout(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    rows = data.draw(whole_rows(most=12))
    config = {
        "fraction": data.draw(st.sampled_from([0.1, 0.3, 0.5, 1])),
        "steps": data.draw(st.integers(1, 15)),
        "sizes": data.draw(st.sampled_from(["linear", "geometric"])),
    }
    start = usable(rows)
    if data.draw(st.booleans()):
        chosen = data.draw(st.lists(st.integers(0, 13), unique=True))  # some are nowhere in the pool
        config["subset"] = subset_file(tmp_path_factory.mktemp("s") / "s.npy", chosen)
        start = [x for x in start if x in chosen]
        if len(rows) and not any(x < len(rows) for x in chosen):
            with pytest.raises(
                UsageError, match=f"{len(chosen)} uids is in the pool" if chosen else "holds no uids"
            ):
                run("normsim_d", rows, **config)
            return
    end = max(1, math.floor(len(rows) * config["fraction"]))
    rounds, last = steps_written_out(rows, start, end, config["steps"], config["sizes"] == "geometric")
    made = run("normsim_d", rows, **config)
    for x in range(len(rows)):
        outside = -1 if x in usable(rows) else None
        assert made["normsim_d_round"][x] == rounds.get(x, outside)
        assert made["normsim_d"][x] == last.get(x, outside)
    assert made.facts["counts"]["invalid"] == invalid(rows)
    again = run("normsim_d", rows, layout=data.draw(layouts(len(rows))), memory_bytes=500, **config)
    assert again.columns == made.columns


@given(st.integers(0, 60), st.integers(1, 60), st.integers(1, 30), st.sampled_from(["linear", "geometric"]))
def test_sizes_fall_from_the_first_to_the_last(start: int, rows: int, steps: int, kind: str) -> None:
    config = Config(fraction=0.2, steps=steps, sizes=kind)
    made = sizes(config, start, rows)
    assert len(made) == steps and made[-1] == min(start, max(1, int(rows * 0.2)))
    assert all(a >= b for a, b in zip([start, *made], made, strict=False))


def test_a_set_that_spreads_keeps_what_it_has_most_of() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(60, 4)).astype(np.float32) * np.array([4, 1, 1, 0.2], np.float32)
    made = run("normsim_d", rows, fraction=0.25, steps=9)
    left = np.array(made["normsim_d_round"]) == 9
    assert left.sum() == 15 and made.facts["notes"]["rows_left"] == 15
    assert np.abs(rows[left, 0]).min() > np.median(np.abs(rows[:, 0]))


def test_equal_rows_go_by_uid() -> None:
    made = run("normsim_d", np.ones((6, 2), np.float32), fraction=0.5, steps=3)
    assert made["normsim_d_round"] == [3, 3, 3, 2, 1, 0]


def test_the_best_of_scores_with_ties() -> None:
    high = np.array([1, 0, 1, 0, 0], np.uint64)
    low = np.array([0, 9, 1, 2**64 - 1, 3], np.uint64)
    score = np.array([2, 2, 2, 2, 5], np.float32)
    assert best_rows(score, high, low, 3).tolist() == [False, True, False, True, True]
    assert best_rows(score, high, low, 0).tolist() == [False] * 5
    assert best_rows(score, high, low, 5).all()


def test_empty_and_one_row() -> None:
    assert run("normsim_d", np.zeros((0, 3), np.float32))["normsim_d_round"] == []
    assert run("normsim_d", np.ones((1, 3), np.float32), steps=4)["normsim_d_round"] == [4]
    nothing = run("normsim_d", np.zeros((3, 2), np.float32))
    assert nothing["normsim_d_round"] == [None] * 3 and nothing.facts["counts"]["kept"] == 0


@pytest.mark.parametrize(
    "wrong",
    [{"fraction": 0.0}, {"fraction": 1.5}, {"fraction": float("nan")}, {"steps": 0}, {"sizes": "cubic"}],
)
def test_settings_that_make_no_sense(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        normsim_d.Scorer(Config(**wrong))  # type: ignore[arg-type]


def test_a_subset_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="no such subset file"):
        normsim_d.Scorer(Config(subset=tmp_path / "s.npy"))
    (tmp_path / "s.npy").write_bytes(b"not a subset")
    with pytest.raises(IntegrityError, match="not a subset file"):
        normsim_d.Scorer(Config(subset=tmp_path / "s.npy"))
