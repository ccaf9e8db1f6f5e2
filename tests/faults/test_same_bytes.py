"""Nothing about the machine or the session changes a byte (rows 18 and 19 of the catalogue)."""

from __future__ import annotations

import itertools
import locale
import os
import stat
from pathlib import Path

import pyarrow as pa
import pytest

from curate import filtering
from tests.conftest import ODD_CAPTIONS
from tests.faults import kit

RULE = (
    "{id: size, sql: original_width >= 250 and n_chars > 0}",
    "{id: lower, sql: \"lower(text) <> 'iii' and text not like '%zz%'\"}",
    "{id: once, dedup: {by: [text], at_most: 2, order: {original_height: desc}}}",
    "{id: best, top: {column: clip_l14_similarity_score, fraction: 0.8}}",
    "{id: some, sample: {fraction: 0.9, seed: 3}}",
    "{id: exact, exact_k: {column: clip_l14_similarity_score, k: 9}}",
)
ENVIRONMENTS: dict[str, dict[str, str]] = {
    "C": {"LC_ALL": "C", "LANG": "C", "TZ": "UTC", "PYTHONHASHSEED": "0"},
    "Turkish": {"LC_ALL": "tr_TR.UTF-8", "LANG": "tr_TR.UTF-8", "TZ": "Asia/Kathmandu", "PYTHONHASHSEED": "1"},
    "Arabic": {"LC_ALL": "ar_EG.UTF-8", "TZ": "Pacific/Chatham", "PYTHONHASHSEED": "4294967295"},
    "ASCII streams": {"LC_ALL": "POSIX", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "TZ": "UTC+14", "PYTHONHASHSEED": "7"},
    "many threads": {"OMP_NUM_THREADS": "8", "ARROW_IO_THREADS": "1", "PYTHONHASHSEED": "random", "PYTHONOPTIMIZE": "1"},
}  # fmt: skip


def captions(first: int) -> pa.Table:
    texts = ["III", "İstanbul ISPARTA ııı", *ODD_CAPTIONS]
    chosen = [texts[n % len(texts)] or "x" for n in range(first, first + 40)]
    return kit.rows(range(first, first + 40), text=pa.array(chosen, pa.string()))


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    return kit.write_pool(tmp_path / "pool", [captions(40 * n) for n in range(3)], row_group_size=13)


@pytest.fixture
def rule(tmp_path: Path) -> Path:
    return kit.rule_file(tmp_path, *RULE, head="scores: [caption]\n")


@pytest.fixture
def reference(pool: Path, rule: Path, tmp_path: Path) -> Path:
    (tmp_path / "reference").mkdir()
    output = tmp_path / "reference" / "out.npy"
    done = kit.run("filter-pool", pool, "-o", output, "--rule", rule, "--engine", "serial", "--no-index")
    assert done.code == 0, done
    assert len(kit.words(output)) == 9
    return output


def same(folder: Path, reference: Path) -> None:
    output = folder / "out.npy"
    assert output.read_bytes() == reference.read_bytes()
    assert kit.closes(output).identity == kit.record(reference).identity
    assert kit.record(output).id == kit.record(reference).id


@pytest.mark.parametrize(
    ("name", "umask"), list(zip(ENVIRONMENTS, itertools.cycle([0o000, 0o077]), strict=False))
)
def test_row_18_locale_zone_and_umask(
    name: str, umask: int, pool: Path, rule: Path, reference: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    line = (
        "filter-pool",
        pool,
        "-o",
        folder / "out.npy",
        "--rule",
        rule,
        "--reasons",
        folder / "why.parquet",
    )
    done = kit.spawn(*line, home=tmp_path, env=ENVIRONMENTS[name], umask=umask)
    assert done.code == 0, done
    same(folder, reference)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes == dict.fromkeys(("out.npy", "out.npy.step.json", "why.parquet"), 0o644)


def test_row_18_the_index_and_scores_too(pool: Path, rule: Path, tmp_path: Path) -> None:
    made = []
    for number, (name, umask) in enumerate((("C", 0o000), ("Turkish", 0o077))):
        cache = tmp_path / f"cache{number}"
        for line in (("pool", "index", pool), ("score", "caption", pool)):
            done = kit.spawn(*line, "--cache", cache, home=tmp_path, env=ENVIRONMENTS[name], umask=umask)
            assert done.code == 0, done
        files = sorted(p.relative_to(cache) for p in cache.rglob("*.parquet"))
        assert len(files) == 6
        assert {stat.S_IMODE((cache / file).stat().st_mode) for file in files} == {0o644}
        made.append({file: (cache / file).read_bytes() for file in files})
    assert made[0] == made[1]


def test_row_18_a_locale_that_is_installed_does_not_lower_i_differently(pool: Path, reference: Path) -> None:
    try:
        before = locale.setlocale(locale.LC_ALL)
        locale.setlocale(locale.LC_ALL, "tr_TR.UTF-8")
    except locale.Error:
        pytest.skip("the locale tr_TR.UTF-8 is not installed; only the variable was tried")
    try:
        folder = reference.parent.parent / "here"
        folder.mkdir()
        rule = reference.parent.parent / "rule.yaml"
        assert kit.run("filter-pool", pool, "-o", folder / "out.npy", "--rule", rule).code == 0
        same(folder, reference)
    finally:
        locale.setlocale(locale.LC_ALL, before)


@pytest.mark.parametrize("workers", [1, 2, pytest.param(8, marks=pytest.mark.slow)])
def test_row_19_workers_and_engines(
    workers: int, pool: Path, rule: Path, reference: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    line = (
        "filter-pool",
        pool,
        "-o",
        folder / "out.npy",
        "--rule",
        rule,
        "--engine",
        "pool",
        "--workers",
        workers,
    )
    done = kit.spawn(*line, home=tmp_path, spread=True)
    assert done.code == 0, done
    same(folder, reference)


@pytest.mark.parametrize(
    ("index", "large", "engine"), [*itertools.product((False, True), (False, True), ("serial", "pool"))]
)
def test_row_19_index_run_files_and_engines(
    index: bool, large: bool, engine: str, pool: Path, rule: Path, reference: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    if large:
        monkeypatch.setattr(filtering, "IN_MEMORY_ROWS", 0)
    if index:
        assert kit.run("pool", "index", pool).code == 0
    folder = tmp_path / "here"
    folder.mkdir()
    done = kit.run("filter-pool", pool, "-o", folder / "out.npy", "--rule", rule, "--engine", engine)
    assert done.code == 0, done
    same(folder, reference)


def test_row_19_the_index_answers_what_it_can_and_gives_the_same(pool: Path, tmp_path: Path) -> None:
    # only clauses that the index can answer alone, so that no shard is read
    clauses = (RULE[0], RULE[3], RULE[4], RULE[5])
    rule = kit.rule_file(tmp_path, *clauses, head="scores: [caption]\n")
    assert kit.run("filter-pool", pool, "-o", tmp_path / "raw.npy", "--rule", rule).code == 0
    assert kit.run("pool", "index", pool).code == 0
    assert kit.run("filter-pool", pool, "-o", tmp_path / "indexed.npy", "--rule", rule).code == 0
    assert kit.record(tmp_path / "indexed.npy").details["shards_from_index"] == 3
    assert (tmp_path / "raw.npy").read_bytes() == (tmp_path / "indexed.npy").read_bytes()


@pytest.mark.parametrize("cut", ["one shard", "forty shards", "other row groups", "shards in another order"])
def test_row_19_how_rows_are_cut_into_shards_does_not_decide_who_is_kept(
    cut: str, pool: Path, rule: Path, reference: Path, tmp_path: Path
) -> None:
    whole = pa.concat_tables([captions(40 * n) for n in range(3)])
    tables = {
        "one shard": [whole],
        "forty shards": [whole.slice(3 * n, 3) for n in range(40)],
        "other row groups": [whole.slice(40 * n, 40) for n in range(3)],
        "shards in another order": [whole.slice(40 * n, 40) for n in (2, 0, 1)],
    }[cut]
    other = kit.write_pool(tmp_path / "other", tables, row_group_size=7)
    assert kit.run("filter-pool", other, "-o", tmp_path / "out.npy", "--rule", rule).code == 0
    assert (tmp_path / "out.npy").read_bytes() == reference.read_bytes()


def test_row_19_where_things_lie_does_not_matter(
    pool: Path, rule: Path, reference: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "another place"
    moved.mkdir()
    pool.rename(moved / "renamed")
    rule.rename(moved / "r.yaml")
    before = Path.cwd()
    os.chdir(moved)
    try:
        assert kit.run("filter-pool", "renamed", "-o", "out.npy", "--rule", "r.yaml").code == 0
    finally:
        os.chdir(before)
    same(moved, reference)
