"""Where IPFS data are: the text of a location taken apart, and names of the kind that a node has to look up."""

from __future__ import annotations

import re
from contextlib import closing
from urllib.parse import parse_qs, urlsplit

from distribute.cid import Cid
from distribute.transports._base import Context, Refused
from headwater.console import say
from headwater.errors import IntegrityError
from headwater.manifest import safe_relative

_HEX = re.compile("[0-9a-f]{64}")


def parse_location(location: str) -> tuple[Cid, str | None, str]:
    """(CID, manifest id or None, file name or "") of `ipfs://CID[?manifest=ID][&filename=NAME]` or a bare CID.

    Raises Refused for what is no such location, also for a path below a CID.
    """
    text = location if "://" in location else f"ipfs://{location}"
    parts = urlsplit(text)
    query = parse_qs(parts.query)
    manifest_id = query.get("manifest", [""])[0].lower()
    try:
        cid = Cid.parse(parts.netloc)
        name = safe_relative(query.get("filename", ["file"])[0])
    except IntegrityError as error:
        raise Refused(
            f"{location[:200]}: {error.message}", hint="write it as ipfs://CID or ipfs://CID?manifest=ID"
        ) from error
    if parts.path.strip("/"):
        raise Refused(
            f"{location[:200]}: a path below a CID is not taken",
            hint="fetch the folder, with --include PATTERN",
        )
    if manifest_id and not _HEX.fullmatch(manifest_id):
        raise Refused(f"{location[:200]}: a manifest id has 64 hex digits")
    return cid, manifest_id or None, name if "filename" in query else ""


def resolved(location: str, context: Context) -> str:
    """The ipfs:// location that an IPNS name points at, by the word of the user's node."""
    from distribute.transports._kubo import Kubo

    parts = urlsplit(location)
    if not context.ipfs_api:
        raise Refused(
            f"{location[:200]}: a node has to say what this name points at", hint="name one with --ipfs-api"
        )
    with closing(Kubo(context.ipfs_api, context)) as node:
        cid = node.resolve_name(f"/ipns/{parts.netloc}")
    say(
        "warning", f"{location[:200]} is {cid.text} by the word of {node.label}; --manifest ID would prove it"
    )
    return f"ipfs://{cid.text}" + (f"?{parts.query}" if parts.query else "")
