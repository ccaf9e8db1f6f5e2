"""Energy: what is not known is null and never 0, and a modelled figure is never added to a measured one."""

from __future__ import annotations

import importlib.metadata
import json
import sys
import time
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from headwater import energy
from headwater.energy import Meter, utc_now
from headwater.manifest import Energy

JOULES_PER_KWH = 3.6e6


def measure(meter: Meter | None = None) -> Energy:
    meter = meter or Meter("stage")
    with meter:
        end = time.process_time() + 0.02
        while time.process_time() < end:
            pass
    return meter.record()


@pytest.fixture
def meters(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Metering switched on, with nothing installed and no GPU, until a test adds some."""
    monkeypatch.setenv("HEADWATER_METER", "auto")
    monkeypatch.setitem(sys.modules, "codecarbon", None)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    exists = energy.os.path.exists
    monkeypatch.setattr(energy.os.path, "exists", lambda path: path != "/dev/nvidiactl" and exists(path))
    return monkeypatch


def fake_codecarbon(
    monkeypatch: pytest.MonkeyPatch, *, cpu: float, ram: float, mode: str, fail: str = ""
) -> None:
    class Tracker:
        _hardware = (SimpleNamespace(_mode=mode),)

        def __init__(self, **options: Any) -> None:
            if fail == "init":
                raise RuntimeError("no sensor")

        def start(self) -> None:
            if fail == "start":
                raise RuntimeError("no sensor")

        def stop(self) -> None:
            if fail == "stop":
                raise RuntimeError("sensor went away")
            self.final_emissions_data = SimpleNamespace(cpu_energy=cpu, ram_energy=ram, duration=1.0)

    module = ModuleType("codecarbon")
    module.OfflineEmissionsTracker = Tracker  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "codecarbon", module)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "9.9")


def fake_nvml(monkeypatch: pytest.MonkeyPatch, readings: list[int | None]) -> None:
    values = iter(readings)

    def read(handle: object) -> int:
        value = next(values)
        if value is None:
            raise RuntimeError("lost")
        return value

    module = ModuleType("pynvml")
    module.nvmlInit = lambda: None  # type: ignore[attr-defined]
    module.nvmlDeviceGetCount = lambda: 1  # type: ignore[attr-defined]
    module.nvmlDeviceGetHandleByIndex = lambda number: number  # type: ignore[attr-defined]
    module.nvmlDeviceGetTotalEnergyConsumption = read  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pynvml", module)
    monkeypatch.setattr(energy.os.path, "exists", lambda path: True)


def parts(record: Energy) -> dict[str, Any]:
    return {component.device: component for component in record.components}


def test_switched_off_everything_is_null(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWATER_METER", "none")
    record = measure(Meter("stage", carbon_g_per_kwh=400, pue=1.2))
    assert {c.device: c.joules for c in record.components} == {"cpu": None, "ram": None}
    assert all(c.method == "none" and c.quality == "none" for c in record.components)
    assert record.measured_joules is None and record.modelled_joules is None and record.kg_co2e is None
    assert record.provider == "cpu-time"
    assert "null" in record.model_dump_json()


def test_cpu_time_is_always_there(meters: pytest.MonkeyPatch) -> None:
    record = measure()
    assert record.cpu_seconds >= 0.02
    assert record.duration_seconds >= record.cpu_seconds * 0.5
    assert record.peak_rss_bytes is not None and record.peak_rss_bytes > 1_000_000
    assert record.started_at <= record.finished_at
    assert record.stage == "stage"


def test_without_any_provider_the_joules_are_null(meters: pytest.MonkeyPatch) -> None:
    record = measure()
    assert record.measured_joules is None and record.modelled_joules is None


def test_a_model_is_called_a_model(meters: pytest.MonkeyPatch) -> None:
    fake_codecarbon(meters, cpu=2e-6, ram=1e-6, mode="cpu_load")
    record = measure()
    assert record.modelled_joules == pytest.approx(3e-6 * JOULES_PER_KWH)
    assert record.measured_joules is None
    assert parts(record)["cpu"].quality == "modelled" and parts(record)["cpu"].method == "tdp_load"
    assert parts(record)["ram"].quality == "assumed"
    assert record.provider == "codecarbon 9.9"


def test_counters_are_measured_and_kept_apart(meters: pytest.MonkeyPatch) -> None:
    fake_codecarbon(meters, cpu=2e-6, ram=1e-6, mode="intel_rapl")
    record = measure()
    assert record.measured_joules == pytest.approx(2e-6 * JOULES_PER_KWH)
    assert record.modelled_joules == pytest.approx(1e-6 * JOULES_PER_KWH)
    assert parts(record)["cpu"].method == "rapl" and parts(record)["cpu"].share == "machine"


def test_a_reading_of_zero_is_not_known(meters: pytest.MonkeyPatch) -> None:
    fake_codecarbon(meters, cpu=0.0, ram=0.0, mode="intel_rapl")
    record = measure()
    assert parts(record)["cpu"].joules is None and parts(record)["ram"].joules is None
    assert record.measured_joules is None and record.modelled_joules is None
    assert '"joules":0' not in record.model_dump_json().replace(" ", "")


@pytest.mark.parametrize("fail", ["init", "start", "stop"])
def test_a_meter_that_fails_never_ends_the_work(fail: str, meters: pytest.MonkeyPatch) -> None:
    fake_codecarbon(meters, cpu=1.0, ram=1.0, mode="rapl", fail=fail)
    record = measure()
    assert {c.device: c.joules for c in record.components} == {"cpu": None, "ram": None}


def test_a_gpu_counter_is_measured(meters: pytest.MonkeyPatch) -> None:
    fake_nvml(meters, [1_000, 4_500])
    record = measure()
    assert parts(record)["gpu0"].joules == pytest.approx(3.5)
    assert record.measured_joules == pytest.approx(3.5)


@pytest.mark.parametrize("after", [500, None], ids=["counter went back", "counter lost"])
def test_a_gpu_counter_that_misbehaves_is_null(after: int | None, meters: pytest.MonkeyPatch) -> None:
    fake_nvml(meters, [1_000, after])
    record = measure()
    assert parts(record)["gpu0"].joules is None and parts(record)["gpu0"].quality == "none"
    assert record.measured_joules is None


def test_carbon_needs_both_figures_that_the_user_states(meters: pytest.MonkeyPatch) -> None:
    fake_codecarbon(meters, cpu=1e-3, ram=1e-3, mode="cpu_load")
    assert measure(Meter("s", carbon_g_per_kwh=500)).kg_co2e is None
    assert measure(Meter("s", pue=1.5)).kg_co2e is None
    assert measure(Meter("s", carbon_g_per_kwh=500, pue=1.5)).kg_co2e == pytest.approx(2e-3 * 1.5 * 0.5)


def test_times_are_rfc3339_in_utc() -> None:
    text = utc_now()
    assert text.endswith("Z") and "T" in text and len(text) == len("2026-01-01T00:00:00.000Z")


def test_energy_round_trips(meters: pytest.MonkeyPatch) -> None:
    record = measure()
    assert Energy.model_validate(json.loads(record.model_dump_json())) == record


@pytest.mark.slow
def test_the_real_tracker_says_how_it_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("codecarbon")
    monkeypatch.setenv("HEADWATER_METER", "auto")
    record = measure()
    assert record.provider.startswith("codecarbon ")
    for component in record.components:
        assert component.joules is None or component.joules > 0
        assert (component.joules is None) <= (component.quality != "measured")
