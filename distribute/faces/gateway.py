"""A trustless IPFS gateway over the files of a release: raw blocks and CAR streams, each block hashed before it goes out.

    GET|HEAD /ipfs/{cid}[/path]?format=raw                                       one block
    GET|HEAD /ipfs/{cid}[/path]?format=car&dag-scope=block|entity|all            a CARv1, order=dfs
             &entity-bytes=FROM:TO&car-dups=y|n&car-version=1&car-order=dfs|unk

or by Accept: application/vnd.ipld.raw, application/vnd.ipld.car;version=1;order=dfs;dups=n; `format` in the address wins.
Source: IPFS specifications, "Trustless Gateway" (2026-03). No Accept header is answered 400, one without our formats 406, a bad
CID 400, a block that this release has not 404, one that is damaged on this disk 500; damage found later breaks the stream.
Nothing is fetched from anywhere, there is no IPNS, and nothing is shown as a web page.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

from distribute.car import car_header, car_section
from distribute.cid import DAG_PB, Cid
from distribute.faces.blocks import BlockMap, Damaged, is_file, unixfs_node
from distribute.faces.dag import Bytes, Scope, Target, batches, resolve, walk
from distribute.faces.server import Outlet, plain, send_bytes
from distribute.faces.shelf import NotHere
from headwater.console import say
from headwater.errors import IntegrityError

if TYPE_CHECKING:
    from aiohttp import web

RAW_TYPE = "application/vnd.ipld.raw"
CAR_TYPE = "application/vnd.ipld.car"
PROBE = "bafkqaaa"  # the empty identity CID: "are you a trustless gateway?"
BATCH_BYTES = 1 << 20
PATH_PARTS = 1000
KNOWN_FORMATS = ("ipns-record", "tar", "json", "cbor", "dag-json", "dag-cbor")  # of others; not given here
_CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "GET, HEAD, OPTIONS",
    "Access-Control-Allow-Headers": "Content-Type, Range, User-Agent, X-Requested-With",
    "Access-Control-Expose-Headers": "Content-Length, Content-Range, X-Ipfs-Path, X-Ipfs-Roots",
    "Server": "headwater",
    "X-Content-Type-Options": "nosniff",
}


class Refusal(Exception):
    """A request that is answered with a status and a sentence."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


@dataclass(frozen=True)
class Asked:
    """What a request wants."""

    format: str  # raw or car
    scope: Scope = "all"
    part: Bytes | None = None
    repeat: bool = False
    by_accept: bool = False  # the format was not in the address


class Gateway:
    """Answers /ipfs/…"""

    def __init__(self, blocks: BlockMap, outlet: Outlet) -> None:
        self.blocks = blocks
        self._outlet = outlet
        self._counter = outlet.counter("ipfs")

    async def answer(self, request: web.BaseRequest, name: str) -> web.StreamResponse:
        """The response to a request for the decoded path `name`, without its first slash."""
        from aiohttp import web

        self._counter.requests += 1
        if request.method == "OPTIONS":
            return web.Response(status=204, headers=_CORS)
        if request.method not in ("GET", "HEAD"):
            return plain(405, "only GET and HEAD", _CORS | {"Allow": "GET, HEAD, OPTIONS"})
        kind, _, rest = name.partition("/")
        if kind == "ipns":
            return plain(501, "there is no IPNS here: ask for /ipfs/CID", _CORS)
        text, *path = rest.split("/")
        if path and path[-1] == "":
            path.pop()
        try:
            asked = wanted(request.query, request.headers.get("Accept"))
            if text == PROBE and not path:
                return await self._probe(request, asked)
            return await self._find(request, asked, _cid(text), path)
        except Refusal as refusal:
            return plain(refusal.status, refusal.text, _CORS)
        except NotHere:
            if "only-if-cached" in request.headers.get("Cache-Control", ""):
                return plain(412, "not in this release", _CORS)
            return plain(404, "not in this release", _CORS)
        except Damaged as damage:
            say("error", f"gateway: {damage}")
            return plain(500, "this block is damaged here: ask another provider", _CORS)
        except IntegrityError as error:
            say("error", f"gateway: {error.message}")
            return plain(500, "this DAG cannot be read here: ask another provider", _CORS)

    async def _find(
        self, request: web.BaseRequest, asked: Asked, root: Cid, path: list[str]
    ) -> web.StreamResponse:
        if len(path) > PATH_PARTS or any(part in ("", ".", "..") for part in path):
            raise Refusal(400, "a path has no empty parts and no dots")
        try:
            target: Target = await self._outlet.in_thread(resolve, self.blocks, root, path)
        except IntegrityError as error:
            raise Refusal(
                400, f"the path leads through something that is no folder: {error.message}"
            ) from error
        size = self.blocks.size(target.cid.digest)
        if size is None:
            raise NotHere(target.cid.text)
        headers = self._headers(request, asked, root, path, target)
        if request.headers.get("If-None-Match", "").strip() in (headers["Etag"], "*"):
            from aiohttp import web

            return web.Response(status=304, headers={key: headers[key] for key in ("Etag", "Cache-Control")})
        if asked.format == "raw":
            return await self._raw(request, target, headers, size)
        return await self._car(request, target, headers, asked)

    async def _raw(
        self, request: web.BaseRequest, target: Target, headers: dict[str, str], size: int
    ) -> web.StreamResponse:
        from aiohttp import web

        response = web.StreamResponse(headers=headers)
        response.content_length = size
        data = b""
        if request.method == "GET":
            data = await self._outlet.in_thread(self.blocks.read, target.cid.digest)
        await response.prepare(request)
        await send_bytes(request, response, data, self._outlet, self._counter)
        await response.write_eof()
        return response

    async def _car(
        self, request: web.BaseRequest, target: Target, headers: dict[str, str], asked: Asked
    ) -> web.StreamResponse:
        from aiohttp import web

        if asked.part is not None:
            await self._outlet.in_thread(self._check_part, target, asked.part)
        response = web.StreamResponse(headers=headers)
        if request.method == "HEAD":
            await response.prepare(request)
            await response.write_eof()
            return response
        stream = batches(self._sections(target, asked), BATCH_BYTES)
        piece: bytes | None = await self._outlet.in_thread(next, stream, None)
        await response.prepare(request)  # from here on a failure can only break the stream
        try:
            while piece is not None:
                await send_bytes(request, response, piece, self._outlet, self._counter)
                piece = await self._outlet.in_thread(next, stream, None)
        except (Damaged, NotHere, IntegrityError) as error:
            say("error", f"gateway: the stream of {target.cid.text} was broken: {error}")
            if request.transport is not None:
                request.transport.abort()
            raise ConnectionResetError("a block is damaged") from error
        await response.write_eof()
        return response

    def _sections(self, target: Target, asked: Asked) -> Iterator[bytes]:
        yield car_header([target.cid])
        for block in walk(self.blocks, target, asked.scope, asked.part, repeat=asked.repeat):
            yield car_section(*block)

    def _check_part(self, target: Target, part: Bytes) -> None:
        """Raises Refusal for a range wholly outside of a file, which the specification asks for where it is known."""
        size = self.blocks.size(target.cid.digest) or 0
        if target.cid.codec == DAG_PB:
            message, _ = unixfs_node(self.blocks.read(target.cid.digest))
            if not is_file(message):
                return
            size = message.filesize or 0
        if size and part.within(size) is None:
            raise Refusal(400, f"entity-bytes lies outside of the {size} bytes")

    async def _probe(self, request: web.BaseRequest, asked: Asked) -> web.StreamResponse:
        from aiohttp import web

        kind = f"{CAR_TYPE}; version=1; order=dfs; dups=n" if asked.format == "car" else RAW_TYPE
        body = car_header([Cid.parse(PROBE, identity=True)]) if asked.format == "car" else b""
        return web.Response(body=body, headers=_CORS | {"Content-Type": kind, "Etag": f'"{PROBE}"'})

    def _headers(
        self, request: web.BaseRequest, asked: Asked, root: Cid, path: list[str], target: Target
    ) -> dict[str, str]:
        content_path = "/".join(["/ipfs", root.text, *path])
        headers = _CORS | {
            "Cache-Control": "public, max-age=29030400, immutable",
            "X-Ipfs-Path": quote(content_path),
            "X-Ipfs-Roots": ",".join(cid.text for cid in target.roots),
            "Vary": "Accept",
        }
        if asked.by_accept:
            headers["Content-Location"] = f"{quote(content_path)}?format={asked.format}"
        end = target.cid.text
        if asked.format == "raw":
            kind, tag, ending = RAW_TYPE, f'"{end}.raw"', "bin"
        else:
            dups = "y" if asked.repeat else "n"
            kind, ending = f"{CAR_TYPE}; version=1; order=dfs; dups={dups}", "car"
            what = hashlib.sha256(f"{content_path} {asked.part} {dups}".encode()).hexdigest()[:16]
            tag = f'W/"{asked.scope}.{end}.car.{what}"'
        name = request.query.get("filename") or f"{end}.{ending}"
        return headers | {"Content-Type": kind, "Etag": tag, "Content-Disposition": _attachment(name)}


def wanted(query: Mapping[str, str], accept: str | None) -> Asked:
    """What a request asks for, from its parameters and its Accept header. Raises Refusal."""
    kind = query.get("format")
    parameters: dict[str, str] = {}
    by_accept = kind is None
    if kind is None:
        if accept is None:
            raise Refusal(400, "say what you want: ?format=raw or ?format=car")
        kind, parameters = _negotiate(accept)
    elif kind in KNOWN_FORMATS:
        raise Refusal(406, f"format={kind} is not given here: only raw and car can be checked")
    elif kind not in ("raw", "car"):
        raise Refusal(400, "format is raw or car")
    if kind == "raw":
        return Asked("raw", by_accept=by_accept)
    version = query.get("car-version", parameters.get("version", "1"))
    order = query.get("car-order", parameters.get("order", "dfs"))
    dups = query.get("car-dups", parameters.get("dups", "n"))
    if version != "1" or order not in ("dfs", "unk", "") or dups not in ("y", "n", ""):
        raise Refusal(400, "only version 1, order dfs or unk, dups y or n")
    scope = query.get("dag-scope", "all")
    part = _entity_bytes(query["entity-bytes"]) if "entity-bytes" in query else None
    repeat = dups == "y"
    if part is not None or scope == "entity":
        return Asked("car", "entity", part, repeat, by_accept)
    if scope == "block":
        return Asked("car", "block", None, repeat, by_accept)
    if scope != "all":
        raise Refusal(400, "dag-scope is block, entity or all")
    return Asked("car", "all", None, repeat, by_accept)


def _negotiate(accept: str) -> tuple[str, dict[str, str]]:
    """(raw or car, parameters) of the best entry of an Accept header (RFC 9110, 12.5.1). Raises Refusal."""
    best: tuple[float, str, dict[str, str]] | None = None
    for entry in accept.split(","):
        kind, *rest = (part.strip() for part in entry.split(";"))
        given = {
            key.strip().lower(): value.strip() for key, _, value in (part.partition("=") for part in rest)
        }
        try:
            quality = float(given.pop("q", "1"))
        except ValueError:
            continue
        names = {RAW_TYPE: "raw", CAR_TYPE: "car"}
        name = names.get(kind.lower())
        unknown = given.get("order", "dfs") not in ("dfs", "unk", "") or given.get("version", "1") != "1"
        unknown |= given.get("dups", "n") not in ("y", "n", "")
        if name and not (name == "car" and unknown) and quality > 0 and (best is None or quality > best[0]):
            best = (quality, name, given)
    if best is None:
        raise Refusal(
            406, f"only {RAW_TYPE} and {CAR_TYPE} (version 1) are given here; or add ?format=raw|car"
        )
    return best[1], best[2]


def _entity_bytes(text: str) -> Bytes:
    first, colon, last = text.partition(":")
    try:
        if not colon or max(len(first), len(last)) > 20 or "_" in text or text.strip() != text:
            raise ValueError
        part = Bytes(int(first), None if last == "*" else int(last))
    except ValueError:
        raise Refusal(400, "entity-bytes is FROM:TO, whole numbers; TO may be *") from None
    if part.last is not None and (part.first < 0) == (part.last < 0) and part.last < part.first:
        raise Refusal(400, "entity-bytes ends before it begins")
    return part


def _cid(text: str) -> Cid:
    try:
        return Cid.parse(text)
    except IntegrityError as error:
        raise Refusal(400, error.message) from None


def _attachment(name: str) -> str:
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "._- ()") else "_" for c in name[:200])
    extended = "" if safe == name else f"; filename*=UTF-8''{quote(name[:200], safe='')}"
    return f'attachment; filename="{safe}"{extended}'
