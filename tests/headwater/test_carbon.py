"""Carbon: a factor has a region that somebody stated, a source and a year; the figure can be had again from any table."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater import carbon
from headwater.carbon import CarbonFactor, CarbonTable, factor, kg_co2e, read_table, revise, stated_factor
from headwater.errors import IntegrityError, MissingInput, UsageError
from headwater.manifest import Energy

FRANCE = CarbonFactor(g_per_kwh=56.039, region="FRA", source="a table", year=2023)
positive = st.floats(1e-6, 1e9)


@pytest.fixture(autouse=True)
def _nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(carbon.REGION_VARIABLE, raising=False)


def record(measured: float | None, modelled: float | None, **more: Any) -> Energy:
    return Energy(
        stage="train",
        started_at="2026-01-01T00:00:00.000Z",
        finished_at="2026-01-01T00:00:05.000Z",
        duration_seconds=5.0,
        cpu_seconds=5.0,
        components=[],
        measured_joules=measured,
        modelled_joules=modelled,
        provider="test",
        **more,
    )


def small_table(**more: Any) -> dict[str, Any]:
    rows = {"FRA": {"name": "France", "g_per_kwh": 50, "year": 2026}}
    head = {"source": "s", "year": 2026, "retrieved": "2027-01-01", "licence": "l", "factors": rows}
    return {"format": "carbon/1", **head, **more}


def test_the_stored_table_is_dated_and_has_a_source_for_every_row() -> None:
    table = carbon.stored_table()
    assert "codecarbon" in table.source and "Our World in Data" in table.source
    assert "MIT" in table.licence and "CC BY" in table.licence
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", table.retrieved)
    assert table.year == max(row.year for row in table.factors.values())
    assert len(table.factors) > 200
    assert all(re.fullmatch("[A-Z]{3}|WORLD", region) for region in table.factors)
    assert not set(table.left_out) & set(table.factors)
    assert list(table.factors)[1:] == sorted(list(table.factors)[1:])


def test_the_stored_table_is_that_of_the_package_it_names() -> None:
    codecarbon = pytest.importorskip("codecarbon")
    table = carbon.stored_table()
    version = re.match(r"codecarbon (\S+), (\S+):", table.source)
    assert version is not None
    if codecarbon.__version__ != version.group(1):
        pytest.skip(f"codecarbon {codecarbon.__version__} is installed, the table is of {version.group(1)}")
    there = json.loads((Path(codecarbon.__file__).parent / version.group(2)).read_bytes())
    ours = {k: (row.name, row.g_per_kwh, row.year) for k, row in table.factors.items() if k != "WORLD"}
    theirs = {k: (row["country_name"], row["carbon_intensity"], row["year"]) for k, row in there.items()}
    assert ours == {k: row for k, row in theirs.items() if k not in table.left_out}
    assert [there[k]["carbon_intensity"] for k in table.left_out] == [0.0]


def test_the_region_is_stated_or_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert factor() is None
    monkeypatch.setenv(carbon.REGION_VARIABLE, "SWE")
    found = factor()
    assert found is not None and found.region == "SWE" and found.kind == "location-based"
    explicit = factor("world")  # the option goes before the environment
    assert explicit is not None and (explicit.g_per_kwh, explicit.year) == (475, 2018)
    assert "IEA" in explicit.source and "taken 20" in explicit.source
    monkeypatch.setenv(carbon.REGION_VARIABLE, "")
    assert factor() is None


@pytest.mark.parametrize(
    ("region", "told"),
    [
        ("Germany", "did you mean DEU (Germany)?"),
        ("germny", "did you mean DEU (Germany)?"),
        ("GER", "DEU (Germany)"),
        ("GBP", "GBR (United Kingdom)"),
        ("wrld", "WORLD"),
        ("??", "WORLD"),
        ("", "WORLD"),
    ],
)
def test_an_unknown_region_names_the_nearest(region: str, told: str) -> None:
    with pytest.raises(UsageError) as error:
        factor(region)
    assert told in error.value.message and "ISO 3166-1" in str(error.value.hint)


def test_a_region_whose_figure_is_missing_says_why() -> None:
    with pytest.raises(UsageError, match="'CAF' has no carbon factor: the table says 0"):
        factor("CAF")


def test_the_figure_is_kwh_times_pue_times_grams() -> None:
    assert kg_co2e(2.0, 1.5, FRANCE) == pytest.approx(2.0 * 1.5 * 0.056039)
    assert kg_co2e(None, 1.5, FRANCE) is None
    assert kg_co2e(2.0, None, FRANCE) is None
    assert kg_co2e(2.0, 1.5, None) is None


@pytest.mark.parametrize("pue", [0.99, 0, -1, 11, float("nan"), float("inf")])
def test_a_pue_that_cannot_be_is_refused(pue: float) -> None:
    with pytest.raises(UsageError, match="PUE"):
        kg_co2e(1.0, pue, FRANCE)


@given(positive, st.floats(1, 3), st.floats(0.1, 2000), st.floats(0.1, 2000))
def test_another_table_gives_the_new_figure_and_the_joules_stay(
    joules: float, pue: float, old: float, new: float
) -> None:
    first = revise(record(joules, None), FRANCE.model_copy(update={"g_per_kwh": old}), pue)
    again = revise(first, FRANCE.model_copy(update={"g_per_kwh": new}))
    assert again.measured_joules == joules and again.pue == pue and again.carbon_g_per_kwh == new
    assert first.kg_co2e is not None and again.kg_co2e is not None
    assert again.kg_co2e * old == pytest.approx(first.kg_co2e * new)
    assert revise(again, FRANCE.model_copy(update={"g_per_kwh": old})) == first
    assert Energy.model_validate_json(again.model_dump_json()) == again


def test_a_stored_record_and_a_new_table_give_the_new_figure(tmp_path: Path) -> None:
    stored = tmp_path / "energy.json"
    old = factor("FRA")
    assert old is not None
    stored.write_text(revise(record(3.6e6, None), old, 1.2).model_dump_json())
    path = tmp_path / "newer.json"
    path.write_text(json.dumps(small_table()))
    new = factor("FRA", table=read_table(path))
    assert new is not None and (new.year, new.source) == (2026, "s (taken 2027-01-01)")
    again = revise(Energy.model_validate_json(stored.read_bytes()), new)
    assert again.kg_co2e == pytest.approx(1.2 * 0.050)


def test_measured_and_modelled_joules_are_never_added() -> None:
    assert revise(record(3.6e6, 7.2e6), FRANCE, 1).kg_co2e == pytest.approx(0.056039)
    assert revise(record(None, 7.2e6), FRANCE, 1).kg_co2e == pytest.approx(2 * 0.056039)
    assert revise(record(None, None), FRANCE, 1).kg_co2e is None
    assert revise(record(3.6e6, None), FRANCE).kg_co2e is None  # no PUE was ever stated


def test_a_factor_of_a_contract_is_stated_with_its_kind() -> None:
    green = stated_factor(0, source="contract", year=2026, kind="market-based")
    assert kg_co2e(1.0, 1.0, green) == 0 and green.kind == "market-based"
    for grams in (-1, 4000, float("nan")):
        with pytest.raises(UsageError, match="g of CO2e per kWh"):
            stated_factor(grams, source="contract", year=2026)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        b"NaN",
        json.dumps(small_table(factors={})).encode(),
        json.dumps(small_table(format="carbon/2")).encode(),
        json.dumps(small_table(more=1)).encode(),
        json.dumps(small_table(factors={"FRA": {"name": "F", "g_per_kwh": 0, "year": 2026}})).encode(),
        json.dumps(small_table(factors={"FRA": {"name": "F", "g_per_kwh": 1e9, "year": 2026}})).encode(),
        json.dumps(small_table(source="x" * carbon.MOST_BYTES)).encode(),
    ],
    ids=lambda content: content[:12].decode("latin-1"),
)
def test_a_table_that_is_none_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match=r"table\.json"):
        read_table(path)


def test_a_table_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="none.json"):
        read_table(tmp_path / "none.json")
    with pytest.raises(MissingInput):
        read_table(tmp_path)
    assert CarbonTable.model_validate(small_table()).kind == "location-based"
