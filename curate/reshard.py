"""Rewrites webdataset tars so that they hold exactly a subset: DataComp's resharder contract, with a plan.

Phase 1, one task per input tar: walk it (or read its index), look every uid up in the subset, keep byte ranges (`_selection.Part`).
Phase 2, here: cut the selected copies, in order of tar and of sample, into output shards.
Phase 3, one task per output shard: new headers, copied ranges, fsync, rename, then a record of what was written.
The plan alone decides the bytes, so the number of workers does not, and a run that was killed goes on where it stopped.

Output: `00000000.tar` … with members `UID-k.ext` in order of extension (k counts the repeats in the subset), `…_stats.json`,
`sample_ids.npy` (the subset), `meta.json`, and `sizes.json` {tar: samples}, which training reads. In `meta.json` arguments are
strings and counters numbers, in DataComp's key order. Because bytes never depend on a path or on the number of workers,
`input_dir`, `output_dir`, `subset_file` and `cwd` hold the fixed relative names below, and `num_workers` is "1".

Memory: 1 B per distinct uid of the subset here, one tar's selection (about 112 B a sample) in a task; all else is in files
under `.plan/`, removed at the end.
"""

from __future__ import annotations

import json
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from curate._reshard_plan import (
    PLAN,
    VERSION,
    Cutter,
    Options,
    Problem,
    ReshardResult,
    Tally,
    WalkTask,
    key_of,
    part_path,
    walk_shard,
)
from curate._selection import read_part
from curate._tarwrite import OutputShard, sync_folder, write_file, write_shard
from curate._wanted import open_wanted, save_wanted
from curate.shards import TarShard
from headwater.errors import MissingInput, UsageError

__all__ = ["OutputShard", "Problem", "ReshardResult", "meta_document", "process_map", "reshard"]

T = TypeVar("T")
R = TypeVar("R")
MapShards = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]
Progress = Callable[[str, int, int], None]  # (phase, done, total)


def reshard(
    inputs: Sequence[TarShard],
    subset: npt.NDArray[np.void],
    output_dir: Path,
    *,
    shard_size: int = 10_000,
    max_bytes: int = 3_000_000_000,
    first_shard: int = 0,
    num_shards: int | None = None,
    shard_format: str = "{:08d}.tar",
    stats_format: str = "{:08d}_stats.json",
    workers: int = 1,
    resume: bool = True,
    index_dir: Path | None = None,
    map_shards: MapShards | None = None,
    on_progress: Progress | None = None,
) -> ReshardResult:
    """Write the samples of `inputs` whose uid is in the sorted `subset` to the staging folder `output_dir`.

    `first_shard` and `num_shards` are only recorded: `shards.list_shards` applies them. `map_shards(fn, items)` yields results in order.
    """
    options = Options(shard_size, max_bytes, shard_format, stats_format, first_shard, num_shards)
    _check_options(options, inputs)
    plan = output_dir / PLAN
    digest = _open_staging(output_dir, plan, subset, options, resume=resume)
    wanted = open_wanted(plan)
    each = map_shards or process_map(workers)
    report = on_progress or (lambda phase, done, total: None)

    tasks = [
        WalkTask(
            number,
            shard,
            plan,
            index_dir,
            key_of(VERSION, digest, shard.name, shard.size_bytes, shard.mtime_ns),
        )
        for number, shard in enumerate(inputs)
    ]
    tally = Tally(wanted)
    cutter = Cutter(options, output_dir)
    for done, (task, crc) in enumerate(zip(tasks, each(walk_shard, tasks), strict=True), 1):
        part = read_part(part_path(task))
        tally.add(task.shard, part)
        cutter.add(task, part, crc)
        report("read", done, len(tasks))
    outputs: list[OutputShard] = []
    shard_tasks = cutter.finish()
    for done, shard in enumerate(each(write_shard, shard_tasks), 1):
        outputs.append(shard)
        report("write", done, len(shard_tasks))
    result = tally.result(outputs, len(subset))
    _write_documents(output_dir, subset, result, options)
    _close_staging(output_dir, plan, outputs, options)
    return result


def process_map(workers: int) -> MapShards:
    """A map in order: serial for one worker, else spawned processes with at most two tasks each in flight."""

    def serial(fn: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        return map(fn, items)

    def pool(fn: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        import multiprocessing
        from concurrent.futures import Future, ProcessPoolExecutor

        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context) as executor:
            waiting: deque[Future[R]] = deque()
            try:
                for item in items:
                    waiting.append(executor.submit(fn, item))
                    if len(waiting) >= 2 * workers:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    return serial if workers <= 1 else pool


def _check_options(options: Options, inputs: Sequence[TarShard]) -> None:
    if options.shard_size < 1 or options.max_bytes < 1:
        raise UsageError(
            f"shard size {options.shard_size} and byte limit {options.max_bytes} must be at least 1"
        )
    for pattern in (options.shard_format, options.stats_format):
        try:
            first, second = pattern.format(0), pattern.format(1)
        except (IndexError, KeyError, ValueError) as error:
            raise UsageError(f"format {pattern!r} is not usable: {error}", hint="like {:08d}.tar") from error
        if first == second or "/" in first or first.startswith("."):
            raise UsageError(
                f"format {pattern!r} gives {first!r}: it needs a number, no folder and no leading dot"
            )
    if options.shard_format.format(0) == options.stats_format.format(0):
        raise UsageError("shards and statistics files would have the same names")
    names = [shard.name for shard in inputs]
    if len(set(names)) != len(names):
        raise UsageError("two input shards have the same name", hint="reshard each folder on its own")


_FIXED = ("meta.json", "sample_ids.npy", "sizes.json")


def _open_staging(
    folder: Path, plan: Path, subset: npt.NDArray[np.void], options: Options, *, resume: bool
) -> str:
    """Make the folder ready: empty, or what an earlier run with the same arguments left. Returns the subset's digest."""
    if not folder.is_dir():
        raise MissingInput(f"output folder {folder} does not exist")
    present = {entry.name for entry in folder.iterdir()}
    if present and PLAN not in present and not _own_output(folder, present, subset):
        raise UsageError(
            f"output folder {folder} is not empty: {sorted(present)[0]!r}", hint="choose a new folder"
        )
    if not resume:
        for name in present:
            shutil.rmtree(folder / name) if name == PLAN else (folder / name).unlink()
    plan.mkdir(exist_ok=True)
    for old in folder.glob(".*.tmp"):
        old.unlink()
    return save_wanted(plan, subset)


def _own_output(folder: Path, present: set[str], subset: npt.NDArray[np.void]) -> bool:
    # killed between the last clean-up and the return: everything is there, and is written again
    if not set(_FIXED) <= present:
        return False
    try:
        return np.array_equal(np.load(folder / "sample_ids.npy", allow_pickle=False, mmap_mode="r"), subset)
    except (OSError, ValueError):
        return False


def _close_staging(folder: Path, plan: Path, outputs: list[OutputShard], options: Options) -> None:
    keep = {PLAN, *_FIXED}
    for number, output in enumerate(outputs):
        keep |= {output.name, options.stats_format.format(number)}
    for entry in list(folder.iterdir()):
        if entry.name not in keep:  # shards of an earlier, larger plan
            entry.unlink()
    sync_folder(folder)
    shutil.rmtree(plan)


def _write_documents(
    folder: Path, subset: npt.NDArray[np.void], result: ReshardResult, options: Options
) -> None:
    temporary = folder / ".sample_ids.npy.tmp"
    with open(temporary, "wb") as file:
        np.save(
            file, np.asarray(subset).astype([("f0", "<u8"), ("f1", "<u8")], copy=False), allow_pickle=False
        )
    temporary.replace(folder / "sample_ids.npy")
    sizes = {shard.name: shard.samples for shard in result.shards}
    write_file(folder / "sizes.json", (json.dumps(sizes, indent=1) + "\n").encode())
    meta = meta_document(result, options)
    write_file(folder / "meta.json", (json.dumps(meta, indent=4) + "\n").encode())


def meta_document(result: ReshardResult, options: Options) -> dict[str, str | int]:
    """`meta.json` in the key order that DataComp's tools write."""
    return {
        "input_dir": "input",
        "output_dir": ".",
        "subset_file": "sample_ids.npy",
        "num_shards": str(options.num_shards),
        "first_shard": str(options.first_shard),
        "num_workers": "1",
        "shard_size": str(options.shard_size),
        "shard_format": "{:08d}.tar",
        "output_shard_format": options.shard_format,
        "shard_stats_format": "{:08d}_stats.json",
        "output_shard_stats_format": options.stats_format,
        "shard_table": "sizes.json",
        "write_shard_table": "False",
        "shuffle_bufsize": "0",
        "blur_metadata_map": "None",
        "apply_blur": "False",
        "inject_blur_metadata": "False",
        "reencode_webp_quality": "100",
        "dry_run": "False",
        "overwrite": "False",
        "verbose": "None",
        "quiet": "None",
        "processed_count": result.samples_read - sum(result.invalid.values()),
        "output_count": result.copies,
        "blur_count": 0,
        "blur_time": 0,
        "output_shard_count": len(result.shards),
        "worker_success": 1,
        "cwd": ".",
    }
