"""The page about generated pictures, and the figures on it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curate import _made_facts, _samples
from curate._made_facts import measure, near_by_parameters, numeric
from curate._made_svg import SHARES, histogram
from curate._report_made import build_made_report, is_made
from curate.drawing import make_picture
from curate.generation import Generation
from curate.make_request import MakeRequest, resolve
from curate.making import plan_make, run_make
from headwater.errors import HeadwaterError, IntegrityError, MissingInput, UsageError
from headwater.executor import Executor
from headwater.steps import RunOptions, read_record
from tests.curate.report_kit import Elements, assert_harmless

SIDE = 48
SMALL = {"image_size": SIDE, "vertex_num_max": 300, "line_num_max": 20, "start_pos": 24, "radius_min": 0}


def request(classes: int = 9, instances: int = 4, **more: Any) -> MakeRequest:
    return MakeRequest("visualatom", classes=classes, instances=instances, **{"parameters": SMALL, **more})


def recipe(folder: Path, generation: Generation) -> Path:
    folder.mkdir()
    (folder / "recipe.json").write_text(generation.sealed().model_dump_json())
    return folder


def page(path: Path, **options: Any) -> tuple[str, dict[str, Any]]:
    output = path.parent / "page.html"
    facts = build_made_report(path, output, **options)
    return output.read_text("utf-8"), facts


def test_the_page_says_what_recipe_and_record_say(tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = RunOptions(command=("headwater", "make", "visualatom", "-o", "out"))
    assert run_make(plan_make(request(), out, sink="tar"), executor=Executor("serial"), options=options)
    text, facts = page(out)
    plain = assert_harmless(text).plain
    record = read_record(out)
    assert record is not None
    assert "9 categories, 36 pictures, indexed stream, seed 0" in plain
    assert "headwater make visualatom -o out" in plain
    assert "headwater make out/recipe.json -o AGAIN" in plain
    assert "headwater verify out --rerun make" in plain
    generation = Generation.model_validate_json((out / "recipe.json").read_bytes())
    for value in (record.id, record.key, generation.id, generation.blocks[0].pixels, "vertex_num_max: 300"):
        assert value in plain
    for entry in record.identity.outputs:
        assert entry.sha256 in plain
    assert "CPU time a picture" in plain
    assert "36 pictures = 36 kept" in plain
    lit = [
        float((make_picture(generation, row, i).picture.pixels > 0).mean())
        for row in range(9)
        for i in range(4)
    ]
    assert f"{np.mean(lit):.1%} on average, {np.median(lit):.1%} in the middle" in plain
    assert f"{np.mean([share < 0.05 for share in lit]):.1%} of the pictures below 5%" in plain
    assert facts["pictures"] == 9
    assert facts["rows_looked_at"] == 36
    assert facts["notes"] == []
    assert text.count("<img") >= 1 + 9
    assert build_made_report(out, tmp_path / "again.html") | {"output": ""} == facts | {"output": ""}
    assert (tmp_path / "again.html").read_text("utf-8") == text


def test_a_recipe_alone_is_told_without_a_record(tmp_path: Path) -> None:
    folder = recipe(tmp_path / "r", resolve(request()))
    assert is_made(folder)
    assert is_made(folder / "recipe.json")
    assert not is_made(tmp_path)
    text, facts = page(folder)
    plain = assert_harmless(text).plain
    assert "no record of a finished run" in plain
    assert len(facts["notes"]) == 1
    assert "Energy" not in plain
    alone, _ = page(folder / "recipe.json")
    assert re.sub(r"\s", "", alone) == re.sub(r"\s", "", text)


def test_without_thumbnails_there_is_no_picture(tmp_path: Path) -> None:
    text, facts = page(recipe(tmp_path / "r", resolve(request())), thumbnails=0)
    assert "data:image" not in text
    assert facts["pictures"] == 0


def test_reference_perturbed_and_rejected_sets_have_pages(tmp_path: Path) -> None:
    for number, (more, told) in enumerate(
        (
            ({"stream": "reference", "processes": 3}, "first categories of each process"),
            ({"stream": "reference", "processes": 3, "index": 1, "start_class": 20}, "23 to 25"),
            ({"perturb": 0.1, "base": 3}, "category 3, by at most 0.1"),
            ({"min_lit": 0.02}, "drawn again below 2.00% lit, 16 times at most"),
        )
    ):
        text, _ = page(recipe(tmp_path / str(number), resolve(request(**more))), thumbnails=3)
        assert told in Elements(text).plain


def test_categories_of_one_process_have_the_numbers_of_their_pictures(tmp_path: Path) -> None:
    generation = resolve(request(stream="reference", processes=3, index=2, start_class=10))
    shown = [one.number for one in _samples.shown(generation, [0, 1, 2], 1)]
    closest = measure(generation, pictures=3).closest
    assert {number for pair in closest for number in pair.numbers} == set(shown) == {16, 17, 18}


def test_recipes_that_are_not_sound_have_none(tmp_path: Path) -> None:
    folder = recipe(tmp_path / "r", resolve(request()))
    good = (folder / "recipe.json").read_text()
    (folder / "recipe.json").write_text(good.replace('"classes":9', '"classes":8'))
    with pytest.raises(IntegrityError, match="changed"):
        page(folder)
    other = Generation.model_validate_json(good).model_copy(update={"version": 999}).sealed()
    (folder / "recipe.json").write_text(other.model_dump_json())
    with pytest.raises(HeadwaterError, match="version 999"):
        page(folder)
    with pytest.raises(MissingInput):
        page(tmp_path / "none")
    with pytest.raises(UsageError, match="--thumbnails"):
        page(folder, thumbnails=501)


def test_lit_shares_are_those_of_the_pictures() -> None:
    generation = resolve(request(classes=5))
    facts = measure(generation, pictures=20)
    assert facts.lit is not None
    by_hand = [
        float((make_picture(generation, row, i).picture.pixels > 0).mean())
        for row in range(5)
        for i in range(4)
    ]
    assert facts.lit.tolist() == by_hand
    for cut in (0.05, sorted(by_hand)[11]):
        assert facts.below(cut) == np.mean([share < cut for share in by_hand])
    assert (facts.pictures, facts.compared) == (20, 5)


def test_a_white_background_is_not_lit(monkeypatch: pytest.MonkeyPatch) -> None:
    from curate.generators import rcdb

    monkeypatch.setattr(rcdb, "BACKGROUND", 255, raising=False)
    facts = measure(resolve(MakeRequest("rcdb", classes=12, instances=1)), pictures=12)
    assert facts.lit is not None
    assert 0.005 < facts.lit.mean() < 0.7


def test_near_categories_are_found_by_hand() -> None:
    rng = np.random.default_rng(3)
    columns = {"a": rng.uniform(0, 10, 40), "b": rng.integers(0, 1000, 40).astype(float), "same": np.ones(40)}
    columns["a"][7], columns["b"][7] = columns["a"][31] + 0.05, columns["b"][31]
    near, pairs = near_by_parameters(columns, list(range(100, 140)))
    spans = [columns[name].max() for name in ("a", "b")]
    apart = {
        (i, j): np.sqrt(
            sum(((columns[n][i] - columns[n][j]) / s) ** 2 for n, s in zip("ab", spans, strict=True)) / 3
        )
        for i in range(40)
        for j in range(i + 1, 40)
    }
    assert near == sum(d < _made_facts.NEAR_PARAMETERS for d in apart.values()) > 0
    nearest = sorted(apart.items(), key=lambda item: item[1])[: _made_facts.MOST_PAIRS]
    assert [(a - 100, b - 100) for a, b in (pair.rows for pair in pairs)] == [key for key, _ in nearest]
    assert pairs[0].rows == (107, 131)
    assert np.allclose([pair.apart for pair in pairs], [d for _, d in nearest])


def test_swapped_waves_are_the_same_category() -> None:
    columns = {"nami_1": np.array([3.0, 9.0, 1.0]), "nami_2": np.array([9.0, 3.0, 14.0])}
    near, pairs = near_by_parameters(columns, [0, 1, 2])
    assert (near, pairs[0].rows, pairs[0].apart) == (1, (0, 1), 0.0)
    assert near_by_parameters(columns, [0])[1] == []
    assert near_by_parameters({}, [0, 1]) == (0, [])


def test_copies_are_found_by_picture_but_not_within_a_category() -> None:
    """Delta so small that all categories are nearly one: all pairs are near, and each pair of categories is shown once."""
    generation = resolve(request(classes=4, instances=3, perturb=0.001, base=2))
    facts = measure(generation, pictures=12)
    assert facts.near_parameters == 6
    bits = facts.near_pictures
    assert bits >= len(facts.alike)
    assert len({pair.rows for pair in facts.alike}) == len(facts.alike)
    assert all(pair.rows[0] != pair.rows[1] for pair in facts.alike)


def test_pairs_of_pictures_are_those_of_their_hashes() -> None:
    rng = np.random.default_rng(1)
    thumbs = rng.integers(0, 256, (30, 32, 32), dtype=np.uint8)
    thumbs[20], thumbs[21], thumbs[9] = thumbs[4], thumbs[5], thumbs[8]
    thumbs[21, 0, 0] ^= 8
    owners = [(k // 2, 100 + k // 2, k % 2) for k in range(30)]  # 8 and 9 are of one category
    near, pairs = _made_facts._alike(thumbs, owners)
    assert near == 2
    assert [(p.rows, p.numbers, p.instances) for p in pairs] == [((2, 10), (102, 110), (0, 0))]
    thumbs[15] = thumbs[4]
    near, pairs = _made_facts._alike(thumbs, owners)
    assert near == 4
    assert [p.rows for p in pairs] == [(2, 7), (2, 10), (7, 10)]


def test_plain_pictures_are_not_hashed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hash of a picture without contrast is noise."""
    assert measure(resolve(request(classes=3)), pictures=12).hashed > 0
    monkeypatch.setattr(_made_facts, "LEAST_CONTRAST", 200.0)
    assert measure(resolve(request(classes=3)), pictures=12).hashed == 0
    monkeypatch.setattr(_made_facts, "LEAST_CONTRAST", 0.0)
    monkeypatch.setattr(_made_facts, "NEAR_EMPTY", (0.9, 0.95))
    assert measure(resolve(request(classes=3)), pictures=12).hashed == 0


def test_blank_pictures_are_never_alike() -> None:
    blank = resolve(request(parameters={**SMALL, "radius_min": 1000, "line_num_max": 2}))
    facts = measure(blank, pictures=36)
    assert facts.lit is not None
    assert facts.lit.max() == 0
    assert (facts.hashed, facts.near_pictures, facts.alike) == (0, 0, [])


def test_numbers_only_are_compared() -> None:
    found = numeric([{"a": 1, "b": 0.5, "c": "x", "d": None}, {"a": 2, "b": 1, "c": "y", "d": 3}])
    assert {name: values.tolist() for name, values in found.items()} == {"a": [1, 2], "b": [0.5, 1]}


def test_histogram_counts_every_value() -> None:
    values = np.concatenate([np.random.default_rng(0).uniform(0, 1, 500), [0.0, 1.0]])
    text = str(histogram("x", values, "pictures", axis=SHARES))
    counts = [int(n.replace(",", "")) for n in re.findall(r": ([\d,]+) pictures</title>", text)]
    assert sum(counts) == 502
    expected, _ = np.histogram(values, bins=40, range=(0, 1))
    assert counts == [n for n in expected.tolist() if n]
    assert "&lt;b&gt;" in histogram("<b>", values, "p")
    assert str(histogram("x", np.zeros(0), "p")) == ""


def test_annotated_pictures_are_shown_with_their_outlines(tmp_path: Path) -> None:
    generation = resolve(MakeRequest("scenes", classes=2, instances=2))
    text, _ = page(recipe(tmp_path / "r", generation), thumbnails=2)
    plain = assert_harmless(text).plain
    assert "Things a picture" in plain
    things = sum(len(make_picture(generation, row, 0).picture.things) for row in range(2))
    assert text.count('<path class="thing') == things > 0
