"""Which trials are run, and in which order.

A block is one trial of every cell. Blocks follow each other; inside a block the payloads, and inside a payload the cells, come
in an order drawn from the seed. So whatever drifts in the machine falls on all methods alike, and a study that is stopped
early has every cell nearly equally often.
"""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import dataclass, replace
from typing import Any

from distribute.study.options import DATASET, LinkSpec, StudyOptions

UPDATE_SHARE = 1 / 42  # ScatSpotter's: 1 GB more on 42 GB
UPDATES = ("update", "annotation")
OUTSIDE_SECONDS = 1.5  # of a trial that are not the client's: caches, link, check; for estimates


@dataclass(frozen=True)
class Cell:
    """One combination of what is compared."""

    payload: str
    method: str
    seeders: int
    link: LinkSpec
    cache: str


@dataclass(frozen=True)
class Trial:
    """One run of a cell. `number` counts from 1 inside the cell, `position` over the whole study."""

    cell: Cell
    number: int
    position: int

    @property
    def name(self) -> str:
        """A file name, unique in the study."""
        cell = self.cell
        return f"{cell.payload}_{cell.method}_{cell.seeders}_{cell.link.text}_{cell.cache}_{self.number}"


def cells(options: StudyOptions) -> list[Cell]:
    """All cells, in the order of the options. Girder is one server: it is studied with one seeder only."""
    return [
        Cell(payload, method, seeders, link, cache)
        for payload in options.payloads
        for link in options.links
        for cache in options.caches
        for method in options.methods
        for seeders in ((1,) if method == "girder" else options.seeders)
    ]


def order(options: StudyOptions) -> list[Trial]:
    """All trials in the order in which they are run; the same for the same options and seed."""
    every, trials = cells(options), []
    for number in range(1, options.trials + 1):
        draw = random.Random(f"{options.seed} {number}")  # text: the same on every platform
        payloads = list(options.payloads)
        draw.shuffle(payloads)
        for payload in payloads:
            block = [cell for cell in every if cell.payload == payload]
            draw.shuffle(block)
            trials += [Trial(cell, number, 0) for cell in block]
    return [replace(trial, position=position) for position, trial in enumerate(trials, 1)]


def estimate(options: StudyOptions, free_bytes: int, dataset: tuple[int, int]) -> dict[str, Any]:
    """For a dry run, with a "text": trials, bytes on the links, the longest it can take, the disk it needs.

    `dataset`: files and bytes of the user's folder. The rough time is an estimate, and says so.
    """
    trials = order(options)
    sent, rough = 0, 0.0
    for trial in trials:
        files, size = _to_send(trial.cell.payload, options, dataset)
        sent += size
        rough += OUTSIDE_SECONDS + _rough_seconds(trial.cell, files, size)
    whole = {p: dataset[1] if p == DATASET else options.size_bytes for p in options.payloads}
    # files, for updates also the parent's and a fetched copy of it; and what one client holds
    needed = sum(size * (2 if name in UPDATES else 1) for name, size in whole.items()) + max(whole.values())
    longest = len(trials) * (options.cap_seconds + OUTSIDE_SECONDS)
    document = {
        "dry_run": True,
        "cells": len(cells(options)),
        "trials": len(trials),
        "bytes_to_send": sent,
        "longest_seconds": longest,
        "rough_seconds": round(rough),
        "disk_bytes": needed,
        "disk_free_bytes": free_bytes,
        "enough_space": needed <= free_bytes,
        "order_id": order_id(trials),
    }
    lines = [
        f"would run {len(trials):,} trials ({len(cells(options)):,} cells, {options.trials} times each), one at a time",
        f"about {sent:,} bytes over the links; {needed:,} bytes of disk while it runs ({free_bytes:,} free)",
        f"roughly {_span(rough)} (an estimate); at most {_span(longest)}, if every trial met its cap",
    ]
    return {**document, "text": "\n".join(lines)}


def _to_send(payload: str, options: StudyOptions, dataset: tuple[int, int]) -> tuple[int, int]:
    """About how many files and bytes one trial sends."""
    size = options.size_bytes
    return {
        "few-large": (size // 6_400_000 + 1, size),
        "many-small": (size // 30_000 + 1, size),
        "one-archive": (1, size),
        "update": (2, int(size * UPDATE_SHARE)),
        "annotation": (1, 4_000),
    }.get(payload, dataset)


def _rough_seconds(cell: Cell, files: int, size: int) -> float:
    """Program start, bytes at the rate of one seeder, processor time, and a round trip for each file on a dozen connections."""
    rate = cell.link.rate_bits_per_second
    waits = 0 if cell.method == "bittorrent" else files * cell.link.rtt_seconds / 12
    return min(0.6 + (size * 8 / rate if rate else 0.0) + size / 200e6 + files * 0.0015 + waits, 86_400.0)


def order_id(trials: list[Trial]) -> str:
    """SHA-256 over the names of the trials in order."""
    return hashlib.sha256(json.dumps([trial.name for trial in trials]).encode()).hexdigest()


def _span(seconds: Any) -> str:
    return (
        f"{seconds / 3600:.1f} h"
        if seconds >= 5400
        else f"{seconds / 60:.0f} min"
        if seconds >= 90
        else f"{seconds:.0f} s"
    )
