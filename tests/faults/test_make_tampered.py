"""Generated pictures that were changed: their bytes, and their bytes together with every record of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.faults import kit
from tests.faults.make_kit import copy, inverted, line, made, rewrite_records, rewrite_tar


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sets")
    return {sink: made(folder / sink, sink=sink) for sink in ("tar", "folder", "parquet", "recipe")}


def verify(output: Path, *more: object) -> kit.Done:
    return kit.run("verify", output, *more)


def rerun(output: Path, *more: object) -> kit.Done:
    # the generator is a file, so it has to be named again
    from headwater.plugins import add_file
    from tests.faults.make_kit import DOTS

    add_file("generators", DOTS)
    return kit.run("verify", output, "--rerun", "make", *more)


@pytest.mark.parametrize("sink", ["tar", "folder", "parquet", "recipe"])
def test_a_good_set_is_found_good(sets: dict[str, Path], sink: str) -> None:
    done = rerun(sets[sink])
    assert done.code == 0 and "24 of 24 pictures made again, all equal" in done.out
    done = rerun(sets[sink], "--sample", 0.2, "--seed", 5)
    whole_blocks = sink == "recipe"
    assert done.code == 0 and f"{6 if whole_blocks else 5} of 24 pictures made again" in done.out


def test_a_changed_byte_is_found_by_the_digests(sets: dict[str, Path], tmp_path: Path) -> None:
    out = copy(sets["tar"], tmp_path / "out")
    data = bytearray((out / "00000001.tar").read_bytes())
    data[600] ^= 255
    (out / "00000001.tar").write_bytes(data)
    done = verify(out)
    assert done.code == 13 and "00000001.tar: sha256 is" in done.err
    again = kit.run(*line(out))
    assert again.code == 0 or (again.code == 13 and "--force makes it again" in again.err)


def test_a_missing_and_a_strange_shard(sets: dict[str, Path], tmp_path: Path) -> None:
    out = copy(sets["tar"], tmp_path / "out")
    (out / "00000002.tar").rename(out / "00000009.tar")
    done = verify(out)
    assert done.code == 13 and "00000002.tar: missing" in done.err and "00000009.tar: not named" in done.err
    again = kit.run(*line(out))
    assert again.code == 13 and "its bytes are not those its record names" in again.err
    assert kit.run(*line(out, "--force")).code == 0
    (out / "00000009.tar").exists()
    assert rerun(out).code == 0


def one(key: str) -> str:
    return f"picture {key}: other pixels than those drawn"


def test_a_picture_changed_with_its_records_is_found_by_a_rerun(
    sets: dict[str, Path], tmp_path: Path
) -> None:
    out = copy(sets["tar"], tmp_path / "out")
    rewrite_tar(out / "00000001.tar", lambda name, data: inverted(data) if name == "00002_0002.png" else data)
    rewrite_records(out)
    assert verify(out).code == 0
    done = rerun(out)
    assert done.code == 13 and f"00000001.tar: {one('00002_0002')}" in done.err and "1 difference" in done.err


def test_the_digest_of_the_recipe_may_be_changed_as_well(sets: dict[str, Path], tmp_path: Path) -> None:
    out = copy(sets["recipe"], tmp_path / "out")
    blocks = json.loads((out / "recipe.json").read_text())["blocks"]
    blocks[3]["pixels"] = "cd" * 32
    rewrite_records(out, blocks=blocks)
    assert verify(out).code == 0
    done = rerun(out)
    assert done.code == 13 and "block 00000003: what is drawn has not the pixels" in done.err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda name, data: b"3" if name == "00001_0000.cls" else data, "its class is 3, drawn is 1"),
        (lambda name, data: b"x" if name == "00001_0000.cls" else data, "its class is -1"),
        (lambda name, data: None if name == "00001_0000.cls" else data, "has not the members of its pictures"),
        (lambda name, data: b"not a PNG" if name == "00001_0000.png" else data, "not a PNG picture"),
        (lambda name, data: data[:16] + b"\x7f\xff\xff\xff" * 2 + data[24:] if name == "00001_0000.png" else data, "not a picture of 16 x 16"),
        (lambda name, data: data[:40] if name == "00001_0000.png" else data, "cannot be decoded"),
        (lambda name, data: data + bytes(1 << 20) if name == "00001_0000.png" else data, "no file of a picture"),
    ],
)  # fmt: skip
def test_other_lies_of_a_tar(sets: dict[str, Path], tmp_path: Path, change: object, said: str) -> None:
    out = copy(sets["tar"], tmp_path / "out")
    rewrite_tar(out / "00000000.tar", change)  # type: ignore[arg-type]
    rewrite_records(out)
    assert verify(out).code == 0
    done = rerun(out)
    assert done.code == 13 and said in done.err


def test_loose_files_and_rows(sets: dict[str, Path], tmp_path: Path) -> None:
    out = copy(sets["folder"], tmp_path / "out")
    path = out / "image/00003/00003_0005.png"
    path.write_bytes(inverted(path.read_bytes()))
    rewrite_records(out)
    done = rerun(out)
    assert verify(out).code == 0 and done.code == 13 and one("00003_0005") in done.err
    out = copy(sets["parquet"], tmp_path / "rows")
    path = out / "00000000.parquet"
    table = pq.read_table(path)
    images = table.column("image").to_pylist()
    images[4]["bytes"] = inverted(images[4]["bytes"])
    index = table.column_names.index("image")
    pq.write_table(table.set_column(index, "image", pa.array(images, table.schema.field("image").type)), path)
    rewrite_records(out)
    done = rerun(out)
    assert verify(out).code == 0 and done.code == 13 and one("00000_0001") in done.err
    path.write_bytes(b"PAR1")
    rewrite_records(out)
    assert "00000000.parquet" in rerun(out).err


def test_a_category_table_of_others(sets: dict[str, Path], tmp_path: Path) -> None:
    out = copy(sets["recipe"], tmp_path / "out")
    table = pq.read_table(out / "param/categories.parquet")
    dots = np.array(table.column("dots"), np.int32) + 1
    pq.write_table(table.set_column(1, "dots", pa.array(dots)), out / "param/categories.parquet")
    rewrite_records(out)
    done = rerun(out)
    assert done.code == 13 and "param/categories.parquet: other categories than those drawn" in done.err


def test_a_record_of_another_set(sets: dict[str, Path], tmp_path: Path) -> None:
    out = copy(sets["recipe"], tmp_path / "out")
    rewrite_records(out, seed=7)
    done = rerun(out)
    assert done.code == 13 and "the record says otherwise: --seed is 0 there, 7 here" in done.err


def test_a_fetched_set_without_a_record_is_drawn_again(sets: dict[str, Path], tmp_path: Path) -> None:
    from curate.reruns.make import rerun as again
    from headwater.executor import Executor
    from headwater.plugins import add_file
    from tests.faults.make_kit import DOTS

    add_file("generators", DOTS)
    for sink in ("tar", "folder", "parquet", "recipe"):
        out = copy(sets[sink], tmp_path / sink)
        (out / "step.json").unlink()
        found = again(out, None, sample=None, seed=0, executor=Executor("serial"))
        assert (found.checked, found.problems) == (24, [])
