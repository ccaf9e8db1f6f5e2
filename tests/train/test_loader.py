"""Batches: the same whatever the number of loader processes, with an account of every sample, and hostile pictures left out."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from headwater.errors import HeadwaterError, IntegrityError, MissingInput
from tests.train.kit import add, picture, write_shards
from train import loader
from train.loader import Batches, Seen, Source, Tars, TooLarge, dataset, decode

torch = pytest.importorskip("torch")
pytest.importorskip("open_clip")


@pytest.fixture(scope="module")
def transform() -> Callable[[Any], Any]:
    """open_clip's own for training, with crops that show which seed they had."""
    from open_clip import image_transform
    from open_clip.transform import AugmentationCfg

    found: Callable[[Any], Any] = image_transform(
        32, is_train=True, mean=(0.5,) * 3, std=(0.5,) * 3, aug_cfg=AugmentationCfg(scale=(0.3, 1.0))
    )
    return found


def tokenize(captions: list[str]) -> Any:
    """Token ids that tell the captions apart."""
    return torch.tensor([[ord(letter) for letter in caption.ljust(20)[:20]] for caption in captions])


def source(shards: Path, **changes: Any) -> Source:
    from train.preflight import scan_data

    scan = scan_data([shards], workers=1)
    base = Source(
        tars=[str(shard.path) for shard in scan.shards],
        usable=[shard.usable for shard in scan.shards],
        mode="resampled",
        buffer=16,
        initial=8,
        streams=2,
        seed=3,
        max_pixels=10_000,
    )
    return replace(base, **changes)


def batches(where: Source, transform: Any, *, part: int = 0, **changes: Any) -> Batches:
    names: dict[str, Any] = {"batches": 6, "batch_size": 8, "rank": 0, "processes": 1, **changes}
    return Batches(where, part=SimpleNamespace(value=part), transform=transform, tokenize=tokenize, **names)


def drawn(items: Iterator[Any]) -> tuple[Any, Any, list[tuple[int, int]], list[tuple[int, int, str]]]:
    """All pictures, token ids, places and skips of some batches."""
    pictures, tokens, places, skipped = [], [], [], []
    for item in items:
        assert not isinstance(item, HeadwaterError), item
        one, ids, seen = item
        assert isinstance(seen, Seen) and len(one) == len(ids) == len(seen.shard) == len(seen.sample)
        pictures.append(one)
        tokens.append(ids)
        places += zip(seen.shard.tolist(), seen.sample.tolist(), strict=True)
        skipped += seen.skipped
    return torch.cat(pictures), torch.cat(tokens), places, skipped


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("loader") / "shards", samples=60, shards=4)


def test_the_pictures_are_those_of_their_places(shards: Path, transform: Any) -> None:
    where = source(shards)
    _, tokens, places, skipped = drawn(iter(batches(where, transform)))
    assert len(places) == 48 and skipped == []
    captions = [picture(15 * shard + sample)[1] for shard, sample in places]
    assert torch.equal(tokens, tokenize(captions))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_any_number_of_loader_processes_gives_the_same(workers: int, shards: Path, transform: Any) -> None:
    from torch.utils.data import DataLoader

    where = source(shards, streams=4)
    alone = drawn(iter(batches(where, transform)))
    spread = drawn(iter(DataLoader(dataset(batches(where, transform)), batch_size=None, num_workers=workers)))
    assert torch.equal(alone[0], spread[0]) and torch.equal(alone[1], spread[1])
    assert alone[2:] == spread[2:]


def test_the_size_of_a_micro_batch_changes_neither_samples_nor_crops(shards: Path, transform: Any) -> None:
    where = source(shards, streams=1)
    whole = drawn(iter(batches(where, transform, batches=3, batch_size=16)))
    parts = drawn(iter(batches(where, transform, batches=12, batch_size=4)))
    assert torch.equal(whole[0], parts[0]) and whole[2] == parts[2]


def test_a_part_can_be_drawn_again_and_parts_differ(shards: Path, transform: Any) -> None:
    one = batches(source(shards), transform, part=4)
    first, second = drawn(iter(one)), drawn(iter(one))
    assert torch.equal(first[0], second[0]) and first[2] == second[2]
    assert drawn(iter(batches(source(shards), transform, part=5)))[2] != first[2]


def test_the_crops_of_a_sample_differ_each_time_it_comes(shards: Path, transform: Any) -> None:
    pictures, _, places, _ = drawn(iter(batches(source(shards), transform, batches=20)))
    first: dict[tuple[int, int], Any] = {}
    pairs = [
        (first[place], one)
        for place, one in zip(places, pictures, strict=True)
        if first.setdefault(place, one) is not one
    ]
    assert len(pairs) > 20 and all(not torch.equal(a, b) for a, b in pairs)


def test_ranks_draw_by_themselves(shards: Path, transform: Any) -> None:
    """Resampled: other draws. Shuffled: other shards, so that no sample of a pass is seen twice."""
    draws = [drawn(iter(batches(source(shards), transform, rank=rank, processes=2)))[2] for rank in (0, 1)]
    assert draws[0] != draws[1]
    once = source(shards, mode="shuffled", buffer=1, initial=1)
    names = {"processes": 2, "batches": 6, "batch_size": 5}
    passed = [drawn(iter(batches(once, transform, rank=rank, **names)))[2] for rank in (0, 1)]
    assert sorted(passed[0] + passed[1]) == [(shard, sample) for shard in range(4) for sample in range(15)]


def test_drawing_leaves_the_generator_of_the_process_alone(shards: Path, transform: Any) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    drawn(iter(batches(source(shards), transform)))
    assert torch.equal(before, torch.get_rng_state())


def odd_shard(folder: Path) -> Path:
    """12 samples: 3 has half a picture, 5 no picture at all in its png, 7 a caption that is no text, 9 too many pixels."""
    folder.mkdir()
    with tarfile.open(folder / "odd.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
        for number in range(12):
            data, caption = picture(number, 120 if number == 9 else 40)
            data = data[: len(data) // 2] if number == 3 else b"no picture" if number == 5 else data
            add(archive, f"{number:03d}.png", data)
            add(archive, f"{number:03d}.txt", b"\xff\xfe\x00" if number == 7 else caption.encode())
    return folder


REASONS = {3: "undecodable", 5: "undecodable", 7: "other", 9: "too_large"}


def test_what_cannot_be_used_is_left_out_and_told(tmp_path: Path, transform: Any) -> None:
    where = source(odd_shard(tmp_path / "odd"), mode="shuffled", buffer=1, initial=1, streams=1)
    pictures, _, places, skipped = drawn(iter(batches(where, transform, batches=4, batch_size=4)))
    assert len(pictures) == 16, "batches stay full"
    assert {sample for _, sample in places}.isdisjoint(REASONS)
    assert skipped[:4] == [(0, sample, reason) for sample, reason in REASONS.items()]
    assert len(skipped) == 8  # two passes of 8 good samples each


@pytest.mark.parametrize("limit", ["MAX_CAPTION_BYTES", "MAX_IMAGE_BYTES"])
def test_what_the_check_calls_too_large_is_not_read(
    limit: str, shards: Path, transform: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check of the shards says that it is left out, so it must be."""
    sizes = [len(picture(n)[1] if "CAPTION" in limit else picture(n)[0]) for n in range(15)]
    monkeypatch.setattr(loader, limit, sorted(sizes)[7])
    large = {n for n, size in enumerate(sizes) if size > sorted(sizes)[7]}
    where = replace(source(shards), tars=[str(shards / "00000000.tar")], usable=[15])
    _, _, places, skipped = drawn(iter(batches(where, transform)))
    assert large and {number for _, number in places} == set(range(15)) - large
    assert {number for _, number, _ in skipped} == large and {reason for *_, reason in skipped} == {
        "too_large"
    }


def test_a_caption_without_end_is_cut_before_it_is_tokenized(tmp_path: Path, transform: Any) -> None:
    """Natural captions keep the tokens that open_clip gives them: far fewer letters fill the context."""
    from open_clip import SimpleTokenizer

    tokenizer = SimpleTokenizer(context_length=77)
    long = " ".join(f"{n} red circles &amp; a square," for n in range(2_000))
    (tmp_path / "long").mkdir()
    with tarfile.open(tmp_path / "long" / "a.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
        for number, caption in enumerate((long, "x" * 900_000)):
            add(archive, f"{number}.png", picture(number)[0])
            add(archive, f"{number}.txt", caption.encode())
    given: list[str] = []

    def noting(captions: list[str]) -> Any:
        given.extend(captions)
        return torch.zeros(len(captions), 1)

    where = source(tmp_path / "long", mode="shuffled", buffer=1, initial=1, streams=1)
    one = Batches(
        where,
        batches=1,
        batch_size=2,
        rank=0,
        processes=1,
        part=SimpleNamespace(value=0),
        transform=transform,
        tokenize=noting,
    )
    assert len(list(one)) == 1 and max(map(len, given)) <= loader.CAPTION_CHARACTERS
    assert torch.equal(tokenizer([given[0]]), tokenizer([long]))


def test_a_skipped_sample_does_not_change_the_crops_of_others(tmp_path: Path, transform: Any) -> None:
    names = {"mode": "shuffled", "buffer": 1, "initial": 1, "streams": 1}
    bad = drawn(iter(batches(source(odd_shard(tmp_path / "odd"), **names), transform, batches=1)))
    good = drawn(
        iter(batches(source(write_shards(tmp_path / "good", samples=12, shards=1), **names), transform))
    )
    mine = dict(zip(bad[2], bad[0], strict=True))
    theirs = dict(zip(good[2][:12], good[0][:12], strict=True))
    assert len(mine) == 8 and all(torch.equal(one, theirs[place]) for place, one in mine.items())


def test_nothing_but_bad_samples_ends_with_an_error_of_ours(
    tmp_path: Path, transform: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch.utils.data import DataLoader

    monkeypatch.setattr(loader, "SKIPS_IN_A_ROW", 50)
    where = source(odd_shard(tmp_path / "odd"), max_pixels=10)
    items = list(DataLoader(dataset(batches(where, transform)), batch_size=None, num_workers=1))
    assert len(items) == 1 and isinstance(items[0], HeadwaterError)
    assert items[0].message == "51 bad samples in a row: nothing to train on"


def test_a_tar_that_is_cut_while_it_is_read_is_an_error_and_no_signal(shards: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes((shards / "00000000.tar").read_bytes())
    tars = Tars([str(path)], [15])
    image, text = tars.sample(0, 14)
    assert image == picture(14)[0] and text.decode() == picture(14)[1]
    os.truncate(path, 4096)
    with pytest.raises(IntegrityError, match=r"a\.tar: changed while it was trained on"):
        tars.sample(0, 14)
    tars.close()


def test_a_tar_with_other_samples_than_were_checked_is_refused(shards: Path) -> None:
    with pytest.raises(IntegrityError, match="changed while it was trained on"):
        Tars([str(shards / "00000000.tar")], [16]).sample(0, 3)


def test_a_tar_that_went_away_is_named(tmp_path: Path, transform: Any) -> None:
    where = source(write_shards(tmp_path / "gone", samples=8, shards=1))
    (tmp_path / "gone" / "00000000.tar").unlink()
    items = list(batches(where, transform))
    assert len(items) == 1 and isinstance(items[0], MissingInput)
    assert "00000000.tar" in items[0].message


def test_only_some_tars_are_open_at_once(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "OPEN_TARS", 2)
    paths = sorted(map(str, shards.glob("*.tar")))
    tars = Tars(paths, [15] * 4)
    before = len(os.listdir("/proc/self/fd"))
    for shard in (0, 1, 2, 3, 0, 2, 1):
        assert tars.sample(shard, 1)[1].decode() == picture(15 * shard + 1)[1]
    assert len(os.listdir("/proc/self/fd")) - before == 2
    tars.close()
    assert len(os.listdir("/proc/self/fd")) == before


def encoded(mode: str, kind: str, **options: Any) -> bytes:
    from PIL import Image

    image = Image.open(io.BytesIO(picture(4)[0])).convert("RGBA" if mode == "LA" else mode).convert(mode)
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("RGB", "PNG"),
        ("L", "PNG"),
        ("LA", "PNG"),
        ("P", "PNG"),
        ("RGBA", "PNG"),
        ("1", "PNG"),
        ("I;16", "PNG"),
    ]
    + [("RGB", "JPEG"), ("L", "JPEG"), ("CMYK", "JPEG"), ("RGB", "WEBP"), ("RGBA", "WEBP")],
)
def test_pictures_are_what_webdataset_makes_of_them(mode: str, kind: str) -> None:
    from webdataset.autodecode import ImageHandler

    data = encoded(mode, kind)
    expected = ImageHandler("pilrgb")(f"x.{kind.lower()}", data)
    found = decode(data, 10_000)
    assert found.mode == expected.mode == "RGB"
    assert np.array_equal(np.asarray(found), np.asarray(expected))


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "PPM"])
def test_other_formats_are_not_tried(kind: str) -> None:
    with pytest.raises(OSError, match="cannot identify"):
        decode(encoded("RGB", kind), 10_000)


def test_large_pictures_are_refused_before_they_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image, ImageFile

    def never(_: Any) -> None:
        raise AssertionError("decoded")

    data = encoded("RGB", "PNG")
    monkeypatch.setattr(ImageFile.ImageFile, "load", never)
    with pytest.raises(TooLarge, match="40 x 40 pixels"):
        decode(data, 1_599)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Pillow itself refuses twice this
    with pytest.raises(Image.DecompressionBombError) as caught:
        decode(data, 10_000)
    assert loader._reason(caught.value) == "too_large"
