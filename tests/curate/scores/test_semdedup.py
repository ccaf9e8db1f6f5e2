"""SemDeDup against its published steps: full cosine matrix, upper triangle, column maximum."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate._grouped import SALT
from curate.clauses import mix
from curate.rules import named_rule
from headwater.errors import UsageError
from tests.curate.cluster_kit import arrays, columns, exact_unit, groups, layouts, pool_of, uid_of, usable
from tests.curate.feature_kit import feature_pool, scored, scored_with_facts


def hashed(number: int, seed: int) -> int:
    """The key of --keep random: of the two words of the uid, which here is the number."""
    words = np.array([0, number, seed], np.uint64)
    return int(mix(words[:1] ^ mix(words[1:2] ^ mix(words[2:] ^ SALT)))[0])


def by_definition(
    values: np.ndarray, clusters: dict[int, list[tuple[float, int]]], keep: str
) -> dict[int, Any]:
    """Row -> (largest cosine with an earlier row of its cluster, the first row that has it)."""
    unit = exact_unit(values)
    found: dict[int, Any] = {}
    for members in clusters.values():
        key = {
            "hard": lambda m: (m[0], m[1]),
            "easy": lambda m: (-m[0], m[1]),
            "random": lambda m: (hashed(m[1], 0), m[1]),
        }[keep]
        order = [row for _, row in sorted(members, key=key)]
        cosine = unit[order] @ unit[order].T
        upper = np.triu(cosine, 1)
        for place, row in enumerate(order):
            if place == 0:
                found[row] = (-1.0, None)
            else:
                column = upper[:place, place]
                found[row] = (float(np.float32(column.max())), order[int(column.argmax())])
    return found


@settings(max_examples=8, deadline=None)
@given(st.data(), arrays(), st.integers(1, 5), st.sampled_from(["hard", "easy", "random"]))
def test_scores_are_the_definition_in_any_layout(
    data: st.DataObject, values: np.ndarray, k: int, keep: str
) -> None:
    with pool_of(values, data.draw(layouts(len(values)))) as pool:
        want = by_definition(values, groups(pool, k=k, iterations=3), keep)
        table, facts = scored_with_facts(pool, "semdedup", k=k, iterations=3, keep=keep)
        found = columns(table)
    assert sum(facts["counts"]["invalid"].values()) == len(values) - len(usable(values))
    assert sorted(want) == usable(values)
    for row in range(len(values)):
        similarity, of = found["semdedup_similarity"][row], found["semdedup_of"][row]
        if row not in want:
            assert similarity is None and of is None
            continue
        assert similarity == pytest.approx(want[row][0], abs=2e-7)
        exact = exact_unit(values)
        if want[row][1] is None:
            assert of is None
        else:  # the row that is named has the largest cosine
            assert exact[row] @ exact[int(of, 16)] == pytest.approx(want[row][0], abs=2e-7)
        for threshold in (-0.5, 0.0, 0.3, 0.7, 0.95):
            if abs(want[row][0] - threshold) > 1e-6:
                assert (similarity <= threshold) == (want[row][0] <= threshold)


@settings(max_examples=8, deadline=None)
@given(st.data(), arrays())
def test_layout_and_memory_change_nothing(data: st.DataObject, values: np.ndarray) -> None:
    found = []
    for budget in (1 << 30, 1 << 20, 1):
        with pool_of(values, data.draw(layouts(len(values)))) as pool:
            found.append(columns(scored(pool, "semdedup", k=2, iterations=4, memory_bytes=budget)))
    assert found[0] == found[1] == found[2]


def test_rows_that_are_dropped_still_count(tmp_path: Path) -> None:
    # a chain of steps of 20 degrees: each is near the one before it only, which is itself dropped
    angle = np.deg2rad(np.arange(5) * 20)
    values = np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)
    pool = feature_pool(tmp_path / "pool", {"l14_img": values})
    table = columns(scored(pool, "semdedup", k=1))
    first = table["semdedup_similarity"].index(-1.0)
    assert first in (0, 4)  # an end of the chain is farthest from the centroid; equal ones: the lowest uid
    rest = [s for row, s in enumerate(table["semdedup_similarity"]) if row != first]
    assert sum(s > 0.93 for s in rest) >= 3


def test_equal_rows_keep_the_lowest_uid(tmp_path: Path) -> None:
    values = np.tile(np.float32([1, 2, 3]), (6, 1))
    pool = feature_pool(tmp_path / "pool", {"l14_img": values}, order=np.array([3, 1, 5, 0, 2, 4]))
    table = columns(scored(pool, "semdedup", k=1))
    assert table["semdedup_similarity"][0] == -1
    assert table["semdedup_similarity"][1:] == pytest.approx([1.0] * 5)
    assert table["semdedup_of"] == [None] + [uid_of(0)] * 5


@pytest.mark.parametrize("rows", [0, 1])
def test_hardly_a_row(tmp_path: Path, rows: int) -> None:
    pool = feature_pool(tmp_path / "pool", {"l14_img": np.ones((rows, 4), np.float16)})
    table = columns(scored(pool, "semdedup", k=3))
    assert table["semdedup_similarity"] == [-1.0] * rows
    assert table["semdedup_of"] == [None] * rows


def test_only_the_rows_of_a_subset(tmp_path: Path) -> None:
    values = np.tile(np.float32([1, 1, 0]), (5, 1))
    values[4] = 0
    pool = feature_pool(tmp_path / "pool", {"l14_img": values})
    np.save(tmp_path / "some.npy", np.array([(0, 1), (0, 3), (0, 4)], "u8,u8"))
    table, facts = scored_with_facts(pool, "semdedup", k=1, subset=tmp_path / "some.npy")
    found = columns(table)
    assert found["semdedup_similarity"][:4] == [float("inf"), -1.0, float("inf"), pytest.approx(1.0)]
    assert found["semdedup_of"] == [None, None, None, uid_of(1), None]
    assert facts["counts"]["invalid"] == {"features: zero vector": 1}


def test_settings_that_make_no_sense(tmp_path: Path) -> None:
    pool = feature_pool(tmp_path / "pool", {"l14_img": np.ones((2, 2), np.float32)})
    with pytest.raises(UsageError, match="keep is 'hrad'.*did you mean 'hard'"):
        scored(pool, "semdedup", keep="hrad")
    with pytest.raises(UsageError, match="k is -1"):
        scored(pool, "semdedup", k=-1)


def test_the_named_filter_drops_above_the_threshold() -> None:
    rule = named_rule("semdedup", {"arch": "b32", "threshold": 0.9})
    assert rule.keep[0].sql == "semdedup_similarity <= 0.9"
    assert rule.scores[0].config["features"] == "b32_img"
