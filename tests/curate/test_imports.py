"""Subsets of others: every kind of file gives the same sorted uids, malformed ones are named, coverage counts close."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate import imports
from curate.imports import import_subset
from curate.pool import Pool
from headwater.errors import IntegrityError, MissingInput, UsageError
from headwater.steps import RunOptions
from tests.faults.kit import names, run, with_uids, words, write_pool

PAIRS = st.lists(st.tuples(st.sampled_from([0, 7, 2**63, 2**64 - 1]), st.integers(0, 6)), max_size=40)
FEWER = settings(deadline=None, max_examples=40)


def hexes(pairs: list[tuple[int, int]]) -> list[str]:
    return [f"{hi:016x}{lo:016x}" for hi, lo in pairs]


def npy(path: Path, pairs: list[tuple[int, int]]) -> Path:
    np.save(path, np.array(pairs, np.dtype("u8,u8")))
    return path


def written(path: Path, kind: str, pairs: list[tuple[int, int]]) -> Path:
    """The uids in one of the ways that others publish them."""
    file = path / f"theirs.{kind}"
    uids = hexes(pairs)
    if kind == "npy":
        return npy(file, pairs)
    if kind == "raw":
        file.write_bytes(np.array(pairs, np.dtype("u8,u8")).tobytes())
    elif kind == "txt":
        file.write_text("".join(f"{uid}\n" for uid in uids))
    elif kind == "crlf":
        file.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(uids).encode())
    elif kind == "csv":
        file.write_text("url,uid\n" + "".join(f'"a, \nb",{uid}\n' for uid in uids))
    elif kind == "jsonl":
        file.write_text("".join(f'{{"uid": "{uid}", "n": 1}}\n' for uid in uids))
    else:
        pq.write_table(pa.table({"score": [0.5] * len(uids), "uid": pa.array(uids, pa.string())}), file)
    return file


def brought(file: Path, output: Path, **more: Any) -> tuple[list[str], Any]:
    outcome = import_subset(file, output, options=RunOptions(force=True), **more)
    assert outcome is not None
    return words(output), outcome.step


@pytest.mark.parametrize("kind", ["npy", "raw", "txt", "crlf", "csv", "jsonl", "parquet"])
def test_every_kind_of_file_gives_the_same_sorted_uids(tmp_path: Path, kind: str) -> None:
    pairs = [(9, 1), (2**64 - 1, 0), (9, 1), (0, 5), (3, 3)]
    found, step = brought(written(tmp_path, kind, pairs), tmp_path / "ours.npy")
    assert found == sorted(hexes(pairs))
    assert step.identity.counts.read == step.identity.counts.kept == 5
    assert step.identity.counts.extra == {"repeats": 1, "entries_written": 5}
    assert step.details["was_sorted"] is False and step.details["uids"] == 4


@FEWER
@given(pairs=PAIRS, in_pool=PAIRS, piece=st.sampled_from([1, 3, 1000]), only=st.booleans())
def test_coverage_is_what_sets_say(
    tmp_path_factory: pytest.TempPathFactory,
    pairs: list[tuple[int, int]],
    in_pool: list[tuple[int, int]],
    piece: int,
    only: bool,
) -> None:
    folder = tmp_path_factory.mktemp("cover")
    theirs, rows = hexes(pairs), hexes(in_pool)
    half = len(rows) // 2
    pool = write_pool(folder / "pool", [with_uids([*rows[:half], None]), with_uids(rows[half:])])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(imports, "SLICE_ROWS", piece)
        patch.setattr(imports, "STEP_ROWS", piece)
        found, step = brought(
            npy(folder / "t.npy", pairs), folder / "o.npy", pool=Pool.open(pool), only_in_pool=only
        )
    there = set(rows)
    assert found == sorted(uid for uid in theirs if uid in there or not only)
    told, counts = step.details["coverage"], step.identity.counts
    assert told["uids"] == len(set(theirs)) and told["entries"] == len(theirs)
    assert told["uids_in_pool"] == len(set(theirs) & there)
    assert told["entries_in_pool"] == sum(n for uid, n in Counter(theirs).items() if uid in there)
    assert told["pool_rows"] == len(rows) + 1
    assert told["pool_rows_covered"] == sum(uid in set(theirs) for uid in rows)
    assert told["uids_not_in_pool_examples"] == sorted(set(theirs) - there)[:10]
    assert counts.read == counts.kept + sum(counts.dropped.values()) == len(theirs)


@pytest.mark.parametrize(
    ("kind", "text", "place", "value"),
    [
        ("txt", "a" * 32 + "\n\n" + "b" * 31 + "\n", "line 3", "'" + "b" * 31 + "'"),
        ("txt", "a" * 32 + "\n" + "A" * 32 + "\n", "line 2", "'" + "A" * 32 + "'"),
        ("csv", 'text,uid\n"two\nlines",' + "c" * 32 + "\nx,nothex\n", "line 4", "'nothex'"),
        ("csv", "text,uid\nx,\n", "line 2", "''"),
        ("jsonl", '{"uid": "' + "d" * 32 + '"}\n{"uid": null}\n', "line 2", "null"),
    ],
)
def test_a_malformed_uid_is_named_by_its_line(
    tmp_path: Path, kind: str, text: str, place: str, value: str
) -> None:
    file = tmp_path / f"list.{kind}"
    file.write_text(text)
    done = run("subset", "import", file, "-o", tmp_path / "o.npy")
    assert done.code == 13 and f"list.{kind}, {place}: {value} is not a uid" in done.err
    assert names(tmp_path) == {file.name}


def test_a_malformed_uid_of_a_parquet_file_is_named_by_its_row(tmp_path: Path) -> None:
    file = tmp_path / "list.parquet"
    pq.write_table(pa.table({"uid": ["0" * 32, "0" * 32, "0" * 33]}), file, row_group_size=1)
    with pytest.raises(IntegrityError, match="list.parquet, row 2: '0{33}' is not a uid"):
        import_subset(file, tmp_path / "o.npy", options=RunOptions())


@pytest.mark.parametrize(
    ("data", "error", "told"),
    [
        (b"", IntegrityError, "is empty"),
        (b"\x1f\x8b\x08 packed", IntegrityError, "packed file"),
        (b"\x00" * 17, IntegrityError, "not a subset file"),
        (b"\x93NUMPY\x01\x00", IntegrityError, "not a readable .npy"),
        (b"PAR1 and no more", IntegrityError, "cannot be read as Parquet"),
        (b"name,url\nx,y\n", UsageError, "has no column 'uid'"),
        (b'{"uid": \n', IntegrityError, "cannot be read as JSON lines"),
    ],
)
def test_what_is_no_list_of_uids_is_refused_by_name(
    tmp_path: Path, data: bytes, error: type[Exception], told: str
) -> None:
    file = tmp_path / "theirs"
    file.write_bytes(data)
    with pytest.raises(error, match=told):
        import_subset(file, tmp_path / "o.npy", options=RunOptions())
    assert names(tmp_path) == {"theirs"}


def test_a_pickle_in_an_npy_is_never_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "bad.npy", np.array([object()], object), allow_pickle=True)
    with pytest.raises(IntegrityError, match="not a readable"):
        import_subset(tmp_path / "bad.npy", tmp_path / "o.npy", options=RunOptions())


def test_the_command_tells_coverage_and_runs_once(tmp_path: Path) -> None:
    pool = write_pool(tmp_path / "pool", [with_uids(hexes([(0, n) for n in range(8)]))])
    file = npy(tmp_path / "theirs.npy", [(0, 3), (0, 3), (5, 5), (0, 1)])
    line = ("subset", "import", file, "-o", tmp_path / "o.npy", "--pool", pool, "--only-in-pool")
    done = run(*line)
    assert done.code == 0, done.err
    assert "3 entries of 4, 3 different uids" in done.out
    assert "2 of its 3 uids are in the pool; 1 are not" in done.out
    assert "cover 2 of the pool's 8 rows" in done.out
    assert "not in the pool: 00000000000000050000000000000005" in done.out
    assert "theirs.npy: is not sorted; its copy is" in done.err
    before = (tmp_path / "o.npy").read_bytes()
    assert "already there" in run(*line).out and (tmp_path / "o.npy").read_bytes() == before
    assert run(*line[:4], tmp_path / "p.npy", "--only-in-pool").code == 2


def test_a_subset_of_another_pool_is_told(tmp_path: Path) -> None:
    pool = write_pool(tmp_path / "pool", [with_uids(hexes([(0, 1)]))])
    file = npy(tmp_path / "theirs.npy", [(7, 7)])
    done = run("subset", "import", file, "-o", tmp_path / "o.npy", "--pool", pool)
    assert done.code == 0 and "is it a subset of another pool?" in done.err
    with pytest.raises(MissingInput):
        import_subset(tmp_path / "none.npy", tmp_path / "o.npy", options=RunOptions())
