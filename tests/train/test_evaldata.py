"""What is read of a test set, and that its features depend on nothing but the model and the picture."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from headwater.errors import IntegrityError
from tests.train import eval_kit as kit
from train import _evaltar, evaldata
from train._evalcheck import Checked, check_split, dataset_type, survey
from train._evaltar import BadSample, example
from train.evaldata import FeatureCache, TaskData, decode, encode_pictures, read_list, read_split
from train.suite import Task

PNG = kit.picture((9, 9, 9), 0)


def data_of(folder: Path, **fields: Any) -> TaskData:
    return TaskData(Task(**kit.task(folder.name)), folder, **fields)


def one_sample(folder: Path, **members: bytes) -> Path:
    return kit.write_set(folder, [("a", members)], shards=1)


def test_examples_come_in_shard_order_with_all_their_members(tmp_path: Path) -> None:
    samples = [
        ("dir/one", {"png": PNG, "cls": b" 3\n", "txt": b"erste\nzweite"}),
        ("two", {"jpg": b"j", "webp": b"w", "npy": kit.npy_member(7), "json": kit.json_member(group=1)}),
        ("three", {"jpeg": b"e", "mask.png": b"other"}),
    ]
    kit.write_set(tmp_path / "s", samples, shards=2)
    one, two, three = read_split(tmp_path / "s", "test")
    assert (one.key, one.cls, one.captions, one.npy, one.meta) == (
        "dir/one",
        3,
        ("erste", "zweite"),
        None,
        None,
    )
    assert two.image == b"w" and two.npy is not None and int(two.npy) == 7 and two.meta == {"group": 1}
    assert three.image == b"e" and three.cls is None and three.captions is None


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ({"cls": b"1"}, "no picture"),
        ({"png": PNG, "cls": b"cat"}, "no class number"),
        ({"png": PNG, "cls": b"-1"}, "no class number"),
        ({"png": PNG, "cls": b"9" * 30}, "no class number"),
        ({"png": PNG, "txt": b"\xff\xfe"}, "not UTF-8"),
        ({"png": PNG, "json": b"{"}, "json cannot be read"),
        ({"png": PNG, "json": b"[" * 100_000}, "json cannot be read"),
        ({"png": PNG, "json": b"[1]"}, "no object"),
        ({"png": PNG, "npy": b"\x93NUMPY\x09\x00"}, "no plain array"),
        ({"png": PNG, "npy": b"rubbish"}, "no plain array"),
        ({"png": PNG, "npy": b"\x80\x04N."}, "no plain array"),
    ],
)
def test_members_that_cannot_be_used(tmp_path: Path, members: dict[str, bytes], told: str) -> None:
    with pytest.raises(BadSample, match=told):
        example("a", members)
    folder = one_sample(tmp_path / "s", **members)
    with pytest.raises(IntegrityError, match=f"sample 'a': .*{told}"):
        list(read_split(folder, "test"))


def npy(descr: str, shape: str, data: bytes = b"") -> bytes:
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


@pytest.mark.parametrize(
    "raw",
    [
        npy("|O", "(1,)", b"\x80\x04N."),
        npy("<i8", "(1000000000000,)"),
        npy("<i8", "(-1,)"),
        npy("<i8", "(2,)", bytes(8)),
        npy("<i8", "(True,)", bytes(8))[:-1],
        npy("<i8", "__import__('os')"),
    ],
)
def test_npy_headers_that_lie_or_hold_objects(raw: bytes) -> None:
    with pytest.raises(BadSample, match="npy"):
        example("a", {"png": PNG, "npy": raw})


def test_an_npy_array_is_read_whole() -> None:
    table = np.arange(6, dtype=np.int16).reshape(2, 3)
    found = example("a", {"png": PNG, "npy": kit.npy_member(table)})
    assert found.npy is not None and (found.npy == table).all()


def test_tars_that_are_cut_doubled_or_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = kit.colour_set(tmp_path / "s", shards=1)
    tar = folder / "test/0.tar"
    whole = tar.read_bytes()
    tar.write_bytes(whole[:3000])
    with pytest.raises(IntegrityError, match=r"0\.tar"):
        list(read_split(folder, "test"))
    kit.write_tar(tar, [("a", {"png": PNG}), ("a", {"png": PNG})])
    with pytest.raises(IntegrityError, match=r"a\.png is there twice"):
        list(read_split(folder, "test"))
    monkeypatch.setitem(_evaltar.LIMITS, "png", 10)
    with pytest.raises(IntegrityError, match=r"limit 10\)"):
        list(read_split(folder, "test"))


def test_decoding_is_limited_and_always_rgb(monkeypatch: pytest.MonkeyPatch) -> None:
    palette = Image.new("P", (4, 4))
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.info["transparency"] = b"\x00\x80"
    for image, form in (
        (palette, "PNG"),
        (Image.new("CMYK", (4, 4)), "JPEG"),
        (Image.new("I;16", (4, 4)), "PNG"),
    ):
        out = io.BytesIO()
        image.save(out, form)
        assert decode(out.getvalue()).mode == "RGB"
    gif = io.BytesIO()
    Image.new("P", (4, 4)).save(gif, "GIF")
    for raw in (b"", b"rubbish", PNG[:60], gif.getvalue()):
        with pytest.raises(BadSample, match="cannot be decoded"):
            decode(raw)
    monkeypatch.setattr(evaldata, "MAX_PIXELS", 100)
    with pytest.raises(BadSample, match="too large"):
        decode(PNG)


def test_features_depend_on_neither_workers_nor_neighbours(tmp_path: Path) -> None:
    folder = kit.colour_set(tmp_path / "s", n=150)
    one = data_of(folder).image_features(kit.ColourModel())
    many = data_of(folder, workers=5).image_features(kit.ColourModel())
    assert (one.features == many.features).all() and one.keys == many.keys
    assert len(one) == 150 and one.labels.tolist() == [i % 6 for i in range(150)]
    few = kit.write_set(tmp_path / "few", kit.colour_samples(3), shards=1)
    # the last batch is filled up, so three pictures alone are computed as in a batch of 64
    assert (data_of(few).image_features(kit.ColourModel()).features == one.features[:3]).all()


def test_tasks_on_one_folder_share_their_features(tmp_path: Path) -> None:
    folder, model, cache = kit.colour_set(tmp_path / "s"), kit.ColourModel(), FeatureCache()
    first = data_of(folder, cache=cache).image_features(model)
    assert data_of(folder, cache=cache).image_features(model) is first
    assert model.pictures == evaldata.BATCH
    data_of(folder, cache=cache).image_features(kit.ColourModel(dimensions=4))
    cache.drop(folder)
    data_of(folder, cache=cache).image_features(model)
    assert model.pictures == 2 * evaldata.BATCH


def test_bad_pictures_are_left_out_by_every_way_of_reading(tmp_path: Path) -> None:
    samples = kit.colour_samples(5)
    samples[1][1]["png"] = b"rubbish"
    samples[3][1]["png"] = samples[3][1]["png"][:-30]  # a good header, and too few pixels
    folder = kit.write_set(tmp_path / "s", samples)
    data, bad = data_of(folder), [(f"0-000{i}", "picture cannot be decoded") for i in (1, 3)]
    images = data.image_features(kit.ColourModel())
    assert images.keys == ["0-0000", "0-0002", "0-0004"] and images.labels.tolist() == [0, 2, 4]
    assert data.invalid == {"test": bad}
    data = data_of(folder)
    pictures = list(data.pictures())
    assert [item.key for item, _ in pictures] == images.keys and data.invalid == {"test": bad}
    features = encode_pictures(kit.ColourModel(), (image for _, image in pictures))
    assert (features == images.features).all()


def test_a_model_that_gives_no_numbers_is_told(tmp_path: Path) -> None:
    class Diverged(kit.ColourModel):
        def encode_images(self, batch: Any) -> Any:
            return np.full((len(batch), 4), np.nan, np.float32)

    with pytest.raises(IntegrityError, match="no numbers"):
        data_of(kit.colour_set(tmp_path / "s")).image_features(Diverged())


def test_a_text_is_encoded_once(tmp_path: Path) -> None:
    model = kit.ColourModel()
    rows = data_of(tmp_path).text_features(model, ["red", "blue", "red"])
    assert model.texts == 2 and (rows[0] == rows[2]).all() and not (rows[0] == rows[1]).all()
    many = [f"text {i}" for i in range(600)]
    alone = data_of(tmp_path).text_features(model, many)
    assert (data_of(tmp_path, workers=3).text_features(model, many) == alone).all()


def test_lists_are_read_strictly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "classnames.txt"
    with pytest.raises(IntegrityError, match="no such file"):
        read_list(path)
    path.write_text(" red \nblue\n")
    assert read_list(path) == ["red", "blue"]
    for text, told in ((b"", "empty"), (b"a\n\nb\n", "line 2 is empty"), (b"\xff", "not UTF-8")):
        path.write_bytes(text)
        with pytest.raises(IntegrityError, match=told):
            read_list(path)
    monkeypatch.setattr(evaldata, "MAX_LIST_BYTES", 0)
    with pytest.raises(IntegrityError, match="limit 0"):
        read_list(path)


def test_a_check_names_everything_that_is_wrong_with_a_split(tmp_path: Path) -> None:
    samples = kit.colour_samples(8)
    del samples[0][1]["cls"]
    samples[1][1]["cls"] = b"17"
    del samples[2][1]["png"]
    samples[3][1]["cls"] = b"x"
    samples[4][1]["png"] = b"rubbish"
    folder = kit.write_set(tmp_path / "s", samples)
    wanted = Task(**kit.task("s", size=9))
    with pytest.raises(IntegrityError) as told:
        check_split(wanted, folder, needs=("cls",), classes=6)
    for part in (
        "8 examples, but the suite declares 9",
        "1 samples: no picture (0-0002)",
        "1 samples: cls is no class number (0-0003)",
        "1 samples without cls (0-0000)",
        "1 labels not below the number of classes, 6 (17)",
    ):
        assert part in str(told.value)
    assert survey(folder, "test").bad_pictures == [("0-0004", "picture cannot be decoded")]
    empty = kit.write_set(tmp_path / "empty", [], shards=1)
    with pytest.raises(IntegrityError, match="no sample in it"):
        check_split(Task(**kit.task("s")), empty)
    blind = kit.write_set(tmp_path / "blind", [("a", {"png": b"x"})], shards=1)
    with pytest.raises(IntegrityError, match="not one picture"):
        check_split(Task(**kit.task("s")), blind)


def test_a_survey_is_taken_again_when_the_tars_change(tmp_path: Path) -> None:
    folder = kit.colour_set(tmp_path / "s", n=4)
    assert survey(folder, "test").examples == 4
    kit.colour_set(folder, n=6)
    assert survey(folder, "test").examples == 6


def test_the_type_of_a_set(tmp_path: Path) -> None:
    assert dataset_type(tmp_path) == "classification"
    (tmp_path / "dataset_type.txt").write_text("Retrieval\n")
    assert dataset_type(tmp_path) == "retrieval"


@pytest.mark.parametrize("text", ["", "[]", '{"a": 1}', '{"a": [[1]]}', "[" * 100_000])
def test_notes_of_checked_sets_that_are_damaged_count_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "checked.json").write_text(text)
    notes = Checked(tmp_path)
    assert notes.bad_pictures("a") is None
    notes.note("a", [("key", "why"), ("key", "why")])
    notes.save()
    assert Checked(tmp_path).bad_pictures("a") == [("key", "why")]
