"""Drawings of comparisons as inline SVG: a strip of figures with the chance level, and a forest of differences.

The same numbers give the same bytes. Colours come from the page's style by class; texts are numbers or escaped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from headwater.pages import visible
from train._pages import MINUS, points, signed

WIDTH = 520
PAD = 10
STRIP = 20
ROW = 26


@dataclass(frozen=True)
class Axis:
    """A linear axis over [low, high], in fractions, drawn WIDTH wide."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def x(self, value: float) -> float:
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return PAD + share * (WIDTH - 2 * PAD)


def axis_for(values: Sequence[float], *, zero: bool) -> Axis:
    """An axis with round ticks that holds all `values`, and 0 where asked."""
    inside = [v for v in values if math.isfinite(v)] + ([0.0] if zero else [])
    low, high = (min(inside), max(inside)) if inside else (0.0, 1.0)
    span = max(high - low, 0.005)
    step = _round_step(span / 5)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    last = max(last, first + 1)
    return Axis(first * step, last * step, tuple(i * step for i in range(first, last + 1)))


def _round_step(rough: float) -> float:
    power: float = 10.0 ** math.floor(math.log10(rough))
    return next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough - 1e-12)


def _f(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _label(value: float) -> str:
    text = _f(abs(100 * value))
    return f"{MINUS if value < 0 and text != '0' else ''}{text}"


def scale(axis: Axis, what: str) -> Markup:
    """The axis alone, to stand below a column of drawings."""
    parts = [f'<line class="axis" x1="{PAD}" x2="{WIDTH - PAD}" y1="4" y2="4"/>']
    for tick in axis.ticks:
        x = axis.x(tick)
        anchor = "start" if tick == axis.ticks[0] else "end" if tick == axis.ticks[-1] else "middle"
        parts.append(f'<line class="axis" x1="{_f(x)}" x2="{_f(x)}" y1="4" y2="8"/>')
        parts.append(f'<text x="{_f(x)}" y="20" text-anchor="{anchor}">{_label(tick)}</text>')
    label = f"Axis in {what}, {_label(axis.low)} to {_label(axis.high)}"
    return _svg(24, label, parts)


def strip(axis: Axis, chance: float | None, arms: Sequence[tuple[str, int, Sequence[float]]]) -> Markup:
    """Figures of one task: a mark for chance, for each arm a bar from its lowest to its highest run and a dot at the mean.

    `arms`: label, colour number, figures of the runs.
    """
    height = 6 + 12 * max(len(arms), 1)
    parts = [
        f'<line class="grid" x1="{_f(axis.x(t))}" x2="{_f(axis.x(t))}" y1="0" y2="{height}"/>'
        for t in axis.ticks
    ]
    told = []
    for place, (label, colour, values) in enumerate(arms):
        y = 9 + 12 * place
        middle = sum(values) / len(values)
        told.append(f"{label} {points(middle)}")
        parts.append(
            f'<line class="run c{colour}" x1="{_f(axis.x(min(values)))}" x2="{_f(axis.x(max(values)))}" y1="{y}" y2="{y}"/>'
        )
        parts += [f'<circle class="each c{colour}" cx="{_f(axis.x(v))}" cy="{y}" r="2"/>' for v in values]
        parts.append(
            f'<circle class="dot c{colour}" cx="{_f(axis.x(middle))}" cy="{y}" r="4"><title>{escape(visible(label))}: {points(middle)}</title></circle>'
        )
    if chance is not None:
        x = _f(axis.x(chance))
        parts.append(
            f'<line class="chance" x1="{x}" x2="{x}" y1="0" y2="{height}"><title>chance: {points(chance)}</title></line>'
        )
        told.append(f"chance {points(chance)}")
    return _svg(height, "; ".join(told), parts)


def difference(
    axis: Axis,
    value: float,
    test: tuple[float, float] | None,
    both: tuple[float, float] | None,
    verdict: str,
) -> Markup:
    """One line of a forest: thick for the error of the test set, thin with ends for both errors, a dot at the difference."""
    y, kind = STRIP // 2, {"better": "good", "worse": "bad"}.get(verdict, "plain")
    parts = [
        f'<line class="grid" x1="{_f(axis.x(t))}" x2="{_f(axis.x(t))}" y1="0" y2="{STRIP}"/>'
        for t in axis.ticks
    ]
    zero = _f(axis.x(0))
    parts.append(f'<line class="zero" x1="{zero}" x2="{zero}" y1="0" y2="{STRIP}"/>')
    told = f"difference {signed(value)}"
    if both is not None:
        a, b = _f(axis.x(both[0])), _f(axis.x(both[1]))
        parts.append(f'<path class="both {kind}" d="M{a} {y}H{b}M{a} {y - 5}v10M{b} {y - 5}v10"/>')
        told += f", both errors {signed(both[0])} to {signed(both[1])}"
    if test is not None:
        low, high = axis.x(test[0]), axis.x(test[1])
        parts.append(
            f'<rect class="test {kind}" x="{_f(low)}" y="{y - 3}" width="{_f(max(high - low, 0.5))}" height="6" rx="1"/>'
        )
        told += f", test set {signed(test[0])} to {signed(test[1])}"
    parts.append(
        f'<circle class="point {kind}" cx="{_f(axis.x(value))}" cy="{y}" r="4"><title>{told}</title></circle>'
    )
    return _svg(STRIP, told, parts)


def _svg(height: int, label: str, parts: Sequence[str]) -> Markup:
    return Markup(  # noqa: S704 - put together from numbers and escaped text
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(visible(label))}">{"".join(parts)}</svg>'
    )
