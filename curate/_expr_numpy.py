"""Evaluates the common part of the clauses (numbers, conditions, text equality) in numpy, block by block.

Same answers as `_expr_bind.Sql` in DuckDB. A block of BLOCK rows keeps every temporary in the second-level cache.
Values: Num(values, null) for numbers, Tri(true, unknown) for conditions, with None = no such row; `true` and
`unknown` never overlap. NaN is null. What numpy cannot do exactly raises Fallback, and DuckDB does the whole clause.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curate._expr_bind import Term

BLOCK = 32_768
Array = np.ndarray[Any, Any]
_COMPARE: dict[str, Callable[..., Any]] = {
    "=": np.equal, "<>": np.not_equal, "<": np.less, ">": np.greater, "<=": np.less_equal, ">=": np.greater_equal,
}  # fmt: skip
_ARITHMETIC: dict[str, Callable[..., Any]] = {"+": np.add, "-": np.subtract, "*": np.multiply, "/": np.divide}
_NUMBERS = ("int", "f32", "f64")
_INT64 = np.iinfo(np.int64)


class Fallback(Exception):
    """numpy cannot give the exact answer for these values."""


@dataclass(slots=True)
class Num:
    values: Any  # an array, or one Python or numpy number for a literal
    null: Array | None = None
    own: bool = False  # the array is a temporary of ours, used once: it may be overwritten


@dataclass(slots=True)
class Tri:
    true: Array
    unknown: Array | None = None


def supported(term: Term) -> bool:
    """Whether the clause can be tried in numpy at all, judged by its shape."""
    kinds = [arg.kind for arg in term.args]
    numeric = all(kind in _NUMBERS for kind in kinds)
    match term.op:
        case "col":
            return term.kind in (*_NUMBERS, "bool", "text")
        case "lit":
            return term.kind in _NUMBERS and term.value is not None
        case "and" | "or" | "not":
            fits = True
        case "isnull" | "notnull":
            fits = numeric or (kinds[0] == "text" and term.args[0].op == "col")
        case "cmp" | "in" if kinds[0] == "text":
            if term.op == "cmp" and term.value not in ("=", "<>"):
                return False
            values = term.args[1:]
            return term.args[0].op == "col" and all(v.literal and v.value is not None for v in values)
        case "cmp":
            fits = numeric and not term.args[0].literal and term.value in _COMPARE
        case "between" | "in":
            fits = numeric and not term.args[0].literal
        case "least" | "greatest" | "+" | "-" | "*" | "/" | "neg" | "abs":
            fits = numeric and not all(arg.literal for arg in term.args)
        case "cast":
            fits = term.kind == "f64" and numeric and not term.args[0].literal
        case "ucast":
            (_, kind, _), forgiving = term.value
            fits = kind in _NUMBERS and not forgiving and numeric and not term.args[0].literal
        case _:
            return False
    return fits and all(map(supported, term.args))


def evaluate(term: Term, columns: Mapping[str, Any], rows: int) -> tuple[Array, Array | None]:
    uses: dict[int, int] = {}
    _count(term, uses)
    true = np.empty(rows, np.bool_)
    unknown: Array | None = None
    with np.errstate(all="ignore"):
        for start in range(0, rows, BLOCK):
            stop = min(start + BLOCK, rows)
            answer = _Block(columns, start, stop, uses).tri(term)
            true[start:stop] = answer.true
            if answer.unknown is not None and answer.unknown.any():
                if unknown is None:
                    unknown = np.zeros(rows, np.bool_)
                unknown[start:stop] = answer.unknown
    return true, unknown


def _count(term: Term, uses: dict[int, int]) -> None:
    uses[id(term)] = uses.get(id(term), 0) + 1
    if uses[id(term)] == 1:
        for arg in term.args:
            _count(arg, uses)


def _either(a: Array | None, b: Array | None) -> Array | None:
    if a is None or b is None:
        return b if a is None else a
    return a | b


class _Block:
    def __init__(self, columns: Mapping[str, Any], start: int, stop: int, uses: dict[int, int]) -> None:
        self.columns, self.start, self.stop, self.uses = columns, start, stop, uses
        self.nums: dict[int, Num] = {}

    # conditions

    def tri(self, term: Term) -> Tri:
        op = term.op
        if op in ("and", "or"):
            answer = self.tri(term.args[0])
            for arg in term.args[1:]:
                answer = (_and if op == "and" else _or)(answer, self.tri(arg))
            return answer
        if op == "not":
            part = self.tri(term.args[0])
            return Tri(~part.true if part.unknown is None else ~(part.true | part.unknown), part.unknown)
        if op == "col":
            values, null = self._slice(term)
            return Tri(values & ~null, null) if null is not None else Tri(values.copy())
        if term.args[0].kind == "text":
            return self._text(term)
        first = self.num(term.args[0])
        if op in ("isnull", "notnull"):
            null = np.zeros(self.stop - self.start, np.bool_) if first.null is None else first.null.copy()
            return Tri(null if op == "isnull" else ~null)
        others = [self.num(arg) for arg in term.args[1:]]
        a = first.values
        match op:
            case "cmp":
                true = _COMPARE[term.value](a, others[0].values)
            case "between":
                return _and(_known(a >= others[0].values, first.null, others[0].null),
                            _known(a <= others[1].values, first.null, others[1].null))  # fmt: skip
            case _:
                answer = _known(a == others[0].values, first.null, others[0].null)
                for item in others[1:]:
                    answer = _or(answer, _known(a == item.values, first.null, item.null))
                return answer
        return _known(true, first.null, others[0].null)

    def _text(self, term: Term) -> Tri:
        column = self.columns[term.args[0].value][self.start : self.stop]
        null = column.is_null().to_numpy(zero_copy_only=False) if column.null_count else None
        if term.op in ("isnull", "notnull"):
            null = np.zeros(self.stop - self.start, np.bool_) if null is None else null
            return Tri(null if term.op == "isnull" else ~null)
        dtype = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        wanted = pa.array([value.value for value in term.args[1:]], dtype)
        found = pc.is_in(column, value_set=wanted).to_numpy(zero_copy_only=False)
        return _known(~found if term.op == "cmp" and term.value == "<>" else found, null)

    # numbers

    def num(self, term: Term) -> Num:
        if (known := self.nums.get(id(term))) is not None:
            return known
        value = self._num(term)
        if self.uses[id(term)] > 1:
            value.own = False
            self.nums[id(term)] = value
        return value

    def _num(self, term: Term) -> Num:
        op = term.op
        if op == "lit":
            return Num(np.float32(term.value) if term.kind == "f32" else term.value)
        if op == "col":
            values, null = self._slice(term)
            return Num(values, null)
        if op in ("least", "greatest"):
            return self._extreme(term)
        args = [self.num(arg) for arg in term.args]
        if op == "cast":
            return Num(args[0].values.astype(np.float64), args[0].null, own=True)
        if op == "ucast":
            return _cast(args[0], term)
        if op in ("neg", "abs"):
            return _signed(args[0], op, term.kind)
        null = args[0].null if len(args) == 1 else _either(args[0].null, args[1].null)
        if term.kind == "int":
            return Num(_whole(op, args), null, own=True)
        a, b = args
        # a NaN can arise only from infinities or, in a quotient, from 0/0; integers divided by non-zeros cannot
        if op == "/":
            source = (
                term.args[1].args[0]
                if term.args[1].op == "cast" and term.args[1].args[0].kind == "int"
                else None
            )
            if source is None:  # -0.0 becomes 0.0
                b = Num(
                    np.add(b.values, 0.0, out=b.values if b.own else None),
                    b.null,
                    own=b.own or not np.isscalar(b.values),
                )
        reuse = next((x.values for x in (a, b) if x.own and isinstance(x.values, np.ndarray)), None)
        values = _ARITHMETIC[op](a.values, b.values, out=reuse)
        return Num(values, _with_nan(values, null), own=True)

    def _extreme(self, term: Term) -> Num:
        pick = np.minimum if term.op == "least" else np.maximum
        first, *rest = (self.num(arg) for arg in term.args)
        for other in rest:
            a, b = first.values, other.values
            if term.kind == "int":
                a, b = _fit(a, b)
            if first.null is None and other.null is None:
                first = Num(pick(a, b), None, own=True)
                continue
            values = np.asarray(pick(a, b))
            values = np.where(first.null, b, values) if first.null is not None else values
            values = np.where(other.null, a, values) if other.null is not None else values
            both = None if first.null is None or other.null is None else first.null & other.null
            first = Num(values, both, own=True)
        return first

    def _slice(self, term: Term) -> tuple[Array, Array | None]:
        column = self.columns[term.value]
        null: Array | None = None
        if isinstance(column, np.ndarray):
            values: Array = column[self.start : self.stop]
        else:
            piece = column[self.start : self.stop]
            if piece.null_count:
                null = piece.is_null().to_numpy(zero_copy_only=False)
                piece = pc.fill_null(piece, False if term.kind == "bool" else pa.scalar(0, piece.type))
            values = piece.to_numpy(zero_copy_only=False)
        if values.dtype == np.uint64:
            if values.size and int(values.max()) > _INT64.max:
                raise Fallback
            values = values.view(np.int64)
        elif values.dtype == np.float16:
            values = values.astype(np.float32)
        return values, _with_nan(values, null) if values.dtype.kind == "f" else null


def _known(true: Array, *nulls: Array | None) -> Tri:
    unknown: Array | None = None
    for null in nulls:
        unknown = _either(unknown, null)
    return Tri(true if unknown is None else true & ~unknown, unknown)


def _and(a: Tri, b: Tri) -> Tri:
    unknown = _either(a.unknown, b.unknown)
    if unknown is not None:  # false AND unknown is false
        unknown = unknown & (a.true if a.unknown is None else a.true | a.unknown)
        unknown &= b.true if b.unknown is None else b.true | b.unknown
    return Tri(np.logical_and(a.true, b.true), unknown)


def _or(a: Tri, b: Tri) -> Tri:
    unknown, true = _either(a.unknown, b.unknown), np.logical_or(a.true, b.true)
    return Tri(true, None if unknown is None else unknown & ~true)


def _with_nan(values: Array, null: Array | None) -> Array | None:
    if values.size and np.isnan(
        values.max()
    ):  # max() carries a NaN and costs a tenth of isnan() over all rows
        return _either(null, np.isnan(values))
    return null


def _bounds(values: Any) -> tuple[int, int]:
    if not isinstance(values, np.ndarray):
        return int(values), int(values)
    if values.dtype.itemsize < 8:
        info = np.iinfo(values.dtype)
        return int(info.min), int(info.max)
    return (int(values.min()), int(values.max())) if values.size else (0, 0)


def _dtype(low: int, high: int) -> type[np.int32] | type[np.int64]:
    if -(2**31) <= low and high < 2**31:
        return np.int32
    if _INT64.min <= low and high <= _INT64.max:
        return np.int64
    raise Fallback


def _fit(a: Any, b: Any) -> tuple[Any, Any]:
    """Both in one type that holds either; a literal joins an array of a type too small for it."""
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a, b  # signed and unsigned below 64 bits promote exactly, uint64 was turned to int64
    array, literal = (a, b) if isinstance(a, np.ndarray) else (b, a)
    if isinstance(array, np.ndarray):
        info = np.iinfo(array.dtype)
        if not info.min <= literal <= info.max:
            array = array.astype(_dtype(min(int(info.min), literal), max(int(info.max), literal)))
        return (array, literal) if isinstance(a, np.ndarray) else (literal, array)
    raise Fallback  # two literals: shapes that supported() lets through only inside a longer list


def _whole(op: str, args: list[Num]) -> Array:
    (a0, a1), (b0, b1) = _bounds(args[0].values), _bounds(args[1].values)
    match op:
        case "+":
            low, high = a0 + b0, a1 + b1
        case "-":
            low, high = a0 - b1, a1 - b0
        case "*":
            corners = (a0 * b0, a0 * b1, a1 * b0, a1 * b1)
            low, high = min(corners), max(corners)
        case _:
            raise Fallback
    dtype = _dtype(min(low, a0, b0), max(high, a1, b1))
    values: Array = _ARITHMETIC[op](args[0].values, args[1].values, dtype=dtype)
    return values


def _signed(value: Num, op: str, kind: str) -> Num:
    values = value.values
    if kind == "int":
        low, high = _bounds(values)
        values = values.astype(_dtype(min(low, -high), max(high, -low)), copy=False)
    values = np.negative(values) if op == "neg" else np.absolute(values)
    return Num(values, value.null, own=True)


def _cast(value: Num, term: Term) -> Num:
    (_, kind, bits), _forgiving = term.value
    values, source = value.values, term.args[0].kind
    if kind == "f64":
        return Num(values.astype(np.float64), value.null, own=True)
    if kind == "f32":
        cut = values.astype(np.float32)
        if np.isinf(cut).any():
            raise Fallback  # DuckDB decides whether that is an error
        return Num(cut, value.null, own=True)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if bits > 0 else (0, 2**-bits - 1)
    if source == "int":
        found = _bounds(values)
        if value.null is not None or found[0] < low or found[1] > high:
            raise Fallback
        return Num(values, value.null)
    if value.null is not None or bits != 64 or (values.size and not np.abs(values).max() < 2.0**62):
        raise Fallback
    return Num(np.rint(values).astype(np.int64), value.null, own=True)
