"""What can be wrong with a test set, found from tar and picture headers before any time is spent.

A set that is not what it says (missing shards, another size, labels out of range, no picture) is an IntegrityError that lists
all of it; pictures that cannot be decoded are bad inputs: they are named, left out and counted.
"""

from __future__ import annotations

import functools
import io
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from curate._image_header import read_header
from headwater.console import say
from headwater.errors import HeadwaterError, IntegrityError, UsageError, nearest
from headwater.files import write_json
from train._evaltar import BadSample, Example, example, samples
from train.evaldata import MAX_PIXELS, read_list
from train.suite import CLASSNAMES, DATASET_TYPE, TEMPLATES, Task, shard_paths

TOLD = 5  # examples of each problem


@dataclass
class Survey:
    """One split, from its headers."""

    examples: int = 0
    labels: Counter[int] = field(default_factory=Counter)
    without: dict[str, list[str]] = field(default_factory=dict)  # what is absent (cls, txt …) -> keys
    broken: list[tuple[str, str]] = field(default_factory=list)  # key, why the sample is no sample
    bad_pictures: list[tuple[str, str]] = field(default_factory=list)  # key, why


def survey(folder: Path, split: str) -> Survey:
    """Look at every sample of a split; the same bytes are looked at once. Raises IntegrityError (shards, tars)."""
    paths = shard_paths(folder, split)
    stats = [path.stat() for path in paths]
    return _survey(tuple(paths), tuple((s.st_size, s.st_mtime_ns, s.st_ino) for s in stats))


@functools.lru_cache(maxsize=64)
def _survey(paths: tuple[Path, ...], stamps: tuple[tuple[int, int, int], ...]) -> Survey:
    found = Survey()
    for path in paths:
        for key, members in samples(path):
            found.examples += 1
            try:
                _look(found, example(key, members))
            except BadSample as error:
                found.broken.append((key, str(error)))
    return found


def _look(found: Survey, item: Example) -> None:
    header = read_header(io.BytesIO(item.image))
    if header is None:
        found.bad_pictures.append((item.key, "picture cannot be decoded"))
    elif header.width * header.height > MAX_PIXELS:
        found.bad_pictures.append((item.key, "picture too large"))
    if item.cls is not None:
        found.labels[item.cls] += 1
    absent = {
        "cls": item.cls is None,
        "txt": not item.captions,
        "npy": item.npy is None,
        "json": item.meta is None,
    }
    for name, is_absent in absent.items():
        if is_absent:
            found.without.setdefault(name, []).append(item.key)


def check_split(
    task: Task,
    folder: Path,
    split: str = "test",
    *,
    needs: tuple[str, ...] = (),
    classes: int | None = None,
) -> Survey:
    """The survey of a split that is fit to use: every sample has a picture and the members in `needs` (`cls`, `txt` with a
    caption, `npy`, `json`), labels are below `classes`, and `test` has the size that the task declares.

    Raises IntegrityError naming everything that is wrong, with examples.
    """
    found = survey(folder, split)
    problems = []
    if not found.examples:
        problems.append("there is no sample in it")
    if split == "test" and task.size is not None and found.examples != task.size:
        problems.append(f"{found.examples:,} examples, but the suite declares {task.size:,}")
    by_reason: dict[str, list[str]] = {}
    for key, reason in found.broken:
        by_reason.setdefault(reason, []).append(key)
    problems += [f"{len(keys):,} samples: {reason} ({_some(keys)})" for reason, keys in by_reason.items()]
    for name in needs:
        keys = found.without.get(name, [])
        if keys:
            problems.append(f"{len(keys):,} samples without {name} ({_some(keys)})")
    if classes is not None:
        beyond = {label: count for label, count in found.labels.items() if label >= classes}
        if beyond:
            labels = _some([str(label) for label in sorted(beyond)])
            count = sum(beyond.values())
            problems.append(f"{count:,} labels not below the number of classes, {classes:,} ({labels})")
    if found.examples and len(found.bad_pictures) == found.examples:
        problems.append("not one picture can be decoded")
    if problems:
        raise IntegrityError(f"{folder / split}: {'; '.join(problems)}", hint="build or fetch the set again")
    return found


def check_prompts(folder: Path) -> int:
    """The number of classes of a set with class names and templates. Raises IntegrityError."""
    classes = len(read_list(folder / CLASSNAMES))
    for number, template in enumerate(read_list(folder / TEMPLATES), 1):
        if "{c}" not in template:
            raise IntegrityError(f"{folder / TEMPLATES}: line {number} has no {{c}}: {template[:80]!r}")
    return classes


def dataset_type(folder: Path) -> str:
    """What `dataset_type.txt` says; `classification` without one."""
    path = folder / DATASET_TYPE
    return read_list(path)[0].lower() if path.is_file() else "classification"


def check_type(folder: Path, family: str, *wanted: str) -> None:
    """Raise IntegrityError when the set is of another type than the family measures."""
    found = dataset_type(folder)
    if found not in wanted:
        raise IntegrityError(
            f"{folder}: is a {found} set, and family {family} measures {' or '.join(wanted)}",
            hint="correct the family in the suite",
        )


def check_options(task: Task, known: tuple[str, ...], metrics: tuple[str, ...]) -> None:
    """Raise UsageError for an option or a main metric that the family does not have."""
    for name in task.options:
        if name not in known:
            raise UsageError(
                f"task {task.key}: family {task.family} has no option {name!r}: {nearest(name, known)}"
            )
    if task.main_metric is not None and task.main_metric not in metrics:
        raise UsageError(
            f"task {task.key}: family {task.family} has no metric {task.main_metric!r}: {nearest(task.main_metric, metrics)}"
        )


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:TOLD]) + (" …" if len(keys) > TOLD else "")


class Checked:
    """Which tasks were found fit to use, by digest, kept in `CACHE/checked.json`: the same bytes are looked at once.

    A cache that cannot be read or written costs time, never correctness.
    """

    def __init__(self, cache: Path) -> None:
        self._file = cache / "checked.json"
        self._known: dict[str, list[tuple[str, str]]] = {}
        self._changed = False
        try:
            for digest, bad in json.loads(self._file.read_bytes()).items():
                self._known[digest] = [(str(key), str(reason)) for key, reason in bad]
        except (OSError, ValueError, TypeError, AttributeError, RecursionError):
            self._known = {}

    def bad_pictures(self, digest: str) -> list[tuple[str, str]] | None:
        """Key and reason of what cannot be decoded; None for a task that was not looked at yet."""
        return self._known.get(digest)

    def note(self, digest: str, bad: list[tuple[str, str]]) -> None:
        """Remember a task that passed."""
        self._known[digest] = list(dict.fromkeys(bad))
        self._changed = True

    def save(self) -> None:
        """Write the notes back if there are new ones."""
        if not self._changed:
            return
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_json(self._file, self._known, durable=False)
        except (OSError, HeadwaterError):
            say("debug", f"{self._file}: cannot be written, so the sets are looked at again next time")
