"""What a report shows of scores: clusters, duplicate pairs, one score against another, what each clause removed alone."""

from __future__ import annotations

import hashlib
import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.pool import Pool
from curate.sidecars import StoredRef, write_sidecar
from headwater.errors import UsageError
from tests.curate.report_kit import HOSTILE, Elements, assert_harmless, make_subset, page, write_pool
from tests.faults.kit import run


def uid(number: int) -> str:
    return hashlib.md5(str(number).encode()).hexdigest()


def keep_scores(pool: Path, name: str, columns: dict[str, pa.Array]) -> None:
    """Columns over all rows of the pool, as a scorer of the whole pool leaves them."""
    opened = Pool.open(pool)
    types = tuple((key, str(array.type)) for key, array in columns.items())
    identity = {"scorer": name, "version": 1, "config": {}, "assets": {}, "inputs": {"pool": opened.id}}
    ref = StoredRef(name, opened.cache / "scores" / f"{name}-v1-00000000", types, json.dumps(identity))
    at = 0
    for shard in opened.shards:
        table = pa.table({key: array.slice(at, shard.rows) for key, array in columns.items()})
        uids = pa.array([uid(n) for n in range(at, at + shard.rows)])
        write_sidecar(
            opened.cache,
            ref,
            shard=shard.name,
            shard_sha256=opened.digests(shard).sha256,
            uids=uids,
            scores=table,
            required=True,
        )
        at += shard.rows


def rule(*keep: dict[str, Any]) -> dict[str, Any]:
    return {"format": "rule/1", "name": "try", "scores": [], "keep": list(keep)}


def rows_of(text: str, heading: str) -> list[list[str]]:
    """Cells of the table behind a heading."""
    table = text.split(heading)[1].split("<table")[1].split("</table>")[0]
    lines = re.findall(r"<tr[^>]*>(.*?)</tr>", table, re.S)
    return [
        [
            " ".join(re.sub(r"<[^>]+>", " ", cell).split())
            for cell in re.findall(r"<td[^>]*>(.*?)</td>", line, re.S)
        ]
        for line in lines
    ][1:]


ALONE = "What each clause removed that no other did</h2>"


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 10**6), clauses=st.integers(1, 4))
def test_what_a_clause_removed_alone_is_what_taking_it_out_would_keep(
    tmp_path_factory: pytest.TempPathFactory, seed: int, clauses: int
) -> None:
    """For clauses about single rows: by definition, the rows that all others keep and this one does not."""
    rng = random.Random(seed)
    folder = tmp_path_factory.mktemp("alone")
    pool = write_pool(folder / "pool", [f"c {n}" for n in range(24)], tars=False)
    values = [
        [rng.choice([0.0, 0.2, 0.4, 0.6, 0.8, None, float("nan")]) for _ in range(24)] for _ in range(clauses)
    ]
    columns = {f"s{i}": pa.array(some, pa.float32(), from_pandas=False) for i, some in enumerate(values)}
    keep_scores(pool, "some", columns)
    cuts = [rng.choice([0.1, 0.3, 0.5, -1]) for _ in range(clauses)]
    keep = [{"id": f"k{i}", "sql": f"s{i} >= {cut}"} for i, cut in enumerate(cuts)]
    text, _ = page(make_subset(pool, folder / "s.npy", rule(*keep)))
    holds = [
        [values[i][n] is not None and bool(values[i][n] >= np.float32(cuts[i])) for i in range(clauses)]
        for n in range(24)
    ]
    found = rows_of(text, ALONE)
    assert [cells[0].split()[0] for cells in found] == [f"k{i}" for i in range(clauses)]
    for i, (_, removed, fails, alone, _share) in enumerate(found):
        assert int(removed) == sum(not row[i] and all(row[:i]) for row in holds)
        assert int(fails) == sum(not row[i] for row in holds)
        assert int(alone) == sum(not row[i] and all(row[:i] + row[i + 1 :]) for row in holds)


@pytest.mark.parametrize("with_reasons", [False, True])
def test_clauses_about_the_pool_are_taken_as_in_their_place(tmp_path: Path, with_reasons: bool) -> None:
    pool = write_pool(tmp_path / "pool", ["x"] * 30, tars=False)
    keep = (
        {"id": "wide", "sql": "original_width >= 200"},  # rows 10 … 29
        {
            "id": "once",
            "dedup": {"by": ["sha256"]},
        },  # every third picture is one: 9 of its rows are left, 1 stays
        {"id": "best", "top": {"column": "score", "fraction": 0.5}},  # rows 14 … 29
        {"id": "few", "exact_k": {"column": "original_width", "k": 5}},
    )
    reasons = tmp_path / "s.reasons.parquet" if with_reasons else None
    subset = make_subset(pool, tmp_path / "s.npy", rule(*keep), reasons=reasons)
    text, _ = page(subset)
    found = {cells[0].split()[0]: [int(c) for c in cells[1:4]] for cells in rows_of(text, ALONE)}
    record = json.loads((tmp_path / "s.npy.step.json").read_text())["identity"]["counts"]
    assert {name: cells[0] for name, cells in found.items()} == record["dropped"]
    assert found["wide"] == [10, 10, 0]  # all of them are also below the cuts of best and few
    assert found["once"][0] == found["once"][1]  # rows that never came to it are no duplicates
    assert found["best"][1:] == [14, 0]  # the cut is the score of rank 15, row 14
    assert found["few"][2] == found["few"][0]  # nothing comes behind it


def test_a_costly_score_that_was_not_worked_out_leaves_it_open(tmp_path: Path) -> None:
    captions = ["a dog runs in the snow", "der Hund rennt im Schnee", "собака бежит по снегу"] * 8
    pool = write_pool(tmp_path / "pool", captions, tars=False)
    keep = (
        {"id": "wide", "sql": "original_width >= 200"},
        {"id": "en", "in": {"column": "language", "values": ["en"]}},
    )
    text, _ = page(make_subset(pool, tmp_path / "s.npy", rule(*keep)))
    wide, en = rows_of(text, ALONE)
    assert wide[1:4] == ["10", "10", "0 10 not known"]
    assert en[2].endswith("10 not known") and "not known" not in en[1] + en[3]


def clustered(tmp_path: Path, captions: list[str | None]) -> Path:
    """A pool whose rows n are in cluster n % 7 (of which cluster 6 is empty but for one row)."""
    pool = write_pool(tmp_path / "pool", captions)
    count = len(captions)
    label = [None if n == 3 else 6 if n == 5 else n % 6 for n in range(count)]
    similarity = [None if n == 3 else 1 - n / count for n in range(count)]
    keep_scores(
        pool,
        "kmeans",
        {"cluster": pa.array(label, pa.int32()), "cluster_similarity": pa.array(similarity, pa.float32())},
    )
    return pool


def test_sheets_show_nearest_and_farthest_members_with_their_verdict(tmp_path: Path) -> None:
    pool = clustered(tmp_path, [f"caption number {n}" for n in range(120)])
    subset = make_subset(
        pool, tmp_path / "s.npy", rule({"id": "some", "sql": "cluster <> 1 and score < 0.8"})
    )
    text, facts = page(subset)
    plain = assert_harmless(text).plain
    assert facts["pictures"] > 0
    told = re.findall(r"Cluster (\d+) \((largest|smallest|chosen at random)\): (\d+) rows, (\d+) kept", plain)
    sizes = {c: sum(n % 6 == c and n not in (3, 5) for n in range(120)) for c in range(6)} | {6: 1}
    assert len(told) == 6 and {why for _, why, _, _ in told} == {"largest", "smallest", "chosen at random"}
    assert all(int(rows) == sizes[int(c)] for c, _, rows, _ in told)
    assert ("6", "smallest", "1", "1") in told
    for c, _, _, kept in told:
        mine = [n for n in range(120) if n not in (3, 5) and n % 6 == int(c)] if c != "6" else [5]
        assert int(kept) == sum(int(c) != 1 and n < 80 for n in mine)
        part = text.split(f"<h3>Cluster {c} ")[1].split("<h3>")[0]
        shown = [int(n) for n in re.findall(r"caption number (\d+)<", part)]
        assert shown == [*mine[:6], *[n for n in mine[-6:] if n not in mine[:6]]]
        verdicts = re.findall(r'verdict (yes|no)"', part)
        assert verdicts == ["yes" if int(c) != 1 and n < 80 else "no" for n in shown]
        assert f"similarity {1 - mine[0] / 120:.3f}" in part


def test_pairs_of_duplicates_stand_side_by_side(tmp_path: Path) -> None:
    pool = write_pool(tmp_path / "pool", [f"caption number {n}" for n in range(40)])
    of = [uid(n - 1) if n else None for n in range(40)]  # the nearest earlier one, also where it is far
    near = [0.97 if n % 4 == 1 else 0.5 for n in range(40)]
    group = [uid(n // 10 * 10) if n % 10 < 3 else uid(n) for n in range(40)]  # n, n+1, n+2 of each ten
    keep_scores(
        pool, "semdedup", {"semdedup_of": pa.array(of), "semdedup_similarity": pa.array(near, pa.float32())}
    )
    keep_scores(pool, "captions", {"caption_group": pa.array(group)})
    keep = (
        {"id": "near", "sql": "semdedup_similarity <= 0.9"},
        {"id": "one", "dedup": {"by": ["caption_group"], "order": {"score": "desc"}}},
    )
    text, _ = page(make_subset(pool, tmp_path / "s.npy", rule(*keep)))
    plain = assert_harmless(text).plain
    near_part = text.split("Near in the feature space (SemDeDup)</h3>")[1].split("<h3>")[0]
    found = re.findall(r"caption number (\d+)<", near_part)
    couples = list(zip(map(int, found[::2]), map(int, found[1::2]), strict=True))
    assert len(couples) == 6 and all(b % 4 == 1 and a == b - 1 for a, b in couples)
    assert near_part.count("similarity 0.970") == 6
    captions_part = text.split("Near-duplicate captions</h3>")[1].split("<h3>")[0]
    found = re.findall(r"caption number (\d+)<", captions_part)
    couples = list(zip(map(int, found[::2]), map(int, found[1::2]), strict=True))
    assert couples and all(a // 10 == b // 10 and a != b and b % 10 < 3 for a, b in couples)
    assert "yes" in captions_part and "no" in captions_part
    assert plain.count("Duplicate pairs") == 2  # in the list of sections, and as its heading


def test_pairs_whose_other_row_is_gone_are_left_out(tmp_path: Path) -> None:
    pool = write_pool(tmp_path / "pool", ["c"] * 6, tars=False)
    keep_scores(pool, "semdedup", {"semdedup_of": pa.array([uid(999), None, None, None, None, "not a uid"])})
    text, _ = page(make_subset(pool, tmp_path / "s.npy", rule({"id": "none", "sql": "score < 0"})))
    assert "Duplicate pairs" not in text


def grid_total(text: str) -> int:
    return int(re.findall(r'aria-label="[^"]* against [^"]*: ([\d,]+) rows"', text)[0].replace(",", ""))


def test_one_score_against_another_with_the_cuts(tmp_path: Path) -> None:
    pool = write_pool(tmp_path / "pool", ["c"] * 60, tars=False)
    values = pa.array([None if n == 7 else (n * 37 % 60) / 60 for n in range(60)], pa.float32())
    keep_scores(pool, "other", {"quality": values, "third": pa.array([float(n) for n in range(60)])})
    keep = (
        {"id": "q <b>", "sql": "quality >= 0.25"},
        {"id": "s", "top": {"column": "score", "fraction": 0.5}},
    )
    subset = make_subset(pool, tmp_path / "s.npy", rule(*keep))
    text, _ = page(subset)
    plain = assert_harmless(text).plain
    assert "score against quality" in plain
    left_out = int(re.findall(r"(\d+) lie outside or lack one of the two", plain)[0])
    assert (
        left_out >= 1 and grid_total(text) == 60 - left_out
    )  # row 7 has no number, the outermost are not drawn
    plot = text.split('id="scatter"')[1].split("</svg>")[0]
    assert plot.count('<line class="cut"') == 2 and "≥ 0.25" in plot and "clause q &lt;b&gt;" in plot
    assert 'class="kept"' in plot and 'class="dropped"' in plot
    text, _ = page(subset, scatter=["third", "quality"])
    assert "quality against third" in Elements(text).plain and 50 < grid_total(text) < 60
    with pytest.raises(UsageError, match="did you mean 'quality'"):
        page(subset, scatter=["third", "qualty"])
    done = run("report", subset, "-o", tmp_path / "p.html", "--scatter", "third")
    assert done.code == 2 and "two columns" in done.err
    assert run("report", subset, "-o", tmp_path / "p.html", "--scatter", "third,score").code == 0


def test_without_scores_nothing_of_this_is_on_the_page(tmp_path: Path) -> None:
    pool = write_pool(tmp_path / "pool", ["c"] * 6, tars=False)
    text, _ = page(make_subset(pool, tmp_path / "s.npy", rule()))
    for word in ("Clusters", "Duplicate pairs", "against", "removed that no other"):
        assert word not in text


def test_columns_of_other_kinds_by_these_names_do_no_harm(tmp_path: Path) -> None:
    pool = write_pool(tmp_path / "pool", ["c"] * 6, tars=False)
    odd = {
        "cluster": pa.array(["a"] * 6),
        "copy_group": pa.array([1.5] * 6),
        "semdedup_of": pa.array([True] * 6),
    }
    keep_scores(pool, "odd", odd)
    text, _ = page(make_subset(pool, tmp_path / "s.npy", rule({"id": "none", "sql": "score < 0"})))
    assert "Clusters" not in text and "Duplicate pairs" not in text


def test_a_pool_page_has_them_too_and_hostile_text_is_shown(tmp_path: Path) -> None:
    pool = clustered(tmp_path, HOSTILE * 5)
    text, _ = page(pool)
    plain = assert_harmless(text).plain
    assert "Cluster 6 (smallest): 1 rows" in plain and "‹U+202E›gnp.exe" in plain
    assert "verdict" not in text.split("</style>")[1] and len(text) < 2_500_000


def test_the_page_is_the_same_with_workers_and_again(tmp_path: Path) -> None:
    pool = clustered(tmp_path, [f"caption {n}" for n in range(40)])
    subset = make_subset(pool, tmp_path / "s.npy", rule({"id": "some", "sql": "cluster <> 1"}))
    first, _ = page(subset)
    assert page(subset)[0] == first
    assert page(subset, seed=1)[0] != first
