"""Pixel metrics against scikit-learn's formulas written out, kwcoco's merged figures, and algebra: merging, bounds, strata, intervals."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.polygons import metrics
from curate.polygons._resample import draws
from curate.polygons.metrics import VOID, Counts, at, bootstrap, coarser, count, kwcoco_figures, measure, pool
from curate.polygons.raster import Crop

CASES: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "vectors" / "kwcoco_measures.json").read_text()
)["cases"]
Image = tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]


def images_of(case: dict[str, Any]) -> list[Image]:
    found = []
    for image in case["images"]:
        scores = np.array([math.nan if v is None else v for v in image["scores"]], dtype=np.float32)
        truth = np.array(
            [VOID if letter == "v" else int(letter) for letter in image["truth"]], dtype=np.uint8
        )
        found.append((scores.reshape(image["shape"]), truth.reshape(image["shape"])))
    return found


def two_images() -> list[Image]:
    """10 true pixels, 4 found with 1 false, and 3 false ones in a second image: 2,000 pixels."""
    one, truth = np.zeros((25, 40), dtype=np.float32), np.zeros((25, 40), dtype=np.uint8)
    truth[3, :10] = 1
    one[3, :4] = one[10, 10] = 0.9
    two = np.zeros((25, 40), dtype=np.float32)
    two[5, 5:8] = 0.5
    return [(one, truth), (two, np.zeros_like(truth))]


def by_definition(images: list[Image]) -> tuple[float, float, float]:
    """AP, AUC, highest F1 of all pixels: scikit-learn's definitions over every distinct score as a threshold."""
    scores = np.concatenate([s.ravel() for s, _ in images]).astype(np.float64)
    truth = np.concatenate([t.ravel() for _, t in images])
    known = ~np.isnan(scores) & (truth != VOID)
    scores, truth = scores[known], truth[known] > 0
    ap, auc, f1 = 0.0, 0.0, 0.0
    last_recall, last_fpr = 0.0, 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        found = scores >= threshold
        tp, fp = int((found & truth).sum()), int((found & ~truth).sum())
        recall, fpr = tp / truth.sum(), fp / max((~truth).sum(), 1)
        ap += (recall - last_recall) * tp / (tp + fp)
        auc += (fpr - last_fpr) * (recall + last_recall) / 2
        f1 = max(f1, 2 * tp / (tp + fp + truth.sum()))
        last_recall, last_fpr = recall, fpr
    return ap, auc, f1


def counted(images: list[Image], **options: Any) -> list[Counts]:
    return [count(scores, truth, "centre", **options) for scores, truth in images]


def random_images(seed: int, many: int, void: bool = False) -> list[Image]:
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(many):
        shape = tuple(rng.integers(2, 9, 2))
        truth = (rng.random(shape) < 0.3).astype(np.uint8)
        scores = np.clip(0.4 * truth * rng.random() + 0.7 * rng.random(shape), 0, 1)
        scores[rng.random(shape) < 0.3] = rng.choice([0.0, 0.25, 1.0])
        if void:
            truth[rng.random(shape) < 0.1] = VOID
            scores[rng.random(shape) < 0.1] = math.nan
        found.append((scores.astype(np.float32), truth))
    return found


def test_two_images_exact_and_as_kwcoco_says() -> None:
    images = two_images()
    ap, auc, f1 = by_definition(images)
    assert (round(ap, 3), round(f1, 2)) == (0.323, 0.53)
    for grid in ("exact", "bins"):
        found = measure(pool(counted(images, grid=grid)))
        assert found.ap == pytest.approx(ap, abs=1e-15) and found.f1 == pytest.approx(f1, abs=1e-15)
        assert found.auc == pytest.approx(auc, abs=1e-15)
        assert found.tpr == 0.4 and found.precision == 0.8
    told = kwcoco_figures(counted(images, grid="kwcoco"))
    assert told.ap == 0.7999999999999998 and told.f1 == 0.888888888888889  # kwcoco 0.9.1's own digits
    assert told.tpr == 1.0 and told.lost == 6
    assert told.auc == pytest.approx(auc, abs=1e-15)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_kwcoco_and_scikit_learn(case: dict[str, Any]) -> None:
    images = images_of(case)
    told = kwcoco_figures(counted(images, grid="kwcoco"))
    for name, value in case["kwcoco"].items():
        assert getattr(told, name) == pytest.approx(value, abs=1e-14), name
    exact = measure(pool(counted(images, grid="exact")))
    for name, value in case["sklearn"].items():
        assert getattr(exact, name) == pytest.approx(value, abs=1e-14), name
    assert (exact.ap, exact.auc, exact.f1) == pytest.approx(by_definition(images), abs=1e-14)


def test_kwcoco_needs_images_one_by_one() -> None:
    parts = counted(two_images(), grid="kwcoco")
    with pytest.raises(ValueError, match="single images"):
        kwcoco_figures([pool(parts)])
    with pytest.raises(ValueError, match="grid kwcoco"):
        kwcoco_figures(counted(two_images()))
    with pytest.raises(ValueError, match="made-up"):
        kwcoco_figures([count(np.zeros((2, 3), np.float32), np.ones((2, 3), bool), "coco", grid="kwcoco")])
    with pytest.raises(ValueError, match="no counts"):
        kwcoco_figures([])


def test_kwcoco_moves_scores_up_as_searchsorted_does() -> None:
    grid = np.linspace(0.0, 1.0, metrics.KWCOCO_LEVELS)
    near = np.concatenate([grid, np.nextafter(grid[1:], 0), np.nextafter(grid[:-1], 1)])
    for scores in (near, near.astype(np.float32)):
        found = count(scores[None], np.zeros((1, len(scores)), bool), "coco", grid="kwcoco")
        expected = np.bincount(np.searchsorted(grid, scores.clip(0, 1)), minlength=len(grid))
        np.testing.assert_array_equal(found.negatives, expected[expected > 0])
        np.testing.assert_array_equal(found.levels, grid[expected > 0])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 5), st.sampled_from(["bins", "exact", "kwcoco"]), st.randoms())
def test_merging_is_the_same_in_any_order_and_grouping(seed: int, many: int, grid: str, shuffle: Any) -> None:
    parts = counted(random_images(seed, many, void=True), grid=grid, bins=64)
    one = pool(parts)
    order = list(parts)
    shuffle.shuffle(order)
    other = pool([pool(order[:1]), pool(order[1:])])
    for name in ("levels", "negatives", "positives", "voids"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert measure(one) == measure(other)
    pixels = sum(scores.size for scores, _ in random_images(seed, many, void=True))
    total = one.negatives.sum() + one.positives.sum() + one.voids.sum() + one.missing
    assert total == pixels and one.images == many


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([1, 4, 64, 4096]))
def test_bounds_hold_the_exact_number(seed: int, bins: int) -> None:
    images = random_images(seed, 3, void=True)
    exact = measure(pool(counted(images, grid="exact")))
    found = measure(pool(counted(images, bins=bins)))
    if exact.ap is None or exact.auc is None:
        assert found.ap is None or found.auc is None
        return
    assert found.ap_low - 1e-12 <= exact.ap <= found.ap_high + 1e-12  # type: ignore[operator]
    assert found.ap_low <= found.ap <= found.ap_high  # type: ignore[operator]
    assert found.auc_low - 1e-12 <= exact.auc <= found.auc_high + 1e-12  # type: ignore[operator]
    assert found.f1 - 1e-12 <= exact.f1 <= found.f1_high + 1e-12  # type: ignore[operator]
    assert exact.ap_low == exact.ap == exact.ap_high
    coarse = coarser(pool(counted(images, grid="exact")), bins)
    direct = pool(counted(images, bins=bins))
    np.testing.assert_array_equal(coarse.levels, direct.levels)
    np.testing.assert_array_equal(coarse.positives, direct.positives)


def test_bounds_narrow_with_bins() -> None:
    rng = np.random.default_rng(2)
    truth = rng.random((300, 300)) < 0.1
    scores = np.clip(rng.normal(0.3, 0.2, truth.shape) + 0.3 * truth, 0, 1).astype(np.float32)
    widths = []
    for bins in (16, 256, 4096):
        found = measure(count(scores, truth, "coco", bins=bins))
        assert found.ap_low is not None and found.ap_high is not None
        widths.append(found.ap_high - found.ap_low)
    assert widths[0] > 8 * widths[1] > 64 * widths[2] and widths[2] < 1e-3


def test_zero_and_one_are_exact_on_any_bins() -> None:
    truth = np.array([[1, 1, 0, 0, 1, 0, 0, 0]], dtype=bool)
    scores = np.array([[1, 1, 1, 0, 0, 0, 0, 0]], dtype=np.float32)
    found = measure(count(scores, truth, "coco", bins=1))
    assert (found.ap_low, found.ap_high) == (found.ap, found.ap) and found.auc_low == found.auc_high
    assert found.ap == pytest.approx(by_definition([(scores, truth.astype(np.uint8))])[0])


def test_a_threshold_chosen_elsewhere() -> None:
    images = random_images(8, 4)
    counts = pool(counted(images, bins=64))
    chosen = at(counts, 0.25)
    truth = np.concatenate([t.ravel() for _, t in images]) > 0
    found = np.concatenate([s.ravel() for s, _ in images]) >= 0.25
    expected = [
        (found & truth).sum(),
        (found & ~truth).sum(),
        (~found & truth).sum(),
        (~found & ~truth).sum(),
    ]
    assert [chosen.tp, chosen.fp, chosen.fn, chosen.tn] == expected
    assert chosen.f1 == pytest.approx(2 * chosen.tp / (2 * chosen.tp + chosen.fp + chosen.fn))
    best = measure(counts)
    assert best.threshold is not None and at(counts, best.threshold).f1 == best.f1
    assert (
        at(counts, best.threshold).tpr == best.tpr and at(counts, best.threshold).precision == best.precision
    )
    with pytest.raises(ValueError, match="nearest is 0.25"):
        at(counts, 0.2501)
    with pytest.raises(ValueError, match="moves scores"):
        at(pool(counted(images, grid="kwcoco")), 0.5)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_whole_number_maps(kind: type[Any]) -> None:
    rng = np.random.default_rng(4)
    most = np.iinfo(kind).max
    maps = rng.integers(0, most + 1, (40, 30)).astype(kind)
    maps[:5], maps[5:9] = 0, most
    truth = rng.random(maps.shape) < 0.2
    for grid in ("exact", "bins", "kwcoco"):
        found = count(maps, truth, "coco", grid=grid)
        floats = count(maps / most, truth, "coco", grid=grid)
        np.testing.assert_allclose(found.levels, floats.levels, rtol=0, atol=0)
        np.testing.assert_array_equal(found.positives, floats.positives)
        np.testing.assert_array_equal(found.negatives, floats.negatives)


@pytest.mark.parametrize("strata", [2, 3, 6])
def test_exact_counts_of_every_type_and_label(strata: int) -> None:
    rng = np.random.default_rng(strata)
    labels = rng.integers(0, strata + 1, (30, 20)).astype(np.uint8)
    labels[rng.random(labels.shape) < 0.1] = VOID
    scores = rng.integers(0, 9, labels.shape).astype(np.float32) / 8
    scores[0, :3], scores[1, :2] = -0.0, math.nan
    known = ~np.isnan(scores)
    for kind in (np.float16, np.float32, np.float64):
        found = count(scores.astype(kind), labels, "coco", strata=strata, grid="exact")
        assert found.levels.tolist() == [k / 8 for k in range(9)] and found.missing == 2
        for row, expected in enumerate([found.negatives, *found.positives]):
            assert [((scores == k / 8) & (labels == row)).sum() for k in range(9)] == expected.tolist()
        assert found.voids.sum() == ((labels == VOID) & known).sum()


def test_strata_by_size() -> None:
    assert metrics.size_strata([1023, 1024, 9215, 9216]) == [1, 2, 2, 3]
    large, small = np.zeros((6, 8), bool), np.ones((2, 2), bool)
    large[:4, :4] = True
    crops = [Crop(6, 8, 0, 0, large[:4, :4], "coco"), Crop(6, 8, 3, 3, small, "coco")]
    labels = metrics.labels_of(crops, 6, 8, [2, 1], [Crop(6, 8, 4, 0, np.ones((6, 2), bool), "coco")])
    assert labels[3, 3] == 1 and labels[0, 0] == 2 and labels[0, 4] == VOID and labels[3, 4] == 1
    rng = np.random.default_rng(0)
    scores = rng.random((6, 8)).astype(np.float32)
    counts = count(scores, labels, "coco", strata=2, grid="exact")
    for stratum in (1, 2):
        kept = np.where((labels == 0) | (labels == stratum), labels > 0, VOID).astype(np.uint8)
        found, expected = measure(counts, stratum), by_definition([(scores, kept)])
        assert (found.ap, found.auc, found.f1) == pytest.approx(expected)
        assert found.void == (kept == VOID).sum() and found.positives == (kept == 1).sum()
    everything = by_definition([(scores, np.where(labels == VOID, VOID, labels > 0).astype(np.uint8))])
    assert measure(counts).ap == pytest.approx(everything[0])
    with pytest.raises(ValueError, match="stratum 3"):
        measure(counts, 3)
    with pytest.raises(ValueError, match="one image|of an image"):
        metrics.labels_of(crops, 6, 9)


def test_objects_count_alike() -> None:
    truth = np.zeros((20, 20), bool)
    truth[:10, :10] = truth[15, 15] = True
    crops = [
        Crop(20, 20, 0, 0, np.ones((10, 10), bool), "coco"),
        Crop(20, 20, 15, 15, np.ones((1, 1), bool), "coco"),
    ]
    scores = np.zeros((20, 20), np.float32)
    scores[:10, :10] = 0.75
    parts = count(scores, truth, "coco", objects=crops)
    found = measure(parts)
    # the large object alone is found: half of the objects, by pixels nearly all
    half = 0.5 * 1.0 + 0.5 * (101 / 400)
    assert found.ap_balanced == pytest.approx(half) and found.ap == pytest.approx(
        100 / 101 + (1 / 101) * (101 / 400)
    )
    assert measure(pool([parts, parts])).ap_balanced == pytest.approx(half)
    with pytest.raises(ValueError, match="grid bins"):
        count(scores, truth, "coco", grid="exact", objects=crops)


def test_nothing_to_find_is_no_number() -> None:
    empty = measure(count(np.full((3, 3), 0.5, np.float32), np.zeros((3, 3), bool), "coco"))
    assert empty.ap is None and empty.auc is None and empty.f1 is None and empty.ap_low is None
    full = measure(count(np.full((3, 3), 0.5, np.float32), np.ones((3, 3), bool), "coco"))
    assert full.ap == 1.0 and full.auc is None and json.loads(json.dumps(full.record()))["rule"] == "coco"


def test_what_does_not_fit_is_refused() -> None:
    good, truth = np.full((3, 4), 0.5, np.float32), np.zeros((3, 4), bool)
    for scores in (good + 1, -good, good * np.inf):
        for grid in ("bins", "exact", "kwcoco"):
            with pytest.raises(ValueError, match=r"outside 0\.\.1"):
                count(scores, truth, "coco", grid=grid)
    for arguments in (
        {"truth": truth[:2]},
        {"truth": truth.astype(int)},
        {"truth": np.full((3, 4), 2, np.uint8)},
        {"truth": np.full((3, 4), 254, np.uint8), "strata": 3},
        {"scores": good.astype(int)},
        {"bins": 1000},
        {"grid": "even"},
        {"strata": 0},
    ):
        with pytest.raises(ValueError):
            count(**({"scores": good, "truth": truth, "rule": "coco"} | arguments))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="do not add up"):
        pool([count(good, truth, "coco"), count(good, truth, "opencv")])
    with pytest.raises(ValueError, match="do not add up"):
        pool([count(good, truth, "coco"), count(good, truth, "coco", bins=64)])
    with pytest.raises(ValueError, match="no counts"):
        pool([])
    with pytest.raises(ValueError, match="more than"):
        coarser(count(good, truth, "coco", bins=64), 128)


def test_intervals_come_from_names_not_from_order() -> None:
    images = random_images(21, 12)
    parts = {f"photo {i}": part for i, part in enumerate(counted(images, bins=64))}
    one = bootstrap(parts, replicates=150, seed=3)
    other = bootstrap(dict(reversed(list(parts.items()))), replicates=150, seed=3)
    assert one == other != bootstrap(parts, replicates=150, seed=4)
    exact = measure(pool(list(parts.values())))
    for name in ("ap", "auc", "f1"):
        assert one[name].low < getattr(exact, name) < one[name].high  # type: ignore[operator]
        assert one[name].undefined == 0
    # a replicate is the measure of the images drawn, repeats and all
    drawn = draws(12, 1, seed=9)[0]
    names = sorted(parts)
    again = [parts[name] for name, times in zip(names, drawn, strict=True) for _ in range(times)]
    single = bootstrap(parts, replicates=1, seed=9)
    assert drawn.sum() == 12 and single["ap"].low == pytest.approx(measure(pool(again)).ap, abs=1e-13)
    assert single["f1"].high == pytest.approx(measure(pool(again)).f1, abs=1e-13)


def test_intervals_over_groups_are_wider_when_groups_agree() -> None:
    images = random_images(5, 4) * 4
    parts = {f"{i:02}": part for i, part in enumerate(counted(images, bins=64))}
    groups = {name: str(int(name) % 4) for name in parts}
    alone, grouped = bootstrap(parts, replicates=300), bootstrap(parts, groups, replicates=300)
    assert grouped["ap"].high - grouped["ap"].low > 1.3 * (alone["ap"].high - alone["ap"].low)  # type: ignore[operator]


def test_intervals_tell_of_undefined_replicates() -> None:
    empty = count(np.full((3, 3), 0.5, np.float32), np.zeros((3, 3), bool), "coco")
    full = count(np.full((3, 3), 0.5, np.float32), np.eye(3, dtype=bool), "coco")
    found = bootstrap({"a": empty, "b": full}, replicates=200)["ap"]
    assert 20 < found.undefined < 80 and found.low is not None
    nothing = bootstrap({"a": empty}, replicates=5)["ap"]
    assert nothing.low is None and nothing.undefined == 5
