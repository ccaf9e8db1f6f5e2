"""The report of hostile, missing, damaged and empty things."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from curate.commands_report import report as command
from headwater.errors import IntegrityError, MissingInput, UsageError
from headwater.executor import Executor
from headwater.steps import RunOptions
from tests.curate.report_kit import (
    HOSTILE,
    RULE,
    Elements,
    assert_harmless,
    make_subset,
    page,
    write_pool,
)


@pytest.fixture
def subset(tmp_path: Path) -> Path:
    pool = write_pool(tmp_path / "pool", [f"caption number {n % 9}" for n in range(60)])
    return make_subset(pool, tmp_path / "s.npy")


def test_hostile_captions_are_shown_and_do_nothing(tmp_path: Path) -> None:
    pool = write_pool(tmp_path / "pool", HOSTILE * 3, shards=1)
    rule = {**RULE, "name": "hostile", "keep": [{"id": "</style><script>", "sql": "original_width >= 110"}]}
    text, facts = page(make_subset(pool, tmp_path / "s.npy", rule), title="<script>title</script>")
    seen = assert_harmless(text)
    assert '<script>alert("x")</script>' in seen.text and "{{ 7 * 7 }}" in seen.text
    assert "\u202e" not in text and "‹U+202E›gnp.exe" in text
    assert (
        not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", text)
        and "NUL‹U+0000› and bell‹U+0007› and ‹U+009B›2J" in text
    )
    assert "y" * 401 not in text and "1,000,000 characters in all" in text
    assert facts["size_bytes"] < 400_000


def test_missing_shards_are_said(tmp_path: Path) -> None:
    pool = write_pool(tmp_path / "pool", [f"c {n}" for n in range(20)], tars=False)
    text, facts = page(make_subset(pool, tmp_path / "s.npy"))
    assert facts["pictures"] == 0 and "No webdataset tars were found" in text and "<img" not in text
    assert "c 1" in text


def test_shards_from_another_folder(tmp_path: Path) -> None:
    pool = write_pool(tmp_path / "pool", [f"c {n}" for n in range(20)])
    subset = make_subset(pool, tmp_path / "s.npy")
    tars = tmp_path / "tars"
    tars.mkdir()
    for tar in pool.glob("*.tar"):
        tar.rename(tars / f"part-{tar.name}")  # names that say nothing about the Parquet shards
    assert page(subset)[1]["pictures"] == 0
    assert page(subset, shards=[tars])[1]["pictures"] > 10
    with pytest.raises(MissingInput):
        page(subset, shards=[tmp_path / "nowhere"])


def test_a_damaged_tar_is_said_and_not_fatal(tmp_path: Path) -> None:
    pool = write_pool(tmp_path / "pool", [f"c {n}" for n in range(30)])
    subset = make_subset(pool, tmp_path / "s.npy")
    whole = page(subset)[1]["pictures"]
    tar = pool / "00000001.tar"
    data = bytearray(tar.read_bytes())
    data[len(data) // 3 : len(data) // 3 + 2048] = b"\xff" * 2048
    tar.write_bytes(data)
    (pool / "00000000.tar").write_bytes(b"")
    text, facts = page(subset)
    assert facts["pictures"] < whole
    assert any("00000001.tar" in note for note in facts["notes"]) and "00000001.tar" in text


def test_an_empty_subset(tmp_path: Path) -> None:
    pool = write_pool(tmp_path / "pool", [f"c {n}" for n in range(10)])
    rule = {**RULE, "keep": [{"id": "none", "sql": "original_width > 99999"}]}
    text, _ = page(make_subset(pool, tmp_path / "s.npy", rule))
    plain = assert_harmless(text).plain
    assert "kept 0 of them (0.0%)" in plain and "10 rows read = 0 kept + 10 none" in plain
    assert "Kept" not in re.findall(r"<h3>([^<]*)</h3>", text)


@pytest.mark.parametrize("shards", [0, 1])
def test_a_pool_without_rows(tmp_path: Path, shards: int) -> None:
    pool = tmp_path / "pool"
    if shards:
        write_pool(pool, [], shards=1, tars=False)
    else:
        pool.mkdir()
    text, facts = page(make_subset(pool, tmp_path / "s.npy"))
    assert_harmless(text)
    assert facts["rows_looked_at"] == 0 and "0 rows read" in Elements(text).plain


def test_rows_that_could_not_be_judged(tmp_path: Path) -> None:
    pool = write_pool(tmp_path / "pool", ["a", None, "b", None, "c"], shards=1)
    rule = {**RULE, "keep": [{"id": "short", "sql": "length(text) < 5"}]}
    text, _ = page(make_subset(pool, tmp_path / "s.npy", rule))
    plain = Elements(text).plain
    assert "2 invalid: short: null or NaN" in plain and "2 could not be judged" in plain
    assert "Not judged: short: null or NaN" in plain and "no caption" in plain


def test_the_page_stays_small(tmp_path: Path) -> None:
    pool = write_pool(tmp_path / "pool", [f"c {n}" for n in range(120)], side=160, noise=True)
    subset = make_subset(
        pool, tmp_path / "s.npy", {**RULE, "keep": [{"id": "wide", "sql": "original_width > 0"}]}
    )
    text, facts = page(subset, thumbnails=120)
    assert len(text.encode()) < 2_000_000 and facts["pictures"] > 40
    assert "left out to keep this page small" in text


def test_a_pool_that_is_gone_leaves_the_record(tmp_path: Path) -> None:
    pool = write_pool(tmp_path / "pool", [f"c {n}" for n in range(20)])
    subset = make_subset(pool, tmp_path / "s.npy")
    pool.rename(tmp_path / "moved")
    text, facts = page(subset)
    assert facts["rows_looked_at"] == 0 and "could not be looked at" in text and "go on" in text
    assert page(subset, pool=tmp_path / "moved")[1]["rows_looked_at"] == 20
    other = write_pool(tmp_path / "other", ["x"] * 5)
    with pytest.raises(IntegrityError, match="not the pool"):
        page(subset, pool=other)


def test_a_page_about_a_pool(tmp_path: Path) -> None:
    pool = write_pool(tmp_path / "pool", ["same"] * 4 + ["other"])
    text, facts = page(pool)
    plain = assert_harmless(text).plain
    assert facts["kind"] == "pool" and "A pool of 5 rows in 2 shards with 6 columns" in plain
    assert (
        "2 different captions" in plain
        and "original_width int64" in plain
        and "kept" not in re.sub(r"(?s)<style>.*?</style>", "", text).replace('class="kept"', "")
    )


def test_a_page_about_shards_names_its_parents(tmp_path: Path) -> None:
    from curate.resharding import Layout, open_shards, plan_reshard, run_reshard

    pool = write_pool(tmp_path / "pool", [f"c {n}" for n in range(30)])
    subset = make_subset(pool, tmp_path / "s.npy")
    layout = Layout()
    shards = open_shards(pool, layout)
    plan = plan_reshard(
        pool, shards, subset, tmp_path / "out", layout, tmp_path / "cache", distrust_cache=False
    )
    run_reshard(
        plan,
        shards,
        subset,
        layout,
        executor=Executor("serial"),
        options=RunOptions(),
        index_dir=None,
        observation={},
    )
    text, facts = page(tmp_path / "out")
    plain = assert_harmless(text).plain
    kept = len(np.load(subset))
    assert facts["kind"] == "shards" and facts["pictures"] == min(kept, 24)
    assert re.search(r"pool pool [0-9a-f]{12} → filter-pool s\.npy .* → reshard out", plain)
    assert f"30 samples read = {kept} kept" in plain and "a caption" in plain
    front = page(subset)[0]
    assert re.search(
        r"filter-pool s\.npy .* → reshard out", Elements(front).plain
    )  # the child is found as well


def test_what_cannot_be_reported_on(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="no such file"):
        page(tmp_path / "nothing")
    (tmp_path / "bare.npy").write_bytes(b"x")
    with pytest.raises(MissingInput, match="no record"):
        page(tmp_path / "bare.npy")
    (tmp_path / "folder").mkdir()
    with pytest.raises(MissingInput, match="neither a pool"):
        page(tmp_path / "folder")
    with pytest.raises(UsageError, match="--thumbnails"):
        page(tmp_path / "bare.npy", thumbnails=-1)


def test_the_command_replaces_only_pages_of_its_own(subset: Path) -> None:
    output = subset.parent / "page.html"

    def run(*more: str) -> Any:
        return CliRunner().invoke(command, [str(subset), "-o", str(output), "--engine", "serial", *more])

    first = run("--json")
    assert first.exit_code == 0, first.output
    assert json.loads(first.stdout)["kind"] == "subset"
    assert run().exit_code == 0
    output.write_text("my own notes")
    refused = run()
    assert isinstance(refused.exception, UsageError) and output.read_text() == "my own notes"
    assert "would be made" in run("--force", "--dry-run").stdout and output.read_text() == "my own notes"
    assert run("--force").exit_code == 0 and output.read_text("utf-8").startswith("<!doctype html>")
