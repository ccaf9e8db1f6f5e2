"""Validation: every code has a file that shows it, in the profiles that tell it, as bad as the table says."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("numba")

from curate.polygons import validate as module
from curate.polygons._codes import CODES, as_markdown
from curate.polygons._findings import SCHEMA, exit_error
from curate.polygons.store import Annotations
from curate.polygons.validate import PROFILES, Findings, validate
from headwater.errors import BadInputs, MissingInput, UsageError

ROOT = Path(__file__).resolve().parents[3]
spec = importlib.util.spec_from_file_location("validate_kit", Path(__file__).with_name("validate_kit.py"))
assert spec is not None and spec.loader is not None
kit: Any = importlib.util.module_from_spec(spec)
spec.loader.exec_module(kit)

FILES = {code for code in CODES if code.startswith("file-") and not code.startswith("file-name")}


def found(folder: Path, content: dict[str, Any], profile: str = "strict") -> Findings:
    return validate(kit.read(folder, content), profile=profile)


@pytest.mark.parametrize("profile", PROFILES)
def test_a_sound_file_has_no_findings(tmp_path: Path, profile: str) -> None:
    findings = found(tmp_path, kit.document(), profile)
    assert findings.as_rows() == []
    assert findings.ok and exit_error(findings, "x") is None
    assert findings.checked == {"images": 1, "annotations": 2, "parts": 2, "vertices": 8, "files": 0}


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("code", [code for code in CODES if code not in FILES | {"crossing-unknown"}])
def test_every_code(tmp_path: Path, code: str, profile: str) -> None:
    findings = found(tmp_path, kit.WRONG[code](), profile)
    told = {row["severity"] for row in findings.as_rows() if row["code"] == code}
    expected = CODES[code].severities.get(profile)
    assert told == ({expected} if expected else set())
    if expected == "error":
        assert not findings.ok
        error = exit_error(findings, "x.json")
        assert isinstance(error, BadInputs) and code in error.message and error.exit_code == 3


def test_every_code_has_a_file() -> None:
    assert set(kit.WRONG) | FILES == set(CODES)


@pytest.mark.parametrize("code", [code for code in CODES if code not in FILES | {"crossing-unknown"}])
def test_a_wrong_file_tells_little_else(tmp_path: Path, code: str) -> None:
    """A fault must not set off a row of others: at most two further codes, and those about the same thing."""
    others = set(found(tmp_path, kit.WRONG[code]()).counts) - {code}
    assert len(others - {"segmentation-kwcoco"}) <= 2, others


def test_the_search_that_is_ended_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from curate.polygons import _crossing_kernel as crossing

    monkeypatch.setattr(crossing, "STEPS", 0)
    monkeypatch.setattr(crossing, "STEPS_A_VERTEX", 0)
    content = kit.document(
        kit.annotation(1, segmentation=[kit.square(11, 11, 8), kit.square(21, 21, 10)], area=164)
    )
    findings = found(tmp_path, content)
    assert findings.counts == {"crossing-unknown": 1}


def test_the_documentation_is_the_table() -> None:
    text = (ROOT / "docs" / "polygon-findings.md").read_text(encoding="utf-8")
    assert as_markdown() in text


def test_findings_are_a_table_in_order(tmp_path: Path) -> None:
    content = kit.document(
        kit.annotation(1, area=...),
        kit.annotation(2, image_id=9),
        kit.annotation(3, bbox=...),
        kit.annotation(4, area=...),
    )
    findings = found(tmp_path, content)
    assert findings.table.schema == SCHEMA
    assert [(row["code"], row.get("annotation_id")) for row in findings.as_rows()] == [
        ("image-dangling", 2),
        ("bbox-missing", 3),
        ("area-missing", 1),
        ("area-missing", 4),
    ]
    assert findings.counts == {"image-dangling": 1, "bbox-missing": 1, "area-missing": 2}
    assert findings.severities == {"error": 4, "warning": 0, "note": 0}
    assert findings.rows("area-missing").tolist() == [0, 3]
    assert found(tmp_path, content).table.equals(findings.table)


@pytest.mark.parametrize("field", ["coco_url", "flickr_url", "date_captured", "license"])
def test_null_fields_of_real_files_pass_as_coco(tmp_path: Path, field: str) -> None:
    content = kit.document(images=[kit.image(**{field: None})])
    assert found(tmp_path, content, "coco").as_rows() == []
    assert found(tmp_path, content, "kwcoco").counts == {"field-null": 1}


def test_areas_of_all_rules_of_drawing_pass(tmp_path: Path) -> None:
    # squares of side 4 to 64: 25 to 4225 by OpenCV, 16 to 4096 by run lengths
    for side in (4, 8, 16, 32, 64):
        for area in (side * side, (side + 1) ** 2):
            shape = [kit.square(5, 5, side)]
            content = kit.document(kit.annotation(1, segmentation=shape, bbox=[5, 5, side, side], area=area))
            assert found(tmp_path, content).as_rows() == []


def test_an_area_that_kept_a_hole_is_told(tmp_path: Path) -> None:
    shape = [kit.kw(kit.square(0, 0, 70), kit.square(10, 10, 50, back=True))]
    content = kit.document(kit.annotation(1, segmentation=shape, bbox=[0, 0, 70, 70], area=4900))
    assert found(tmp_path, content).counts == {"area-mismatch": 1}


def test_masks(tmp_path: Path) -> None:
    good = kit.document(kit.annotation(1, segmentation=kit.rle(kit.MASK), bbox=[10, 10, 20, 20], area=400))
    assert found(tmp_path, good).as_rows() == []
    off = kit.document(kit.annotation(1, segmentation=kit.rle(kit.MASK), bbox=[10, 10, 20, 20], area=401))
    assert found(tmp_path, off).counts == {"area-mismatch": 1}


def test_boxes_alone_are_duplicates_when_equal(tmp_path: Path) -> None:
    same = [kit.annotation(1, id=number, segmentation=...) for number in (1, 2, 3)]
    assert found(tmp_path, kit.document(*same), "coco").counts["annotation-duplicate"] == 2
    assert (
        "annotation-duplicate"
        not in found(tmp_path, kit.document(*same[:1], {**same[1], "category_id": 2}), "coco").counts
    )


def test_lists_that_are_not_there(tmp_path: Path) -> None:
    assert found(tmp_path, {}, "coco").counts == {"list-missing": 3}
    assert found(tmp_path, {}, "kwcoco").ok
    assert found(tmp_path, {"annotations": []}, "coco").counts == {"list-missing": 2}


def test_nothing_is_changed(tmp_path: Path) -> None:
    content = kit.document(
        kit.annotation(1, area=...), kit.annotation(1, bbox=[1, 2]), images=[kit.image(coco_url=None)]
    )
    before, same = kit.read(tmp_path, content), kit.read(tmp_path, content)
    path = tmp_path / "file.json"
    data = path.read_bytes()
    validate(before)
    assert isinstance(before, Annotations) and before.equals(same) and path.read_bytes() == data


def test_unknown_profiles_and_folders(tmp_path: Path) -> None:
    annotations = kit.read(tmp_path, kit.document())
    with pytest.raises(UsageError, match="'koko' is no profile"):
        validate(annotations, profile="koko")
    with pytest.raises(MissingInput):
        validate(annotations, folder=tmp_path / "nowhere")
    assert module.PROFILES == ("coco", "kwcoco", "strict")


def test_kwcocos_schema_agrees(tmp_path: Path) -> None:
    """What its schema takes has no error about fields by our profile kwcoco, and the other way round."""
    schema = pytest.importorskip("kwcoco.coco_schema").COCO_SCHEMA
    jsonschema = pytest.importorskip("jsonschema")
    odd = [
        None,
        True,
        0,
        3,
        1.0,
        1.5,
        "",
        "a",
        "/",
        "http://x/y",
        [],
        [1],
        [1.5, 2, 3, 4],
        ["a"],
        {},
        [{}],
        [{"file_name": "x"}],
    ]
    image_keys = [
        "name",
        "coco_url",
        "license",
        "flickr_url",
        "date_captured",
        "video_id",
        "timestamp",
        "frame_index",
        "channels",
        "resolution",
        "assets",
    ]
    annotation_keys = [
        "bbox",
        "area",
        "track_id",
        "prob",
        "score",
        "weight",
        "iscrowd",
        "ignore",
        "caption",
        "role",
        "segmentation",
        "keypoints",
        "category_id",
    ]
    fields = {
        "field-null",
        "field-type",
        "bbox-type",
        "area-type",
        "category-id-type",
        "segmentation-form",
        "segmentation-null",
        "keypoints-form",
    }
    # ours are stricter on purpose: a list of numbers that are no triples, or no polygon
    stricter = {
        ("keypoints", "[1]"),
        ("keypoints", "[1.5, 2, 3, 4]"),
        ("segmentation", "[{}]"),
        ("segmentation", "{}"),
        ("segmentation", "[{'file_name': 'x'}]"),
    }
    for key in (*image_keys, *annotation_keys):
        for value in odd:
            content = kit.document(
                kit.annotation(1, **({key: value} if key in annotation_keys else {})),
                images=[kit.image(**({key: value} if key in image_keys else {}))],
            )
            try:
                schema.validate(content)
                taken = True
            except jsonschema.ValidationError:
                taken = False
            told = set(found(tmp_path, content, "kwcoco").counts) & fields
            if taken and told:
                assert (key, str(value)) in stricter, (key, value, told)
            elif not taken:
                assert told, (key, value)
