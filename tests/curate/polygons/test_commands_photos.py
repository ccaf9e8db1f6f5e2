"""`headwater polygons intake|scrub|unseal|strip|key`: photos are never changed, bad ones are listed."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq

from curate.polygons.store import open_annotations
from tests.curate.polygons.commands_kit import Cli, alone, coco, keep, labelme, run, sources_stay, told
from tests.curate.polygons.photo_kit import tree_bytes
from tests.curate.polygons.private_kit import SECRET, private_picture
from tests.curate.polygons.validate_kit import annotation, document
from tests.faults import kit

__all__ = ["sources_stay"]


def test_intake_lists_photos_pairs_and_what_is_bad(tmp_path: Path, cli: Cli) -> None:
    folder = labelme(tmp_path, 3)
    shutil.copyfile(folder / "0.jpg", folder / "copy.jpg")
    (folder / "bad.jpg").write_bytes(b"no picture")
    keep(tmp_path)
    store = tmp_path / "store"
    options = ("--source", "person:ann", "--gap", 100, "--roles", "before,after")
    done = told(alone(cli, "intake", folder, "-o", store, *options, "--json"), 3)
    assert "bad.jpg" in [name for name, _ in done["bad"]]
    assert done["counts"]["invalid"] == {"photos that cannot be read": 1} and done["counts"]["kept"] == 4
    photos = {row["file_name"]: row for row in pq.read_table(store / "photos.parquet").to_pylist()}
    assert photos["0.jpg"]["role"] == "before" and photos["0.jpg"]["zone_from"] and photos["0.jpg"]["gps"]
    pairs = pq.read_table(store / "same.parquet").to_pylist()
    assert ("bytes", "0.jpg", "copy.jpg") in [(row["kind"], row["first"], row["second"]) for row in pairs]
    sources = set(open_annotations(store).annotations["source"].to_pylist())
    assert sources == {"person:ann"}
    assert told(run("intake", folder, "-o", store, *options, "--json"), 3)["cached"]


def test_intake_refuses_what_makes_no_sense(tmp_path: Path) -> None:
    folder = labelme(tmp_path)
    keep(tmp_path)
    for options in (
        ("--source", "somebody"),
        ("--roles", "a,a"),
        ("--roles", "a,"),
        ("--gap", "nan"),
        ("--gap", 0),
        ("--near-bits", 12),
    ):
        done = run("intake", folder, "-o", tmp_path / "store", *options)
        assert done.code == 2, (options, done)
    assert run("intake", tmp_path / "none", "-o", tmp_path / "store").code == 10
    (tmp_path / "empty").mkdir()
    assert run("intake", tmp_path / "empty", "-o", tmp_path / "store").code == 2
    kit.nothing_at(tmp_path / "store")


def private(tmp_path: Path) -> Path:
    """Photos with secrets, and a COCO file about them."""
    folder = tmp_path / "source" / "photos"
    for name, form in (("a.jpg", "JPEG"), ("in/b.png", "PNG"), ("c.webp", "WEBP")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(private_picture(form))
    images = [
        {"id": n, "file_name": name, "width": 40, "height": 24, "exif_orientation": 6, "gps": {"lat": 1}}
        for n, name in enumerate(("a.jpg", "in/b.png", "c.webp"), 1)
    ]
    square = [2, 3, 12, 3, 12, 13, 2, 13]
    annotations = [
        annotation(n, image_id=n, segmentation=[square], bbox=[2, 3, 10, 10], area=100) for n in (1, 2, 3)
    ]
    coco(tmp_path, document(*annotations, images=images))
    return folder


def test_scrubbed_copies_and_back(tmp_path: Path, cli: Cli) -> None:
    private(tmp_path)
    source = keep(tmp_path)
    key, out, sealed, back = (tmp_path / name for name in ("key", "out", "sealed", "back"))
    assert run("key", key).code == 0
    secret = key.read_bytes()
    assert key.stat().st_mode & 0o077 == 0 and run("key", key, "--force").code == 2
    assert key.read_bytes() == secret
    line = ("scrub", source / "set.json", "--images", source / "photos", "-o", out)
    done = told(alone(cli, *line, "--sealed", sealed, "--key", key, "--json"))
    assert done["counts"]["kept"] == 3 and done["details"]["removed"]["GPS"] == 3
    whole = b"".join(tree_bytes(out).values())
    assert SECRET.encode() not in whole and b'"gps"' not in whole
    assert SECRET.encode() not in b"".join(tree_bytes(sealed).values())
    rows = pq.read_table(out / "scrubbed.parquet").to_pylist()
    assert [row["file_name"] for row in rows] == ["a.jpg", "in/b.png", "c.webp"]
    assert run("validate", out, "--images", out / "images", "--profile", "coco").code == 0
    assert told(run(*line, "--sealed", sealed, "--key", key, "--json"))["cached"]
    shutil.rmtree(out)  # as if killed between the two
    again = told(run(*line, "--sealed", sealed, "--key", key, "--json"))
    assert not again["cached"] and again["id"] == done["id"]
    made = run("unseal", out, "--sealed", sealed, "--key", key, "-o", back)
    assert made.code == 0 and kit.temporaries(tmp_path) == []
    originals = tree_bytes(source / "photos")
    assert {name: data for name, data in tree_bytes(back).items() if name != "step.json"} == originals


def test_scrub_applies_orientation_and_drops_times(tmp_path: Path) -> None:
    folder = private(tmp_path)
    (folder / "a.jpg").unlink()
    (folder / "c.webp").write_bytes(b"no picture")
    source, out = keep(tmp_path), tmp_path / "out"
    line = (
        "scrub",
        source / "set.json",
        "--images",
        folder,
        "-o",
        out,
        "--orientation",
        "apply",
        "--drop-times",
    )
    would = told(run(*line, "--dry-run", "--json"))
    assert not would["up_to_date"] and not out.exists()
    done = told(run(*line, "--json"), 3)
    assert [name for name, _ in done["bad"]] == ["a.jpg", "c.webp"]
    assert done["counts"]["invalid"] == {"photos that cannot be used": 2}
    found = open_annotations(out)
    assert found.images.select(["file_name", "width", "height", "orientation"]).to_pylist() == [
        {"file_name": "in/b.png", "width": 24, "height": 40, "orientation": None}
    ]
    assert sorted(tree_bytes(out / "images")) == ["in/b.png"]
    assert run("validate", out, "--images", out / "images", "--profile", "coco").code == 0


def test_keys_and_sealed_folders_that_do_not_fit(tmp_path: Path) -> None:
    private(tmp_path)
    source = keep(tmp_path)
    key, other, out, sealed, back = (tmp_path / name for name in ("key", "other", "out", "sealed", "back"))
    line = ("scrub", source / "set.json", "--images", source / "photos", "-o", out)
    assert run("key", key, "--dry-run").code == 0 and not key.exists()
    assert run(*line, "--sealed", sealed).code == 2
    assert run(*line, "--sealed", sealed, "--key", key).code == 10
    for path in (key, other):
        assert run("key", path).code == 0
    assert run(*line, "--sealed", sealed, "--key", source / "set.json").code == 12
    assert run(*line, "--sealed", out / "sealed", "--key", key).code == 2
    kit.nothing_at(out)
    assert run(*line, "--sealed", sealed, "--key", key).code == 0
    assert run("unseal", out, "--sealed", sealed, "--key", other, "-o", back).code == 12
    kit.nothing_at(back)
    assert run("unseal", out, "--sealed", source, "--key", key, "-o", back).code == 2
    (out / "images" / "a.jpg").write_bytes((out / "images" / "c.webp").read_bytes())
    damaged = bytearray((sealed / "c.webp.sealed").read_bytes())
    damaged[40] ^= 1
    (sealed / "c.webp.sealed").write_bytes(damaged)
    done = told(run("unseal", out, "--sealed", sealed, "--key", key, "-o", back, "--json"), 3)
    assert [name for name, _ in done["bad"]] == ["a.jpg", "c.webp"]
    assert sorted(tree_bytes(back)) == ["in/b.png", "step.json"]


def test_strip_copies_a_folder_without_pictures_inside(tmp_path: Path, cli: Cli) -> None:
    folder = labelme(tmp_path, imageData=base64.b64encode(b"picture" * 100).decode())
    (folder / "broken.json").write_text("{")
    keep(tmp_path)
    copy, second = tmp_path / "copy", tmp_path / "second"
    done = told(alone(cli, "strip", folder, "-o", copy, "--json"), 3)
    assert [name for name, _ in done["bad"]] == ["broken.json"] and done["counts"]["extra"]["stripped"] == 2
    before, after = tree_bytes(folder), tree_bytes(copy)
    assert after.keys() == before.keys() | {"step.json"}
    for name in ("0.json", "1.json"):
        assert json.loads(after[name]) == {**json.loads(before[name]), "imageData": None}
    assert run("strip", copy, "-o", second).code == 3  # the record of the copy is not of its files
    assert json.loads((second / "step.json").read_text())["identity"]["counts"]["read"] == 5


def test_no_photo_at_all_is_no_output(tmp_path: Path) -> None:
    private(tmp_path)
    source, out, sealed, key = keep(tmp_path), tmp_path / "out", tmp_path / "sealed", tmp_path / "key"
    assert run("key", key).code == 0
    line = ("scrub", source / "set.json", "--images", source, "-o", out)
    for more in ((), ("--sealed", sealed, "--key", key)):
        done = run(*line, *more)
        assert done.code == 3 and "in/b.png: missing" in done.err and "--images" in done.err
        kit.nothing_at(out)
        kit.nothing_at(sealed)
    done = run("export", source / "set.json", "--images", source, "--format", "webdataset", "-o", out)
    assert done.code == 3 and "a.jpg" in done.err
    kit.nothing_at(out)
    assert run("scrub", source / "set.json", "--images", tmp_path / "none", "-o", out).code == 10
