"""What a person wants to read after publishing: the one id to trust, the names on each network, and the next line to type."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from distribute.documents import kind_magnet, release_magnet
from headwater.manifest import Step
from headwater.release import OpenRelease


def summary(opened: OpenRelease, output: Path, step: Step, *, cached: bool) -> dict[str, Any]:
    """Facts of a release, with their "text"."""
    release, details = opened.release, step.details
    magnets = {kind: kind_magnet(release, kind) for kind in release.torrents}
    facts = {
        "release": str(output),
        "name": release.name,
        "manifest_id": release.manifest_id,
        "files": release.files,
        "size_bytes": release.size_bytes,
        "cids": release.cids,
        "torrents": {kind: torrent.model_dump() for kind, torrent in release.torrents.items()},
        "magnets": magnets,
        "parents": release.parents,
        "up_to_date": cached,
        **details,
        "counts": step.identity.counts.model_dump(),
        "energy": step.energy.model_dump(mode="json"),
        "step": step.id,
    }
    lines = [
        f"{release.name}: {release.files:,} files, {release.size_bytes:,} bytes",
        f"manifest  {release.manifest_id}",
        *(f"CID       {cid}  ({profile})" for profile, cid in release.cids.items()),
    ]
    if release.torrents:
        lines.append(f"magnet    {release_magnet(release)}")
    lines.append(f"torrents  {', '.join(torrent.file for torrent in release.torrents.values()) or 'none'}")
    if details.get("new_files") is not None:
        lines.append(
            f"since {release.parents[0][:12]}: {details['new_files']:,} new or changed files, {details['new_bytes']:,} bytes; "
            f"{details['gone_files']:,} gone"
        )
    if not cached:
        lines.append(f"read {details.get('read_bytes', 0):,} bytes{_again(details)}{_twice(details)}")
    lines.append(f"next      headwater seed {shlex.quote(str(output))}")
    return {**facts, "text": "\n".join(lines)}


def _again(details: dict[str, Any]) -> str:
    again = details.get("read_again_bytes") or 0
    return f", and {again:,} bytes again for v1 pieces" if again else ""


def _twice(details: dict[str, Any]) -> str:
    copied = details.get("second_copy_bytes") or 0
    return f"; {copied:,} bytes were copied, so there are two of them" if copied else "; no second copy"
