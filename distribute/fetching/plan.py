"""What is to be fetched: patterns choose, what lies there is checked, the disk is asked, before anything is written.

A pattern is matched against the whole path: `*` and `?` stay within one folder, `**` crosses them. One without a slash means
the name in any folder; one that names a folder means all below it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from distribute.fetching.jobs import RUN_BYTES, Job
from distribute.fetching.pieces import Pieces, right_file
from distribute.fetching.store import Store
from distribute.fetching.target import PRIVATE, Target, free_bytes
from distribute.transports._base import Wanted
from headwater.console import track
from headwater.errors import HeadwaterError, IntegrityError, UsageError, nearest

SPARE_BYTES = 16 << 20  # left free


@dataclass
class Plan:
    """Which files, and how much of them is missing."""

    chosen: list[Wanted]
    left_out: int = 0  # files of the manifest that the patterns leave out
    kept: list[Wanted] = field(default_factory=list)  # right already
    jobs: list[Job] = field(default_factory=list)
    resumed_bytes: int = 0  # of pieces that an earlier run left, checked again
    replaced: list[str] = field(default_factory=list)  # files in place with other bytes
    reused: list[Wanted] = field(default_factory=list)  # taken from elsewhere on this disk

    @property
    def missing_bytes(self) -> int:
        return sum(job.wanted.size_bytes - job.kept_bytes for job in self.jobs)


def choose(files: Sequence[Wanted], include: Sequence[str], exclude: Sequence[str]) -> list[Wanted]:
    """The files that a pattern of `include` takes (all without one) and none of `exclude`. Raises UsageError for none at all."""
    takes = [matcher(pattern) for pattern in include]
    leaves = [matcher(pattern) for pattern in exclude]
    for pattern, match in zip(include, takes, strict=True):
        if not any(match(file.path) for file in files):
            close = (
                nearest(pattern, [file.path for file in files[:2000]])
                if files
                else "the release has no files"
            )
            raise UsageError(f"--include {pattern!r} matches no file of the release", hint=close[:200])
    chosen = [
        file
        for file in files
        if (not takes or any(match(file.path) for match in takes))
        and not any(match(file.path) for match in leaves)
    ]
    if files and not chosen:
        raise UsageError("--exclude leaves no file to fetch")
    return chosen


@lru_cache(512)
def matcher(pattern: str) -> Callable[[str], bool]:
    """A function that tells whether a path is meant by `pattern`. Raises UsageError for an empty or overlong one."""
    text = pattern.strip("/")
    if not text or len(pattern) > 4096:
        raise UsageError(f"the pattern {pattern[:80]!r} means nothing")
    parts = [] if "/" in pattern.rstrip("/") else ["(?:.*/)?"]
    at = 0
    while at < len(text):
        if text.startswith("**/", at):
            parts.append("(?:.*/)?")
            at += 3
        elif text.startswith("**", at):
            parts.append(".*")
            at += 2
        else:
            parts.append({"*": "[^/]*", "?": "[^/]"}.get(text[at], re.escape(text[at])))
            at += 1
    expression = re.compile("".join(parts) + "(?:/.*)?", re.DOTALL)
    return lambda path: expression.fullmatch(path) is not None


def make_plan(
    files: list[Wanted],
    chosen: list[Wanted],
    pieces: dict[str, Pieces],
    target: Target | None,
    store: Store | None,
    *,
    ours: bool,
    workers: int,
    blocked: Collection[str] = (),
) -> Plan:
    """Check what is in the folder and make jobs of the rest. `ours`: files in it may be replaced.

    `blocked`: paths whose place will be made free before a file is put there.

    Raises IntegrityError for links in the way, UsageError for other bytes in the place of ours that may not.
    """
    plan = Plan(chosen, len(files) - len(chosen))
    present: list[Wanted] = []
    for wanted in chosen:
        if target is not None and wanted.path not in blocked and target.check_place(wanted.path) is not None:
            present.append(wanted)
    right = _check(present, target, workers) if target is not None else set()
    wrong = {wanted.path for wanted in present} - right
    if wrong and not ours:
        assert target is not None
        raise UsageError(
            f"{target.root / min(wrong)}: is there with other bytes, and {target.root} is not from a fetch"
            + (f" ({len(wrong):,} such files)" if len(wrong) > 1 else ""),
            hint="choose another -o, or --force to replace them",
        )
    plan.replaced = sorted(wrong)
    for wanted in chosen:
        if wanted.path in right:
            plan.kept.append(wanted)
            continue
        job = Job(wanted, pieces.get(wanted.path))
        if job.pieces is not None and wanted.size_bytes > RUN_BYTES:
            job.have = bytearray(len(job.pieces))
            if store is not None:
                _recover(job, store, wanted.path in wrong)
                plan.resumed_bytes += job.kept_bytes
            job.split()
        else:
            job.split_whole()
        plan.jobs.append(job)
    return plan


def _recover(job: Job, store: Store, in_place: bool) -> None:
    """Right pieces of an earlier run, and of a file that lies in place and is damaged."""
    job.kept_bytes = store.resume(job)
    if in_place:
        fd = store.target.open(job.wanted.path)
        try:
            job.kept_bytes += store.salvage(job, fd)
        finally:
            os.close(fd)
    store.close(job)


def _check(present: list[Wanted], target: Target, workers: int) -> set[str]:
    """Paths of the files that are right; all are read, never believed."""
    total = sum(wanted.size_bytes for wanted in present)
    with track("check what is there", total=total, unit="bytes") as bar, ThreadPoolExecutor(workers) as pool:

        def look(wanted: Wanted) -> bool:
            fd = target.open(wanted.path)
            try:
                return right_file(fd, wanted)
            finally:
                os.close(fd)

        right = set()
        try:
            for wanted, good in zip(present, pool.map(look, present), strict=True):
                bar.add(wanted.size_bytes)
                if good:
                    right.add(wanted.path)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        return right


def check_space(plan: Plan, output: Path) -> tuple[int, int]:
    """(bytes needed, bytes free). Raises HeadwaterError naming both when there is not enough."""
    needed = plan.missing_bytes
    free = free_bytes(output)
    if plan.jobs and needed + SPARE_BYTES > free:
        raise HeadwaterError(
            f"{output}: {needed:,} bytes are needed, {free:,} are free",
            hint="free some space, choose another -o, or fetch a part with --include",
        )
    return needed, free


def check_output(output: Path) -> bool:
    """Whether `output` was filled by a fetch before. Raises UsageError or IntegrityError when nothing can be put there."""
    if output.exists() and not output.is_dir():
        raise UsageError(f"-o {output}: is a file", hint="name a folder")
    if not output.name and not output.is_dir():
        raise UsageError(f"-o {output}: name a folder")
    private = output / PRIVATE
    if private.is_symlink():
        raise IntegrityError(
            f"{private}: is a symbolic link; nothing is written through it", hint="remove it"
        )
    return (private / "partial").is_dir() or (private / "release").is_dir()
