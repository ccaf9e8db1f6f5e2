"""The overlap of subsets: what sets of uids say, whatever the slices; the page is one harmless file."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate import overlap as module
from curate.overlap import overlap
from curate.pool import Pool
from headwater.errors import UsageError
from tests.curate.report_kit import assert_harmless
from tests.faults.kit import run, with_uids, write_pool

MULTISETS = st.lists(st.integers(0, 12), max_size=25)


def write(path: Path, numbers: list[int]) -> Path:
    np.save(path, np.array([(n % 3, n) for n in sorted(numbers, key=lambda n: (n % 3, n))], "u8,u8"))
    return path


def hexed(number: int) -> str:
    return f"{number % 3:016x}{number:016x}"


@settings(deadline=None, max_examples=40)
@given(
    sets=st.lists(MULTISETS, min_size=1, max_size=5), rows=MULTISETS, piece=st.sampled_from([1, 4, 1 << 21])
)
def test_every_count_is_that_of_sets(
    tmp_path_factory: pytest.TempPathFactory, sets: list[list[int]], rows: list[int], piece: int
) -> None:
    folder = tmp_path_factory.mktemp("overlap")
    files = [write(folder / f"{i}.npy", numbers) for i, numbers in enumerate(sets)]
    pool = write_pool(folder / "pool", [with_uids([hexed(n) for n in rows]), with_uids([None])])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SLICE_ROWS", piece)
        patch.setattr(module, "SPLITTER_SPACING", 1 if piece == 1 else 2)
        found = overlap(files, Pool.open(pool))
    plain = [set(numbers) for numbers in sets]
    assert found.entries == [len(numbers) for numbers in sets]
    assert found.common.tolist() == [[len(a & b) for b in plain] for a in plain]
    assert found.union == len(set().union(*plain)) and found.in_all == len(set.intersection(*plain))
    for i, mine in enumerate(plain):
        assert found.alone[i] == len(mine.difference(*(s for j, s in enumerate(plain) if j != i)))
        assert found.rows_kept[i] == sum(n in mine for n in rows)
        for j, other in enumerate(plain):
            assert found.share(i, j) == (len(mine & other) / len(mine) if mine else None)
            assert found.jaccard(i, j) == (len(mine & other) / len(mine | other) if mine | other else None)


def test_the_command_prints_tables_and_json(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a.npy", [1, 2, 3, 4]), write(tmp_path / "b.npy", [4, 4, 5, 9])
    pool = write_pool(tmp_path / "pool", [with_uids([hexed(n) for n in range(8)])])
    done = run("subset", "overlap", a, b, "--pool", pool)
    assert done.code == 0, done.err
    lines = [line.split() for line in done.out.splitlines()]
    assert ["A", "a", "4", "3", "50.0%"] in lines and ["A", "100.0%", "25.0%"] in lines
    assert ["B", "33.3%", "100.0%"] in lines and ["A", "100.0%", "16.7%"] in lines
    assert "at least 1 of its uids are not in the pool" in done.out
    told = json.loads(run("subset", "overlap", a, b, "--json").out)
    assert told["in_both"] == [[4, 1], [1, 3]] and told["pool_rows"] is None and told["union"] == 6
    assert told["subsets"][1] == {"name": "b", "entries": 4, "uids": 3, "only_here": 2}


def test_the_page_is_one_harmless_file(tmp_path: Path) -> None:
    hostile = write(tmp_path / "<script>alert(1)<\u202e.npy", [1, 2])
    other = write(tmp_path / "b.npy", [2, 3])
    page = tmp_path / "page.html"
    assert run("subset", "overlap", hostile, other, "-o", page).code == 0
    text = page.read_text("utf-8")
    seen = assert_harmless(text)
    assert "<script" not in text and "\u202e" not in text and "‹U+202E›" in seen.plain
    assert re.findall(r">([\d.]+%)</text>", text).count("50.0%") == 2
    before = page.read_bytes()
    assert run("subset", "overlap", hostile, other, "-o", page).code == 0 and page.read_bytes() == before
    page.write_text("mine")
    assert run("subset", "overlap", hostile, other, "-o", page).code == 2 and page.read_text() == "mine"


def test_too_many_subsets_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "a.npy", [1])
    with pytest.raises(UsageError, match="at most 24"):
        overlap([file] * 25)
