"""LabelMe folders in and out: every value comes back, whatever the picture's orientation, and nothing in the source changes."""

from __future__ import annotations

import base64
import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from curate.polygons.coco import read_coco
from curate.polygons.kwcoco import write_kwcoco
from curate.polygons.labelme import read_labelme, scan_labelme
from curate.polygons.labelme_strip import strip_image_data
from curate.polygons.labelme_writing import write_labelme
from curate.polygons.store import Annotations, Form, digest, open_annotations, write_store
from headwater.errors import UsageError
from tests.curate.polygons.photo_kit import photo, picture_bytes, pixels, polygon, sidecar, tree_bytes


def documents(folder: Path) -> dict[str, Any]:
    return {
        path.relative_to(folder).as_posix(): json.loads(path.read_bytes()) for path in folder.rglob("*.json")
    }


def through_kwcoco(annotations: Annotations, path: Path) -> Annotations:
    write_kwcoco(annotations, path)
    return read_coco(path)


def hole(points: Any, **keys: Any) -> dict[str, Any]:
    return polygon(points=points, flags={"hole": True}, **keys)


RING = [[2.0, 2.0], [30.0, 2.0], [30.0, 20.0], [2.0, 20.0]]
INNER = [[5.0, 5.0], [5.0, 9.0], [9.0, 9.0]]
OTHER = [[31.0, 1.0], [39.0, 1.0], [39.0, 8.0]]
MASK = np.array([[0, 1, 1], [1, 1, 0]], np.uint8) * 255


def mask_text(array: np.ndarray = MASK) -> str:
    out = io.BytesIO()
    Image.fromarray(array).save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


def odd_shapes() -> list[Any]:
    """One of everything that a sidecar may hold."""
    return [
        polygon(),
        polygon("leaf", points=RING, group_id=3, description="one of two", unknown=[1, {"a": None}]),
        polygon("nut", shape_type="rectangle", points=[[3.5, 4.5], [9.25, 11.0]]),
        polygon("leaf", points=OTHER, group_id=3, flags={"sure": True}),
        hole(INNER, label="leaf", group_id=3),
        polygon("ball", shape_type="circle", points=[[10.0, 10.0], [13.0, 14.0]]),
        polygon("way", shape_type="linestrip", points=[[0.1, 0.2], [0.3, 0.4], [5, 6]]),
        polygon("dot", shape_type="point", points=[[0.1, 0.2]]),
        polygon("blob", shape_type="mask", points=[[4.0, 6.0], [6.0, 7.0]], mask=mask_text()),
        polygon("two", points=[[1.0, 2.0], [3.0, 4.0]]),
        polygon("none", points=[]),
        polygon("bad", points=[[1.0, "2"], [3.0, 4.0]]),
        polygon("bad", shape_type="circle", points=7),
        {"label": "old", "points": RING, "line_color": None, "fill_color": [1, 2, 3, 4]},
        {"points": RING},
        polygon(5),
        polygon("", points=OTHER, description="half a pair \ud800"),
        polygon("leaf", points=INNER, group_id="3"),
        hole(OTHER, label="alone", group_id=9),
    ]


@pytest.mark.parametrize("orientation", [None, *range(1, 9)])
def test_a_folder_comes_back_by_way_of_store_and_kwcoco(tmp_path: Path, orientation: int | None) -> None:
    source = tmp_path / "in"
    size = (24, 40) if (orientation or 1) > 4 else (40, 24)
    photo(source, "a", orientation)
    photo(source, "sub/b", orientation)
    photo(source, "sub/none", orientation)
    odd = sidecar(
        source, "a", odd_shapes(), size, flags={"night": False}, lineColor=[0, 255, 0, 128], other={"x": 1.5}
    )
    sidecar(source, "sub/b", [polygon(points=[[0.1, 23.9], [17.3, 0.7], [3.3, 9.1]])], size)
    before = tree_bytes(source)
    read = read_labelme(source)
    assert tree_bytes(source) == before
    assert read.images["file_name"].to_pylist() == ["a.jpg", "sub/b.jpg", "sub/none.jpg"]
    assert read.images["width"].to_pylist() == [40] * 3  # as stored
    assert read.images["orientation"].to_pylist() == [orientation] * 3
    write_store(read, tmp_path / "store")
    read = through_kwcoco(open_annotations(tmp_path / "store"), tmp_path / "x.json")
    done = write_labelme(read, tmp_path / "out", pictures=source)
    assert (done.sidecars, done.pictures, done.missing) == (2, 3, [])
    assert documents(tmp_path / "out") == documents(source)
    assert documents(tmp_path / "out")["a.json"] == odd
    assert read_labelme(tmp_path / "out").equals(read)
    write_labelme(read, tmp_path / "alone")  # without pictures the orientation has to be noted
    assert digest(read_labelme(tmp_path / "alone")) == digest(read)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_points_and_masks_lie_on_the_stored_pixels(tmp_path: Path, orientation: int) -> None:
    array = np.zeros((24, 40, 3), np.uint8)
    array[6:11, 20:33] = 255
    photo(tmp_path, "a", orientation, array)
    shown = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "a.jpg")).convert("L")) > 128
    down, across = np.argwhere(shown).min(axis=0).tolist(), np.argwhere(shown).max(axis=0).tolist()
    (top, left), (bottom, right) = down, across
    corners = [[left, top], [right + 1, top], [right + 1, bottom + 1], [left, bottom + 1]]
    mask = shown[top : bottom + 1, left : right + 1].astype(np.uint8) * 255
    shapes = [
        polygon(points=corners),
        polygon(shape_type="mask", points=[[left, top], [right, bottom]], mask=mask_text(mask)),
    ]
    sidecar(tmp_path, "a", shapes, (shown.shape[1], shown.shape[0]))
    read = read_labelme(tmp_path)
    for row in range(2):
        box = [read.annotations[f"bbox_{side}"][row].as_py() for side in "xywh"]
        assert box == [20, 6, 13, 5]
        assert read.annotations["area"][row].as_py() == 65
    assert read.annotations["form"].to_pylist() == [Form.COCO_POLYGONS, Form.RLE_COUNTS]
    assert (read.annotations["rle_height"][1].as_py(), read.annotations["rle_width"][1].as_py()) == (24, 40)


def test_groups_and_holes_are_one_annotation(tmp_path: Path) -> None:
    photo(tmp_path, "a")
    sidecar(tmp_path, "a", odd_shapes())
    read = read_labelme(tmp_path)
    found = [
        (exterior.tolist(), [ring.tolist() for ring in inner]) for exterior, inner in read.polygons_of(1)
    ]
    assert found == [(RING, []), (OTHER, [INNER])]  # the exterior that stands before the hole
    assert read.annotations["area"][1].as_py() == 28 * 18 + 28 - 8
    names = {entry["id"]: entry["name"] for entry in read.categories()}
    assert [names.get(number) for number in read.annotations["category_id"].to_pylist()][:3] == [
        "nut",
        "leaf",
        "nut",
    ]


def test_a_hole_before_every_exterior_belongs_to_the_first(tmp_path: Path) -> None:
    photo(tmp_path, "a")
    document = sidecar(
        tmp_path, "a", [hole(INNER, group_id=1), polygon(points=RING, group_id=1), polygon("x")]
    )
    read = read_labelme(tmp_path)
    assert [
        (exterior.tolist(), [ring.tolist() for ring in inner]) for exterior, inner in read.polygons_of(0)
    ] == [(RING, [INNER])]
    write_labelme(read, tmp_path / "out")
    assert documents(tmp_path / "out")["a.json"] == document


numbers = st.one_of(st.integers(-100, 5000), st.floats(-10, 5000, allow_nan=False))
rings = st.lists(st.tuples(numbers, numbers).map(list), min_size=0, max_size=5)
flat = st.lists(rings.map(lambda ring: [value for point in ring for value in point]), max_size=3)
kw = st.fixed_dictionaries({"exterior": rings, "interiors": st.lists(rings, max_size=2)})
runs = st.lists(st.integers(0, 9), min_size=1, max_size=6).map(
    lambda counts: {"size": [1, max(sum(counts), 1)], "counts": counts}
)
values = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 5), st.text(max_size=3), st.lists(st.integers(), max_size=2)
)
keys = st.dictionaries(
    st.sampled_from(["label", "points", "shape_type", "group_id", "flags", "mask", "headwater", "x"]),
    values,
    max_size=3,
)
record = st.fixed_dictionaries(
    {},
    optional={
        "keys": keys | values,
        "lacks": values | st.just(["label"]) | st.just(["points", "shape_type"]),
        "points": rings | values,
    },
)
kept_shapes = values | st.fixed_dictionaries(
    {"shapes": st.lists(record, max_size=3)}, optional={"at": values}
)
kept_image = values | st.fixed_dictionaries(
    {},
    optional={
        "keys": keys | values,
        "lacks": values | st.just(["shapes"]) | st.just(["imagePath", "imageWidth"]),
        "sidecar": st.sampled_from(
            ["x.json", "a.json", "../x.json", "s/x.json", "x.txt", ".x.json", "headwater-dataset.json"]
        ),
        "imagePath": values | st.sampled_from(["../x.jpg", "b.jpg"]),
        "size": values | st.just({"imageWidth": "40"}),
        "space": st.just("stored"),
    },
)
annotation = st.fixed_dictionaries(
    {"id": st.one_of(st.integers(0, 99), st.none(), st.text(max_size=2))},
    optional={
        "image_id": st.integers(0, 4),
        "category_id": st.integers(0, 3),
        "segmentation": st.one_of(flat, kw, st.lists(kw, min_size=1, max_size=3), runs, values),
        "points": rings,
        "shape_type": st.sampled_from(["circle", "line", "mask", "polygon"]),
        "bbox": st.lists(numbers, min_size=4, max_size=4),
        "area": numbers,
        "score": numbers,
        "iscrowd": st.integers(0, 1),
        "track_id": st.integers(0, 9),
        "caption": values,
        "label": values,
        "category": values,
        "headwater": values,
        "labelme": kept_shapes,
    },
)
image = st.fixed_dictionaries(
    {"id": st.integers(0, 4)},
    optional={
        "file_name": st.sampled_from(
            [
                "a.jpg",
                "b.jpg",
                "b.png",
                "s/a.jpg",
                "../x.jpg",
                "/x.jpg",
                "http://x/y.jpg",
                ".h.jpg",
                "c",
                "d.json",
                "./e.jpg",
            ]
        ),
        "width": st.integers(0, 50),
        "height": st.integers(0, 50),
        "exif_orientation": st.integers(0, 9),
        "labelme": kept_image,
        "channels": values,
    },
)
category = st.fixed_dictionaries(
    {"id": st.integers(0, 3)},
    optional={"name": st.sampled_from(["nut", "leaf", ""]), "supercategory": values},
)
dataset = st.fixed_dictionaries(
    {"images": st.lists(image, max_size=4), "annotations": st.lists(annotation, max_size=6)},
    optional={
        "categories": st.one_of(st.lists(category, max_size=3), values),
        "info": values,
        "licenses": values,
    },
)


@settings(max_examples=40, deadline=None)
@given(dataset)
def test_any_coco_dataset_comes_back_from_sidecars(document: Any) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in.json").write_text(json.dumps(document))
        read = read_coco(folder / "in.json")
        write_labelme(read, folder / "out")
        if list((folder / "out").rglob("*.json")):
            assert digest(read_labelme(folder / "out")) == digest(read)
        else:
            assert not (document["images"] or document["annotations"])
        assert [path.name for path in folder.iterdir()] in (["in.json", "out"], ["out", "in.json"])


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.builds(
            lambda label, points, group, flag: polygon(label, points=points, group_id=group, flags={"hole": flag}),
            st.sampled_from(["a", "b"]), rings, st.sampled_from([None, 0, 1]), st.booleans(),
        ),
        max_size=6,
    ),
    st.integers(1, 8),
)  # fmt: skip
def test_any_sidecar_comes_back(shapes: list[Any], orientation: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photo(folder / "in", "a", orientation)
        document = sidecar(folder / "in", "a", shapes, (24, 40) if orientation > 4 else (40, 24))
        write_labelme(read_labelme(folder / "in"), folder / "out", pictures=folder / "in")
        assert documents(folder / "out") == {"a.json": document}


def test_a_moved_point_outlives_the_notes_about_its_shape(tmp_path: Path) -> None:
    entry = {
        "id": 7,
        "image_id": 1,
        "category_id": 4,
        "segmentation": [[0, 0, 4, 0, 4, 4]],
        "bbox": [9, 9, 9, 9],
        "area": 1,
        "score": 0.5,
    }
    document = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 40, "height": 24}],
        "annotations": [entry],
        "categories": [{"id": 4, "name": "nut"}],
    }
    (tmp_path / "in.json").write_text(json.dumps(document))
    write_labelme(read_coco(tmp_path / "in.json"), tmp_path / "out")
    path = tmp_path / "out" / "a.json"
    drawn = json.loads(path.read_text())
    drawn["shapes"][0]["points"][2] = [2.0, 6.0]
    path.write_text(json.dumps(drawn))
    row = read_labelme(tmp_path / "out").annotations.to_pylist()[0]
    assert (row["id"], row["category_id"], row["score"]) == (7, 4, 0.5)
    assert ([row[f"bbox_{side}"] for side in "xywh"], row["area"]) == ([0, 0, 4, 6], 12)


def test_a_sidecar_drawn_without_turning_is_told_by_its_size(tmp_path: Path) -> None:
    photo(tmp_path / "in", "a", 6)
    document = sidecar(tmp_path / "in", "a", [polygon(points=RING)], (40, 24))
    read = read_labelme(tmp_path / "in")
    assert read.polygons_of(0)[0][0].tolist() == RING
    write_labelme(read, tmp_path / "out", pictures=tmp_path / "in")
    assert documents(tmp_path / "out")["a.json"] == document


def test_image_data_is_stripped_to_a_copy(tmp_path: Path) -> None:
    source = tmp_path / "in"
    data = picture_bytes(array=pixels(seed=1))
    text = base64.b64encode(data).decode()
    photo(source, "a")
    sidecar(source, "a", [polygon()], imageData=text)
    sidecar(source, "sub/b", [polygon()], imageData=text)  # its picture is nowhere else
    sidecar(source, "c", [polygon()], imageData=text, imagePath="c.png")  # not what it says
    (source / "note.txt").write_text("kept")
    before = tree_bytes(source)
    found = scan_labelme(source)
    assert found.embedded == {"a.json": len(text), "c.json": len(text), "sub/b.json": len(text)}
    done = strip_image_data(source, tmp_path / "out")
    assert tree_bytes(source) == before
    assert (done.stripped, done.unpacked, [name for name, _ in done.bad]) == (2, ["sub/b.jpg"], ["c.json"])
    assert (tmp_path / "out/sub/b.jpg").read_bytes() == data
    after = documents(tmp_path / "out")
    assert after["a.json"] == documents(source)["a.json"] | {"imageData": None}
    assert after["c.json"]["imageData"] == text
    assert (tmp_path / "out/note.txt").read_text() == "kept"
    with pytest.raises(UsageError, match="not empty"):
        strip_image_data(source, tmp_path / "out")
    with pytest.raises(UsageError, match="inside"):
        strip_image_data(source, source / "x")


def test_real_sidecars_come_back(tmp_path: Path) -> None:
    root = os.environ.get("HEADWATER_DATA")
    if not root or not (Path(root) / "nuts_labelme").is_dir():
        pytest.skip("HEADWATER_DATA names no folder with nuts_labelme")
    source = Path(root) / "nuts_labelme" / "images"
    read = through_kwcoco(read_labelme(source), tmp_path / "x.json")
    write_labelme(read, tmp_path / "out")
    assert documents(tmp_path / "out") == {
        name: value | {"imageData": None} for name, value in documents(source).items()
    }
    theirs = read_coco(source.parent / "trainval.coco.json")
    polygons = [
        sorted(entry[0][0].tobytes() for entry in map(one.polygons_of, range(165))) for one in (read, theirs)
    ]
    assert polygons[0] == polygons[1]
