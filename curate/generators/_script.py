"""The reference stream: what the released VisualAtom script draws for a number of processes and an index, started anywhere inside it.

The script (masora1030/CVPR2023-FDSL-on-VisualAtom, arXiv 2303.01112) seeds Python's Twister with its process index + 1 and draws all its
categories and pictures from that one sequence, so a picture depends on everything before it. Here the sequence is walked without drawing
(a twentieth of a picture's cost), which gives the categories, and marks: states from which drawing can start in the middle.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from curate.generators._script_walk import Record, Walk
from headwater.console import say
from headwater.errors import IntegrityError, UsageError

if TYPE_CHECKING:
    from curate.generators.visualatom import Config


class ScriptStream:
    """Pictures 0 .. `pictures` - 1 of one process of the script.

    `classes`, `instances`: of the whole run; `processes`, `index`: the run's processes and which of them this is; `start_class` renames
    the labels and changes nothing else, as in the script. Raises UsageError for what the script cannot draw, never ends on, or draws as
    nothing in silence; warns of the classes that no process draws (classes modulo processes).
    """

    def __init__(
        self,
        config: Config,
        *,
        classes: int,
        instances: int,
        processes: int = 1,
        index: int = 0,
        start_class: int = 0,
    ) -> None:
        _check(config, classes, instances, processes, index, start_class)
        self.config, self.instances, self.start_class = config, instances, start_class
        self.processes, self.index = processes, index
        per_process = int(classes / processes)  # a float division cut to an integer, as there
        self.first_category = index * per_process  # without start_class
        self.classes = per_process  # of this process
        self.pictures = per_process * instances
        if rest := classes - per_process * processes:
            say(
                "warning",
                f"the script divides {classes} classes among {processes} processes and draws {classes - rest} of them: "
                f"classes {start_class + classes - rest} to {start_class + classes - 1} are never drawn",
            )
        identity = json.dumps([asdict(config), instances, index], sort_keys=True)
        self.digest = hashlib.sha256(identity.encode()).digest()[:16]  # what a mark belongs to
        self._marks: dict[int, bytes] = {}
        self._records: list[Record] | None = None

    def categories(self) -> list[Record]:
        """One record a category of this process, in drawing order.

        Keys: vertex_num, line_num, perlin, line_width, radius, nami_1, nami_2, oval_x, oval_y (as drawn: exact), category (index
        without start_class), label (with it), centre_h, centre_w (of instance 0, pixels).
        """
        if self._records is None:
            self._survey(())
        assert self._records is not None
        return [dict(record) for record in self._records]

    def marks(self, every: int) -> list[bytes]:
        """Marks of pictures 0, `every`, 2 * `every` … of this process, by one walk through all of it."""
        if every < 1:
            raise UsageError(f"a block of {every} pictures: it must hold at least one")
        stops = range(0, self.pictures, every)
        if not all(stop in self._marks for stop in stops):
            self._survey(stops)
        return [self._marks[stop] for stop in stops]

    def mark(self, first: int) -> bytes:
        """State right before picture `first`: opaque, under 3 KB, the same bytes on any machine. Raises UsageError beyond the end."""
        self._inside(first, 1)
        if first not in self._marks:
            before = max((known for known in self._marks if known < first), default=None)
            walk = Walk(self) if before is None else Walk.resumed(self, self._marks[before])
            self._marks[first] = walk.to(first).mark()
        return self._marks[first]

    def block(
        self, first: int, count: int, mark: bytes | None = None
    ) -> Iterator[tuple[Record, int, int, npt.NDArray[np.uint8]]]:
        """(category record, label, instance, pixels (S, S) uint8) of `count` pictures from `first` on.

        With the `mark` of `first` it starts at once, without one by walking there. The pixels are one buffer: good until the next
        picture. The record is that of `categories` less the centre. Raises UsageError beyond the end, IntegrityError for a mark that
        is damaged or of another stream or picture.
        """
        self._inside(first, count)
        walk = Walk.resumed(self, self.mark(first) if mark is None else mark)
        if walk.picture != first:
            raise IntegrityError(f"the mark is one of picture {walk.picture}, not of {first}")
        return self._drawn(walk, count)

    def _drawn(self, walk: Walk, count: int) -> Iterator[tuple[Record, int, int, npt.NDArray[np.uint8]]]:
        pixels = np.zeros((self.config.image_size, self.config.image_size), np.uint8)
        for _ in range(count):
            instance = walk.picture % self.instances
            walk.draw(pixels)
            yield walk.record, walk.record["label"], instance, pixels
            walk.after_picture()

    def name(self, record: Record, instance: int) -> str:
        """The script's name of a picture, relative to its output folder."""
        return f"{record['label']:05d}/vertex_{record['vertex_num']:04d}_instance_{instance:04d}.png"

    def _survey(self, stops: Iterable[int]) -> None:
        """One walk over everything, leaving the records and the marks of the (ascending) stops."""
        walk, records, waiting = Walk(self), [], iter(stops)
        stop = next(waiting, None)
        for number in range(self.classes):
            records.append(walk.record | walk.centre())
            end = (number + 1) * self.instances
            while stop is not None and stop < end:
                self._marks[stop] = walk.to(stop).mark()
                stop = next(waiting, None)
            walk.to(end)
        self._records = records

    def _inside(self, first: int, count: int) -> None:
        if first < 0 or count < 1 or first + count > self.pictures:
            raise UsageError(
                f"pictures {first} to {first + count - 1} are asked for; process {self.index} has 0 to {self.pictures - 1}"
            )


def _check(
    config: Config, classes: int, instances: int, processes: int, index: int, start_class: int
) -> None:
    from curate.generators.visualatom import check_config

    check_config(config)  # the ranges on which the script would never end, too
    for name, value, least in (
        ("classes", classes, 1),
        ("instances", instances, 1),
        ("processes", processes, 1),
        ("index", index, 0),
        ("start-class", start_class, 0),
    ):
        if value < least:
            raise UsageError(f"--{name} {value} is below {least}")
    if index >= processes:
        raise UsageError(
            f"--index {index} of {processes} processes: the last index is {processes - 1}",
            hint="the script would go on to classes of higher numbers without a word; ask for more classes instead",
        )
    if classes < processes:
        raise UsageError(
            f"{classes} classes for {processes} processes: the script draws nothing at all then",
            hint="ask for at least as many classes as processes",
        )
