"""An SQL expression over images, answered by DuckDB that reaches nothing but two tables of the dataset.

`images` has the columns of the images table (`extra->>'key'` reads other keys) and `annotations`, the number of an image's annotations.
A subquery may read `annotations` (its table, and `image_row`). One expression, by DuckDB's own parser; functions whose answer changes from
one call to the next (random, now …) are refused, so that the same dataset gives the same subset.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate.polygons.store import Annotations
from headwater.errors import HeadwaterError, UsageError

Bools = npt.NDArray[np.bool_]
MEMORY = "1GiB"
SECONDS = 60.0
MOST_CHARACTERS = 10_000
MOST_BRACKETS = 500  # the parser's time grows with the square of those that are left open


def holds(annotations: Annotations, expression: str) -> tuple[Bools, Bools]:
    """(images,) where the expression is true, and where it is true or false. Raises UsageError."""
    if len(expression) > MOST_CHARACTERS:
        raise UsageError(f"the expression is longer than {MOST_CHARACTERS:,} characters")
    if expression.count("(") > MOST_BRACKETS:
        raise UsageError(f"the expression has more than {MOST_BRACKETS:,} brackets")
    rows = annotations.image_rows
    count = len(annotations.images)
    counts = np.bincount(rows[rows >= 0], minlength=count)[:count].astype(np.int64)
    images = annotations.images.append_column("annotations", pa.array(counts))
    images = images.append_column("row", pa.array(np.arange(count)))
    shapes = annotations.annotations.append_column("image_row", pa.array(rows))
    connection = duckdb.connect(
        config={
            "enable_external_access": False,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "python_enable_replacements": False,
            "memory_limit": MEMORY,
            "temp_directory": "",
            "threads": 1,
        }
    )
    clock = threading.Timer(SECONDS, connection.interrupt)
    clock.start()
    try:
        connection.register("images", images)
        connection.register("annotations", shapes)
        _refuse_changing(connection, expression, images.schema.names)
        connection.execute("SET lock_configuration=true")
        wanted = connection.view("images").project(
            duckdb.ColumnExpression("row"), duckdb.SQLExpression(expression).alias("holds")
        )
        if str(wanted.types[1]) not in ("BOOLEAN", '"NULL"', "NULL"):
            raise UsageError(f"the expression is no condition: it gives {wanted.types[1]}")
        found = wanted.to_arrow_table()
    except duckdb.InterruptException as error:
        raise HeadwaterError(f"the expression had no answer within {SECONDS:g} s") from error
    except duckdb.OutOfMemoryException as error:
        raise HeadwaterError(f"the expression needs more than {MEMORY}: {_line(error)}") from error
    except (duckdb.Error, pa.ArrowException) as error:
        known = ", ".join(images.schema.names)
        raise UsageError(f"the expression was refused: {_line(error)}", hint=f"columns: {known}") from error
    finally:
        clock.cancel()
        clock.join()
        connection.close()
    order = found["row"].to_numpy()
    if sorted(order.tolist()) != list(range(count)):
        raise UsageError("the expression does not give one answer for every image")
    answers = found["holds"].cast(pa.bool_()).combine_chunks()
    true, known_ = np.zeros(count, bool), np.zeros(count, bool)
    known_[order] = answers.is_valid().to_numpy(zero_copy_only=False)
    true[order] = answers.fill_null(False).to_numpy(zero_copy_only=False)
    return true, known_


def _refuse_changing(connection: duckdb.DuckDBPyConnection, expression: str, columns: list[str]) -> None:
    """Raise UsageError for a function that DuckDB says is not consistent; some are written without brackets."""
    changing = {
        row[0].lower()
        for row in connection.execute(
            "SELECT DISTINCT function_name FROM duckdb_functions() WHERE stability <> 'CONSISTENT'"
        ).fetchall()
    } | {"current_timestamp", "current_time", "localtime", "localtimestamp", "current_user"}
    answer = connection.execute("SELECT json_serialize_sql($1)", [f"SELECT ({expression}\n)"]).fetchone()
    tree = json.loads(answer[0]) if answer else {}
    own = {name.lower() for name in columns}
    for name in _names(tree):
        if name.lower() in changing - own:
            raise UsageError(f"the expression was refused: {name} gives another answer every time")


def _names(tree: Any) -> Iterator[str]:
    """Names of functions and of single columns in a parsed statement."""
    open_ = [tree]
    while open_:
        node = open_.pop()
        if isinstance(node, list):
            open_ += node
        elif isinstance(node, dict):
            open_ += node.values()
            if isinstance(node.get("function_name"), str):
                yield node["function_name"]
            names = node.get("column_names")
            if isinstance(names, list) and len(names) == 1 and isinstance(names[0], str):
                yield names[0]


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
