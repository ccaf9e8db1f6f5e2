"""Publishing a folder: one read of every file, one manifest, and what each network calls it.

    scan ── digest (one read) ── manifest ── diff with the parent ── documents beside hard links of the files

The manifest decides everything else: the same files under the same names give the same manifest id, CIDs and infohashes on every
file system, in any order, at any time. Formats: schemas/README.md.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from distribute._publish_checks import (
    apart,
    check_addresses,
    check_depth,
    check_places,
    kinds_of,
    name_of,
    piece_size,
    piece_size_for,
)
from distribute._publish_read import Job, digest, new_files, read_ahead
from distribute._stage import link_or_copy
from headwater.console import say, track
from headwater.errors import HeadwaterError, IntegrityError, MissingInput
from headwater.executor import Executor
from headwater.files import locked
from headwater.manifest import Counts, Difference, InputRef, Step, diff_entries
from headwater.release import LATEST_NAME, LOCATIONS_NAME, OpenRelease, open_release
from headwater.steps import RECORD_NAME, Plan, RunOptions, Work, check_output, read_record, run_step

if TYPE_CHECKING:
    from distribute.documents import Material
    from distribute.scan import Scan

__all__ = ["DEFAULT_PROFILES", "PublishOptions", "piece_size_for", "publish"]

DEFAULT_PROFILES = ("unixfs-v1-2025", "kubo-v1-raw")
# all digests of a GB, on the two-core machine this was measured on; a dry run says that it is an estimate
CPU_SECONDS_PER_GB = 3.2
RECIPE_NAME = "recipe.json"  # `generation/1`
RECIPE_LIMIT_BYTES = 16 << 20


@dataclass(frozen=True)
class PublishOptions:
    """What decides a release besides the folder's files."""

    name: str | None = None  # default: the folder's own
    profiles: tuple[str, ...] = DEFAULT_PROFILES  # the first gives the CIDs of the manifest
    piece_size_bytes: int | None = None
    torrents: tuple[str, ...] = ()  # default: v1 and v2; with a parent delta and v2
    trackers: tuple[str, ...] = ()
    mirrors: tuple[str, ...] = ()  # HTTP addresses where RELEASE will lie: locations and web seeds
    data: Literal["link", "copy", "none"] = "link"
    parent: Path | None = None
    portable: Literal["warn", "refuse", "off"] = "warn"
    allow: frozenset[str] = field(default_factory=frozenset)
    pack: bool = False
    cache: Path | None = None
    distrust_cache: bool = False


def publish(
    folder: Path, output: Path, options: PublishOptions, run: RunOptions, *, workers: int | None = None
) -> dict[str, Any]:
    """Make the release of `folder` at `output`. Returns facts to print, with a "text" for people.

    Raises UsageError (what must not be published, listed), MissingInput, IntegrityError (a file changed while it was read),
    Locked when another process publishes at `output`.
    """
    from distribute.packing import advise

    if not folder.is_dir():
        raise MissingInput(f"{folder}: no such folder to publish")
    apart(folder, output, "-o")
    check_output(output, "folder")
    check_places(folder, options)
    check_addresses(options)
    name = name_of(folder, options)
    kinds = kinds_of(options)
    parent = open_release(options.parent) if options.parent else None
    scan = _scan(folder, options)
    check_depth(scan, kinds)
    size = scan.size_bytes
    piece = piece_size(options, parent, size)
    job = Job(folder, output, name, kinds, piece, options, Executor(workers=workers).workers)
    if run.dry_run:
        return _estimate(job, scan, size)
    advice = advise(scan.files)
    if advice.worth and not options.pack:
        say("info", advice.text)
    _room(job, size)
    step = _made_by(folder)
    private = output.with_name(f".{output.name}.publish")
    with locked(private, output):  # from here on, so that two at once do not both read everything
        packed = private / "packed"
        try:
            shutil.rmtree(packed, ignore_errors=True)  # what a killed run left
            if options.pack:
                scan, copied = _pack(job, scan, packed)
                job = replace(job, folder=packed, packed_bytes=copied)
            return _publish(job, scan, parent, step, run)
        finally:
            shutil.rmtree(private, ignore_errors=True)


def _made_by(folder: Path) -> Step | None:
    """The step that made the folder. A step.json that is something else is a file like any other."""
    try:
        return read_record(folder)
    except IntegrityError:
        say("info", f"{folder / RECORD_NAME}: no record of a step, so none is named")
        return None


def _publish(
    job: Job, scan: Scan, parent: OpenRelease | None, step: Step | None, run: RunOptions
) -> dict[str, Any]:
    from distribute.documents import Material, write_documents
    from distribute.summary import summary

    options = job.options
    ahead = read_ahead(job, scan, parent)
    digests = digest(job, scan, v1="v1" in job.kinds, hybrid="hybrid" in job.kinds)
    if step and any(
        found is None or found.sha256 != entry.sha256
        for entry in step.identity.outputs
        for found in [digests.files.get(entry.path)]
    ):
        say("info", f"{RECORD_NAME} tells of other files than these, so the manifest names no step")
        step = None
    material = Material(
        name=job.name,
        piece_size_bytes=job.piece_size_bytes,
        digests=digests,
        profiles=options.profiles,
        empty_folders=tuple(scan.empty_folders),
        step_id=step.id if step else None,
        parents=(parent.release.manifest_id,) if parent else (),
        trackers=options.trackers,
        mirrors=options.mirrors,
    )
    difference = diff_entries(parent.manifest.entries, material.manifest.entries) if parent else None
    if parent and difference:
        _say_edited(parent, job.folder, difference)
    new = new_files(job, scan, difference, ahead)
    read = [digests, *([new] if new else []), *([ahead] if ahead and ahead is not new else [])]
    plan = Plan(
        step="publish",
        version=1,
        config={
            "name": job.name,
            "profiles": list(options.profiles),
            "torrents": sorted(job.kinds),
            "trackers": list(options.trackers),
            "mirrors": list(options.mirrors),
            "data": options.data,
        },
        inputs=[InputRef(role="manifest", id=material.manifest.id)]
        + [InputRef(role="parent", id=parent_id) for parent_id in material.parents],
        output=job.output,
        kind="folder",
    )

    def work(task: Work) -> Counts:
        task.undescribed = frozenset({job.name, LOCATIONS_NAME, LATEST_NAME})
        write_documents(task.stage, material, job.kinds, new)
        copied = _place(job, scan, task.stage / job.name, material)
        latest = job.output / LATEST_NAME
        if latest.is_file():  # with --force: the signed pointer goes on to say which version it knows
            shutil.copyfile(latest, task.stage / LATEST_NAME)
        task.details = {
            "read_bytes": sum(found.read_bytes for found in read),
            "read_again_bytes": sum(found.reread_bytes for found in read),
            "second_copy_bytes": copied + job.packed_bytes,
            "new_files": len(difference.added) + len(difference.changed) if difference else None,
            "new_bytes": _new_bytes(material, difference),
            "gone_files": len(difference.removed) if difference else None,
        }
        return Counts(unit="files", read=len(scan.files), kept=len(scan.files))

    outcome = run_step(plan, work, run)
    assert outcome is not None
    return summary(open_release(job.output), job.output, outcome.step, cached=outcome.cached)


def _say_edited(parent: OpenRelease, folder: Path, difference: Difference) -> None:
    """A file that was written in place is a hard link of the parent's, which now holds the new bytes as well: tell it."""
    edited = []
    for path in difference.changed:
        before, now = parent.data / path, folder / path
        if before.is_file() and now.is_file() and os.path.samefile(before, now):
            edited.append(path)
    if edited:
        more = f" and {len(edited) - 5:,} more" if len(edited) > 5 else ""
        say(
            "warning",
            f"edited in place, so {parent.data} no longer holds the bytes of its own manifest: {', '.join(edited[:5])}{more}; "
            "write changed files anew (programs that rename do), or publish with --data copy",
        )


def _new_bytes(material: Material, difference: Difference | None) -> int | None:
    if difference is None:
        return None
    sizes = {entry.path: entry.size_bytes for entry in material.manifest.entries}
    return sum(sizes[path] for path in (*difference.added, *difference.changed))


def _place(job: Job, scan: Scan, target: Path, material: Material) -> int:
    """Hard links of the files that were read (or copies); returns how many bytes now exist twice."""
    if job.options.data == "none":
        return 0
    copied = 0
    target.mkdir()
    folders = {target}
    for empty in scan.empty_folders:
        (target / empty).mkdir(parents=True)
    with track("place", total=len(scan.files), unit="files") as bar:
        for file in scan.files:
            destination = target / file.path
            if destination.parent not in folders:
                destination.parent.mkdir(parents=True, exist_ok=True)
                folders.add(destination.parent)
            taken = link_or_copy(file.absolute, destination, copy=job.options.data == "copy")
            stat = os.lstat(file.absolute)
            if (stat.st_size, stat.st_mtime_ns, stat.st_ino) != (file.size_bytes, file.mtime_ns, file.inode):
                raise IntegrityError(
                    f"{file.absolute}: changed while it was published",
                    hint="stop what writes to it and run again",
                )
            if taken:
                _check_copy(destination, material.digests.files[file.path].blake3, file.path)
            copied += taken
            bar.add()
    return copied


def _check_copy(path: Path, blake3: str, name: str) -> None:
    from headwater.hashing import digest_file

    if digest_file(path, ("blake3",)).hex["blake3"] != blake3:
        raise IntegrityError(
            f"{name}: its copy is not what was read before", hint="stop what writes to it and run again"
        )


def _pack(job: Job, scan: Scan, packing: Path) -> tuple[Scan, int]:
    """The packed tree, and how many bytes now exist twice."""
    from distribute.packing import pack_tree
    from distribute.scan import scan_tree

    packed = pack_tree(scan.files, packing, name=job.name, empty_folders=scan.empty_folders)
    return scan_tree(packing, portable="off", secrets=False), packed.packed_bytes + packed.copied_bytes


def _scan(folder: Path, options: PublishOptions) -> Scan:
    from distribute.scan import scan_tree

    scan = scan_tree(folder, portable=options.portable, allow=options.allow)
    scan.raise_for_problems()
    scan.say_warnings()
    if _has_recipe(folder):
        kept = [file for file in scan.files if file.path != RECORD_NAME]
        if len(kept) < len(scan.files):
            say(
                "info",
                f"{RECORD_NAME} stays here: {RECIPE_NAME} makes the other files again, and so this very release",
            )
        scan = replace(scan, files=kept)
    return scan


def _has_recipe(folder: Path) -> bool:
    """Whether a recipe of pictures lies in it. The record of such a folder has times and a host, all else is made again byte for byte."""
    file = folder / RECIPE_NAME
    if not file.is_file() or file.stat().st_size > RECIPE_LIMIT_BYTES:
        return False
    try:
        document = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        return False
    found = document.get("format") if isinstance(document, dict) else None
    return isinstance(found, str) and found.startswith("generation/")


def _copies(job: Job, size: int) -> int:
    """Bytes that will be there twice. Packing with large files copies less: those are linked."""
    linked = job.options.data == "link" and _device(job.output.parent) == _device(job.folder)
    return 0 if job.options.data == "none" or (linked and not job.options.pack) else size


def _device(folder: Path) -> int:
    return os.stat(folder).st_dev


def _room(job: Job, size: int) -> None:
    """A copy that cannot fit is told before hours of reading."""
    free = shutil.disk_usage(job.output.parent).free
    if not job.options.pack and (needed := _copies(job, size)) > free:
        why = (
            ""
            if job.options.data == "copy"
            else "; no hard links to another file system, so these are copies"
        )
        raise HeadwaterError(
            f"{job.output}: {needed:,} bytes are needed, {free:,} are free{why}",
            hint="free some space, or choose -o on the file system of the files",
        )


def _estimate(job: Job, scan: Scan, size: int) -> dict[str, Any]:
    """What a dry run tells; the processor time is an estimate and says so."""
    from distribute.packing import advise

    copies, free = _copies(job, size), shutil.disk_usage(job.output.parent).free
    cpu = CPU_SECONDS_PER_GB * size / 1e9
    facts = {
        "dry_run": True,
        "name": job.name,
        "output": str(job.output),
        "files": len(scan.files),
        "size_bytes": size,
        "piece_size_bytes": job.piece_size_bytes,
        "torrents": list(job.kinds),
        "profiles": list(job.options.profiles),
        "estimated_cpu_seconds": round(cpu, 1),
        "second_copy_bytes": copies,
        "disk_free_bytes": free,
        "warnings": [f"{w.path}: {w.detail}" for w in scan.warnings],
    }
    lines = [
        f"would publish {len(scan.files):,} files, {size:,} bytes, as {job.name!r} at {job.output}",
        f"reads every byte once (what the cache knows is not read): about {cpu:.1f} s of CPU, an estimate",
        f"torrents: {', '.join(job.kinds) or 'none'} in pieces of {job.piece_size_bytes:,} bytes",
        f"second copies: {copies:,} bytes, free there: {free:,} bytes",
    ]
    advice = advise(scan.files)
    return {**facts, "text": "\n".join([*lines, *([advice.text] if advice.worth else [])])}
