"""The programs of a trial, each a process of its own, watched from outside: seeders, the link, the client.

None outlives the study: the kernel ends them when the process that started them is gone, however it ends. CPU seconds and
memory come from /proc while a process runs, and from its last account (wait4) when it has ended.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from headwater.errors import HeadwaterError

START_SECONDS = 60.0  # for a seeder to serve
STOP_SECONDS = 5.0
TAIL_CHARACTERS = 400  # of what a program said before it failed
PR_SET_PDEATHSIG = 1
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Usage:
    """CPU seconds (user + system) and the largest resident set in bytes."""

    cpu_seconds: float
    peak_rss_bytes: int


@dataclass(frozen=True)
class Ended:
    """A client that has ended, or was ended at the cap."""

    started: float  # monotonic clock
    seconds: float
    code: int | None  # None: it met the cap
    usage: Usage
    out: str
    err: str


def headwater(*arguments: str) -> list[str]:
    """The command line of our own command, of this very installation."""
    return [sys.executable, "-P", "-m", "headwater.cli", *arguments]


def start(
    command: Sequence[str], *, out: IO[bytes] | int, err: IO[bytes] | int, **options: Any
) -> subprocess.Popen[bytes]:
    """A child in a session of its own that dies with us. Meters are off in it: the study measures from outside."""
    libc, parent = ctypes.CDLL(None), os.getpid()

    def tie() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it went between fork and here
            os._exit(1)

    extra: Mapping[str, str] = options.pop("environment", {})
    root = str(Path(__file__).resolve().parents[2])  # also where the package is not installed
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), root]))
    environment = {**os.environ, "HEADWATER_METER": "none", "PYTHONPATH": path, **extra}
    return subprocess.Popen(
        command,
        stdout=out,
        stderr=err,
        env=environment,
        start_new_session=True,
        preexec_fn=tie,  # one call into libc, before any thread of ours matters
        **options,
    )


def usage_of(pid: int) -> Usage:
    """Of a process that runs; its ended children are included. Zeros when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return Usage(0.0, 0)
    peak = next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")), 0)
    return Usage(sum(int(fields[n]) for n in (11, 12, 13, 14)) / TICKS, peak * 1024)


def machine_cpu_seconds() -> float:
    """All that was not idle, of all cores, since the machine was started."""
    fields = [int(text) for text in Path("/proc/stat").read_text().partition("\n")[0].split()[1:]]
    return (sum(fields[:8]) - fields[3] - fields[4]) / TICKS  # without idle and waiting for the disk


class Seeder:
    """`headwater seed` over one release, on free ports of 127.0.0.1."""

    def __init__(self, release: Path, log: Path, *, bittorrent: bool) -> None:
        """Raises HeadwaterError with what the seeder said when it does not serve."""
        self._log = log
        arguments = ["seed", str(release), "--port", "0", "--torrent-port", "0", "--local", "--json"]
        with open(log, "wb") as err:
            self._process = start(
                headwater(*arguments, *([] if bittorrent else ["--no-bittorrent"])),
                out=subprocess.DEVNULL,
                err=err,
                stdin=subprocess.DEVNULL,
            )
        try:
            self.facts = self._facts()
        except BaseException:
            self.stop()
            raise

    @property
    def usage(self) -> Usage:
        """So far."""
        return usage_of(self._process.pid)

    @property
    def alive(self) -> bool:
        """Whether it still serves."""
        return self._process.poll() is None

    def stop(self) -> None:
        """End it; an orderly end first."""
        end(self._process)

    def _facts(self) -> dict[str, Any]:
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            for line in self._log.read_bytes().splitlines():
                event = _json(line)
                if event and event.get("event") == "seeding":
                    return event
            if not self.alive:
                break
            time.sleep(0.05)
        raise HeadwaterError(f"a seeder did not start: {tail(self._log.read_text('utf-8', 'replace'))}")


class LinkProcess:
    """The proxy of one trial (`distribute.study.link`)."""

    def __init__(
        self, rate_bits_per_second: float | None, rtt_seconds: float, targets: list[list[tuple[str, int]]]
    ) -> None:
        """`targets`: host and port of each face of each seeder. Raises HeadwaterError when it does not start."""
        rate = None if rate_bits_per_second is None else rate_bits_per_second / 8
        self._process = start(
            [sys.executable, "-P", str(Path(__file__).with_name("link.py"))],  # alone: it starts at once
            out=subprocess.PIPE,
            err=subprocess.DEVNULL,
            stdin=subprocess.PIPE,
        )
        try:
            asked = {"bytes_per_second": rate, "rtt_seconds": rtt_seconds, "targets": targets}
            self.ports: list[list[int]] = self._ask(json.dumps(asked))["ports"]
        except BaseException:
            self.stop()
            raise

    def report(self) -> list[dict[str, Any]]:
        """Counts of each line so far (`link.Counts`)."""
        lines: list[dict[str, Any]] = self._ask("report")["lines"]
        return lines

    @property
    def usage(self) -> Usage:
        """So far."""
        return usage_of(self._process.pid)

    def stop(self) -> None:
        """End it."""
        end(self._process)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _ask(self, text: str) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(text.encode() + b"\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except OSError as error:
            raise HeadwaterError(f"the link went away: {error.strerror}") from error
        answer = _json(line)
        if answer is None:
            raise HeadwaterError("the link went away")
        return answer


def run_client(
    command: Sequence[str], folder: Path, cap_seconds: float, environment: Mapping[str, str]
) -> Ended:
    """Run a client to its end, or end it at the cap. Its output goes to files in `folder`."""
    out, err = folder / "client.out", folder / "client.err"
    with open(out, "wb") as to_out, open(err, "wb") as to_err:
        started = time.monotonic()
        process = start(command, out=to_out, err=to_err, stdin=subprocess.DEVNULL, environment=environment)
    capped = False
    try:
        capped = not _wait(process.pid, cap_seconds)
    finally:
        if capped or sys.exc_info()[0] is not None:
            _kill(process)
        _, status, spent = os.wait4(process.pid, 0)
        seconds = time.monotonic() - started
        process.returncode = os.waitstatus_to_exitcode(status)
    return Ended(
        started,
        cap_seconds if capped else seconds,
        None if capped else process.returncode,
        Usage(spent.ru_utime + spent.ru_stime, spent.ru_maxrss * 1024),
        out.read_text("utf-8", "replace"),
        err.read_text("utf-8", "replace"),
    )


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask, wait, then insist."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            _kill(process)
            process.wait()


def tail(text: str) -> str:
    """The last thing a program said, on one line."""
    lines = []
    for line in text.splitlines():
        event = _json(line.encode())
        said = str(event.get("message", "")) if event else line
        if said and not (event and event.get("event") == "progress"):
            lines.append(said.strip())
    joined = " · ".join(lines[-3:])
    return joined[-TAIL_CHARACTERS:] or "it said nothing"


def _wait(pid: int, seconds: float) -> bool:
    """Whether the process ended within so many seconds; it is not reaped."""
    until = time.monotonic() + seconds
    try:
        descriptor = os.pidfd_open(pid)
    except (AttributeError, OSError):  # an old kernel: look every few milliseconds
        while time.monotonic() < until:
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                return True
            time.sleep(0.005)
        return False
    try:
        ready, _, _ = select.select([descriptor], [], [], seconds)
        return bool(ready)
    finally:
        os.close(descriptor)


def _kill(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _json(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


@dataclass
class Swarm:
    """The seeders of one payload, started when they are first needed and kept for the trials that follow."""

    release: Path
    logs: Path
    bittorrent: bool
    seeders: list[Seeder] = field(default_factory=list)
    without: str = ""  # why the seeders have no BitTorrent

    def first(self, count: int) -> list[Seeder]:
        """`count` seeders that serve. One that has ended is started again. Raises HeadwaterError."""
        for number, seeder in enumerate(self.seeders):
            if not seeder.alive:
                self.seeders[number] = self._one(number)
        while len(self.seeders) < count:
            self.seeders.append(self._one(len(self.seeders)))
        return self.seeders[:count]

    def stop(self) -> None:
        """End them all."""
        for seeder in self.seeders:
            seeder.stop()
        self.seeders.clear()

    def _one(self, number: int) -> Seeder:
        log = self.logs / f"seeder-{number}.log"
        try:
            return Seeder(self.release, log, bittorrent=self.bittorrent)
        except HeadwaterError as error:
            if not self.bittorrent or "libtorrent" not in error.message:
                raise
            # the other methods go on without it
            self.without, self.bittorrent = error.message, False
            return Seeder(self.release, log, bittorrent=False)
