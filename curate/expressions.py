"""Expression: one condition over the columns of a pool, such as `least(original_width, original_height) >= 200`.

    Expression.parse(text, name=…)      reads it; only allow-listed syntax and functions pass
    .columns                            the column names it needs
    .check(known)                       column names and types, before any work is done
    .evaluate(columns, rows)            (true mask, unknown mask or None)

SQL's three-valued logic; what NaN, float32, integers and division mean is said in `_expr_bind`. Common clauses run in
numpy (`_expr_numpy`), all others in one in-memory DuckDB per process that can reach neither files nor network.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curate import _expr_numpy
from curate._expr_bind import Binder, Sql, Term
from curate._expr_tree import Node, Reader
from headwater.errors import UsageError, nearest

Array = np.ndarray[Any, Any]
_ABSENT = "write try_cast(… as …) where a value may not convert"


@dataclass(frozen=True, slots=True)
class _Plan:
    """A clause bound to column types."""

    term: Term
    sql: str
    in_numpy: bool


@dataclass(frozen=True)
class Expression:
    """`name` is the clause's id, for messages. Picklable, and the same in every process."""

    text: str
    columns: frozenset[str]
    name: str = field(compare=False)
    _tree: Node = field(repr=False, compare=False)
    _plans: dict[Any, _Plan] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def parse(cls, text: str, *, name: str) -> Expression:
        reader = Reader(name, text)
        tree = reader.read(_serialize)
        return cls(text, frozenset(reader.columns), name, tree)

    def __reduce__(self) -> tuple[object, ...]:
        return (_parse, (self.text, self.name))  # plans are keyed by identity: made anew on the other side

    def check(self, known: Mapping[str, pa.DataType]) -> None:
        """UsageError for a column that is not in `known`, and for types that do not fit."""
        for column in sorted(self.columns - known.keys()):
            raise UsageError(
                f"clause {self.name!r}: there is no column {column!r}", hint=nearest(column, known)
            )
        self._plan({name: known[name] for name in self.columns})

    def evaluate(self, columns: Mapping[str, Array | pa.Array], rows: int) -> tuple[Array, Array | None]:
        """(true, unknown); unknown is None when no row is. An ndarray has no nulls; its NaN are null all the same."""
        data: dict[str, Any] = {}
        for column in self.columns:
            if column not in columns:
                hint = nearest(column, columns)
                raise UsageError(f"clause {self.name!r}: there is no column {column!r}", hint=hint)
            data[column] = _plain(columns[column])
            if len(data[column]) != rows:
                raise ValueError(f"column {column!r} has {len(data[column])} rows and not {rows}")
        plan = self._plan({name: _type_of(values) for name, values in data.items()})
        if plan.in_numpy:
            try:
                return _expr_numpy.evaluate(plan.term, data, rows)
            except _expr_numpy.Fallback:
                pass
        return self._in_duckdb(plan.sql, data, rows)

    def _fail(self, message: str, hint: str | None = None) -> NoReturn:
        raise UsageError(f"clause {self.name!r}: {message}", hint=hint)

    def _plan(self, types: dict[str, pa.DataType]) -> _Plan:
        key = tuple(sorted((name, str(dtype)) for name, dtype in types.items()))
        if (plan := self._plans.get(key)) is None:
            term = Binder(types, self._fail).condition(self._tree, "the expression")
            sql = Sql(sorted(self.columns), types, self._fail).write(term)
            plan = self._plans[key] = _Plan(term, sql, bool(self.columns) and _expr_numpy.supported(term))
            # one row of nulls: DuckDB binds the types and works out the constants, such as a date that is none
            self._in_duckdb(sql, {name: pa.nulls(1, _storable(dtype)) for name, dtype in types.items()}, 1)
        return plan

    def _in_duckdb(self, sql: str, data: Mapping[str, Any], rows: int) -> tuple[Array, Array | None]:
        arrays = {f"c{i}": _arrow(data[name]) for i, name in enumerate(sorted(self.columns))}
        table = pa.table(arrays or {"rows": pa.nulls(rows, pa.int8())})
        try:
            answer = _engine.select(sql, table)
        except duckdb.Error as error:
            first = str(error).strip().splitlines()[0]
            self._fail(f"DuckDB cannot evaluate {self.text!r}: {first}", _ABSENT)
        unknown = answer.is_null().to_numpy(zero_copy_only=False) if answer.null_count else None
        return pc.fill_null(answer, False).to_numpy(zero_copy_only=False).copy(), unknown


def _parse(text: str, name: str) -> Expression:
    return Expression.parse(text, name=name)


class _Engine:
    """The process's one DuckDB: in memory, one thread, locked; made again after a fork."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._abandoned: list[object] = []
        self._connection: duckdb.DuckDBPyConnection | None = None
        os.register_at_fork(after_in_child=self._forked)

    def _forked(self) -> None:
        self._abandoned.append(self._connection)  # its threads are gone: closing it here would crash
        self._lock, self._connection = threading.Lock(), None

    def _open(self) -> duckdb.DuckDBPyConnection:
        if self._connection is None:
            self._connection = duckdb.connect(
                ":memory:",
                config={
                    "enable_external_access": "false",
                    "autoinstall_known_extensions": "false",
                    "autoload_known_extensions": "false",
                    "python_enable_replacements": "false",
                    "threads": "1",
                },
            )
            self._connection.execute("SET preserve_insertion_order=true")
            self._connection.execute("SET lock_configuration=true")
        return self._connection

    def select(self, sql: str, table: pa.Table) -> pa.Array:
        """One boolean per row of `table`, in its order."""
        with self._lock:
            connection = self._open()
            connection.register("t", table)
            try:
                answer = connection.sql(f"SELECT {sql} AS answer FROM t").to_arrow_table()
            finally:
                connection.unregister("t")
        return answer.column(0).combine_chunks()

    def serialize(self, sql: str) -> str:
        with self._lock:
            return str(self._open().execute("SELECT json_serialize_sql(?::VARCHAR)", [sql]).fetchall()[0][0])


_engine = _Engine()


def _serialize(sql: str) -> str:
    return _engine.serialize(sql)


def _plain(values: Any) -> Any:
    """An ndarray of bools or numbers in this machine's byte order, or one Arrow array."""
    if isinstance(values, pa.ChunkedArray):
        return values.combine_chunks()
    if isinstance(values, np.ndarray):
        if values.dtype.kind not in "biuf" or values.dtype.itemsize > 8:
            return pa.array(values)
        return values.astype(values.dtype.newbyteorder("="), copy=False)
    return values


def _type_of(values: Any) -> pa.DataType:
    return pa.from_numpy_dtype(values.dtype) if isinstance(values, np.ndarray) else values.type


def _storable(dtype: pa.DataType) -> pa.DataType:
    return pa.float32() if pa.types.is_float16(dtype) else dtype


def _arrow(values: Any) -> pa.Array:
    array = pa.array(values) if isinstance(values, np.ndarray) else values
    return array.cast(pa.float32()) if pa.types.is_float16(array.type) else array
