"""What is recorded: files, manifests, steps and energy, as data models; and the identity they are known by.

Identity is what decides a result; observation is what happened to be true. An id is the SHA-256 of the RFC 8785
(canonical JSON) form of the identity alone, so that two machines agree on it.
Every model forbids unknown keys; additions live under `extensions`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from headwater.errors import HeadwaterError, IntegrityError, MissingInput, UsageError
from headwater.hashing import digest_file

Hex64 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0)]


class Record(BaseModel):
    """Base of everything written to disk."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class FileEntry(Record):
    """One file, by its bytes."""

    path: str = Field(description="relative, with forward slashes, no `..`")
    size_bytes: Count
    sha256: Hex64
    blake3: Hex64 | None = None
    cid: str | None = Field(None, description="CIDv1 under the manifest's CID profile")
    bt_v2_root: Hex64 | None = Field(None, description="BitTorrent v2 pieces root (BEP 52)")


class InputRef(Record):
    """One input of a step."""

    role: str = Field(description="what the step uses it as: pool, subset, shards, rule …")
    id: Hex64 = Field(description="SHA-256 of a file, or the id of a pool or manifest")


class Counts(Record):
    """What happened to every row or sample. `read` = `kept` + all `dropped` + all `invalid`."""

    unit: str = "rows"
    read: Count
    kept: Count
    dropped: dict[str, Count] = Field(
        default_factory=dict, description="by reason: the first clause that dropped it"
    )
    invalid: dict[str, Count] = Field(
        default_factory=dict, description="by reason: rows that could not be judged"
    )
    extra: dict[str, Count] = Field(
        default_factory=dict, description="figures outside the sum, such as copies written"
    )

    def check(self) -> None:
        """Raise HeadwaterError unless the sum closes."""
        total = self.kept + sum(self.dropped.values()) + sum(self.invalid.values())
        if total != self.read:
            raise HeadwaterError(
                f"the counts do not close: {self.read:,} {self.unit} read, but {total:,} accounted for",
                hint="this is a fault in Headwater: nothing was written; please report it with the command line",
            )


class EnergyComponent(Record):
    """Energy of one device over the step."""

    device: str = Field(description="cpu, ram, platform, gpu0 …")
    joules: float | None = Field(description="null when it is not known; never 0 in its place")
    method: Literal[
        "nvml_counter", "nvml_poll", "rapl", "psys", "tdp_load", "constant", "external_meter", "none"
    ]
    quality: Literal["measured", "modelled", "assumed", "none"]
    share: Literal["machine", "process"]
    interval_seconds: float | None = Field(None, description="time that the figure covers")


class Energy(Record):
    """`energy/1`: what a step cost, per component, and how each figure was obtained."""

    format: Literal["energy/1"] = "energy/1"
    stage: str
    started_at: str = Field(description="RFC 3339, UTC")
    finished_at: str = Field(description="RFC 3339, UTC")
    duration_seconds: float
    cpu_seconds: float = Field(description="user + system time of this process and its children")
    peak_rss_bytes: int | None = Field(
        None, description="largest resident set of this process or one of its children"
    )
    components: list[EnergyComponent]
    measured_joules: float | None = Field(description="sum of measured components, null when there is none")
    modelled_joules: float | None = Field(
        description="sum of modelled and assumed components, null when there is none"
    )
    idle_baseline_joules: float | None = None
    pue: float | None = Field(None, description="power usage effectiveness, when the user stated one")
    carbon_g_per_kwh: float | None = Field(None, description="grid intensity, when the user stated one")
    kg_co2e: float | None = Field(
        None,
        description="kWh x PUE x intensity, of measured_joules where there are any, else of modelled_joules; null when PUE or intensity is not stated",
    )
    provider: str = Field(description="tool and version, or cpu-time")


class StepIdentity(Record):
    """What decides the result of a step."""

    step: str
    version: int = Field(description="changes whenever the same inputs would give other bytes")
    config: dict[str, Any]
    inputs: list[InputRef]
    seed: int | None = None
    outputs: list[FileEntry]
    counts: Counts


class Step(Record):
    """`step/1`: one arrow of the chain, written last."""

    format: Literal["step/1"] = "step/1"
    id: Hex64
    key: Hex64 = Field(
        description="id of the identity without outputs and counts: known before the work starts"
    )
    identity: StepIdentity
    details: dict[str, Any] = Field(
        default_factory=dict, description="step-specific facts for people and reports"
    )
    observation: dict[str, Any] = Field(
        default_factory=dict, description="host, versions, paths, engine, command line"
    )
    energy: Energy


class Manifest(Record):
    """`manifest/1`: the files of a folder, sorted by path, and the step that made them."""

    format: Literal["manifest/1"] = "manifest/1"
    entries: list[FileEntry]
    cid_profile: str | None = None
    piece_size_bytes: int | None = None
    parents: list[Hex64] = Field(default_factory=list)
    step_id: Hex64 | None = None
    extensions: dict[str, Any] = Field(default_factory=dict)

    @property
    def id(self) -> str:
        return identity_id(self)


def canonical(document: Any) -> bytes:
    """RFC 8785 bytes of a model or of plain data."""
    import rfc8785

    if isinstance(document, BaseModel):
        document = document.model_dump(mode="json")
    try:
        return rfc8785.dumps(document)
    except rfc8785.CanonicalizationError as error:
        raise UsageError(
            f"a value cannot be recorded: {error}", hint="whole numbers must be within 2^53, others finite"
        ) from error


def identity_id(document: Any) -> str:
    """SHA-256 over the canonical form, in hex."""
    return hashlib.sha256(canonical(document)).hexdigest()


def step_key(
    *, step: str, version: int, config: dict[str, Any], inputs: list[InputRef], seed: int | None
) -> str:
    """The id of a step before its outputs are known; equal keys promise equal outputs."""
    refs = sorted((ref.model_dump() for ref in inputs), key=lambda ref: (ref["role"], ref["id"]))
    return identity_id({"step": step, "version": version, "config": config, "inputs": refs, "seed": seed})


def safe_relative(path: str) -> str:
    """`path` if it stays inside the folder it is relative to; raises IntegrityError otherwise."""
    parts = path.split("/")
    if (
        not path
        or path.startswith("/")
        or "\\" in path
        or "\0" in path
        or any(p in ("", ".", "..") for p in parts)
    ):
        raise IntegrityError(f"unsafe path {path!r} in a manifest", hint="do not use this manifest")
    return path


def describe_folder(
    folder: Path, *, skip: frozenset[str] = frozenset(), known: Mapping[str, FileEntry] | None = None
) -> list[FileEntry]:
    """Entries of every file below `folder` (symbolic links refused), sorted by path; `skip` names files or top folders.

    A file whose entry is `known`, from whoever wrote it, is not read again if it still has that size.
    """
    entries = []
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder).as_posix()
        if relative in skip or (first := relative.split("/")[0]) in skip or first == ".headwater":
            continue
        if path.is_symlink():
            raise IntegrityError(
                f"{path}: symbolic links are not part of a manifest", hint="copy the file it points to"
            )
        if path.is_file():
            entry = known.get(relative) if known else None
            fits = entry is not None and entry.size_bytes == path.stat().st_size
            entries.append(entry if entry and fits else describe_file(path, relative))
    return sorted(entries, key=lambda entry: entry.path.encode())


def describe_file(path: Path, relative: str | None = None) -> FileEntry:
    """The entry of one file; one read gives all its digests."""
    digests = digest_file(path)
    return FileEntry(
        path=relative or path.name,
        size_bytes=digests.size_bytes,
        sha256=digests.hex["sha256"],
        blake3=digests.hex["blake3"],
    )


class Difference(Record):
    """What changed between two lists of entries."""

    added: list[str]
    removed: list[str]
    changed: list[str]
    why: dict[str, list[str]] = Field(
        default_factory=dict, description="path: what differs, for changed files"
    )

    @property
    def empty(self) -> bool:
        return not (self.added or self.removed or self.changed)


def diff_entries(old: list[FileEntry], new: list[FileEntry]) -> Difference:
    """Compare two lists of entries by path and sha256."""
    a, b = {e.path: e.sha256 for e in old}, {e.path: e.sha256 for e in new}
    return Difference(
        added=sorted(b.keys() - a.keys()),
        removed=sorted(a.keys() - b.keys()),
        changed=sorted(path for path in a.keys() & b.keys() if a[path] != b[path]),
    )


def verify_entries(
    folder: Path,
    entries: list[FileEntry],
    *,
    allow_extra: frozenset[str] | None = frozenset(),
    workers: int = 1,
    known: Callable[[Path, FileEntry], bool] = lambda path, entry: False,
    good: Callable[[Path, FileEntry], None] = lambda path, entry: None,
) -> Difference:
    """Read every listed file below `folder` and compare its size and all recorded digests.

    `added` are files that no entry names, besides `allow_extra` (names of files or of top folders; None: do not look for any). A
    file that is reached through a symbolic link, also by way of a linked folder, counts as missing. `known` may spare the
    reading of a file, `good` is told each one that is as recorded; both are called from `workers` threads.
    Raises MissingInput when the folder itself is not there, IntegrityError for an unsafe path.
    """
    if not folder.is_dir():
        raise MissingInput(f"{folder}: no such folder")

    def check(entry: FileEntry) -> list[str] | None:
        path = folder / safe_relative(entry.path)
        if _through_link(folder, entry.path) or not path.is_file():
            return None
        if path.stat().st_size == entry.size_bytes and known(path, entry):
            return []
        found = _differences(path, entry)
        if not found:
            good(path, entry)
        return found

    with ThreadPoolExecutor(workers) as pool:  # the digests let go of the interpreter's lock
        try:
            found = dict(zip((e.path for e in entries), pool.map(check, entries), strict=True))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    added = [] if allow_extra is None else _unnamed(folder, {e.path for e in entries} | allow_extra)
    why = {path: whats for path, whats in found.items() if whats}
    removed = [path for path, whats in found.items() if whats is None]
    return Difference(added=added, removed=removed, changed=list(why), why=why)


def _differences(path: Path, entry: FileEntry) -> list[str]:
    size = path.stat().st_size
    if size != entry.size_bytes:
        return [f"{size:,} bytes, recorded are {entry.size_bytes:,}"]
    wanted = {"sha256": entry.sha256} | ({"blake3": entry.blake3} if entry.blake3 else {})
    found = digest_file(path, tuple(wanted)).hex
    return [
        f"{name} is {found[name][:12]}…, recorded is {digest[:12]}…"
        for name, digest in wanted.items()
        if found[name] != digest
    ]


def _unnamed(folder: Path, known: set[str]) -> list[str]:
    """Files and links below `folder` that are not in `known`, sorted; our own caches are no part of it."""
    found = []
    for path in folder.rglob("*"):
        relative = path.relative_to(folder).as_posix()
        top = relative.split("/")[0]
        ours = top == ".headwater" or (top in known and top != relative)
        if not ours and relative not in known and (path.is_symlink() or not path.is_dir()):
            found.append(relative)
    return sorted(found)


def _through_link(folder: Path, relative: str) -> bool:
    """Whether any part of `folder/relative` below the folder is a symbolic link."""
    path = folder
    for part in relative.split("/"):
        path = path / part
        if path.is_symlink():
            return True
    return False
