"""Sensors that are missing, lie, vanish or sleep: what is not known is null and never 0, and an estimate is called one."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from headwater import _rapl, energy
from headwater.manifest import Energy
from tests.faults.energy_kit import RANGE, Card, Machine, install, known, parts, rated

Patch = pytest.MonkeyPatch


@pytest.fixture
def machine(monkeypatch: Patch, tmp_path: Path) -> Machine:
    return install(monkeypatch, tmp_path)


@pytest.fixture
def said(monkeypatch: Patch) -> list[str]:
    told: list[str] = []
    monkeypatch.setattr(energy, "say", lambda level, text: told.append(f"{level}: {text}"))
    return told


def test_no_sensor_at_all_is_null_and_not_zero(machine: Machine) -> None:
    with machine.meter() as meter:
        machine.pass_time(5)
    record = meter.record()
    assert known(record) == {"cpu": None, "ram": None}
    assert record.measured_joules is None and record.modelled_joules is None and record.kg_co2e is None
    assert record.duration_seconds == 5


def test_counters_nobody_may_read_leave_a_labelled_estimate(machine: Machine, monkeypatch: Patch) -> None:
    rated(monkeypatch)
    (machine.root / "intel-rapl:0" / "energy_uj").mkdir(parents=True)  # reading it fails for every user
    with machine.meter() as meter:
        machine.pass_time(5, cpu=2)
    record = meter.record()
    cpu, ram = parts(record)["cpu"], parts(record)["ram"]
    assert (cpu.joules, cpu.method, cpu.quality) == (100 * 2 / 4, "tdp_load", "modelled")
    assert (ram.joules, ram.method, ram.quality) == (5 * 5, "constant", "assumed")
    assert record.measured_joules is None and record.modelled_joules == 75
    assert record.provider == "codecarbon 9.9"


@pytest.mark.parametrize("content", ["", "many", "-5", "1e6", "\xff\xfe"])
def test_a_counter_that_is_no_number_is_unknown(content: str, machine: Machine) -> None:
    machine.zone("intel-rapl:0", "package-0")
    (machine.root / "intel-rapl:0" / "energy_uj").write_bytes(content.encode("latin-1"))
    with machine.meter() as meter:
        machine.now += 5
    assert known(meter.record())["cpu"] is None
    assert _rapl.read_rapl(machine.root) == {}


def test_several_sockets_are_summed_and_their_parts_are_not(machine: Machine) -> None:
    for socket in (0, 1):
        machine.zone(f"intel-rapl:{socket}", f"package-{socket}")
        machine.zone(f"intel-rapl:{socket}:0", "core")
        machine.zone(f"intel-rapl:{socket}:1", "dram")
    machine.zone("intel-rapl-mmio:0", "package-0")  # the same package by another way
    with machine.meter() as meter:
        machine.pass_time(5, _0=10, _1=20, _0_0=8, _1_0=15, _0_1=2, _1_1=3)
        machine.draw("intel-rapl-mmio:0", 50)
    record = meter.record()
    assert known(record) == {"cpu": pytest.approx(150), "ram": pytest.approx(25)}
    assert all((c.method, c.quality, c.share) == ("rapl", "measured", "machine") for c in record.components)
    assert record.measured_joules == pytest.approx(175) and record.modelled_joules is None


def test_the_platform_is_not_added_to_its_packages(machine: Machine) -> None:
    machine.zone("intel-rapl:0", "package-0")
    machine.zone("intel-rapl:1", "psys")
    with machine.meter() as meter:
        machine.pass_time(5, _0=10, _1=30)
    assert known(meter.record()) == {"cpu": pytest.approx(50), "ram": None}


def test_the_platform_alone_stands_for_everything(machine: Machine, monkeypatch: Patch) -> None:
    rated(monkeypatch)
    machine.zone("intel-rapl:1", "psys")
    with machine.meter() as meter:
        machine.pass_time(5, _1=30)
    record = meter.record()
    assert known(record) == {"platform": pytest.approx(150)}  # and no model of what it already counts
    assert parts(record)["platform"].method == "psys"
    assert record.modelled_joules is None


def test_the_platform_beside_a_gpu_may_count_it_twice_and_is_left_out(machine: Machine) -> None:
    machine.zone("intel-rapl:1", "psys")
    machine.cards.append(Card())
    with machine.meter() as meter:
        machine.pass_time(5, _1=300)
    assert known(meter.record()) == {"cpu": None, "gpu0": pytest.approx(500), "ram": None}


def test_a_counter_that_wraps_once_is_put_right(machine: Machine) -> None:
    machine.zone("intel-rapl:0", "package-0", start=RANGE - 20_000_000)
    with machine.meter() as meter:
        machine.pass_time(5, _0=10)
    assert known(meter.record())["cpu"] == pytest.approx(50)


def test_hours_of_wraps_are_followed_by_looking_in_between(machine: Machine) -> None:
    machine.zone("intel-rapl:0", "package-0")
    with machine.meter() as meter:
        period = meter._cpu_counters.look_seconds
        assert period is not None and period * _rapl.MOST_WATTS < RANGE / 1e6
        for _ in range(120):  # two hours at 300 W turn the counter eight times
            machine.pass_time(60, _0=300)
            meter._look()
    assert known(meter.record())["cpu"] == pytest.approx(7200 * 300)


def test_wraps_that_nobody_looked_at_are_unknown(machine: Machine) -> None:
    machine.zone("intel-rapl:0", "package-0")
    with machine.meter() as meter:
        machine.pass_time(7200, _0=300)
    assert known(meter.record())["cpu"] is None


def test_a_counter_without_a_range_that_went_back_is_unknown(machine: Machine) -> None:
    machine.zone("intel-rapl:0", "package-0", start=90_000_000, most=None)
    with machine.meter() as meter:
        machine.pass_time(5, _0=-10)
    assert known(meter.record())["cpu"] is None


def test_a_counter_that_stands_still_is_unknown_also_beside_one_that_moves(machine: Machine) -> None:
    machine.zone("intel-rapl:0", "package-0")
    machine.zone("intel-rapl:1", "package-1")
    with machine.meter() as meter:
        machine.pass_time(5, _0=10)
    assert known(meter.record())["cpu"] is None


def test_a_zone_that_vanishes_or_appears_makes_the_sum_unknown(machine: Machine) -> None:
    machine.zone("intel-rapl:0", "package-0")
    machine.zone("intel-rapl:1", "package-1")
    with machine.meter() as gone:
        machine.pass_time(5, _0=10, _1=10)
        (machine.root / "intel-rapl:1" / "energy_uj").unlink()
    assert known(gone.record())["cpu"] is None
    machine.draw("intel-rapl:1", 1)
    with machine.meter() as late:
        machine.pass_time(5, _0=10, _1=10)
        late._look()
        machine.pass_time(5, _0=10, _1=10)
        (machine.root / "intel-rapl:1" / "energy_uj").unlink()
    assert known(late.record())["cpu"] is None  # and not what was counted up to the look
    with machine.meter() as come:
        machine.pass_time(5, _0=10)
        machine.draw("intel-rapl:1", 1)
    assert known(come.record())["cpu"] is None


def test_one_look_in_between_that_fails_costs_nothing(machine: Machine) -> None:
    machine.zone("intel-rapl:0", "package-0")
    counter = machine.root / "intel-rapl:0" / "energy_uj"
    with machine.meter() as meter:
        machine.pass_time(5, _0=10)
        text = counter.read_text()
        counter.unlink()
        meter._look()
        counter.write_text(text)
        machine.pass_time(5, _0=10)
    assert known(meter.record())["cpu"] == pytest.approx(100)


def test_a_machine_that_slept_is_unknown_and_not_cheap(
    machine: Machine, monkeypatch: Patch, said: list[str]
) -> None:
    machine.zone("intel-rapl:0", "package-0")
    machine.cards.append(Card())
    with machine.meter() as meter:
        machine.pass_time(5, _0=10)
        machine.asleep += 3600
    record = meter.record()
    assert known(record) == {"cpu": None, "gpu0": None, "ram": None}
    assert all(c.interval_seconds is None for c in record.components)
    assert record.duration_seconds == 5  # awake
    assert said == ["warning: stage: the machine slept for 3600 s; counters over it are left out"]
    rated(monkeypatch)
    with machine.meter() as meter:
        machine.pass_time(5, cpu=2, _0=10)
        machine.asleep += 3600
    record = meter.record()
    assert record.measured_joules is None
    # CPU seconds and the time awake are known: their models hold, and are called models
    assert known(record) == {"cpu": 50.0, "gpu0": None, "ram": 25.0}
    assert {c.quality for c in record.components} == {"modelled", "none", "assumed"}


def test_the_clock_of_sleep_is_told_from_the_one_that_stands_still(monkeypatch: Patch) -> None:
    before = energy.asleep_seconds()
    assert energy.asleep_seconds() == pytest.approx(before, abs=0.1)
    monkeypatch.delattr(time, "CLOCK_BOOTTIME", raising=False)
    assert energy.asleep_seconds() == 0.0


def test_a_wall_clock_set_back_is_recorded_as_it_was(machine: Machine, monkeypatch: Patch) -> None:
    machine.zone("intel-rapl:0", "package-0")
    told = iter(["2026-10-25T02:30:00.000Z", "2026-10-25T01:30:05.000Z"])
    monkeypatch.setattr(energy, "utc_now", lambda: next(told))
    with machine.meter() as meter:
        machine.pass_time(5, _0=10)
    record = meter.record()
    assert (record.started_at, record.finished_at) == ("2026-10-25T02:30:00.000Z", "2026-10-25T01:30:05.000Z")
    assert record.duration_seconds == 5 and known(record)["cpu"] == pytest.approx(50)
    assert Energy.model_validate_json(record.model_dump_json()) == record


def test_a_thread_that_cannot_be_started_never_ends_the_work(machine: Machine, monkeypatch: Patch) -> None:
    machine.zone("intel-rapl:0", "package-0")

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with machine.meter() as meter:
        machine.pass_time(5, _0=10)
    assert known(meter.record()) == {"cpu": None, "ram": None}


def test_a_rated_power_that_fails_leaves_what_was_measured(machine: Machine, monkeypatch: Patch) -> None:
    def fail() -> None:
        raise OSError("no table")

    monkeypatch.setattr(energy, "rated_power", fail)
    machine.zone("intel-rapl:0", "package-0")
    with machine.meter() as meter:
        machine.pass_time(5, _0=10)
    assert known(meter.record()) == {"cpu": pytest.approx(50), "ram": None}


def test_a_meter_switched_on_half_way_says_nothing(machine: Machine, monkeypatch: Patch) -> None:
    machine.zone("intel-rapl:0", "package-0")
    monkeypatch.setenv("HEADWATER_METER", "none")
    with machine.meter() as meter:
        monkeypatch.setenv("HEADWATER_METER", "auto")
        machine.pass_time(5, _0=10)
    assert known(meter.record()) == {"cpu": None, "ram": None}


def test_the_figure_covers_the_time_it_was_counted_and_not_the_start_of_the_process(
    machine: Machine, monkeypatch: Patch
) -> None:
    machine.zone("intel-rapl:0", "package-0")
    monkeypatch.setattr(energy, "_begun", [machine.now - 20, 0.0])  # the process is 20 s old
    with machine.meter() as meter:
        machine.pass_time(5, _0=10)
    record = meter.record()
    assert record.duration_seconds == 25
    assert parts(record)["cpu"].interval_seconds == 5
