"""What a report draws of a pool: numbers of a row (columns, or expressions that a clause compares), and the cuts in them.

A Measure is the SQL text of a number; the same text from two clauses is one measure with two cuts. Values are float64,
NaN where a row has no number. This is for drawing: what a rule keeps is decided in `curate.clauses` and nowhere else.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curate._expr_tree import Node
from curate.clauses import CompiledRule
from curate.expressions import Expression
from curate.pool import family
from curate.views import Column, numbers

F64 = npt.NDArray[np.float64]
SHORT_SIDE = "least(original_width, original_height)"
ASPECT = "greatest(original_width, original_height) / least(original_width, original_height)"
TITLES = {
    SHORT_SIDE: "Shorter side, pixels",
    ASPECT: "Aspect, longer / shorter side",
    "n_words": "Words in the caption",
    "n_chars": "Characters in the caption",
    "original_width": "Width, pixels",
    "original_height": "Height, pixels",
}
USUAL = ("n_words", "n_chars", "original_width", "original_height", SHORT_SIDE, ASPECT)
MOST_MEASURES = 12
MOST_BINS = 48
_FLIPPED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "=": "=", "<>": "<>"}
_PLAIN: dict[str, Callable[..., Any]] = {
    "+": np.add, "-": np.subtract, "*": np.multiply, "/": np.divide, "neg": np.negative, "abs": np.abs,
    "least": np.fmin, "greatest": np.fmax, "sqrt": np.sqrt, "ln": np.log, "log10": np.log10, "log2": np.log2,
}  # fmt: skip


@dataclass(frozen=True)
class Cut:
    """A value that a clause compares with. `at_least` says that the value itself lies right of the cut."""

    value: float
    at_least: bool
    clause: str


@dataclass(frozen=True)
class Measure:
    """One number per row."""

    text: str
    cuts: tuple[Cut, ...] = ()

    @property
    def title(self) -> str:
        return TITLES.get(self.text, self.text)

    @property
    def node(self) -> Node:
        return _number(self.text)

    @property
    def columns(self) -> frozenset[str]:
        return frozenset(_columns(self.node))


@dataclass(frozen=True)
class Axis:
    """Equal bins from `low`; values outside are counted apart. `whole` says that values are whole numbers."""

    low: float
    step: float
    bins: int
    whole: bool

    @property
    def high(self) -> float:
        return self.low + self.step * self.bins


@functools.lru_cache(maxsize=256)
def _number(text: str) -> Node:
    return Expression.parse(f"({text}) = 0", name=text)._tree.args[0]


def _columns(node: Node) -> Iterator[str]:
    if node.op == "col":
        yield node.value
    for arg in node.args:
        yield from _columns(arg)


def collect(
    rule: CompiledRule | None,
    cuts: Mapping[int, tuple[str, float]],
    types: Mapping[str, pa.DataType],
    scores: Iterable[str] = (),
) -> list[Measure]:
    """The measures of a page: what the clauses compare (in their order), then the usual ones, then `scores`.

    `cuts` holds what a step recorded for clauses whose cut came from the pool: position -> (column, value).
    """
    found: dict[str, Measure] = {}

    def add(text: str, cut: Cut | None = None) -> None:
        try:
            fits = drawable(_number(text), types)
        except Exception:  # whatever cannot be read as a number is not drawn
            fits = False
        if fits:
            known = found.setdefault(text, Measure(text))
            if cut is not None and math.isfinite(cut.value) and cut not in known.cuts:
                found[text] = replace(known, cuts=(*known.cuts, cut))

    if rule is not None:
        for place, clause in rule.nodes():
            position = int(place.split(".")[0])
            name = clause.id or rule.rule.reason(position)
            ranked = clause.top or clause.exact_k
            if ranked is not None:
                cut = cuts.get(position) if place == str(position) else None
                add(_quote(ranked.column), Cut(cut[1], at_least=True, clause=name) if cut else None)
            if clause.sql is not None:
                for text, op, value in comparisons(Expression.parse(clause.sql, name=name)._tree):
                    add(text, Cut(value, at_least=op in (">=", "<", "="), clause=name))
            if clause.dedup is not None:
                for name_ in clause.dedup.order:
                    add(_quote(name_))
    for text in (*USUAL, *map(_quote, scores)):
        add(text)
    return list(found.values())[:MOST_MEASURES]


def comparisons(node: Node) -> Iterator[tuple[str, str, float]]:
    """(expression, operator, number) of every comparison of a number with a constant below `node`."""
    if node.op == "cmp" and node.value in _FLIPPED:
        left, right = node.args
        op = node.value
        if _constant(left) is not None:
            left, right, op = right, left, _FLIPPED[op]
        value = _constant(right)
        if value is not None and _constant(left) is None and op not in ("<>", "="):
            yield as_text(left), op, value
    elif node.op == "between":
        low, high = _constant(node.args[1]), _constant(node.args[2])
        if low is not None and high is not None:
            yield as_text(node.args[0]), ">=", low
            yield as_text(node.args[0]), "<=", high
    else:
        for arg in node.args:
            yield from comparisons(arg)


def _constant(node: Node) -> float | None:
    value = node.value
    if node.op == "lit" and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    return None


def as_text(node: Node) -> str:
    """SQL of a node that `drawable` knows; of others, something that cannot be read again."""
    args = [as_text(arg) for arg in node.args]
    if node.op == "col":
        return _quote(str(node.value))
    if node.op == "lit":
        return repr(node.value)
    if node.op == "cast":
        return args[0]
    if node.op == "fn" and node.value in ("+", "-", "*", "/"):
        sides = [
            f"({a})" if n.op == "fn" and n.value in ("+", "-", "*", "/") else a
            for n, a in zip(node.args, args, strict=True)
        ]
        return f" {node.value} ".join(sides)
    if node.op == "fn":
        return f"{'-' if node.value == 'neg' else node.value}({', '.join(args)})"
    return f"?{node.op}"


def _quote(name: str) -> str:
    plain = name.isascii() and name.isidentifier() and name == name.lower()
    return name if plain else '"' + name.replace('"', '""') + '"'


def drawable(node: Node, types: Mapping[str, pa.DataType]) -> bool:
    """Whether `evaluate` can work the number out from columns of these types."""
    if node.op == "col":
        return node.value in types and family(types[node.value]) in ("integer", "float")
    if node.op == "lit":
        return _constant(node) is not None
    if node.op == "fn" and node.value in ("length", "len"):
        inner = node.args[0]
        return inner.op == "col" and inner.value in types and family(types[inner.value]) == "text"
    known = node.op == "cast" or (node.op == "fn" and node.value in _PLAIN)
    return known and all(drawable(arg, types) for arg in node.args)


def evaluate(node: Node, column: Callable[[str], Column]) -> F64:
    """The number of every row. Raises KeyError for a column that is not there."""
    if node.op == "col":
        values, missing = numbers(column(node.value))
        values = values.astype(np.float64)
        if missing is not None:
            values[missing] = np.nan
        return values
    if node.op == "lit":
        return np.asarray(float(node.value))
    if node.op == "cast":
        return evaluate(node.args[0], column)
    if node.value in ("length", "len"):
        texts = column(node.args[0].value)
        return evaluate(Node("col", (), ""), lambda _: pc.utf8_length(texts))
    args = [evaluate(arg, column) for arg in node.args]
    function = _PLAIN[node.value]
    with np.errstate(all="ignore"):
        if len(args) > 1:
            return np.asarray(functools.reduce(function, args), np.float64)
        return np.asarray(args[0] if function in (np.fmin, np.fmax) else function(args[0]), np.float64)


def cut_value(cut: Cut, measure: Measure, types: Mapping[str, pa.DataType]) -> float:
    """The cut as it is compared: in the precision of the column, where the measure is a bare float column."""
    node = measure.node
    if node.op == "col" and pa.types.is_float32(types.get(node.value, pa.null())):
        return float(np.float32(cut.value))
    return cut.value


def axis_for(sample: F64, cuts: Iterable[float]) -> Axis | None:
    """Bins that show all but the outermost values, with every cut inside where that leaves the picture readable."""
    sample = sample[np.isfinite(sample)]
    if not len(sample):
        return None
    whole = bool((sample == np.floor(sample)).all())
    least, low, middle, high, most = (
        float(v) for v in np.quantile(sample, [0.0005, 0.002, 0.5, 0.99, 0.9995])
    )
    # a short tail is drawn whole, a long one is cut and counted
    low = least if middle - least <= 2.5 * (middle - low) else low
    high = most if most - middle <= 2.5 * (high - middle) else high
    span = max(high - low, 1.0 if whole else abs(high) * 1e-3 or 1e-3)
    for cut in cuts:
        if low - 1.5 * span <= cut <= high + 1.5 * span:
            low, high = min(low, cut - 0.04 * span), max(high, cut + 0.04 * span)
    if low > 0 and low < 0.25 * high:
        low = 0.0
    step = _nice((high - low) / MOST_BINS or span / MOST_BINS)
    if whole:
        step = max(1.0, step if step == math.floor(step) else math.ceil(step))
    first = math.floor(low / step + 1e-9)
    bins = max(1, min(4 * MOST_BINS, math.floor(high / step + 1e-9) + 1 - first))
    return Axis(first * step, step, bins, whole)


def _nice(width: float) -> float:
    """The next of 1, 2, 2.5, 5 x 10^k at or above `width`."""
    power = 10.0 ** math.floor(math.log10(width))
    return next((f * power for f in (1.0, 2.0, 2.5, 5.0) if f * power >= width * (1 - 1e-9)), 10 * power)
