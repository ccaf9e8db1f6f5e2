"""Uids that are repeated or malformed, and sizes out of the ordinary (rows 27 to 29 of the catalogue)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.faults import kit
from tests.faults.kit import EVERYTHING, kept, select, with_uids

# row 27


def test_row_27_a_uid_that_occurs_twice_is_reported_and_kept_once(tmp_path: Path) -> None:
    pool = kit.write_pool(tmp_path / "pool", [kit.rows([1, 2, 2, 3]), kit.rows([3, 4]), kit.rows([3])])
    everything = EVERYTHING
    done = select(pool, tmp_path, everything)
    assert done.code == 3 and "3 × uid: occurs more than once" in done.err
    for number, places in (
        (2, ("00000000, row 1", "00000000, row 2")),
        (3, ("00000000, row 3", "00000001, row 0", "00000002, row 0")),
    ):
        told = next(line for line in done.err.splitlines() if kit.uid(number) in line)
        assert all(place in told for place in places)
    assert kit.words(tmp_path / "out.npy") == sorted(kit.uid(n) for n in (1, 2, 3, 4))
    assert kit.closes(tmp_path / "out.npy").identity.counts.invalid == {"uid: occurs more than once": 3}
    assert select(pool, tmp_path, everything, options=("--allow-invalid",)).code == 0
    done = select(pool, tmp_path, everything, options=("--keep-repeated-uids",))
    assert done.code == 0
    assert kit.words(tmp_path / "out.npy") == sorted(kit.uid(n) for n in (1, 2, 2, 3, 3, 3, 4))
    kit.closes(tmp_path / "out.npy")


def test_row_27_with_the_index_too(tmp_path: Path) -> None:
    pool = kit.write_pool(tmp_path / "pool", [kit.rows([1, 2, 2, 3]), kit.rows([3, 4])])
    assert kit.run("pool", "index", pool).code == 0
    done = select(pool, tmp_path, EVERYTHING)
    assert done.code == 3 and "2 × uid: occurs more than once" in done.err
    assert kit.words(tmp_path / "out.npy") == sorted(kit.uid(n) for n in (1, 2, 3, 4))


# row 28

GOOD = kit.uid(7)
BAD = {
    "31 digits": GOOD[:31],
    "33 digits": GOOD + "0",
    "upper case": GOOD.upper(),
    "not hex": "g" + GOOD[1:],
    "leading blank": " " + GOOD[1:],
    "0x": "0x" + GOOD[2:],
    "empty": "",
    "no-break space": "\u00a0" + GOOD[2:],
    "full-width digits": "１" + GOOD[3:],
    "newline": GOOD[:31] + "\n",
    "with dashes": f"{GOOD[:8]}-{GOOD[8:12]}-{GOOD[12:16]}-{GOOD[16:20]}-{GOOD[20:]}",
    "NUL": GOOD[:31] + "\0",
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
@pytest.mark.parametrize("encoding", [True, False], ids=["dictionary", "plain"])
def test_row_28_a_malformed_uid_refuses_the_pool_by_row(bad: str, encoding: bool, tmp_path: Path) -> None:
    table = with_uids([kit.uid(0), kit.uid(1), bad, kit.uid(3)])
    # the second row group, so that the row is counted from the start of the shard
    pool = kit.write_pool(
        tmp_path / "pool", [kit.rows(range(50, 60)), table], use_dictionary=encoding, row_group_size=2
    )
    done = select(pool, tmp_path, EVERYTHING)
    assert done.code == 13, done
    assert "shard 00000001, column uid, row 2" in done.err and "32 lower-case hex digits" in done.err
    assert "pool validate" in done.err
    kit.nothing_at(tmp_path / "out.npy")
    index = kit.run("pool", "index", pool)
    assert index.code == 13 and "shard 00000001, column uid, row 2" in index.err
    assert kit.temporaries(tmp_path) == []


@pytest.mark.parametrize("kind", [pa.int64(), pa.list_(pa.string())], ids=str)
def test_row_28_uids_of_another_type_refuse_the_pool(kind: Any, tmp_path: Path) -> None:
    values = [1, 2] if kind == pa.int64() else [[kit.uid(0)], [kit.uid(1)]]
    pool = kit.write_pool(tmp_path / "pool", [kit.rows(range(2), uid=pa.array(values, kind))])
    done = select(pool, tmp_path, EVERYTHING)
    assert done.code == 13 and "shard 00000000" in done.err and "uid" in done.err, done
    kit.nothing_at(tmp_path / "out.npy")


def test_row_28_other_types_that_hold_the_same_digits_are_fine(tmp_path: Path) -> None:
    plain = pa.array([kit.uid(n) for n in range(4)], pa.string())
    kinds = (pa.string(), pa.large_string(), pa.string_view(), pa.binary())
    for n, column in enumerate([*map(plain.cast, kinds), plain.dictionary_encode()]):
        pool = kit.write_pool(tmp_path / f"pool{n}", [kit.rows(range(4), uid=column)])
        done = select(pool, tmp_path, EVERYTHING)
        assert done.code == 0, (column.type, done)
        assert kept(tmp_path / "out.npy") == {0, 1, 2, 3}


# row 29

SIZES = [200, 0, -1, None, 2**31, 65536, 65535, 2**32, -(2**63), 2**63 - 1]


@pytest.mark.parametrize("index", [False, True], ids=["raw", "index"])
def test_row_29_sizes_out_of_the_ordinary_are_neither_wrapped_nor_divided_by(
    index: bool, tmp_path: Path
) -> None:
    n = len(SIZES)
    table = kit.rows(
        range(n), original_width=pa.array(SIZES, pa.int64()), original_height=pa.array([200] * n, pa.int64())
    )
    pool = kit.write_pool(tmp_path / "pool", [table])
    if index:
        assert kit.run("pool", "index", pool).code == 0
    for sql, wanted, invalid in [
        ("original_width >= 200", {0, 4, 5, 6, 7, 9}, 1),
        ("original_width = 65536", {5}, 1),
        ("original_width < 0", {2, 8}, 1),
        ("original_height / original_width <= 1.0", {0, 2, 4, 5, 6, 7, 8, 9}, 1),  # 200 / 0 is infinite
        ("greatest(original_width, original_height) / least(original_width, original_height) <= 3.0", None, None),
    ]:  # fmt: skip
        done = select(pool, tmp_path, f"{{id: size, sql: '{sql}'}}")
        assert done.code in (0, 3), done
        step = kit.closes(tmp_path / "out.npy")
        assert step.details["shards_from_index"] == int(index)
        if wanted is not None:
            assert kept(tmp_path / "out.npy") == wanted, sql
            assert step.identity.counts.invalid == {"size: null or NaN": invalid}, sql
        else:
            answers = tmp_path / "without.npy"
            kit.run(
                "filter-pool", pool, "-o", answers, "--rule", tmp_path / "rule.yaml", "--no-index", "--force"
            )
            assert answers.read_bytes() == (tmp_path / "out.npy").read_bytes()
            assert kit.record(answers).identity.counts == step.identity.counts


def test_row_29_the_index_takes_the_narrowest_type_that_holds_all(tmp_path: Path) -> None:
    for name, top, kind in (
        ("a", 65535, pa.uint16()),
        ("b", 65536, pa.uint32()),
        ("c", 2**32, pa.int64()),
        ("d", -5, pa.int64()),
    ):
        pool = kit.write_pool(
            tmp_path / name, [kit.rows(range(2), original_width=pa.array([1, top], pa.int64()))]
        )
        assert kit.run("pool", "index", pool).code == 0
        field = pq.read_schema(pool / ".headwater" / "index" / "00000000.parquet").field("original_width")
        assert field.type == kind, name
        assert select(pool, tmp_path, f"{{id: it, sql: original_width = {top}}}").code == 0
        assert kept(tmp_path / "out.npy") == {1}
