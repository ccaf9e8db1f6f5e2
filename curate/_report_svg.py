"""Drawings of a report as inline SVG: the same numbers give the same bytes. Colours come from the page's style by class.

Everything here is text that goes into the page unescaped, so every piece that is not a number passes through `escape`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup, escape

from curate._report_data import Histogram
from curate._report_measure import Axis, Measure

WIDTH, HEIGHT = 360, 178
LEFT, RIGHT, TOP, BOTTOM = 6, 6, 10, 24
LINE = 13  # height of a cut's label


def _f(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def number(value: float) -> str:
    """A short number for axes and cuts."""
    if value == 0:
        return "0"
    if value == int(value) and abs(value) < 1e7:
        return f"{int(value):,}"
    return f"{value:.4g}"


def histogram(measure: Measure, axis: Axis, counts: Histogram, *, kept: bool) -> Markup:
    """Bars of the pool with the kept rows in front, and the cuts as lines with the share of rows right of them."""
    top = TOP + LINE * min(len(measure.cuts), 3)
    plot_width, plot_height = WIDTH - LEFT - RIGHT, HEIGHT - top - BOTTOM
    base = HEIGHT - BOTTOM
    most = max(int(counts.bins[0].max(initial=0)), 1)
    bar = plot_width / axis.bins
    gap = min(1.0, bar * 0.18)
    pool, front, hover = [], [], []
    for place in range(axis.bins):
        every, of_kept = int(counts.bins[0, place]), int(counts.bins[1, place])
        if not every:
            continue
        x = LEFT + place * bar + gap / 2
        height = max(every / most * plot_height, 0.6)
        pool.append(f"M{_f(x)} {base}v{_f(-height)}h{_f(bar - gap)}v{_f(height)}z")
        if kept and of_kept:
            low = max(of_kept / most * plot_height, 0.6)
            front.append(f"M{_f(x)} {base}v{_f(-low)}h{_f(bar - gap)}v{_f(low)}z")
        tail = f", {of_kept:,} kept" if kept else ""
        hover.append(
            f'<rect class="hover" x="{_f(LEFT + place * bar)}" y="{top}" width="{_f(bar)}" height="{plot_height}">'
            f"<title>{_interval(axis, place)}: {every:,} rows{tail}</title></rect>"
        )
    parts = [
        f'<path class="pool" d="{"".join(pool)}"/>',
        f'<path class="kept" d="{"".join(front)}"/>' if front else "",
    ]
    parts += [
        f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base}" y2="{base}"/>',
        *_ticks(axis, base, plot_width),
        *hover,
    ]
    parts += _cuts(measure, axis, counts, plot_width, base)
    label = f"Histogram of {measure.title}: {counts.counted:,} rows"
    return Markup(  # noqa: S704 - put together from numbers and escaped text
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )


def _interval(axis: Axis, place: int) -> str:
    low = axis.low + place * axis.step
    if axis.whole and axis.step == 1:
        return number(low)
    high = axis.low + (place + 1) * axis.step
    return f"{number(low)} to {number(high - 1)}" if axis.whole else f"{number(low)} to below {number(high)}"


def _ticks(axis: Axis, base: int, plot_width: float) -> list[str]:
    span = axis.high - axis.low
    power = 10.0 ** math.floor(math.log10(span / 4))
    step = next(f * power for f in (1, 2, 2.5, 5, 10) if span / (f * power) <= 5)
    if axis.whole:
        step = max(1.0, math.ceil(step))
    out, value = [], math.ceil(axis.low / step - 1e-9) * step
    middle = axis.step / 2 if axis.whole and axis.step == 1 else 0.0
    while value + middle <= axis.high + 1e-9:
        x = LEFT + (value + middle - axis.low) / span * plot_width
        anchor = "start" if x < 18 else "end" if x > WIDTH - 22 else "middle"
        value_text = number(round(value, 10))
        out.append(f'<line class="axis" x1="{_f(x)}" x2="{_f(x)}" y1="{base}" y2="{base + 4}"/>')
        out.append(f'<text x="{_f(x)}" y="{base + 17}" text-anchor="{anchor}">{value_text}</text>')
        value += step
    return out


def _cuts(measure: Measure, axis: Axis, counts: Histogram, plot_width: float, base: int) -> list[str]:
    out = []
    for place, cut in enumerate(measure.cuts[:3]):
        share = counts.right[place] / counts.counted if counts.counted else 0.0
        # of whole numbers, "more than 2" lies between the bars of 2 and 3
        at = cut.value + (1.0 if axis.whole and not cut.at_least else 0.0)
        x = LEFT + min(max((at - axis.low) / (axis.high - axis.low), 0.0), 1.0) * plot_width
        anchor = "start" if x < WIDTH * 0.5 else "end"
        shift = 4 if anchor == "start" else -4
        sign = "≥" if cut.at_least else ">"
        y = TOP + 1 + LINE * place
        out.append(f'<line class="cut" x1="{_f(x)}" x2="{_f(x)}" y1="{y - 8}" y2="{base}"/>')
        text = f"{sign} {number(cut.value)}: {share:.1%} of rows"
        out.append(
            f'<text class="cutlabel" x="{_f(x + shift)}" y="{y}" text-anchor="{anchor}">{escape(text)}'
            f"<title>clause {escape(cut.clause)}</title></text>"
        )
    return out


def bars(shares: Sequence[tuple[float, str]], label: str) -> Markup:
    """One horizontal bar: (share of the whole width, class) from left to right, stretched to the width of its place."""
    parts, x = [], 0.0
    for share, name in shares:
        width = max(min(share, 1 - x), 0.0) * 1000
        if width > 0:
            parts.append(
                f'<rect class="{escape(name)}" x="{_f(x * 1000)}" y="0" width="{_f(width)}" height="10"/>'
            )
        x += share
    return Markup(  # noqa: S704 - as above
        f'<svg class="bar" viewBox="0 0 1000 10" preserveAspectRatio="none" role="img" aria-label="{escape(label)}">'
        f'<rect class="rest" x="0" y="0" width="1000" height="10"/>{"".join(parts)}</svg>'
    )
