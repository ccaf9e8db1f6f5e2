"""Why each row was kept or dropped: written for all rows on request, or looked up for some.

The table has one line a row of the pool: `uid`, `shard`, `row`, `verdict` (kept, dropped, invalid), `reason` (the clause's id; null for
kept rows).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curate import shardpass
from curate._order import merge_runs, search_words
from curate._pages import words_of
from curate.sidecars import METADATA_KEY
from curate.subset import Words, from_hex, unique
from curate.views import RawView
from headwater.executor import Executor
from headwater.files import atomic_file, remove_stale_temporaries

if TYPE_CHECKING:
    from curate.binding import Ready

DUPLICATE_UID_CODE = 254  # of this table only: which row of a repeated uid stays is known when all are

SCHEMA = pa.schema(
    [
        ("uid", pa.string()),
        ("shard", pa.dictionary(pa.int32(), pa.string())),
        ("row", pa.int64()),
        ("verdict", pa.dictionary(pa.int8(), pa.string())),
        ("reason", pa.dictionary(pa.int16(), pa.string())),
    ]
)


def meanings(ready: Ready) -> dict[int, tuple[str, str | None]]:
    """Byte of a reasons file -> (verdict, reason)."""
    table: dict[int, tuple[str, str | None]] = {
        0: ("kept", None),
        shardpass.NULL_UID_CODE: ("invalid", shardpass.NULL_UID),
        DUPLICATE_UID_CODE: ("invalid", shardpass.DUPLICATE_UID),
    }
    for position in range(len(ready.rule.keep)):
        reason = ready.rule.reason(position)
        table[shardpass.dropped_code(position)] = ("dropped", reason)
        table[shardpass.invalid_code(position)] = ("invalid", f"{reason}: null or NaN")
    return table


def write_reasons(ready: Ready, parts: Path, path: Path, *, key: str, once: Sequence[Words] = ()) -> None:
    """One line for every row of the pool, in shard order, as zstd Parquet.

    `key` is that of the step; the file carries it. `once`: the sorted runs of kept uids, when a uid is kept once only; its other rows are then invalid.
    """
    table = meanings(ready)
    repeated = _repeated(once)
    seen = np.zeros(len(repeated), bool)
    verdicts = sorted({verdict for verdict, _ in table.values()})
    reasons = sorted({reason for _, reason in table.values() if reason})
    verdict_of = np.zeros(256, np.int8)
    reason_of = np.full(256, -1, np.int16)
    for code, (verdict, reason) in table.items():
        verdict_of[code] = verdicts.index(verdict)
        reason_of[code] = -1 if reason is None else reasons.index(reason)
    schema = SCHEMA.with_metadata({METADATA_KEY: json.dumps({"step_key": key}).encode()})
    remove_stale_temporaries(path.parent, path.name)
    with (
        atomic_file(path) as handle,
        pq.ParquetWriter(handle, schema, compression="zstd", compression_level=1) as writer,
    ):
        for number, shard in enumerate(ready.pool.shards):
            codes = np.load(shardpass.reasons_file(parts, number), allow_pickle=False)
            for block in RawView(shard, {}).blocks():
                mine = codes[block.row_numbers()]
                if len(repeated):
                    left, right = search_words(repeated, words_of(block.uid_strings())[0])
                    for row in np.flatnonzero((right > left) & (mine == 0)).tolist():
                        if seen[left[row]]:
                            mine[row] = DUPLICATE_UID_CODE
                        seen[left[row]] = True
                why = reason_of[mine]
                columns = [
                    pa.chunked_array(block.uid_strings().cast(pa.string())).combine_chunks(),
                    pa.DictionaryArray.from_arrays(np.zeros(block.rows, np.int32), [shard.name]),
                    pa.array(np.arange(block.first_row, block.first_row + block.rows)),
                    pa.DictionaryArray.from_arrays(verdict_of[mine], verdicts),
                    pa.DictionaryArray.from_arrays(
                        pa.array(why, mask=why < 0), pa.array(reasons, pa.string())
                    ),
                ]
                writer.write_table(pa.Table.from_arrays(columns, schema=schema))


def reasons_key(path: Path) -> str | None:
    """The key of the step that wrote a reasons file; None for any other file, or none."""
    try:
        facts = json.loads((pq.read_schema(path).metadata or {})[METADATA_KEY])
        return str(facts["step_key"])
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError):
        return None


def _repeated(runs: Sequence[Words]) -> Words:
    """Uids that occur more than once in sorted runs, each once."""
    found: list[Words] = [np.zeros((0, 2), "<u8")]
    last = found[0]

    def look(block: Words) -> None:
        nonlocal last
        joined = np.concatenate([last, block])
        found.append(joined[1:][(joined[1:] == joined[:-1]).all(axis=1)])
        last = block[-1:].copy()

    merge_runs(runs, look)
    return unique(np.concatenate(found))


def explain(ready: Ready, uids: Sequence[str], folder: Path, executor: Executor) -> list[dict[str, Any]]:
    """What the rule says of each uid, with the values its clauses looked at. Runs the rule again over the pool.

    A uid that the pool does not have is reported with verdict "absent"; one that lies in several rows, once per row.
    """
    from curate.filtering import run_passes

    wanted = sorted(set(uids))
    words = from_hex(wanted)
    run_passes(ready, folder, executor, keep_reasons=True, use_index=False)
    table = meanings(ready)
    found: dict[str, list[dict[str, Any]]] = {uid: [] for uid in wanted}
    for number, shard in enumerate(ready.pool.shards):
        codes = np.load(shardpass.reasons_file(folder, number), allow_pickle=False)
        for block in RawView(shard, ready.types).blocks():
            theirs, _ = words_of(block.uid_strings())
            left, right = search_words(words, theirs)
            for row in np.flatnonzero(right > left).tolist():
                uid = wanted[int(left[row])]
                verdict, reason = table[int(codes[block.first_row + row])]
                values = {
                    name: _value(block.column(name), row) for name in ready.types if name in shard.types
                }
                place = {"uid": uid, "shard": shard.name, "row": block.first_row + row}
                found[uid].append({**place, "verdict": verdict, "reason": reason, "values": values})
    return [
        entry
        for uid in uids
        for entry in (found[uid] or [{"uid": uid, "verdict": "absent", "reason": None, "values": {}}])
    ]


def _value(column: Any, row: int) -> Any:
    value = column[row]
    value = value.as_py() if isinstance(value, pa.Scalar) else value.item()
    if isinstance(value, str) and len(value) > 200:
        return value[:200] + "…"
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    return value
