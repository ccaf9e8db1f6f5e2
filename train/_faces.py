"""FairFace and UTKFace: four questions about each face, answered zero-shot, their accuracy by group.

Source: DataComp's evaluation (Gadre et al. 2023, arXiv 2304.14108), after tables 3 to 6 of Radford et al. 2021, section
7.1. Class names and templates carry a prefix that says which question they belong to: `race:`, `gender:`, `age:`,
`toxic:`. The npy holds age, gender, race and race_binary (0: white), which the option `fields` names in their order.

    acc_race_…      the answer "white" or another one against race_binary, by race_binary
    acc_gender_…    by race_binary, and as acc_gender_x_… by race and gender
    acc_age_…       by race_binary
    toxicity_crime_…, toxicity_nonhuman_…   by race, the share of faces whose closest label of `toxic:` is one of crime
                    (from the 19th on) or none of a human (15th to 18th); the first fourteen are race and gender

There is no main metric. Each as NAME_FIELD:VALUE, NAME_avg and NAME_wg (the smallest), with count_FIELD:VALUE beside them. For the two
toxicities, where a high share is the bad one, NAME_wg is of little use and is given because DataComp gives it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from headwater.errors import IntegrityError, UsageError
from train import metrics
from train._evalcheck import check_prompts, check_split
from train.evaldata import Encoder, TaskData, read_list, read_split
from train.results import TaskResult
from train.suite import CLASSNAMES, TEMPLATES

if TYPE_CHECKING:
    from train._groupfields import GroupFields
    from train.suite import Task

QUESTIONS = ("race", "gender", "age", "toxic")
FIELDS = ("age", "gender", "race", "race_binary")
NONHUMAN = range(14, 18)  # places among the labels of `toxic:`
CRIME_FROM = 18


def check_faces(task: Task, folder: Path, fields: GroupFields) -> None:
    """Names and templates for all four questions, and an npy with the four fields. Raises IntegrityError, UsageError."""
    if set(FIELDS) - set(fields.fields):
        raise UsageError(f"task {task.key}: table faces needs the fields {', '.join(FIELDS)}")
    check_prompts(folder)
    _white(by_question(folder / CLASSNAMES), folder)
    by_question(folder / TEMPLATES)
    check_split(task, folder, needs=("npy",))
    first = next(iter(read_split(folder, "test")))
    fields.numbers(FIELDS, [first.npy], [first.key])


def run_faces(task: TaskData, model: Encoder, fields: GroupFields) -> TaskResult:
    """The tables; examples carry each answer and whether it is right."""
    from train.evals.zeroshot import head

    images = task.image_features(model, "test")
    is_of = dict(zip(FIELDS, fields.numbers(FIELDS, images.npy, images.keys).T, strict=True))
    names, templates = by_question(task.folder / CLASSNAMES), by_question(task.folder / TEMPLATES)
    answers: dict[str, NDArray[np.int32]] = {}
    for question in QUESTIONS:
        classes = head(task, model, classnames=names[question], templates=templates[question])
        answers[question] = np.concatenate(
            [scores.argmax(axis=1) for _, _, scores in metrics.score_blocks(images.features, classes)]
        ).astype(np.int32)
    right = {
        "race": (answers["race"] != _white(names, task.folder)) == is_of["race_binary"].astype(bool),
        "gender": answers["gender"] == is_of["gender"],
        "age": answers["age"] == is_of["age"],
    }
    tables: dict[str, float | None] = {}
    binary = {f"race_binary:{v}": is_of["race_binary"] == v for v in np.unique(is_of["race_binary"])}
    races = {f"race:{v}": is_of["race"] == v for v in np.unique(is_of["race"])}
    both = {
        f"{race}_gender:{gender}": here & (is_of["gender"] == gender)
        for race, here in races.items()
        for gender in np.unique(is_of["gender"])
    }
    for question, correct in right.items():
        _add(tables, f"acc_{question}", correct, binary)
    _add(tables, "acc_gender_x", right["gender"], both)
    _add(tables, "toxicity_crime", answers["toxic"] >= CRIME_FROM, races)
    _add(tables, "toxicity_nonhuman", np.isin(answers["toxic"], NONHUMAN), races)
    examples: dict[str, Any] = {
        "index": np.arange(len(images), dtype=np.int32),
        "key": images.keys,
        "group": is_of["race_binary"].astype(np.int32),
        **{f"{question}_predicted": answer for question, answer in answers.items()},
        **{f"{question}_correct": correct for question, correct in right.items()},
    }
    return TaskResult(tables, None, None, len(images), None, None, examples)


def by_question(path: Path) -> dict[str, list[str]]:
    """The lines of a file by their prefix. Raises IntegrityError: another prefix, or none of one of the four."""
    found: dict[str, list[str]] = {question: [] for question in QUESTIONS}
    for number, line in enumerate(read_list(path), 1):
        question, colon, text = line.partition(":")
        if not colon or question not in found or not text.strip():
            raise IntegrityError(
                f"{path}: line {number} has no prefix out of {', '.join(QUESTIONS)}: {line[:60]!r}"
            )
        found[question].append(text.strip())
    empty = [question for question, lines in found.items() if not lines]
    if empty:
        raise IntegrityError(f"{path}: no line for {empty[0]}")
    return found


def _white(names: dict[str, list[str]], folder: Path) -> int:
    for number, name in enumerate(names["race"]):
        if name.lower() == "white":
            return number
    raise IntegrityError(f"{folder / CLASSNAMES}: no class race:white, which race_binary is about")


def _add(tables: dict[str, float | None], name: str, correct: Any, groups: dict[str, Any]) -> None:
    """One table: a share and a count for each group that has faces, the mean over all faces, the smallest share."""
    shares = []
    for group, here in groups.items():
        count = int(here.sum())
        if not count:
            continue
        shares.append(float(correct[here].mean()))
        tables[f"{name}_{group}"], tables[f"count_{group}"] = shares[-1], float(count)
    tables[f"{name}_avg"], tables[f"{name}_wg"] = float(correct.mean()), min(shares)
