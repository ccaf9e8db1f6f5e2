"""A Suite is a list of tasks on disk, known by one hash over data, prompts and options: the test, frozen.

Layout of a task folder (clip-benchmark's `wds/` layout, so its sets are used as they are):

    TASK/classnames.txt                            one class a line, class 0 first
    TASK/zeroshot_classification_templates.txt     one template a line, with `{c}` where the class name goes
    TASK/dataset_type.txt                          retrieval | multilabel; absent: classification
    TASK/{test,train}/nshards.txt, 0.tar, 1.tar …  a sample: one picture (webp, png, jpg, jpeg) and `cls`, `txt`, `npy` or `json`

The suite itself is `suite.yaml` (`suite/1`) in the folder that holds the task folders, or a YAML elsewhere with a `root`.
A task's digest covers what decides its figures: family and its version, main metric, options, and the bytes of every file
it reads. Names and groups are labels: they are in the suite's id only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from headwater.config import load_yaml, validate
from headwater.errors import IntegrityError, MissingInput, UsageError, nearest
from headwater.hashing import DigestCache
from headwater.manifest import Count, Record, identity_id

CLASSNAMES = "classnames.txt"
TEMPLATES = "zeroshot_classification_templates.txt"
DATASET_TYPE = "dataset_type.txt"
COMMON_FILES = (CLASSNAMES, TEMPLATES, DATASET_TYPE)
SUITE_NAME = "suite.yaml"
MAX_SHARDS = 1_000_000
BUILT_IN = Path(__file__).resolve().parent / "suites"  # registries shipped as data; they hold no pictures


class Task(Record):
    """One line of a suite: which folder, how it is measured, and what number stands for it."""

    key: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}(/[A-Za-z0-9_.+-]{1,100})*$")] = (
        Field(description="id of the task, as in eval_results.jsonl")
    )
    folder: str = Field(description="task folder, relative to the suite's root")
    name: str = Field(description="display name")
    family: str = Field(description="file in train/evals that measures it")
    main_metric: str | None = Field(description="the metric that stands for the task; null: it has none")
    size: Count | None = Field(None, description="number of test examples, null when it is not known")
    options: dict[str, Any] = Field(default_factory=dict, description="what the family takes")
    groups: list[str] = Field(default_factory=list, description="aggregates that it is part of")

    @field_validator("folder")
    @classmethod
    def _inside(cls, folder: str) -> str:
        parts = folder.split("/")
        if (
            folder.startswith("/")
            or "\\" in folder
            or "\0" in folder
            or any(p in ("", ".", "..") for p in parts)
        ):
            raise ValueError(f"{folder!r} does not stay inside the suite's root")
        return folder

    @property
    def file_name(self) -> str:
        """The key as one part of a file name; `/` becomes `__`."""
        return self.key.replace("/", "__")


class SuiteFile(Record):
    """`suite/1`: the file."""

    format: Literal["suite/1"] = "suite/1"
    name: str
    summary: str = ""
    root: str | None = Field(None, description="where the task folders are; default: beside this file")
    tasks: list[Task] = Field(min_length=1)

    @model_validator(mode="after")
    def _told_apart(self) -> SuiteFile:
        for what, values in (
            ("key", [task.key for task in self.tasks]),
            ("file name", [task.file_name.lower() for task in self.tasks]),
        ):
            twice = sorted({value for value in values if values.count(value) > 1})
            if twice:
                raise ValueError(f"two tasks with the {what} {twice[0]!r}")
        return self


@dataclass(frozen=True)
class Suite:
    """A suite as loaded. `root` holds the task folders."""

    name: str
    root: Path
    tasks: tuple[Task, ...]
    summary: str = ""

    def folder(self, task: Task) -> Path:
        return self.root / task.folder

    def missing(self, task: Task) -> bool:
        """Whether the task's set is not there at all; a set with holes is something else: an error."""
        return not self.folder(task).is_dir()

    def select(self, keys: Sequence[str] | None) -> Suite:
        """The suite with these tasks only, in the suite's order. Raises UsageError for an unknown key."""
        if keys is None:
            return self
        known = {task.key for task in self.tasks}
        for key in keys:
            if key not in known:
                raise UsageError(f"suite {self.name!r} has no task {key!r}: {nearest(key, known)}")
        chosen = tuple(task for task in self.tasks if task.key in set(keys))
        if not chosen:
            raise UsageError(f"suite {self.name!r}: no task is left to evaluate")
        return Suite(self.name, self.root, chosen, self.summary)

    def groups(self) -> dict[str, list[str]]:
        """Aggregates by name, each with its task keys in the suite's order.

        `average` is there always: the tasks that name it, and where none does every task that has a main metric.
        """
        found: dict[str, list[str]] = {}
        for task in self.tasks:
            for group in task.groups:
                found.setdefault(group, []).append(task.key)
        found.setdefault("average", [task.key for task in self.tasks if task.main_metric is not None])
        return found


@dataclass
class Digests:
    """Digests of a suite: `tasks` by key (None where the set is missing), and the `suite_id` over all of it."""

    suite_id: str
    tasks: dict[str, str | None] = field(default_factory=dict)


def load_suite(source: str | Path, *, root: Path | None = None) -> Suite:
    """The suite in a folder, in a YAML file, or shipped under that name; `root` overrides where the sets lie.

    Raises MissingInput, UsageError (not suite/1, naming the field).
    """
    path = _find(source)
    file = validate(SuiteFile, load_yaml(path), str(path))
    if root is None:
        root = path.parent / file.root if file.root else path.parent
    if not root.is_dir():
        raise MissingInput(f"{root}: no such folder, and suite {file.name!r} looks for its sets there")
    return Suite(file.name, root, tuple(file.tasks), file.summary)


def _find(source: str | Path) -> Path:
    path = Path(source)
    if path.is_dir():
        path = path / SUITE_NAME
        if not path.is_file():
            raise MissingInput(
                f"{path.parent}: no {SUITE_NAME} in this folder", hint="name the folder of a suite"
            )
        return path
    if path.is_file():
        return path
    shipped = {file.stem: file for file in BUILT_IN.glob("*.yaml")}
    if str(source) in shipped:
        return shipped[str(source)]
    if path.suffix or "/" in str(source):
        raise MissingInput(f"{source}: no such suite")
    raise UsageError(f"unknown suite {str(source)!r}: {nearest(str(source), shipped)}")


def shard_count(folder: Path, split: str) -> int:
    """What `SPLIT/nshards.txt` states. Raises IntegrityError when it is not there or no number."""
    path = folder / split / "nshards.txt"
    try:
        with open(path, "rb") as handle:
            text = handle.read(32).strip()
    except OSError as error:
        raise IntegrityError(
            f"{path}: cannot be read, so nobody can tell whether shards are missing",
            hint="fetch or build the set again",
        ) from error
    if not text.isdigit() or not 0 < int(text) <= MAX_SHARDS:
        raise IntegrityError(f"{path}: {text[:20]!r} is no number of shards")
    return int(text)


def shard_paths(folder: Path, split: str) -> list[Path]:
    """The tars of one split, in number order. Raises IntegrityError naming every one that is missing, or too many."""
    stated = shard_count(folder, split)
    paths = [folder / split / f"{number}.tar" for number in range(stated)]
    absent = [path.name for path in paths if not path.is_file()]
    if absent:
        names = ", ".join(absent[:5]) + (" …" if len(absent) > 5 else "")
        raise IntegrityError(
            f"{folder / split}: {len(absent):,} of {stated:,} shards are missing: {names}",
            hint="fetch the set again: figures over a part of it would not be this task's",
        )
    known = {path.name for path in paths}
    others = sorted(entry.name for entry in (folder / split).glob("*.tar") if entry.name not in known)
    if others:
        raise IntegrityError(
            f"{folder / split}: nshards.txt says {stated:,}, but {others[0]} is there too",
            hint="correct nshards.txt, or remove what is not part of the set",
        )
    return paths


def task_files(suite: Suite, task: Task) -> list[str]:
    """Every file that the task reads, relative to the suite's root, sorted. Raises IntegrityError."""
    from train.evals import family_of

    family = family_of(task.family)
    folder = suite.folder(task)
    found = {name for name in (*COMMON_FILES, *family.files) if (folder / name).is_file()}
    for split in family.splits:
        found |= {f"{split}/nshards.txt"}
        found |= {f"{split}/{path.name}" for path in shard_paths(folder, split)}
    return sorted(f"{task.folder}/{name}" for name in found)


def task_digest(suite: Suite, task: Task, digests: DigestCache) -> str | None:
    """The task's identity, None where its set is missing. Reads each tar the first time it is seen."""
    from train.evals import family_of

    if suite.missing(task):
        return None
    prefix = len(task.folder) + 1
    files = {name[prefix:]: digests.get(name).sha256 for name in task_files(suite, task)}
    return identity_id(
        {
            "key": task.key,
            "family": task.family,
            "version": family_of(task.family).version,
            "main_metric": task.main_metric,
            "size": task.size,
            "options": task.options,
            "files": files,
        }
    )


def digest_suite(suite: Suite, *, cache: Path | None = None, distrust_cache: bool = False) -> Digests:
    """Digests of every task and the suite's id. The cache is `ROOT/.headwater` unless another folder is named."""
    known = DigestCache(suite.root, cache or suite.root / ".headwater", distrust=distrust_cache)
    tasks = {task.key: task_digest(suite, task, known) for task in suite.tasks}
    known.save()
    listed = [[task.key, tasks[task.key], sorted(task.groups)] for task in suite.tasks]
    return Digests(identity_id({"suite": sorted(listed, key=lambda entry: str(entry[0]))}), tasks)


def suite_id(suite: Suite, *, cache: Path | None = None) -> str:
    """SHA-256 over the canonical JSON of all tasks' digests and groups; the suite's name and order are labels."""
    return digest_suite(suite, cache=cache).suite_id
