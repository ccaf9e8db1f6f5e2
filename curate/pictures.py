"""Scorers of pictures: every sample of a folder of shards is given to the scorer, and its answers go to the rows of the pool by uid.

A scorer of scope "pictures" is a file of curate/scores with

    SCOPE = "pictures"
    PROCESSES = "many"    (the default: tars are spread over worker processes) or "one" (a model that is loaded once, here)
    BATCH = 64            pictures that are given together, at most
    CAPTIONS = False      True, or a function of the Config: `Picture.caption_of_pool` is filled in (the pool's column `text`)
    Config                with `shards: Path | None`, the folder of webdataset tars (or one tar)
    ARRAYS(config)        optional: array -> (width, dtype); rows of features, returned beside the columns as (n, width)
    class Scorer:
        identity: dict[str, str]
        def score_pictures(self, batch: list[Picture]) -> dict[str, array]

`score_pictures` gives one row a picture. Where the first column is null (or NaN) the row has no score; the reason is the status
of a picture that could not be opened, else "no score". A column may hold numbers for pictures that do not open (their status).
Arrays become POOL/.headwater/features/<scorer>-<id8>/<shard>.npz in DataComp's layout: rows of zeros without a picture. Those of one
name replace each other; `features_are_there` says whether the files are those of given scores.

The answers for one tar are kept under POOL/.headwater/pictures, by its digest: what was done is not done again, after a kill or
when tars are added. They may be deleted at any time. A uid that occurs twice is that of the first by (tar name, place).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curate import _picture_answers as answers
from curate import _picture_gather as gather
from curate import _picture_join as join
from curate import _picture_tars as tars
from curate._picture_decode import STATUSES, PictureError
from curate._picture_gather import features_are_there
from curate._picture_tars import Picture, Tar
from curate.pooldata import PoolData
from curate.sidecars import ScorerRef
from headwater.console import say, track
from headwater.errors import UsageError
from headwater.files import remove_stale_temporaries

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = [
    "features_are_there",
    "STATUSES",
    "Located",
    "Picture",
    "PictureError",
    "inputs_of",
    "locate",
    "score_pictures",
    "shards_of",
]


def shards_of(ref: ScorerRef) -> Path | None:
    """The folder of shards that a scorer is configured with."""
    return getattr(ref.settings, "shards", None)


def inputs_of(ref: ScorerRef) -> dict[str, str]:
    """Role -> id of the shards that the scorer reads: SHA-256 over (name, sha256) of the tars.

    Raises UsageError (no shards named) and MissingInput.
    """
    return {"shards": tars.shards_id(shards_of(ref))}


def score_pictures(data: PoolData) -> Iterator[dict[str, Any]]:
    """Columns of each shard of the pool, in order.

    Raises IntegrityError when a tar lies about its members or changes meanwhile. Notes: samples, repeated and unknown uids.
    """
    ref, cache = data.ref, data.pool.cache
    place = locate(data, shards_of(ref))
    listed, starts, joined = place.tars, place.starts, place.joined
    captions: list[Path | None] = [None] * len(listed)
    wanted = getattr(ref.module, "CAPTIONS", False)
    if wanted(ref.settings) if callable(wanted) else wanted:
        data.pool.column_type("text")
        captions = [*join.spill_captions(data, joined, starts)]
    folder = answers.answers_folder(cache, ref)
    folder.mkdir(parents=True, exist_ok=True)
    remove_stale_temporaries(folder)
    jobs = []
    for tar, texts in zip(listed, captions, strict=True):
        key = tar.sha256[:32] + ("" if texts is None else f"-{join.captions_digest(texts)[:16]}")
        jobs.append(answers.TarJob(answers.without_inputs(ref), tar, folder, place.index, key, texts))
    _answer(data, jobs)
    found = gather.Gather(data, jobs, starts)
    first = 0
    for shard in data.shards:
        sample = joined.sample[first : first + shard.rows]
        first += shard.rows
        found.write_features(shard, sample)
        yield found.columns(sample)


@dataclass(frozen=True)
class Located:
    """Where the pictures of a pool lie. Sample s is place s - starts[t] of tar t; `joined.sample` gives the sample of each row."""

    tars: list[Tar]
    starts: npt.NDArray[np.int64]
    index: Path
    joined: join.Joined


def locate(data: PoolData, shards: Path | None) -> Located:
    """Join the samples of a folder of tars to the rows of the pool; counts go into the notes."""
    listed = tars.list_tars(shards)
    index = data.pool.cache / tars.FOLDER / "index"
    starts = _index(data, listed, index)
    joined = join.join(data, (tars.samples_of(tar, index) for tar in listed), int(starts[-1]))
    data.note("samples", int(starts[-1]))
    for name, count in (("repeated uids", joined.repeated), ("uids not in the pool", joined.unknown)):
        if count:
            data.note(name, count)
            say("info", f"{count:,} samples: {name}")
    return Located(listed, starts, index, joined)


def _index(data: PoolData, listed: list[Tar], index: Path) -> npt.NDArray[np.int64]:
    """Where each tar's samples begin in the numbering of all; walks the tars that have no index."""
    import numpy as np

    counts, invalid, damaged = [], 0, []
    work = [(tar, index) for tar in listed]
    with track("list samples", total=len(work), unit="tars") as bar:
        for tar, (count, facts) in zip(listed, data.executor.map_shards(_list, work), strict=True):
            counts.append(count)
            invalid += sum(facts["invalid"].values())
            if facts["damage"]:
                damaged.append(tar.name)
                say("warning", f"{tar.name}: {facts['damage']['reason']}; the samples before it are read")
            bar.add(1)
    if invalid:
        data.note("samples without a uid", invalid)
    if damaged:
        data.note("damaged tars", damaged)
    return np.concatenate([[0], np.cumsum(np.array(counts, np.int64))])


def _list(work: tuple[Tar, Path]) -> tuple[int, dict[str, Any]]:
    samples = tars.samples_of(*work)
    return len(samples), samples.facts


def _answer(data: PoolData, jobs: list[answers.TarJob]) -> None:
    ref = data.ref
    force = bool(getattr(data.options, "force", False))
    todo = [job for job in jobs if force or not answers.is_answered(job)]
    seen = {job.key: job for job in todo}  # equal tars are read once
    data.note("tars read", len(seen))
    processes = getattr(ref.module, "PROCESSES", "many")
    if processes not in ("many", "one"):
        raise UsageError(f"scorer {ref.name}: PROCESSES is {processes!r}, neither 'many' nor 'one'")
    with track(f"read pictures for {ref.name}", total=None, unit="pictures") as bar:
        if processes == "one":
            for job in seen.values():
                answers.answer(job, ref.scorer, bar.add)
            return
        for count in data.executor.map_shards(answers.answer_tar, list(seen.values())):
            bar.add(count)
