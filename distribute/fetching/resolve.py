"""What is trusted, and who has it: one manifest id, and the sources that do not contradict it.

    --manifest ID | FILE | URL     that one, whoever serves it
    --key KEY                      the one that the newest signed latest.json names
    neither                        the first source's, told with its id, so that it can be asked for by name the next time
    no source has a manifest       what the address itself proves: the files below a CID, the v2 roots of a torrent

Every source is asked at once, each in a thread of its own. One that serves another manifest is named and left out.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from distribute.fetching.options import FetchOptions, is_id
from distribute.fetching.paths import empty_folders, no_clash, no_private
from distribute.torrents import TorrentFile
from distribute.transports._base import Context, Refused, Source, SourceError, Unreachable, Wanted
from distribute.transports._redact import redact
from distribute.transports._registry import open_source, transport_of
from headwater.console import say
from headwater.errors import HeadwaterError, IntegrityError, MissingExtra, MissingInput, UsageError
from headwater.manifest import Manifest, safe_relative
from headwater.release import LATEST_NAME, MANIFEST_NAME, parse_manifest, read_limited

GRACE_SECONDS = 1.5  # for the other sources, once it is known what to fetch


@dataclass
class Asked:
    """One location and what came of it."""

    location: str
    source: Source | None = None
    raw: bytes | None = None  # of its manifest
    error: HeadwaterError | None = None
    pointer: bytes | None = None
    finished: bool = False

    @property
    def label(self) -> str:
        return self.source.label if self.source is not None else redact(self.location)[:120]


@dataclass
class Resolved:
    """What to fetch and from whom."""

    wanted: list[Wanted]
    sources: list[Source]
    alive: list[Source] = field(default_factory=list)  # those that have answered
    manifest: Manifest | None = None
    raw: bytes | None = None
    pinned: bool = False
    skipped: list[dict[str, str]] = field(default_factory=list)
    documents: dict[str, bytes] = field(default_factory=dict)
    torrents: dict[str, TorrentFile] = field(default_factory=dict)  # those of the documents, checked

    @property
    def manifest_id(self) -> str | None:
        return None if self.raw is None else hashlib.sha256(self.raw).hexdigest()


def resolve(
    locations: Sequence[str], options: FetchOptions, context: Context, known: Path | None = None
) -> Resolved:
    """Open all locations and agree on one manifest. `known`: a manifest that the folder holds already, used when its id is asked for.

    Raises UsageError (a location that is none), IntegrityError (only wrong or hostile manifests), Unreachable (nobody answers),
    MissingInput (nothing there), SignatureFailure.
    """
    if not locations:
        raise UsageError("name at least one location to fetch from")
    pin, raw = _pin(options, context, known)
    asked = [Asked(location) for location in locations]
    for one in asked:
        if len(asked) == 1 or _is_path_or_wrong(one.location):
            transport_of(one.location)  # a slip of the finger is told at once, before anybody is asked
    _ask_all(asked, pin, raw is None, bool(options.keys), context)
    try:
        return _agree(asked, pin, raw, options)
    except BaseException:
        for one in asked:
            if one.source is not None:
                one.source.close()
        raise


def _is_path_or_wrong(location: str) -> bool:
    return ":" not in location or urlsplit(location).scheme.lower() in ("file", "ftp", "data", "")


def _pin(options: FetchOptions, context: Context, known: Path | None) -> tuple[str | None, bytes | None]:
    """(manifest id, its bytes where they are at hand)."""
    text = options.manifest
    if text is None:
        return None, None
    if is_id(text):
        if known is not None and known.is_file():
            raw = read_limited(known)
            if hashlib.sha256(raw).hexdigest() == text.lower():
                return text.lower(), raw
        return text.lower(), None
    if text.lower().startswith(("http://", "https://")):
        from distribute.transports._web import Web

        with Web(context) as web:
            raw = web.request("GET", text).body
    else:
        raw = read_limited(Path(text))
    return hashlib.sha256(raw).hexdigest(), raw


def _ask_all(asked: list[Asked], pin: str | None, need: bool, pointers: bool, context: Context) -> None:
    """Open every location and get its manifest; waits for all, but not for the last ones when one has answered well."""
    threads = []
    for number, one in enumerate(asked):
        name = hashlib.sha256(one.location.encode()).hexdigest()[:16]  # the same in the next run
        own = replace(context, work=context.work / f"source-{name}")
        thread = threading.Thread(
            target=copy_context().run,
            args=(_ask, one, pin, need, pointers, own),
            daemon=True,
            name=f"ask-{number}",
        )
        thread.start()
        threads.append(thread)
    limits = context.limits
    end = time.monotonic() + 2 * limits.stall_seconds + limits.connect_seconds * limits.attempts
    good_since: float | None = None
    while any(not one.finished for one in asked):
        now = time.monotonic()
        if good_since is None and _decided(asked, pin):
            good_since = now
        if now > end or (good_since is not None and now - good_since > GRACE_SECONDS):
            break
        for thread in threads:
            thread.join(0.05)
    for one in asked:
        if not one.finished and one.error is None:
            one.error = Unreachable(f"{one.label}: no answer yet")


def _decided(asked: list[Asked], pin: str | None) -> bool:
    """Whether those who have not answered yet cannot change what is fetched: only who takes part."""
    for one in asked:
        if one.raw is not None and (pin is None or hashlib.sha256(one.raw).hexdigest() == pin):
            return True
        if pin is None and not one.finished:
            return False
    return False


def _ask(one: Asked, pin: str | None, need: bool, pointers: bool, context: Context) -> None:
    try:
        source = _open(one.location, context)
        one.source = source
        if pointers:
            one.pointer = source.release_file(LATEST_NAME)
        by_digest: Callable[[str], bytes | None] | None = getattr(source, "by_digest", None)
        if need or by_digest is None:
            raw = source.release_file(MANIFEST_NAME)
            if raw is None and pin and by_digest is not None:
                raw = by_digest(pin)
            one.raw = raw
    except HeadwaterError as error:
        one.error = error
    except (OSError, ValueError) as error:
        one.error = SourceError(f"{one.label}: {redact(str(error))[:200]}")
    finally:
        one.finished = True


def _open(location: str, context: Context) -> Source:
    """A source; a torrent at an address is fetched first."""
    if transport_of(location) == "bittorrent" and location.lower().startswith(("http://", "https://")):
        from distribute.transports._web import Web
        from distribute.transports.bittorrent import from_bytes

        with Web(context) as web:
            raw = web.request("GET", location, limit_bytes=64 << 20).body
        return from_bytes(raw, redact(location), context)
    return open_source(location, context)


def _agree(asked: list[Asked], pin: str | None, raw: bytes | None, options: FetchOptions) -> Resolved:
    found = Resolved([], [], pinned=pin is not None)
    if options.keys:
        pin = _pointed(asked, options)
        found.pinned = True
        if pin and raw is None:
            _ask_by_digest(asked, pin)
    manifest: Manifest | None = _read(raw, pin, "--manifest") if raw is not None else None
    first_wrong: IntegrityError | None = None
    chosen: Asked | None = None
    for one in asked:
        if manifest is not None or one.raw is None:
            continue
        try:
            manifest = _read(one.raw, pin, one.label)
            raw, chosen = one.raw, one
        except IntegrityError as error:
            # the pinned bytes themselves are unsafe: no other source can make that good
            if pin is not None and hashlib.sha256(one.raw).hexdigest() == pin:
                raise
            first_wrong = first_wrong or error
            one.error = error
    found.manifest, found.raw = manifest, raw
    if manifest is not None:
        found.wanted = [Wanted.of(entry) for entry in manifest.entries]
        if not found.pinned and chosen is not None:
            say(
                "warning",
                f"{chosen.label}: its manifest {found.manifest_id} is taken on trust; to be sure: --manifest {found.manifest_id}",
            )
    elif pin is None and first_wrong is None and not options.keys:
        found.wanted = _listed(asked, found)
    _sort_out(asked, raw, found)
    if (
        not found.sources
        or manifest is None
        and (pin is not None or first_wrong is not None or not found.wanted)
    ):
        raise _nothing(asked, first_wrong, pin)
    return found


def _read(raw: bytes, pin: str | None, label: str) -> Manifest:
    """A manifest with nothing in it that could lead outside. Raises IntegrityError."""
    manifest = parse_manifest(raw, pin, label)
    no_private((entry.path for entry in manifest.entries), label)
    empty_folders(manifest, label)
    return manifest


def _ask_by_digest(asked: list[Asked], pin: str) -> None:
    for one in asked:
        by_digest: Any = getattr(one.source, "by_digest", None)
        if one.raw is None and by_digest is not None:
            try:
                one.raw = by_digest(pin)
            except HeadwaterError as error:
                one.error = error


def _pointed(asked: list[Asked], options: FetchOptions) -> str:
    """The manifest id that the newest acceptable pointer of the sources names."""
    from distribute.pointer import load_public, parse_pointer
    from distribute.trust import accept

    keys = [load_public(key if is_id(key) else Path(key)) for key in options.keys]
    failure: HeadwaterError | None = None
    pointers = []
    for one in asked:
        if one.pointer is not None:
            try:
                pointers.append((parse_pointer(one.pointer, f"{one.label}: {LATEST_NAME}"), one))
            except HeadwaterError as error:
                failure = failure or error
    for pointer, one in sorted(pointers, key=lambda pair: -pair[0].body.version):
        try:
            body = accept(
                pointer,
                keys,
                threshold=options.threshold,
                dataset=options.dataset,
                allow_expired=options.allow_expired,
            )
            say(
                "info",
                f"{one.label}: latest is version {body.version:,} of {body.dataset}, signed {body.signed_at}",
            )
            return body.manifest_id
        except HeadwaterError as error:
            say("warning", f"{one.label}: {error.message}")
            failure = failure or error
    if failure is not None:
        raise failure
    unreachable = next((one.error for one in asked if one.error is not None), None)
    if unreachable is not None:
        raise unreachable
    raise MissingInput(f"no source has a signed {LATEST_NAME}", hint="leave --key out, or ask the publisher")


def _listed(asked: list[Asked], found: Resolved) -> list[Wanted]:
    """The files that one source's own address proves."""
    for one in asked:
        if one.source is None or one.error is not None:
            continue
        try:
            files = one.source.listing()
            if files is None and hasattr(one.source, "outline"):
                files = [Wanted(o.path, o.size_bytes) for o in one.source.outline()]
        except SourceError as error:
            one.error = error
            continue
        if files:
            for file in files:
                safe_relative(file.path)
            no_private([file.path for file in files], one.label)
            no_clash([file.path for file in files], one.label)
            say(
                "info",
                f"{one.label}: no manifest there; its {len(files):,} files are what its address proves",
            )
            found.sources = [one.source]
            return sorted(files, key=lambda file: file.path.encode())
    return []


def _sort_out(asked: list[Asked], raw: bytes | None, found: Resolved) -> None:
    """Keep the sources that do not contradict; name the others. One that does not answer yet may still come back."""
    proven, found.sources = found.sources, []
    checkable = all(file.sha256 or file.bt_v2_root or not file.size_bytes for file in found.wanted)
    for one in asked:
        why = ""
        if one.source is None:
            why = one.error.message if one.error is not None else "cannot be opened"
            if isinstance(one.error, (MissingExtra, UsageError)) and one.error.hint:
                why += f" ({one.error.hint})"
        elif raw is not None and one.raw is not None and one.raw != raw:
            why = f"serves another manifest ({hashlib.sha256(one.raw).hexdigest()[:12]}…)"
            one.error = IntegrityError(
                f"{one.label}: {why}", hint="it is another version's: name another source"
            )
        elif raw is None and found.wanted and one.source not in proven and not checkable:
            why = "there is no manifest to check it with"
        elif one.error is not None and (
            isinstance(one.error, Refused) or not isinstance(one.error, SourceError)
        ):
            why = one.error.message
        if why or one.source is None:
            found.skipped.append({"source": one.label, "why": why})
            if len(asked) > 1:
                say("warning", f"{one.label}: left out: {why.removeprefix(one.label + ': ')}")
            if one.source is not None:
                one.source.close()
        else:
            if one.error is None:
                found.alive.append(one.source)
            elif found.wanted:
                say("warning", f"{one.error.message}; it is tried again later")
            found.sources.append(one.source)


def _nothing(asked: list[Asked], wrong: IntegrityError | None, pin: str | None) -> HeadwaterError:
    """Why nothing can be fetched: the worst of what was seen."""
    if wrong is not None:
        return wrong
    errors = [one.error for one in asked if one.error is not None]
    if len(asked) == 1 and errors:
        return errors[0]
    if errors:
        listing = "".join(f"\n  {error.message}" for error in errors)
        kind = errors[0] if len({type(error) for error in errors}) == 1 else None
        error_type = type(kind) if kind is not None else Unreachable
        return error_type(f"no source can be used:{listing}", hint="check the locations, or try again later")
    what = f"the manifest {pin[:12]}…" if pin else "a release"
    return MissingInput(
        f"{', '.join(one.label for one in asked)}: {what} is not there",
        hint="name the folder that holds manifest.json"
        if pin is None
        else "check the id, or name another source",
    )
