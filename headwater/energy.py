"""What a step cost: CPU seconds always, joules where something can tell them, null where nothing can.

Processor: the RAPL counters of the machine where this process may read them (measured); otherwise the processor's rated power from
codecarbon's table, times the CPU seconds used, over the number of cores (modelled: the model of codecarbon's process mode, but
over the exact CPU time instead of samples). Memory: codecarbon's power per installed memory (assumed). NVIDIA GPUs: their own
energy counter (measured). Without the extra `energy`, or with `HEADWATER_METER=none`, the joules are null.
Looking the rated power up takes codecarbon about two seconds, so it is done once and kept in the user's cache folder.
A modelled figure is never added to a measured one.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import logging
import os
import platform
import resource
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from headwater.errors import HeadwaterError
from headwater.files import write_json
from headwater.manifest import Energy, EnergyComponent

JOULES_PER_KWH = 3.6e6
RAPL_ROOT = Path("/sys/class/powercap")


_begun: list[float] = []  # wall clock and CPU seconds where the next step's account starts, in a command


def account_for_everything() -> None:
    """Charge steps with all that the process does: start-up and digests to the first, what lies between to the next.

    For commands; a program that imports us pays only for the steps themselves.
    """
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
        self._counters: dict[Path, int] = {}
        self._gpus: list[tuple[int, Any, int]] = []
        self._components: list[EnergyComponent] = []
        self._provider = "cpu-time"

    def __enter__(self) -> Meter:
        self._started_at = utc_now()
        self._clock = _begun[0] if _begun else time.monotonic()
        self._cpu = _begun[1] if _begun else cpu_seconds()
        if _wanted():
            self._counters = read_rapl()
            self._start_gpus()
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
            try:
                self._stop_cpu()
            except Exception:  # a meter must never end the work
                self._components.clear()
            self._stop_gpus()

    def record(self) -> Energy:
        """The finished record. Missing stays null."""
        components = list(self._components)
        if not any(c.device == "cpu" for c in components):
            components.insert(0, _unknown("cpu"))
        if not any(c.device == "ram" for c in components):
            components.append(_unknown("ram"))
        measured = _sum(c.joules for c in components if c.quality == "measured")
        modelled = _sum(c.joules for c in components if c.quality in ("modelled", "assumed"))
        kg = None
        if self._carbon_g_per_kwh is not None and self._pue is not None and (measured or modelled):
            joules = (measured or 0.0) + (modelled or 0.0)
            kg = joules / JOULES_PER_KWH * self._pue * self._carbon_g_per_kwh / 1000
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
            kg_co2e=kg,
            provider=self._provider,
        )

    def _stop_cpu(self) -> None:
        joules = rapl_joules(self._counters, read_rapl())
        if joules is not None:
            self._provider = "rapl"
            self._add("cpu", joules, "rapl", "measured", "machine")
        rated = rated_power()
        if rated is None:
            return
        if joules is None:
            self._provider = rated.provider
            cores = os.cpu_count() or 1
            self._add("cpu", rated.cpu_watts * self._cpu / cores, "tdp_load", "modelled", "process")
        self._add("ram", rated.ram_watts * self._duration, "constant", "assumed", "machine")

    def _add(self, device: str, joules: float, method: Any, quality: Any, share: Any) -> None:
        self._components.append(
            EnergyComponent(
                device=device,
                joules=joules,
                method=method,
                quality=quality,
                share=share,
                interval_seconds=round(self._duration, 6),
            )
        )

    def _start_gpus(self) -> None:
        if not os.path.exists("/dev/nvidiactl"):
            return
        try:
            import pynvml

            pynvml.nvmlInit()
            for number in range(pynvml.nvmlDeviceGetCount()):
                handle = pynvml.nvmlDeviceGetHandleByIndex(number)
                self._gpus.append((number, handle, pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)))
        except Exception:  # no driver, no counter on this card, or no package
            self._gpus = []

    def _stop_gpus(self) -> None:
        for number, handle, before in self._gpus:
            joules: float | None = None
            try:
                import pynvml

                millijoules = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) - before
                joules = millijoules / 1000 if millijoules >= 0 else None
            except Exception:  # the counter went away: unknown, not zero
                joules = None
            self._components.append(
                EnergyComponent(
                    device=f"gpu{number}",
                    joules=joules,
                    method="nvml_counter" if joules is not None else "none",
                    quality="measured" if joules is not None else "none",
                    share="machine",
                    interval_seconds=round(self._duration, 6),
                )
            )


def _unknown(device: str) -> EnergyComponent:
    return EnergyComponent(device=device, joules=None, method="none", quality="none", share="process")


def _sum(values: Any) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _wanted() -> bool:
    return os.environ.get("HEADWATER_METER", "auto") != "none"


def read_rapl(root: Path = RAPL_ROOT) -> dict[Path, int]:
    """Microjoules of each processor package's counter that this process may read (Linux powercap)."""
    found = {}
    for zone in sorted(root.glob("intel-rapl:*")):
        if zone.name.count(":") != 1:
            continue  # parts of a package are inside its counter
        try:
            found[zone] = int((zone / "energy_uj").read_text())
        except (OSError, ValueError):
            continue
    return found


def rapl_joules(before: dict[Path, int], after: dict[Path, int]) -> float | None:
    """Joules between two readings; a counter that wrapped once is put right, one that vanished makes it unknown."""
    if not before or before.keys() != after.keys():
        return None
    total = 0
    for zone, first in before.items():
        spent = after[zone] - first
        if spent < 0:
            try:
                spent += int((zone / "max_energy_range_uj").read_text())
            except (OSError, ValueError):
                return None
        if spent < 0:
            return None
        total += spent
    return total / 1e6 or None  # a counter that stands still tells nothing


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
