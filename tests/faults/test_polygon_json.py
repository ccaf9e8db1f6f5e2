"""Polygon files from outside that are broken, hostile, or merely odd: refused by name, or kept as they are for `validate` to list.

Rows 60 to 62 of the table of faults: ids of every kind; NaN, twofold keys, depth, size, byte order marks; file names that leave the folder.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from curate.polygons import _json_scan
from curate.polygons._digest import image_path
from curate.polygons._json_scan import Limits
from curate.polygons.coco import read_coco, write_coco
from curate.polygons.kwcoco import write_kwcoco
from curate.polygons.store import digest, open_annotations, pixel_digest, set_column, write_store
from headwater.errors import BadInputs, HeadwaterError, IntegrityError, UsageError


@pytest.fixture(params=["compiled", "plain"], autouse=True)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With numba and without."""
    if request.param == "plain":
        monkeypatch.setattr(_json_scan, "have_numba", lambda: False)
    else:
        pytest.importorskip("numba")
    return str(request.param)


def placed(folder: Path, data: bytes, name: str = "set.json") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


# ---- row 60: ids


ODD_IDS: list[Any] = [
    "1",
    1.0,
    1.5,
    2**63,
    2**64,
    -1,
    -(2**63),
    -(2**63) - 1,
    None,
    True,
    [1],
    {"id": 1},
    0,
    10**30,
]


def test_ids_of_every_kind_come_back(tmp_path: Path) -> None:
    document = {
        "categories": [{"id": value, "name": str(value)} for value in ODD_IDS],
        "images": [{"id": value, "file_name": "a.png"} for value in ODD_IDS],
        "annotations": [{"id": value, "image_id": value, "category_id": value} for value in ODD_IDS] * 2,
    }
    found = read_coco(placed(tmp_path, json.dumps(document).encode()))
    whole = [value if type(value) is int and -(2**63) <= value < 2**63 else None for value in ODD_IDS]
    assert found.images["id"].to_pylist() == whole
    for column in ("id", "image_id", "category_id"):
        assert found.annotations[column].to_pylist() == whole * 2
    write_coco(found, tmp_path / "out.json")
    again = json.loads((tmp_path / "out.json").read_bytes())
    assert json.dumps(again["images"], sort_keys=True) == json.dumps(document["images"], sort_keys=True)
    assert [entry["id"] for entry in again["annotations"]] == ODD_IDS * 2
    assert len(found.take(range(len(ODD_IDS))).annotations) == 2 * sum(value is not None for value in whole)
    digest(found)


# ---- row 61: the JSON itself


ANNOTATION = (
    b'{"images":[],"annotations":[{"id":1,"image_id":1,"segmentation":[[0,0,1,0,1,%s]],"bbox":[0,0,1,1]}]}'
)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (ANNOTATION % b"NaN", "NaN is no JSON number"),
        (ANNOTATION % b"Infinity", "Infinity is no JSON number"),
        (ANNOTATION % b"-Infinity", "-Infinity is no JSON number"),
        (ANNOTATION % b"1e400", "1e400 is too large"),
        (ANNOTATION % b"01", "in the value here"),
        (ANNOTATION % b"1]", "not JSON"),
        (b'{"annotations":[{"id":1,"id":1}]}', "'id' stands twice"),
        (b'{"annotations":[{"id":1,"\\u0069d":1}]}', "'id' stands twice"),
        (b'{"annotations":[{"x":1,"segmentation":[],"x":2}]}', "'x' stands twice"),
        (b'{"annotations":[{"x":{"y":1,"y":1}}]}', "'y' stands twice"),
        (b'{"annotations":[{"x":1,"keypoints":[],"x":2}]}', "'x' stands twice"),
        (
            b'{"annotations":[{"segmentation":{"exterior":[],"interiors":[],"exterior":[]}}]}',
            "'exterior' stands twice",
        ),
        (
            b'{"annotations":[{"segmentation":{"counts":[],"size":[1,1],"counts":[]}}]}',
            "'counts' stands twice",
        ),
        (b'{"annotations":[],"annotations":[]}', "'annotations' stands twice"),
        (b'{"annotations":[{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}]}", "nested deeper than 64"),
        (
            b'{"annotations":[{"segmentation":' + b"[" * 100_000 + b"]" * 100_000 + b"}]}",
            "nested deeper|not JSON",
        ),
        (b'{"info":' + b'{"a":' * 100_000 + b"}" * 100_000 + b"}", "nested deeper than 64"),
        (b"\xef\xbb\xbf" + ANNOTATION % b"1", "byte order mark"),
        ((ANNOTATION % b"1").decode().encode("utf-16"), "UTF-16"),
        ((ANNOTATION % b"1").decode().encode("utf-16-be"), "UTF-16"),
        ((ANNOTATION % b"1").decode().encode("utf-32"), "UTF-16 or UTF-32"),
        (b'{"annotations":[{"x":"\xff"}]}', "not UTF-8"),
        (b'{"annotations":[{"\xff":1}]}', "not UTF-8"),
        (b'{"annotations":[5]}', "no object"),
        (b'{"annotations":[[]]}', "no object"),
        (b'{"images":[null]}', "no object"),
        (b'{"annotations":[{"id":1}', "ends in the middle|the end of the file"),
        (b'{"annotations":[{"id":1', "ends in the middle"),
        (b'{"annotations":[{"segmentation":[[1,2', "ends in the middle"),
        (b'{"annotations":[{"id":1}]', "the end of the file"),
        (b'{"annotations":[{"id":1}]}{}', "behind the JSON object"),
        (b'{"annotations":[{"id":1},]}', "."),
        (b'{"annotations":[{"id":1}{"id":1}]}', "."),
        (b'{"annotations":[{"id":1 "a":1}]}', "."),
        (b'{"annotations":[{"id"}]}', "."),
        (b'{"annotations":[{"id":}]}', "."),
        (b'{"annotations":[{"id":1,}]}', "."),
        (b'{"annotations":[{,}]}', "."),
        (b'{"annotations":[{"segmentation":[[1,2],]}]}', "."),
        (b'{"annotations":[{"segmentation":[[1,2,]]}]}', "."),
        (b'{"annotations":[{"segmentation":[[1 2]]}]}', "."),
        (b'{"annotations":[{"segmentation":{"exterior":[[1,2],],"interiors":[]}}]}', "."),
        (b'{"annotations":[{"segmentation":{"exterior":[[1,2]],"interiors":[[],]}}]}', "."),
        (b'{"annotations":[{"segmentation":{"exterior":[[1,2]],"interiors":[],}}]}', "."),
        (b'{"annotations":[{"bbox":[1,2,3,4,]}]}', "."),
        (b'{"annotations":[{"bbox":[1,2,3,4}]}', "."),
        (b'{"annotations":[{"iscrowd":0x1}]}', "."),
        (b'{"annotations":[{"area":1.}]}', "."),
        (b"not JSON at all", "not JSON"),
        (b"", "the end of the file"),
    ],
    ids=lambda value: repr(value)[:50] if isinstance(value, bytes) else None,
)
def test_refused_by_name(tmp_path: Path, data: bytes, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = placed(tmp_path, data)
    for window in (1 << 20, 5):
        monkeypatch.setattr(_json_scan, "BLOCK_BYTES", window)
        with pytest.raises(IntegrityError, match=words) as caught:
            open_annotations(path)
        assert "set.json" in str(caught.value)
        assert len(str(caught.value)) < 400
    assert path.read_bytes() == data


def test_every_cut_of_a_file_is_refused(tmp_path: Path) -> None:
    data = (
        b'{"info":{},"images":[{"id":1,"file_name":"a"}],"annotations":[{"id":12,"bbox":[0,0,1.5,1],'
        b'"segmentation":[[0,0,1,0,1e2,1]],"x":"\\u00e9"},{"segmentation":[{"exterior":[[0,1],[2,3]],"interiors":[[[1,1]]]}]}]}'
    )
    assert len(open_annotations(placed(tmp_path, data)).annotations) == 2
    for length in range(len(data)):
        with pytest.raises(IntegrityError):
            open_annotations(placed(tmp_path, data[:length]))


def test_every_byte_changed_is_read_alike_by_both_engines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A changed byte gives another dataset or a refusal; what it gives does not depend on numba, nor on where blocks end."""
    data = (
        b'{"images":[{"id":1}],"annotations":[{"id":1,"segmentation":[[0,0.5,1,0]],"iscrowd":0,"k":[1]},'
        b'{"segmentation":{"exterior":[[0,1]],"interiors":[]},"area":1}]}'
    )
    if engine == "plain":
        pytest.skip("both are compared by the other run")
    monkeypatch.setattr(_json_scan, "BLOCK_BYTES", 200)
    monkeypatch.setattr(_json_scan, "BLOCK_ROWS", 2)
    for place in range(len(data)):
        for byte in b'0,"]{\\ \x00\xff':
            path = placed(tmp_path, data[:place] + bytes([byte]) + data[place + 1 :])
            answers = []
            for plain in (False, True):
                with monkeypatch.context() as patch:
                    if plain:
                        patch.setattr(_json_scan, "have_numba", lambda: False)
                    try:
                        answers.append(open_annotations(path))
                    except IntegrityError:
                        answers.append(None)
            assert (answers[0] is None) == (answers[1] is None), path.read_bytes()
            if answers[0] is not None:
                assert answers[0].equals(answers[1])
                assert json.loads(path.read_bytes()) is not None


def test_sizes_are_capped(tmp_path: Path) -> None:
    path = tmp_path / "large.json"
    with open(path, "wb") as file:
        file.write(b'{"info":"')
        file.truncate(1 << 30)  # a gigabyte of nothing: a NUL is no part of a string
    with pytest.raises(IntegrityError):
        read_coco(path)
    with pytest.raises(IntegrityError, match="1,073,741,824 bytes are more than 1,000,000"):
        read_coco(path, Limits(file_bytes=1_000_000))
    long = placed(tmp_path, b'{"info":"' + b"x" * (2 << 20) + b'"}')
    with pytest.raises(IntegrityError, match="one value is larger than"):
        read_coco(long, Limits(value_bytes=1 << 20))


def test_zip_bombs_and_broken_zips(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.kwcoco.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.json", "w") as member:
        for _ in range(100):
            member.write(b" " * (1 << 20))
    with pytest.raises(IntegrityError, match="unpacks to 104,857,600 bytes, which is refused"):
        open_annotations(bomb)
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("a.json", "{}")
        archive.writestr("../../b.json", "{}")
    with pytest.raises(UsageError, match="holds 2 files"):
        open_annotations(tmp_path / "two.zip")
    assert not (tmp_path.parent / "b.json").exists()


@pytest.mark.slow
def test_memory_is_bounded_by_what_is_kept(tmp_path: Path) -> None:
    """300 MB of blanks, unknown top-level lists and one-field annotations take little more than an empty file."""
    path = tmp_path / "wide.json"
    with open(path, "wb") as file:
        file.write(b'{"images":[],"annotations":[')
        for _ in range(300):
            file.write(b" " * (1 << 20))
        file.write(b'{"id":1}]}')
    small = placed(tmp_path, b'{"images":[{}],"annotations":[{}]}')
    code = (
        "import resource, sys\n"
        "from curate.polygons.store import open_annotations\n"
        "from curate.polygons import _json_scan\n"
        f"_json_scan.have_numba = lambda: {_json_scan.have_numba()}\n"
        "open_annotations(sys.argv[2])\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "assert len(open_annotations(sys.argv[1]).annotations) == 1\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), str(small)],
        capture_output=True,
        text=True,
        check=True,
        cwd=root,
        env=os.environ,
    )
    assert int(done.stdout) < 50_000  # KiB


# ---- row 62: file names that lead out


OUTSIDE = [
    "../../etc/passwd", "/etc/passwd", "a/../../b.png", "http://example.org/a.png", "file:///etc/passwd", "..", "C:\\a.png",
    "C:/a.png", "..\\a.png", "a\0b", "", "link.png", "folder/a.png", "a" * 5000,
]  # fmt: skip


@pytest.mark.parametrize("name", OUTSIDE, ids=lambda name: name[:20])
def test_names_that_leave_the_folder(tmp_path: Path, name: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "b.png").write_bytes(b"secret")
    (tmp_path / "a.png").write_bytes(b"secret")
    (root / "link.png").symlink_to(tmp_path / "b.png")
    (root / "folder").symlink_to(tmp_path)
    document = {"images": [{"id": 1, "file_name": name}], "annotations": []}
    found = read_coco(placed(tmp_path, json.dumps(document).encode()))
    assert found.images["file_name"].to_pylist() == [name]  # kept, and listed by validate
    assert image_path(root, name) is None
    with pytest.raises(BadInputs, match="no file there for"):
        pixel_digest(root, found)


def test_names_that_stay_inside(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b..c.png").write_bytes(b"1")
    (tmp_path / "twin.png").symlink_to("a/b..c.png")
    for name in ("a/b..c.png", "./a/b..c.png", "twin.png", "a//b..c.png"):
        path = image_path(tmp_path, name)
        assert path is not None
        assert path.read_bytes() == b"1"


# ---- what cannot be written


def test_no_file_is_written_that_cannot_be_read(tmp_path: Path) -> None:
    found = read_coco(
        placed(
            tmp_path, b'{"images":[{"id":1}],"annotations":[{"id":1,"segmentation":[[0,0,1,1]],"area":1}]}'
        )
    )

    def refused(changed: Any, words: str) -> None:
        with pytest.raises(IntegrityError, match=words):
            write_kwcoco(changed, tmp_path / "out.json")
        assert not (tmp_path / "out.json").exists()

    nan = float("nan")
    refused(found.replace(vertices=set_column(found.vertices, "x", [nan, 1.0])), "coordinate is NaN")
    refused(found.replace(annotations=set_column(found.annotations, "area", [nan])), "number is NaN")
    refused(found.replace(header={"info": nan}), "'info' cannot be written")
    refused(
        found.replace(annotations=set_column(found.annotations, "extra", ['{"id":2}'])),
        "'id' stands in a column and",
    )
    for text in ("{", "[]", '{"a":NaN}', '{"a":1,"a":1}', "1},{"):
        refused(found.replace(annotations=set_column(found.annotations, "extra", [text])), "extra")
        refused(found.replace(images=set_column(found.images, "extra", [text])), "extra")
    refused(found.replace(annotations=set_column(found.annotations, "keypoints", ["x"])), "keypoints")


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    found = read_coco(placed(tmp_path, b"{}"))
    placed(tmp_path, b"", "file")
    for target in (tmp_path / "file", tmp_path / "file" / "store"):
        with pytest.raises(HeadwaterError):
            write_store(found, target)
    with pytest.raises(HeadwaterError):
        write_coco(found, tmp_path / "none" / "a.json")
