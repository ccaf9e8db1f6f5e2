"""Verification: what lies on disk against the step record or manifest that names it.

Recomputed for a step: digests and sizes of its outputs, the sum of its counts, its key and its id.
Recomputed for a manifest: digests and sizes of its entries, and the id of the step it names when that record is there.
Nothing is written, and no file outside the folder is opened.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from headwater.console import track
from headwater.errors import HeadwaterError, IntegrityError, MissingInput
from headwater.manifest import FileEntry, Manifest, Step, identity_id, safe_relative, step_key, verify_entries
from headwater.steps import RECORD_NAME

MANIFEST_NAME = "manifest.json"
RECORD_LIMIT_BYTES = 256 << 20  # a record names every file of an output: about 400 bytes each
SUFFIX = f".{RECORD_NAME}"


@dataclass
class Report:
    """What was checked, and what is wrong."""

    records: list[dict[str, str]] = field(default_factory=list)
    files: int = 0
    size_bytes: int = 0
    problems: list[str] = field(default_factory=list)

    def as_result(self) -> dict[str, Any]:
        """The result to print. Raises IntegrityError naming every problem, if there is one."""
        if self.problems:
            what = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
            listing = "".join(f"\n  {problem}" for problem in self.problems)
            raise IntegrityError(
                f"{what}:{listing}", hint="fetch or make what is wrong again; nothing was changed"
            )
        lines = [f"{record['path']}: {record['kind']} {record['id'][:12]} ok" for record in self.records]
        lines.append(f"{self.files:,} files, {self.size_bytes:,} bytes: all as recorded")
        return {
            "ok": True,
            "records": self.records,
            "files": self.files,
            "size_bytes": self.size_bytes,
            "text": "\n".join(lines),
        }


def verify_path(path: Path) -> Report:
    """Verify one output, one manifest, or every record below a folder that has none itself.

    Raises MissingInput when PATH is not there or nothing describes it.
    """
    if not path.exists():
        raise MissingInput(f"{path}: no such file or folder")
    report = Report()
    records = list(_records(path))
    if not records:
        raise MissingInput(
            f"{path}: no step record and no manifest describes it",
            hint="only outputs of headwater, and folders with a manifest.json, can be verified",
        )
    with track("verify", total=len(records), unit="records") as bar:
        for record in records:
            if record.name == MANIFEST_NAME:
                _verify_manifest(record, report)
            else:
                _verify_step(record, report)
            bar.add()
    return report


def _records(path: Path) -> Iterator[Path]:
    """The records that describe `path`, in order."""
    if path.is_file():
        if path.name == MANIFEST_NAME or path.name == RECORD_NAME or path.name.endswith(SUFFIX):
            yield path
        elif (beside := path.with_name(path.name + SUFFIX)).is_file():
            yield beside
        return
    own = [path / name for name in (MANIFEST_NAME, RECORD_NAME) if (path / name).is_file()]
    if own:
        yield from own
        return
    for found in sorted(path.rglob("*.json")):
        name, hidden = found.name, any(part.startswith(".") for part in found.relative_to(path).parts)
        if not hidden and found.is_file() and (name in (MANIFEST_NAME, RECORD_NAME) or name.endswith(SUFFIX)):
            yield found


def _verify_step(file: Path, report: Report) -> None:
    record = _read(file, Step, report)
    if not isinstance(record, Step):
        return
    identity = record.identity
    if identity_id(identity) != record.id:
        report.problems.append(f"{file}: its id is not that of its identity: the record was changed")
    key = step_key(
        step=identity.step,
        version=identity.version,
        config=identity.config,
        inputs=identity.inputs,
        seed=identity.seed,
    )
    if key != record.key:
        report.problems.append(f"{file}: its key is not that of its identity: the record was changed")
    try:
        identity.counts.check()
    except HeadwaterError as error:
        report.problems.append(f"{file}: {error.message}")
    whole_folder = file.name == RECORD_NAME
    if not whole_folder and [e.path for e in identity.outputs] != [file.name.removesuffix(SUFFIX)]:
        report.problems.append(f"{file}: does not name the file it lies beside")
    allowed = frozenset({RECORD_NAME, MANIFEST_NAME})
    _verify_entries(file.parent, identity.outputs, report, allowed if whole_folder else None)
    report.records.append({"kind": f"step {identity.step}", "id": record.id, "path": str(file)})


def _verify_manifest(file: Path, report: Report) -> None:
    manifest = _read(file, Manifest, report)
    if not isinstance(manifest, Manifest):
        return
    beside = file.with_name(RECORD_NAME)
    if manifest.step_id and beside.is_file():
        step = _read(beside, Step, report)
        if isinstance(step, Step) and step.id != manifest.step_id:
            report.problems.append(
                f"{file}: names step {manifest.step_id[:12]}, beside it lies {step.id[:12]}"
            )
    paths = [entry.path for entry in manifest.entries]
    if sorted(set(paths), key=str.encode) != paths:
        report.problems.append(f"{file}: its entries are not sorted by path, or one occurs twice")
    _verify_entries(file.parent, manifest.entries, report, frozenset({MANIFEST_NAME, RECORD_NAME}))
    report.records.append({"kind": "manifest", "id": manifest.id, "path": str(file)})


def _verify_entries(
    folder: Path, entries: list[FileEntry], report: Report, allowed: frozenset[str] | None
) -> None:
    """Every entry against its file; with `allowed`, also that nothing else lies in the folder."""
    safe = []
    for entry in entries:
        try:
            safe_relative(entry.path)
            safe.append(entry)
        except IntegrityError as error:
            report.problems.append(f"{folder}: {error.message}")
    found = verify_entries(folder, safe, allow_extra=allowed)
    report.problems += [f"{folder / path}: missing" for path in found.removed]
    report.problems += [f"{folder / path}: {what}" for path, whats in found.why.items() for what in whats]
    report.problems += [f"{folder / path}: not named by the record" for path in found.added]
    report.files += len(safe)
    report.size_bytes += sum(entry.size_bytes for entry in safe)


def _read(file: Path, kind: type[Step] | type[Manifest], report: Report) -> Step | Manifest | None:
    if file.stat().st_size > RECORD_LIMIT_BYTES:
        report.problems.append(f"{file}: larger than {RECORD_LIMIT_BYTES:,} bytes: not a record of ours")
        return None
    try:
        return kind.model_validate_json(file.read_bytes())
    except (ValidationError, ValueError):
        name = "step/1 record" if kind is Step else "manifest/1 document"
        report.problems.append(f"{file}: not a {name}")
        return None
