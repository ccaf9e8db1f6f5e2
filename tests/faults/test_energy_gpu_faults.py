"""GPUs without a driver, a counter or an answer: unknown is null, one lost card takes only itself, power is a second choice."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from headwater import energy
from headwater.energy import Meter
from tests.faults.energy_kit import Card, Machine, install, known, parts

Patch = pytest.MonkeyPatch


@pytest.fixture
def machine(monkeypatch: Patch, tmp_path: Path) -> Machine:
    return install(monkeypatch, tmp_path)


@pytest.fixture
def said(monkeypatch: Patch) -> list[str]:
    told: list[str] = []
    monkeypatch.setattr(energy, "say", lambda level, text: told.append(f"{level}: {text}"))
    return told


def test_without_a_driver_there_is_no_gpu_and_no_zero(machine: Machine) -> None:
    with machine.meter() as meter:
        machine.pass_time(5)
    assert "gpu0" not in known(meter.record())


@pytest.mark.parametrize("what", ["no package", "init fails", "count fails"])
def test_a_driver_that_cannot_be_asked_is_one_unknown_gpu(
    what: str, machine: Machine, monkeypatch: Patch
) -> None:
    machine.cards.append(Card())
    module: Any = sys.modules["pynvml"]
    if what == "no package":
        monkeypatch.setitem(sys.modules, "pynvml", None)
    else:
        name = "nvmlInit" if what == "init fails" else "nvmlDeviceGetCount"
        monkeypatch.setattr(module, name, lambda: (_ for _ in ()).throw(RuntimeError("driver mismatch")))
    with machine.meter() as meter:
        machine.pass_time(5)
    gpu = parts(meter.record())["gpu"]
    assert (gpu.joules, gpu.method, gpu.quality) == (None, "none", "none")


@pytest.mark.parametrize("step", [-500, 0], ids=["driver loaded anew", "shorter than its resolution"])
def test_a_gpu_counter_that_does_not_grow_is_unknown(step: int, machine: Machine) -> None:
    machine.cards.append(Card())
    with machine.meter() as meter:
        assert machine.cards[0].millijoules is not None
        machine.cards[0].millijoules += step
    assert known(meter.record())["gpu0"] is None


def test_a_gpu_that_is_lost_takes_only_itself(machine: Machine) -> None:
    machine.cards += [Card(), Card()]
    with machine.meter() as meter:
        machine.pass_time(5)
        machine.cards[1].lost = True
    record = meter.record()
    assert known(record) == {"cpu": None, "gpu0": pytest.approx(500), "gpu1": None, "ram": None}
    assert record.measured_joules == pytest.approx(500)


def test_a_card_that_was_lost_before_the_start_is_counted_as_unknown(machine: Machine) -> None:
    machine.cards += [Card(lost=True), Card()]
    with machine.meter() as meter:
        machine.pass_time(5)
    assert known(meter.record()) == {"cpu": None, "gpu0": None, "gpu1": pytest.approx(500), "ram": None}


def test_power_is_summed_by_trapezoids_where_there_is_no_counter(machine: Machine) -> None:
    machine.cards.append(Card(millijoules=None))
    with machine.meter() as meter:
        for watts in (200, 300, 400):  # from 100 W
            machine.pass_time(1)
            machine.cards[0].milliwatts = watts * 1000
            meter._look()
        machine.pass_time(0.5)
    record = meter.record()
    assert known(record)["gpu0"] == pytest.approx(150 + 250 + 350 + 400 / 2)
    gpu = parts(record)["gpu0"]
    assert (gpu.method, gpu.quality, gpu.interval_seconds) == ("nvml_poll", "measured", 3.5)
    assert record.provider.endswith("nvml power every 1 s")


@pytest.mark.parametrize("trouble", ["lost", "a gap", "zero watts", "nothing to ask"])
def test_power_that_was_not_seen_all_the_time_is_unknown(trouble: str, machine: Machine) -> None:
    card = Card(millijoules=None, milliwatts=None if trouble == "nothing to ask" else 100_000)
    machine.cards.append(card)
    with machine.meter() as meter:
        machine.pass_time(1)
        meter._look()
        card.lost = trouble == "lost"
        card.milliwatts = 0 if trouble == "zero watts" else card.milliwatts
        machine.pass_time(60 if trouble == "a gap" else 1)
        meter._look()
        card.lost = False
        machine.pass_time(1)
    assert known(meter.record())["gpu0"] is None


def test_power_is_polled_by_a_thread_that_ends_with_the_meter(machine: Machine, monkeypatch: Patch) -> None:
    machine.cards.append(Card(millijoules=None))
    monkeypatch.setattr(energy, "POLL_SECONDS", 0.001)
    polled = threading.Event()
    module: Any = sys.modules["pynvml"]
    plain, calls = module.nvmlDeviceGetPowerUsage, []

    def power(card: Card) -> int:
        machine.now += 0.5
        calls.append(threading.current_thread().name)
        if len(calls) >= 5:
            polled.set()
        return int(plain(card))

    monkeypatch.setattr(module, "nvmlDeviceGetPowerUsage", power)
    threads = threading.active_count()
    with Meter("stage") as meter:
        assert polled.wait(60)
    assert threading.active_count() == threads
    assert len(set(calls)) == 2  # the first and the last reading are the meter's own
    joules = known(meter.record())["gpu0"]
    # 100 W at every look, each half a second after the one before
    assert joules is not None and joules == pytest.approx(50 * (len(calls) - 1), abs=60)


def test_counters_of_cards_need_no_thread(machine: Machine) -> None:
    machine.cards.append(Card())
    threads = threading.active_count()
    with machine.meter():
        assert threading.active_count() == threads
        machine.pass_time(1)


def test_a_sensor_that_hangs_is_given_up(machine: Machine, monkeypatch: Patch, said: list[str]) -> None:
    machine.cards.append(Card(millijoules=None))
    monkeypatch.setattr(energy, "POLL_SECONDS", 0.001)
    monkeypatch.setattr(energy, "STUCK_SECONDS", 0.05)
    hanging, end = threading.Event(), threading.Event()
    module: Any = sys.modules["pynvml"]
    with machine.meter() as meter:

        def hang(card: Card) -> int:
            hanging.set()
            end.wait(60)
            return 1

        monkeypatch.setattr(module, "nvmlDeviceGetPowerUsage", hang)
        assert hanging.wait(60)
    end.set()
    assert known(meter.record())["gpu0"] is None
    assert said == ["warning: stage: a sensor does not answer; its energy is not known"]


def test_a_card_split_by_mig_counts_as_a_whole(machine: Machine) -> None:
    # the handle by index is the card's also in MIG mode; the slices have no counter of their own
    machine.cards.append(Card())
    module: Any = sys.modules["pynvml"]
    module.nvmlDeviceGetMigMode = lambda card: [1, 1]
    module.nvmlDeviceGetMaxMigDeviceCount = lambda card: 7
    module.nvmlDeviceGetMigDeviceHandleByIndex = lambda card, index: Card(millijoules=None, milliwatts=None)
    with machine.meter() as meter:
        machine.pass_time(5)
    gpu = parts(meter.record())["gpu0"]
    assert (gpu.joules, gpu.share) == (pytest.approx(500), "machine")


def test_a_card_of_which_only_a_slice_is_ours_refuses_and_is_unknown(machine: Machine) -> None:
    machine.cards.append(Card(millijoules=None, milliwatts=None))
    with machine.meter() as meter:
        machine.pass_time(5)
    assert known(meter.record())["gpu0"] is None
