"""Exact duplicates against naive dicts: the two looks apart, whole filters over raw shards and the index, and page readers."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from curate import _exact_dedup, _exact_dedup_pages, _exact_dedup_questions, index
from curate._exact_dedup import Surplus, candidates, crowded, runs_above, write_keys
from curate._exact_dedup_pages import UidsByRow, chosen_digests, chosen_uids, digests, heads
from curate.index import build_index, index_view
from curate.pool import Pool
from curate.views import RawView
from headwater.errors import IntegrityError, UsageError
from headwater.executor import Executor
from tests.curate.filter_kit import listening, ready, run_filter

ONE_FOLDER = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
keys64 = st.integers(0, 2**64 - 1) | st.integers(0, 3) | st.sampled_from([2**64 - 1, 2**63, 5 << 60])


def digest(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


@given(st.lists(keys64, max_size=50), st.integers(0, 8))
def test_crowded_places_hold_all_that_repeats(keys: list[int], bits: int) -> None:
    found = set(crowded(np.array(keys, np.uint64), bits).tolist())
    counts = Counter(key >> bits for key in keys)
    assert {place for place, key in enumerate(keys) if counts[key >> bits] > 1} <= found


@given(st.lists(st.integers(0, 5), max_size=30), st.integers(1, 4))
def test_runs_above(values: list[int], at_most: int) -> None:
    values.sort()
    found = runs_above(np.array(values, np.int64), at_most).tolist()
    assert found == [values.count(value) > at_most for value in values]


@ONE_FOLDER
@given(
    st.lists(st.lists(keys64, max_size=12), max_size=5),
    st.integers(1, 3),
    st.sampled_from([(1, 1), (1, 1 << 20), (4, 8), (1 << 15, 4 << 20)]),
)
@example([[7] * 9, [7] * 9, [8]], 2, (1, 1))
def test_candidates_are_rows_whose_hash_repeats_too_often(
    tmp_path: Path, shards: list[list[int]], at_most: int, sizes: tuple[int, int]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_exact_dedup, "CACHE_ROWS", sizes[0])
        patch.setattr(_exact_dedup, "ROWS_AT_ONCE", sizes[1])
        parts = []
        for number, hashes in enumerate(shards):
            rows = np.arange(len(hashes))[::-1].copy()  # in any order of rows
            file = tmp_path / str(number)
            made = np.array(hashes[::-1], np.uint64)
            parts.append(write_keys(f"s{number}", len(hashes), made, rows, np.zeros(0, np.int64), file))
        files = candidates(parts, at_most, tmp_path, "n")
    equal, alike = (Counter(h >> bits for hashes in shards for h in hashes) for bits in (0, 32))
    for number, hashes in enumerate(shards):
        found = set(np.load(files[f"s{number}"]).tolist()) if f"s{number}" in files else set()
        # the last bits may add candidates, never lose one
        assert {row for row, h in enumerate(hashes) if equal[h] > at_most} <= found
        assert found <= {row for row, h in enumerate(hashes) if alike[h >> 32] > at_most}


rows_of_table = st.lists(
    st.tuples(
        st.integers(0, 3),  # key
        st.sampled_from([None, -1.0, 0.0, -0.0, 2.5, float("nan")]),
        st.integers(0, 2),  # uid, high
        st.integers(0, 2),  # low
        st.integers(0, 2),  # part
    ),
    max_size=30,
)


@pytest.mark.parametrize("kind", ["digest", "text", "pair", "nested"])
@settings(deadline=None)
@given(
    rows=rows_of_table,
    way=st.sampled_from([None, "asc", "desc"]),
    at_most=st.integers(1, 2),
    batch=st.integers(1, 30),
)
def test_surplus_is_what_a_dict_says(
    kind: str, rows: list[Any], way: str | None, at_most: int, batch: int
) -> None:
    def columns(some: list[tuple[int, Any]]) -> dict[str, Any]:
        key = [row[0] for _, row in some]
        if kind == "digest":  # all agree in 128 bits
            made = {"k0": pa.array([bytes(31) + bytes([k]) for k in key], pa.binary(32))}
        elif kind == "text":
            made = {"k0": pa.array([f"key {k}" for k in key], pa.large_string())}
        elif kind == "pair":
            made = {
                "k0": pa.array([k // 2 for k in key], pa.int64()),
                "k1": pa.array([-0.0 if k % 2 and i % 2 else float(not k % 2) for i, k in enumerate(key)]),
            }
        else:
            made = {"k0": pa.array([[[0.5] * k] for k in key], pa.list_(pa.list_(pa.float64())))}
        if way:
            made["o0"] = pa.array([row[1] for _, row in some], pa.float32(), from_pandas=False)
        for name, place in (("uid_hi", 2), ("uid_lo", 3)):
            made[name] = pa.array([row[place] for _, row in some], pa.uint64())
        made["part"] = pa.array([row[4] for _, row in some], pa.int32())
        made["row"] = pa.array([number for number, _ in some], pa.int64())
        return made

    surplus = Surplus(2 if kind == "pair" else 1, [way] if way else [], at_most)
    found: list[int] = []
    numbered = list(enumerate(rows))
    for first in range(0, len(rows), batch):
        found += surplus.add(pa.table(columns(numbered[first : first + batch])))["row"].to_pylist()

    def rank(number: int) -> tuple[Any, ...]:
        _, value, hi, lo, part = rows[number]
        none = value is None or value != value
        return (
            *((none, 0 if none else value if way == "asc" else -value) if way else ()),
            hi,
            lo,
            part,
            number,
        )

    groups = defaultdict(list)
    for number in sorted(range(len(rows)), key=rank):
        groups[rows[number][0]].append(number)
    assert sorted(found) == sorted(n for group in groups.values() for n in group[at_most:])


hex_values = st.sampled_from(
    [None, "", "0" * 63, "0" * 65, "g" + "0" * 63, "0" * 63 + "g", " " + "0" * 63, "é" * 32]
    + [digest(i) for i in range(3)]
    + [digest(i).upper() for i in range(3)]
    + [digest(0)[:32] + "0" * 32, digest(0)[:16] + "f" * 48]
)


def is_hex(value: str | None) -> bool:
    return value is not None and len(value) == 64 and all(c in "0123456789abcdefABCDEF" for c in value)


@given(st.lists(hex_values, max_size=20), st.sampled_from(["string", "large", "dictionary", "sliced"]))
def test_digests_are_64_hex_digits_in_either_case(values: list[str | None], kind: str) -> None:
    array = pa.array(values, pa.large_string() if kind == "large" else pa.string())
    if kind == "dictionary":
        array = array.dictionary_encode()
    if kind == "sliced":
        array = pa.array([digest(9), *values], pa.string()).slice(1)
    words, bad = digests(array)
    for number, value in enumerate(values):
        assert (bad is not None and bool(bad[number])) == (not is_hex(value))
        expected = bytes.fromhex(value) if is_hex(value) and value else bytes(32)
        assert words[number].astype(">u8").tobytes() == expected


def write(folder: Path, columns: dict[str, list[Any]], *, shards: int = 2, **options: Any) -> Path:
    folder.mkdir(parents=True)
    table = pa.table(columns)
    step = -(-table.num_rows // shards)
    for number in range(shards):
        pq.write_table(table.slice(number * step, step), folder / f"{number:08d}.parquet", **options)
    return folder


WRITERS: list[dict[str, Any]] = [
    {"row_group_size": 50},
    {"use_dictionary": False, "data_page_size": 2000, "compression": "none"},
    {"compression": "zstd", "data_page_version": "2.0"},
    {
        "use_dictionary": False,
        "column_encoding": {"sha256": "DELTA_BYTE_ARRAY", "uid": "PLAIN", "v": "PLAIN"},
    },
    {"dictionary_pagesize_limit": 1000, "data_page_size": 1500, "write_batch_size": 16},
]


@pytest.mark.parametrize("number", range(len(WRITERS)))
@pytest.mark.parametrize("odd", ["none", "null", "upper", "broken"])
def test_pages_and_arrow_give_the_same_digests_and_uids(tmp_path: Path, number: int, odd: str) -> None:
    n = 180
    values: list[str | None] = [digest(i % 100) for i in range(n)]
    values[77] = {"none": values[77], "null": None, "upper": digest(77).upper(), "broken": "x" * 64}[odd]
    uids = [hashlib.md5(str(i).encode()).hexdigest() for i in range(n)]
    pool = Pool.open(
        write(
            tmp_path / "pool",
            {"uid": uids, "sha256": values, "v": list(range(n))},
            shards=1,
            **WRITERS[number],
        )
    )
    first = 0
    for block in RawView(pool.shards[0], {}).blocks():
        mine = values[first : first + block.rows]
        found = heads(block, "sha256")
        assert found is not None
        words, bad = found
        for row, value in enumerate(mine):
            assert (bad is not None and bool(bad[row])) == (not is_hex(value))
            assert not is_hex(value) or int(words[row]) == int(str(value)[:16], 16)
        rows = np.array([row for row in range(0, block.rows, 3) if is_hex(mine[row])])
        chosen = chosen_digests(block, "sha256", rows)
        if chosen is not None:
            assert [w.astype(">u8").tobytes().hex() for w in chosen] == [str(mine[r]).lower() for r in rows]
        some = chosen_uids(block, rows)
        if some is not None:
            assert [w.astype(">u8").tobytes().hex() for w in some] == [uids[first + r] for r in rows]
        if odd == "none" and number in (0, 1, 4):
            assert chosen is not None and some is not None  # the fast way was taken
        first += block.rows
    build_index(pool, Executor("serial"))
    view = index_view(pool.cache, pool.shards[0], pool.digests(pool.shards[0]).sha256)
    assert view is not None
    by_row = UidsByRow(view)(np.array([3, 0, 99]))
    assert by_row is not None
    assert [w.astype(">u8").tobytes().hex() for w in by_row] == [uids[3], uids[0], uids[99]]
    whole = sum((heads(b, "sha256")[1] is not None for b in view.blocks()), 0)  # type: ignore[index]
    assert bool(whole) == (odd in ("null", "broken"))


def naive(
    values: list[str | None], scores: list[float | None], uids: list[str], way: str | None
) -> tuple[set[str], int]:
    """Uids kept once per digest, and how many rows have none."""
    groups = defaultdict(list)
    for value, score, uid in zip(values, scores, uids, strict=True):
        if is_hex(value):
            rank = (score is None, 0 if score is None else score if way == "asc" else -score) if way else ()
            groups[str(value).lower()].append((*rank, uid))
    return {min(group)[-1] for group in groups.values()}, sum(not is_hex(v) for v in values)


@settings(ONE_FOLDER, max_examples=12)
@given(
    values=st.lists(hex_values, min_size=1, max_size=24),
    data=st.data(),
    way=st.sampled_from([None, "asc", "desc"]),
)
def test_a_filter_keeps_what_a_dict_keeps(
    tmp_path_factory: pytest.TempPathFactory, values: list[str | None], data: st.DataObject, way: str | None
) -> None:
    n, folder = len(values), tmp_path_factory.mktemp("dedup")
    scores = data.draw(st.lists(st.sampled_from([None, 0.25, 0.5]), min_size=n, max_size=n))
    uids = [hashlib.md5(str(i).encode()).hexdigest() for i in range(n)]
    columns = {"uid": uids, "sha256": pa.array(values, pa.string()), "score": pa.array(scores, pa.float32())}
    pool = write(folder / "pool", columns, shards=data.draw(st.integers(1, 3)), row_group_size=7)
    keep = [{"id": "once", "dedup": {"by": ["sha256"], "order": {"score": way} if way else {}}}]
    expected, without = naive(values, scores, uids, way)
    runs = [
        run_filter(pool, keep, folder / "raw"),
        run_filter(pool, keep, folder / "reasons", reasons=True),
        run_filter(pool, keep, folder / "index", index=True),
        run_filter(pool, keep, folder / "mixed", index=True, unindexed=1),
    ]
    for ran in runs:
        assert ran.refused is None and ran.counts is not None
        assert set(ran.uids) == expected and len(ran.uids) == len(expected)
        assert sum(ran.counts.invalid.values()) == without
    verdicts = Counter(verdict for _, _, verdict, _ in runs[1].reasons)
    assert verdicts["kept"] == len(expected) and verdicts["invalid"] == without


def test_other_columns_are_compared_as_they_are(tmp_path: Path) -> None:
    """Case and length matter in every column that is not called sha256."""
    uids = [f"{i:032x}" for i in range(4)]
    pool = write(tmp_path / "pool", {"uid": uids, "md5": ["ab", "AB", "ab", ""]})
    ran = run_filter(pool, [{"dedup": {"by": ["md5"]}}], tmp_path / "run")
    assert ran.uids == [uids[0], uids[1], uids[3]]


def test_sha256_beside_another_column_is_folded_too(tmp_path: Path) -> None:
    uids = [f"{i:032x}" for i in range(5)]
    columns = {
        "uid": uids,
        "sha256": [digest(1), digest(1).upper(), digest(1), "", digest(2)],
        "g": [1, 1, 2, 1, 1],
    }
    ran = run_filter(
        write(tmp_path / "pool", columns), [{"id": "x", "dedup": {"by": ["sha256", "g"]}}], tmp_path / "run"
    )
    assert ran.uids == [uids[0], uids[2], uids[4]]
    assert ran.counts is not None and sum(ran.counts.invalid.values()) == 1


def test_a_list_column_can_be_a_key_but_has_no_order(tmp_path: Path) -> None:
    uids = [f"{i:032x}" for i in range(3)]
    pool = write(tmp_path / "pool", {"uid": uids, "boxes": [[[0.5]], [[0.5]], []]})
    assert run_filter(pool, [{"dedup": {"by": ["boxes"]}}], tmp_path / "run").uids == [uids[0], uids[2]]
    with pytest.raises(UsageError, match="has no order"):
        ready(pool, [{"dedup": {"by": ["uid"], "order": {"boxes": "asc"}}}], cache=tmp_path / "cache")


def test_candidates_beyond_memory_are_compared_range_by_range(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    n = 300
    uids = [hashlib.md5(str(i).encode()).hexdigest() for i in range(n)]
    values = [digest(i % 90 if i < 200 else 7) for i in range(n)]
    pool = write(tmp_path / "pool", {"uid": uids, "sha256": values}, shards=5, row_group_size=23)
    usual = run_filter(pool, [{"dedup": {"by": ["sha256"], "at_most": 2}}], tmp_path / "usual")
    for module in (_exact_dedup_questions, _exact_dedup):
        monkeypatch.setattr(module, "ROWS_AT_ONCE", 20)
    small = run_filter(pool, [{"dedup": {"by": ["sha256"], "at_most": 2}}], tmp_path / "small")
    assert small.uids == usual.uids
    counts = Counter(values[uids.index(uid)] for uid in usual.uids)
    assert counts == {value: min(count, 2) for value, count in Counter(values).items()}


def test_the_index_answers_both_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an index no page of digests or uids is read again; digests that share 64, 128 or 192 bits stay apart."""
    n = 400
    uids = [hashlib.md5(str(i).encode()).hexdigest() for i in range(n)]
    alike = [digest(0)[:same] + digest(i)[same:] for i in range(1, 40) for same in (0, 16, 32, 48)]
    values: list[str | None] = [alike[i * 7 % len(alike)] for i in range(n)]
    values[5], values[17] = None, "x"
    scores = [float(i * 13 % 50) for i in range(n)]
    columns = {"uid": uids, "sha256": values, "score": pa.array(scores, pa.float32())}
    pool = write(tmp_path / "pool", columns, row_group_size=70)
    read: list[str] = []
    chosen = _exact_dedup_pages._chosen

    def spy(block: Any, name: str, *rest: Any) -> Any:
        read.append(name)
        return chosen(block, name, *rest)

    monkeypatch.setattr(_exact_dedup_pages, "_chosen", spy)
    keep = [{"dedup": {"by": ["sha256"], "order": {"score": "desc"}}}]
    expected, _ = naive(values, list(scores), uids, "desc")
    assert set(run_filter(pool, keep, tmp_path / "raw").uids) == expected and read
    read.clear()
    assert set(run_filter(pool, keep, tmp_path / "index", index=True).uids) == expected
    assert not read


def test_an_index_of_another_version_is_ignored_with_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uids = [f"{i:032x}" for i in range(3)]
    path = write(tmp_path / "pool", {"uid": uids, "sha256": [digest(1), digest(1), digest(2)]}, shards=1)
    monkeypatch.setattr(index, "VERSION", 1)
    pool = Pool.open(path)
    build_index(pool, Executor("serial"))
    monkeypatch.undo()
    with listening() as heard:
        ran = run_filter(path, [{"dedup": {"by": ["sha256"]}}], tmp_path / "run", cache=pool.cache)
    assert ran.uids == [uids[0], uids[2]]
    assert any("another version made it" in text for text in heard.warnings)


def test_a_damaged_page_of_digests_is_named(tmp_path: Path) -> None:
    n = 2000
    uids = [hashlib.md5(str(i).encode()).hexdigest() for i in range(n)]
    path = write(
        tmp_path / "pool",
        {"uid": uids, "sha256": [digest(i % 1500) for i in range(n)]},
        shards=1,
        use_dictionary=False,
    )
    file = path / "00000000.parquet"
    facts = pq.read_metadata(file).row_group(0).column(1)
    body = bytearray(file.read_bytes())
    for place in range(facts.data_page_offset + 40, facts.data_page_offset + facts.total_compressed_size, 97):
        body[place] ^= 0xFF
    file.write_bytes(body)
    pool = Pool.open(path)
    with pytest.raises(IntegrityError, match="sha256"):
        for block in RawView(pool.shards[0], {}).blocks():
            heads(block, "sha256")
