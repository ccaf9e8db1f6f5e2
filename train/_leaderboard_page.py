"""A leaderboard as text and as one HTML page; figures in percent, `±` one standard error of the mean over seeds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from headwater.console import printable
from train import _forest as forest
from train._comparison_text import table
from train._pages import points, quantity, render, short
from train.leaderboard import Board, Leaderboard, Row

TEMPLATE = "leaderboard.html.j2"
TASKS_IN_TEXT = 8  # more columns fit no terminal; the page and --json have all


def text_of(found: Leaderboard) -> str:
    """Every table, and what is in none."""
    lines: list[str] = []
    for board in found.boards:
        lines += [*_board_text(board), ""]
    if found.boards:
        lines.append("percent; ±seeds: spread of whole runs (– for one run), ±test: test examples of one run")
        lines.append(
            "tables have other recipes, suites or tasks: their figures may not be compared with each other"
        )
    lines += [f"left out: {one.path}: {one.why}" for one in found.skipped]
    return printable("\n".join(lines).rstrip("\n"))


def title_of(board: Board) -> str:
    """The table in words."""
    incomplete = "" if board.complete else ", incomplete"
    return f"{board.recipe_name or 'recipe'} on suite {board.suite}: {board.aggregate}{incomplete}"


def _board_text(board: Board) -> Iterator[str]:
    yield title_of(board)
    yield (
        f"  recipe {short(board.recipe_id)}, suite {short(board.suite_id)}, tasks {short(board.task_list_id)},"
        f" chance {points(board.chance)}"
    )
    columns = [*board.aggregates, *(board.tasks if len(board.tasks) <= TASKS_IN_TEXT else [])]
    head = [
        "",
        "data",
        "runs",
        board.aggregate,
        "±seeds",
        "±test",
        *(column.name for column in columns),
        "unique",
    ]
    rows = [head]
    for row in board.rows:
        figures = row.aggregates | row.tasks
        rows.append(
            [
                str(row.rank) if row.rank else "",
                row.label + _marks(row),
                str(row.runs),
                points(row.value),
                points(row.seed_se),
                points(row.test_se),
                *(points(figures.get(column.key)) for column in columns),
                f"{row.unique_samples:,.0f}" if row.unique_samples is not None else "–",
            ]
        )
    if any(task.chance is not None for task in board.tasks):
        known = {task.key: task.chance for task in board.tasks}
        chances = [points(known.get(column.key)) for column in columns]
        rows.append(["", "(chance)", "", points(board.chance), "", "", *chances, ""])
    yield from table(rows, left={1})


def _marks(row: Row) -> str:
    said = [] if row.conforming else ["not conforming"]
    said += ["selected on this suite"] if row.selected_on_suite else []
    return f" ({', '.join(said)})" if said else ""


def page_of(found: Leaderboard) -> bytes:
    """The page as bytes: the same evaluations give the same bytes."""
    return render(TEMPLATE, {"found": found, "boards": [_board_page(board) for board in found.boards]})


def _board_page(board: Board) -> dict[str, Any]:
    numbers = [v for row in board.rows for v in row.values if v is not None]
    axis = forest.axis_for([*numbers, board.chance if board.chance is not None else 0.0], zero=False)
    return {
        "title": title_of(board),
        "board": board,
        "scale": forest.scale(axis, "percent"),
        "rows": [
            {
                "row": row,
                "marks": _marks(row).strip(" ()"),
                "drawing": forest.strip(
                    axis,
                    board.chance,
                    [(row.label, 1 if row.conforming else 0, [v for v in row.values if v is not None])],
                )
                if row.value is not None
                else "",
                "energy": [
                    _per_1000(joules, row.samples_seen)
                    for joules in (row.measured_joules, row.modelled_joules)
                ],
            }
            for row in board.rows
        ],
        "columns": [*board.aggregates, *board.tasks],
    }


def _per_1000(joules: float | None, samples: float | None) -> str:
    return "–" if joules is None or not samples else quantity(1000 * joules / samples)
