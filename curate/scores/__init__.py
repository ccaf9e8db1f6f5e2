"""Scorers: each file of this folder adds columns to a pool, keyed by row, and decides nothing.

One file is one scorer: the file's name is the registered name, the first line of its docstring the help text.
Nothing is imported to list them. A file holds

    VERSION    int; raised whenever the same rows would get another answer
    COLUMNS    the pool columns that are read
    SCOPE      "rows" (the default), "pool" or "pictures": what the scorer looks at
    OUTPUT     column -> Arrow type name ("string", "int32", "int64", "float32", "bool"), or a function of the Config
    COST       "cheap": computed while filtering; "costly": only for rows that are still kept, and stored
    Config     frozen dataclass, every field with a default, units in the names; of scopes pool and pictures each field has
               metadata={"help": …}, since the fields are the options of `headwater score NAME`
    Scorer     Scorer(config): of scope rows the protocol below; of scope pool curate.pooldata; of pictures curate.pictures

A scorer of rows runs while filtering. One of a pool or of pictures runs before the first pass, once, when a rule lists it under
`scores`, or by `headwater score`; its columns then lie beside the pool and any rule may use them.

The configuration and `Scorer.identity` together decide the result; the stored scores carry the hash of both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import pyarrow as pa

Cost = Literal["cheap", "costly"]


class Scorer(Protocol):
    """One configured scorer without global state: the same answer in any order and batching."""

    identity: dict[str, str]  # digests of assets and versions of libraries that decide the result

    def score(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """As many rows, in the same order, with exactly the OUTPUT columns; null where the input is null."""
        ...


class ScorerModule(Protocol):
    """What a file of this folder offers. Models are loaded by `Scorer(config)`, never by the import."""

    VERSION: int
    COLUMNS: tuple[str, ...]
    OUTPUT: dict[str, str]
    COST: Cost
    Config: type[Any]
    Scorer: type[Any]


def text_column(batch: pa.RecordBatch, name: str = "text") -> pa.Array:
    """The string column `name` of the batch, whatever its encoding; anything else is refused by name."""
    import pyarrow as pa

    from headwater.errors import UsageError, nearest

    if name not in batch.schema.names:
        raise UsageError(f"the pool has no column {name!r}", hint=nearest(name, batch.schema.names))
    column = batch.column(name)
    kind = column.type
    if pa.types.is_dictionary(kind) and _is_text(kind.value_type):
        return column.dictionary_decode()
    if not _is_text(kind):
        raise UsageError(
            f"column {name!r} holds {kind}, a scorer of captions needs text",
            hint="point the pool's text role at a string column",
        )
    return column.cast(pa.large_string()) if pa.types.is_string_view(kind) else column


def result(columns: dict[str, pa.Array], output: dict[str, str]) -> pa.RecordBatch:
    """The columns of one batch under the types of `output`, in its order."""
    import pyarrow as pa

    schema = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in output.items()])
    return pa.RecordBatch.from_arrays(
        [columns[name].cast(schema.field(name).type) for name in output], schema=schema
    )


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))
