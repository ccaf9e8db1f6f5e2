"""What a step cost: CPU seconds always, joules where something can tell them, null where nothing can.

Providers, first that works: codecarbon's offline tracker when the extra `energy` is installed (RAPL counters where it may
read them, otherwise a model from the processor's rated power and load), otherwise CPU seconds alone. Where an NVIDIA GPU and
nvidia-ml-py are there, its own energy counter is read as well. `HEADWATER_METER=none` switches the joules off.
A modelled figure is never added to a measured one.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import logging
import os
import resource
import time
from types import TracebackType
from typing import Any

from headwater.manifest import Energy, EnergyComponent

JOULES_PER_KWH = 3.6e6


def utc_now() -> str:
    """RFC 3339 time in UTC, to the millisecond."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def cpu_seconds() -> float:
    """User and system time of this process and its ended children."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def peak_rss_bytes() -> int:
    """Largest resident set so far of this process or of one of its ended children."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return max(own.ru_maxrss, children.ru_maxrss) * 1024


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
        self._tracker: Any = None
        self._gpus: list[tuple[int, Any, int]] = []
        self._components: list[EnergyComponent] = []
        self._provider = "cpu-time"

    def __enter__(self) -> Meter:
        self._started_at = utc_now()
        self._clock = time.monotonic()
        self._cpu = cpu_seconds()
        if os.environ.get("HEADWATER_METER", "auto") != "none":
            self._start_gpus()
            self._start_codecarbon()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop_codecarbon()
        self._stop_gpus()
        self._duration = time.monotonic() - self._clock
        self._cpu = cpu_seconds() - self._cpu
        self._finished_at = utc_now()

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

    def _start_codecarbon(self) -> None:
        try:
            import codecarbon
        except ImportError:
            return
        logging.getLogger("codecarbon").disabled = True  # its import sets its own level
        try:
            # the country only selects a grid intensity, which is not read from the tracker
            self._tracker = codecarbon.OfflineEmissionsTracker(
                country_iso_code="USA",
                save_to_file=False,
                log_level="critical",
                allow_multiple_runs=True,
                tracking_mode="process",
                measure_power_secs=15,
            )
            self._tracker.start()
            self._provider = f"codecarbon {importlib.metadata.version('codecarbon')}"
        except Exception:  # a meter must never end the work
            self._tracker = None

    def _stop_codecarbon(self) -> None:
        if self._tracker is None:
            return
        try:
            self._tracker.stop()
            data = self._tracker.final_emissions_data
            counters = any(
                "rapl" in str(getattr(h, "_mode", "")) for h in getattr(self._tracker, "_hardware", [])
            )
            for device, kwh in (("cpu", data.cpu_energy), ("ram", data.ram_energy)):
                measured = device == "cpu" and counters
                self._components.append(
                    EnergyComponent(
                        device=device,
                        joules=kwh * JOULES_PER_KWH if kwh > 0 else None,
                        method="rapl" if measured else "tdp_load" if device == "cpu" else "constant",
                        quality="measured" if measured else "modelled" if device == "cpu" else "assumed",
                        share="machine" if measured else "process",
                        interval_seconds=float(data.duration),
                    )
                )
        except Exception:  # as above
            self._components = [c for c in self._components if c.device.startswith("gpu")]

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
                    interval_seconds=time.monotonic() - self._clock,
                )
            )


def _unknown(device: str) -> EnergyComponent:
    return EnergyComponent(device=device, joules=None, method="none", quality="none", share="process")


def _sum(values: Any) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
