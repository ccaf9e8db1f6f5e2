"""A web server or mirror that holds a release folder: plain GET, with Range where only a part is wanted.

    <base>/manifest.json, release.json, v2.torrent …      documents
    <base>/NAME/<path>                                    files; NAME is told by release.json

A fetched folder that somebody serves works too: documents below `.headwater/release/`, files at the top.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from urllib.parse import quote, urlsplit, urlunsplit

from distribute.transports._base import Context, NotThere, Published, Source, Wanted, WrongBytes
from distribute.transports._redact import redact
from distribute.transports._web import NoRanges, Web
from headwater.errors import HeadwaterError, UsageError
from headwater.manifest import safe_relative
from headwater.release import (
    INSIDE,
    MANIFEST_NAME,
    RELEASE_NAME,
    Location,
    OpenRelease,
    Release,
    parse_document,
)

SCHEMES = ("http", "https")
CONNECTIONS = 66  # to one server, at most: all that a fetch may ask for (64), and documents


class HttpSource(Source):
    """One base address. Answers are compared with what is asked for; what they hold is for the caller to check."""

    kind = "http"

    def __init__(self, location: str, context: Context) -> None:
        parts = urlsplit(location)
        path = parts.path.removesuffix(MANIFEST_NAME).rstrip("/")
        self._parts = parts._replace(path=path, fragment="")
        self.label = redact(urlunsplit(self._parts))
        self.web = Web(context, connections=CONNECTIONS)
        self.ranges = True  # until it answers a range with a whole file
        self._lock = threading.Lock()
        self._inside: bool | None = None  # documents below .headwater/release/
        self._folder: str | None = None  # of the files, with its slash
        self._tags: dict[str, str] = {}  # ETag of each file that was read in parts

    def _url(self, path: str) -> str:
        return urlunsplit(self._parts._replace(path=f"{self._parts.path}/{quote(path)}"))

    def release_file(self, name: str) -> bytes | None:
        """A document of the release, or None (404)."""
        return self._document(name)

    def _document(self, name: str, attempts: int | None = None) -> bytes | None:
        safe_relative(name)
        for inside in (False, True) if self._inside is None else (self._inside,):
            try:
                url = self._url(f"{INSIDE}/{name}" if inside else name)
                raw = self.web.request("GET", url, attempts=attempts).body
            except NotThere:
                continue
            if name == MANIFEST_NAME:
                self._inside = inside
            return raw
        return None

    def _data(self) -> str:
        """Where the files are, below the base."""
        with self._lock:
            if self._folder is None:
                raw = self._document(RELEASE_NAME, attempts=1)  # who reads decides when to come back
                folder = ""
                if raw is not None and not self._inside:
                    try:
                        folder = safe_relative(parse_document(raw, Release, self.label).name) + "/"
                    except HeadwaterError as error:
                        raise WrongBytes(f"{self.label}: {error.message}") from error
                self._folder = folder
            return self._folder

    def read(self, wanted: Wanted, offset: int, length: int) -> Iterator[bytes]:
        """Bytes of a file. Raises WrongBytes when the object there has another size or changes between two parts."""
        url = self._url(self._data() + safe_relative(wanted.path))
        whole = offset == 0 and length == wanted.size_bytes
        if whole or self.ranges:
            try:
                yield from self._part(url, wanted, offset, length)
                return
            except NoRanges:
                self.ranges = False
        yield from _without(offset, self._part(url, wanted, 0, offset + length))

    def _part(self, url: str, wanted: Wanted, offset: int, length: int) -> Iterator[bytes]:
        seen: dict[str, str] = {}
        blocks = self.web.stream(
            url, offset=offset, length=length, size=wanted.size_bytes, attempts=1, seen=seen
        )
        first = next(blocks, b"")
        tag = seen.get("etag", "")
        if tag and length != wanted.size_bytes and self._tags.setdefault(wanted.path, tag) != tag:
            with self._lock:
                self._tags.pop(wanted.path, None)
            raise WrongBytes(f"{self.label}: {wanted.path} was changed there while it was read")
        yield first
        yield from blocks

    def close(self) -> None:
        self.web.close()


def _without(count: int, blocks: Iterator[bytes]) -> Iterator[bytes]:
    """`blocks` without their first `count` bytes."""
    for block in blocks:
        if count >= len(block):
            count -= len(block)
        elif count:
            yield block[count:]
            count = 0
        else:
            yield block


def open_source(location: str, context: Context) -> HttpSource:
    """A mirror at `location`."""
    return HttpSource(location, context)


def publish(release: OpenRelease, target: str, context: Context, *, dry_run: bool) -> Published:
    """Record that RELEASE is served at `target`; a web server takes no uploads, so nothing is sent.

    What is there already is asked, so that a slip in the address is told at once. Raises UsageError for no address.
    """
    if not target.lower().startswith(("http://", "https://")):
        raise UsageError(f"{redact(target)!r}: name the address that the release folder is served at")
    base = target if target.endswith("/") else target + "/"
    actions = [f"serve {release.meta} at {redact(base)} (any web server, or `headwater seed`)"]
    if not dry_run:
        source = HttpSource(base, context)
        try:
            raw = source.release_file(MANIFEST_NAME)
            same = raw is not None and raw == (release.meta / MANIFEST_NAME).read_bytes()
            actions.append(
                "it is there" if same else "another manifest is there" if raw else "nothing is there yet"
            )
        except HeadwaterError as error:
            actions.append(f"nobody answers there yet ({error.message})")
        finally:
            source.close()
    files = len(release.manifest.entries)
    return Published(Location(kind="http", url=redact(base)), 0, files, actions, "\n".join(actions))
