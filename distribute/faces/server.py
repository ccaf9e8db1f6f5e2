"""One HTTP/1.1 socket with limits: how many connections, how long a silent one is kept, how fast bytes go out.

A connection that is not being answered (its request has not come in whole, or it is kept alive) is closed after IDLE_SECONDS;
one that does not take STEP_BYTES within STEP_SECONDS is dropped. Files go out by sendfile.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from distribute.faces.shelf import Item, NotHere, NotRight, Opened, Shelf, Unknown, still
from headwater.console import say
from headwater.errors import HeadwaterError

if TYPE_CHECKING:
    from aiohttp import web

IDLE_SECONDS = 15.0
STEP_SECONDS = 60.0
STEP_BYTES = 1 << 20  # so the slowest client that is kept takes 17 kB/s
EXAMINE_SECONDS = 10.0  # how long a request waits for a changed file to be read
CONNECTIONS = 256
SHELF_ERRORS = (NotHere, NotRight, Unknown)
GRACE_SECONDS = 0.5  # for answers that are nearly out when the server ends
THREADS = 4

_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
)


@dataclass
class Counter:
    """What one face has sent."""

    requests: int = 0
    sent_bytes: int = 0


class Throttle:
    """Spreads bytes over time; `rate` in bytes a second, None for no limit."""

    def __init__(self, rate: int | None) -> None:
        self._rate = rate
        self._free_at = 0.0

    @property
    def step_bytes(self) -> int:
        """The most to send between two waits."""
        return STEP_BYTES if not self._rate else max(min(STEP_BYTES, self._rate // 4), 1)

    async def take(self, amount: int) -> None:
        """Wait until `amount` bytes may go out."""
        if self._rate:
            now = asyncio.get_running_loop().time()
            wait = max(self._free_at - now, 0.0)
            self._free_at = max(self._free_at, now) + amount / self._rate
            if wait:
                await asyncio.sleep(wait)


@dataclass
class Outlet:
    """What the faces share: threads for reading, the rate limit, the counters."""

    throttle: Throttle
    counters: dict[str, Counter] = field(default_factory=dict)
    threads: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(THREADS, thread_name_prefix="seed")
    )
    _examined: dict[str, asyncio.Future[None]] = field(default_factory=dict)

    def counter(self, face: str) -> Counter:
        """The one of this face."""
        return self.counters.setdefault(face, Counter())

    async def in_thread(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Run blocking work beside the loop; what it says goes where ours goes."""
        context = contextvars.copy_context()
        return await asyncio.get_running_loop().run_in_executor(self.threads, context.run, work, *arguments)

    async def open(self, shelf: Shelf, item: Item) -> Opened:
        """A file that is right, read first where that is not known. Raises NotHere, NotRight, Unknown (takes too long)."""
        try:
            return shelf.open(item)
        except Unknown:
            pass
        if (task := self._examined.get(item.name)) is None:
            task = asyncio.ensure_future(self.in_thread(shelf.examine, item))
            self._examined[item.name] = task
            task.add_done_callback(lambda done: self._forget(item.name, done))
        await asyncio.wait([task], timeout=EXAMINE_SECONDS)
        if task.done() and isinstance(error := task.exception(), NotHere):
            raise NotHere(item.name) from error
        return shelf.open(item)

    def _forget(self, name: str, task: asyncio.Future[None]) -> None:
        del self._examined[name]
        if not task.cancelled() and (error := task.exception()) and not isinstance(error, SHELF_ERRORS):
            say("error", f"seed: {name}: {type(error).__name__}: {error}")


async def send_file(
    request: web.BaseRequest,
    response: web.StreamResponse,
    opened: Opened,
    span: tuple[int, int],
    outlet: Outlet,
    counter: Counter,
) -> web.StreamResponse:
    """Send bytes [offset, offset + length) of an open file; closes it. A file that changes meanwhile breaks the connection."""
    offset, length = span
    with os.fdopen(opened.descriptor, "rb") as handle:
        response.content_length = length
        await response.prepare(request)
        if request.method == "HEAD":
            await response.write_eof()
            return response
        loop = asyncio.get_running_loop()
        while length:
            step = min(length, outlet.throttle.step_bytes)
            await outlet.throttle.take(step)
            transport = request.transport
            if transport is None:
                raise ConnectionResetError("the client went away")
            if not still(opened):
                transport.abort()
                say(
                    "warning",
                    f"{request.path!r}: changed, or found damaged, while it was sent; the connection was broken",
                )
                raise ConnectionResetError("the file changed")
            async with step_limit(request):
                sent = await loop.sendfile(transport, handle, offset, step)
            if not sent:
                transport.abort()  # the file became shorter in this moment
                raise ConnectionResetError("the file changed")
            offset, length = offset + sent, length - sent
            counter.sent_bytes += sent
        await response.write_eof()
    return response


async def send_bytes(
    request: web.BaseRequest, response: web.StreamResponse, data: bytes, outlet: Outlet, counter: Counter
) -> None:
    """Write one piece of a response that is being streamed."""
    view = memoryview(data)
    while view:
        part = view[: outlet.throttle.step_bytes]
        await outlet.throttle.take(len(part))
        async with step_limit(request):
            await response.write(part)
        counter.sent_bytes += len(part)
        view = view[len(part) :]


class step_limit:
    """Drops the connection when the block inside takes longer than STEP_SECONDS."""

    def __init__(self, request: web.BaseRequest) -> None:
        self._request = request
        self._timeout = asyncio.timeout(STEP_SECONDS)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError:
            if self._request.transport is not None:
                self._request.transport.abort()
            raise ConnectionResetError("the client takes nothing") from None


Handler = Callable[["web.BaseRequest"], Awaitable["web.StreamResponse"]]


class Front:
    """Listens, hands every request to `handler`, and keeps the limits."""

    def __init__(self, handler: Handler, *, connections: int = CONNECTIONS) -> None:
        self._handler = handler
        self._limit = connections
        self._busy: set[Any] = set()
        self._quiet_since: dict[Any, float] = {}
        self.refused = 0
        self.port = 0

    async def start(self, host: str, port: int) -> None:
        """Listen at `host`:`port` (0: any). Raises HeadwaterError when that address cannot be had."""
        from aiohttp import web

        logger = logging.Logger("headwater.seed")  # of its own, and writes nowhere
        logger.addHandler(logging.NullHandler())
        loop = asyncio.get_running_loop()
        self._server = web.Server(
            self._answer,
            access_log=None,
            logger=logger,
            keepalive_timeout=IDLE_SECONDS,
            lingering_time=2.0,
            handler_cancellation=True,
        )
        try:
            self._socket = await loop.create_server(self._accept, host, port, backlog=128)
        except OSError as error:
            why = os.strerror(error.errno) if error.errno else str(error)
            raise HeadwaterError(
                f"cannot listen at {host} port {port}: {why}",
                hint="choose another --port, or --port 0 for any free one",
            ) from error
        self.port = int(self._socket.sockets[0].getsockname()[1])
        self._watch = loop.create_task(self._close_idle())

    async def stop(self) -> None:
        """Take no more connections, let short answers end, and drop the connections there are."""
        self._watch.cancel()
        loop = asyncio.get_running_loop()
        for listening in self._socket.sockets:
            loop.remove_reader(listening.fileno())
        ends = loop.time() + GRACE_SECONDS
        while self._busy and loop.time() < ends:
            await asyncio.sleep(0.005)
        for turn in range(100):
            # a connection taken in this moment is set up, and an aborted one closed, in later turns of the loop;
            # asyncio loses the socket of one that is set up after the server was closed
            for connection in self._server.connections:
                if connection.transport is not None:
                    connection.transport.abort()
            if turn > 3 and not self._server.connections:
                break
            await asyncio.sleep(0.005)
        self._socket.close()
        await self._server.shutdown(timeout=1.0)
        await asyncio.gather(self._watch, return_exceptions=True)

    @property
    def open_connections(self) -> int:
        """At this moment."""
        return len(self._server.connections)

    def _accept(self) -> asyncio.Protocol:
        if len(self._server.connections) >= self._limit:
            self.refused += 1
            return _Full()
        return self._server()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        from aiohttp import web

        key = request.protocol
        self._busy.add(key)
        try:
            return await self._handler(request)
        except (NotHere, FileNotFoundError):
            return plain(404, "nothing of that name in this release")
        except NotRight:
            return plain(410, "this file was changed after it was published: it is not served")
        except Unknown:
            return plain(503, "this file is being checked; ask again", {"Retry-After": "5"})
        except (ConnectionError, asyncio.CancelledError, web.HTTPException):
            raise
        except Exception as error:  # one request must not end the server
            say("error", f"seed: {request.method} {request.path!r}: {type(error).__name__}: {error}")
            if request.transport is not None:
                request.transport.abort()
            raise ConnectionResetError("failed") from error
        finally:
            self._busy.discard(key)
            self._quiet_since[key] = asyncio.get_running_loop().time()

    async def _close_idle(self) -> None:
        """aiohttp waits for ever for the end of a request's headers; we do not."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(min(1.0, IDLE_SECONDS / 4))
            now, there = loop.time(), self._server.connections
            self._quiet_since = {key: self._quiet_since.get(key, now) for key in there}
            for key in there:
                if key not in self._busy and now - self._quiet_since[key] > IDLE_SECONDS:
                    if key.transport is not None:
                        key.transport.abort()
                    key.force_close()


class _Full(asyncio.Protocol):
    """Says that there are too many connections, and ends this one."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(_FULL)
        transport.close()


def plain(status: int, text: str, headers: dict[str, str] | None = None) -> web.Response:
    """A short answer in words."""
    from aiohttp import web

    fixed = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "Server": "headwater"}
    return web.Response(status=status, text=text + "\n", headers=fixed | (headers or {}))
