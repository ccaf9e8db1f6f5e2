"""What a study is asked, in which order it goes, what its payloads are, and what its figures say: without a trial."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from distribute.study import LinkSpec, StudyOptions, running, study
from distribute.study.drawings import Lane, scale, split, strip, ticks
from distribute.study.environment import environment
from distribute.study.options import parse_links, parse_rate, parse_rtt, parse_size
from distribute.study.payloads import MARK, Payload, files_below, make, set_cache, sizes, tree
from distribute.study.plan import cells, estimate, order, order_id
from distribute.study.report import page
from distribute.study.results import row_from, seconds, summarise, text_table, write_table
from distribute.study.trial import Row, censor
from headwater.console import listen
from headwater.errors import MissingExtra, MissingInput, UsageError
from headwater.steps import RunOptions

SLOW = LinkSpec(1e8, 0.05)
FAST = LinkSpec(None, 0.0)


@pytest.mark.parametrize(
    ("text", "rate"), [("100mbit", 1e8), ("1gbit", 1e9), ("12.5kbit", 12_500.0), ("none", None), ("0", None)]
)
def test_rates(text: str, rate: float | None) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["fast", "100", "-1mbit", "1bit", "100mb", "1e9gbit"])
def test_rates_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=re.escape(text)):
        parse_rate(text)


@pytest.mark.parametrize(
    ("text", "size"), [("64MB", 64_000_000), ("1MiB", 1 << 20), ("123456", 123_456), ("1.5gb", 1_500_000_000)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


def test_links_are_crossed_or_paired() -> None:
    assert len(parse_links("none,100mbit", "0,50", None)) == 4
    assert parse_links("x", "y", "none/0, 100mbit/50ms") == (FAST, SLOW)
    assert (FAST.text, SLOW.text) == ("none-0ms", "100mbit-50ms")
    for wrong in ("100mbit", "none/x", "none/-1"):
        with pytest.raises(UsageError):
            parse_links("none", "0", wrong)
    with pytest.raises(UsageError):
        parse_rtt("61000")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"payloads": ("few-larg",)}, "few-large"),
        ({"payloads": ("dataset",)}, "dataset"),
        ({"methods": ("htp",)}, "http"),
        ({"methods": ()}, "--methods"),
        ({"methods": ("http", "http")}, "twice"),
        ({"seeders": (0,)}, "--seeders"),
        ({"seeders": (1, 1)}, "twice"),
        ({"trials": 0}, "--trials"),
        ({"size_bytes": 5}, "--size"),
        ({"cap_seconds": float("nan")}, "--cap"),
        ({"caches": ("hot",)}, "--cache"),
        ({"links": ()}, "link"),
        ({"methods": ("girder",)}, "--girder"),
        ({"girder": "girder+http://127.0.0.1/api/v1#folder/1"}, "--girder"),
        ({"methods": ("girder",), "girder": "girder+https://127.0.0.1/api/v1#folder/1"}, "http"),
    ],
)
def test_what_cannot_be_is_refused_by_name(change: dict[str, Any], named: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=re.escape(named)):
        study(tmp_path / "out", dataclasses.replace(StudyOptions(), **change))
    assert list(tmp_path.iterdir()) == []


def test_a_dataset_must_be_there(tmp_path: Path) -> None:
    options = StudyOptions(payloads=("dataset",), dataset=tmp_path / "none")
    with pytest.raises(MissingInput):
        study(tmp_path / "out", options)


def test_netem_is_refused_with_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = StudyOptions(link_kind="netem")
    monkeypatch.setattr(running, "netem_problem", lambda: "the kernel has no netem")
    with pytest.raises(MissingExtra, match="the kernel has no netem"):
        study(tmp_path / "out", options)
    monkeypatch.setattr(running, "netem_problem", lambda: "")
    with pytest.raises(UsageError, match="netem"):
        study(tmp_path / "out", options)


def test_order_is_drawn_by_seed_in_blocks() -> None:
    options = StudyOptions(trials=3, seeders=(1, 2))
    first, again = order(options), order(options)
    assert first == again
    assert order_id(first) != order_id(order(dataclasses.replace(options, seed=1)))
    each = len(cells(options))
    assert [trial.position for trial in first] == list(range(1, 3 * each + 1))
    assert len({trial.name for trial in first}) == len(first)
    orders = set()
    for number in range(3):
        block = first[number * each : (number + 1) * each]
        assert {trial.number for trial in block} == {number + 1}
        assert {trial.cell for trial in block} == set(cells(options))  # every cell once
        payloads = [trial.cell.payload for trial in block]
        assert len([n for n in range(1, each) if payloads[n] != payloads[n - 1]]) == 1  # one after the other
        orders.add(tuple(trial.cell for trial in block))
    assert len(orders) == 3


def test_girder_has_one_server() -> None:
    options = StudyOptions(
        methods=("http", "girder"), girder="girder+http://h/api/v1#folder/1", seeders=(1, 4)
    )
    assert {cell.seeders for cell in cells(options) if cell.method == "girder"} == {1}


def test_a_dry_run_writes_nothing_and_tells_the_plan(tmp_path: Path) -> None:
    told = study(tmp_path / "out", StudyOptions(), RunOptions(dry_run=True))
    assert list(tmp_path.iterdir()) == []
    assert told["trials"] == 5 * told["cells"] == 5 * 2 * 2 * 3 * 3
    assert told["longest_seconds"] > told["trials"] * 300
    assert "180 trials" in told["text"]
    updates = estimate(StudyOptions(payloads=("update", "annotation"), trials=1), 10**12, (0, 0))
    assert updates["bytes_to_send"] < 18 * 2_000_000


@pytest.mark.parametrize("total", [100_000, 4_000_000, 64_000_001])
def test_sizes_add_up(total: int) -> None:
    import random

    found = sizes(total, 30_000, 0.9, random.Random(1), least=10)
    assert sum(found) == total and min(found) >= 1


def test_trees_have_their_shape() -> None:
    options = StudyOptions(size_bytes=64_000_000)
    large, small, one = (tree(name, options) for name in ("few-large", "many-small", "one-archive"))
    assert (len(large), len(small), len(one)) == (10, 2133, 1)
    for files in (large, small, one):
        assert sum(files.values()) == 64_000_000
    assert tree("few-large", options) == large != tree("few-large", dataclasses.replace(options, seed=1))


@pytest.mark.parametrize("name", ["many-small", "update", "annotation"])
def test_payloads_are_the_same_for_the_same_seed(name: str, tmp_path: Path) -> None:
    options = StudyOptions(size_bytes=300_000)
    first, again = (make(name, tmp_path / folder, options) for folder in ("one", "two"))
    other = make(name, tmp_path / "three", dataclasses.replace(options, seed=7))
    assert first.manifest_id == again.manifest_id != other.manifest_id
    assert make(name, tmp_path / "one", options) == first  # found there
    (tmp_path / "two" / MARK).unlink()  # killed while it was made
    assert dataclasses.replace(
        make(name, tmp_path / "two", options), publish_seconds=0, publish_cpu_seconds=0
    ) == (dataclasses.replace(again, publish_seconds=0, publish_cpu_seconds=0))


def test_an_update_counts_only_what_the_receiver_lacks(tmp_path: Path) -> None:
    options = StudyOptions(size_bytes=420_000)
    update = make("update", tmp_path / "u", options)
    assert update.base is not None and update.torrent == "v2"
    assert (update.sent_files, update.sent_bytes) == (2, 10_000)
    assert update.size_bytes == 430_000
    base = {
        path.relative_to(update.base) for path in files_below(update.base) if ".headwater" not in path.parts
    }
    assert len(base) == update.files - update.sent_files
    annotation = make("annotation", tmp_path / "a", options)
    assert annotation.base is not None
    assert annotation.sent_files == 1 and 1_000 < annotation.sent_bytes < 10_000
    changed = [
        path
        for path in files_below(annotation.data)
        if path.read_bytes() != (annotation.base / path.relative_to(annotation.data)).read_bytes()
    ]
    assert [path.suffix for path in changed] == [".json"]


@pytest.mark.parametrize("cache", ["warm", "cold"])
def test_the_cache_is_set_without_harm(cache: str, tmp_path: Path) -> None:
    payload = make("one-archive", tmp_path / "p", StudyOptions(size_bytes=200_000))
    before = (payload.data / "archive.bin").read_bytes()
    set_cache(payload, cache)
    assert (payload.data / "archive.bin").read_bytes() == before


def _row(number: int, **values: Any) -> Row:
    row = Row(
        payload="few-large",
        method="http",
        seeders=1,
        rate_bits_per_second=1e8,
        rtt_seconds=0.05,
        cache="warm",
        trial=number,
        position=number,
        started_at="2026-01-01T00:00:00.000Z",
        payload_files=10,
        payload_bytes=64_000_000,
    )
    return dataclasses.replace(row, **values)


def _finished(number: int, took: float, **values: Any) -> Row:
    return censor(_row(number, status="finished", ended_seconds=took, verified=True, **values), 60.0)


def test_a_failure_is_censored_at_the_cap_not_when_it_gave_up() -> None:
    row = censor(_row(1, status="failed", ended_seconds=0.5, reason="exit code 4"), 60.0)
    assert (row.finished, row.observed_seconds, row.ended_seconds) == (False, 60.0, 0.5)
    assert _finished(1, 2.5).observed_seconds == 2.5


def _rows() -> list[Row]:
    rows = [
        _finished(n, 5.0 + n, client_cpu_seconds=1.0, overhead_share=0.01, first_byte_seconds=0.4)
        for n in range(1, 4)
    ]
    rows.append(censor(_row(4, status="capped", ended_seconds=60.0, reason='not <finished> & "so"'), 60.0))
    gone = [
        _row(n, method="bittorrent", status="failed", ended_seconds=0.1, reason="no libtorrent")
        for n in (1, 2)
    ]
    return rows + [censor(row, 60.0) for row in gone]


OPTIONS = StudyOptions(payloads=("few-large",), links=(SLOW,), seeders=(1,), trials=4, cap_seconds=60.0)


def test_figures_of_cells() -> None:
    http, bittorrent = summarise(OPTIONS, _rows())
    assert (http["finished"], http["trials"], http["capped"]) == (3, 4, 1)
    assert (
        http["median_seconds"] == 7.0
    )  # of four, the second; a mean over survivors would be the same by luck
    assert http["bytes_per_second"] == round(64_000_000 / 7)
    assert http["of_finished"]["client_cpu_seconds"] == 1.0
    assert http["of_finished"]["seeders_cpu_seconds"] is None
    assert bittorrent["median_seconds"] is None and bittorrent["success_share"] == 0.0
    assert bittorrent["success_low"] == 0.0 < bittorrent["success_high"] < 1.0
    assert bittorrent["reasons"] == {"no libtorrent": 2}
    text = text_table([http, bittorrent])
    assert "not reached" in text and "3/4" in text


def test_the_table_keeps_every_trial(tmp_path: Path) -> None:
    rows = _rows()
    write_table(tmp_path / "t.parquet", rows)
    table = pq.read_table(tmp_path / "t.parquet")
    assert table.column_names == [field.name for field in dataclasses.fields(Row)]
    assert table.schema.metadata[b"format"] == b"study/1"
    assert [row_from(row) for row in table.to_pylist()] == rows
    assert (
        not table.schema.field("finished").nullable and table.schema.field("machine_joules_measured").nullable
    )


def _document(rows: list[Row]) -> dict[str, Any]:
    payload = Payload("few-large", Path("r"), None, "a" * 64, 10, 64_000_000, 10, 64_000_000, "v1", 0.3, 0.4)
    return {
        "options": {**OPTIONS.config(), "seed": 0},
        "order_id": "b" * 64,
        "payloads": [running._payload_facts(payload)],
        "uploads": {},
        "sessions": [{"started_at": "now", "trials_before": 0, "environment": environment()}],
        "trials": len(rows),
        "finished": 3,
        "verified": 3,
        "cells": summarise(OPTIONS, rows),
    }


def test_the_page_is_one_file_without_scripts_and_shows_failures() -> None:
    rows = _rows()
    text = page(json.loads(json.dumps(_document(rows))), rows).decode()
    assert (
        text.count("<svg") >= 4
        and "<script" not in text
        and "http://" not in text.replace("girder+http://", "")
    )
    assert "not reached" in text and "no libtorrent" in text
    assert "not &lt;finished&gt; &amp; &#34;so&#34;" in text and "<finished>" not in text
    assert text.count('class="http censored"') == 2  # in the key, and the one that was capped
    assert page(json.loads(json.dumps(_document(rows))), rows).decode() == text


def test_axes() -> None:
    line, log = scale([2.0, 5.0]), scale([0.3, 120.0])
    assert (line.log, log.log) == (False, True)
    assert line.x(0.0) == log.x(log.low) < line.x(2.0) < line.x(5.0)
    for axis in (line, log, scale([]), scale([0.0]), scale([3.0])):
        found = ticks(axis)
        assert 1 <= len(found) <= 8 and all(axis.low <= tick <= axis.high for tick in found)


def test_drawings_escape_their_words() -> None:
    lane = Lane("<b>", "http", [(1.0, True), (2.0, False)], 1.0, None, None)
    text = str(strip([lane], scale([1.0, 2.0]), 'a"<i>'))
    assert "<b>" not in text and "<i>" not in text and "&lt;b&gt;" in text
    assert "circle" in text and "censored" in text and "band" not in text
    assert 'width="500"' in str(split([("http", 1.0)], 2.0, "x"))


def test_seconds_in_words() -> None:
    assert [seconds(v) for v in (None, 0.123, 12.34, 1234.0)] == ["–", "0.12", "12.3", "1,234"]


def test_environment_names_what_matters() -> None:
    found = environment()
    assert found["cores"] >= 1 and "uTP off" in found["settings"]["bittorrent"]
    assert found["packages"]["pyarrow"]


@pytest.fixture(autouse=True)
def _silent() -> None:
    from headwater.console import Silent

    listen(Silent())
