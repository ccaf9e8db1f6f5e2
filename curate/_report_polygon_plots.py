"""The plots of a page about a polygon dataset as cards: a title, a drawing, and a note on what it shows."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from curate import _stats_svg as svg
from curate._made_svg import histogram
from curate._report_svg import number
from curate.polygons.moments import Moments, periods
from curate.polygons.stats import MEDIUM, SIZES, SMALL, Stats, quartiles
from curate.polygons.store import Annotations

CANVAS, CENTROIDS = 288, 48  # cells of the longer side: of the overlay, of the centroids
MOST_SIZES = 8  # different image sizes that are listed, not drawn
FEW_VERTICES = 60  # at most so many: bars of equal width
DAYLIGHT = ((-0.833, "day"), (-6.0, "twilight"), (-91.0, "night"))  # degrees of the sun above the horizon


def short(value: float) -> str:
    return number(float(f"{value:.3g}"))


def numbers(stats: Stats) -> list[dict[str, Any]]:
    """Cards: title, plot, note."""
    each = quartiles(stats.per_image.astype(np.float64))
    corners = stats.vertices.astype(np.float64)
    some = quartiles(corners[corners > 0])
    sizes = stats.sizes
    told = ", ".join(f"{sizes[name]:,} {name}" for name in SIZES if sizes[name] or name != "unknown")
    unmeasured = int((stats.areas == 0).sum())
    marks = ((SMALL, "32²"), (MEDIUM, "96²"))
    cards = [
        _plot(
            "Annotations of an image",
            histogram("annotations of an image", stats.per_image.astype(np.float64), "images"),
            None if each is None else f"{short(each['mean'])} on average, at most {each['most']:,.0f}; none on "
            f"{stats.images - stats.annotated:,} of {stats.images:,} images.",
        ),
        _plot(
            "Area, pixels",
            svg.log_histogram("area", stats.areas, "annotations", marks),
            f"{told} (COCO's bounds).{f' {unmeasured:,} of area 0 are not drawn.' if unmeasured else ''}",
        ),
        _plot(
            "Vertices of an annotation",
            histogram("vertices", corners[corners > 0], "annotations")
            if corners.max(initial=0) <= FEW_VERTICES
            else svg.log_histogram("vertices", corners, "annotations"),
            None if some is None else f"{short(some['middle'])} in the middle, at most {some['most']:,.0f}.",
        ),
        _plot(
            "Vertices against area",
            svg.heat(
                stats.areas, corners, svg.log_scale(stats.areas), svg.log_scale(corners),
                ("area, pixels", "vertices", "annotations"),
            ),
            "Outlines traced by a program have many more vertices for their area than those set by hand.",
        ),
        _plot(
            "Size of the boxes",
            svg.heat(
                stats.boxes[:, 0], stats.boxes[:, 1], svg.log_scale(stats.boxes), svg.log_scale(stats.boxes),
                ("width, pixels", "height, pixels", "annotations"),
            ),
            None,
        ),
        _image_sizes(stats),
    ]  # fmt: skip
    return [card for card in cards if card["svg"] or card["rows"]]


def _plot(title: str, drawn: Markup, note: str | None) -> dict[str, Any]:
    return {"title": title, "svg": drawn, "note": note, "rows": []}


def _image_sizes(stats: Stats) -> dict[str, Any]:
    known = stats.shown[~np.isnan(stats.shown).any(axis=1)]
    found, counts = np.unique(known, axis=0, return_counts=True)
    note = f"{stats.turned:,} images are turned by their orientation." if stats.turned else None
    order = np.argsort(-counts, kind="stable")
    if len(found) <= MOST_SIZES:
        rows = [(f"{found[n, 0]:.0f} × {found[n, 1]:.0f}", int(counts[n])) for n in order.tolist()]
        return {**_plot("Size of the images", Markup(""), note), "rows": rows}
    scale = svg.linear_scale(known, 0.0)
    drawn = svg.heat(known[:, 0], known[:, 1], scale, scale, ("width, pixels", "height, pixels", "images"))
    return _plot("Size of the images", drawn, note)


def on_the_image(annotations: Annotations, stats: Stats) -> list[dict[str, Any]]:
    from curate.polygons.density import overlay

    sized = stats.shown[~np.isnan(stats.shown).any(axis=1)]
    if not len(sized) or np.isnan(stats.relative).all():
        return []
    wide, high = np.median(sized, axis=0).tolist()
    scale = CANVAS / max(wide, high)
    cells = max(24, round(high * scale)), max(24, round(wide * scale))
    one = svg.Scale(0.0, 1.0)
    titles = ("share of the width", "share of the height", "annotations")
    cards = []
    try:
        cards.append(_plot(
            "All shapes laid over each other",
            svg.density(overlay(annotations, *cells), one, one, titles),
            "Each image is stretched to one canvas; brighter where more shapes lie.",
        ))  # fmt: skip
    except ValueError as error:
        cards.append(_plot("All shapes laid over each other", Markup(""), f"Not drawn: {error}."))
    shape = (
        max(8, round(CENTROIDS * cells[0] / max(cells))),
        max(8, round(CENTROIDS * cells[1] / max(cells))),
    )
    cards.append(_plot(
        "Centroids, in shares of the image",
        svg.density(_counted(stats.relative, (1.0, 1.0), shape), one, one, titles),
        None,
    ))  # fmt: skip
    if len(np.unique(sized, axis=0)) > 1:
        across, down = sized.max(axis=0).tolist()
        shape = (
            max(8, round(CENTROIDS * min(1, down / across))),
            max(8, round(CENTROIDS * min(1, across / down))),
        )
        cards.append(_plot(
            "Centroids, in pixels",
            svg.density(
                _counted(stats.centroids, (across, down), shape), svg.Scale(0.0, across), svg.Scale(0.0, down),
                ("x, pixels", "y, pixels", "annotations"),
            ),
            "From the upper left corner of each image as shown.",
        ))  # fmt: skip
    return cards


def _counted(points: svg.F64, sides: tuple[float, float], shape: tuple[int, int]) -> npt.NDArray[np.int64]:
    """Points x, y within `sides`, counted in a grid (height, width)."""
    with np.errstate(invalid="ignore"):
        x, y = (points / sides).T
        inside = (x >= 0) & (x <= 1) & (y >= 0) & (y <= 1)
    column = np.minimum((x[inside] * shape[1]).astype(np.int64), shape[1] - 1)
    row = np.minimum((y[inside] * shape[0]).astype(np.int64), shape[0] - 1)
    return np.bincount(row * shape[1] + column, minlength=shape[0] * shape[1]).reshape(shape)


def when_and_where(stats: Stats, *, places: bool) -> list[dict[str, Any]]:
    when = stats.moments
    cards = []
    unit, names, counts, front = periods(when.taken, stats.per_image > 0)
    if names:
        known = int((~np.isnat(when.taken)).sum())
        cards.append(_plot(
            f"Images a {unit}",
            svg.columns(names, counts, front, ("images", "with annotations")),
            f"{known:,} of {stats.images:,} images say when they were taken; in colour: those with annotations.",
        ))  # fmt: skip
    hours = when.hours
    told = ~np.isnan(hours)
    if told.any():
        kinds, note = _daylight(when)
        cards.append(_plot(
            "Time of day and of year",
            svg.clock(when.days[told], hours[told], [kind for kind, here in zip(kinds, told.tolist(), strict=True) if here]),
            f"By the clock of the place. {note}",
        ))  # fmt: skip
    here = ~np.isnan(when.latitude)
    if here.any() and places:
        cards.append(_plot(
            "Places",
            svg.places(when.latitude[here], when.longitude[here]),
            f"{int(here.sum()):,} images say where they were taken, and so does this page: scrub them first if that is private.",
        ))  # fmt: skip
    return cards


def _daylight(when: Moments) -> tuple[list[str], str]:
    sun = when.sun
    kinds = ["unlit"] * len(sun)
    for row in np.flatnonzero(~np.isnan(sun)).tolist():
        kinds[row] = next(name for least, name in DAYLIGHT if sun[row] >= least)
    if not np.isfinite(sun).any():
        return kinds, "Whether the sun was up is not known: that needs a place and a time zone."
    counts = ", ".join(f"{kinds.count(name):,} by {name}" for _, name in DAYLIGHT)
    return (
        kinds,
        f"Computed from place and time: {counts} (twilight: the sun less than 6 degrees below the horizon).",
    )
