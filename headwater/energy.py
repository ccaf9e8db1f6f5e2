"""What a step cost: CPU seconds always, joules where something can tell them, null where nothing can.

Processor: the RAPL counters of the machine where this process may read them (measured); otherwise the processor's rated power from
codecarbon's table, times the CPU seconds used, over the number of cores (modelled: the model of codecarbon's process mode, but
over the exact CPU time instead of samples). Memory: its RAPL counter where there is one (measured), otherwise codecarbon's power per
installed memory (assumed). A counter of the whole platform is used only where no package and no GPU is there to be counted twice.
NVIDIA GPUs: their own energy counter, or their power looked at every second (measured). Without the extra `energy`, or with
`HEADWATER_METER=none`, the joules are null. Looking the rated power up takes codecarbon about two seconds, so it is done once and
kept in the user's cache folder.

A modelled figure is never added to a measured one. Durations are of a clock that nobody sets and that stands still while the
machine sleeps; `started_at` and `finished_at` are what the wall clock said, also when it was set back in between. Counters that
slept with the machine are not believed.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import logging
import os
import platform
import resource
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from headwater._nvml import POLL_SECONDS, Gpu, open_gpus
from headwater._rapl import RAPL_ROOT as RAPL_ROOT
from headwater._rapl import Counters, read_dram, read_psys
from headwater._rapl import rapl_joules as rapl_joules
from headwater._rapl import read_rapl as read_rapl
from headwater.carbon import JOULES_PER_KWH as JOULES_PER_KWH
from headwater.carbon import emissions_kg
from headwater.console import say
from headwater.errors import HeadwaterError
from headwater.files import write_json
from headwater.manifest import Energy, EnergyComponent

ASLEEP_SECONDS = 0.5  # two clocks that differ by more have seen the machine sleep
STUCK_SECONDS = 10.0  # a sensor that answers no sooner is given up
POLLED = f", nvml power every {POLL_SECONDS:g} s"

_begun: list[float] = []  # wall clock and CPU seconds where the next step's account starts, in a command


def account_for_everything() -> None:
    """Charge steps with all that the process does: start-up and digests to the first, what lies between to the next.

    For commands; a program that imports us pays only for the steps themselves. Commands that run one after the other in one process
    (the demo) go on with the same account.
    """
    if not _begun:
        _begun[:] = [time.monotonic() - time.process_time(), 0.0]


def utc_now() -> str:
    """RFC 3339 time in UTC, to the millisecond."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


_workers: dict[int, tuple[float, int]] = {}  # process id -> CPU seconds, largest resident set in bytes


def report_worker(pid: int, seconds: float, rss_bytes: int) -> None:
    """Note what a worker process has used since its start; the latest figure of each counts."""
    _workers[pid] = (seconds, rss_bytes)


def cpu_seconds() -> float:
    """User and system time of this process, its ended children and its worker processes."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    ours = own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime
    return ours + sum(seconds for seconds, _ in _workers.values())


def peak_rss_bytes() -> int:
    """Largest resident set so far of this process, of an ended child or of a worker."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    return max(own_peak_rss_bytes(), children, *(rss for _, rss in _workers.values()), 0)


def own_peak_rss_bytes() -> int:
    """Largest resident set so far of this process.

    From `VmHWM`: `ru_maxrss` goes over from the process that started this one, when that one was larger.
    """
    try:
        with open("/proc/self/status", "rb") as status:
            for line in status:
                if line.startswith(b"VmHWM:"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass  # no /proc: the other figure is better than none
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@dataclass(frozen=True)
class RatedPower:
    """What codecarbon's tables say of this machine, in watts."""

    cpu_watts: float
    ram_watts: float
    provider: str


class Meter:
    """Measures the block it surrounds; `record()` gives the Energy after the block has ended.

    A provider that fails is left out with its component null; metering never ends the work.
    """

    def __init__(
        self, stage: str, *, carbon_g_per_kwh: float | None = None, pue: float | None = None
    ) -> None:
        self._stage = stage
        self._carbon_g_per_kwh = carbon_g_per_kwh
        self._pue = pue
        self._forget_sensors()
        self._watch: threading.Thread | None = None
        self._sensed = 0.0
        self._over = threading.Event()
        self._components: list[EnergyComponent] = []
        self._provider = "cpu-time"

    def __enter__(self) -> Meter:
        self._started_at = utc_now()
        self._clock = _begun[0] if _begun else time.monotonic()
        self._cpu = _begun[1] if _begun else cpu_seconds()
        self._asleep = asleep_seconds()
        self._sensed_from = time.monotonic()
        if _wanted():
            try:
                self._start_sensors()
            except Exception:  # a meter must never end the work: no thread, for example
                self._forget_sensors()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._duration = time.monotonic() - self._clock
        spent = cpu_seconds()
        self._cpu = spent - self._cpu
        if _begun:
            _begun[:] = [time.monotonic(), spent]
        self._finished_at = utc_now()
        if _wanted():
            believed = self._stop_watching()
            try:
                self._stop_cpu(believed)
            except Exception:  # a meter must never end the work
                self._components.clear()
            self._stop_gpus(believed)

    def record(self) -> Energy:
        """The finished record. Missing stays null."""
        components = list(self._components)
        known = {component.device for component in components}
        if not known & {"cpu", "platform"}:
            components.insert(0, _unknown("cpu"))
        if not known & {"ram", "platform"}:
            components.append(_unknown("ram"))
        measured = _sum(c.joules for c in components if c.quality == "measured")
        modelled = _sum(c.joules for c in components if c.quality in ("modelled", "assumed"))
        return Energy(
            stage=self._stage,
            started_at=self._started_at,
            finished_at=self._finished_at,
            duration_seconds=round(self._duration, 6),
            cpu_seconds=round(self._cpu, 6),
            peak_rss_bytes=peak_rss_bytes(),
            components=components,
            measured_joules=measured,
            modelled_joules=modelled,
            pue=self._pue,
            carbon_g_per_kwh=self._carbon_g_per_kwh,
            kg_co2e=emissions_kg(measured, modelled, self._pue, self._carbon_g_per_kwh),
            provider=self._provider,
        )

    def _forget_sensors(self) -> None:
        self._cpu_counters = self._ram_counters = self._platform = Counters(dict)
        self._gpus: list[Gpu] = []

    def _start_sensors(self) -> None:
        now = self._sensed_from
        self._cpu_counters, self._ram_counters = Counters(read_rapl), Counters(read_dram)
        packages = self._cpu_counters.start(now)
        self._ram_counters.start(now)
        self._gpus = open_gpus(time.monotonic)
        if not packages and not self._gpus:
            self._platform = Counters(read_psys)
            self._platform.start(now)
        periods = [counters.look_seconds for counters in self._counters()]
        periods += [POLL_SECONDS for gpu in self._gpus if gpu.polled]
        known = [seconds for seconds in periods if seconds is not None]
        if known:
            watch = threading.Thread(target=self._keep_looking, args=(min(known),), daemon=True)
            watch.start()
            self._watch = watch

    def _counters(self) -> list[Counters]:
        return [self._cpu_counters, self._ram_counters, self._platform]

    def _keep_looking(self, seconds: float) -> None:
        while not self._over.wait(seconds):
            self._look()

    def _look(self, *, last: bool = False) -> None:
        now = time.monotonic()
        for counters in self._counters():
            counters.look(now, last=last)
        for gpu in self._gpus:
            gpu.look(now)

    def _stop_watching(self) -> bool:
        """The last look; False when what the sensors say cannot be believed."""
        self._over.set()
        if self._watch is not None:
            self._watch.join(STUCK_SECONDS)
            if self._watch.is_alive():
                say("warning", f"{self._stage}: a sensor does not answer; its energy is not known")
                return False
        self._look(last=True)
        self._sensed = time.monotonic() - self._sensed_from
        slept = asleep_seconds() - self._asleep
        if slept > ASLEEP_SECONDS:
            say(
                "warning",
                f"{self._stage}: the machine slept for {slept:.0f} s; counters over it are left out",
            )
            return False
        return True

    def _stop_cpu(self, believed: bool) -> None:
        cpu, ram, platform = (c.joules() if believed else None for c in self._counters())
        if cpu is not None or platform is not None or ram is not None:
            self._provider = "rapl"
        if cpu is not None:
            self._add("cpu", cpu, "rapl", "measured", "machine", self._sensed)
        if platform is not None:
            self._add("platform", platform, "psys", "measured", "machine", self._sensed)
            return
        if ram is not None:
            self._add("ram", ram, "rapl", "measured", "machine", self._sensed)
        if cpu is not None and ram is not None:
            return
        try:
            rated = rated_power()
        except Exception:  # what was measured stays
            rated = None
        if rated is None:
            return
        if cpu is None:
            self._provider = rated.provider
            cores = os.cpu_count() or 1
            self._add("cpu", rated.cpu_watts * self._cpu / cores, "tdp_load", "modelled", "process")
        if ram is None:
            self._add("ram", rated.ram_watts * self._duration, "constant", "assumed", "machine")

    def _add(
        self, device: str, joules: float, method: Any, quality: Any, share: Any, seconds: float | None = None
    ) -> None:
        self._components.append(
            EnergyComponent(
                device=device,
                joules=joules or None,  # a device that was there has drawn something
                method=method if joules else "none",
                quality=quality if joules else "none",
                share=share,
                interval_seconds=round(self._duration if seconds is None else seconds, 6),
            )
        )

    def _stop_gpus(self, believed: bool) -> None:
        for gpu in self._gpus:
            now = time.monotonic()
            joules, method = gpu.finish() if believed else (None, "none")
            if method == "nvml_poll" and POLLED not in self._provider:
                self._provider += POLLED
            self._components.append(
                EnergyComponent(
                    device=gpu.name,
                    joules=joules,
                    method=method,
                    quality="measured" if joules is not None else "none",
                    share="machine",
                    interval_seconds=round(now - gpu.since, 6) if joules is not None else None,
                )
            )


def _unknown(device: str) -> EnergyComponent:
    return EnergyComponent(device=device, joules=None, method="none", quality="none", share="process")


def asleep_seconds() -> float:
    """How long the machine has slept since it was started: the clock that goes on in sleep less the one that does not.

    Always 0 where the system has no such clock: there a sleep cannot be told.
    """
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.clock_gettime(clock) - time.monotonic() if clock is not None else 0.0


def _sum(values: Any) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _wanted() -> bool:
    return os.environ.get("HEADWATER_METER", "auto") != "none"


def rated_power() -> RatedPower | None:
    """The rated power of this machine from codecarbon, looked up once per machine and version; None without codecarbon."""
    try:
        version = importlib.metadata.version("codecarbon")
    except importlib.metadata.PackageNotFoundError:
        return None
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "headwater"
    machine = f"{platform.node()} {platform.machine()} {os.cpu_count()} {_cpu_model()}"
    try:
        known = json.loads((folder / "power.json").read_bytes())
        if known["machine"] == machine and known["version"] == version:
            return RatedPower(float(known["cpu_watts"]), float(known["ram_watts"]), f"codecarbon {version}")
    except (OSError, ValueError, KeyError, TypeError):
        pass
    watts = _ask_codecarbon()
    if watts is None:
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        document = {"machine": machine, "version": version, "cpu_watts": watts[0], "ram_watts": watts[1]}
        write_json(folder / "power.json", document, durable=False)
    except (OSError, HeadwaterError):
        pass  # looked up again next time
    return RatedPower(*watts, f"codecarbon {version}")


def _ask_codecarbon() -> tuple[float, float] | None:
    try:
        logging.getLogger("codecarbon").disabled = True
        from codecarbon.core.cpu import TDP
        from codecarbon.external.ram import RAM

        table: Any = TDP
        memory: Any = RAM(tracking_mode="machine")
        cpu = float(table().tdp or 0)
        ram = float(memory.total_power().W)
    except Exception:  # a meter must never end the work, whatever its package does
        return None
    return (cpu, ram) if cpu > 0 and ram > 0 else None


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as handle:
            return next(
                (line.partition(":")[2].strip() for line in handle if line.startswith("model name")), ""
            )
    except OSError:
        return platform.processor()
