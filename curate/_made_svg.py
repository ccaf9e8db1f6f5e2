"""Histograms of a page about generated pictures, as inline SVG; colours come from the page's style by class."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from markupsafe import Markup, escape

from curate._report_measure import Axis, axis_for
from curate._report_svg import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, number
from headwater.pages import visible

F64 = npt.NDArray[np.float64]
SHARES = Axis(0.0, 0.025, 40, False)


def histogram(
    title: str, values: F64, unit: str, *, axis: Axis | None = None, marks: Sequence[float] = ()
) -> Markup:
    """Bars of `values`; bins below the smallest of `marks` in the colour of what is missing. `unit` is what is counted."""
    axis = axis or axis_for(values, marks)
    if axis is None:
        return Markup("")
    places = np.clip(np.floor((values - axis.low) / axis.step + 1e-9), 0, axis.bins - 1).astype(np.int64)
    counts = np.bincount(places, minlength=axis.bins)
    most = max(int(counts.max()), 1)
    wide, base = (WIDTH - LEFT - RIGHT) / axis.bins, HEIGHT - BOTTOM
    high = base - TOP
    bars, hover = [], []
    for place in np.flatnonzero(counts).tolist():
        count = int(counts[place])
        x, height = LEFT + place * wide, max(count / most * high, 0.6)
        gap = min(1.0, wide * 0.18)
        bars.append(f"M{_f(x + gap / 2)} {base}v{_f(-height)}h{_f(wide - gap)}v{_f(height)}z")
        low = axis.low + place * axis.step
        single = axis.whole and axis.step == 1
        told = (
            number(low)
            if single
            else f"{number(round(low, 10))} to below {number(round(low + axis.step, 10))}"
        )
        hover.append(
            f'<rect class="hover" x="{_f(x)}" y="{TOP}" width="{_f(wide)}" height="{high}"><title>{told}: {count:,} {escape(unit)}</title></rect>'
        )
    lines = [
        f'<line class="cut" x1="{_f(x)}" x2="{_f(x)}" y1="{TOP}" y2="{base}"/>'
        for x in (LEFT + (mark - axis.low) / axis.step * wide for mark in marks)
    ]
    label = f"Histogram of {title}: {len(values):,} {unit}"
    axis_line = f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base}" y2="{base}"/>'
    inside = "".join(
        [f'<path class="bars" d="{"".join(bars)}"/>', axis_line, *_ticks(axis, base), *lines, *hover]
    )
    return Markup(  # noqa: S704 - put together from numbers and escaped text
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(visible(label))}">{inside}</svg>'
    )


def _ticks(axis: Axis, base: int) -> list[str]:
    span = axis.high - axis.low
    power = 10.0 ** math.floor(math.log10(span / 4))
    step = next(f * power for f in (1, 2, 2.5, 5, 10) if span / (f * power) <= 5)
    if axis.whole:
        step = max(1.0, math.ceil(step))
    middle = axis.step / 2 if axis.whole and axis.step == 1 else 0.0
    out, value = [], math.ceil(axis.low / step - 1e-9) * step
    while value + middle <= axis.high + 1e-9:
        x = LEFT + (value + middle - axis.low) / span * (WIDTH - LEFT - RIGHT)
        anchor = "start" if x < 18 else "end" if x > WIDTH - 22 else "middle"
        out.append(f'<line class="axis" x1="{_f(x)}" x2="{_f(x)}" y1="{base}" y2="{base + 4}"/>')
        out.append(
            f'<text x="{_f(x)}" y="{base + 17}" text-anchor="{anchor}">{number(round(value, 10))}</text>'
        )
        value += step
    return out


def _f(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
