"""The filter engine against the oracle: random pools, random rules, every way to run them."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from curate import filtering
from curate.subset import from_hex, write_sorted
from headwater.errors import HeadwaterError, IntegrityError, MissingInput, UsageError
from tests import oracle
from tests.curate.filter_kit import random_pool, random_rule, run_filter, shuffled, uid, write_pool


def write_subset(path: Path, uids: list[str]) -> None:
    with open(path, "wb") as handle:
        write_sorted(handle, [from_hex(sorted(uids))] if uids else [])


def flagged(verdicts: list[oracle.Verdict]) -> list[tuple[str, str | None]]:
    return [(v.verdict, v.reason) for v in verdicts]


@pytest.fixture
def on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of kept uids go through files, as with a large pool."""
    monkeypatch.setattr(filtering, "IN_MEMORY_ROWS", -1)


# seeds do not shrink: a failing example is already small
EXAMPLES = settings(
    max_examples=30,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
    report_multiple_bugs=False,
)
PARTS = {
    "seed": st.integers(0, 2**32),
    "repeats": st.booleans(),
    "null_uids": st.booleans(),
    "shard_rows": st.lists(st.sampled_from([0, 1, 6, 7, 8, 14, 15]), min_size=1, max_size=4),
}


@EXAMPLES
@given(**PARTS)
def test_every_row_gets_the_verdict_of_the_oracle(
    seed: int, repeats: bool, null_uids: bool, shard_rows: list[int]
) -> None:
    agree(seed, repeats, null_uids, shard_rows)


@pytest.mark.slow
@pytest.mark.timeout(900)
@settings(EXAMPLES, max_examples=500)
@given(**PARTS)
def test_many_more_rows_get_the_verdict_of_the_oracle(
    seed: int, repeats: bool, null_uids: bool, shard_rows: list[int]
) -> None:
    agree(seed, repeats, null_uids, shard_rows)


def agree(seed: int, repeats: bool, null_uids: bool, shard_rows: list[int]) -> None:
    rng = random.Random(seed)
    pool = random_pool(rng, shard_rows=shard_rows, repeats=repeats, null_uids=null_uids)
    keep = random_rule(rng, repeats=repeats)
    members = [r["uid"] for r in pool.rows if r["uid"] and rng.random() < 0.6] + [uid(2**100)]
    try:
        verdicts = oracle.judge(pool.rows, keep, pool.kinds, {"some.npy": set(members)})
    except oracle.Refused:
        verdicts = None
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        write_subset(base / "some.npy", members)
        path = pool.write(base / "pool", rows_per_group=rng.choice([1, 5, 7, 100]))
        ran = run_filter(path, keep, base / "raw", base=base, reasons=True)
        if verdicts is None:
            assert type(ran.refused) is HeadwaterError
            assert "ask for less" in (ran.refused.hint or "")
            return
        assert ran.refused is None, ran.refused
        assert ran.uids == oracle.subset_of(pool.rows, verdicts, repeats=True)
        assert [row[2:] for row in ran.reasons] == flagged(verdicts)
        assert [row[:2] for row in ran.reasons] == [(r[oracle.SHARD], r[oracle.ROW]) for r in pool.rows]
        assert ran.counts is not None and ran.counts.read == len(pool.rows)
        expected = oracle.counts_of(verdicts, "dropped")
        assert ran.counts.dropped == {c["id"]: expected.get(c["id"], 0) for c in keep}
        assert ran.counts.invalid == oracle.counts_of(verdicts, "invalid")

        indexed = {"index": not null_uids, "unindexed": rng.randrange(2)}
        once = run_filter(path, keep, base / "once", base=base, keep_repeats=False, **indexed)
        assert once.uids == oracle.subset_of(pool.rows, verdicts, repeats=False)
        assert once.counts is not None
        assert once.counts.invalid.get("uid: occurs more than once", 0) == len(ran.uids) - len(once.uids)
        if repeats and "dedup" in str(keep):
            return  # which of several rows with one uid is kept follows the names of shards
        other = shuffled(pool, rng).write(base / "other", rows_per_group=4)
        again = run_filter(other, keep, base / "again", base=base, index=not null_uids and rng.random() < 0.5)
        assert again.data == ran.data
        assert again.counts is not None and again.counts == ran.counts


@pytest.mark.parametrize("seed", range(12))
def test_runs_kept_in_files_give_the_same_bytes(seed: int, tmp_path: Path, on_disk: None) -> None:
    rng = random.Random(seed)
    pool = random_pool(rng, shard_rows=[13, 0, 20], repeats=True, null_uids=True)
    keep = random_rule(rng, repeats=True)
    members = [r["uid"] for r in pool.rows[::2] if r["uid"]]
    write_subset(tmp_path / "some.npy", members)
    ran = run_filter(pool.write(tmp_path / "pool"), keep, tmp_path / "out", base=tmp_path, reasons=True)
    try:
        verdicts = oracle.judge(pool.rows, keep, pool.kinds, {"some.npy": set(members)})
    except oracle.Refused:
        assert ran.refused is not None
        return
    assert ran.uids == oracle.subset_of(pool.rows, verdicts, repeats=True)
    assert [row[2:] for row in ran.reasons] == flagged(verdicts)


RULES: dict[str, list[dict[str, Any]]] = {
    "row by row": [{"id": "a", "sql": "n_words > 2"}, {"id": "b", "sample": {"fraction": 0.7}}],
    "whole pool": [
        {"id": "a", "sql": "s is null or s < 0.25"},
        {"id": "b", "dedup": {"by": ["g"], "at_most": 5, "order": {"s": "desc"}}},
        {"id": "c", "exact_k": {"column": "original_width", "k": 3}},
    ],
    "nested": [{"id": "a", "any": [{"top": {"column": "s", "fraction": 0.2}}, {"not": {"sql": "b"}}]}],
}


@pytest.mark.parametrize("name", ["row by row", pytest.param("whole pool", marks=pytest.mark.slow), "nested"])
def test_worker_processes_give_the_same_bytes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = random_pool(random.Random(3), shard_rows=[30, 0, 20, 25], repeats=True, null_uids=True)
    path = pool.write(tmp_path / "pool")
    alone = run_filter(path, RULES[name], tmp_path / "alone", reasons=True)
    monkeypatch.setattr(filtering, "LIGHT_ROWS", 0)
    apart = run_filter(path, RULES[name], tmp_path / "apart", reasons=True, engine="pool")
    assert apart.refused is None and alone.refused is None
    assert (apart.data, apart.counts, apart.reasons) == (alone.data, alone.counts, alone.reasons)
    assert apart.details == alone.details


def tiny(folder: Path, **columns: Any) -> Path:
    length = len(next(iter(columns.values())))
    shards = {f"{i:08d}": slice(i * length // 2, (i + 1) * length // 2) for i in range(2)}
    tables = {
        name: pa.table(
            {"uid": [uid(n) for n in range(length)][part]} | {k: v[part] for k, v in columns.items()}
        )
        for name, part in shards.items()
    }
    return write_pool(folder, tables)


def numbers(uids: list[str]) -> list[int]:
    return [int(u, 16) for u in uids]


def test_exact_k_settles_ties_across_shards_by_the_lowest_uids(tmp_path: Path) -> None:
    path = tiny(tmp_path / "pool", s=pa.array([1.0] * 9 + [2.0], pa.float32()))
    ran = run_filter(path, [{"exact_k": {"column": "s", "k": 7}}], tmp_path / "out")
    assert numbers(ran.uids) == [0, 1, 2, 3, 4, 5, 9]


def test_top_of_survivors_counts_only_rows_that_got_this_far(tmp_path: Path) -> None:
    path = tiny(tmp_path / "pool", s=pa.array(range(20), pa.float32()))
    first = {"sql": "s < 10"}
    of = {s: {"top": {"column": "s", "fraction": 0.45, "of": s}} for s in ("pool", "survivors")}
    whole = run_filter(path, [first, of["pool"]], tmp_path / "whole")
    rest = run_filter(path, [first, of["survivors"]], tmp_path / "rest")
    assert numbers(whole.uids) == []  # the cut is at 10
    assert numbers(rest.uids) == [5, 6, 7, 8, 9]


def test_pool_wide_clauses_inside_any_all_not(tmp_path: Path) -> None:
    path = tiny(
        tmp_path / "pool", s=pa.array(range(20), pa.float32()), k=pa.array([i // 2 for i in range(20)])
    )
    top = {"top": {"column": "s", "fraction": 0.1}}
    keep = [{"any": [{"not": {"not": top}}, {"all": [{"sql": "s < 4"}, {"dedup": {"by": ["k"]}}]}]}]
    assert numbers(run_filter(path, keep, tmp_path / "out").uids) == [0, 2, 17, 18, 19]


def test_dedup_takes_missing_numbers_last_whichever_way(tmp_path: Path) -> None:
    scores = pa.array([float("nan"), 1.0, None, 3.0], pa.float32())
    path = tiny(tmp_path / "pool", g=pa.array(["x"] * 4), s=scores)
    for way, best in (("desc", 3), ("asc", 1)):
        keep = [{"dedup": {"by": ["g"], "order": {"s": way}}}]
        assert numbers(run_filter(path, keep, tmp_path / way).uids) == [best]


def test_the_cut_of_a_large_integer_is_exact(tmp_path: Path) -> None:
    path = tiny(tmp_path / "pool", n=pa.array([2**53, 2**53 + 1, 2**63 - 1, -(2**63)], pa.int64()))
    ran = run_filter(path, [{"exact_k": {"column": "n", "k": 2}}], tmp_path / "k")
    assert numbers(ran.uids) == [1, 2]
    ran = run_filter(path, [{"top": {"column": "n", "fraction": 0.25}}], tmp_path / "top")
    assert numbers(ran.uids) == [1, 2]
    ran = run_filter(path, [{"top": {"column": "n", "threshold": 2**53 - 0.5}}], tmp_path / "least")
    assert numbers(ran.uids) == [0, 1, 2]


def test_unsigned_integers_beyond_int64(tmp_path: Path) -> None:
    path = tiny(tmp_path / "pool", n=pa.array([2**64 - 1, 2**63, 5, 0], pa.uint64()))
    assert numbers(run_filter(path, [{"exact_k": {"column": "n", "k": 2}}], tmp_path / "k").uids) == [0, 1]
    assert numbers(run_filter(path, [{"in": {"column": "n", "values": [5, -1]}}], tmp_path / "in").uids) == [
        2
    ]


def test_a_pool_without_shards_or_rows(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    empty = {"a": pa.table({"uid": pa.array([], pa.string()), "s": pa.array([], pa.float32())})}
    write_pool(tmp_path / "empty", empty)
    keep = [{"sql": "s > 1"}, {"top": {"column": "s", "fraction": 0.3}}, {"dedup": {"by": ["s"]}}]
    for name in ("none", "empty"):
        ran = run_filter(tmp_path / name, keep, tmp_path / f"{name}-out", reasons=True)
        assert ran.refused is None and ran.uids == [] and len(ran.data) == 128
        assert ran.counts is not None and ran.counts.read == ran.counts.kept == 0


def test_refusals_come_before_any_work(tmp_path: Path) -> None:
    path = tiny(tmp_path / "pool", s=pa.array(range(8), pa.float32()), g=pa.array(list("aabbccdd")))
    other = pa.table({"uid": [uid(99)], "g": ["x"]})
    uneven = write_pool(tmp_path / "uneven", {"a": pa.table({"uid": [uid(1)], "s": [1.0]}), "b": other})
    cases: list[tuple[Path, list[Any], type[HeadwaterError], str]] = [
        (path, [{"sql": "scoer > 1"}], UsageError, "'scoer'"),
        (
            path,
            [{"id": "x", "exact_k": {"column": "g", "k": 1}}],
            UsageError,
            "clause x: column 'g' is string",
        ),
        (path, [{"id": "x", "in": {"column": "s", "values": ["one"]}}], UsageError, "clause x: values"),
        (path, [{"sql": "g > 1"}], UsageError, "clause"),
        (path, [{"in": {"subset": "nowhere.npy"}}], MissingInput, "nowhere.npy"),
        (
            path,
            [{"sql": "clip_b32_similarity_score > 0"}],
            UsageError,
            "no column 'clip_b32_similarity_score'",
        ),
        (uneven, [{"sql": "s > 0"}], IntegrityError, "column 's' is missing"),
        (path, [{"id": str(i), "sql": "s > 0"} for i in range(121)], UsageError, "at most 120"),
    ]
    for number, (pool, keep, kind, text) in enumerate(cases):
        work = tmp_path / str(number)
        ran = run_filter(pool, keep, work)
        assert type(ran.refused) is kind, (keep, ran.refused)
        assert text in str(ran.refused)
        assert not (work / "out.npy").exists()


def test_more_rows_wanted_than_have_a_number(tmp_path: Path) -> None:
    path = tiny(tmp_path / "pool", s=pa.array([1.0, None, float("nan"), 2.0], pa.float32()))
    for body in ({"exact_k": {"column": "s", "k": 3}}, {"top": {"column": "s", "fraction": 0.6}}):
        ran = run_filter(path, [{"id": "best", **body}], tmp_path / next(iter(body)))
        assert type(ran.refused) is HeadwaterError
        assert "asks for 3 of 4 rows, but only 2 have a number in s" in str(ran.refused)


def test_the_funnel_closes_and_tells_the_cut(tmp_path: Path) -> None:
    path = tiny(tmp_path / "pool", s=pa.array(np.arange(10) / 10, pa.float32()))
    keep = [{"id": "low", "sql": "s < 0.8"}, {"id": "top", "top": {"column": "s", "fraction": 0.5}}]
    ran = run_filter(path, keep, tmp_path / "out")
    funnel = ran.details["funnel"]
    assert [(f["id"], f["kind"], f["in"], f["out"]) for f in funnel] == [
        ("low", "sql", 10, 8),
        ("top", "top", 8, 4),
    ]
    assert funnel[1]["column"] == "s" and funnel[1]["cut"] == float(np.float32(0.4))
    assert ran.counts is not None and ran.counts.kept == 4 == len(ran.uids)


def test_a_malformed_uid_is_refused_by_shard_and_row(tmp_path: Path) -> None:
    good = [uid(n) for n in range(9)]
    for number, bad in enumerate(["", "0" * 31, "0" * 33, "G" * 32, "A" * 32, " " * 32]):
        path = write_pool(tmp_path / f"p{number}", {"s1": pa.table({"uid": [*good, bad]})})
        ran = run_filter(path, [], tmp_path / f"o{number}")
        assert isinstance(ran.refused, IntegrityError)
        assert "shard s1, column uid, row 9" in str(ran.refused)


@pytest.mark.parametrize(
    "kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())], ids=str
)
def test_uids_in_other_string_types(kind: pa.DataType, tmp_path: Path) -> None:
    plain = pa.array([uid(n) for n in range(20)])
    other = plain.dictionary_encode() if pa.types.is_dictionary(kind) else plain.cast(kind)
    table = pa.table({"uid": other, "s": pa.array(range(20), pa.float32())})
    path = write_pool(tmp_path / "pool", {"a": table})
    for index in (False, True):
        work = tmp_path / f"out{index}"
        ran = run_filter(path, [{"exact_k": {"column": "s", "k": 3}}], work, reasons=True, index=index)
        assert ran.refused is None, ran.refused
        assert numbers(ran.uids) == [17, 18, 19] and len(ran.reasons) == 20
