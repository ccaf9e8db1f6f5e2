"""The energy counters of processors and memory, as Linux' powercap folder shows them.

A package's counter holds its cores and its graphics (the zones `core` and `uncore` below it), but not the memory: the zone `dram`
stands below a package in the tree and counts apart from it. The zone `psys` counts the whole platform, packages included, and
stands beside them: adding it to them would count the same joules twice.
A counter starts anew at its range, some minutes of full load away: whoever measures longer has to look at it in between.
Source: the kernel's powercap documentation; Intel's Software Developer's Manual, volume 3, "RAPL domains".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

RAPL_ROOT = Path("/sys/class/powercap")
MOST_WATTS = 1000.0  # no package or memory draws more: how fast a counter can come around
LONGEST_LOOK_SECONDS = 60.0  # between two looks at a counter
SHORTEST_LOOK_SECONDS = 1.0

Reading = dict[Path, int]  # zone -> microjoules


def read_rapl(root: Path = RAPL_ROOT) -> Reading:
    """Microjoules of each processor package's counter that this process may read (Linux powercap)."""
    return _read(zone for zone in _zones(root) if zone.name.count(":") == 1 and _name(zone) != "psys")


def read_dram(root: Path = RAPL_ROOT) -> Reading:
    """Microjoules of the memory behind each package; empty where the processor does not count it."""
    return _read(zone for zone in _zones(root) if zone.name.count(":") == 2 and _name(zone) == "dram")


def read_psys(root: Path = RAPL_ROOT) -> Reading:
    """Microjoules of the whole platform, where it has a counter."""
    return _read(zone for zone in _zones(root) if zone.name.count(":") == 1 and _name(zone) == "psys")


def rapl_joules(before: Reading, after: Reading) -> float | None:
    """Joules between two readings that lie less than one turn apart.

    A counter that wrapped once is put right; one that vanished, stands still or has no stated range makes it unknown.
    """
    return _total(_spent(before, after))


class Counters:
    """A set of counters, looked at from time to time; `joules` is what they counted since the first look.

    Readings are of `read`; `seconds` are of one monotonic clock.
    """

    def __init__(self, read: Callable[[], Reading]) -> None:
        self._read = read
        self._last: Reading = {}
        self._seconds = 0.0
        self._spent: Reading | None = None

    def start(self, seconds: float) -> bool:
        """The first look; False where there is nothing to count."""
        try:
            self._last = self._read()
        except Exception:  # a tree that cannot be walked is one without counters
            self._last = {}
        self._seconds = seconds
        self._spent = dict.fromkeys(self._last, 0) if self._last else None
        return bool(self._last)

    @property
    def look_seconds(self) -> float | None:
        """How often to look so that no counter can turn twice unseen; None where none can turn within reach."""
        ranges = [microjoules for zone in self._last if (microjoules := _range(zone))]
        if not ranges:
            return None
        half_turn = min(ranges) / 1e6 / MOST_WATTS / 2
        return max(SHORTEST_LOOK_SECONDS, min(LONGEST_LOOK_SECONDS, half_turn))

    def look(self, seconds: float, *, last: bool = False) -> None:
        """Add what was counted since the look before. A look in between that fails is left out, the last one is not."""
        if self._spent is None:
            return
        try:
            reading = self._read()
        except Exception:
            reading = {}
        if reading.keys() != self._last.keys():
            self._spent = None if last else self._spent
            return
        step = _spent(self._last, reading)
        if step is None or self._may_have_turned_twice(seconds - self._seconds):
            self._spent = None
            return
        self._spent = {zone: self._spent[zone] + step[zone] for zone in step}
        self._last, self._seconds = reading, seconds

    def joules(self) -> float | None:
        """Joules of all zones together; None when one of them cannot be believed."""
        return _total(self._spent)

    def _may_have_turned_twice(self, seconds: float) -> bool:
        ranges = [_range(zone) for zone in self._last]
        # nothing turns twice in a moment, whatever its stated range
        return seconds > SHORTEST_LOOK_SECONDS and any(
            microjoules is not None and seconds * MOST_WATTS * 1e6 >= microjoules for microjoules in ranges
        )


def _zones(root: Path) -> Iterator[Path]:
    # `intel-rapl-mmio:0` is a second way to the same package and is not matched; AMD's zones have Intel's name
    yield from sorted(root.glob("intel-rapl:*"))


def _name(zone: Path) -> str:
    try:
        return (zone / "name").read_text().strip()
    except (OSError, ValueError):
        return ""


def _read(zones: Iterator[Path]) -> Reading:
    found = {}
    for zone in zones:
        microjoules = _number(zone / "energy_uj")
        if microjoules is not None:
            found[zone] = microjoules
    return found


def _range(zone: Path) -> int | None:
    return _number(zone / "max_energy_range_uj") or None


def _number(path: Path) -> int | None:
    try:
        number = int(path.read_text())
    except (OSError, ValueError):
        return None
    return number if number >= 0 else None


def _spent(before: Reading, after: Reading) -> Reading | None:
    if not before or before.keys() != after.keys():
        return None
    spent = {}
    for zone, first in before.items():
        step = after[zone] - first
        if step < 0:
            step += _range(zone) or 0
        if step < 0:
            return None
        spent[zone] = step
    return spent


def _total(spent: Reading | None) -> float | None:
    if not spent or not all(spent.values()):
        return None  # a counter that stands still tells nothing
    return sum(spent.values()) / 1e6
