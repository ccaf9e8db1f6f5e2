"""Zero-shot classification by group: the worst group's accuracy, and a table of all groups.

Groups come with each picture: `npy`, one whole number for each name in the option `fields` (as DataComp stores WILDS
metadata), or without `fields` the key `group_field` of its `json` (text or whole number). Options:

    group_field   whose worst value counts; default "group"
    fields        names of the numbers in npy, in order
    also          further fields to put into the table
    leave_out     values of group_field that the worst does not count, such as FMoW's "Other"; the table and acc1 do
    k             top-k accuracy; default 1
    table: faces  FairFace and UTKFace (train/_faces.py): no main metric

Metrics are those of `zeroshot`, F1-macro_all (over labels that occur, iWildCam's) and DataComp's names, ACC being `acc`
or `acc_topK`: ACC_FIELD:VALUE and count_FIELD:VALUE for each group that has pictures; ACC_wg, the worst of group_field;
ACC_worst_FIELD for every field, count_worst_FIELD its number of pictures, and for group_field ACC_worst_FIELD_all, with
nothing left out.

A minimum over groups is biased downwards, the more so the smaller the groups are: read it with its count. Its standard
error is that of the minimum under resampling within groups with a fixed seed (train/metrics.py), and is no cure for the
bias.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from headwater.errors import IntegrityError, UsageError
from train import metrics
from train._evalcheck import check_options, check_prompts, check_split, check_type
from train._faces import check_faces, run_faces
from train._groupfields import GroupFields, group_fields
from train.evaldata import Encoder, ImageSet, TaskData, read_split
from train.evals.zeroshot import METRICS, classify, figures_of, head
from train.results import TaskResult

if TYPE_CHECKING:
    from train.suite import Task

FAMILY = "groups"
VERSION = 1
OPTIONS = ("group_field", "fields", "also", "leave_out", "k", "table")
MACRO_F1 = "F1-macro_all"


def check(task: Task, folder: Path) -> None:
    """What `zeroshot` checks, and that every picture has groups; the first one's are read in full."""
    check_options(task, OPTIONS, _metric_names(task))
    fields = group_fields(task)
    if fields.table == "faces":
        check_faces(task, folder, fields)
        return
    check_type(folder, FAMILY, "classification", "multilabel")
    classes = check_prompts(folder)
    check_split(task, folder, needs=("cls", "npy" if fields.fields else "json"), classes=classes)
    if fields.k > classes:
        raise UsageError(f"task {task.key}: top-{fields.k} says nothing with {classes} classes")
    first = next(iter(read_split(folder, "test")))
    fields.values([first.npy], [first.meta], [first.key])


def run(task: TaskData, model: Encoder, *, seed: int, workers: int) -> TaskResult:
    """Figures of the test split. In the examples `group` is -1 for what the worst group does not count."""
    fields = group_fields(task.task)
    if fields.table == "faces":
        return run_faces(task, model, fields)
    images = task.image_features(model, "test")
    classes = head(task, model)
    predicted, ranks = classify(images.features, images.labels, classes)
    figures, chance = figures_of(images.labels, predicted, ranks, len(classes))
    figures[MACRO_F1] = figures["macro_f1"]
    correct = metrics.top_k(ranks, fields.k)
    tables, worst, groups = _by_group(fields, images, correct)
    figures |= worst
    name = task.task.main_metric
    if name is not None and name not in figures:
        raise IntegrityError(f"{task.folder}: no picture is in a group that counts, so there is no {name}")
    main = figures[name] if name else metrics.Figure(None, None)
    plain = name in ("acc1", "acc5")
    right = metrics.top_k(ranks, 5 if name == "acc5" else 1) if plain else correct
    examples: dict[str, Any] = {
        "index": np.arange(len(images), dtype=np.int32),
        "key": images.keys,
        "correct": right,
        "group": groups,
        "label": images.labels.astype(np.int32),
        "predicted": predicted,
        "rank": ranks,
    }
    if plain:
        examples["score"] = right.astype(np.float32)
    # the worst group of a guess is below a guess, by how much depends on the groups: not told, but for plain metrics
    return TaskResult(
        {**{metric: figure.value for metric, figure in figures.items()}, **tables},
        main.value,
        name,
        len(images),
        main.standard_error,
        chance.get(name) if name else None,
        examples,
    )


def _by_group(
    fields: GroupFields, images: ImageSet, correct: NDArray[np.bool_]
) -> tuple[dict[str, float | None], dict[str, metrics.Figure], NDArray[np.int32]]:
    """Tables, worst groups, and for each picture its group (-1 where it does not count)."""
    found = fields.values(images.npy, images.meta, images.keys)
    acc = fields.accuracy
    tables: dict[str, float | None] = {f"{acc}_avg": metrics.mean_figure(correct).value}
    worst: dict[str, metrics.Figure] = {}
    groups = np.full(len(images), -1, np.int32)
    for field in (fields.group_field, *fields.also):
        names, ids = found[field].names, found[field].ids
        for group, figure in metrics.group_means(correct, ids).items():
            tables[f"{acc}_{field}:{names[group]}"] = figure.value
            tables[f"count_{field}:{names[group]}"] = float((ids == group).sum())
        counted = ids
        if field == fields.group_field:
            kept = np.array([name not in fields.leave_out for name in names])
            counted = np.where(kept[ids], ids, -1)
            groups = counted.astype(np.int32)
            worst[f"{acc}_worst_{field}_all"] = metrics.worst_group(correct, ids)[0]
        lowest, which = metrics.worst_group(correct, counted)
        if which is None:  # everything is left out
            continue
        worst[f"{acc}_worst_{field}"] = lowest
        tables[f"count_worst_{field}"] = float((counted == which).sum())
        if field == fields.group_field:
            worst[f"{acc}_wg"] = lowest
    return tables, worst, groups


def _metric_names(task: Task) -> tuple[str, ...]:
    """What may be the main metric."""
    fields = group_fields(task)
    if fields.table:
        return ()
    worst = [f"{fields.accuracy}_worst_{field}" for field in (fields.group_field, *fields.also)]
    return (*METRICS, MACRO_F1, f"{fields.accuracy}_wg", *worst, f"{worst[0]}_all")
