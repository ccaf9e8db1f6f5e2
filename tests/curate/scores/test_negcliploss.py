"""negCLIPLoss against the formula of the paper, pair by pair in Python floats, and what a layout, a thread or a bad row may not change."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate import _contrast
from curate._contrast import batch_scores
from curate.binding import prepare
from curate.filtering import filter_pool
from curate.pool import Pool
from curate.rules import named_rule
from curate.scores.negcliploss import Config, Scorer
from curate.subset import load_words, to_hex
from headwater.errors import MissingExtra, UsageError
from headwater.executor import Executor
from headwater.steps import RunOptions
from tests.curate.feature_kit import feature_pool, scored, scored_with_facts, uid_of

Doubles = npt.NDArray[np.float64]


def pairs(rows: int, seed: int = 0, width: int = 6) -> tuple[Any, Any]:
    """Pictures and captions that fit each other somewhat."""
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(rows, width))
    return images.astype(np.float32), (images + rng.normal(size=(rows, width))).astype(np.float32)


def direct(images: Any, texts: Any, temperature: float) -> list[float]:
    """The published formula for one batch, one pair at a time."""

    def unit(row: Any) -> list[float]:
        length = math.sqrt(sum(float(x) ** 2 for x in row))
        return [float(x) / length for x in row]

    def log_sum(values: list[float]) -> float:
        most = max(values)
        return most + math.log(sum(math.exp(v - most) for v in values))

    left, right = [unit(r) for r in images], [unit(r) for r in texts]
    s = [[sum(a * b for a, b in zip(i, t, strict=True)) for t in right] for i in left]
    n = len(s)
    return [
        s[i][i]
        - temperature / 2 * log_sum([s[i][j] / temperature for j in range(n)])
        - temperature / 2 * log_sum([s[j][i] / temperature for j in range(n)])
        for i in range(n)
    ]


def mixed(x: int) -> int:
    """SplitMix64's finaliser in Python's integers."""
    full = (1 << 64) - 1
    x = (x + 0x9E3779B97F4A7C15) & full
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & full
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & full
    return x ^ (x >> 31)


def direct_pool(
    images: Any, texts: Any, uids: list[int], *, batch: int, shuffles: int, seed: int, temperature: float
) -> dict[int, float]:
    """Mean over shuffles, each an order by hash cut into batches of as equal size as possible."""
    total = dict.fromkeys(uids, 0.0)
    if not uids:
        return total
    count = math.ceil(len(uids) / batch)
    for shuffle in range(shuffles):
        salt = mixed((mixed(seed) + shuffle) % 2**64)
        order = sorted(
            range(len(uids)), key=lambda i: mixed(mixed((uids[i] >> 64) ^ mixed(uids[i] % 2**64)) ^ salt)
        )
        sizes = [len(uids) // count + (k < len(uids) % count) for k in range(count)]
        for size in sizes:
            rows, order = order[:size], order[size:]
            for row, score in zip(rows, direct(images[rows], texts[rows], temperature), strict=True):
                total[uids[row]] += score / shuffles
    return total


def of(table: Any) -> dict[int, float | None]:
    return {int(u, 16): v for u, v in zip(*(table[c].to_pylist() for c in table.column_names), strict=True)}


@settings(max_examples=50)
@given(
    rows=st.integers(1, 30),
    seed=st.integers(0, 9999),
    temperature=st.sampled_from([0.001, 0.01, 0.07, 1.0]),
    torch=st.booleans(),
)
def test_one_batch_is_the_published_formula(rows: int, seed: int, temperature: float, torch: bool) -> None:
    images, texts = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in pairs(rows, seed, 1 + seed % 5))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_contrast, "TILE", 8)  # several tiles, the last one short
        patch.setattr(_contrast, "has_torch", lambda: torch)
        patch.setattr(_contrast, "SMALL", 0)
        found = batch_scores(images, texts, temperature=temperature)
    assert np.allclose(found, direct(images, texts, temperature), rtol=0, atol=1e-6)


@pytest.mark.parametrize("torch", [False, True])
@pytest.mark.parametrize("temperature", [0.0005, 0.01])
def test_sums_that_leave_float32_are_made_again(
    torch: bool, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_contrast, "has_torch", lambda: torch)
    monkeypatch.setattr(_contrast, "SMALL", 0)
    monkeypatch.setattr(_contrast, "EXACT_ROWS", 3)
    one = np.zeros((12, 4), np.float32)
    one[:, 0] = 1
    other = one.copy()
    other[4:] *= -1  # opposite pairs: every product of theirs is ±1
    for images, texts in ((one, one), (one, other), (other, one), (one, -one)):
        found = batch_scores(images, texts, temperature=temperature)
        assert np.allclose(found, direct(images, texts, temperature), rtol=0, atol=1e-6)


def test_threads_change_no_bit() -> None:
    pytest.importorskip("torch")
    images, texts = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in pairs(300, 3, 16))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_contrast, "TILE", 32)
        patch.setattr(_contrast, "SMALL", 0)
        one, four = (batch_scores(images, texts, temperature=0.01, threads=t) for t in (1, 4))
    assert (one == four).all()


def test_bf16_is_close_and_says_so() -> None:
    pytest.importorskip("torch")
    images, texts = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in pairs(600, 5, 32))
    exact = batch_scores(images, texts, temperature=0.01)
    rounded = batch_scores(images, texts, temperature=0.01, precision="bf16")
    assert 0 < np.abs(exact - rounded).max() < 2e-3
    assert np.corrcoef(exact, rounded)[0, 1] > 0.9999
    assert Scorer(Config(precision="bf16")).identity == {"precision": "bf16"}
    assert Scorer(Config()).identity == {}


@settings(max_examples=40)
@given(
    rows=st.integers(0, 40),
    seed=st.integers(0, 999),
    batch=st.sampled_from([1, 2, 7, 1000]),
    shuffles=st.integers(1, 3),
    shards=st.integers(1, 3),
)
def test_a_pool_is_scored_as_stated(
    tmp_path_factory: pytest.TempPathFactory, rows: int, seed: int, batch: int, shuffles: int, shards: int
) -> None:
    images, texts = pairs(rows, seed)
    rng = np.random.default_rng(seed)
    uids = [int(u) << 64 | int(v) for u, v in rng.integers(0, 1 << 63, (rows, 2))]
    folder = tmp_path_factory.mktemp("pool")
    pool = feature_pool(
        folder / "p",
        {"l14_img": images, "l14_txt": texts},
        shards=shards,
        uids=[f"{u:032x}" for u in uids],
        order=rng.permutation(rows),
    )
    found = of(scored(pool, "negcliploss", batch=batch, shuffles=shuffles, seed=seed))
    expected = direct_pool(images, texts, uids, batch=batch, shuffles=shuffles, seed=seed, temperature=0.01)
    assert found.keys() == expected.keys()
    for uid, score in expected.items():
        assert found[uid] == pytest.approx(score, abs=1e-6)


def test_layout_and_memory_change_no_bit(tmp_path: Path) -> None:
    images, texts = pairs(90, 1)
    arrays = {"l14_img": images.astype(np.float16), "l14_txt": texts.astype(np.float64)}
    order = np.random.default_rng(0).permutation(90)
    one = feature_pool(tmp_path / "one", arrays, shards=1)
    many = feature_pool(tmp_path / "many", arrays, shards=[0, 50, 1, 39], order=order, packed=True)
    settings = {"batch": 40, "shuffles": 3}
    assert scored(one, "negcliploss", **settings).equals(
        scored(many, "negcliploss", memory_bytes=1 << 20, **settings)
    )
    other = scored(one, "negcliploss", **settings, seed=1)
    assert not scored(one, "negcliploss", **settings).equals(other)


def test_batches_of_a_shard(tmp_path: Path) -> None:
    images, texts = pairs(30, 2)
    pool = feature_pool(tmp_path / "p", {"l14_img": images, "l14_txt": texts}, shards=[20, 10])
    found = of(scored(pool, "negcliploss", within="shard"))
    expected = direct(images[:20], texts[:20], 0.01) + direct(images[20:], texts[20:], 0.01)
    assert [found[i] for i in range(30)] == pytest.approx(expected, abs=1e-6)


def test_bad_rows_are_counted_and_take_no_part(tmp_path: Path) -> None:
    images, texts = pairs(12, 4)
    bad_images, bad_texts = images.copy(), texts.copy()
    bad_images[3], bad_texts[5, 2], bad_images[7, 0], bad_texts[7] = 0, np.nan, np.inf, 0
    pool = feature_pool(tmp_path / "p", {"l14_img": bad_images, "l14_txt": bad_texts}, shards=3)
    table, facts = scored_with_facts(pool, "negcliploss")
    good = [i for i in range(12) if i not in (3, 5, 7)]
    found = of(table)
    assert [found[i] for i in (3, 5, 7)] == [None] * 3
    assert [found[i] for i in good] == pytest.approx(direct(images[good], texts[good], 0.01), abs=1e-6)
    assert facts["counts"]["invalid"] == {"features: NaN or infinite": 2, "features: zero vector": 1}
    assert facts["notes"] == {"precision": "f32", "batches": 1, "pairs_in_largest_batch": 9}


def test_scale_does_not_matter_and_one_row_scores_zero(tmp_path: Path) -> None:
    images, texts = pairs(9, 6)
    plain = feature_pool(tmp_path / "a", {"l14_img": images, "l14_txt": texts})
    scaled = feature_pool(tmp_path / "b", {"l14_img": images * 8, "l14_txt": texts / 4})
    assert scored(plain, "negcliploss").equals(scored(scaled, "negcliploss"))
    one = feature_pool(tmp_path / "c", {"l14_img": images[:1], "l14_txt": texts[:1]}, shards=1)
    assert of(scored(one, "negcliploss"))[0] == pytest.approx(0, abs=1e-7)


def test_equal_pairs_score_equal(tmp_path: Path) -> None:
    images, texts = (np.repeat(v[:1], 8, axis=0) for v in pairs(1, 8))
    pool = feature_pool(tmp_path / "p", {"l14_img": images, "l14_txt": texts})
    scores = list(of(scored(pool, "negcliploss")).values())
    assert scores == pytest.approx([-0.01 * math.log(8)] * 8, abs=1e-7)


@pytest.mark.parametrize(
    "settings",
    [{"batch": 0}, {"shuffles": 0}, {"temperature": 0.0}, {"precision": "f16"}, {"within": "tar"}],
)
def test_settings_that_make_no_sense(settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Scorer(Config(**settings))


def test_bf16_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_contrast, "has_torch", lambda: False)
    with pytest.raises(MissingExtra) as caught:
        Scorer(Config(precision="bf16"))
    assert caught.value.hint == "pip install 'headwater[clip]'"


def test_arrays_of_two_models(tmp_path: Path) -> None:
    images, texts = pairs(5)
    pool = feature_pool(tmp_path / "p", {"l14_img": images, "l14_txt": texts[:, :4]})
    with pytest.raises(UsageError, match="not of one model"):
        scored(pool, "negcliploss")


def test_the_named_filter_keeps_the_best_share(tmp_path: Path) -> None:
    images, texts = pairs(50, 9)
    pool = feature_pool(tmp_path / "p", {"b32_img": images, "b32_txt": texts})
    rule = named_rule("negcliploss", {"arch": "b32", "fraction": 0.2})
    ready = prepare(Pool.open(pool), rule, Path())
    filter_pool(ready, tmp_path / "s.npy", executor=Executor("serial", 1), options=RunOptions())
    scores = direct(images, texts, 0.01)
    cut = sorted(scores, reverse=True)[10]  # DataComp's rule: the value at rank n is kept too
    expected = sorted(uid_of(i) for i in range(50) if scores[i] >= cut)
    assert to_hex(np.asarray(load_words(tmp_path / "s.npy"))) == expected
