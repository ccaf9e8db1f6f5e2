"""Commands that make and give a release: publish, seed, key, sign. Parse, call, render."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from headwater.options import Settings, common

FOLDER = click.Path(file_okay=False, path_type=Path)


def _list(value: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in (value or "").split(",") if part.strip())


@click.command()
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.option("-o", "--output", required=True, type=FOLDER, help="The release to write (a folder).")
@click.option("--name", help="Name of the release and of its torrents.  [default: that of DIR]")
@click.option(
    "--parent", type=FOLDER, help="The release before this one: tell, link and send only what is new."
)
@click.option("--torrent", "torrents", metavar="KINDS", help="v1, v2, hybrid, delta or none, with commas.")
@click.option(
    "--piece-size", type=int, metavar="BYTES", help="Power of two.  [default: 256 KiB to 16 MiB by size]"
)
@click.option("--profiles", metavar="NAMES", help="CID profiles, with commas; the first is the manifest's.")
@click.option(
    "--tracker", "trackers", multiple=True, metavar="URL", help="Tracker of the torrents; repeatable."
)
@click.option(
    "--mirror", "mirrors", multiple=True, metavar="URL", help="Where RELEASE will lie: web seed; repeatable."
)
@click.option("--data", type=click.Choice(["link", "copy", "none"]), default="link", show_default=True,
              help="Files in RELEASE: hard links, copies, or none.")  # fmt: skip
@click.option("--pack", is_flag=True, help="Put small files into indexed tars first.")
@click.option(
    "--allow", multiple=True, metavar="PATH", help="Publish this path although the check objects; repeatable."
)
@click.option("--portable", type=click.Choice(["warn", "refuse", "off"]), default="warn", show_default=True,
              help="Names that other systems cannot hold.")  # fmt: skip
@click.option(
    "--key", "key", type=click.Path(dir_okay=False, path_type=Path), help="Sign latest.json with this key."
)
@click.option("--dataset", help="Name of the dataset that latest.json is about.  [default: the release's]")
@click.option("--days", type=float, default=90, show_default=True, help="How long latest.json is valid.")
@click.option(
    "--car",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also write the whole DAG as a CAR file; - is stdout.",
)
@click.option("--bagit", type=FOLDER, help="Also write a BagIt bag (hard links).")
@click.option("--via", metavar="NAMES", help="Send it now: bittorrent, ipfs, girder, http, with commas.")
@click.option(
    "--ipfs-api", metavar="URL", default="http://127.0.0.1:5001", show_default=True, help="Kubo's RPC."
)
@click.option(
    "--girder", metavar="LOCATION", help="girder+https://HOST/api/v1#collection/NAME; key in GIRDER_API_KEY."
)
@click.option("--http-target", metavar="LOCATION", help="s3://BUCKET/PREFIX, or another fsspec location.")
@click.option("--cache", type=FOLDER, help="Where digests are kept.  [default: DIR/.headwater]")
@click.option(
    "--distrust-cache", is_flag=True, help="Read every file again instead of trusting size and time."
)
@common
def publish(settings: Settings, *, folder: Path, output: Path, **values: Any) -> dict[str, Any] | None:
    """Make a release of DIR: one manifest with every digest, torrents, CIDs, and hard links of the files.

    \b
    headwater publish shards -o release
    headwater publish shards -o release-2 --parent release
    headwater publish shards -o release --via ipfs,http --http-target s3://bucket/shards
    """
    from dataclasses import replace

    from distribute import sending
    from distribute.publishing import DEFAULT_PROFILES, PublishOptions
    from distribute.publishing import publish as make
    from distribute.transports._redact import redact
    from headwater.console import say
    from headwater.errors import UsageError
    from headwater.release import LATEST_NAME

    via = _list(values["via"])
    targets = sending.targets(via, values["ipfs_api"], values["girder"], values["http_target"])
    options = PublishOptions(
        name=values["name"],
        profiles=_list(values["profiles"]) or DEFAULT_PROFILES,
        piece_size_bytes=values["piece_size"],
        torrents=_list(values["torrents"]),
        trackers=values["trackers"],
        mirrors=tuple(url if url.endswith("/") else f"{url}/" for url in values["mirrors"]),
        data=values["data"],
        parent=values["parent"],
        portable=values["portable"],
        allow=frozenset(values["allow"]),
        pack=values["pack"],
        cache=values["cache"],
        distrust_cache=values["distrust_cache"],
    )
    parent = values["parent"]
    extras = sending.Extras(
        key=values["key"],
        dataset=values["dataset"],
        days=values["days"],
        after=parent if parent and (parent / LATEST_NAME).is_file() else None,
        car=values["car"],
        bagit=values["bagit"],
    )
    if extras.to_stdout and settings.as_json:
        raise UsageError(
            "--car - and --json: standard output cannot be both", hint="--car FILE, or without --json"
        )
    sending.check(extras, folder, output, force=settings.force)
    run = settings.run_options()
    # the record goes to everybody, with its command line
    run = replace(run, command=tuple(redact(word) for word in run.command))
    result = make(folder, output, options, run, workers=settings.workers)
    result = sending.after(
        result, output, targets, extras, dry_run=settings.dry_run, folder=folder, force=settings.force
    )
    if extras.to_stdout and not settings.dry_run:
        say("info", result["text"])
        return None
    return result


@click.command()
@click.argument("release", type=FOLDER)
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 is every one."
)
@click.option(
    "--port", type=int, default=8080, show_default=True, help="Of HTTP and the gateway; 0: any free one."
)
@click.option(
    "--torrent-port", type=int, default=6881, show_default=True, help="Of BitTorrent; 0: any free one."
)
@click.option("--no-bittorrent", is_flag=True, help="Do not seed the torrents.")
@click.option("--no-gateway", is_flag=True, help="Do not answer as an IPFS gateway.")
@click.option(
    "--tracker", "trackers", multiple=True, metavar="URL", help="Announce the torrents there; repeatable."
)
@click.option("--upload-limit", type=int, metavar="BYTES", help="Bytes a second, for each of the two ports.")
@click.option("--public-url", metavar="URL", help="How others reach the HTTP port, for what is printed.")
@click.option(
    "--local", is_flag=True, help="BitTorrent without DHT and discovery. Always so on a loopback --host."
)
@click.option(
    "--for", "seconds", type=float, metavar="SECONDS", help="Stop by itself.  [default: until told]"
)
@common
def seed(settings: Settings, *, release: Path, **values: Any) -> dict[str, Any]:
    """Give RELEASE to everybody: HTTP mirror, IPFS gateway and torrents from one process and the same files.

    RELEASE is what publish wrote, or a folder that fetch filled. Ends with 0 on an interrupt, and prints what it gave.
    """
    from distribute import seeding
    from headwater.errors import UsageError
    from headwater.release import open_release

    if values["seconds"] is not None and not values["seconds"] > 0:
        raise UsageError(f"--for is {values['seconds']:g}: it must be above 0")
    opened = open_release(release)
    options = seeding.SeedOptions(
        host=values["host"],
        port=values["port"],
        torrent_port=values["torrent_port"],
        bittorrent=not values["no_bittorrent"],
        gateway=not values["no_gateway"],
        upload_limit=values["upload_limit"],
        trackers=values["trackers"],
        public_url=values["public_url"],
        local_only=values["local"] or seeding.is_loopback(values["host"]),
    )
    if settings.dry_run:
        return seeding.dry_run(opened, options)
    totals = seeding.seed(opened, options, ready=seeding.announce, seconds=values["seconds"])
    return {**totals.document(), "text": totals.text()}


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@common
def key(settings: Settings, *, file: Path) -> dict[str, Any]:
    """Make a key for signing: the private part in FILE, the public part is printed. An existing FILE only tells its public part."""
    from distribute.pointer import key_id, load_private, new_key, public_key, public_text

    made = not file.exists()
    if settings.dry_run:
        return {"would_make": made, "text": f"would make {file}" if made else f"{file} is there"}
    public = new_key(file) if made else public_key(load_private(file))
    what = "keep it, never publish it" if made else "was there"
    text = f"public key  {public_text(public)}\nkey id      {key_id(public)}\nprivate key {file}: {what}"
    return {
        "public_key": public_text(public),
        "key_id": key_id(public),
        "private_key_file": str(file),
        "made": made,
        "text": text,
    }


@click.command()
@click.argument("release", type=FOLDER)
@click.option(
    "--key",
    "key_file",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="Private key: headwater key FILE.",
)
@click.option("--dataset", help="Name of the dataset.  [default: as before, or the release's]")
@click.option(
    "--after", type=click.Path(path_type=Path), help="The release, or the latest.json, that this one follows."
)
@click.option("--days", type=float, default=90, show_default=True, help="How long the pointer is valid.")
@click.option("--add", is_flag=True, help="Add a signature to the pointer that is there.")
@common
def sign(settings: Settings, *, release: Path, key_file: Path, **values: Any) -> dict[str, Any]:
    """Sign that RELEASE is the latest one of its dataset: writes latest.json, which fetch --key checks.

    It has a version that only grows and a date after which it counts no more, so that neither an old release nor an old pointer
    passes for the newest.
    """
    from distribute import pointing
    from headwater.release import LATEST_NAME, open_release

    opened = open_release(release)
    dry_run = settings.dry_run
    if values["add"]:
        pointer = pointing.add_to_release(opened, key_file, dry_run=dry_run)
    else:
        pointer = pointing.sign_release(
            opened,
            key_file,
            dataset=values["dataset"],
            days=values["days"],
            after=values["after"],
            dry_run=dry_run,
        )
    body, keys = pointer.body, len(pointer.signatures)
    text = (
        f"{body.dataset} version {body.version}: manifest {body.manifest_id}, until {body.expires_at}, "
        f"signed by {keys} {'key' if keys == 1 else 'keys'}"
    )
    if dry_run:
        file = str(opened.file(LATEST_NAME))
        return {"would_write": file, "body": body.model_dump(), "text": f"would write {file}: {text}"}
    return {**pointer.model_dump(mode="json"), "text": text}
