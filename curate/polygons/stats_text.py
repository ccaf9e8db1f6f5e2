"""The numbers of a polygon dataset as lines for a terminal."""

from __future__ import annotations

from curate.polygons.stats import SIZES, Stats, quartiles
from headwater.pages import visible

MOST_ROWS = 40


def lines_of(stats: Stats) -> list[str]:
    """A few lines of counts, then a line for each category and source, most annotations first; names are made printable."""
    lines = [
        f"images       {stats.images:>12,}   {stats.annotated:,} with annotations",
        f"annotations  {stats.annotations:>12,}   {', '.join(f'{count:,} {name}' for name, count in stats.forms.items())}",
        f"vertices     {int(stats.vertices.sum()):>12,}   {stats.exteriors:,} exteriors, {stats.holes:,} holes",
        "sizes        " + ", ".join(f"{stats.sizes[name]:,} {name}" for name in SIZES),
    ]
    for title, found in (("an image", stats.per_image.astype(float)), ("areas", stats.areas)):
        ranked = quartiles(found)
        if ranked is not None:
            told = ", ".join(f"{name.replace('_', ' ')} {value:,.6g}" for name, value in ranked.items())
            lines.append(f"{title:<13}{told}")
    taken = stats.summary()
    if taken["first_time"] is not None:
        lines.append(
            f"taken        {taken['first_time']} to {taken['last_time']}, {taken['images_with_time']:,} images"
        )
    if taken["images_with_place"]:
        lines.append(f"places       {taken['images_with_place']:,} images say where they were taken")
    named = [(one.name, one.annotations, f"{one.images:,} images") for one in stats.categories]
    sources = [("not said" if name is None else name, count, "") for name, count in stats.sources]
    for title, rows in (("category", named), ("source", sources)):
        lines.append("")
        lines.append(f"{'annotations':>12}  {title}")
        lines += [
            f"{count:>12,}  {visible(name)}{'  ' * bool(more)}{more}"
            for name, count, more in rows[:MOST_ROWS]
        ]
        if len(rows) > MOST_ROWS:
            lines.append(f"{'':>12}  and {len(rows) - MOST_ROWS:,} more")
    return lines
