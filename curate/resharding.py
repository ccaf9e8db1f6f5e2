"""`headwater reshard` as a Step: digests of the tars, the subset, the output folder and its record."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curate.pool import CACHE_NAME
from curate.reshard import ReshardResult, reshard
from curate.shards import TarShard, list_shards
from curate.subset import UID, load_words
from headwater.console import say, track
from headwater.errors import BadInputs, IntegrityError, UsageError
from headwater.executor import Executor
from headwater.hashing import DigestCache, digest_file
from headwater.manifest import Counts, InputRef, identity_id
from headwater.steps import Outcome, Plan, RunOptions, Work, check_output, run_step

STEP = "reshard"
VERSION = 1
TOLD = 10  # notes said aloud
LIGHT_BYTES = 400_000_000  # below this, starting processes costs more than the work


@dataclass(frozen=True)
class Layout:
    """How output shards are cut and named, and which input shards are read."""

    shard_size: int = 10_000
    max_bytes: int = 3_000_000_000
    first_shard: int = 0
    num_shards: int | None = None
    shard_format: str = "{:08d}.tar"
    stats_format: str = "{:08d}_stats.json"


def open_shards(folder: Path, layout: Layout) -> list[TarShard]:
    """The tars that will be read; what was left out is said."""
    shards, notes = list_shards(
        folder,
        first_shard=layout.first_shard,
        num_shards=layout.num_shards,
        shard_format=layout.shard_format,
        stats_format=layout.stats_format,
    )
    for note in notes:
        say("warning", f"{folder}: {note}")
    return shards


def shards_id(folder: Path, shards: list[TarShard], cache: Path, *, distrust_cache: bool = False) -> str:
    """Identity of a list of tars: SHA-256 over the sorted (name, sha256) list. Reads each tar the first time it is seen."""
    digests = DigestCache(folder, cache, distrust=distrust_cache)
    with track("digest shards", total=sum(s.size_bytes for s in shards), unit="bytes") as bar:
        entries = []
        for shard in shards:
            entries.append([shard.name, digests.get(shard.path.name).sha256])
            bar.add(shard.size_bytes)
    if digests.read_bytes:
        say("info", f"read {digests.read_bytes / 1e6:,.1f} MB once to know the shards' id")
    digests.save()
    return identity_id({"shards": sorted(entries)})


def plan_reshard(
    folder: Path,
    shards: list[TarShard],
    subset: Path,
    output: Path,
    layout: Layout,
    cache: Path,
    *,
    distrust_cache: bool,
) -> Plan:
    """The Step that these shards, this subset and this layout are."""
    if output.resolve() == folder.resolve():
        raise UsageError(f"-o {output}: is the folder of the input shards", hint="write to another folder")
    check_output(output, "folder")
    load_words(subset)  # refuses a file that is not a sorted subset before anything is read
    inputs = [
        InputRef(role="shards", id=shards_id(folder, shards, cache, distrust_cache=distrust_cache)),
        InputRef(role="subset", id=digest_file(subset, ("sha256",)).sha256),
    ]
    config = {key: value for key, value in dataclasses.asdict(layout).items() if value is not None}
    return Plan(STEP, VERSION, config, inputs, output, kind="folder", resumable=True)


def run_reshard(
    plan: Plan,
    shards: list[TarShard],
    subset: Path,
    layout: Layout,
    *,
    executor: Executor,
    options: RunOptions,
    index_dir: Path | None,
    observation: dict[str, Any],
) -> Outcome | None:
    """Write the output folder and its Step record. None on a dry run."""
    options = dataclasses.replace(options, observation={**options.observation, **observation})
    words = load_words(subset, check_sorted=False)
    light = sum(shard.size_bytes for shard in shards) < LIGHT_BYTES

    def each(fn: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        return executor.map_shards(fn, list(items), light=light)

    def work(job: Work) -> Counts:
        folder = job.parts / "out"
        folder.mkdir(exist_ok=True)
        bars: dict[str, Any] = {}

        def progress(phase: str, done: int, total: int) -> None:
            if phase not in bars:
                bars[phase] = _Bar(f"{phase} shards", total)
            bars[phase].to(done)

        try:
            result = reshard(
                shards,
                words.view(UID).reshape(-1),
                folder,
                shard_size=layout.shard_size,
                max_bytes=layout.max_bytes,
                first_shard=layout.first_shard,
                num_shards=layout.num_shards,
                shard_format=layout.shard_format,
                stats_format=layout.stats_format,
                index_dir=index_dir,
                map_shards=each,
                on_progress=progress,
            )
        except IntegrityError:
            if all(entry.name.startswith(".") for entry in folder.iterdir()):
                shutil.rmtree(folder)  # refused before a tar was written: there is nothing to go on from
            raise
        _tell(result)
        os.rmdir(job.stage)
        os.rename(folder, job.stage)
        job.details.update(_details(result))
        return Counts(
            unit="samples",
            read=result.samples_read,
            kept=result.selected,
            dropped={"not in the subset": result.not_selected},
            invalid=result.invalid,
            extra={
                "copies_written": result.copies,
                "uids_not_found": result.not_found,
                "shards_written": len(result.shards),
            },
        )

    return run_step(plan, work, options)


def _tell(result: ReshardResult) -> None:
    """Oddities that are no errors; all of them are in the record."""
    for note in result.notes[:TOLD]:
        say("warning", note)
    if len(result.notes) > TOLD:
        say("warning", f"… and {len(result.notes) - TOLD:,} more notes, all in the record")
    if result.repeated:
        examples = ", ".join(result.repeated_examples[:3])
        say("warning", f"{result.repeated:,} uids lie in several samples, all of which are kept: {examples}")


class _Bar:
    """Progress of one phase, from a callback that tells how far it is."""

    def __init__(self, what: str, total: int) -> None:
        self._context = track(what, total=total, unit="shards")
        self._bar = self._context.__enter__()

    def to(self, done: int) -> None:
        self._bar.add(done - self._bar.done)
        if self._bar.total is not None and done >= self._bar.total:
            self._context.__exit__(None, None, None)


def _details(result: ReshardResult) -> dict[str, Any]:
    problem = result.bad_inputs()
    return {
        "shards": len(result.shards),
        "subset_entries": result.subset_entries,
        "not_found": {"uids": result.not_found, "examples": list(result.not_found_examples)},
        "in_several_samples": {"uids": result.repeated, "examples": list(result.repeated_examples)},
        "damaged": [{"shard": p.shard, "offset": p.offset, "reason": p.reason} for p in result.damaged],
        "problems": [
            {"shard": p.shard, "sample": p.key, "offset": p.offset, "reason": p.reason}
            for p in result.problems
        ],
        "skipped_members": result.skipped_members,
        "uid_differs_from_key": result.other_key,
        "notes": list(result.notes),
        "bad_inputs": problem.message if problem else None,
    }


def check_outcome(outcome: Outcome, *, allow_invalid: bool) -> None:
    """Raise BadInputs when samples or parts of shards were left out."""
    message = outcome.step.details.get("bad_inputs")
    if message and not allow_invalid:
        raise BadInputs(
            f"{outcome.path} is written: {message}",
            hint="fetch the damaged shards again, or accept it with --allow-invalid",
        )


def default_cache(folder: Path) -> Path:
    """Where digests and the shard index of a folder of tars are kept."""
    return folder / CACHE_NAME
