"""Fault rows 59 and 60: shapes and ids as strangers write them are all told, in bounded time, and nothing is changed."""

from __future__ import annotations

import importlib.util
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba")

from curate.polygons import _schema
from curate.polygons.coco import read_coco
from curate.polygons.store import Annotations, Form
from curate.polygons.validate import validate

spec = importlib.util.spec_from_file_location(
    "validate_kit", Path(__file__).parents[1] / "curate" / "polygons" / "validate_kit.py"
)
assert spec is not None and spec.loader is not None
kit: Any = importlib.util.module_from_spec(spec)
spec.loader.exec_module(kit)

BIG = 2**63


def told(folder: Path, content: dict[str, Any], profile: str = "strict") -> set[tuple[str, str, int | None]]:
    findings = validate(kit.read(folder, content), profile=profile)
    return {(row["code"], row["table"], row.get("row")) for row in findings.as_rows()}


# ---- row 60


def test_all_bad_ids_and_references_of_one_file_are_listed(tmp_path: Path) -> None:
    images = [
        kit.image(id=value, file_name=f"{n}.png")
        for n, value in enumerate([1, 1, "1", 1.5, BIG, -4, None, True])
    ]
    categories = [{"id": value, "name": f"c{n}"} for n, value in enumerate([1, 1, "1", 1.5, BIG, -4, None])]
    ids = [1, 1, "1", 1.5, BIG, -4, None, ..., 17.0]
    rows = [kit.annotation(n, id=value) for n, value in enumerate(ids)]
    rows.append(kit.annotation(20, image_id=99, category_id=98))
    rows.append(kit.annotation(21, image_id=..., category_id=...))
    rows.append(kit.annotation(22, image_id="1", category_id="1"))
    rows.append(kit.annotation(23, image_id=BIG, category_id=BIG))
    found = told(tmp_path, kit.document(*rows, images=images, categories=categories))
    lists = {"images": 8, "categories": 7, "annotations": 9}
    for name, count in lists.items():
        expected = {
            ("id-duplicate", name, 1), ("id-type", name, 2), ("id-type", name, 3), ("id-range", name, 4),
            ("id-negative", name, 5), ("id-type", name, 6),
        }  # fmt: skip
        assert expected <= found, name
        assert not any(entry[1] == name and entry[2] == 0 for entry in found if entry[0].startswith("id-"))
        assert count
    assert ("id-type", "images", 7) in found
    assert {("id-missing", "annotations", 7), ("id-float", "annotations", 8)} <= found
    assert {("image-dangling", "annotations", 9), ("category-dangling", "annotations", 9)} <= found
    for row in (10, 11, 12):
        assert ("image-id-missing", "annotations", row) in found
    assert {("category-id-missing", "annotations", 10), ("category-id-type", "annotations", 11)} <= found
    assert ("category-id-type", "annotations", 12) in found


# ---- row 59


def test_coordinates_beyond_all_doubles(tmp_path: Path) -> None:
    text = json.dumps(kit.document(kit.annotation(1, segmentation=[[1, 2, "X", 4, 5, 6]]))).replace(
        '"X"', "1e999"
    )
    path = tmp_path / "file.json"
    path.write_text(text)
    try:
        annotations = read_coco(path)
    except Exception as error:  # a strict reader may refuse it; then its message says so
        assert "1e999" in str(error) or "finite" in str(error) or "large" in str(error)
        return
    assert validate(annotations).counts.keys() & {"coordinate-range", "segmentation-form"}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300, 2.0**31 + 1])
def test_numbers_that_are_no_places_in_an_image(value: float) -> None:
    annotations = one_ring(np.array([[1, 1], [value, 5], [9, 9], [1, 9]], float), box=True)
    findings = validate(annotations)
    assert {"coordinate-range", "bbox-range"} & set(findings.counts) and not findings.ok
    assert findings.counts["coordinate-range"] == 1


def one_ring(points: np.ndarray[Any, Any], *, box: bool = False) -> Annotations:
    known = {"bbox_x": [points[1, 0]], "bbox_y": [0.0], "bbox_w": [1.0], "bbox_h": [1.0]} if box else {}
    return Annotations(
        {"categories": [{"id": 1, "name": "nut"}]},
        _schema.table(_schema.IMAGES, id=[1], file_name=["a.png"], width=[100], height=[80]),
        _schema.table(
            _schema.ANNOTATIONS,
            id=[1],
            image_id=[1],
            category_id=[1],
            form=[Form.COCO_POLYGONS],
            first_part=[0],
            **known,
        ),
        _schema.table(_schema.PARTS, first_vertex=[0], hole=[False], exterior=[0]),
        _schema.table(_schema.VERTICES, x=points[:, 0].copy(), y=points[:, 1].copy()),
    )


def zigzag(n: int) -> np.ndarray[Any, Any]:
    """Every edge goes across all others' boxes: comparing boxes does not help."""
    step = np.arange(n)
    return np.column_stack(((step % 2) * 90.0, step * (40.0 / n) + (step % 2) * 40.0))


def wave(n: int) -> np.ndarray[Any, Any]:
    """A long winding outline of no area in one direction: a comb."""
    step = np.arange(n // 2)
    top = np.column_stack((step * (90.0 / n), 10 + (step % 2) * 30.0))
    return np.concatenate((top, top[::-1] + [0.0, 35.0]))


@pytest.mark.parametrize("shape", [zigzag, wave])
@pytest.mark.parametrize("n", [100_000, pytest.param(10_000_000, marks=pytest.mark.slow)])
def test_rings_of_very_many_vertices_end(shape: Any, n: int) -> None:
    annotations = one_ring(shape(n))
    start = time.process_time()
    findings = validate(annotations)
    seconds = time.process_time() - start
    assert findings.checked["vertices"] == n
    assert set(findings.counts) & {"self-crossing", "crossing-unknown", "self-touching", "bbox-missing"}
    assert seconds < 300  # the search is bounded by steps; without them it would take hours


def test_holes_run_lengths_and_short_rings(tmp_path: Path) -> None:
    shapes = [
        [kit.kw(kit.square(0, 0, 30), kit.square(40, 40, 5, back=True))],
        kit.rle([5, 5]),
        kit.rle("04000"),
        [[1, 1, 5, 5]],
        [[1, 1, 5, 5, 3, 3]],
        [[10, 10, 30, 30, 30, 10, 10, 30]],
        [[1, 1, 5, 1, 5]],
        [],
    ]
    rows = [kit.annotation(n, segmentation=shape) for n, shape in enumerate(shapes)]
    found = {
        (row, code) for code, table, row in told(tmp_path, kit.document(*rows)) if table == "annotations"
    }
    assert {
        (0, "hole-outside"), (1, "rle-length"), (2, "rle-length"), (3, "ring-short"), (4, "zero-area"), (5, "self-crossing"),
        (6, "segmentation-form"), (7, "segmentation-empty"),
    } <= found  # fmt: skip
