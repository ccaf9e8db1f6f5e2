"""Publishing a folder: one read of every file, one manifest, and what each network calls it.

    scan ── digest (one read) ── manifest ── diff with the parent ── documents beside hard links of the files

The manifest decides everything else: the same files under the same names give the same manifest id, CIDs and infohashes on every
file system, in any order, at any time. Formats: schemas/README.md.
"""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from headwater.console import say, track
from headwater.errors import IntegrityError, MissingInput, UsageError, nearest
from headwater.executor import default_workers
from headwater.files import FILE_MODE, named_io
from headwater.manifest import Counts, Difference, InputRef, diff_entries
from headwater.release import LATEST_NAME, LOCATIONS_NAME, OpenRelease, open_release
from headwater.steps import RECORD_NAME, Plan, RunOptions, Work, check_output, read_record, run_step

if TYPE_CHECKING:
    from distribute.digests import TreeDigests
    from distribute.documents import Material
    from distribute.scan import Scan

DEFAULT_PROFILES = ("unixfs-v1-2025", "kubo-v1-raw")
TORRENT_KINDS = ("v1", "v2", "hybrid", "delta")
SMALLEST_PIECE, LARGEST_PIECE, PIECES = 1 << 18, 1 << 24, 2_000
# all digests of a GB, on the two-core machine this was measured on; a dry run says that it is an estimate
CPU_SECONDS_PER_GB = 3.2


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


@dataclass(frozen=True)
class _Job:
    """One publishing, with everything resolved."""

    folder: Path
    output: Path
    name: str
    kinds: tuple[str, ...]
    piece_size_bytes: int
    options: PublishOptions
    workers: int


def piece_size_for(size_bytes: int) -> int:
    """The power of two from 256 KiB to 16 MiB that gives at most 2,000 pieces where it can."""
    piece = SMALLEST_PIECE
    while piece < LARGEST_PIECE and size_bytes > piece * PIECES:
        piece *= 2
    return piece


def publish(
    folder: Path, output: Path, options: PublishOptions, run: RunOptions, *, workers: int | None = None
) -> dict[str, Any]:
    """Make the release of `folder` at `output`. Returns facts to print, with a "text" for people.

    Raises UsageError (what must not be published, listed), MissingInput, IntegrityError (a file changed while it was read).
    """
    from distribute.packing import advise

    if not folder.is_dir():
        raise MissingInput(f"{folder}: no such folder to publish")
    check_output(output, "folder")
    _apart(folder, output)
    name = _name(folder, options)
    scan = _scan(folder, options)
    parent = open_release(options.parent) if options.parent else None
    size = scan.size_bytes
    piece = _piece_size(options, parent, size)
    job = _Job(folder, output, name, _kinds(options), piece, options, workers or default_workers())
    if run.dry_run:
        return _estimate(job, scan, size)
    advice = advise(scan.files)
    if advice.worth and not options.pack:
        say("info", advice.text)
    packing = output.with_name(f".{output.name}.packing")
    shutil.rmtree(packing, ignore_errors=True)
    try:
        if options.pack:
            scan = _pack(job, scan, packing)
            job = replace(job, folder=packing)
        return _publish(job, scan, parent, run)
    finally:
        shutil.rmtree(packing, ignore_errors=True)


def _publish(job: _Job, scan: Scan, parent: OpenRelease | None, run: RunOptions) -> dict[str, Any]:
    from distribute.documents import Material, write_documents
    from distribute.summary import summary

    options = job.options
    digests = _digest(job, scan, v1="v1" in job.kinds, hybrid="hybrid" in job.kinds)
    step = read_record(job.folder) if (job.folder / RECORD_NAME).is_file() else None
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
    new = _new_files(job, scan, difference)
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
            "read_bytes": digests.read_bytes + (new.read_bytes if new else 0),
            "read_again_bytes": digests.reread_bytes + (new.reread_bytes if new else 0),
            "second_copy_bytes": copied,
            "new_files": len(difference.added) + len(difference.changed) if difference else None,
            "new_bytes": _new_bytes(material, difference),
            "gone_files": len(difference.removed) if difference else None,
        }
        return Counts(unit="files", read=len(scan.files), kept=len(scan.files))

    outcome = run_step(plan, work, run)
    assert outcome is not None
    return summary(open_release(job.output), job.output, outcome.step, cached=outcome.cached)


def _digest(job: _Job, scan: Scan, *, v1: bool, hybrid: bool = False) -> TreeDigests:
    from distribute.digestcache import TreeCache
    from distribute.digests import digest_tree

    cache = None
    if not job.options.pack:  # packed files are made anew each time
        cache = TreeCache(job.options.cache or job.folder / ".headwater", distrust=job.options.distrust_cache)
    with track("read", total=scan.size_bytes, unit="bytes") as bar:
        return digest_tree(
            scan.files,
            profiles=job.options.profiles,
            piece_size=job.piece_size_bytes,
            v1=v1,
            hybrid=hybrid,
            cache=cache,
            workers=job.workers,
            bar=bar,
        )


def _new_files(job: _Job, scan: Scan, difference: Difference | None) -> TreeDigests | None:
    """Digests of what the parent does not have, for the delta torrent: pieces that run over these files alone."""
    if difference is None or "delta" not in job.kinds:
        return None
    wanted = {*difference.added, *difference.changed}
    chosen = replace(scan, files=[file for file in scan.files if file.path in wanted])
    return _digest(job, chosen, v1=True)


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


def _place(job: _Job, scan: Scan, target: Path, material: Material) -> int:
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
            taken = _place_file(file.absolute, destination, copy=job.options.data == "copy")
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


def _place_file(source: Path, destination: Path, *, copy: bool) -> int:
    with named_io(destination):
        if not copy:
            try:
                os.link(source, destination, follow_symlinks=False)
                return 0
            except OSError as error:
                # another file system, a file system without links, too many links, or links to others' files not allowed
                if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
                    raise
        shutil.copyfile(source, destination)
        destination.chmod(FILE_MODE)
        fd = os.open(destination, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        return destination.stat().st_size


def _check_copy(path: Path, blake3: str, name: str) -> None:
    from headwater.hashing import digest_file

    if digest_file(path, ("blake3",)).hex["blake3"] != blake3:
        raise IntegrityError(
            f"{name}: its copy is not what was read before", hint="stop what writes to it and run again"
        )


def _pack(job: _Job, scan: Scan, packing: Path) -> Scan:
    from distribute.packing import pack_tree
    from distribute.scan import scan_tree

    pack_tree(scan.files, packing, name=job.name, empty_folders=scan.empty_folders)
    return scan_tree(packing, portable="off", secrets=False)


def _scan(folder: Path, options: PublishOptions) -> Scan:
    from distribute.scan import scan_tree

    scan = scan_tree(folder, portable=options.portable, allow=options.allow)
    scan.raise_for_problems()
    scan.say_warnings()
    return scan


def _apart(folder: Path, output: Path) -> None:
    """A release inside what it publishes would contain itself."""
    inner, outer = output.resolve(), folder.resolve()
    if inner == outer or outer in inner.parents:
        raise UsageError(
            f"-o {output}: lies inside {folder}, which is published", hint="choose a place outside"
        )
    if inner in outer.parents:
        raise UsageError(f"-o {output}: holds {folder}, which is published", hint="choose another place")


def _name(folder: Path, options: PublishOptions) -> str:
    from distribute.names import unsafe

    name = options.name if options.name is not None else folder.resolve().name
    taken = name.startswith(".") or name.endswith((".json", ".torrent", ".car", ".meta4"))
    if taken or "/" in name or unsafe(name) or len(name.encode()) > 200:
        raise UsageError(
            f"{name!r} cannot be the name of a release", hint="--name NAME, without a path and not hidden"
        )
    return name


def _kinds(options: PublishOptions) -> tuple[str, ...]:
    kinds = options.torrents or (("delta", "v2") if options.parent else ("v1", "v2"))
    for kind in kinds:
        if kind not in (*TORRENT_KINDS, "none"):
            raise UsageError(f"unknown kind of torrent {kind!r}: {nearest(kind, (*TORRENT_KINDS, 'none'))}")
    if "delta" in kinds and options.parent is None:
        raise UsageError("a delta torrent is what changed since a parent", hint="--parent RELEASE")
    return () if "none" in kinds else tuple(sorted(set(kinds)))


def _piece_size(options: PublishOptions, parent: OpenRelease | None, size: int) -> int:
    piece = options.piece_size_bytes
    if piece is None:  # equal pieces keep the layers of unchanged files what they were
        return (parent.manifest.piece_size_bytes if parent else None) or piece_size_for(size)
    if piece < 1 << 14 or piece > 1 << 28 or piece & (piece - 1):
        raise UsageError(f"--piece-size is {piece:,}: it must be a power of two from 16 KiB to 256 MiB")
    return piece


def _estimate(job: _Job, scan: Scan, size: int) -> dict[str, Any]:
    """What a dry run tells; the processor time is an estimate and says so."""
    from distribute.packing import advise

    copies = size if job.options.data == "copy" or job.options.pack else 0
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
        "disk_free_bytes": shutil.disk_usage(job.output.parent).free,
        "warnings": [f"{w.path}: {w.detail}" for w in scan.warnings],
    }
    lines = [
        f"would publish {len(scan.files):,} files, {size:,} bytes, as {job.name!r} at {job.output}",
        f"reads every byte once (what the cache knows is not read): about {cpu:.1f} s of CPU, an estimate",
        f"torrents: {', '.join(job.kinds) or 'none'} in pieces of {job.piece_size_bytes:,} bytes; second copies: {copies:,} bytes",
    ]
    advice = advise(scan.files)
    return {**facts, "text": "\n".join([*lines, *([advice.text] if advice.worth else [])])}
