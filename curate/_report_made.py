"""`headwater report` about a folder of generated pictures (or a recipe alone): one self-contained page, the pictures drawn anew.

Shown are a contact sheet, one picture of each of more categories, how much is lit, which categories are hardly two, what drawing costs,
and what it takes to make the same pictures elsewhere. All of it follows from the recipe and the seed, but for the record's own figures.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from curate import _report_record as records
from curate import _samples
from curate._made_cards import outlined, pair_card, previews, sheet_uri
from curate._made_facts import MEDIUM, NEAR_BITS, NEAR_EMPTY, NEAR_PARAMETERS, SMALL, Facts, measure
from curate._made_svg import SHARES, histogram
from curate.generation import RECIPE_NAME, Generation, load_recipe
from curate.make_request import check_version
from curate.sheets import about
from headwater.errors import UsageError
from headwater.files import atomic_file
from headwater.manifest import Step
from headwater.steps import read_record

TEMPLATE = "made.html.j2"
SAMPLE, ANNOTATED_SAMPLE = 600, 120  # pictures that are drawn to be measured; annotated ones cost more
MOST_COLUMNS, MOST_BLOCKS, MOST_LABELS = 12, 24, 30
SHOWN_PAIRS = 6


def is_made(path: Path) -> bool:
    """Whether `path` is a folder of pictures with their recipe, or a recipe."""
    return path.name == RECIPE_NAME or (path / RECIPE_NAME).is_file()


def build_made_report(
    path: Path, output: Path, *, title: str | None = None, thumbnails: int = 24, seed: int = 0
) -> dict[str, Any]:
    """Write the page about the pictures at `path` to `output`, and tell what is on it.

    `thumbnails` more categories are shown by one picture each; 0: no pictures at all. Raises MissingInput, IntegrityError for a
    recipe that is not sound, HeadwaterError for one of another version of its generator.
    """
    if not 0 <= thumbnails <= 500:
        raise UsageError(f"--thumbnails {thumbnails}: must be between 0 and 500")
    from curate.report import render

    made = load_recipe(path)
    check_version(made, str(path))
    record = read_record(path) if path.is_dir() else None
    folder = path.resolve() if path.is_dir() else path.resolve().parent
    annotated = _samples.annotated(made)
    facts = measure(made, pictures=ANNOTATED_SAMPLE if annotated else SAMPLE, seed=seed)
    tiles = previews(made, thumbnails, seed)
    page = {
        "title": title or f"Pictures {folder.name}",
        "sentence": _sentence(made, record),
        "notes": _notes(made, record),
        "tiles": _tiles(made, record),
        "sheet": sheet_uri(made, seed) if thumbnails else None,
        "previews": tiles,
        "outlined": outlined(made, seed) if annotated and thumbnails else [],
        "things": _things(made, facts),
        "lit": _lit(facts),
        "cost": histogram("work of one picture", facts.cost, "categories"),
        "cost_told": _cost(facts),
        "columns": _columns(facts),
        "compared": facts.compared,
        "parameters_near": facts.near_parameters,
        "closest": [pair_card(made, pair, pictures=bool(thumbnails)) for pair in facts.closest[:SHOWN_PAIRS]],
        "hashed": facts.hashed,
        "pictures_near": facts.near_pictures,
        "alike": [pair_card(made, pair, pictures=bool(thumbnails)) for pair in facts.alike[:SHOWN_PAIRS]],
        "limits": {"parameters": NEAR_PARAMETERS, "bits": NEAR_BITS, "empty": f"{NEAR_EMPTY[0]:.0%}"},
        "sampled": {"pictures": facts.pictures, "categories": len(facts.rows)},
        "recipe": _recipe(made),
        "yaml": records.as_yaml(made.parameters),
        "blocks": [
            (block.name, block.first, block.pictures, block.pixels) for block in made.blocks[:MOST_BLOCKS]
        ],
        "more_blocks": max(len(made.blocks) - MOST_BLOCKS, 0),
        "verify": shlex.join(["headwater", "verify", folder.name, "--rerun", "make"]),
        "again": shlex.join(["headwater", "make", f"{folder.name}/{RECIPE_NAME}", "-o", "AGAIN"]),
        **_from_record(path, record),
    }
    text = render(page, TEMPLATE)
    with atomic_file(output) as handle:
        handle.write(text)
    return {
        "output": str(output),
        "kind": "generation",
        "size_bytes": len(text),
        "rows_looked_at": facts.pictures,
        "pictures": len(tiles),
        "near_empty": facts.below(NEAR_EMPTY[0]) if facts.lit is not None else None,
        "near_by_parameters": facts.near_parameters,
        "near_by_picture": facts.near_pictures,
        "notes": page["notes"],
    }


def _sentence(made: Generation, record: Step | None) -> str:
    text = f"{made.generator}, version {made.version}: {about(made)}."
    if record is None:
        return text
    energy = record.energy
    return (
        f"{text} Drawing and writing them took {records.seconds(energy.duration_seconds)}, "
        f"{records.seconds(energy.cpu_seconds)} of CPU time."
    )


def _notes(made: Generation, record: Step | None) -> list[str]:
    notes = []
    if record is None:
        notes.append(
            "There is no record of a finished run beside this recipe, so nothing is known of time, energy and files."
        )
    if made.reference is not None:
        notes.append("Of the reference stream, the first categories of each process are shown and measured.")
    return notes


def _tiles(made: Generation, record: Step | None) -> list[tuple[str, str]]:
    tiles = [
        (f"{made.pictures:,}", "pictures"),
        (f"{made.classes:,}", "categories"),
        (f"{made.instances:,}", "pictures of each"),
    ]
    if record is not None:
        energy, counts = record.energy, record.identity.counts
        tiles.append((records.size(sum(entry.size_bytes for entry in record.identity.outputs)), "of files"))
        if counts.kept:
            tiles.append((f"{energy.cpu_seconds / counts.kept * 1e3:.3g} ms", "CPU time a picture"))
        known = energy.measured_joules if energy.measured_joules is not None else energy.modelled_joules
        how = (
            "measured"
            if energy.measured_joules is not None
            else "modelled"
            if known is not None
            else "energy"
        )
        tiles.append((records.joules(known), how))
    return tiles


def _things(made: Generation, facts: Facts) -> dict[str, Any] | None:
    if not facts.things:
        return None
    counts, areas = np.array(facts.things, np.float64), np.array(facts.areas)
    names = _samples.labels(made)
    common = Counter(facts.labels).most_common(MOST_LABELS)
    sizes = [
        int((areas < SMALL).sum()),
        int(((areas >= SMALL) & (areas < MEDIUM)).sum()),
        int((areas >= MEDIUM).sum()),
    ]
    return {
        "svg": histogram("things a picture", counts, "pictures"),
        "mean": f"{counts.mean():.3g}",
        "none": f"{(counts == 0).mean():.1%}",
        "labels": [(names[n] if n < len(names) else f"label {n}", count) for n, count in common],
        "sizes": list(zip(("small", "medium", "large"), sizes, strict=True)),
    }


def _lit(facts: Facts) -> dict[str, Any] | None:
    if facts.lit is None:
        return None
    return {
        "svg": histogram("lit share of a picture", facts.lit, "pictures", axis=SHARES),
        "mean": f"{facts.lit.mean():.1%}",
        "middle": f"{np.median(facts.lit):.1%}",
        "below": [(f"{share:.0%}", f"{facts.below(share):.1%}") for share in NEAR_EMPTY],
    }


def _cost(facts: Facts) -> dict[str, str]:
    return {
        "mean": f"{facts.cost.mean():,.0f}",
        "least": f"{facts.cost.min():,.0f}",
        "most": f"{facts.cost.max():,.0f}",
    }


def _columns(facts: Facts) -> list[dict[str, Any]]:
    varied = [(name, values) for name, values in facts.columns.items() if np.ptp(values) > 0]
    return [
        {"name": name.replace("_", " "), "svg": histogram(name, values, "categories")}
        for name, values in varied[:MOST_COLUMNS]
    ]


def _recipe(made: Generation) -> list[tuple[str, str]]:
    rows = [
        ("recipe", made.id or "not sealed"),
        ("generator", f"{made.generator}, version {made.version}"),
        ("stream", made.stream + (f", seed {made.seed}" if made.stream == "indexed" else "")),
        ("categories", f"{made.first_category:,} to {made.first_category + made.classes - 1:,}"),
        (
            "order",
            f"{made.order}: consecutive pictures are of one class"
            if made.order == "class"
            else f"{made.order}: every shard mixes the classes",
        ),
        ("blocks", f"{-(-made.pictures // made.block_size):,} of {made.block_size:,} pictures"),
        ("files", f"{made.pixels}, {made.encoder}"),
    ]
    if made.perturb is not None:
        rows.append(("perturbed", f"category {made.perturb.base}, by at most {made.perturb.delta:g}"))
    if made.rejection is not None:
        rows.append(
            (
                "near-empty",
                f"drawn again below {made.rejection.min_lit:.2%} lit, {made.rejection.attempts} times at most",
            )
        )
    if made.reference is not None:
        which = "all" if made.reference.index is None else f"index {made.reference.index}"
        rows.append(("processes", f"{made.reference.processes}, {which}"))
    if made.categories is not None:
        rows.append(("category table", f"sha256 {made.categories.sha256}"))
    return rows


def _from_record(path: Path, record: Step | None) -> dict[str, Any]:
    if record is None:
        return {"step": None, "energy": None, "files": None, "chain": [], "command": "", "software": ""}
    identity = record.identity
    packages = record.observation.get("packages")
    known: Sequence[tuple[str, Any]] = sorted(packages.items()) if isinstance(packages, dict) else []
    return {
        "step": {"name": identity.step, "version": identity.version, "id": record.id, "key": record.key},
        "energy": records.energy_table(record.energy, identity.counts.read, identity.counts.unit),
        "counts": {
            "read": identity.counts.read,
            "unit": identity.counts.unit,
            "sum": records.sum_line(record),
            "extra": identity.counts.extra,
        },
        "files": records.files_of(record),
        "chain": records.chain(path, record, records.neighbours([path.parent])),
        "command": records.command_line(record),
        "software": ", ".join(
            [
                f"Python {record.observation.get('python', '')}",
                *(f"{name} {version}" for name, version in known),
            ]
        ),
    }
