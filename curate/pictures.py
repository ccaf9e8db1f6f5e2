"""Scorers of pictures: every sample of a folder of shards is given to the scorer, and its answers go to the rows of the pool by uid."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from curate.pooldata import PoolData
from curate.sidecars import ScorerRef


def inputs_of(ref: ScorerRef) -> dict[str, str]:
    """Role -> id of the shards that the scorer reads."""
    raise NotImplementedError


def score_pictures(data: PoolData) -> Iterator[dict[str, Any]]:
    """Columns of each shard of the pool, in order."""
    raise NotImplementedError
