"""The RPC of an IPFS node (Kubo and what speaks like it): commands by POST below /api/v0, errors as JSON.

    Kubo("http://127.0.0.1:5001", context).import_car(blocks) -> roots that the node pinned

The node is one that the user named, so its address may be a private one; it is not believed for that: blocks are hashed, what
was published is asked for afterwards. Source: the Kubo RPC reference (docs.ipfs.tech/reference/kubo/rpc), and js-ipfs 0.18's
answers where they differ. A node that fails after it began to answer says so in a trailer (X-Stream-Error) that HTTP clients
drop; therefore every stream has to end with the result that was asked for, or it counts as failed.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from distribute.cid import Cid
from distribute.transports._base import (
    Context,
    NotThere,
    Refused,
    SourceError,
    Stalled,
    Unreachable,
    WrongBytes,
)
from distribute.transports._gateway import BLOCK_BYTES, Blocks, Provider, car_blocks, checked
from distribute.transports._kubo_wire import authorization, json_lines, multipart, rpc_address
from distribute.transports._web import Busy, Response, Web, redact
from headwater.errors import IntegrityError

AUTH_VARIABLE = "IPFS_API_AUTH"  # TOKEN, bearer:TOKEN, USER:PASSWORD or basic:USER:PASSWORD
ANSWER_BYTES = 16 << 20  # of one command, blocks and streams apart
HAS_TIMEOUT = "2s"  # js-ipfs knows no `offline` and would look for a block without end
PATIENCE = 6  # times Limits.stall_seconds for commands that walk a whole DAG before they answer
BASE32 = {"cid-base": "base32"}
_ABSENT = re.compile(r"(?i)not found|no such|not pinned|no key|could not (find|resolve)")


@dataclass(frozen=True)
class Pin:
    """What the node keeps."""

    cid: Cid
    type: str  # recursive, direct, indirect
    name: str = ""


class Kubo(Provider):
    """One node's RPC. Raises UsageError for an address that is none."""

    def __init__(self, address: str, context: Context) -> None:
        self._base = rpc_address(address)
        self.label = redact(self._base)
        own = replace(
            context,
            allow_private=True,  # the user named this node; it is no address out of somebody's document
            limits=replace(context.limits, redirects=0, slowest_bytes_per_second=1.0),
        )
        slow = replace(own, limits=replace(own.limits, stall_seconds=context.limits.stall_seconds * PATIENCE))
        headers = authorization(os.environ.get(AUTH_VARIABLE, ""))
        self._web = Web(own, headers=headers)
        self._slow = Web(slow, headers=headers)

    def close(self) -> None:
        self._web.close()
        self._slow.close()

    # what it is

    def version(self) -> str:
        """Version of the node."""
        return str(self._one("version").get("Version", "?"))

    def id(self) -> dict[str, Any]:
        """Peer id (`ID`), `Addresses`, `AgentVersion`."""
        return self._one("id")

    # blocks

    def block(self, cid: Cid, limit_bytes: int = BLOCK_BYTES) -> bytes:
        answer = self._call("block/get", {"arg": cid.text}, about=cid.text, limit_bytes=limit_bytes)
        return checked(cid, answer.body, self.label)

    def block_size(self, cid: Cid) -> int:
        """Bytes of a block that the node has or can get."""
        return _number(self._one("block/stat", {"arg": cid.text, **_base(cid)}, about=cid.text), "Size")

    def has(self, cid: Cid) -> bool:
        """Whether the node has a block, without looking for it elsewhere. A node that cannot say so has it not."""
        params = {"arg": cid.text, **_base(cid), "offline": "true", "timeout": HAS_TIMEOUT}
        try:
            return "Size" in self._one("block/stat", params, about=cid.text)
        except SourceError:
            return False

    def car(self, cid: Cid, first: int, last: int, *, whole: bool) -> Blocks | None:
        # dag/export has no ranges
        return self.export(cid) if whole else None

    def export(self, cid: Cid) -> Blocks:
        """`dag/export`: every block of the DAG, each checked."""
        stream = self._web.stream(
            self._url("dag/export"),
            method="POST",
            params={"arg": cid.text, "progress": "false"},
            attempts=1,
        )
        return car_blocks(stream, cid, self.label)

    def import_car(self, car: Iterable[bytes], *, pin: bool = True) -> list[Cid]:
        """`dag/import` of a CAR stream that is made while it is sent; the roots that the node pinned (with `pin`).

        Raises SourceError when a root could not be pinned: then blocks are missing.
        """
        params = {"pin-roots": str(pin).lower(), "silent": "false", "stats": "true"} | BASE32
        lines = self._upload("dag/import", params, [("release.car", car)])
        roots = []
        for line in lines:
            if (root := line.get("Root")) is None:
                continue
            cid = _cid(root.get("Cid", {}).get("/", ""), self.label)
            if why := root.get("PinErrorMsg"):
                raise SourceError(f"{self.label}: could not pin {cid.text}: {redact(str(why))[:300]}")
            roots.append(cid)
        if pin and not roots:
            raise SourceError(f"{self.label}: dag/import ended without saying what it pinned")
        return roots

    def add(
        self,
        files: Iterable[tuple[str, Iterable[bytes]]],
        *,
        cid_version: int = 1,
        raw_leaves: bool = True,
        chunk_bytes: int = 262_144,
        wrap: bool = False,
        only_hash: bool = False,
        pin: bool = True,
    ) -> dict[str, Cid]:
        """`add`: the node itself cuts and hashes files given as (path, blocks). CIDs by path; "" is the folder around all."""
        params = {
            "cid-version": cid_version,
            "raw-leaves": str(raw_leaves).lower(),
            "chunker": f"size-{chunk_bytes}",
            "wrap-with-directory": str(wrap).lower(),
            "only-hash": str(only_hash).lower(),
            "pin": str(pin).lower(),
            "progress": "false",
        } | (BASE32 if cid_version else {})
        found = {}
        for line in self._upload("add", params, files):
            if "Hash" in line:
                found[str(line.get("Name", ""))] = _cid(line["Hash"], self.label)
        if not found:
            raise SourceError(f"{self.label}: add ended without a CID")
        return found

    # pins

    def pin(self, cid: Cid, name: str | None = None) -> None:
        """Keep a DAG; the node gets what it lacks. Stalled when its count of blocks stands still."""
        params = {"arg": cid.text, "recursive": "true", **_base(cid)} | ({"name": name} if name else {})
        self.block_size(cid)  # an answer in words for what a stream could only break off about
        url = self._url("pin/add")
        pins: list[object] = []
        changed, count = time.monotonic(), -1
        try:
            for line in json_lines(
                self._slow.stream(url, method="POST", params={**params, "progress": "true"}, attempts=1)
            ):
                self._raise_error("pin/add", line)
                pins += line.get("Pins") or []
                if line.get("Progress", count) != count:
                    changed, count = time.monotonic(), line["Progress"]
                if time.monotonic() - changed > self._seconds(slow=True):
                    raise Stalled(
                        f"stands still at {count:,} blocks"
                    )  # Kubo goes on counting the same for ever
        except Stalled as error:
            raise Stalled(
                f"{self.label}: pin/add {cid.text} stalled: {error.message}",
                hint="blocks are missing that nobody has",
            ) from error
        if not any(_cid(str(found), self.label).key == cid.key for found in pins):
            raise SourceError(f"{self.label}: pin/add ended without saying that it pinned {cid.text}")

    def unpin(self, cid: Cid) -> None:
        """Keep it no longer. Raises NotThere when it was not pinned."""
        self._one("pin/rm", {"arg": cid.text, **_base(cid)}, about=cid.text)

    def pins(self, cid: Cid | None = None, *, kind: str = "recursive") -> list[Pin]:
        """All pins of a kind, or the one of `cid`; empty when it is not pinned."""
        # no cid-base: js-ipfs then fails as soon as one of its pins is a CIDv0; all bases are understood here
        params = {"type": kind} | ({"arg": cid.text} if cid else {})
        try:
            found = self._one("pin/ls", params, about=cid.text if cid else "")
        except NotThere:
            return []
        keys = found.get("Keys") or {}
        return [
            Pin(_cid(text, self.label), str(pin.get("Type", "")), str(pin.get("Name", ""))) for text, pin in keys.items()
        ]  # fmt: skip

    # names

    def keys(self) -> dict[str, str]:
        """IPNS names by the name of their key."""
        return {str(key["Name"]): str(key["Id"]) for key in self._one("key/list").get("Keys") or []}

    def new_key(self, name: str) -> str:
        """A new Ed25519 key; its IPNS name."""
        return str(self._one("key/gen", {"arg": name, "type": "ed25519"})["Id"])

    def publish_name(self, cid: Cid, key: str = "self") -> str:
        """Point an IPNS name at `cid`; the name."""
        params = {"arg": f"/ipfs/{cid.text}", "key": key, "allow-offline": "true", "resolve": "false"}
        found = self._one("name/publish", params, about=cid.text, slow=True)
        if not str(found.get("Value", "")).endswith(cid.text):
            raise SourceError(f"{self.label}: name/publish did not take {cid.text}")
        return str(found.get("Name", ""))

    def resolve_name(self, name: str) -> Cid:
        """What an IPNS name points at."""
        path = str(self._one("name/resolve", {"arg": name}, about=name, slow=True).get("Path", ""))
        return _cid(path.removeprefix("/ipfs/").partition("/")[0], self.label)

    def connect(self, address: str) -> None:
        """Dial a peer by multiaddr."""
        self._one("swarm/connect", {"arg": address}, about=address)

    # requests

    def _url(self, command: str) -> str:
        return f"{self._base}/api/v0/{command}"

    def _one(
        self, command: str, params: dict[str, Any] | None = None, *, about: str = "", slow: bool = False
    ) -> dict[str, Any]:
        answer = self._call(command, params or {}, about=about, slow=slow)
        lines = self._lines(command, answer)
        if not lines:
            raise SourceError(f"{self.label}: {command} answered nothing")
        return lines[-1]

    def _call(
        self,
        command: str,
        params: dict[str, Any],
        *,
        about: str = "",
        slow: bool = False,
        limit_bytes: int = ANSWER_BYTES,
        **body: Any,
    ) -> Response:
        """One command. An error of the node becomes a SourceError with the node's own words."""
        try:
            answer = (self._slow if slow else self._web).request(
                "POST", self._url(command), params=params, ok=range(200, 600), limit_bytes=limit_bytes, **body
            )
        except Stalled as error:
            what = f" {about}" if about else ""
            raise Stalled(
                f"{self.label}: {command}{what} stalled: nothing came for {self._seconds(slow):g} s",
                hint="the node finds nobody who has it; add its block to the node, or name a gateway",
            ) from error
        except Unreachable as error:
            raise Unreachable(
                f"{self.label}: {command}: {error.message}", hint="is the node running? ipfs daemon"
            ) from error
        if answer.status == 200:
            return answer
        raise self._failure(command, answer, about)

    def _seconds(self, slow: bool) -> float:
        return (self._slow if slow else self._web).context.limits.stall_seconds

    def _failure(self, command: str, answer: Response, about: str) -> SourceError:
        words = f"{command} {about}".rstrip()
        try:
            said = str(json.loads(answer.body)["Message"])
        except (ValueError, TypeError, KeyError, RecursionError):
            said = f"status {answer.status}"
        message = f"{self.label}: {words}: {redact(said)[:300]}"
        if answer.status in (401, 403):
            return Refused(
                message, hint=f"set {AUTH_VARIABLE} to what the node's API.Authorizations asks for"
            )
        if answer.status in (404, 405):
            return SourceError(
                f"{message}: it does not know this command", hint="is this address a node's RPC?"
            )
        if answer.status in (429, 503):
            return Busy(message)
        return NotThere(message) if _ABSENT.search(said) else SourceError(message)

    def _upload(
        self, command: str, params: dict[str, Any], files: Iterable[tuple[str, Iterable[bytes]]]
    ) -> list[dict[str, Any]]:
        boundary = f"headwater-{secrets.token_hex(12)}"
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        answer = self._call(
            command, params, slow=True, content=multipart(files, boundary), headers=headers
        )  # fmt: skip
        return self._lines(command, answer)

    def _lines(self, command: str, answer: Response) -> list[dict[str, Any]]:
        """The JSON objects of an answer. Raises SourceError when one of them is an error."""
        found = []
        for line in answer.body.splitlines():
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
                value = None
            if not isinstance(value, dict):
                raise WrongBytes(
                    f"{self.label}: {command} answered no JSON ({answer.headers.get('content-type', 'no type')})",
                    hint="is this address a node's RPC, and not its gateway?",
                )
            self._raise_error(command, value)
            found.append(value)
        return found

    def _raise_error(self, command: str, line: dict[str, Any]) -> None:
        if line.get("Type") == "error":
            raise SourceError(f"{self.label}: {command}: {redact(str(line.get('Message')))[:300]}")


def _base(cid: Cid) -> dict[str, str]:
    return BASE32 if cid.version else {}


def _cid(text: str, where: str) -> Cid:
    try:
        return Cid.parse(text)
    except IntegrityError as error:
        raise WrongBytes(f"{where}: {error.message}") from error


def _number(found: dict[str, Any], name: str) -> int:
    value = found.get(name)
    if not isinstance(value, int) or value < 0:
        raise WrongBytes(f"the node's answer has no {name}")
    return value
