"""COCO and kwcoco files go through the tables without loss, whatever they hold."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from curate.polygons import _builder, _json_scan
from curate.polygons._json_write import write_document
from curate.polygons.coco import read_coco
from curate.polygons.store import Annotations, Form, open_annotations
from tests.curate.polygons import json_kit as kit

SQUARE = [[0, 0], [10, 0], [10, 10], [0, 10]]
HOLE = [[2, 2], [4, 2], [4, 4]]


@pytest.fixture(params=["compiled", "plain"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With numba and without."""
    if request.param == "plain":
        monkeypatch.setattr(_json_scan, "have_numba", lambda: False)
    else:
        pytest.importorskip("numba")
    return str(request.param)


def read(folder: Path, document: Any, layout: dict[str, Any] | None = None) -> Annotations:
    path = folder / "document.json"
    path.write_bytes(kit.text_of(document, layout or {}))
    return open_annotations(path)


def there_and_back(folder: Path, document: Any, layout: dict[str, Any] | None = None) -> Annotations:
    """Read, write, read; the file written must hold the same values, and the second reading the same tables."""
    found = read(folder, document, layout)
    again = folder / "again.json"
    write_document(found, again)
    assert kit.same(json.loads(again.read_bytes()), document), again.read_text()
    assert read_coco(again).equals(found)
    return found


@given(document=kit.DOCUMENT, layout=kit.LAYOUT, small=st.booleans())
@example(
    document={"annotations": [{"id": 1, "segmentation": [[0, -0.0, 1e22, 5e-324]], "area": -0.0}]},
    layout={},
    small=False,
)
@example(
    document={
        "annotations": [{"é\ud800": "\ud800", "source": "\udfff"}],
        "images": [{"file_name": "\ud800"}],
    },
    layout={},
    small=False,
)
def test_any_document_comes_back(
    tmp_path_factory: pytest.TempPathFactory, document: Any, layout: dict[str, Any], small: bool
) -> None:
    folder = tmp_path_factory.mktemp("any")
    with pytest.MonkeyPatch.context() as patch:
        if small:  # windows and blocks of a few entries: every value is cut somewhere
            patch.setattr(_json_scan, "BLOCK_BYTES", 16)
            patch.setattr(_json_scan, "PIECE_BYTES", 8)
            patch.setattr(_json_scan, "BLOCK_ROWS", 2)
        compiled = there_and_back(folder, document, layout)
        patch.setattr(_json_scan, "have_numba", lambda: False)
        assert there_and_back(folder, document, layout).equals(compiled)


def test_each_form(tmp_path: Path, engine: str) -> None:
    flat = [0, 0, 10.5, 0, 10, 10]
    forms = [
        ([flat, flat], Form.COCO_POLYGONS, 2, [False, False], [0, 1]),
        ({"exterior": SQUARE, "interiors": [HOLE]}, Form.KW_ONE, 2, [False, True], [0, 0]),
        (
            [{"exterior": SQUARE, "interiors": [HOLE, HOLE]}, {"exterior": SQUARE, "interiors": [HOLE]}],
            Form.KW_MANY, 5, [False, True, True, False, True], [0, 0, 0, 3, 3],
        ),
        ({"interiors": [HOLE], "exterior": SQUARE}, Form.KW_ONE, 2, [False, True], [0, 0]),
        ({"exterior": SQUARE}, Form.KW_ONE, 1, [False], [0]),
        ({"size": [2, 3], "counts": [1, 5]}, Form.RLE_COUNTS, 0, [], []),
        ({"size": [2, 3], "counts": "15"}, Form.RLE_STRING, 0, [], []),
        ([], Form.COCO_POLYGONS, 0, [], []),
        ([[]], Form.COCO_POLYGONS, 1, [False], [0]),
        ([flat[:-1]], Form.NONE, 0, [], []),
        (flat, Form.NONE, 0, [], []),
        (None, Form.NONE, 0, [], []),
        ([flat, {"exterior": SQUARE}], Form.NONE, 0, [], []),
        ({"size": [2, 3], "counts": [1, -5]}, Form.NONE, 0, [], []),
        ({"size": [2, 3], "counts": "é"}, Form.NONE, 0, [], []),
    ]  # fmt: skip
    document = {
        "annotations": [{"id": row, "segmentation": form[0]} for row, form in enumerate(forms)],
        "images": [],
    }
    found = there_and_back(tmp_path, document)
    assert found.annotations["form"].to_pylist() == [form[1] for form in forms]
    assert np.diff(found.part_starts).tolist() == [form[2] for form in forms]
    assert found.holes.tolist() == [hole for form in forms for hole in form[3]]
    assert found.exteriors.tolist() == [exterior for form in forms for exterior in form[4]]
    outer, holes = found.polygons_of(1)[0]
    assert outer.tolist() == SQUARE
    assert holes[0].tolist() == HOLE
    assert [len(holes) for _, holes in found.polygons_of(2)] == [2, 1]


def test_what_a_column_cannot_hold_is_kept_beside_it(tmp_path: Path, engine: str) -> None:
    odd = [
        {"id": "7", "image_id": 1.0, "category_id": None, "track_id": "a"},
        {"id": 2**63, "image_id": -(2**63), "area": 2**60, "iscrowd": True, "bbox": [1, 2, 3]},
        {"id": -0, "bbox": [1, 2, 3, None], "area": "big", "iscrowd": 0, "score": 1},
    ]
    found = there_and_back(tmp_path, {"images": [], "annotations": odd}).annotations.to_pylist()
    assert [row["id"] for row in found] == [None, None, 0]
    assert [row["image_id"] for row in found] == [None, -(2**63), None]
    assert [json.loads(row["extra"]) for row in found] == [
        odd[0],
        {"id": 2**63, "area": 2**60, "iscrowd": True, "bbox": [1, 2, 3]},
        {"bbox": [1, 2, 3, None], "area": "big"},
    ]


def test_real_habits(tmp_path: Path, engine: str) -> None:
    """Null coco_url (TACO), widths as doubles, assets without a file name, keypoints of both kinds, tracks and videos (kwcoco)."""
    document = {
        "info": [{"type": "process_context"}],
        "categories": [{"id": 1, "name": "person", "keypoints": ["nose"], "skeleton": []}],
        "keypoint_categories": [{"id": 1, "name": "nose"}],
        "videos": [{"id": 1, "name": "v"}],
        "tracks": [{"id": 5, "name": "t"}],
        "images": [
            {
                "id": 1,
                "file_name": "a.jpg",
                "width": 640.0,
                "height": 480,
                "coco_url": None,
                "flickr_url": None,
            },
            {
                "id": 2,
                "file_name": None,
                "assets": [{"file_name": "b.tif", "channels": "red"}],
                "video_id": 1,
            },
        ],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 1,
                "keypoints": [1, 2, 2],
                "num_keypoints": 1,
                "bbox": [1, 2, 3, 4],
            },
            {
                "id": 2,
                "image_id": 2,
                "track_id": 5,
                "keypoints": [{"xy": [1.5, 2], "keypoint_category_id": 1}],
            },
            {
                "id": 3,
                "image_id": 2,
                "keypoints": None,
                "source": "person",
                "prob": [0.5],
                "segmentation": None,
            },
        ],
    }
    found = there_and_back(tmp_path, document)
    assert found.images["width"].to_pylist() == [640, None]
    assert found.annotations["keypoints"].to_pylist()[:2] == [
        "[1,2,2]",
        '[{"xy":[1.5,2],"keypoint_category_id":1}]',
    ]
    assert found.annotations["source"].to_pylist() == [None, None, "person"]
    assert found.image_rows.tolist() == [0, 1, 1]


def test_a_list_that_is_not_there_stays_away(tmp_path: Path, engine: str) -> None:
    assert there_and_back(tmp_path, {"images": []}).missing == ("annotations",)
    assert there_and_back(tmp_path, {"images": None, "annotations": []}).missing == ()
    assert there_and_back(tmp_path, {}).missing == ("images", "annotations")


def test_an_annotation_larger_than_every_buffer(
    tmp_path: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_json_scan, "BLOCK_BYTES", 64)
    monkeypatch.setattr(_json_scan, "BLOCK_ROWS", 2)
    ring = [float(value) for value in range(4000)]
    many = [[value, value, value, 0.5] for value in range(300)]
    document = {
        "annotations": [{"id": 1, "segmentation": [ring]}, {"id": 2, "segmentation": many}, {"id": 3}],
        "images": [],
    }
    found = there_and_back(tmp_path, document)
    assert np.diff(found.part_starts).tolist() == [1, 300, 0]
    assert found.ring(0).ravel().tolist() == ring


def test_coordinates_beyond_the_limit_go_to_a_file(
    tmp_path: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from curate.polygons import _spill

    monkeypatch.setattr(_json_scan, "BLOCK_ROWS", 4)
    document = {
        "annotations": [{"id": row, "segmentation": [[row, 0.25, row, 1]]} for row in range(100)],
        "images": [],
    }
    held = read(tmp_path, document)
    monkeypatch.setattr(_builder, "Doubles", lambda: _spill.Doubles(200))
    spilled = read(tmp_path, document)
    assert spilled.equals(held)
    assert spilled.take_annotations([3, 99]).x.tolist() == [3, 3, 99, 99]


def test_zip_in_and_out(tmp_path: Path, engine: str) -> None:
    found = read(
        tmp_path,
        {"images": [{"id": 1, "file_name": "é.jpg"}], "annotations": [{"id": 1, "segmentation": [[1, 2]]}]},
    )
    path = tmp_path / "set.kwcoco.zip"
    write_document(found, path)
    assert zipfile.ZipFile(path).namelist() == ["set.kwcoco.json"]
    assert open_annotations(path).equals(found)
    first = path.read_bytes()
    write_document(found, path)
    assert path.read_bytes() == first


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1), st.data())
def test_numbers_are_read_as_python_reads_them(values: list[float], data: st.DataObject) -> None:
    kernel = pytest.importorskip("curate.polygons._json_kernel")
    bits = np.zeros(1, np.uint64)
    for value in values:
        digits = data.draw(st.integers(0, 25))
        for text in (repr(value), f"{value:.{digits}e}", f"{value:.{digits}f}"):
            kind, found, _, behind = kernel.number(np.frombuffer(text.encode() + b"\0", np.uint8), 0, bits)
            assert behind == len(text)
            assert kind in (kernel.FLOAT, kernel.HARD, kernel.INT)
            if kind != kernel.HARD:
                assert found == float(text)


@pytest.mark.parametrize(
    "text", ["1", "0.5", "9007199254740993.0", "2.2250738585072011e-308", "1e23", "8.5e-23"]
)
def test_numbers_near_the_half(text: str) -> None:
    kernel = pytest.importorskip("curate.polygons._json_kernel")
    kind, found, _, _ = kernel.number(
        np.frombuffer(text.encode() + b"\0", np.uint8), 0, np.zeros(1, np.uint64)
    )
    assert kind == kernel.HARD or found == float(text)
