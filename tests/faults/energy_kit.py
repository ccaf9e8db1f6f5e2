"""A machine made of files and numbers: its energy counters, its GPUs and its clocks, all told what to do by the test."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from headwater import _rapl, energy
from headwater.energy import Meter, RatedPower
from headwater.manifest import Energy

RANGE = 262_143_328_850  # microjoules; what Intel's counters have


@dataclass
class Card:
    """One GPU. None stands for an answer that NVML refuses."""

    millijoules: int | None = 1_000_000
    milliwatts: int | None = 100_000
    lost: bool = False

    def told(self, value: int | None) -> int:
        if self.lost or value is None:
            raise RuntimeError("NVML_ERROR_GPU_IS_LOST" if self.lost else "NVML_ERROR_NOT_SUPPORTED")
        return value


@dataclass
class Machine:
    """What the meter sees. `pass_time` lets every zone and card draw its watts."""

    root: Path
    now: float = 1000.0
    asleep: float = 3.0
    cpu: float = 7.0  # CPU seconds of the process so far
    zones: dict[str, float] = field(default_factory=dict)  # zone -> microjoules ever counted
    ranges: dict[str, int | None] = field(default_factory=dict)
    cards: list[Card] = field(default_factory=list)

    def zone(self, zone: str, name: str, *, start: int = 5_000_000, most: int | None = RANGE) -> None:
        folder = self.root / zone
        folder.mkdir(parents=True)
        (folder / "name").write_text(f"{name}\n")
        if most is not None:
            (folder / "max_energy_range_uj").write_text(f"{most}\n")
        self.zones[zone], self.ranges[zone] = start, most
        self._write(zone)

    def draw(self, zone: str, joules: float) -> None:
        self.zones[zone] += joules * 1e6
        self._write(zone)

    def pass_time(self, seconds: float, *, cpu: float = 0.0, **watts: float) -> None:
        """`watts` by zone, with `_` for `intel-rapl:`, such as `_0=10`; cards draw what they say they draw."""
        self.now += seconds
        self.cpu += cpu
        for short, power in watts.items():
            self.draw("intel-rapl:" + short.lstrip("_").replace("_", ":"), power * seconds)
        for card in self.cards:
            if card.millijoules is not None and card.milliwatts is not None:
                card.millijoules += round(card.milliwatts * seconds)

    def _write(self, zone: str) -> None:
        most = self.ranges[zone]
        value = round(self.zones[zone]) % most if most else round(self.zones[zone])
        (self.root / zone / "energy_uj").write_text(f"{value}\n")

    def meter(self, stage: str = "stage", **more: float) -> Meter:
        return Meter(stage, **more)


def install(monkeypatch: pytest.MonkeyPatch, root: Path) -> Machine:
    """A machine with no sensor at all, until the test adds some; time stands still until the test lets it pass."""
    machine = Machine(root / "powercap")
    machine.root.mkdir()
    monkeypatch.setenv("HEADWATER_METER", "auto")
    monkeypatch.setenv("XDG_CACHE_HOME", str(root / "cache"))
    for name in ("read_rapl", "read_dram", "read_psys"):
        monkeypatch.setattr(energy, name, partial(getattr(_rapl, name), machine.root))
    monkeypatch.setattr(energy, "time", SimpleNamespace(monotonic=lambda: machine.now))
    monkeypatch.setattr(energy, "cpu_seconds", lambda: machine.cpu)
    monkeypatch.setattr(energy, "asleep_seconds", lambda: machine.asleep)
    monkeypatch.setattr(energy, "rated_power", lambda: None)
    monkeypatch.setattr(energy.os, "cpu_count", lambda: 4)
    exists = energy.os.path.exists
    monkeypatch.setattr(
        energy.os.path,
        "exists",
        lambda path: bool(machine.cards) if path == "/dev/nvidiactl" else exists(path),
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml(machine))
    return machine


def nvml(machine: Machine) -> Any:
    module: Any = ModuleType("pynvml")
    module.nvmlInit = lambda: None
    module.nvmlDeviceGetCount = lambda: len(machine.cards)
    module.nvmlDeviceGetHandleByIndex = lambda number: machine.cards[number]
    module.nvmlDeviceGetTotalEnergyConsumption = lambda card: card.told(card.millijoules)
    module.nvmlDeviceGetPowerUsage = lambda card: card.told(card.milliwatts)
    return module


def rated(monkeypatch: pytest.MonkeyPatch, *, cpu_watts: float = 100.0, ram_watts: float = 5.0) -> None:
    monkeypatch.setattr(energy, "rated_power", lambda: RatedPower(cpu_watts, ram_watts, "codecarbon 9.9"))


def parts(record: Energy) -> dict[str, Any]:
    return {component.device: component for component in record.components}


def known(record: Energy) -> dict[str, float | None]:
    return {component.device: component.joules for component in record.components}
