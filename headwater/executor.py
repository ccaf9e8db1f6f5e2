"""One call to run a function over shards, with the same answer on every back end.

    Executor.map_shards(fn, shards) -> results in the order of the shards

Back ends: `serial`, and `pool` (processes; the default). A Ray back end fits behind the same call.
`fn` is a top-level function of one argument; its result must not depend on which process ran it or when.
Worker processes import nothing from the current folder (`PYTHONSAFEPATH`), so a user's own `train.py` never shadows ours,
ignore the terminal's interrupt (the parent decides), and end when the parent does, even by kill -9.
"""

from __future__ import annotations

import functools
import os
import resource
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from headwater.energy import own_peak_rss_bytes, report_worker
from headwater.errors import HeadwaterError, UsageError, nearest

Shard = TypeVar("Shard")
Result = TypeVar("Result")

ENGINES = ("pool", "serial")


def default_workers() -> int:
    """Cores this process may use."""
    return max(1, len(os.sched_getaffinity(0)))


class Executor:
    """`engine` is pool or serial; `workers` the number of processes (None: one per core)."""

    def __init__(self, engine: str = "pool", workers: int | None = None) -> None:
        if engine not in ENGINES:
            raise UsageError(f"unknown engine {engine!r}: {nearest(engine, ENGINES)}")
        if workers is not None and workers < 1:
            raise UsageError(f"--workers is {workers}: it must be at least 1")
        self.engine = engine
        self.workers = workers or default_workers()

    def map_shards(
        self,
        fn: Callable[[Shard], Result],
        shards: Sequence[Shard],
        *,
        resources: dict[str, float] | None = None,
        max_in_flight: int | None = None,
        retries: int = 0,
        light: bool = False,
    ) -> Iterator[Result]:
        """Yield `fn(shard)` for every shard, in order.

        `light` says that all the work together is worth less than starting processes (about half a second of CPU).
        `max_in_flight` bounds submitted tasks (default: twice the workers), `retries` repeats a task whose process died.
        Raises whatever `fn` raised, with the traceback of the worker attached.
        """
        workers = min(self.workers, len(shards))
        if self.engine == "serial" or workers <= 1 or light:
            for shard in shards:
                yield fn(shard)
            return
        yield from _pool_map(fn, shards, workers, max_in_flight or 2 * workers, retries)


def _pool_map(
    fn: Callable[[Shard], Result], shards: Sequence[Shard], workers: int, in_flight: int, retries: int
) -> Iterator[Result]:
    tries = 0
    at = 0
    while at < len(shards):
        pool = _pool(workers)
        pending: deque[Future[tuple[Result, Usage]]] = deque()
        submitted = at
        try:
            while at < len(shards):
                while submitted < len(shards) and len(pending) < in_flight:
                    pending.append(pool.submit(_measured, fn, shards[submitted]))
                    submitted += 1
                result, usage = _result(pending.popleft())
                report_worker(*usage)
                at += 1
                yield result
            pool.shutdown()
            _report_server()
        except BrokenProcessPool as error:
            _stop(pool)
            tries += 1
            if tries > retries:
                raise HeadwaterError(
                    f"a worker process died at item {at + 1} of {len(shards)} (out of memory, or killed from outside)",
                    hint="run again with fewer --workers; finished parts are kept",
                ) from error
        except BaseException:
            _stop(pool)
            raise


Usage = tuple[int, float, int]  # process id, CPU seconds since its start, largest resident set in bytes


def _measured(fn: Callable[[Shard], Result], shard: Shard) -> tuple[Result, Usage]:
    """In a worker: the result, and what this process has used so far (workers are not children that we wait for)."""
    result = fn(shard)
    used = resource.getrusage(resource.RUSAGE_SELF)
    return result, (os.getpid(), used.ru_utime + used.ru_stime, own_peak_rss_bytes())


def _report_server() -> None:
    """Account for the process that workers are forked from: it imported what they share."""
    from multiprocessing import forkserver

    pid = getattr(forkserver._forkserver, "_forkserver_pid", None) or 0
    try:
        with open(f"/proc/{pid}/stat") as handle:
            fields = handle.read().rpartition(")")[2].split()
    except OSError:
        return
    report_worker(pid, (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), 0)


@functools.cache
def _stop_server_at_exit() -> None:
    """Wait for that process at our end, so that whoever measures us sees all the work as ours."""
    import atexit
    from multiprocessing import forkserver

    server: Any = forkserver._forkserver
    atexit.register(server._stop)


def _result(future: Future[Result]) -> Result:
    # in turns: a signal that arrives on the way into a wait is only seen at its end
    while not wait([future], timeout=0.5).done:
        pass
    return future.result()


def _pool(workers: int) -> ProcessPoolExecutor:
    import multiprocessing

    _stop_server_at_exit()
    os.environ["PYTHONSAFEPATH"] = "1"
    context: Any = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["curate._preload"])
    return ProcessPoolExecutor(
        workers, mp_context=context, initializer=_begin_worker, initargs=(os.getpid(),)
    )


def _stop(pool: ProcessPoolExecutor) -> None:
    """End the workers now; their temporary files are removed by whoever owns the folder."""
    processes = list((pool._processes or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.kill()
    for process in processes:
        process.join(2)


def _begin_worker(parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    _watch_parent(parent)


def _watch_parent(parent: int) -> None:
    """End this worker within half a second of its parent's death (also by kill -9)."""
    import threading
    import time

    def watch() -> None:
        while os.path.exists(f"/proc/{parent}"):
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
