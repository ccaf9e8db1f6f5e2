"""What a trained scorer says of itself: the models of scorer.json, and how a folder is told to be a scorer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from headwater.errors import IntegrityError, MissingInput
from headwater.manifest import Count, Hex64, Record

CARD, WEIGHTS, TRAINED = "scorer.json", "projections.safetensors", "trained.parquet"
MOST_FOLDS = 20
MAX_CARD_BYTES = 1 << 20
Share = Annotated[float, Field(ge=0, le=1)]
Cosine = Annotated[float, Field(ge=-1.001, le=1.001)]


class Estimate(Record):
    """One figure with its percentile bootstrap interval, and what chance would give."""

    value: Share
    low: Share
    high: Share
    chance: Share


class HeldOut(Record):
    """What the scorer does on pairs that it was not trained on. Recalls are shares of the pairs, among all held-out pairs."""

    pairs: Count
    resamples: Count
    confidence: Share
    image_to_text_r1: Estimate
    image_to_text_r5: Estimate
    image_to_text_r10: Estimate
    text_to_image_r1: Estimate
    text_to_image_r5: Estimate
    text_to_image_r10: Estimate
    auc: Estimate = Field(description="true against wrong captions, over all wrong pairs (all derangements)")


class Scores(Record):
    """Scores of true pairs. Trained rows may be ranked among others where the first two means are near each other."""

    mean_score_out_of_fold: Cosine | None = Field(
        description="of the trained pairs, each by the projections that did not see it; null with one fold"
    )
    mean_score_held_out: Cosine
    mean_score_seen: Cosine = Field(
        description="of the trained pairs, each by projections that did see it: what learning by heart would give"
    )
    deviation_out_of_fold: float | None = Field(description="standard deviation")
    deviation_held_out: float


class TowersUsed(Record):
    """The frozen towers, by the SHA-256 of what they are made of."""

    name: Literal["lite0+minilm", "local-dir"]
    digests: dict[str, Hex64]
    licences: dict[str, str]
    image_width: Annotated[int, Field(ge=1)]
    text_width: Annotated[int, Field(ge=1)]


class Training(Record):
    """How the projections were trained."""

    pairs: Count
    left_out: dict[str, Count] = Field(description="trusted pairs not trained on, by reason")
    folds: Annotated[int, Field(ge=1, le=MOST_FOLDS)] = Field(
        description="as many projections, each fitted without one"
    )
    epochs: Count
    batch: Count
    learning_rate: float
    weight_decay: float
    seed: int
    last_loss: float | None = Field(description="mean of the last epoch, over the folds")


class ScorerCard(Record):
    """`scorer/1`: a trained two-tower scorer."""

    format: Literal["scorer/1"] = "scorer/1"
    towers: TowersUsed
    width: int = Field(description="of the shared space")
    projections_sha256: Hex64
    trained_sha256: Hex64
    pool_id: Hex64
    trusted_sha256: Hex64
    training: Training
    scores: Scores
    held_out: HeldOut


def read_card(folder: Path) -> ScorerCard:
    """The card of a scorer folder."""
    path = folder / CARD
    if not folder.is_dir():
        raise MissingInput(f"{folder}: no such folder", hint="headwater score train makes a scorer")
    missing = [name for name in (CARD, WEIGHTS, TRAINED) if not (folder / name).is_file()]
    if missing:
        raise MissingInput(
            f"{folder}: is no scorer: it has no {missing[0]}", hint="headwater score train makes one"
        )
    if path.stat().st_size > MAX_CARD_BYTES:
        raise IntegrityError(f"{path}: too large for a scorer's card")
    try:
        return ScorerCard.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        raise IntegrityError(f"{path}: not a scorer/1 card: {where}: {first['msg']}") from error
