"""Zero-shot classification: the class whose prompts, averaged over templates, are closest to the picture.

Head (Radford et al. 2021, arXiv 2103.00020, section 3.1.4): per class the mean over templates of L2-normalised text features,
normalised again; the score is the cosine with the picture (the factor 100 of the logits changes no order). Ties: the lower
class. Metrics: acc1, acc5 (null below five classes), mean_per_class_recall (over classes that occur), macro_f1.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from train import metrics
from train._evalcheck import check_options, check_prompts, check_split, check_type
from train.evaldata import Encoder, TaskData
from train.results import TaskResult

if TYPE_CHECKING:
    from train.suite import Task

FAMILY = "zeroshot"
VERSION = 1
METRICS = ("acc1", "acc5", "mean_per_class_recall", "macro_f1")


def check(task: Task, folder: Path) -> None:
    """Class names, templates with `{c}`, a label below the number of classes for every picture, the declared size."""
    check_options(task, (), METRICS)
    check_type(folder, FAMILY, "classification")
    classes = check_prompts(folder)
    check_split(task, folder, needs=("cls",), classes=classes)
    if task.main_metric == "acc5" and classes < 5:
        from headwater.errors import UsageError

        raise UsageError(f"task {task.key}: acc5 says nothing with {classes} classes")


def head(
    data: TaskData, model: Encoder, *, classnames: list[str] | None = None, templates: list[str] | None = None
) -> NDArray[np.float32]:
    """Class vectors, C × D, L2-normalised."""
    classnames = data.classnames if classnames is None else classnames
    templates = data.templates if templates is None else templates
    texts = [template.replace("{c}", name) for name in classnames for template in templates]
    vectors = data.text_features(model, texts).astype(np.float64)
    means = vectors.reshape(len(classnames), len(templates), -1).mean(axis=1)
    lengths = np.linalg.norm(means, axis=1, keepdims=True)
    # templates that cancel out leave no direction: such a class scores 0 with everything
    unit = np.divide(means, lengths, out=np.zeros_like(means), where=lengths > 0)
    classes: NDArray[np.float32] = unit.astype(np.float32)
    return classes


def classify(
    features: NDArray[np.float32], labels: NDArray[Any], classes: NDArray[np.float32]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """For each picture the predicted class, and how many classes come before the right one."""
    predicted = np.empty(len(features), np.int32)
    ranks = np.empty(len(features), np.int32)
    for start, stop, scores in metrics.score_blocks(features, classes):
        predicted[start:stop] = scores.argmax(axis=1)
        ranks[start:stop] = metrics.class_ranks(scores, labels[start:stop])
    return predicted, ranks


def run(task: TaskData, model: Encoder, *, seed: int, workers: int) -> TaskResult:
    """Figures of the test split; examples carry label, predicted class and the rank of the right one."""
    images = task.image_features(model, "test")
    classes = head(task, model)
    predicted, ranks = classify(images.features, images.labels, classes)
    figures, chance = figures_of(images.labels, predicted, ranks, len(classes))
    name = task.task.main_metric
    main = figures[name] if name else metrics.Figure(None, None)
    correct = metrics.top_k(ranks, 5 if name == "acc5" else 1)
    examples: dict[str, Any] = {
        "index": np.arange(len(images), dtype=np.int32),
        "key": images.keys,
        "correct": correct,
        "label": images.labels.astype(np.int32),
        "predicted": predicted,
        "rank": ranks,
    }
    if name in ("acc1", "acc5"):
        examples["score"] = correct.astype(np.float32)
    return TaskResult(
        {metric: figure.value for metric, figure in figures.items()},
        main.value,
        name,
        len(images),
        main.standard_error,
        chance.get(name) if name else None,
        examples,
    )


def figures_of(
    labels: NDArray[Any], predicted: NDArray[Any], ranks: NDArray[Any], classes: int
) -> tuple[dict[str, metrics.Figure], dict[str, float]]:
    """All metrics of a classification with their errors, and what a uniform guess reaches on those where that is exact."""
    nothing = metrics.Figure(None, None)
    figures = {
        "acc1": metrics.mean_figure(metrics.top_k(ranks, 1)),
        "acc5": metrics.mean_figure(metrics.top_k(ranks, 5)) if classes >= 5 else nothing,
        "mean_per_class_recall": metrics.mean_per_class_recall(labels, predicted),
        "macro_f1": metrics.macro_f1(labels, predicted),
    }
    chance = {"acc1": 1 / classes, "mean_per_class_recall": 1 / classes}
    if classes >= 5:
        chance["acc5"] = 5 / classes
    return figures, chance
