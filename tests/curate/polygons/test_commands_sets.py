"""`headwater polygons stats|sheet|export|split|union|subset|diff|leakage`, through the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from curate.polygons.store import open_annotations
from tests.curate.polygons.commands_kit import Cli, alone, keep, labelme, run, sources_stay, told
from tests.curate.polygons.photo_kit import tree_bytes
from tests.faults import kit

__all__ = ["sources_stay"]

RULE = "format: split/1\nname: halves\nsplits: [train, test]\nrules:\n  - {share: {of: {train: 0.5, test: 0.5}, salt: a}}\nrest: null\n"


def test_stats_and_sheet(tmp_path: Path, cli: Cli) -> None:
    folder = labelme(tmp_path)
    keep(tmp_path)
    assert told(run("stats", folder, "--json"))["images"]
    sheet = tmp_path / "sheet.png"
    line = ("sheet", folder, "--images", folder, "-o", sheet)
    assert run(*line, "--dry-run").code == 0 and not sheet.exists()
    assert told(alone(cli, *line, "--json"))["images"] == 2
    assert sheet.read_bytes().startswith(b"\x89PNG")
    assert run(*line).code == 2 and run(*line, "--force", "--quiet").code == 0
    (tmp_path / "empty").mkdir()
    done = told(run("sheet", folder, "--images", tmp_path / "empty", "-o", sheet, "--force", "--json"), 3)
    assert len(done["troubles"]) == 2


@pytest.mark.parametrize(
    ("form", "name"),
    [
        ("coco", "out.json"),
        ("coco", "out.zip"),
        ("kwcoco", "out.json"),
        ("kwcoco", "out.zip"),
        ("labelme", "out"),
        ("yolo", "out"),
        ("parquet", "out"),
        ("webdataset", "out"),
    ],
)
def test_export_writes_every_format(tmp_path: Path, form: str, name: str) -> None:
    folder = labelme(tmp_path)
    keep(tmp_path)
    out = tmp_path / name
    line = ("export", folder, "--images", folder, "--format", form, "-o", out)
    assert run(*line, "--dry-run").code == 0 and not out.exists()
    done = told(run(*line, "--json"))
    assert done["counts"]["read"] == done["counts"]["kept"] == 2
    assert told(run(*line, "--json"))["cached"]
    if form in ("coco", "kwcoco", "labelme"):
        assert len(open_annotations(out).annotations) == 2
    assert kit.temporaries(tmp_path) == []


def test_export_lists_what_it_leaves_out(tmp_path: Path, cli: Cli) -> None:
    folder = labelme(tmp_path)
    keep(tmp_path)
    some = tmp_path / "some"
    some.mkdir()
    shutil.copyfile(folder / "0.jpg", some / "0.jpg")
    out = tmp_path / "out"
    assert run("export", folder, "--format", "yolo", "-o", out).code == 2
    line = ("export", folder, "--images", some, "--format", "yolo", "-o", out)
    done = told(alone(cli, *line, "--json"), 3)
    assert done["counts"]["invalid"] == {"left out": 1} and "1.jpg" in str(done["details"]["left_out"])
    shutil.copyfile(folder / "1.jpg", some / "1.jpg")
    assert run(*line).code == 2  # other photos: another export
    assert run(*line, "--force").code == 0


def test_splits_are_written_with_two_digests(tmp_path: Path, cli: Cli) -> None:
    folder = labelme(tmp_path, 6)
    source, rule, out = keep(tmp_path), tmp_path / "rule.yaml", tmp_path / "splits"
    rule.write_text(RULE)
    line = ("split", folder, "--rule", rule, "--images", source / "photos", "-o", out)
    assert run(*line, "--dry-run").code == 0 and not out.exists()
    done = told(alone(cli, *line, "--json"))
    records = json.loads((out / "splits.json").read_text())["splits"]
    assert sum(record["images"] for record in records) == 6 and done["counts"]["kept"] == 6
    for record in records:
        assert (out / record["name"]).is_dir() and record["pixel_digest"] and record["manifest_digest"]
    parts = [out / record["name"] for record in records]
    before = tree_bytes(out)
    assert told(run(*line, "--json"))["cached"]
    assert run(*line, "--previous", out / "membership.parquet", "--force").code == 0
    names = {name for name in before if "/" in name} | {"splits.json"}  # the reasons are others
    assert {name: tree_bytes(out)[name] for name in names} == {name: before[name] for name in names}
    assert run("leakage", *parts, "--images", folder).code == 0
    assert run("split", folder, "--rule", tmp_path / "none", "-o", tmp_path / "new").code == 10
    (folder / "0.jpg").rename(tmp_path / "0.jpg")
    gone = run("split", folder, "--rule", rule, "--images", folder, "-o", tmp_path / "new")
    (tmp_path / "0.jpg").rename(folder / "0.jpg")
    assert gone.code == 3 and "0.jpg" in gone.err
    kit.nothing_at(tmp_path / "new")


def test_union_subset_diff_and_leakage(tmp_path: Path, cli: Cli) -> None:
    labelme(tmp_path, 3)
    folder = keep(tmp_path) / "photos"
    store, part, rest, whole = (tmp_path / name for name in ("store", "part", "rest", "whole"))
    assert run("import", folder, "-o", store).code == 0
    assert run("subset", store, "-o", part).code == 2
    assert told(alone(cli, "subset", store, "--category", "nut", "-o", part, "--json"))["counts"]["kept"] == 2
    assert run("subset", store, "--where", "annotations = 0", "-o", rest).code == 0
    assert run("subset", store, "--where", "no such", "-o", tmp_path / "bad").code == 2
    kit.nothing_at(tmp_path / "bad")
    assert told(run("union", part, rest, "-o", whole, "--json"))["counts"]["kept"] == 3
    assert run("union", store, part, "-o", tmp_path / "twice").code != 0
    kit.nothing_at(tmp_path / "twice")
    assert told(run("diff", store, whole, "--json")) and "nothing differs" in run("diff", store, store).out
    assert run("leakage", part, rest).code == 0
    found = alone(cli, "leakage", store, part)
    assert found.returncode == 3 and "more than one split" in found.stderr
    assert run("leakage", store, part, "--allow-findings").code == 0
