"""Diff of two releases, checked against edits that are known and against the digest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.polygons.merge import Diff, diff
from curate.polygons.store import digest
from tests.curate.polygons import json_kit as kit
from tests.curate.polygons.merge_kit import Document, document, made


def changes(found: Diff, table: str) -> list[tuple[Any, ...]]:
    """(change, old id, new id, keys) of a table of a diff."""
    return [
        (row["change"], row["old_id"], row["new_id"], row["keys"])
        for row in getattr(found, table).to_pylist()
    ]


def test_nothing_differs(tmp_path: Path) -> None:
    old = made(tmp_path, document())
    content = document()
    content["images"].reverse()
    content["annotations"].reverse()
    content["categories"].reverse()
    found = diff(old, made(tmp_path, content))
    assert found.equal and found.text() == "nothing differs"
    assert found.counts["annotations"]["equal"] == 6
    assert found.changed_images == 0


def test_every_kind_of_change_by_id(tmp_path: Path) -> None:
    old, content = made(tmp_path, document()), document()
    content["images"][0]["height"] = 51
    content["images"][0]["place"] = [1, 2]
    del content["images"][1]
    content["images"].append({"id": 9, "file_name": "9.jpg", "width": 1, "height": 1})
    first = content["annotations"][0]
    first["segmentation"][0][0] = -3
    first["segmentation"][0][1] = 4
    first["weight"]["by"] = "bob"
    content["annotations"][1]["segmentation"][0] += [21, 1]
    content["annotations"][1]["category_id"] = 1
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != 2]
    content["annotations"].append({**first, "id": 50, "image_id": 9})
    content["info"]["year"] = 2025
    found = diff(old, made(tmp_path, content))
    assert changes(found, "images") == [
        ("removed", 2, None, []),
        ("added", None, 9, []),
        ("changed", 1, 1, ["height", "place"]),
    ]
    assert changes(found, "annotations") == [
        ("removed", 3, None, []),
        ("removed", 4, None, []),
        ("added", None, 50, []),
        ("changed", 1, 1, ["segmentation", "weight"]),
        ("changed", 2, 2, ["category", "segmentation"]),
    ]
    moved, grown = found.annotations.to_pylist()[-2:]
    assert (moved["moved"], moved["farthest"], moved["image"], moved["category"]) == (
        1,
        5.0,
        "1.jpg",
        "thing",
    )
    assert (grown["moved"], grown["old_vertices"], grown["new_vertices"]) == (None, 4, 5)
    assert found.header == ["info"]
    assert found.counts["images"] == {"added": 1, "removed": 1, "changed": 1, "renumbered": 0, "equal": 1}
    assert found.counts["annotations"] == {
        "added": 1,
        "removed": 2,
        "changed": 2,
        "renumbered": 0,
        "equal": 2,
    }
    assert found.changed_images == 1
    text = found.text()
    assert (
        "changed: annotation 1 thing of 1.jpg (segmentation, weight): 1 vertices moved, by at most 5 pixels"
        in text
    )
    assert "changed: annotation 2 thing of 1.jpg (category, segmentation): 4 -> 5 vertices" in text
    assert found.text(1).endswith("and 4 more annotations")
    assert found.data(1)["not_listed"] == 6


def test_renumbered_by_content(tmp_path: Path) -> None:
    old, content = made(tmp_path, document()), document()
    for image in content["images"]:
        image["id"] = 100 - image["id"]
    for entry in content["categories"]:
        entry["id"] += 5
    for entry in content["annotations"]:
        entry["image_id"] = 100 - entry["image_id"]
        entry["category_id"] += 5
        entry["id"] += 1  # every id but the last is that of another annotation now
    found = diff(old, made(tmp_path, content))
    assert changes(found, "images") == [("renumbered", row, 100 - row, []) for row in (1, 2, 3)]
    assert changes(found, "annotations") == [("renumbered", row, row + 1, []) for row in range(1, 7)]
    assert found.categories == [
        {"name": "leaf", "change": "renumbered", "keys": ["id"]},
        {"name": "thing", "change": "renumbered", "keys": ["id"]},
    ]
    assert found.header == [] and found.changed_images == 0
    # and an edit among them: by the boxes, not by the ids
    content["annotations"][0]["segmentation"][0][2] += 1
    del content["annotations"][1]
    found = diff(old, made(tmp_path, content))
    assert ("changed", 1, 2, ["segmentation"]) in changes(found, "annotations")
    assert ("removed", 2, None, []) in changes(found, "annotations")
    assert found.counts["annotations"] == {
        "added": 0,
        "removed": 1,
        "changed": 1,
        "renumbered": 4,
        "equal": 0,
    }


def test_a_renamed_image_is_no_new_one(tmp_path: Path) -> None:
    old, content = made(tmp_path, document()), document()
    content["images"][1]["file_name"] = "other.jpg"
    content["images"][1]["id"] = 20
    for entry in content["annotations"][2:4]:
        entry["image_id"] = 20
    assert changes(diff(old, made(tmp_path, content)), "images") == [("changed", 2, 20, ["file_name"])]
    before, after = document(), document()
    before["images"][0]["sha256"] = after["images"][0]["sha256"] = "1" * 64
    after["images"][0]["file_name"] = "moved.jpg"
    after["annotations"][0]["area"] = 7
    found = diff(made(tmp_path, before), made(tmp_path, after))
    assert changes(found, "images") == [("changed", 1, 1, ["file_name"])]
    assert changes(found, "annotations") == [("changed", 1, 1, ["area"])]


def test_categories(tmp_path: Path) -> None:
    old, content = made(tmp_path, document()), document()
    content["categories"][0]["supercategory"] = "x"
    content["categories"][1] = {"id": 2, "name": "stick"}
    found = diff(old, made(tmp_path, content))
    assert found.categories == [
        {"name": "leaf", "change": "removed", "keys": []},
        {"name": "stick", "change": "added", "keys": []},
        {"name": "thing", "change": "changed", "keys": ["supercategory"]},
    ]
    assert [keys for *_, keys in changes(found, "annotations")] == [["category"]] * 3
    assert "category thing: changed (supercategory)" in found.text()


def test_annotations_without_an_image_and_odd_ids(tmp_path: Path) -> None:
    content: Document = {
        "images": [{"id": "a", "file_name": "x"}, {"id": 1}, {"file_name": "y"}],
        "annotations": [
            {"id": "p", "image_id": "a"},
            {"id": 5, "image_id": 99},
            {"id": None},
            {"image_id": 1},
        ],
    }
    old = made(tmp_path, content)
    assert diff(old, made(tmp_path, content)).equal
    content["annotations"][1]["image_id"] = 98
    assert changes(diff(old, made(tmp_path, content)), "annotations") == [("changed", 5, 5, ["image_id"])]
    content["annotations"][0]["id"] = "q"
    found = diff(old, made(tmp_path, content))
    assert found.counts["annotations"] == {
        "added": 1,
        "removed": 1,
        "changed": 1,
        "renumbered": 0,
        "equal": 2,
    }
    assert found.changed_images == 0
    nothing = made(tmp_path, {"images": [], "annotations": []})
    assert diff(nothing, nothing).equal
    assert diff(nothing, old).counts["images"]["added"] == 3
    assert diff(nothing, made(tmp_path, {"images": []})).header == ["missing lists"]


EDITS = st.lists(
    st.tuples(st.sampled_from(["drop", "copy", "edit", "number", "image", "swap"]), st.integers(0, 9)),
    max_size=4,
)


@settings(deadline=None)
@given(content=kit.DOCUMENT, edits=EDITS, order=st.randoms(use_true_random=False))
def test_equal_is_what_the_digest_says(
    tmp_path_factory: pytest.TempPathFactory, content: Document, edits: Any, order: Any
) -> None:
    folder = tmp_path_factory.mktemp("diff")
    old = made(folder, content)
    content = json.loads(json.dumps(content))
    for kind, number in edits:
        edit(content, kind, number)
    for name in ("images", "annotations"):
        if isinstance(content.get(name), list):
            order.shuffle(content[name])
    new = made(folder, content)
    found = diff(old, new)
    assert found.equal == (digest(old) == digest(new))
    for name, before, after in (
        ("images", old.images, new.images),
        ("annotations", old.annotations, new.annotations),
    ):
        counts = found.counts[name]
        both = counts["changed"] + counts["renumbered"] + counts["equal"]
        assert len(before) == both + counts["removed"] and len(after) == both + counts["added"]
        assert min(counts.values()) >= 0
        for side, change in (("old_id", "added"), ("new_id", "removed")):
            ids = [row[side] for row in getattr(found, name).to_pylist() if row["change"] == change]
            assert ids == [None] * counts[change]
    json.dumps(found.data())
    found.text()


def edit(content: Document, kind: str, number: int) -> None:
    name = "images" if kind == "image" else "annotations"
    entries = content.get(name)
    if not isinstance(entries, list) or not entries:
        return
    row = number % len(entries)
    if kind == "drop":
        del entries[row]
    elif kind == "copy":
        entries.append(json.loads(json.dumps(entries[row])))
    elif kind == "number":
        entries[row]["id"] = 7000 + number
    elif kind == "swap":
        entries[row]["id"], entries[-1]["id"] = entries[-1].get("id"), entries[row].get("id")
    else:
        entries[row]["edited"] = number
