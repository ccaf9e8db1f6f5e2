"""Shapes between COCO's way to write them and kwcoco's, and run lengths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.polygons._forms import to_coco_shapes, to_kwcoco_shapes, unlock
from curate.polygons._rle import counts_of, counts_of_string, leb_of, string_of
from curate.polygons.coco import read_coco, write_coco
from curate.polygons.store import Annotations, Form
from headwater.errors import BadInputs, UsageError
from tests.curate.polygons import json_kit as kit

SQUARE = [[0, 0], [10, 0], [10, 10], [0, 10]]
HOLE = [[2, 2], [4, 2], [4, 4]]
CONTENT = {
    "images": [],
    "annotations": [
        {"id": 1, "segmentation": [[0, 0, 10, 0, 10, 10.5]]},
        {"id": 2, "segmentation": {"exterior": SQUARE, "interiors": [HOLE]}},
        {
            "id": 3,
            "segmentation": [{"exterior": SQUARE, "interiors": [HOLE[::-1], HOLE]}, {"exterior": HOLE}],
            "x": 1,
        },
        {"id": 4, "segmentation": {"size": [3, 4], "counts": [2, 3, 7]}},
        {"id": 5},
    ],
}


def made(folder: Path, content: Any = None) -> Annotations:
    path = folder / "made.json"
    path.write_bytes(kit.text_of(content or CONTENT, {}))
    return read_coco(path)


def test_shapes_from_coco_to_kwcoco_and_back(tmp_path: Path) -> None:
    content = {
        "images": [],
        "annotations": [{"id": 1, "segmentation": [[0, 0, 1, 0, 1, 1], [5, 5, 6, 5, 6, 6]]}],
    }
    found = made(tmp_path, content)
    there = to_kwcoco_shapes(found)
    assert there.annotations["form"].to_pylist() == [Form.KW_MANY]
    assert to_coco_shapes(there).equals(found)


def test_holes_are_refused_or_joined(tmp_path: Path) -> None:
    found = made(tmp_path)
    with pytest.raises(BadInputs, match="COCO's lists know no holes: annotations 2, 3"):
        write_coco(found, tmp_path / "out.json")
    with pytest.raises(UsageError, match="unknown way to write holes"):
        write_coco(found, tmp_path / "out.json", holes="cut")
    assert not (tmp_path / "out.json").exists()
    write_coco(found, tmp_path / "out.json", holes="keyhole")
    back = unlock(read_coco(tmp_path / "out.json"))
    for row in range(len(found.annotations)):
        for (outer, holes), (outer_too, holes_too) in zip(
            found.polygons_of(row), back.polygons_of(row), strict=True
        ):
            assert np.array_equal(outer, outer_too)
            assert len(holes) == len(holes_too)
            assert all(map(np.array_equal, holes, holes_too))


def area(ring: np.ndarray) -> float:
    x, y = ring.T
    return float(abs(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)) / 2)


RINGS = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)).map(list), max_size=6)


@given(st.lists(st.tuples(RINGS, st.lists(RINGS, max_size=3)), min_size=1, max_size=3))
def test_keyholes_keep_the_area_and_open_again(
    tmp_path_factory: pytest.TempPathFactory, polygons: list[Any]
) -> None:
    shape = [{"exterior": exterior, "interiors": holes} for exterior, holes in polygons]
    found = made(tmp_path_factory.mktemp("keys"), {"images": [], "annotations": [{"segmentation": shape}]})
    locked = to_coco_shapes(found, "keyhole")
    for part, (exterior, holes) in enumerate(polygons):
        inside = sum(area(np.array(hole, float).reshape(-1, 2)) for hole in holes)
        whole = area(np.array(exterior, float).reshape(-1, 2))
        if whole:  # a hole in nothing has no sense to go against
            assert area(locked.ring(part)) == pytest.approx(abs(whole - inside))
    assert written_shape(unlock(locked)) == written_shape(found)


def written_shape(annotations: Annotations) -> list[Any]:
    return [
        [(outer.tolist(), [hole.tolist() for hole in holes]) for outer, holes in annotations.polygons_of(0)]
    ]


@given(st.lists(st.integers(0, 2**40), max_size=12))
def test_run_lengths(counts: list[int]) -> None:
    given_counts = np.array(counts, np.int64)
    assert counts_of(leb_of(given_counts)).tolist() == counts
    assert counts_of_string(string_of(given_counts)).tolist() == counts


def test_run_lengths_as_coco_writes_them() -> None:
    """Strings made by pycocotools 2.0: a 5 x 4 mask whose pixels [1:3, 1:3] are set; columns 1,000 to 2,499 of 300 x 3,000 and [7, 2900]."""
    assert string_of(np.array([6, 2, 3, 2, 7])) == "62304"
    assert string_of(np.array([300_000, 450_000, 120_007, 1, 29_992])) == "PoT9`^g=WVe3aaXBQSXM"


@pytest.mark.parametrize("text", ["é", "\x00", "o", "P" * 14 + "0", "0100OP"])
def test_what_is_no_run_length_string(text: str) -> None:
    with pytest.raises(ValueError, match="run length"):
        counts_of_string(text)
