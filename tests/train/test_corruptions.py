"""Corruptions: the same for the same picture, seed and name; stronger with strength; at the published sizes, the
published constants."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from train import _patches, _pixels
from train._corruptions import NAMES, STRENGTHS, TABLES, corrupt
from train._patches import GRID, perturb

# whose published rows differ by so little, or dim the picture so much beside adding to it, that few pictures may not show it
NEARLY = {"fog": 0.06, "snow": 0.06, "jpeg": 0.06, "glass_blur": 0.06}
WITHOUT_CHANCE = {"defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg"}


def scene(side: int, number: int = 0) -> Any:
    """A picture with smooth parts, fine texture and hard edges, in colour."""
    rng = np.random.default_rng(number)
    clouds = np.stack([_pixels.plasma(side, 1.7, rng) for _ in range(3)], axis=-1)
    y, x = np.mgrid[0:side, 0:side] / side
    clouds[(y - 0.5) ** 2 + (x - 0.4) ** 2 < 0.06] *= 0.3
    clouds[(np.abs(x - 0.75) < 0.1) & (y > 0.3)] = (0.8, 0.3, 0.2)
    return np.rint(40 + 170 * clouds).astype(np.uint8)


def change(before: Any, after: Any, name: str = "") -> float:
    """Mean absolute difference; for frost, whose rows give the picture less light the more frost there is, what its likeness lost."""
    x, y = before.astype(float).ravel(), after.astype(float).ravel()
    return float(1 - np.corrcoef(x, y)[0, 1] if name == "frost" else np.abs(x - y).mean())


def assert_grows(name: str, pictures: list[Any]) -> None:
    means = [
        np.mean([change(p, any_corruption(p, name, s, key=str(i)), name) for i, p in enumerate(pictures)])
        for s in STRENGTHS
    ]
    slack = NEARLY.get(name, 1e-9)
    assert all(b >= a * (1 - slack) for a, b in zip(means, means[1:], strict=False)), (name, means)
    assert means[-1] > means[0], (name, means)


def any_corruption(pixels: Any, name: str, strength: int, *, seed: int = 0, key: str = "a") -> Any:
    return (corrupt if name in NAMES else perturb)(pixels, name, strength, seed=seed, key=key)


@pytest.mark.parametrize("name", [*NAMES, "patch_drop", "patch_shuffle", "patch_shot_noise"])
@pytest.mark.parametrize("side", [4, 31, 64])
def test_any_size_gives_a_picture_of_the_same_size(name: str, side: int) -> None:
    pixels = scene(side)
    for strength in (1, 5):
        result = any_corruption(pixels, name, strength)
        assert result.shape == pixels.shape and result.dtype == np.uint8
    assert np.array_equal(pixels, scene(side)), "the picture itself was changed"


@pytest.mark.parametrize("name", [*NAMES, "patch_drop", "patch_shuffle"])
def test_nothing_but_seed_key_and_name_decides(name: str) -> None:
    pixels = scene(64)
    first = any_corruption(pixels, name, 3)
    for other in ("gaussian_noise", "snow", name):  # what was drawn before does not matter
        any_corruption(pixels, other, 2, key="b")
    np.random.seed(5)  # nor does the global state
    assert np.array_equal(any_corruption(pixels, name, 3), first)
    if name not in WITHOUT_CHANCE:
        assert not np.array_equal(any_corruption(pixels, name, 3, key="b"), first)
        assert not np.array_equal(any_corruption(pixels, name, 3, seed=1), first)


@settings(max_examples=3, deadline=None)
@given(number=st.integers(0, 1000))
def test_more_strength_changes_no_less(number: int) -> None:
    for name in [*NAMES, "patch_drop", "patch_gaussian_noise"]:
        assert_grows(name, [scene(64, number), scene(64, number + 1)])


@pytest.mark.slow
def test_more_strength_changes_no_less_at_224() -> None:
    for name in NAMES:
        assert_grows(name, [scene(224, number) for number in range(3)])


def test_tables_have_five_rows_for_both_sizes() -> None:
    assert set(TABLES) == set(NAMES) and len(NAMES) == 15
    assert {len(rows) for tables in TABLES.values() for rows in tables} == {5}


@pytest.mark.parametrize(("side", "deviation"), [(64, 0.12), (119, 0.12), (120, 0.18), (224, 0.18)])
def test_noise_has_the_published_deviation_of_its_size(side: int, deviation: float) -> None:
    grey = np.full((side, side, 3), 128, np.uint8)
    found = (corrupt(grey, "gaussian_noise", 3, seed=0, key="a") / 255.0).std()
    assert found == pytest.approx(deviation, rel=0.03)


def test_shot_and_impulse_noise_have_the_published_parameters() -> None:
    grey = np.full((224, 224, 3), 102, np.uint8)  # 0.4
    shot = corrupt(grey, "shot_noise", 1, seed=0, key="a") / 255.0
    assert shot.mean() == pytest.approx(0.4, rel=0.01)
    assert shot.var() == pytest.approx(0.4 / 60, rel=0.03)
    impulse = corrupt(grey, "impulse_noise", 5, seed=0, key="a")
    assert (impulse == 0).mean() == pytest.approx(0.27 / 2, rel=0.03)
    assert (impulse == 255).mean() == pytest.approx(0.27 / 2, rel=0.03)


def test_contrast_and_brightness_are_the_published_formulas() -> None:
    pixels = scene(64)
    x = pixels / 255.0
    mean = x.mean(axis=(0, 1))
    assert np.array_equal(
        corrupt(pixels, "contrast", 4, seed=0, key="a"), np.rint(((x - mean) * 0.1 + mean) * 255)
    )
    import colorsys

    bright = corrupt(pixels, "brightness", 2, seed=0, key="a")
    for y, c in ((3, 5), (32, 32), (50, 60)):
        hue, saturation, value = colorsys.rgb_to_hsv(*x[y, c])
        expected = colorsys.hsv_to_rgb(hue, saturation, min(value + 0.2, 1))
        assert bright[y, c] / 255.0 == pytest.approx(expected, abs=0.6 / 255)


def test_pixelate_leaves_as_many_pixels_as_published() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    result = corrupt(noise, "pixelate", 5, seed=0, key="a")
    assert np.array_equal(result[::2, ::2], result[1::2, 1::2]), "half the side stays: 2 x 2 blocks"


def test_blurs_keep_a_plain_picture_plain() -> None:
    plain = np.full((64, 64, 3), (200, 100, 50), np.uint8)
    for name in ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "elastic", "pixelate"):
        assert np.array_equal(corrupt(plain, name, 5, seed=0, key="a"), plain), name


def test_glass_blur_moves_pixels_and_loses_none() -> None:
    """Without its two blurs it is a permutation; the published program copies instead."""
    marked = np.zeros((64, 64, 3), np.uint8)
    marked[32, 32] = 255
    total = corrupt(marked, "glass_blur", 1, seed=0, key="a").astype(float).sum()
    assert total == pytest.approx(3 * 255, rel=0.1)


@pytest.mark.parametrize("strength", STRENGTHS)
def test_patch_drop_blackens_the_published_number_of_patches(strength: int) -> None:
    white = np.full((224, 224, 3), 255, np.uint8)
    result = perturb(white, "patch_drop", strength, seed=0, key="a")
    cells = result.reshape(GRID, 16, GRID, 16, 3).swapaxes(1, 2).reshape(GRID * GRID, -1)
    assert {tuple(np.unique(cell)) for cell in cells} <= {(0,), (255,)}, "a patch is whole"
    assert (cells[:, 0] == 0).sum() == (19, 58, 98, 137, 176)[strength - 1]
    if strength > 1:
        weaker = perturb(white, "patch_drop", strength - 1, seed=0, key="a")
        assert (result[weaker == 0] == 0).all(), "what is dropped stays dropped"


def test_patch_shuffle_keeps_every_pixel_and_ever_fewer_neighbours() -> None:
    numbered = np.zeros((224, 224, 3), np.uint8)
    numbered[..., 0], numbered[..., 1] = np.mgrid[0:224, 0:224]
    kept = []
    for strength in STRENGTHS:
        result = perturb(numbered, "patch_shuffle", strength, seed=0, key="a").astype(int)
        assert len(np.unique(result[..., 0] * 224 + result[..., 1])) == 224 * 224
        beside = (result[:, 1:, 1] - result[:, :-1, 1] == 1) & (result[:, 1:, 0] == result[:, :-1, 0])
        kept.append(beside.mean())
    assert all(b < a for a, b in zip(kept, kept[1:], strict=False))


@pytest.mark.parametrize("count", [1, 49, 196])
def test_a_corrupted_patch_leaves_the_rest(count: int) -> None:
    pixels = scene(224)
    whole = corrupt(pixels, "contrast", 4, seed=0, key="a")
    result = perturb(pixels, "patch_contrast", 4, seed=0, key="a", patches=count)
    cells = [
        picture.reshape(GRID, 16, GRID, 16, 3).swapaxes(1, 2).reshape(GRID * GRID, -1)
        for picture in (pixels, whole, result)
    ]
    changed = (cells[0] != cells[2]).any(axis=1)
    assert changed.sum() == count
    assert np.array_equal(cells[2][changed], cells[1][changed])


def test_names_of_patch_perturbations() -> None:
    assert _patches.NAMES[:2] == ("patch_drop", "patch_shuffle")
    assert set(_patches.NAMES[2:]) == {f"patch_{name}" for name in NAMES}


def test_correlate_and_gaussian_against_sums_written_out() -> None:
    rng = np.random.default_rng(0)
    picture = rng.random((9, 11, 2))
    kernel = rng.random((5, 5)) * (rng.random((5, 5)) > 0.3)
    found = _pixels.correlate(picture, kernel)
    padded = np.pad(picture, [(2, 2), (2, 2), (0, 0)], mode="reflect")
    for y, x in ((0, 0), (4, 7), (8, 10)):
        expected = (kernel[..., None] * padded[y : y + 5, x : x + 5]).sum(axis=(0, 1))
        assert found[y, x] == pytest.approx(expected)
    point = np.zeros((21, 21, 1))
    point[10, 10] = 1
    blurred = _pixels.gaussian(point, 2.0)[..., 0]
    y, x = np.mgrid[-8:9, -8:9]
    bell = np.exp(-(y**2 + x**2) / 8.0)
    assert blurred[2:19, 2:19] == pytest.approx(bell / bell.sum())


def test_bilinear_reads_between_pixels_and_mirrors_outside() -> None:
    row = np.array([[[0.0], [1.0], [4.0]]])
    y = np.zeros(6)
    x = np.array([0.0, 0.5, 1.25, 2.0, 2.5, -0.5])
    assert _pixels.bilinear(row, y, x)[:, 0] == pytest.approx([0, 0.5, 1.75, 4, 2.5, 0.5])


def test_zoom_enlarges_the_middle() -> None:
    picture = scene(64) / 255.0
    assert _pixels.zoom(picture, 1.0) == pytest.approx(picture)
    enlarged = _pixels.zoom(picture, 2.0)
    assert enlarged[0, 0] == pytest.approx(picture[16, 16]) and enlarged[-1, -1] == pytest.approx(
        picture[47, 47]
    )


def test_smear_is_one_sided_and_goes_where_the_angle_says() -> None:
    point = np.zeros((41, 41, 1))
    point[20, 20] = 1
    across = _pixels.smear(point, 5, 3, 0)[..., 0]
    assert across.sum() == pytest.approx(1) and across[20, 10:21].sum() == pytest.approx(1)
    down = _pixels.smear(point, 5, 3, 90)[..., 0]
    assert down[10:21, 20].sum() == pytest.approx(1)


def test_kernels_sum_to_one_and_clouds_fill_their_range() -> None:
    for radius in (0.5, 3, 8, 10, 25.5):
        assert _pixels.disk(radius, 0.5).sum() == pytest.approx(1)
    for side in (2, 5, 64, 100):
        cloud = _pixels.plasma(side, 2.0, np.random.default_rng(side))
        assert cloud.shape == (side, side) and 0 <= cloud.min() and cloud.max() <= 1
