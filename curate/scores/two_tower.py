"""Image-text score of a scorer that was trained on trusted pairs (headwater score train).

two_tower_similarity is the cosine of picture and caption in the scorer's space, on the grid of float16 as a pool's own CLIP
scores; null without a caption or a picture that opens. The rows lie beside it as arrays two_tower_img and two_tower_txt
(float16, 256 numbers, length 1; zeros where there is none). A row with the uid, the caption or nearly the picture of one that the
scorer was trained on is scored by projections that did not see that one (curate._tower_folds). The scorer, its towers and the
batch decide the result.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from curate._pair_rows import as_columns, captioned, check_batch, in_batches, picture_rows
from headwater.errors import UsageError

if TYPE_CHECKING:
    from curate.pictures import Picture
    from curate.scorer_training import LoadedScorer

SCOPE = "pictures"
VERSION = 1
COLUMNS: tuple[str, ...] = ()
OUTPUT = {"two_tower_similarity": "float32"}
COST = "costly"
PROCESSES = "many"  # small towers, one thread each
CAPTIONS = True
BATCH = 256
WIDTH = 256
PATH_SETTINGS = ("device",)  # where it runs is no part of what it is


@dataclass(frozen=True)
class Config:
    """Settings."""

    shards: Path | None = field(
        default=None, metadata={"help": "Folder of webdataset tars with the pictures."}
    )
    scorer: Path | None = field(
        default=None, metadata={"help": "Folder that headwater score train has written."}
    )
    batch: int = field(default=64, metadata={"help": "Pictures that are encoded together, 256 at most."})
    device: str = field(
        default="auto",
        metadata={
            "help": "Where the towers run; auto is a GPU if there is one.",
            "choices": ["auto", "cpu", "cuda"],
        },
    )


def ARRAYS(config: Config) -> dict[str, tuple[int, Any]]:
    """The arrays written beside the column."""
    return {"two_tower_img": (WIDTH, np.float16), "two_tower_txt": (WIDTH, np.float16)}


class Scorer:
    """Reads the scorer's card and digests at once, its weights with the first batch."""

    def __init__(self, config: Config) -> None:
        from curate.scorer_training import read_card, towers_of

        if config.scorer is None:
            raise UsageError(
                "two_tower needs --scorer FOLDER",
                hint="headwater score train makes a scorer from trusted pairs",
            )
        check_batch(config.batch, BATCH)
        self._config = config
        card = read_card(config.scorer)
        towers_of(config.scorer, card)  # a tower that is missing is told before any work
        towers = {f"tower {role}": sha256 for role, sha256 in card.towers.digests.items()}
        trained = {"projections": card.projections_sha256, "trained pairs": card.trained_sha256}
        self.identity = {**trained, **towers}

    @cached_property
    def _loaded(self) -> tuple[LoadedScorer, Any]:
        from curate._pair_rows import device_of
        from curate.scorer_training import load_scorer
        from curate.towers import open_towers

        assert self._config.scorer is not None
        scorer = load_scorer(self._config.scorer)
        return scorer, open_towers(scorer.towers, device=device_of(self._config.device))

    def score_pictures(self, batch: list[Picture]) -> dict[str, npt.NDArray[Any]]:
        """One row a picture: the score, and the rows of picture and caption."""
        from curate._pairs import difference_hash

        scorer, towers = self._loaded
        size, hashes = self._config.batch, [0] * 0

        def encode(some: list[tuple[int, Any]]) -> npt.NDArray[Any]:
            hashes.extend(hashed for hashed, _ in some)
            return np.asarray(towers.pictures([prepared for _, prepared in some]))

        opened, rows = picture_rows(
            batch,
            lambda image: (difference_hash(image), towers.prepare(image)),
            encode,
            size,
            towers.image_width,
        )
        numbers, captions = captioned(batch)
        hash_of, caption_of = (
            dict(zip(opened, hashes, strict=True)),
            dict(zip(numbers, captions, strict=True)),
        )
        use = scorer.trained.use(
            [picture.uid for picture in batch],
            [caption_of.get(number) for number in range(len(batch))],
            [hash_of.get(number) for number in range(len(batch))],
        )
        pictures = scorer.projections.pictures(rows.astype(np.float16), use[opened])
        texts = scorer.projections.texts(
            in_batches(towers.texts, captions, size, towers.text_width).astype(np.float16), use[numbers]
        )
        names = ("two_tower_similarity", "two_tower_img", "two_tower_txt")
        return as_columns(len(batch), (opened, pictures), (numbers, texts), names)
