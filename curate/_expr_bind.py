"""Gives every node of a clause one kind (bool, int, f32, f64, text, list, other, null) and writes it out as SQL.

The kinds fix the meaning before an engine is chosen, so `_expr_numpy` and DuckDB answer alike:
  int   any integer column; arithmetic is exact (DuckDB: HUGEINT), it never wraps
  f32   a float32 column or abs/least/greatest/case of such; a literal beside it is cut to float32
  f64   double: every + - * / with a float in it, every /, every literal with a point or an exponent
An integer compares with a literal exactly; with a float column, as doubles. A NaN is read as NULL wherever it arises
(in a column, 0/0, inf-inf), except inside isnan/isinf/isfinite. Zero divisors count as +0: x/0 is +-inf, as in DuckDB.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa

from curate._expr_tree import FUNCTIONS, Node

MAX_SQL_CHARS = 400_000
_FAR = 2**100  # stands for every integer literal beyond all columns
_NUMBERS = frozenset({"int", "f32", "f64"})
_WORDS = {"int": "an integer", "f32": "a float", "f64": "a double", "bool": "a condition", "text": "text",
          "list": "a list", "other": "a date or similar", "null": "null"}  # fmt: skip


@dataclass(frozen=True, eq=False, slots=True)
class Term:
    """A node with its kind; equal parts of one clause are one Term, so identity serves as the cache key."""

    op: str
    args: tuple[Term, ...]
    kind: str
    value: Any = None

    @property
    def literal(self) -> bool:
        return self.op == "lit"


def kind_of(dtype: pa.DataType) -> str:
    if pa.types.is_dictionary(dtype):
        return kind_of(dtype.value_type)
    if pa.types.is_boolean(dtype):
        return "bool"
    if pa.types.is_integer(dtype):
        return "int"
    if pa.types.is_float32(dtype) or pa.types.is_float16(dtype):
        return "f32"
    if pa.types.is_float64(dtype) or pa.types.is_decimal(dtype):
        return "f64"
    if pa.types.is_string(dtype) or pa.types.is_large_string(dtype) or pa.types.is_string_view(dtype):
        return "text"
    if pa.types.is_list(dtype) or pa.types.is_large_list(dtype) or pa.types.is_fixed_size_list(dtype):
        return "list"
    return "null" if pa.types.is_null(dtype) else "other"


class Binder:
    """`fail(message)` raises the UsageError that names the clause."""

    def __init__(self, types: Mapping[str, pa.DataType], fail: Callable[[str], NoReturn]) -> None:
        self.types, self.fail = types, fail
        self._terms: dict[Any, Term] = {}
        self._bound: dict[int, Term] = {}

    def make(self, op: str, args: tuple[Term, ...], kind: str, value: Any = None) -> Term:
        key = (op, tuple(map(id, args)), kind, type(value), repr(value))
        return self._terms.setdefault(key, Term(op, args, kind, value))

    def lit(self, value: Any) -> Term:
        kind = {bool: "bool", int: "int", float: "f64", str: "text", type(None): "null"}[type(value)]
        return self.make("lit", (), kind, value)

    def bind(self, node: Node) -> Term:
        if (term := self._bound.get(id(node))) is None:
            term = self._bound[id(node)] = self._bind(node)
        return term

    def condition(self, node: Node, what: str) -> Term:
        term = self.bind(node)
        if term.kind not in ("bool", "null"):
            self.fail(f"{what} has to be a condition and is {_WORDS[term.kind]}")
        return self.coerce(term, "bool")

    def _bind(self, node: Node) -> Term:
        match node.op:
            case "col":
                return self.make("col", (), kind_of(self.types[node.value]), node.value)
            case "lit":
                return self.lit(node.value)
            case "and" | "or" | "not":
                args = tuple(self.condition(arg, f"each side of {node.op.upper()}") for arg in node.args)
                return self.make(node.op, args, "bool")
            case "isnull" | "notnull":
                return self.make(node.op, (self.bind(node.args[0]),), "bool")
            case "cmp":
                return self.compare(node.value, *(self.bind(arg) for arg in node.args))
            case "between":
                return self._between(*map(self.bind, node.args))
            case "in":
                return self._in(*map(self.bind, node.args))
            case "coalesce":
                return self._same("coalesce", tuple(map(self.bind, node.args)))
            case "case":
                return self._case(node)
            case "cast":
                (target, kind, _), _try = node.value
                child = self.bind(node.args[0])
                if child.kind == "list":
                    self.fail(f"a list cannot be cast to {target}")
                return self.make("ucast", (child,), kind, node.value)
        return self._function(str(node.value), tuple(map(self.bind, node.args)))

    def common(self, terms: tuple[Term, ...], what: str) -> str:
        kinds = {term.kind for term in terms} - {"null"}
        if len(kinds) <= 1:
            return kinds.pop() if kinds else "null"
        if kinds <= _NUMBERS:
            literals = [term.value for term in terms if term.literal and term.kind != "null"]
            solid = {term.kind for term in terms if not term.literal}
            if solid - {"null"} == {"f32"} and all(math.isfinite(_cut(value)) for value in literals):
                return "f32"
            return "f64"
        if kinds == {"other", "text"} and all(term.literal for term in terms if term.kind == "text"):
            return "other"
        named = " and ".join(sorted(_WORDS[kind] for kind in kinds))
        return self.fail(f"{what} mixes {named}; cast one of them")

    def coerce(self, term: Term, kind: str) -> Term:
        if term.kind == kind or (kind == "other" and term.kind == "text"):
            return term
        if term.literal and term.value is None:
            return self.make("lit", (), kind, None)
        if term.literal and term.kind in _NUMBERS:
            return self.make("lit", (), kind, _cut(term.value) if kind == "f32" else float(term.value))
        return self.make("cast", (term,), kind)

    def _same(self, op: str, terms: tuple[Term, ...]) -> Term:
        kind = self.common(terms, op)
        return self.make(op, tuple(self.coerce(term, kind) for term in terms), kind)

    def compare(self, op: str, a: Term, b: Term) -> Term:
        if a.literal and not b.literal and op in _MIRROR:
            op, a, b = _MIRROR[op], b, a
        if a.kind == "int" and not a.literal and b.literal and b.kind in ("int", "f64") and op in _MIRROR:
            exact, op = _integer_bound(op, b.value)
            return self.make("cmp", (a, a if exact is None else self.lit(exact)), "bool", op)
        kind = self.common((a, b), f"the comparison {op}")
        if kind == "list" or (
            kind == "bool" and op not in ("=", "<>", "IS DISTINCT FROM", "IS NOT DISTINCT FROM")
        ):
            self.fail(f"{_WORDS[kind]} cannot be compared with {op}")
        return self.make("cmp", (self.coerce(a, kind), self.coerce(b, kind)), "bool", op)

    def _between(self, x: Term, low: Term, high: Term) -> Term:
        if (
            x.kind == "int"
            and not x.literal
            and all(t.literal and t.kind in ("int", "f64") for t in (low, high))
        ):
            bounds = tuple(
                self.lit(_clamp(rounding(t.value))) for t, rounding in ((low, _ceil), (high, _floor))
            )
            return self.make("between", (x, *bounds), "bool")
        kind = self.common((x, low, high), "BETWEEN")
        if kind in ("list", "bool"):
            self.fail(f"{_WORDS[kind]} has no BETWEEN")
        return self.make("between", tuple(self.coerce(t, kind) for t in (x, low, high)), "bool")

    def _in(self, x: Term, *items: Term) -> Term:
        if (
            x.kind == "int"
            and not x.literal
            and all(t.literal and t.kind in ("int", "f64", "null") for t in items)
        ):
            exact = tuple(self.lit(_clamp(_floor(t.value)) if t.value is not None else None)
                          for t in items if t.value is None or _ceil(t.value) == _floor(t.value))  # fmt: skip
            items = exact
        if not items:  # no integer equals any of them
            return self.make("cmp", (x, x), "bool", "<")
        kind = self.common((x, *items), "IN")
        return self.make("in", tuple(self.coerce(t, kind) for t in (x, *items)), "bool")

    def _case(self, node: Node) -> Term:
        whens = [self.condition(arg, "each WHEN") for arg in node.args[:-1:2]]
        results = tuple(map(self.bind, (*node.args[1::2], node.args[-1])))
        kind = self.common(results, "CASE")
        values = [self.coerce(term, kind) for term in results]
        pairs = [part for pair in zip(whens, values, strict=False) for part in pair]
        return self.make("case", (*pairs, values[-1]), kind)

    def _number(self, term: Term, name: str) -> Term:
        if term.kind == "null":
            return self.coerce(term, "f64")
        if term.kind not in _NUMBERS:
            self.fail(f"{name} needs numbers and got {_WORDS[term.kind]}")
        return term

    def _function(self, name: str, args: tuple[Term, ...]) -> Term:
        match name:
            case "least" | "greatest":
                return self._same(name, args)
            case "abs" | "neg":
                term = self._number(args[0], name)
                return self.make(name, (term,), term.kind)
            case "concat":
                if any(term.kind in ("list", "other") for term in args):
                    self.fail("concat takes text and numbers")
                return self.make("fn", args, "text", name)
            case "+" | "-" | "*" | "/" | "//" | "%":
                args = tuple(self._number(term, name) for term in args)
                whole = all(term.kind == "int" for term in args) and name != "/"
                if name == "//" and not whole:
                    self.fail("// divides integers; use floor(a / b)")
                kind = "int" if whole else "f64"
                return self.make(name, tuple(self.coerce(term, kind) for term in args), kind)
        letters, kind = FUNCTIONS[name]
        wanted = letters.replace("?", "")
        fitted = tuple(self._argument(name, letter, term) for letter, term in zip(wanted, args, strict=False))
        return self.make("fn", fitted, kind, name)

    def _argument(self, name: str, letter: str, term: Term) -> Term:
        kind = {"n": "f64", "i": "int", "t": "text", "l": "list", "a": term.kind}[letter]
        if name in ("length", "len") and term.kind not in ("text", "list", "null"):
            self.fail(f"{name}() needs text or a list and got {_WORDS[term.kind]}")
        fits = term.kind in (kind, "null") or (kind == "f64" and term.kind in _NUMBERS)
        if not fits:
            self.fail(f"{name}() needs {_WORDS[kind]} and got {_WORDS[term.kind]}")
        return self.coerce(term, kind) if term.kind != "null" else term


_MIRROR = {"=": "=", "<>": "<>", "<": ">", ">": "<", "<=": ">=", ">=": "<="}


def _cut(value: float) -> float:
    with np.errstate(over="ignore"):
        return float(np.float32(value))


def _floor(value: float) -> int:
    return math.floor(value) if math.isfinite(value) else int(math.copysign(_FAR, value))


def _ceil(value: float) -> int:
    return math.ceil(value) if math.isfinite(value) else int(math.copysign(_FAR, value))


def _clamp(value: int) -> int:
    return max(-_FAR, min(_FAR, value))


def _integer_bound(op: str, value: float) -> tuple[int | None, str]:
    """The integer comparison that equals `x op value`; None = compare x with itself, for always or never."""
    low, high = _floor(value), _ceil(value)
    if low != high and op in ("=", "<>"):
        return None, "<" if op == "=" else "="
    return _clamp(low if op in ("<=", ">") else high), op


_NULL, _LATE, _SEEN = 0, 1, 2
_SQL_TYPES = {"bool": "BOOLEAN", "int": "BIGINT", "f32": "FLOAT", "f64": "DOUBLE", "text": "VARCHAR"}


class Sql:
    """Writes Terms as DuckDB SQL over the columns c0, c1, … of `order`."""

    def __init__(
        self, order: list[str], types: Mapping[str, pa.DataType], fail: Callable[[str], NoReturn]
    ) -> None:
        self.names = {name: f"c{i}" for i, name in enumerate(order)}
        self.types, self.fail = types, fail
        self._done: dict[tuple[int, int], str] = {}

    def write(self, term: Term, *, nan: int = _NULL) -> str:
        """`nan`: what a NaN is here: null at once, null at the end of the sum, or a value that isnan() sees."""
        key = (id(term), nan)
        if (text := self._done.get(key)) is None:
            text = self._plain(term, nan)
            makes = term.op in ("col", "fn", "ucast", "+", "-", "*", "/", "%")
            if makes and nan == _NULL and term.kind in ("f32", "f64"):
                text = f"CASE WHEN isnan({text}) THEN NULL ELSE {text} END"
            text = f"({text})"
            if len(text) > MAX_SQL_CHARS:
                self.fail("the expression is too large once written out; split it into several clauses")
            self._done[key] = text
        return text

    def _plain(self, term: Term, nan: int) -> str:
        def all_of(*terms: Term, nan: int = _NULL) -> list[str]:
            return [self.write(part, nan=nan) for part in terms]

        op, args = term.op, term.args
        inner = _SEEN if nan == _SEEN else _NULL
        match op:
            case "col":
                return self._column(term)
            case "lit":
                return _constant(term)
            case "and" | "or":
                return f" {op.upper()} ".join(all_of(*args))
            case "not":
                return f"NOT {self.write(args[0])}"
            case "isnull" | "notnull":
                return f"{self.write(args[0])} IS {'NOT ' if op == 'notnull' else ''}NULL"
            case "cmp":
                a, b = all_of(*args)
                return f"{a} {term.value} {b}"
            case "between":
                x, low, high = all_of(*args)
                return f"{x} BETWEEN {low} AND {high}"
            case "in":
                x, *items = all_of(*args)
                return f"{x} IN ({', '.join(items)})"
            case "coalesce" | "least" | "greatest":
                return f"{op}({', '.join(all_of(*args, nan=inner))})"
            case "case":
                arms = [f"WHEN {self.write(when)} THEN {self.write(then, nan=inner)}"
                        for when, then in zip(args[:-1:2], args[1::2], strict=True)]  # fmt: skip
                return f"CASE {' '.join(arms)} ELSE {self.write(args[-1], nan=inner)} END"
            case "cast":
                text = self.write(args[0], nan=nan)
                if args[0].kind == "int" and args[0].op in ("+", "-", "*", "//", "%", "abs", "neg"):
                    # DuckDB rounds negative HUGEINTs beyond 2**53 wrongly; positive ones it rounds to nearest
                    return f"CAST(sign({text}) AS DOUBLE) * CAST(abs({text}) AS DOUBLE)"
                return f"CAST({text} AS {_SQL_TYPES[term.kind]})" if term.kind in _SQL_TYPES else text
            case "ucast":
                (target, _, _), forgiving = term.value
                return f"{'TRY_CAST' if forgiving else 'CAST'}({self.write(args[0])} AS {target})"
            case "neg" | "abs" | "+" | "-" | "*" | "/" | "//" | "%":
                return self._arithmetic(term, nan)
        name, observer = term.value, term.value in ("isnan", "isinf", "isfinite")
        texts = all_of(*args, nan=_SEEN if observer else inner)
        return f"{texts[0]} {name} {texts[1]}" if not name[0].isalpha() else f"{name}({', '.join(texts)})"

    def _arithmetic(self, term: Term, nan: int) -> str:
        op, args = term.op, term.args
        if term.kind == "int":
            texts = [f"CAST({self.write(part)} AS HUGEINT)" for part in args]
        else:  # neg and abs make no NaN, so they are not guarded themselves
            texts = [self.write(part, nan=nan if op in ("neg", "abs") else max(nan, _LATE)) for part in args]
        if op == "/":
            texts[1] += " + CAST(0 AS DOUBLE)"  # -0.0 becomes 0.0: equal divisors give equal quotients
            texts[1] = f"({texts[1]})"
        if op in ("//", "%") and term.kind == "int":
            texts[1] = f"nullif({texts[1]}, 0)"
        if len(texts) == 1:
            return f"abs({texts[0]})" if op == "abs" else f"-{texts[0]}"
        return f"{texts[0]} {op} {texts[1]}"

    def _column(self, term: Term) -> str:
        dtype, name = self.types[term.value], self.names[term.value]
        if term.kind == "int":
            return f"CAST({name} AS {'HUGEINT' if dtype == pa.uint64() else 'BIGINT'})"
        return {"f64": f"CAST({name} AS DOUBLE)", "f32": f"CAST({name} AS FLOAT)",
                "text": f"CAST({name} AS VARCHAR)"}.get(term.kind, name)  # fmt: skip


def _constant(term: Term) -> str:
    value = term.value
    if value is None:
        sql = _SQL_TYPES.get(term.kind)
        return f"CAST(NULL AS {sql})" if sql else "NULL"
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, int):
        return f"CAST('{value}' AS {'BIGINT' if -(2**63) <= value < 2**63 else 'HUGEINT'})"
    if isinstance(value, float):
        return f"CAST('{value!r}' AS {'FLOAT' if term.kind == 'f32' else 'DOUBLE'})"
    return "'" + str(value).replace("'", "''") + "'"
