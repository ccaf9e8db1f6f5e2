"""Scores of the rows of a block while a filter runs: stored ones first, the scorer for rows that have none.

Cheap scorers run over every row; costly ones only over rows that are still kept, and what they gave is stored at the end of the shard,
so that another rule over the same pool asks them for nothing twice.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curate import _guard
from curate._guard import Place
from curate.sidecars import ScorerRef, StoredRef, read_sidecar, write_sidecar
from curate.views import Block, Column, IndexView, Mask, RawBlock, RawView, plain
from headwater.errors import HeadwaterError


class NeedsRaw(Exception):
    """The index cannot answer: the shard's own file is needed."""


class BlockScores:
    """Columns of scorers for the blocks of one shard."""

    def __init__(self, view: RawView | IndexView, cache: Path, sha256: str, *, store: bool) -> None:
        self._view = view
        self._raw = isinstance(view, RawView)
        self._cache = cache
        self._sha256 = sha256
        self._keep = store and self._raw
        self._stored: dict[str, pa.Table | None] = {}
        self._computed: dict[ScorerRef, dict[str, list[pa.Array]]] = {}
        self.scored: dict[str, int] = {}  # rows given to each scorer

    def of(self, block: Block, ref: ScorerRef | StoredRef, needed: Mask) -> dict[str, Column]:
        """All columns of one scorer for a block; right at least for the rows in `needed`. Raises NeedsRaw."""
        columns = self._from_sidecar(block, ref)
        if isinstance(ref, StoredRef):
            if not columns:
                raise HeadwaterError(
                    f"shard {self._view.shard.name}: its scores of {ref.name} are not there",
                    hint=f"headwater score {ref.name} makes them",
                )
            return {name: plain(array) for name, array in columns.items()}
        if columns:
            valid = columns[next(iter(ref.outputs))].is_valid()
            missing = needed & ~np.asarray(valid.to_numpy(zero_copy_only=False))
        else:
            missing = needed if ref.costly else np.ones(block.rows, bool)
        if missing.any():
            if not isinstance(block, RawBlock):
                raise NeedsRaw
            direct = None if ref.plugin.foreign else getattr(ref.module, "score_row_group", None)
            if direct is not None and not columns and set(ref.reads) <= set(block.shard.types):
                # straight from the pages, without making an array of strings
                made: dict[str, Column] = direct(
                    block.file, block.group, shard_name=block.shard.name, handle=block.handle
                )
                return made
            columns = self._compute(block, ref, missing, columns)
        elif not columns:
            columns = {n: pa.nulls(block.rows, pa.type_for_alias(kind)) for n, kind in ref.outputs.items()}
        if ref.costly and self._keep:
            pieces = self._computed.setdefault(ref, {name: [] for name in ref.outputs})
            for name, array in columns.items():
                pieces[name].append(array)
        return {name: plain(array) for name, array in columns.items()}

    def store(self) -> None:
        """Write what costly scorers gave beside the pool."""
        for ref, columns in self._computed.items():
            if not self.scored.get(ref.name):
                continue
            table = pa.table({key: pa.chunked_array(arrays) for key, arrays in columns.items()})
            shard = self._view.shard
            if table.num_rows != shard.rows:
                continue
            assert isinstance(self._view, RawView)
            blocks = self._view.blocks()
            strings = [chunk.cast(pa.string()) for block in blocks for chunk in block.uid_strings().chunks]
            uids = pa.chunked_array(strings, pa.string())
            write_sidecar(
                self._cache, ref, shard=shard.name, shard_sha256=self._sha256, uids=uids, scores=table
            )

    def _from_sidecar(self, block: Block, ref: ScorerRef | StoredRef) -> dict[str, pa.Array]:
        key = str(ref.folder(self._cache))
        if key not in self._stored:
            # a cheap score is computed as fast as it is read
            wanted = ref.costly or not self._raw
            shard = self._view.shard
            table = read_sidecar(self._cache, ref, shard.name, self._sha256) if wanted else None
            self._stored[key] = table if table is None or table.num_rows == shard.rows else None
        stored = self._stored[key]
        if stored is None:
            return {}
        place = block.row_numbers()
        if isinstance(place, slice):
            part = stored.slice(place.start, block.rows)
        else:
            part = stored.take(pa.array(place))
        return {name: _whole(part[name]) for name in ref.outputs}

    def _compute(
        self, block: RawBlock, ref: ScorerRef, missing: Mask, old: dict[str, pa.Array]
    ) -> dict[str, pa.Array]:
        everything = bool(missing.all())
        numbers = np.flatnonzero(missing)
        rows = pa.array(numbers)
        inputs: dict[str, Any] = {}
        for name in ref.reads:
            column = block.column(name)
            array = pa.array(column) if isinstance(column, np.ndarray) else column
            inputs[name] = array if everything else array.take(rows)
        place = Place(block.shard.name, block.first_row + int(numbers[0]), block.first_row + int(numbers[-1]))
        made = _guard.score(ref, pa.RecordBatch.from_pydict(inputs), place)
        self.scored[ref.name] = self.scored.get(ref.name, 0) + len(rows)
        if everything:
            return {name: made.column(name) for name in ref.outputs}
        where = np.full(block.rows, -1, np.int64)
        where[missing] = np.arange(len(rows))
        source = pa.array(where, mask=where < 0)
        fresh = {name: made.column(name).take(source) for name in ref.outputs}
        if not old:
            return fresh
        use = pa.array(missing)
        return {name: pc.if_else(use, array, old[name].cast(array.type)) for name, array in fresh.items()}


def _whole(column: pa.ChunkedArray) -> pa.Array:
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.nulls(0, column.type)
