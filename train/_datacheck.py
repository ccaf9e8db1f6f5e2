"""The verdict on training shards: what is refused, what is said, and what to do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headwater.console import say
from headwater.errors import BadInputs, IntegrityError, UsageError

if TYPE_CHECKING:
    from train.preflight import DataScan

# reason: what one and what many are called, and for tars what to do
_TARS = {
    "damaged_tar": (
        "damaged tar",
        "damaged tars",
        "fetch or pack the tar again, or move it out of the folder",
    ),
    "compressed_tar": ("compressed tar", "compressed tars", "unpack it first"),
    "wrong_order": (
        "sample whose members are not side by side",
        "samples whose members are not side by side",
        "pack the tar again with the members of a sample side by side, as tar --sort=name does",
    ),
}
_SAMPLES = {
    "no_image": ("sample without a picture", "samples without a picture"),
    "no_caption": ("sample without a caption", "samples without a caption"),
    "undecodable": ("picture that cannot be decoded", "pictures that cannot be decoded"),
    "too_large": ("picture or caption beyond the limits", "pictures or captions beyond the limits"),
    "other": ("caption that is not UTF-8", "captions that are not UTF-8"),
}
_NOTED = {
    "empty_caption": ("empty caption", "empty captions"),
    "two_images": ("sample with two pictures", "samples with two pictures"),
    "duplicate_key": ("key that occurs again in its tar", "keys that occur again in their tars"),
    "link_member": ("member that is a link, passed over", "members that are links, passed over"),
    "no_end_mark": ("tar without an end mark", "tars without an end mark"),
    "empty_shard": ("tar without a usable sample", "tars without a usable sample"),
}
_WORDS = {**{reason: words[:2] for reason, words in _TARS.items()}, **_SAMPLES, **_NOTED}
BAD_TARS, BAD_SAMPLES, NOTED = tuple(_TARS), tuple(_SAMPLES), tuple(_NOTED)
REASONS = BAD_TARS + BAD_SAMPLES + NOTED

UNEQUAL = 1.1  # largest over smallest shard: told from here on
TOLD = 3  # examples in a message


def check_data(
    scan: DataScan,
    *,
    min_shards: int,
    world: int,
    loader_workers: int,
    resampled: bool,
    global_batch: int,
    samples_needed: int,
    allow_invalid: bool,
) -> None:
    """Refuse shards that a training would fail or lie on; say what is odd but works.

    Raises IntegrityError for tars that are damaged, compressed or in the wrong order, UsageError for too few samples or shards (as
    the recipe asks for, and one for each loader worker of each process where shards are not drawn with replacement), BadInputs for
    samples that would have to be left out, unless `allow_invalid`.
    """
    _check_tars(scan)
    trainable = scan.usable - scan.bad
    if trainable < max(global_batch, 1):
        raise UsageError(
            f"{trainable:,} trainable samples are fewer than one batch of {global_batch:,}",
            hint=_most_common(scan) or "add shards, or take a recipe with a smaller batch",
        )
    filled = sum(1 for shard in scan.shards if shard.usable)
    _check_shards(scan, filled, min_shards, world, 0 if resampled else max(1, loader_workers))
    _check_samples(scan, allow_invalid)
    for text in scan.warnings:
        say("warning", text)
    for reason in NOTED:
        if reason in scan.problems:
            say("warning", _counted(scan, reason))
    unequal = scan.unequal
    if resampled and unequal is not None and unequal.ratio >= UNEQUAL:
        say(
            "warning",
            f"shards are unequal: {unequal.smallest} has {unequal.smallest_usable:,} usable samples, {unequal.largest} "
            f"{unequal.largest_usable:,}; shards are drawn uniformly, so a sample of the smaller one is seen "
            f"{unequal.ratio:.1f} times as often",
        )
    for text in scan.notes:
        say("info", text)
    say(
        "info",
        f"{trainable:,} samples in {_shards(filled)}; each is seen {samples_needed / trainable:.2f} times on average",
    )


def _check_tars(scan: DataScan) -> None:
    found = [reason for reason in BAD_TARS if reason in scan.problems]
    if found:
        text = "; ".join(_counted(scan, reason) for reason in found)
        raise IntegrityError(text, hint=_TARS[found[0]][2])


def _check_shards(scan: DataScan, filled: int, min_shards: int, world: int, loaders: int) -> None:
    if filled < world * loaders:
        if filled >= world:
            instead = f"take at most {filled // world} loader workers (--workers {filled // world})"
        else:
            instead = f"take at most {filled} processes"
        raise UsageError(
            f"{_shards(filled)} with samples, but {world:,} processes x {loaders:,} loader workers = {world * loaders:,} read "
            f"side by side, each from shards of its own",
            hint=f"{_cut(scan, world * loaders)}, or {instead}",
        )
    if filled < min_shards:
        raise UsageError(
            f"{_shards(filled)} with samples, but the recipe asks for at least {min_shards:,}",
            hint=_cut(scan, min_shards),
        )


def _check_samples(scan: DataScan, allow_invalid: bool) -> None:
    found = [reason for reason in BAD_SAMPLES if reason in scan.problems]
    if not found:
        return
    text = "; ".join(_counted(scan, reason) for reason in found)
    if scan.sampled_bad:
        share = scan.sampled_bad / scan.sampled
        text += (
            f"; of {scan.sampled:,} pictures decoded as a sample {scan.sampled_bad:,} failed: of all {scan.usable:,} "
            f"about {share:.1%} may"
        )
    if not allow_invalid:
        raise BadInputs(f"nothing was started: {text}", hint="--allow-invalid goes on without them")
    say("warning", f"left out: {text}")


def _counted(scan: DataScan, reason: str) -> str:
    """'2 pictures that cannot be decoded (00000000.tar: 000012: what; …)'."""
    count, cases = scan.problems[reason], scan.examples[reason][:TOLD]
    told = "; ".join(f"{case.shard}: {case.key + ': ' if case.key else ''}{case.detail}" for case in cases)
    more = f"; and {count - len(cases):,} more" if count > len(cases) else ""
    return f"{count:,} {_WORDS[reason][count != 1]} ({told}{more})"


def _most_common(scan: DataScan) -> str | None:
    found = [reason for reason in BAD_SAMPLES if reason in scan.problems]
    return _counted(scan, max(found, key=lambda reason: scan.problems[reason])) if found else None


def _cut(scan: DataScan, wanted: int) -> str:
    size = max(1, scan.usable // wanted)
    return (
        f"cut them smaller (headwater reshard --shard-size {size} gives {_shards(-(-scan.usable // size))})"
    )


def _shards(count: int) -> str:
    return f"{count:,} shard" if count == 1 else f"{count:,} shards"
