"""`headwater score train`: a two-tower scorer fitted on pairs that the user trusts, for a pool that nobody has looked through.

The idea of data filtering networks (arXiv 2309.17425): a small set of good pairs teaches a model which pairs of a large pool are good.
Here the towers are frozen and two small projections are trained (curate._tower_fit), once without each fold of the pairs, so that
no row is scored by what has learnt it by heart (curate._tower_folds). SCORER is a folder:

    projections.safetensors   the trained tensors, fold0.image.0.weight …: those of fold0 were fitted without fold 0
    trained.parquet           the pairs that were trained on: uid, fold, hashes of caption and picture
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
from typing import Any

import numpy as np
import numpy.typing as npt

from curate import _pairs, _tower_metrics
from curate._tower_fit import BATCH, LEARNING_RATE, WEIGHT_DECAY, WIDTH, Half, Projections, fit, one_thread
from curate._tower_folds import (
    Ensemble,
    Trained,
    Use,
    aligned,
    caption_hash,
    read_ensemble,
    read_trained,
    write_trained,
)
from curate._tower_records import (
    CARD,
    MAX_CARD_BYTES,
    MOST_FOLDS,
    TRAINED,
    WEIGHTS,
    Estimate,
    HeldOut,
    ScorerCard,
    Scores,
    TowersUsed,
    Training,
    read_card,
)
from curate._tower_split import NEAR, Ints, Split, folds, split
from curate.pool import CACHE_NAME, Pool
from curate.resharding import Layout, open_shards, shards_id
from curate.subset import load_words, to_hex, unique
from curate.towers import LOCAL, TowerFacts, copy_clip, describe_towers, open_towers
from headwater.console import say
from headwater.errors import IntegrityError, MissingInput, UsageError
from headwater.files import write_json
from headwater.hashing import DigestCache, digest_file
from headwater.manifest import Counts, InputRef
from headwater.steps import Outcome, Plan, RunOptions, Work, check_output, run_step

__all__ = [
    "CARD",
    "CLIP",
    "HELD_OUT",
    "MAX_CARD_BYTES",
    "TRAINED",
    "WEIGHTS",
    "Job",
    "LoadedScorer",
    "ScorerCard",
    "load_scorer",
    "plan_training",
    "read_card",
    "towers_of",
    "train_scorer",
]

STEP = "score train"
VERSION = 1
HELD_OUT, CLIP = "held_out.parquet", "clip"
LEAST_TRAINING = 16  # pairs that any one model is fitted on
MAX_WEIGHTS_BYTES = 1 << 30


@dataclass(frozen=True)
class Job:
    """What to train: the options of the command."""

    shards: Path
    trusted: Path
    output: Path
    towers: str = "lite0+minilm"
    held_out: int = 500
    epochs: int = 20
    seed: int = 0
    device: str = "cpu"
    folds: int = 5


@dataclass(frozen=True)
class LoadedScorer:
    """A scorer from its folder: projections of all folds, what they were trained on, its card, what to give to `open_towers`."""

    card: ScorerCard
    projections: Ensemble
    trained: Trained
    towers: str


def plan_training(pool: Pool, job: Job, *, distrust_cache: bool = False) -> tuple[Plan, TowerFacts]:
    """The Step that these inputs are; raises what is wrong with them before a picture is read."""
    check_output(job.output, "folder")
    if job.held_out < 2 or job.epochs < 1 or not 0 <= job.seed < 1 << 63:
        raise UsageError("--held-out is at least 2, --epochs at least 1, --seed not negative")
    if not 1 <= job.folds <= MOST_FOLDS:
        raise UsageError(f"--folds {job.folds}: from 1 to {MOST_FOLDS}")
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
    config = {"towers": facts.name, "held_out": job.held_out, "epochs": job.epochs, "folds": job.folds}
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
    for name, sha256 in ((WEIGHTS, card.projections_sha256), (TRAINED, card.trained_sha256)):
        if digest_file(folder / name, ("sha256",)).sha256 != sha256:
            raise IntegrityError(
                f"{folder / name}: is not the file that {CARD} names", hint="fetch or train it again"
            )
    models = card.training.folds
    tensors = read_weights(folder / WEIGHTS, limit_bytes=MAX_WEIGHTS_BYTES)
    projections = read_ensemble(tensors, models, card.towers.image_width, card.towers.text_width)
    return LoadedScorer(card, projections, read_trained(folder / TRAINED, models), towers_of(folder, card))


def towers_of(folder: Path, card: ScorerCard) -> str:
    """What to give to `open_towers`; nothing is loaded. Raises MissingExtra, and IntegrityError when they are not those of the card."""
    towers = card.towers.name if card.towers.name != "local-dir" else f"{LOCAL}{folder / CLIP}"
    if describe_towers(towers).digests != card.towers.digests:
        raise IntegrityError(
            f"{folder}: was trained on other towers than those that are here ({towers})",
            hint="the same weights are needed: see the digests in scorer.json",
        )
    return towers


def _train(pool: Pool, job: Job, facts: TowerFacts, work: Work) -> Counts:
    from curate._tower_card import readme
    from headwater.weights import write_weights

    trusted = unique(load_words(job.trusted))
    towers = open_towers(job.towers, device=job.device)
    digests = DigestCache(job.shards, job.shards / CACHE_NAME)
    pairs = _pairs.read_pairs(pool, trusted, open_shards(job.shards, Layout()), digests, facts, towers)
    _tell_invalid(pairs, len(trusted))
    parts = split(pairs, job.held_out, job.seed)
    fold = folds(pairs, parts, job.folds, job.seed)
    _check_parts(job, len(trusted), pairs, parts, fold)
    text = towers.texts(pairs.captions)
    rows = parts.training
    image_rows, text_rows = pairs.image[rows], text[rows]
    with one_thread():
        ensemble, loss = _fit_folds(image_rows, text_rows, parts.captions[rows], fold, job)
        images = ensemble.pictures(pairs.image[parts.held_out]).astype(np.float64)
        similarity = images @ ensemble.texts(text[parts.held_out]).astype(np.float64).T
        scores = _scores(ensemble, image_rows, text_rows, fold, np.diag(similarity))
    write_weights(ensemble.tensors, work.stage / WEIGHTS)
    hashes = np.array([caption_hash(pairs.captions[row]) for row in rows.tolist()], np.uint64)
    trained = Trained(pairs.uids[rows], fold, hashes, pairs.hashes[rows], job.folds)
    write_trained(work.stage / TRAINED, trained)
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
        trained_sha256=digest_file(work.stage / TRAINED, ("sha256",)).sha256,
        pool_id=pool.id,
        trusted_sha256=digest_file(job.trusted, ("sha256",)).sha256,
        training=Training(
            pairs=len(rows),
            left_out=parts.left_out,
            folds=job.folds,
            epochs=job.epochs,
            batch=min(BATCH, len(rows)),
            learning_rate=LEARNING_RATE,
            weight_decay=WEIGHT_DECAY,
            seed=job.seed,
            last_loss=round(loss, 6) if np.isfinite(loss) else None,
        ),
        scores=scores,
        held_out=_held_out(similarity, job.seed),
    )
    write_json(work.stage / CARD, card.model_dump(mode="json"))
    (work.stage / "README.md").write_text(readme(card, near_bits=NEAR))
    _write_held_out(work.stage / HELD_OUT, pairs.uids[parts.held_out], similarity)
    if job.towers.startswith(LOCAL):
        copy_clip(job.towers, work.stage / CLIP)
    work.details.update({**card.held_out.model_dump(), "scores": card.scores.model_dump()})
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


def _check_parts(job: Job, trusted: int, pairs: _pairs.Pairs, parts: Split, fold: Ints) -> None:
    left = len(parts.training)
    sizes = np.bincount(fold, minlength=job.folds)
    least = left - int(sizes.max()) if job.folds > 1 else left
    if len(parts.held_out) < job.held_out or least < LEAST_TRAINING:
        without = f", {least:,} without the largest of {job.folds} folds" if job.folds > 1 else ""
        raise UsageError(
            f"{job.trusted}: of {trusted:,} trusted uids {len(pairs):,} are pairs; held out {len(parts.held_out):,} of "
            f"{job.held_out:,}, left to train on {left:,}{without} (at least {LEAST_TRAINING} are needed)",
            hint="trust more rows, or give a smaller --held-out",
        )
    if not sizes.all():
        raise UsageError(
            f"--folds {job.folds}: the pairs to train on are {int((sizes > 0).sum())} groups of like ones",
            hint="give fewer folds, or trust rows that differ more",
        )


def _fit_folds(image: Half, text: Half, captions: Ints, fold: Ints, job: Job) -> tuple[Ensemble, float]:
    """One model without each fold (one of all pairs with a single fold), in one space; and their mean last loss."""
    models: list[Projections] = []
    losses = []
    for number in range(job.folds):
        seen = fold != number if job.folds > 1 else np.ones(len(fold), bool)
        title = f"train projections {number + 1} of {job.folds}"
        model, loss = fit(
            image[seen], text[seen], captions[seen], epochs=job.epochs, seed=job.seed, title=title
        )
        models.append(model)
        losses.append(loss)
    return aligned(models, image, text), float(np.mean(losses))


def _scores(
    ensemble: Ensemble, image: Half, text: Half, fold: Ints, held_out: npt.NDArray[np.float64]
) -> Scores:
    several = len(ensemble.models) > 1
    unseen = fold[:, None] == np.arange(len(ensemble.models))
    seen = _own_scores(ensemble, image, text, ~unseen if several else unseen)
    out_of_fold = _own_scores(ensemble, image, text, unseen) if several else None
    return Scores(
        mean_score_out_of_fold=None if out_of_fold is None else round(float(out_of_fold.mean()), 6),
        mean_score_held_out=round(float(held_out.mean()), 6),
        mean_score_seen=round(float(seen.mean()), 6),
        deviation_out_of_fold=None if out_of_fold is None else round(float(out_of_fold.std()), 6),
        deviation_held_out=round(float(held_out.std()), 6),
    )


def _own_scores(ensemble: Ensemble, image: Half, text: Half, use: Use) -> npt.NDArray[np.float64]:
    pictures, texts = ensemble.pictures(image, use), ensemble.texts(text, use)
    return np.asarray(np.einsum("ij,ij->i", pictures, texts, dtype=np.float64), np.float64)


def _held_out(similarity: npt.NDArray[np.float64], seed: int) -> HeldOut:
    found: dict[str, Any] = _tower_metrics.measure(similarity, seed=seed)
    return HeldOut(
        pairs=len(similarity),
        resamples=_tower_metrics.RESAMPLES,
        confidence=_tower_metrics.CONFIDENCE,
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
