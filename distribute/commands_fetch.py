"""Commands that bring a release or ask after it: fetch, mirror. Parse, call, render."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from headwater.options import Settings, common

FOLDER = click.Path(file_okay=False, path_type=Path)
_REACH = (
    click.option(
        "--gateway", "gateways", multiple=True, metavar="URL", help="Trustless IPFS gateway; repeatable."
    ),
    click.option("--ipfs-api", metavar="URL", help="RPC of a Kubo node."),
    click.option(
        "--peer", "peers", multiple=True, metavar="HOST:PORT", help="BitTorrent peer to ask; repeatable."
    ),
    click.option("--allow-private", is_flag=True, help="Connect to loopback and private addresses."),
    click.option(
        "--local",
        is_flag=True,
        help="BitTorrent without DHT and trackers elsewhere; implies --allow-private.",
    ),
    click.option(
        "--stall",
        type=float,
        default=20.0,
        show_default=True,
        metavar="SECONDS",
        help="Silence after which a source is passed over.",
    ),
)


def reach(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options of every command that asks other machines: whom, and how long."""
    for option in reversed(_REACH):
        function = option(function)
    return function


@click.command()
@click.argument("locations", nargs=-1, required=True, metavar="LOCATION…")
@click.option("-o", "--output", required=True, type=FOLDER, help="Folder to fill; what is right in it stays.")
@click.option(
    "--manifest", metavar="ID", help="What to trust: the manifest id, or a file or address of manifest.json."
)
@click.option(
    "--include", multiple=True, metavar="PATTERN", help="Only these files; repeatable. ** crosses folders."
)
@click.option("--exclude", multiple=True, metavar="PATTERN", help="Not these files; repeatable.")
@click.option(
    "--prune",
    is_flag=True,
    help="Remove files that older releases left in the folder and this one does not have; edited ones stay.",
)
@click.option(
    "--reuse",
    multiple=True,
    type=FOLDER,
    metavar="DIR",
    help="Release or fetched folder on this disk: equal files are copied (blocks shared where the disk can), not fetched.",
)
@click.option(
    "--key", "keys", multiple=True, metavar="KEY", help="Public key that latest.json must be signed with."
)
@click.option(
    "--threshold", type=int, default=1, show_default=True, help="How many different keys must have signed."
)
@click.option("--dataset", help="Name of the dataset that latest.json must be about.")
@click.option("--allow-expired", is_flag=True, help="Accept a latest.json past its date.")
@reach
@click.option(
    "--patience",
    type=float,
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="Silence of all that ends it.",
)
@click.option(
    "--connections",
    type=int,
    default=16,
    show_default=True,
    help="To each source, at most; more than 4 only while small files wait for a far one.",
)
@common
def fetch(settings: Settings, *, locations: tuple[str, ...], output: Path, **values: Any) -> dict[str, Any]:
    """Bring a release from all LOCATIONs at once, check every byte, and say who gave what.

    A location is an address of a release, a magnet link, a .torrent, ipfs://CID, girder+https://…, s3://…, a folder, or a
    manifest.json with a locations.json beside it.
    Interrupted, the same line goes on from what is there. Wrong bytes are fetched again from another place.
    A newer release into the same folder: only what is new in it is fetched.
    GIRDER_API_KEY is shown only to the server that GIRDER_API_URL names.

    \b
    headwater fetch https://data.example/shards/ --manifest ID -o shards
    headwater fetch magnet:?xt=… https://mirror.example/shards/ -o shards --include '*.json'
    """
    from distribute.fetch import fetch as bring
    from distribute.fetching.options import FetchOptions
    from distribute.listed import expand

    someone = bool(values["gateways"] or values["ipfs_api"])
    locations, manifest = expand(locations, values["manifest"], ipfs=someone)
    options = FetchOptions(
        manifest=manifest,
        include=values["include"],
        exclude=values["exclude"],
        prune=values["prune"],
        reuse=tuple(map(str, values["reuse"])),
        allow_private=values["allow_private"] or values["local"],
        gateways=values["gateways"],
        ipfs_api=values["ipfs_api"],
        peers=values["peers"],
        stall_seconds=values["stall"],
        patience_seconds=values["patience"],
        connections=values["connections"],
        keys=values["keys"],
        threshold=values["threshold"],
        dataset=values["dataset"],
        allow_expired=values["allow_expired"],
        local_only=values["local"],
        workers=settings.workers,
    )
    return bring(locations, output, options, settings.run_options())


@click.command()
@click.argument("release", type=FOLDER)
@click.argument("locations", nargs=-1, metavar="[LOCATION]…")
@click.option(
    "--pieces", type=int, default=5, show_default=True, help="Sampled pieces that each location must give."
)
@reach
@common
def mirror(settings: Settings, *, release: Path, locations: tuple[str, ...], **values: Any) -> dict[str, Any]:
    """Ask each location of RELEASE (default: those of its locations.json) whether it is alive and right.

    Each must have the manifest and give sampled pieces that fit it. Exit code 13: one gives wrong bytes; 3: one is dead or incomplete.
    """
    from distribute import mirroring
    from distribute.transports._base import Context, Limits
    from headwater.errors import HeadwaterError
    from headwater.options import emit
    from headwater.release import open_release

    opened = open_release(release)
    asked = list(locations) or mirroring.known_locations(opened)
    if settings.dry_run:
        return {"would_ask": asked, "text": "\n".join(f"would ask {location}" for location in asked)}
    with tempfile.TemporaryDirectory(prefix="headwater-mirror-") as work:
        context = Context(
            work=Path(work),
            limits=Limits(stall_seconds=values["stall"], attempts=2),
            allow_private=values["allow_private"] or values["local"],
            gateways=values["gateways"],
            ipfs_api=values["ipfs_api"],
            peers=values["peers"],
            local_only=values["local"],
        )
        answers = mirroring.ask_all(opened, asked, context, pieces=values["pieces"], seed=settings.seed or 0)
    try:
        return mirroring.report(opened, answers)
    except HeadwaterError as error:
        if settings.as_json:  # the table is what a script came for
            problem = {"kind": type(error).__name__, "message": error.message, "exit_code": error.exit_code}
            emit({**mirroring.table(opened, answers), "problem": problem}, as_json=True)
            error.told = True
        raise
