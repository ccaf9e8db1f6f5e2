"""Every HTTP request of the transports: limits on time, size and address, retries, and errors of one family.

    Web(context).request("GET", url, ok=(200,), limit_bytes=…) -> Response(status, headers, body)
    Web(context).stream(url, offset=…, length=…)               -> blocks of exactly that range

Redirects are followed by hand and every connection is judged by `_addresses`. Bodies are asked for as they are; one that
comes packed all the same is unpacked under the same size limit. No message holds a secret of an address (`_redact`).
"""

from __future__ import annotations

import json as jsonlib
import logging
import threading
from collections.abc import Container, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from distribute.transports._answers import (
    Busy,
    Failing,
    NoRanges,
    Wrapped,
    blocks,
    check_range,
    check_status,
    origin,
    parse,
    shown,
    whole,
)
from distribute.transports._base import (
    Context,
    Refused,
    Stalled,
    Unreachable,
    WrongBytes,
)
from distribute.transports._redact import redact

if TYPE_CHECKING:
    import httpx2

FIRST_WAIT_SECONDS = 0.2
_PRIVATE_HEADERS = frozenset({"authorization", "cookie", "girder-token", "proxy-authorization", "x-api-key"})
_SAFE_TO_REPEAT = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS"})


@dataclass(frozen=True)
class Response:
    """A whole answer."""

    status: int
    headers: Mapping[str, str]  # any case
    body: bytes
    url: str  # after redirects

    def json(self) -> Any:
        """The body as JSON. Raises WrongBytes when it is none (a web page, say)."""
        try:
            return jsonlib.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise WrongBytes(
                f"{redact(self.url)}: no JSON ({self.headers.get('content-type', 'no type')}, {len(self.body):,} bytes)",
                hint="check the address: a sign-in page or an error page answers like this",
            ) from error


class Web:
    """A client with limits, shared by the threads of one source. `headers` go to the first host only when they are secret."""

    def __init__(
        self, context: Context, *, headers: Mapping[str, str] | None = None, connections: int = 8
    ) -> None:
        self.context = context
        self._headers = {"Accept-Encoding": "identity", "User-Agent": _agent()} | dict(headers or {})
        self._connections = connections
        self._clients: dict[str, httpx2.Client] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """Give back all connections."""
        with self._lock:
            clients, self._clients = list(self._clients.values()), {}
        for client in clients:
            client.close()

    def __enter__(self) -> Web:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def request(
        self,
        method: str,
        url: str,
        *,
        json: Any = None,
        data: Mapping[str, str] | None = None,
        files: Any = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        content: bytes | Iterator[bytes] | None = None,
        ok: Container[int] = (200,),
        limit_bytes: int | None = None,
        attempts: int | None = None,
    ) -> Response:
        """The whole answer to one request, at most `limit_bytes` (default: Limits.document_bytes) unpacked.

        Repeats what may be repeated: GET, HEAD, PUT, DELETE; POST and PATCH only when the connection was never made or the
        server said 429 or 503; never a body that is an iterator (`content` or `files`). Raises SourceError: a status
        outside `ok` is NotThere (404, 410), Refused (401, 403, 407), Busy (429, 503) or SourceError.
        """
        limit = self.context.limits.document_bytes if limit_bytes is None else limit_bytes
        once = files is not None or not (content is None or isinstance(content, bytes))
        body = {"json": json, "data": data, "files": files, "params": params, "content": content}
        more = {name: value for name, value in body.items() if value is not None}

        def ask() -> Response:
            with closing(self._open(method, url, dict(headers or {}), more, repeat_body=not once)) as answer:
                check_status(answer, ok)
                return Response(answer.status_code, answer.headers, whole(answer, limit), str(answer.url))

        repeat = not once and method.upper() in _SAFE_TO_REPEAT
        answer: Response = self._retried(ask, attempts=1 if once else attempts, always=repeat)
        return answer

    def stream(
        self,
        url: str,
        *,
        offset: int = 0,
        length: int | None = None,
        headers: Mapping[str, str] | None = None,
        method: str = "GET",
        params: Mapping[str, Any] | None = None,
        size: int | None = None,
        attempts: int | None = None,
        seen: dict[str, str] | None = None,
    ) -> Iterator[bytes]:
        """Blocks of `length` bytes from `offset` (None: to the end), raw as the server keeps them.

        Errors come with the first block. Only the opening is repeated; a body that breaks off raises Unreachable or Stalled, and the caller goes on from where it
        is. `size` is what the whole object must have. `seen`, when given, gets the headers of the answer.
        Raises NoRanges for 200 to a range that does not begin at 0, WrongBytes for another range or another size.
        """
        ask = dict(headers or {})
        if offset or (length is not None and length != size):
            ask["Range"] = f"bytes={offset}-" + ("" if length is None else str(offset + length - 1))
        more = {} if params is None else {"params": params}

        def begin() -> httpx2.Response:
            answer = self._open(method, url, dict(ask), more, repeat_body=True)
            try:
                check_status(answer, (200, 206))
                check_range(answer, offset, length, size)
            except BaseException:
                answer.close()
                raise
            return answer

        answer: httpx2.Response = self._retried(begin, attempts=attempts, always=True)
        if seen is not None:
            seen.update({name.lower(): value for name, value in answer.headers.items()})
        yield from blocks(answer, length)

    def _client(self, scheme: str) -> httpx2.Client:
        with self._lock:
            if scheme not in self._clients:
                from distribute.transports._wire import new_client

                _quiet_logs()
                self._clients[scheme] = new_client(
                    self.context, self._headers, connections=self._connections, secure=scheme == "https"
                )
            return self._clients[scheme]

    def _open(
        self, method: str, url: str, headers: dict[str, str], more: dict[str, Any], *, repeat_body: bool
    ) -> httpx2.Response:
        """Send, follow redirects, and give the answer with its body still to come."""
        import httpx2

        limits = self.context.limits
        here = first = parse(url)
        for _ in range(limits.redirects + 1):
            client = self._client(here.scheme)
            if origin(here) != origin(first):
                headers = {k: v for k, v in headers.items() if k.lower() not in _PRIVATE_HEADERS}
            with Wrapped(here):
                request = client.build_request(method, here, headers=headers, **more)
                if origin(here) != origin(first):
                    for name in _PRIVATE_HEADERS & set(request.headers):
                        del request.headers[name]
                answer = client.send(request, stream=True)
            if answer.status_code not in (301, 302, 303, 307, 308) or "location" not in answer.headers:
                return answer
            answer.close()
            target = answer.headers["location"]
            try:
                there = parse(str(here.join(target)))
            except (httpx2.InvalidURL, ValueError) as error:
                raise Refused(
                    f"{shown(here)}: sends on to {redact(target)!r}, which is no address"
                ) from error
            if here.scheme == "https" and there.scheme == "http":
                raise Refused(f"{shown(here)}: sends on from https to {shown(there)}")
            if method not in ("GET", "HEAD"):
                if answer.status_code not in (307, 308) or not repeat_body:
                    raise Refused(
                        f"{shown(here)}: sends a {method} on to {shown(there)}", hint="use that address"
                    )
            else:
                more = {}
            here = there
        raise Refused(f"{shown(first)}: sends on more than {limits.redirects} times")

    def _retried(self, work: Any, *, attempts: int | None, always: bool) -> Any:
        """`work()` again after failures that may pass, with growing waits that end at once when the work is to stop."""
        limits, stop = self.context.limits, self.context.stop
        tries = limits.attempts if attempts is None else attempts
        if tries == 1:
            return work()
        import stamina

        count = 0

        def wait_for(error: Exception) -> bool | float:
            nonlocal count
            count += 1
            if not isinstance(error, Busy) and not (always or getattr(error, "never_sent", False)):
                return False
            if not isinstance(error, (Busy, Unreachable, Stalled)) or count >= tries or stop.is_set():
                return False
            wait = FIRST_WAIT_SECONDS * 2**count
            if isinstance(error, Busy) and error.wait_seconds is not None:
                wait = error.wait_seconds
            # waited here and not by stamina, whose sleep nothing can end
            return False if stop.wait(min(wait, limits.backoff_limit_seconds)) else 0.0

        for attempt in stamina.retry_context(on=wait_for, attempts=tries, timeout=None):
            with attempt:
                return work()
        raise AssertionError("unreachable")


def _agent() -> str:
    try:
        return f"headwater/{version('headwater')}"
    except PackageNotFoundError:
        return "headwater"


def _quiet_logs() -> None:
    """httpx2 logs every address with its query, httpcore2 every header: secrets, whoever configures logging."""
    for name in ("httpx2", "httpcore2", "stamina"):
        logging.getLogger(name).setLevel(logging.WARNING if name != "stamina" else logging.ERROR)


__all__ = ["Busy", "Failing", "NoRanges", "Response", "Web", "redact"]
