"""Energy: what is not known is null and never 0, and a modelled figure is never added to a measured one."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from headwater import energy
from headwater.energy import Meter, RatedPower, utc_now
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
def meters(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """Metering switched on, with no counters, no rated power and no GPU, until a test adds some."""
    monkeypatch.setenv("HEADWATER_METER", "auto")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("read_rapl", "read_dram", "read_psys"):
        monkeypatch.setattr(energy, name, dict)
    monkeypatch.setattr(energy, "_ask_codecarbon", lambda: None)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    exists = energy.os.path.exists
    monkeypatch.setattr(energy.os.path, "exists", lambda path: path != "/dev/nvidiactl" and exists(path))
    return monkeypatch


def rated(monkeypatch: pytest.MonkeyPatch, *, cpu_watts: float = 100.0, ram_watts: float = 5.0) -> None:
    monkeypatch.setattr(energy, "rated_power", lambda: RatedPower(cpu_watts, ram_watts, "codecarbon 9.9"))


def zone(root: Path, name: str, microjoules: int | str, *, most: int | None = 10**9) -> Path:
    folder = root / name
    folder.mkdir(exist_ok=True)
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    if most is not None:
        (folder / "max_energy_range_uj").write_text(f"{most}\n")
    return folder


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
    rated(meters)
    record = measure()
    cpu, ram = parts(record)["cpu"], parts(record)["ram"]
    assert cpu.joules == pytest.approx(100.0 * record.cpu_seconds / (os.cpu_count() or 1), rel=1e-3)
    assert ram.joules == pytest.approx(5.0 * record.duration_seconds, rel=1e-3)
    assert (cpu.quality, cpu.method, cpu.share) == ("modelled", "tdp_load", "process")
    assert ram.quality == "assumed"
    assert record.measured_joules is None
    assert record.modelled_joules == pytest.approx(cpu.joules + ram.joules)
    assert record.provider == "codecarbon 9.9"


def test_counters_are_measured_and_kept_apart(meters: pytest.MonkeyPatch) -> None:
    rated(meters)
    readings = iter([{Path("z"): 1_000_000}, {Path("z"): 3_500_000}])
    meters.setattr(energy, "read_rapl", lambda: next(readings))
    record = measure()
    assert record.measured_joules == pytest.approx(2.5)
    assert parts(record)["cpu"].method == "rapl" and parts(record)["cpu"].share == "machine"
    assert record.modelled_joules == parts(record)["ram"].joules
    assert record.provider == "rapl"


def test_the_counters_of_whole_packages_are_read(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", 5)
    zone(tmp_path, "intel-rapl:1", 7)
    zone(tmp_path, "intel-rapl:0:0", 3)  # inside package 0
    zone(tmp_path, "intel-rapl:2", "not a number")
    (tmp_path / "intel-rapl:3").mkdir()  # no counter
    found = {path.name: value for path, value in energy.read_rapl(tmp_path).items()}
    assert found == {"intel-rapl:0": 5, "intel-rapl:1": 7}
    assert energy.read_rapl(tmp_path / "none") == {}


def test_a_counter_that_wrapped_is_put_right(tmp_path: Path) -> None:
    path = zone(tmp_path, "intel-rapl:0", 0, most=1_000_000)
    assert energy.rapl_joules({path: 900_000}, {path: 400_000}) == pytest.approx(0.5)


def test_counters_that_cannot_be_believed_are_unknown(tmp_path: Path) -> None:
    bare = zone(tmp_path, "intel-rapl:0", 0, most=None)
    small = zone(tmp_path, "intel-rapl:1", 0, most=10)
    assert energy.rapl_joules({bare: 9}, {bare: 4}) is None
    assert energy.rapl_joules({small: 900}, {small: 4}) is None
    assert energy.rapl_joules({bare: 4, small: 4}, {bare: 9}) is None
    assert energy.rapl_joules({}, {}) is None
    assert energy.rapl_joules({bare: 4}, {bare: 4}) is None  # never 0


def test_the_rated_power_is_looked_up_once(meters: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("codecarbon")
    asked: list[int] = []
    meters.setattr(energy, "_ask_codecarbon", lambda: asked.append(1) or (80.0, 6.0))  # type: ignore[func-returns-value]
    first = energy.rated_power()
    assert first is not None and (first.cpu_watts, first.ram_watts) == (80.0, 6.0)
    assert energy.rated_power() == first and len(asked) == 1
    for content in (b"", b"[]", b"{}", b"\xff", b'{"machine": 1}'):
        (tmp_path / "cache" / "headwater" / "power.json").write_bytes(content)
        assert energy.rated_power() == first
    assert len(asked) == 6


def test_a_cache_that_cannot_be_written_costs_time_only(meters: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("codecarbon")
    (tmp_path / "cache").write_text("a file where the folder should be")
    meters.setattr(energy, "_ask_codecarbon", lambda: (80.0, 6.0))
    assert energy.rated_power() is not None


@pytest.mark.parametrize("error", [RuntimeError("no home"), ValueError("odd"), OSError("gone")])
def test_a_meter_that_fails_never_ends_the_work(error: Exception, meters: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise error

    meters.setattr(energy, "rated_power", fail)
    record = measure()
    assert {c.device: c.joules for c in record.components} == {"cpu": None, "ram": None}
    assert record.measured_joules is None and record.modelled_joules is None


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
    rated(meters)
    assert measure(Meter("s", carbon_g_per_kwh=500)).kg_co2e is None
    assert measure(Meter("s", pue=1.5)).kg_co2e is None
    record = measure(Meter("s", carbon_g_per_kwh=500, pue=1.5))
    assert record.modelled_joules is not None
    assert record.kg_co2e == pytest.approx(record.modelled_joules / JOULES_PER_KWH * 1.5 * 0.5)


def test_carbon_is_of_the_measured_joules_alone_where_there_are_any(meters: pytest.MonkeyPatch) -> None:
    rated(meters)
    readings = iter([{Path("z"): 1_000_000}, {Path("z"): 3_500_000}])
    meters.setattr(energy, "read_rapl", lambda: next(readings))
    record = measure(Meter("s", carbon_g_per_kwh=500, pue=1.5))
    assert record.modelled_joules is not None and record.measured_joules is not None
    assert record.kg_co2e == pytest.approx(2.5 / JOULES_PER_KWH * 1.5 * 0.5)


def test_the_memory_and_the_platform_have_counters_of_their_own(tmp_path: Path) -> None:
    for name, what in (("intel-rapl:0", "package-0"), ("intel-rapl:1", "psys")):
        (zone(tmp_path, name, 5) / "name").write_text(what)
    for number, what in enumerate(("core", "uncore", "dram")):
        (zone(tmp_path, f"intel-rapl:0:{number}", number) / "name").write_text(what)
    names = [{p.name for p in f(tmp_path)} for f in (energy.read_rapl, energy.read_dram, energy.read_psys)]
    assert names == [{"intel-rapl:0"}, {"intel-rapl:0:2"}, {"intel-rapl:1"}]


def test_times_are_rfc3339_in_utc() -> None:
    text = utc_now()
    assert text.endswith("Z") and "T" in text and len(text) == len("2026-01-01T00:00:00.000Z")


def test_energy_round_trips(meters: pytest.MonkeyPatch) -> None:
    record = measure()
    assert Energy.model_validate(json.loads(record.model_dump_json())) == record


@pytest.mark.slow
def test_the_real_tables_say_how_they_know(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("codecarbon")
    monkeypatch.setenv("HEADWATER_METER", "auto")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    record = measure()
    assert record.provider == "rapl" or record.provider.startswith("codecarbon ")
    for component in record.components:
        assert (component.joules is None) == (component.quality == "none")
        assert component.joules is None or component.joules > 0
