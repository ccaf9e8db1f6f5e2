"""Pictures of a pool that are near a picture of an evaluation set, by perceptual hash, verified on pixels.

`reference` is a folder with webdataset tars or picture files (below it, in any depth; hidden names are passed over), or one of them.
Near is as in picture_groups: equal pixels; or a `phash` that differs in at most `distance` bits, thumbnails that correlate by
`correlation` or more, and neither picture plain.

    picture_contamination_distance   bits between the picture and the nearest reference that was verified; 64 where there is none
    picture_contamination_of         that reference: PATH of a file, PATH:MEMBER in a tar; null where there is none. Of several,
                                     the least distance, then the highest correlation, then the first name

A rule keeps the others: `sql: picture_contamination_distance = 64`. `matches.parquet` beside the scores lists every pair that was looked at:
uid (the smallest of those with these pixels), of, distance, correlation, verified. Where more than `cap` different references share one hash,
the first `cap` by name are compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headwater.errors import UsageError

if TYPE_CHECKING:
    from curate.pool import Pool
    from curate.pooldata import PoolData

VERSION = 1
SCOPE = "pool"
COLUMNS: tuple[str, ...] = ()
OUTPUT = {"picture_contamination_distance": "int32", "picture_contamination_of": "string"}
COST = "costly"


@dataclass(frozen=True)
class Config:
    """What is compared, and what counts as near."""

    shards: Path | None = field(default=None, metadata={"help": "Folder of webdataset tars (or one tar)."})
    reference: Path | None = field(default=None, metadata={"help": "Evaluation set: tars or picture files."})
    distance: int = field(
        default=6, metadata={"help": "Bits of 64 in which perceptual hashes may differ, 0 to 11."}
    )
    correlation: float = field(
        default=0.98, metadata={"help": "Least correlation of the thumbnails, -1 to 1."}
    )
    contrast: float = field(
        default=4.0, metadata={"help": "Least standard deviation of grey levels for a hash to count."}
    )
    cap: int = field(default=64, metadata={"help": "References of one hash that are compared."})


class Scorer:
    """Compares pictures; needs NumPy and Pillow only."""

    def __init__(self, config: Config) -> None:
        from curate._picture_near import MAX_DISTANCE
        from curate._picture_references import reference_id

        if not 0 <= config.distance <= MAX_DISTANCE:
            raise UsageError(f"distance is {config.distance}: it must be 0 to {MAX_DISTANCE}")
        if not -1 <= config.correlation <= 1:
            raise UsageError(f"correlation is {config.correlation}: it must be -1 to 1")
        if config.cap < 1:
            raise UsageError(f"cap is {config.cap}: it must be at least 1")
        self.config = config
        self.identity = {} if config.reference is None else {"reference": reference_id(config.reference)}

    def inputs(self, pool: Pool) -> dict[str, str]:
        """The shards. Raises UsageError when shards or reference are not named."""
        from curate._picture_tars import shards_id

        if self.config.reference is None:
            raise UsageError("no evaluation set is named", hint="--reference DIR names its tars or pictures")
        return {"shards": shards_id(self.config.shards)}

    def score_pool(self, data: PoolData) -> Iterator[dict[str, Any]]:
        """The two columns of each shard; writes matches.parquet."""
        from curate._picture_references import contamination

        assert self.config.reference is not None  # inputs() has refused it
        return contamination(data, self.config)
