"""MinHash against slow statements of its definition, and groups against brute force over every pair."""

from __future__ import annotations

from collections import defaultdict
from itertools import combinations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate import _minhash_groups
from curate._minhash import Plan, Sets, band_keys, word_hash, word_sets
from curate._minhash_groups import Groups, jaccard, repeated, smallest_of_equal

MASK = 2**64 - 1
STEP = 0x9E3779B97F4A7C15
BLANKS = [" ", "  ", "\t", "\n", "\u00a0", "\u3000", "\x1c", "\x85", "\u2003"]
WORDS = ["a", "A", "b", "straße", "STRASSE", "犬", "\u200b", "İ", "ﬁ", "\0", "c", "d", "e", "long" * 20]


def splitmix(x: int) -> int:
    """SplitMix64's finaliser (Steele, Lea, Flood 2014), after its step."""
    x = (x + STEP) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def slow_set(caption: str, plan: Plan) -> set[int]:
    """The set of a caption as its definition says."""
    words = [
        max(word_hash(word, plan.seed), 2) if plan.ngram == 1 else word_hash(word, plan.seed)
        for word in caption.split()
    ]
    if plan.ngram == 1 or not words:
        return set(words)
    made = set()
    for first in range(max(len(words) - plan.ngram + 1, 1)):
        run = words[first : first + plan.ngram]
        value = splitmix(len(run))
        for word in run:
            value = splitmix(value ^ splitmix(word))
        made.add(max(value, 2))
    return made


def slow_signature(words: set[int], plan: Plan) -> list[int]:
    """For each permutation the smallest value over the set."""
    return [
        min(splitmix((word + (number + 1) * STEP) & MASK) >> 32 for word in words)
        for number in range(plan.bands * plan.rows)
    ]


def slow_bands(words: set[int], plan: Plan) -> list[int]:
    signature = slow_signature(words, plan)
    keys = []
    for band in range(plan.bands):
        key = 0
        for value in signature[band * plan.rows : (band + 1) * plan.rows]:
            key = splitmix(key ^ value)
        keys.append(key)
    return keys


plans = st.builds(
    Plan, bands=st.integers(1, 4), rows=st.integers(1, 3), ngram=st.integers(1, 3), seed=st.integers(-3, 3)
)
captions = st.lists(
    st.none() | st.lists(st.sampled_from(WORDS + BLANKS), max_size=8).map("".join), max_size=12
)


def sets_of(made: Sets) -> list[set[int] | None]:
    ends = np.cumsum(np.maximum(made.sizes, 0))
    return [
        None if size < 0 else set(made.hashes[end - size : end].tolist())
        for size, end in zip(made.sizes.tolist(), ends.tolist(), strict=True)
    ]


@settings(deadline=None)
@given(captions, plans, st.sampled_from(["string", "large", "dictionary", "sliced"]))
def test_sets_and_bands_are_those_of_the_definition(texts: list[str | None], plan: Plan, kind: str) -> None:
    array = pa.array(texts, pa.large_string() if kind == "large" else pa.string())
    if kind == "dictionary":
        array = array.dictionary_encode()
    if kind == "sliced":
        array = pa.array(["before it", *texts, None], pa.string()).slice(1, len(texts))
    made = word_sets(array, plan)
    expected = [None if text is None else slow_set(text, plan) for text in texts]
    assert sets_of(made) == expected
    for number, words in enumerate(expected):
        if words:
            assert made.bands[number].tolist() == slow_bands(words, plan)
    keys = [tuple(key) for key in made.keys.tolist()]
    for i, j in combinations([n for n, words in enumerate(expected) if words is not None], 2):
        assert (keys[i] == keys[j]) == (expected[i] == expected[j])


def test_every_unicode_blank_parts_words_as_split_does() -> None:
    every = [chr(code) for code in range(0x110000) if code < 0x3100 or chr(code).isspace()]
    lists = pa.compute.utf8_split_whitespace(pa.array([f"a{c}b" for c in every])).to_pylist()
    wrong = [c for c, words in zip(every, lists, strict=True) if [w for w in words if w] != f"a{c}b".split()]
    assert wrong == []


def test_case_folding_of_a_word_never_makes_or_takes_a_blank() -> None:
    every = map(chr, range(0x110000))
    assert not [c for c in every if not c.isspace() and any(part.isspace() for part in c.casefold())]


def test_bands_are_equal_exactly_where_all_their_values_are() -> None:
    plan = Plan(2, 3, 1, 0)
    signatures = np.array([[1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 7], [1, 3, 2, 4, 5, 6]], np.uint32)
    keys = band_keys(signatures, plan)
    assert keys[0, 0] == keys[1, 0] != keys[2, 0]
    assert keys[0, 1] == keys[2, 1] != keys[1, 1]


word_lists = st.lists(st.sets(st.integers(2, 40), min_size=1, max_size=40), min_size=1, max_size=14)


def ragged(sets: list[set[int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    sizes = np.array([len(words) for words in sets], np.int32)
    starts = np.cumsum(sizes) - sizes
    return np.array([word for words in sets for word in words], np.uint64), starts.astype(np.int64), sizes


@given(word_lists)
def test_jaccard_is_the_quotient_of_whole_numbers(sets: list[set[int]]) -> None:
    words, starts, sizes = ragged(sets)
    pairs = np.array([(i, j) for i in range(len(sets)) for j in range(len(sets))])
    found = jaccard(words, starts, sizes, pairs[:, 0], pairs[:, 1])
    assert found.tolist() == [len(sets[i] & sets[j]) / len(sets[i] | sets[j]) for i, j in pairs.tolist()]


def components(n: int, edges: list[tuple[int, int]]) -> list[int]:
    """The smallest member of each one's connected component, by walking."""
    near = defaultdict(set)
    for i, j in edges:
        near[i].add(j)
        near[j].add(i)
    label = [-1] * n
    for start in range(n):
        stack = [start] if label[start] < 0 else []
        while stack:
            at = stack.pop()
            if label[at] < 0:
                label[at] = start
                stack.extend(near[at])
    return label


@settings(deadline=None)
@given(word_lists, st.data(), st.sampled_from([0.3, 0.5, 0.8, 1.0]), st.integers(1, 3))
def test_groups_are_components_of_near_pairs_that_share_a_band(
    sets: list[set[int]], data: st.DataObject, threshold: float, bands: int
) -> None:
    n = len(sets)
    keys = [
        np.array(data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)), np.uint64)
        for _ in range(bands)
    ]
    words, starts, sizes = ragged(sets)
    groups = Groups(sizes, starts, words, threshold, cap=n)
    for number in range(bands):
        groups.band(keys[number], keys[(number + 1) % bands].__getitem__)
    edges = [
        (i, j)
        for i, j in combinations(range(n), 2)
        if any(key[i] == key[j] for key in keys)
        and len(sets[i] & sets[j]) / len(sets[i] | sets[j]) >= threshold
    ]
    assert groups.labels().tolist() == components(n, edges)
    assert groups.capped == 0


@settings(deadline=None)
@given(word_lists, st.data(), st.integers(1, 3))
def test_a_capped_bucket_compares_each_with_the_next_ones(
    sets: list[set[int]], data: st.DataObject, cap: int
) -> None:
    n = len(sets)
    key, after = (
        np.array(data.draw(st.lists(st.integers(0, top), min_size=n, max_size=n)), np.uint64)
        for top in (1, 3)
    )
    words, starts, sizes = ragged(sets)
    groups = Groups(sizes, starts, words, 0.5, cap)
    groups.band(key, after.__getitem__)
    edges, large = [], 0
    for value in set(key.tolist()):
        bucket = sorted((i for i in range(n) if key[i] == value), key=lambda i: (after[i], i))
        large += len(bucket) > cap + 1
        for place, i in enumerate(bucket):
            for j in bucket[place + 1 : place + 1 + cap]:
                if len(sets[i] & sets[j]) / len(sets[i] | sets[j]) >= 0.5:
                    edges.append((i, j))
    assert groups.labels().tolist() == components(n, edges)
    assert groups.capped == large


@given(
    st.integers(1, 40),
    st.lists(st.tuples(st.integers(0, 39), st.integers(0, 39)), max_size=60),
    st.integers(1, 9),
)
def test_joins_in_any_batches_make_the_same_components(
    n: int, pairs: list[tuple[int, int]], batch: int
) -> None:
    edges = [(i % n, j % n) for i, j in pairs]
    groups = Groups(np.ones(n, np.int32), np.arange(n), np.arange(2, n + 2, dtype=np.uint64), 0.8, 4)
    for first in range(0, len(edges), batch):
        some = np.array(edges[first : first + batch])
        groups.join(some[:, 0], some[:, 1])
    assert groups.labels().tolist() == components(n, edges)


def test_a_long_chain_is_joined_in_few_steps() -> None:
    n = 200_000
    groups = Groups(np.ones(n, np.int32), np.arange(n), np.arange(2, n + 2, dtype=np.uint64), 0.8, 4)
    groups.join(np.arange(n - 1), np.arange(1, n))
    assert not groups.labels().any()


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), max_size=30), st.randoms())
def test_equal_sets_are_represented_by_the_smallest_rank(keys: list[tuple[int, int]], rng) -> None:  # type: ignore[no-untyped-def]
    n = len(keys)
    rank = list(range(n))
    rng.shuffle(rank)
    first, second = (np.array([key[i] for key in keys], np.uint64) for i in range(2))
    found = smallest_of_equal(first, second, np.array(rank, np.int64))
    for row in range(n):
        same = [other for other in range(n) if keys[other] == keys[row]]
        assert found[row] == min(same, key=lambda other: rank[other])


@given(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 5), max_size=60), st.sampled_from([4, 4 << 20]))
def test_repeated_keys_are_found_and_no_others(keys: list[int], at_once: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_minhash_groups, "KEYS_AT_ONCE", at_once)
        found = repeated(np.array(keys, np.uint64)).tolist()
    assert found == [place for place, key in enumerate(keys) if keys.count(key) > 1]


@pytest.mark.parametrize(("bands", "rows"), [(8, 4), (4, 2)])
def test_similar_sets_meet_as_often_as_the_formula_says(bands: int, rows: int) -> None:
    plan, rng = Plan(bands, rows, 1, 0), np.random.default_rng(3)
    met, pairs, shared, own = 0, 2000, 8, 1  # Jaccard 8 / 10
    texts = []
    for _ in range(pairs):
        names = [f"w{number}" for number in rng.integers(0, 2**40, shared + 2 * own)]
        texts += [" ".join(names[: shared + own]), " ".join(names[:shared] + names[shared + own :])]
    keys = word_sets(pa.array(texts), plan).bands
    met = int((keys[0::2] == keys[1::2]).any(axis=1).sum())
    chance = 1 - (1 - 0.8**rows) ** bands
    assert abs(met / pairs - chance) < 5 * (chance * (1 - chance) / pairs) ** 0.5 + 1e-9


def test_blanks_at_the_end_are_no_word_whatever_stands_behind_them() -> None:
    """Arrow's splitter looks at what follows a caption in memory; where that is nobody's, two calls could differ."""
    plan = Plan(bands=1, rows=1, ngram=1, seed=2)
    ends = ["", " ", "  ", "   ", "\t\n", " \x85", "\u3000 ", "\u00a0\u2003 "]
    starts = ["", " ", "  x", "\u3000x", "\x85"]
    texts = [f"a word{end}" for end in ends for _ in starts]
    between = [text for pair in zip(texts, starts * len(ends), strict=True) for text in pair]
    assert sets_of(word_sets(pa.array(between), plan)) == [slow_set(text, plan) for text in between]
    for length in (64, 128, 192):  # the buffer's end is that of the memory asked for
        array = pa.array(["x" * (length - 8), "a word  "])
        for _ in range(300):
            assert sets_of(word_sets(array, plan))[1] == slow_set("a word  ", plan)
