"""Small feature arrays full of ties, copies and rows without a direction; and the same pool in another layout."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from hypothesis import strategies as st

from curate.features import normalise, unusable
from tests.curate.feature_kit import feature_pool, scored, uid_of

Array = npt.NDArray[np.float32]


@dataclass
class Layout:
    """How rows lie in shards."""

    order: npt.NDArray[np.int64]
    sizes: list[int]
    names: list[str]


@st.composite
def arrays(draw: st.DrawFn, *, most: int = 14, bad: bool = True) -> Array:
    """(n, 3) float32 on a coarse grid, so that rows repeat and similarities tie; some rows zero, NaN or infinite."""
    rows = draw(st.integers(0, most))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    values = rng.integers(-2, 3, (rows, 3)).astype(np.float32)
    values += np.float32(draw(st.sampled_from([0.0, 0.25, 3.0])))  # one direction makes all similar
    if draw(st.booleans()) and rows:
        values[:] = values[rng.integers(0, rows, rows)]
    if bad and rows and draw(st.booleans()):
        values[rng.integers(0, rows)] = 0
        values[rng.integers(0, rows), 1] = rng.choice([np.nan, np.inf])
    elif not bad:
        values[~values.any(axis=1)] = 1
    return values


@st.composite
def layouts(draw: st.DrawFn, rows: int) -> Layout:
    """Any order, one to three shards (some empty), any names."""
    order = np.random.default_rng(draw(st.integers(0, 2**32))).permutation(rows)
    cuts = sorted(draw(st.lists(st.integers(0, rows), max_size=2)))
    sizes = np.diff([0, *cuts, rows]).tolist()
    names = draw(st.permutations([f"{i:032x}" for i in range(len(sizes))]))
    return Layout(order, sizes, names)


@contextmanager
def pool_of(values: Array, layout: Layout | None = None, name: str = "l14_img") -> Iterator[Path]:
    """A pool of these rows; row i has uid i."""
    with tempfile.TemporaryDirectory() as folder:
        kept: dict[str, Any] = {"shards": 1}
        if layout is not None:
            # the pool reads shards by name: which rows each has does not depend on that
            kept = {"order": layout.order, "shards": layout.sizes, "names": layout.names}
        yield feature_pool(Path(folder) / "pool", {name: values}, **kept)


def columns(table: pa.Table) -> dict[str, list[Any]]:
    return {name: table[name].to_pylist() for name in table.column_names}


def groups(pool: Path, **config: Any) -> dict[int, list[tuple[float, int]]]:
    """What the scorer kmeans says: cluster -> (similarity, number of the row), rows without one left out."""
    table = columns(scored(pool, "kmeans", spherical=True, **config))
    found: dict[int, list[tuple[float, int]]] = defaultdict(list)
    for uid, cluster, similarity in zip(
        table["uid"], table["cluster"], table["cluster_similarity"], strict=True
    ):
        if cluster is not None:
            found[cluster].append((similarity, int(uid, 16)))
    return found


def exact_unit(values: Array) -> npt.NDArray[np.float64]:
    """The rows at length 1 as the product sees them (float32), in float64."""
    return normalise(values).astype(np.float64)


def usable(values: Array) -> list[int]:
    return np.flatnonzero(unusable(values) == 0).tolist()


__all__ = ["Layout", "arrays", "columns", "exact_unit", "groups", "layouts", "pool_of", "uid_of", "usable"]
