"""A link of our own between seeders and a client: a TCP proxy in user space with a rate and a delay each way.

    client ──> 127.0.0.1:PORT ─ pace (token bucket) ─ delay RTT/2 ──> seeder

One process carries all seeders of a trial. Each seeder has a line of its own: its ports share one rate for each direction, as
the uplink of one machine. What is modelled: rate, delay, the round trip of TCP's handshake, backpressure, half-close. What is
not: loss, jitter, congestion control and slow start (the kernel's loopback has neither), the client's own line, UDP.

The proxy dials from an address at which nobody listens, so that a seeder that would call back cannot pass the link by.
Spoken over standard input and output: one JSON line with the specification, one with the ports; then `report` lines are
answered with the counts; the end of standard input ends it.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from typing import Any

HOST = "127.0.0.1"
CALLED_FROM = "127.77.0.1"  # loopback on Linux, and nobody listens there
DEPTH_SECONDS = 0.02  # of the bucket: what a late wake-up may catch up
HORIZON_SECONDS = 0.01  # how far ahead bytes are taken from the sender
TIMER_SECONDS = 0.0005  # timers are late by up to a millisecond: half of it is taken off
UNPACED_BYTES = 16 << 20  # in flight on a connection of a line without a rate
SMALLEST, LARGEST = 1_500, 1 << 16  # bytes that are moved at once
BUFFER_BYTES = 1 << 18  # of the kernel, before a line with a rate


class Pace:
    """A token bucket as a clock: `take` says when so many bytes have gone through. Times in seconds, any monotonic clock.

    Over any span T at most rate · (T + depth) bytes pass; with a queue that never empties, exactly the rate. The bucket is
    empty at first.
    """

    def __init__(self, bytes_per_second: float | None, depth_seconds: float = DEPTH_SECONDS) -> None:
        self.bytes_per_second = bytes_per_second
        self._depth = depth_seconds
        self._free: float | None = None  # when all that was taken has gone through

    def take(self, size: int, now: float) -> float:
        """When the last of `size` bytes, taken at `now`, leaves."""
        if self.bytes_per_second is None:
            return now
        begin = now if self._free is None else max(self._free, now - self._depth)
        self._free = begin + size / self.bytes_per_second
        return max(self._free, now)

    def ahead(self, now: float) -> float:
        """Seconds of work that are already taken."""
        return 0.0 if self._free is None else max(self._free - now, 0.0)

    @property
    def quantum(self) -> int:
        """Bytes to move at once: two milliseconds of the rate."""
        if self.bytes_per_second is None:
            return LARGEST
        return int(min(max(self.bytes_per_second * 0.002, SMALLEST), LARGEST))


@dataclass
class Counts:
    """Of one line. Bytes of TCP payload; times of the system's monotonic clock, which all processes share."""

    connections: int = 0
    refused: int = 0
    up_bytes: int = 0
    down_bytes: int = 0
    first_connection: float | None = None
    first_down: float | None = None
    last_down: float | None = None


@dataclass
class Line:
    """One seeder's link: its ports, and one pace for each direction."""

    targets: list[tuple[str, int]]
    up: Pace
    down: Pace
    delay: float  # each way
    counts: Counts = field(default_factory=Counts)
    servers: list[asyncio.Server] = field(default_factory=list)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def open(self) -> list[int]:
        """Listen once for each target; the ports."""
        for target in self.targets:
            listener = _socket(self.down.bytes_per_second)
            listener.bind((HOST, 0))
            server = await asyncio.start_server(self._accepted(target), sock=listener, backlog=512)
            self.servers.append(server)
        return [server.sockets[0].getsockname()[1] for server in self.servers]

    def close(self) -> None:
        """No new connections, and those that are open end."""
        for server in self.servers:
            server.close()
        for task in self.tasks:
            task.cancel()

    def _accepted(self, target: tuple[str, int]) -> Any:
        async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self.tasks.add(task)
            try:
                await self._carry(target, reader, writer)
            except (OSError, asyncio.CancelledError):
                writer.transport.abort()
            finally:
                self.tasks.discard(task)

        return accepted

    async def _carry(
        self, target: tuple[str, int], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        now = time.monotonic()
        self.counts.connections += 1
        self.counts.first_connection = self.counts.first_connection or now
        try:
            there_reader, there_writer = await _dial(target, self.down.bytes_per_second)
        except OSError:
            self.counts.refused += 1
            raise
        # SYN and its answer take a round trip before the first byte may leave
        open_at = now + 2 * self.delay
        up = Pump(reader, there_writer, self.up, self.delay, open_at, self._went_up)
        down = Pump(there_reader, writer, self.down, self.delay, open_at, self._came_down)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(up.run())
                group.create_task(down.run())
        except* OSError:
            pass  # one side has gone: the other is told below
        finally:
            for end in (there_writer, writer):
                if not end.transport.is_closing() and not (up.ended and down.ended):
                    end.transport.abort()
                end.close()

    def _went_up(self, size: int) -> None:
        self.counts.up_bytes += size

    def _came_down(self, size: int) -> None:
        counts, now = self.counts, time.monotonic()
        counts.down_bytes += size
        counts.first_down = counts.first_down or now
        counts.last_down = now


class Pump:
    """One direction of one connection: read, pace, hold for the delay, write. Ends with a half-close."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        pace: Pace,
        delay: float,
        open_at: float,
        count: Any,
    ) -> None:
        self._reader, self._writer, self._pace, self._delay = reader, writer, pace, delay
        self._open_at, self._count = open_at, count
        self._queue: deque[tuple[float, bytes]] = deque()
        self._held = 0
        self._change = asyncio.Event()
        rate = pace.bytes_per_second
        self._most = UNPACED_BYTES if rate is None else int(max(rate * (delay + 0.1), 4 * LARGEST))
        self.ended = False

    async def run(self) -> None:
        """Until the sender has said its last byte and it was handed over. Raises OSError when a side breaks off."""
        if self._pace.bytes_per_second is None and not self._delay:
            while data := await self._reader.read(LARGEST):
                await self._hand_over(data)
        else:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._take())
                group.create_task(self._give())
        if self._writer.can_write_eof():
            self._writer.write_eof()
        self.ended = True

    async def _take(self) -> None:
        while True:
            # far ahead of its time nothing is taken: the sender feels the rate, and connections take turns
            while (ahead := self._pace.ahead(time.monotonic())) > HORIZON_SECONDS:
                await asyncio.sleep(ahead - HORIZON_SECONDS / 2)
            while self._held >= self._most:
                self._change.clear()
                await self._change.wait()
            data = await self._reader.read(self._pace.quantum)
            leaves = max(self._pace.take(len(data), time.monotonic()), self._open_at)
            self._queue.append((leaves + self._delay, data))
            self._held += len(data)
            self._change.set()
            if not data:
                return

    async def _give(self) -> None:
        while True:
            while not self._queue:
                self._change.clear()
                await self._change.wait()
            due, data = self._queue[0]
            wait = due - time.monotonic() - TIMER_SECONDS
            if wait > 0:
                await asyncio.sleep(wait)
            self._queue.popleft()
            if not data:
                return
            await self._hand_over(data)
            self._held -= len(data)
            self._change.set()

    async def _hand_over(self, data: bytes) -> None:
        self._writer.write(data)
        self._count(len(data))
        await self._writer.drain()


def _socket(rate: float | None) -> socket.socket:
    # asyncio turns Nagle's algorithm off only where the protocol is named; with it on, small requests wait 40 ms for an ACK
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if rate is not None:  # else megabytes would stand in the kernel's queue before the link
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
    return made


async def _dial(
    target: tuple[str, int], rate: float | None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    made = _socket(rate)
    try:
        made.setblocking(False)
        if target[0].startswith("127."):
            made.bind((CALLED_FROM, 0))
        await asyncio.get_running_loop().sock_connect(made, target)
        return await asyncio.open_connection(sock=made)
    except BaseException:
        made.close()
        raise


async def serve(lines: list[Line], commands: asyncio.StreamReader, answer: Any) -> None:
    """Open the lines, tell their ports, and answer until `commands` ends."""
    answer({"ports": [await line.open() for line in lines]})
    while await commands.readline():
        answer({"lines": [asdict(line.counts) for line in lines]})
    tasks = [task for line in lines for task in line.tasks]
    for line in lines:
        line.close()
    await asyncio.gather(*tasks, return_exceptions=True)


def lines_of(specification: dict[str, Any]) -> list[Line]:
    """From {"bytes_per_second": number or null, "rtt_seconds": number, "targets": [[[host, port], …], …]}."""
    rate, rtt = specification["bytes_per_second"], float(specification["rtt_seconds"])
    return [
        Line([(str(host), int(port)) for host, port in targets], Pace(rate), Pace(rate), rtt / 2)
        for targets in specification["targets"]
    ]


async def _main() -> None:
    specification = json.loads(sys.stdin.readline())
    commands = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)

    def answer(document: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps(document) + "\n")
        sys.stdout.flush()

    await serve(lines_of(specification), commands, answer)


if __name__ == "__main__":
    asyncio.run(_main())
