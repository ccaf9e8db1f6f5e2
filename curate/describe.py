"""`headwater pool describe`: what a pool holds, in one pass over its shards and in bounded memory.

Numbers are exact unless an entry says otherwise (`exact: false` with its error). Null counts of columns that are not read come
from the Parquet statistics, and say so. Captions are compared by a 64-bit hash and the repeated ones then by their text; image
digests by their first 128 bits. Features are known from their headers alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curate._describe_text import render
from curate._keys import Keys
from curate._npz import npz_arrays
from curate._numbers import ValueCounts
from curate._pages import words_of
from curate._text import count_words_and_chars, invalid_utf8_rows
from curate.pool import MANIFEST_NAME, Pool, Shard, family
from headwater.console import track
from headwater.errors import HeadwaterError, IntegrityError

__all__ = ["describe_pool", "render"]

BATCH_ROWS = 65_536
TOP_CAPTIONS = 10
BINS = 32
QUANTILES = {"p01": 0.01, "p05": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95, "p99": 0.99}
METADATA_KEY = b"headwater"


class _Numbers:
    """A column of numbers, as its batches come in."""

    def __init__(self) -> None:
        self.counts = ValueCounts()
        self.nulls = self.nans = self.infinite = 0

    def add(self, values: pa.Array) -> None:
        self.nulls += values.null_count
        numbers = (values.drop_null() if values.null_count else values).to_numpy(zero_copy_only=False)
        if numbers.dtype.kind == "f":
            nan = np.isnan(numbers)
            found = int(nan.sum())
            if found:
                self.nans += found
                numbers = numbers[~nan]
            self.infinite += int(np.isinf(numbers).sum())
        self.counts.add(numbers)

    def summary(self) -> dict[str, Any]:
        counts = self.counts
        found: dict[str, Any] = {"nulls": self.nulls, "nulls_from": "scan"}
        values, _ = counts.table()
        if values.dtype.kind == "f" and counts.exact:
            found |= {"nan": self.nans, "infinite": self.infinite, "float16_grid": _on_grid(values)}
        elif values.dtype.kind == "f":
            found |= {"nan": self.nans, "infinite": self.infinite, "float16_grid": False}
        found |= {
            "min": _json(counts.quantile(0.0)),
            **{n: _json(counts.quantile(q)) for n, q in QUANTILES.items()},
        }
        found |= {"max": _json(counts.quantile(1.0)), "distinct": len(values) if counts.exact else None}
        found |= {
            "exact": counts.exact,
            "relative_error": counts.relative_error,
            "histogram": counts.histogram(BINS),
        }
        return found


class _Captions:
    """Lengths of captions, and a hash of each to find those that repeat."""

    def __init__(self, rows: int) -> None:
        self.words, self.chars = ValueCounts(), ValueCounts()
        self.keys = Keys(1, rows)
        self.nulls = self.empty = self.not_utf8 = 0
        self._hasher = duckdb.connect(config={"threads": 1, "enable_external_access": False})

    def add(self, text: pa.Array) -> None:
        self.nulls += text.null_count
        text = _sound(text, self)
        words, chars = count_words_and_chars(text)
        self.empty += int((chars == 0).sum())
        self.words.add(words)
        self.chars.add(chars)
        self.keys.add(self._ask("SELECT hash(text) AS h FROM batch", text)["h"])

    def _ask(self, sql: str, text: pa.Array) -> dict[str, Any]:
        self._hasher.register("batch", pa.table({"text": text}))
        return self._hasher.execute(sql).fetchnumpy()

    def top(self, shards: list[Shard]) -> tuple[list[dict[str, Any]], int, int]:
        """(the most frequent captions with their counts, distinct captions, rows whose caption is not alone)."""
        hashes, counts = np.zeros(0, np.uint64), np.zeros(0, np.int64)
        shared = 0
        for keys, many in self.keys.repeated():
            shared += int(many.sum())
            hashes, counts = np.concatenate([hashes, keys[:, 0]]), np.concatenate([counts, many])
            best = np.lexsort((hashes, -counts))[:TOP_CAPTIONS]
            hashes, counts = hashes[best], counts[best]
        found: dict[str, int] = {}
        if len(hashes):
            listed = ", ".join(str(int(h)) for h in hashes)
            sql = f"SELECT text, count(*) AS n FROM batch WHERE hash(text) IN ({listed}) GROUP BY text"
            for _, batch in _batches(shards, ["text"], "captions again"):
                rows = self._ask(sql, _sound(_plain_text(batch.column(0)), None))
                for text, count in zip(rows["text"], rows["n"], strict=True):
                    found[str(text)] = found.get(str(text), 0) + int(count)
        ordered = sorted(found.items(), key=lambda item: (-item[1], item[0]))[:TOP_CAPTIONS]
        return [{"text": text, "rows": count} for text, count in ordered], self.keys.distinct, shared

    def close(self) -> None:
        self._hasher.close()


def _sound(text: pa.Array, count: _Captions | None) -> pa.Array:
    """The captions that are there and are UTF-8."""
    bad = invalid_utf8_rows(text)
    if len(bad):
        keep = np.ones(len(text), bool)
        keep[bad] = False
        text = text.filter(pa.array(keep))
        if count is not None:
            count.not_utf8 += len(bad)
    return text.drop_null() if text.null_count else text


def describe_pool(pool: Pool) -> dict[str, Any]:
    """Everything about `pool` as plain data; `render` makes it text. Raises IntegrityError for a shard that cannot be read."""
    shards = pool.shards
    numbers: dict[str, _Numbers] = {}
    nested: dict[str, int] = {}
    captions = _Captions(pool.rows)
    with Keys(2, pool.rows) as uids, Keys(2, pool.rows) as images:
        bad_uids = bad_images = null_images = 0
        for _, batch in _batches(shards, None, "describe"):
            for name, values in zip(batch.schema.names, batch.columns, strict=True):
                if name == "uid" and family(values.type) == "text":
                    words, bad = words_of(values)
                    bad_uids += len(bad)
                    uids.add(np.delete(words, bad, axis=0) if len(bad) else words)
                elif name == "sha256" and family(values.type) == "text":
                    null_images += values.null_count
                    words, bad = words_of(pc.utf8_slice_codeunits(_plain_text(values), 0, 32))
                    bad_images += len(bad) - values.null_count
                    images.add(np.delete(words, bad, axis=0) if len(bad) else words)
                elif name == "text" and family(values.type) == "text":
                    captions.add(_plain_text(values))
                elif family(values.type) in ("integer", "float"):
                    numbers.setdefault(name, _Numbers()).add(values)
                else:
                    nested[name] = nested.get(name, 0) + values.null_count
        uid = _repeats(uids) | {"malformed_or_null": bad_uids}
        sha256 = _repeats(images) | {
            "malformed": bad_images,
            "nulls": null_images,
            "compared": "first 128 bits",
        }
    top, distinct, shared = captions.top([s for s in shards if "text" in s.types])
    text = {
        "nulls": captions.nulls,
        "empty": captions.empty,
        "not_utf8": captions.not_utf8,
        "words": _lengths(captions.words),
        "chars": _lengths(captions.chars),
        "distinct": distinct,
        "rows_with_a_shared_caption": shared,
        "top": top,
    }
    captions.close()
    return {
        "pool": str(pool.path),
        "id": pool.id,
        "rows": pool.rows,
        "shards": len(shards),
        "size_bytes": sum(shard.path.stat().st_size for shard in shards),
        "manifest": (pool.path / MANIFEST_NAME).is_file(),
        "columns": [_column(pool, name, numbers, nested) for name in pool.columns],
        "uid": uid,
        "captions": text if "text" in pool.columns else None,
        "sha256": sha256 if "sha256" in pool.columns else None,
        "features": _features(pool),
        "sidecars": _cached(pool, pool.cache / "scores"),
        "index": _index(pool),
    }


def _wanted(shard: Shard) -> list[str]:
    """Columns that are read: numbers, uid, text, sha256, and nested ones (whose nulls no statistics tell)."""
    names = []
    for name, type_ in shard.types.items():
        if (
            name in ("uid", "text", "sha256")
            or family(type_) in ("integer", "float")
            or pa.types.is_nested(type_)
        ):
            names.append(name)
    return names


def _batches(
    shards: list[Shard], columns: list[str] | None, what: str
) -> Iterator[tuple[Shard, pa.RecordBatch]]:
    with track(what, total=sum(shard.rows for shard in shards), unit="rows") as bar:
        for shard in shards:
            try:
                file = pq.ParquetFile(shard.path)
                for batch in file.iter_batches(BATCH_ROWS, columns=columns or _wanted(shard)):
                    yield shard, batch
                    bar.add(len(batch))
            except (pa.ArrowException, OSError) as error:
                reason = str(error).splitlines()[0][:200]
                raise IntegrityError(
                    f"shard {shard.name}: cannot be read: {reason}",
                    hint="headwater pool validate POOL tells more",
                ) from error


def _plain_text(values: pa.Array) -> pa.Array:
    return values.dictionary_decode() if pa.types.is_dictionary(values.type) else values


def _repeats(keys: Keys) -> dict[str, Any]:
    values = rows = 0
    for block, counts in keys.repeated():
        values, rows = values + len(block), rows + int(counts.sum())
    return {"distinct": keys.distinct, "repeated": values, "rows_repeated": rows, "exact": True}


def _lengths(counts: ValueCounts) -> dict[str, Any]:
    found = {"min": counts.quantile(0.0), **{name: counts.quantile(q) for name, q in QUANTILES.items()}}
    return found | {"max": counts.quantile(1.0), "exact": counts.exact, "histogram": counts.histogram(BINS)}


def _column(pool: Pool, name: str, numbers: dict[str, _Numbers], nested: dict[str, int]) -> dict[str, Any]:
    types = list(dict.fromkeys(str(shard.types[name]) for shard in pool.shards if name in shard.types))
    missing = [shard.name for shard in pool.shards if name not in shard.types]
    found: dict[str, Any] = {"name": name, "types": types, "missing_in": missing}
    found["size_bytes"], statistics = _footer_facts(pool, name)
    if name in numbers:
        return found | numbers[name].summary()
    if name in nested and name not in ("uid", "text", "sha256"):
        return found | {"nulls": nested[name], "nulls_from": "scan"}
    return found | {"nulls": statistics, "nulls_from": "statistics" if statistics is not None else None}


def _footer_facts(pool: Pool, name: str) -> tuple[int, int | None]:
    """(stored bytes of a column, its nulls as the statistics tell them; None where one chunk has none)."""
    size, nulls = 0, 0
    known = True
    for shard in pool.shards:
        metadata = pq.read_metadata(shard.path)
        paths = [metadata.schema.column(i).path for i in range(metadata.num_columns)]
        at = [i for i, path in enumerate(paths) if path == name or path.startswith(f"{name}.")]
        for number in range(metadata.num_row_groups):
            for i in at:
                chunk = metadata.row_group(number).column(i)
                size += chunk.total_compressed_size
                statistics = chunk.statistics
                if statistics is not None and statistics.has_null_count:
                    nulls += statistics.null_count
                else:
                    known = False
    return size, nulls if known else None


def _features(pool: Pool) -> list[dict[str, Any]]:
    found: dict[tuple[str, str, tuple[int, ...]], dict[str, Any]] = {}
    for shard in pool.shards:
        if shard.features is None:
            continue
        for array in npz_arrays(shard.features):
            key = (array.name, array.dtype, array.shape[1:])
            start = {"name": array.name, "dtype": array.dtype, "row_shape": list(array.shape[1:])}
            entry = found.setdefault(key, start | {"shards": 0, "rows": 0, "size_bytes": 0, "fits": True})
            entry["shards"] += 1
            entry["rows"] += array.rows
            entry["size_bytes"] += array.stored_bytes
            entry["fits"] = entry["fits"] and array.rows == shard.rows
    return [found[key] for key in sorted(found)]


def _cached(pool: Pool, root: Path) -> list[dict[str, Any]]:
    """What lies beside the pool: one entry a folder, with how many shards it fits."""
    if not root.is_dir():
        return []
    return [
        {"name": folder.name, **_fitting(pool, folder)}
        for folder in sorted(root.iterdir())
        if folder.is_dir()
    ]


def _index(pool: Pool) -> dict[str, Any] | None:
    folder = pool.cache / "index"
    return _fitting(pool, folder) if folder.is_dir() else None


def _fitting(pool: Pool, folder: Path) -> dict[str, Any]:
    fits = stale = size = 0
    columns: list[str] = []
    for shard in pool.shards:
        path = folder / f"{shard.name}.parquet"
        if not path.is_file():
            continue
        size += path.stat().st_size
        try:
            schema = pq.read_schema(path)
            facts = json.loads((schema.metadata or {}).get(METADATA_KEY, b"{}"))
            good = facts.get("shard_sha256") == pool.digests(shard).sha256
            columns += [name for name in schema.names if name not in columns and name != "uid"]
        except (pa.ArrowException, OSError, ValueError, AttributeError, HeadwaterError):
            good = False
        fits, stale = fits + good, stale + (not good)
    return {"columns": columns, "shards": fits, "stale": stale, "size_bytes": size}


def _on_grid(values: np.ndarray[Any, Any]) -> bool | None:
    """Whether all finite values are float16 numbers; None when there is none."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return None
    with np.errstate(over="ignore"):
        return bool((finite.astype(np.float16).astype(finite.dtype) == finite).all())


def _json(value: float | int | None) -> float | int | str | None:
    """JSON has no infinity: it becomes its name."""
    return str(value) if isinstance(value, float) and np.isinf(value) else value
