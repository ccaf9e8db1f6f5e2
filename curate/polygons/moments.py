"""When and where photos were taken, as the images table says it, and whether the sun stood in the sky.

Times are `datetime`, or COCO's `date_captured`, by the clock of the place (an offset is kept apart); places are `gps` as `intake` writes it, or
a GeoJSON point under `geos_point` or `location`. The sun's height is computed by the Astronomical Almanac's low-precision formulas:
good to about 0.1 degree between 1950 and 2050, refraction left out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from curate.polygons._json_strict import loads
from curate.polygons.exif import degrees
from curate.polygons.store import Annotations
from headwater.errors import IntegrityError

Floats = npt.NDArray[np.float64]
Times = npt.NDArray[np.datetime64]

POINTS = ("geos_point", "location")
KEYS = ("gps", "date_captured", *POINTS)
_EXIF = re.compile(r"(\d{4}):(\d\d):(\d\d)")
CODES = {"day": "D", "week": "W", "month": "M", "year": "Y"}
_J2000 = np.datetime64("2000-01-01T12:00:00", "s")


@dataclass(frozen=True)
class Moments:
    """Arrays over the images; NaT and NaN where nothing is known."""

    taken: Times  # datetime64[s], by the clock of the place
    clock: npt.NDArray[np.bool_]  # whether the time of day is known, not the day alone
    offset: Floats  # of that clock from UTC, minutes
    latitude: Floats  # degrees, north positive
    longitude: Floats  # degrees, east positive

    @property
    def hours(self) -> Floats:
        """Hours of the day, 0 to 24; NaN where only the day is known."""
        day = self.taken.astype("datetime64[D]")
        found = (self.taken - day) / np.timedelta64(3600, "s")
        return np.where(self.clock & ~np.isnat(self.taken), found, np.nan)

    @property
    def days(self) -> Floats:
        """Days since the first of January of the same year, 0 to 365."""
        found = (self.taken.astype("datetime64[D]") - self.taken.astype("datetime64[Y]")) / np.timedelta64(
            1, "D"
        )
        return np.where(np.isnat(self.taken), np.nan, found)

    @property
    def sun(self) -> Floats:
        """Degrees of the sun above the horizon; NaN where time, offset or place is not known."""
        seconds = (self.taken - _J2000) / np.timedelta64(1, "s") - 60 * self.offset
        known = self.clock & ~np.isnat(self.taken)
        return np.where(known, sun_height(seconds / 86_400, self.latitude, self.longitude), np.nan)


def sun_height(days: Floats, latitude: Floats, longitude: Floats) -> Floats:
    """Degrees above the horizon; `days` since 2000-01-01 12:00 UTC, places in degrees (The Astronomical Almanac, page C5)."""
    mean = np.radians(280.460 + 0.9856474 * days)
    anomaly = np.radians(357.528 + 0.9856003 * days)
    ecliptic = mean + np.radians(1.915 * np.sin(anomaly) + 0.020 * np.sin(2 * anomaly))
    tilt = np.radians(23.439 - 0.0000004 * days)
    declination = np.arcsin(np.sin(tilt) * np.sin(ecliptic))
    right = np.arctan2(np.cos(tilt) * np.sin(ecliptic), np.cos(ecliptic))
    sidereal = np.radians(280.46062 + 360.98564737 * days + longitude)
    north = np.radians(latitude)
    sine = np.sin(north) * np.sin(declination) + np.cos(north) * np.cos(declination) * np.cos(
        sidereal - right
    )
    return np.asarray(np.degrees(np.arcsin(np.clip(sine, -1, 1))), np.float64)


def moments_of(annotations: Annotations) -> Moments:
    """What the images table says; what cannot be read as a time or a place counts as not said."""
    count = len(annotations.images)
    taken = np.full(count, np.datetime64("NaT", "s"))
    clock = np.zeros(count, bool)
    offset, latitude, longitude = (np.full(count, np.nan) for _ in range(3))
    texts = annotations.images["datetime"].to_pylist()
    for row, extra in enumerate(annotations.images["extra"].to_pylist()):
        more: dict[str, Any] = {}
        if extra is not None and any(f'"{key}"' in extra for key in KEYS):
            more = _object(extra)
        text = texts[row] if texts[row] is not None else more.get("date_captured")
        found = _time(text) if isinstance(text, str) else None
        if found is not None:
            zone = found.utcoffset()
            taken[row] = np.datetime64(found.replace(tzinfo=None, microsecond=0), "s")
            clock[row] = len(str(text).strip()) > len("2000-01-01")
            offset[row] = np.nan if zone is None else zone.total_seconds() / 60
        place = _place(more)
        if place is not None:
            latitude[row], longitude[row] = place
    return Moments(taken, clock, offset, latitude, longitude)


def _object(extra: str) -> dict[str, Any]:
    try:
        found = loads(extra.encode())
    except ValueError as error:
        raise IntegrityError(f"column extra of the images holds no JSON: {error}") from error
    return found if isinstance(found, dict) else {}


def _time(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(_EXIF.sub(r"\1-\2-\3", text.strip(), count=1))
    except ValueError:
        return None


def _place(more: dict[str, Any]) -> tuple[float, float] | None:
    intake = more.get("intake")
    gps = intake.get("gps") if isinstance(intake, dict) else more.get("gps")
    if isinstance(gps, dict):
        try:
            exact = degrees(gps)
        except (TypeError, ValueError, AttributeError):
            exact = None
        if exact is not None:
            return float(exact[0]), float(exact[1])
    for key in POINTS:
        point = more.get(key)
        if isinstance(point, dict) and point.get("type") == "Point":
            pair = point.get("coordinates")
            if isinstance(pair, list) and len(pair) >= 2 and all(type(c) in (int, float) for c in pair[:2]):
                east, north = float(pair[0]), float(pair[1])
                if -180 <= east <= 180 and -90 <= north <= 90:
                    return north, east
    return None


def periods(
    taken: Times, front: npt.NDArray[np.bool_], most: int = 48
) -> tuple[str, list[str], list[int], list[int]]:
    """(length of a period, their names, images in each, those of `front`): the shortest periods of which there are at most `most`.

    Times that are not known are left out; without any, all lists are empty.
    """
    known = ~np.isnat(taken)
    if not known.any():
        return "day", [], [], []
    some, front = taken[known], front[known]
    numbered = {unit: some.astype(f"datetime64[{code}]").astype(np.int64) for unit, code in CODES.items()}
    unit = next((unit for unit, found in numbered.items() if np.ptp(found) < most), "year")
    places, code = numbered[unit], CODES[unit]
    # of years that are far apart, the last ones with images
    shown = np.arange(places.min(), places.max() + 1) if np.ptp(places) < most else np.unique(places)[-most:]
    inside = places >= shown[0]
    rows = np.searchsorted(shown, places[inside])
    counts = np.bincount(rows, minlength=len(shown)).tolist()
    names = shown.astype(f"datetime64[{code}]").astype(str).tolist()
    return unit, names, counts, np.bincount(rows[front[inside]], minlength=len(shown)).tolist()
