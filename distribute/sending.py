"""After a release is made: exports, the signed pointer, and sending it to places. Each place is tried, failures are told together."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from headwater.checkpoint import cache_folder
from headwater.console import say
from headwater.errors import HeadwaterError, UsageError, nearest
from headwater.files import atomic_file, named_io
from headwater.plugins import load
from headwater.release import (
    LATEST_NAME,
    LOCATIONS_NAME,
    NODES_NAME,
    RELEASE_NAME,
    Location,
    Locations,
    OpenRelease,
    open_release,
    read_document,
    write_canonical,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distribute.transports._base import Context, Published

NAMES = ("bittorrent", "ipfs", "girder", "http")


@dataclass(frozen=True)
class Extras:
    """What else to make of a release."""

    key: Path | None = None
    dataset: str | None = None
    days: float = 90
    after: Path | None = None  # the release before, whose pointer this one follows
    car: Path | None = None
    bagit: Path | None = None


def targets(
    via: tuple[str, ...], ipfs_api: str | None, girder: str | None, http: str | None
) -> dict[str, str]:
    """Transport name to where it sends, for `--via`. Raises UsageError for an unknown name or a missing place."""
    places = {"bittorrent": "", "ipfs": ipfs_api, "girder": girder, "http": http}
    found = {}
    for name in via:
        if name not in places:
            raise UsageError(f"unknown transport {name!r}: {nearest(name, NAMES)}")
        place = places[name]
        if place is None:
            option = {"girder": "--girder LOCATION", "http": "--http-target LOCATION"}.get(
                name, "--ipfs-api URL"
            )
            raise UsageError(f"--via {name} needs a place to send to", hint=option)
        found[name] = place
    return found


def check(extras: Extras) -> None:
    """Find what is wrong with the extras before hours of reading: SignatureFailure, MissingInput, UsageError."""
    from distribute.pointer import load_private
    from headwater.steps import check_output

    if extras.key is not None:
        load_private(extras.key)
    if extras.bagit is not None:
        check_output(extras.bagit, "folder")
    if extras.car is not None and str(extras.car) != "-":
        check_output(extras.car)


def after(
    result: dict[str, Any],
    output: Path,
    places: dict[str, str],
    extras: Extras,
    *,
    dry_run: bool,
) -> dict[str, Any]:
    """Make the extras and send the release; returns `result` with what was done. Raises HeadwaterError when a place failed."""
    lines = [result.pop("text", "")]
    if dry_run:
        lines += [
            f"would send it by {name}{' to ' + place if place else ''}" for name, place in places.items()
        ]
        return {**result, "would_send": places, "text": "\n".join(lines)}
    opened = open_release(output)
    if extras.key is not None:
        lines.append(_sign(opened, extras))
    if extras.bagit is not None:
        from distribute.exports import bagit

        bagit(opened, extras.bagit)
        lines.append(f"BagIt     {extras.bagit}")
    if extras.car is not None:
        write_full_car(opened, extras.car)
        lines.append(f"CAR       {extras.car}")
    sent, failed = send(opened, places, _context(opened))
    lines += [f"sent      {name}: {done.text or done.files}" for name, done in sent.items()]
    result["sent"] = {
        name: {
            "files": done.files,
            "sent_bytes": done.sent_bytes,
            "location": done.location and done.location.url,
        }
        for name, done in sent.items()
    }
    if failed:
        listing = "".join(f"\n  {name}: {error.message}" for name, error in failed.items())
        done_there = f"; it went to {', '.join(sent)}" if sent else ""
        raise HeadwaterError(
            f"the release is at {output}, but was not sent everywhere{done_there}:{listing}",
            hint=next((error.hint for error in failed.values() if error.hint), None)
            or "the same command line sends what is missing",
        )
    return {**result, "text": "\n".join(line for line in lines if line)}


def _would_send(output: Path, places: dict[str, str]) -> list[str]:
    """What sending would do: where the release is made already, what each place lacks."""
    lines = []
    for name, place in places.items():
        lines.append(f"would send it by {name}{' to ' + place if place else ''}")
        if (output / RELEASE_NAME).is_file():
            opened = open_release(output)
            done = load("transports", name).publish(opened, place, _context(opened), dry_run=True)
            lines += [f"  {action}" for action in done.actions[:50]]
            if len(done.actions) > 50:
                lines.append(f"  and {len(done.actions) - 50:,} more")
    return lines


def _context(opened: OpenRelease) -> Context:
    from distribute.transports._base import Context

    # the places are the user's own words on the command line, so private addresses are meant
    return Context(work=cache_folder() / "publish" / opened.release.manifest_id, allow_private=True)


def send(
    opened: OpenRelease, places: dict[str, str], context: Context
) -> tuple[dict[str, Published], dict[str, HeadwaterError]]:
    """Give the release to each transport; a place that fails does not keep it from the others."""
    sent: dict[str, Published] = {}
    failed: dict[str, HeadwaterError] = {}
    for name, place in places.items():
        try:
            done = load("transports", name).publish(opened, place, context, dry_run=False)
        except HeadwaterError as error:
            say("warning", f"{name}: {error.message}")
            failed[name] = error
            continue
        sent[name] = done
        if done.location is not None:
            add_location(opened, done.location)
    return sent, failed


def add_location(opened: OpenRelease, location: Location) -> None:
    """Note one more place in locations.json."""
    file = opened.file(LOCATIONS_NAME)
    known = read_document(file, Locations).locations if file.is_file() else []
    if location not in known:
        write_canonical(file, Locations(manifest_id=opened.release.manifest_id, locations=[*known, location]))


def write_full_car(opened: OpenRelease, target: Path) -> None:
    """All blocks of the release's folder under the manifest's profile as CARv1, streamed from the files; `-` is standard output."""
    from distribute.car import export_tree, load_car
    from distribute.cid import Cid

    with named_io(opened.file(NODES_NAME)), open(opened.file(NODES_NAME), "rb") as nodes:
        _, store = load_car(nodes)

    def read(path: str, offset: int, length: int) -> bytes:
        with named_io(opened.data / path), open(opened.data / path, "rb") as handle:
            return os.pread(handle.fileno(), length, offset)

    assert opened.manifest.cid_profile is not None
    root = Cid.parse(opened.release.cids[opened.manifest.cid_profile])
    with _binary(target) as handle:
        export_tree(handle, root, store.get, read)


@contextmanager
def _binary(target: Path) -> Iterator[IO[bytes]]:
    if str(target) == "-":
        yield sys.stdout.buffer
        return
    with atomic_file(target) as handle:
        yield handle


def _sign(opened: OpenRelease, extras: Extras) -> str:
    from distribute.pointing import sign_release

    assert extras.key is not None
    pointer = sign_release(opened, extras.key, dataset=extras.dataset, days=extras.days, after=extras.after)
    return f"latest    {opened.file(LATEST_NAME)}: version {pointer.body.version}, until {pointer.body.expires_at}"
