"""Every golden picture of the released VisualAtom script: pixels, parameters, centres and names of our reference stream."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curate.generators._script import ScriptStream
from curate.generators.visualatom import PRESETS, Config
from tests.bench import synth_plain

RUNS = (
    "launcher_c6_i4_p2_s512",
    "defaults_c3_i2_p1_s512",
    "launcher_c2_i2_p1_s512",
    "launcher_c2_i2_p1_s512_start5",
)
COLUMNS = {
    "V": "vertex_num", "K": "line_num", "p": "perlin", "w": "line_width", "R": "radius", "n1": "nami_1", "n2": "nami_2",
    "ox": "oval_x", "oy": "oval_y", "centre_h": "centre_h", "centre_w": "centre_w",
}  # fmt: skip


@pytest.fixture(scope="module")
def atoms(golden: Path) -> Path:
    return golden.parent / "visualatom"


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def config_of(row: dict[str, str]) -> Config:
    preset = PRESETS[{"launcher": "launcher-1k", "defaults": "script-1k"}[row["preset"]]]
    values = {name: value for name, value in preset.items() if name not in ("classes", "instances")}
    return Config(**values, image_size=int(row["image_size"]))


def streams(images: list[dict[str, str]]) -> Iterator[tuple[ScriptStream, list[dict[str, str]]]]:
    """Each process of a golden run, with its pictures."""
    first = images[0]
    for index in range(int(first["processes"])):
        stream = ScriptStream(
            config_of(first),
            classes=int(first["classes"]),
            instances=int(first["instances"]),
            processes=int(first["processes"]),
            index=index,
            start_class=int(first["start_class"]),
        )
        yield stream, [row for row in images if int(row["process_index"]) == index]


@pytest.mark.parametrize("run", RUNS)
def test_pictures_names_and_centres(run: str, atoms: Path) -> None:
    known = np.load(atoms / "pictures.npz", allow_pickle=False)
    compared = whole = 0
    images = rows(atoms / f"{run}.images.csv")
    for stream, expected in streams(images):
        assert stream.pictures == len(expected)
        for (record, label, instance, pixels), row in zip(
            stream.block(0, stream.pictures), expected, strict=True
        ):
            assert label == record["label"] == int(row["category_index"]) and instance == int(
                row["instance_index"]
            )
            assert stream.name(record, instance) == row["file_name"]
            assert hashlib.sha256(pixels.tobytes()).hexdigest() == row["sha256_grey"]
            compared += 1
            key = f"{run}__{label:05d}_{instance:04d}"
            if key in known.files:
                assert (known[key] == pixels).all()
                whole += 1
    assert compared == len(images) > 0
    assert whole == sum(key.startswith(run + "__") for key in known.files)


@pytest.mark.parametrize("run", RUNS)
def test_parameters(run: str, atoms: Path) -> None:
    expected = rows(atoms / f"{run}.params.csv")
    found: list[dict[str, Any]] = []
    for stream, _ in streams(rows(atoms / f"{run}.images.csv")):
        found += stream.categories()
    assert [r["label"] for r in found] == [int(row["category_index"]) for row in expected]
    for record, row in zip(found, expected, strict=True):
        assert {c: repr(record[name]) for c, name in COLUMNS.items()} == {c: row[c] for c in COLUMNS}


def test_noise_samples(atoms: Path) -> None:
    from curate.generators._gradient import CELLS, gradient_noise

    samples = [(float(row["x"]), float(row["pnoise1"])) for row in rows(atoms / "noise_samples.csv")]
    inside = [(x, y) for x, y in samples if x >= 0]
    assert len(inside) > 1900
    values = np.array([x for x, _ in inside], np.float32)
    gradient_noise(values, CELLS, np.empty(len(values), np.int32))
    assert [float(v) for v in values] == [y for _, y in inside]
    plain = synth_plain.compiled_noise()
    assert [plain(x) for x, _ in samples] == [y for _, y in samples]


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS[:2])
def test_the_plain_statement_draws_the_same(run: str, atoms: Path) -> None:
    images = rows(atoms / f"{run}.images.csv")
    noise = synth_plain.noise_function()[1]
    for stream, expected in streams(images):
        drawn = synth_plain.pictures(
            stream.config, int(images[0]["classes"]), stream.instances, stream.processes, stream.index, noise
        )
        for (number, instance, category, image), row in zip(drawn, expected, strict=True):
            assert (number, instance) == (int(row["category_index"]), int(row["instance_index"]))
            assert (
                f"{number:05d}/vertex_{category.vertices:04d}_instance_{instance:04d}.png" == row["file_name"]
            )
            grey = np.asarray(image)
            assert (grey == grey[..., :1]).all()
            assert hashlib.sha256(grey[..., 0].tobytes()).hexdigest() == row["sha256_grey"]
