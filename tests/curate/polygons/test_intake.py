"""A camera's folder: groups, duplicates, and what photos say, onto the images; the folder itself is not touched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.polygons.exif import Photo
from curate.polygons.intake import Seen, across, group, photo_table, same_photos, take_in
from curate.polygons.provenance import Provenance, corrected, count_kinds, parse, with_source
from curate.polygons.turning import turn_pixels, unturn_pixels
from headwater.errors import MissingInput, UsageError
from headwater.executor import Executor
from tests.curate.polygons.photo_kit import (
    GPS,
    exif_bytes,
    photo,
    picture_bytes,
    pixels,
    polygon,
    sidecar,
    tree_bytes,
)


def shot(folder: Path, name: str, minute: float, seed: int, *, marked: bool = False, **exif: Any) -> None:
    stamp = f"2024:05:01 10:{int(minute):02}:{int(minute * 60) % 60:02}"
    photo(folder, name, array=pixels(64, 48, seed), taken=stamp, **exif)
    if marked:
        sidecar(folder, name, [polygon()], (64, 48))


def camera(folder: Path) -> Path:
    shot(folder, "a1", 0, 1, marked=True, gps=GPS, main={0x0110: "Phone"})
    shot(folder, "a2", 1, 2)
    shot(folder, "a3", 2, 3)
    shot(folder, "a4", 3, 4)  # more than the protocol has roles
    shot(folder, "b1", 20, 5, marked=True)
    shot(folder, "b2", 31, 6)  # too late
    shot(folder, "c1", 40, 7, marked=True)
    shot(folder, "d1", 41, 8, marked=True)  # annotated: a group of its own
    shot(folder, "d2", 42, 9)
    photo(folder, "timeless", array=pixels(64, 48, 10))
    return folder


def test_groups_follow_the_protocol(tmp_path: Path) -> None:
    before = tree_bytes(camera(tmp_path / "in"))
    found = take_in(tmp_path / "in", source=Provenance(person=True, who="ann"))
    assert tree_bytes(tmp_path / "in") == before
    roles = {name.removesuffix(".jpg"): role for name, (_, role) in found.groups.items()}
    assert roles == {
        "a1": "before", "a2": "after", "a3": "negative", "b1": "before", "c1": "before", "d1": "before", "d2": "after",
    }  # fmt: skip
    names: dict[str, set[str]] = {}
    for name, (key, _) in found.groups.items():
        names.setdefault(key, set()).add(name[0])
    assert sorted(map(sorted, names.values())) == [["a"], ["b"], ["c"], ["d"]]
    rows = {row["file_name"]: row for row in found.annotations.images.to_pylist()}
    assert len(rows) == 10
    first = rows["a1.jpg"]
    extra = json.loads(first["extra"])["intake"]
    assert first["datetime"] == "2024-05-01T10:00:00"
    assert (extra["role"], extra["model"], extra["gps"]["latitude"][2]) == (
        "before",
        "Phone",
        [123456, 10007],
    )
    assert first["sha256"] == found.seen[0].sha256
    assert count_kinds(found.annotations) == {"person": 4}
    assert set(found.annotations.annotations["source"].to_pylist()) == {"person:ann"}
    table = photo_table(found)
    assert table["role"].to_pylist()[:4] == ["before", "after", "negative", None]
    assert found.bad == [] and found.same == []


def test_groups_stay_when_photos_are_added(tmp_path: Path) -> None:
    camera(tmp_path / "in")
    before = take_in(tmp_path / "in").groups
    shot(tmp_path / "in", "a0", 0, 20, marked=True)  # in the same second, before a1 by name
    shot(tmp_path / "in", "e1", 50, 21, marked=True)
    after = take_in(tmp_path / "in").groups
    assert {name: after[name] for name in before} == before
    assert len(set(after.values())) == len(set(before.values())) + 2


def seen(name: str, taken: str | None, zone: str | None = None, **other: Any) -> Seen:
    said = Photo("JPEG", 4, 3, taken=taken, zone_from=zone)
    return Seen(name, 1, name * 12, 0, 0, 9.0, said, **other)


def test_zones_count_where_all_are_known() -> None:
    photos = [
        seen("a", "2024-05-01T10:00:00+02:00", "exif"),
        seen("b", "2024-05-01T09:01:00+01:00", "gps"),
    ]
    assert group(photos, {"a"})["b"][1] == "after"
    photos[1] = seen("b", "2024-05-01T10:01:00", None)  # one clock without a zone: the camera's clock counts
    assert group(photos, {"a"})["b"][1] == "after"
    assert group([*photos, seen("c", None)], {"a", "c"}).keys() == {"a", "b"}
    assert group([], set()) == {}


@given(st.lists(st.tuples(st.integers(0, 59), st.booleans()), max_size=12), st.integers(1, 900))
def test_every_group_begins_marked_and_is_tight(photos: list[tuple[int, bool]], gap: int) -> None:
    names = {f"{at:02}": (minute, marked) for at, (minute, marked) in enumerate(photos)}
    all_seen = [seen(name, f"2024-05-01T10:{minute:02}:00") for name, (minute, _) in names.items()]
    groups = group(all_seen, {name for name, (_, marked) in names.items() if marked}, gap_seconds=gap)
    members: dict[str, list[tuple[int, str]]] = {}
    for name, (key, _) in groups.items():
        members.setdefault(key, []).append((names[name][0], name))
    assert {name for name, (_, marked) in names.items() if marked} <= groups.keys()
    for found in members.values():
        ordered = sorted(found)
        assert [groups[name][1] for _, name in ordered] == ["before", "after", "negative"][: len(ordered)]
        assert [names[name][1] for _, name in ordered] == [True] + [False] * (len(ordered) - 1)
        assert all(60 * (b[0] - a[0]) <= gap for a, b in zip(ordered, ordered[1:], strict=False))


def test_the_same_in_bytes_in_pixels_and_nearly(tmp_path: Path) -> None:
    array = np.array(pixels(64, 48, 1))
    (tmp_path / "a.png").write_bytes(picture_bytes("PNG", array))
    (tmp_path / "b.png").write_bytes(picture_bytes("PNG", array))
    (tmp_path / "c.png").write_bytes(picture_bytes("PNG", array, exif_bytes(1, gps=GPS)))
    stored = np.ascontiguousarray(unturn_pixels(array, 6))
    assert np.array_equal(turn_pixels(stored, 6), array)
    (tmp_path / "d.png").write_bytes(picture_bytes("PNG", stored, exif_bytes(6)))  # written in another way
    (tmp_path / "e.jpg").write_bytes(picture_bytes("JPEG", array, quality=60))
    (tmp_path / "f.png").write_bytes(picture_bytes("PNG", pixels(64, 48, 2)))
    plain = np.full((48, 64, 3), 9, np.uint8)
    (tmp_path / "g.png").write_bytes(picture_bytes("PNG", plain))
    (tmp_path / "h.png").write_bytes(
        picture_bytes("PNG", plain + 9)
    )  # plain pictures look alike without being so
    found = take_in(tmp_path).same
    assert [(pair.kind, pair.first, pair.second) for pair in found] == [
        ("bytes", "a.png", "b.png"), ("near", "a.png", "e.jpg"), ("pixels", "a.png", "c.png"), ("pixels", "a.png", "d.png"),
    ]  # fmt: skip
    assert not any(pair.one_group for pair in found)
    splits = {"a.png": "train", "b.png": "train", "e.jpg": "test", "c.png": "train"}
    assert [(pair.first, pair.second) for pair in across(found, splits)] == [("a.png", "e.jpg")]


def test_photos_of_one_group_are_told_apart(tmp_path: Path) -> None:
    shot(tmp_path, "a1", 0, 1, marked=True)
    shot(tmp_path, "a2", 1, 1)
    ((pair),) = take_in(tmp_path).same
    assert (pair.kind, pair.one_group) == ("pixels", True)
    assert same_photos([]) == []


@pytest.mark.slow
def test_processes_see_the_same(tmp_path: Path) -> None:
    for number in range(20):
        shot(tmp_path, f"{number:02}", number, number, marked=number % 5 == 0)
    serial = take_in(tmp_path, executor=Executor("serial"))
    pool = take_in(tmp_path, executor=Executor("pool", 2))
    assert (serial.seen, serial.groups, serial.same) == (pool.seen, pool.groups, pool.same)


def test_bad_photos_are_listed(tmp_path: Path) -> None:
    photo(tmp_path, "good")
    (tmp_path / "cut.jpg").write_bytes(picture_bytes()[:300])
    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "film.mp4").write_bytes(b"film")
    (tmp_path / "notes.json").write_text("{}")
    found = take_in(tmp_path)
    assert dict(found.bad).keys() == {"cut.jpg", "text.jpg"}
    assert found.others == ["film.mp4", "notes.json"]
    assert found.annotations.images["file_name"].to_pylist() == ["good.jpg"]
    (tmp_path / "good.json").write_text("{")
    assert dict(take_in(tmp_path).bad).keys() == {"cut.jpg", "text.jpg", "good.json"}


def test_folders_and_options_that_make_no_sense(tmp_path: Path) -> None:
    with pytest.raises(MissingInput):
        take_in(tmp_path / "no")
    with pytest.raises(UsageError, match="no photo"):
        take_in(tmp_path)
    photo(tmp_path, "a")
    for options in ({"roles": ()}, {"roles": ("a", "a")}, {"gap_seconds": 0.0}, {"near_bits": 12}):
        with pytest.raises(UsageError):
            take_in(tmp_path, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("person", "person"), ("person:ann", "person"), ("model:sam2", "model"), ("model:sam2@2.1", "model"),
        ("model:sam2@2.1+person:ann", "model then person"), ("model:sam2+person", "model then person"),
    ],
)  # fmt: skip
def test_sources_are_written_as_they_are_read(text: str, kind: str) -> None:
    found = parse(text)
    assert found is not None
    assert (str(found), found.kind) == (text, kind)


@pytest.mark.parametrize(
    "text",
    ["", "+", "persons", "model:", "model:a+", "+person", "person:a b", "model:a@", "person:ann+model:a"],
)
def test_other_texts_are_no_sources_of_ours(text: str) -> None:
    assert parse(text) is None


def test_a_person_after_a_model(tmp_path: Path) -> None:
    photo(tmp_path, "a")
    sidecar(tmp_path, "a", [polygon(), polygon(), polygon()])
    read = take_in(tmp_path).annotations
    drawn = with_source(read, Provenance(model="sam2", version="2.1"), [0, 1])
    gone_over = corrected(with_source(drawn, Provenance(person=True)), "ann", [1, 2])
    assert gone_over.annotations["source"].to_pylist() == [
        "model:sam2@2.1",
        "model:sam2@2.1+person:ann",
        "person:ann",
    ]
    assert read.annotations["source"].null_count == 3
    assert count_kinds(gone_over) == {"model": 1, "model then person": 1, "person": 1}
    for wrong in (
        {},
        {"person": True, "who": "a b"},
        {"who": "ann", "model": "m"},
        {"version": "1", "person": True},
    ):
        with pytest.raises(UsageError):
            Provenance(**wrong)  # type: ignore[arg-type]
