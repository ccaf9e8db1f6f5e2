"""`headwater score train`: a two-tower scorer fitted on pairs that the user trusts, for a pool that nobody has looked through.

The idea of data filtering networks (arXiv 2309.17425): a small set of good pairs teaches a model which pairs of a large pool are good.
Here the towers are frozen and two small projections are trained (curate._tower_fit). SCORER is a folder:

    projections.safetensors   the trained tensors
    scorer.json               scorer/1: towers by digest, shapes, training facts, held-out metrics with intervals
    held_out.parquet          uids that were held out, with the ranks and the similarity of their own captions
    clip/                     only with towers from local-dir: their configuration and weights
    README.md                 a model card
    step.json                 how it was made

Pairs are held out before anything else; what says something about them is not trained on (curate._tower_split).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError

from curate import _pairs, _tower_metrics
from curate._tower_fit import BATCH, LEARNING_RATE, WEIGHT_DECAY, WIDTH, Projections, check_shapes, fit
from curate._tower_split import NEAR, split
from curate.pool import CACHE_NAME, Pool
from curate.resharding import Layout, open_shards, shards_id
from curate.subset import load_words, to_hex, unique
from curate.towers import LOCAL, TowerFacts, copy_clip, describe_towers, open_towers
from headwater.console import say
from headwater.errors import IntegrityError, MissingInput, UsageError
from headwater.files import write_json
from headwater.hashing import DigestCache, digest_file
from headwater.manifest import Count, Counts, Hex64, InputRef, Record
from headwater.steps import Outcome, Plan, RunOptions, Work, check_output, run_step

STEP = "score train"
VERSION = 1
CARD, WEIGHTS, HELD_OUT, CLIP = "scorer.json", "projections.safetensors", "held_out.parquet", "clip"
LEAST_TRAINING = 16  # pairs
MAX_CARD_BYTES = 1 << 20
MAX_WEIGHTS_BYTES = 1 << 30
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
    mean_similarity: Cosine
    auc: Estimate = Field(description="true against wrong captions, over all wrong pairs (all derangements)")


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
    epochs: Count
    batch: Count
    learning_rate: float
    weight_decay: float
    seed: int
    last_loss: float | None = Field(description="mean of the last epoch")
    mean_similarity: Cosine = Field(
        description="of the trained pairs; far above that of the held-out ones where they were learnt by heart"
    )


class ScorerCard(Record):
    """`scorer/1`: a trained two-tower scorer."""

    format: Literal["scorer/1"] = "scorer/1"
    towers: TowersUsed
    width: int = Field(description="of the shared space")
    projections_sha256: Hex64
    pool_id: Hex64
    trusted_sha256: Hex64
    training: Training
    held_out: HeldOut


@dataclass(frozen=True)
class Job:
    """What to train: the options of the command."""

    shards: Path
    trusted: Path
    output: Path
    towers: str = "lite0+minilm"
    held_out: int = 500
    epochs: int = 60
    seed: int = 0
    device: str = "cpu"


@dataclass(frozen=True)
class LoadedScorer:
    """A scorer from its folder: projections, its card, and what to give to `open_towers`."""

    card: ScorerCard
    projections: Projections
    towers: str


def plan_training(pool: Pool, job: Job, *, distrust_cache: bool = False) -> tuple[Plan, TowerFacts]:
    """The Step that these inputs are; raises what is wrong with them before a picture is read."""
    check_output(job.output, "folder")
    if job.held_out < 2 or job.epochs < 1 or not 0 <= job.seed < 1 << 63:
        raise UsageError("--held-out is at least 2, --epochs at least 1, --seed not negative")
    if not len(load_words(job.trusted)):
        raise UsageError(
            f"{job.trusted}: the trusted set is empty", hint="make one with headwater filter-pool --rule"
        )
    pool.column_type("text")
    facts = describe_towers(job.towers)
    found = open_shards(job.shards, Layout())
    inputs = [
        InputRef(role="pool", id=pool.id),
        InputRef(
            role="shards",
            id=shards_id(job.shards, found, job.shards / CACHE_NAME, distrust_cache=distrust_cache),
        ),
        InputRef(role="trusted", id=digest_file(job.trusted, ("sha256",)).sha256),
        *(InputRef(role=f"tower {role}", id=sha256) for role, sha256 in sorted(facts.digests.items())),
    ]
    config = {"towers": facts.name, "held_out": job.held_out, "epochs": job.epochs}
    return Plan(STEP, VERSION, config, inputs, job.output, kind="folder", seed=job.seed), facts


def train_scorer(
    pool: Pool, job: Job, plan: Plan, facts: TowerFacts, *, options: RunOptions
) -> Outcome | None:
    """Train and write SCORER. None on a dry run."""
    return run_step(plan, lambda work: _train(pool, job, facts, work), options)


def load_scorer(folder: Path) -> LoadedScorer:
    """A trained scorer. Raises MissingInput or IntegrityError for what is none, or whose tensors are not those of its card."""
    from headwater.weights import read_weights

    card = read_card(folder)
    weights = folder / WEIGHTS
    if digest_file(weights, ("sha256",)).sha256 != card.projections_sha256:
        raise IntegrityError(f"{weights}: is not the file that {CARD} names", hint="fetch or train it again")
    tensors = read_weights(weights, limit_bytes=MAX_WEIGHTS_BYTES)
    projections = check_shapes(tensors, card.towers.image_width, card.towers.text_width)
    return LoadedScorer(card, projections, towers_of(folder, card))


def towers_of(folder: Path, card: ScorerCard) -> str:
    """What to give to `open_towers`; nothing is loaded. Raises MissingExtra, and IntegrityError when they are not those of the card."""
    towers = card.towers.name if card.towers.name != "local-dir" else f"{LOCAL}{folder / CLIP}"
    if describe_towers(towers).digests != card.towers.digests:
        raise IntegrityError(
            f"{folder}: was trained on other towers than those that are here ({towers})",
            hint="the same weights are needed: see the digests in scorer.json",
        )
    return towers


def read_card(folder: Path) -> ScorerCard:
    """The card of a scorer folder."""
    path = folder / CARD
    if not folder.is_dir():
        raise MissingInput(f"{folder}: no such folder", hint="headwater score train makes a scorer")
    if not path.is_file() or not (folder / WEIGHTS).is_file():
        raise MissingInput(
            f"{folder}: is no scorer: it has no {CARD if not path.is_file() else WEIGHTS}",
            hint="headwater score train makes one",
        )
    if path.stat().st_size > MAX_CARD_BYTES:
        raise IntegrityError(f"{path}: too large for a scorer's card")
    try:
        return ScorerCard.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        raise IntegrityError(f"{path}: not a scorer/1 card: {where}: {first['msg']}") from error


def _train(pool: Pool, job: Job, facts: TowerFacts, work: Work) -> Counts:
    from curate._tower_card import readme
    from headwater.weights import write_weights

    trusted = unique(load_words(job.trusted))
    towers = open_towers(job.towers, device=job.device)
    digests = DigestCache(job.shards, job.shards / CACHE_NAME)
    pairs = _pairs.read_pairs(pool, trusted, open_shards(job.shards, Layout()), digests, facts, towers)
    _tell_invalid(pairs, len(trusted))
    parts = split(pairs, job.held_out, job.seed)
    if len(parts.held_out) < job.held_out or len(parts.training) < LEAST_TRAINING:
        raise UsageError(
            f"{job.trusted}: of {len(trusted):,} trusted uids {len(pairs):,} are pairs; held out {len(parts.held_out):,} of "
            f"{job.held_out:,}, left to train on {len(parts.training):,} (at least {LEAST_TRAINING} are needed)",
            hint="trust more rows, or give a smaller --held-out",
        )
    text = towers.texts(pairs.captions)
    rows = parts.training
    projections, loss = fit(
        pairs.image[rows], text[rows], parts.captions[rows], epochs=job.epochs, seed=job.seed
    )
    images = projections.pictures(pairs.image[parts.held_out]).astype(np.float64)
    similarity = images @ projections.texts(text[parts.held_out]).astype(np.float64).T
    write_weights(projections.tensors, work.stage / WEIGHTS)
    card = ScorerCard(
        towers=TowersUsed(
            name=facts.name,  # type: ignore[arg-type]
            digests=facts.digests,
            licences=facts.licences,
            image_width=towers.image_width,
            text_width=towers.text_width,
        ),
        width=WIDTH,
        projections_sha256=digest_file(work.stage / WEIGHTS, ("sha256",)).sha256,
        pool_id=pool.id,
        trusted_sha256=digest_file(job.trusted, ("sha256",)).sha256,
        training=Training(
            pairs=len(rows),
            left_out=parts.left_out,
            epochs=job.epochs,
            batch=min(BATCH, len(rows)),
            learning_rate=LEARNING_RATE,
            weight_decay=WEIGHT_DECAY,
            seed=job.seed,
            last_loss=round(loss, 6) if np.isfinite(loss) else None,
            mean_similarity=round(_mean_similarity(projections, pairs.image[rows], text[rows]), 6),
        ),
        held_out=_held_out(similarity, job.seed),
    )
    write_json(work.stage / CARD, card.model_dump(mode="json"))
    (work.stage / "README.md").write_text(readme(card, near_bits=NEAR))
    _write_held_out(work.stage / HELD_OUT, pairs.uids[parts.held_out], similarity)
    if job.towers.startswith(LOCAL):
        copy_clip(job.towers, work.stage / CLIP)
    work.details.update(card.held_out.model_dump())
    dropped = {"held out": len(parts.held_out), **parts.left_out}
    return Counts(
        unit="pairs", read=len(trusted), kept=len(rows), dropped=dropped, invalid=dict(pairs.invalid)
    )


def _tell_invalid(pairs: _pairs.Pairs, trusted: int) -> None:
    lost = ", ".join(f"{count:,} {why}" for why, count in pairs.invalid.items())
    if not len(pairs):
        raise MissingInput(
            f"none of the {trusted:,} trusted uids is a pair: {lost}",
            hint="--shards names the folder of tars whose json members carry the pool's uids",
        )
    if lost:
        say("warning", f"of {trusted:,} trusted uids {sum(pairs.invalid.values()):,} are no pair: {lost}")


def _mean_similarity(projections: Projections, image: Any, text: Any) -> float:
    products = np.einsum("ij,ij->i", projections.pictures(image), projections.texts(text), dtype=np.float64)
    return float(products.mean())


def _held_out(similarity: npt.NDArray[np.float64], seed: int) -> HeldOut:
    found: dict[str, Any] = _tower_metrics.measure(similarity, seed=seed)
    return HeldOut(
        pairs=len(similarity),
        resamples=_tower_metrics.RESAMPLES,
        confidence=_tower_metrics.CONFIDENCE,
        mean_similarity=round(float(np.diag(similarity).mean()), 6),
        **{name: Estimate(**facts) for name, facts in found.items()},
    )


def _write_held_out(path: Path, uids: npt.NDArray[np.uint64], similarity: npt.NDArray[np.float64]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table(
        {
            "uid": pa.array(to_hex(uids), pa.string()),
            "image_to_text_rank": pa.array(_tower_metrics.ranks(similarity), pa.int32()),
            "text_to_image_rank": pa.array(_tower_metrics.ranks(similarity.T), pa.int32()),
            "similarity": pa.array(np.diag(similarity).astype(np.float32)),
        }
    )
    pq.write_table(table, path, compression="zstd", compression_level=1)
