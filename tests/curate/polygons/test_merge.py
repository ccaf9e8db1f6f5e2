"""Union and subset: ids, images that several datasets have, counts that close, and expressions that reach nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from curate.polygons import _where
from curate.polygons.merge import diff, subset, union
from curate.polygons.store import concat, digest
from headwater.errors import BadInputs, HeadwaterError, UsageError
from tests.curate.polygons.merge_kit import document, made
from tests.curate.polygons.split_kit import dataset


def test_union_keeps_the_ids_of_the_first(tmp_path: Path) -> None:
    one = made(tmp_path, document(2))
    content = document(2)
    for image in content["images"]:
        image["file_name"] = "new " + image["file_name"]
    two = made(tmp_path, content)
    found = union([one, two])
    assert digest(found.annotations) == digest(concat([one, two]))
    assert found.annotations.images["id"].to_pylist() == [1, 2, 3, 4]
    assert (found.counts.read, found.counts.kept) == (4, 4)
    assert diff(one, found.annotations).counts["images"] == {
        "added": 2,
        "removed": 0,
        "changed": 0,
        "renumbered": 0,
        "equal": 2,
    }


def test_union_of_datasets_that_overlap(tmp_path: Path) -> None:
    one, content = made(tmp_path, document(2)), document(3)
    content["annotations"][0]["area"] = 1
    content["annotations"].append({"id": 77, "image_id": 99})
    two = made(tmp_path, content)
    with pytest.raises(BadInputs, match=r"2 images are in several .*'1\.jpg', '2\.jpg'"):
        union([one, two])
    found = union([one, two], same="first")
    assert found.annotations.images["file_name"].to_pylist() == ["1.jpg", "2.jpg", "3.jpg"]
    assert len(found.annotations.annotations) == 4 + 2 + 1
    assert found.counts.model_dump()["dropped"] == {"in an earlier dataset": 2}
    assert found.notes == ["1 of 2 images that are in several datasets are not told alike; the first counts"]
    kept = union([one, two], same="keep")
    assert len(kept.annotations.images) == 5
    with pytest.raises(UsageError, match="did you mean 'first'"):
        union([one, two], same="frist")
    with pytest.raises(UsageError, match="nothing"):
        union([])


def test_union_refuses_one_name_for_two_images() -> None:
    one, two = (dataset([{"file_name": "a", "sha256": digit * 64}]) for digit in "12")
    for same in ("refuse", "first"):
        with pytest.raises(BadInputs, match="1 file names stand for different images: 'a'"):
            union([one, two], same=same)
    assert len(union([one, two], same="keep").annotations.images) == 2


def test_union_and_its_parts(tmp_path: Path) -> None:
    whole = made(tmp_path, document(4))
    parts = [whole.take([2]), whole.take([0, 3]), whole.take([1])]
    assert digest(union(parts).annotations) == digest(whole)


def test_subset_by_lists_and_categories(tmp_path: Path) -> None:
    content = document(3, each=1)
    content["annotations"].append({"id": 9, "image_id": 2, "category_id": 2})
    whole = made(tmp_path, content)
    before = digest(whole)
    found = subset(whole, ids=[1], file_names=["3.jpg"])
    assert found.annotations.images["id"].to_pylist() == [1, 3]
    assert found.counts.dropped == {"not listed": 1}
    found = subset(whole, categories=["leaf"])
    assert found.annotations.annotations["id"].to_pylist() == [2, 9]
    assert found.counts.dropped == {"none of the categories": 2}
    found = subset(whole, categories=["leaf"], only_categories=True)
    assert found.annotations.annotations["id"].to_pylist() == [9]
    assert found.notes == ["1 annotations of other categories are left out"]
    found = subset(whole, categories=["leaf"], ids=[1])
    assert found.counts.kept == 0 and sum(found.counts.dropped.values()) == 3
    assert digest(whole) == before == digest(subset(whole).annotations)
    assert subset(whole, ids=[]).counts.kept == 0
    for bad, message in (
        ({"ids": [1, 7]}, "no image is called 7"),
        ({"file_names": ["3.jpeg"]}, "did you mean '3.jpg'"),
        ({"categories": ["laef"]}, "did you mean 'leaf'"),
        ({"only_categories": True}, "no categories"),
    ):
        with pytest.raises(UsageError, match=message):
            subset(whole, **bad)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("where", "kept", "dark"),
    [
        ("width > 101", [3], 0),
        ("annotations = 2 and file_name like '%1%'", [1], 0),
        ("id in (select image_id from annotations where area > 30)", [2, 3], 0),
        ("extra->>'who' = 'ann'", [1], 1),
        ("extra->>'who' = 'ann' or extra is null", [1, 3], 0),
        ("null", [], 3),
        ("true -- all", [1, 2, 3], 0),
    ],
)
def test_subset_by_expression(tmp_path: Path, where: str, kept: list[int], dark: int) -> None:
    content = document(3)
    content["images"][0]["who"], content["images"][1]["who"] = "ann", "bob"
    found = subset(made(tmp_path, content), where=where)
    assert found.annotations.images["id"].to_pylist() == kept
    assert sum(found.counts.invalid.values()) == dark
    assert found.counts.read == 3 == found.counts.kept + sum(found.counts.dropped.values()) + dark


@pytest.mark.parametrize(
    "where",
    [
        "",
        "width",
        "wdth > 1",
        "id > 1, id > 2",
        "true; drop table images",
        "true) union select 1, true --",
        "max(id) > 1",
        "unnest([true, false])",
        "id in (select content from read_text('/etc/passwd'))",
        "exists (from '/etc/passwd')",
        "exists (from read_csv('made.json'))",
        "exists (from glob('*'))",
        "random() < 0.5",
        "now() > '2020-01-01'",
        "current_date > '2020-01-01'",
        "id > (select random())",
        "getenv('HOME') is not null",
        "(" * 2000 + "true" + ")" * 2000,
        "(" * 5000,
        "not " * 2400 + "true",
        "id = 1 or " * 1000,
    ],
)
def test_expressions_that_are_refused(tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = made(tmp_path, document(3))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="expression"):
        subset(whole, where=where)


def test_an_expression_that_never_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_where, "SECONDS", 0.2)
    with pytest.raises(HeadwaterError, match="no answer within 0.2 s"):
        subset(made(tmp_path, document(1)), where="exists (select sum(sin(range)) from range(100000000000))")
    with pytest.raises(UsageError, match="longer than 10,000"):
        subset(made(tmp_path, document(1)), where="x" * 10_001)
