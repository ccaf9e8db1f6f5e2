"""The connections under `_web`: judged addresses, and a clock that only runs while we wait for the other side.

A server that sends one byte now and then keeps every read short of its time limit; here the bytes of one answer are
counted against the time spent in reading them, so that slow headers and slow bodies both end.
Imported by `_web` when the first request is made: httpx2 costs 70 ms.
"""

from __future__ import annotations

import contextlib
import ssl
import threading
import time
from collections.abc import Iterable
from typing import Any

import httpcore2
import httpx2

from distribute.transports._addresses import resolve
from distribute.transports._base import Context, Limits, Refused, SourceError

KEEP_SECONDS = 15.0  # an idle connection; many servers close after 5 to 75 s
READ_BYTES = 256 << 10  # at once, where httpcore2 asks for 64 KiB: a block costs CPU time, whatever its size


class _Stream(httpcore2.NetworkStream):
    """A connection that measures how fast one answer comes, and that ends when the work is to end."""

    def __init__(self, inner: httpcore2.NetworkStream, limits: Limits, stop: threading.Event) -> None:
        self._inner = inner
        self._limits = limits
        self._stop = stop
        self._waited = 0.0
        self._received = 0

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if self._stop.is_set():
            raise httpcore2.ReadError("stopped")
        begun = time.monotonic()
        data = self._inner.read(max(max_bytes, READ_BYTES), timeout)
        self._waited += time.monotonic() - begun
        self._received += len(data)
        if data and self._waited > self._limits.stall_seconds:
            rate = self._received / self._waited
            if rate < self._limits.slowest_bytes_per_second:
                raise httpcore2.ReadTimeout(f"only {rate:,.0f} bytes a second over {self._waited:.0f} s")
            if self._waited > 4 * self._limits.stall_seconds:  # what was fast once does not excuse the rest
                self._waited, self._received = self._waited / 2, self._received // 2
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._waited, self._received = 0.0, 0  # a request: another answer begins
        self._inner.write(buffer, timeout)

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, timeout), self._limits, self._stop)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class GuardedBackend(httpcore2.NetworkBackend):
    """Connects to addresses that `resolve` allows, and to nothing else."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._system = httpcore2.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        limits = self._context.limits
        seconds = timeout if timeout is not None else limits.connect_seconds
        addresses = resolve(host, port, allow_private=self._context.allow_private, seconds=seconds)
        end = time.monotonic() + seconds
        for number, (_, address, _) in enumerate(addresses, 1):
            left = max(end - time.monotonic(), 0.1)
            # the first of several may be dead: leave time for the others
            share = left if number == len(addresses) else max(left / 2, 0.1)
            try:
                stream = self._system.connect_tcp(address, port, share, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                if number == len(addresses):
                    raise
                continue
            return _Stream(stream, limits, self._context.stop)
        raise Refused(f"{host}: no address to connect to")

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore2.NetworkStream:
        raise Refused("sockets of the file system are no web addresses")


class GuardedTransport(httpx2.HTTPTransport):
    """httpx2's own transport over guarded connections. No proxies: their addresses could not be judged."""

    def __init__(self, context: Context, *, connections: int, secure: bool) -> None:
        self._pool = httpcore2.ConnectionPool(
            ssl_context=httpx2.create_ssl_context()
            if secure
            else None,  # 20 ms that plain HTTP does not need
            max_connections=connections,
            max_keepalive_connections=connections,
            keepalive_expiry=KEEP_SECONDS,
            network_backend=GuardedBackend(context),
        )


def new_client(context: Context, headers: dict[str, str], *, connections: int, secure: bool) -> httpx2.Client:
    """A client that follows no redirect by itself and takes nothing from the environment but certificates."""
    limits = context.limits
    return httpx2.Client(
        transport=GuardedTransport(context, connections=connections, secure=secure),
        timeout=httpx2.Timeout(
            limits.stall_seconds, connect=limits.connect_seconds, pool=limits.stall_seconds * limits.attempts
        ),
        headers=headers,
        follow_redirects=False,
        trust_env=False,
    )


def cause_of(error: BaseException) -> SourceError | None:
    """A SourceError that was raised inside the connection, below httpx2's own wrapping."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, SourceError):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None


def reason(error: BaseException) -> str:
    """The innermost words about a failed connection: `Connection refused`, `certificate has expired` …"""
    seen, text = error, str(error)
    with contextlib.suppress(AttributeError):
        while (seen := seen.__cause__ or seen.__context__) is not None:  # type: ignore[assignment]
            if isinstance(seen, ssl.SSLCertVerificationError):
                return f"the certificate is not valid: {seen.verify_message}"
            text = str(seen) or text
    return text or type(error).__name__
