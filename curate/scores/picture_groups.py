"""Groups of near-duplicate pictures: found by perceptual hash, verified on pixels.

`picture_group` is the smallest uid of the group that the picture belongs to, its own where it is alone; null without a hash. A rule
keeps one of each: `dedup: {by: [picture_group], order: {…}}`. Pictures are joined when

    their pixels are equal (`phash_pixels` of the scorer phash), or
    their `phash` differs in at most `distance` bits, and their thumbnails correlate by `correlation` or more
    (curate._picture_thumbs), and neither is plain (`phash_contrast` below `contrast`): hashes of plain pictures are alike by chance

and whatever is joined to one picture is in one group. All pairs within `distance` are found (curate._picture_near). Where more than
`cap` different pictures share one hash, only the first `cap` by uid are compared with the others of that hash and of near ones, so
that the work stays bounded; `capped hashes` in the notes counts where that was so. The answer does not depend on the order of rows.
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
OUTPUT = {"picture_group": "string"}
COST = "costly"


@dataclass(frozen=True)
class Config:
    """What counts as near."""

    shards: Path | None = field(default=None, metadata={"help": "Folder of webdataset tars (or one tar)."})
    distance: int = field(
        default=6, metadata={"help": "Bits of 64 in which perceptual hashes may differ, 0 to 11."}
    )
    correlation: float = field(
        default=0.95, metadata={"help": "Least correlation of the thumbnails, -1 to 1."}
    )
    contrast: float = field(
        default=4.0, metadata={"help": "Least standard deviation of grey levels for a hash to count."}
    )
    cap: int = field(
        default=64, metadata={"help": "Pictures of one hash that are compared with all near ones."}
    )


class Scorer:
    """Groups the pictures of a pool; needs NumPy and Pillow only."""

    def __init__(self, config: Config) -> None:
        from curate._picture_near import MAX_DISTANCE

        if not 0 <= config.distance <= MAX_DISTANCE:
            raise UsageError(f"distance is {config.distance}: it must be 0 to {MAX_DISTANCE}")
        if not -1 <= config.correlation <= 1:
            raise UsageError(f"correlation is {config.correlation}: it must be -1 to 1")
        if config.cap < 1:
            raise UsageError(f"cap is {config.cap}: it must be at least 1")
        self.config = config
        self.identity: dict[str, str] = {}

    def inputs(self, pool: Pool) -> dict[str, str]:
        """The shards."""
        from curate._picture_tars import shards_id

        return {"shards": shards_id(self.config.shards)}

    def score_pool(self, data: PoolData) -> Iterator[dict[str, Any]]:
        """picture_group of each shard."""
        from curate._picture_groups import groups

        config = self.config
        return groups(
            data,
            config.shards,
            distance=config.distance,
            correlation=config.correlation,
            contrast=config.contrast,
            cap=config.cap,
        )
