"""Parts of the report: measures, axes, pictures, and a browser that draws it."""

from __future__ import annotations

import base64
import io
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from curate._report_measure import ASPECT, Measure, axis_for, collect, comparisons, evaluate
from curate._report_pictures import AS_IT_IS_BYTES, data_uri, sniff
from curate.expressions import Expression
from headwater.pages import visible
from tests.curate.report_kit import (
    make_subset,
    page,
    picture,
    write_pool,
)


@pytest.fixture
def subset(tmp_path: Path) -> Path:
    pool = write_pool(tmp_path / "pool", [f"caption number {n % 9}" for n in range(60)])
    return make_subset(pool, tmp_path / "s.npy")


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
