"""Where the groups of a picture stand: numbers in its npy or a value in its json, read under the options of the task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from headwater.errors import IntegrityError, UsageError, nearest

if TYPE_CHECKING:
    from train.suite import Task


MAX_GROUP = 1_000_000


@dataclass(frozen=True)
class Values:
    """One field of every picture: `names[ids[i]]` is its value as text. Whole numbers from npy are their own ids."""

    ids: NDArray[np.int64]
    names: list[str]


@dataclass(frozen=True)
class GroupFields:
    """The options of the family `groups`, checked."""

    group_field: str
    fields: tuple[str, ...]
    also: tuple[str, ...]
    leave_out: frozenset[str]
    k: int
    table: str | None

    @property
    def accuracy(self) -> str:
        """What the accuracy is called in names of metrics."""
        return "acc" if self.k == 1 else f"acc_top{self.k}"

    def values(
        self, npy: Sequence[NDArray[Any] | None], meta: Sequence[dict[str, Any] | None], keys: Sequence[str]
    ) -> dict[str, Values]:
        """Every field that the options name. Raises IntegrityError naming the first picture without it."""
        wanted = (self.group_field, *self.also)
        if not self.fields:
            return {field: _from_json(field, meta, keys) for field in wanted}
        table = self.numbers(wanted, npy, keys)
        return {
            field: Values(ids, [str(value) for value in range(int(ids.max()) + 1)])
            for field, ids in zip(wanted, table.T, strict=True)
        }

    def numbers(
        self, wanted: Sequence[str], npy: Sequence[NDArray[Any] | None], keys: Sequence[str]
    ) -> NDArray[np.int64]:
        """Pictures x `wanted` fields. Raises IntegrityError for a picture whose npy lacks them, or holds what no group id is."""
        places = [self.fields.index(field) for field in wanted]
        rows = np.empty((len(keys), len(places)), np.int64)
        for number, (array, key) in enumerate(zip(npy, keys, strict=True)):
            size = 0 if array is None else array.size
            if array is None or size < len(self.fields):
                problem = f"npy has {size} numbers, and {len(self.fields)} fields are declared"
            elif array.dtype.kind not in "biuf":
                problem = f"npy holds {array.dtype}, not numbers"
            else:
                row = array.reshape(-1)[places].astype(np.float64)
                if ((row >= 0) & (row <= MAX_GROUP) & (row == np.floor(row))).all():
                    rows[number] = row.astype(np.int64)
                    continue
                problem = f"npy holds what is no group number from 0 to {MAX_GROUP:,}: {row.tolist()}"
            raise IntegrityError(
                f"sample {key!r}: {problem}", hint="correct `fields` in the suite, or the set"
            )
        return rows


def group_fields(task: Task) -> GroupFields:
    """The task's options as values. Raises UsageError."""
    options = task.options
    field = _text(task, "group_field", options.get("group_field", "group"))
    fields, also = (tuple(_texts(task, name, options.get(name, []))) for name in ("fields", "also"))
    leave_out = options.get("leave_out", [])
    if not isinstance(leave_out, list) or not all(type(value) in (str, int) for value in leave_out):
        raise UsageError(f"task {task.key}: leave_out must be a list of group values, not {leave_out!r}")
    k = options.get("k", 1)
    if type(k) is not int or k < 1:
        raise UsageError(f"task {task.key}: k must be a whole number from 1, not {k!r}")
    table = options.get("table")
    if table not in (None, "faces"):
        raise UsageError(f"task {task.key}: no table {table!r}: it is faces, or absent")
    wanted = also if table else (field, *also)
    for name in wanted if fields else ():
        if name not in fields:
            raise UsageError(f"task {task.key}: {name!r} is not among `fields`: {nearest(name, fields)}")
    return GroupFields(field, fields, also, frozenset(map(str, leave_out)), k, table)


def _from_json(field: str, meta: Sequence[dict[str, Any] | None], keys: Sequence[str]) -> Values:
    texts = []
    for document, key in zip(meta, keys, strict=True):
        value = None if document is None else document.get(field)
        if type(value) not in (str, int):
            raise IntegrityError(f"sample {key!r}: its json has no {field!r} that is text or a whole number")
        texts.append(str(value))
    names = sorted(set(texts))
    place = {name: number for number, name in enumerate(names)}
    return Values(np.array([place[text] for text in texts], np.int64), names)


def _text(task: Task, name: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise UsageError(f"task {task.key}: {name} must be a name, not {value!r}")
    return value


def _texts(task: Task, name: str, value: Any) -> list[str]:
    if not isinstance(value, list) or len(set(map(str, value))) != len(value):
        raise UsageError(f"task {task.key}: {name} must be a list of different names, not {value!r}")
    return [_text(task, name, item) for item in value]
