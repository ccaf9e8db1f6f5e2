"""`headwater filter-pool` from outside: exit codes, what goes where, what is left behind, and what runs again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import PoolBuilder
from tests.curate.filter_kit import Told, in_process, uid, write_pool

TOP = ["--name", "clip_score", "--arch", "l14", "--fraction", "0.3"]


Command = Callable[..., Told]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    return in_process(tmp_path, monkeypatch)


@pytest.fixture
def pool(tiny_pool: PoolBuilder) -> Path:
    return tiny_pool(rows=60, shards=3)


def rule(folder: Path, *clauses: str, head: str = "") -> Path:
    path = folder / "mine.yaml"
    lines = "".join(f"  - {clause}\n" for clause in clauses)
    path.write_text(
        f"format: rule/1\nname: mine\n{head}keep:\n{lines}"
        if clauses
        else f"format: rule/1\nname: mine\n{head}keep: []\n"
    )
    return path


def test_a_filter_a_second_time_and_another_one(pool: Path, tmp_path: Path, cli: Command) -> None:
    out = tmp_path / "out.npy"
    first = cli("filter-pool", pool, "-o", out, *TOP)
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith(f"{out}: 19 of 60 rows kept\n")
    assert "clip_score" in first.stdout and "cut 0." in first.stdout
    assert len(np.load(out, allow_pickle=False)) == 19
    record = out.with_name("out.npy.step.json")
    before = (out.read_bytes(), record.read_bytes())
    again = cli("filter-pool", pool, "-o", out, *TOP)
    assert again.returncode == 0 and "(already there)" in again.stdout and "up to date" in again.stderr
    assert (out.read_bytes(), record.read_bytes()) == before
    other = cli("filter-pool", pool, "-o", out, *TOP[:-1], "0.5")
    assert other.returncode == 2 and "--force replaces it" in other.stderr
    assert out.read_bytes() == before[0]
    forced = cli("filter-pool", pool, "-o", out, *TOP[:-1], "0.5", "--force")
    assert forced.returncode == 0 and len(np.load(out, allow_pickle=False)) == 31


def test_json_is_one_document(pool: Path, tmp_path: Path, cli: Command) -> None:
    done = cli("filter-pool", pool, "-o", tmp_path / "out.npy", *TOP, "--json")
    assert done.returncode == 0
    document = json.loads(done.stdout)
    counts = document["counts"]
    assert (counts["read"], counts["kept"], counts["dropped"]) == (60, 19, {"clip_score": 41})
    assert document["details"]["funnel"][0]["column"] == "clip_l14_similarity_score"
    assert all(isinstance(json.loads(line), dict) for line in done.stderr.splitlines())


def test_a_dry_run_writes_nothing(pool: Path, tmp_path: Path, cli: Command) -> None:
    out = tmp_path / "out.npy"
    done = cli("filter-pool", pool, "-o", out, *TOP, "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["rows"], document["shards"], document["up_to_date"]) == (60, 3, False)
    assert len(document["clauses"]) == 1 and not out.exists()
    assert cli("filter-pool", pool, "-o", out, *TOP, "--quiet").returncode == 0
    again = cli("filter-pool", pool, "-o", out, *TOP, "--dry-run", "--json")
    assert json.loads(again.stdout)["up_to_date"] is True


USAGE: list[tuple[list[str], int, str]] = [
    ([], 2, "give one of --name and --rule"),
    (["--name", "basic_filter", "--rule", "x.yaml"], 2, "give one of --name and --rule"),
    (["--name", "basic_filtre"], 2, "did you mean 'basic_filter'?"),
    (
        ["--name", "basic_filter", "--arch", "l14", "--fraction", "0.3"],
        2,
        "filter basic_filter takes no --arch",
    ),
    (["--name", "clip_score", "--fraction", "0.3"], 2, "filter clip_score needs --arch: which model scored"),
    (
        ["--name", "clip_score", "--arch", "b16", "--fraction", "0.3"],
        2,
        "no column 'clip_b16_similarity_score': did you mean",
    ),
    (["--name", "clip_score", "--arch", "l14"], 2, "give one of fraction and threshold"),
    (["--name", "clip_score", "--arch", "l14", "--fraction", "30%"], 2, "'30%' is not a valid float"),
    (["--name", "clip_score", "--arch", "l14", "--fraction", "30"], 2, "must be above 0 and at most 1"),
    (["--name", "clip_score", "--arch", "l14", "--threshold", "nan"], 2, "--threshold is not a number"),
    (["--name", "random"], 2, "sample.fraction"),
    (["--rule", "nowhere.yaml"], 10, "nowhere.yaml"),
    (["--name", "no_filter", "--engine", "rya"], 2, "unknown engine 'rya'"),
    (["--name", "no_filter", "--no-such-flag"], 2, "--no-such-flag"),
]


@pytest.mark.parametrize(("words", "code", "text"), USAGE, ids=[" ".join(w) or "nothing" for w, *_ in USAGE])
def test_wrong_words(
    words: list[str], code: int, text: str, pool: Path, tmp_path: Path, cli: Command
) -> None:
    done = cli("filter-pool", pool, "-o", tmp_path / "out.npy", *words)
    assert done.returncode == code, done.stderr
    assert text in done.stderr and "Traceback" not in done.stderr and done.stdout == ""
    assert not (tmp_path / "out.npy").exists()


def test_wrong_places(pool: Path, tmp_path: Path, cli: Command) -> None:
    for words, code, text in (
        ([tmp_path / "nowhere", "-o", tmp_path / "out.npy"], 10, "no such pool folder"),
        ([pool, "-o", tmp_path / "no" / "out.npy"], 10, "no such folder to write out.npy into"),
        ([pool, "-o", tmp_path], 2, "is a folder"),
    ):
        done = cli("filter-pool", *words, "--name", "no_filter")
        assert done.returncode == code and text in done.stderr


def test_rows_that_could_not_be_judged_end_with_three(pool: Path, tmp_path: Path, cli: Command) -> None:
    words = rule(tmp_path, "{id: words, sql: n_words > 2}")
    out, table = tmp_path / "out.npy", tmp_path / "reasons.parquet"
    done = cli("filter-pool", pool, "-o", out, "--rule", words, "--reasons", table)
    assert done.returncode == 3
    assert "4 × words: null or NaN" in done.stderr and "--allow-invalid" in done.stderr
    assert "invalid: 4 × words: null or NaN" in done.stdout and out.exists()
    told = pq.ParquetFile(table).read(["verdict"])["verdict"].to_pylist()
    assert len(told) == 60 and told.count("invalid") == 4
    as_json = cli("filter-pool", pool, "-o", out, "--rule", words, "--json")
    document = json.loads(as_json.stdout)
    assert as_json.returncode == 3 and document["problem"]["exit_code"] == 3 and document["cached"]
    allowed = cli("filter-pool", pool, "-o", out, "--rule", words, "--allow-invalid")
    assert allowed.returncode == 0


def test_reasons_are_written_also_for_a_subset_that_is_there(
    pool: Path, tmp_path: Path, cli: Command
) -> None:
    out, table = tmp_path / "out.npy", tmp_path / "reasons.parquet"
    assert cli("filter-pool", pool, "-o", out, *TOP, "--quiet").returncode == 0
    assert cli("filter-pool", pool, "-o", out, *TOP, "--reasons", table, "--quiet").returncode == 0
    told = pq.ParquetFile(table).read(["verdict"])["verdict"].to_pylist()
    assert told.count("kept") == 19 and len(told) == 60
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []


def test_a_uid_that_lies_twice(tmp_path: Path, cli: Command) -> None:
    tables: dict[str, Any] = {
        "a": pa.table({"uid": [uid(1), uid(2)]}),
        "b": pa.table({"uid": [uid(2), uid(3)]}),
    }
    pool = write_pool(tmp_path / "twice", tables)
    once = cli("filter-pool", pool, "-o", tmp_path / "once.npy", "--name", "no_filter")
    assert once.returncode == 3 and "1 × uid: occurs more than once" in once.stderr
    assert f"uid {uid(2)}: shard a, row 1, shard b, row 0" in once.stderr
    assert len(np.load(tmp_path / "once.npy")) == 3
    every = ["--name", "no_filter", "--keep-repeated-uids", "--quiet"]
    assert cli("filter-pool", pool, "-o", tmp_path / "all.npy", *every).returncode == 0
    assert len(np.load(tmp_path / "all.npy")) == 4


def test_a_subset_beside_the_rule_file(pool: Path, tmp_path: Path, cli: Command) -> None:
    folder = tmp_path / "rules"
    folder.mkdir()
    assert cli("filter-pool", pool, "-o", folder / "best.npy", *TOP, "--quiet").returncode == 0
    file = rule(folder, "{id: best, in: {subset: best.npy}}", "{id: wide, sql: original_width > 0}")
    out = tmp_path / "out.npy"
    done = cli("filter-pool", pool, "-o", out, "--rule", "rules/mine.yaml", "--quiet")
    assert done.returncode == 0, done.stderr
    assert out.read_bytes() == (folder / "best.npy").read_bytes()
    inputs = json.loads(out.with_name("out.npy.step.json").read_bytes())["identity"]["inputs"]
    assert {ref["role"] for ref in inputs} == {"pool", "subset:0"}
    (folder / "best.npy").unlink()
    gone = cli("filter-pool", pool, "-o", tmp_path / "o2.npy", "--rule", file)
    assert gone.returncode == 10 and "best.npy" in gone.stderr


def test_random_and_its_seed(pool: Path, tmp_path: Path, cli: Command) -> None:
    made = {}
    for name, words in {"a": [], "b": ["--seed", "0"], "c": ["--seed", "7"]}.items():
        out = tmp_path / f"{name}.npy"
        done = cli("filter-pool", pool, "-o", out, "--name", "random", "--fraction", "0.5", *words, "--json")
        assert done.returncode == 0, done.stderr
        made[name] = (json.loads(done.stdout)["key"], out.read_bytes())
    assert made["a"] == made["b"] and made["a"][1] != made["c"][1]


def test_workers_engine_and_index_do_not_change_the_record(pool: Path, tmp_path: Path, cli: Command) -> None:
    ids = {}
    for words in ("--workers=1", "--engine=serial", "--no-index", "--quiet"):
        if words == "--no-index":
            assert cli("pool", "index", pool, "--quiet").returncode == 0
        folder = tmp_path / words
        folder.mkdir()
        done = cli("filter-pool", pool, "-o", folder / "out.npy", *TOP, "--json", words)
        document = json.loads(done.stdout)
        ids[document["id"]] = document["details"]["shards_from_index"]
    assert list(ids.values()) == [3]  # one record, whoever made it; the last one from the index


def test_values_from_a_configuration_file(pool: Path, tmp_path: Path, cli: Command) -> None:
    config = tmp_path / "values.yaml"
    config.write_text("name: clip_score\narch: l14\nfraction: 0.3\n")
    plain, given = tmp_path / "a.npy", tmp_path / "b.npy"
    assert cli("filter-pool", pool, "-o", plain, *TOP, "--quiet").returncode == 0
    assert cli("filter-pool", pool, "-o", given, "--config", config, "--quiet").returncode == 0
    assert plain.read_bytes() == given.read_bytes()
