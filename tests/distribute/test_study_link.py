"""The link: pacing by a clock that the test moves, and bytes through real sockets (without looking at the speed)."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distribute.study import link
from distribute.study.link import CALLED_FROM, Line, Pace, _dial, lines_of

Reader, Writer = asyncio.StreamReader, asyncio.StreamWriter


def test_a_queue_that_never_empties_goes_at_exactly_the_rate() -> None:
    pace, now = Pace(1000.0), 50.0
    leaves = [pace.take(100, now) for _ in range(20)]
    assert leaves == pytest.approx([50.1 + 0.1 * n for n in range(20)])
    assert pace.ahead(now) == pytest.approx(2.0)


def test_a_late_taker_catches_up_only_as_far_as_the_bucket_is_deep() -> None:
    pace = Pace(1000.0, depth_seconds=0.02)
    assert pace.take(10, 0.0) == pytest.approx(0.01)
    # idle for a second: a credit of 0.02 s, twenty bytes, and no more
    assert pace.take(20, 1.0) == 1.0
    assert pace.take(100, 1.0) == pytest.approx(1.1)


def test_the_bucket_is_empty_at_first() -> None:
    assert Pace(1000.0, depth_seconds=5.0).take(100, 7.0) == pytest.approx(7.1)


def test_without_a_rate_everything_leaves_at_once() -> None:
    pace = Pace(None)
    assert pace.take(10**12, 3.0) == 3.0
    assert pace.ahead(3.0) == 0.0


@given(
    st.lists(st.tuples(st.integers(1, 5000), st.floats(0, 0.5)), min_size=1, max_size=60),
    st.floats(100, 1e6),
)
def test_never_more_than_the_rate_allows(steps: list[tuple[int, float]], rate: float) -> None:
    """Over any time that begins with the first byte: at most rate x (time + depth), whatever the order of arrivals."""
    pace, now, sent, depth = Pace(rate, 0.02), 0.0, 0, 0.02
    for size, wait in steps:
        now += wait
        leaves = pace.take(size, now)
        sent += size
        assert leaves >= now
        assert sent <= rate * (leaves + depth) * (1 + 1e-9) + 1e-6


@pytest.mark.parametrize(
    ("rate", "quantum"), [(None, 65_536), (12.5e6, 25_000), (1000.0, 1500), (1e9, 65_536)]
)
def test_quantum_is_two_milliseconds(rate: float | None, quantum: int) -> None:
    assert Pace(rate).quantum == quantum


@contextlib.asynccontextmanager
async def _linked(
    answer: Callable[[Reader, Writer], Awaitable[None]], rate: float | None = None, delay: float = 0.0
) -> AsyncIterator[tuple[Line, int]]:
    """A line in front of a server, and the line's port."""
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    line = Line([("127.0.0.1", server.sockets[0].getsockname()[1])], Pace(rate), Pace(rate), delay)
    try:
        (port,) = await line.open()
        yield line, port
    finally:
        line.close()
        await asyncio.gather(*line.tasks, return_exceptions=True)
        server.close()
        await server.wait_closed()


def _run(work: Callable[[], Awaitable[Any]]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(work(), 30)

    asyncio.run(bounded())


async def _echo(reader: Reader, writer: Writer) -> None:
    """Everything that came, only after the sender's end: needs a half-close that arrives."""
    data = await reader.read()
    writer.write(data)
    writer.write_eof()
    await writer.drain()
    writer.close()


@pytest.mark.parametrize(("rate", "delay"), [(None, 0.0), (None, 0.01), (20e6, 0.0), (20e6, 0.01)])
def test_bytes_and_half_close_go_through_unchanged(rate: float | None, delay: float) -> None:
    async def work() -> None:
        async with _linked(_echo, rate, delay) as (line, port):

            async def one(number: int) -> None:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                data = bytes([number]) * (100_000 + number)
                writer.write(data)
                writer.write_eof()
                assert await reader.read() == data
                writer.close()

            await asyncio.gather(*(one(number) for number in range(10)))
            sent = sum(100_000 + number for number in range(10))
            counts = line.counts
            assert (counts.connections, counts.up_bytes, counts.down_bytes) == (10, sent, sent)
            assert counts.first_connection is not None and counts.first_down is not None
            assert counts.last_down is not None
            assert counts.first_connection <= counts.first_down <= counts.last_down

    _run(work)


def test_nothing_comes_before_the_delay_of_handshake_and_both_ways() -> None:
    async def work() -> None:
        async with _linked(_echo, None, 0.05) as (line, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"x")
            writer.write_eof()
            assert await reader.read() == b"x"
            writer.close()
            counts = line.counts
            assert counts.first_connection is not None and counts.first_down is not None
            # a lower bound: handshake 0.1 s, then 0.05 s each way, but for the timers' grain
            assert counts.first_down - counts.first_connection >= 0.195

    _run(work)


def test_a_receiver_that_does_not_read_holds_the_sender_back() -> None:
    sent = 0

    async def flood(reader: Reader, writer: Writer) -> None:
        nonlocal sent
        with contextlib.suppress(OSError):
            while sent < 1 << 30:
                writer.write(b"x" * 65_536)
                await writer.drain()
                sent += 65_536

    async def work() -> None:
        async with _linked(flood, 100e6, 0.005) as (line, port):
            client = socket.socket()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
            client.setblocking(False)
            await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", port))
            before = -1
            while before != sent or not sent:  # until it stands still
                before = sent
                await asyncio.sleep(0.3)
            assert sent < 200 << 20
            client.close()

    _run(work)


def test_a_seeder_that_is_not_there_ends_the_connection() -> None:
    async def work() -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            line = Line([("127.0.0.1", free.getsockname()[1])], Pace(None), Pace(None), 0.0)
            (port,) = await line.open()
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()
            assert line.counts.refused == 1
            line.close()

    _run(work)


def test_a_client_that_breaks_off_ends_the_seeders_side() -> None:
    gone = asyncio.Event()

    async def watch(reader: Reader, writer: Writer) -> None:
        with contextlib.suppress(OSError):
            await reader.read()
        gone.set()
        writer.close()

    async def work() -> None:
        async with _linked(watch, 1e6, 0.01) as (_, port):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"hello")
            await writer.drain()
            writer.transport.abort()
            await gone.wait()

    _run(work)


def test_small_messages_do_not_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nagle's algorithm is off on both of the link's sockets: else each small request would wait 40 ms for an ACK."""
    seen: list[int] = []
    carry = Line._carry

    async def look(self: Line, target: Any, reader: Reader, writer: Writer) -> None:
        seen.append(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        await carry(self, target, reader, writer)

    async def dial(target: Any, rate: float | None) -> tuple[Reader, Writer]:
        ends = await _dial(target, rate)
        seen.append(ends[1].get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        return ends

    monkeypatch.setattr(Line, "_carry", look)
    monkeypatch.setattr(link, "_dial", dial)

    async def work() -> None:
        async with _linked(_echo) as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write_eof()
            await reader.read()
            writer.close()

    _run(work)
    assert len(seen) == 2 and all(seen)


def test_the_seeder_cannot_call_back_the_client() -> None:
    """What the seeder sees as the client's address is one at which nobody listens, on the client's port or any other."""
    peers: list[str] = []

    async def note(reader: Reader, writer: Writer) -> None:
        peers.append(writer.get_extra_info("peername")[0])
        await reader.read()
        writer.close()

    async def work() -> None:
        async with _linked(note) as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write_eof()
            await reader.read()
            writer.close()

    _run(work)
    assert peers == [CALLED_FROM]


def test_specification_gives_each_seeder_its_own_pace() -> None:
    lines = lines_of(
        {"bytes_per_second": 1e6, "rtt_seconds": 0.05, "targets": [[["127.0.0.1", 1], ["127.0.0.1", 2]], []]}
    )
    assert [line.targets for line in lines] == [[("127.0.0.1", 1), ("127.0.0.1", 2)], []]
    assert lines[0].delay == 0.025 and lines[0].down is not lines[1].down
