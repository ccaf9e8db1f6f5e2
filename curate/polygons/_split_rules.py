"""Whether a condition of a split file holds for each unit: NO, UNKNOWN (a fact is missing) or YES.

`any` is the largest of its conditions, `all` the least, `not` the other way round. Only times can be unknown: an image without the
key of `in` is not in the list, and has not the key.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from curate.polygons._split_facts import Facts, Times, Units, microseconds, text_of
from curate.polygons._split_model import Condition, Share

NO, UNKNOWN, YES = 0, 1, 2
Verdicts = npt.NDArray[np.int8]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Bench:
    """Everything that a condition may look at."""

    facts: Facts
    times: Times
    units: Units
    keys: tuple[str, ...]  # of groups

    def judge(self, condition: Condition | None) -> Verdicts:
        """(units,) verdicts."""
        if condition is None:
            return np.full(len(self.units.first), YES, np.int8)
        if condition.children:
            found: Verdicts = np.array([self.judge(child) for child in condition.children], np.int8)
            if condition.not_ is not None:
                opposite: Verdicts = np.subtract(YES, found[0], dtype=np.int8)
                return opposite
            joined: Verdicts = found.max(axis=0) if condition.any_ is not None else found.min(axis=0)
            return joined
        if condition.time is not None or condition.ordinal_day is not None:
            holds = self._time(condition)[self.units.first]
            return np.where(self.times.known[self.units.first], YES * holds, UNKNOWN).astype(np.int8)
        return (YES * self._plain(condition)).astype(np.int8)

    def _time(self, condition: Condition) -> Bools:
        if condition.ordinal_day is not None:
            rest = self.times.days % condition.ordinal_day.divisor
            return np.isin(rest, condition.ordinal_day.remainders)
        assert condition.time is not None
        wanted, local = condition.time, self.times.local
        holds = np.ones(len(local), bool)
        if wanted.from_ is not None:
            holds &= local >= microseconds(wanted.from_)
        if wanted.before is not None:
            holds &= local < microseconds(wanted.before)
        if wanted.years is not None:
            days = (self.times.days - 719_163).astype("datetime64[D]")  # 1970-01-01 is day 719,163
            holds &= np.isin(days.astype("datetime64[Y]").astype(np.int64) + 1970, wanted.years)
        return holds

    def _plain(self, condition: Condition) -> Bools:
        first = self.units.first
        if condition.annotated is not None:
            return np.asarray(self.facts.annotated[first] == condition.annotated)
        if condition.has is not None:
            return _bools([text is not None for text in self.facts.texts(condition.has)])[first]
        if condition.in_ is not None:
            wanted = {text_of(value) for value in condition.in_.values}
            return _bools([text in wanted for text in self.facts.texts(condition.in_.column)])[first]
        if condition.ids is not None:
            return self._any(self.listed(condition))
        assert condition.group is not None
        grouped = _bools([name is not None for name in self.units.name])
        grouped &= self.units.size >= condition.group.least_images
        if condition.group.values is not None:
            wanted = {text_of(value) for value in condition.group.values}
            hit = np.zeros(self.facts.images, bool)
            for key in self.keys:
                hit |= _bools([text in wanted for text in self.facts.texts(key)])
            grouped &= self._any(hit)
        return grouped

    def listed(self, condition: Condition) -> Bools:
        """(images,) whether an image is listed in `ids`."""
        assert condition.ids is not None
        ids, names = set(condition.ids.ids), set(condition.ids.file_names)
        own = self.facts.annotations.images["id"].to_pylist()
        pairs = zip(own, self.facts.file_names, strict=True)
        return _bools([identity in ids or name in names for identity, name in pairs])

    def _any(self, rows: Bools) -> Bools:
        found = np.zeros(len(self.units.first), bool)
        found[self.units.of[rows]] = True
        return found

    def shares(self, share: Share) -> tuple[Ints, Bools]:
        """(units,) number of the split within `share.of`, len(of) for what goes on; and whether the unit has the key.

        The number is the first 8 bytes (big-endian) of SHA-256 over salt, a zero byte and the key, as a part of 2^64.
        """
        if share.key is not None:
            texts = self.facts.texts(share.key)
            keys = [texts[row] for row in self.units.first.tolist()]
        else:
            files = self.facts.texts("file_name")
            keys = [name or files[row] for name, row in zip(self.units.name, self.units.first, strict=True)]
        limits = [int(bound * (1 << 64)) for bound in share.bounds()]
        number, given = np.zeros(len(keys), np.int64), np.zeros(len(keys), bool)
        for unit, key in enumerate(keys):
            if key is not None:
                given[unit] = True
                data = share.salt.encode("utf-8", "surrogatepass") + b"\0" + key.encode()
                drawn = int.from_bytes(hashlib.sha256(data).digest()[:8], "big")
                number[unit] = sum(drawn >= limit for limit in limits)
        return number, given


def _bools(values: list[bool]) -> Bools:
    return np.array(values, bool)
