"""headwater leaderboard: tables that never mix, seeds averaged, conforming runs first, and what is left out."""

from __future__ import annotations

import os

import numpy as np
import pytest

from headwater.errors import MissingInput, UsageError
from tests.train.results_kit import hex_of, results, run_folder, task
from train import leaderboard as module
from train._leaderboard_page import page_of, text_of
from train.leaderboard import leaderboard, results_below
from train.results import TaskLine


def put(root, data, shares, *, start=0, lines=None, **more):
    """Evaluations of runs on `data`, one for each of `shares` (of 100 examples)."""
    for number, share in enumerate(shares, start):
        folder = root / f"{data}-s{number}"
        right = np.arange(100) < share
        made = (
            lines(folder, right) if lines else [task(folder, "one", right), task(folder, "two", right[::-1])]
        )
        results(folder, made, data=data, seed=number, **more)


def test_rows_are_means_over_seeds_with_their_error(tmp_path):
    put(tmp_path, "plain", [30, 32, 34])
    put(tmp_path / "deep" / "er", "good", [50])
    (board,) = leaderboard(tmp_path).boards
    assert [(r.rank, r.label, r.runs) for r in board.rows] == [(1, "good-s0", 1), (2, "plain", 3)]
    assert board.rows[1].value == pytest.approx(0.32)
    assert board.rows[1].seed_se == pytest.approx(0.02 / np.sqrt(3))
    assert board.rows[0].seed_se is None
    assert board.rows[0].test_se == pytest.approx(np.sqrt(0.25 / 99) / np.sqrt(2))
    assert board.aggregate == "mean of 2 tasks"
    assert board.chance == pytest.approx(0.1)


def test_recipes_suites_and_task_lists_never_share_a_table(tmp_path):
    put(tmp_path, "plain", [30, 31])
    put(tmp_path, "other-recipe", [30], recipe_id="b" * 64)
    put(tmp_path, "other-suite", [30], suite_id="6" * 64)
    put(tmp_path, "other-seed", [30], eval_seed=1)

    def short(folder, right):
        absent = TaskLine(key="two", dataset="Two", metrics={"main_metric": None}, status="missing")
        return [task(folder, "one", right), absent]

    put(tmp_path, "fewer", [90], lines=short)
    boards = leaderboard(tmp_path).boards
    assert [len(board.rows) for board in boards] == [1] * 5
    assert len({(b.recipe_id, b.suite_id, b.eval_seed, b.task_list_id) for b in boards}) == 5
    fewer = next(b for b in boards if b.rows[0].label == "fewer-s0")
    assert (fewer.n_tasks, fewer.of_tasks, fewer.complete) == (1, 2, False)
    assert "mean of 1 of 2 tasks, incomplete" in text_of(leaderboard(tmp_path))


def test_runs_that_changed_their_recipe_in_different_ways_are_no_seeds_of_each_other(tmp_path):
    for seed, changed in enumerate("aab"):
        run = run_folder(
            tmp_path / f"{changed}-s{seed}",
            data="plain",
            seed=seed,
            conforming=False,
            resolved_id=hex_of(changed),
        )
        lines = [task(run / "results", "one", [True] * 50 + [False] * 50)]
        results(run / "results", lines, data="plain", seed=seed, conforming=False)
    (board,) = leaderboard(tmp_path).boards
    assert sorted(row.runs for row in board.rows) == [1, 2]


def test_conforming_rows_come_first_and_others_have_no_rank(tmp_path):
    put(tmp_path, "plain", [30])
    put(tmp_path, "tuned", [90], conforming=False)
    put(tmp_path, "plain", [80], start=5, conforming=False)  # the same data, with an override: no seed of it
    (board,) = leaderboard(tmp_path).boards
    assert [(r.rank, r.label, r.conforming) for r in board.rows] == [
        (1, "plain-s0", True),
        (None, "tuned-s0", False),
        (None, "plain-s5", False),
    ]
    assert "tuned-s0 (not conforming)" in text_of(leaderboard(tmp_path))


def test_one_run_counts_once(tmp_path):
    put(tmp_path, "plain", [30])
    put(tmp_path / "again", "plain", [30])
    found = leaderboard(tmp_path)
    assert found.boards[0].rows[0].runs == 1
    assert [(s.path, s.why) for s in found.skipped] == [
        ("plain-s0", "the same run on the same suite as again/plain-s0")
    ]


def test_a_damaged_evaluation_is_named_and_the_rest_stands(tmp_path):
    put(tmp_path, "plain", [30])
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "results.json").write_text("{}")
    found = leaderboard(tmp_path)
    assert len(found.boards) == 1
    assert [s.path for s in found.skipped] == ["bad"]
    assert "left out: bad: " in text_of(found)


def test_runs_beside_give_samples_and_energy_kept_apart(tmp_path):
    put(tmp_path, "plain", [30, 40])
    run_folder(tmp_path / "runs-0", data="plain", seed=0)
    run_folder(tmp_path / "runs-1", data="plain", seed=1, unique_samples=5000)
    row = leaderboard(tmp_path).boards[0].rows[0]
    assert (row.samples_seen, row.unique_samples) == (12_800, 4_500)
    assert (row.measured_joules, row.modelled_joules) == (900, 500)
    put(tmp_path, "plain", [50], start=2)  # a run that is nowhere
    row = leaderboard(tmp_path).boards[0].rows[0]
    assert (row.runs, row.unique_samples, row.measured_joules) == (3, None, None)


def test_the_walk_is_bounded(tmp_path, monkeypatch):
    put(tmp_path / "a" / "b", "plain", [30])
    put(tmp_path / ".hidden", "x", [30])
    os.symlink(tmp_path / "a", tmp_path / "link")
    assert [p.relative_to(tmp_path).as_posix() for p in results_below(tmp_path)] == ["a/b/plain-s0"]
    monkeypatch.setattr(module, "MAX_DEPTH", 2)
    assert list(results_below(tmp_path)) == []
    monkeypatch.setattr(module, "MAX_FOLDERS", 2)
    with pytest.raises(UsageError, match="more than 2 folders"):
        list(results_below(tmp_path))


def test_nothing_found_says_what_makes_evaluations(tmp_path):
    with pytest.raises(MissingInput, match="no evaluations below it"):
        leaderboard(tmp_path)
    with pytest.raises(MissingInput, match="no such folder"):
        leaderboard(tmp_path / "nowhere")


def test_the_page_holds_all_figures_and_nothing_from_elsewhere(tmp_path):
    put(tmp_path, "<b>plain&", [30, 32])
    put(tmp_path, "tuned", [90], conforming=False)
    found = leaderboard(tmp_path)
    page = page_of(found).decode()
    assert page == page_of(leaderboard(tmp_path)).decode()
    assert "<b>plain" not in page
    assert "&lt;b&gt;plain&amp;" in page
    assert "not conforming" in page
    assert "31.00" in page
    assert "src=" not in page
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")


def test_the_text_has_chance_below_the_figures(tmp_path):
    put(tmp_path, "plain", [30])
    text = text_of(leaderboard(tmp_path))
    assert "chance 10.00" in text
    (row,) = [line for line in text.splitlines() if "(chance)" in line]
    assert row.split() == ["(chance)", "10.00", "10.00", "10.00"]
    assert hex_of("data", "plain")[:12] not in text  # labels, where there are some
