"""What kwcoco and pycocotools make of the files that we write, where they are installed; and real datasets, where they are at hand."""

from __future__ import annotations

import json
import os
import tarfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.polygons.coco import read_coco, write_coco
from curate.polygons.kwcoco import write_kwcoco
from curate.polygons.store import Annotations, digest, open_annotations, write_store
from tests.curate.polygons import json_kit as kit

SQUARE = [[0, 0], [10, 0], [10.5, 10], [0, 10]]
HOLE = [[2, 2], [4, 2], [4, 4]]


def example(folder: Path) -> Annotations:
    """All forms of shape, and nulls as real files have them."""
    shapes: list[Any] = [
        [[0, 0, 10, 0, 10, 10], [12, 12, 15, 12, 15, 15]],
        {"exterior": SQUARE, "interiors": [HOLE]},
        [{"exterior": SQUARE, "interiors": []}, {"exterior": HOLE, "interiors": []}],
        {"size": [20, 20], "counts": [10, 390]},
        {"size": [20, 20], "counts": "e02i;"},
    ]
    document = {
        "info": [],
        "licenses": [{"id": 1, "name": "l", "url": "https://example.org"}],
        "categories": [{"id": 1, "name": "a", "supercategory": "x"}, {"id": 2, "name": "b"}],
        "images": [{"id": 1, "file_name": "a.png", "width": 20, "height": 20, "coco_url": None, "flickr_url": None}],
        "annotations": [
            {"id": row, "image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10], "area": 100, "iscrowd": 0, "segmentation": shape}
            for row, shape in enumerate(shapes, 1)
        ],
    }  # fmt: skip
    path = folder / "example.json"
    path.write_text(json.dumps(document))
    return read_coco(path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["out.kwcoco.json", "out.kwcoco.zip"])
@pytest.mark.parametrize("polygons", [False, True])
def test_kwcoco_accepts_what_we_write(tmp_path: Path, name: str, polygons: bool) -> None:
    kwcoco = pytest.importorskip("kwcoco")
    path = tmp_path / name
    write_kwcoco(example(tmp_path), path, polygons=polygons)
    found = kwcoco.CocoDataset(str(path))
    assert not found.validate(missing=False, verbose=0).get("errors")
    found.dump(str(tmp_path / "theirs.kwcoco.json"))
    theirs = read_coco(tmp_path / "theirs.kwcoco.json")
    ours = read_coco(path)
    assert digest(theirs.replace(header=ours.header)) == digest(ours)


@pytest.mark.filterwarnings("ignore")
def test_pycocotools_reads_what_we_write(tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    mask = pytest.importorskip("pycocotools.mask")
    from curate.polygons._forms import to_coco_shapes

    whole = example(tmp_path)
    write_coco(whole, tmp_path / "out.json", holes="keyhole")
    found = coco.COCO(str(tmp_path / "out.json"))
    masks = [found.annToMask(found.anns[row]) for row in sorted(found.anns)]
    assert masks[1][2:4, 2:4].sum() < 4  # the hole is empty
    outer = mask.decode(
        mask.merge(mask.frPyObjects([[value for point in SQUARE for value in point]], 20, 20))
    )
    inner = mask.decode(mask.merge(mask.frPyObjects([[value for point in HOLE for value in point]], 20, 20)))
    assert np.array_equal(masks[1], outer & ~inner & 1)
    assert to_coco_shapes(whole, "keyhole").forms.tolist() == [1, 1, 1, 4, 5]


@given(st.lists(st.integers(0, 60), min_size=1, max_size=12))
@settings(max_examples=50)
def test_pycocotools_and_we_pack_run_lengths_alike(counts: list[int]) -> None:
    mask = pytest.importorskip("pycocotools.mask")
    from curate.polygons._rle import counts_of_string, string_of

    total = sum(counts)
    theirs = mask.frPyObjects({"size": [total, 1], "counts": counts}, total, 1)["counts"].decode()
    assert string_of(np.array(counts)) == theirs
    assert counts_of_string(theirs).tolist() == counts


def data(name: str) -> Path:
    """A real dataset, under the folder that HEADWATER_DATA names."""
    root = os.environ.get("HEADWATER_DATA")
    if not root or not (Path(root) / name).exists():
        pytest.skip(f"HEADWATER_DATA names no folder with {name}")
    return Path(root) / name


def through(source: Path, folder: Path) -> None:
    """File -> store -> COCO, kwcoco and a zip -> the same values and the same digest."""
    document = json.loads(source.read_bytes())
    found = open_annotations(source)
    write_store(found, folder / "store")
    found = open_annotations(folder / "store")
    write_kwcoco(found, folder / "a.kwcoco.json", nulls=True)
    assert kit.same(json.loads((folder / "a.kwcoco.json").read_bytes()), document)
    write_kwcoco(found, folder / "b.kwcoco.zip", polygons=True, nulls=True)
    write_coco(open_annotations(folder / "b.kwcoco.zip"), folder / "c.json")
    write_coco(found, folder / "d.json")
    assert digest(open_annotations(folder / "c.json")) == digest(open_annotations(folder / "d.json"))


def test_nuts(tmp_path: Path) -> None:
    through(data("nuts_labelme") / "trainval.coco.json", tmp_path)
    assert kit.same(
        json.loads((tmp_path / "c.json").read_bytes()),
        json.loads((data("nuts_labelme") / "trainval.coco.json").read_bytes()),
    )


def test_nuclei(tmp_path: Path) -> None:
    with tarfile.open(data("nuclei_dsb2018") / "nuclei_dsb2018.tar") as archive:
        member = archive.extractfile("nuclei_dsb2018/instances.kwcoco.json")
        assert member is not None
        (tmp_path / "source.json").write_bytes(member.read())
    through(tmp_path / "source.json", tmp_path)


def test_no_warning_is_given(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_kwcoco(example(tmp_path), tmp_path / "x.json", polygons=True)
