"""Plots of a polygon dataset as inline SVG: the same numbers give the same bytes; colours come from the page's style by class.

Text goes into the page unescaped, so every piece that is not a number passes through `escape`. Densities are PNGs below the SVG.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from markupsafe import Markup, escape

from curate._report_svg import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, number
from headwater.pages import visible

F64 = npt.NDArray[np.float64]
U8 = npt.NDArray[np.uint8]
Mark = tuple[float, str]

PLOT = (52, 12, 12, 40)  # left, right, top, bottom of a plot with two axes
WIDE, LEVELS, CELLS, BINS = 360, 6, 42, 40
MONTHS = ("Jan", "Mar", "May", "Jul", "Sep", "Nov")
MONTH_DAYS = (0, 59, 120, 181, 243, 304)
# of a density, none to most: the ends of five straight pieces of colour
RAMP = np.array(
    [(18, 20, 26), (56, 32, 104), (136, 40, 120), (214, 74, 84), (250, 152, 52), (252, 244, 176)], np.float64
)


@dataclass(frozen=True)
class Scale:
    """Numbers along a side of a plot; `log`: equal ratios are equal lengths."""

    low: float
    high: float
    log: bool = False

    def at(self, found: F64) -> F64:
        """Shares of the way from low to high."""
        if self.log:
            return np.asarray((np.log10(found) - math.log10(self.low)) / math.log10(self.high / self.low))
        return np.asarray((found - self.low) / (self.high - self.low))

    def value(self, share: float) -> float:
        """The number at a share of the way."""
        if self.log:
            return float(self.low * (self.high / self.low) ** share)
        return self.low + share * (self.high - self.low)

    def ticks(self) -> list[float]:
        """Two to eight round numbers."""
        slack = 1e-9 * (abs(self.low) + abs(self.high))
        some = [tick for tick in self._powers() if self.low - slack <= tick <= self.high + slack]
        if len(some) > 1:
            return some
        span = self.high - self.low
        power = 10.0 ** math.floor(math.log10(span / 4))
        step = next(f * power for f in (1, 2, 2.5, 5, 10) if span / (f * power) <= 5)
        begin = math.ceil(self.low / step - 1e-9)
        return [tick for n in range(7) if (tick := round(step * (begin + n), 10)) <= self.high + slack]

    def _powers(self) -> list[float]:
        """Powers of ten of a logarithmic scale, with their doubles and fives where it is short."""
        if not self.log:
            return []
        low, high = math.log10(self.low), math.log10(self.high)
        if high - low <= 2:
            powers = range(math.floor(low), math.ceil(high) + 1)
            return [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
        first, last = math.ceil(low), math.floor(high)
        return [10.0**power for power in range(first, last + 1, max(1, -(-(last - first) // 5)))]


def log_scale(found: F64) -> Scale | None:
    """A scale around what is positive; None where nothing is."""
    good = found[np.isfinite(found) & (found > 0)]
    if not len(good):
        return None
    low, high = float(good.min()), float(good.max())
    return Scale(low / 1.15, high * 1.15, True)


def linear_scale(found: F64, low: float | None = None) -> Scale | None:
    """A scale around what is finite, from `low` on where it is given."""
    good = found[np.isfinite(found)]
    if not len(good):
        return None
    least, most = float(good.min()) if low is None else low, float(good.max())
    room = 0.04 * (most - least) or max(1.0, abs(most) * 0.05)
    return Scale(least - room if low is None else low, most + room)


def log_histogram(title: str, found: F64, unit: str, marks: Sequence[Mark] = ()) -> Markup:
    """Bars over equal ratios of what is positive; `marks` are lines with a word."""
    scale = log_scale(found)
    if scale is None:
        return Markup("")
    good = found[np.isfinite(found) & (found > 0)]
    places = np.minimum((scale.at(good) * BINS).astype(np.int64), BINS - 1)
    counts = np.bincount(places, minlength=BINS)
    base, top, wide = HEIGHT - BOTTOM, TOP + 12, (WIDTH - LEFT - RIGHT) / BINS
    bars, hover = [], []
    for place in np.flatnonzero(counts).tolist():
        count, x = int(counts[place]), LEFT + place * wide
        tall = max(count / int(counts.max()) * (base - top), 0.6)
        bars.append(f"M{_f(x + wide * 0.09)} {base}v{_f(-tall)}h{_f(wide * 0.82)}v{_f(tall)}z")
        low, high = (number(float(f"{scale.value(n / BINS):.3g}")) for n in (place, place + 1))
        hover.append(
            f'<rect class="hover" x="{_f(x)}" y="{top}" width="{_f(wide)}" height="{base - top}"><title>{low} to {high}: {count:,} {escape(unit)}</title></rect>'
        )
    parts = [f'<path class="bars" d="{"".join(bars)}"/>', _line(LEFT, base, WIDTH - RIGHT, base)]
    for tick in scale.ticks():
        parts.append(_tick_below(LEFT + _one(scale, tick) * (WIDTH - LEFT - RIGHT), base, number(tick)))
    for value, word in marks:
        if scale.low < value < scale.high:
            x = LEFT + _one(scale, value) * (WIDTH - LEFT - RIGHT)
            parts.append(f'<line class="cut" x1="{_f(x)}" x2="{_f(x)}" y1="{TOP}" y2="{base}"/>')
            end = x > WIDTH - 34
            parts.append(
                f'<text class="cutlabel" x="{_f(x - 4 if end else x + 4)}" y="{TOP + 6}" text-anchor="{"end" if end else "start"}">'
                f"{_safe(word)}</text>"
            )
    return _svg(WIDTH, HEIGHT, f"Histogram of {title}: {len(good):,} {unit}", [*parts, *hover])


def heat(x: F64, y: F64, across: Scale | None, up: Scale | None, titles: tuple[str, str, str]) -> Markup:
    """Squares, darker where more pairs lie (logarithmic); `titles`: of x, of y, what is counted."""
    if across is None or up is None:
        return Markup("")
    good = np.isfinite(x) & np.isfinite(y)
    for found, scale in ((x, across), (y, up)):
        good &= (found > 0) | (not scale.log)
    columns, rows = (
        np.clip((scale.at(found[good]) * CELLS).astype(np.int64), 0, CELLS - 1)
        for found, scale in ((x, across), (y, up))
    )
    grid = np.bincount(rows * CELLS + columns, minlength=CELLS * CELLS).reshape(CELLS, CELLS)
    left, right, top, bottom = PLOT
    wide, high = (WIDE - left - right) / CELLS, (WIDE - top - bottom) / CELLS
    most = math.log1p(int(grid.max(initial=1)))
    paths: dict[int, list[str]] = {}
    for row, column in np.argwhere(grid > 0).tolist():
        level = max(1, math.ceil(math.log1p(int(grid[row, column])) / most * LEVELS))
        a, b = left + column * wide, WIDE - bottom - (row + 1) * high
        paths.setdefault(level, []).append(f"M{_f(a)} {_f(b)}h{_f(wide)}v{_f(high)}h{_f(-wide)}z")
    parts = [
        f'<path class="bars" fill-opacity="{0.16 + 0.84 * level / LEVELS:.2f}" d="{"".join(cells)}"/>'
        for level, cells in sorted(paths.items())
    ]
    label = f"{titles[1]} against {titles[0]}: {int(grid.sum()):,} {titles[2]}"
    return _svg(WIDE, WIDE, label, [*parts, *_axes(across, up, WIDE, WIDE, titles)])


def density(grid: npt.NDArray[np.int64], across: Scale, down: Scale, titles: tuple[str, str, str]) -> Markup:
    """A picture of counts (height, width), none dark and most bright, in proportion to their square roots; y grows downwards."""
    import base64

    from curate.sheets import png

    share = np.sqrt(np.maximum(grid, 0) / max(int(grid.max(initial=0)), 1)) * (len(RAMP) - 1)
    low = np.minimum(share.astype(np.int64), len(RAMP) - 2)
    colours = RAMP[low] + (RAMP[low + 1] - RAMP[low]) * (share - low)[..., None]
    uri = base64.b64encode(png(np.floor(colours + 0.5).astype(np.uint8))).decode("ascii")
    left, right, top, bottom = PLOT
    wide = WIDE - left - right
    high = max(40, round(wide * grid.shape[0] / grid.shape[1]))
    tall = high + top + bottom
    label = f"Density of {titles[2]}; most in one place: {int(grid.max(initial=0)):,}"
    flipped = Scale(-down.high, -down.low)
    places = ((left, WIDE), (top, tall), (wide, WIDE), (high, tall))
    style = "; ".join(
        f"{name}: {100 * length / whole:.4f}%"
        for name, (length, whole) in zip(("left", "top", "width", "height"), places, strict=True)
    )
    drawn = _svg(WIDE, tall, label, _axes(across, flipped, WIDE, tall, titles, abs))
    return Markup(  # noqa: S704 - put together from numbers and escaped text
        f'<div class="over"><img class="cells" style="{style}" src="data:image/png;base64,{uri}" alt="">{drawn}</div>'
    )


def columns(
    names: Sequence[str], counts: Sequence[int], front: Sequence[int], words: tuple[str, str]
) -> Markup:
    """A bar for each name, with a part of it in front; `words`: what is counted, and which of it stands in front."""
    if not names:
        return Markup("")
    base, high = HEIGHT - BOTTOM, HEIGHT - BOTTOM - TOP - 8
    wide = min((WIDTH - LEFT - RIGHT) / len(names), 40.0)
    most = max(*counts, 1)
    parts = []
    for kind, numbers in (("pool", counts), ("bars", front)):
        bars = [
            f"M{_f(LEFT + place * wide + wide * 0.09)} {base}v{_f(-max(count / most * high, 0.6))}h{_f(wide * 0.82)}V{base}z"
            for place, count in enumerate(numbers)
            if count
        ]
        parts.append(f'<path class="{kind}" d="{"".join(bars)}"/>')
    parts.append(_line(LEFT, base, WIDTH - RIGHT, base))
    parts.append(f'<text x="{LEFT}" y="{TOP}">{most:,}</text>')
    shown = max(1, math.ceil(len(names) * 62 / (WIDTH - LEFT - RIGHT))) if wide < 62 else 1
    for place, name in enumerate(names):
        x = LEFT + place * wide
        if place % shown == 0 and x + 48 < WIDTH:
            parts.append(f'<text x="{_f(x)}" y="{base + 17}">{_safe(name)}</text>')
        parts.append(
            f'<rect class="hover" x="{_f(x)}" y="{TOP}" width="{_f(wide)}" height="{base - TOP}">'
            f"<title>{_safe(name)}: {counts[place]:,} {escape(words[0])}, {front[place]:,} {escape(words[1])}</title></rect>"
        )
    return _svg(WIDTH, HEIGHT, f"{sum(counts):,} {words[0]}, {sum(front):,} {words[1]}", parts)


def clock(days: F64, hours: F64, kinds: Sequence[str]) -> Markup:
    """Dots: day of the year against the hour of the day, each in the class of its kind; dots in one place are drawn once."""
    left, right, top, bottom = PLOT
    tall = 250
    across, up = Scale(0, 366), Scale(0, 24)
    dots = _dots(
        across.at(days) * (WIDE - left - right) + left,
        top + (1 - up.at(hours)) * (tall - top - bottom),
        kinds,
    )
    parts = [_line(left, tall - bottom, WIDE - right, tall - bottom), _line(left, top, left, tall - bottom)]
    for name, day in zip(MONTHS, MONTH_DAYS, strict=True):
        parts.append(_tick_below(left + day / 366 * (WIDE - left - right), tall - bottom, name))
    for hour in (0, 6, 12, 18, 24):
        y = top + (1 - hour / 24) * (tall - top - bottom)
        parts.append(f'<text x="{left - 6}" y="{_f(y + 4)}" text-anchor="end">{hour:02}:00</text>')
    return _svg(WIDE, tall, f"Time of day against time of year: {len(days):,} images", [*dots, *parts])


def places(latitude: F64, longitude: F64) -> Markup:
    """Dots on a plain map, as wide as high at its middle; dots in one place are drawn once."""
    left, right, top, bottom = PLOT
    room = WIDE - left - right
    middle = (float(latitude.min()) + float(latitude.max())) / 2
    squeeze = max(math.cos(math.radians(middle)), 0.05)
    span = max(float(np.ptp(longitude)) * squeeze, float(np.ptp(latitude)), 1e-3) * 1.1
    half = (float(longitude.min()) + float(longitude.max())) / 2
    across, up = (
        Scale(half - span / squeeze / 2, half + span / squeeze / 2),
        Scale(middle - span / 2, middle + span / 2),
    )
    dots = _dots(
        left + across.at(longitude) * room,
        top + (1 - up.at(latitude)) * (WIDE - top - bottom),
        ["place"] * len(latitude),
    )
    titles = ("longitude, degrees", "latitude, degrees", "")
    return _svg(
        WIDE, WIDE, f"Places of {len(latitude):,} images", [*_axes(across, up, WIDE, WIDE, titles), *dots]
    )


def _dots(x: F64, y: F64, kinds: Sequence[str]) -> list[str]:
    paths: dict[str, dict[str, None]] = {}
    for a, b, kind in zip((np.round(x / 2) * 2).tolist(), (np.round(y / 2) * 2).tolist(), kinds, strict=True):
        paths.setdefault(kind, {})[f"M{_f(a)} {_f(b)}h0"] = None
    return [
        f'<path class="dots {escape(kind)}" d="{"".join(sorted(dots))}"/>'
        for kind, dots in sorted(paths.items())
    ]


def _axes(
    across: Scale,
    up: Scale,
    wide: int,
    tall: int,
    titles: tuple[str, str, str],
    shown: Callable[[float], float] = float,
) -> list[str]:
    left, right, top, bottom = PLOT
    base = tall - bottom
    parts = [_line(left, base, wide - right, base), _line(left, top, left, base)]
    parts += [
        _tick_below(left + _one(across, tick) * (wide - left - right), base, number(tick))
        for tick in across.ticks()
    ]
    for tick in up.ticks():
        y = base - _one(up, tick) * (base - top)
        parts.append(f'<line class="axis" x1="{left - 4}" x2="{left}" y1="{_f(y)}" y2="{_f(y)}"/>')
        parts.append(f'<text x="{left - 6}" y="{_f(y + 4)}" text-anchor="end">{number(shown(tick))}</text>')
    centre = _f(top + (base - top) / 2)
    parts.append(
        f'<text x="{_f(left + (wide - left - right) / 2)}" y="{tall - 6}" text-anchor="middle">{_safe(titles[0])}</text>'
    )
    parts.append(
        f'<text x="11" y="{centre}" text-anchor="middle" transform="rotate(-90 11 {centre})">{_safe(titles[1])}</text>'
    )
    return parts


def _one(scale: Scale, value: float) -> float:
    return float(scale.at(np.asarray(value, np.float64)))


def _tick_below(x: float, base: float, text: str) -> str:
    anchor = "end" if x > WIDE - 20 else "start" if x < 14 else "middle"
    return (
        f'<line class="axis" x1="{_f(x)}" x2="{_f(x)}" y1="{_f(base)}" y2="{_f(base + 4)}"/>'
        f'<text x="{_f(x)}" y="{_f(base + 17)}" text-anchor="{anchor}">{escape(text)}</text>'
    )


def _line(x0: float, y0: float, x1: float, y1: float) -> str:
    return f'<line class="axis" x1="{_f(x0)}" y1="{_f(y0)}" x2="{_f(x1)}" y2="{_f(y1)}"/>'


def _svg(wide: int, tall: int, label: str, parts: Sequence[str]) -> Markup:
    return Markup(  # noqa: S704 - put together from numbers and escaped text
        f'<svg viewBox="0 0 {wide} {tall}" role="img" aria-label="{_safe(label)}">{"".join(parts)}</svg>'
    )


def _f(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _safe(text: str) -> str:
    return str(escape(visible(text)))
