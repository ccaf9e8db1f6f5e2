"""The HTTP mirror: the documents and files of a release under the addresses that any dumb server would give them.

    /manifest.json  /release.json  /v1.torrent …      documents
    /NAME/<path>                                      files of the manifest; so `/` is a BEP 19 web seed of the torrents
    /                                                 a page for people

Methods GET and HEAD, conditional requests and single ranges of RFC 9110 (several ranges in one request are answered with the
whole file, as its section 14.2 allows), ETag = SHA-256 in hex, Repr-Digest of RFC 9530 and its forerunner Digest.
"""

from __future__ import annotations

import base64
import html
import os
import re
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote_to_bytes

from distribute.faces.server import Outlet, plain, send_file
from distribute.faces.shelf import Item, Opened, Shelf

if TYPE_CHECKING:
    from aiohttp import web

LISTED = 1000  # files named on the page
_RANGE = re.compile(r"\s*([0-9]{0,19})\s*-\s*([0-9]{0,19})\s*")
_HTML_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


class Mirror:
    """Answers requests for documents and files."""

    def __init__(self, shelf: Shelf, outlet: Outlet) -> None:
        self._shelf = shelf
        self._outlet = outlet
        self._counter = outlet.counter("http")
        self.facts: list[tuple[str, str]] = []  # label, value: for the page

    def item(self, name: str) -> Item | None:
        """What lies under a decoded path, without its first slash."""
        return self._shelf.items.get(name)

    async def answer(self, request: web.BaseRequest, name: str) -> web.StreamResponse:
        """The response to a request for the decoded path `name`. Raises NotHere, NotRight, Unknown."""
        self._counter.requests += 1
        if request.method not in ("GET", "HEAD"):
            return plain(405, "only GET and HEAD", {"Allow": "GET, HEAD"})
        if name == "":
            return self._page(request)
        item = self.item(name)
        if item is None:
            return plain(404, "nothing of that name in this release")
        opened = await self._outlet.open(self._shelf, item)
        try:
            response, span = respond(request, item, opened)
        except BaseException:
            os.close(opened.descriptor)
            raise
        if span is None:
            os.close(opened.descriptor)
            return response
        return await send_file(request, response, opened, span, self._outlet, self._counter)

    def _page(self, request: web.BaseRequest) -> web.Response:
        from aiohttp import web

        headers = {"Content-Security-Policy": _HTML_POLICY, "X-Content-Type-Options": "nosniff"}
        headers |= {"Cache-Control": "no-cache", "Server": "headwater", "Referrer-Policy": "no-referrer"}
        text = page(self._shelf, self.facts)
        return web.Response(text=text, content_type="text/html", charset="utf-8", headers=headers)


def decoded_path(request: web.BaseRequest) -> str | None:
    """The path of a request without its first slash, decoded once and not normalised; None when it is no UTF-8 path."""
    raw = request.raw_path.partition("?")[0].partition("#")[0]
    if not raw.startswith("/"):
        return None
    try:
        return unquote_to_bytes(raw[1:]).decode("utf-8")
    except UnicodeDecodeError:
        return None


def respond(
    request: web.BaseRequest, item: Item, opened: Opened
) -> tuple[web.StreamResponse, tuple[int, int] | None]:
    """The head of a response and the span (offset, length) of the body, None when there is no body of the file."""
    from aiohttp import web

    size = opened.stamp.size_bytes
    tag = f'"{opened.digest}"'
    headers = {"ETag": tag, "Server": "headwater"}
    if (wanted := request.headers.get("If-Match")) is not None and not _tag_in(wanted, tag, weak=False):
        return plain(412, "the file is another one", {"ETag": tag}), None
    if (known := request.headers.get("If-None-Match")) is not None and _tag_in(known, tag, weak=True):
        return web.Response(status=304, headers=headers), None
    digest = base64.b64encode(bytes.fromhex(opened.digest)).decode()
    headers |= {
        "Accept-Ranges": "bytes",
        "Cache-Control": "no-cache" if item.sha256 is None else "public, max-age=3600",
        "Content-Security-Policy": "sandbox; default-src 'none'",  # no file is a page that runs
        "Content-Type": item.media_type,
        "Digest": f"sha-256={digest}",  # RFC 3230: what aria2 reads
        "Repr-Digest": f"sha-256=:{digest}:",  # RFC 9530
        "X-Content-Type-Options": "nosniff",
    }
    text = request.headers.get("Range") if request.method == "GET" else None
    condition = request.headers.get("If-Range")
    if text is not None and (condition is None or condition.strip() == tag):
        span = parse_range(text, size)
        if span == ():
            return plain(416, "outside of the file", {"Content-Range": f"bytes */{size}", "ETag": tag}), None
        if span:
            offset, length = span
            headers["Content-Range"] = f"bytes {offset}-{offset + length - 1}/{size}"
            return web.StreamResponse(status=206, headers=headers), (offset, length)
    return web.StreamResponse(status=200, headers=headers), (0, size)


def parse_range(text: str, size: int) -> tuple[int, int] | tuple[()] | None:
    """`bytes=a-b`, `a-` or `-n` as (offset, length); () when it cannot be satisfied; None when the header is to be ignored."""
    unit, equals, rest = text.partition("=")
    found = _RANGE.fullmatch(rest)
    if not equals or unit.strip().lower() != "bytes" or found is None:
        return None  # another unit, several ranges, or nonsense: RFC 9110 14.2 lets a server ignore it
    first, last = found[1], found[2]
    if not first and not last:
        return None
    if not first:
        length = min(int(last), size)
        return (size - length, length) if length else ()
    offset = int(first)
    if last and int(last) < offset:
        return None
    if offset >= size:
        return ()
    return offset, (min(int(last) + 1, size) if last else size) - offset


def _tag_in(header: str, tag: str, *, weak: bool) -> bool:
    for part in header.split(","):
        one = part.strip()
        if one == "*" or one == tag or (weak and one == f"W/{tag}"):
            return True
    return False


def page(shelf: Shelf, facts: list[tuple[str, str]]) -> str:
    """The page for people, everything escaped."""
    release = shelf.release.release
    rows = "".join(
        f"<tr><th>{html.escape(label)}</th><td><code>{html.escape(value)}</code></td></tr>"
        for label, value in facts
    )
    files = "".join(
        f'<li><a href="/{html.escape(quote(item.name))}">{html.escape(item.name)}</a> {item.size_bytes:,}</li>'
        for item in shelf.data[:LISTED]
    )
    more = (
        f"<p>and {len(shelf.data) - LISTED:,} more: see the manifest</p>" if len(shelf.data) > LISTED else ""
    )
    documents = " · ".join(
        f'<a href="/{html.escape(quote(item.name))}">{html.escape(item.name)}</a>'
        for item in shelf.items.values()
        if item.size_bytes is None and item.path.is_file()
    )
    name = html.escape(release.name)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{name}</title>
<style>body{{font:15px/1.5 sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}}
th{{text-align:left;vertical-align:top;padding-right:1rem;white-space:nowrap}}code{{word-break:break-all}}</style></head>
<body><h1>{name}</h1>
<p>{release.files:,} files, {release.size_bytes:,} bytes. Every byte can be checked: the manifest's SHA-256 is its id.</p>
<table><tr><th>manifest</th><td><code>{release.manifest_id}</code></td></tr>{rows}</table>
<p>{documents}</p>
<h2>Files</h2><ul>{files}</ul>{more}
</body></html>
"""
