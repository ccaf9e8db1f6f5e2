"""The README.md of a trained scorer: what it is, what it learnt from, what it scores on held-out pairs, and where its use ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from curate._tower_records import Estimate, ScorerCard

_NAMES = (
    ("image_to_text_r1", "picture to caption, R@1"),
    ("image_to_text_r5", "picture to caption, R@5"),
    ("image_to_text_r10", "picture to caption, R@10"),
    ("text_to_image_r1", "caption to picture, R@1"),
    ("text_to_image_r5", "caption to picture, R@5"),
    ("text_to_image_r10", "caption to picture, R@10"),
)


def readme(card: ScorerCard, *, near_bits: int) -> str:
    """The model card as Markdown."""
    held, training, scores = card.held_out, card.training, card.scores
    rows = [f"| {label} | {_percent(getattr(held, name))} |" for name, label in _NAMES]
    auc = held.auc
    rows.append(
        f"| AUC, true against wrong captions | {auc.value:.3f} | {auc.low:.3f} to {auc.high:.3f} | {auc.chance:g} |"
    )
    left = "".join(f"\n- {count:,} left out: {reason}" for reason, count in training.left_out.items())
    towers = "".join(
        f"\n- {role}: sha256 `{sha256}`"
        + (f", {card.towers.licences[role]}" if role in card.towers.licences else "")
        for role, sha256 in sorted(card.towers.digests.items())
    )
    others = [text for role, text in card.towers.licences.items() if role not in card.towers.digests]
    towers += "".join(f"\n- licence of the towers: {text}" for text in others)
    if scores.mean_score_out_of_fold is None:
        ranking = (
            f"- One fold: pairs that it was trained on score {scores.mean_score_seen:.2f} on average, held-out ones of the same kind "
            f"{scores.mean_score_held_out:.2f}. Do not rank the one among the other."
        )
        means = ""
    else:
        ranking = "- A row that shares its caption with one fold and its picture with another is scored by projections that know each half."
        means = f"""
## Rows that it was trained on

{training.folds} projections were trained, each without one fold of the pairs; equal captions and equal or nearly equal pictures share
a fold. A row with the uid, the caption or nearly the picture of a trained pair is scored by the projections that did not see it,
every other row by all together.

| true pairs | mean score | standard deviation |
| --- | --- | --- |
| trained, by the projections that did not see them | {scores.mean_score_out_of_fold:.3f} | {scores.deviation_out_of_fold:.3f} |
| held out | {scores.mean_score_held_out:.3f} | {scores.deviation_held_out:.3f} |
| trained, by those that did (never used) | {scores.mean_score_seen:.3f} | |

Trained rows may be ranked among others as far as the first two lines are near each other.
"""
    return f"""# A two-tower scorer for image-text pairs

Says how well a caption fits a picture, from -1 to 1. Two frozen towers ({card.towers.name}), and projections to {card.width} numbers
trained on pairs that someone trusted. Made by `headwater score train`; used by

    headwater score two_tower POOL --shards SHARDS --scorer THIS_FOLDER

## Trained on

- pool `{card.pool_id}`, trusted subset sha256 `{card.trusted_sha256}`
- {training.pairs:,} pairs in {training.folds} fold{"s" if training.folds > 1 else ""}, {training.epochs} epochs, batch {training.batch}, seed {training.seed}; `trained.parquet` names them
- {held.pairs:,} pairs held out before anything else; `held_out.parquet` names them{left}

No held-out caption and no held-out picture, nor one within {near_bits} of 64 bits of a difference hash, was trained on.

## On the {held.pairs:,} held-out pairs

| measure | value | {held.confidence:.0%} interval | chance |
| --- | --- | --- | --- |
{chr(10).join(rows)}

Recall among the {held.pairs:,} held-out pairs; a tie counts against the scorer. AUC over all wrong pairs. Intervals: percentile
bootstrap over pairs, {held.resamples:,} resamples; they do not hold the luck of the training seed or of the choice of pairs.
{means}
## Limits

- The held-out pairs are of the trusted kind. How well untrusted pairs are told apart is not measured by them.
{ranking}
- It knows what the trusted pairs show. Pictures and words of another kind get scores that mean little.
- A score is comparable with others of this scorer only; thresholds do not carry over from CLIP.

## Towers and licences
{towers}

The licence of the projections is for whoever trained them to state: it depends on the trusted pairs.
"""


def _percent(estimate: Estimate) -> str:
    shown = f"{estimate.value:.1%} | {estimate.low:.1%} to {estimate.high:.1%} | {estimate.chance:.1%}"
    return shown.replace("%", " %")
