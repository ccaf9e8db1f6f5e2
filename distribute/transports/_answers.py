"""What is made of an answer to a request: statuses and broken connections as SourceErrors, ranges compared, bodies bounded."""

from __future__ import annotations

import email.utils
import time
import zlib
from collections.abc import Container, Iterator
from typing import TYPE_CHECKING, Any

from distribute.transports._base import NotThere, Refused, SourceError, Stalled, Unreachable, WrongBytes
from distribute.transports._redact import redact
from headwater.errors import HeadwaterError

if TYPE_CHECKING:
    import httpx2

SCHEMES = ("http", "https")


class Busy(SourceError):
    """429 or 503: it asks to come back later. `wait_seconds` is what it asks for, within Limits."""

    wait_seconds: float | None = None


class Failing(Unreachable):
    """500: it answers, but cannot give this object. Others it may give."""


class NoRanges(SourceError):
    """It sends whole files only (200 to a range request)."""


def parse(url: str) -> httpx2.URL:
    """An http(s) address. Raises Refused for any other scheme and for what is no address."""
    import httpx2

    try:
        parsed = httpx2.URL(url)
        port = parsed.port
    except (httpx2.InvalidURL, ValueError, UnicodeError) as error:
        raise Refused(f"{redact(url)[:200]!r} is no web address ({error})") from error
    if parsed.scheme not in SCHEMES:
        raise Refused(
            f"{redact(url)[:200]!r}: only http and https addresses are fetched", hint="use such an address"
        )
    if not parsed.host or port == 0:
        raise Refused(f"{redact(url)[:200]!r} names no host")
    return parsed


def origin(url: httpx2.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def shown(url: httpx2.URL) -> str:
    return redact(str(url))


class Wrapped:
    """Errors of httpx2 inside this block come out as SourceErrors without secrets."""

    def __init__(self, url: httpx2.URL) -> None:
        self._url = url

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, HeadwaterError) or not isinstance(error, Exception):
            return
        import httpx2

        if isinstance(
            error, (httpx2.HTTPError, httpx2.StreamError, httpx2.InvalidURL, OSError, UnicodeError)
        ):
            # not chained: what httpx2 says holds the address with its secrets
            raise explain(error, shown(self._url)) from None


def explain(error: Exception, name: str) -> SourceError:
    import httpx2

    from distribute.transports._wire import cause_of, reason

    inner = cause_of(error)
    if inner is not None:
        found = type(inner)(f"{name}: {inner.message}", hint=inner.hint)
        found.never_sent = True  # type: ignore[attr-defined]
        return found
    why = redact(reason(error))
    if isinstance(error, (httpx2.ConnectTimeout, httpx2.ConnectError)):
        if "certificate" in why or "SSL" in why or "TLS" in why:
            return Refused(
                f"{name}: no safe connection ({why})", hint="its certificate must be one this machine trusts"
            )
        found = Unreachable(f"{name}: no connection ({why})")
        found.never_sent = True  # type: ignore[attr-defined]
        return found
    if isinstance(error, httpx2.TimeoutException):
        return Stalled(f"{name}: stalled ({why})")
    if isinstance(error, httpx2.RemoteProtocolError) and "without sending a response" not in why:
        return Unreachable(f"{name}: the answer broke off ({why})")
    return Unreachable(f"{name}: the connection broke ({why})")


def check_status(answer: httpx2.Response, ok: Container[int]) -> None:
    status = answer.status_code
    if status in ok:
        return
    name = f"{shown(answer.url)}: answered {status} {answer.reason_phrase}".rstrip()
    if status in (404, 410):
        raise NotThere(name)
    if status in (401, 403, 407):
        raise Refused(name, hint="this address needs a key or a password")
    if status == 416:
        raise WrongBytes(f"{name}: it is shorter there than it should be")
    if status in (429, 503):
        busy = Busy(name)
        busy.wait_seconds = _retry_after(answer.headers.get("retry-after"))
        raise busy
    if status == 500:
        raise Failing(name)
    if status in (408, 502, 504):
        raise Unreachable(name)
    raise SourceError(name)


def _retry_after(text: str | None) -> float | None:
    """Seconds of a Retry-After header in either form; None without one that can be read."""
    if text is None:
        return None
    try:
        return max(float(int(text.strip()[:12])), 0.0)
    except ValueError:
        pass
    try:
        return max(email.utils.parsedate_to_datetime(text).timestamp() - time.time(), 0.0)
    except (ValueError, TypeError, OverflowError):
        return None


def check_range(answer: httpx2.Response, offset: int, length: int | None, size: int | None) -> None:
    """That the answer is the range that was asked for, of an object of the size it should have."""
    status = answer.status_code
    declared = answer.headers.get("content-length", "")
    total: int | None = int(declared) if declared.isascii() and declared.isdigit() else None
    if status == 206:
        found = answer.headers.get("content-range", "")
        try:
            unit, _, rest = found.partition(" ")
            span, _, whole = rest.partition("/")
            start, _, last = span.partition("-")
            begin, end = int(start), int(last) + 1
            total = None if whole == "*" else int(whole)
        except ValueError:
            raise WrongBytes(
                f"{shown(answer.url)}: a part without a readable Content-Range ({found[:60]!r})"
            ) from None
        if unit != "bytes" or begin != offset or (length is not None and end - begin != length):
            raise WrongBytes(
                f"{shown(answer.url)}: sent bytes {begin}-{end - 1}, asked for {offset}-{'' if length is None else offset + length - 1}"
            )
    elif offset:
        raise NoRanges(f"{shown(answer.url)}: sends whole files only")
    if size is not None and total is not None and total != size:
        kind = answer.headers.get("content-type", "").partition(";")[0]
        page = " of a web page" if kind in ("text/html", "application/xhtml+xml") else ""
        raise WrongBytes(f"{shown(answer.url)}: has {total:,} bytes{page}, {size:,} are right")


def blocks(answer: httpx2.Response, length: int | None) -> Iterator[bytes]:
    """The body, cut at `length`; raises when there is less."""
    left = length
    try:
        with Wrapped(answer.url):
            if left == 0:
                return
            for block in answer.iter_raw():
                if left is None:
                    yield block
                    continue
                if left == 0 or len(block) > left:
                    if left:
                        yield block[:left]
                        left = 0
                    return
                left -= len(block)
                yield block
                # the end of the body is read too, for the connection to be used again
        if left:
            raise Unreachable(f"{shown(answer.url)}: the answer ended {left:,} bytes early")
    finally:
        answer.close()


def whole(answer: httpx2.Response, limit: int) -> bytes:
    """The whole body, unpacked, at most `limit` bytes."""
    coding = answer.headers.get("content-encoding", "identity").strip().lower()
    unpack: Any = None
    if coding in ("gzip", "x-gzip", "deflate"):
        unpack = zlib.decompressobj(wbits=47 if "gzip" in coding else 15)
    elif coding not in ("", "identity"):
        raise WrongBytes(f"{shown(answer.url)}: packed as {coding[:20]!r}, which nobody asked for")
    parts, size = [], 0
    with Wrapped(answer.url):
        for block in answer.iter_raw():
            if unpack is not None:
                try:
                    block = unpack.decompress(block, limit - size + 1)
                except zlib.error as error:
                    raise WrongBytes(f"{shown(answer.url)}: cannot be unpacked ({error})") from None
            size += len(block)
            if size > limit or (unpack is not None and unpack.unconsumed_tail):
                raise WrongBytes(
                    f"{shown(answer.url)}: more than {limit:,} bytes", hint="not what was asked for"
                )
            parts.append(block)
    if unpack is not None and not unpack.eof:
        raise WrongBytes(f"{shown(answer.url)}: its packed body is cut short")
    return b"".join(parts)
