"""Distance to the centroid as the scorer kmeans knows it, and the filters that keep by it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.rules import named_rule
from headwater.errors import UsageError
from tests.curate.cluster_kit import arrays, columns, exact_unit, groups, layouts, pool_of, usable
from tests.curate.feature_kit import feature_pool, scored, scored_with_facts
from tests.curate.scores.test_density import centroids_of


@settings(max_examples=12, deadline=None)
@given(st.data(), arrays(), st.integers(1, 4))
def test_distance_to_the_nearest_centroid(data: st.DataObject, values: np.ndarray, k: int) -> None:
    with pool_of(values, data.draw(layouts(len(values)))) as pool:
        clusters = groups(pool, k=k, iterations=3)
        centroids = centroids_of(pool)
        table, facts = scored_with_facts(pool, "ssp", k=k, iterations=3)
        easy = columns(scored(pool, "ssp", k=k, iterations=3, keep="easy"))["ssp"]
    hard = columns(table)["ssp"]
    assert sorted(row for members in clusters.values() for _, row in members) == usable(values)
    assert sum(facts["counts"]["invalid"].values()) == len(values) - len(usable(values))
    for row in range(len(values)):
        if row not in usable(values):
            assert hard[row] is None and easy[row] is None
            continue
        cosine = (centroids @ exact_unit(values)[row]).max()
        assert easy[row] == pytest.approx(cosine, abs=1e-6)
        assert hard[row] == pytest.approx(1 - cosine, abs=1e-6)


@pytest.mark.parametrize("rows", [0, 1])
def test_hardly_a_row(tmp_path: Path, rows: int) -> None:
    pool = feature_pool(tmp_path / "pool", {"l14_img": np.ones((rows, 4), np.float32)})
    assert columns(scored(pool, "ssp"))["ssp"] == pytest.approx([0.0] * rows, abs=1e-6)


def test_keep_that_is_none(tmp_path: Path) -> None:
    pool = feature_pool(tmp_path / "pool", {"l14_img": np.ones((2, 2), np.float32)})
    with pytest.raises(UsageError, match="keep is 'random'"):
        scored(pool, "ssp", keep="random")


def test_the_named_filters() -> None:
    ssp = named_rule("ssp", {"arch": "b32", "fraction": 0.3})
    assert ssp.keep[0].top is not None and (ssp.keep[0].top.column, ssp.keep[0].top.fraction) == ("ssp", 0.3)
    d4 = named_rule("d4", {"arch": "b32", "fraction": 0.3})
    assert [clause.kind for clause in d4.keep] == ["sql", "top"]
    assert d4.keep[1].top is not None and d4.keep[1].top.of == "survivors"
