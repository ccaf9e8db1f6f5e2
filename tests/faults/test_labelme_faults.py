"""LabelMe folders that are damaged, hostile or none: listed or refused by name, and the rest is read (fault rows 61 and 62)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from curate.polygons.labelme import read_labelme, scan_labelme
from curate.polygons.labelme_files import DATASET_NAME
from curate.polygons.labelme_writing import write_labelme
from headwater.errors import IntegrityError, MissingInput, UsageError
from tests.curate.polygons.photo_kit import photo, polygon, sidecar


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", "not JSON"),
        (b'{"shapes": [], "shapes": []}', "twice"),
        (b'{"shapes": [{"points": [[NaN, 1]]}], "imagePath": "b.jpg"}', "NaN"),
        (b"\xef\xbb\xbf{}", "byte order"),
        ('{"shapes": []}'.encode("utf-16"), "UTF-8"),
        (b'{"shapes": [], "x": ' + b"[" * 100 + b"]" * 100 + b"}", "deeper"),
        (b'{"shapes": [], "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "deep"),
        (b'{"shapes": [], "imagePath": "../../etc/x.jpg"}', "leads out"),
        (b'{"shapes": [], "imagePath": "/etc/x.jpg"}', "leads out"),
        (b'{"shapes": [], "imagePath": "C:\\\\x.jpg"}', "leads out"),
        (b'{"shapes": [], "imagePath": "http://example.org/x.jpg"}', "leads out"),
        (b'{"shapes": [], "imagePath": "link/x.jpg"}', "leads out"),
        (b'{"shapes": []}', "names no picture"),
        (b'{"shapes": [], "imagePath": "a.jpg"}', "same image"),
        (b'{"shapes": [], "imagePath": "broken.jpg"}', "no picture"),
    ],
)
def test_bad_sidecars_are_listed_and_the_rest_is_read(tmp_path: Path, content: bytes, reason: str) -> None:
    folder = tmp_path / "in"
    photo(folder, "a")
    sidecar(folder, "a", [polygon()])
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    (folder / "z.json").write_bytes(content)
    (folder / "other.json").write_text('{"images": []}')
    os.symlink(tmp_path, folder / "link")
    found = scan_labelme(folder)
    assert found.others == ["other.json"]
    assert len(found.annotations.annotations) == 1
    listed = dict(found.bad)
    assert reason in listed.get("z.json", "")
    with pytest.raises(IntegrityError, match="z.json"):
        read_labelme(folder)


def test_a_picture_beside_the_sidecar_can_be_asked_for(tmp_path: Path) -> None:
    photo(tmp_path, "a")
    sidecar(tmp_path, "a", [polygon()], imagePath="C:\\Users\\someone\\a.jpg")
    assert scan_labelme(tmp_path).bad
    found = scan_labelme(tmp_path, paths="beside")
    assert (found.bad, found.annotations.images["file_name"].to_pylist()) == ([], ["a.jpg"])


def test_another_orientation_than_noted_is_refused(tmp_path: Path) -> None:
    photo(tmp_path / "in", "a", 6)
    sidecar(tmp_path / "in", "a", [polygon()], (24, 40))
    write_labelme(read_labelme(tmp_path / "in"), tmp_path / "out")
    photo(tmp_path / "out", "a", 8)
    with pytest.raises(IntegrityError, match="orientation is 8"):
        read_labelme(tmp_path / "out")


def test_folders_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(MissingInput):
        read_labelme(tmp_path / "no")
    photo(tmp_path / "in", "a")
    with pytest.raises(UsageError, match="no LabelMe"):
        read_labelme(tmp_path / "in")
    (tmp_path / "in" / DATASET_NAME).write_text("{}")
    with pytest.raises(IntegrityError, match="dataset file"):
        read_labelme(tmp_path / "in")
    sidecar(tmp_path / "in2", "a", [polygon()])
    with pytest.raises(UsageError, match="not empty"):
        write_labelme(read_labelme(tmp_path / "in2"), tmp_path / "in2")
