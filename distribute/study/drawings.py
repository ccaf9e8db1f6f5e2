"""Drawings of a study as inline SVG: every trial a mark, the median a line. Colours come from the page's style by class.

Everything here is text that goes into the page unescaped, so every piece that is not a number passes through `escape`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from distribute.study.results import seconds

WIDTH, LEFT, RIGHT = 560, 112, 92
ROW, TOP, BOTTOM = 24, 8, 26
LOG_FROM = 6.0  # the longest over the shortest time, above which the axis is logarithmic


@dataclass(frozen=True)
class Lane:
    """One cell: its trials as (seconds, finished), and the median with its limits."""

    label: str
    method: str
    marks: Sequence[tuple[float, bool]]
    median: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Scale:
    """Seconds to pixels."""

    low: float
    high: float
    log: bool

    def x(self, value: float) -> float:
        """Pixels from the left, inside the plot."""
        value = min(max(value, self.low), self.high)
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return LEFT + share * (WIDTH - LEFT - RIGHT)


def scale(values: Sequence[float]) -> Scale:
    """An axis that holds all values: from 0, or logarithmic where they are far apart."""
    low, high = min(values, default=1.0), max(values, default=1.0)
    low, high = max(low, 0.01), max(high, 0.02)
    if high / low > LOG_FROM:
        return Scale(low / 1.15, high * 1.15, True)
    return Scale(0.0, high * 1.06, False)


def strip(lanes: Sequence[Lane], axis: Scale, label: str) -> Markup:
    """Lanes one below the other: dots are trials that finished, open triangles those that had not when they were given up."""
    height = TOP + ROW * len(lanes) + BOTTOM
    base = TOP + ROW * len(lanes)
    parts = []
    for value in ticks(axis):
        x = axis.x(value)
        parts.append(f'<line class="grid" x1="{_f(x)}" x2="{_f(x)}" y1="{TOP}" y2="{base}"/>')
        parts.append(f'<text x="{_f(x)}" y="{base + 16}" text-anchor="middle">{_tick(value)}</text>')
    parts.append(f'<text x="{WIDTH - RIGHT + 8}" y="{base + 16}">seconds</text>')
    for number, lane in enumerate(lanes):
        parts += _lane(lane, axis, TOP + ROW * number + ROW / 2)
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base}" y2="{base}"/>')
    return Markup(  # noqa: S704 - put together from numbers and escaped text
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )


def _lane(lane: Lane, axis: Scale, y: float) -> list[str]:
    name = escape(lane.method)
    out = [f'<text class="lane" x="0" y="{_f(y + 4)}">{escape(lane.label)}</text>']
    if lane.low is not None or lane.high is not None:
        # an end that cannot be given is drawn to the edge, faint
        start = axis.x(lane.low) if lane.low is not None else LEFT
        stop = axis.x(lane.high) if lane.high is not None else WIDTH - RIGHT
        faint = " open" if lane.low is None or lane.high is None else ""
        out.append(
            f'<rect class="{name} band{faint}" x="{_f(start)}" y="{_f(y - 5)}" width="{_f(max(stop - start, 1))}" height="10" rx="2"/>'
        )
    for value, finished in lane.marks:
        x = axis.x(value)
        said = (
            f"{seconds(value)} s" if finished else f"not finished when it was given up, at {seconds(value)} s"
        )
        title = f"<title>{escape(lane.label)}: {said}</title>"
        if finished:
            out.append(f'<circle class="{name}" cx="{_f(x)}" cy="{_f(y)}" r="3.6">{title}</circle>')
        else:
            out.append(f'<path class="{name} censored" d="M{_f(x - 4)} {_f(y - 5)}l9 5l-9 5z">{title}</path>')
    if lane.median is not None:
        x = axis.x(lane.median)
        out.append(
            f'<line class="{name} median" x1="{_f(x)}" x2="{_f(x)}" y1="{_f(y - 9)}" y2="{_f(y + 9)}"/>'
        )
    told = f"{seconds(lane.median)} s" if lane.median is not None else "not reached"
    out.append(f'<text class="told" x="{WIDTH - RIGHT + 8}" y="{_f(y + 4)}">{told}</text>')
    return out


def ticks(axis: Scale) -> list[float]:
    """Round values on the axis, at most seven."""
    if not axis.log:
        step = _step(axis.high)
        return [step * n for n in range(int(axis.high / step) + 1)]
    found = []
    for power in range(-2, 6):
        for factor in (1, 2, 5):
            value = factor * 10.0**power
            if axis.low <= value <= axis.high:
                found.append(value)
    while len(found) > 7:
        found = found[::2]
    return found


def _step(high: float) -> float:
    power = 10.0 ** math.floor(math.log10(high / 4))
    return next(f * power for f in (1, 2, 2.5, 5, 10) if high / (f * power) <= 5.01)


def split(parts: Sequence[tuple[str, float]], longest: float, label: str) -> Markup:
    """One bar of times after each other, (class, seconds), stretched to the width of its place."""
    x, drawn = 0.0, []
    for name, value in parts:
        width = max(value, 0.0) / longest * 1000 if longest > 0 else 0.0
        drawn.append(
            f'<rect class="{escape(name)}" x="{_f(x)}" y="0" width="{_f(width)}" height="10"><title>{escape(name)} {seconds(value)} s</title></rect>'
        )
        x += width
    return Markup(  # noqa: S704 - as above
        f'<svg class="bar" viewBox="0 0 1000 10" preserveAspectRatio="none" role="img" aria-label="{escape(label)}">'
        f'<rect class="rest" x="0" y="0" width="1000" height="10"/>{"".join(drawn)}</svg>'
    )


def _tick(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:g}"


def _f(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
