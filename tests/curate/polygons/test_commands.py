"""`headwater polygons import|validate`: what is bad is listed and ends with 3, and no source ever changes."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from curate.polygons._codes import CODES, PROFILES
from curate.polygons.store import digest, open_annotations
from tests.curate.polygons.commands_kit import Cli, alone, coco, keep, labelme, run, sources_stay, told
from tests.curate.polygons.photo_kit import photo, pixels, polygon, sidecar, tree_bytes
from tests.curate.polygons.validate_kit import WRONG, annotation, document
from tests.faults import kit

__all__ = ["sources_stay"]


def test_help_names_every_command(tmp_path: Path, cli: Cli) -> None:
    keep(tmp_path)
    done = alone(cli, "--help")
    names = "diff export import intake key leakage scrub sheet split stats strip subset union unseal validate"
    listed = [line.split()[0] for line in done.stdout.split("Commands:")[1].strip().splitlines()]
    assert done.returncode == 0 and listed == sorted(listed) and set(names.split()) <= set(listed)


def test_a_labelme_folder_becomes_a_store(tmp_path: Path, cli: Cli) -> None:
    labelme(tmp_path)
    source, store = keep(tmp_path) / "photos", tmp_path / "store"
    line = ("polygons", "import", source, "-o", store)
    would = told(cli(*line, "--dry-run", "--json"))
    assert not would["up_to_date"] and not store.exists()
    done = told(cli(*line, "--json"))
    assert done["counts"]["kept"] == 2 and done["counts"]["extra"]["annotations"] == 2
    assert done["details"]["digest"] == digest(open_annotations(source)) == digest(open_annotations(store))
    before = tree_bytes(store)
    again = told(run("import", source, "-o", store, "--json"))
    assert again["cached"] and tree_bytes(store) == before and kit.temporaries(tmp_path) == []


def test_import_of_files_and_stores_is_known_by_bytes(tmp_path: Path) -> None:
    path = coco(tmp_path)
    keep(tmp_path)
    assert run("import", path, "-o", tmp_path / "a").code == 0
    assert run("import", tmp_path / "a", "-o", tmp_path / "b").code == 0
    assert digest(open_annotations(path)) == digest(open_annotations(tmp_path / "b"))
    assert told(run("import", path, "-o", tmp_path / "a", "--json"))["cached"]
    other = coco(tmp_path, document(annotation(1)), "../other.json")
    assert run("import", other, "-o", tmp_path / "a").code == 2
    assert run("import", other, "-o", tmp_path / "a", "--force", "--quiet").code == 0
    assert len(open_annotations(tmp_path / "a").annotations) == 1


def test_bad_labelme_files_are_named_and_left_out(tmp_path: Path, cli: Cli) -> None:
    folder = labelme(tmp_path)
    (folder / "broken.json").write_text('{"shapes": [')
    sidecar(folder, "away", [polygon()], imagePath="../../../etc/passwd")
    source, store = keep(tmp_path) / "photos", tmp_path / "store"
    assert run("import", source, "-o", store, "--dry-run").code == 3 and not store.exists()
    done = alone(cli, "import", source, "-o", store, "--json")
    found = told(done, 3)
    assert [name for name, _ in found["bad"]] == ["away.json", "broken.json"]
    assert found["counts"]["invalid"] == {"cannot be read": 2} and found["counts"]["kept"] == 2
    assert found["problem"]["exit_code"] == 3 and "away.json" in done.stderr
    again = told(run("import", source, "-o", store, "--json"), 3)  # not forgotten the second time
    assert again["cached"] and again["bad"] == found["bad"]


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [
        ("cut.json", b'{"images": [{"id": 1', 13),
        (
            "nan.json",
            b'{"images": [], "annotations": [{"id": 1, "segmentation": [[NaN, 1, 2, 3, 4, 5]]}]}',
            13,
        ),
        ("twice.json", b'{"images": [], "images": [], "annotations": []}', 13),
        ("no.zip", b"PK\3\4 and nothing more", 13),
        ("text.json", b"[1, 2, 3]", 13),
    ],
)
def test_a_file_that_is_not_what_it_says_gives_nothing(
    tmp_path: Path, name: str, data: bytes, code: int
) -> None:
    path = tmp_path / "source" / name
    path.write_bytes(data)
    keep(tmp_path)
    for command in (("import", path, "-o", tmp_path / "store"), ("validate", path), ("stats", path)):
        done = run(*command)
        assert done.code == code and name in done.err, done
    kit.nothing_at(tmp_path / "store")


def test_nothing_readable_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "source" / "a.json").write_text("{")
    source = keep(tmp_path)
    done = run("import", source, "-o", tmp_path / "store")
    assert done.code == 3 and "a.json" in done.err
    kit.nothing_at(tmp_path / "store")
    (tmp_path / "empty").mkdir()
    assert run("import", tmp_path / "empty", "-o", tmp_path / "store").code == 2
    assert run("import", tmp_path / "none", "-o", tmp_path / "store").code == 10


def test_no_output_is_an_input(tmp_path: Path) -> None:
    folder = labelme(tmp_path)
    path = coco(tmp_path)
    source = keep(tmp_path)
    assert run("import", folder, "-o", folder / "store", "--force").code == 2
    assert run("strip", folder, "-o", folder / "copy", "--force").code == 2
    assert run("intake", folder, "-o", folder / "store", "--force").code == 2
    assert run("export", path, "-o", path, "--format", "coco", "--force").code == 2
    assert run("sheet", path, "-o", path, "--force").code == 2
    (tmp_path / "a").mkdir()
    store = tmp_path / "a" / "store"
    assert run("import", path, "-o", store).code == 0
    (tmp_path / "a" / "step.json").write_text("{}")  # as if we had made the folder around it
    before = tree_bytes(tmp_path / "a")
    for command in (
        ("validate", store, "--fix", tmp_path / "a"),
        ("validate", store, "--fix", store),
        ("subset", store, "--id", 1, "-o", tmp_path / "a"),
        ("union", path, store, "-o", tmp_path / "a"),
        ("scrub", store, "--images", folder, "-o", tmp_path / "a"),
        ("scrub", path, "--images", store, "-o", store),
    ):
        done = run(*command, "--force")
        assert done.code == 2 and "input" in done.err + done.out or done.code == 2, command
    assert tree_bytes(tmp_path / "a") == before and source.exists()


def test_findings_are_listed_with_ids(tmp_path: Path, cli: Cli) -> None:
    path = coco(tmp_path, document(annotation(1, bbox=[11, 11, 20, 23]), annotation(2, image_id=7)))
    keep(tmp_path)
    done = told(alone(cli, "validate", path, "--json"), 3)
    found = {row["code"]: row for row in done["findings"]}
    assert found["bbox-mismatch"]["annotation_id"] == 1 and found["image-dangling"]["annotation_id"] == 2
    assert not done["ok"] and done["problem"]["kind"] == "BadInputs"
    plain = run("validate", path)
    assert plain.code == 3 and "bbox-mismatch: annotation 1: " in plain.out
    assert run("validate", path, "--allow-findings").code == 0


UNTOLD = ("crossing-unknown",)  # only by limits of its own


@pytest.mark.parametrize("code", [code for code in WRONG if code not in UNTOLD])
def test_every_finding_ends_with_3_where_it_is_an_error(tmp_path: Path, code: str) -> None:
    path = coco(tmp_path, WRONG[code]())
    keep(tmp_path)
    profile = next(one for one in ("strict", *PROFILES) if one in CODES[code].severities)
    done = run("validate", path, "--profile", profile, "--json")
    found = json.loads(done.out)
    assert code in found["counts"]
    errors = [row for row in found["findings"] if row["severity"] == "error"]
    assert done.code == (3 if errors else 0) and found["severities"]["error"] == len(errors)


def test_a_fix_is_a_new_store_and_tells_each_repair(tmp_path: Path, cli: Cli) -> None:
    path = coco(
        tmp_path, document(annotation(1, bbox=[11, 11, 20, 23]), annotation(2, image_id=7), annotation(3))
    )
    keep(tmp_path)
    store = tmp_path / "fixed"
    would = told(run("validate", path, "--fix", store, "--dry-run", "--json"), 3)
    assert not would["fixed"]["up_to_date"] and not store.exists()
    done = told(alone(cli, "validate", path, "--fix", store, "--json"))
    fixed = done["fixed"]
    assert {"bbox-mismatch", "image-dangling"} <= set(done["counts"])
    assert fixed["counts"]["kept"] == 2 and fixed["counts"]["dropped"] == {"image-dangling": 1}
    assert fixed["details"]["left"]["severities"]["error"] == 0
    listed = pq.read_table(store / "repairs.parquet").to_pylist()
    assert [(row["code"], row["annotation_id"]) for row in listed] == [
        (row["code"], row.get("annotation_id")) for row in fixed["details"]["repaired"]
    ]
    assert run("validate", store).code == 0
    plain = run("validate", path, "--fix", store)
    assert plain.code == 0 and "annotation 2: image-dangling: dropped" in plain.out


def test_what_no_fix_can_mend_is_told_again(tmp_path: Path) -> None:
    path = coco(tmp_path, WRONG["self-crossing"]())
    keep(tmp_path)
    for _ in range(2):  # made, and found again
        done = run("validate", path, "--fix", tmp_path / "fixed")
        assert done.code == 3 and "1 self-crossing" in done.err
    assert run("validate", path, "--fix", tmp_path / "fixed", "--allow-findings").code == 0
    assert pq.read_table(tmp_path / "fixed" / "findings.parquet")["code"].to_pylist() == ["self-crossing"]


def test_bad_files_and_missing_images_are_findings(tmp_path: Path) -> None:
    folder = labelme(tmp_path)
    (folder / "broken.json").write_text("{")
    keep(tmp_path)
    done = told(run("validate", folder, "--json"), 3)
    assert [name for name, _ in done["bad"]] == ["broken.json"] and not done["ok"]
    assert run("validate", folder, "--images", tmp_path / "none").code == 10
    empty = tmp_path / "empty"
    empty.mkdir()
    found = told(run("validate", folder, "--images", empty, "--json"), 3)
    assert found["counts"]["file-missing"] == 2


def test_names_from_outside_do_no_harm(tmp_path: Path) -> None:
    """Names that are not UTF-8, that steer a terminal, and things that are no files."""
    folder = labelme(tmp_path)
    (folder / "line\nend\x1b[31m.json").write_text("{")
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff.json")).write_text("{")
    shutil.copyfile(folder / "0.jpg", os.fsdecode(os.fsencode(folder) + b"/\xfe.jpg"))
    keep(tmp_path)
    os.mkfifo(folder / "pipe.json")
    (folder / "folder.json").mkdir()
    try:
        done = run("import", folder, "-o", tmp_path / "store")
        assert done.code == 3 and "line\\nend\\x1b[31m.json: not JSON" in done.out and "\x1b" not in done.said
        assert told(run("import", folder, "-o", tmp_path / "store", "--json"), 3)["counts"]["kept"] == 3
        found = told(run("validate", folder, "--json"), 3)
        assert found["counts"] == {"file-name-type": 1} and len(found["bad"]) == 2
        assert run("intake", folder, "-o", tmp_path / "taken").code == 3
        assert run("strip", folder, "-o", tmp_path / "copy").code == 2
        assert run("stats", folder / "pipe.json").code == 2
        assert run("import", folder / "pipe.json", "-o", tmp_path / "other").code == 2
    finally:
        (folder / "pipe.json").unlink()
    assert kit.temporaries(tmp_path) == [] and not (tmp_path / "copy").exists()


def test_images_that_are_not_as_declared_are_findings(tmp_path: Path) -> None:
    folder = tmp_path / "source" / "photos"
    photo(folder, "turned", 6)
    photo(folder, "small", 1, pixels(8, 8))
    (folder / "none.jpg").write_bytes(b"no picture")
    names = ("turned", "small", "none")
    images = [
        {"id": n, "file_name": f"{name}.jpg", "width": 40, "height": 24, "exif_orientation": 1}
        for n, name in enumerate(names, 1)
    ]
    path = coco(tmp_path, document(images=images, annotations=[]))
    keep(tmp_path)
    found = told(run("validate", path, "--images", folder, "--json"), 3)
    codes = {(row["code"], row["image_id"]) for row in found["findings"]}
    assert {("file-orientation", 1), ("file-size", 2), ("file-unreadable", 3)} <= codes
    done = run("validate", path, "--images", folder, "--fix", tmp_path / "fixed")
    assert done.code == 3 and "file-size" in done.err  # nobody knows which of the two is right
