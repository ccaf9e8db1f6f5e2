"""The closest evaluation row and the list of matches against all cosines, one at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.scores import contamination
from headwater.errors import UsageError
from tests.curate.feature_kit import uid_of
from tests.curate.target_kit import UNIT, Rows, invalid, layouts, run, table_of, unit_rows, usable


def cosines(rows: Rows, others: Rows) -> dict[tuple[int, int], np.float32]:
    out = {}
    for x in usable(rows):
        for e in usable(others):
            a, b = rows[x].astype(np.float64), others[e].astype(np.float64)
            out[x, e] = np.float32((a @ b) / np.sqrt((a @ a) * (b @ b)))
    return out


def listed(made: Any) -> list[tuple[str, str, float]]:
    return list(zip(*table_of(made, "matches.parquet").to_pydict().values(), strict=True))


@settings(max_examples=15)
@given(st.data())
def test_it_is_the_largest_cosine_and_all_pairs_in_any_layout(data: st.DataObject) -> None:
    rows, others = data.draw(unit_rows()), data.draw(unit_rows(least=1, most=6))
    if not usable(others):
        return
    report_at = data.draw(st.sampled_from([-1.0, 0.0, 0.5, 0.75, 1.0]))
    made = run("contamination", rows, target=others, report_at=report_at)
    every = cosines(rows, others)
    for x in range(len(rows)):
        mine = {e: value for (row, e), value in every.items() if row == x}
        best = max(mine.values(), default=None)
        first = next((f"target.npy:{e}" for e, value in mine.items() if value == best), None)
        assert made["contamination_similarity"][x] == best and made["contamination_of"][x] == first
    pairs = sorted((x, -value, e) for (x, e), value in every.items() if value >= report_at)
    assert listed(made) == [(uid_of(x), f"target.npy:{e}", -value) for x, value, e in pairs]
    notes = made.facts["notes"]
    assert notes["pairs_that_match"] == len(pairs) and notes["pairs_not_listed"] == 0
    assert notes["rows_that_match"] == len({x for x, _, _ in pairs})
    assert made.facts["counts"]["invalid"] == invalid(rows)
    layout = data.draw(layouts(len(rows)))
    again = run("contamination", rows, target=others, report_at=report_at, layout=layout, memory_bytes=130)
    assert again.columns == made.columns and listed(again) == listed(made)


def test_only_the_best_pairs_of_a_row_are_listed_and_the_others_counted() -> None:
    others = UNIT[[9, 8, 10, 8]]
    made = run("contamination", UNIT[[8, 0]], target=others, report_at=0.5, most_per_row=2, memory_bytes=100)
    assert listed(made) == [
        (uid_of(0), "target.npy:1", 1.0),
        (uid_of(0), "target.npy:3", 1.0),
        (uid_of(1), "target.npy:1", 0.5),
        (uid_of(1), "target.npy:2", 0.5),
    ]
    assert made.facts["notes"]["pairs_that_match"] == 7 and made.facts["notes"]["pairs_not_listed"] == 3


def test_copies_of_random_rows_are_found_and_nothing_else() -> None:
    rng = np.random.default_rng(2)
    rows, others = (rng.normal(size=(n, 32)).astype(np.float16) for n in (400, 70))
    copies = {5: 3, 111: 69, 399: 0}
    for x, e in copies.items():
        rows[x] = others[e] * np.float16(2)
    made = run(
        "contamination",
        rows,
        target=others.astype(np.float32),
        report_at=0.99,
        layout=(rng.permutation(400), [399, 1]),
    )
    found = {
        x: of for x, of in enumerate(made["contamination_of"]) if made["contamination_similarity"][x] > 0.99
    }
    assert found == {x: f"target.npy:{e}" for x, e in copies.items()}
    assert [(uid, of) for uid, of, _ in listed(made)] == [(uid_of(x), found[x]) for x in sorted(found)]


def test_no_rows_no_match_and_one_row() -> None:
    made = run("contamination", np.zeros((0, 4), np.float32), target=UNIT[:1])
    assert made["contamination_of"] == [] and listed(made) == []
    made = run("contamination", UNIT[[1]], target=UNIT[[0]])
    assert made["contamination_similarity"] == [-1] and listed(made) == []


def test_settings_that_make_no_sense() -> None:
    with pytest.raises(UsageError, match="most_per_row"):
        contamination.Scorer(contamination.Config(most_per_row=0))
