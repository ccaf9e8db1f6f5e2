"""Locations that a document names: `headwater fetch manifest.json -o DIR` asks every place that is listed beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from headwater.console import say
from headwater.errors import IntegrityError, MissingInput, UsageError
from headwater.release import (
    LOCATIONS_NAME,
    MANIFEST_NAME,
    Locations,
    parse_manifest,
    read_document,
    read_limited,
)


def expand(
    locations: Sequence[str], manifest: str | None, *, ipfs: bool
) -> tuple[tuple[str, ...], str | None]:
    """Locations with those of manifest.json and locations.json files put in their place, and the manifest that they pin.

    A manifest.json on this disk is what is trusted, unless `manifest` says something else; the locations.json beside it is only a
    list of places to ask. `ipfs`: whether there is a gateway or a node to ask for CIDs. Raises UsageError when nothing is listed,
    IntegrityError for two documents that contradict each other.
    """
    found: list[str] = []
    for location in locations:
        path = Path(location)
        if path.name not in (MANIFEST_NAME, LOCATIONS_NAME) or not path.is_file():
            found.append(location)
            continue
        listing = _listing(path)
        manifest_id: str | None
        if path.name == MANIFEST_NAME:
            manifest_id = parse_manifest(read_limited(path), None, location).id
            manifest = manifest or location
        else:
            manifest_id = listing.manifest_id if listing else None
            manifest = manifest or manifest_id
        if listing is not None:
            if listing.manifest_id != manifest_id:
                raise IntegrityError(
                    f"{path.with_name(LOCATIONS_NAME)}: is about another manifest than {path.name}"
                )
            found += _usable(listing, ipfs)
    if not found:
        raise UsageError(
            "no location to fetch from is listed beside the manifest",
            hint="name one as well: headwater fetch manifest.json https://… -o DIR",
        )
    return tuple(dict.fromkeys(found)), manifest


def _listing(path: Path) -> Locations | None:
    file = path.with_name(LOCATIONS_NAME)
    if not file.is_file():
        if path.name == LOCATIONS_NAME:
            raise MissingInput(f"{file}: no such file")
        return None
    return read_document(file, Locations)


def _usable(listing: Locations, ipfs: bool) -> list[str]:
    usable = [one.url for one in listing.locations if one.kind != "ipfs" or ipfs]
    if len(usable) < len(listing.locations):
        say("info", "the CIDs that are listed are not asked for: name a --gateway or an --ipfs-api")
    return usable
