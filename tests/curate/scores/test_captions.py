"""Groups of near-duplicate captions: against brute force over all pairs, in any layout, and at the edges."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate._minhash import Plan, word_sets
from curate.scores.captions import Config, Scorer
from headwater.errors import UsageError
from tests.curate.feature_kit import feature_pool, scored, scored_with_facts, uid_of

CAPTIONS = st.lists(
    st.none()
    | st.lists(
        st.sampled_from(["red", "Red", "house", "dog", "on", "the", "a", "b", "c", "d"]), max_size=6
    ).map(" ".join),
    max_size=16,
)


@contextmanager
def pool_of(texts: list[str | None], **layout: object) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        column = {"text": pa.array(texts, pa.string())}
        yield feature_pool(Path(folder) / "pool", {}, columns=column, **layout)  # type: ignore[arg-type]


def words(text: str, ngram: int = 1) -> frozenset[tuple[str, ...]]:
    found = text.casefold().split()
    if not found:
        return frozenset()
    return frozenset(tuple(found[i : i + ngram]) for i in range(max(len(found) - ngram + 1, 1)))


def expected_groups(texts: list[str | None], config: Config, uids: list[str]) -> list[str | None]:
    """Components of equal sets and of pairs that share a band and are near, each by its smallest uid."""
    bands = word_sets(
        pa.array(texts, pa.string()), Plan(config.bands, config.rows, config.ngram, config.seed)
    ).bands
    sets = [None if text is None else words(text, config.ngram) for text in texts]
    near: dict[int, set[int]] = defaultdict(set)
    for i, j in combinations(range(len(texts)), 2):
        one, other = sets[i], sets[j]
        if one is None or other is None:
            continue
        if one == other or (
            one
            and other
            and (bands[i] == bands[j]).any()
            and len(one & other) / len(one | other) >= config.threshold
        ):
            near[i].add(j)
            near[j].add(i)
    out: list[str | None] = []
    for i in range(len(texts)):
        seen, stack = {i}, [i]
        while stack:
            fresh = near[stack.pop()] - seen
            seen |= fresh
            stack.extend(fresh)
        out.append(None if texts[i] is None else min(uids[j] for j in seen))
    return out


@settings(deadline=None, max_examples=15)
@given(
    CAPTIONS,
    st.builds(
        Config,
        threshold=st.sampled_from([0.3, 0.5, 0.8, 1.0]),
        bands=st.sampled_from([1, 8]),
        rows=st.sampled_from([1, 4]),
        ngram=st.integers(1, 2),
        seed=st.integers(0, 2),
    ),
    st.data(),
)
def test_groups_are_those_of_brute_force_in_any_layout(
    texts: list[str | None], config: Config, data: st.DataObject
) -> None:
    n = len(texts)
    expected = expected_groups(texts, config, [uid_of(i) for i in range(n)])
    for _ in range(2):
        order = np.array(data.draw(st.permutations(range(n))), np.int64)
        names = [f"{letter}{number}" for number, letter in enumerate(data.draw(st.permutations("xyz")))]
        with pool_of(texts, shards=3, names=names, order=order) as pool:
            table, facts = scored_with_facts(pool, "captions", **config.__dict__)
        assert table["caption_group"].to_pylist() == expected
        assert facts["counts"]["invalid"] == ({"text: null": texts.count(None)} if None in texts else {})
        assert facts["notes"]["capped_buckets"] == 0


@pytest.mark.parametrize("rows", [0, 1])
def test_hardly_a_row(rows: int) -> None:
    with pool_of(["a caption"] * rows) as pool:
        assert scored(pool, "captions")["caption_group"].to_pylist() == [uid_of(0)] * rows


def test_case_order_repeats_and_blanks_do_not_matter() -> None:
    texts = ["A big Dog", "dog\u3000big a", "big\tbig a dog\n", "a big cat", "", " \u00a0", None]
    with pool_of(texts) as pool:
        found = scored(pool, "captions")["caption_group"].to_pylist()
    assert found == [uid_of(0)] * 3 + [uid_of(3)] + [uid_of(4)] * 2 + [None]


def test_the_threshold_itself_is_near() -> None:
    """Four words of five are 0.8, and 0.8 is enough."""
    texts = ["one two three four", "one two three four five", "one two three six"]
    with pool_of(texts) as pool:
        config = {"bands": 32, "rows": 1}
        near = scored(pool, "captions", **config)["caption_group"].to_pylist()
        equal = scored(pool, "captions", threshold=0.801, **config)["caption_group"].to_pylist()
    assert near == [uid_of(0), uid_of(0), uid_of(2)]
    assert equal == [uid_of(i) for i in range(3)]


def test_a_large_bucket_is_capped_the_same_in_any_order() -> None:
    rng = np.random.default_rng(0)
    shared = [f"shared{i}" for i in range(18)]
    texts = [" ".join([*rng.permutation(shared), f"own{i}"]) for i in range(300)]
    found = []
    for order in (np.arange(300), rng.permutation(300)):
        with pool_of(texts, order=order) as pool:
            table, facts = scored_with_facts(pool, "captions", cap=1)
        found.append(table["caption_group"].to_pylist())
        assert facts["notes"]["capped_buckets"] > 0 and facts["notes"]["largest_bucket"] > 100
        assert facts["notes"]["compared_pairs"] <= 8 * 300
    assert found[0] == found[1]
    assert len(set(found[0])) < 30  # every pair is near; all but a few were reached


def test_recall_and_precision_against_brute_force() -> None:
    """1,200 captions, a third of them changed copies of others."""
    rng = np.random.default_rng(5)
    vocabulary = [f"word{i}" for i in range(2000)]
    texts: list[str | None] = [" ".join(rng.choice(vocabulary, rng.integers(3, 14))) for _ in range(800)]
    for source in rng.integers(0, 800, 400):
        copy = str(texts[source]).split()
        copy[rng.integers(len(copy))] = str(rng.choice(vocabulary))
        texts.append(" ".join(copy))
    with pool_of(texts) as pool:
        group = scored(pool, "captions")["caption_group"].to_pylist()
    sets = [words(str(text)) for text in texts]
    near = [
        (i, j)
        for i, j in combinations(range(len(texts)), 2)
        if len(sets[i] & sets[j]) / len(sets[i] | sets[j]) >= 0.8
    ]
    assert len(near) > 100
    assert sum(group[i] == group[j] for i, j in near) / len(near) > 0.97
    linked = {i for pair in near for i in pair}
    assert all(
        group[i] == uid_of(i) for i in range(len(texts)) if i not in linked
    )  # nothing is joined without a near one


@pytest.mark.parametrize(
    "config",
    [
        {"threshold": 0.0},
        {"threshold": 1.1},
        {"bands": 0},
        {"rows": -1},
        {"ngram": 0},
        {"cap": 0},
        {"bands": 600},
    ],
)
def test_settings_that_cannot_work(config: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(config))):
        Scorer(Config(**config))  # type: ignore[arg-type]


def test_a_column_that_is_no_text(tmp_path: Path) -> None:
    pool = feature_pool(tmp_path / "pool", {}, columns={"text": pa.array([1, 2])})
    with pytest.raises(UsageError, match="need text"):
        scored(pool, "captions")
