"""Retrieval in both directions: is one right picture (or caption) among the first k, right meaning the same group.

Captions that are equal strings are one group; pictures are one group where npy or json says so (key `group`), else where
their bytes are equal. Picture and caption belong together when a picture of its group came with a caption of that group: so a
correct duplicate counts as right. (Nothing is chained further: sharing one caption does not make two pictures equal.)
Metrics, for k of 1, 5 and 10: text_retrieval_recall@k (picture to text), image_retrieval_recall@k (text to picture) and
mean_recall@k, their mean, of which k = 1 is DataComp's main metric. The same with `_by_index` take only the caption that came
with the picture, as clip-benchmark does. The gallery holds every item, duplicates too; ties: the lower index.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from train import metrics
from train._evalcheck import check_options, check_split, check_type
from train.evaldata import Encoder, ImageSet, TaskData
from train.results import TaskResult

if TYPE_CHECKING:
    from train.suite import Task

FAMILY = "retrieval"
VERSION = 1
KS = (1, 5, 10)
DIRECTIONS = ("text_retrieval_recall", "image_retrieval_recall", "mean_recall")
METRICS = tuple(f"{name}@{k}{how}" for how in ("", "_by_index") for name in DIRECTIONS for k in KS)

Ints = NDArray[np.int64]


def check(task: Task, folder: Path) -> None:
    """A set of type retrieval, at least one caption for every picture, the declared size (pictures)."""
    check_options(task, (), METRICS)
    check_type(folder, FAMILY, "retrieval")
    check_split(task, folder, needs=("txt",))


def run(task: TaskData, model: Encoder, *, seed: int, workers: int) -> TaskResult:
    """Figures of the test split, n being pictures.

    One row a picture: with P pictures and T captions, its score is half its own hit plus half of P/T times the hits of its
    captions, so that the mean of the scores is the mean of both recalls, and the error of that mean keeps the captions of
    one picture together.
    """
    images = task.image_features(model, "test")
    captions = [caption for lines in images.captions for caption in lines]
    owner = np.repeat(np.arange(len(images)), [len(lines) for lines in images.captions])
    texts = task.text_features(model, captions)
    picture_group = image_groups(images)
    right = {
        "": group_positives(owner, picture_group, _number(captions)),
        "_by_index": group_positives(owner, np.arange(len(images)), np.arange(len(captions))),
    }
    of_images = metrics.best_positive_ranks(images.features, texts, *(one for one, _ in right.values()))
    of_texts = metrics.best_positive_ranks(texts, images.features, *(two for _, two in right.values()))
    ranks = dict(zip(right, zip(of_images, of_texts, strict=True), strict=True))
    found: dict[str, float | None] = {}
    for how, (to_text, to_image) in ranks.items():
        for k in KS:
            one, two = metrics.mean_figure(to_text < k).value, metrics.mean_figure(to_image < k).value
            found[f"text_retrieval_recall@{k}{how}"], found[f"image_retrieval_recall@{k}{how}"] = one, two
            found[f"mean_recall@{k}{how}"] = None if one is None or two is None else (one + two) / 2
    name = task.task.main_metric
    how = "_by_index" if name and name.endswith("_by_index") else ""
    k = int(name.removesuffix(how).partition("@")[2]) if name else 1
    shares = _shares(name)
    scores = _per_image(ranks[how], owner, k, shares)
    return TaskResult(
        {metric: found[metric] for metric in METRICS},
        found[name] if name else None,
        name,
        len(images),
        metrics.mean_figure(scores).standard_error if name else None,
        _chance(right[how], len(images), len(captions), k, shares) if name else None,
        {
            "index": np.arange(len(images), dtype=np.int32),
            "key": images.keys,
            "score": scores.astype(np.float32),
            "rank_text": ranks[how][0].astype(np.int32),
            "captions": np.bincount(owner, minlength=len(images)).astype(np.int32),
            "hits_image": np.bincount(owner, ranks[how][1] < k, minlength=len(images)).astype(np.int32),
            "image_group": picture_group.astype(np.int32),
        },
    )


def image_groups(images: ImageSet) -> Ints:
    """A group number for each picture: what npy (one number) or json (`group`) says, else its bytes."""
    names = []
    for npy, meta, sha256 in zip(images.npy, images.meta, images.sha256, strict=True):
        if npy is not None and npy.size == 1 and npy.dtype.kind in "iu":
            names.append(f"npy:{int(npy.reshape(()))}")
        elif meta is not None and isinstance(meta.get("group"), str | int):
            names.append(f"json:{meta['group']}")
        else:
            names.append(f"sha256:{sha256}")
    return _number(names)


@dataclass(frozen=True)
class Positives:
    """What is right for each query, put together when it is asked for: lists for every query could need their square."""

    group: Ints  # of each query
    partners: list[Ints]  # query group -> gallery groups that are right for it
    members: list[Ints]  # gallery group -> its rows

    def __call__(self, query: int) -> Ints:
        """Gallery rows that are right for a query."""
        return np.concatenate([self.members[other] for other in self.partners[self.group[query]]])

    def counts(self) -> Ints:
        """How many rows are right for each query."""
        sizes = np.array([len(rows) for rows in self.members])
        return np.array([int(sizes[others].sum()) for others in self.partners])[self.group]


def group_positives(owner: Ints, picture_group: Ints, caption_group: Ints) -> tuple[Positives, Positives]:
    """(captions right for each picture, pictures right for each caption); `owner` is the picture of each caption."""
    groups, texts = int(picture_group.max()) + 1, int(caption_group.max()) + 1
    pairs = np.unique(picture_group[owner] * texts + caption_group)
    of_group, of_text = pairs // texts, pairs % texts
    pictures_in = _lists(picture_group, np.arange(len(picture_group)), groups)
    captions_in = _lists(caption_group, np.arange(len(owner)), texts)
    return (
        Positives(picture_group, _lists(of_group, of_text, groups), captions_in),
        Positives(caption_group, _lists(of_text, of_group, texts), pictures_in),
    )


def _shares(name: str | None) -> tuple[float, float]:
    """How much picture-to-text and text-to-picture weigh in a metric."""
    if name and name.startswith("text_"):
        return 1.0, 0.0
    return (0.0, 1.0) if name and name.startswith("image_") else (0.5, 0.5)


def _per_image(
    ranks: tuple[Ints, Ints], owner: Ints, k: int, shares: tuple[float, float]
) -> NDArray[np.float64]:
    pictures = len(ranks[0])
    hits = np.bincount(owner, ranks[1] < k, minlength=pictures)
    scores: NDArray[np.float64] = shares[0] * (ranks[0] < k) + shares[1] * hits * (pictures / len(owner))
    return scores


def _chance(
    right: tuple[Positives, Positives], pictures: int, texts: int, k: int, shares: tuple[float, float]
) -> float:
    of_images = metrics.chance_top_k(right[0].counts(), texts, k)
    of_texts = metrics.chance_top_k(right[1].counts(), pictures, k)
    return float(shares[0] * of_images.mean() + shares[1] * of_texts.mean())


def _number(names: Sequence[str]) -> Ints:
    """Equal names to equal numbers, in order of first appearance."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int64)


def _lists(keys: Ints, values: Ints, count: int) -> list[Ints]:
    """For each key below `count` its values."""
    order = np.argsort(keys, kind="stable")
    found: list[Any] = np.split(values[order], np.searchsorted(keys[order], np.arange(1, count)))
    return found
