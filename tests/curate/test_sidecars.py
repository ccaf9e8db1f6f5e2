"""Stored scores: survivors are scored once, gaps are filled later, and scores of other bytes are not believed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.pool import Pool
from curate.scores import language
from curate.sidecars import METADATA_KEY, ScorerRef, known_scorers, read_sidecar, sidecar_path
from headwater.errors import UsageError
from tests.curate.filter_kit import listening, run_filter, uid, write_pool

WORDS = ["house", "Haus", "maison", "house"]


@dataclass
class Calls:
    texts: list[str]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """A stand-in for the language model that remembers what it was asked."""
    seen = Calls([])

    class Scorer:
        def __init__(self, config: Any) -> None:
            self.identity = {"model": config.model or "stand-in"}

        def score(self, batch: pa.RecordBatch) -> pa.RecordBatch:
            texts = batch.column("text").to_pylist()
            seen.texts += texts
            labels = [None if t is None else "de" if "Haus" in t else "en" for t in texts]
            return pa.record_batch(
                {
                    "language": pa.array(labels, pa.string()),
                    "language_probability": pa.array([0.5] * len(texts), pa.float32()),
                }
            )

    monkeypatch.setattr(language, "Scorer", Scorer)
    return seen


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    tables = {}
    for shard in range(2):
        numbers = range(shard * 20, shard * 20 + 20)
        texts = [f"{WORDS[n % 4]} {n}" for n in numbers]
        columns = {"uid": [uid(n) for n in numbers], "n": list(numbers), "text": texts}
        tables[f"s{shard}"] = pa.table(columns)
    return write_pool(tmp_path / "pool", tables)


ENGLISH = {"id": "english", "in": {"column": "language", "values": ["en"]}}


def test_only_survivors_are_scored_and_once(pool: Path, calls: Calls, tmp_path: Path) -> None:
    keep, cache = [{"sql": "n < 10"}, ENGLISH], tmp_path / "cache"
    first = run_filter(pool, keep, tmp_path / "1", cache=cache)
    assert sorted(calls.texts) == sorted(f"{WORDS[n % 4]} {n}" for n in range(10))
    assert first.details["rows_scored"] == {"language": 10}
    assert [int(u, 16) for u in first.uids] == [n for n in range(10) if n % 4 != 1]
    calls.texts.clear()
    second = run_filter(pool, keep, tmp_path / "2", cache=cache)
    assert calls.texts == [] and second.details["rows_scored"] == {}
    assert (second.data, second.counts) == (first.data, first.counts)


def test_other_survivors_fill_the_gaps(pool: Path, calls: Calls, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    run_filter(pool, [{"sql": "n < 10"}, ENGLISH], tmp_path / "1", cache=cache)
    calls.texts.clear()
    wider = run_filter(pool, [{"sql": "n between 5 and 24"}, ENGLISH], tmp_path / "2", cache=cache)
    assert sorted(calls.texts) == sorted(f"{WORDS[n % 4]} {n}" for n in range(10, 25))
    assert [int(u, 16) for u in wider.uids] == [n for n in range(5, 25) if n % 4 != 1]
    calls.texts.clear()
    whole = run_filter(pool, [ENGLISH], tmp_path / "3", cache=cache)
    assert sorted(calls.texts) == sorted(f"{WORDS[n % 4]} {n}" for n in range(25, 40))
    assert len(whole.uids) == 30


def test_what_lies_on_disk(pool: Path, calls: Calls, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    run_filter(pool, [{"sql": "n < 10"}, ENGLISH], tmp_path / "1", cache=cache)
    ref = ScorerRef("language")
    path = sidecar_path(cache, ref, "s0")
    assert path.parent.name.startswith(f"language-v{language.VERSION}-")
    table = pq.ParquetFile(path).read()
    assert table["uid"].to_pylist() == [uid(n) for n in range(20)]
    assert [v is None for v in table["language"].to_pylist()] == [False] * 10 + [True] * 10
    assert METADATA_KEY in (table.schema.metadata or {})
    assert not sidecar_path(cache, ref, "s1").exists()  # nothing survived there


def test_the_same_rows_with_the_index(pool: Path, calls: Calls, tmp_path: Path) -> None:
    keep = [{"sql": "n_words > 1"}, {"sql": "n_chars < 7"}, ENGLISH]
    cache = tmp_path / "cache"
    plain = run_filter(pool, keep, tmp_path / "1")
    calls.texts.clear()
    first = run_filter(pool, keep, tmp_path / "2", cache=cache, index=True)
    assert len(calls.texts) == sum(plain.details["rows_scored"].values())
    calls.texts.clear()
    second = run_filter(pool, keep, tmp_path / "3", cache=cache, index=True)
    assert calls.texts == [] and second.details["shards_from_index"] == 2
    assert plain.data == first.data == second.data


def test_scores_of_other_bytes_are_ignored_and_told(pool: Path, calls: Calls, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    run_filter(pool, [ENGLISH], tmp_path / "1", cache=cache)
    numbers = range(100, 120)
    changed = pa.table({"uid": [uid(n) for n in numbers], "n": list(numbers), "text": ["Haus"] * 20})
    pq.write_table(changed, tmp_path / "new.parquet")
    os.replace(tmp_path / "new.parquet", pool / "s0.parquet")
    calls.texts.clear()
    with listening() as heard:
        ran = run_filter(pool, [ENGLISH], tmp_path / "2", cache=cache)
    assert calls.texts == ["Haus"] * 20
    assert [int(u, 16) for u in ran.uids] == [n for n in range(20, 40) if n % 4 != 1]
    assert any("shard s0 were made from other bytes" in w for w in heard.warnings)


@pytest.mark.parametrize("data", [b"", b"PAR1 nothing of the kind PAR1"])
def test_a_damaged_sidecar_is_ignored_and_told(data: bytes, pool: Path, calls: Calls, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = run_filter(pool, [ENGLISH], tmp_path / "1", cache=cache)
    sidecar_path(cache, ScorerRef("language"), "s0").write_bytes(data)
    calls.texts.clear()
    with listening() as heard:
        ran = run_filter(pool, [ENGLISH], tmp_path / "2", cache=cache)
    assert len(calls.texts) == 20 and ran.data == first.data
    assert any("cannot be read and is ignored" in w for w in heard.warnings)


def test_a_sidecar_with_other_rows_is_not_used(pool: Path, calls: Calls, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = run_filter(pool, [ENGLISH], tmp_path / "1", cache=cache)
    path = sidecar_path(cache, ScorerRef("language"), "s0")
    pq.write_table(pq.ParquetFile(path).read().slice(3), path)
    assert run_filter(pool, [ENGLISH], tmp_path / "2", cache=cache).data == first.data


def test_another_configuration_has_a_folder_of_its_own(pool: Path, calls: Calls, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    run_filter(pool, [ENGLISH], tmp_path / "1", cache=cache)
    calls.texts.clear()
    other = [{"scorer": "language", "config": {"most_chars": 5}}]
    run_filter(pool, [ENGLISH], tmp_path / "2", cache=cache, scores=other)
    assert len(calls.texts) == 40
    assert len(list((cache / "scores").iterdir())) == 2
    folders = {ScorerRef("language", tuple(c.items())).folder(cache) for c in ({}, {"most_chars": 5})}
    assert folders == set((cache / "scores").iterdir())


def test_an_unknown_setting_offers_the_nearest(pool: Path, calls: Calls, tmp_path: Path) -> None:
    scores = [{"scorer": "language", "config": {"modle": "x"}}]
    ran = run_filter(pool, [ENGLISH], tmp_path / "1", scores=scores)
    assert isinstance(ran.refused, UsageError) and "did you mean 'model'?" in str(ran.refused)


def test_a_cache_that_cannot_be_written_costs_only_time(pool: Path, calls: Calls, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "scores").write_bytes(b"a file where the folder would be")
    with listening() as heard:
        ran = run_filter(pool, [ENGLISH], tmp_path / "1", cache=cache)
    assert ran.refused is None and len(ran.uids) == 30
    assert any("cannot be kept" in w and "--cache" in w for w in heard.warnings)


def test_uids_of_another_string_type(pool: Path, calls: Calls, tmp_path: Path) -> None:
    uids = pa.array([uid(n) for n in range(5)]).dictionary_encode()
    other = write_pool(
        tmp_path / "other", {"s": pa.table({"uid": uids, "text": ["Haus", "house"] * 2 + [""]})}
    )
    cache = tmp_path / "cache"
    ran = run_filter(other, [ENGLISH], tmp_path / "1", cache=cache)
    assert ran.refused is None and len(ran.uids) == 3
    opened = Pool.open(other, cache=cache)
    sha256 = opened.digests(opened.shards[0]).sha256
    stored = read_sidecar(cache, ScorerRef("language"), "s", sha256)
    assert stored is not None and stored["language"].to_pylist() == ["de", "en", "de", "en", "en"]


def test_a_pools_column_wins_unless_a_scorer_is_asked_for(calls: Calls, tmp_path: Path) -> None:
    table = pa.table({"uid": [uid(1), uid(2)], "text": ["house", "Haus"], "language": ["de", "en"]})
    own = write_pool(tmp_path / "own", {"s": table})
    assert run_filter(own, [ENGLISH], tmp_path / "1").uids == [uid(2)] and calls.texts == []
    assert run_filter(own, [ENGLISH], tmp_path / "2", scores=["language"]).uids == [uid(1)]


def test_every_column_of_a_scorer_is_known() -> None:
    found = known_scorers()
    assert {"n_words": "caption", "n_chars": "caption", "language": "language"}.items() <= {
        column: ref.name for column, ref in found.items()
    }.items()
