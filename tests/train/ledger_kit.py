"""Small parts of a ledger for its tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from train.ledger import Ledger, PartLedger, ShardInfo, merge

SHARDS = [
    ShardInfo("00000000.tar", 4, ["a", "b", "c", "d"]),
    ShardInfo("00000001.tar", 3, lambda: ["e", "f", "g"]),
]
BATCH = 4


def account(part: int = 1, rank: int = 0, world: int = 1, **changes: Any) -> PartLedger:
    """Two steps of BATCH samples over all ranks, and 0.5 s of waiting in 2 s."""
    share = 2 * BATCH // world
    facts: dict[str, Any] = {
        "run_key": "run",
        "part": part,
        "rank": rank,
        "world": world,
        "shard": np.arange(share, dtype=np.int32) % 2,
        "sample": np.arange(share, dtype=np.int32) % 3,
        "step": np.array([2 * part - 1, 2 * part], np.int64),
        "loss": np.array([1.5 + rank, 1.0 + rank], np.float32),
        "lr": np.array([0.1, 0.2], np.float32),
        "logit_scale": np.array([14.0, 15.0], np.float32),
        "wait_seconds": 0.5,
        "part_seconds": 2.0,
        "worker_cpu_seconds": 0.25,
        "cpu_seconds": 1.0,
    }
    return PartLedger(**{**facts, **changes})


def total(folder: Path, *, parts: int = 1, world: int = 1, **options: Any) -> Ledger:
    return merge(folder, parts=parts, world=world, **{"shards": SHARDS, "global_batch": BATCH, **options})
