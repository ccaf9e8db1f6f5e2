"""Scoring predictions against a polygon dataset: the numbers by their definitions, and what is refused."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner
from PIL import Image

from curate.polygons.coco import read_coco
from curate.polygons.raster import RULES as raster_rules
from curate.polygons.raster import raster
from curate.polygons.store import digest, pixel_digest, write_store
from headwater.errors import BadInputs, IntegrityError, MissingExtra, MissingInput, UsageError
from headwater.options import run_command
from headwater.steps import RunOptions, read_record
from headwater.verify import verify_path
from train import commands_polygons_score
from train.commands_polygons_score import score as command
from train.polygon_metrics import Asked, open_sources, run_score, score

pytest.importorskip("numba")
QUICK = {"replicates": 0, "objects": False}


def runs(mask: npt.NDArray[Any]) -> dict[str, Any]:
    """COCO's uncompressed run lengths."""
    flat = mask.astype(bool).T.reshape(-1)
    counts, value = [], False
    while len(flat):
        same = int(np.argmax(flat != value)) if (flat != value).any() else len(flat)
        counts.append(same)
        flat, value = flat[same:], not value
    return {"size": list(mask.shape), "counts": counts}


def square(x: float, y: float, side: float) -> list[list[float]]:
    return [[x, y, x + side, y, x + side, y + side, x, y + side]]


def image(number: int, width: int = 40, height: int = 25, **more: Any) -> dict[str, Any]:
    return {"id": number, "file_name": f"{number}.jpg", "width": width, "height": height, **more}


def thing(number: int, picture: int, shape: Any, category: int = 1, **more: Any) -> dict[str, Any]:
    return {
        "id": number,
        "image_id": picture,
        "category_id": category,
        "bbox": [0, 0, 1, 1],
        "area": 1,
        "iscrowd": 0,
        "segmentation": shape,
    } | more


def dataset(path: Path, images: list[Any], annotations: list[Any], **more: Any) -> Path:
    names = [{"id": 1, "name": "poop"}, {"id": 2, "name": "leaf"}]
    document = {"images": images, "annotations": annotations, "categories": names, **more}
    path.write_text(json.dumps(document))
    return path


def results(path: Path, found: list[Any]) -> Path:
    path.write_text(json.dumps(found))
    return path


def detection(picture: int, shape: Any, value: float, category: int = 1, **more: Any) -> dict[str, Any]:
    return {"image_id": picture, "category_id": category, "segmentation": shape, "score": value, **more}


def two_images(folder: Path) -> tuple[Path, Path]:
    """10 true pixels, 4 found with 1 false, and 3 false ones in a second image: 2,000 pixels."""
    true, one, two = (np.zeros((25, 40), dtype=bool) for _ in range(3))
    true[3, :10] = one[3, :4] = one[10, 10] = two[5, 5:8] = True
    truth = dataset(folder / "truth.json", [image(1), image(2)], [thing(1, 1, runs(true))])
    found = results(folder / "found.json", [detection(1, runs(one), 0.9), detection(2, runs(two), 0.5)])
    return found, truth


def scored(found: Path | None, truth: Path, *, heatmaps: Path | None = None, **asked: Any) -> dict[str, Any]:
    how = Asked(**{**QUICK, **asked})
    return score(open_sources(found, truth, how, heatmaps=heatmaps), how)


@pytest.mark.parametrize("exact", [False, True])
def test_two_images_exact_and_as_kwcoco_says(tmp_path: Path, exact: bool) -> None:
    result = scored(*two_images(tmp_path), exact=exact, compat=True)
    pixel, told = result["pixel"], result["compat"]["kwcoco"]
    ap = 0.4 * 4 / 5 + 0.6 * 10 / 2000  # thresholds 0.9 (4 of 5), 0.5 (none more), 0 (all)
    assert pixel["ap"] == pytest.approx(ap, abs=1e-15) and round(pixel["ap"], 3) == 0.323
    assert (pixel["tpr"], pixel["precision"], round(pixel["f1"], 2)) == (0.4, 0.8, 0.53)
    assert told["ap"] == pytest.approx(0.8, abs=1e-15) and told["tpr"] == 1.0 and told["lost"] == 6
    assert told["auc"] == pytest.approx(pixel["auc"], abs=1e-15)
    assert (result["rule"], told["rule"]) == ("coco", "kwimage")
    assert result["grid"] == ("exact" if exact else "bins:4096")
    if exact:
        assert pixel["ap_low"] == pixel["ap"] == pixel["ap_high"]
    else:
        assert pixel["ap_low"] <= pixel["ap"] <= pixel["ap_high"]


def test_heatmaps_give_what_detections_painted_give(tmp_path: Path) -> None:
    found, truth = two_images(tmp_path)
    maps = tmp_path / "maps"
    maps.mkdir()
    for number, at, value in ((1, [(3, slice(0, 4)), (10, 10)], 0.9), (2, [(5, slice(5, 8))], 0.5)):
        heat = np.zeros((25, 40))
        for place in at:
            heat[place] = value
        np.save(maps / f"{number}.npy", heat)
    mine, theirs = scored(found, truth), scored(None, truth, heatmaps=maps)
    assert theirs["pixel"] == mine["pixel"] and theirs["objects"] is None
    both = scored(found, truth, heatmaps=maps, objects=True)
    assert both["pixel"] == mine["pixel"] and both["objects"]["mask"]
    (maps / "2.npy").unlink()
    Image.fromarray((np.load(maps / "1.npy") * 0).astype(np.uint8)).save(maps / "2.png")
    mixed = scored(None, truth, heatmaps=maps)["pixel"]
    assert mixed["ap"] == pytest.approx(0.4 * 4 / 5 + 0.6 * 10 / 2000) and mixed["ap_balanced"] is None


def test_a_later_detection_of_higher_score_lies_above(tmp_path: Path) -> None:
    truth = dataset(tmp_path / "t.json", [image(1)], [thing(1, 1, square(0, 0, 10))])
    found = [detection(1, square(0, 0, 10), 0.75), detection(1, square(5, 0, 10), 0.25)]
    for order in (found, found[::-1]):
        pixel = scored(results(tmp_path / "f.json", order), truth, exact=True)["pixel"]
        # 100 true pixels at 0.75, then 50 false ones at 0.25, the rest at 0
        assert pixel["ap"] == 1.0 and pixel["threshold"] == 0.75
        assert pixel["auc"] == 1.0


@pytest.mark.parametrize("rule", ["coco", "opencv", "kwimage", "centre"])
def test_truth_and_detections_are_filled_by_the_rule_that_is_named(tmp_path: Path, rule: str) -> None:
    truth = dataset(tmp_path / "t.json", [image(1)], [thing(1, 1, square(2.5, 3.5, 8))])
    found = results(tmp_path / "f.json", [detection(1, square(4, 3, 9), 0.5)])
    result = scored(found, truth, rule=rule, exact=True)
    shapes = [np.array(square(*at)).reshape(-1, 2) for at in ((2.5, 3.5, 8), (4, 3, 9))]
    true, other = (raster(shape, np.array([0, 4]), 25, 40, rule).full() for shape in shapes)
    hit, area = int((true & other).sum()), int(true.sum())
    ap = hit / area * hit / other.sum() + (area - hit) / area * area / 1000
    assert result["pixel"]["ap"] == pytest.approx(ap, abs=1e-15)
    assert result["rule"] == result["pixel"]["rule"] == rule and result["pixel"]["positives"] == area


def test_boxes_stand_for_detections_without_masks(tmp_path: Path) -> None:
    truth = dataset(tmp_path / "t.json", [image(1)], [thing(1, 1, square(2, 3, 8), bbox=[2, 3, 8, 8])])
    box = {"image_id": 1, "category_id": 1, "bbox": [2, 3, 8, 8], "score": 0.5}
    result = scored(results(tmp_path / "f.json", [box]), truth, objects=True)
    assert result["pixel"]["ap"] == 1.0 and result["objects"]["box"]["ap"] == pytest.approx(1.0)
    assert result["objects"]["mask"] is None


def test_coco_figures_of_boxes_and_masks(tmp_path: Path) -> None:
    """Three objects; two found, one of them with a mask that overlaps by 0.6, and a false one between: by COCO's definition."""
    things = [
        thing(0, 1, square(0, 0, 10), bbox=[0, 0, 10, 10], area=100),
        thing(7, 1, square(20, 0, 10), bbox=[20, 0, 10, 10], area=100),
        thing(8, 0, square(0, 0, 10), bbox=[0, 0, 10, 10], area=100),
    ]
    truth = dataset(tmp_path / "t.json", [image(0), image(1)], things)
    part = [[20, 0, 26, 0, 26, 10, 20, 10]]
    found = [
        detection(1, square(0, 0, 10), 0.9, bbox=[0, 0, 10, 10]),
        detection(0, square(30, 10, 5), 0.8, bbox=[30, 10, 5, 5]),
        detection(1, part, 0.7, bbox=[20, 0, 10, 10]),
    ]
    told = scored(results(tmp_path / "f.json", found), truth, objects=True)["objects"]
    # recall 1/3 at precision 1, 2/3 at precision 2/3; of 101 recalls 34 are up to 1/3 and 67 up to 2/3
    both, one = (34 + 33 * 2 / 3) / 101, 34 / 101
    assert told["box"]["ap50"] == pytest.approx(both) and told["box"]["ap75"] == pytest.approx(both)
    assert told["mask"]["ap50"] == pytest.approx(both) and told["mask"]["ap75"] == pytest.approx(one)
    assert told["box"]["ap_small"] == pytest.approx(both) and told["box"]["ap_large"] is None
    assert (told["detections"], told["objects"], told["max_detections"]) == (3, 3, 100)
    nothing = scored(results(tmp_path / "n.json", []), truth, objects=True)
    assert nothing["objects"]["box"]["ap"] == 0.0 and nothing["objects"]["mask"]["ap"] == 0.0
    assert nothing["pixel"]["ap"] == pytest.approx(300 / 2000)


def test_sizes_crowds_and_categories(tmp_path: Path) -> None:
    things = [
        thing(1, 1, square(0, 0, 10)),
        thing(2, 1, square(40, 0, 40)),
        thing(3, 1, square(100, 0, 20), category=2),
        thing(4, 1, square(130, 0, 20), iscrowd=1),
    ]
    truth = dataset(tmp_path / "t.json", [image(1, 200, 100)], things)
    found = results(tmp_path / "f.json", [detection(1, square(0, 0, 10), 0.5)])
    pixel = scored(found, truth)["pixel"]
    assert (pixel["positives"], pixel["void"]) == (100 + 1600 + 400, 400)
    assert [pixel["strata"][name]["positives"] for name in ("small", "medium", "large")] == [500, 1600, 0]
    assert pixel["strata"]["large"]["ap"] is None
    pixel = scored(found, truth, ignored=("leaf",))["pixel"]
    assert (pixel["positives"], pixel["void"]) == (1700, 800)
    result = scored(found, truth, counted=("poop",))
    assert (result["pixel"]["positives"], result["pixel"]["void"]) == (1700, 400)  # leaves are background
    assert result["categories"] == {"counted": ["poop"], "ignored": []}
    leaves = results(tmp_path / "l.json", [detection(1, square(0, 0, 10), 0.5, category=2)])
    assert scored(leaves, truth, counted=("poop",))["pixel"]["precision"] < 0.2  # not painted
    for wrong in ({"counted": ("pop",)}, {"counted": ("leaf",), "ignored": ("leaf",)}):
        with pytest.raises(UsageError):
            scored(found, truth, **wrong)


def test_a_threshold_from_elsewhere(tmp_path: Path) -> None:
    found, truth = two_images(tmp_path)
    told = scored(found, truth, threshold=0.5)["pixel"]["at"]
    assert (told["tp"], told["fp"], told["fn"]) == (4, 4, 6)
    assert scored(found, truth, threshold=0.7, exact=True)["pixel"]["at"]["fp"] == 1
    with pytest.raises(UsageError, match="0.7"):
        scored(found, truth, threshold=0.7)


def test_intervals_over_images_and_groups(tmp_path: Path) -> None:
    images = [image(number, place="a" if number < 4 else "b") for number in range(1, 7)]
    things = [thing(number, number, square(0, 0, 4 + number)) for number in range(1, 7)]
    truth = dataset(tmp_path / "t.json", images, things)
    found = results(
        tmp_path / "f.json", [detection(number, square(1, 0, 9), 0.1 * number) for number in range(1, 7)]
    )
    told = scored(found, truth, replicates=200)["pixel"]
    one = told["intervals"]["ap"]
    assert one["low"] < told["ap"] < one["high"] and told["intervals"]["over"] == "images"
    grouped = scored(found, truth, replicates=200, group_by="place")["pixel"]["intervals"]
    assert grouped["over"] == "place" and grouped["ap"] != one
    assert scored(found, truth, replicates=200)["pixel"] == told
    with pytest.raises(UsageError, match="no image"):
        scored(found, truth, replicates=10, group_by="plaec")


def test_another_truth_than_named_is_refused(tmp_path: Path) -> None:
    found, truth = two_images(tmp_path)
    name = digest(read_coco(truth))
    for good in (name, name[:8], name[:8].upper()):
        assert open_sources(found, truth, Asked(), truth_digest=good).facts["manifest_digest"] == name
    with pytest.raises(IntegrityError, match="not the dataset"):
        open_sources(found, truth, Asked(), truth_digest="0123456789")
    for bad in ("123", "xyzxyzxyz", "0" * 65):
        with pytest.raises(UsageError, match="truth-digest"):
            open_sources(found, truth, Asked(), truth_digest=bad)
    right, wrong = tmp_path / f"vali_imgs2_{name[:8]}", tmp_path / "vali_imgs2_00000000"
    for folder in (right, wrong):
        write_store(read_coco(truth), folder)
    splits = [{"manifest_digest": name, "pixel_digest": "ab" * 32}]
    (tmp_path / "splits.json").write_text(json.dumps({"splits": splits}))
    facts = open_sources(found, right, Asked()).facts
    assert (facts["name"], facts["pixel_digest"]) == (right.name, "ab" * 32)
    with pytest.raises(IntegrityError, match="00000000"):
        open_sources(found, wrong, Asked())


def test_pixels_of_the_truth_are_named(tmp_path: Path) -> None:
    found, truth = two_images(tmp_path)
    for number in (1, 2):
        (tmp_path / f"{number}.jpg").write_bytes(b"%d" % number)
    facts = open_sources(found, truth, Asked(), images=tmp_path).facts
    assert facts["pixel_digest"] == pixel_digest(tmp_path, read_coco(truth))


BAD: list[tuple[dict[str, Any], str]] = [
    ({"score": None}, "number 2: has no score"),
    ({"score": 1.5}, "outside 0..1"),
    ({"score": -0.1}, "outside 0..1"),
    ({"image_id": 9}, "its image"),
    ({"category_id": 5}, "a category"),
    ({"segmentation": None}, "neither rings"),
    ({"segmentation": {"size": [3, 3], "counts": [9]}}, "run lengths of 3 x 3"),
    ({"segmentation": [[0, 0, 1e9, 0, 1, 1]]}, "farther"),
]


@pytest.mark.parametrize(("change", "message"), BAD, ids=[message for _, message in BAD])
def test_detections_that_cannot_be_scored_are_listed(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    found, truth = two_images(tmp_path)
    document = json.loads(found.read_text())
    bad = {key: value for key, value in {**document[1], **change}.items() if value is not None}
    with pytest.raises(BadInputs, match=message):
        scored(results(found, [document[0], bad]), truth)


def test_predictions_of_other_images_are_refused(tmp_path: Path) -> None:
    """A dataset as predictions lists its images: a part of the truth's, or others under the same ids, is a mistake."""
    _, truth = two_images(tmp_path)
    one = thing(1, 1, square(0, 0, 4), score=0.5)
    good = dataset(tmp_path / "good.json", [image(1), image(2)], [one])
    assert scored(good, truth)["pixel"]["images"] == 2
    part = dataset(tmp_path / "part.json", [image(1)], [one])
    with pytest.raises(BadInputs, match=r"image 2 \('2.jpg'\) of the truth is not among"):
        scored(part, truth)
    other = dataset(tmp_path / "other.json", [image(1), {**image(2), "file_name": "x.jpg"}], [one])
    with pytest.raises(BadInputs, match="image 2 is 'x.jpg'"):
        scored(other, truth)
    names = [{"id": 1, "name": "leaf"}]
    with pytest.raises(BadInputs, match="category 1 is 'leaf'"):
        scored(dataset(tmp_path / "c.json", [image(1), image(2)], [one], categories=names), truth)


def test_a_truth_that_cannot_be_filled_is_listed(tmp_path: Path) -> None:
    found, _ = two_images(tmp_path)
    things = [thing(4, 1, None), thing(5, 7, square(0, 0, 4)), thing(6, 1, square(0, 0, 4), category=9)]
    images = [image(1), image(2, width=0), image(2), image(3, width=1 << 20, height=1 << 20)]
    with pytest.raises(BadInputs) as told:
        scored(found, dataset(tmp_path / "t.json", images, things))
    for text in (
        "annotation 4",
        "annotation 5",
        "annotation 6",
        "image 2: a size",
        "another image",
        "image 3: a size",
    ):
        assert text in str(told.value)


def test_maps_that_are_none(tmp_path: Path) -> None:
    _, truth = two_images(tmp_path)
    maps = tmp_path / "maps"
    with pytest.raises(MissingInput):
        scored(None, truth, heatmaps=maps)
    maps.mkdir()
    good = np.zeros((25, 40), dtype=np.float32)
    np.save(maps / "1.npy", good)
    with pytest.raises(BadInputs, match=r"'2.jpg': no .npy or .png"):
        scored(None, truth, heatmaps=maps)
    for bad, message in (
        (good.T, "scale it"),
        (good + 2, "outside 0..1"),
        (good.astype(np.int32), "scores are"),
        (good.astype(object), "no .npy"),
    ):
        np.save(maps / "2.npy", bad, allow_pickle=True)
        with pytest.raises(BadInputs, match=message):
            scored(None, truth, heatmaps=maps)
    (maps / "2.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(BadInputs, match="no .npy"):
        scored(None, truth, heatmaps=maps)
    (maps / "2.npy").unlink()
    Image.new("RGB", (40, 25)).save(maps / "2.png")
    with pytest.raises(BadInputs, match="mode RGB"):
        scored(None, truth, heatmaps=maps)
    (maps / "2.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(30))
    with pytest.raises(BadInputs, match="no PNG"):
        scored(None, truth, heatmaps=maps)
    np.save(maps / "2.npy", good)
    with pytest.raises(BadInputs, match="two maps"):
        scored(None, truth, heatmaps=maps)


def test_a_step_with_a_record(tmp_path: Path) -> None:
    found, truth = two_images(tmp_path)
    asked = Asked(replicates=50, compat=True)
    out = tmp_path / "scores.json"
    first = run_score(open_sources(found, truth, asked), asked, out, RunOptions())
    assert not first["cached"] and first["result"]["format"] == "polygon-scores/1"
    record = read_record(out)
    assert record and {ref.role for ref in record.identity.inputs} == {"truth", "predictions"}
    verify_path(out).as_result()
    assert run_score(open_sources(found, truth, asked), asked, out, RunOptions())["cached"]
    again = run_score(open_sources(found, truth, asked), asked, tmp_path / "b.json", RunOptions())
    assert (tmp_path / "b.json").read_bytes() == out.read_bytes() and again["key"] == first["key"]
    other = Asked(replicates=50, rule="centre")
    assert run_score(open_sources(found, truth, other), other, tmp_path / "c.json", RunOptions(dry_run=True))
    assert not (tmp_path / "c.json").exists()


def test_without_the_matcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, truth = two_images(tmp_path)
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "faster_coco_eval" else real(name)
    )
    with pytest.raises(MissingExtra, match="faster-coco-eval"):
        open_sources(found, truth, Asked())


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found, truth = two_images(tmp_path)
    out = tmp_path / "out.json"
    words = [str(found), "--truth", str(truth), "-o", str(out), "--compat", "kwcoco", "--replicates", "20"]
    done = CliRunner().invoke(command, words)
    assert done.exit_code == 0, done.output
    for text in ("AP 0.3230", "as kwcoco has it", "AP 0.8000", "loses 6 missed pixels", "rule coco"):
        assert text in done.output
    assert json.loads(out.read_text())["compat"]["kwcoco"]["lost"] == 6
    assert run_command(command, [*words, "--truth-digest", "00000000"]) == 13
    assert run_command(command, ["--truth", str(truth), "-o", str(out)]) == 2
    results(found, [detection(1, square(0, 0, 4), 7)])
    assert run_command(command, words) == 3
    assert run_command(command, [*words[:-4], "-o", str(truth)]) == 2
    capsys.readouterr()
    assert commands_polygons_score.RULES == raster_rules
