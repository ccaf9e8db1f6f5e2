"""YOLO, hub Parquet and webdataset out: read again by the definition of each format; what has no place is listed."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageOps

from curate.polygons.coco import read_coco
from curate.polygons.exports import area_of_rings, exit_error, joined
from curate.polygons.hub import write_hub_parquet
from curate.polygons.labelme import read_labelme
from curate.polygons.shown import as_shown
from curate.polygons.store import Annotations, concat, digest
from curate.polygons.webdataset import write_webdataset
from curate.polygons.yolo import write_yolo
from headwater.errors import BadInputs, UsageError
from tests.curate.polygons.photo_kit import photo, polygon, sidecar, tree_bytes

BLOCK = [[4.0, 3.0], [14.0, 3.0], [14.0, 9.0], [4.0, 9.0]]  # of the shown picture


def turned(folder: Path) -> Annotations:
    """Nine images, one an orientation, with the same block on the shown picture."""
    for orientation in (None, *range(1, 9)):
        size = (24, 40) if (orientation or 1) > 4 else (40, 24)
        photo(folder, f"o{orientation or 0}", orientation)
        sidecar(folder, f"o{orientation or 0}", [polygon(points=BLOCK)], size)
    return read_labelme(folder)


def coco(path: Path, document: Any) -> Annotations:
    path.write_text(json.dumps(document))
    return read_coco(path)


def awkward(folder: Path) -> Annotations:
    """What formats have no place for."""
    images = [
        {"id": 1, "file_name": "a.jpg", "width": 40, "height": 24, "city": "Ghent"},
        {"id": 2, "file_name": "missing.jpg", "width": 40, "height": 24},
        {"id": 3, "file_name": "../a.jpg", "width": 40, "height": 24},
        {"id": 4, "file_name": "b.jpg", "width": 40, "height": 24},
    ]
    square, inner = [[0, 0], [20, 0], [20, 20], [0, 20]], [[5, 5], [5, 15], [15, 15], [15, 5]]
    rle = {"size": [24, 40], "counts": [10, 5, 945]}
    annotations = [
        {"id": 10, "image_id": 1, "category_id": 7, "segmentation": {"exterior": square, "interiors": [inner]}, "area": 300},
        {"id": 11, "image_id": 1, "category_id": 7, "segmentation": rle, "iscrowd": 1, "bbox": [0, 0, 1, 1]},
        {"id": 12, "image_id": 1, "category_id": 7, "segmentation": rle, "iscrowd": 0},
        {"id": 13, "image_id": 1, "category_id": 9, "segmentation": [[0, 0, 4, 0, 4, 4]]},
        {"id": 14, "image_id": 77, "category_id": 7, "segmentation": [[0, 0, 4, 0, 4, 4]]},
        {"id": 15, "image_id": 1, "category_id": 8, "segmentation": [[-5, 0, 60, 0, 4, 30], [1, 1, 2, 2]], "score": 0.25},
        {"id": 16, "image_id": 1, "category_id": 8, "shape_type": "rectangle", "points": [[30, 12], [20, 6]]},
    ]  # fmt: skip
    photo(folder, "a")
    photo(folder, "b")
    document = {
        "info": {"year": 2024},
        "categories": [{"id": 8, "name": 'two "words"'}, {"id": 7, "name": "nut"}],
        "images": images,
        "annotations": annotations,
    }
    return coco(folder.parent / "in.json", document)


def test_every_orientation_is_shown_alike(tmp_path: Path) -> None:
    read = turned(tmp_path)
    shown = as_shown(read)
    for row in range(9):
        assert shown.polygons_of(row)[0][0].tolist() == BLOCK
        assert [shown.annotations[f"bbox_{side}"][row].as_py() for side in "xywh"] == [4, 3, 10, 6]
    sizes = list(zip(*(shown.images[name].to_pylist() for name in ("width", "height")), strict=True))
    assert sizes == [(40, 24)] * 5 + [(24, 40)] * 4
    assert shown.images["orientation"].to_pylist() == [None] * 9
    assert digest(as_shown(shown)) == digest(shown)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_run_lengths_and_keypoints_are_shown(tmp_path: Path, orientation: int) -> None:
    from curate.polygons.raster import decode, rle_of_counts
    from curate.polygons.turning import turn_pixels

    pytest.importorskip("numba")
    entry = {
        "id": 1, "image_id": 1, "segmentation": {"size": [3, 4], "counts": [1, 2, 4, 1, 4]},
        "keypoints": [1, 2, 2, 0, 0, 0], "bbox": [0, 0, 4, 3],
    }  # fmt: skip
    second = {"id": 2, "image_id": 1, "keypoints": [{"xy": [1, 2], "visible": 2}, {"x": 1}]}
    images = [{"id": 1, "file_name": "a.jpg", "width": 4, "height": 3, "exif_orientation": orientation}]
    read = coco(tmp_path / "in.json", {"images": images, "annotations": [entry, second]})
    shown = as_shown(read)
    row = shown.annotations.to_pylist()[0]
    before = decode(rle_of_counts([1, 2, 4, 1, 4], 3, 4)).full()
    from curate.polygons._rle import counts_of

    after = decode(rle_of_counts(counts_of(row["rle"]), row["rle_height"], row["rle_width"])).full()
    assert np.array_equal(after, turn_pixels(before, orientation))
    points = json.loads(row["keypoints"])
    assert points[3:] == [0, 0, 0] and points[2] == 2
    assert json.loads(shown.annotations["keypoints"][1].as_py()) == [
        {"xy": points[:2], "visible": 2},
        {"x": 1},
    ]


@pytest.mark.parametrize(
    ("image", "segmentation"),
    [
        ({"width": None}, []),
        ({"warp_img_to_vid": {"scale": 2}}, []),
        ({}, {"size": [9, 9], "counts": [81]}),
    ],
)
def test_what_cannot_be_turned_is_refused(tmp_path: Path, image: Any, segmentation: Any) -> None:
    images = [{"id": 1, "file_name": "a.jpg", "width": 4, "height": 3, "exif_orientation": 6} | image]
    entries = [{"id": 1, "image_id": 1, "segmentation": segmentation}]
    with pytest.raises(BadInputs):
        as_shown(coco(tmp_path / "in.json", {"images": images, "annotations": entries}))


def test_yolo_lies_on_the_shown_pixels(tmp_path: Path) -> None:
    read = turned(tmp_path / "in")
    done = write_yolo({"train": read, "val": read.take([0])}, tmp_path / "out", pictures=tmp_path / "in")
    assert (done.images, done.annotations, done.clipped, dict(done.left)) == (10, 10, 0, {})
    for orientation in range(9):
        shown = ImageOps.exif_transpose(Image.open(tmp_path / f"out/images/train/o{orientation}.jpg"))
        number, *values = (tmp_path / f"out/labels/train/o{orientation}.txt").read_text().split()
        points = np.array(values, float).reshape(-1, 2) * shown.size
        assert number == "0"
        assert np.allclose(points, BLOCK, atol=1e-6)
    config = (tmp_path / "out/data.yaml").read_text()
    assert config == 'path: .\ntrain: images/train\nval: images/val\nnames:\n  0: "nut"\n'
    before = tree_bytes(tmp_path / "out")
    write_yolo({"train": read, "val": read.take([0])}, tmp_path / "again", pictures=tmp_path / "in")
    assert tree_bytes(tmp_path / "again") == before


def test_yolo_lists_what_it_cannot_hold(tmp_path: Path) -> None:
    read = awkward(tmp_path / "in")
    done = write_yolo({"train": read}, tmp_path / "out", pictures=tmp_path / "in")
    assert dict(done.left) == {
        "annotations without an image": [14],
        "annotations that are crowds": [11],
        "annotations that are no polygon": [12],
        "annotations without a category": [13],
        "images whose picture is missing": ["missing.jpg"],
        "images whose file name leads out of the folder, or that have none": ["../a.jpg"],
    }
    assert (done.images, done.annotations, done.clipped) == (2, 3, 1)
    error = exit_error(done, tmp_path / "out")
    assert error is not None and error.exit_code == 3 and "missing.jpg" in error.message
    lines = [line.split() for line in (tmp_path / "out/labels/train/a.txt").read_text().splitlines()]
    assert [line[0] for line in lines] == ["1", "0", "0"]
    ring = np.array(lines[0][1:], float).reshape(-1, 2) * [40, 24]
    drawn = Image.new("L", (40, 24))
    ImageDraw.Draw(drawn).polygon([tuple(point) for point in ring.tolist()], fill=1)
    assert abs(_area(ring) - 300) < 1e-4
    assert drawn.getpixel((10, 10)) == 0 and drawn.getpixel((2, 10)) == 1  # the hole is one
    assert (tmp_path / "out/labels/train/b.txt").read_bytes() == b""
    corners = np.array(lines[2][1:], float).reshape(-1, 2) * [40, 24]
    assert np.allclose(corners, [[20, 6], [30, 6], [30, 12], [20, 12]])
    with pytest.raises(UsageError, match="unknown split"):
        write_yolo({"dev": read}, tmp_path / "out2", pictures=tmp_path)
    with pytest.raises(UsageError, match="not empty"):
        write_yolo({"train": read}, tmp_path / "out", pictures=tmp_path)


def _area(ring: np.ndarray) -> float:
    x, y = ring.T
    return abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2


ring = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=3, max_size=7).map(
    lambda points: np.array(points, float)
)


@given(st.lists(ring, min_size=1, max_size=3), st.lists(ring, max_size=2))
def test_joining_keeps_the_area_and_every_vertex(outer: list[np.ndarray], inner: list[np.ndarray]) -> None:
    rings = [(points, False) for points in outer] + [(points, True) for points in inner]
    # a ring's area is its signed one without the sign: crossing rings keep what they had
    path = joined(rings)
    x, y = path.T
    total = (np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
    assert total == area_of_rings(rings)
    assert {tuple(point) for point in path.tolist()} == {
        tuple(point) for points, _ in rings for point in points.tolist()
    }


def test_hub_parquet_holds_pictures_and_everything(tmp_path: Path) -> None:
    read = concat([turned(tmp_path / "in"), awkward(tmp_path / "in")])
    done = write_hub_parquet(read, tmp_path / "out", pictures=tmp_path / "in", file_bytes=9000)
    assert len(done.files) > 1
    tables = [pq.read_table(tmp_path / "out" / name) for name in done.files]
    rows = [row for table in tables for row in table.to_pylist()]
    assert (len(rows), done.images) == (11, 11)
    told = json.loads(tables[0].schema.metadata[b"huggingface"])["info"]["features"]
    assert list(told) == tables[0].column_names
    assert told["image"] == {"_type": "Image"}
    names = told["objects"][0]["category"]["names"]
    for row in rows[:9]:
        shown = ImageOps.exif_transpose(Image.open(io.BytesIO(row["image"]["bytes"])))
        assert (row["width"], row["height"]) == shown.size
        (thing,) = row["objects"]
        assert np.array(thing["rings"][0]).reshape(-1, 2).tolist() == BLOCK
        assert thing["bbox"] == [4, 3, 10, 6] and names[thing["category"]] == "nut"
    things = rows[9]["objects"]
    assert [thing["holes"] for thing in things] == [[False, True], [], [], [False], [False], [False]]
    again = {
        **json.loads(tables[0].schema.metadata[b"headwater"])["header"],
        "images": [json.loads(row["json"]) for row in rows],
        "annotations": [json.loads(thing["json"]) for row in rows for thing in row["objects"]],
    }
    kept = read.take([*range(10), 12])
    assert digest(coco(tmp_path / "again.json", again)) == digest(kept)
    assert set(done.left) == {
        "annotations without an image",
        "images whose picture is missing",
        "images whose file name leads out of the folder, or that have none",
    }
    with pytest.raises(UsageError):
        write_hub_parquet(read, tmp_path / "x", pictures=tmp_path, split="../x")


def test_webdataset_holds_everything_and_is_the_same_every_time(tmp_path: Path) -> None:
    read = concat([turned(tmp_path / "in"), awkward(tmp_path / "in")])
    done = write_webdataset(read, tmp_path / "out", pictures=tmp_path / "in", shard_bytes=9000)
    assert done.files[-1] == "dataset.json" and len(done.files) > 2
    images, annotations = [], []
    for name in done.files[:-1]:
        with tarfile.open(tmp_path / "out" / name) as tar:
            members = tar.getmembers()
            assert {(member.mtime, member.uid, member.mode) for member in members} == {(0, 0, 0o644)}
            for picture, text in zip(members[0::2], members[1::2], strict=True):
                assert picture.name.split(".") == [text.name.split(".")[0], "jpg"]
                document = json.load(tar.extractfile(text))  # type: ignore[arg-type]
                images.append(document["image"])
                annotations += document["annotations"]
                file = tar.extractfile(picture)
                assert file is not None
                assert file.read() == (tmp_path / "in" / document["image"]["file_name"]).read_bytes()
    header = json.loads((tmp_path / "out/dataset.json").read_text())["header"]
    again = coco(tmp_path / "again.json", {**header, "images": images, "annotations": annotations})
    assert digest(again) == digest(read.take([*range(10), 12]))
    write_webdataset(read, tmp_path / "twice", pictures=tmp_path / "in", shard_bytes=9000)
    assert tree_bytes(tmp_path / "twice") == tree_bytes(tmp_path / "out")


def test_odd_suffixes_are_listed(tmp_path: Path) -> None:
    photo(tmp_path / "in", "a")
    (tmp_path / "in/a.jpg").rename(tmp_path / "in/a.json")
    read = coco(tmp_path / "in.json", {"images": [{"id": 1, "file_name": "a.json"}], "annotations": []})
    done = write_webdataset(read, tmp_path / "out", pictures=tmp_path / "in")
    assert (done.files, dict(done.left)) == (
        ["dataset.json"],
        {"images whose suffix tells no format": ["a.json"]},
    )
