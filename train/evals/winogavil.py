"""WinoGAViL: which of some pictures are associated with a cue; the Jaccard index of choice and truth.

Source: Bitton et al. 2022, arXiv 2207.12576, scored as DataComp scores it: prompt "A {cue}", or "An {cue}" before a, e,
i, o, u, the cue in lower case; the k pictures closest to it are chosen, k being the number of true associations (ties:
the candidate named first). The main metric, jaccard_score_10-12, is the mean over items with 10 or 12 candidates, and
only those are the task's examples; the other sizes are metrics beside it: avg_jaccard_score (all), jaccard_score_N (N
candidates). The suite option `candidates` replaces [10, 12]; the metric's name follows it.

The set: test tars as in every task, one picture a sample, keys unique; and the file `items.jsonl` in the task folder,
one object a line, its pictures named by key, the associations among the candidates. `size` of the task counts items.

    {"cue": "bird", "candidates": ["0001", "0007", …], "associations": ["0007"]}
"""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headwater.errors import IntegrityError, UsageError
from train import metrics
from train._evalcheck import check_options, check_split
from train.evaldata import MAX_LIST_BYTES, Encoder, TaskData, read_split
from train.results import TaskResult

if TYPE_CHECKING:
    from train.suite import Task

FAMILY = "winogavil"
VERSION = 1
ITEMS = "items.jsonl"
FILES = (ITEMS,)
CANDIDATES = (10, 12)
TOLD = 3  # problems named in one message


@dataclass(frozen=True)
class Item:
    """One question. `right` are places in `candidates`, which are keys of pictures."""

    cue: str
    candidates: tuple[str, ...]
    right: tuple[int, ...]


def check(task: Task, folder: Path) -> None:
    """Items that can be read, whose candidates are all in the tars; the declared number of them, some of the size that counts."""
    sizes = _sizes(task)
    check_options(task, ("candidates",), (_name(sizes), "avg_jaccard_score"))
    check_split(task.model_copy(update={"size": None}), folder)  # `size` counts items, not pictures
    items = read_items(folder / ITEMS)
    if task.size is not None and len(items) != task.size:
        raise IntegrityError(f"{folder / ITEMS}: {len(items):,} items, but the suite declares {task.size:,}")
    if not any(len(item.candidates) in sizes for item in items):
        raise IntegrityError(f"{folder / ITEMS}: no item has {' or '.join(map(str, sizes))} candidates")
    keys = Counter(example.key for example in read_split(folder, "test"))
    twice = [key for key, times in keys.items() if times > 1]
    absent = sorted({key for item in items for key in item.candidates} - keys.keys())
    if twice or absent:
        what = (
            f"key {twice[0]!r} names two pictures"
            if twice
            else f"{len(absent):,} candidates have no picture ({absent[0]!r})"
        )
        raise IntegrityError(f"{folder}: {what}", hint="build or fetch the set again")


def run(task: TaskData, model: Encoder, *, seed: int, workers: int) -> TaskResult:
    """Figures over the items whose pictures can all be decoded; the others are noted in `task.invalid`."""
    images = task.image_features(model, "test")
    row = {key: number for number, key in enumerate(images.keys)}
    everything = read_items(task.folder / ITEMS)
    items = [(n, item) for n, item in enumerate(everything) if all(key in row for key in item.candidates)]
    if not items:
        raise IntegrityError(f"{task.folder / ITEMS}: no item has pictures that can all be decoded")
    cues = task.text_features(model, [prompt(item.cue) for _, item in items])
    chosen = [
        choose(cue, images.features[[row[key] for key in item.candidates]], len(item.right))
        for cue, (_, item) in zip(cues, items, strict=True)
    ]
    scores = np.array([overlap(picked, item.right) for picked, (_, item) in zip(chosen, items, strict=True)])
    counts = np.array([len(item.candidates) for _, item in items])
    sizes = _sizes(task.task)
    main_name = task.task.main_metric
    counted = np.ones(len(items), bool) if main_name == "avg_jaccard_score" else np.isin(counts, sizes)
    figures = {
        "avg_jaccard_score": metrics.mean_figure(scores),
        _name(sizes): metrics.mean_figure(scores[np.isin(counts, sizes)]),
        **{
            f"jaccard_score_{size}": metrics.mean_figure(scores[counts == size]) for size in np.unique(counts)
        },
    }
    main = figures[main_name] if main_name else metrics.Figure(None, None)
    rows = np.flatnonzero(counted)
    guesses = [guess(len(items[i][1].candidates), len(items[i][1].right)) for i in rows]
    return TaskResult(
        {metric: figure.value for metric, figure in figures.items()},
        main.value,
        main_name,
        len(rows),
        main.standard_error,
        float(np.mean(guesses)) if main_name and guesses else None,
        {
            "index": np.arange(len(rows), dtype=np.int32),
            "key": [f"item-{items[i][0]:06d}" for i in rows],  # by line of items.jsonl
            "score": scores[rows].astype(np.float32),
            "group": counts[rows].astype(np.int32),
            "associations": np.array([len(items[i][1].right) for i in rows], np.int32),
        },
    )


def prompt(cue: str) -> str:
    """DataComp's prompt: the article goes by the first letter, so it is "An unicorn" and "A hour"."""
    cue = cue.lower()
    return f"{'An' if cue[:1] in tuple('aeiou') else 'A'} {cue}"


def choose(cue: Any, pictures: Any, k: int) -> tuple[int, ...]:
    """Places of the k pictures closest to the cue; of equals those named first."""
    scores = (pictures.astype(np.float64) @ cue.astype(np.float64)).astype(np.float32)
    return tuple(sorted(np.argsort(-scores, kind="stable")[:k].tolist()))


def overlap(chosen: tuple[int, ...], right: tuple[int, ...]) -> float:
    """The Jaccard index of two sets."""
    return len({*chosen} & {*right}) / len({*chosen} | {*right})


def guess(candidates: int, k: int) -> float:
    """Mean Jaccard index of k pictures chosen blindly among `candidates`, k being right."""
    ways = math.comb(candidates, k)
    return sum(
        math.comb(k, hits) * math.comb(candidates - k, k - hits) / ways * hits / (2 * k - hits)
        for hits in range(1, k + 1)
    )


def read_items(path: Path) -> list[Item]:
    """The items of a set, in order. Raises IntegrityError naming the lines that are none."""
    try:
        if path.stat().st_size > MAX_LIST_BYTES:
            raise IntegrityError(f"{path}: {path.stat().st_size:,} bytes (limit {MAX_LIST_BYTES:,})")
        lines = path.read_bytes().splitlines()
    except FileNotFoundError as error:
        raise IntegrityError(
            f"{path}: no such file", hint="the task folder is not whole: fetch it again"
        ) from error
    items: list[Item] = []
    problems: list[str] = []
    for number, line in enumerate(lines, 1):
        try:
            items.append(_item(json.loads(line)))
        except (ValueError, RecursionError) as error:
            reason = (
                "not JSON" if isinstance(error, (json.JSONDecodeError, UnicodeDecodeError)) else str(error)
            )
            problems.append(f"line {number}: {reason}")
    if problems or not items:
        told = "; ".join(problems[:TOLD]) + (f" … ({len(problems):,} in all)" if len(problems) > TOLD else "")
        raise IntegrityError(f"{path}: {told or 'empty'}", hint="build or fetch the set again")
    return items


def _item(document: Any) -> Item:
    if not isinstance(document, dict):
        raise ValueError("no object")
    cue, candidates, associations = (document.get(name) for name in ("cue", "candidates", "associations"))
    if not isinstance(cue, str) or not cue.strip():
        raise ValueError("no cue")
    for name, keys in (("candidates", candidates), ("associations", associations)):
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            raise ValueError(f"{name} is no list of keys")
        if len(set(keys)) != len(keys) or not keys:
            raise ValueError(f"{name} names a key twice" if keys else f"{name} is empty")
    assert isinstance(candidates, list) and isinstance(associations, list)
    if not set(associations) <= set(candidates):
        raise ValueError("an association is no candidate")
    right = tuple(place for place, key in enumerate(candidates) if key in set(associations))
    return Item(cue.strip(), tuple(candidates), right)


def _sizes(task: Task) -> tuple[int, ...]:
    sizes = task.options.get("candidates", list(CANDIDATES))
    if not isinstance(sizes, list) or not sizes or not all(type(size) is int and size > 1 for size in sizes):
        raise UsageError(f"task {task.key}: candidates must be a list of numbers above 1, not {sizes!r}")
    return tuple(sorted(set(sizes)))


def _name(sizes: tuple[int, ...]) -> str:
    return f"jaccard_score_{'-'.join(map(str, sizes))}"
