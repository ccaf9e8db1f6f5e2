"""Text in pictures: boxes of drawn text, areas and fills against slow statements, what is read, and the masked score."""

from __future__ import annotations

import itertools
import socket
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from curate import _ocr_boxes as boxes
from curate import _ocr_models as models
from curate.pictures import Picture
from curate.scores import ocr
from curate.sidecars import ScorerRef
from headwater.errors import MissingExtra, MissingInput, UsageError
from tests.curate import picture_kit
from tests.curate.feature_kit import scored
from tests.curate.picture_kit import encoded

pytest.importorskip("onnxruntime")
pytest.importorskip("rapidocr")

SIDE = 256  # faster than the default


def written(*lines: str, size: tuple[int, int] = (320, 240), height: int = 48) -> Image.Image:
    """Black text on a light ground."""
    image = Image.new("RGB", size, (235, 240, 235))
    draw = ImageDraw.Draw(image)
    for n, line in enumerate(lines):
        draw.text((16, 16 + n * 80), line, fill=(10, 10, 10), font=ImageFont.load_default(height))
    return image


def picture(image: Image.Image | bytes, caption: str | None = None) -> Picture:
    data = image if isinstance(image, bytes) else encoded(image)
    return Picture(uid="0" * 32, key="0", data=data, caption=caption)


@pytest.fixture(scope="module")
def scorer() -> ocr.Scorer:
    return ocr.Scorer(ocr.Config(side=SIDE, read=True))


def rows(answers: dict[str, Any]) -> list[dict[str, Any]]:
    columns = {name: values.to_pylist() for name, values in answers.items()}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def test_text_has_boxes_that_cover_it_and_a_drawing_has_none(scorer: ocr.Scorer) -> None:
    image = written("GARDEN", "flowers")
    found, drawn, plain = rows(
        scorer.score_pictures(
            [picture(image), picture(picture_kit.drawing(3, (200, 160))), picture(picture_kit.plain())]
        )
    )
    assert found["text_boxes"] == 2 and found["ocr_text"] == "GARDEN\nflowers" and found["text_words"] == 2
    assert 0.1 < found["text_area"] < 0.6 and 0.1 < found["text_height"] < 0.35
    for none in (drawn, plain):
        assert (none["text_boxes"], none["text_area"], none["text_height"]) == (0, 0.0, None)
        assert (none["ocr_text"], none["text_words"], none["text_overlap"]) == ("", 0, None)
    # the boxes lie where the ink is
    quads, seen = scorer._detector.find(image)
    ink = np.asarray(image.convert("L")) < 100
    mask = boxes.covered(quads, seen.size, image.size)
    assert (ink & mask).sum() / ink.sum() > 0.97
    away = mask & ~np.asarray(Image.fromarray(ink.astype(np.uint8)).filter(ImageFilter.MaxFilter(41)), bool)
    assert away.sum() < 0.02 * mask.sum()


def test_a_single_thing_on_a_plain_ground_is_no_text_unless_every_box_is_taken() -> None:
    disc = Image.new("RGB", (96, 96), (255, 255, 255))
    ImageDraw.Draw(disc).ellipse((4, 4, 91, 91), outline=(200, 30, 30), width=10)
    every = rows(
        ocr.Scorer(ocr.Config(side=SIDE, confirm=False)).score_pictures(
            [picture(disc), picture(written("GARDEN"))]
        )
    )
    sure = rows(ocr.Scorer(ocr.Config(side=SIDE)).score_pictures([picture(disc), picture(written("GARDEN"))]))
    assert every[0]["text_boxes"] >= 1 and sure[0]["text_boxes"] == 0
    assert every[1] == sure[1] and sure[1]["text_boxes"] == 1
    assert set(sure[0]) == {"text_boxes", "text_area", "text_height"}


def test_words_of_the_caption(scorer: ocr.Scorer) -> None:
    image = written("GARDEN", "flowers")
    captions = [
        "a Garden with FLOWERS",
        "flowers flowers, flowers!",
        "nothing of it",
        None,
        "  ",
        "ｇａｒｄｅｎ",
    ]
    found = rows(scorer.score_pictures([picture(image, caption) for caption in captions]))
    assert [row["text_overlap"] for row in found] == [0.5, 1.0, 0.0, None, None, 1.0]


def test_letters_and_words() -> None:
    samples = {"10": 2, "A-1 b": 3, "出口": 4, "小": 2, "": 0, "<>|": 0, "ＡＢ": 4}
    assert {text: ocr.letters(text) for text in samples} == samples
    assert ocr.words("Ｆｏｏ_1, STRASSE\nBaz-q") == ["foo_1", "strasse", "baz", "q"]


def test_what_does_not_open_has_no_score(scorer: ocr.Scorer) -> None:
    found = rows(scorer.score_pictures([picture(b""), picture(written("ab")), picture(b"<html>")]))
    assert [row["text_boxes"] is None for row in found] == [True, False, True]
    assert set(found[0].values()) == {None}


def test_boxes_that_cannot_be_computed_are_no_score(monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = ocr.Scorer(ocr.Config(side=SIDE))
    real, calls = scorer._detector._boxes, iter([True, False, True])

    def sometimes(*arguments: Any) -> Any:
        if not next(calls):
            raise ValueError("inhomogeneous shape")
        return real(*arguments)

    monkeypatch.setattr(scorer._detector, "_boxes", sometimes)
    pictures = [picture(written("GARDEN")) for _ in range(3)]
    assert scorer.score_pictures(pictures)["text_boxes"].to_pylist() == [1, None, 1]


def test_alone_as_among_others_bit_for_bit(scorer: ocr.Scorer) -> None:
    pictures = [picture(written("one two"), "one"), picture(written("three", height=60)), picture(b"")]
    together = rows(scorer.score_pictures(pictures))
    assert [rows(scorer.score_pictures([one]))[0] for one in pictures] == together
    assert rows(scorer.score_pictures(pictures[::-1]))[::-1] == together


def test_no_network_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    found = ocr.Scorer(ocr.Config(side=SIDE, read=True)).score_pictures([picture(written("GARDEN"))])
    assert found["ocr_text"].to_pylist() == ["GARDEN"]


def test_raster_of_the_detector() -> None:
    assert models.raster_of((256, 256), 512) == (512, 512)
    assert models.raster_of((96, 96), 512) == (288, 288)
    assert models.raster_of((96, 48), 512) == (288, 128)
    assert models.raster_of((4000, 3000), 512) == (672, 512)
    assert models.raster_of((10_000, 10), 512) == (2048, 32)
    assert models.raster_of((1, 1), 96) == (32, 32)
    for size in itertools.product((1, 7, 100, 5000), repeat=2):
        width, height = models.raster_of(size, 320)
        assert width % 32 == height % 32 == 0 and 32 <= min(width, height) and max(width, height) <= 1280


# areas and fills, against slow statements in fractions


def is_inside(quad: Any, x: Fraction, y: Fraction) -> bool:
    """Even-odd rule: how many edges a ray to the right crosses."""
    odd = False
    for at in range(4):
        (x0, y0), (x1, y1) = (tuple(map(int, quad[(at + k) % 4])) for k in (0, 1))
        if (y0 > y) != (y1 > y) and x < x0 + (y - y0) * Fraction(x1 - x0, y1 - y0):
            odd = not odd
    return odd


def slow_mask(quad: Any, raster: tuple[int, int], size: tuple[int, int]) -> Any:
    mask = np.zeros((size[1], size[0]), bool)
    for row, column in itertools.product(range(size[1]), range(size[0])):
        x = Fraction(2 * column + 1, 2) * raster[0] / size[0]
        y = Fraction(2 * row + 1, 2) * raster[1] / size[1]
        mask[row, column] = is_inside(quad, x, y)
    return mask


sides = st.tuples(st.integers(1, 14), st.integers(1, 14))


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Any, tuple[int, int], tuple[int, int]]:
    """Boxes in a raster (of any four corners, also crossing), the raster, and the size of a picture under it."""
    raster = draw(sides)
    corner = st.tuples(st.integers(0, raster[0]), st.integers(0, raster[1]))
    quads = draw(st.lists(st.lists(corner, min_size=4, max_size=4), max_size=4))
    return np.array(quads, np.int64).reshape(-1, 4, 2), raster, draw(sides)


@settings(max_examples=150, deadline=None)
@given(worlds())
def test_covered_pixels_equal_the_slow_statement(world: Any) -> None:
    quads, raster, size = world
    wanted = np.zeros((size[1], size[0]), bool)
    for quad in quads:
        wanted |= slow_mask(quad, raster, size)
    assert (boxes.covered(quads, raster, size) == wanted).all()


@settings(max_examples=100, deadline=None)
@given(worlds(), st.integers(0, 1000))
def test_fill_equals_the_slow_statement(world: Any, seed: int) -> None:
    quads, raster, (width, height) = world
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    masks = [slow_mask(quad, raster, (width, height)) for quad in quads]
    every = np.logical_or.reduce([*masks, np.zeros((height, width), bool)])
    wanted = pixels.copy()
    outside = [pixels[r, c] for r, c in itertools.product(range(height), range(width)) if not every[r, c]]
    for mask in reversed(masks):  # so that the first box has the last word
        ring = []
        inner = list(zip(*np.nonzero(mask), strict=True))
        for r, c in itertools.product(range(height), range(width)):
            if not every[r, c] and any(max(abs(r - a), abs(c - b)) <= boxes.RING for a, b in inner):
                ring.append(pixels[r, c])
        colours = ring or outside
        for r, c in inner:
            for k in range(3):
                total = sum(int(colour[k]) for colour in colours)
                wanted[r, c, k] = int(Fraction(total, len(colours)) + Fraction(1, 2)) // 1 if colours else 128
    found = boxes.fill(pixels, quads, raster)
    assert (found == wanted).all() and (found[~every] == pixels[~every]).all()


def test_heights_and_order() -> None:
    flat = [[0, 0], [30, 0], [30, 10], [0, 10]]
    column = [[0, 20], [10, 20], [10, 60], [0, 60]]
    turned = [[0, 0], [8, 6], [5, 10], [-3, 4]]
    assert boxes.heights(np.array([flat, column, turned])).tolist() == [10, 10, 5]
    spots = [(50, 3), (0, 0), (0, 40), (90, 41), (45, 38)]
    quads = np.array([[[x, y], [x + 30, y], [x + 30, y + 10], [x, y + 10]] for x, y in spots])
    ordered = [(0, 0), (50, 3), (0, 40), (45, 38), (90, 41)]
    for order in itertools.permutations(range(5)):
        assert [tuple(q[0]) for q in boxes.reading_order(quads[list(order)])] == ordered
    assert boxes.reading_order(quads[:0]).shape == (0, 4, 2)


# the masked score


@pytest.mark.slow
def test_masked_score_is_that_of_the_picture_with_its_text_filled(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("open_clip")
    from headwater.clip_model import load_model
    from tests.curate import tower_kit

    folder = tower_kit.clip_folder(tmp_path / "model")
    asked = ocr.Scorer(ocr.Config(side=SIDE, model=folder))
    image, drawing = written("GARDEN"), picture_kit.drawing(3, (200, 160))
    found = rows(
        asked.score_pictures(
            [picture(image, "a garden"), picture(drawing, "a drawing"), picture(image), picture(image, " ")]
        )
    )
    quads, seen = asked._detector.find(image)
    filled = Image.fromarray(boxes.fill(np.asarray(image), quads, seen.size))
    assert np.abs(np.asarray(filled).astype(int) - [235, 240, 235]).max() <= 3  # nothing is left of the text
    model = load_model(folder)
    for row, shown, caption in ((found[0], filled, "a garden"), (found[1], drawing, "a drawing")):
        one = model.encode_images(torch.stack([model.transform(shown)]))
        wanted = float((one * model.encode_texts([caption])).sum())
        assert row["clip_masked_similarity_score"] == pytest.approx(wanted, abs=1e-3)
        assert row["clip_masked_similarity_score"] == np.float16(row["clip_masked_similarity_score"])
    assert [row["clip_masked_similarity_score"] for row in found[2:]] == [None, None]
    assert found[2]["text_boxes"] == 1
    same = ScorerRef("ocr", (("model", folder),)).identity
    assert same["assets"]["masked weights"] and "model" not in same["config"]


@pytest.mark.slow
def test_a_trained_scorer_may_mask(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("open_clip")
    from curate import scorer_training as training
    from curate.pool import Pool
    from headwater.steps import RunOptions
    from tests.curate import tower_kit

    model = tower_kit.clip_folder(tmp_path / "model")
    pool, tars, trusted = tower_kit.small_world(tmp_path)
    job = training.Job(tars, trusted, tmp_path / "s", f"local-dir:{model}", held_out=10, epochs=1)
    opened = Pool.open(pool)
    training.train_scorer(opened, job, *training.plan_training(opened, job), options=RunOptions())
    plain = scored(pool, "two_tower", shards=tars, scorer=tmp_path / "s")
    masked = scored(pool, "ocr", shards=tars, model=tmp_path / "s", side=96)
    none = np.array(masked["text_boxes"]) == 0
    assert none.any()
    first, second = np.array(plain["two_tower_similarity"]), np.array(masked["clip_masked_similarity_score"])
    np.testing.assert_allclose(first[none], second[none], atol=2e-3)


# pools, settings, what is missing


def test_rows_of_a_pool(tmp_path: Path) -> None:
    data = [encoded(written("GARDEN")), encoded(picture_kit.drawing(1)), b"<html>", encoded(written("x1 y2"))]
    tar = [picture_kit.Sample(picture_kit.uid_of(n), body) for n, body in enumerate(data)]
    pool, tars = picture_kit.make(tmp_path, {"a.tar": tar[:2], "b.tar": tar[2:]})
    table = scored(pool, "ocr", shards=tars, side=SIDE)
    found = dict(zip(table["uid"].to_pylist(), table["text_boxes"].to_pylist(), strict=True))
    numbers = [found[picture_kit.uid_of(n)] for n in range(4)]
    assert numbers[:3] == [1, 0, None] and numbers[3] >= 1
    assert (
        table.schema.field("text_boxes").type == "int32" and table.schema.field("text_area").type == "float"
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"side": 64}, "--side 64: from 96 to 1024"),
        ({"threshold": 0.0}, "--threshold 0.0: between 0 and 1"),
        ({"sure": 1.5}, "--sure 1.5: between 0 and 1"),
    ],
)
def test_settings_that_make_no_sense(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        ocr.Scorer(ocr.Config(**given))


def test_a_model_that_is_not_there_is_told_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="no such folder of a model"):
        ocr.Scorer(ocr.Config(model=tmp_path / "none"))
    (tmp_path / "x.pt").write_bytes(b"")
    with pytest.raises(UsageError, match="is a file"):
        ocr.Scorer(ocr.Config(model=tmp_path / "x.pt"))
    with pytest.raises(MissingInput, match="open_clip_config"):
        ocr.Scorer(ocr.Config(model=tmp_path))


@pytest.mark.parametrize("missing", ["onnxruntime", "rapidocr"])
def test_without_the_extra_the_command_is_told(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *rest: None if name == missing else real(name, *rest)
    )
    with pytest.raises(MissingExtra, match=f"the scorer ocr needs {missing}") as error:
        ocr.Scorer(ocr.Config())
    assert error.value.exit_code == 4 and error.value.hint == "pip install 'headwater[ocr]'"


def test_a_package_without_its_models_is_not_helped_by_a_download(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(models, "DETECTOR", "another_det.onnx")
    with pytest.raises(MissingExtra, match="is installed without another_det.onnx") as error:
        ocr.Scorer(ocr.Config())
    assert error.value.exit_code == 4 and "headwater[ocr]" in str(error.value.hint)


def test_identity_names_files_and_code() -> None:
    first, second = ocr.Scorer(ocr.Config()), ocr.Scorer(ocr.Config(confirm=False))
    assert set(first.identity) == {"detector", "reader", "rapidocr"}
    assert set(second.identity) == {"detector", "rapidocr"}
    assert ocr.CAPTIONS(ocr.Config()) is False and ocr.CAPTIONS(ocr.Config(read=True)) is True
