"""`headwater report` about a polygon dataset: one self-contained page with its numbers, plots, findings, digests and images.

Nothing on it is a guess: what the dataset does not say (times, places, who drew) is left out or told as not said. Its bytes depend on the
dataset, its image files and record, and the seed.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curate._report_polygon_plots import numbers, on_the_image, short, when_and_where
from curate.polygons.stats import Category, Stats, quartiles, stats_of
from curate.polygons.store import Annotations, digest, open_annotations, pixel_digest
from curate.polygons.tiles import Painter, Tile
from headwater.errors import BadInputs, UsageError
from headwater.files import atomic_file
from headwater.manifest import Step
from headwater.steps import read_record

if TYPE_CHECKING:
    from curate.polygons.validate import Findings

TEMPLATE = "polygons.html.j2"
TILE = 360  # pixels of an image's longer side on the page
MOST_CATEGORIES, MOST_SOURCES, MOST_MESSAGES = 60, 20, 4
MOST_NAMES = 12  # categories told below an image
MOST_FILES = 20_000  # images whose files are read for digests and findings
LOOKED_FOR = 50  # images by which the folder of the files is known


def is_polygons(path: Path) -> bool:
    """Whether `path` is a store of annotations."""
    return (path / "annotations.json").is_file() and (path / "vertices.parquet").is_file()


def build_polygons_report(
    path: Path,
    output: Path,
    *,
    images: Path | None = None,
    title: str | None = None,
    thumbnails: int = 24,
    order: str = "random",
    seed: int = 0,
    profile: str = "strict",
    places: bool = True,
) -> dict[str, Any]:
    """Write the page about the polygon dataset at `path` (whatever `open_annotations` reads) to `output`, and tell what is on it.

    `images` is the folder of the image files; without it, it is looked for beside `path`. `thumbnails` images are shown, in the `order` of
    `polygon_sheet.choose`; 0: none. Without `places`, the page tells no place though the dataset does. Raises MissingInput, IntegrityError,
    UsageError, MissingExtra without numba.
    """
    from curate.polygons.polygon_sheet import choose
    from curate.polygons.validate import validate
    from curate.report import render

    if not 0 <= thumbnails <= 400:
        raise UsageError(f"--thumbnails {thumbnails}: must be between 0 and 400")
    annotations = open_annotations(path)
    record = read_record(path)
    stats = stats_of(annotations)
    notes: list[str] = []
    folder = images or _folder(path, annotations, record)
    if folder is None:
        notes.append(
            "The image files are not at hand, so shapes stand on a plain ground; --images DIR names them."
        )
    read_files = folder is not None and stats.images <= MOST_FILES
    if folder is not None and not read_files:
        notes.append(f"Of more than {MOST_FILES:,} images, the files are not read for this page.")
    findings = validate(annotations, profile=profile, folder=folder if read_files else None)
    painter = Painter(annotations, folder, TILE)
    rows = choose(annotations, thumbnails, order=order, seed=seed) if thumbnails and stats.images else []
    tiles = [painter.tile(row) for row in rows]
    pixels, why = _pixel_digest(folder if read_files else None, annotations)
    page = {
        "title": title or f"Polygons {path.resolve().name}",
        "sentence": _sentence(stats),
        "notes": notes,
        "tiles": _figures(stats, findings.severities),
        "images": [_card(painter, tile) for tile in tiles],
        "shown": {"random": "chosen by a hash of the seed"}.get(order, f"those with the {order} annotations"),
        "categories": _categories(painter, stats.categories[:MOST_CATEGORIES]),
        "more_categories": max(len(stats.categories) - MOST_CATEGORIES, 0),
        "numbers": numbers(stats),
        "where": on_the_image(annotations, stats),
        "when": when_and_where(stats, places=places),
        "sources": _sources(stats),
        "more_sources": max(len(stats.sources) - MOST_SOURCES, 0),
        "profile": profile,
        "severities": findings.severities,
        "findings": _findings(findings),
        "checked": findings.checked,
        "digests": [("annotations", digest(annotations)), ("pixels", pixels or why)],
        **_from_record(path, record),
    }
    text = render(page, TEMPLATE)
    with atomic_file(output) as handle:
        handle.write(text)
    return {
        "output": str(output),
        "kind": "polygons",
        "size_bytes": len(text),
        "rows_looked_at": stats.annotations,
        "pictures": len(tiles),
        "findings": findings.severities,
        "troubles": [[tile.name, tile.trouble] for tile in tiles if tile.trouble is not None],
        "notes": notes,
    }


def _folder(path: Path, annotations: Annotations, record: Step | None) -> Path | None:
    """Where the image files lie: the first likely folder that has the first of them."""
    from curate.polygons._digest import image_path

    near = path if path.is_dir() else path.parent
    likely = [near, near / "images", near.parent, near.parent / "images"]
    for key in ("images", "source", "input", "folder"):
        named = record.observation.get(key) if record is not None else None
        if isinstance(named, str) and named:
            likely += [Path(named), Path(named).parent, Path(named) / "images"]
    names = [name for name in islice(annotations.images["file_name"].to_pylist(), LOOKED_FOR) if name]
    for folder in likely:
        paths = [image_path(folder, name) for name in names] if folder.is_dir() else []
        if any(found is not None and found.is_file() for found in paths):
            return folder
    return None


def _sentence(stats: Stats) -> str:
    used = sum(1 for category in stats.categories if category.id is not None and category.annotations)
    parts = f", {stats.multipart:,} of several parts" if stats.multipart else ""
    parts += f", {stats.holes:,} hole{'s' * (stats.holes != 1)}" if stats.holes else ""
    return (
        f"{stats.images:,} images with {stats.annotations:,} annotations of {used:,} "
        f"{'category' if used == 1 else 'categories'}{parts}."
    )


def _figures(stats: Stats, severities: dict[str, int]) -> list[tuple[str, str]]:
    share = f"{stats.annotated / stats.images:.1%}" if stats.images else "none"
    middle = quartiles(stats.areas)
    figures = [
        (f"{stats.images:,}", "images"),
        (f"{stats.annotations:,}", "annotations"),
        (share, "of the images have any"),
        (f"{int(stats.vertices.sum()):,}", "vertices"),
    ]
    if middle is not None:
        figures.append((short(middle["middle"]), "pixels, the middle area"))
    for severity in ("error", "warning"):
        count = severities[severity]
        figures.append((f"{count:,}", f"{severity}{'s' * (count != 1)} found"))
    return figures


def _card(painter: Painter, tile: Tile) -> dict[str, Any]:
    from curate._made_cards import uri

    some = tile.counts[:MOST_NAMES]
    return {
        "uri": uri(tile.pixels),
        "name": tile.name,
        "counts": [(painter.name(number), _css(painter, number), count) for number, count in some],
        "more": len(tile.counts) - len(some),
        "trouble": tile.trouble,
    }


def _css(painter: Painter, category: int | None) -> str:
    return "#{:02x}{:02x}{:02x}".format(*painter.colour(category))


def _categories(painter: Painter, categories: Sequence[Category]) -> list[dict[str, Any]]:
    most = max((category.annotations for category in categories), default=0) or 1
    return [
        {
            "name": category.name,
            "colour": _css(painter, category.id),
            "annotations": category.annotations,
            "images": category.images,
            "area": "" if category.median_area is None else short(category.median_area),
            "width": f"{100 * category.annotations / most:.1f}%",
        }
        for category in categories
    ]


def _sources(stats: Stats) -> list[tuple[str, int, str]]:
    total = max(stats.annotations, 1)
    return [
        ("not said" if source is None else source, count, f"{count / total:.1%}")
        for source, count in stats.sources[:MOST_SOURCES]
    ]


def _findings(found: Findings) -> list[dict[str, Any]]:
    """By code, errors first: how many, and the first messages with their ids."""
    import pyarrow.compute as pc

    groups = []
    for code, count in found.counts.items():
        rows = found.table.filter(pc.equal(found.table["code"], code)).slice(0, MOST_MESSAGES).to_pylist()
        told = []
        for row in rows:
            ids = [f"{key[:-3]} {row[key]}" for key in ("image_id", "annotation_id") if row[key] is not None]
            told.append((", ".join(ids), row["message"]))
        groups.append({"code": code, "severity": rows[0]["severity"], "count": count, "messages": told})
    rank = {"error": 0, "warning": 1, "note": 2}
    return sorted(groups, key=lambda one: (rank.get(one["severity"], 3), -one["count"], one["code"]))


def _pixel_digest(folder: Path | None, annotations: Annotations) -> tuple[str | None, str]:
    if folder is None:
        return None, "not computed: the image files were not read"
    try:
        return pixel_digest(folder, annotations), ""
    except BadInputs as error:
        return None, f"not computed: {error}"


def _from_record(path: Path, record: Step | None) -> dict[str, Any]:
    from curate._report_made import _from_record as facts_of

    return {
        **facts_of(path, record),
        "verify": shlex.join(["headwater", "verify", path.name]),
        "validate": shlex.join(["headwater", "polygons", "validate", path.name]),
    }
