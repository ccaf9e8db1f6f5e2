"""A few pictures of a generation, drawn anew, for sheets and reports: some categories, the first instances of each.

Of the indexed stream any category is as near as any other. The reference stream has to be walked from the start of each of its
processes, so there it is the first categories of every process that are shown.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from curate.drawing import Drawer, script_stream, share_of
from curate.generation import Generation
from curate.generators import Picture
from curate.make_request import open_generator
from headwater import plugins

if TYPE_CHECKING:
    from curate.generators._script import ScriptStream

WALK = 40_000  # pictures of the reference stream that are walked over at most


@dataclass(frozen=True)
class Shown:
    """One category: its row in the set, its number (label, or index), its parameters, and its first pictures.

    The pictures belong to the painter: each is good until the next is taken.
    """

    row: int
    number: int
    record: dict[str, Any]
    pictures: Iterator[Picture] = field(repr=False)


def some_rows(generation: Generation, wanted: int, seed: int) -> list[int]:
    """`wanted` rows (all, if there are no more), ascending, chosen by `seed`; of the reference stream as many as are near."""
    classes = generation.classes
    if generation.reference is not None:
        starts, share = _processes(generation)
        each = min(share, -(-wanted // len(starts)), max(1, WALK // (len(starts) * generation.instances)))
        near = sorted(start + k for start in starts for k in range(each))
        return near if len(near) <= wanted else sorted(near[i * len(near) // wanted] for i in range(wanted))
    if wanted >= classes:
        return list(range(classes))
    found: set[int] = set()
    draws = 0
    while len(found) < wanted:
        digest = hashlib.sha256(f"shown {seed} {draws}".encode()).digest()
        found.add(int.from_bytes(digest[:8], "little") % classes)
        draws += 1
    return sorted(found)


def shown(generation: Generation, rows: Sequence[int], instances: int) -> Iterator[Shown]:
    """The first `instances` pictures of each of `rows`, drawn when they are taken. Take all of one before the next."""
    across = min(instances, generation.instances)
    if generation.reference is not None:
        yield from _walked(generation, rows, across)
        return
    drawer = Drawer(generation)
    for row in rows:
        pictures = (drawer.draw(row, instance).picture for instance in range(across))
        yield Shown(row, drawer.index(row), drawer.record(row), pictures)


def background(generation: Generation) -> int:
    """Grey level of what nothing was drawn on."""
    return int(getattr(plugins.load("generators", generation.generator), "BACKGROUND", 0))


def cost(generation: Generation, records: Sequence[dict[str, Any]]) -> npt.NDArray[np.float64]:
    """(n,) work of one picture of each record, in the generator's own unit."""
    _, generator = open_generator(generation)
    return np.array([generator.cost(record) for record in records], np.float64)


def records(generation: Generation, rows: Sequence[int]) -> list[dict[str, Any]]:
    """The parameters of categories, without drawing."""
    if generation.reference is None:
        drawer = Drawer(generation)
        return [drawer.record(row) for row in rows]
    return [one.record for one in _walked(generation, rows, 0)]


def _processes(generation: Generation) -> tuple[range, int]:
    """First row of each process that the set holds, and categories of each."""
    share = share_of(generation) // generation.instances
    return range(0, generation.classes, share), share


def _walked(generation: Generation, rows: Sequence[int], across: int) -> Iterator[Shown]:
    names = plugins.load("generators", generation.generator).CATEGORY
    _, share = _processes(generation)
    streams: dict[int, ScriptStream] = {}
    for row in rows:
        process, offset = divmod(row, share)
        if process not in streams:
            streams[process] = script_stream(generation, process)
        drawn = streams[process].block(offset * generation.instances, max(across, 1))
        first = next(drawn)
        record = {name: first[0][name] for name in names}
        yield Shown(row, first[1], record, _these(first, drawn) if across else iter(()))


def _these(first: Any, rest: Iterator[Any]) -> Iterator[Picture]:
    yield Picture(first[3])
    for one in rest:
        yield Picture(one[3])


def annotated(generation: Generation) -> bool:
    """Whether pictures come with things."""
    return bool(plugins.load("generators", generation.generator).ANNOTATED)


def labels(generation: Generation) -> list[str]:
    """Names of the classes of things; empty where the generator tells none."""
    module = plugins.load("generators", generation.generator)
    named = getattr(module, "LABELS", None)
    return [str(name) for name in named(module.Config(**generation.parameters))] if named else []
