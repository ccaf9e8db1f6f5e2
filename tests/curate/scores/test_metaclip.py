"""MetaCLIP balancing against its published algorithm in plain loops; the list of entries; what order may not change."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate._entries import read_entries
from curate.binding import prepare
from curate.filtering import filter_pool
from curate.pool import Pool
from curate.rules import named_rule
from curate.scores import metaclip
from curate.scores.metaclip import Config, Scorer
from curate.subset import load_words, to_hex
from headwater.errors import HeadwaterError, IntegrityError, MissingInput, UsageError
from headwater.executor import Executor
from headwater.steps import RunOptions
from tests.curate.feature_kit import feature_pool, scored, scored_with_facts, uid_of
from tests.curate.test_aho import spaced

TEXTS = ["a b", "b", "a", "a, b", "c a b c", "", None, "d", "a\tb", "ä b"]
ENTRIES = ["a", "b", "a b", "c", "never", "D.C.", "ä"]


def listed(folder: Path, entries: Sequence[str], name: str = "entries.txt") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"".join(e.encode() + b"\n" for e in entries))
    return folder / name


def counted(texts: Sequence[str | None], entries: Sequence[str]) -> list[list[str]]:
    return [[e for e in entries if t is not None and f" {e} " in spaced(t)] for t in texts]


def pool_of(folder: Path, texts: Sequence[str | None], **more: Any) -> Path:
    return feature_pool(folder, {}, columns={"text": pa.array(texts, pa.string())}, **more)


def rows_of(table: pa.Table) -> list[tuple[Any, ...]]:
    return [tuple(row.values())[1:] for row in table.to_pylist()]


@settings(max_examples=40)
@given(
    texts=st.lists(st.sampled_from(TEXTS), max_size=30),
    entries=st.lists(st.sampled_from(ENTRIES), min_size=1, unique=True),
    t=st.integers(1, 6),
    shards=st.integers(1, 3),
)
def test_counts_chances_and_certain_rows(
    tmp_path_factory: pytest.TempPathFactory, texts: list[Any], entries: list[str], t: int, shards: int
) -> None:
    folder = tmp_path_factory.mktemp("pool")
    pool = pool_of(folder / "p", texts, shards=shards)
    table, facts = scored_with_facts(pool, "metaclip", entries=listed(folder, entries), t=t)
    found = counted(texts, entries)
    count = {e: sum(e in row for row in found) for e in entries}
    for text, hits, row in zip(texts, found, rows_of(table), strict=True):
        if text is None:
            assert row == (None, None, None)
            continue
        chances = [t / max(count[e], t) for e in hits]
        keep, probability, matches = row
        assert matches == len(hits)
        assert probability == pytest.approx(1 - math.prod(1 - p for p in chances), abs=1e-6)
        assert keep or probability < 1  # an entry with at most t rows keeps all of them
        assert not keep or hits
    kept = pq.read_table(Path(facts["folder"]) / "entries.parquet").to_pylist()
    assert {r["entry"]: r["rows"] for r in kept} == count
    assert facts["counts"]["invalid"] == ({"text: null": texts.count(None)} if None in texts else {})


def test_draws_keep_about_t_rows_of_a_common_entry(tmp_path: Path) -> None:
    texts = ["dog"] * 4000 + ["cat dog"] * 1000 + ["cat"] * 1000 + ["rare"] * 40 + ["other"] * 10
    pool = pool_of(tmp_path / "p", texts)
    entries = listed(tmp_path, ["dog", "cat", "rare"])
    table = scored(pool, "metaclip", entries=entries, t=500)
    keep = np.array(table["metaclip_keep"].to_pylist())
    chance = np.array(table["metaclip_probability"].to_pylist())
    for rows, expected in (
        (slice(0, 4000), 0.1),
        (slice(4000, 5000), 1 - 0.9 * 0.75),
        (slice(5000, 6000), 0.25),
        (slice(6000, 6040), 1.0),
        (slice(6040, 6050), 0.0),
    ):
        n = rows.stop - rows.start
        assert chance[rows] == pytest.approx(expected, abs=1e-6)
        spread = 5 * math.sqrt(n * expected * (1 - expected))
        assert abs(keep[rows].sum() - n * expected) <= spread
    other = scored(pool, "metaclip", entries=entries, t=500, seed=1)
    assert other["metaclip_keep"].to_pylist() != keep.tolist()
    assert other["metaclip_probability"].equals(table["metaclip_probability"])


def test_order_layout_repeats_and_processes_change_nothing(tmp_path: Path, monkeypatch: Any) -> None:
    rng = np.random.default_rng(0)
    texts = [TEXTS[i] for i in rng.integers(0, len(TEXTS), 300)]
    one = pool_of(tmp_path / "one", texts, shards=1)
    order = rng.permutation(300)
    many = pool_of(tmp_path / "many", texts, shards=[0, 250, 50], order=order)
    first = scored(one, "metaclip", entries=listed(tmp_path / "a", ENTRIES), t=9)
    again = listed(tmp_path / "b", [*reversed(ENTRIES), "a", "b"])
    monkeypatch.setattr(metaclip, "BLOCK_BYTES", 3)
    assert scored(many, "metaclip", entries=again, t=9).equals(first)
    monkeypatch.setattr(metaclip, "LIGHT_ROWS", 0)
    pool = Pool.open(many)
    from curate.scoring import score_pool

    made = score_pool(
        pool, "metaclip", {"entries": again, "t": 9}, executor=Executor("pool", 2), force=True, dry_run=False
    )
    assert made["notes"]["repeated_entries"] == 2
    assert scored(many, "metaclip", entries=again, t=9).equals(first)


@pytest.mark.parametrize(
    "kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
)
def test_captions_of_any_string_type(tmp_path: Path, kind: Any) -> None:
    plain = scored(pool_of(tmp_path / "a", TEXTS), "metaclip", entries=listed(tmp_path, ENTRIES), t=2)
    other = pool_of(tmp_path / "b", TEXTS)
    for path in other.glob("*.parquet"):
        table = pq.read_table(path)
        text = table["text"].dictionary_encode() if pa.types.is_dictionary(kind) else table["text"].cast(kind)
        pq.write_table(table.set_column(1, "text", text), path, row_group_size=3)
    assert scored(other, "metaclip", entries=tmp_path / "entries.txt", t=2).equals(plain)


def test_an_empty_pool_and_one_row(tmp_path: Path) -> None:
    entries = listed(tmp_path, ["a"])
    assert scored(pool_of(tmp_path / "p", [], shards=[0]), "metaclip", entries=entries).num_rows == 0
    one = scored(pool_of(tmp_path / "q", ["a"], shards=[1]), "metaclip", entries=entries)
    assert rows_of(one) == [(True, 1.0, 1)]


def test_lists_in_both_forms_are_one_list(tmp_path: Path) -> None:
    plain = read_entries(listed(tmp_path, ["b", " a", "a  b", "é"]))
    (tmp_path / "dos.txt").write_bytes("\ufeffé\r\na  b\r\nb\r\n a".encode())
    (tmp_path / "list.json").write_text(json.dumps(["é", "b", " a", "a  b", "b"]), encoding="utf-8")
    assert plain.values == (b" a", b"a  b", b"b", "é".encode())
    assert read_entries(tmp_path / "dos.txt") == plain
    packed = read_entries(tmp_path / "list.json")
    assert (packed.id, packed.repeated, packed.repeats) == (plain.id, 1, ("b",))
    assert read_entries(listed(tmp_path, ["b", " a", "a b", "é"])).id != plain.id


@pytest.mark.parametrize(
    ("name", "data", "error", "words"),
    [
        ("e.txt", b"", UsageError, "holds no entries"),
        ("e.json", b"[]", UsageError, "holds no entries"),
        ("e.txt", b"a\n\nb\n", IntegrityError, "line 2 is empty"),
        ("e.txt", b"a\n \t\nb\n", IntegrityError, "line 2 is empty"),
        ("e.txt", b"a\nb\n\n\n", IntegrityError, "line 3 is empty"),
        ("e.txt", b"a\n\nb\n\n", IntegrityError, "line 2 is empty"),
        ("e.txt", b"\n", IntegrityError, "line 1 is empty"),
        ("e.txt", b"a\nb\n\xe4\n", IntegrityError, "line 3 is not UTF-8"),
        ("e.txt", b"a\n" + b"b" * (1 << 20) + b"c\n", IntegrityError, "line 2 has 1,048,577 bytes"),
        ("e.json", b'["a", ""]', IntegrityError, "item 2 is empty"),
        ("e.json", b'["a", 5]', IntegrityError, "item 2 is 5, not a string"),
        ("e.json", b'["\\ud800"]', IntegrityError, "item 1 holds half a surrogate pair"),
        ("e.json", b'{"a": 1}', IntegrityError, "holds dict"),
        ("e.json", b"[" * 100_000, IntegrityError, "not valid JSON"),
        ("e.json", b'["a"', IntegrityError, "not valid JSON"),
    ],
)
def test_lists_that_cannot_be_used(
    tmp_path: Path, name: str, data: bytes, error: type[HeadwaterError], words: str
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(error, match=words):
        Scorer(Config(entries=tmp_path / name))


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\n\r\n"])
def test_one_empty_line_at_the_end_is_left_out_with_a_word(
    tmp_path: Path, end: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr("curate._entries.say", lambda level, text: said.append(text))
    (tmp_path / "e.txt").write_bytes(b"a\nb\n")
    plain = read_entries(tmp_path / "e.txt")
    assert not said
    (tmp_path / "e.txt").write_bytes(b"a\nb" + end)
    assert read_entries(tmp_path / "e.txt") == plain
    assert len(said) == 1 and "e.txt: the empty line at its end" in said[0]


def test_no_list() -> None:
    with pytest.raises(UsageError, match="needs a list"):
        Scorer(Config())
    with pytest.raises(MissingInput):
        Scorer(Config(entries=Path("nowhere.txt")))


def test_t_must_be_a_count(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="t is 0"):
        Scorer(Config(entries=listed(tmp_path, ["a"]), t=0))


def test_the_named_filter(tmp_path: Path) -> None:
    pool = pool_of(tmp_path / "p", TEXTS)
    listed(tmp_path, ["c", "d"])
    ready = prepare(Pool.open(pool), named_rule("metaclip", {"entries": "entries.txt", "t": 5}), tmp_path)
    outcome = filter_pool(ready, tmp_path / "s.npy", executor=Executor("serial", 1), options=RunOptions())
    assert to_hex(np.asarray(load_words(tmp_path / "s.npy"))) == [uid_of(4), uid_of(7)]
    assert outcome is not None
    with pytest.raises(UsageError, match="needs --param entries"):
        named_rule("metaclip", {})
