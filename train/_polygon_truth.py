"""The truth: is it the dataset that is meant, under which digests, and can all of it be filled; and a score map for each of its images."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from curate.polygons._json_strict import loads
from curate.polygons.splits import named
from curate.polygons.store import Annotations, Form, values
from headwater.errors import IntegrityError, MissingInput, UsageError
from train._polygon_counting import rows_of
from train._polygon_heat import heatmap_path
from train._polygon_predictions import Findings, Kinds

MOST_PIXELS = 1 << 28  # of an image: its map is 2 GiB
SPLITS_NAME, SPLITS_BYTES = "splits.json", 64 << 20  # as curate.polygons.split_step writes it
NAME = re.compile(r"(.+)_imgs\d+_([0-9a-f]{8})")
FEWEST_DIGITS = 8  # of a digest, as in names of splits


def check_digest(facts: dict[str, Any], wanted: str | None, path: Path) -> None:
    """Raises IntegrityError unless `wanted` (8 digits or more) begins the digest of what the truth says; UsageError for no digest."""
    if wanted is None:
        return
    if len(wanted) < FEWEST_DIGITS or len(wanted) > 64 or set(wanted.lower()) - set("0123456789abcdef"):
        raise UsageError(f"--truth-digest {wanted}: {FEWEST_DIGITS} to 64 hexadecimal digits")
    if not facts["manifest_digest"].startswith(wanted.lower()):
        raise IntegrityError(
            f"{path}: is not the dataset that was named: its digest is {facts['manifest_digest'][:16]}…, not {wanted[:16]}…",
            hint="score against the split that is meant, or correct --truth-digest",
        )


def truth_facts(path: Path, truth: Annotations, images: Path | None) -> dict[str, Any]:
    """Name and both digests. Raises IntegrityError for a folder whose name has another digest, or beside a splits.json that has."""
    told = NAME.fullmatch(path.name)
    facts = named(told[1] if told else path.name.partition(".")[0] or "truth", truth, images).record()
    if told and not facts["manifest_digest"].startswith(told[2]):
        raise IntegrityError(
            f"{path}: its name says {told[2]}…, and its digest is {facts['manifest_digest'][:8]}…",
            hint="it was changed after it was split, or renamed",
        )
    if told and facts["pixel_digest"] is None:
        facts["pixel_digest"] = _split_pixels(path, facts["manifest_digest"])
    return facts


def _split_pixels(path: Path, manifest: str) -> str | None:
    """The digest of the pixels as the record of the splits has it."""
    record = path.resolve().parent / SPLITS_NAME
    if not record.is_file() or record.stat().st_size > SPLITS_BYTES:
        return None
    try:
        splits = loads(record.read_bytes())["splits"]
        found = [one["pixel_digest"] for one in splits if one["manifest_digest"] == manifest]
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{record}: is no record of splits ({error})") from None
    return found[0] if found and isinstance(found[0], str) else None


def check_truth(path: Path, truth: Annotations, kinds: Kinds) -> None:
    """Raises BadInputs for what cannot be filled: images without id or size, annotations without image or rings."""
    troubles = Findings(path)
    ids, known = values(truth.images, "id")
    names = truth.images["file_name"].to_pylist()
    told = [f"image {ids[row]}" if known[row] else f"image {names[row]!r}" for row in range(len(ids))]
    seen: set[int] = set()
    for row, (h, w) in enumerate(
        zip(*(values(truth.images, side)[0] for side in ("height", "width")), strict=True)
    ):
        if not known[row]:
            troubles.add([f"{told[row]}: has no id"])
        elif int(ids[row]) in seen:
            troubles.add([f"{told[row]}: another image has its id"])
        seen.add(int(ids[row]))
        if not (h > 0 and w > 0 and int(h) * int(w) <= MOST_PIXELS):
            troubles.add([f"{told[row]}: a size of {h} x {w}"])
    numbers = truth.annotations["id"]
    troubles.add(
        f"annotation {numbers[row]}: its image is not there" for row in np.flatnonzero(truth.image_rows < 0)
    )
    rows = rows_of(kinds.places(truth), kinds.counted | kinds.ignored)
    bare = rows[np.isin(truth.forms[rows], (Form.NONE, Form.SHAPE))]
    troubles.add(f"annotation {numbers[row]}: neither rings nor run lengths" for row in bare)
    places = kinds.places(truth)
    troubles.add(
        f"annotation {numbers[row]}: a category that is not listed" for row in np.flatnonzero(places < 0)
    )
    troubles.check()
    if not len(ids):
        raise UsageError(f"{path}: has no image")


def maps_of(folder: Path, truth: Annotations) -> tuple[Path, ...]:
    """The map of each image. Raises BadInputs naming the images without one."""
    if not folder.is_dir():
        raise MissingInput(f"{folder}: no such folder")
    troubles, found = Findings(folder), []
    for name in truth.images["file_name"].to_pylist():
        try:
            path = heatmap_path(folder, name)
        except ValueError as error:
            troubles.add([f"image {name!r}: {error}"])
            continue
        troubles.add([] if path else [f"image {name!r}: no .npy or .png of that name"])
        found += [path] if path else []
    troubles.check()
    return tuple(found)
