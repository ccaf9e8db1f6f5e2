"""Sinks: the same bytes every time, forms that other tools read, and nothing half-written."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from curate import sinks
from curate._coco_file import write_coco
from curate._png import Encoder
from curate._sink_tar import header
from curate.generators import Picture, Thing
from curate.sinks import SINKS, BlockFacts, Layout, open_block, picture_key, read_grey
from headwater.errors import HeadwaterError, IntegrityError, UsageError

SIDE = 24


def picture(number: int, *, annotated: bool) -> Picture:
    pixels = np.random.default_rng(number).integers(0, 256, (SIDE, SIDE), np.uint8)
    if not annotated:
        return Picture(pixels)
    things, labels = [], np.zeros((SIDE, SIDE), np.uint8)
    for k in range(number % 3):  # none, one, two
        x, y, w, h = 2 + 9 * k, 3 + number, 5, 4
        mask = np.zeros((SIDE, SIDE), np.bool_)
        mask[y : y + h, x : x + w] = True
        labels[mask] = 1 + k
        outline = np.array([[x, y], [x + w, y], [x + w, y + h], [x, y + h]], np.float64)
        things.append(Thing(k, mask, [outline], (x, y, w, h), w * h + 3, {"shape": f"s{k}"}))
    return Picture(pixels, labels, things)


def write(
    folder: Path, sink: str, *, annotated: bool = False, count: int = 5, **more: Any
) -> tuple[BlockFacts, list[Picture]]:
    folder.mkdir(exist_ok=True)
    encoder = Encoder(SIDE, SIDE)
    pictures = [picture(number, annotated=annotated) for number in range(count)]
    with open_block(folder, "00000007", Layout(sink, annotated), **more) as writer:
        for number, one in enumerate(pictures):
            writer.add(picture_key(3, number), 2, 3, number, one, encoder.encode(one.pixels))
        return writer.close(), pictures


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def decoded(data: bytes) -> npt.NDArray[np.uint8]:
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == "L"
        return np.asarray(image)


@pytest.mark.parametrize("sink", SINKS)
@pytest.mark.parametrize("annotated", [False, True])
def test_facts_are_what_lies_there(tmp_path: Path, sink: str, annotated: bool) -> None:
    facts, _ = write(tmp_path / "one", sink, annotated=annotated)
    found = files(tmp_path / "one")
    assert facts.pictures == 5
    assert list(facts.files) == sorted(found)
    assert facts.bytes == sum(map(len, found.values()))
    write(tmp_path / "two", sink, annotated=annotated)
    assert files(tmp_path / "two") == found


def test_folder_names_and_pictures(tmp_path: Path) -> None:
    _, pictures = write(tmp_path / "out", "folder", annotated=True)
    found = files(tmp_path / "out")
    for number, one in enumerate(pictures):
        assert np.array_equal(decoded(found[f"image/00003/00003_000{number}.png"]), one.pixels)
        assert np.array_equal(decoded(found[f"mask/00003/00003_000{number}.png"]), one.labels)
    assert len(found) == 10


def test_folder_takes_given_paths(tmp_path: Path) -> None:
    png, one = Encoder(SIDE, SIDE).encode(picture(0, annotated=False).pixels), picture(0, annotated=False)
    name = "00012/vertex_0337_instance_0004.png"
    with open_block(tmp_path, "00000000", Layout("folder")) as writer:
        writer.add(picture_key(12, 4), 0, 12, 4, one, png, name)
        facts = writer.close()
    assert facts.files == (name,)
    assert (tmp_path / name).read_bytes() == png
    assert (tmp_path / name).stat().st_mode & 0o777 == 0o644


def test_tar_members(tmp_path: Path) -> None:
    _, pictures = write(tmp_path / "out", "tar", annotated=True)
    with tarfile.open(tmp_path / "out" / "00000007.tar") as archive:
        members = archive.getmembers()
        content = {member.name: archive.extractfile(member).read() for member in members}  # type: ignore[union-attr]
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode, m.type) for m in members} == {
        (0, 0, 0, "", "", 0o644, tarfile.REGTYPE)
    }
    assert [m.name for m in members[:4]] == [
        f"00003_0000.{end}" for end in ("png", "cls", "mask.png", "json")
    ]
    for number, one in enumerate(pictures):
        key = picture_key(3, number)
        assert np.array_equal(decoded(content[f"{key}.png"]), one.pixels)
        assert np.array_equal(decoded(content[f"{key}.mask.png"]), one.labels)
        assert content[f"{key}.cls"] == b"2"
        objects = json.loads(content[f"{key}.json"])
        assert [entry["bbox"] for entry in objects] == [list(thing.box) for thing in one.things]
    assert len(content) == 20


def test_tar_header_is_the_standard_librarys() -> None:
    for name, size in (("00000_0000.png", 0), ("é" * 50, 8**11 - 1), ("x" * 100, 511)):
        info = tarfile.TarInfo(name)
        info.size = size
        assert header(name, size) == info.tobuf(tarfile.USTAR_FORMAT, "utf-8", "strict")
    for name, size in (("x" * 101, 0), ("x", 8**11)):
        with pytest.raises(HeadwaterError, match="no plain header"):
            header(name, size)


def test_webdataset_reads_the_tar(tmp_path: Path) -> None:
    tariterators = pytest.importorskip("webdataset.tariterators")
    write(tmp_path / "out", "tar", annotated=True)
    path = tmp_path / "out" / "00000007.tar"
    with open(path, "rb") as stream:  # webdataset's own opener leaves the file open
        members = tariterators.tar_file_expander([{"url": str(path), "stream": stream}])
        samples = list(tariterators.group_by_keys(members))
    assert [sample["__key__"] for sample in samples] == [picture_key(3, number) for number in range(5)]
    for sample in samples:
        assert {name for name in sample if not name.startswith("__")} == {"png", "cls", "mask.png", "json"}
        assert sample["cls"] == b"2"


def test_parquet_rows(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    _, pictures = write(tmp_path / "out", "parquet", annotated=True, count=300)
    file = pq.ParquetFile(tmp_path / "out" / "00000007.parquet")
    assert file.metadata.num_row_groups == 5  # several, and the last one is not full
    schema = {field.name: str(field.type) for field in file.schema_arrow}
    assert (schema["key"], schema["label"]) == ("string", "int64")
    assert (schema["category"], schema["instance"]) == ("int32", "int32")
    assert schema["image"] == "struct<bytes: binary, path: string>"
    told = json.loads(file.schema_arrow.metadata[b"huggingface"])["info"]["features"]
    assert list(told) == list(schema)
    assert told["image"] == {"_type": "Image"}
    rows = file.read().to_pylist()
    for number in (0, 1, 2, 299):
        row, one = rows[number], pictures[number]
        assert (row["key"], row["label"], row["category"], row["instance"]) == (
            picture_key(3, number),
            2,
            3,
            number,
        )
        assert np.array_equal(decoded(row["image"]["bytes"]), one.pixels)
        assert np.array_equal(decoded(row["mask"]["bytes"]), one.labels)
        assert [entry["bbox"] for entry in row["objects"]] == [list(thing.box) for thing in one.things]
        assert [json.loads(entry["extra"]) for entry in row["objects"]] == [
            thing.extra for thing in one.things
        ]
    chunk = file.metadata.row_group(0).column(4)
    assert chunk.compression == "UNCOMPRESSED"


def test_row_groups_end_where_much_is_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outlines wait as Python's numbers, many times their size: memory must not follow from how many a picture has."""
    import pyarrow.parquet as pq

    from curate import _sink_parquet

    def groups(folder: Path) -> list[int]:
        found = pq.ParquetFile(folder / "00000007.parquet").metadata
        return [found.row_group(k).num_rows for k in range(found.num_row_groups)]

    write(tmp_path / "whole", "parquet", annotated=True, count=18)
    monkeypatch.setattr(_sink_parquet, "WAITING_BYTES", 8 * 2 * 40 + 500)  # four pictures: 0, 1, 2, 0 things
    write(tmp_path / "cut", "parquet", annotated=True, count=18)
    assert groups(tmp_path / "whole") == [18]
    assert sum(groups(tmp_path / "cut")) == 18 and max(groups(tmp_path / "cut")) <= 5
    one, other = (pq.read_table(tmp_path / name / "00000007.parquet") for name in ("whole", "cut"))
    assert one.equals(other)
    write(tmp_path / "plain", "parquet", count=18)
    assert groups(tmp_path / "plain") == [18]


@pytest.mark.parametrize("sink", ["tar", "parquet", "recipe", "folder"])
def test_an_error_leaves_no_block_file(tmp_path: Path, sink: str) -> None:
    one = picture(1, annotated=True)
    lines = tmp_path / "lines.jsonl"
    out = tmp_path / "out"
    out.mkdir()

    def stops() -> None:
        with open_block(out, "00000000", Layout(sink, annotated=True), objects=lines) as writer:
            writer.add("00000_0000", 0, 0, 0, one, Encoder(SIDE, SIDE).encode(one.pixels))
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        stops()
    left = set(files(tmp_path))
    assert not lines.exists()
    # loose files are whole each, and written over by the next run
    assert left == (
        {"out/image/00000/00000_0000.png", "out/mask/00000/00000_0000.png"} if sink == "folder" else set()
    )


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, data: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(HeadwaterError, match="no space left"):
        write(tmp_path / "out", "folder")
    assert files(tmp_path) == {}


def test_a_wrong_sink_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no sink tra") as error:
        open_block(tmp_path, "00000000", Layout("tra"))
    assert "tar" in (error.value.hint or "")


def test_annotated_pictures_need_a_label_map(tmp_path: Path) -> None:
    plain = picture(0, annotated=False)
    with (
        open_block(tmp_path, "0", Layout("tar", annotated=True)) as writer,
        pytest.raises(ValueError, match="label map"),
    ):
        writer.add("00000_0000", 0, 0, 0, plain, b"")


def test_coco_file(tmp_path: Path) -> None:
    paths = []
    for block in range(2):
        paths.append(tmp_path / f"{block}.jsonl")
        write(tmp_path / f"out{block}", "folder", annotated=True, objects=paths[-1])
    out = tmp_path / "annotations.json"
    with open(out, "wb") as file:
        assert write_coco(file, paths, ["round", "square"], {"description": "test"}) == (10, 8)
    document = json.loads(out.read_bytes())
    assert [entry["id"] for entry in document["images"]] == list(range(1, 11))
    assert [entry["id"] for entry in document["annotations"]] == list(range(1, 9))
    assert document["images"][6]["file_name"] == "image/00003/00003_0001.png"
    first = document["annotations"][0]
    assert first == {
        "id": 1,
        "image_id": 2,
        "shape": "s0",
        "category_id": 1,
        "bbox": [2, 4, 5, 4],
        "area": 20,
        "iscrowd": 0,
        "segmentation": [[2, 4, 7, 4, 7, 8, 2, 8]],
        "whole_area": 23,
    }
    mask_api = pytest.importorskip("faster_coco_eval")
    coco = mask_api.COCO(str(out))
    assert [entry["name"] for entry in coco.loadCats(coco.getCatIds())] == ["round", "square"]
    for entry in coco.loadAnns(coco.getAnnIds()):
        expected = picture((entry["image_id"] - 1) % 5, annotated=True).things[entry["category_id"] - 1].mask
        assert np.array_equal(coco.annToMask(entry).astype(bool), expected)


def test_coco_file_of_nothing(tmp_path: Path) -> None:
    out = io.BytesIO()
    assert write_coco(out, [], []) == (0, 0)
    assert json.loads(out.getvalue())["images"] == []


def test_a_torn_line_is_told(tmp_path: Path) -> None:
    (tmp_path / "0.jsonl").write_bytes(b'{"file_name": "a')
    with pytest.raises(IntegrityError, match="not JSON"):
        write_coco(io.BytesIO(), [tmp_path / "0.jsonl"], [])


@pytest.mark.parametrize("reader", ["opencv", "pillow"])
def test_read_grey(monkeypatch: pytest.MonkeyPatch, reader: str) -> None:
    if reader == "opencv":
        pytest.importorskip("cv2")
        monkeypatch.setattr(sinks, "_CV2", [])
    else:
        monkeypatch.setattr(sinks, "_CV2", [None])
    one = picture(4, annotated=False)
    assert np.array_equal(read_grey(Encoder(SIDE, SIDE).encode(one.pixels)), one.pixels)
    with pytest.raises(ValueError, match="not a picture"):
        read_grey(b"\x89PNG\r\n\x1a\n nothing")
