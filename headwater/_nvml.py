"""The energy of NVIDIA GPUs: the card's own counter where it has one, otherwise its power, looked at every second.

The counter (Volta and later) is exact over any window longer than its 20 to 100 ms of resolution. A card without one may still
tell its power; then the joules are the area under the readings by the trapezoid rule. A card split by MIG counts as a whole:
its counter says nothing of one slice, and other people's slices are in it, as everything with the share `machine` may be.
A card that tells neither, or stops telling, is unknown: null, never 0.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, Literal

POLL_SECONDS = 1.0  # also the window over which newer cards average the power they tell
LONGEST_GAP_SECONDS = 10.0  # between two readings; over a longer one nobody knows what was drawn

Method = Literal["nvml_counter", "nvml_poll", "none"]


class Gpu:
    """One card, from the first reading on. `handle` None is a card or driver that nothing could be asked of."""

    def __init__(
        self, name: str, nvml: Any = None, handle: Any = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.name = name
        self.polled = False
        self.since = self._seconds = clock()
        self._nvml, self._handle = nvml, handle
        self._before: int | None = None
        self._watts: float | None = None
        self._area: float | None = None
        if handle is None:
            return
        self._before = self._ask("nvmlDeviceGetTotalEnergyConsumption")
        if self._before is None:
            self._watts = self._power()
            self.polled = self._watts is not None
            self._area = 0.0 if self.polled else None

    def look(self, seconds: float) -> None:
        """One more reading of the power, for a card without a counter."""
        if not self.polled or self._area is None or self._watts is None:
            return
        watts = self._power()
        gap = seconds - self._seconds
        if watts is None or not 0 <= gap <= LONGEST_GAP_SECONDS:
            self._area = None
            return
        self._area += (self._watts + watts) / 2 * gap
        self._watts, self._seconds = watts, seconds

    def finish(self) -> tuple[float | None, Method]:
        """Joules since the start and how they are known; for a polled card, up to the last look."""
        if self._before is not None:
            after = self._ask("nvmlDeviceGetTotalEnergyConsumption")
            # less than before: the driver was loaded anew; the same: shorter than the counter's resolution
            if after is not None and after > self._before:
                return (after - self._before) / 1000, "nvml_counter"
            return None, "none"
        return (self._area, "nvml_poll") if self._area else (None, "none")

    def _power(self) -> float | None:
        milliwatts = self._ask("nvmlDeviceGetPowerUsage")
        return milliwatts / 1000 if milliwatts is not None and milliwatts > 0 else None

    def _ask(self, function: str) -> int | None:
        try:
            return int(getattr(self._nvml, function)(self._handle))
        except Exception:  # not supported, no permission, card lost, or a driver older than the package
            return None


def open_gpus(clock: Callable[[], float]) -> list[Gpu]:
    """Every card of the machine, or one unknown `gpu` where there is a driver but nobody to ask; none without a driver."""
    if not os.path.exists("/dev/nvidiactl"):
        return []
    try:
        import pynvml

        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
    except Exception:  # no package, or a driver and a library that do not fit
        return [Gpu("gpu")]
    found = []
    for number in range(count):
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(number)
        except Exception:  # a card that fell off the bus still counts as one
            handle = None
        found.append(Gpu(f"gpu{number}", pynvml, handle, clock))
    return found
