"""`headwater report`: the page says what the record says, loads nothing, survives hostile rows, and has the same bytes twice."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import shutil
import subprocess
import tarfile
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image

from curate._report_measure import ASPECT, Measure, axis_for, collect, comparisons, evaluate
from curate._report_pictures import AS_IT_IS_BYTES, data_uri, sniff
from curate.commands_report import report as command
from curate.expressions import Expression
from curate.filtering import filter_pool, prepare
from curate.pool import Pool
from curate.report import build_report, visible
from curate.rules import RuleFile
from headwater.errors import IntegrityError, MissingInput, UsageError
from headwater.executor import Executor
from headwater.steps import RunOptions, read_record

HOSTILE = [
    '<script>alert("x")</script>',
    "\u202egnp.exe</div><img src=x onerror=alert(1)>",
    "{{ 7 * 7 }} {% for x in y %} ${oops}",
    "NUL\0 and bell\a and \x9b2J",
    "y" * 1_000_000,
    "javascript:alert(1)\" onload='alert(2)'",
    "<!-- --> ]]> </style></title>",
    "https://tracker.example/pixel.gif",
    "",
    None,
]


def picture(number: int, *, side: int = 40, noise: bool = False) -> bytes:
    """A PNG: one colour, or (`noise`) one that no codec makes small."""
    random = np.random.default_rng(number)
    pixels = (
        random.integers(0, 256, (side, side, 3), np.uint8)
        if noise
        else np.full((side, side, 3), number * 37 % 256, np.uint8)
    )
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def write_pool(
    folder: Path,
    captions: list[str | None],
    *,
    shards: int = 2,
    tars: bool = True,
    side: int = 40,
    noise: bool = False,
) -> Path:
    """A pool with its tars: row n has caption n, is n x 10 + 100 pixels wide and 200 high, and every third picture is the first one."""
    folder.mkdir(parents=True)
    for shard in range(shards):
        numbers = list(range(shard * len(captions) // shards, (shard + 1) * len(captions) // shards))
        blobs = [picture(0 if n % 3 == 0 else n, side=side, noise=noise) for n in numbers]
        table = {
            "uid": pa.array([hashlib.md5(str(n).encode()).hexdigest() for n in numbers], pa.string()),
            "text": pa.array([captions[n] for n in numbers], pa.string()),
            "original_width": pa.array([100 + 10 * n for n in numbers], pa.int64()),
            "original_height": pa.array([200] * len(numbers), pa.int64()),
            "score": pa.array([n / 100 for n in numbers], pa.float32()),
            "sha256": pa.array([hashlib.sha256(b).hexdigest() for b in blobs], pa.string()),
        }
        pq.write_table(pa.table(table), folder / f"{shard:08d}.parquet", row_group_size=7)
        if tars:
            with tarfile.open(folder / f"{shard:08d}.tar", "w") as tar:
                for n, uid, blob in zip(numbers, table["uid"].to_pylist(), blobs, strict=True):
                    members = {"json": json.dumps({"uid": uid}).encode(), "png": blob, "txt": b"a caption"}
                    for extension, data in members.items():
                        info = tarfile.TarInfo(f"{n:09d}.{extension}")
                        info.size = len(data)
                        tar.addfile(info, io.BytesIO(data))
    return folder


RULE: dict[str, Any] = {
    "format": "rule/1",
    "name": "try",
    "scores": [],
    "keep": [
        {"id": "wide <b>", "sql": "original_width >= 150"},
        {"id": "best", "top": {"column": "score", "fraction": 0.75}},
        {"id": "once", "dedup": {"by": ["sha256"]}},
    ],
}


def make_subset(
    pool: Path, output: Path, rule: dict[str, Any] = RULE, *, reasons: Path | None = None
) -> Path:
    ready = prepare(Pool.open(pool), RuleFile.model_validate(rule), Path())
    options = RunOptions(command=("headwater", "filter-pool", str(pool), "-o", output.name))
    assert filter_pool(ready, output, executor=Executor("serial"), options=options, reasons=reasons)
    return output


def page(path: Path, **options: Any) -> tuple[str, dict[str, Any]]:
    output = path.parent / "page.html"
    facts = build_report(path, output, executor=Executor("serial"), **options)
    return output.read_text("utf-8"), facts


@pytest.fixture
def subset(tmp_path: Path) -> Path:
    pool = write_pool(tmp_path / "pool", [f"caption number {n % 9}" for n in range(60)])
    return make_subset(pool, tmp_path / "s.npy")


class Elements(HTMLParser):
    """Collects every element with its attributes, and all text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data + " "

    @property
    def plain(self) -> str:
        return " ".join(self.text.split())


def assert_harmless(text: str) -> Elements:
    """No element that runs or loads anything: sources are data: pictures, links stay on the page, no handlers."""
    seen = Elements(text)
    allowed = {"html", "head", "meta", "title", "style", "body", "main", "header", "footer", "nav", "a", "h1", "h2", "h3", "p", "b", "i",
               "div", "span", "small", "br", "table", "tr", "th", "td", "ol", "li", "pre", "figure", "figcaption", "img", "bdi",
               "svg", "rect", "path", "line", "text"}  # fmt: skip
    assert {tag for tag, _ in seen.found} <= allowed
    for tag, attributes in seen.found:
        assert not [name for name in attributes if name.startswith("on")]
        assert not attributes.keys() & {"srcset", "xlink:href", "action", "formaction", "background"}
        if "src" in attributes:
            assert tag == "img" and re.fullmatch(
                r"data:image/(png|jpeg|webp);base64,[A-Za-z0-9+/]+=*", attributes["src"] or ""
            )
        if "href" in attributes:
            assert tag == "a" and (attributes["href"] or "").startswith("#")
    style = text.split("<style>")[1].split("</style>")[0]
    assert "url(" not in style and "@import" not in style
    return seen


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


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a >= 3", [("a", ">=", 3.0)]),
        ("0.5 > a and not (b <= -2)", [("a", "<", 0.5), ("b", "<=", -2.0)]),
        ("a between 1 and 4", [("a", ">=", 1.0), ("a", "<=", 4.0)]),
        ("greatest(w, h) / least(w, h) <= 3", [("greatest(w, h) / least(w, h)", "<=", 3.0)]),
        ("t = 'x' or a = 3 or a > b", []),
    ],
)
def test_comparisons_of_an_expression(text: str, found: list[tuple[str, str, float]]) -> None:
    assert list(comparisons(Expression.parse(text, name="c")._tree)) == found


def test_measures_evaluate_as_their_text_says() -> None:
    columns = {"original_width": np.array([100, 300]), "original_height": pa.array([50, None])}
    values = evaluate(Measure(ASPECT).node, columns.__getitem__)
    assert values[0] == 2.0 and np.isnan(
        evaluate(Measure("original_height * 2").node, columns.__getitem__)[1]
    )
    assert evaluate(Measure("length(t)").node, lambda _: pa.array(["äöü", ""])).tolist() == [3.0, 0.0]
    assert collect(None, {}, {"text": pa.string()}) == []


def test_axes_hold_the_cut_and_nearly_all_values() -> None:
    random = np.random.default_rng(0)
    for values in (
        random.lognormal(5, 1, 5000),
        random.normal(0.2, 0.05, 5000),
        random.integers(0, 30, 5000).astype(float),
        np.full(9, 4.0),
    ):
        cut = float(np.quantile(values, 0.9))
        axis = axis_for(values, [cut])
        assert axis is not None and axis.low <= cut <= axis.high and 1 <= axis.bins <= 200
        inside = ((values >= axis.low) & (values < axis.high)).mean()
        assert inside > 0.98
    assert axis_for(np.array([np.nan, np.inf]), []) is None


def test_pictures_are_judged_by_their_bytes() -> None:
    small = picture(3)
    assert sniff(small) == "image/png" and data_uri(small).endswith(base64.b64encode(small).decode())
    large = picture(1, side=300, noise=True)
    assert len(large) > AS_IT_IS_BYTES
    made = base64.b64decode(data_uri(large).split(",")[1])
    with Image.open(io.BytesIO(made)) as image:
        assert image.format == "WEBP" and max(image.size) <= 192
    assert sniff(b"<svg xmlns='http://www.w3.org/2000/svg' onload='x'/>") is None
    for bad in (b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"", small[:40], b"GIF89a"):
        with pytest.raises(ValueError, match="picture"):
            data_uri(bad)


def test_a_picture_of_too_many_pixels_is_not_decoded() -> None:
    out = io.BytesIO()
    Image.new("1", (9000, 9000)).save(out, "PNG")
    assert (
        len(out.getvalue()) < 20_000
    )  # small enough to be embedded as it is, were it not for its size in pixels
    with pytest.raises(ValueError, match="too many to decode"):
        data_uri(out.getvalue())


def test_visible_marks() -> None:
    assert visible("a\u2066b\u200fc\x00\ttab\n") == "a‹U+2066›b‹U+200F›c‹U+0000›\ttab\n"
    assert visible("赤い車 é \U0001f468\u200d\U0001f469") == "赤い車 é \U0001f468\u200d\U0001f469"
    assert visible(3) == 3


@pytest.mark.slow
def test_a_browser_draws_it_without_a_word(subset: Path, tmp_path: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium is installed")
    page(subset)
    picture_file = tmp_path / "shot.png"
    done = subprocess.run(
        [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}",
         f"--screenshot={picture_file}", "--window-size=400,1600", (tmp_path / "page.html").as_uri()],
        capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert picture_file.is_file(), done.stderr[-2000:]
    # the page's own policy would complain here about anything it refuses
    assert "CONSOLE" not in done.stderr and "Refused" not in done.stderr
    with Image.open(picture_file) as image:
        colours = image.convert("RGB").getcolors(1 << 24)
        assert image.size == (400, 1600) and colours is not None and len(colours) > 50
        # the cut's colour is drawn, and nothing overflows into a strip at the right edge
        assert {(185, 72, 10)} & {rgb for _, rgb in colours}
        edge = image.convert("RGB").crop((396, 0, 400, 1600)).getcolors(10_000)
        assert edge is not None and len(edge) <= 3
