"""Rows whose sums and lengths are exact in binary, so that ties are ties, and pools of them in any layout."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from hypothesis import strategies as st

from tests.curate.feature_kit import feature_pool, scored_with_facts, uid_of

Rows = npt.NDArray[np.float32]

# of length 1 exactly, with inner products of 0, 1/4, 1/2, 3/4 and 1 of either sign
UNIT = np.array(
    [[s * (i == j) for j in range(4)] for i in range(4) for s in (1, -1)]
    + [[0.5 - (bits >> j & 1) for j in range(4)] for bits in range(16)],
    np.float32,
)
ZERO, NAN = "features: zero vector", "features: NaN or infinite"


@st.composite
def unit_rows(draw: st.DrawFn, *, least: int = 0, most: int = 12, bad: bool = True) -> Rows:
    """Rows of width 4: unit vectors times a power of two, zero rows, rows with NaN or infinity."""
    count = draw(st.integers(least, most))
    rows = np.zeros((count, 4), np.float32)
    for row in rows:
        kind = draw(st.integers(0, 11)) if bad else 5
        if kind == 1:
            row[:] = draw(st.sampled_from([np.nan, np.inf, -np.inf]))
        elif kind > 1:
            row[:] = UNIT[draw(st.integers(0, len(UNIT) - 1))] * draw(st.sampled_from([1, 1, 0.5, 4]))
    return rows


@st.composite
def whole_rows(draw: st.DrawFn, *, least: int = 0, most: int = 10, width: int = 3, bad: bool = True) -> Rows:
    """Rows of small whole numbers; some are zero, some hold NaN."""
    count = draw(st.integers(least, most))
    numbers = st.integers(-3, 3)
    rows = np.array(draw(st.lists(st.tuples(*[numbers] * width), min_size=count, max_size=count)), np.float32)
    rows = rows.reshape(count, width)
    for row in rows:
        if bad and draw(st.integers(0, 7)) == 0:
            row[0] = np.nan
        elif not bad and not row.any():
            row[0] = 1
    return rows


@st.composite
def layouts(draw: st.DrawFn, rows: int) -> tuple[npt.NDArray[np.int64], list[int]]:
    """An order of the rows and the sizes of the shards they are cut into, empty ones too."""
    order = np.array(draw(st.permutations(range(rows))), np.int64)
    cuts = sorted(draw(st.lists(st.integers(0, rows), max_size=3)))
    return order, np.diff([0, *cuts, rows]).tolist()


def usable(rows: Rows) -> list[int]:
    """Numbers of the rows that have a direction."""
    return [i for i, row in enumerate(rows) if np.isfinite(row).all() and row.any()]


def invalid(rows: Rows) -> dict[str, int]:
    """How many rows have none, by reason."""
    nan = sum(1 for row in rows if not np.isfinite(row).all())
    zero = len(rows) - nan - len(usable(rows))
    return {reason: count for reason, count in ((NAN, nan), (ZERO, zero)) if count}


@dataclass
class Scored:
    """What a scorer gave: columns by row number, and the facts of the run."""

    columns: dict[str, list[Any]]
    facts: dict[str, Any]
    folder: Path
    uids: list[str] = field(default_factory=list)

    def __getitem__(self, name: str) -> list[Any]:
        return self.columns[name]


def run(
    scorer: str,
    rows: Rows,
    *,
    layout: tuple[npt.NDArray[np.int64], Sequence[int]] | None = None,
    memory_bytes: int | None = None,
    columns: dict[str, Any] | None = None,
    **config: Any,
) -> Scored:
    """Score a fresh pool with these rows as its array `x`, in any layout; arrays in `config` become files."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        order, sizes = layout or (np.arange(len(rows)), [len(rows)])
        pool = feature_pool(folder / "pool", {"x": rows}, shards=list(sizes), order=order, columns=columns)
        for key, value in config.items():
            if isinstance(value, np.ndarray):
                np.save(folder / f"{key}.npy", value)
                config[key] = folder / f"{key}.npy"
        table, facts = scored_with_facts(pool, scorer, memory_bytes=memory_bytes, features="x", **config)
        assert table["uid"].to_pylist() == [uid_of(i) for i in range(len(rows))]
        facts["files"] = {p.name: p.read_bytes() for p in facts["folder"].iterdir() if p.is_file()}
        return Scored({n: table[n].to_pylist() for n in table.column_names[1:]}, facts, facts["folder"])


def table_of(scored: Scored, name: str) -> pa.Table:
    """A Parquet file that lay beside the scores."""
    import pyarrow.parquet as pq

    return pq.read_table(pa.BufferReader(scored.facts["files"][name]))
