"""Is a release still there? The root and a sample of blocks from each gateway and node, each hashed.

Listing a pin, or answering at all, proves little: only blocks that come and hash to their CIDs do.
"""

from __future__ import annotations

import random
import time

from distribute.cid import RAW, Cid
from distribute.dagpb import FILE, RAW_TYPE, decode_unixfs
from distribute.transports._base import NotThere, SourceError, WrongBytes
from distribute.transports._gateway import Provider
from distribute.transports._ipfs_publish import root_cid
from headwater.errors import IntegrityError
from headwater.release import OpenRelease

SAMPLE = 8  # files of which blocks are fetched from each provider, besides the root


def alive(release: OpenRelease, providers: list[Provider]) -> dict[str, object]:
    """Ask each provider for the root and a sample of the files' blocks, and check them.

    {"cid": …, "alive": whether some provider has all that was asked, "providers": [{"address", "alive", "blocks",
    "bytes", "seconds", "missing": [CID …], "wrong": [CID …], "error": text or None}, …]}. Closes the providers.
    """
    root = root_cid(release)
    with_cid = [entry.cid for entry in release.manifest.entries if entry.cid is not None]
    chosen = random.sample(with_cid, min(SAMPLE, len(with_cid)))  # another sample at each call
    told = [_ask(provider, [root, *map(Cid.parse, chosen)]) for provider in providers]
    return {"cid": root.text, "alive": any(one["alive"] for one in told), "providers": told}


def _ask(provider: Provider, cids: list[Cid]) -> dict[str, object]:
    missing: list[str] = []
    wrong: list[str] = []
    seconds, count, size = time.monotonic(), 0, 0
    error: str | None = None
    waiting = list(reversed(cids))
    try:
        while waiting:
            cid = waiting.pop()
            try:
                block = provider.block(cid)
            except NotThere:
                missing.append(cid.text)
                continue
            except WrongBytes as problem:
                wrong.append(cid.text)
                error = problem.message
                continue
            count, size = count + 1, size + len(block)
            if below := _one_leaf(cid, block):
                waiting.append(below)
    except SourceError as problem:
        error = problem.message
    finally:
        provider.close()
    return {
        "address": provider.label,
        "alive": not (missing or wrong or error),
        "blocks": count,
        "bytes": size,
        "seconds": round(time.monotonic() - seconds, 3),
        "missing": missing,
        "wrong": wrong,
        "error": error,
    }


def _one_leaf(cid: Cid, block: bytes) -> Cid | None:
    """One child of the node of a file, for a root alone shows little."""
    if cid.codec == RAW:
        return None
    try:
        message, links = decode_unixfs(cid, block)
    except IntegrityError:
        return None
    return random.choice(links).cid if links and message.type in (FILE, RAW_TYPE) else None
