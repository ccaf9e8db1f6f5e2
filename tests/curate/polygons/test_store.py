"""Annotations as tables: offsets, subsets, putting together, digests, and the store on disk."""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings

from curate.polygons import _schema, _store_files
from curate.polygons._rle import string_of
from curate.polygons.coco import read_coco
from curate.polygons.kwcoco import write_kwcoco
from curate.polygons.store import (
    Annotations,
    concat,
    digest,
    open_annotations,
    pixel_digest,
    set_column,
    write_store,
)
from headwater.errors import BadInputs, IntegrityError, MissingInput, UsageError
from tests.curate.polygons import json_kit as kit

SQUARE = [[0, 0], [10, 0], [10, 10], [0, 10]]
HOLE = [[2, 2], [4, 2], [4, 4]]


def document(images: int = 4, first: int = 1) -> dict[str, Any]:
    """Every form of shape, on `images` images."""
    shapes: list[Any] = [
        [[0, 0, 10, 0, 10, 10.5]],
        {"exterior": SQUARE, "interiors": [HOLE]},
        [{"exterior": SQUARE, "interiors": [HOLE[::-1], HOLE]}, {"exterior": HOLE}],
        {"size": [3, 4], "counts": [2, 3, 7]},
        {"size": [3, 4], "counts": string_of(np.array([2, 3, 7]))},
        [],
    ]
    return {
        "info": {"year": 2024},
        "categories": [{"id": 1, "name": "thing"}],
        "images": [
            {"id": first + row, "file_name": f"{first + row}.png", "width": 20, "height": 20}
            for row in range(images)
        ],
        "annotations": [
            {
                "id": first + row,
                "image_id": first + row % images,
                "category_id": 1,
                "segmentation": shape,
                "weight": row,
            }
            for row, shape in enumerate(shapes * images)
        ],
    }


def made(folder: Path, content: dict[str, Any] | None = None) -> Annotations:
    path = folder / "made.json"
    path.write_bytes(kit.text_of(document() if content is None else content, {}))
    return read_coco(path)


def written(annotations: Annotations, path: Path) -> Any:
    """The document that they are written as."""
    write_kwcoco(annotations, path, nulls=True)
    return json.loads(path.read_bytes())


def test_a_subset_is_what_a_filter_of_the_document_gives(tmp_path: Path) -> None:
    whole = document()
    found = written(made(tmp_path).take([3, 1]), tmp_path / "part.json")
    images = [whole["images"][row] for row in (3, 1)]
    ids = {image["id"] for image in images}
    assert found["images"] == images
    assert found["annotations"] == [entry for entry in whole["annotations"] if entry["image_id"] in ids]
    none = made(tmp_path).take([])
    assert len(none.images) == len(none.annotations) == len(none.vertices) == 0


def test_a_subset_shares_nothing_that_can_be_edited(tmp_path: Path) -> None:
    parent = made(tmp_path)
    before = digest(parent)
    child = parent.take([0])
    child.header["categories"][0]["name"] = "other"
    child.header["info"]["year"] = 1
    assert digest(parent) == before
    for view in (child.x, child.part_starts, child.holes, parent.x):
        with pytest.raises(ValueError, match="read-only"):
            view[:1] = 0


def test_dangling_and_twofold_ids(tmp_path: Path) -> None:
    content = {
        "images": [{"id": 5}, {"id": 5}, {"id": None}, {"id": 7}],
        "annotations": [{"image_id": 5}, {"image_id": 6}, {}, {"image_id": "7"}, {"image_id": 7}],
    }
    found = made(tmp_path, content)
    assert found.image_rows.tolist() == [0, -1, -1, -1, 3]
    assert len(found.take([0, 1, 2, 3]).annotations) == 2
    assert made(tmp_path, {"images": [], "annotations": [{"image_id": 1}]}).image_rows.tolist() == [-1]


@pytest.mark.parametrize(
    ("table", "column", "values"),
    [
        ("annotations", "first_part", [0, 2, 1]),
        ("annotations", "first_part", [1, 1, 1]),
        ("annotations", "first_part", [0, 1, 9]),
        ("annotations", "first_part", [0, None, 1]),
        ("parts", "first_vertex", [0, 9]),
        ("parts", "first_vertex", [0, -1]),
        ("parts", "exterior", [0, 1]),
        ("parts", "exterior", [0, 5]),
        ("parts", "exterior", [0, -1]),
        ("parts", "exterior", [1, 0]),
        ("parts", "exterior", [0, None]),
        ("parts", "hole", [True, True]),
        ("parts", "hole", [False, None]),
    ],
)
def test_tables_that_do_not_fit_are_refused(table: str, column: str, values: list[Any]) -> None:
    tables = {
        "images": _schema.empty(_schema.IMAGES),
        "annotations": _schema.table(_schema.ANNOTATIONS, id=[1, 2, 3], form=[2, 1, 1], first_part=[0, 2, 2]),
        "parts": _schema.table(_schema.PARTS, first_vertex=[0, 3], hole=[False, True], exterior=[0, 0]),
        "vertices": _schema.table(_schema.VERTICES, x=np.arange(6.0), y=np.arange(6.0)),
    }
    Annotations({}, **tables)
    with pytest.raises(IntegrityError):
        Annotations({}, **{**tables, table: set_column(tables[table], column, values)})
    with pytest.raises(IntegrityError, match="other columns"):
        Annotations({}, **{**tables, table: tables[table].append_column("more", [values])})


def test_store_round_trip(tmp_path: Path) -> None:
    found = made(tmp_path)
    write_store(found, tmp_path / "store")
    again = open_annotations(tmp_path / "store")
    assert again.equals(found)
    assert digest(again) == digest(found)
    write_store(again, tmp_path / "other")
    for name in ("images", "annotations", "parts", "vertices"):
        path = f"{name}.parquet"
        assert (tmp_path / "store" / path).read_bytes() == (tmp_path / "other" / path).read_bytes()
    with pytest.raises(UsageError, match="not empty"):
        write_store(found, tmp_path / "store")
    assert pickle.loads(pickle.dumps(found)).equals(found)


@settings(max_examples=30)
@given(kit.DOCUMENT)
def test_any_document_goes_through_the_store(tmp_path_factory: pytest.TempPathFactory, content: Any) -> None:
    folder = tmp_path_factory.mktemp("any")
    found = made(folder, content)
    write_store(found, folder / "store")
    assert open_annotations(folder / "store").equals(found)


def test_a_damaged_store_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    write_store(made(tmp_path), folder)
    header = folder / _store_files.HEADER_NAME
    sound = header.read_bytes()
    for name in ("images", "annotations", "parts", "vertices"):
        path = folder / f"{name}.parquet"
        data = path.read_bytes()
        path.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
        with pytest.raises(IntegrityError, match=f"{name}.parquet: other bytes"):
            open_annotations(folder)
        path.unlink()
        with pytest.raises(MissingInput, match=f"{name}.parquet"):
            open_annotations(folder)
        path.write_bytes(data)
    for change in (
        {"format": "annotations/2"},
        {"header": []},
        {"missing": ["more"]},
        {"missing": [{}]},
        {"tables": {}},
        {"tables": None},
    ):
        header.write_text(json.dumps({**json.loads(sound), **change}))
        with pytest.raises(IntegrityError):
            open_annotations(folder)
    for data in (b"", b"[]", b'{"format":NaN}', sound[:-20], b"[" * 100_000):
        header.write_bytes(data)
        with pytest.raises(IntegrityError):
            open_annotations(folder)


def test_a_table_of_another_kind_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    write_store(made(tmp_path), folder)
    pq.write_table(pa.table({"x": [1.0]}), folder / "vertices.parquet")
    header = folder / _store_files.HEADER_NAME
    facts = json.loads(header.read_bytes())
    facts["tables"]["vertices"]["sha256"] = hashlib.sha256(
        (folder / "vertices.parquet").read_bytes()
    ).hexdigest()
    header.write_text(json.dumps(facts))
    with pytest.raises(IntegrityError, match="other columns"):
        open_annotations(folder)


def test_what_is_opened(tmp_path: Path) -> None:
    with pytest.raises(MissingInput):
        open_annotations(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="neither a store nor"):
        open_annotations(tmp_path / "empty")
    # made pictures have a COCO file of the name that the header of a store has
    (tmp_path / "empty" / _store_files.HEADER_NAME).write_bytes(kit.text_of(document(), {}))
    assert open_annotations(tmp_path / "empty").equals(made(tmp_path))
    write_store(made(tmp_path), tmp_path / "store")
    for path in (tmp_path / "store").glob("*.parquet"):
        path.unlink()
    with pytest.raises(MissingInput, match="tables of this store are gone"):
        open_annotations(tmp_path / "store")


def test_a_null_coordinate_in_a_store_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    write_store(made(tmp_path), folder)
    path = folder / "vertices.parquet"
    table = pq.read_table(path)
    pq.write_table(set_column(table, "x", [None, *table["x"].to_pylist()[1:]]), path)
    header = folder / _store_files.HEADER_NAME
    facts = json.loads(header.read_bytes())
    facts["tables"]["vertices"]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    header.write_text(json.dumps(facts))
    with pytest.raises(IntegrityError, match="a coordinate is empty"):
        open_annotations(folder)


# ---- digests


def test_digest_does_not_see_order_and_sees_all_else(tmp_path: Path) -> None:
    content = document()
    content["categories"].append({"id": 2, "name": "é", "x": 1})
    first = digest(made(tmp_path, content))
    turned = dict(reversed(content.items()))
    turned["images"] = turned["images"][::-1]
    turned["categories"] = turned["categories"][::-1]
    turned["annotations"] = [dict(reversed(entry.items())) for entry in turned["annotations"][::-1]]
    turned["annotations"][0]["weight"] = float(turned["annotations"][0]["weight"])
    assert digest(made(tmp_path, turned)) == first
    assert digest(made(tmp_path, turned).replace()) == first
    seen = {first}
    for change in range(9):
        other = json.loads(json.dumps(content))
        entries = other["annotations"]
        if change == 0:
            entries[0]["segmentation"][0][3] += 2**-40
        elif change == 1:
            other["images"][2]["file_name"] = "other.png"
        elif change == 2:
            entries[3]["segmentation"]["counts"] = [2, 4, 6]
        elif change == 3:
            entries[1]["segmentation"] = [entries[1]["segmentation"]]
        elif change == 4:
            entries[5]["segmentation"] = [[]]
        elif change == 5:
            del entries[-1]
        elif change == 6:
            other["categories"][1]["x"] = True
        elif change == 7:
            entries[1]["segmentation"]["interiors"][0][0] = [2, 3]
        elif change == 8:
            del other["info"]
        seen.add(digest(made(tmp_path, other)))
    assert len(seen) == 10


def test_digest_is_fixed(tmp_path: Path) -> None:
    """A change of this value changes the name of every release."""
    assert digest(made(tmp_path)) == "c379feb26bf94ce8f3b92d90bdc898016503a93e988afcbf5f024267cd080c57"


def test_pixel_digest(tmp_path: Path) -> None:
    found = made(tmp_path)
    folder = tmp_path / "pixels"
    folder.mkdir()
    for row in range(1, 5):
        (folder / f"{row}.png").write_bytes(bytes([row]))
    first = pixel_digest(folder, found)
    assert pixel_digest(folder, found.take([3, 2, 1, 0])) == first
    (folder / "2.png").write_bytes(b"?")
    assert pixel_digest(folder, found) != first
    (folder / "2.png").unlink()
    with pytest.raises(BadInputs, match=r"no file there for '2\.png'"):
        pixel_digest(folder, found)


# ---- several in one


def test_ids_that_are_free_stay(tmp_path: Path) -> None:
    one, two = made(tmp_path), made(tmp_path, document(first=101))
    both = concat([one, two])
    assert both.take([0, 1, 2, 3]).replace(header=one.header).equals(one)
    assert both.take([4, 5, 6, 7]).replace(header=two.header).equals(two)
    assert both.categories() == one.categories()


def test_ids_that_clash_get_the_next_ones_and_references_follow(tmp_path: Path) -> None:
    def content(name: str) -> dict[str, Any]:
        return {
            "info": {"name": name},
            "licenses": [{"id": 1, "name": name}],
            "categories": [{"id": 1, "name": name}, {"id": 2, "name": "both"}],
            "keypoint_categories": [{"id": 1, "name": name}],
            "videos": [{"id": 1, "name": "v"}],
            "tracks": [{"id": 1, "name": "t"}],
            "images": [{"id": 1, "file_name": f"{name}.png", "video_id": 1, "license": 1}],
            "annotations": [
                {
                    "id": 1,
                    "image_id": 1,
                    "category_id": 1,
                    "track_id": 1,
                    "keypoints": [{"keypoint_category_id": 1}],
                },
                {"id": 9, "image_id": 1, "category_id": 2, "track_id": 8},
            ],
        }

    both = concat([made(tmp_path, content("a")), made(tmp_path, content("b"))])
    found = written(both, tmp_path / "both.json")
    assert found["info"] == [{"name": "a"}, {"name": "b"}]
    assert [entry["id"] for entry in found["categories"]] == [1, 2, 3]
    assert [entry["id"] for entry in found["tracks"]] == [1, 9]
    assert found["images"][1] == {"id": 2, "file_name": "b.png", "video_id": 2, "license": 2}
    assert found["annotations"][2] == {
        "id": 10, "image_id": 2, "category_id": 3, "track_id": 9, "keypoints": [{"keypoint_category_id": 2}],
    }  # fmt: skip
    assert found["annotations"][3] == {"id": 11, "image_id": 2, "category_id": 2, "track_id": 10}


def test_headers_that_contradict_each_other(tmp_path: Path) -> None:
    one = made(tmp_path, {"categories": [{"id": 1, "name": "a", "supercategory": "x"}], "images": []})
    two = made(tmp_path, {"categories": [{"id": 1, "name": "a", "supercategory": "y"}], "images": []})
    with pytest.raises(UsageError, match="category 'a' differs in supercategory"):
        concat([one, two])
    with pytest.raises(UsageError, match="'version' differs"):
        concat([one.replace(header={"version": 1}), one.replace(header={"version": 2})])
    with pytest.raises(UsageError, match="nothing to put together"):
        concat([])
