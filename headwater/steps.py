"""A Step: inputs and config in, one output under its final name, counts that close, energy, and a record written last.

The life of a step, in the private folder `.NAME.headwater/` beside the output (same file system):

    lock ─ work writes `stage` ─ counts checked ─ digests ─ record.json ─ rename stage → output ─ rename record ─ folder removed

Killed before the record is in the private folder, the next run with the same key works again (parts that the work left in
`parts/` are found there); killed after it, the next run only finishes the two renames. Either way the bytes are the same.
"""

from __future__ import annotations

import errno
import os
import platform
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from headwater.console import say
from headwater.energy import Meter
from headwater.environment import package_versions
from headwater.errors import Cancelled, HeadwaterError, IntegrityError, MissingInput, UsageError
from headwater.files import (
    FILE_MODE,
    FOLDER_MODE,
    explain_os_error,
    fsync_folder,
    locked,
    named_io,
    write_json,
)
from headwater.manifest import (
    Counts,
    FileEntry,
    InputRef,
    Step,
    StepIdentity,
    describe_file,
    describe_folder,
    identity_id,
    step_key,
)

RECORD_NAME = "step.json"
# what happened to be true (times, pages with energy): beside the described files of a folder, never part of its id
OBSERVED_NAMES = frozenset({"timing.json", "report.html"})


@dataclass(frozen=True)
class Plan:
    """Everything that decides a step's result, and where the result goes."""

    step: str
    version: int
    config: dict[str, Any]
    inputs: Sequence[InputRef]
    output: Path
    kind: Literal["file", "folder"] = "file"
    seed: int | None = None
    resumable: bool = False  # keep finished parts after a failure or an interrupt

    @property
    def key(self) -> str:
        return step_key(
            step=self.step, version=self.version, config=self.config, inputs=list(self.inputs), seed=self.seed
        )


@dataclass(frozen=True)
class RunOptions:
    """How to run, which never changes the result."""

    dry_run: bool = False
    force: bool = False
    command: tuple[str, ...] = ()
    observation: dict[str, Any] = field(default_factory=dict)


@dataclass
class Work:
    """What the work function gets: where to write, and where to leave facts for the record."""

    key: str
    stage: Path  # write the output here
    parts: Path  # finished pieces that a later run with the same key may use
    details: dict[str, Any] = field(default_factory=dict)
    output: Path | None = None  # what `stage` will be called; for messages
    # top entries of `stage` that the record does not describe: what has a manifest of its own, or changes later
    undescribed: frozenset[str] = frozenset()
    described: dict[str, FileEntry] = field(
        default_factory=dict
    )  # files that were digested as they were written


@dataclass(frozen=True)
class Outcome:
    """A finished step. `cached` says that the output was already there."""

    step: Step
    path: Path
    cached: bool


def record_path(output: Path) -> Path:
    """Where the record of `output` lies: `step.json` inside a folder, `NAME.step.json` beside a file."""
    return output / RECORD_NAME if output.is_dir() else output.with_name(f"{output.name}.{RECORD_NAME}")


def read_record(output: Path) -> Step | None:
    """The record of `output`, or None when it has none. Raises IntegrityError for one that cannot be read."""
    path = record_path(output)
    if not path.is_file():
        return None
    try:
        return Step.model_validate_json(path.read_bytes())
    except (ValidationError, ValueError) as error:
        raise IntegrityError(f"{path}: not a step/1 record", hint="remove it, or run with --force") from error


def run_step(plan: Plan, work: Callable[[Work], Counts], options: RunOptions) -> Outcome | None:
    """Run `work` unless its output is already there; commit the output and its record.

    Returns None on a dry run. Raises Locked, UsageError (an output that is something else), and what the work raises.
    """
    check_output(plan.output, plan.kind)
    _ = plan.key  # a configuration that has none is told before anything is made
    done = None if options.force else _finished(plan)
    if options.dry_run:
        return None
    if done:
        _sweep(_private(plan.output), plan)
        say("info", f"{plan.output} is up to date (step {done.id[:12]})")
        return Outcome(done, plan.output, cached=True)
    private = _private(plan.output)
    with locked(private, plan.output):
        return _run_locked(plan, work, options, private)


def describe_plan(plan: Plan) -> dict[str, Any]:
    """What a dry run tells about any step."""
    return {
        "step": plan.step,
        "key": plan.key,
        "output": str(plan.output),
        "up_to_date": _finished(plan, quiet=True) is not None,
        "config": plan.config,
        "inputs": [ref.model_dump() for ref in plan.inputs],
    }


def _run_locked(plan: Plan, work: Callable[[Work], Counts], options: RunOptions, private: Path) -> Outcome:
    pending = _pending(private, plan)
    if pending:
        say("info", f"{plan.output}: finishing an interrupted run")
        return _commit(plan, private, pending)
    done = (
        None if options.force else _finished(plan)
    )  # a process that held the lock before us may have made it
    if done:
        shutil.rmtree(private, ignore_errors=True)
        return Outcome(done, plan.output, cached=True)
    job = Work(plan.key, private / "stage", private / "parts", output=plan.output)
    meter = Meter(plan.step)
    try:
        with named_io(plan.output):
            _prepare(private, plan)
            with meter:
                counts = work(job)
            counts.check()
            _settle(job.stage, job.undescribed)
            outputs = _describe(job, plan)
            record = make_record(plan, options, counts, outputs, job.details, meter)
            write_json(private / "record.json", record.model_dump(mode="json"))
    except BaseException as error:
        _clean_up(plan, private, error)
        raise
    with named_io(plan.output):
        return _commit(plan, private, record)


def check_output(output: Path, kind: Literal["file", "folder"] = "file") -> None:
    """That an output can be written there, before any input is read for it.

    Raises UsageError, MissingInput (no such folder) or HeadwaterError (nobody may write there).
    """
    if not output.name or output.name in (".", ".."):
        raise UsageError(f"-o {output}: name the file or folder to write")
    if not output.parent.is_dir():
        raise MissingInput(
            f"{output.parent}: no such folder to write {output.name} into",
            hint=f"mkdir -p {shlex.quote(str(output.parent))}",
        )
    if kind == "file" and output.is_dir():
        # also with --force: a whole folder is never what a single file should replace
        raise UsageError(f"{output}: is a folder, and the output is one file", hint="choose another -o")
    if kind == "folder" and output.is_dir() and any(output.iterdir()) and not _ours(output):
        # likewise: --force replaces what we made, not whatever a slip of the finger named
        raise UsageError(
            f"{output}: exists and has no record of how it was made",
            hint="choose another -o, or remove it yourself",
        )
    if not output.exists() and not os.access(output.parent, os.W_OK | os.X_OK):
        read_only = os.statvfs(output.parent).f_flag & os.ST_RDONLY
        number = errno.EROFS if read_only else errno.EACCES
        raise explain_os_error(OSError(number, os.strerror(number)), output)


def _ours(folder: Path) -> bool:
    """Whether a folder was made by a step, also by one that was killed just before its record was in place."""
    return (folder / RECORD_NAME).is_file() or (_private(folder) / "record.json").is_file()


def _private(output: Path) -> Path:
    return output.with_name(f".{output.name}.headwater")


def _finished(plan: Plan, *, quiet: bool = False) -> Step | None:
    """The record of an output that is already what the plan would make; an output that is something else is an error."""
    output = plan.output
    if not (output.exists() or output.is_symlink()):
        return None
    if plan.kind == "folder" and output.is_dir() and not any(output.iterdir()):
        return None
    pending = _pending(_private(output), plan)
    if pending is not None:
        return None
    record = read_record(output) if output.is_dir() == (plan.kind == "folder") else None
    if record and record.key == plan.key and _unchanged(output, record):
        return record
    if quiet:
        return None
    if record and record.key == plan.key:
        raise IntegrityError(
            f"{output}: its bytes are not those its record names", hint="--force makes it again"
        )
    if record:
        raise UsageError(
            f"{output}: exists, made by another run (step {record.id[:12]}) from other inputs or options",
            hint="--force replaces it, or choose another -o",
        )
    raise UsageError(
        f"{output}: exists and has no record of how it was made",
        hint="--force replaces it, or choose another -o",
    )


def _unchanged(output: Path, record: Step) -> bool:
    if output.is_file():
        return [describe_file(output)] == record.identity.outputs
    sizes = {entry.path: entry.size_bytes for entry in record.identity.outputs}
    return all(
        (output / path).is_file() and (output / path).stat().st_size == size for path, size in sizes.items()
    )


def _pending(private: Path, plan: Plan) -> Step | None:
    """The record of a run with the same key that was killed during its two last renames."""
    try:
        record = Step.model_validate_json((private / "record.json").read_bytes())
    except (OSError, ValidationError, ValueError):
        return None
    if record.key != plan.key:
        return None
    if (private / "stage").exists():
        return record
    return record if plan.output.exists() and _unchanged(plan.output, record) else None


def _prepare(private: Path, plan: Plan) -> None:
    """An empty private folder, or the one a killed run with the same key left behind."""
    key_file = private / "key"
    if not (key_file.is_file() and key_file.read_text() == plan.key):
        for path in private.iterdir():
            if path.name != "lock":
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        (private / "parts").mkdir()
        key_file.write_text(plan.key)
    for path in (private / "stage", private / "old"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
    stage = private / "stage"
    (private / "record.json").unlink(missing_ok=True)
    (private / "parts").mkdir(exist_ok=True)
    if plan.kind == "folder":
        stage.mkdir()


def _sweep(private: Path, plan: Plan) -> None:
    """Remove what a run of this plan left that was killed after its last rename; finished parts of other plans stay."""
    try:
        key = (private / "key").read_text()
    except OSError:
        key = plan.key  # the removal itself was cut short
    if key != plan.key or not private.is_dir():
        return
    try:
        with locked(private, plan.output):
            shutil.rmtree(private, ignore_errors=True)
    except HeadwaterError:
        pass  # another process is at it, or nobody may write here: the output is whole either way


def _settle(stage: Path, undescribed: frozenset[str]) -> None:
    """Fixed modes and durable bytes for everything that was staged; files in `undescribed` folders may be someone else's."""
    others = {stage / name for name in undescribed}
    paths = [stage, *stage.rglob("*")] if stage.is_dir() else [stage]
    for path in sorted(paths, reverse=True):
        if others.intersection(path.parents) and not path.is_dir():
            continue
        os.chmod(path, FOLDER_MODE if path.is_dir() else FILE_MODE)
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _describe(job: Work, plan: Plan) -> list[FileEntry]:
    if plan.kind == "folder":
        return describe_folder(job.stage, skip=job.undescribed, known=job.described)
    return [describe_file(job.stage, plan.output.name)]


def make_record(
    plan: Plan,
    options: RunOptions,
    counts: Counts,
    outputs: list[FileEntry],
    details: dict[str, Any],
    meter: Meter,
) -> Step:
    """The record of finished work; for steps that place their output themselves."""
    identity = StepIdentity(
        step=plan.step,
        version=plan.version,
        config=plan.config,
        inputs=sorted(plan.inputs, key=lambda ref: (ref.role, ref.id)),
        seed=plan.seed,
        outputs=outputs,
        counts=counts,
    )
    observation = {
        "host": platform.node(),
        "python": platform.python_version(),
        "platform": " ".join(os.uname()[part] for part in (0, 2, 4)),  # platform.platform() starts a process
        "packages": package_versions(),
        "command": list(options.command) or sys.argv,
        "output": str(plan.output),
        **options.observation,
    }
    return Step(
        id=identity_id(identity),
        key=plan.key,
        identity=identity,
        details=details,
        observation=observation,
        energy=meter.record(),
    )


def _commit(plan: Plan, private: Path, record: Step) -> Outcome:
    stage, output = private / "stage", plan.output
    if stage.exists():
        taken = any(output.iterdir()) if output.is_dir() else output.exists()
        if plan.kind == "folder" and taken:
            os.rename(output, private / "old")
        if plan.kind == "file":
            # an old record must never stand beside new bytes
            output.with_name(f"{output.name}.{RECORD_NAME}").unlink(missing_ok=True)
        os.rename(stage, output)
        fsync_folder(output.parent)
    os.replace(private / "record.json", record_path(output))
    fsync_folder(record_path(output).parent)
    shutil.rmtree(private, ignore_errors=True)
    return Outcome(record, output, cached=False)


def _clean_up(plan: Plan, private: Path, error: BaseException) -> None:
    """Nothing half-written stays; finished parts stay where the step can resume from them."""
    parts = private / "parts"
    if plan.resumable and parts.is_dir() and any(parts.iterdir()):
        stage = private / "stage"
        if stage.is_dir():
            shutil.rmtree(stage, ignore_errors=True)
        else:
            stage.unlink(missing_ok=True)
        for path in parts.rglob("*.tmp-*"):
            path.unlink(missing_ok=True)
        if isinstance(error, (KeyboardInterrupt, Cancelled, HeadwaterError, OSError)):
            say("info", "finished parts are kept: the same command line goes on from there")
        return
    shutil.rmtree(private, ignore_errors=True)
