"""From blocks to the bytes of a file: blocks asked for ahead or as one stream, and only memory that is bounded.

    Ahead       single blocks, a few asked for before they are needed
    Stream      one CAR stream; what it lacks, or brings damaged, is asked for as single blocks
    file_range  walks the nodes of a UnixFS file and yields the bytes of a range

Every block that comes in here was hashed against its CID by the provider it comes from.
"""

from __future__ import annotations

import contextvars
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from typing import Protocol

from distribute.cid import RAW, Cid
from distribute.dagpb import FILE, RAW_TYPE, decode_unixfs
from distribute.transports._base import WrongBytes
from distribute.transports._gateway import Blocks
from headwater.errors import IntegrityError

DEPTH = 32  # levels of a file: 174 wide, 8 already hold an exabyte
AHEAD_BLOCKS = 6  # asked for before they are needed; times 2 MiB is the memory of one read
POOL_BYTES = 16 << 20  # blocks of a CAR stream that wait for their turn, or may be asked for again
ENTRY_BYTES = 200  # what a block costs besides its bytes: a stream of tiny ones must end too
NODE_BYTES = 64 << 20  # interior nodes kept for the next range of the same file

Key = tuple[int, int, bytes]


class Feed(Protocol):
    """Gives the blocks of a walk in its order."""

    def take(self, cid: Cid, coming: Iterable[Cid]) -> bytes:
        """The block `cid`; `coming` are the ones that will be asked for next, in order."""

    def finish(self) -> None:
        """The walk came to its end."""

    def close(self) -> None:
        """No more is taken."""


class Ahead:
    """Single blocks, the next few of which threads fetch meanwhile."""

    def __init__(
        self, fetch: Callable[[Cid], bytes], pool: ThreadPoolExecutor, blocks: int = AHEAD_BLOCKS
    ) -> None:
        self._fetch = fetch
        self._pool = pool
        self._most = blocks
        self._running: dict[Key, Future[bytes]] = {}

    def take(self, cid: Cid, coming: Iterable[Cid] = ()) -> bytes:
        mine = self._running.pop(cid.key, None)
        for following in islice(coming, self._most):
            if len(self._running) >= self._most:
                break
            if following.key not in self._running and following.key != cid.key:
                # with the context of this thread, so that what is said there is heard
                run = contextvars.copy_context().run
                self._running[following.key] = self._pool.submit(run, self._fetch, following)
        return self._fetch(cid) if mine is None else mine.result()

    def finish(self) -> None:
        pass  # nothing is asked for that was not announced

    def close(self) -> None:
        for future in self._running.values():
            future.cancel()
        self._running.clear()


class Stream:
    """The blocks of one CAR stream, in the order of the walk whatever their order in the stream.

    Blocks that come early wait, at most POOL_BYTES of them; a stream that brings more than `limit_bytes` is left. When it
    ends, breaks or was never there, the rest is asked for one by one.
    """

    def __init__(self, begin: Callable[[], Blocks | None], limit_bytes: int, rest: Ahead) -> None:
        self._begin: Callable[[], Blocks | None] | None = begin
        self._blocks: Blocks | None = None
        self._left = limit_bytes
        self._rest = rest
        self._pool: OrderedDict[Key, bytes] = OrderedDict()
        self._pooled = 0
        self._seen: set[Key] = set()

    def take(self, cid: Cid, coming: Iterable[Cid] = ()) -> bytes:
        if self._begin is not None:
            self._blocks, self._begin = self._begin(), None
        wanted = cid.key
        if wanted in self._pool:
            # kept at the young end: a file of zeros asks for one block again and again
            self._pool.move_to_end(wanted)
            return self._pool[wanted]
        # a block that came and made room for others is not waited for: it may not come again
        while self._blocks is not None and wanted not in self._seen:
            found = next(self._blocks, None)
            if found is None:
                self._end()
                break
            key, block = found[0].key, found[1]
            self._left -= len(block) + ENTRY_BYTES
            if self._left < 0:
                self._end()
            if key not in self._seen:
                self._seen.add(key)
                self._keep(key, block)
            if key == wanted:
                return block
        lacking = (following for following in coming if following.key not in self._pool)
        return self._rest.take(cid, () if self._blocks is not None else lacking)

    def _keep(self, key: Key, block: bytes) -> None:
        self._pool[key] = block
        self._pooled += len(block)
        while self._pooled > POOL_BYTES:
            _, old = self._pool.popitem(last=False)
            self._pooled -= len(old)

    def _end(self) -> None:
        if self._blocks is not None:
            self._blocks.close()
            self._blocks = None

    def finish(self) -> None:
        if self._blocks is not None and next(self._blocks, None) is None:
            self._blocks = None  # read to its end: the connection can be used again

    def close(self) -> None:
        self._end()
        self._pool.clear()
        self._rest.close()


class Nodes:
    """Interior nodes that were fetched, so that the next range of a file does not fetch them again."""

    def __init__(self, limit_bytes: int = NODE_BYTES) -> None:
        self._kept: OrderedDict[Key, bytes] = OrderedDict()
        self._left = limit_bytes
        self._lock = threading.Lock()

    def get(self, cid: Cid) -> bytes | None:
        with self._lock:
            block = self._kept.get(cid.key)
            if block is not None:
                self._kept.move_to_end(cid.key)
            return block

    def put(self, cid: Cid, block: bytes) -> None:
        with self._lock:
            if cid.key in self._kept:
                return
            self._kept[cid.key] = block
            self._left -= len(block)
            while self._left < 0:
                _, old = self._kept.popitem(last=False)
                self._left += len(old)


def file_range(
    cid: Cid, size: int, offset: int, length: int, feed: Feed, nodes: Nodes, name: str
) -> Iterator[bytes]:
    """Bytes `offset` to `offset + length` of the UnixFS file `cid`, in blocks.

    `size` is what the file must have. Children outside the range are not fetched. Raises WrongBytes when the nodes contradict
    each other or `size` (`name` is for the message), and what the feed raises.
    """
    end = offset + length
    if offset < 0 or end > size:
        raise WrongBytes(f"{name}: bytes {offset:,} to {end:,} of a file of {size:,} were asked for")
    stack = [(cid, 0, size, 0)] if length else []
    with closing(feed):
        while stack:
            here, start, has, depth = stack.pop()
            block = nodes.get(here)
            if block is None:
                coming = (part[0] for part in reversed(stack))
                block = feed.take(here, coming)
            data, children = _open_node(here, block, has, name)
            if children:
                nodes.put(here, block)
                if depth >= DEPTH:
                    raise WrongBytes(f"{name}: {cid.text} is more than {DEPTH} levels deep")
            if start < end and start + len(data) > offset:
                low, high = max(offset - start, 0), min(end - start, len(data))
                yield data if high - low == len(data) else data[low:high]
            at = start + len(data)
            parts = []
            for child, child_size in children:
                if at < end and at + child_size > offset:
                    parts.append((child, at, child_size, depth + 1))
                at += child_size
            stack += reversed(parts)
        feed.finish()


def _open_node(cid: Cid, block: bytes, size: int, name: str) -> tuple[bytes, list[tuple[Cid, int]]]:
    """(data in this node, children with the bytes below each) of a node that must hold `size` bytes in all."""
    if cid.codec == RAW:
        if len(block) != size:
            raise WrongBytes(
                f"{name}: {cid.text} has {len(block):,} bytes, its parent or manifest says {size:,}"
            )
        return block, []
    try:
        message, links = decode_unixfs(cid, block)
    except IntegrityError as error:
        raise WrongBytes(f"{name}: {error.message}", hint=error.hint) from error
    if message.type not in (FILE, RAW_TYPE):
        raise WrongBytes(f"{name}: {cid.text} is a folder or a link, not a file")
    below = sum(message.blocksizes)
    if len(links) != len(message.blocksizes) or len(message.data) + below != size:
        raise WrongBytes(
            f"{name}: {cid.text} has {len(message.data) + below:,} bytes in {len(links)} parts, its parent or manifest "
            f"says {size:,}"
        )
    return message.data, list(zip([link.cid for link in links], message.blocksizes, strict=True))
