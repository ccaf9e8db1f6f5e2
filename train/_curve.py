"""Drawings of a run as inline SVG: the loss curve, and bars. The same numbers give the same bytes; colours come from the page by class.

Everything here goes into the page unescaped, so every piece that is not a number passes through `escape`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from markupsafe import Markup, escape

Floats = npt.NDArray[np.float64]

MOST_POINTS = 600  # of the thin line
SMOOTH_FROM = 20  # steps; with fewer there is nothing to smooth
HOVERS = 48
MOST_BROKEN = 100  # marks of losses that are not finite
LEAST_SPAN = 0.1  # of the chance level: the noise of a flat loss must not fill the drawing
TOP, BOTTOM, LEFT, RIGHT = 16, 26, 44, 10


def short(value: float) -> str:
    """A plain number; those of a million and more in millions or billions."""
    for limit, scale, unit in ((1e9, 1e9, " G"), (1e6, 1e6, " M")):
        if abs(value) >= limit:
            return f"{value / scale:.4g}{unit}"
    if value == int(value):
        return f"{int(value):,}"
    return f"{value:.4g}"


def nice_ticks(low: float, high: float, most: int) -> list[float]:
    """At most `most` + 1 round values (1, 2, 2.5 or 5 times a power of ten apart) from at or below `low` to at or above `high`."""
    if not high - low > max(abs(low), abs(high), 1e-200) * 1e-9:  # nothing that ticks could tell apart
        half = abs(low) * 0.1 or 0.5
        low, high = low - half, high + half
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    for factor in (1.0, 2.0, 2.5, 5.0, 10.0, 20.0):
        step = factor * power
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        if last - first <= most:
            break
    return [float(f"{n * step:.12g}") for n in range(first, last + 1)]


def decimate(values: Floats, most: int = MOST_POINTS) -> npt.NDArray[np.int64]:
    """Places of at most `most` values that keep each spike: the least and the greatest finite one of each of `most` / 2 bins.

    A bin without a finite value gives its first place, so that the gap stays.
    """
    count = len(values)
    if count <= most:
        return np.arange(count, dtype=np.int64)
    edges = np.linspace(0, count, most // 2 + 1).astype(np.int64)
    chosen: list[int] = []
    for low, high in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        part = values[low:high]
        finite = np.isfinite(part)
        if not finite.any():
            chosen.append(low)
            continue
        least = low + int(np.argmin(np.where(finite, part, np.inf)))
        most_at = low + int(np.argmax(np.where(finite, part, -np.inf)))
        chosen += sorted({least, most_at})
    return np.array(chosen, np.int64)


def smooth(values: Floats) -> Floats:
    """The mean of the finite values in a window of a thirtieth of the steps round each; not finite where there is none."""
    half = max(1, len(values) // 60)
    finite = np.isfinite(values)
    total = np.concatenate([[0.0], np.cumsum(np.where(finite, values, 0.0))])
    count = np.concatenate([[0], np.cumsum(finite)])
    place = np.arange(len(values))
    low, high = np.maximum(place - half, 0), np.minimum(place + half + 1, len(values))
    inside = count[high] - count[low]
    sums = total[high] - total[low]
    return np.where(inside > 0, sums / np.maximum(inside, 1), np.nan)


def loss_curve(
    samples: Sequence[float] | npt.NDArray[np.generic],
    loss: Sequence[float] | npt.NDArray[np.generic],
    lr: Sequence[float] | npt.NDArray[np.generic],
    *,
    chance: float,
    chance_text: str,
    checkpoints: Sequence[int] = (),
    width: int = 1040,
    height: int = 330,
) -> Markup:
    """Loss over samples seen: each step thin, the mean of its neighbours bold, the chance level dashed, checkpoints as ticks.

    The learning rate is a faint line on a scale of its own, from 0 to its greatest value. Axes are linear and hold all finite losses
    and the chance level; where the loss is not finite the line has a gap with a mark. `width` and `height` are units of the drawing.
    """
    xs, ys = np.asarray(samples, np.float64), np.asarray(loss, np.float64)
    rates = np.asarray(lr, np.float64)
    finite = ys[np.isfinite(ys)]
    across = nice_ticks(0.0, float(xs[-1]) if len(xs) else 1.0, max(min(width // 90, 8), 3))
    right = max(float(xs[-1]) if len(xs) else 0.0, 1e-9)
    least, most = min(chance, *finite.tolist(), chance), max(chance, *finite.tolist(), chance)
    short_of = max(LEAST_SPAN * chance - (most - least), 0.0)
    up = nice_ticks(least - short_of / 2, most + short_of / 2, 6)
    plot = _Plot(width, height, right, up[0], up[-1])
    parts = [
        f'<line class="grid" x1="{LEFT}" x2="{width - RIGHT}" y1="{_f(plot.y(v))}" y2="{_f(plot.y(v))}"/>'
        for v in up
    ]
    parts += [f'<text x="{LEFT - 6}" y="{_f(plot.y(v) + 4)}" text-anchor="end">{short(v)}</text>' for v in up]
    parts += _samples_axis(plot, [v for v in across if v <= right * 1.0001])
    parts += _rate(plot, xs, rates)
    level = plot.y(chance)
    parts.append(f'<line class="chance" x1="{LEFT}" x2="{width - RIGHT}" y1="{_f(level)}" y2="{_f(level)}"/>')
    parts += _marks(plot, xs, ys, checkpoints)
    places = decimate(ys)
    many = len(xs) >= SMOOTH_FROM
    parts += _line(plot, xs[places], ys[places], "raw" if many else "line")
    if many:
        mean = np.where(np.isfinite(ys), smooth(smooth(ys)), np.nan)  # no line over a gap
        some = np.unique(np.linspace(0, len(xs) - 1, min(len(xs), MOST_POINTS // 2)).astype(np.int64))
        parts += _line(plot, xs[some], mean[some], "line")
    parts.append(
        f'<text class="chancelabel" x="{width - RIGHT - 2}" y="{_f(level - 6 if level > TOP + 14 else level + 14)}" text-anchor="end">'
        f"{escape(chance_text)}</text>"
    )
    parts += _hovers(plot, xs, ys)
    label = f"Loss of {len(xs):,} steps" + (
        f", from {short(float(finite[0]))} to {short(float(finite[-1]))}" if len(finite) else ""
    )
    return _svg(width, height, label, parts)


def bar(share: float, name: str, label: str) -> Markup:
    """One horizontal bar, `share` of its place wide, of the class `name`."""
    wide = min(max(share, 0.0), 1.0) * 1000
    return Markup(  # noqa: S704 - put together from numbers and escaped text
        f'<svg class="bar" viewBox="0 0 1000 10" preserveAspectRatio="none" role="img" aria-label="{escape(label)}">'
        f'<rect class="rest" x="0" y="0" width="1000" height="10"/><rect class="{escape(name)}" x="0" y="0" width="{_f(wide)}" height="10"/></svg>'
    )


class _Plot:
    """From values to places of the drawing."""

    def __init__(self, width: int, height: int, right: float, low: float, high: float) -> None:
        self.width, self.height, self.right, self.low, self.high = width, height, right, low, high
        self.base = height - BOTTOM

    def x(self, value: float) -> float:
        return LEFT + value / self.right * (self.width - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return self.base - (value - self.low) / (self.high - self.low) * (self.base - TOP)


def _f(value: float) -> str:
    text = f"{value:.1f}"
    return text.removesuffix(".0") if text != "-0.0" else "0"


def _svg(width: int, height: int, label: str, parts: Sequence[str]) -> Markup:
    return Markup(  # noqa: S704 - put together from numbers and escaped text
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )


def _line(plot: _Plot, xs: Floats, ys: Floats, name: str) -> list[str]:
    """A path with a gap where a value is not finite; a value alone between gaps is a dot."""
    dots, path, run = [], [], []
    for x, y in [*zip(xs.tolist(), ys.tolist(), strict=True), (0.0, math.nan)]:
        if math.isfinite(y):
            run.append(f"{_f(plot.x(x))} {_f(plot.y(y))}")
            continue
        if len(run) == 1:
            cx, cy = run[0].split(" ")
            dots.append(f'<circle class="dot" cx="{cx}" cy="{cy}" r="2.5"/>')
        elif run:
            path.append(f"M{run[0]}L{' '.join(run[1:])}")
        run = []
    return [
        f'<path class="{name}" d="{"".join(path)}"/>' if path else "",
        *(dots if name == "line" else dots[:50]),
    ]


def _samples_axis(plot: _Plot, ticks: Sequence[float]) -> list[str]:
    out = [f'<line class="axis" x1="{LEFT}" x2="{plot.width - RIGHT}" y1="{plot.base}" y2="{plot.base}"/>']
    for value in ticks:
        x = plot.x(value)
        out.append(f'<line class="axis" x1="{_f(x)}" x2="{_f(x)}" y1="{plot.base}" y2="{plot.base + 4}"/>')
        label = short(value)
        place = min(x, plot.width - 1 - 3.5 * len(label))  # half of what the label is wide
        out.append(f'<text x="{_f(place)}" y="{plot.base + 17}" text-anchor="middle">{label}</text>')
    return out


def _rate(plot: _Plot, xs: Floats, rates: Floats) -> list[str]:
    finite = rates[np.isfinite(rates)]
    peak = float(finite.max()) if len(finite) else 0.0
    if peak <= 0 or len(xs) < 2:
        return []
    scaled = plot.low + np.where(np.isfinite(rates), rates, np.nan) / peak * (plot.high - plot.low)
    some = np.unique(np.linspace(0, len(xs) - 1, min(len(xs), 200)).astype(np.int64))
    return _line(plot, xs[some], scaled[some], "rate")


def _marks(plot: _Plot, xs: Floats, ys: Floats, checkpoints: Sequence[int]) -> list[str]:
    out = []
    for number, at in enumerate(checkpoints, 1):
        x = _f(plot.x(min(at, plot.right)))
        out.append(
            f'<line class="part" x1="{x}" x2="{x}" y1="{plot.base - 8}" y2="{plot.base}"><title>checkpoint {number}: {at:,} samples</title></line>'
        )
    bad = ~np.isfinite(ys)
    starts = np.flatnonzero(bad & ~np.concatenate([[False], bad[:-1]]))
    ends = np.flatnonzero(bad & ~np.concatenate([bad[1:], [False]]))
    some = np.unique(np.linspace(0, len(starts) - 1, min(len(starts), MOST_BROKEN)).astype(np.int64))
    for low, high in zip(starts[some].tolist(), ends[some].tolist(), strict=True):
        left, right = plot.x(float(xs[low - 1]) if low else 0.0), plot.x(float(xs[high]))
        out.append(
            f'<rect class="broken" x="{_f(left)}" y="{TOP}" width="{_f(max(right - left, 1.0))}" height="{plot.base - TOP}"/>'
        )
    return out


def _hovers(plot: _Plot, xs: Floats, ys: Floats) -> list[str]:
    out = []
    for low, high in zip(*_edges(len(xs)), strict=True):
        part = ys[low:high]
        finite = part[np.isfinite(part)]
        mean = f"loss {finite.mean():.4g}" if len(finite) else "loss not finite"
        broken = f", {len(part) - len(finite):,} not finite" if 0 < len(finite) < len(part) else ""
        left, right = plot.x(float(xs[low - 1]) if low else 0.0), plot.x(float(xs[high - 1]))
        out.append(
            f'<rect class="hover" x="{_f(left)}" y="{TOP}" width="{_f(right - left)}" height="{plot.base - TOP}">'
            f"<title>to {int(xs[high - 1]):,} samples: {mean}{broken}</title></rect>"
        )
    return out


def _edges(count: int) -> tuple[list[int], list[int]]:
    edges = np.unique(np.linspace(0, count, min(count, HOVERS) + 1).astype(np.int64)).tolist()
    return edges[:-1], edges[1:]
