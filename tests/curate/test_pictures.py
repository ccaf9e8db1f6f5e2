"""The driver of picture scorers: samples of tars to rows of a pool, kept answers, features, captions, and what is refused."""

from __future__ import annotations

import json
import shutil
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate import _picture_answers, _picture_tars
from curate.features import open_features
from curate.pictures import Picture, PictureError, features_are_there
from curate.pool import Pool
from curate.pooldata import bind
from curate.sidecars import ScorerRef
from headwater import plugins
from headwater.errors import IntegrityError, MissingInput, UsageError
from headwater.executor import Executor
from tests.curate.feature_kit import scored, scored_with_facts
from tests.curate.picture_kit import Sample, drawing, encoded, make, samples, uid_of, write_pool, write_tar


@dataclass(frozen=True)
class Config:
    shards: Path | None = field(default=None, metadata={"help": "tars"})
    width: int = field(default=3, metadata={"help": "of the array"})


class Scorer:
    """Gives the mean of the red channel, the captions, and an array of it."""

    seen: list[tuple[str, ...]] = []

    def __init__(self, config: Config) -> None:
        self.identity: dict[str, str] = {}
        self.width = config.width

    def score_pictures(self, batch: list[Picture]) -> dict[str, Any]:
        self.seen.append(tuple(picture.uid for picture in batch))
        red = np.full(len(batch), np.nan, np.float32)
        for at, picture in enumerate(batch):
            try:
                red[at] = np.asarray(picture.open())[..., 0].mean()
            except PictureError:
                continue
        return {
            "red": red,
            "told": pa.array([p.caption_of_pool for p in batch], pa.string()),
            "place": pa.array([f"{p.tar}:{p.key}.{p.extension}" for p in batch], pa.string()),
            "red_img": np.repeat(red[:, None], self.width, axis=1),
        }


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A scorer of pictures that is called "fake"."""
    module = types.SimpleNamespace(
        VERSION=1,
        SCOPE="pictures",
        PROCESSES="one",
        BATCH=2,
        CAPTIONS=False,
        COLUMNS=(),
        OUTPUT={"red": "float32", "told": "string", "place": "string"},
        COST="costly",
        ARRAYS=lambda config: {"red_img": (config.width, np.float16)},
        Config=Config,
        Scorer=Scorer,
    )
    load, find = plugins.load, plugins.find
    monkeypatch.setattr(
        plugins, "load", lambda f, name, **more: module if name == "fake" else load(f, name, **more)
    )
    monkeypatch.setattr(plugins, "find", lambda f, name: find(f, "phash" if name == "fake" else name))
    monkeypatch.setattr(Scorer, "seen", [])
    yield module


def red_of(number: int) -> float:
    return float(np.asarray(drawing(number))[..., 0].mean(dtype=np.float64))


def test_answers_go_to_the_rows_by_uid(fake: Any, tmp_path: Path) -> None:
    pool, tars = make(
        tmp_path, {"a.tar": samples([3, 1]), "b.tar": samples([2, 7])}, [uid_of(n) for n in (1, 2, 3, 9)]
    )
    table, facts = scored_with_facts(pool, "fake", shards=tars)
    found = dict(zip(table["uid"].to_pylist(), table["red"].to_pylist(), strict=True))
    assert found[uid_of(9)] is None
    for n in (1, 2, 3):
        assert found[uid_of(n)] == pytest.approx(red_of(n), rel=1e-6)
    places = dict(zip(table["uid"].to_pylist(), table["place"].to_pylist(), strict=True))
    assert places[uid_of(1)] == "a.tar:000001.png" and places[uid_of(2)] == "b.tar:000000.png"
    assert facts["counts"]["invalid"] == {"no picture": 1} and facts["counts"]["kept"] == 3
    assert facts["notes"]["samples"] == 4 and facts["notes"]["uids not in the pool"] == 1


def test_order_of_tars_shards_and_rows_does_not_matter(fake: Any, tmp_path: Path) -> None:
    numbers = list(range(11))
    one, tars = make(tmp_path / "1", {"a.tar": samples(numbers[:6]), "b.tar": samples(numbers[6:])})
    renamed = {"y.tar": samples(numbers[6:]), "z.tar": samples(numbers[:6])}
    two, others = make(tmp_path / "2", renamed, [uid_of(n) for n in reversed(numbers)], shards=4)
    first, second = scored(one, "fake", shards=tars), scored(two, "fake", shards=others)
    assert first.drop_columns(["place"]).equals(second.drop_columns(["place"]))


def test_the_first_of_a_repeated_uid_is_taken(fake: Any, tmp_path: Path) -> None:
    twice = [Sample(uid_of(1), encoded(drawing(5))), Sample(uid_of(1), encoded(drawing(6)))]
    pool, tars = make(tmp_path, {"b.tar": samples([1]), "a.tar": twice}, [uid_of(1), uid_of(1)])
    table, facts = scored_with_facts(pool, "fake", shards=tars)
    assert table["red"].to_pylist() == pytest.approx([red_of(5)] * 2, rel=1e-6)
    assert facts["notes"]["repeated uids"] == 2


def test_reasons_why_there_is_no_score(fake: Any, tmp_path: Path) -> None:
    rows = [
        Sample(uid_of(1), b"<html>"),
        Sample(uid_of(2), encoded(drawing(2))[:-20]),
        Sample(uid_of(3), b"", "jpg"),
        Sample(uid_of(4), None, caption="words only"),
        Sample(uid_of(5), encoded(drawing(5), "TIFF"), "tif"),
        Sample(None, encoded(drawing(6))),
        *samples([7]),
        Sample(uid_of(8), None, caption="at the end"),
    ]
    pool, tars = make(tmp_path, {"a.tar": rows}, [uid_of(n) for n in range(1, 9)])
    table, facts = scored_with_facts(pool, "fake", shards=tars)
    assert facts["counts"]["invalid"] == {
        "no picture": 3,
        "picture: empty": 1,
        "picture: format not accepted": 1,
        "picture: not a picture": 1,
        "picture: truncated": 1,
    }
    assert facts["notes"]["samples without a uid"] == 1
    assert [
        n for n in range(1, 9) if table.filter(pa.compute.field("uid") == uid_of(n))["red"][0].is_valid
    ] == [7]


def test_batches_hold_at_most_so_many_and_no_sample_twice(fake: Any, tmp_path: Path) -> None:
    pool, tars = make(tmp_path, {"a.tar": samples(range(5)), "b.tar": samples(range(5, 8))})
    scored(pool, "fake", shards=tars)
    assert [len(batch) for batch in Scorer.seen] == [2, 2, 1, 2, 1]
    assert sorted(uid for batch in Scorer.seen for uid in batch) == sorted(uid_of(n) for n in range(8))


def test_only_new_tars_are_read_again(fake: Any, tmp_path: Path) -> None:
    pool, tars = make(tmp_path, {"a.tar": samples(range(3))}, [uid_of(n) for n in range(6)])
    _, facts = scored_with_facts(pool, "fake", shards=tars)
    assert facts["notes"]["tars read"] == 1 and facts["counts"]["kept"] == 3
    Scorer.seen.clear()
    write_tar(tars / "b.tar", samples(range(3, 6)))
    shutil.move(tars / "a.tar", tars / "c.tar")  # a name is nothing: the digest counts
    table, facts = scored_with_facts(pool, "fake", shards=tars)
    assert facts["notes"]["tars read"] == 1 and facts["counts"]["kept"] == 6
    assert {uid for batch in Scorer.seen for uid in batch} == {uid_of(n) for n in range(3, 6)}
    assert table["red"].null_count == 0


@pytest.mark.parametrize("harm", ["cut", "other", "array gone", "array cut"])
def test_kept_answers_that_are_damaged_are_made_again(fake: Any, tmp_path: Path, harm: str) -> None:
    pool, tars = make(tmp_path, {"a.tar": samples(range(3))})
    before = scored(pool, "fake", shards=tars)
    [answers] = (pool / ".headwater" / "pictures").glob("fake-*/*.parquet")
    [array] = (pool / ".headwater" / "pictures").glob("fake-*/*.npy")
    if harm == "cut":
        answers.write_bytes(answers.read_bytes()[:-9])
    elif harm == "other":
        pq.write_table(pa.table({"why": ["x"]}), answers)
    elif harm == "array gone":
        array.unlink()
    else:
        array.write_bytes(array.read_bytes()[:-4])
    shutil.rmtree(pool / ".headwater" / "scores")
    after, facts = scored_with_facts(pool, "fake", shards=tars)
    assert facts["notes"]["tars read"] == 1 and after.equals(before)


def test_features_are_found_as_those_of_datacomp(fake: Any, tmp_path: Path) -> None:
    broken = Sample(uid_of(3), b"no picture")
    pool, tars = make(
        tmp_path, {"a.tar": [*samples([2, 1]), broken]}, [uid_of(n) for n in (0, 1, 2, 3)], shards=2
    )
    scored(pool, "fake", shards=tars, width=5)
    features = open_features(Pool.open(pool), "red_img")
    assert features.width == 5 and features.rows == 4
    values = np.concatenate([block.values for block in features.blocks(3)])
    expected = np.array([0, red_of(1), red_of(2), 0]).astype(np.float16)
    assert np.allclose(values, expected[:, None].astype(np.float32))
    [path] = (pool / ".headwater" / "features").glob("fake-*/00000001.npz")
    with np.load(path, allow_pickle=False) as archive:
        assert archive["red_img"].dtype == np.float16 and archive["red_img"].shape == (2, 5)
        assert archive.zip is not None
        facts = json.loads(archive.zip.comment)
    opened = Pool.open(pool)
    assert facts["shard_sha256"] == opened.digests(opened.shards[1]).sha256
    ref = bind(ScorerRef("fake", (("shards", tars), ("width", 5))), opened)
    assert features_are_there(opened, ref)
    # the same name again, of another model: it replaces the first
    scored(pool, "fake", shards=tars, width=4)
    assert open_features(Pool.open(pool), "red_img").width == 4 and not features_are_there(opened, ref)
    scored(pool, "fake", shards=tars, width=5, force=True)
    assert open_features(Pool.open(pool), "red_img").width == 5 and features_are_there(opened, ref)


def test_captions_of_the_pool_go_with_the_pictures(fake: Any, tmp_path: Path) -> None:
    fake.CAPTIONS = True
    _, tars = make(tmp_path, {"a.tar": samples([1, 2]), "b.tar": samples([3, 4])})
    numbers, texts = (4, 2, 1, 2), ["four", "two ünï", None, "another two"]
    pool = write_pool(tmp_path / "other", [uid_of(n) for n in numbers], texts=texts, shards=3)
    table, facts = scored_with_facts(pool, "fake", shards=tars)
    told = dict(zip(table["uid"].to_pylist(), table["told"].to_pylist(), strict=True))
    assert told == {uid_of(4): "four", uid_of(2): "two ünï", uid_of(1): "drawing 1"}
    # other captions are other answers, the same ones are not asked for again
    again = write_pool(tmp_path / "third", [uid_of(n) for n in numbers], texts=["4", *texts[1:]], shards=1)
    shutil.copytree(pool / ".headwater" / "pictures", again / ".headwater" / "pictures")
    table, facts = scored_with_facts(again, "fake", shards=tars)
    assert facts["notes"]["tars read"] == 1
    assert dict(zip(table["uid"].to_pylist(), table["told"].to_pylist(), strict=True))[uid_of(4)] == "4"


def test_without_captions_those_of_the_samples_are_told(fake: Any, tmp_path: Path) -> None:
    pool, tars = make(tmp_path, {"a.tar": samples([1])})
    assert scored(pool, "fake", shards=tars)["told"].to_pylist() == ["drawing 1"]


def test_malformed_uids_of_the_pool_match_nothing(fake: Any, tmp_path: Path) -> None:
    zero = Sample("0" * 32, encoded(drawing(1)))
    pool, tars = make(tmp_path, {"a.tar": [zero]}, [None, "xyz", uid_of(5), "0" * 32])
    table, facts = scored_with_facts(pool, "fake", shards=tars)
    assert facts["counts"]["invalid"] == {"no picture": 3}
    assert table.filter(pa.compute.field("uid") == "0" * 32)["red"].null_count == 0


@pytest.mark.parametrize("wrong", ["name", "rows", "processes"])
def test_a_scorer_that_answers_wrongly_is_told(
    fake: Any, tmp_path: Path, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, tars = make(tmp_path, {"a.tar": samples([1, 2])})
    real = Scorer.score_pictures
    if wrong == "name":
        monkeypatch.setattr(Scorer, "score_pictures", lambda self, batch: {"red": np.zeros(2)})
    elif wrong == "rows":
        monkeypatch.setattr(
            Scorer, "score_pictures", lambda self, batch: {k: v[:1] for k, v in real(self, batch).items()}
        )
    else:
        fake.PROCESSES = "several"
    with pytest.raises(UsageError, match="fake"):
        scored(pool, "fake", shards=tars)


def test_empty_pools_and_tars_without_samples(fake: Any, tmp_path: Path) -> None:
    pool, tars = make(tmp_path, {"a.tar": samples([1])}, [], shards=1)
    table, facts = scored_with_facts(pool, "fake", shards=tars)
    assert table.num_rows == 0 and facts["counts"]["read"] == 0
    pool, tars = make(tmp_path / "2", {"a.tar": []}, [uid_of(1)], shards=1)
    _, facts = scored_with_facts(pool, "fake", shards=tars)
    assert facts["counts"]["invalid"] == {"no picture": 1}


def test_shards_must_be_named_and_be_there(fake: Any, tmp_path: Path) -> None:
    pool, _ = make(tmp_path, {"a.tar": samples([1])})
    with pytest.raises(UsageError, match="no shards are named"):
        scored(pool, "fake")
    with pytest.raises(MissingInput, match="no such folder"):
        scored(pool, "fake", shards=tmp_path / "nowhere")
    with pytest.raises(MissingInput, match=r"no \.tar"):
        scored(pool, "fake", shards=pool)


@pytest.mark.parametrize(
    "data", [b"a: 1\n" * 3, b"a: 1\n" * 300, b"\x93NUMPY" + bytes(2000), b"", b"\x1f\x8b" * 600]
)
def test_a_file_that_is_no_tar_is_refused_before_it_is_read(
    fake: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    pool, tars = make(tmp_path, {"a.tar": samples([1])})
    monkeypatch.setattr(_picture_tars, "_digested", None)
    (tmp_path / "x.npy").write_bytes(data)
    with pytest.raises(IntegrityError, match=r"x\.npy: "):
        scored(pool, "fake", shards=tmp_path / "x.npy")
    if len(data) >= 512:  # a shorter one of a folder counts as a tar that was cut
        (tars / "b.tar").write_bytes(data)
        with pytest.raises(IntegrityError, match=r"b\.tar: "):
            scored(pool, "fake", shards=tars)
    assert not (pool / ".headwater" / "pictures").exists()


def test_one_tar_may_be_named(fake: Any, tmp_path: Path) -> None:
    pool, tars = make(tmp_path, {"a.tar": samples([1]), "b.tar": samples([2])})
    assert scored(pool, "fake", shards=tars / "b.tar")["red"].null_count == 1


def test_a_tar_that_changes_under_the_work_is_refused(
    fake: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, tars = make(tmp_path, {"a.tar": samples([1, 2])})
    real = Scorer.score_pictures

    def slow(self: Scorer, batch: list[Picture]) -> dict[str, Any]:
        with open(tars / "a.tar", "ab") as file:
            file.write(bytes(512))
        return real(self, batch)

    monkeypatch.setattr(Scorer, "score_pictures", slow)
    with pytest.raises(IntegrityError, match=r"a\.tar: changed"):
        scored(pool, "fake", shards=tars)
    assert not list((pool / ".headwater").glob("pictures/fake-*/*"))


def test_a_cut_tar_gives_what_lies_before_the_cut(fake: Any, tmp_path: Path) -> None:
    pool, tars = make(tmp_path, {"a.tar": samples(range(4))})
    raw = (tars / "a.tar").read_bytes()
    (tars / "a.tar").write_bytes(raw[: len(raw) // 2])
    table, facts = scored_with_facts(pool, "fake", shards=tars)
    assert 0 < facts["counts"]["kept"] < 4 and facts["notes"]["damaged tars"] == ["a.tar"]
    assert facts["counts"]["invalid"] == {"no picture": 4 - facts["counts"]["kept"]}


def test_tars_of_several_windows_give_every_member(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    rows = [Sample(uid_of(n), rng.bytes(300_000 + 7 * n), "jpg", f"words {n}") for n in range(60)]
    rows[30:30] = [Sample(uid_of(900), None, caption="alone"), Sample(None, b"no uid")]
    [tar] = _picture_tars.list_tars(write_tar(tmp_path / "a.tar", rows))
    expected = [(row.uid, row.data, row.caption) for row in rows if row.uid and row.data]
    for _ in range(2):  # walked, then from the index
        found = _picture_tars.samples_of(tar, tmp_path / "index")
        assert len(found) == 61 and found.facts["invalid"] == {"no_json": 1}
        read = [(p.uid, p.data, p.caption) for _, p in _picture_tars.read_pictures(found, range(61))]
        assert read == expected


def test_what_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_picture_tars, "MAX_READ_BYTES", 100)
    tars = write_tar(tmp_path / "a.tar", samples([1]))
    [tar] = _picture_tars.list_tars(tars)
    [(_, picture)] = _picture_tars.read_pictures(_picture_tars.samples_of(tar, tmp_path / "index"), [0])
    assert len(picture.data) == 100


@pytest.mark.slow
def test_many_processes_give_the_answers_of_one(tmp_path: Path) -> None:
    pool, tars = make(tmp_path, {f"{n}.tar": samples(range(4 * n, 4 * n + 4)) for n in range(3)})
    copy = shutil.copytree(pool, tmp_path / "copy")
    one = scored(pool, "phash", shards=tars)
    from curate.scoring import score_pool

    score_pool(
        Pool.open(copy), "phash", {"shards": tars}, executor=Executor("pool", 2), force=False, dry_run=False
    )
    names = sorted(path.name for path in (copy / ".headwater" / "scores").glob("*/*.parquet"))
    assert names == ["00000000.parquet", "00000001.parquet"]
    for path in (copy / ".headwater" / "scores").glob("*/*.parquet"):
        [other] = (pool / ".headwater" / "scores").glob(f"*/{path.name}")
        assert pq.read_table(path).equals(pq.read_table(other))
    assert one.num_rows == 12


def test_array_of_the_answers_folder_does_not_depend_on_the_pool(fake: Any, tmp_path: Path) -> None:
    one = ScorerRef("fake", (("shards", tmp_path / "a"), ("width", 4)), (("pool", "a"),))
    two = ScorerRef("fake", (("shards", tmp_path / "b"), ("width", 4)), (("pool", "b"),))
    assert _picture_answers.answers_folder(tmp_path, one) == _picture_answers.answers_folder(tmp_path, two)
