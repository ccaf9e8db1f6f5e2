"""The page about a polygon dataset, and its plots."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from curate import _stats_svg as svg
from curate._report_polygons import build_polygons_report, is_polygons
from curate.polygons.store import digest, open_annotations, pixel_digest, write_store
from headwater.errors import MissingInput, UsageError
from headwater.manifest import Counts
from headwater.steps import Plan, RunOptions, Work, read_record, run_step
from tests.curate.polygons.stats_kit import dataset, image, polygon, run_lengths, write
from tests.curate.report_kit import HOSTILE, assert_harmless

BOX = [(20, 20), (60, 20), (60, 60), (20, 60)]
POINT = {"type": "Point", "coordinates": [-73.9125, 42.6625]}


def files(folder: Path, count: int = 4) -> Path:
    """A kwcoco file beside its images, with times and places."""
    folder.mkdir(exist_ok=True)
    pictures = []
    for n in range(1, count + 1):
        Image.fromarray(np.full((80, 100, 3), 40 * n, np.uint8)).save(folder / f"{n}.png")
        pictures.append(image(n, datetime=f"2024-0{n}-05T1{n}:30:00-05:00", geos_point=POINT))
    drawn = [
        polygon(n, n, BOX, area=1600.0, bbox=[20, 20, 40, 40], source="person: A") for n in range(1, count)
    ]
    runs = run_lengths(100, 80, (10, 20), (30, 60))
    drawn.append({"id": 99, "image_id": 1, "category_id": 2, "segmentation": runs, "source": "a model"})
    return write(folder / "data.json", pictures, drawn, [{"id": 1, "name": "fig"}, {"id": 2, "name": "date"}])


def page(path: Path, **options: Any) -> tuple[str, dict[str, Any]]:
    output = path.parent / "page.html"
    facts = build_polygons_report(path, output, **options)
    return output.read_text("utf-8"), facts


def test_the_page_says_what_the_dataset_says(tmp_path: Path) -> None:
    path = files(tmp_path / "in")
    text, facts = page(path)
    seen = assert_harmless(text)
    plain = seen.plain
    annotations = open_annotations(path)
    assert "4 images with 4 annotations of 2 categories" in plain
    assert digest(annotations) in plain
    assert pixel_digest(path.parent, annotations) in plain
    assert "person: A 3 75.0%" in plain
    assert "a model 1 25.0%" in plain
    assert "4 of 4 images say when they were taken" in plain
    assert "4 by day, 0 by twilight, 0 by night" in plain
    assert "area-missing" in plain  # of the mask
    assert facts["findings"]["error"] >= 1
    assert f"{facts['findings']['error']} error" in plain
    assert facts["pictures"] == 4
    assert facts["troubles"] == facts["notes"] == []
    photos = [a for tag, a in seen.found if tag == "img" and (a["src"] or "").startswith("data:image/jpeg")]
    assert len(photos) == 4


def test_the_page_is_the_same_each_time(tmp_path: Path) -> None:
    path = files(tmp_path / "in")
    assert page(path)[0] == page(path)[0]
    assert page(path)[0] != page(path, thumbnails=1)[0]


def test_a_store_with_its_record(tmp_path: Path) -> None:
    source = files(tmp_path / "images")
    annotations = open_annotations(source)
    store = tmp_path / "store"

    def work(job: Work) -> Counts:
        write_store(annotations, job.stage)
        return Counts(unit="annotations", read=4, kept=4)

    plan = Plan("polygons-import", 1, {"format": "kwcoco"}, [], store, "folder")
    run_step(plan, work, RunOptions(command=("headwater", "polygons", "import", "images", "-o", "store")))
    assert is_polygons(store)
    assert not is_polygons(tmp_path / "images")
    text, facts = page(store)
    plain = assert_harmless(text).plain
    record = read_record(store)
    assert record is not None
    for told in (
        record.id,
        record.key,
        "headwater polygons import images -o store",
        "headwater verify store",
    ):
        assert told in plain
    for entry in record.identity.outputs:
        assert entry.sha256 in plain
    assert "not known" in plain or "J" in plain
    assert facts["notes"] == []  # the images were found beside the store


def test_without_images_places_or_pictures(tmp_path: Path) -> None:
    path = files(tmp_path / "in")
    shutil.move(path, tmp_path / "data.json")
    for file in (tmp_path / "in").iterdir():
        file.rename(tmp_path / f"moved-{file.name}")
    text, facts = page(tmp_path / "data.json", places=False)
    plain = assert_harmless(text).plain
    assert "image files are not at hand" in plain
    assert "not computed" in plain
    assert "latitude" not in text
    assert facts["notes"]
    assert page(tmp_path / "data.json", thumbnails=0)[1]["pictures"] == 0
    assert "latitude" in page(tmp_path / "data.json")[0]


def test_an_image_that_is_gone_is_told(tmp_path: Path) -> None:
    path = files(tmp_path / "in")
    (path.parent / "2.png").unlink()
    text, facts = page(path, images=path.parent)
    assert facts["troubles"] == [["2.png", "no such file"]]
    plain = assert_harmless(text).plain
    assert "no such file" in plain
    assert "not computed" in plain


def test_hostile_text_does_no_harm(tmp_path: Path) -> None:
    texts = [text[:3000] for text in HOSTILE if text]
    pictures = [{**image(n), "file_name": text, "datetime": text} for n, text in enumerate(texts, 1)]
    drawn = [polygon(n, n, BOX, category=n, source=text, **{text: text}) for n, text in enumerate(texts, 1)]
    named = [{"id": n, "name": text} for n, text in enumerate(texts, 1)]
    path = write(tmp_path / "data.json", pictures, drawn, named)
    text, _ = page(path, title=HOSTILE[1])
    seen = assert_harmless(text)
    assert "\u202e" not in text
    assert "\0" not in text
    assert "<script>alert" in seen.plain  # as text


@pytest.mark.parametrize("images", [[], [image(1)], [{"id": 1, "file_name": "x"}]])
def test_datasets_without_annotations_or_sizes(tmp_path: Path, images: Any) -> None:
    text, facts = page(write(tmp_path / "data.json", images, [], []))
    assert_harmless(text)
    assert facts["rows_looked_at"] == 0


def test_shapes_of_one_point_or_none(tmp_path: Path) -> None:
    flat = [polygon(1, 1, [(5, 5)] * 3), polygon(2, 1, [(5, 5), (9, 5)]), {"id": 3, "image_id": 1}]
    flat.append(polygon(4, 1, BOX))
    text, _ = page(write(tmp_path / "data.json", [image(1)], flat))
    assert "of area 0 are not drawn" in assert_harmless(text).plain


def test_what_makes_no_page(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--thumbnails"):
        page(files(tmp_path / "in"), thumbnails=-1)
    with pytest.raises(MissingInput):
        page(tmp_path / "nothing.json")


# plots


@pytest.mark.parametrize(
    ("scale", "ticks"),
    [
        (svg.Scale(0, 100), [0, 20, 40, 60, 80, 100]),
        (svg.Scale(0, 1), [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (svg.Scale(5, 300, True), [5, 10, 20, 50, 100, 200]),
        (svg.Scale(0.5, 2e6, True), [1, 100, 10_000, 1_000_000]),
        (svg.Scale(800, 850, True), [800, 810, 820, 830, 840, 850]),
        (svg.Scale(-10, -9), [-10, -9.8, -9.6, -9.4, -9.2, -9]),
    ],
)
def test_ticks(scale: svg.Scale, ticks: list[float]) -> None:
    found = scale.ticks()
    assert found == pytest.approx(ticks)
    assert all(0 - 1e-6 <= share <= 1 + 1e-6 for share in scale.at(np.array(found)))


def test_scales_lead_back() -> None:
    for scale in (svg.Scale(3, 500, True), svg.Scale(-4, 12)):
        for share in (0.0, 0.3, 1.0):
            assert float(scale.at(np.array(scale.value(share)))) == pytest.approx(share)


def test_plots_of_nothing_are_empty() -> None:
    nothing = np.array([np.nan, 0.0, -1.0])
    assert svg.log_histogram("x", nothing, "rows") == ""
    assert (
        svg.heat(nothing, nothing, svg.log_scale(nothing), svg.log_scale(nothing), ("x", "y", "rows")) == ""
    )
    assert svg.columns([], [], [], ("images", "annotated")) == ""
    assert svg.linear_scale(np.array([np.nan])) is None


def test_a_log_histogram_counts_all_that_is_positive() -> None:
    drawn = svg.log_histogram(
        "area", np.array([1.0, 10.0, 10.0, 1000.0, 0.0, np.inf, np.nan]), "things", [(100.0, "a & b")]
    )
    assert "4 things" in drawn
    assert drawn.count("<title>") == 3
    assert ": 2 things" in drawn
    assert "a &amp; b" in drawn


def test_one_value_has_a_scale() -> None:
    for values in (np.array([7.0]), np.array([0.0])):
        scale = svg.linear_scale(values)
        assert scale is not None
        assert scale.low < values[0] < scale.high
    assert svg.log_histogram("x", np.array([7.0]), "rows")


def test_places_and_clock_hold_dots_once() -> None:
    here = np.array([42.0, 42.0, 43.0])
    assert svg.places(here, np.array([-73.0, -73.0, -74.0])).count("h0") == 2
    assert svg.places(np.array([90.0]), np.array([180.0]))
    drawn = svg.clock(np.array([10.0, 10.0]), np.array([12.0, 12.0]), ["day", "night"])
    assert drawn.count("h0") == 2
    assert 'class="dots day"' in drawn


def test_dataset_kit_reads_what_it_writes() -> None:
    assert len(dataset([image(1)], [polygon(1, 1, BOX)]).vertices) == 4
