"""After a release is made: the signed pointer, exports, and sending it to places. Each place is tried, failures are told together."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from distribute._publish_checks import apart
from distribute.transports._redact import redact
from headwater.checkpoint import cache_folder
from headwater.console import say
from headwater.errors import HeadwaterError, IntegrityError, UsageError, nearest
from headwater.files import STANDARD_OUTPUT, atomic_file, named_io
from headwater.plugins import load
from headwater.release import (
    LATEST_NAME,
    LOCATIONS_NAME,
    MANIFEST_NAME,
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

    @property
    def to_stdout(self) -> bool:
        """Whether standard output is the CAR's."""
        return self.car is not None and str(self.car) == "-"


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
        if name == "http" and not place.lower().startswith(("http://", "https://")):
            name = "s3"  # a store that takes uploads, which a web server does not
        found[name] = place
    return found


def check(extras: Extras, folder: Path, output: Path, *, force: bool = False) -> None:
    """Find what is wrong with the extras before hours of reading: SignatureFailure, MissingInput, UsageError.

    What is there already is left to `after` when it is of our making: it may be the very thing.
    """
    from distribute.pointer import load_private, next_body
    from headwater.steps import check_output

    if extras.key is not None:
        load_private(extras.key)
        next_body(None, "", "0" * 64, days=extras.days)
    if extras.bagit is not None:
        _outside(folder, output, extras.bagit, "--bagit")
        if not (extras.bagit / "headwater" / MANIFEST_NAME).is_file():
            check_output(extras.bagit, "folder")
    if extras.car is not None and not extras.to_stdout:
        _outside(folder, output, extras.car, "--car")
        check_output(extras.car)
        if extras.car.exists() and not force and _car_roots(extras.car) is None:
            raise UsageError(f"--car {extras.car}: is there, and is no CAR", hint="--force replaces it")


def _outside(folder: Path, output: Path, written: Path, option: str) -> None:
    """Neither the files that are published nor the release may get anything more."""
    apart(folder, written, option)
    if output.resolve() in (written.resolve(), *written.resolve().parents):
        raise UsageError(
            f"{option} {written}: lies inside the release {output}", hint="choose a place outside"
        )


def _car_roots(path: Path) -> list[str] | None:
    """Roots of a CAR that is there, None for another file."""
    from distribute.car import read_car

    try:
        with named_io(path), open(path, "rb") as handle:
            return [root.text for root in read_car(handle).roots]
    except IntegrityError:
        return None


def after(
    result: dict[str, Any],
    output: Path,
    places: dict[str, str],
    extras: Extras,
    *,
    dry_run: bool,
    folder: Path | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Make the extras and send the release; returns `result` with what was done. Raises HeadwaterError when a place failed.

    `folder`: where the files are when the release holds none (`--data none`).
    """
    lines = [result.pop("text", "")]
    if dry_run:
        lines += _would_send(output, places)
        shown = {name: redact(place) for name, place in places.items()}
        return {**result, "would_send": shown, "text": "\n".join(lines)}
    opened = open_release(output)
    if folder is not None and not opened.data.is_dir():
        opened = replace(opened, data=folder)
    if extras.key is not None:
        lines.append(_sign(opened, extras))
    if extras.bagit is not None:
        lines.append(_bag(opened, extras.bagit))
    if extras.car is not None:
        if not extras.to_stdout:
            _same_car(opened, extras.car, force=force)
        write_full_car(opened, extras.car)
        lines.append(f"CAR       {STANDARD_OUTPUT if extras.to_stdout else extras.car}")
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
        lines.append(f"would send it by {name}{' to ' + redact(place) if place else ''}")
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

    root = Cid.parse(_root(opened))
    with _binary(target) as handle:
        export_tree(handle, root, store.get, read)


def _root(opened: OpenRelease) -> str:
    assert opened.manifest.cid_profile is not None
    return opened.release.cids[opened.manifest.cid_profile]


def _same_car(opened: OpenRelease, path: Path, *, force: bool) -> None:
    """A CAR that is there is written again only when it is of this release, or with --force."""
    if path.exists() and not force and _car_roots(path) != [_root(opened)]:
        raise UsageError(
            f"--car {path}: is there, and is of something else", hint="--force replaces it, or choose another"
        )


def _bag(opened: OpenRelease, path: Path) -> str:
    """Write the bag, or find that it is there."""
    from distribute.exports import TAGS, bagit

    known = path / TAGS / MANIFEST_NAME
    if known.is_file():
        with named_io(known):
            same = known.read_bytes() == opened.file(MANIFEST_NAME).read_bytes()
        if not same:
            raise UsageError(
                f"--bagit {path}: is a bag of another release", hint="choose another, or remove it yourself"
            )
        return f"BagIt     {path} (was there)"
    bagit(opened, path)
    return f"BagIt     {path}"


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
    pointer = sign_release(
        opened, extras.key, dataset=extras.dataset, days=extras.days, after=extras.after, keep=True
    )
    body = pointer.body
    return f"latest    {opened.file(LATEST_NAME)}: version {body.version}, until {body.expires_at}"
