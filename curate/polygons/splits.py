"""Splits of a polygon dataset by declared rules (`_split_model` has the file): every image is in one split, or left out with a reason.

Membership is stable when the dataset grows. What rules say of an image depends on its group alone, never on how many there are. Only a
group itself can change its mind: by an earlier first image, by a new link to another group, by growing to `least_images`. So the
membership of the release before may be given as `previous`; it goes before the rules: an image stays where it was, its group follows,
and a new image that ties groups of several splits together is left out by name. An image that was left out before is judged again.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate.polygons._split_facts import Facts, together
from curate.polygons._split_model import SplitFile
from curate.polygons._split_rules import UNKNOWN, YES, Bench
from curate.polygons.store import Annotations, digest, pixel_digest
from headwater.config import MAX_BYTES, load_yaml, parse_yaml, validate
from headwater.errors import IntegrityError, UsageError
from headwater.manifest import Counts

__all__ = ["Assignment", "Named", "SplitFile", "assign", "load_split", "membership_of", "name", "named"]

Ints = npt.NDArray[np.int64]

NO_RULE = "no rule takes it"
TORN = "ties images of several splits together"
MEMBERSHIP = pa.schema(
    [
        ("file_name", pa.string()),
        ("sha256", pa.string()),
        ("id", pa.int64()),
        ("split", pa.string()),  # null: left out
        ("reason", pa.string()),  # the rule, or why it is left out
        ("group", pa.string()),
    ]
)


@dataclass(frozen=True)
class Assignment:
    """Where every image goes. `split` (images,) is a number within `splits`, -1 for left out; `reasons` say why.

    `invalid`: images that a rule could not judge. `notes`: what somebody should look at, in words.
    """

    splits: list[str]
    split: Ints
    reasons: list[str]
    groups: list[str | None]
    invalid: npt.NDArray[np.bool_]
    notes: list[str]
    images: pa.Table

    @property
    def rows(self) -> dict[str, Ints]:
        """Image rows of each split, in the dataset's order; empty splits included."""
        return {name: np.flatnonzero(self.split == number) for number, name in enumerate(self.splits)}

    @property
    def left_out(self) -> dict[str, Ints]:
        """Image rows that are in no split, by reason."""
        found: dict[str, list[int]] = {}
        for row in np.flatnonzero(self.split < 0).tolist():
            found.setdefault(self.reasons[row], []).append(row)
        return {reason: np.array(rows, np.int64) for reason, rows in sorted(found.items())}

    def counts(self) -> Counts:
        """Images read, kept in a split, dropped by reason, and not judged by reason."""
        out = {reason: int(len(rows)) for reason, rows in self.left_out.items()}
        unjudged = {self.reasons[row] for row in np.flatnonzero(self.invalid).tolist()}
        return Counts(
            unit="images",
            read=len(self.split),
            kept=int((self.split >= 0).sum()),
            dropped={reason: count for reason, count in out.items() if reason not in unjudged},
            invalid={reason: count for reason, count in out.items() if reason in unjudged},
        )

    def take(self, annotations: Annotations) -> dict[str, Annotations]:
        """The dataset of each split."""
        return {name: annotations.take(rows) for name, rows in self.rows.items()}

    def table(self) -> pa.Table:
        """One row an image: what `previous` takes when the dataset has grown (columns: MEMBERSHIP)."""
        columns = {
            **{key: self.images[key] for key in ("file_name", "sha256", "id")},
            "split": pa.array([self.splits[n] if n >= 0 else None for n in self.split.tolist()], pa.string()),
            "reason": pa.array(self.reasons, pa.string()),
            "group": pa.array(self.groups, pa.string()),
        }
        return pa.Table.from_arrays([columns[key] for key in MEMBERSHIP.names], schema=MEMBERSHIP)


def load_split(path: Path) -> SplitFile:
    """The split file at `path` (`-` is standard input). Raises MissingInput, UsageError."""
    if str(path) == "-":
        return validate(
            SplitFile,
            parse_yaml(sys.stdin.buffer.read(MAX_BYTES + 1), "standard input"),
            "standard input",
        )
    return validate(SplitFile, load_yaml(path), str(path))


def assign(annotations: Annotations, split_file: SplitFile, previous: pa.Table | None = None) -> Assignment:
    """Where every image goes; `previous` is the `table()` of an earlier assignment.

    Raises UsageError for a key that no image has, for a listed image whose group went elsewhere, and for an earlier split that the file
    does not have.
    """
    facts = Facts(annotations)
    needed = split_file.keys() | ({split_file.time_key} if _asks_for_times(split_file) else set())
    facts.check_keys(needed - set(split_file.optional), f"split {split_file.name}")
    times = facts.times(split_file.time_key)
    units = together(facts, split_file.groups_by, times)
    bench = Bench(facts, times, units, tuple(split_file.groups_by))
    place, why, unjudged = _by_rules(bench, split_file)
    split, reasons = place[units.of], [why[unit] for unit in units.of.tolist()]
    invalid = unjudged[units.of]
    notes: list[str] = []
    before = _before(previous, facts, split_file) if previous is not None else np.full(facts.images, -1)
    held = _hold(before, units.of, split, reasons, invalid)
    if held:
        notes.append(f"{held:,} images stay where they were, and the rules would now say otherwise")
    torn = sum(reason == TORN for reason in reasons)
    if torn:
        notes.append(f"{torn:,} new images are left out: each {TORN}")
    _check_listed(bench, split_file, split, before, reasons)
    groups = [units.name[unit] for unit in units.of.tolist()]
    return Assignment(list(split_file.splits), split, reasons, groups, invalid, notes, annotations.images)


def _asks_for_times(split_file: SplitFile) -> bool:
    open_ = [rule.when for rule in split_file.rules if rule.when]
    while open_:
        condition = open_.pop()
        if condition.time is not None or condition.ordinal_day is not None:
            return True
        open_ += condition.children
    return False


def _by_rules(bench: Bench, split_file: SplitFile) -> tuple[Ints, list[str], npt.NDArray[np.bool_]]:
    """Of each unit: the split by the rules, the reason, and whether a rule could not judge it."""
    numbers = {name: number for number, name in enumerate(split_file.splits)}
    count = len(bench.units.first)
    place, undecided = np.full(count, -1, np.int64), np.ones(count, bool)
    unjudged, why = np.zeros(count, bool), [NO_RULE] * count

    def decide(units: npt.NDArray[np.bool_], split: int, reason: str) -> None:
        place[units], undecided[units] = split, False
        for unit in np.flatnonzero(units).tolist():
            why[unit] = reason

    for position, rule in enumerate(split_file.rules):
        label = split_file.label(position)
        verdict = bench.judge(rule.when)
        taken, dark = undecided & (verdict == YES), undecided & (verdict == UNKNOWN)
        unjudged |= dark
        decide(dark, -1, f"{label}: no {split_file.time_key}")
        if rule.share is not None:
            drawn, given = bench.shares(rule.share)
            unjudged |= taken & ~given
            decide(taken & ~given, -1, f"{label}: no {rule.share.key or 'file_name'}")
            for number, target in enumerate(rule.targets):
                decide(taken & given & (drawn == number), numbers[target], label)
        elif rule.to is not None:
            decide(taken, numbers[rule.to], label)
        else:
            assert rule.leave_out is not None
            decide(taken, -1, rule.leave_out)
    if split_file.rest is not None:
        decide(undecided.copy(), numbers[split_file.rest], "rest")
    return place, why, unjudged


def _before(previous: pa.Table, facts: Facts, split_file: SplitFile) -> Ints:
    """The earlier split of each image, -1 for none: by name, content and id, then without the id,
    then by content, then by name; without both by id.
    """
    if not set(MEMBERSHIP.names) <= set(previous.schema.names):
        raise IntegrityError(
            "the earlier membership lacks columns", hint=f"it has {', '.join(MEMBERSHIP.names)}"
        )
    numbers = {name: number for number, name in enumerate(split_file.splits)}
    seen: dict[tuple[Any, ...], int] = {}
    for row in previous.select(MEMBERSHIP.names).to_pylist():
        if row["split"] is None:
            continue
        if row["split"] not in numbers:
            raise UsageError(
                f"the earlier membership has a split {row['split']!r}, which split {split_file.name} has not",
                hint="name it under `splits`, or start anew without the earlier membership",
            )
        for key in _keys(row["file_name"], row["sha256"], row["id"]):
            seen.setdefault(key, numbers[row["split"]])
    images = facts.annotations.images
    found = np.full(facts.images, -1, np.int64)
    columns = (images[key].to_pylist() for key in ("file_name", "sha256", "id"))
    for number, (file, content, identity) in enumerate(zip(*columns, strict=True)):
        found[number] = next((seen[key] for key in _keys(file, content, identity) if key in seen), -1)
    return found


def _keys(file: str | None, content: str | None, identity: int | None) -> list[tuple[Any, ...]]:
    keys: list[tuple[Any, ...]] = [("all", file, content, identity)]
    if file is not None and content is not None:
        keys.append(("both", file, content))
    if content is not None:
        keys.append(("content", content))
    if file is not None:
        keys.append(("file", file))
    if len(keys) == 1 and identity is not None:
        keys.append(("id", identity))
    return keys


def _hold(before: Ints, of: Ints, split: Ints, reasons: list[str], invalid: npt.NDArray[np.bool_]) -> int:
    """Let images stay (in place); new images of a group follow. The number of those that rules would put elsewhere."""
    old = np.flatnonzero(before >= 0)
    if not len(old):
        return 0
    held = int((before[old] != split[old]).sum())
    lowest = np.full(int(of.max()) + 1, np.iinfo(np.int64).max)
    highest = np.full(len(lowest), -1, np.int64)
    np.minimum.at(lowest, of[old], before[old])
    np.maximum.at(highest, of[old], before[old])
    for row in np.flatnonzero(highest[of] >= 0).tolist():
        invalid[row] = False
        if before[row] >= 0:
            split[row], reasons[row] = before[row], "stays"
        elif lowest[of[row]] == highest[of[row]]:
            split[row], reasons[row] = highest[of[row]], "stays with its group"
        else:
            split[row], reasons[row] = -1, TORN
    return held


def _check_listed(bench: Bench, split_file: SplitFile, split: Ints, before: Ints, reasons: list[str]) -> None:
    for position, rule in enumerate(split_file.rules):
        if rule.when is None or rule.when.ids is None or rule.to is None:
            continue
        target = split_file.splits.index(rule.to)
        wrong = np.flatnonzero(bench.listed(rule.when) & (split != target) & (before < 0))
        if len(wrong):
            row = int(wrong[0])
            went = split_file.splits[split[row]] if split[row] >= 0 else "no split"
            raise UsageError(
                f"{split_file.label(position)} lists {bench.facts.names[row]} for {rule.to}, and it went to {went} ({reasons[row]})",
                hint="its group goes together: list all of it for one split, or put this rule first",
            )


def membership_of(path: Path) -> pa.Table:
    """The membership table in a Parquet file. Raises MissingInput, IntegrityError."""
    import pyarrow.parquet as pq

    from headwater.errors import MissingInput

    if not path.is_file():
        raise MissingInput(f"{path}: no such file")
    try:
        found = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise IntegrityError(f"{path}: cannot be read ({error})") from error
    if found.schema.remove_metadata() != MEMBERSHIP:
        raise IntegrityError(f"{path}: other columns than a membership has: {', '.join(MEMBERSHIP.names)}")
    return found


@dataclass(frozen=True)
class Named:
    """A split under its name, with its two digests: of what it says, and of its pixels (None where the files are not known)."""

    name: str
    split: str
    images: int
    annotations: int
    manifest_digest: str
    pixel_digest: str | None

    def record(self) -> dict[str, Any]:
        """As plain data."""
        return dict(vars(self))


def named(split: str, annotations: Annotations, folder: Path | None = None) -> Named:
    """The name `<split>_imgs<N>_<first 8 digits of the manifest's digest>`, and both digests.

    Pixels: from the files under `folder`; without it from the column sha256, where every image has one (the same digest, if the column
    tells the truth). Raises BadInputs for images whose file is not there.
    """
    manifest = digest(annotations)
    pixels = pixel_digest(folder, annotations) if folder is not None else _pixels_by_column(annotations)
    count = len(annotations.images)
    return Named(
        f"{split}_imgs{count}_{manifest[:8]}", split, count, len(annotations.annotations), manifest, pixels
    )


def name(split: str, annotations: Annotations) -> str:
    """The name alone."""
    return f"{split}_imgs{len(annotations.images)}_{digest(annotations)[:8]}"


def _pixels_by_column(annotations: Annotations) -> str | None:
    import hashlib

    images = annotations.images
    if images["sha256"].null_count or images["file_name"].null_count:
        return None
    pairs = zip(images["sha256"].to_pylist(), images["file_name"].to_pylist(), strict=True)
    lines = sorted(f"{content}  {file}\n".encode() for content, file in pairs)
    return hashlib.sha256(b"".join(lines)).hexdigest()
