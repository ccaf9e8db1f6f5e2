"""How a node's RPC is spoken to: its address, the authorisation, bodies that are made while they are sent, lines of JSON.

Sources: the Kubo RPC reference (docs.ipfs.tech/reference/kubo/rpc), RFC 7578 (multipart/form-data), multiformats/multiaddr.
"""

from __future__ import annotations

import base64
import itertools
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote

from distribute.transports._base import WrongBytes
from distribute.transports._web import redact
from headwater.errors import UsageError

LINE_BYTES = 16 << 20  # one JSON object; a list of all pins of a node is one
MULTIADDR = re.compile(r"/(ip4|ip6|dns|dns4|dns6)/([^/]+)/tcp/(\d{1,5})(/https?)?/?")


def rpc_address(address: str) -> str:
    """`http://HOST:PORT` from that or from a multiaddr such as Kubo's file `api` holds. Raises UsageError."""
    text = address.strip().rstrip("/").removesuffix("/api/v0")
    if found := MULTIADDR.fullmatch(text):
        kind, host, port, scheme = found.groups()
        host = f"[{host}]" if kind == "ip6" else host
        return f"{(scheme or '/http')[1:]}://{host}:{port}"
    if not text.lower().startswith(("http://", "https://")):
        raise UsageError(
            f"{redact(address)!r} is no address of a node's RPC",
            hint="write it as http://127.0.0.1:5001 or /ip4/127.0.0.1/tcp/5001",
        )
    return text


def multipart(files: Iterable[tuple[str, Iterable[bytes]]], boundary: str) -> Iterator[bytes]:
    """A multipart body (RFC 7578) that is made while it is sent; paths are percent-encoded as the RPC wants them."""
    for path, blocks in files:
        yield (
            f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{quote(path, safe="")}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        ).encode()
        yield from blocks
        yield b"\r\n"
    yield f"--{boundary}--\r\n".encode()


def json_lines(blocks: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """Objects of a stream of JSON lines, each as soon as it is whole. Raises WrongBytes for anything else."""
    kept = b""
    for block in itertools.chain(blocks, [b"\n"]):
        *lines, kept = (kept + block).split(b"\n")
        if len(kept) > LINE_BYTES:
            raise WrongBytes("the node's answer has a line without end")
        for line in filter(bytes.strip, lines):
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
                value = None
            if not isinstance(value, dict):
                raise WrongBytes("the node's answer is no JSON")
            yield value


def authorization(setting: str) -> dict[str, str]:
    """The header for TOKEN, bearer:TOKEN, USER:PASSWORD or basic:USER:PASSWORD; none for an empty setting."""
    kind, _, rest = setting.strip().partition(":")
    if not setting.strip():
        return {}
    if kind.lower() == "bearer" and rest:
        return {"Authorization": f"Bearer {rest}"}
    pair = rest if kind.lower() == "basic" and ":" in rest else setting.strip()
    if ":" not in pair:
        return {"Authorization": f"Bearer {pair}"}
    return {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}
