"""What a sample of a generation shows: how much of a picture is lit, and which categories are hardly two.

Two categories are near by parameters where the root mean square of their differences, each as a share of the parameter's largest
magnitude, is below NEAR_PARAMETERS; near by picture where two of their pictures, near-empty and plain ones left out, differ in at most
NEAR_BITS of 64 bits of the perceptual hash (`curate._picture_hash`). Both are exact for the categories and pictures that were looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from curate import _samples
from curate._picture_hash import contrast, distance, grey_for_phash, phash_bits
from curate.generation import Generation
from curate.generators import Picture

F64 = npt.NDArray[np.float64]
NEAR_EMPTY = (0.01, 0.05)  # shares of lit pixels
NEAR_PARAMETERS = 0.02
NEAR_BITS = 4
LEAST_CONTRAST = 4.0  # grey levels: a plain picture's hash is noise
MOST_COMPARED = 2048  # categories, by their parameters
MOST_PAIRS = 12
SMALL, MEDIUM = 32**2, 96**2  # COCO's sizes of things, pixels
SWAPPED = (("nami_1", "nami_2"),)  # two waves that are added: which is which changes nothing


@dataclass(frozen=True)
class Pair:
    """Two categories (rows of the set) that are near; `instances` of the pictures, where pictures were compared."""

    rows: tuple[int, int]
    numbers: tuple[int, int]
    apart: float  # root mean square, or bits
    instances: tuple[int, int] = (0, 0)


@dataclass
class Facts:
    """What `measure` found. `lit` is None where pictures have no plain background."""

    rows: list[int]
    pictures: int
    lit: F64 | None  # (pictures,) share of lit pixels
    compared: int  # categories, by parameters
    columns: dict[str, F64] = field(
        default_factory=dict
    )  # (compared,) values of each parameter that is a number
    cost: F64 = field(default_factory=lambda: np.zeros(0))  # (compared,) work of one picture
    closest: list[Pair] = field(default_factory=list)  # by parameters, nearest first, whether near or not
    near_parameters: int = 0  # pairs
    alike: list[Pair] = field(default_factory=list)  # by picture
    near_pictures: int = 0  # pairs of pictures of different categories
    hashed: int = 0
    things: list[int] = field(default_factory=list)  # of each picture, where they are annotated
    areas: list[int] = field(default_factory=list)  # visible pixels of each thing
    labels: list[int] = field(default_factory=list)  # of each thing

    def below(self, share: float) -> float:
        """Share of the pictures that are lit by less than `share`."""
        assert self.lit is not None
        return float((self.lit < share).mean())


def measure(generation: Generation, *, pictures: int = 600, seed: int = 0) -> Facts:
    """Draw about `pictures` pictures of categories chosen by `seed` (at least one of each chosen), and compare."""
    from PIL import Image

    rows = _samples.some_rows(generation, pictures, seed)
    across = max(1, min(generation.instances, pictures // len(rows)))
    grey = generation.pixels == "grey8"
    ground = _samples.background(generation)
    lit, thumbs, owners = [], [], []
    facts = Facts(rows, 0, None, 0)
    annotated = _samples.annotated(generation)
    for one in _samples.shown(generation, rows, across):
        for instance, picture in enumerate(one.pictures):
            facts.pictures += 1
            share = lit_share(picture, ground) if grey else 1.0
            lit.append(share)
            if annotated:
                _count(facts, picture)
            thumb = grey_for_phash(Image.fromarray(picture.pixels))
            if share >= NEAR_EMPTY[0] and contrast(thumb[None])[0] >= LEAST_CONTRAST:
                thumbs.append(thumb)
                owners.append((one.row, one.number, instance))
    facts.lit = np.array(lit) if grey else None
    facts.hashed = len(thumbs)
    facts.near_pictures, facts.alike = _alike(np.array(thumbs, np.uint8).reshape(-1, 32, 32), owners)
    _compare(facts, generation, seed)
    return facts


def lit_share(picture: Picture, ground: int) -> float:
    """Share of pixels that differ from the background."""
    pixels = picture.pixels
    lit = np.count_nonzero(pixels) if ground == 0 else np.count_nonzero(pixels != ground)
    return float(lit) / pixels.size


def _count(facts: Facts, picture: Picture) -> None:
    facts.things.append(len(picture.things))
    facts.areas += [int(np.count_nonzero(thing.mask)) for thing in picture.things]
    facts.labels += [thing.label for thing in picture.things]


def _compare(facts: Facts, generation: Generation, seed: int) -> None:
    """Parameters of many categories, which cost little."""
    rows = facts.rows
    if generation.reference is None:
        rows = _samples.some_rows(generation, min(MOST_COMPARED, generation.classes), seed)
    records = _samples.records(generation, rows)
    facts.compared = len(rows)
    facts.cost = _samples.cost(generation, records)
    facts.columns = numeric(records)
    first = generation.first_category
    facts.near_parameters, facts.closest = near_by_parameters(facts.columns, rows, first)


def numeric(records: Sequence[dict[str, Any]]) -> dict[str, F64]:
    """(n,) values of the parameters that are numbers in every record."""
    names = [name for name in records[0] if all(type(record.get(name)) in (int, float) for record in records)]
    return {name: np.array([record[name] for record in records], np.float64) for name in names}


def near_by_parameters(
    columns: dict[str, F64], rows: Sequence[int], start: int = 0
) -> tuple[int, list[Pair]]:
    """How many pairs are near, and the MOST_PAIRS nearest, whether near or not."""
    columns = dict(columns)
    for one, two in SWAPPED:
        if one in columns and two in columns:
            low, high = np.minimum(columns[one], columns[two]), np.maximum(columns[one], columns[two])
            columns[one], columns[two] = low, high
    largest = [(values, float(np.abs(values).max(initial=0))) for values in columns.values()]
    scaled = [values / most for values, most in largest if most > 0]
    n = len(rows)
    if n < 2 or not columns:
        return 0, []
    count = max(len(columns), 1)
    found: list[tuple[float, int, int]] = []
    near = 0
    for a in range(n - 1):
        squares = np.zeros(n - 1 - a)
        for values in scaled:
            squares += (values[a + 1 :] - values[a]) ** 2
        near += int((squares < NEAR_PARAMETERS**2 * count).sum())
        best = (
            np.argsort(squares, kind="stable")[:MOST_PAIRS]
            if len(squares) > MOST_PAIRS
            else np.arange(len(squares))
        )
        if len(found) == MOST_PAIRS:
            best = best[squares[best] < found[-1][0]]
        if len(best):
            found += [(float(squares[b]), a, a + 1 + int(b)) for b in best]
            found = sorted(found)[:MOST_PAIRS]
    pairs = [
        Pair((rows[a], rows[b]), (start + rows[a], start + rows[b]), float(np.sqrt(square / count)))
        for square, a, b in found
    ]
    return near, pairs


def _alike(thumbs: npt.NDArray[np.uint8], owners: Sequence[tuple[int, int, int]]) -> tuple[int, list[Pair]]:
    """Pairs of pictures of different categories whose hashes are near: how many, and the nearest."""
    bits = phash_bits(thumbs)
    rows = np.array([row for row, _, _ in owners], np.int64)
    found: list[tuple[int, int, int]] = []
    near = 0
    for a in range(len(bits) - 1):
        apart = distance(bits[a + 1 :], bits[a])
        hits = np.flatnonzero((apart <= NEAR_BITS) & (rows[a + 1 :] != rows[a]))
        near += len(hits)
        found += [(int(apart[b]), a, a + 1 + int(b)) for b in hits[: 4 * MOST_PAIRS]]
        if len(found) > 64 * MOST_PAIRS:
            found = sorted(found)[:MOST_PAIRS]
    pairs = []
    seen: set[tuple[int, int]] = set()
    for bit, a, b in sorted(found):
        (row_a, name_a, one), (row_b, name_b, two) = owners[a], owners[b]
        if (row_a, row_b) not in seen:
            seen.add((row_a, row_b))
            pairs.append(Pair((row_a, row_b), (name_a, name_b), float(bit), (one, two)))
    return near, pairs[:MOST_PAIRS]
