"""Whether the disk has room for a set, asked before its first picture is drawn: a terabyte should not fail after a day.

Where even stored pixels would fit nothing is modelled, so a small set pays one system call. Blocks that are there already, from a run that
was stopped or a set that grows, are not counted.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from pathlib import Path

from curate._making_estimate import estimate_generation, size_of
from curate.generation import Generation
from headwater.errors import HeadwaterError
from headwater.files import named_io

OVERHEAD_BYTES = 8_192  # of one picture, whatever the sink; larger than any of them needs


def check_space(
    generation: Generation, sink: str, *, annotated: bool, folder: Path, there: Collection[str] = ()
) -> None:
    """Raises HeadwaterError where the pictures will not fit on the disk of `folder`. `there` are names of blocks that need no room.

    The size is modelled; masks and polygons come on top of it, so annotated sets are refused only when their pixels alone do not fit.
    """
    if sink == "recipe":
        return
    left = sum(pictures for name, _, pictures in generation.cut() if name not in there)
    files = left * (2 if annotated else 1) if sink == "folder" else 0
    free, nodes = room(folder)
    if nodes is not None and files > nodes:
        raise HeadwaterError(
            f"{folder}: {files:,} files are to be written, and the file system has room for {nodes:,}",
            hint="--sink tar or --sink parquet, or another disk; nothing was drawn",
        )
    if _most(generation, annotated) * left < free:
        return
    facts = estimate_generation(generation, sink, annotated=annotated, workers=1)
    needed = round(facts["bytes"] * left / generation.pictures)
    if needed > free:
        raise HeadwaterError(
            f"{folder}: {left:,} pictures need about {size_of(needed)} (modelled), and {size_of(free)} are free",
            hint="another disk, fewer pictures, or --sink recipe; --dry-run tells more; nothing was drawn",
        )


def room(folder: Path) -> tuple[int, int | None]:
    """(bytes, files) that can still be written in `folder`; None where the file system has no limit of files."""
    with named_io(folder):
        found = os.statvfs(folder)
        return shutil.disk_usage(folder).free, found.f_favail if found.f_files else None


def _most(generation: Generation, annotated: bool) -> float:
    """Bytes that no picture exceeds: its pixels as they are, and what lies around them."""
    side = generation.parameters.get("image_size")
    if type(side) is not int:
        return float("inf")
    channels = (3 if generation.pixels == "rgb8" else 1) + (
        2 if annotated else 0
    )  # polygons, at most a mask's
    return side * side * channels * 1.01 + OVERHEAD_BYTES
