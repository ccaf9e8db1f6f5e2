"""Verification: what lies on disk against the step record or manifest that names it.

Recomputed for a step: digests and sizes of its outputs, the sum of its counts, its key and its id.
Recomputed for a manifest: digests and sizes of its entries, and the id of the step it names when that record is there.
A release has both: the record of its publishing, and the manifest of the files in the folder of its name.
Nothing beside the data is written, and no file outside the folder is opened.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from headwater.checkpoint import Checkpoint
from headwater.console import Track, track
from headwater.errors import HeadwaterError, IntegrityError, MissingInput, UsageError
from headwater.executor import Executor
from headwater.manifest import FileEntry, Manifest, Step, identity_id, safe_relative, step_key, verify_entries
from headwater.release import (
    INSIDE,
    LATEST_NAME,
    LEFTOVERS_NAME,
    LOCATIONS_NAME,
    MANIFEST_NAME,
    PARTIAL_NAME,
    RELEASE_NAME,
    Leftovers,
    OpenRelease,
    Partial,
    open_release,
    read_document,
)
from headwater.steps import OBSERVED_NAMES, RECORD_NAME

RECORD_LIMIT_BYTES = 256 << 20  # a record names every file of an output: about 400 bytes each
SUFFIX = f".{RECORD_NAME}"


@dataclass
class Report:
    """What was checked, and what is wrong."""

    records: list[dict[str, str]] = field(default_factory=list)
    files: int = 0
    size_bytes: int = 0
    problems: list[str] = field(default_factory=list)
    left_out: int = 0  # files of a release that a partial fetch did not bring
    of_files: int = 0  # how many there are: more than `files` in a sample
    sample: float | None = None
    resumed: int = 0  # files that an interrupted run had found as recorded, unchanged since
    bar: Track | None = None
    notes: Checkpoint | None = None
    seed: int = 0

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
        result = {"ok": True, "records": self.records, "files": self.files, "size_bytes": self.size_bytes}
        if self.resumed:
            lines.append(
                f"{self.resumed:,} of them were checked by a run that was stopped, and did not change since"
            )
            result["resumed_files"] = self.resumed
        if self.left_out:
            lines.append(f"{self.left_out:,} files of the release were left out by the patterns of the fetch")
            result["left_out_files"] = self.left_out
        if self.sample is not None:
            lines.append(
                f"a sample of {self.files:,} of {self.of_files:,} files, seed {self.seed}: were {_unseen(self):.2%} or more of"
                " all files bad, one would have been met with a probability of 95 %"
            )
            result |= {
                "sampled_of_files": self.of_files,
                "seed": self.seed,
                "bad_share_excluded_at_95_percent": _unseen(self),
            }
        return {**result, "text": "\n".join(lines)}


def _unseen(report: Report) -> float:
    """The smallest share of bad files that a sample of n without one rules out at 95 % (drawn with replacement: careful)."""
    return 0.0 if report.files >= report.of_files else 1 - 0.05 ** (1 / max(report.files, 1))


def verify_path(
    path: Path,
    *,
    sample: float | None = None,
    seed: int | None = None,
    resume: bool = False,
    workers: int | None = None,
) -> Report:
    """Verify one output, one release, one manifest, or every record below a folder that has none itself.

    `sample` reads only that share of the files (names, sizes and ids of all are still compared), chosen by `seed`; `resume` goes
    on where a run that was stopped came to. Raises MissingInput when PATH is not there or nothing describes it.
    """
    if sample is not None and not 0 < sample <= 1:
        raise UsageError(f"--sample is {sample:g}: it must be above 0 and at most 1")
    threads = Executor(workers=workers).workers
    if not path.exists():
        raise MissingInput(f"{path}: no such file or folder")
    records = list(_records(path))
    if not records:
        raise MissingInput(
            f"{path}: no step record and no manifest describes it",
            hint="only outputs of headwater, and folders with a manifest.json, can be verified",
        )
    report = Report(sample=sample, seed=seed or 0, notes=Checkpoint(path, resume=resume))
    finished = False
    try:
        with track("verify", total=None, unit="bytes") as report.bar:
            for record in records:
                if record.name == MANIFEST_NAME:
                    _verify_manifest(record, report, threads)
                else:
                    _verify_step(record, report, threads)
        finished = True
    finally:
        assert report.notes is not None
        report.notes.close(finished=finished)
    report.resumed = report.notes.skipped
    return report


def describe(path: Path) -> dict[str, Any]:
    """What a verification of PATH would read."""
    if not path.exists():
        raise MissingInput(f"{path}: no such file or folder")
    records = [str(record) for record in _records(path)]
    return {"records": records, "text": "\n".join(f"would check {record}" for record in records)}


def _records(path: Path) -> Iterator[Path]:
    """The records that describe `path`, in order."""
    if path.is_file():
        if path.name == MANIFEST_NAME or path.name == RECORD_NAME or path.name.endswith(SUFFIX):
            yield path
        elif (beside := path.with_name(path.name + SUFFIX)).is_file():
            yield beside
        return
    inside = path / INSIDE / MANIFEST_NAME  # what fetch brought
    own = [path / name for name in (MANIFEST_NAME, RECORD_NAME) if (path / name).is_file()]
    if inside.is_file():  # then a manifest.json or step.json beside it is one of the files, whatever it says
        own = [inside, *(record for record in own if record.name == RECORD_NAME and _named(record, inside))]
    if own:
        yield from own
        return
    for found in sorted(path.rglob("*.json")):
        name, hidden = found.name, any(part.startswith(".") for part in found.relative_to(path).parts)
        if not hidden and found.is_file() and (name in (MANIFEST_NAME, RECORD_NAME) or name.endswith(SUFFIX)):
            yield found


def step_records(path: Path) -> Iterator[tuple[Path, Step]]:
    """(output, Step) of every step record that describes PATH or lies in it; to be called after it was verified."""
    for record in _records(path):
        if record.name == MANIFEST_NAME:
            continue
        folder = record.name == RECORD_NAME
        output = record.parent if folder else record.with_name(record.name.removesuffix(SUFFIX))
        yield output, Step.model_validate_json(record.read_bytes())


def _named(record: Path, manifest: Path) -> bool:
    """Whether a step.json is the record that the manifest of a fetched folder names."""
    scratch = Report()
    found, named = _read(manifest, Manifest, scratch), _read(record, Step, scratch)
    return isinstance(found, Manifest) and isinstance(named, Step) and found.step_id == named.id


def _verify_step(file: Path, report: Report, workers: int) -> None:
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
    allowed = frozenset({RECORD_NAME, MANIFEST_NAME}) | OBSERVED_NAMES if whole_folder else None
    if allowed and (file.parent / RELEASE_NAME).is_file() and identity.step == "publish":
        data = _release_folder(file.parent)
        allowed = allowed | {LOCATIONS_NAME, LATEST_NAME, data} if data else None
    _verify_entries(file.parent, identity.outputs, report, allowed, workers)
    report.records.append({"kind": f"step {identity.step}", "id": record.id, "path": str(file)})


def _release_folder(folder: Path) -> str | None:
    """Name of the folder of a release's files; the manifest describes what is in it. None: told with the manifest."""
    try:
        return open_release(folder).release.name
    except HeadwaterError:
        return None


def _partial(opened: OpenRelease, report: Report) -> Manifest:
    """The manifest, cut down to the files that patterns of a fetch have chosen, when there were some."""
    file = opened.file(PARTIAL_NAME)
    if not file.is_file():
        return opened.manifest
    partial = read_document(file, Partial)
    if partial.manifest_id != opened.release.manifest_id:  # of a release that was here before
        return opened.manifest
    chosen = set(partial.paths)
    entries = [entry for entry in opened.manifest.entries if entry.path in chosen]
    report.left_out += len(opened.manifest.entries) - len(entries)
    return opened.manifest.model_copy(update={"entries": entries})


def _left_behind(folder: Path) -> set[str]:
    """Files of releases that were in this folder before, as fetch has noted them."""
    file = folder / INSIDE / LEFTOVERS_NAME
    try:
        return {entry.path for entry in read_document(file, Leftovers).entries} if file.is_file() else set()
    except IntegrityError:
        return set()


def _verify_manifest(file: Path, report: Report, workers: int) -> None:
    opened = None
    if file.with_name(RELEASE_NAME).is_file():
        top = file.parent.parent.parent if file.parent.parts[-2:] == tuple(INSIDE.split("/")) else file.parent
        try:
            opened = open_release(top)
        except HeadwaterError as error:
            report.problems.append(error.message)
            return
        manifest, folder, allowed = _partial(opened, report), opened.data, frozenset[str]()
        if manifest.entries and not folder.is_dir():
            raise MissingInput(
                f"{folder}: the release has none of its files here (published with --data none?)",
                hint="verify the folder that was fetched, or that was published",
            )
    else:
        found = _read(file, Manifest, report)
        if not isinstance(found, Manifest):
            return
        manifest, folder, allowed = found, file.parent, frozenset({MANIFEST_NAME, RECORD_NAME})
    manifest_id = opened.release.manifest_id if opened else manifest.id
    beside = folder / RECORD_NAME
    if manifest.step_id and beside.is_file():
        step = _read(beside, Step, report)
        if isinstance(step, Step) and step.id != manifest.step_id:
            report.problems.append(
                f"{file}: names step {manifest.step_id[:12]}, beside it lies {step.id[:12]}"
            )
    paths = [entry.path for entry in manifest.entries]
    if sorted(set(paths), key=str.encode) != paths:
        report.problems.append(f"{file}: its entries are not sorted by path, or one occurs twice")
    _verify_entries(folder, manifest.entries, report, allowed, workers)
    report.records.append({"kind": "manifest", "id": manifest_id, "path": str(file)})


def _verify_entries(
    folder: Path, entries: list[FileEntry], report: Report, allowed: frozenset[str] | None, workers: int
) -> None:
    """Every entry against its file; with `allowed`, also that nothing else lies in the folder."""
    safe = []
    for entry in entries:
        try:
            safe_relative(entry.path)
            safe.append(entry)
        except IntegrityError as error:
            report.problems.append(f"{folder}: {error.message}")
    chosen = _sampled(safe, report)
    if allowed is not None:
        allowed = allowed | {entry.path for entry in safe}
    notes, bar = report.notes, report.bar
    assert notes is not None and bar is not None
    bar.total = (bar.total or 0) + sum(entry.size_bytes for entry in chosen)

    def known(path: Path, entry: FileEntry) -> bool:
        return notes.known(path, entry)

    def good(path: Path, entry: FileEntry) -> None:
        notes.note(path, entry)
        bar.add(entry.size_bytes)

    found = verify_entries(folder, chosen, allow_extra=allowed, workers=workers, known=known, good=good)
    skipped = {entry.path for entry in safe} - {entry.path for entry in chosen}
    report.problems += [f"{folder / path}: missing" for path in found.removed]
    report.problems += [
        f"{folder / path}: missing" for path in sorted(skipped) if not (folder / path).is_file()
    ]
    report.problems += [f"{folder / path}: {what}" for path, whats in found.why.items() for what in whats]
    older = _left_behind(folder) if found.added else set()
    for path in found.added:
        why = " (of an older release: fetch --prune removes it)" if path in older else ""
        report.problems.append(f"{folder / path}: not named by the record{why}")
    report.files += len(chosen)
    report.of_files += len(safe)
    report.size_bytes += sum(entry.size_bytes for entry in chosen)


def _sampled(entries: list[FileEntry], report: Report) -> list[FileEntry]:
    """The share of the files that the sample reads: at least one; the same ones for the same seed, wherever they lie."""
    if report.sample is None or not entries:
        return entries
    wanted = math.ceil(report.sample * len(entries))

    def draw(entry: FileEntry) -> bytes:
        return hashlib.sha256(f"{report.seed}\0{entry.path}".encode()).digest()

    chosen = {entry.path for entry in sorted(entries, key=draw)[:wanted]}
    return [entry for entry in entries if entry.path in chosen]


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
