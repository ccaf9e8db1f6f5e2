"""The reference stream against Python's own `random`, Pillow's own lines and a plain statement of the whole; marks and refusals."""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from curate.generators import _twister
from curate.generators._gradient import CELLS, gradient_noise
from curate.generators._lines import SHORT, closed_lines, lines_scratch
from curate.generators._script import ScriptStream
from curate.generators._script_walk import Walk
from curate.generators.visualatom import Config
from headwater.errors import IntegrityError, UsageError
from tests.bench import synth_plain
from tests.curate.filter_kit import listening

SMALL = Config(vertex_num_min=1, vertex_num_max=40, line_num_max=12, start_pos=60, image_size=48)


def digests(stream: ScriptStream, first: int, count: int, mark: bytes | None = None) -> list[tuple[Any, ...]]:
    return [
        (dict(record), label, instance, hashlib.sha256(pixels.tobytes()).hexdigest())
        for record, label, instance, pixels in stream.block(first, count, mark)
    ]


@given(seed=st.integers(0, 2**32 - 1), calls=st.lists(st.integers(0, 511), max_size=60))
@example(seed=0, calls=[300] * 20)
def test_numbers_are_those_of_python(seed: int, calls: list[int]) -> None:
    theirs = random.Random(seed)
    mt, at = _twister.seeded(seed), _twister.WORDS
    for call in calls:
        kind, size = call % 4, call // 4
        if kind == 0:
            found, at = _twister.random(mt, at)
            assert found == theirs.random()
        elif kind == 1:
            bound = size * 7_919 + 1
            found, at = _twister.below(mt, at, bound, bound.bit_length())
            assert found == theirs.randrange(bound)
        elif kind == 2:
            words = np.empty(size * 11, np.uint32)
            at = _twister.take(mt, at, words)
            assert words.tolist() == [theirs.getrandbits(32) for _ in range(size * 11)]
        else:
            at = _twister.skip(mt, at, size * 11)
            for _ in range(size * 11):
                theirs.getrandbits(32)
    state = theirs.getstate()[1]
    if state[-1] == at:
        assert mt.tolist() == list(state[:-1])


def test_bounds_of_32_bits_and_seeds_beyond() -> None:
    theirs, mt, at = random.Random(5), _twister.seeded(5), _twister.WORDS
    for bound in (2**31 + 1, 2**32 - 1, 1, 2, 256):
        found, at = _twister.below(mt, at, bound, bound.bit_length())
        assert found == theirs.randrange(bound)
    for seed in (-1, 2**32):
        with pytest.raises(ValueError, match="32 bits"):
            _twister.seeded(seed)


def plain_noise(x: float) -> float:
    """One sample, each operation rounded to float32, gradients unpacked from the cells' lower halves."""
    f = np.float32
    single = f(x)
    cell = int(single)
    at = f(single - f(cell))
    left, right = (((int(CELLS[(cell + i) & 255]) & 0xFFFF) ^ 0x8000) - 0x8000 for i in (0, 1))
    a, b = f(f(left) * at), f(f(right) * f(at - f(1)))
    fade = f(f(f(at * at) * at) * f(f(at * f(f(at * f(6)) - f(15))) + f(10)))
    return float(f(f(a + f(fade * f(b - a))) * f(0.4)))


@given(st.lists(st.floats(0, 10_000, width=32), min_size=1, max_size=40))
def test_noise_is_its_plain_statement(values: list[float]) -> None:
    found = np.array(values, np.float32)
    gradient_noise(found, CELLS, np.empty(len(values), np.int32))
    assert [float(v) for v in found] == [plain_noise(x) for x in values]


def test_noise_has_the_statistics_of_the_reference() -> None:
    # spec: mean -0.0005, sigma 0.3285, range +-0.952 of uniform points
    found = np.random.default_rng(3).uniform(0, 10_000, 200_000).astype(np.float32)
    gradient_noise(found, CELLS, np.empty(len(found), np.int32))
    assert abs(found.mean() + 0.0005) < 0.003 and abs(found.std() - 0.3285) < 0.002
    assert 0.93 < found.max() < 0.96 and -0.96 < found.min() < -0.93


def lines_of_pillow(corners: list[tuple[int, int]], size: int) -> Any:
    image = Image.new("L", (size, size))
    draw = ImageDraw.Draw(image)
    for start, end in zip(corners, corners[1:] + corners[:1], strict=True):
        draw.line((*start, *end), fill=200, width=1)
    return np.asarray(image)


def our_lines(
    corners: list[tuple[int, int]], size: int, window: tuple[int, int, int, int] | None = None
) -> np.ndarray[Any, np.dtype[np.uint8]]:
    pixels = np.zeros((size, size), np.uint8)
    xs, ys = np.array([*corners, corners[0]], np.int32).T.copy()
    edges = [np.int32(edge) for edge in window or (0, 0, size, size)]
    closed_lines(pixels, xs, ys, np.uint8(200), *edges, *lines_scratch(len(corners)))
    return pixels


WIDE = st.integers(-1500, 1500)
NEAR = st.integers(-4, 36)


@given(
    corners=st.lists(
        st.tuples(NEAR, NEAR) | st.tuples(NEAR, WIDE) | st.tuples(WIDE, NEAR), min_size=1, max_size=30
    ),
    edges=st.tuples(*[st.integers(0, 32)] * 4),
)
@example(corners=[(3, 3)], edges=(0, 0, 32, 32))
@example(corners=[(-3, -3), (-1, -1)], edges=(0, 0, 32, 32))
def test_lines_are_those_of_pillow(corners: list[tuple[int, int]], edges: tuple[int, int, int, int]) -> None:
    expected = lines_of_pillow(corners, 32)
    assert (our_lines(corners, 32) == expected).all()
    left, right, top, bottom = *sorted(edges[:2]), *sorted(edges[2:])
    found = our_lines(corners, 32, (left, top, right, bottom))
    assert (found[top:bottom, left:right] == expected[top:bottom, left:right]).all()
    found[top:bottom, left:right] = 0
    assert not found.any()


@pytest.mark.parametrize("away", [(1, 0), (0, 1)])
def test_every_slope_up_to_the_longest_line_drawn_by_fractions(away: tuple[int, int]) -> None:
    size = SHORT + 3
    for long in (*range(40), SHORT - 1, SHORT, SHORT + 1):
        for short in {*range(0, long + 1, 37), long // 2, max(long - 1, 0), long}:
            end = (long, short) if away[0] else (short, long)
            corners = [(1, 1), (1 + end[0], 1 + end[1])]
            assert (our_lines(corners, size) == lines_of_pillow(corners, size)).all(), (long, short)


def test_the_whole_is_the_plain_statement() -> None:
    noise = synth_plain.compiled_noise()
    for config, classes, instances, processes in (
        (SMALL, 7, 3, 2),
        (replace(SMALL, perlin_min=2.0, line_width=0.01, radius_min=0, oval_rate=3.5), 3, 2, 1),
        (replace(SMALL, nami_1_max=1, nami_2_max=1, start_pos=0, image_size=33), 9, 1, 3),
        (Config(vertex_num_min=300, vertex_num_max=300, line_num_min=90, line_num_max=90), 1, 2, 1),
    ):
        for index in range(processes):
            stream = ScriptStream(
                config, classes=classes, instances=instances, processes=processes, index=index
            )
            plain = synth_plain.pictures(config, classes, instances, processes, index, noise)
            records = {record["category"]: record for record in stream.categories()}
            count = 0
            for (record, label, instance, pixels), (number, i, category, image) in zip(
                stream.block(0, stream.pictures), plain, strict=True
            ):
                assert (label, instance) == (number, i)
                assert (record["vertex_num"], record["line_num"], record["radius"]) == (
                    category.vertices, category.orbits, category.radius,
                )  # fmt: skip
                assert record.items() <= records[number].items()
                assert (np.asarray(image)[..., 0] == pixels).all()
                count += 1
            assert count == stream.pictures == classes // processes * instances


def test_pictures_stay_what_they_are() -> None:
    """Fixed here, so that no golden data is needed to see a change."""
    stream = ScriptStream(SMALL, classes=4, instances=3, processes=2, index=1)
    whole = hashlib.sha256(b"".join(pixels.tobytes() for *_, pixels in stream.block(0, stream.pictures)))
    assert whole.hexdigest() == "299407adb3f1bd645191cfecb3c33a47510b1dfba3c0a936d741bdd8513526c0"
    launcher = ScriptStream(Config(), classes=1, instances=1)
    assert digests(launcher, 0, 1)[0][3] == "9b04c11c5f3a08cd00c889573d0eca902beec9475bd2c9e33a5efe8e71cee264"


@given(first=st.integers(0, 19), count=st.integers(1, 20), every=st.integers(1, 25))
@settings(max_examples=25)
def test_drawing_starts_anywhere(first: int, count: int, every: int) -> None:
    count = min(count, 20 - first)
    options: dict[str, Any] = {"classes": 11, "instances": 4, "processes": 2, "index": 1}
    stream = ScriptStream(SMALL, **options)
    whole = digests(ScriptStream(SMALL, **options), 0, 20)
    assert digests(stream, first, count) == whole[first : first + count]
    other = ScriptStream(SMALL, **options)
    marks = other.marks(every)
    assert len(marks) == -(-20 // every) and max(map(len, marks)) < 3072
    at = first // every * every
    assert digests(stream, at, 20 - at, marks[first // every]) == whole[at:]
    assert marks[first // every] == ScriptStream(SMALL, **options).mark(at)  # by another way, the same bytes
    assert other.categories() == stream.categories()


def test_walking_takes_the_numbers_that_drawing_takes() -> None:
    """A mark taken after drawing is the mark of a walk."""
    stream = ScriptStream(SMALL, classes=3, instances=5)
    drawn, pixels = Walk(stream), np.zeros((48, 48), np.uint8)
    for picture in range(14):
        assert drawn.mark() == Walk(stream).to(picture).mark()
        drawn.draw(pixels)
        drawn.after_picture()


def test_the_start_class_only_renames() -> None:
    plain, renamed = (ScriptStream(SMALL, classes=3, instances=2, start_class=start) for start in (0, 5))
    assert [row[3] for row in digests(plain, 0, 6)] == [row[3] for row in digests(renamed, 0, 6)]
    assert [(r["category"], r["label"]) for r in renamed.categories()] == [(0, 5), (1, 6), (2, 7)]
    record = renamed.categories()[0]
    assert renamed.name(record, 1) == f"00005/vertex_{record['vertex_num']:04d}_instance_0001.png"
    assert digests(renamed, 3, 3, plain.mark(3)) == digests(renamed, 3, 3)  # a mark says nothing of names


def test_classes_that_no_process_draws_are_told() -> None:
    with listening() as heard:
        stream = ScriptStream(SMALL, classes=11, instances=1, processes=4, index=3, start_class=100)
    assert [record["label"] for record in stream.categories()] == [106, 107]
    assert len(heard.warnings) == 1
    assert "11 classes among 4 processes" in heard.warnings[0]
    assert "classes 108 to 110 are never drawn" in heard.warnings[0]
    with listening() as heard:
        ScriptStream(SMALL, classes=12, instances=1, processes=4)
    assert heard.warnings == []


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"classes": 0}, "--classes 0 is below 1"),
        ({"instances": 0}, "--instances 0"),
        ({"processes": 0}, "--processes 0"),
        ({"index": -1}, "--index -1"),
        ({"start_class": -1}, "--start-class -1"),
        ({"processes": 2, "index": 2}, "--index 2 of 2 processes: the last index is 1"),
        ({"processes": 4}, "3 classes for 4 processes: the script draws nothing"),
        ({"config": replace(SMALL, nami_1_min=3, nami_1_max=3, nami_2_min=3, nami_2_max=3)}, "--nami-2-m"),
        ({"config": replace(SMALL, nami_2_min=3, nami_2_max=3)}, "--nami-2-m"),
        ({"config": replace(SMALL, perlin_min=float("nan"))}, "--perlin-min"),
    ],
)
def test_refusals(changes: dict[str, Any], text: str) -> None:
    options: dict[str, Any] = {"config": SMALL, "classes": 3, "instances": 2, **changes}
    with pytest.raises(UsageError, match=text):
        ScriptStream(options.pop("config"), **options)


def test_two_equal_frequencies_of_zero_are_drawn() -> None:
    still = replace(SMALL, nami_1_max=0, nami_2_max=0)
    records = ScriptStream(still, classes=3, instances=1).categories()
    assert {(r["nami_1"], r["nami_2"]) for r in records} == {(0, 0)}


def test_marks_and_blocks_that_do_not_fit() -> None:
    stream = ScriptStream(SMALL, classes=3, instances=2)
    mark = stream.mark(4)
    for first, count in ((-1, 1), (0, 7), (6, 1), (0, 0)):
        with pytest.raises(UsageError, match="process 0 has 0 to 5"):
            stream.block(first, count)
    with pytest.raises(UsageError, match="at least one"):
        stream.marks(0)
    with pytest.raises(IntegrityError, match="one of picture 4, not of 3"):
        stream.block(3, 1, mark)
    for damaged in (b"", mark[:-1], b"x" + mark[1:]):
        with pytest.raises(IntegrityError, match="damaged"):
            stream.block(4, 1, damaged)
    for other in (
        ScriptStream(replace(SMALL, oval_rate=1.5), classes=3, instances=2),
        ScriptStream(SMALL, classes=3, instances=3),
        ScriptStream(SMALL, classes=6, instances=2, processes=2, index=1),
    ):
        with pytest.raises(IntegrityError, match="belongs to other"):
            other.block(4, 1, mark)
