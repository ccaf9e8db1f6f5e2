"""A web server on 127.0.0.1 for a folder, which can be told to misbehave, path by path.

with Mirror(release) as mirror:
    mirror.wrong["NAME/big.bin"] = flip(5_000_000)
    fetch([mirror.url], …)
    mirror.asked        # what was requested: (method, path, Range or "")
"""

from __future__ import annotations

import gzip
import os
import re
import socket
import threading
import time
from collections.abc import Callable
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

Wrong = Callable[["Handler", Path], None]


class Handler(BaseHTTPRequestHandler):
    """GET and HEAD with Range; what `server.wrong` says for a path comes first."""

    protocol_version = "HTTP/1.1"
    server: Server
    timeout = 30

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(self.path.partition("?")[0]).lstrip("/")
        mirror = self.server.mirror
        with mirror.lock:
            mirror.asked.append((self.command, path, self.headers.get("Range", "")))
            mirror.headers.append(dict(self.headers.items()))
        if path.startswith(mirror.pause_below):
            time.sleep(mirror.pause)
            end = time.monotonic() + 15
            while not mirror.gate() and time.monotonic() < end:
                time.sleep(0.01)
        wrong = mirror.wrong.get(path) or mirror.wrong.get("*")
        file = mirror.folder / path
        try:
            if wrong is not None:
                wrong(self, file)
            else:
                self.file(file)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def span(self, size: int) -> tuple[int, int] | None:
        """(start, end) of the range that was asked for."""
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if found is None:
            return None
        return int(found[1]), min(int(found[2]) + 1 if found[2] else size, size)

    def file(self, path: Path, *, data: bytes | None = None, ranges: bool = True, etag: str = "") -> None:
        """Send a file (or `data` in its place), or the part that was asked for."""
        if data is None:
            if not path.is_file():
                self.body(404, b"not here")
                return
            data = path.read_bytes()
        span = self.span(len(data)) if ranges else None
        extra = {"ETag": etag} if etag else {}
        if span is None:
            self.body(200, data, **extra)
            return
        start, end = span
        extra["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
        self.body(206, data[start:end], **extra)

    def body(self, status: int, data: bytes, **headers: str) -> None:
        """A plain answer; an underscore in a header's name is a dash."""
        self.send_response(status)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        for name, value in ({"Content-Length": str(len(data))} | named).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
            with self.server.mirror.lock:
                self.server.mirror.sent_bytes += len(data)


class Server(ThreadingHTTPServer):
    """Its handlers know the mirror."""

    daemon_threads = True
    block_on_close = False
    mirror: Mirror

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that goes away is part of the tests


class Mirror:
    """A server for one folder; `stop` and `start` again on the same port, as a machine that goes down and comes back."""

    def __init__(self, folder: Path, *, tls: Any = None) -> None:
        self.folder = folder
        self.wrong: dict[str, Wrong] = {}
        self.asked: list[tuple[str, str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.sent_bytes = 0
        self.pause = 0.0  # seconds before each answer …
        self.gate: Callable[[], bool] = lambda: True  # … and until this is so …
        self.pause_below = ""  # … about paths that begin like this
        self.lock = threading.Lock()
        self.port = 0
        self._tls = tls
        self._server: Server | None = None

    @property
    def connections(self) -> int:
        """How many were opened since the start."""
        return len(self._connections)

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}/"

    def start(self) -> None:
        self._server = Server(("127.0.0.1", self.port), Handler)
        self._server.mirror = self
        if self._tls is not None:
            self._server.socket = self._tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.port = self._server.server_port
        self._connections: list[socket.socket] = []
        accept = self._server.get_request

        def get_request() -> Any:
            found = accept()
            self._connections.append(found[0])
            return found

        self._server.get_request = get_request  # type: ignore[method-assign]
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            for connection in self._connections:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
                connection.close()
            self._server = None

    def __enter__(self) -> Mirror:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def about(self, path: str) -> list[str]:
        """The ranges that were asked of one path."""
        return [span for _, asked, span in self.asked if asked == path]


# ways to misbehave


def flip(offset: int) -> Wrong:
    """One bit of the file is wrong."""

    def wrong(handler: Handler, path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[offset] ^= 1
        handler.file(path, data=bytes(data))

    return wrong


def status(code: int, **headers: str) -> Wrong:
    """Only this status."""
    return lambda handler, path: handler.body(code, b"no", **headers)


def times(count: int, first: Wrong) -> Wrong:
    """`first` for so many requests, then as it should be."""
    left = [count]

    def wrong(handler: Handler, path: Path) -> None:
        left[0] -= 1
        if left[0] >= 0:
            first(handler, path)
        else:
            handler.file(path)

    return wrong


def page(handler: Handler, path: Path) -> None:
    """A web page with status 200."""
    handler.body(200, b"<html><body>Please sign in</body></html>", Content_Type="text/html")


def no_ranges(handler: Handler, path: Path) -> None:
    """The whole file whatever is asked."""
    handler.file(path, ranges=False)


def other_range(handler: Handler, path: Path) -> None:
    """206, but of a range that begins one byte later."""
    data = path.read_bytes()
    start, end = handler.span(len(data)) or (0, len(data))
    handler.body(206, data[start:end], Content_Range=f"bytes {start + 1}-{end}/{len(data) + 1}")


def short(handler: Handler, path: Path) -> None:
    """Declares the right length and closes the connection in the middle."""
    data = path.read_bytes()
    start, end = handler.span(len(data)) or (0, len(data))
    handler.send_response(206 if "Range" in handler.headers else 200)
    handler.send_header("Content-Length", str(end - start))
    handler.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
    handler.end_headers()
    handler.wfile.write(data[start : start + (end - start) // 2])
    handler.close_connection = True


def stall(seconds: float, *, after: int = 100) -> Wrong:
    """Sends `after` bytes and then nothing for so long."""

    def wrong(handler: Handler, path: Path) -> None:
        data = path.read_bytes()
        start, end = handler.span(len(data)) or (0, len(data))
        handler.send_response(206 if "Range" in handler.headers else 200)
        handler.send_header("Content-Length", str(end - start))
        handler.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
        handler.end_headers()
        handler.wfile.write(data[start : start + after])
        handler.wfile.flush()
        time.sleep(seconds)
        handler.close_connection = True

    return wrong


def drip(pause: float, *, header: bool = False) -> Wrong:
    """One byte every `pause` seconds: of the body, or of the headers."""

    def wrong(handler: Handler, path: Path) -> None:
        data = path.read_bytes()
        start, end = handler.span(len(data)) or (0, len(data))
        lines = (
            f"HTTP/1.1 {206 if 'Range' in handler.headers else 200} OK\r\nContent-Length: {end - start}\r\n"
            f"Content-Range: bytes {start}-{end - 1}/{len(data)}\r\nX-Long: {'x' * 500}\r\n\r\n"
        ).encode()
        if not header:
            handler.wfile.write(lines)
        for byte in (lines if header else b"") + data[start:end]:
            handler.wfile.write(bytes([byte]))
            handler.wfile.flush()
            time.sleep(pause)

    return wrong


def endless(handler: Handler, path: Path) -> None:
    """A body without an end, and without a declared length."""
    handler.send_response(200)
    handler.send_header("Connection", "close")
    handler.end_headers()
    handler.close_connection = True
    block = bytes(64 << 10)
    for _ in range(64 * 1024):  # 4 GiB: nobody waits for it
        handler.wfile.write(block)


def bomb(handler: Handler, path: Path) -> None:
    """64 MiB of zeros, packed into 64 KiB."""
    handler.body(
        200, gzip.compress(bytes(64 << 20)), Content_Encoding="gzip", Content_Type="application/json"
    )


@cache
def _packed_zeros() -> bytes:
    return gzip.compress(bytes(64 << 20), 1)


def redirect(target: str, code: int = 302) -> Wrong:
    """Sends on to `target`."""
    return lambda handler, path: handler.body(code, b"", Location=target)


def etags() -> Wrong:
    """Another ETag for every request."""

    def wrong(handler: Handler, path: Path) -> None:
        handler.file(path, etag=f'"{os.urandom(8).hex()}"')

    return wrong
