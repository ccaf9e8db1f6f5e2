"""How many connections to one source work at once: more while small files only wait for it, fewer when it says so.

    4 ── each answer is mostly waiting, and each connection brings little ──> 8 ──> 16 … limit
      <── as many answers from each as before, or nearly? if not, back ──

Over a line with a round trip of 50 ms one connection brings 20 small files a second, however fast the line is. What costs a
small file is told by its answers alone: a far server makes the first byte late, and twice the connections then bring twice the
files. Where a processor or the line is what is full, each answer takes twice as long instead, and that growth is taken back.
A server that says 429 or 503, or breaks off, gets no more than it bore before.
"""

from __future__ import annotations

from dataclasses import dataclass, field

FIRST = 4  # connections
SMALL_FILE_BYTES = (
    1 << 20
)  # the size of files that this is about; only the first connections take larger ones
SLOW_BYTES_PER_SECOND = 4e6  # of one connection
WAITING_SHARE = 0.5  # of the time of an answer
FAR_SECONDS = 0.008  # before the first byte: nearer than this, processors are what takes the time
ANSWERS = 3  # of each connection, before it is judged; the first one, which may open it, is not counted
KEPT_SHARE = 0.625  # of what each connection brought before: twice as many then bring 1.25 times as much
AGAIN_SECONDS = 10.0  # after a growth that brought nothing
TOLD_SECONDS = 1.0  # in which several connections may tell of one failure


@dataclass
class _Answers:
    """What came since the last change."""

    skip: int = 0
    count: int = 0
    size_bytes: int = 0
    seconds: float = 0.0
    waited: list[float] = field(default_factory=list)


class Width:
    """The number for one source, from `now` = min(FIRST, limit) up to `limit`. Not thread-safe: the board calls it in its lock."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.now = min(FIRST, limit)
        self._ceiling = limit
        self._steps: list[int] = []  # what it was before each growth
        self._before: tuple[float, float] | None = (
            None  # (answers, bytes) a second of each, before the last growth
        )
        self._not_until = 0.0
        self._told_until = 0.0
        self._answers = _Answers()

    def answered(self, size_bytes: int, seconds: float, waited: float, now: float, queued: int) -> None:
        """A small file came whole, in `seconds`, of which `waited` until its first byte; `queued` more wait to be asked for."""
        seen = self._answers
        if seen.skip:
            seen.skip -= 1
            return
        seen.count += 1
        seen.size_bytes += size_bytes
        seen.seconds += seconds
        seen.waited.append(waited)
        if seen.count >= ANSWERS * self.now and seen.seconds > 0:
            self._judge(seen, now, queued)

    def failed(self, now: float) -> None:
        """The source was busy, silent or away: back to what it was, and not above that again. At the first width, nothing."""
        if not self._steps or now < self._told_until:
            return
        self._told_until = now + TOLD_SECONDS
        self._back()
        self._ceiling = self.now

    def _judge(self, seen: _Answers, now: float, queued: int) -> None:
        each = seen.count / seen.seconds, seen.size_bytes / seen.seconds
        if self._before is not None and all(
            new < KEPT_SHARE * old for new, old in zip(each, self._before, strict=True)
        ):
            self._back()
            self._not_until = now + AGAIN_SECONDS
            return
        wider = min(2 * self.now, self._ceiling)
        quartile = sorted(seen.waited)[
            len(seen.waited) // 4
        ]  # threads that wait for each other are no far server
        if (
            wider > self.now
            and now >= self._not_until
            and queued >= 2 * wider
            and quartile >= FAR_SECONDS
            and sum(seen.waited) >= WAITING_SHARE * seen.seconds
            and each[1] < SLOW_BYTES_PER_SECOND
        ):
            self._steps.append(self.now)
            self._before = each
            self._set(wider)
        else:
            self._before = None  # this width has proved itself
            self._answers = _Answers()

    def _back(self) -> None:
        self._before = None
        self._set(self._steps.pop())

    def _set(self, width: int) -> None:
        self.now = width
        self._answers = _Answers(skip=width)
