"""Times of trials of which some never finished: Kaplan and Meier's curve, its median, and Wilson's interval.

A trial that failed or met the cap is no missing value: it is known not to have finished by then (a right-censored
observation). A mean over the survivors would hide it; the curve keeps it in the count.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Z95 = 1.959963984540054  # normal quantile of a two-sided 95 % interval


@dataclass(frozen=True)
class Point:
    """After `seconds`, this share has not finished; `low` and `high` are its 95 % limits, None where the formula has none."""

    seconds: float
    share: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Median:
    """In seconds; None is "not reached": half of the trials had not finished when the last one was given up."""

    seconds: float | None
    low: float | None  # 95 % limits; None: no such limit can be given from these trials
    high: float | None


def curve(times: Sequence[float], finished: Sequence[bool]) -> list[Point]:
    """Kaplan-Meier estimate at each time at which a trial finished. A tie of a finish and a censoring counts the finish first.

    Limits: Greenwood's variance on the log(-log) scale (as R's survfit with conf.type "log-log").
    """
    if len(times) != len(finished):
        raise ValueError("one mark for each time")
    share, spread, points = 1.0, 0.0, []
    for moment in sorted({t for t, done in zip(times, finished, strict=True) if done}):
        at_risk = sum(t >= moment for t in times)
        ended = sum(done and t == moment for t, done in zip(times, finished, strict=True))
        share *= 1 - ended / at_risk
        if ended == at_risk:
            points.append(Point(moment, 0.0, None, None))
            break
        spread += ended / (at_risk * (at_risk - ended))
        width = Z95 * math.sqrt(spread) / abs(math.log(share))
        points.append(Point(moment, share, share ** math.exp(width), share ** math.exp(-width)))
    return points


def median(times: Sequence[float], finished: Sequence[bool]) -> Median:
    """The first time at which at most half have not finished, and where the limits of the curve cross the half.

    Where the curve stands at exactly a half for a while, that is the beginning of the while (some programs take its middle).
    """
    points = curve(times, finished)
    # where the curve ends at 0 the limits do not exist: an open end stays open
    return Median(
        next((p.seconds for p in points if p.share <= 0.5 + 1e-12), None),
        next((p.seconds for p in points if p.low is not None and p.low <= 0.5), None),
        next((p.seconds for p in points if p.high is not None and p.high <= 0.5), None),
    )


def wilson(good: int, of: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson's score), sensible also at 0 and at all."""
    if of <= 0 or not 0 <= good <= of:
        raise ValueError(f"{good} of {of} is no share")
    p, zz = good / of, Z95 * Z95 / of
    centre = (p + zz / 2) / (1 + zz)
    half = Z95 * math.sqrt(p * (1 - p) / of + zz / (4 * of)) / (1 + zz)
    return max(centre - half, 0.0), min(centre + half, 1.0)
