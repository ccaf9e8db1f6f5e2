"""Linear probe: how well a linear classifier, trained on the frozen picture features, tells the classes apart.

Features are L2-normalised as everywhere and not standardised: a probe that rescaled each dimension would measure another space.

`protocol: exact` (the default): multinomial logistic regression solved to its minimum (train/_probe.py), weight decay chosen
from `decays` on a held-out fifth of the train split (stratified, drawn with the evaluation's seed), then fitted on all of it:
the sweep of Radford et al. 2021, arXiv 2103.00020, appendix A.3, with a fixed grid of decades.
`protocol: clip_benchmark`: the arithmetic of clip-benchmark 1.6.2 (AdamW, `learning_rate` 0.1, `epochs` 10, `batch` 64,
`weight_decay` 0, cosine), to compare figures with that program.

Metrics on the test split: acc1, acc5 (null below five classes), mean_per_class_recall, macro_f1; of the training: train_acc1,
weight_decay, held_out_acc1 (null without a choice), steps. A class without training examples is never predicted.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headwater.errors import HeadwaterError, UsageError, nearest
from train import metrics
from train._evalcheck import check_options, check_split, check_type
from train._probe import Linear, choose_decay, fit, fit_adamw
from train.evaldata import Encoder, ImageSet, TaskData, in_order, read_list
from train.evals.zeroshot import METRICS, figures_of
from train.results import TaskResult
from train.suite import CLASSNAMES

if TYPE_CHECKING:
    from train.suite import Task

FAMILY = "probe"
VERSION = 1
SPLITS = ("test", "train")
PROTOCOLS: dict[str, dict[str, Any]] = {
    "exact": {"decays": [10.0**-power for power in range(1, 9)]},
    "clip_benchmark": {"learning_rate": 0.1, "epochs": 10, "batch": 64, "weight_decay": 0.0},
}


def check(task: Task, folder: Path) -> None:
    """Both splits, labelled, their labels below the number of class names; options of the protocol, all positive."""
    protocol, _ = _settings(task)
    check_options(task, ("protocol", *PROTOCOLS[protocol]), METRICS)
    check_type(folder, FAMILY, "classification")
    classes = len(read_list(folder / CLASSNAMES))
    check_split(task, folder, needs=("cls",), classes=classes)
    check_split(task, folder, "train", needs=("cls",), classes=classes)
    if task.main_metric == "acc5" and classes < 5:
        raise UsageError(f"task {task.key}: acc5 says nothing with {classes} classes")


def run(task: TaskData, model: Encoder, *, seed: int, workers: int) -> TaskResult:
    """Figures of the test split; examples carry label, predicted class and the rank of the right one."""
    train, test = task.image_features(model, "train"), task.image_features(model, "test")
    device = str(getattr(model, "device", "cpu"))
    protocol, settings = _settings(task.task)

    def train_probe(data: ImageSet) -> tuple[Linear, float, float | None]:
        if protocol == "clip_benchmark":
            probe = fit_adamw(data.features, data.labels, seed=seed, device=device, **settings)
            return probe, settings["weight_decay"], None
        decay, accuracies = choose_decay(
            data.features, data.labels, settings["decays"], seed=seed, device=device
        )
        return fit(data.features, data.labels, decay, device=device), decay, accuracies[decay]

    # on one thread, as everything that must not depend on how many there are
    probe, decay, chosen_at = next(iter(in_order(train_probe, [train], 1)))
    if not np.isfinite(probe.weights).all():
        raise HeadwaterError(
            f"task {task.task.key}: the probe's weights are no numbers", hint="lower learning_rate"
        )

    classes = len(task.classnames)
    scores = probe.logits(test.features, classes)
    predicted = scores.argmax(axis=1).astype(np.int32)
    ranks = metrics.class_ranks(scores, test.labels)
    figures, chance = figures_of(test.labels, predicted, ranks, classes)
    name = task.task.main_metric
    main = figures[name] if name else metrics.Figure(None, None)
    correct = metrics.top_k(ranks, 5 if name == "acc5" else 1)
    examples: dict[str, Any] = {
        "index": np.arange(len(test), dtype=np.int32),
        "key": test.keys,
        "correct": correct,
        "label": test.labels.astype(np.int32),
        "predicted": predicted,
        "rank": ranks.astype(np.int32),
    }
    if name in ("acc1", "acc5"):
        examples["score"] = correct.astype(np.float32)
    of_training = {
        "train_acc1": float((probe.logits(train.features, classes).argmax(axis=1) == train.labels).mean()),
        "weight_decay": decay,
        "held_out_acc1": chosen_at,
        "steps": float(probe.steps),
    }
    return TaskResult(
        {**{metric: figure.value for metric, figure in figures.items()}, **of_training},
        main.value,
        name,
        len(test),
        main.standard_error,
        chance.get(name) if name else None,
        examples,
    )


def _settings(task: Task) -> tuple[str, dict[str, Any]]:
    """The protocol and its settings, the options put over its defaults. Raises UsageError."""
    protocol = task.options.get("protocol", "exact")
    if protocol not in PROTOCOLS:
        raise UsageError(
            f"task {task.key}: no probe protocol {protocol!r}: {nearest(str(protocol), PROTOCOLS)}"
        )
    settings = {**PROTOCOLS[protocol]}
    for name, default in settings.items():
        value = task.options.get(name, default)
        several = value if isinstance(default, list) else [value]
        kind = int if isinstance(default, int) else (int, float)
        least = 0 if name == "weight_decay" else math.ulp(0.0)
        if not isinstance(several, list) or not several:
            raise UsageError(f"task {task.key}: {name} must be a list of numbers, not {value!r}")
        if any(isinstance(v, bool) or not isinstance(v, kind) or not least <= v < math.inf for v in several):
            raise UsageError(
                f"task {task.key}: {name} is {value!r}, which is not {'' if least == 0 else 'above 0 and '}finite"
            )
        settings[name] = value
    return protocol, settings
