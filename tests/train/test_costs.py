"""Costs: ten watts for five seconds are fifty joules in every table; what is measured and what is modelled never meet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate import _report_record
from headwater.carbon import CarbonFactor, revise
from headwater.errors import UsageError
from headwater.manifest import Energy, EnergyComponent
from tests.faults.energy_kit import Card, install
from tests.faults.energy_kit import rated as rate
from train.costs import CostRow, add, attempts, costs, document, points_above_chance, table

WORLD = CarbonFactor(g_per_kwh=475, region="WORLD", source="a table (taken 2026-11-20)", year=2018)
MEASURED = {"rapl": "measured", "nvml_counter": "measured", "tdp_load": "modelled", "constant": "assumed"}


def part(device: str, joules: float | None, method: str = "none", share: str = "machine") -> EnergyComponent:
    fields: dict[str, Any] = {"method": method, "quality": MEASURED.get(method, "none"), "share": share}
    return EnergyComponent(device=device, joules=joules, interval_seconds=5.0, **fields)


def energy(*parts: EnergyComponent, hour: int = 0, **more: Any) -> Energy:
    fields: dict[str, Any] = {
        "stage": "train",
        "started_at": f"2026-01-01T{hour:02d}:00:00.000Z",
        "finished_at": f"2026-01-01T{hour:02d}:59:00.000Z",
        "duration_seconds": 5.0,
        "cpu_seconds": 4.0,
        "measured_joules": None,
        "modelled_joules": None,
        "provider": "rapl",
    }
    return Energy(components=list(parts), **{**fields, **more})


def by_name(rows: list[CostRow]) -> dict[str, CostRow]:
    return {f"sum {row.quality}" if row.sum else f"{row.device} {row.method}": row for row in rows}


def test_ten_watts_for_five_seconds_are_fifty_joules_in_every_table(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine = install(monkeypatch, tmp_path)
    machine.zone("intel-rapl:0", "package-0")
    machine.zone("intel-rapl:0:0", "core")
    with machine.meter("train", carbon_g_per_kwh=475, pue=1.2) as meter:
        for _ in range(5):
            machine.pass_time(1, _0=10, _0_0=7)
            meter._look()
    record = Energy.model_validate_json(meter.record().model_dump_json())
    kwh, kg = 50 / 3.6e6, 50 / 3.6e6 * 1.2 * 0.475
    assert record.measured_joules == pytest.approx(50, abs=1e-6)
    assert record.kg_co2e == pytest.approx(kg) and revise(record, WORLD).kg_co2e == pytest.approx(kg)
    points = points_above_chance(0.3, 0.1)
    for total in (record, add([record]), attempts([record])):
        rows = by_name(costs(total, samples=2000, points=points))
        for name in ("cpu rapl", "sum measured"):
            row = rows[name]
            assert row.joules == pytest.approx(50)
            assert row.kwh == pytest.approx(kwh) and row.kg_co2e == pytest.approx(kg)
            assert row.joules_per_1000_samples == pytest.approx(25)
            assert row.joules_per_point == pytest.approx(2.5)
            assert row.kg_co2e_per_point == pytest.approx(kg / 20)
        assert rows["sum modelled or assumed"].joules is None and rows["ram none"].joules is None
        text = table(costs(total, samples=2000, points=points))
        cpu = next(line for line in text.splitlines() if line.startswith("cpu"))
        assert cpu.split()[3:] == ["50", "1.389e-05", "7.917e-06", "25", "2.5"]
    shown = json.loads(json.dumps(document(record, samples=2000, points=points)))
    assert shown["rows"][0]["joules"] == pytest.approx(50) and shown["rows"][1]["joules"] is None
    report = _report_record.energy_table(record, 2000, "samples")
    assert report["components"][0]["joules"] == "50 J" and report["sums"][0]["per_thousand"] == "25 J"
    twice = by_name(costs(add([record, record])))
    assert twice["cpu rapl"].joules == pytest.approx(100)


def test_a_whole_machine_measured_and_modelled_side_by_side(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine = install(monkeypatch, tmp_path)
    rate(monkeypatch)
    machine.zone("intel-rapl:0", "package-0")
    machine.cards.append(Card())
    with machine.meter() as meter:
        machine.pass_time(5, _0=10)
    rows = by_name(costs(meter.record(), factor=WORLD, pue=1.0))
    assert rows["sum measured"].joules == pytest.approx(50 + 500)
    assert rows["sum modelled or assumed"].joules == pytest.approx(25)
    assert (rows["sum measured"].device, rows["sum measured"].method) == ("cpu+gpu0", "nvml_counter+rapl")
    assert all(row.joules != pytest.approx(575) for row in rows.values())
    assert all(row.complete for row in rows.values())


def test_nothing_known_is_null_everywhere() -> None:
    rows = costs(energy(part("cpu", None), part("ram", None)), samples=10, points=1.0, factor=WORLD, pue=1.0)
    for row in rows:
        assert (row.joules, row.kwh, row.kg_co2e, row.joules_per_1000_samples) == (None, None, None, None)
        assert not row.complete
    text = table(rows)
    assert "not known" in text and not any(word.strip("≥") == "0" for word in text.split())


@pytest.mark.parametrize("points", [None, 0.0, -3.0])
def test_no_point_won_has_no_price(points: float | None) -> None:
    rows = costs(energy(part("cpu", 50.0, "rapl")), points=points, factor=WORLD, pue=1.0)
    assert all(row.joules_per_point is None and row.kg_co2e_per_point is None for row in rows)
    assert document(energy(part("cpu", 50.0, "rapl")), points=points)["points_above_chance"] is None


@pytest.mark.parametrize("samples", [None, 0])
def test_no_samples_have_no_price(samples: int | None) -> None:
    assert costs(energy(part("cpu", 50.0, "rapl")), samples=samples)[0].joules_per_1000_samples is None


def test_points_are_percentage_points_above_chance() -> None:
    assert points_above_chance(0.3, 0.1) == pytest.approx(20)
    assert points_above_chance(0.1, 0.1) is None and points_above_chance(0.05, 0.1) is None
    assert points_above_chance(None, 0.1) is None and points_above_chance(0.3, None) is None


def test_the_factor_is_the_given_one_else_that_of_the_record() -> None:
    record = energy(part("cpu", 3.6e6, "rapl"), carbon_g_per_kwh=100.0, pue=2.0)
    assert costs(record)[0].kg_co2e == pytest.approx(0.2)
    assert costs(record, factor=WORLD, pue=1.0)[0].kg_co2e == pytest.approx(0.475)
    bare = energy(part("cpu", 3.6e6, "rapl"))
    assert costs(bare, factor=WORLD)[0].kg_co2e is None and costs(bare, pue=1.0)[0].kg_co2e is None
    with pytest.raises(UsageError, match="PUE"):
        costs(record, pue=0.5)


def test_the_notes_say_how_the_co2e_came_about() -> None:
    record = energy(part("cpu", 50.0, "rapl"))
    assert "HEADWATER_REGION" in document(record)["notes"][-1]
    assert "no PUE is stated" in document(record, factor=WORLD)["notes"][-1]
    told = document(record, factor=WORLD, pue=1.2)
    assert told["notes"] == [
        "CO2e is kWh x PUE 1.2 x 475 g CO2e per kWh (WORLD, 2018, location-based; a table (taken 2026-11-20))"
    ]
    assert (told["carbon"]["region"], told["carbon"]["year"], told["pue"]) == ("WORLD", 2018, 1.2)


def test_steps_are_added_per_device_method_and_quality() -> None:
    total = add(
        [
            energy(part("cpu", 50.0, "rapl"), part("ram", 5.0, "constant"), hour=0, stage="train"),
            energy(
                part("cpu", 20.0, "tdp_load", "process"), part("ram", 3.0, "constant"), hour=1, stage="eval"
            ),
            energy(part("cpu", 30.0, "rapl"), part("ram", 2.0, "constant"), hour=2, stage="eval"),
        ]
    )
    rows = by_name(costs(total))
    assert (rows["cpu rapl"].joules, rows["cpu rapl"].records, rows["cpu rapl"].of_records) == (80.0, 2, 3)
    assert (rows["cpu tdp_load"].joules, rows["cpu tdp_load"].records) == (20.0, 1)
    assert rows["ram constant"].joules == 10.0 and rows["ram constant"].complete
    assert not rows["cpu rapl"].complete  # the third step's processor was modelled
    assert (rows["sum measured"].joules, rows["sum modelled or assumed"].joules) == (80.0, 30.0)
    assert (rows["sum measured"].records, rows["sum modelled or assumed"].records) == (2, 3)
    assert total.energy is not None and total.energy.stage == "train+eval"
    assert total.energy.duration_seconds == 15.0 and total.energy.cpu_seconds == 12.0
    assert (total.energy.measured_joules, total.energy.modelled_joules) == (80.0, 30.0)
    assert "rapl, measured (2 of 3)" in table(costs(total))


def test_an_unknown_makes_its_device_and_the_sums_at_least() -> None:
    total = add(
        [
            energy(part("cpu", 50.0, "rapl"), part("gpu0", 100.0, "nvml_counter"), hour=0),
            energy(part("cpu", None), part("gpu0", 40.0, "nvml_counter"), hour=1),
        ]
    )
    rows = by_name(costs(total, samples=1000))
    assert (rows["cpu rapl"].joules, rows["cpu rapl"].complete, rows["cpu rapl"].unknown) == (50.0, False, 1)
    assert (rows["gpu0 nvml_counter"].joules, rows["gpu0 nvml_counter"].complete) == (140.0, True)
    assert (rows["sum measured"].joules, rows["sum measured"].complete) == (190.0, False)
    assert rows["sum measured"].unknown == 1
    assert total.notes() == ["cpu: not known in 1 of 2"]
    lines = table(costs(total, samples=1000), notes=total.notes()).splitlines()
    assert "≥ 50" in lines[1] and "≥" not in lines[2] and "≥ 190" in lines[3]
    assert lines[-1] == "note: cpu: not known in 1 of 2"
    assert "cpu none" not in rows  # one row for the device, flagged, not two


def test_a_zero_that_stands_for_a_missing_sensor_is_unknown() -> None:
    total = add(
        [energy(part("gpu0", 0.0, "nvml_counter")), energy(part("gpu0", -1.0, "nvml_counter"), hour=1)]
    )
    rows = by_name(costs(total))
    assert rows["gpu0 none"].joules is None and rows["sum measured"].joules is None
    assert total.unknown == {"gpu0": 2} and total.measured_in == 0


def test_a_device_that_only_one_step_had_is_whole() -> None:
    total = add(
        [
            energy(part("cpu", 1.0, "rapl"), part("gpu0", 9.0, "nvml_counter")),
            energy(part("cpu", 1.0, "rapl"), hour=1),
        ]
    )
    rows = by_name(costs(total))
    assert rows["gpu0 nvml_counter"].complete and rows["sum measured"].complete


def test_attempts_without_a_record_are_told() -> None:
    total = attempts([energy(part("cpu", 50.0, "rapl")), None, energy(part("cpu", 30.0, "rapl"), hour=1)])
    row = costs(total)[0]
    assert (row.joules, row.records, row.of_records, row.complete, row.unknown) == (80.0, 2, 3, False, 1)
    assert total.notes()[0].startswith("1 of 3 left no record of their energy")
    assert "≥ 80" in table(costs(total))
    assert document(total)["lost"] == 1


def test_nothing_but_lost_attempts_is_not_known() -> None:
    for total in (attempts([None, None]), add([])):
        rows = costs(total, samples=10, factor=WORLD, pue=1.0)
        assert [row.joules for row in rows] == [None, None] and all(row.sum for row in rows)
        assert not any(row.complete for row in rows)
        assert document(total)["duration_seconds"] is None
        assert "not known" in table(rows)


def test_machine_wide_figures_of_steps_at_the_same_time_are_told() -> None:
    apart = add([energy(part("cpu", 1.0, "rapl"), hour=0), energy(part("cpu", 1.0, "rapl"), hour=1)])
    together = add([energy(part("cpu", 1.0, "rapl"), hour=1), energy(part("cpu", 1.0, "rapl"), hour=1)])
    own = add([energy(part("cpu", 1.0, "tdp_load", "process"), hour=1) for _ in range(2)])
    assert (apart.overlapping, together.overlapping, own.overlapping) == (0, 1, 0)
    assert "twice" in together.notes()[0]
    odd = {"started_at": "long ago", "finished_at": "0001-01-01T00:00:00+14:00"}
    assert add([energy(part("cpu", 1.0, "rapl"), **odd), energy(part("cpu", 1.0, "rapl"))]).overlapping == 0


def test_carbon_of_a_sum_needs_one_factor() -> None:
    same = [energy(part("cpu", 3.6e6, "rapl"), hour=h, carbon_g_per_kwh=100.0, pue=1.0) for h in (0, 1)]
    other = energy(part("cpu", 3.6e6, "rapl"), hour=2, carbon_g_per_kwh=300.0, pue=1.0)
    merged, mixed = add(same).energy, add([*same, other]).energy
    assert merged is not None and merged.kg_co2e == pytest.approx(0.2)
    assert mixed is not None and mixed.kg_co2e is None and mixed.carbon_g_per_kwh is None


joules = st.none() | st.floats(1e-3, 1e9)
components = st.builds(
    lambda device, value, method: part(device, value, method if value is not None else "none"),
    st.sampled_from(["cpu", "ram", "gpu0"]),
    joules,
    st.sampled_from(sorted(MEASURED)),
)
records = st.lists(st.lists(components, max_size=4).map(lambda parts: energy(*parts)), max_size=5)


@given(records)
def test_no_joule_is_lost_invented_or_moved_between_the_sums(several: list[Energy]) -> None:
    rows = costs(add(several))
    for name, kinds in (("measured", {"measured"}), ("modelled or assumed", {"modelled", "assumed"})):
        given_joules = [
            c.joules for e in several for c in e.components if c.joules is not None and c.quality in kinds
        ]
        total = next(row for row in rows if row.sum and row.quality == name)
        assert total.joules == (pytest.approx(sum(given_joules)) if given_joules else None)
        assert sum(r.joules or 0 for r in rows if not r.sum and r.quality in kinds) == pytest.approx(
            sum(given_joules)
        )
    unknown = {c.device for e in several for c in e.components if c.joules is None}
    assert not any(row.complete for row in rows if row.device in unknown or (row.sum and unknown))
    devices = {c.device for e in several for c in e.components}
    assert {row.device for row in rows if not row.sum} == devices


@given(records)
def test_the_order_of_the_records_does_not_matter(several: list[Energy]) -> None:
    def figures(energies: list[Energy]) -> dict[tuple[str, str, bool], tuple[bool, int, int]]:
        return {
            (r.device, r.method, r.sum): (r.complete, r.records, r.unknown)
            for r in costs(add(energies))
            if not r.sum
        }

    assert figures(several) == figures(several[::-1])
