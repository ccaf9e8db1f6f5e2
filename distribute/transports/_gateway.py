"""Blocks and CAR streams from trustless gateways: whatever a gateway says, only the hash of a block counts.

    GET /ipfs/{cid}?format=raw                                  one block
    GET /ipfs/{cid}?format=car&dag-scope=entity&entity-bytes=…  the blocks of one file, or of a range of it

Source: the IPFS "Trustless Gateway" specification of 2026-03. A page of HTML, another file, another block: each is a block
that does not hash to its CID, and becomes WrongBytes naming the gateway and the CID.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from typing import TypeAlias

from distribute.car import read_car
from distribute.cid import Cid
from distribute.transports._base import Context, Refused, SourceError, WrongBytes
from distribute.transports._web import Response, Web, redact
from headwater.console import say
from headwater.errors import IntegrityError, UsageError

BLOCK_BYTES = (2 << 20) + 1024  # the most that nodes pass on (Bitswap 1.2), and a little for wrapping
RAW_TYPE = "application/vnd.ipld.raw"
CAR_TYPE = "application/vnd.ipld.car"

Blocks: TypeAlias = Generator[tuple[Cid, bytes]]


class Provider(ABC):
    """Somebody who gives blocks: a gateway, a node's RPC. Used by several threads at once."""

    label: str  # how messages call it, without secrets

    @abstractmethod
    def block(self, cid: Cid, limit_bytes: int = BLOCK_BYTES) -> bytes:
        """One block, checked. Raises SourceError; WrongBytes names this provider and the CID."""

    @abstractmethod
    def car(self, cid: Cid, first: int, last: int, *, whole: bool) -> Blocks | None:
        """The blocks of bytes `first` to `last` (inclusive) of the file `cid`, each checked, in an order of its own.

        There may be too many, too few, or some twice. None when this provider has no such stream. Raises SourceError.
        """

    def close(self) -> None:  # noqa: B027 - a provider may have nothing to close
        """Give back connections."""


class Gateway(Provider):
    """A trustless gateway at an address such as http://127.0.0.1:8080 or https://example.org/ipfs/."""

    def __init__(self, address: str, context: Context, *, connections: int = 8) -> None:
        """Raises UsageError when the address is no http(s) address."""
        base = address.strip().rstrip("/")
        if not base.lower().startswith(("http://", "https://")):
            raise UsageError(
                f"{redact(address)!r} is no gateway address",
                hint="write it as http://HOST:PORT or https://HOST",
            )
        self._base = base.removesuffix("/ipfs").rstrip("/")
        self.label = redact(self._base)
        self._web = Web(context, connections=connections)
        self._cars = True

    def close(self) -> None:
        self._web.close()

    def block(self, cid: Cid, limit_bytes: int = BLOCK_BYTES) -> bytes:
        try:
            answer = self._web.request(
                "GET",
                f"{self._url(cid)}?format=raw",
                headers={"Accept": RAW_TYPE},
                limit_bytes=limit_bytes,
            )
        except SourceError as error:
            if cid.text in error.message and self.label in error.message:
                raise
            raise type(error)(f"{self.label}: block {cid.text}: {error.message}", hint=error.hint) from error
        return checked(cid, answer.body, f"{self.label}{_kind(answer)}")

    def car(self, cid: Cid, first: int, last: int, *, whole: bool) -> Blocks | None:
        if not self._cars:
            return None
        wanted = {"format": "car", "dag-scope": "entity", "car-order": "dfs", "car-dups": "y"}
        if not whole:
            wanted["entity-bytes"] = f"{first}:{last}"
        seen: dict[str, str] = {}
        stream = self._web.stream(
            self._url(cid),
            params=wanted,
            headers={"Accept": f"{CAR_TYPE}; version=1; order=dfs; dups=y"},
            seen=seen,
        )
        try:
            head = next(stream, b"")
        except SourceError as error:
            if type(error) in (SourceError, Refused):  # 400, 403, 406, 501: it has blocks only
                self._cars = False
                return None
            raise
        if not seen.get("content-type", CAR_TYPE).startswith((CAR_TYPE, "application/octet-stream")):
            _close(stream)
            self._cars = False  # an older gateway: it ignores `format`
            return None
        return car_blocks(stream, cid, self.label, head)

    def _url(self, cid: Cid) -> str:
        return f"{self._base}/ipfs/{cid.text}"


def checked(cid: Cid, block: bytes, where: str) -> bytes:
    """`block` when it is the one that `cid` names. Raises WrongBytes naming `where` and the CID."""
    try:
        cid.check(block)
    except IntegrityError:
        raise WrongBytes(
            f"{where}: sent {len(block):,} bytes that are not the block {cid.text}",
            hint="what it sends is not to be trusted: use another gateway",
        ) from None
    return block


class _Handle:
    """What a CAR reader reads from: the blocks of an HTTP body, one after another."""

    def __init__(self, blocks: Iterator[bytes], first: bytes) -> None:
        self._blocks = blocks
        self._now = memoryview(first)
        self.ended = False

    def read(self, size: int, /) -> bytes:
        while not self._now:
            following = next(self._blocks, None)
            if following is None:
                self.ended = True
                return b""
            self._now = memoryview(following)
        part, self._now = self._now[:size], self._now[size:]
        return bytes(part)


def car_blocks(body: Iterator[bytes], cid: Cid, where: str, first: bytes = b"") -> Blocks:
    """The blocks of a CAR that comes from `where`, each checked, whatever their order and number. `first` was read already.

    A stream that is cut ends quietly, for a gateway that lacks a block can do nothing else: what is missing has to be asked
    for. Raises WrongBytes naming `where` and the CID at the first block that is not what it says, and for what is no CAR.
    """
    handle = _Handle(body, first)
    reader = None
    try:
        reader = read_car(handle)
        yield from reader
    except IntegrityError as error:
        if reader is not None and handle.ended:
            say("debug", f"{where}: the CAR of {cid.text} is cut: {error.message}")
            return
        raise WrongBytes(
            f"{where}: the CAR of {cid.text}: {error.message}", hint="its blocks are asked for one by one"
        ) from error
    finally:
        _close(body)


def _close(body: Iterator[bytes]) -> None:
    if isinstance(body, Generator):
        body.close()


def _kind(answer: Response) -> str:
    """What the answer calls itself, for messages."""
    kind = answer.headers.get("content-type", "").partition(";")[0].strip()
    return "" if kind in ("", RAW_TYPE, "application/octet-stream") else f" ({redact(kind)[:60]})"
