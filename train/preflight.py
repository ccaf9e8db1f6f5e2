"""What is wrong with training shards, told before time is spent on them, at the speed of reading headers.

    scan = scan_data([folder], workers=4)      every header, caption and first bytes of a picture; some pictures decoded
    check_data(scan, min_shards=…, …)          raises the most serious trouble, says the rest
    table, findings = read_table(tar)          where each sample of one tar lies, for the loader

REASONS (stable; those of samples are also train.ledger's SKIP_REASONS):
    of a whole tar, never trained on      damaged_tar  compressed_tar  wrong_order
    of samples, left out when allowed     no_image  no_caption  undecodable  too_large  other (its caption is no text)
    noted, and trained on                 empty_caption  two_images  duplicate_key  link_member  no_end_mark  empty_shard
The ordinal of a sample is its place in the tar among those that have a picture and a caption: the usable ones.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from headwater.console import track
from headwater.executor import Executor
from train._datacheck import BAD_SAMPLES, BAD_TARS, NOTED, REASONS, check_data
from train._shardcheck import (
    MAX_PIXELS,
    DecodeJob,
    Draw,
    Job,
    ShardScan,
    Spread,
    check_shard,
    decode_draws,
)
from train._shardlist import Source, data_id, list_sources, read_sizes
from train._shardscan import MAX_EXAMPLES, Findings, Problem
from train._shardtable import ShardTable, read_table

__all__ = [
    "BAD_SAMPLES",
    "BAD_TARS",
    "NOTED",
    "REASONS",
    "DataScan",
    "Example",
    "Findings",
    "Problem",
    "ShardScan",
    "ShardTable",
    "Source",
    "Spread",
    "check_data",
    "data_id",
    "list_sources",
    "read_table",
    "scan_data",
    "sizes_json",
]

SAMPLE_PICTURES = 256
LIGHT_BYTES = {
    "headers": 1 << 30,
    "sample": 1 << 30,
    "all": 64 << 20,
}  # below, processes cost more than the work


@dataclass(frozen=True)
class Example:
    """One case of a problem."""

    shard: str
    key: str
    detail: str


@dataclass(frozen=True)
class Unequal:
    """Shards with the most and the fewest usable samples (empty ones apart).

    `ratio` is largest / smallest: how much more often a sample of the smallest is drawn when shards are drawn uniformly.
    """

    largest: str
    largest_usable: int
    smallest: str
    smallest_usable: int
    ratio: float


@dataclass(frozen=True)
class DataScan:
    """Everything found. `shards` are in the order of names, which is the order of shard numbers in a run's ledger."""

    sources: list[Source]
    shards: list[ShardScan]
    problems: dict[str, int]
    examples: dict[str, list[Example]]  # up to 20 of each reason
    decode: str
    decoded: int  # pictures decoded in full
    sampled: int  # those of them that were drawn for it
    sampled_bad: int
    warnings: list[str]
    notes: list[str]

    @property
    def samples(self) -> int:
        """All keys, also those without picture or caption."""
        return sum(shard.samples for shard in self.shards)

    @property
    def usable(self) -> int:
        """Samples with a picture and a caption."""
        return sum(shard.usable for shard in self.shards)

    @property
    def bad(self) -> int:
        """Usable samples that were found to be untrainable all the same."""
        return sum(shard.bad for shard in self.shards) + self.sampled_bad

    @property
    def image_bytes(self) -> Spread:
        return sum((shard.image_bytes for shard in self.shards), Spread())

    @property
    def short_side(self) -> Spread:
        """Shorter side of the pictures in pixels."""
        return sum((shard.short_side for shard in self.shards), Spread())

    @property
    def caption_chars(self) -> Spread:
        return sum((shard.caption_chars for shard in self.shards), Spread())

    @property
    def unequal(self) -> Unequal | None:
        """None when no shard has a usable sample."""
        filled = [shard for shard in self.shards if shard.usable]
        if not filled:
            return None
        most, least = max(filled, key=lambda s: s.usable), min(filled, key=lambda s: s.usable)
        return Unequal(most.name, most.usable, least.name, least.usable, most.usable / least.usable)

    def sample_tables(self) -> Iterator[ShardTable]:
        """The table of each shard in turn, read again: all of them at once may not fit into memory."""
        for shard in self.shards:
            yield read_table(shard.path)[0]


def scan_data(
    folders: Sequence[Path],
    *,
    workers: int,
    decode: Literal["headers", "sample", "all"] = "sample",
    seed: int = 0,
    engine: str = "pool",
    max_pixels: int = MAX_PIXELS,
) -> DataScan:
    """Look at every sample of the tars that `folders` name (folders, tars or patterns).

    `decode` says which pictures are decoded in full: those whose first or last bytes leave doubt ("headers"), a seeded sample of
    256 besides ("sample"), or all. Raises MissingInput, UsageError for paths; what is wrong inside a tar is in the result.
    """
    sources = list_sources(folders)
    named = sorted((source.name(shard), shard) for source in sources for shard in source.shards.values())
    light = sum(shard.size_bytes for _, shard in named) < LIGHT_BYTES[decode]
    executor = Executor(engine, workers)
    jobs = [
        Job(number, shard.path, name, decode, SAMPLE_PICTURES, seed, max_pixels)
        for number, (name, shard) in enumerate(named)
    ]
    shards: list[ShardScan] = []
    draws: list[Draw] = []
    with track("check shards", total=len(jobs), unit="shards") as bar:
        for scan in executor.map_shards(check_shard, jobs, light=light):
            draws = heapq.nsmallest(
                SAMPLE_PICTURES, [*draws, *scan.draws], key=lambda d: (d.priority, d.shard)
            )
            shards.append(replace(scan, draws=[]))
            bar.add()
    problems: dict[str, int] = {}
    examples: dict[str, list[Example]] = {}
    for scan in shards:
        for reason, count in scan.problems.items():
            problems[reason] = problems.get(reason, 0) + count
        for problem in scan.examples:
            _keep(examples, problem.reason, Example(scan.name, problem.key, problem.detail))
    tasks = [
        DecodeJob(jobs[n].path, jobs[n].name, [d for d in draws if d.shard == n], max_pixels)
        for n in sorted({d.shard for d in draws})
    ]
    failed = [case for cases in executor.map_shards(decode_draws, tasks, light=light) for case in cases]
    for draw, error in sorted(failed, key=lambda case: (case[0].shard, case[0].ordinal)):
        reason = "too_large" if error.endswith(" pixels") else "undecodable"
        problems[reason] = problems.get(reason, 0) + 1
        _keep(examples, reason, Example(jobs[draw.shard].name, draw.key, error))
    return DataScan(
        sources=sources,
        shards=shards,
        problems={reason: problems[reason] for reason in REASONS if reason in problems},
        examples={reason: examples[reason] for reason in REASONS if reason in examples},
        decode=decode,
        decoded=sum(scan.decoded for scan in shards) + len(draws),
        sampled=len(draws),
        sampled_bad=len(failed),
        warnings=_warnings(sources, {scan.name: scan for scan in shards}),
        notes=[
            f"{source.folder}: no sizes.json (open_clip itself would ask for --train-num-samples)"
            for source in sources
            if read_sizes(source.folder) is None
        ],
    )


def _keep(examples: dict[str, list[Example]], reason: str, example: Example) -> None:
    kept = examples.setdefault(reason, [])
    if len(kept) < MAX_EXAMPLES:
        kept.append(example)


def _warnings(sources: list[Source], scans: dict[str, ShardScan]) -> list[str]:
    """Oddities of the folders: what was left out, and files beside the tars that say other sizes."""
    found = []
    for source in sources:
        found += [f"{source.folder}: {note}" for note in source.notes]
        usable = {name: scans[source.name(shard)].usable for name, shard in source.shards.items()}
        sizes = read_sizes(source.folder)
        if isinstance(sizes, str):
            found.append(f"{source.folder}/sizes.json cannot be used: {sizes}")
        elif sizes is not None:
            other = sorted(name for name, count in usable.items() if sizes.get(name) != count)
            if other:
                found.append(
                    f"{source.folder}/sizes.json disagrees about {len(other):,} of {len(usable):,} tars: {other[0]} has "
                    f"{usable[other[0]]:,} usable samples, it says {str(sizes.get(other[0], 'nothing'))[:40]}"
                )
        stated = {n: s.expected for n, s in source.shards.items() if s.expected is not None}
        other = sorted(
            n for n, count in stated.items() if scans[source.name(source.shards[n])].samples != count
        )
        if other:
            have = scans[source.name(source.shards[other[0]])].samples
            found.append(
                f"{source.folder}: the statistics of {len(other):,} tars state other numbers of samples: {other[0]} has "
                f"{have:,}, stated are {stated[other[0]]:,}"
            )
    return found


def sizes_json(scan: DataScan) -> dict[str, int]:
    """What open_clip reads as sizes.json: usable samples by name of the tar."""
    return {shard.name: shard.usable for shard in scan.shards}
