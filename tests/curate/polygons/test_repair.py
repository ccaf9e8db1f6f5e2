"""Repairs: what the documentation promises for each code, and nothing else."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("numba")

from curate.polygons._codes import CODES
from curate.polygons._repair_rings import cut, signed_area
from curate.polygons.repair import as_rows, fix
from curate.polygons.store import Annotations
from curate.polygons.validate import validate
from headwater.errors import UsageError

spec = importlib.util.spec_from_file_location("validate_kit", Path(__file__).with_name("validate_kit.py"))
assert spec is not None and spec.loader is not None
kit: Any = importlib.util.module_from_spec(spec)
spec.loader.exec_module(kit)

TESTED = [code for code in kit.WRONG if code != "crossing-unknown"]
# repaired only where the size of the file is known: test_validate_files
BY_FILE = {"image-size-missing", "image-size-range"}


def rows_of(annotations: Annotations) -> list[dict[str, Any]]:
    return annotations.annotations.to_pylist()


@pytest.mark.parametrize("code", TESTED)
def test_each_code_is_repaired_or_left(tmp_path: Path, code: str) -> None:
    profile = "coco" if code == "segmentation-kwcoco" else "strict"
    before, same = (kit.read(tmp_path, kit.WRONG[code]()) for _ in range(2))
    findings = validate(before, profile=profile)
    after, done = fix(before, findings)
    assert before.equals(same)
    mine = [repair for repair in done if repair.code == code]
    if not CODES[code].fix or code in BY_FILE:
        assert not mine
        assert validate(after, profile=profile).counts.get(code) == findings.counts[code]
    else:
        assert [repair.row for repair in mine] == findings.rows(code, table=mine[0].table).tolist()
        left = validate(after, profile=profile)
        assert code not in left.counts
        assert set(left.counts) - {"segmentation-missing"} <= set(
            findings.counts
        )  # a null shape is then none


def test_a_sound_file_stays_as_it_is(tmp_path: Path) -> None:
    before = kit.read(tmp_path, kit.document())
    after, done = fix(before, validate(before))
    assert done == [] and after.equals(before) and after.header is not before.header


def test_repairs_name_what_they_are_about(tmp_path: Path) -> None:
    before = kit.read(tmp_path, kit.document(kit.annotation(1), kit.annotation(7, area=...)))
    _, done = fix(before, validate(before))
    assert as_rows(done) == [
        {
            "code": "area-missing",
            "table": "annotations",
            "row": 1,
            "image_id": 1,
            "annotation_id": 7,
            "done": "the area of its shape, 400",
        }
    ]


def test_rings_are_dropped_with_their_holes(tmp_path: Path) -> None:
    far = kit.kw([40, 40, 50, 40, 60, 40], kit.square(41, 41, 2, back=True))
    near = kit.kw(kit.square(10, 10, 20), kit.square(15, 15, 4, back=True))
    content = kit.document(kit.annotation(1, segmentation=[far, near], bbox=[10, 10, 50, 30], area=384))
    before = kit.read(tmp_path, content)
    after, done = fix(before, validate(before, profile="kwcoco"))
    (polygon,) = after.polygons_of(0)
    assert polygon[0].tolist() == kit.pairs(kit.square(10, 10, 20)) and len(polygon[1]) == 1
    row = rows_of(after)[0]
    assert [row[f"bbox_{side}"] for side in "xywh"] == [10, 10, 20, 20] and row["area"] == 384


def test_an_annotation_without_a_ring_left_is_dropped(tmp_path: Path) -> None:
    before = kit.read(
        tmp_path, kit.document(kit.annotation(1, segmentation=[[5, 5, 6, 6, 7, 7]]), kit.annotation(2))
    )
    after, done = fix(before, validate(before))
    assert [row["id"] for row in rows_of(after)] == [2]
    assert [(repair.code, repair.annotation_id, repair.done) for repair in done] == [
        ("zero-area", 1, "dropped: no ring is left")
    ]


def test_a_shape_is_cut_at_the_image_with_box_and_area(tmp_path: Path) -> None:
    before = kit.read(tmp_path, kit.WRONG["vertex-outside"]())
    after, done = fix(before, validate(before))
    row = rows_of(after)[0]
    assert [row[f"bbox_{side}"] for side in "xywh"] == [90, 10, 10, 20] and row["area"] == 200
    assert [repair.code for repair in done] == ["vertex-outside"]


def test_a_crossing_ring_is_left_and_so_is_its_area(tmp_path: Path) -> None:
    before = kit.read(
        tmp_path, kit.document(kit.annotation(1, segmentation=[[10, 10, 30, 30, 30, 10, 10, 30]], area=...))
    )
    findings = validate(before)
    after, done = fix(before, findings)
    assert findings.counts["self-crossing"] == 1
    assert done == [] and after.equals(before)


def test_new_ids_are_above_all_others(tmp_path: Path) -> None:
    given = [5, 5, "x", -3, 9]
    before = kit.read(tmp_path, kit.document(*[kit.annotation(n, id=value) for n, value in enumerate(given)]))
    after, _ = fix(before, validate(before))
    assert [row["id"] for row in rows_of(after)] == [5, 12, 10, 11, 9]
    assert all(row["extra"] is None for row in rows_of(after))


def test_null_fields_are_taken_out_and_others_stay(tmp_path: Path) -> None:
    content = kit.document(images=[kit.image(coco_url=None, flickr_url=None, mine=None, weather="wet")])
    before = kit.read(tmp_path, content)
    after, done = fix(before, validate(before, profile="kwcoco"))
    assert after.images["extra"].to_pylist() == ['{"mine":null,"weather":"wet"}']
    assert [repair.done for repair in done] == ["taken out: coco_url, flickr_url"]


def test_findings_of_another_dataset_are_refused(tmp_path: Path) -> None:
    findings = validate(kit.read(tmp_path, kit.document()))
    with pytest.raises(UsageError, match="other annotations"):
        fix(kit.read(tmp_path, kit.document(kit.annotation(1))), findings)


point = st.tuples(st.integers(-6, 12), st.integers(-6, 12))


@given(st.lists(point, min_size=3, max_size=8))
def test_cut_is_the_intersection_with_the_image(ring: list[tuple[int, int]]) -> None:
    shapely = pytest.importorskip("shapely")
    whole = shapely.Polygon(ring)
    if not whole.is_valid or not whole.area:
        return
    piece = cut(np.array(ring, float), 7.0, 5.0)
    assert abs(signed_area(piece)) == pytest.approx(
        whole.intersection(shapely.box(0, 0, 7, 5)).area, abs=1e-9
    )
    if len(piece):
        assert piece.min() >= 0 and piece[:, 0].max() <= 7 and piece[:, 1].max() <= 5


odd_number = st.sampled_from([0, 1, -1, 5, 20, 40, 99, 101, 1.5, -0.0, 1e-300, 2**40, 2**70])
odd_value = st.one_of(
    st.none(), st.booleans(), odd_number, st.sampled_from(["", "a", [], {}, [1], {"counts": 1}])
)
corner = st.sampled_from([-5, 0, 10, 20, 20.5, 30, 99.9, 120])
flat_ring = st.lists(corner, max_size=12)
pair_ring = st.lists(st.lists(corner, min_size=2, max_size=2), max_size=6)
segmentation = st.one_of(
    st.lists(flat_ring, max_size=3),
    st.lists(
        st.fixed_dictionaries({"exterior": pair_ring, "interiors": st.lists(pair_ring, max_size=2)}),
        max_size=2,
    ),
    st.fixed_dictionaries(
        {"size": st.just([80, 100]), "counts": st.lists(st.sampled_from([0, 5, 4000, 8000]), max_size=4)}
    ),
    odd_value,
)
odd_annotation = st.fixed_dictionaries(
    {
        "id": st.one_of(st.integers(0, 4), odd_value),
        "image_id": st.one_of(st.just(1), odd_value),
        "segmentation": segmentation,
    },
    optional={
        "category_id": odd_value,
        "bbox": st.one_of(st.lists(odd_number, min_size=4, max_size=4), odd_value),
        "area": odd_value,
        "iscrowd": odd_value,
        "keypoints": odd_value,
        "track_id": odd_value,
        "score": odd_value,
    },
)
odd_image = st.fixed_dictionaries(
    {"id": st.one_of(st.integers(0, 2), odd_value)},
    optional=dict.fromkeys(
        ("file_name", "width", "height", "license", "name", "assets", "coco_url", "exif_orientation"),
        odd_value,
    ),
)
odd_list = st.one_of(
    odd_value,
    st.lists(st.one_of(odd_value, st.fixed_dictionaries({}, optional={"id": odd_value, "name": odd_value}))),
)
odd_file = st.fixed_dictionaries(
    {"annotations": st.lists(odd_annotation, max_size=4)},
    optional={
        "images": st.lists(odd_image, max_size=3),
        "categories": odd_list,
        "tracks": odd_list,
        "licenses": odd_list,
        "videos": odd_list,
    },
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(odd_file, st.sampled_from(["coco", "kwcoco", "strict"]))
def test_whatever_a_file_holds_is_told_and_repairs_come_to_an_end(
    tmp_path: Path, content: Any, profile: str
) -> None:
    annotations = kit.read(tmp_path, content)
    for _ in range(4):
        findings = validate(annotations, profile=profile)
        annotations, done = fix(annotations, findings)
        if not done:
            break
    else:
        raise AssertionError(done)
    for row in findings.as_rows():  # what is promised for rings and boxes of annotations is done
        assert row["code"] not in {
            "ring-short",
            "zero-area",
            "vertex-repeated",
            "image-dangling",
            "annotation-duplicate",
        }, row
