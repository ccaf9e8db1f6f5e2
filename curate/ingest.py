"""`headwater pool import`: makes a pool of webdataset tars, of a folder of pictures with captions, or of Parquet files.

One step: the source is read once to know its id, then unit by unit (a tar, a run of captions, a Parquet file) through the
executor, then put together in the order of the source, so bytes do not depend on workers. The pool gets DataComp's columns first,
a `manifest.json` of its files, and `step.json`. Rows that cannot be taken are counted by reason and listed.

uid of a row: the source's own when it is 32 lower-case hex digits; without one, the first 32 hex digits of SHA-256 over the url
(or, where there is none, the sha256 of the image), a zero byte, and the caption.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curate._ingest_pool import Import
from curate._ingest_rows import ON_BAD, UID_POLICIES, Policy
from curate._ingest_source import LAYOUTS, find_source, source_inputs
from headwater.errors import BadInputs, UsageError
from headwater.executor import Executor
from headwater.manifest import Counts
from headwater.steps import Outcome, Plan, RunOptions, Work, run_step

__all__ = [
    "DEFAULT_ROWS_PER_SHARD",
    "LAYOUTS",
    "ON_BAD",
    "UID_POLICIES",
    "Prepared",
    "exit_error",
    "import_pool",
    "prepare",
]

STEP = "pool import"
VERSION = 1
DEFAULT_ROWS_PER_SHARD = 500_000
UID_RULE = "sha256(url, or sha256 of the image; 00; caption)[:32]"


@dataclass(frozen=True)
class Prepared:
    """An import whose source is known: `run_step(prepared.plan, prepared.work, options)` makes the pool."""

    plan: Plan
    work: Callable[[Work], Counts]


def prepare(
    source: Path,
    output: Path,
    *,
    executor: Executor | None = None,
    captions: Path | None = None,
    layout: str = "auto",
    mapping: Mapping[str, str] | None = None,
    uid: str = "auto",
    on_bad: str = "refuse",
    rows_per_shard: int = DEFAULT_ROWS_PER_SHARD,
    features: bool = True,
) -> Prepared:
    """Look at the source and read it once to know its id; nothing is written.

    Raises MissingInput, and UsageError for options that do not fit or an output inside the source.
    """
    policy = Policy(uid, on_bad)
    if not 1 <= rows_per_shard <= 1 << 31:
        raise UsageError(f"--rows-per-shard {rows_per_shard}: it must be between 1 and 2^31")
    executor = executor or Executor()
    found = find_source(source, output, captions=captions, layout=layout, mapping=mapping or {})
    config = {
        "layout": found.layout,
        "uid": uid,
        "uid_rule": UID_RULE,
        "on_bad": on_bad,
        "mapping": dict(found.mapping),
        "rows_per_shard": rows_per_shard,
        "features": features,
    }
    inputs = source_inputs(found, executor)
    plan = Plan(
        step=STEP, version=VERSION, config=config, inputs=inputs, output=output, kind="folder", resumable=True
    )
    return Prepared(plan, Import(found, policy, executor, rows_per_shard, features).work)


def import_pool(source: Path, output: Path, *, options: RunOptions, **how: Any) -> Outcome | None:
    """Make the pool `output`; None on a dry run. `exit_error` turns left-out rows into the error to end with.

    `how` are the options of `prepare`. Raises IntegrityError as well: damaged tars or Parquet, and a malformed or repeated
    uid while `on_bad` is refuse.
    """
    prepared = prepare(source, output, **how)
    return run_step(prepared.plan, prepared.work, options)


def exit_error(outcome: Outcome) -> BadInputs | None:
    """The error to end with when rows were left out."""
    invalid = outcome.step.identity.counts.invalid
    if not invalid:
        return None
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(invalid.items()))
    left, read = sum(invalid.values()), outcome.step.identity.counts.read
    return BadInputs(
        f"{outcome.path}: written, but {left:,} of {read:,} rows were left out: {reasons}",
        hint="the first of them are listed in step.json under details.bad",
    )
