"""Streams beside made sets: the same labels as the files, and an epoch that goes on where a run was stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from curate.make_request import MakeRequest, resolve
from curate.sinks import read_grey
from headwater.errors import UsageError
from tests.curate.made_kit import make, tar_pictures
from tests.train.test_synthetic import SMALL, small
from train.synthetic import PicturesMap, PicturesStream


@pytest.mark.parametrize("batch", [None, 4])
def test_a_stopped_epoch_goes_on_after_what_was_taken(batch: int | None) -> None:
    options: dict[str, Any] = {"batch_size": batch, "fresh": True, "rank": 1, "ranks": 2}
    stream = PicturesStream(small(), **options)
    stream.set_epoch(2)
    items = [(p.numpy().tobytes(), torch.as_tensor(labels).tolist()) for p, labels in stream]
    resumed = PicturesStream(small(), **options)
    for skip in (0, 3, len(items)):
        resumed.set_epoch(2, skip)
        for workers in (0, 2):
            loader = DataLoader(resumed, batch_size=None, num_workers=workers)
            left = [(p.numpy().tobytes(), torch.as_tensor(labels).tolist()) for p, labels in loader]
            assert left == items[skip:]
    resumed.set_epoch(2)
    assert len(list(resumed)) == len(items)
    with pytest.raises(UsageError, match=f"skip {len(items) + 1}: must be"):
        resumed.set_epoch(2, len(items) + 1)


def test_labels_are_those_of_the_files(tmp_path: Path) -> None:
    """Of a set that starts with class 1,000: loose files, tar, Parquet, map and stream agree on the class of every picture."""
    asked = MakeRequest(
        "visualatom", parameters=SMALL, classes=4, instances=3, start_class=1000, order="instance"
    )
    for sink in ("folder", "tar", "parquet"):
        make(tmp_path / sink, asked, sink=sink)
    generation = resolve(asked)
    numbered = PicturesMap(generation)
    wanted = {numbered[n][0].numpy().tobytes(): int(numbered[n][1]) for n in range(len(numbered))}
    assert sorted(set(wanted.values())) == [1000, 1001, 1002, 1003]
    assert generation.first_category == 1000
    streamed = PicturesStream(generation, batch_size=5)
    found = {
        p.numpy().tobytes(): int(k)
        for pictures, labels in streamed
        for p, k in zip(pictures, labels, strict=True)
    }
    assert found == wanted
    assert {pixels.tobytes(): label for pixels, label in tar_pictures(tmp_path / "tar").values()} == wanted
    rows = pq.read_table(tmp_path / "parquet/00000000.parquet").to_pylist()
    assert {read_grey(row["image"]["bytes"]).tobytes(): row["label"] for row in rows} == wanted
    folder = ImageFolder(str(tmp_path / "folder/image"))
    loose = {np.asarray(picture.convert("L")).tobytes(): int(folder.classes[k]) for picture, k in folder}
    assert loose == wanted
