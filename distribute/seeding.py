"""`headwater seed`: one process that gives a release over HTTP, as a trustless IPFS gateway and over BitTorrent.

    Seeding(release, options)      with Seeding(...) as it: it.url, it.gateway, it.peer, it.magnets, it.totals()
    seed(release, options, …)      the same until somebody says stop; what the command calls

All faces read the same files of the release: no second copy, nothing is written there, nothing is hashed at the start. A stop
by SIGINT, SIGTERM or SIGHUP is the ordinary end of a server, so `seed` then returns its totals and the exit code is 0.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any

from distribute.faces.facts import (
    EVERY_ADDRESS,
    Facts,
    SeedOptions,
    Totals,
    address_of,
    fetch_lines,
    host_in_url,
    is_loopback,
    page_facts,
)
from headwater.console import say, track
from headwater.errors import Cancelled, HeadwaterError, IntegrityError, MissingExtra, MissingInput
from headwater.release import NODES_NAME, OpenRelease

if TYPE_CHECKING:
    from aiohttp import web

    from distribute.faces.gateway import Gateway
    from distribute.faces.mirror import Mirror
    from distribute.faces.server import Outlet
    from distribute.transports._torrent_session import SeedSession

__all__ = ["Facts", "SeedOptions", "Seeding", "Totals", "announce", "dry_run", "is_loopback", "seed"]

START_SECONDS = 600.0  # a map of 10^8 blocks takes about a minute of CPU
STATUS_SECONDS = 1.0


class Seeding:
    """A release being served, from entering the block to leaving it. Leaves nothing behind in the release."""

    def __init__(self, release: OpenRelease, options: SeedOptions | None = None) -> None:
        """Raises UsageError on impossible options, MissingExtra when the HTTP server is not installed."""
        self.release = release
        self.options = options or SeedOptions()
        self.options.check()
        need_extra("aiohttp")
        from distribute.faces.shelf import Shelf

        self._address = address_of(self.options.host)
        self._shelf = Shelf(release)
        if release.manifest.entries and not self._shelf.present:
            raise MissingInput(
                f"{release.data}: none of the {len(self._shelf.data):,} files is there with its size",
                hint="a release published with --data none holds no files: seed the folder that was fetched",
            )
        self._torrents: SeedSession | None = None
        self._last: dict[str, int] = {}
        self._seconds: float | None = None
        self._started = time.monotonic()
        self._up = threading.Event()
        self._failure: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end: asyncio.Event | None = None
        self._thread: threading.Thread | None = None
        self._port = 0

    def __enter__(self) -> Seeding:
        context = contextvars.copy_context()  # so that what the thread says is heard
        run = lambda: context.run(asyncio.run, self._serve())  # noqa: E731
        self._thread = threading.Thread(target=run, name="seed", daemon=True)
        self._started = time.monotonic()
        self._thread.start()
        try:
            if not self._up.wait(START_SECONDS):
                raise HeadwaterError(f"the HTTP server did not start within {START_SECONDS:.0f} s")
            if self._failure:
                raise self._failure
            if self.options.bittorrent and self.release.release.torrents:
                self._torrents = self._start_torrents()
            self._facts = self._describe()
            self._mirror.facts = page_facts(self._facts)
        except BaseException:
            self._stop()
            raise
        for problem in self._shelf.problems[:10]:
            say("warning", problem)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._seconds = time.monotonic() - self._started
        self._stop()

    # -- what others need to know --------------------------------------------------------------------

    @property
    def url(self) -> str:
        """The mirror, with a slash at its end: also the web seed of the torrents."""
        public = self.options.public_url
        if public:
            return public if public.endswith("/") else public + "/"
        return f"http://{host_in_url(self.options.host)}:{self._port}/"

    @property
    def port(self) -> int:
        """Of HTTP, also where another one was announced by `public_url`."""
        return self._port

    @property
    def gateway(self) -> str | None:
        """Base address of the trustless gateway, without /ipfs/; None when it is off."""
        return self.url.rstrip("/") if self.options.gateway else None

    @property
    def peer(self) -> str | None:
        """host:port of the BitTorrent session; None when it is off."""
        if self._torrents is None:
            return None
        return f"{host_in_url(self.options.host)}:{self._torrents.port}"  # also [::1]:6881

    @property
    def magnets(self) -> dict[str, str]:
        """By kind of torrent (v1, v2 …), with this web seed, this peer and the trackers inside."""
        from distribute.torrents import magnet

        # x.pe as it is, and numeric: libtorrent does not decode it (the colon, the brackets of IPv6) nor look names up
        end = ""
        if self._torrents is not None and self._address not in EVERY_ADDRESS:
            end = f"&x.pe={host_in_url(self._address)}:{self._torrents.port}"
        return {
            kind: magnet(
                v1=one.infohash if len(one.infohash) == 40 else None,
                v2=one.infohash if len(one.infohash) == 64 else None,
                name=self.release.release.name,
                trackers=self.options.trackers,
                # a v2-only torrent with a web seed was seen to fail its hashes in libtorrent 2.1
                web_seeds=(self.url,) if len(one.infohash) == 40 else (),
            )
            + end
            for kind, one in self.release.release.torrents.items()
        }

    @property
    def open_connections(self) -> int:
        """Of the HTTP port, at this moment."""
        return self._front.open_connections

    @property
    def facts(self) -> Facts:
        """All of it."""
        return self._facts

    def totals(self) -> Totals:
        """What has gone out so far, or in all once the block was left."""
        seconds = self._seconds if self._seconds is not None else time.monotonic() - self._started
        faces = {name: asdict(counter) for name, counter in self._outlet.counters.items()}
        if swarm := self._swarm():
            faces["bittorrent"] = swarm
        return Totals(seconds, faces, self._front.refused)

    # -- work ----------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        from distribute.faces.mirror import Mirror
        from distribute.faces.server import Front, Outlet, Throttle

        try:
            self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
            self._outlet: Outlet = Outlet(Throttle(self.options.upload_limit))
            self._mirror: Mirror = Mirror(self._shelf, self._outlet)
            self._ipfs: Gateway | None = None
            if self.options.gateway:
                from distribute.faces.blocks import BlockMap
                from distribute.faces.gateway import Gateway

                self._ipfs = Gateway(BlockMap(self._shelf), self._outlet)
            self._front = Front(self._answer, connections=self.options.connections)
            await self._front.start(self._address, self.options.port)
            self._port = self._front.port
        except BaseException as error:
            self._failure = error
            self._up.set()
            return
        self._up.set()
        try:
            await self._end.wait()
        finally:
            self._shelf.closed = True
            await self._front.stop()
            self._outlet.threads.shutdown(wait=False, cancel_futures=True)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        from distribute.faces.mirror import decoded_path
        from distribute.faces.server import plain

        name = decoded_path(request)
        if name is None:
            return plain(400, "the path is not UTF-8")
        if self._ipfs is not None and name.startswith(("ipfs/", "ipns/")) and self._mirror.item(name) is None:
            return await self._ipfs.answer(request, name)
        return await self._mirror.answer(request, name)

    def _start_torrents(self) -> SeedSession | None:
        """Torrents from the same files, in a session that never writes; None (and a word) when files are missing."""
        from distribute.transports._torrent_session import SeedSession

        options = self.options
        torrents = [self.release.file(one.file) for one in self.release.release.torrents.values()]
        try:
            return SeedSession(
                [path for path in torrents if path.is_file()],
                None,
                self._address,
                options.torrent_port,
                data=self.release.data,
                trackers=options.trackers,
                upload_limit=options.upload_limit or 0,
                local_only=options.local_only,
            )
        except (MissingInput, IntegrityError) as error:
            self._shelf.problems.append(
                f"the torrents of {self.release.meta} are not seeded: {error.message}"
            )
            return None

    def _stop(self) -> None:
        if self._torrents is not None:
            self._last = self._swarm()
            self._torrents.close()
            self._torrents = None
        if self._thread is not None:
            if self._loop is not None and self._end is not None and self._thread.is_alive():
                self._loop.call_soon_threadsafe(self._end.set)
            self._thread.join(15.0)

    def _swarm(self) -> dict[str, int]:
        if self._torrents is None:
            return self._last
        state = self._torrents.stats()
        return {
            "sent_bytes": int(state["uploaded_bytes"]),
            "peers": int(state["peers"]),
            "damaged_pieces": len(state["damaged"]),
        }

    def _describe(self) -> Facts:
        release = self.release.release
        magnets = self.magnets if self.peer else {}
        fetch, alternatives = fetch_lines(self.release, self.url, self.gateway, magnets)
        return Facts(
            name=release.name,
            manifest_id=release.manifest_id,
            files=release.files,
            size_bytes=release.size_bytes,
            present_files=self._shelf.present,
            url=self.url,
            gateway=self.gateway,
            peer=self.peer,
            cids=dict(release.cids) if self.gateway else {},
            magnets=magnets,
            fetch=fetch,
            alternatives=alternatives,
            problems=self._shelf.problems[:20],
        )


def seed(
    release: OpenRelease,
    options: SeedOptions,
    *,
    ready: Callable[[Facts], None] | None = None,
    stop: threading.Event | None = None,
    seconds: float | None = None,
) -> Totals:
    """Serve until `stop` is set, `seconds` are over, or a signal comes; then close everything and tell what was sent.

    `ready` is called once everything listens; by default the facts are said as one event `seeding`. Raises HeadwaterError when
    an address cannot be had, MissingInput when none of the files is there.
    """
    from headwater.energy import Meter

    stop = stop or threading.Event()
    with Meter("seed") as meter:
        with Seeding(release, options) as seeding:
            try:
                (ready or announce)(seeding.facts)
                _wait(seeding, stop, time.monotonic() + seconds if seconds is not None else None)
            except (Cancelled, KeyboardInterrupt) as signal:
                say("info", f"{str(signal) or 'interrupted'}: closing")
        totals = seeding.totals()
    return replace(totals, energy=meter.record())


def announce(facts: Facts) -> None:
    """Say what is served: text for people, with --json one event line on standard error."""
    say("seeding", facts.text(), **facts.document())


def dry_run(release: OpenRelease, options: SeedOptions) -> dict[str, Any]:
    """What would be served, with a "text" for people; nothing is opened and nobody listens."""
    from distribute.faces.shelf import Shelf

    options.check()
    shelf = Shelf(release)
    there = [item.size_bytes or 0 for item in shelf.data if item.right is not None]
    nodes = shelf.size_of(NODES_NAME) if options.gateway else 0
    faces = ["http"] + ["ipfs"] * options.gateway
    faces += ["bittorrent"] * (options.bittorrent and bool(release.release.torrents))
    document = {
        "name": shelf.name,
        "manifest_id": release.release.manifest_id,
        "files": len(there),
        "missing_files": len(shelf.data) - len(there),
        "size_bytes": sum(there),
        "second_copy_bytes": 0,
        "read_at_start_bytes": nodes,
        "faces": faces,
        "problems": shelf.problems[:20],
    }
    text = f"would serve {len(there):,} files, {sum(there):,} bytes of {shelf.name} by {', '.join(faces)}; no second copy"
    if shelf.problems:
        text += f"\n{len(shelf.problems):,} problems: {shelf.problems[0]}"
    return {**document, "text": text}


def need_extra(module: str) -> None:
    """Raises MissingExtra with the line that installs it."""
    import importlib.util

    if importlib.util.find_spec(module) is None:
        raise MissingExtra(f"seeding needs the package {module}", hint="pip install 'headwater[seed]'")


def _wait(seeding: Seeding, stop: threading.Event, end: float | None) -> None:
    with track("seed", total=None, unit="bytes") as bar:
        while not stop.is_set():
            left = STATUS_SECONDS if end is None else min(end - time.monotonic(), STATUS_SECONDS)
            if left <= 0:
                return
            stop.wait(left)
            totals = seeding.totals()
            peers = totals.faces.get("bittorrent", {}).get("peers", 0)
            note = ", ".join(f"{name} {face.get('sent_bytes', 0):,}" for name, face in totals.faces.items())
            note += f"; {seeding.open_connections} connections, {peers} peers"
            if note != bar.note:  # a server that nobody asks says nothing
                bar.add(totals.sent_bytes - bar.done, note)
