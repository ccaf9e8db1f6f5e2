"""The page of a run: what it says, that nothing on it runs or loads, and drawings of odd series."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from headwater.energy import Meter
from train._curve import MOST_POINTS, bar, decimate, loss_curve, nice_ticks, short, smooth
from train.ledger import PartLedger, ShardInfo, merge, write_part
from train.run_report import (
    AttemptFacts,
    ComponentFacts,
    EnergyFacts,
    RunFacts,
    SkippedFacts,
    build_run_report,
    ledger_facts,
    percent,
    visible,
)

HOSTILE = (
    '<script>alert("x")</script>',
    "\u202egnp.exe</div><img src=x onerror=alert(1)>",
    "{{ 7 * 7 }} {% for x in y %}",
    "NUL\0 and bell\a and \x9b2J and \udcff",
    "y" * 100_000,
    "javascript:alert(1)\" onload='alert(2)'",
    "<!-- --> ]]> </style></title></svg>",
    "https://tracker.example/pixel.gif",
    "",
)


class Elements(HTMLParser):
    """Every element with its attributes, and all text."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page.decode())
        self.plain = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data + " "


def harmless(page: bytes) -> Elements:
    """The page's elements; none runs or loads anything."""
    seen = Elements(page)
    allowed = {"html", "head", "meta", "title", "style", "body", "main", "header", "footer", "nav", "a", "h1", "h2", "h3", "p", "b", "i",
               "div", "span", "small", "table", "tr", "th", "td", "dl", "dt", "dd", "bdi", "wbr", "svg", "rect", "path", "line", "text",
               "circle"}  # fmt: skip
    assert {tag for tag, _ in seen.found} <= allowed
    for tag, attributes in seen.found:
        assert not [name for name in attributes if name.startswith("on") or "href" in name and tag != "a"]
        assert not attributes.keys() & {"src", "srcset", "action", "formaction", "background"}
        assert (attributes.get("href") or "#").startswith("#")
    style = page.decode().split("<style>")[1].split("</style>")[0]
    assert "url(" not in style and "@import" not in style
    policy = [
        a["content"]
        for t, a in seen.found
        if t == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy and "default-src 'none'" in str(policy[0]) and "script" not in str(policy[0])
    return seen


def facts(**changes: Any) -> RunFacts:
    steps = 60
    told: dict[str, Any] = {
        "recipe_name": "clip-nano", "recipe_id": "3f2a9c1b" * 8, "data_name": "openclipart", "data_id": "ab" * 32, "seed": 7,
        "conforming": True, "loss_kind": "softmax", "global_batch": 128, "steps": steps, "samples_seen": steps * 128,
        "unique_samples": 6120, "readable_samples": 9032, "chance_loss": math.log(128), "final_loss": 3.4, "verdict": "learning",
        "non_finite_steps": 0, "curve_samples": [128 * n for n in range(1, steps + 1)],
        "curve_loss": [4.8 - n / 50 for n in range(steps)], "curve_lr": [1e-3 * n / steps for n in range(steps)],
        "checkpoints": [3840, 7680], "repeats": [("0", 2912), ("1", 4000), ("2", 2120)],
        "skipped": {"no_image": 0, "no_caption": 12, "undecodable": 3},
        "skipped_examples": [SkippedFacts("00000001.tar", 12, "animals/cat", "no_caption"),
                             SkippedFacts("00000002.tar", None, None, "undecodable")],
        "samples_per_second": 161.3, "wait_share": 0.0956,
    }  # fmt: skip
    return RunFacts(**{**told, **changes})


def words(**changes: Any) -> str:
    return harmless(build_run_report(facts(**changes))).plain


def test_the_page_says_what_happened() -> None:
    told: dict[str, Any] = {
        "overrides": {"micro_batch": 64},
        "attempts": [
            AttemptFacts(1, 2, "killed by signal 9", 1024, 40.0),
            AttemptFacts(3, 5, "finished", None, 55.9),
        ],
        "recipe": {
            "schema": "recipe/1",
            "model": {"config": {"vision_cfg": {"image_size": 64}}},
            "optim": {"clip": None},
        },
        "environment": {"torch": "2.15.0"},
        "notes": ["seen on a Tuesday"],
    }
    page = build_run_report(facts(**told))
    assert page == build_run_report(facts(**told))
    assert page.startswith(b"<!doctype html>\n<!-- headwater run-report/1 -->")
    text = harmless(page).plain
    for sentence in (
        "Run clip-nano 3f2a9c1b, seed 7",
        "7,680 samples seen",
        "6,120 different, of 9,032",
        "0.85 times through the data",
        "3.400 loss at the end; chance 4.852",
        "9.6% waited for the loader",
        "chance ln(128) = 4.852",
        "Conforming",
        "micro_batch = 64",
        "no caption animals/cat in 00000001.tar, sample 12 12 0.2%",
        "15 skipped and 7,680 seen",
        "Resumed 1 time. 1,024 samples",
        "1 1–2 killed by signal 9 1,024 40.00 s 2 3–5 finished 0 55.90 s",
        "config. vision_cfg. image_size 64",
        "clip –",
        "torch 2.15.0",
        "seen on a Tuesday",
    ):
        assert sentence in text, sentence
    assert "no picture" not in text  # nothing was skipped for that reason


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"verdict": "diverged", "final_loss": None}, "Diverged: the loss"),
        ({"verdict": "at chance"}, "At chance: the loss"),
        ({"verdict": "worse than chance"}, "Worse than chance: the loss"),
        ({"non_finite_steps": 2}, "2 steps had a loss that is not finite"),
        ({"samples_budget": 12800}, "The budget is 12,800 samples; 7,680 were seen."),
        ({"conforming": False, "overrides": {"optim.lr": 2e-3}}, "Not conforming"),
        ({"samples_per_second": None, "wait_share": None}, "not known waited for the loader"),
        ({"skipped": {}}, "No sample was skipped."),
        ({"loss_kind": "sigmoid", "chance_loss": 5.848}, "chance 128·H(1/128) = 5.848"),
    ],
)
def test_what_a_reader_must_not_miss(changes: dict[str, Any], told: str) -> None:
    assert told in words(**changes)
    assert told not in words()


def test_measured_and_modelled_energy_stay_apart() -> None:
    components = [
        ComponentFacts("gpu0", 3000.0, "nvml_counter", "measured", "machine"),
        ComponentFacts("ram", 500.0, "constant", "assumed", "machine"),
        ComponentFacts("cpu", None, "none", "none", "process"),
    ]
    text = words(energy=EnergyFacts(components, 3000.0, 500.0, "codecarbon 3", kg_co2e=None))
    assert "gpu0 3 kJ measured the GPU's own energy counter whole machine" in text
    assert "cpu not known nothing here can tell this process" in text
    assert "measured 3 kJ 0.000833 kWh, 391 J per 1,000 samples" in text
    assert "modelled or assumed 500 J 0.000139 kWh, 65.1 J per 1,000 samples" in text
    assert "3.5 kJ" not in text and "Greenhouse gas: not known" in text
    nothing = words(energy=EnergyFacts([], None, None, "cpu-time"))
    assert (
        "measured not known" in nothing
        and "modelled or assumed not known" in nothing
        and " 0 J" not in nothing
    )


def test_energy_comes_from_a_record() -> None:
    with Meter("train") as meter:
        pass
    record = meter.record()
    found = EnergyFacts.of(record, carbon="a factor of 2024")
    assert [c.device for c in found.components] == [c.device for c in record.components]
    assert found.modelled_joules == record.modelled_joules and found.carbon == "a factor of 2024"


@pytest.mark.parametrize("bad", HOSTILE)
def test_hostile_text_stays_text(bad: str) -> None:
    clean = build_run_report(facts(**_filled("plain", "plain")))
    page = build_run_report(facts(**_filled(bad, bad or "plain")))
    before, after = harmless(clean), harmless(page)
    # as many of each element, but for rows and cards that are empty when the text is
    assert abs(len(before.found) - len(after.found)) < 40
    assert "\u202e" not in page.decode() and "\0" not in page.decode() and "\x9b" not in page.decode()
    assert len(page) < 300_000
    if "<" in bad:
        assert re.sub(r"\s+", " ", visible(bad))[:20] in after.plain


def _filled(text: str, name: str) -> dict[str, Any]:
    return {
        "recipe_name": text, "data_name": text, "run_id": text, "overrides": {name: text}, "notes": [text],
        "skipped_examples": [SkippedFacts(text, 1, text, "no_caption")],
        "attempts": [AttemptFacts(1, None, text, None, None)],
        "energy": EnergyFacts([ComponentFacts(text, 1.0, text, text, text)], None, 1.0, text, carbon=text),
        "recipe": {name: text, "nested": {name: {name: [text, {"deep": text}]}}},
        "environment": {name: text},
    }  # fmt: skip


def test_facts_come_from_a_ledger(tmp_path: Path) -> None:
    one = PartLedger(
        "run", 1, 0, 1, np.zeros(8, np.int32), np.array([0, 1, 2, 0, 1, 0, 0, 0]), np.array([1, 2]),
        np.array([1.4, np.nan], np.float32), np.zeros(2, np.float32), np.zeros(2, np.float32),
        skipped_reason=np.array([3]), skipped_count=np.array([1]), skipped_shard=np.array([0]),
        skipped_sample=np.array([4]), skipped_code=np.array([3]), wait_seconds=1.0, part_seconds=4.0,
    )  # fmt: skip
    write_part(tmp_path, one)
    ledger = merge(tmp_path, parts=1, world=1, shards=[ShardInfo("a.tar", 5, list("vwxyz"))], global_batch=4)
    names = {
        "recipe_name": "r",
        "recipe_id": "0" * 64,
        "data_name": "d",
        "data_id": "1" * 64,
        "seed": 0,
        "conforming": True,
    }
    text = harmless(build_run_report(RunFacts(**ledger_facts(ledger, "softmax"), **names))).plain
    for told in ("8 samples in 2 steps of 4", "3 different, of 4", "Diverged", "picture cannot be decoded z in a.tar, sample 4 1 11.1%",
                 "1 2 8 4.00 s 2 25.0%", "5× 1 25.0%"):  # fmt: skip
        assert told in text, told


SERIES: list[Sequence[float]] = [
    [],
    [3.0],
    [math.nan],
    [3.0] * 50,
    [math.nan] * 50,
    [1.0, math.nan, 2.0, math.inf, 3.0],
    [1e30, -1e30, 5.0],
    [4.852] * 30,
    list(np.linspace(5, 3, 5000)),
    [math.nan, *np.linspace(5, 3, 5000), math.inf],
]


@pytest.mark.parametrize("series", SERIES)
def test_odd_series_are_drawn(series: Sequence[float]) -> None:
    samples = [4 * n for n in range(1, len(series) + 1)]
    told: dict[str, Any] = {"chance": 4.852, "chance_text": "chance <4>", "checkpoints": samples[-1:]}
    drawn = loss_curve(samples, series, [1e-3] * len(series), **told)
    assert drawn == loss_curve(np.array(samples), np.array(series), np.full(len(series), 1e-3), **told)
    assert "nan" not in drawn.lower() and "inf" not in drawn.lower() and "chance &lt;4&gt;" in drawn
    numbers = [float(n) for path in re.findall(r' d="([^"]*)"', drawn) for n in re.findall(r"-?[\d.]+", path)]
    assert all(-1 <= number <= 1041 for number in numbers) and len(numbers) < 2 * 3 * MOST_POINTS
    assert ('class="broken"' in drawn) == (not np.all(np.isfinite(series)))


def test_spikes_stay_and_gaps_stay() -> None:
    values = np.full(100_000, 3.0)
    values[77_777], values[12_345], values[50_000:60_000] = 40.0, -5.0, np.nan
    places = decimate(values)
    assert len(places) <= MOST_POINTS and bool(np.all(np.diff(places) > 0))
    assert {77_777, 12_345} <= set(places.tolist()) and np.isnan(values[places]).sum() > 10


@given(
    st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), max_size=80),
    st.integers(2, 20).map(lambda n: 2 * n),
)
def test_decimation_keeps_the_extremes(series: list[float], most: int) -> None:
    values = np.array(series, np.float64)
    places = decimate(values, most)
    assert len(places) <= max(most, 1) and bool(np.all(np.diff(places) > 0))
    finite = values[np.isfinite(values)]
    if len(finite):
        left = values[places][np.isfinite(values[places])]
        assert (left.min(), left.max()) == (finite.min(), finite.max())


def test_smoothing_is_a_mean_of_neighbours() -> None:
    values = np.array([1.0, 2.0, 6.0, math.nan, 8.0])
    np.testing.assert_allclose(smooth(values), [1.5, 3.0, 4.0, 7.0, 8.0])
    assert np.isnan(smooth(np.array([math.nan] * 3))).all()


@settings(max_examples=300)
@given(st.floats(-1e12, 1e12), st.floats(0, 1e12), st.integers(2, 8))
def test_ticks_are_round_and_cover(low: float, span: float, most: int) -> None:
    ticks = nice_ticks(low, low + span, most)
    assert 2 <= len(ticks) <= most + 2 and ticks == sorted(set(ticks))
    slack = 1e-6 * max(span, abs(low), 1e-9)
    assert ticks[0] <= low + slack and ticks[-1] >= low + span - slack


def test_numbers_are_short() -> None:
    assert [short(v) for v in (0, 12_800, 2.5, 128e6, 1.28e9, 0.001, 4.8520301)] == [
        "0", "12,800", "2.5", "128 M", "1.28 G", "0.001", "4.852"
    ]  # fmt: skip
    assert [percent(v) for v in (None, 0.0, 1e-6, 0.5, 1.0)] == [
        "not known",
        "0.0%",
        "< 0.1%",
        "50.0%",
        "100.0%",
    ]
    assert (
        'width="1000"' in bar(7.0, "kept", "x")
        and 'width="0"' in bar(-1.0, '"><b>', '"><b>')
        and "<b>" not in bar(0, '"><b>', '"><b>')
    )


@pytest.mark.slow
def test_a_browser_draws_it_without_a_word(tmp_path: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium is installed")
    file, shot = tmp_path / "run.html", tmp_path / "shot.png"
    file.write_bytes(build_run_report(facts(**_filled("y" * 3000, "z" * 300))))
    done = subprocess.run(
        [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}",
         f"--screenshot={shot}", "--window-size=600,1600", file.as_uri()],
        capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    for _ in range(50):  # the file may come after the process
        if shot.is_file():
            break
        time.sleep(0.1)
    assert shot.is_file(), done.stderr[-2000:]
    # the page's own policy would complain here about anything it refuses
    assert "CONSOLE" not in done.stderr and "Refused" not in done.stderr
    with Image.open(shot) as image:
        rgb = image.convert("RGB")
    colours = {colour for _, colour in rgb.getcolors(1 << 24) or ()}
    assert {(185, 72, 10), (43, 108, 176)} <= colours  # the chance level and the loss are drawn
    edge = rgb.crop((596, 0, 600, 1600)).getcolors(10_000)
    assert edge is not None and len(edge) <= 3  # nothing overflows to the right
