"""From joules to CO2e with a stored, dated factor: kWh x PUE x grams per kWh, of a region that somebody stated.

The factors lie in `carbon.json` beside this file, with their source, year, licence and the day they were taken. They are averages
over a region and a year (location-based): no contract for green power changes them, and neither does the hour of the day. The
region comes from an option or from `HEADWATER_REGION`; nobody asks the network where this machine stands. A record keeps its
joules, so the figure can be had again from a newer table (`revise`). Of a record with measured and modelled joules the figure is
of the measured ones alone: the two are never added, and `train.costs` gives one beside the other.
"""

from __future__ import annotations

import difflib
import functools
import json
import os
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from headwater.errors import IntegrityError, MissingInput, UsageError, nearest
from headwater.manifest import Energy, Record

JOULES_PER_KWH = 3.6e6
REGION_VARIABLE = "HEADWATER_REGION"
WORLD = "WORLD"
TABLE = Path(__file__).with_name("carbon.json")
MOST_BYTES = 1 << 20
MOST_G_PER_KWH = 3000.0  # twice the dirtiest grid: more is another unit

Kind = Literal["location-based", "market-based"]


class CarbonFactor(Record):
    """Grams of CO2 equivalent per kWh of electricity, and where the figure comes from."""

    g_per_kwh: float = Field(ge=0)
    region: str = Field(description="ISO 3166-1 alpha-3 code, WORLD, or what its user calls it")
    source: str
    year: int = Field(description="of the electricity, not of the table")
    kind: Kind = "location-based"


class RegionFactor(Record):
    """One row of a table."""

    name: str
    g_per_kwh: float = Field(
        gt=0, le=MOST_G_PER_KWH, description="a grid without emissions is a missing figure"
    )
    year: int = Field(ge=1990, le=2100)


class CarbonTable(Record):
    """`carbon/1`: factors by region, dated and with their source."""

    format: Literal["carbon/1"] = "carbon/1"
    source: str
    year: int = Field(description="the newest year in the table; each row has its own")
    retrieved: str = Field(description="day the figures were taken, ISO 8601")
    licence: str
    kind: Kind = "location-based"
    left_out: dict[str, str] = Field(default_factory=dict, description="region: why it has no factor")
    sources: dict[str, str] = Field(
        default_factory=dict, description="region: its source, where it is another"
    )
    factors: dict[str, RegionFactor] = Field(min_length=1)


def read_table(path: Path) -> CarbonTable:
    """The table at `path`. Raises MissingInput, or IntegrityError saying what is wrong with it."""
    try:
        with open(path, "rb") as handle:
            data = handle.read(MOST_BYTES + 1)
    except OSError as error:
        raise MissingInput(f"{path}: no table of carbon factors can be read there") from error
    if len(data) > MOST_BYTES:
        raise IntegrityError(f"{path}: larger than {MOST_BYTES:,} bytes, which no table of factors needs")
    try:
        return CarbonTable.model_validate(json.loads(data))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise IntegrityError(f"{path}: no table of carbon factors: {place}: {first['msg']}") from error
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{path}: no table of carbon factors: {error}") from error


@functools.cache
def stored_table() -> CarbonTable:
    """The table that comes with the package."""
    return read_table(TABLE)


def factor(region: str | None = None, *, table: CarbonTable | None = None) -> CarbonFactor | None:
    """The factor of `region`, else of `HEADWATER_REGION`; None where neither states one.

    Regions are ISO 3166-1 alpha-3 codes, or WORLD. Raises UsageError for another one, naming the nearest.
    """
    stated = region if region is not None else os.environ.get(REGION_VARIABLE) or None
    if stated is None:
        return None
    table = table or stored_table()
    code = stated.strip().upper()
    if code in table.left_out:
        raise UsageError(
            f"{stated!r} has no carbon factor: {table.left_out[code]}",
            hint="state the grams per kWh yourself, or take WORLD",
        )
    row = table.factors.get(code)
    if row is None:
        raise UsageError(
            f"unknown region {stated!r}: {_nearest_region(code, table)}",
            hint="regions are three letters as in ISO 3166-1 (FRA, DEU, USA), or WORLD",
        )
    source = f"{table.sources.get(code, table.source)} (taken {table.retrieved})"
    return CarbonFactor(g_per_kwh=row.g_per_kwh, region=code, source=source, year=row.year, kind=table.kind)


def stated_factor(
    g_per_kwh: float, *, source: str, year: int, region: str = "stated", kind: Kind = "location-based"
) -> CarbonFactor:
    """A factor that the user knows better than the table, such as that of a contract (market-based; it may be 0)."""
    if not 0 <= g_per_kwh <= MOST_G_PER_KWH:
        raise UsageError(
            f"{g_per_kwh} g of CO2e per kWh cannot be: it is between 0 and {MOST_G_PER_KWH:,.0f}",
            hint="the unit is grams per kWh",
        )
    return CarbonFactor(g_per_kwh=g_per_kwh, region=region, source=source, year=year, kind=kind)


def _nearest_region(code: str, table: CarbonTable) -> str:
    names = {row.name.upper(): known for known, row in table.factors.items()}
    if len(code) > 3:  # a name, where a code is wanted
        begun = [name for name in names if name.startswith(code)]
        close = begun if len(begun) == 1 else difflib.get_close_matches(code, names, n=1, cutoff=0.6)
        found = [names[name] for name in close]
    else:  # a code of three letters is near to many others: a few are told, with their names
        begun = [known for name, known in names.items() if len(code) == 3 and name.startswith(code)]
        shared = [known for known in sorted(names.values()) if known[:1] == code[:1]]
        shared.sort(key=lambda known: -difflib.SequenceMatcher(None, known, code).ratio())
        found = list(dict.fromkeys([*begun, *shared[:3]]))
    told = [f"{known} ({table.factors[known].name})" for known in found]
    return f"did you mean {' or '.join(told)}?" if told else nearest(code, [WORLD])


def check_pue(pue: float | None) -> float | None:
    """`pue` (power usage effectiveness: energy of the building over energy of its machines), which is 1 or more."""
    if pue is not None and not 1 <= pue <= 10:
        raise UsageError(
            f"a PUE of {pue} cannot be: it is 1 for the machine alone and more with its building"
        )
    return pue


def kg_co2e(kwh: float | None, pue: float | None, factor: CarbonFactor | None) -> float | None:
    """Kilograms of CO2 equivalent: kWh x PUE x factor; None when one of the three is not stated."""
    if kwh is None or check_pue(pue) is None or pue is None or factor is None:
        return None
    return kwh * pue * factor.g_per_kwh / 1000


def emissions_kg(
    measured: float | None, modelled: float | None, pue: float | None, g_per_kwh: float | None
) -> float | None:
    """`kg_co2e` of a record: of its measured joules where it has any, else of the modelled ones, never of both together."""
    joules = measured if measured is not None else modelled
    if joules is None or pue is None or g_per_kwh is None:
        return None
    return joules / JOULES_PER_KWH * pue * g_per_kwh / 1000


def revise(energy: Energy, factor: CarbonFactor, pue: float | None = None) -> Energy:
    """The same record with the CO2e of another factor; its joules stay. `pue` None keeps the one of the record."""
    pue = check_pue(energy.pue if pue is None else pue)
    kg = emissions_kg(energy.measured_joules, energy.modelled_joules, pue, factor.g_per_kwh)
    return energy.model_copy(update={"pue": pue, "carbon_g_per_kwh": factor.g_per_kwh, "kg_co2e": kg})
