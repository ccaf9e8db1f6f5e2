"""Drawings of a report as inline SVG: the same numbers give the same bytes. Colours come from the page's style by class.

Everything here is text that goes into the page unescaped, so every piece that is not a number passes through `escape`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup, escape

from curate._report_data import Histogram
from curate._report_measure import Axis, Measure
from curate._report_scatter import Grid, grid_axis
from headwater.pages import visible

WIDTH, HEIGHT = 360, 178
LEFT, RIGHT, TOP, BOTTOM = 6, 6, 10, 24
LINE = 13  # height of a cut's label
# of one score against another
SIDE, _LEFT, _RIGHT, _TOP, _BOTTOM = 420, 66, 12, 26, 44
LEVELS = 6


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
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(visible(label))}">{"".join(parts)}</svg>'
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
            f"<title>clause {escape(visible(cut.clause))}</title></text>"
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
        f'<svg class="bar" viewBox="0 0 1000 10" preserveAspectRatio="none" role="img" aria-label="{escape(visible(label))}">'
        f'<rect class="rest" x="0" y="0" width="1000" height="10"/>{"".join(parts)}</svg>'
    )


def scatter(x: Measure, y: Measure, xa: Axis, ya: Axis, grid: Grid, *, kept: bool) -> Markup:
    """Squares: darker for more rows (logarithmic); where rows were filtered, blue where at least half of them are kept."""
    width, height = SIDE - _LEFT - _RIGHT, SIDE - _TOP - _BOTTOM
    cell_x = width * grid_axis(xa)[0] / xa.bins
    cell_y = height * grid_axis(ya)[0] / ya.bins
    base = SIDE - _BOTTOM
    most = math.log1p(int(grid[0].max(initial=1)))
    paths: dict[tuple[str, int], list[str]] = {}
    for row, column in np.argwhere(grid[0] > 0).tolist():
        rows, of_kept = int(grid[0, row, column]), int(grid[1, row, column])
        level = max(1, math.ceil(math.log1p(rows) / most * LEVELS))
        name = "kept" if not kept or 2 * of_kept >= rows else "dropped"
        left, low = _LEFT + column * cell_x, base - row * cell_y
        right, top = min(left + cell_x, SIDE - _RIGHT), max(low - cell_y, _TOP)
        paths.setdefault((name, level), []).append(f"M{_f(left)} {_f(low)}H{_f(right)}V{_f(top)}H{_f(left)}z")
    parts = [
        f'<path class="{name}" fill-opacity="{0.12 + 0.88 * level / LEVELS:.2f}" d="{"".join(cells)}"/>'
        for (name, level), cells in sorted(paths.items())
    ]
    parts += [
        f'<line class="axis" x1="{_LEFT}" x2="{SIDE - _RIGHT}" y1="{base}" y2="{base}"/>',
        f'<line class="axis" x1="{_LEFT}" x2="{_LEFT}" y1="{_TOP}" y2="{base}"/>',
        *_scatter_ticks(xa, ya, width, height, base),
    ]
    for cut in x.cuts[:3]:
        at = _LEFT + (cut.value - xa.low) / (xa.high - xa.low) * width
        if _LEFT <= at <= SIDE - _RIGHT:
            parts.append(f'<line class="cut" x1="{_f(at)}" x2="{_f(at)}" y1="{_TOP}" y2="{base}"/>')
            parts.append(_cut_label(at + 4, _TOP - 8, number(cut.value), cut.clause, at > SIDE * 0.7))
    for cut in y.cuts[:3]:
        at = base - (cut.value - ya.low) / (ya.high - ya.low) * height
        if _TOP <= at <= base:
            parts.append(f'<line class="cut" x1="{_LEFT}" x2="{SIDE - _RIGHT}" y1="{_f(at)}" y2="{_f(at)}"/>')
            parts.append(_cut_label(SIDE - _RIGHT, at - 4, number(cut.value), cut.clause, True))
    middle = _LEFT + width / 2
    parts.append(f'<text x="{_f(middle)}" y="{SIDE - 6}" text-anchor="middle">{_safe(x.title)}</text>')
    parts.append(
        f'<text x="12" y="{_f(_TOP + height / 2)}" text-anchor="middle" '
        f'transform="rotate(-90 12 {_f(_TOP + height / 2)})">{_safe(y.title)}</text>'
    )
    label = f"{y.title} against {x.title}: {int(grid[0].sum()):,} rows"
    return Markup(  # noqa: S704 - put together from numbers and escaped text
        f'<svg viewBox="0 0 {SIDE} {SIDE}" role="img" aria-label="{_safe(label)}">{"".join(parts)}</svg>'
    )


def _cut_label(x: float, y: float, text: str, clause: str, end: bool) -> str:
    anchor = "end" if end else "start"
    return (
        f'<text class="cutlabel" x="{_f(x)}" y="{_f(y)}" text-anchor="{anchor}">≥ {text}'
        f"<title>clause {_safe(clause)}</title></text>"
    )


def _scatter_ticks(xa: Axis, ya: Axis, width: float, height: float, base: int) -> list[str]:
    out = []
    for share in (0.0, 0.5, 1.0):
        at = _LEFT + share * width
        anchor = "start" if share == 0 else "end" if share == 1 else "middle"
        out.append(f'<text x="{_f(at)}" y="{base + 16}" text-anchor="{anchor}">{_round(xa, share)}</text>')
        out.append(
            f'<text x="{_LEFT - 6}" y="{_f(base - share * height + 4)}" text-anchor="end">{_round(ya, share)}</text>'
        )
    return out


def _round(axis: Axis, share: float) -> str:
    return number(float(f"{axis.low + share * (axis.high - axis.low):.3g}"))


def _safe(text: str) -> str:
    return str(escape(visible(text)))
