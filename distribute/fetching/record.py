"""What a fetch leaves about itself: the ledger, the step, and the words for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from distribute.fetching.engine import Outcome
from distribute.fetching.ledger import Row, table
from distribute.fetching.options import FetchOptions
from distribute.fetching.plan import Plan
from headwater.energy import Meter
from headwater.files import write_json
from headwater.manifest import Count, Counts, Hex64, InputRef, Record, Step, describe_file
from headwater.release import MANIFEST_NAME
from headwater.steps import Plan as StepPlan
from headwater.steps import RunOptions, make_record

LEDGER_NAME = "fetch.json"
STEP_NAME = "fetch.step.json"
SHOWN = 20  # files of a list in a text
VERSION = 1


class Lie(Record):
    """Wrong bytes that one source sent. `length` 0: they were not counted (an object of another size, a piece in a swarm)."""

    source: str
    path: str
    piece: int | None = Field(description="number of the piece, null for a file that is checked as a whole")
    offset: Count
    length: Count
    peer: str | None = Field(None, description="who in a swarm")


class SourceLedger(Record):
    """What one source gave."""

    source: str = Field(description="location, without its secrets")
    kind: str
    state: str = Field(description="used, or why it was dropped")
    received_bytes: Count
    used_bytes: Count
    wrong_bytes: Count
    requests: Count
    busy_seconds: float = Field(description="summed over its connections")
    errors: dict[str, Count] = Field(description="how many, by kind")
    lies: list[dict[str, Any]]
    peers: dict[str, Count] = Field(description="bytes of each peer and web seed of a swarm")


class FetchLedger(Record):
    """`fetch/1`: the last fetch into a folder, also one that failed. Received = used + wrong + what came twice."""

    format: Literal["fetch/1"] = "fetch/1"
    output: str
    manifest_id: Hex64 | None
    pinned: bool = Field(description="whether the id was asked for, not taken from the first source")
    files: Count = Field(description="that were wanted")
    size_bytes: Count
    files_kept: Count = Field(description="that were there and right")
    files_fetched: Count
    files_left_out: Count = Field(description="by the patterns")
    files_replaced: Count = Field(description="that were there with other bytes")
    files_reused: Count = Field(description="that were taken from elsewhere on this disk, and checked")
    files_gone: list[str] = Field(description="of older releases, not in this one, that are still there")
    files_pruned: list[str] = Field(description="of older releases, not in this one, that were removed")
    bytes_resumed: Count = Field(description="of pieces that were there and right")
    bytes_reused: Count
    bytes_received: Count
    bytes_wrong: Count
    liars: list[Lie]
    failed: list[str] = Field(description="files that no source could give, and why")
    sources: list[SourceLedger]
    skipped: list[dict[str, str]] = Field(description="locations that were left out: source, why")
    step_id: Hex64 | None = None
    duration_seconds: float | None = None


def write_ledger(folder: Path, result: dict[str, Any]) -> None:
    """`fetch.json`: the last fetch into this folder, also one that failed."""
    write_json(folder / LEDGER_NAME, FetchLedger.model_validate(result).model_dump(mode="json"))


def write_step(
    output: Path,
    folder: Path,
    manifest_id: str,
    plan: Plan,
    outcome: Outcome,
    options: FetchOptions,
    run_options: RunOptions,
    meter: Meter,
) -> Step:
    """The record of a fetch that ended well; `read` = files wanted, `kept` = files that are there and right."""
    step_plan = StepPlan(
        step="fetch",
        version=VERSION,
        config={"include": sorted(options.include), "exclude": sorted(options.exclude)},
        inputs=[InputRef(role="manifest", id=manifest_id)],
        output=output,
        kind="folder",
    )
    counts = Counts(unit="files", read=len(plan.chosen), kept=len(plan.chosen))
    counts.check()
    details = {
        "files_kept": len(plan.kept),
        "files_fetched": len(plan.jobs),
        "files_reused": len(plan.reused),
        "bytes_resumed": plan.resumed_bytes,
        "sources": [row.as_json() for row in outcome.rows],
    }
    outputs = [describe_file(folder / MANIFEST_NAME, MANIFEST_NAME)]
    record = make_record(step_plan, run_options, counts, outputs, details, meter)
    write_json(folder / STEP_NAME, record.model_dump(mode="json"))
    return record


def summary(result: dict[str, Any], rows: list[Row], *, pruning: bool = False) -> str:
    """The text of a result."""
    lines = [
        f"{result['output']}: {result['files']:,} files, {result['size_bytes']:,} bytes, all checked"
        + (f" (manifest {result['manifest_id'][:12]})" if result.get("manifest_id") else "")
    ]
    parts = []
    if result["files_kept"]:
        parts.append(f"{files_text(result['files_kept'])} already there and right")
    if result["bytes_resumed"]:
        parts.append(f"{result['bytes_resumed']:,} bytes came from an earlier run")
    if result["files_reused"]:
        parts.append(
            f"{files_text(result['files_reused'])} ({result['bytes_reused']:,} bytes) taken from this disk"
        )
    if result["files_left_out"]:
        parts.append(f"{files_text(result['files_left_out'])} left out by the patterns")
    if parts:
        lines.append("; ".join(parts))
    return "\n".join(lines + _gone(result, pruning) + table(rows) + _liars(result["liars"]))


def _gone(result: dict[str, Any], pruning: bool) -> list[str]:
    """Files of older releases: what became of them."""
    lines = []
    if pruned := result["files_pruned"]:
        lines += [f"removed, because not in this release: {files_text(len(pruned))}", *_some(pruned)]
    if gone := result["files_gone"]:
        then = "edited, so kept" if pruning else "--prune removes what was not edited"
        lines += [f"of an older release, not in this one: {files_text(len(gone))}; {then}", *_some(gone)]
    return lines


def _liars(liars: list[dict[str, Any]]) -> list[str]:
    told = []
    for lie in liars:
        piece = "" if lie["piece"] is None else f", piece {lie['piece']}"
        told.append(f"{lie['source']}{' ' + lie['peer'] if lie.get('peer') else ''}: {lie['path']}{piece}")
    return [f"wrong bytes, thrown away ({len(told):,}):", *_some(told)] if told else []


def files_text(count: int) -> str:
    """`1 file`, `2,000 files`."""
    return "1 file" if count == 1 else f"{count:,} files"


def _some(lines: list[str]) -> list[str]:
    more = [f"  and {len(lines) - SHOWN:,} more"] if len(lines) > SHOWN else []
    return [f"  {line}" for line in lines[:SHOWN]] + more
