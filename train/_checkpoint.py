"""The state that a training goes on from: looked at with our own readers before open_clip loads it, and kept twice.

open_clip writes one state after each part and replaces the last one. Here the one before stays under a second name, so that a state
that is damaged (a disk that lied, a power failure), or that is none of ours, costs one part and not the training.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from headwater._torch_pickle import View
from headwater._torch_zip import AGAIN, TorchZip
from headwater.errors import IntegrityError, MissingInput
from train._ledger_part import part_name, read_part

LATEST = "epoch_latest.pt"  # open_clip's own name
PREVIOUS = "previous.pt"


@dataclass(frozen=True)
class Needed:
    """What must be there beside a state, so that the training can end: accounts of all its parts, and weights."""

    ledger: Path
    run_key: str
    parts: int
    processes: int
    weights: Path | None  # of the last part, asked for only when nothing is left to train
    kept: Path | None  # of every part
    average: Path | None

    def check(self, part: int) -> None:
        """Raises IntegrityError or MissingInput when the training cannot go on after `part`."""
        from headwater.weights import read_weights

        if not 0 < part <= self.parts:
            raise IntegrityError(f"it is the state after part {part} of {self.parts}")
        for number in range(1, part + 1):
            for rank in range(self.processes):
                if read_part(self.ledger / part_name(number, rank)).run_key != self.run_key:
                    raise IntegrityError(f"{part_name(number, rank)} is of another run")
            if self.kept is not None:
                read_weights(self.kept / f"part_{number}.safetensors")
        if self.average is not None:
            read_weights(self.average / f"part_{part}.safetensors")
        if self.weights is not None and part == self.parts:
            read_weights(self.weights / f"part_{part}.safetensors")


def keep_previous(folder: Path) -> None:
    """Give the state that open_clip is about to replace its second name."""
    if (folder / LATEST).is_file():
        (folder / PREVIOUS).unlink(missing_ok=True)
        with suppress(OSError):  # a file system without links keeps one state
            os.link(folder / LATEST, folder / PREVIOUS)


def choose(folder: Path, needed: Needed) -> list[str]:
    """Leave the newest state that is whole in `folder` as LATEST, or none; returns what was wrong with the others."""
    told = []
    for name in (LATEST, PREVIOUS):
        path = folder / name
        if not path.is_file():
            continue
        try:
            needed.check(finished_parts(path))
        except (IntegrityError, MissingInput) as error:
            path.unlink()
            told.append(f"a state that was kept cannot be used ({error.message})")
            continue
        if name == PREVIOUS:
            os.replace(path, folder / LATEST)
            told.append("going on from the state one part earlier")
        return told
    return [*told, "training from the start again"] if told else []


def finished_parts(path: Path) -> int:
    """How many parts were done when this state was written; every byte of it is read, and nothing in it is run.

    Raises IntegrityError: damaged, no state of a training, or a pickle that would call a function.
    """
    try:
        with open(path, "rb") as handle:
            archive = TorchZip(handle, path.name, path.stat().st_size)
            objects = archive.objects()
            if not isinstance(objects, dict) or not {"epoch", "state_dict", "optimizer"} <= objects.keys():
                raise IntegrityError(f"{path.name}: is not the state of a training", hint=AGAIN)
            for view in _views(objects):
                archive.storage(view.storage)
    except OSError as error:
        raise IntegrityError(f"{path.name}: cannot be read ({error})", hint=AGAIN) from error
    part = objects["epoch"]
    if type(part) is not int:
        raise IntegrityError(f"{path.name}: does not say after which part it was written", hint=AGAIN)
    return part


def _views(objects: object) -> list[View]:
    """Every tensor below, each storage once."""
    found: dict[str, View] = {}
    waiting, seen = [objects], set()
    while waiting:
        one = waiting.pop()
        if isinstance(one, View):
            found.setdefault(one.storage.key, one)
        elif isinstance(one, dict | list | tuple) and id(one) not in seen:
            seen.add(id(one))  # a list may hold itself
            waiting += one.values() if isinstance(one, dict) else one
    return list(found.values())
