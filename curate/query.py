"""`headwater pool sql`: one SELECT over a pool, answered by DuckDB that can reach nothing but the pool's own shards.

Tables: `pool` (every column of every shard, plus the columns of score sidecars) and `scores` (uid, shard, row, and the sidecar
columns). Rows meet their sidecar by position, so a uid that occurs twice does not multiply. A sidecar that was made from other
bytes of its shard is ignored, with a word. NaN follows DuckDB: it is larger than every number, so guard with `not isnan(x)`.

Limits: one statement, a SELECT by DuckDB's own parser; no file, network, extension or setting is within its reach. Shards are
opened through links with plain names, so `*`, `[` and quotes in a pool's name are not read as patterns.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from curate.pool import Pool, Shard
from curate.pooldata import outdated
from headwater.console import say
from headwater.errors import HeadwaterError, IntegrityError, UsageError
from headwater.files import named_io

LIMIT_BYTES = 512 << 20
BATCH_ROWS = 65_536
METADATA_KEY = b"headwater"
# what DuckDB's messages about damaged Parquet have in common
DAMAGE_WORDS = (
    "arquet",
    "string encoding",
    "ecompress",
    "nappy",
    "ZSTD",
    "don't know what type",
    "TProtocol",
    "IO Error",
)


@dataclass
class _Sidecar:
    """The files of one scorer folder, by shard name, and its columns."""

    folder: str
    files: dict[str, Path] = field(default_factory=dict)
    columns: dict[str, pa.DataType] = field(default_factory=dict)
    identity: dict[str, Any] = field(default_factory=dict)


class Answer:
    """The rows of a query, as Arrow batches. Use it as a context manager; it holds the connection."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, reader: pa.RecordBatchReader) -> None:
        self._connection = connection
        self._reader = reader
        self.schema: pa.Schema = reader.schema

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows, in batches. Raises IntegrityError for a shard that cannot be read, HeadwaterError when memory ends."""
        with _told():
            yield from self._reader

    def table(self) -> pa.Table:
        """All rows at once."""
        return pa.Table.from_batches(list(self.batches()), schema=self.schema)

    def __enter__(self) -> Answer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()


@contextmanager
def query(
    pool: Pool,
    sql: str,
    *,
    limit_bytes: int = LIMIT_BYTES,
    threads: int | None = None,
    temp: Path | None = None,
) -> Iterator[Answer]:
    """Run `sql` over `pool`: `with query(pool, "SELECT …") as answer: answer.table()`.

    Raises UsageError for anything but one SELECT, and for what DuckDB finds wrong in it.
    """
    check_select(sql)
    if limit_bytes < 64 << 20:
        raise UsageError("--memory: at least 64 MiB are needed")
    with tempfile.TemporaryDirectory(prefix="headwater-sql-", dir=temp) as folder:
        links = Path(folder) / "shards"
        with named_io(folder):
            links.mkdir()
            sources = _Sources(pool, links, sql)
        connection = _connect(Path(folder) / "spill", limit_bytes, threads)
        try:
            with _told():
                views = sources.views()
                paths = ", ".join(_quote(str(path)) for path in sources.paths)
                connection.execute(f"SET allowed_paths=[{paths}]")
                connection.execute("SET enable_external_access=false")
                for statement in views:
                    connection.execute(statement)
                connection.execute("SET lock_configuration=true")
                reader = connection.sql(sql).to_arrow_reader(BATCH_ROWS)
            yield Answer(connection, reader)
        finally:
            connection.close()


def check_select(sql: str) -> None:
    """Raise UsageError unless `sql` is exactly one SELECT."""
    parser = duckdb.connect(config={"enable_external_access": False})
    try:
        statements = parser.extract_statements(sql)
    except duckdb.Error as error:
        raise UsageError(f"the query cannot be parsed: {_first_line(error)}") from error
    finally:
        parser.close()
    if len(statements) != 1:
        raise UsageError(f"the query holds {len(statements)} statements, and one SELECT is wanted")
    kind = statements[0].type
    if kind != duckdb.StatementType.SELECT:
        raise UsageError(
            f"the query is a {kind.name} statement, and only SELECT is run",
            hint="use -o FILE to write the answer to a file",
        )


class _Sources:
    """Links to shards and sidecars, and the views over them."""

    def __init__(self, pool: Pool, links: Path, sql: str) -> None:
        self._pool = pool
        self._sql = sql
        self._links = links
        self.paths: list[Path] = []
        self._linked: dict[Path, Path] = {}
        self._shards = [self._link(shard.path, "s") for shard in pool.shards]
        self._sidecars = _sidecars(pool)

    def _link(self, target: Path, kind: str) -> Path:
        path = self._linked.get(target)
        if path is None:
            path = self._linked[target] = self._links / f"{kind}{len(self.paths):06d}.parquet"
            path.symlink_to(target.resolve())
            self.paths.append(path)
        return path

    def views(self) -> list[str]:
        """CREATE statements for `pool` and `scores`."""
        columns = _columns(self._pool)
        named = _score_names(self._sidecars, columns, self._sql)
        if not self._pool.shards:
            empty = ", ".join(
                f"NULL::{kind} AS {name}" for name, kind in (("uid", "VARCHAR"), ("text", "VARCHAR"))
            )
            return [f"CREATE VIEW {view} AS SELECT {empty} WHERE false" for view in ("pool", "scores")]
        listed = ", ".join(map(_name, columns))
        all_files = ", ".join(_quote(str(path)) for path in self._shards)
        union = len({tuple(sorted((n, str(t)) for n, t in s.types.items())) for s in self._pool.shards}) > 1
        plain = f"SELECT {listed} FROM read_parquet([{all_files}], union_by_name={str(union).lower()})"
        if not named:
            uid = "uid" if "uid" in columns else "NULL AS uid"
            return [
                f"CREATE VIEW pool AS {plain}",
                f"CREATE VIEW scores AS SELECT {uid} FROM pool WHERE false",
            ]
        pieces, scores = [], []
        for shard, link in zip(self._pool.shards, self._shards, strict=True):
            joined, outputs = self._joined(shard, link, columns, named)
            pieces.append(f"SELECT {', '.join([*_typed(columns, 's'), *outputs])} FROM {joined}")
            uid = 's."uid"' if "uid" in columns else "NULL AS uid"
            where = f"{uid}, {_quote(shard.name)} AS shard, s.file_row_number AS row"
            scores.append(f"SELECT {', '.join([where, *outputs])} FROM {joined}")
        return [
            f"CREATE VIEW pool AS {' UNION ALL '.join(pieces)}",
            f"CREATE VIEW scores AS {' UNION ALL '.join(scores)}",
        ]

    def _joined(
        self, shard: Shard, link: Path, columns: dict[str, str | None], named: list[tuple[_Sidecar, str, str]]
    ) -> tuple[str, list[str]]:
        """A FROM clause of the shard with its sidecars by row, and the sidecar columns in it."""
        joined = f"read_parquet({_quote(str(link))}, file_row_number=true) s"
        aliases: dict[int, str] = {}
        for at, sidecar in enumerate(self._sidecars):
            if shard.name in sidecar.files:
                path = self._link(sidecar.files[shard.name], "c")
                alias = aliases[id(sidecar)] = f"c{at}"
                joined += (
                    f" LEFT JOIN read_parquet({_quote(str(path))}, file_row_number=true) {alias}"
                    f" ON s.file_row_number = {alias}.file_row_number"
                )
        outputs = []
        for sidecar, column, name in named:
            type_ = _sql_type(sidecar.columns[column])
            value = f"{aliases[id(sidecar)]}.{_name(column)}" if id(sidecar) in aliases else "NULL"
            outputs.append(f"CAST({value} AS {type_}) AS {_name(name)}")
        return joined, outputs


def _columns(pool: Pool) -> dict[str, str | None]:
    """Columns of the view and the SQL type to cast them to (None: as they are)."""
    columns: dict[str, str | None] = {}
    seen: dict[str, str] = {}
    for name in pool.columns:
        if seen.setdefault(name.lower(), name) != name:
            say("warning", f"column {name!r} is left out: SQL cannot tell it from {seen[name.lower()]!r}")
            continue
        try:
            type_ = pool.column_type(name)
        except IntegrityError as error:
            say("warning", f"column {name!r} is left out: {error.message}")
            continue
        columns[name] = None if pa.types.is_nested(type_) else _sql_type(type_)
    return columns


def _typed(columns: dict[str, str | None], alias: str) -> list[str]:
    return [
        f"{alias}.{_name(n)}" if t is None else f"CAST({alias}.{_name(n)} AS {t}) AS {_name(n)}"
        for n, t in columns.items()
    ]


def _sql_type(type_: pa.DataType) -> str:
    empty = pa.table({"x": pa.array([], type_)})
    with duckdb.connect() as connection:
        connection.register("t", empty)
        return str(connection.execute("SELECT column_type FROM (DESCRIBE t)").fetchall()[0][0])


def _sidecars(pool: Pool) -> list[_Sidecar]:
    """Sidecars that fit the shards as they are, newest version of a scorer first."""
    root = pool.cache / "scores"
    if not root.is_dir() or not any(root.iterdir()):
        return []
    _ = pool.id  # knows all digests, and keeps them for the next time
    found = []
    for folder in sorted(root.iterdir(), key=lambda path: _version(path.name)):
        sidecar = _Sidecar(folder.name)
        for shard in pool.shards:
            path = folder / f"{shard.name}.parquet"
            if path.is_file():
                _take_sidecar(pool, shard, path, sidecar)
        missing = len(pool.shards) - len(sidecar.files)
        if sidecar.files and missing and not sidecar.identity.get("inputs"):
            say(
                "warning",
                f"scores {folder.name}: none for {missing} of {len(pool.shards)} shards; their rows get null",
            )
        old = outdated(pool, sidecar.identity) if sidecar.files else ""
        if old:
            say("warning", f"scores {folder.name} {old}, and are ignored")
        elif sidecar.files:
            found.append(sidecar)
    return found


def _version(folder: str) -> tuple[str, int, str]:
    scorer, _, rest = folder.rpartition("-v")
    number = rest.partition("-")[0]
    return scorer, -int(number) if number.isdigit() else 0, folder


def _take_sidecar(pool: Pool, shard: Shard, path: Path, sidecar: _Sidecar) -> None:
    where = f"scores {sidecar.folder} of shard {shard.name}"
    try:
        file = pq.ParquetFile(path)
        facts = json.loads((file.schema_arrow.metadata or {}).get(METADATA_KEY, b"{}"))
        if facts.get("shard_sha256") != pool.digests(shard).sha256:
            say("warning", f"{where} were made from other bytes of it, and are ignored")
            return
        if file.metadata.num_rows != shard.rows:
            say("warning", f"{where} have another number of rows, and are ignored")
            return
        for entry in file.schema_arrow:
            if entry.name != "uid":
                sidecar.columns.setdefault(entry.name, entry.type)
        sidecar.files[shard.name] = path
        sidecar.identity = facts
    except (pa.ArrowException, OSError, ValueError, AttributeError) as error:
        say("warning", f"{where} cannot be read and are ignored: {_first_line(error)}")


def _score_names(
    sidecars: list[_Sidecar], columns: dict[str, str | None], sql: str
) -> list[tuple[_Sidecar, str, str]]:
    """(sidecar, its column, the name it gets): the plain name for the first, FOLDER.COLUMN where that is taken.

    A plain name that `sql` mentions and that several sets of scores have is told.
    """
    taken = {name.lower(): "the pool" for name in columns} | dict.fromkeys(
        ("uid", "shard", "row"), "the pool"
    )
    mentioned = set(re.findall(r"\w+", sql.lower()))
    named, others = [], dict[str, list[str]]()
    for sidecar in sidecars:
        for column in sidecar.columns:
            name = column
            if column.lower() in taken:
                name = f"{sidecar.folder}.{column}"
                others.setdefault(column, []).append(name)
            taken.setdefault(name.lower(), sidecar.folder)
            named.append((sidecar, column, name))
    for column, names in others.items():
        if column.lower() in mentioned:
            quoted = ", ".join(map(_name, names))
            say(
                "warning", f"column {column} is that of {taken[column.lower()]}; others have it too: {quoted}"
            )
    return named


def _connect(spill: Path, limit_bytes: int, threads: int | None) -> duckdb.DuckDBPyConnection:
    config: dict[str, Any] = {
        "memory_limit": f"{limit_bytes >> 20}MiB",
        "temp_directory": str(spill),
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "allow_community_extensions": False,
        "python_enable_replacements": False,
    }
    if threads:
        config["threads"] = threads
    return duckdb.connect(config=config)


@contextmanager
def _told() -> Iterator[None]:
    """DuckDB's errors as ours."""
    try:
        yield
    except (
        duckdb.PermissionException,
        duckdb.BinderException,
        duckdb.CatalogException,
        duckdb.ParserException,
    ) as error:
        refused = isinstance(error, duckdb.PermissionException)
        hint = "a query reaches the tables pool and scores, and nothing else" if refused else None
        raise UsageError(f"the query was refused: {_first_line(error)}", hint=hint) from error
    except duckdb.OutOfMemoryException as error:
        raise HeadwaterError(
            f"the query needs more memory: {_first_line(error)}", hint="raise --memory"
        ) from error
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        # while rows are fetched DuckDB's errors arrive through Arrow, as text
        text = _first_line(error)
        if "configuration has been locked" in text:
            raise UsageError(f"the query was refused: {text}") from error
        if "Out of Memory" in text:
            raise HeadwaterError(f"the query needs more memory: {text}", hint="raise --memory") from error
        if any(word in text for word in DAMAGE_WORDS):
            raise IntegrityError(
                f"a shard cannot be read: {text}", hint="headwater pool validate POOL names it"
            ) from error
        raise HeadwaterError(f"the query failed: {text}") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def _quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _name(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'
