"""Robustness: zero-shot accuracy on pictures that are corrupted, as a whole or in patches, at five strengths.

Two published studies of vision transformers, on the task's own pictures: common corruptions (train/_corruptions.py) and
perturbed patches (train/_patches.py); both docstrings say what is published and what is ours. A picture is corrupted as
the model sees it: after resizing and cropping to the model's size, before normalisation. The random numbers of one
picture come from the evaluation's seed, its key and the corruption, so all runs see the same corrupted pictures.

Options: `corruptions` (names; default: the 15 common ones, patch_drop and patch_shuffle; patch_NAME for any common
one), `strengths` (default 1 to 5), `limit` (only so many pictures, those with the smallest SHA-256 of their key;
default all), `patches` (how many of 196 patches patch_NAME corrupts; default 49). Cost: pictures x (1 + corruptions x
strengths) forward passes.

Main metric: mean_corrupted_acc1, the mean over all corruptions and strengths (errors are not divided by those of
another model, as mCE does: every run would need AlexNet's). Beside it: clean_acc1 on the same pictures, relative_acc1 =
corrupted / clean (null if clean is 0), common_acc1 and patch_acc1 (means of either kind), acc1_strength_S, acc1_NAME,
acc1_NAME_S. The standard error is over pictures, each with all of its corruptions, which are not independent draws.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from headwater.errors import HeadwaterError, UsageError, nearest
from train import _corruptions, _patches, metrics
from train._evalcheck import check_options, check_prompts, check_split, check_type
from train.evaldata import Encoder, TaskData, encode_pictures, in_order
from train.evals.zeroshot import classify, head
from train.results import TaskResult

if TYPE_CHECKING:
    from PIL.Image import Image

    from train.suite import Task

FAMILY = "robustness"
VERSION = 1
DEFAULT = (*_corruptions.NAMES, "patch_drop", "patch_shuffle")
KNOWN = (*_corruptions.NAMES, *_patches.NAMES)
MAIN = "mean_corrupted_acc1"
METRICS = (MAIN, "clean_acc1", "relative_acc1")
CHUNK = 128  # pictures whose corrupted features are held at once

Pixels = NDArray[np.uint8]


def check(task: Task, folder: Path) -> None:
    """What `zeroshot` checks, and the options."""
    check_options(task, ("corruptions", "strengths", "limit", "patches"), (MAIN, "clean_acc1"))
    check_type(folder, FAMILY, "classification")
    _Options(task)
    check_split(task, folder, needs=("cls",), classes=check_prompts(folder))


def run(task: TaskData, model: Encoder, *, seed: int, workers: int) -> TaskResult:
    """Figures of the test split; examples carry `clean_correct` and `score`, the share of right answers among the corrupted."""
    options = _Options(task.task)
    cases = [(name, strength) for name in options.corruptions for strength in options.strengths]
    classes = head(task, model)
    eye = _Eye(model)
    chosen = _chosen(task, options.limit)
    keys: list[str] = []
    labels: list[int] = []
    rights: list[NDArray[np.bool_]] = []

    def views(item: tuple[str, Pixels]) -> list[Pixels]:
        key, pixels = item
        return [pixels, *(_changed(pixels, name, s, seed, key, options.patches) for name, s in cases)]

    seen = _entries(task, chosen)
    while chunk := list(islice(seen, CHUNK)):
        from PIL.Image import fromarray

        shown = [(key, eye.look(picture)) for key, _, picture in chunk]
        pictures = (fromarray(view) for group in in_order(views, shown, workers) for view in group)
        total = len(chunk) * (1 + len(cases))
        description = f"corrupt {task.folder.name} from {len(keys):,}"
        features = encode_pictures(model, pictures, workers=workers, description=description, total=total)
        truth = np.array([label for _, label, _ in chunk])
        predicted, _ = classify(features, np.repeat(truth, 1 + len(cases)), classes)
        rights.append(predicted.reshape(len(chunk), -1) == truth[:, None])
        keys += [key for key, _, _ in chunk]
        labels += truth.tolist()
    if not rights:
        raise HeadwaterError(f"{task.folder}: no picture is left to corrupt")
    right = np.concatenate(rights)
    clean, corrupted = right[:, 0], right[:, 1:].reshape(len(right), len(options.corruptions), -1)
    score = corrupted.mean(axis=(1, 2))
    found = _metrics(clean, corrupted, options)
    name = task.task.main_metric
    main = (
        metrics.mean_figure(clean if name == "clean_acc1" else score) if name else metrics.Figure(None, None)
    )
    return TaskResult(
        found,
        main.value,
        name,
        len(right),
        main.standard_error,
        1 / len(classes) if name else None,
        {
            "index": np.arange(len(right), dtype=np.int32),
            "key": keys,
            "score": (clean if name == "clean_acc1" else score).astype(np.float32),
            "clean_correct": clean,
            "label": np.array(labels, np.int32),
        },
    )


class _Options:
    """The task's options as values. Raises UsageError."""

    def __init__(self, task: Task) -> None:
        options = task.options
        self.corruptions: list[str] = options.get("corruptions", list(DEFAULT))
        self.strengths: list[int] = options.get("strengths", list(_corruptions.STRENGTHS))
        self.limit: int | None = options.get("limit")
        self.patches: int = options.get("patches", _patches.PATCHES)
        for name, values in (("corruptions", self.corruptions), ("strengths", self.strengths)):
            if not isinstance(values, list) or not values or any(values.count(value) > 1 for value in values):
                raise UsageError(f"task {task.key}: {name} must be a list without repeats, not {values!r}")
        for value in self.corruptions:
            if value not in KNOWN:
                raise UsageError(
                    f"task {task.key}: unknown corruption {value!r}: {nearest(str(value), KNOWN)}"
                )
        for strength in self.strengths:
            if type(strength) is not int or strength not in _corruptions.STRENGTHS:
                raise UsageError(f"task {task.key}: strength {strength!r} is none of 1 to 5")
        if self.limit is not None and (type(self.limit) is not int or self.limit < 1):
            raise UsageError(f"task {task.key}: limit must be a number of pictures, not {self.limit!r}")
        most = _patches.GRID**2
        if type(self.patches) is not int or not 1 <= self.patches <= most:
            raise UsageError(f"task {task.key}: patches must be 1 to {most}, not {self.patches!r}")


class _Eye:
    """What a model sees of a picture, as pixels: its transform with the normalisation undone.

    The normalisation is found by looking at black and at white, so nothing need be known of the model.
    """

    def __init__(self, model: Encoder) -> None:
        from PIL.Image import new

        self._transform = model.transform
        black, white = (
            np.asarray(model.transform(new("RGB", (256, 256), colour)), np.float64)
            for colour in ("black", "white")
        )
        if (
            black.ndim != 3
            or black.shape[0] != 3
            or black.shape[1] != black.shape[2]
            or np.any(white == black)
        ):
            raise HeadwaterError("the model's transform does not give a square picture of three channels")
        self._zero, self._span = black, white - black
        self._proven = False

    def look(self, picture: Image) -> Pixels:
        """side x side x 3. The transform gives for these pixels what it gives for the picture: proven on the first one."""
        from PIL.Image import fromarray

        wanted = np.asarray(self._transform(picture), np.float64)
        share = (wanted - self._zero) / self._span
        pixels = np.ascontiguousarray(np.rint(np.clip(share, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0))
        if not self._proven:
            again = np.asarray(self._transform(fromarray(pixels)), np.float64)
            if not np.allclose(again, wanted, atol=1e-4):
                raise HeadwaterError(
                    "the model's transform is no resizing, cropping and normalising, so no picture can be corrupted as it sees it"
                )
            self._proven = True
        return pixels


def _changed(pixels: Pixels, name: str, strength: int, seed: int, key: str, patches: int) -> Pixels:
    if name in _corruptions.NAMES:
        return _corruptions.corrupt(pixels, name, strength, seed=seed, key=key)
    return _patches.perturb(pixels, name, strength, seed=seed, key=key, patches=patches)


def _chosen(task: TaskData, limit: int | None) -> set[str] | None:
    """Keys of the pictures to take; None for all. Which they are depends on their names only, so it is the same for all runs."""
    if limit is None:
        return None
    keys = {item.key for item in task.read("test")}
    return set(sorted(keys, key=lambda key: hashlib.sha256(key.encode()).digest())[:limit])


def _entries(task: TaskData, chosen: set[str] | None) -> Iterator[tuple[str, int, Image]]:
    for item, picture in task.pictures("test"):
        if (chosen is None or item.key in chosen) and item.cls is not None:
            yield item.key, item.cls, picture


def _metrics(
    clean: NDArray[np.bool_], corrupted: NDArray[np.bool_], options: _Options
) -> dict[str, float | None]:
    """Figures of answers: pictures, and pictures x corruptions x strengths."""
    base, mean = float(clean.mean()), float(corrupted.mean())
    patchy = np.array([name.startswith("patch_") for name in options.corruptions])
    found: dict[str, float | None] = {
        MAIN: mean,
        "clean_acc1": base,
        "relative_acc1": mean / base if base else None,
        "common_acc1": float(corrupted[:, ~patchy].mean()) if not patchy.all() else None,
        "patch_acc1": float(corrupted[:, patchy].mean()) if patchy.any() else None,
    }
    for s, strength in enumerate(options.strengths):
        found[f"acc1_strength_{strength}"] = float(corrupted[:, :, s].mean())
    for c, name in enumerate(options.corruptions):
        found[f"acc1_{name}"] = float(corrupted[:, c].mean())
        for s, strength in enumerate(options.strengths):
            found[f"acc1_{name}_{strength}"] = float(corrupted[:, c, s].mean())
    return found
