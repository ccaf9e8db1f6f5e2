"""`headwater pool validate`: everything that is wrong with a pool, as a list; the first fault never hides the second.

Each shard is opened and read on its own (in worker processes, where a crash of the reader becomes a finding). Read are the columns
that DataComp names; `deep` reads every column and verifies the checksums of all pages that have one. Uids are compared within and
across shards, exactly and in bounded memory. Bytes are compared with `manifest.json` where there is one.

Severity says what follows: `damage` (bytes or schema cannot be trusted: exit 13), `error` and `warning` (rows or names to look at:
exit 3), `note` (nothing). At most MAX_ROWS_TOLD rows are listed for one shard, code and column; `totals` counts all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curate._keys import Keys, find, rows_among
from curate._pages import words_of
from curate._validate_shard import CODES, MAX_ROWS_TOLD, Finding, ShardCheck, ShardReport, check_shard
from curate.pool import MANIFEST_NAME, Shard, common_type, family
from headwater.console import track
from headwater.errors import BadInputs, HeadwaterError, IntegrityError, MissingInput
from headwater.executor import Executor
from headwater.hashing import digest_file
from headwater.manifest import Manifest, safe_relative

__all__ = ["CODES", "Finding", "Findings", "validate_pool"]

BATCH_ROWS = 65_536
MAX_FINDINGS = 10_000
LIGHT_BYTES = 16 << 20
SEVERITIES = ("damage", "error", "warning", "note")


@dataclass
class Findings:
    """All that was found. `totals` counts rows (or shards, or files) by code, also those not listed."""

    pool: str
    deep: bool
    shards: int = 0
    rows: int = 0
    distinct_uids: int | None = None
    findings: list[Finding] = field(default_factory=list)
    totals: dict[str, int] = field(default_factory=dict)

    def add(self, code: str, message: str, *, count: int = 1, **where: Any) -> None:
        """One finding; `count` is how many rows it stands for."""
        self.totals[code] = self.totals.get(code, 0) + count
        if len(self.findings) < MAX_FINDINGS:
            self.findings.append(Finding(CODES[code][0], code, message, **where))

    def worst(self) -> str | None:
        """The gravest severity found."""
        found = {CODES[code][0] for code in self.totals}
        return next((severity for severity in SEVERITIES if severity in found), None)

    def exit_error(self) -> HeadwaterError | None:
        """The error to end with: 13 for damage, 3 for rows to look at, None for a clean pool."""
        worst = self.worst()
        if worst in (None, "note"):
            return None
        told = ", ".join(
            f"{count:,} {code}" for code, count in sorted(self.totals.items()) if CODES[code][0] != "note"
        )
        kind = IntegrityError if worst == "damage" else BadInputs
        return kind(f"{self.pool}: {told}", hint="--json lists every finding with its shard, column and row")

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "pool": self.pool,
            "deep": self.deep,
            "shards": self.shards,
            "rows": self.rows,
            "distinct_uids": self.distinct_uids,
            "worst": self.worst(),
            "totals": dict(sorted(self.totals.items())),
            "findings": [asdict(finding) for finding in self.findings],
        }

    def text(self) -> str:
        """For people: totals first, then one line a finding."""
        lines = [
            f"{self.pool}: {self.rows:,} rows in {self.shards} shards" + (", read whole" if self.deep else "")
        ]
        if not self.totals:
            return lines[0] + "\nnothing found\n"
        for code, count in sorted(
            self.totals.items(), key=lambda item: (SEVERITIES.index(CODES[item[0]][0]), item[0])
        ):
            lines.append(f"  {CODES[code][0]:8}{code:24}{count:>12,}  {CODES[code][1]}")
        lines.append("")
        lines += [f"{f.severity}: {f.place()}{f.message}" for f in self.findings[:200]]
        if len(self.findings) > 200:
            lines.append(f"… {len(self.findings) - 200:,} more, all with --json")
        return "\n".join(lines) + "\n"


def validate_pool(pool_path: Path, *, deep: bool = False, executor: Executor | None = None) -> Findings:
    """Look at every shard of the pool in `pool_path`. Raises MissingInput when there is no such folder; faults are findings."""
    if not pool_path.is_dir():
        raise MissingInput(f"{pool_path}: no such pool folder")
    executor = executor or Executor()
    result = Findings(str(pool_path), deep)
    files = _shard_files(pool_path, result)
    checks = [ShardCheck(path.name.split(".parquet")[0], path, deep) for path in files]
    light = sum(path.stat().st_size for path in files) < LIGHT_BYTES
    good: list[Shard] = []
    with track("validate", total=len(checks), unit="shards") as bar:
        for report in _reports(executor, checks, light=light):
            for finding in report.findings:
                if len(result.findings) < MAX_FINDINGS:
                    result.findings.append(finding)
            for code, count in report.totals.items():
                result.totals[code] = result.totals.get(code, 0) + count
            if report.shard is not None:
                good.append(report.shard)
            bar.add(1)
    result.shards, result.rows = len(files), sum(shard.rows for shard in good)
    if not files:
        result.add("no_shards", "no file name contains .parquet")
    _compare_schemas(good, result)
    _repeated_uids(good, result)
    _compare_manifest(pool_path, result)
    return result


def _shard_files(folder: Path, result: Findings) -> list[Path]:
    files, names = [], dict[str, str]()
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.is_file():
            if ".parquet" in path.name and not path.name.startswith(".") and path.is_symlink():
                result.add(
                    "broken_link", f"{path.name} points to nothing", shard=path.name.split(".parquet")[0]
                )
            continue
        if ".parquet" not in path.name:
            if ".parquet" in path.name.lower():
                result.add("odd_name", f"{path.name} is not read: only names with a lower-case .parquet are")
            elif path.suffix == ".npz" and not _has_shard(folder, path.stem):
                result.add("npz_alone", f"{path.name} has no shard of that name")
            continue
        name = path.name.split(".parquet")[0]
        if not path.name.endswith(".parquet"):
            result.add(
                "odd_name",
                f"{path.name} is read as shard {name!r}, since its name contains .parquet",
                shard=name,
            )
        if name in names:
            result.add("shard_twice", f"{path.name} and {names[name]} have one name", shard=name)
        names.setdefault(name, path.name)
        files.append(path)
    return files


def _has_shard(folder: Path, stem: str) -> bool:
    return any(path.name.split(".parquet")[0] == stem for path in folder.iterdir() if ".parquet" in path.name)


def _reports(executor: Executor, checks: Sequence[ShardCheck], *, light: bool) -> Iterator[ShardReport]:
    """Reports in order; a shard whose reading kills the worker process gets a finding, and the rest goes on."""
    at = 0
    while at < len(checks):
        try:
            for report in executor.map_shards(check_shard, checks[at:], light=light):
                at += 1
                yield report
        except HeadwaterError as error:
            if isinstance(error, IntegrityError) or "worker process died" not in error.message:
                raise
            report = ShardReport(None)
            report.add("reader_died", "reading it ended the process", shard=checks[at].name)
            at += 1
            yield report


def _compare_schemas(shards: Sequence[Shard], result: Findings) -> None:
    columns = dict.fromkeys(name for shard in shards for name in shard.types)
    for name in columns:
        having = [shard for shard in shards if name in shard.types]
        if len(having) < len(shards):
            for shard in shards:
                if name not in shard.types:
                    result.add(
                        "column_missing",
                        f"column {name!r} is missing; {having[0].name} has it",
                        shard=shard.name,
                        column=name,
                    )
        _compare_types(name, having, result)


def _compare_types(name: str, shards: Sequence[Shard], result: Findings) -> None:
    first = shards[0]
    for shard in shards[1:]:
        a, b = first.types[name], shard.types[name]
        if a == b:
            continue
        try:
            wide = common_type(name, [first, shard])
        except IntegrityError:
            result.add("type_differs", f"{b}, but {a} in shard {first.name}", shard=shard.name, column=name)
            continue
        what = f"{b}, and {a} in shard {first.name}; both are read as {wide} ({family(wide)})"
        result.add("type_drift", what, shard=shard.name, column=name)


def _repeated_uids(shards: Sequence[Shard], result: Findings) -> None:
    """Uids that occur more than once: all keys first, then only the rows of those that repeat."""
    shards = [shard for shard in shards if family(shard.types.get("uid", pa.null())) == "text"]
    if not shards:
        return
    with Keys(2, sum(shard.rows for shard in shards)) as keys:
        for _, _, words, bad in _uid_batches(shards):
            keys.add(np.delete(words, bad, axis=0) if len(bad) else words)
        blocks = [block for block, _ in keys.repeated()]
        result.distinct_uids = keys.distinct
    if not blocks:
        return
    repeated = np.concatenate(blocks)
    first: dict[tuple[int, int], str] = {}
    told: dict[str, int] = {}
    for shard, start, words, bad in _uid_batches(shards):
        if not len(find(np.unique(repeated[:, 0]), words[:, 0])):
            continue
        malformed = set(bad.tolist())
        for row in rows_among(words, repeated).tolist():
            if row in malformed:
                continue
            key = (int(words[row, 0]), int(words[row, 1]))
            where = f"shard {shard.name} row {start + row}"
            if key not in first:
                first[key] = where
                continue
            told[shard.name] = told.get(shard.name, 0) + 1
            if told[shard.name] <= MAX_ROWS_TOLD:
                message = f"uid {key[0]:016x}{key[1]:016x} is also in {first[key]}"
                result.add("uid_repeated", message, shard=shard.name, column="uid", row=start + row)
            else:
                result.totals["uid_repeated"] += 1


def _uid_batches(shards: Sequence[Shard]) -> Iterator[tuple[Shard, int, Any, Any]]:
    for shard in shards:
        start = 0
        try:
            for batch in pq.ParquetFile(shard.path).iter_batches(BATCH_ROWS, columns=["uid"]):
                words, bad = words_of(batch.column(0))
                yield shard, start, words, bad
                start += len(batch)
        except (pa.ArrowException, OSError, ValueError):
            continue  # its own check has told that it cannot be read


def _compare_manifest(folder: Path, result: Findings) -> None:
    path = folder / MANIFEST_NAME
    if not path.is_file():
        return
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except (ValueError, OSError) as error:
        result.add(
            "manifest_damaged", f"{MANIFEST_NAME} is not a manifest/1 document: {str(error).splitlines()[0]}"
        )
        return
    listed = set()
    with track("compare with the manifest", total=len(manifest.entries), unit="files") as bar:
        for entry in manifest.entries:
            bar.add(1)
            try:
                file = folder / safe_relative(entry.path)
            except IntegrityError as error:
                result.add("manifest_damaged", error.message)
                continue
            listed.add(entry.path)
            shard = entry.path.split(".parquet")[0] if ".parquet" in entry.path else None
            if not file.is_file():
                result.add(
                    "manifest_missing", f"{entry.path} is in {MANIFEST_NAME} but not here", shard=shard
                )
            elif file.stat().st_size != entry.size_bytes:
                what = f"{entry.path} has {file.stat().st_size:,} bytes, {MANIFEST_NAME} says {entry.size_bytes:,}"
                result.add("manifest_mismatch", what, shard=shard)
            elif digest_file(file, ("sha256",)).sha256 != entry.sha256:
                result.add(
                    "manifest_mismatch", f"{entry.path}: other bytes than {MANIFEST_NAME} says", shard=shard
                )
    for file in sorted(folder.iterdir()):
        if (
            ".parquet" in file.name
            and not file.name.startswith(".")
            and file.is_file()
            and file.name not in listed
        ):
            shard = file.name.split(".parquet")[0]
            result.add("manifest_extra", f"{file.name} is not in {MANIFEST_NAME}", shard=shard)
