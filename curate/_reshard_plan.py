"""Plans a reshard: what each input tar contributes, what the whole comes to, and where the output is cut.

`walk_shard` runs in workers and leaves a part file (`_selection.Part`); `Tally` and `Cutter` read the parts in tar order.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from curate._jsonuid import I64, OK, U8
from curate._selection import Part, read_part, write_part
from curate._tarwrite import OutputShard, Segment, ShardTask
from curate._wanted import Wanted, open_wanted
from curate.shards import Scan, Summary, TarShard, expand, spelled_uid
from headwater.errors import BadInputs, HeadwaterError

VERSION = 1
PLAN = ".plan"
EXAMPLES = 20


@dataclass(frozen=True)
class Problem:
    """A sample or a shard that was left out, by name."""

    shard: str
    offset: int
    reason: str
    key: str = ""


@dataclass(frozen=True)
class ReshardResult:
    """What was read and written. samples_read = selected + not_selected + invalid."""

    shards: tuple[OutputShard, ...]
    samples_read: int
    selected: int
    not_selected: int
    invalid: dict[str, int]
    copies: int
    subset_entries: int
    not_found: int  # distinct uids of the subset that no sample has
    not_found_examples: tuple[str, ...]
    repeated: int  # distinct uids of the subset that several samples have
    repeated_examples: tuple[str, ...]
    damaged: tuple[Problem, ...]
    problems: tuple[Problem, ...]
    skipped_members: dict[str, int]
    other_key: int
    notes: tuple[str, ...]

    def bad_inputs(self) -> BadInputs | None:
        """The error a command ends with when samples or parts of shards were left out."""
        lost = sum(self.invalid.values())
        if not lost and not self.damaged:
            return None
        parts = [f"{count:,} × {reason}" for reason, count in sorted(self.invalid.items())]
        lines = [f"{p.shard} at byte {p.offset:,}: {p.reason}" for p in self.damaged]
        lines += [f"{p.shard}: sample {p.key!r} at byte {p.offset:,}: {p.reason}" for p in self.problems]
        message = (
            f"reshard finished without {lost:,} invalid sample(s) ({', '.join(parts)})"
            if lost
            else "reshard finished"
        )
        if self.damaged:
            message += f"; {len(self.damaged)} damaged shard(s)"
        more = "" if len(lines) <= EXAMPLES else f"\n  … and {len(lines) - EXAMPLES} more"
        return BadInputs(
            message + "".join(f"\n  {line}" for line in lines[:EXAMPLES]) + more,
            hint="fetch the damaged shards again, or pass --allow-invalid to accept the result as it is",
        )


@dataclass(frozen=True)
class Options:
    """What decides the bytes besides the inputs."""

    shard_size: int = 10_000
    max_bytes: int = 3_000_000_000
    shard_format: str = "{:08d}.tar"
    stats_format: str = "{:08d}_stats.json"
    first_shard: int = 0
    num_shards: int | None = None


@dataclass(frozen=True)
class WalkTask:
    """Phase 1 for one tar."""

    number: int
    shard: TarShard
    plan: Path
    index_dir: Path | None
    key: str


def key_of(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def walk_shard(task: WalkTask) -> int:
    """Phase 1: select from one tar. Writes the part file and returns its CRC-32."""
    path = part_path(task)
    if path.is_file():
        try:
            return int(read_part(path, check=True).head["crc32"])
        except (ValueError, KeyError):
            path.unlink()
    wanted = open_wanted(task.plan)
    scan = Scan(task.shard, task.index_dir)
    columns: dict[str, list[Any]] = {
        name: [] for name in ("hi", "lo", "row", "copies", "count", "data", "size", "code")
    }
    spelled: dict[str, str] = {}
    selected = 0
    for batch in scan.batches():
        row = wanted.find(batch.hi, batch.lo)
        chosen = np.flatnonzero((row >= 0) & (batch.state == OK))
        if not len(chosen):
            continue
        counts = batch.first[chosen + 1] - batch.first[chosen]
        members = expand(batch.first[chosen], counts)
        members = _by_extension(members, counts, batch.members.code, scan.extensions)
        for name, values in (
            ("hi", batch.hi[chosen]),
            ("lo", batch.lo[chosen]),
            ("row", row[chosen]),
            ("copies", wanted.copies[row[chosen]].astype(np.int64)),
            ("count", counts),
            ("data", batch.members.data[members]),
            ("size", batch.members.size[members]),
            ("code", batch.members.code[members]),
        ):
            columns[name].append(values)
        if scan.spelled:
            for at, sample in enumerate(chosen.tolist(), selected):
                text = spelled_uid(scan, batch, sample)
                if text is not None:
                    spelled[str(at)] = text
        selected += len(chosen)
    joined: dict[str, Any] = {
        name: np.concatenate(parts) if parts else np.empty(0, np.uint64 if name in ("hi", "lo") else np.int64)
        for name, parts in columns.items()
    }
    joined["first"] = np.concatenate([[0], np.cumsum(joined.pop("count"))]).astype(np.int64)
    head = {"extensions": scan.extensions, "spelled": spelled, "summary": asdict(scan.summary)}
    return write_part(path, Part(head, **joined))


def _by_extension(members: I64, counts: I64, code: I64, extensions: list[str]) -> I64:
    """The member rows of each sample in order of their extension."""
    rank = np.empty(len(extensions), np.int64)
    rank[sorted(range(len(extensions)), key=extensions.__getitem__)] = np.arange(len(extensions))
    place = np.repeat(np.arange(len(counts)) * len(extensions), counts) + rank[code[members]]
    if (place[1:] < place[:-1]).any():
        members = members[np.argsort(place, kind="stable")]
    return members


def part_path(task: WalkTask) -> Path:
    return task.plan / f"part-{task.number:08d}-{task.key[:16]}"


class Tally:
    """Counts over all parts."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._found: U8 = np.zeros(len(wanted), np.uint8)  # samples per uid, at most 2 counted
        self.samples = self.selected = self.copies = self.other_key = 0
        self.invalid: dict[str, int] = {}
        self.skipped: dict[str, int] = {}
        self.damaged: list[Problem] = []
        self.problems: list[Problem] = []
        self.notes: list[str] = []

    def add(self, shard: TarShard, part: Part) -> None:
        summary = Summary(**part.head["summary"])
        rows, times = np.unique(part.row, return_counts=True)
        self._found[rows] = np.minimum(self._found[rows] + times, 2)
        self.samples += summary.samples
        self.selected += len(part.row)
        self.copies += int(part.copies.sum())
        self.other_key += summary.other_key
        for mine, theirs in ((self.invalid, summary.invalid), (self.skipped, summary.skipped_members)):
            for reason, count in theirs.items():
                mine[reason] = mine.get(reason, 0) + count
        if summary.damage is not None:
            self.damaged.append(Problem(shard.name, summary.damage["offset"], summary.damage["reason"]))
        if len(self.problems) < EXAMPLES:
            self.problems += [
                Problem(shard.name, e["offset"], e["reason"], e["key"]) for e in summary.examples
            ]
        self.notes += [f"{shard.name}: {note}" for note in summary.notes]
        if shard.expected is not None and shard.expected != summary.samples:
            told = f"{summary.samples} samples, its statistics say {shard.expected}"
            if shard.expected > summary.samples and summary.notes and summary.damage is None:
                # too few, and the archive does not end as it should: cut between two samples, or blanked in the middle
                self.damaged.append(Problem(shard.name, shard.size_bytes, f"{told}; {summary.notes[0]}"))
            else:
                self.notes.append(f"{shard.name}: {told}")

    def result(self, outputs: list[OutputShard], entries: int) -> ReshardResult:
        lost = np.flatnonzero(self._found == 0)
        twice = np.flatnonzero(self._found > 1)
        invalid = sum(self.invalid.values())
        written = sum(output.samples for output in outputs)
        if written != self.copies or self.samples < self.selected + invalid:
            raise HeadwaterError(f"counts do not close: {written:,} copies written, {self.copies:,} planned")
        return ReshardResult(
            shards=tuple(outputs),
            samples_read=self.samples,
            selected=self.selected,
            not_selected=self.samples - self.selected - invalid,
            invalid=dict(sorted(self.invalid.items())),
            copies=self.copies,
            subset_entries=entries,
            not_found=len(lost),
            not_found_examples=self._wanted.text(lost[:EXAMPLES]),
            repeated=len(twice),
            repeated_examples=self._wanted.text(twice[:EXAMPLES]),
            damaged=tuple(self.damaged),
            problems=tuple(self.problems[:EXAMPLES]),
            skipped_members=dict(sorted(self.skipped.items())),
            other_key=self.other_key,
            notes=tuple(self.notes),
        )


@dataclass
class Cutter:
    """Cuts the stream of copies into shards: full at shard_size copies, or once it holds max_bytes of member data."""

    options: Options
    folder: Path
    tasks: list[ShardTask] = field(default_factory=list)
    _segments: list[Segment] = field(default_factory=list)
    _identity: list[object] = field(default_factory=list)
    _copies: int = 0
    _bytes: int = 0

    def add(self, task: WalkTask, part: Part, crc: int) -> None:
        if not len(part.copies):
            return
        total = int(part.copies.sum())
        ends = np.concatenate([[0], np.cumsum(np.repeat(part.sample_bytes, part.copies))])
        at = 0
        while at < total:
            if self._copies >= self.options.shard_size or self._bytes >= self.options.max_bytes:
                self._cut()
            room = int(ends[at]) + self.options.max_bytes - self._bytes
            stop = min(total, at + self.options.shard_size - self._copies, int(np.searchsorted(ends, room)))
            stop = max(stop, at + 1)
            shard = task.shard
            self._segments.append(
                Segment(part_path(task), shard.path, shard.name, shard.size_bytes, shard.mtime_ns, at, stop)
            )
            self._identity.append([task.key, crc, at, stop])
            self._copies += stop - at
            self._bytes += int(ends[stop] - ends[at])
            at = stop

    def _cut(self) -> None:
        number = len(self.tasks)
        name = self.options.shard_format.format(number)
        stats = self.options.stats_format.format(number)
        record = self.folder / PLAN / f"done-{number:08d}"
        key = key_of(VERSION, name, stats, self._identity)
        self.tasks.append(ShardTask(self.folder, name, stats, record, key, tuple(self._segments)))
        self._segments, self._identity, self._copies, self._bytes = [], [], 0, 0

    def finish(self) -> list[ShardTask]:
        if self._segments:
            self._cut()
        return self.tasks
