"""Validation of image files: there, within the folder, readable, as declared (fault row 63)."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("numba")

from curate.polygons.repair import fix
from curate.polygons.validate import Findings, exit_error, validate

spec = importlib.util.spec_from_file_location("validate_kit", Path(__file__).with_name("validate_kit.py"))
assert spec is not None and spec.loader is not None
kit: Any = importlib.util.module_from_spec(spec)
spec.loader.exec_module(kit)


def picture(
    path: Path, width: int = 100, height: int = 80, orientation: int | None = None, level: int = 0
) -> str:
    """A picture; its sha256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    if orientation is not None:
        exif[274] = orientation
    Image.new("RGB", (width, height), (level, 9, 9)).save(path, exif=exif)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def found(
    tmp_path: Path, *images: dict[str, Any], folder: Path | None = None, profile: str = "strict"
) -> Findings:
    annotations = kit.read(tmp_path, kit.document(images=list(images)))
    return validate(annotations, profile=profile, folder=folder or tmp_path / "root")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "deep/a.webp"])
def test_sound_files(tmp_path: Path, name: str) -> None:
    digest = picture(tmp_path / "root" / name)
    findings = found(tmp_path, kit.image(file_name=name, sha256=digest))
    assert findings.as_rows() == [] and findings.checked["files"] == 1


@pytest.mark.parametrize("profile", ["coco", "kwcoco", "strict"])
def test_missing_other_size_and_unreadable_files(tmp_path: Path, profile: str) -> None:
    picture(tmp_path / "root/size.png", 60, 80)
    (tmp_path / "root/page.jpg").write_text("<html>not found</html>")
    data = (tmp_path / "root/size.png").read_bytes()
    (tmp_path / "root/cut.png").write_bytes(data[: len(data) // 2])
    (tmp_path / "root/none.png").write_bytes(b"")
    (tmp_path / "root/folder.png").mkdir()
    names = ["gone.png", "size.png", "page.jpg", "cut.png", "none.png", "folder.png", "size.png/x.png"]
    images = [kit.image(id=n + 1, file_name=name) for n, name in enumerate(names)]
    findings = found(tmp_path, *images, profile=profile)
    assert [(row["code"], row["image_id"]) for row in findings.as_rows()] == [
        ("file-missing", 1), ("file-missing", 6), ("file-missing", 7),
        ("file-unreadable", 3), ("file-unreadable", 4), ("file-unreadable", 5),
        ("file-size", 2),
    ]  # fmt: skip
    error = exit_error(findings, "x")
    assert error is not None and error.exit_code == 3


@pytest.mark.parametrize(
    "name",
    ["../secret.png", "/secret.png", "a/../../secret.png", "file:///secret.png", "..\\secret.png", "C:x.png"],
)
def test_names_that_lead_out_are_never_opened(tmp_path: Path, name: str) -> None:
    (tmp_path / "root").mkdir()
    picture(tmp_path / "secret.png")
    findings = found(tmp_path, kit.image(file_name=name))
    assert findings.counts == {"file-name-unsafe": 1} and findings.checked["files"] == 0


def test_links_that_lead_out_are_never_opened(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    picture(tmp_path / "out/a.png")
    (tmp_path / "root/link").symlink_to(tmp_path / "out")
    (tmp_path / "root/loop.png").symlink_to("loop.png")
    images = [kit.image(file_name="link/a.png"), kit.image(id=2, file_name="loop.png")]
    findings = found(tmp_path, *images)
    assert findings.checked["files"] == 0
    assert findings.counts["file-outside"] == 1 and len(findings.table) == 2


def test_the_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    picture(tmp_path / "real/a.png")
    (tmp_path / "root").symlink_to(tmp_path / "real")
    assert found(tmp_path, kit.image()).as_rows() == []


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations(tmp_path: Path, orientation: int) -> None:
    picture(tmp_path / "root/a.jpg", orientation=orientation)
    plain = found(tmp_path, kit.image(file_name="a.jpg"))
    assert plain.counts == ({} if orientation == 1 else {"file-orientation": 1})
    declared = found(tmp_path, kit.image(file_name="a.jpg", exif_orientation=orientation))
    assert declared.counts == {}
    turned = found(tmp_path, kit.image(file_name="a.jpg", exif_orientation=orientation, width=80, height=100))
    assert turned.counts == ({"file-turned": 1} if orientation > 4 else {"file-size": 1})


def test_digests_and_files_of_one_content(tmp_path: Path) -> None:
    digest = picture(tmp_path / "root/a.png")
    picture(tmp_path / "root/b.png")
    picture(tmp_path / "root/c.png", level=7)
    images = [
        kit.image(sha256=digest),
        kit.image(id=2, file_name="b.png"),
        kit.image(id=3, file_name="c.png", sha256=digest),
    ]
    findings = found(tmp_path, *images)
    assert [(row["code"], row["image_id"]) for row in findings.as_rows()] == [
        ("image-duplicate", 2),
        ("file-digest", 3),
    ]


def test_sizes_that_are_not_there_are_repaired_from_the_files(tmp_path: Path) -> None:
    picture(tmp_path / "root/a.jpg", orientation=6)
    images = [kit.image(file_name="a.jpg", width=..., height=..., exif_orientation=6)]
    before = kit.read(tmp_path, kit.document(images=images))
    findings = validate(before, folder=tmp_path / "root")
    after, done = fix(before, findings)
    assert findings.counts == {"image-size-missing": 1}
    assert [repair.done for repair in done] == ["the size of its file, 100 x 80"]
    assert validate(after, folder=tmp_path / "root").as_rows() == []
