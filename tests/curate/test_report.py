"""The report: what the page says is what the record and the pool say."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from curate.report import build_report
from headwater.executor import Executor
from headwater.steps import read_record
from tests.curate.report_kit import (
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


def test_the_page_says_what_the_record_says(subset: Path) -> None:
    text, facts = page(subset)
    record = read_record(subset)
    assert record is not None
    counts = record.identity.counts
    plain = assert_harmless(text).plain
    assert counts.dropped["wide <b>"] == 5 and counts.kept < counts.read == 60
    assert f"kept {counts.kept:,} of them" in plain
    total = " ".join(
        [
            "60 rows read",
            f"= {counts.kept} kept",
            *(f"+ {counts.dropped[c['id']]} {c['id']}" for c in record.details["funnel"]),
        ]
    )
    assert total in plain
    for clause in record.details["funnel"]:
        assert (
            f"{clause['out']} go on" in plain
            and f"{clause['in']} came, {counts.dropped[clause['id']]} dropped" in plain
        )
    for value in (
        record.id,
        record.key,
        record.identity.inputs[0].id,
        record.identity.outputs[0].sha256,
        str(record.identity.outputs[0].blake3),
    ):
        assert value in plain
    assert "not known" in plain and "headwater verify s.npy" in plain and "headwater filter-pool" in plain
    assert "sql: original_width >= 150" in plain and "fraction: 0.75" in plain  # the rule as YAML
    assert facts["rows_looked_at"] == 60 and facts["kind"] == "subset" and facts["notes"] == []


def test_shares_right_of_a_cut_are_exact(subset: Path) -> None:
    text, _ = page(subset)
    record = read_record(subset)
    assert record is not None
    assert "≥ 150: 91.7% of rows" in text  # 55 of 60
    assert (
        f"≥ {record.details['funnel'][1]['cut']:.4g}: 76.7% of rows" in text
    )  # rank 45 of 0 … 59, and all above


def test_histograms_count_every_row(subset: Path) -> None:
    text, _ = page(subset)
    drawn = re.findall(r'<svg[^>]*aria-label="Histogram of ([^"]*): (\d+) rows">(.*?)</svg>', text, re.S)
    assert {title for title, _, _ in drawn} >= {
        "Width, pixels",
        "score",
        "Words in the caption",
        "Shorter side, pixels",
    }
    kept = read_record(subset).identity.counts.kept  # type: ignore[union-attr]
    for title, rows, body in drawn:
        bars = re.findall(r"<title>[^<]*: ([\d,]+) rows, ([\d,]+) kept</title>", body)
        outside = re.search(
            re.escape(title) + r"</h3>(?:(?!</div>).)*?(\d+) rows? right of the picture \((\d+) kept\)",
            text,
            re.S,
        )
        more = [int(g) for g in outside.groups()] if outside else [0, 0]
        assert sum(int(a) for a, _ in bars) + more[0] == int(rows) == 60
        assert sum(int(b) for _, b in bars) + more[1] == kept


def test_rows_are_shown_with_their_pictures_per_reason(subset: Path) -> None:
    text, facts = page(subset, thumbnails=6)
    plain = Elements(text).plain
    assert facts["pictures"] > 6
    assert "Kept" in plain and "Dropped by wide <b>" in plain and "Dropped by best" in plain
    shown = re.findall(r'title="uid ([0-9a-f]{32})&#10;shard (\d+), row (\d+)', text)
    words = np.load(subset)
    kept = {f"{a:016x}{b:016x}" for a, b in words.tolist()}
    gallery = text.split("<h3>Kept</h3>")[1].split("<h3>")[0]
    of_kept = re.findall(r'title="uid ([0-9a-f]{32})', gallery)
    assert len(of_kept) == 6 and set(of_kept) <= kept and len(shown) > len(of_kept)
    dropped = text.split('<span class="mono">best</span></h3>')[1].split("<h3>")[0]
    uids = re.findall(r'title="uid ([0-9a-f]{32})', dropped)
    assert len(uids) == 2 and not set(uids) & kept


def test_another_seed_shows_other_rows(subset: Path) -> None:
    one, _ = page(subset, thumbnails=6, seed=1)
    two, _ = page(subset, thumbnails=6, seed=2)
    assert re.findall(r'title="uid ([0-9a-f]+)', one) != re.findall(r'title="uid ([0-9a-f]+)', two)


def test_repeats_are_counted_exactly(subset: Path) -> None:
    plain = Elements(page(subset)[0]).plain
    assert "9 different captions; 9 of them occur more than once, in 60 rows" in plain
    assert "in 20 rows: 19 rows are copies. 41 different pictures in all." in plain
    assert "20 rows, 1 kept" in plain


def test_bytes_do_not_depend_on_the_run(subset: Path, tmp_path: Path) -> None:
    first = page(subset)[0]
    again = build_report(subset, tmp_path / "again.html", executor=Executor("pool", 2))
    assert (tmp_path / "again.html").read_text("utf-8") == first and again["size_bytes"] == len(
        first.encode()
    )


def test_a_reasons_file_gives_the_same_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = write_pool(tmp_path / "pool", [f"caption {n % 9}" for n in range(40)], tars=False)
    subset = make_subset(pool, tmp_path / "s.npy", reasons=tmp_path / "s.reasons.parquet")
    ran = []
    import curate._report_pool as module

    original = module.run_passes
    monkeypatch.setattr(module, "run_passes", lambda *a, **k: ran.append(1) or original(*a, **k))
    with_file = page(subset)[0]
    assert not ran
    (tmp_path / "s.reasons.parquet").unlink()
    assert page(subset)[0] == with_file and ran


def test_a_reasons_file_of_another_run_is_not_used(tmp_path: Path) -> None:
    pool = write_pool(tmp_path / "pool", [f"caption {n % 9}" for n in range(40)], tars=False)
    subset = make_subset(pool, tmp_path / "s.npy", reasons=tmp_path / "right.parquet")
    right = page(subset)[0]
    other = {**RULE, "keep": [{"id": "wide <b>", "sql": "original_width >= 400"}, *RULE["keep"][1:]]}
    make_subset(pool, tmp_path / "o.npy", other, reasons=tmp_path / "s.reasons.parquet")
    for name in ("o.npy", "o.npy.step.json"):
        (tmp_path / name).unlink()
    assert page(subset)[0] == right
    (tmp_path / "s.reasons.parquet").write_bytes(b"PAR1 not a table PAR1")
    assert page(subset)[0] == right
