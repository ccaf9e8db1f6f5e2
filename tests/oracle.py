"""An independent reading of rule files: one row at a time, plain Python, nothing imported from the code under test.

A pool is a list of rows; a row is a mapping of column -> value (None for null), with its place under `SHARD` and `ROW`.
`kinds` says how a column compares: "f32" (float16 and float32), "f64", "int", "text", "bool". A rule is the mapping that a rule
file holds. SQL clauses are not parsed: `SQL` lists the expressions known here, each with its meaning in Python.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

SHARD, ROW = "__shard__", "__row__"
NO_UID = "0" * 32  # what a null uid counts as where uids are ordered

Row = Mapping[str, Any]
Truth = bool | None


class Refused(Exception):
    """The rule has no answer for this pool, and the program must say so."""


@dataclass(frozen=True)
class Verdict:
    """What became of one row."""

    verdict: str
    reason: str | None


def judge(
    rows: Sequence[Row], keep: Sequence[Mapping[str, Any]], kinds: Mapping[str, str], subsets: Any = None
) -> list[Verdict]:
    """The verdict of every row, in order. Every clause of `keep` has an `id`."""
    alive = list(range(len(rows)))
    found = [Verdict("kept", None)] * len(rows)
    for clause in keep:
        truths = _truths(clause, rows, alive, kinds, subsets or {})
        for number in alive:
            if truths[number] is None:
                found[number] = Verdict("invalid", f"{clause['id']}: null or NaN")
            elif not truths[number]:
                found[number] = Verdict("dropped", clause["id"])
        alive = [number for number in alive if truths[number]]
    for number in alive:
        if rows[number]["uid"] is None:
            found[number] = Verdict("invalid", "uid: null")
    return found


def subset_of(rows: Sequence[Row], verdicts: Sequence[Verdict], *, repeats: bool) -> list[str]:
    """The sorted uids of kept rows."""
    uids = [row["uid"] for row, verdict in zip(rows, verdicts, strict=True) if verdict.verdict == "kept"]
    return sorted(uids if repeats else set(uids))


def counts_of(verdicts: Sequence[Verdict], which: str) -> dict[str, int]:
    """Rows by reason, for one kind of verdict."""
    found: dict[str, int] = {}
    for verdict in verdicts:
        if verdict.verdict == which:
            found[verdict.reason or ""] = found.get(verdict.reason or "", 0) + 1
    return found


def value(row: Row, name: str) -> Any:
    """A column of the row; null for NaN; the length of the caption for n_words and n_chars."""
    if name in ("n_words", "n_chars") and name not in row:
        text = row["text"]
        if text is None:
            return None
        return len(text.split()) if name == "n_words" else len(text)
    found = row[name]
    return None if isinstance(found, float) and math.isnan(found) else found


def in_precision(number: Any, kind: str) -> Any:
    """`number` as the column would hold it."""
    with np.errstate(over="ignore"):
        return float(np.float32(number)) if kind == "f32" else number


def _truths(
    clause: Mapping[str, Any], rows: Sequence[Row], alive: list[int], kinds: Mapping[str, str], subsets: Any
) -> list[Truth]:
    kind = next(key for key in clause if key != "id")
    body = clause[kind]
    if kind == "sql":
        return [SQL[body](row, kinds) for row in rows]
    if kind == "in":
        return [_in(row, body, kinds, subsets) for row in rows]
    if kind == "sample":
        return [_sampled(row["uid"] or NO_UID, body["fraction"], body.get("seed", 0)) for row in rows]
    if kind == "top":
        return _top(body, rows, alive, kinds)
    if kind == "exact_k":
        return _exact_k(body, rows, alive)
    if kind == "dedup":
        return _dedup(body, rows, alive)
    children = [_truths(c, rows, alive, kinds, subsets) for c in ([body] if kind == "not" else body)]
    join: Callable[[list[Truth]], Truth] = {"any": _any, "all": _all, "not": lambda t: _not(t[0])}[kind]
    return [join([child[number] for child in children]) for number in range(len(rows))]


def _any(truths: list[Truth]) -> Truth:
    return True if True in truths else None if None in truths else False


def _all(truths: list[Truth]) -> Truth:
    return False if False in truths else None if None in truths else True


def _not(truth: Truth) -> Truth:
    return None if truth is None else not truth


def _in(row: Row, body: Mapping[str, Any], kinds: Mapping[str, str], subsets: Any) -> Truth:
    if "subset" in body:
        return (row["uid"] or NO_UID) in subsets[body["subset"]]
    mine = value(row, body["column"])
    kind = kinds.get(body["column"], "int")
    return None if mine is None else mine in [in_precision(v, kind) for v in body["values"]]


def _sampled(uid: str, fraction: float, seed: int) -> bool:
    high, low = int(uid[:16], 16), int(uid[16:], 16)
    return splitmix(high ^ splitmix(low ^ splitmix(seed % 2**64))) < int(fraction * 2**64)


def splitmix(x: int) -> int:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014)."""
    x = (x + 0x9E3779B97F4A7C15) % 2**64
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
    return x ^ (x >> 31)


def _counted(body: Mapping[str, Any], rows: Sequence[Row], alive: list[int], usual: str) -> list[int]:
    return list(range(len(rows))) if body.get("of", usual) == "pool" else alive


def _top(
    body: Mapping[str, Any], rows: Sequence[Row], alive: list[int], kinds: Mapping[str, str]
) -> list[Truth]:
    values = [value(row, body["column"]) for row in rows]
    if "threshold" in body:
        cut = in_precision(float(body["threshold"]), kinds.get(body["column"], "int"))
    else:
        counted = _counted(body, rows, alive, "pool")
        place = int(len(counted) * body["fraction"])
        numbers = sorted((values[i] for i in counted if values[i] is not None), reverse=True)
        if place >= len(counted):
            cut = -math.inf
        elif place >= len(numbers):
            raise Refused
        else:
            cut = numbers[place]
    return [None if mine is None else mine >= cut for mine in values]


def _exact_k(body: Mapping[str, Any], rows: Sequence[Row], alive: list[int]) -> list[Truth]:
    counted = _counted(body, rows, alive, "survivors")
    marks = [
        None if value(row, body["column"]) is None else (-value(row, body["column"]), row["uid"] or NO_UID)
        for row in rows
    ]
    best = sorted(mark for i in counted if (mark := marks[i]) is not None)
    if body["k"] > len(best):
        raise Refused
    last = best[body["k"] - 1] if body["k"] else (-math.inf, "")
    return [None if mark is None else body["k"] > 0 and mark <= last for mark in marks]


def _dedup(body: Mapping[str, Any], rows: Sequence[Row], alive: list[int]) -> list[Truth]:
    keys = [tuple(value(row, name) for name in body["by"]) for row in rows]

    def rank(number: int) -> tuple[Any, ...]:
        row = rows[number]
        marks: list[Any] = []
        for name, way in body.get("order", {}).items():
            mine = value(row, name)
            marks.append((mine is None, 0 if mine is None else -mine if way == "desc" else mine))
        return (*marks, row["uid"] or NO_UID, row[SHARD], row[ROW])

    seen: dict[tuple[Any, ...], int] = {}
    out: list[Truth] = [None if None in key else True for key in keys]
    for number in sorted((i for i in alive if None not in keys[i]), key=rank):
        seen[keys[number]] = seen.get(keys[number], 0) + 1
        out[number] = seen[keys[number]] <= body.get("at_most", 1)
    return out


def _compare(name: str, holds: Callable[[Any], bool]) -> Callable[[Row, Mapping[str, str]], Truth]:
    def test(row: Row, kinds: Mapping[str, str]) -> Truth:
        mine = value(row, name)
        return None if mine is None else holds(mine)

    return test


def _at_least_030(row: Row, kinds: Mapping[str, str]) -> Truth:
    mine = value(row, "s")
    return None if mine is None else mine >= in_precision(0.3, kinds["s"])


def _missing_or_low(row: Row, kinds: Mapping[str, str]) -> Truth:
    mine = value(row, "s")
    return mine is None or mine < 0.25


def _aspect(row: Row, kinds: Mapping[str, str]) -> Truth:
    sides = [s for s in (value(row, "original_width"), value(row, "original_height")) if s is not None]
    if not sides:
        return None
    long, short = float(max(sides)), float(min(sides))
    if short == 0:
        return None if long == 0 else long < 0
    return long / short <= 3.0


def _sides(row: Row, kinds: Mapping[str, str]) -> Truth:
    width, height = value(row, "original_width"), value(row, "original_height")
    return _all([None if side is None else side >= 200 for side in (width, height)])


def _twice(row: Row, kinds: Mapping[str, str]) -> Truth:
    n, width = value(row, "n"), value(row, "original_width")
    return None if n is None or width is None else n * 2 - width < 0


SQL: dict[str, Callable[[Row, Mapping[str, str]], Truth]] = {
    "n_words > 2": _compare("n_words", lambda n: n > 2),
    "n_chars > 5": _compare("n_chars", lambda n: n > 5),
    "original_width >= 200 and original_height >= 200": _sides,
    "greatest(original_width, original_height) / least(original_width, original_height) <= 3.0": _aspect,
    "s >= 0.3": _at_least_030,
    "s is null or s < 0.25": _missing_or_low,
    "b": _compare("b", lambda b: b),
    "not b or n > 0": lambda row, kinds: _any(
        [_not(value(row, "b")), None if value(row, "n") is None else value(row, "n") > 0]
    ),
    "g in ('a', 'b')": _compare("g", lambda g: g in ("a", "b")),
    "text like '%dog%'": _compare("text", lambda t: "dog" in t),
    "n between -3 and 3": _compare("n", lambda n: -3 <= n <= 3),
    "n * 2 - original_width < 0": _twice,
}
