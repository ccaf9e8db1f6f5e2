"""Fault rows 40–43: crafted collisions, odd hashes, one caption a million times, permuted rows and renamed shards."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.faults.kit import closes, kept, rows, run, select, uid, words, write_pool

ONCE = "{id: once, dedup: {by: [sha256]}}"


def sha(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def hashes(values: list[str | None], shards: int = 2) -> list[pa.Table]:
    step = -(-len(values) // shards)
    return [
        rows(
            range(first, min(first + step, len(values))),
            sha256=pa.array(values[first : first + step], pa.string()),
        )
        for first in range(0, len(values), step)
    ]


@pytest.fixture(params=["raw", "index"])
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def filtered(pool: Path, folder: Path, way: str, *options: object) -> set[int]:
    if way == "index":
        assert run("pool", "index", pool).code == 0
    done = select(pool, folder, ONCE, options=options)
    assert done.code == 0, done.said
    closes(folder / "out.npy")
    return kept(folder / "out.npy")


@pytest.mark.parametrize("digits", [16, 32, 63])
def test_row_40_equal_beginnings_are_not_equal_hashes(tmp_path: Path, way: str, digits: int) -> None:
    """64-bit and 128-bit prefixes agree, and all but the last digit."""
    first, other = sha(1), sha(2)
    crafted = [first[:digits] + ("0" if first[-1] != "0" else "1") * (64 - digits), first, other, first]
    pool = write_pool(tmp_path / "pool", hashes(crafted))
    found = filtered(pool, tmp_path, way)
    assert {0, 2} <= found and len(found & {1, 3}) == 1 and len(found) == 3
    assert min((uid(1), 1), (uid(3), 3))[1] in found


def test_row_40_a_thousand_hashes_of_one_prefix(tmp_path: Path, way: str) -> None:
    head = sha(0)[:32]
    values: list[str | None] = [head + f"{n % 500:032x}" for n in range(1000)]
    assert len(filtered(write_pool(tmp_path / "pool", hashes(values, 3)), tmp_path, way)) == 500


def test_row_41_all_equal_is_one_row(tmp_path: Path, way: str) -> None:
    pool = write_pool(tmp_path / "pool", hashes([sha(1)] * 200))
    assert filtered(pool, tmp_path, way) == {min(range(200), key=uid)}


def test_row_41_all_distinct_is_every_row(tmp_path: Path, way: str) -> None:
    pool = write_pool(tmp_path / "pool", hashes([sha(n) for n in range(200)]))
    assert filtered(pool, tmp_path, way) == set(range(200))


def test_row_41_upper_case_is_folded(tmp_path: Path, way: str) -> None:
    mixed = sha(1)[:32].upper() + sha(1)[32:]
    pool = write_pool(tmp_path / "pool", hashes([sha(1), sha(1).upper(), mixed, sha(2).upper()]))
    assert filtered(pool, tmp_path, way) == {min((0, 1, 2), key=uid), 3}


def test_row_41_no_hash_is_an_invalid_row(tmp_path: Path, way: str) -> None:
    odd: list[str | None] = ["", None, "0" * 63, sha(1)[:-1] + "g", " " * 64, "not a hash"]
    pool = write_pool(tmp_path / "pool", hashes([sha(1), *odd, sha(1)]))
    if way == "index":
        assert run("pool", "index", pool).code == 0
    done = select(pool, tmp_path, ONCE)
    assert done.code == 3, done.said
    step = closes(tmp_path / "out.npy")
    assert sum(step.identity.counts.invalid.values()) == len(odd)
    assert kept(tmp_path / "out.npy") == {min((0, 7), key=uid)}


@pytest.mark.slow
def test_row_42_one_caption_a_million_times_and_captions_of_one_word(tmp_path: Path) -> None:
    """Repeats are one set, words alone never meet: the work stays linear, and the order does not matter."""
    n = 1_000_000
    raw = np.random.default_rng(0).bytes(16 * (n + 50_000)).hex()
    uids = pa.array([raw[32 * i : 32 * i + 32] for i in range(n + 50_000)])
    text = pa.array(["one caption"] * n + [f"word{i}" for i in range(50_000)])
    table = pa.table({"uid": uids, "text": text})
    backwards = table.take(pa.array(np.arange(table.num_rows)[::-1]))
    found = []
    for name, some in (("forth", table), ("back", backwards)):
        pool = write_pool(tmp_path / name, [some])
        out = tmp_path / f"{name}.npy"
        done = run("filter-pool", pool, "-o", out, "--name", "near_duplicate_captions")
        assert done.code == 0, done.said
        found.append(out.read_bytes())
        assert len(np.load(out)) == 50_001
    assert found[0] == found[1]


def near_captions(count: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    texts = [" ".join(f"w{w}" for w in rng.integers(0, 60, rng.integers(1, 9))) for _ in range(count // 2)]
    for source in rng.integers(0, len(texts), count - len(texts)):
        texts.append(f"{texts[source]} w{rng.integers(0, 60)}")
    return texts


@pytest.mark.parametrize("order", ["", "best=original_width"])
def test_row_43_rows_permuted_and_shards_renamed_leave_the_same_survivors(tmp_path: Path, order: str) -> None:
    texts, rng = near_captions(400, 1), np.random.default_rng(2)
    whole = rows(range(400), text=pa.array(texts))
    found = set()
    for number, cut in enumerate(([400], [100, 300], [7, 193, 200])):
        table = whole if not number else whole.take(pa.array(rng.permutation(400)))
        ends = np.cumsum([0, *cut])
        names = {f"{'zma'[i]}-{number}": table.slice(ends[i], cut[i]) for i in range(len(cut))}
        pool, out = write_pool(tmp_path / str(number), names), tmp_path / f"{number}.npy"
        more = ("--param", order) if order else ()
        done = run("filter-pool", pool, "-o", out, "--name", "near_duplicate_captions", *more)
        assert done.code == 0, done.said
        found.add(tuple(words(out)))
        closes(out)
    assert len(found) == 1
    assert 50 < len(next(iter(found))) < 400


def test_row_43_exact_duplicates_in_any_layout(tmp_path: Path) -> None:
    values: list[str | None] = [sha(n % 70) for n in range(200)]
    whole = rows(range(200), sha256=pa.array(values))
    found = set()
    for number in range(3):
        order = np.random.default_rng(number).permutation(200)
        table = whole.take(pa.array(order))
        pool = write_pool(
            tmp_path / str(number), {"b": table.slice(0, 90 + number), "a": table.slice(90 + number)}
        )
        out = tmp_path / f"{number}.npy"
        assert run("filter-pool", pool, "-o", out, "--name", "exact_duplicates").code == 0
        found.add(tuple(words(out)))
    assert found == {tuple(sorted(uid(min(range(n, 200, 70), key=uid)) for n in range(70)))}
