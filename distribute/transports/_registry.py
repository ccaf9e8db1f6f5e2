"""Which transport takes a location: by its beginning, or because it is a path on this disk.

RELEASE or any folder      file          ipfs://CID, bare CID              ipfs
http(s)://base/            http          girder+http(s)://…                girder
magnet:?…, FILE.torrent    bittorrent    s3://bucket/prefix                s3
http(s)://…/x.torrent      bittorrent    others: the transport whose SCHEMES has the beginning
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

from distribute.transports._base import Context, Refused, Source
from distribute.transports._redact import redact
from headwater.errors import MissingInput, UsageError
from headwater.plugins import family_members, load

KNOWN = {
    "http": "http",
    "https": "http",
    "magnet": "bittorrent",
    "ipfs": "ipfs",
    "ipns": "ipfs",
    "girder+http": "girder",
    "girder+https": "girder",
    "s3": "s3",
}
# addresses that a program must not be led to, whoever wrote them
NEVER = frozenset(
    {"file", "ftp", "ftps", "data", "gopher", "javascript", "jar", "netdoc", "dict", "ldap", "sftp"}
)
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*):", re.IGNORECASE)
_CID = re.compile(
    r"Qm[1-9A-HJ-NP-Za-km-z]{44}|b[a-z2-7]{50,}|B[A-Z2-7]{50,}|z[1-9A-HJ-NP-Za-km-z]{40,}|k[0-9a-z]{50,}|f01[0-9a-f]{60,}"
)


def transport_of(location: str) -> str:
    """Name of the transport that takes `location`.

    Raises UsageError for a beginning that none takes (`file:`, `ftp:` and the like never), MissingInput for a path that is not there.
    """
    if not location.strip():
        raise UsageError("an empty location", hint="name a folder, an address, a magnet link or a CID")
    path = Path(location)
    found = _SCHEME.match(location)
    scheme = found.group(1).lower() if found else ""
    if not scheme or (len(scheme) == 1 and path.exists()):
        if _exists(path):
            return "bittorrent" if path.is_file() and path.suffix == ".torrent" else "file"
        if _CID.fullmatch(location.partition("/")[0]):
            return "ipfs"
        raise MissingInput(
            f"{location}: no such folder, and no address",
            hint="an address begins with https://, magnet:, ipfs:// …",
        )
    if scheme in NEVER:
        raise Refused(
            f"{redact(location)[:200]!r}: {scheme}: addresses are never fetched", hint="use http or https"
        )
    if scheme in ("http", "https") and urlsplit(location).path.endswith(".torrent"):
        return "bittorrent"
    if scheme in KNOWN:
        return KNOWN[scheme]
    for member in family_members("transports"):
        if member.name not in KNOWN.values() and scheme in getattr(
            load("transports", member.name), "SCHEMES", ()
        ):
            return member.name
    if _exists(path):
        return "file"
    raise UsageError(
        f"{redact(location)[:200]!r}: no transport takes {scheme}: addresses",
        hint=f"known are {', '.join(sorted(KNOWN))}",
    )


def open_source(location: str, context: Context) -> Source:
    """The source at `location`. Raises what `transport_of` and the transport raise."""
    source: Source = load("transports", transport_of(location)).open_source(location, context)
    return source


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # too long, or a NUL inside
        return False
