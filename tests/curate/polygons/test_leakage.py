"""Leakage between splits: each kind of finding on images made for it, and what is said of what could not be compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from curate.polygons import leakage as module
from curate.polygons.leakage import FINDINGS, Leakage, Limits, leakage
from curate.polygons.store import Annotations, set_column
from headwater.errors import UsageError
from tests.curate.polygons.split_kit import dataset


def rows(found: Leakage, kind: str) -> list[tuple[Any, ...]]:
    """(severity, first image, how many, second image, how many, value) of the findings of a kind."""
    columns = ("severity", "first_image", "first_images", "second_image", "second_images", "value")
    return [tuple(row[name] for name in columns) for row in found.findings.to_pylist() if row["kind"] == kind]


def named(*names: str, **columns: list[Any]) -> Annotations:
    return dataset(
        [
            {"file_name": name, **{key: column[row] for key, column in columns.items()}}
            for row, name in enumerate(names)
        ]
    )


def test_values_that_two_splits_share() -> None:
    train = named(
        "a", "b", "c", cohort=["x", "x", None], who=["ann", None, "bob"], sha256=["1" * 64, None, "2" * 64]
    )
    vali = named(
        "d", "c", "e", cohort=["y", "x", "x"], who=["ann", "ann", None], sha256=["3" * 64, None, "1" * 64]
    )
    test = named("f", cohort=["y"], who=[None], sha256=[None])
    found = leakage({"train": train, "vali": vali, "test": test}, keys=["cohort"], loose=["who"])
    assert rows(found, "same content") == [("error", "a", 1, "e", 1, "1" * 64)]
    assert rows(found, "same file name") == [("error", "c", 1, "c", 1, "c")]
    assert rows(found, "same cohort") == [
        ("warning", "a", 2, "c", 2, '"x"'),
        ("warning", "d", 1, "f", 1, '"y"'),
    ]
    assert rows(found, "same who") == [("note", "a", 1, "d", 2, '"ann"')]
    assert found.found == {"error": 2, "warning": 2, "note": 1}
    assert found.findings.schema == FINDINGS
    assert found.findings["severity"].to_pylist() == ["error"] * 2 + ["warning"] * 2 + ["note"]
    assert found.checked["content"] == "train 2 of 3, vali 2 of 3, test 0 of 1"
    assert found.checked["pixels"] == found.checked["near duplicates"] == "not checked: no files are named"
    assert found.checked["time"] == found.checked["track"] == "not checked: no image has it"
    assert "error: same content" in found.text() and "(of 2)" in found.text()
    assert len(found.data(1)["findings"]) == 1 and found.data(1)["left_out"] == 4
    assert found.text(1).endswith("and 4 more")


def test_no_leak_between_splits_that_share_nothing() -> None:
    found = leakage({"train": named("a", cohort=["x"]), "vali": named("b", cohort=["y"])})
    assert len(found.findings) == 0
    assert leakage({"train": named(), "vali": named()}).found == {"error": 0, "warning": 0, "note": 0}


def test_tracks() -> None:
    one = dataset([{"file_name": "a"}, {"file_name": "b"}], [(1, 1.0), (2, 1.0), (2, 2.0)])
    two = dataset([{"file_name": "c"}], [(1, 1.0), (1, 2.0)])
    one = one.replace(annotations=set_column(one.annotations, "track_id", pa.array([5, 5, 6], pa.int64())))
    two = two.replace(annotations=set_column(two.annotations, "track_id", pa.array([5, None], pa.int64())))
    found = leakage({"one": one, "two": two})
    assert rows(found, "same track") == [("warning", "a", 2, "c", 1, "5")]


TIMES = st.lists(st.integers(0, 200) | st.none(), max_size=8)


@given(TIMES, TIMES, st.integers(0, 40))
def test_near_in_time_is_what_all_pairs_give(
    first: list[int | None], second: list[int | None], seconds: int
) -> None:
    def clock(value: int | None) -> str | None:
        return None if value is None else f"2024-01-01T00:{value // 60:02}:{value % 60:02}"

    one = named(*(f"a{n}" for n in range(len(first))), datetime=[clock(value) for value in first])
    two = named(*(f"b{n}" for n in range(len(second))), datetime=[clock(value) for value in second])
    found = leakage({"one": one, "two": two}, limits=Limits(seconds=seconds))
    told = {
        row["second_image"]: row["distance"]
        for row in found.findings.to_pylist()
        if row["kind"] == "near in time"
    }
    expected = {}
    for n, own in enumerate(second):
        away = [abs(own - other) for other in first if other is not None] if own is not None else []
        if away and min(away) <= seconds:
            expected[f"b{n}"] = min(away)
    assert told == expected


def test_times_by_utc_only_where_every_time_has_an_offset() -> None:
    one = named("a", datetime=["2024-01-01T12:00:00+02:00"])
    two = named("b", datetime=["2024-01-01T10:00:30Z"])
    found = leakage({"one": one, "two": two})
    assert found.findings["distance"].to_pylist() == [30.0] and "by UTC" in found.checked["time"]
    found = leakage({"one": one, "two": named("b", datetime=["2024-01-01T12:00:07"])})
    assert found.findings["distance"].to_pylist() == [7.0] and "local" in found.checked["time"]


def scene(seed: int, size: int = 96) -> Image.Image:
    """Smooth blobs, different for every seed."""
    small = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), np.uint8)
    return Image.fromarray(small).resize((size, size), Image.Resampling.BICUBIC)


def test_pixels(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    scene(1).save(tmp_path / "in/one.png")
    scene(1).save(tmp_path / "out/equal.png")
    scene(1).save(tmp_path / "out/packed.png", compress_level=0)
    scene(1).resize((64, 64), Image.Resampling.LANCZOS).save(tmp_path / "out/small.jpg", quality=90)
    scene(2).save(tmp_path / "out/other.png")
    Image.new("RGB", (50, 50), (9, 9, 9)).save(tmp_path / "in/plain.png")
    Image.new("RGB", (50, 50), (12, 9, 9)).save(tmp_path / "out/plain too.png")
    (tmp_path / "out/broken.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    train = named("one.png", "plain.png", "../out/other.png")
    vali = named(
        "equal.png", "packed.png", "small.jpg", "other.png", "plain too.png", "broken.jpg", "gone.png"
    )
    folders = {"train": tmp_path / "in", "vali": tmp_path / "out"}
    found = leakage({"train": train, "vali": vali}, folders=folders, threads=2)
    assert [row[1:5] for row in rows(found, "same content")] == [("one.png", 1, "equal.png", 1)]
    assert [row[1:5] for row in rows(found, "same pixels")] == [("one.png", 1, "equal.png", 2)]
    assert [row[1:5] for row in rows(found, "near duplicate")] == [("one.png", 1, "small.jpg", 1)]
    assert found.checked["content"] == "train 2 of 3, vali 6 of 7"
    assert found.checked["pixels"] == "train 2 of 3, vali 5 of 7"
    assert found.checked["near duplicates"] == "train 1 of 3, vali 3 of 7"
    # only equal bytes: told once
    found = leakage({"train": train.take([0]), "vali": vali.take([0])}, folders=folders)
    assert found.found == {"error": 1, "warning": 0, "note": 0}
    found = leakage({"train": train, "vali": vali}, folders={"train": tmp_path / "in"})
    assert rows(found, "near duplicate") == []
    assert found.checked["pixels"] == "train 2 of 3, vali 0 of 7"


def test_room_for_findings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    names = [f"{n}" for n in range(9)]
    found = leakage({"a": named(*names), "b": named(*names)}, limits=Limits(findings=4))
    assert (len(found.findings), found.left_out) == (4, 5)
    assert found.text().endswith("and 5 more")
    scene(3).save(tmp_path / "0.png")
    scene(3).resize((80, 80)).save(tmp_path / "1.png")
    monkeypatch.setattr(module, "MOST_PAIRS", 0)
    found = leakage({"a": named("0.png"), "b": named("1.png")}, folders=tmp_path)
    assert "stopped after 0 pairs" in found.checked["near duplicates"]


@pytest.mark.parametrize(
    "values", [{"bits": 12}, {"bits": -1}, {"correlation": 2}, {"seconds": -1}, {"seconds": float("nan")}]
)
def test_limits(values: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(values))):
        Limits(**values)
    with pytest.raises(UsageError, match="fewer than two"):
        leakage({"train": named("a")})
