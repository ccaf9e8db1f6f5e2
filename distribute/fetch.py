"""`headwater fetch`: a release from whatever is alive, in pieces from several places, every byte checked before it counts.

    locations ── resolve ──> one manifest, its sources ── plan ──> what is missing ── engine ──> files in place ──> record

Killed at any point, the same call goes on: what lies in DIR is checked again, never believed, and only what is missing or
wrong is fetched. Nothing is written outside DIR, and nothing at all before the manifest has been checked.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from distribute.fetching.blocked import Blocked, clear, find_blocked, listed, refuse
from distribute.fetching.documents import collect, piece_hashes, write_documents
from distribute.fetching.engine import Outcome, run_engine
from distribute.fetching.older import (
    Gone,
    Older,
    find_gone,
    partial_of,
    prune,
    read_older,
    write_leftovers,
)
from distribute.fetching.options import FetchOptions
from distribute.fetching.paths import empty_folders
from distribute.fetching.plan import Plan, check_output, check_space, choose, make_plan
from distribute.fetching.record import files_text, summary, write_ledger, write_step
from distribute.fetching.resolve import Resolved, resolve
from distribute.fetching.reuse import Shelves, open_reusable, place
from distribute.fetching.store import Store
from distribute.fetching.target import PARTIAL, PRIVATE, Target, free_bytes
from distribute.transports._base import Context, Limits, Source, Unreachable, Wanted
from headwater.console import say
from headwater.energy import Meter
from headwater.errors import HeadwaterError, IntegrityError, MissingInput
from headwater.executor import default_workers
from headwater.files import FOLDER_MODE, locked, named_io, write_json
from headwater.manifest import Manifest, canonical, describe_file
from headwater.release import INSIDE, MANIFEST_NAME, PARTIAL_NAME, RELEASE_NAME, OpenRelease, Release
from headwater.steps import RunOptions

MORE = "add another location: the same line fetches only what is missing"
SHOWN = 20  # files of a list in a message

__all__ = ["FetchOptions", "fetch"]


def fetch(
    locations: Sequence[str],
    output: Path,
    options: FetchOptions | None = None,
    run_options: RunOptions | None = None,
) -> dict[str, Any]:
    """Bring the release at `locations` into the folder `output`; the result is for `--json`, its "text" for people.

    Raises UsageError (2), MissingInput (10), Locked (11), SignatureFailure (12), IntegrityError (13: every source has wrong bytes
    for some piece, each named), Unreachable and other SourceErrors (1: state is kept, the same call goes on).
    """
    options, run_options = options or FetchOptions(), run_options or RunOptions()
    options.check()
    ours = check_output(output)
    reusable = open_reusable(options.reuse)
    if run_options.dry_run:
        with tempfile.TemporaryDirectory(prefix="headwater-") as work:
            return _dry_run(locations, output, options, Path(work), reusable, ours=ours or run_options.force)
    meter = Meter("fetch")
    context = _context(options, output / PARTIAL)
    known = output / INSIDE / MANIFEST_NAME
    found: Resolved | None = None
    with named_io(output), ExitStack() as held:
        with meter:
            if ours:
                held.enter_context(locked(output / PRIVATE, output))
            # asked before a new folder is made: a manifest that is refused leaves nothing behind
            found = resolve(locations, options, context, known)
            held.callback(_close, found.sources)
            release = collect(found, found.alive, output.name or output.resolve().name)
            chosen = choose(found.wanted, options.include, options.exclude)
            if not ours:
                new = not output.exists()
                output.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
                held.enter_context(locked(output / PRIVATE, output))
                ours = new or not any(path.name != PRIVATE for path in output.iterdir())
            target = held.enter_context(Target(output))
            older = read_older(output, found.raw, found.manifest)
            with Shelves(target, older, reusable) as shelves:
                filled = _fill(
                    found,
                    chosen,
                    target,
                    context,
                    options,
                    older,
                    shelves,
                    ours=ours or run_options.force,
                )
            meta = target.meta()
            gone = _finish(found, release, filled, target, meta, older, options)
        outcome, plan, _ = filled
        manifest_id = found.manifest_id
        assert manifest_id is not None
        result = _result(found, plan, outcome, output, gone)
        step = write_step(output, meta, manifest_id, plan, outcome, options, run_options, meter)
        result |= {"step_id": step.id, "duration_seconds": step.energy.duration_seconds}
        write_ledger(meta, result)
        target.settle()
    return {**result, "text": summary(result, outcome.rows, pruning=options.prune)}


def _fill(
    found: Resolved,
    chosen: list[Wanted],
    target: Target,
    context: Context,
    options: FetchOptions,
    older: Older,
    shelves: Shelves,
    *,
    ours: bool,
) -> tuple[Outcome, Plan, list[str]]:
    """Plan and fetch; also the files that were removed for it. Raises when one could not be had; what was fetched stays."""
    store = Store(target)
    workers = options.workers or default_workers()
    blocked, leaving = _in_the_way(found, chosen, target, older, options)
    plan = make_plan(
        found.wanted,
        chosen,
        piece_hashes(found),
        target,
        store,
        ours=ours,
        workers=workers,
        blocked=blocked.paths,
    )
    ready = []
    if options.prune:
        gone = find_gone(older, found.wanted, target)
        ready = shelves.link(plan, store, frozenset(entry.path for entry in gone))
    check_space(plan, target.root)
    ready += shelves.copy(plan, store, workers)
    clear(blocked, leaving, target)
    place(ready, plan, store)
    updated = {wanted.path for wanted in chosen if older.changed(wanted)}
    for path in [path for path in plan.replaced if path not in updated][:10]:
        say("warning", f"{target.root / path}: its bytes are not those of the release; it is fetched again")
    outcome = run_engine(plan, found, store, context, options)
    if outcome.unfinished or outcome.lost:
        write_ledger(target.meta(), _result(found, plan, outcome, target.root))
        raise _failure(outcome, plan, target.root, options)
    return outcome, plan, leaving


def _in_the_way(
    found: Resolved, chosen: list[Wanted], target: Target, older: Older, options: FetchOptions
) -> tuple[Blocked, list[str]]:
    """What an older release has where this one has something of another kind, and the files that go for it."""
    whole = found.manifest is not None and len(chosen) == len(found.wanted)  # else they are not made
    folders = empty_folders(found.manifest, MANIFEST_NAME) if whole and found.manifest is not None else []
    blocked = find_blocked(older, chosen, folders, target)
    if blocked and not options.prune:
        refuse(blocked, target)
    return blocked, listed(blocked, older, target)


def _finish(
    found: Resolved,
    release: Release | None,
    filled: tuple[Outcome, Plan, list[str]],
    target: Target,
    meta: Path,
    older: Older,
    options: FetchOptions,
) -> Gone:
    """Everything is in place: documents, empty folders, no partial files, all of it on the disk; only then files are pruned."""
    plan, cleared = filled[1:]
    if found.manifest is None:
        release = _own_manifest(found, plan, target)
    assert found.manifest is not None and release is not None
    found.documents[RELEASE_NAME] = found.documents.get(RELEASE_NAME) or canonical(release)
    empty = empty_folders(found.manifest, MANIFEST_NAME)  # judged before: nothing is raised here
    partial = partial_of(older, found.manifest, plan.chosen)
    for path in empty if partial is None else ():
        target.make_folder(path)
    gone = find_gone(older, found.wanted, target)
    write_leftovers(meta, gone)
    if partial is not None:  # before the manifest: one without it stands for a whole release
        write_json(meta / PARTIAL_NAME, partial.model_dump(mode="json"), durable=False)
    write_documents(meta, found.documents)
    if partial is None:
        (meta / PARTIAL_NAME).unlink(missing_ok=True)
    shutil.rmtree(target.root / PARTIAL, ignore_errors=True)
    target.settle()
    if not options.prune:
        return Gone(there=[entry.path for entry in gone])
    done = prune(target, gone, empty)
    write_leftovers(meta, [])  # what is left was edited: it is its user's now
    done.pruned = sorted([*done.pruned, *cleared], key=str.encode)
    return done


def _own_manifest(found: Resolved, plan: Plan, target: Target) -> Release:
    """No source had a manifest: what was fetched, by what its address proves, is described here."""
    entries = []
    for wanted in plan.chosen:
        entry = describe_file(target.root / wanted.path, wanted.path)
        entries.append(entry.model_copy(update={"bt_v2_root": wanted.bt_v2_root}))
    found.manifest = Manifest(entries=entries)
    found.raw = canonical(found.manifest)
    found.documents[MANIFEST_NAME] = found.raw
    manifest_id = found.manifest_id
    assert manifest_id is not None
    name = target.root.resolve().name
    size = sum(entry.size_bytes for entry in entries)
    return Release(name=name, manifest_id=manifest_id, files=len(entries), size_bytes=size, cids={})


def _result(
    found: Resolved, plan: Plan, outcome: Outcome, output: Path, gone: Gone | None = None
) -> dict[str, Any]:
    gone = gone or Gone()
    rows = [row.as_json() for row in outcome.rows]
    return {
        "output": str(output),
        "manifest_id": found.manifest_id,
        "pinned": found.pinned,
        "files": len(plan.chosen),
        "size_bytes": sum(wanted.size_bytes for wanted in plan.chosen),
        "files_kept": len(plan.kept),
        "files_fetched": len(plan.jobs) - len(outcome.lost) - len(outcome.unfinished),
        "files_left_out": plan.left_out,
        "files_replaced": len(plan.replaced),
        "files_reused": len(plan.reused),
        "files_gone": gone.there,
        "files_pruned": gone.pruned,
        "bytes_resumed": plan.resumed_bytes,
        "bytes_reused": sum(wanted.size_bytes for wanted in plan.reused),
        "bytes_received": sum(row.received_bytes for row in outcome.rows),
        "bytes_wrong": sum(row.wrong_bytes for row in outcome.rows),
        "liars": [{"source": row.source, **lie} for row in outcome.rows for lie in row.lies],
        "failed": outcome.lost,
        "sources": rows,
        "skipped": found.skipped,
    }


def _failure(outcome: Outcome, plan: Plan, output: Path, options: FetchOptions) -> HeadwaterError:
    """What to end with: wrong bytes before silence, silence before absence."""
    kept = f"; {len(plan.chosen) - len(outcome.lost) - len(outcome.unfinished):,} of {len(plan.chosen):,} files are there"
    if outcome.lost:
        listing = "".join(f"\n  {line}" for line in outcome.lost[:SHOWN])
        more = f"\n  and {len(outcome.lost) - SHOWN:,} more" if len(outcome.lost) > SHOWN else ""
        files = "1 file" if len(outcome.lost) == 1 else f"{len(outcome.lost):,} files"
        message = f"{output}: {files} could not be had{kept}:{listing}{more}"
        if outcome.lied:
            return IntegrityError(message, hint=MORE)
        if outcome.refusal is not None:
            return type(outcome.refusal)(message, hint=outcome.refusal.hint or MORE)
        return MissingInput(message, hint=MORE)
    why = f" ({outcome.last_error})" if outcome.last_error else ""
    listing = "".join(f"\n  {path}" for path in outcome.unfinished[:SHOWN])
    if len(outcome.unfinished) > SHOWN:
        listing += f"\n  and {len(outcome.unfinished) - SHOWN:,} more"
    return Unreachable(
        f"{output}: no source sent anything for {options.patience_seconds:g} s{why}{kept}; missing are:{listing}",
        hint="the same line goes on where this one stopped",
    )


def _dry_run(
    locations: Sequence[str],
    output: Path,
    options: FetchOptions,
    work: Path,
    reusable: Sequence[OpenRelease],
    *,
    ours: bool,
) -> dict[str, Any]:
    """What a fetch would do: the sources are asked, nothing is written."""
    found = resolve(locations, options, _context(options, work), output / INSIDE / MANIFEST_NAME)
    try:
        collect(found, found.alive, output.name)
        chosen = choose(found.wanted, options.include, options.exclude)
        there = Target(output, writable=False) if output.is_dir() else None
        try:
            workers = options.workers or default_workers()
            older = read_older(output, found.raw, found.manifest)
            blocked = _in_the_way(found, chosen, there, older, options)[0] if there else Blocked()
            plan = make_plan(
                found.wanted,
                chosen,
                piece_hashes(found),
                there,
                None,
                ours=ours,
                workers=workers,
                blocked=blocked.paths,
            )
            with Shelves(there, older, reusable) as shelves:
                here = shelves.offers(plan)
            gone = [entry.path for entry in find_gone(older, found.wanted, there)] if there else []
        finally:
            if there is not None:
                there.close()
        needed, free = plan.missing_bytes, free_bytes(output)
    finally:
        _close(found.sources)
    sources = [source.label for source in found.sources]
    lines = [
        f"would bring {files_text(len(plan.jobs))}, {needed:,} bytes, into {output} ({free:,} bytes free)",
        *([f"of these, {here:,} bytes seem to be on this disk"] if here else []),
        f"already there and right: {files_text(len(plan.kept))}",
        *(
            f"would remove {path} unless it was edited" if options.prune else f"not in this release: {path}"
            for path in gone[:SHOWN]
        ),
        *([f"and {len(gone) - SHOWN:,} more"] if len(gone) > SHOWN else []),
        *(f"source: {label}" for label in sources),
        *(f"left out: {skipped['source']}: {skipped['why']}" for skipped in found.skipped),
    ]
    return {
        "output": str(output),
        "manifest_id": found.manifest_id,
        "pinned": found.pinned,
        "files": len(chosen),
        "files_kept": len(plan.kept),
        "files_replaced": len(plan.replaced),
        "files_gone": gone,
        "bytes_to_fetch": needed,
        "bytes_reusable": here,
        "bytes_free": free,
        "enough_space": needed <= free,
        "sources": sources,
        "skipped": found.skipped,
        "text": "\n".join(lines),
    }


def _context(options: FetchOptions, work: Path) -> Context:
    stall = options.stall_seconds
    return Context(
        work=work,
        limits=Limits(stall_seconds=stall, connect_seconds=min(10.0, stall)),
        allow_private=options.allow_private,
        gateways=options.gateways,
        ipfs_api=options.ipfs_api,
        peers=options.peers,
        local_only=options.local_only,
    )


def _close(sources: Sequence[Source]) -> None:
    for source in sources:
        source.close()
