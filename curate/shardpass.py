"""One pass of a rule over one shard: the unit of work that runs in a worker process.

A pass starts at clause `first`, with the reasons of earlier clauses read back when there were any, and ends either at a question
about the whole pool or at the end of the rule, where the kept uids are written as a sorted run.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate._exact_dedup_pages import UidsByRow
from curate._memory import tune_process
from curate._order import sort_words
from curate.blockscores import BlockScores, NeedsRaw
from curate.clauses import CompiledRule, Scope, State
from curate.index import OWN_COLUMNS, index_view
from curate.pool import Shard
from curate.questions import Question
from curate.rules import RuleFile
from curate.sidecars import ScorerRef, StoredRef
from curate.views import Block, Column, IndexUnreadable, IndexView, Mask, RawBlock, RawView
from headwater.console import say
from headwater.errors import IntegrityError
from headwater.files import atomic_file

NULL_UID = "uid: null"
DUPLICATE_UID = "uid: occurs more than once"


def dropped_code(position: int) -> int:
    """The byte that stands for "dropped by clause number `position`" (0 is still kept)."""
    return 1 + 2 * position


def invalid_code(position: int) -> int:
    """The byte for "clause number `position` was neither true nor false"."""
    return 2 + 2 * position


NULL_UID_CODE = 255


@dataclass(frozen=True)
class Pass:
    """What to do with every shard; the same for all."""

    rule: RuleFile
    base: Path
    cache: Path
    parts: Path
    types: Mapping[str, pa.DataType]
    scorers: Mapping[str, ScorerRef | StoredRef]
    states: Mapping[str, State]
    first: int
    last: int  # clauses first … last-1 are evaluated
    questions: tuple[Question, ...] = ()
    final: bool = False
    keep_reasons: bool = False
    use_index: bool = True
    store_scores: bool = True
    in_memory: bool = False  # hand kept uids back instead of writing them: small pools, no other process


@dataclass(frozen=True)
class Task:
    """One shard of a pass."""

    number: int
    shard: Shard
    sha256: str
    work: Pass


@dataclass
class Result:
    """What a pass found in one shard."""

    number: int
    rows: int
    dropped: list[int]
    invalid: list[int]
    null_uids: int = 0
    kept: int = 0
    run: str | npt.NDArray[np.uint64] | None = None  # a file of sorted uids, or the uids themselves
    answers: list[Any] = field(default_factory=list)
    scored: dict[str, int] = field(default_factory=dict)
    indexed: bool = False


@functools.lru_cache(maxsize=4)
def _compiled(text: str, base: str) -> CompiledRule:
    tune_process()
    rule = CompiledRule(RuleFile.model_validate_json(text), Path(base))
    rule.load()
    return rule


def compiled(rule: RuleFile, base: Path) -> CompiledRule:
    """The rule ready to evaluate; parsed once per process."""
    return _compiled(rule.model_dump_json(by_alias=True), str(base))


def run_pass(task: Task) -> Result:
    """Run the pass over one shard. A finished final pass of a killed run is read back instead."""
    if task.work.final and not task.work.in_memory:
        earlier = _earlier(task)
        if earlier is not None:
            return earlier
    view = index_view(task.work.cache, task.shard, task.sha256) if task.work.use_index else None
    if view is not None and _answers(view, task.work):
        try:
            return _Run(task, view).go()
        except NeedsRaw:
            pass
        except IndexUnreadable as error:
            say("warning", f"{error} and is ignored: headwater pool index --force makes it again")
    return _Run(task, RawView(task.shard, task.work.types), index=view).go()


def _answers(view: IndexView, work: Pass) -> bool:
    """Whether the index has all that this pass reads from blocks."""
    asked = set(compiled(work.rule, work.base).columns(dedup=False))
    for question in work.questions:
        if getattr(question, "raw", False):
            return False
        if not getattr(question, "index_columns", set()) <= view.names.keys():
            return False
        asked |= getattr(question, "columns", set())
    stored = asked - set(work.scorers)
    return view.names.keys() >= stored and not stored & OWN_COLUMNS


def run_file(parts: Path, number: int) -> Path:
    """Where the kept uids of a shard go: raw pairs of little-endian u64, sorted."""
    return parts / f"{number:08d}.run"


def reasons_file(parts: Path, number: int) -> Path:
    """One byte per row of the shard, in its order."""
    return parts / f"{number:08d}.reasons.npy"


def _done_file(parts: Path, number: int) -> Path:
    return parts / f"{number:08d}.done.json"


def _earlier(task: Task) -> Result | None:
    try:
        facts = json.loads(_done_file(task.work.parts, task.number).read_bytes())
        run = run_file(task.work.parts, task.number)
        if facts["sha256"] != task.sha256 or run.stat().st_size != 16 * facts["result"]["kept"]:
            return None
        if task.work.keep_reasons and not reasons_file(task.work.parts, task.number).is_file():
            return None
        return Result(**facts["result"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


class _Run:
    """The state of one pass over one shard."""

    def __init__(self, task: Task, view: RawView | IndexView, *, index: IndexView | None = None) -> None:
        self.task, self.view, self.work = task, view, task.work
        # the index knows the uids of few rows without reading their pages
        self._uids_of = None if index is None else UidsByRow(index)
        self.rule = compiled(self.work.rule, self.work.base)
        span = self.work.last - self.work.first
        self.result = Result(task.number, task.shard.rows, [0] * span, [0] * span)
        self.result.indexed = isinstance(view, IndexView)
        work = self.work
        self._scores = BlockScores(view, work.cache, task.sha256, store=work.store_scores)
        self._bad: npt.NDArray[np.int64] | None = None
        self._reasons: npt.NDArray[np.uint8] | None = None

    def go(self) -> Result:
        work = self.work
        if work.keep_reasons or work.first:
            self._reasons = self._load_reasons()
        answers = [question.start() for question in work.questions]
        kept: list[npt.NDArray[np.uint64]] = []
        for block in self.view.blocks():
            alive = self._block(block, answers, kept)
            del alive
        self._scores.store()
        self.result.scored = self._scores.scored
        if self._reasons is not None:
            with atomic_file(reasons_file(work.parts, self.task.number), durable=False) as handle:
                np.save(handle, self._reasons, allow_pickle=False)
        for number, (question, answer) in enumerate(zip(work.questions, answers, strict=True)):
            file = work.parts / f"{self.task.number:08d}.{question.node}.{number}"
            self.result.answers.append(question.finish(answer, file))
        if work.final:
            self._write_run(kept)
        return self.result

    def _load_reasons(self) -> npt.NDArray[np.uint8]:
        if self.work.first:
            stored: npt.NDArray[np.uint8] = np.load(
                reasons_file(self.work.parts, self.task.number), allow_pickle=False
            )
            return stored
        return np.zeros(self.task.shard.rows, np.uint8)

    def _block(self, block: Block, answers: list[Any], kept: list[npt.NDArray[np.uint64]]) -> Mask:
        work = self.work
        place = block.row_numbers() if self._reasons is not None or self._uses_scores else slice(0, 0)
        before = None if self._reasons is None else self._reasons[place]
        alive = np.ones(block.rows, bool) if before is None or not work.first else before == 0
        reasons = before.copy() if before is not None else None
        words: list[npt.NDArray[np.uint64]] = []

        def uids() -> npt.NDArray[np.uint64]:
            if not words:
                found, bad = block.uids()
                if len(bad):
                    self._check_uids(block, bad)
                words.append(found)
            return words[0]

        made: dict[str, Column] = {}
        scope = Scope(
            self.task.shard.name,
            block.rows,
            lambda name, rows: self._column(block, name, rows, made),
            uids,
            block.row_numbers,
            block,
            frozenset(work.scorers),
            self._uids_of,
        )
        for position in range(work.first, work.last):
            true, unknown = self.rule.evaluate(position, scope, alive, work.states)
            left = int(np.count_nonzero(alive))
            lost = 0
            if unknown is not None:
                unknown = unknown & alive
                lost = int(np.count_nonzero(unknown))
                if reasons is not None and lost:
                    reasons[unknown] = invalid_code(position)
            still = alive & true
            if reasons is not None:
                gone = alive & ~true
                if lost and unknown is not None:
                    gone &= ~unknown
                reasons[gone] = dropped_code(position)
            alive = still
            self.result.invalid[position - work.first] += lost
            self.result.dropped[position - work.first] += left - int(np.count_nonzero(alive)) - lost
        for number, question in enumerate(work.questions):
            answers[number] = question.feed(answers[number], scope, alive)
        if work.final:
            all_words = uids()
            nulls = self._null_uids(block)
            if len(nulls):
                lost_rows = nulls[alive[nulls]]
                self.result.null_uids += len(lost_rows)
                alive[lost_rows] = False
                if reasons is not None:
                    reasons[lost_rows] = NULL_UID_CODE
            kept.append(
                all_words if alive.all() else all_words.take(np.flatnonzero(alive), 0)
            )  # five times a mask's speed
        if reasons is not None and self._reasons is not None:
            self._reasons[place] = reasons
        return alive

    def _check_uids(self, block: Block, bad: npt.NDArray[np.int64]) -> None:
        """Null uids are invalid rows; any other malformed uid refuses the shard by row."""
        assert isinstance(block, RawBlock)
        strings = block.uid_strings()
        for row in bad.tolist():
            value = strings[row].as_py()
            if value is not None:
                raise IntegrityError(
                    f"shard {self.task.shard.name}, column uid, row {block.first_row + row}: {value!r:.80} is not a uid "
                    "(32 lower-case hex digits)",
                    hint="headwater pool validate lists all such rows; headwater pool import --on-bad drop leaves them out",
                )
        self._bad = bad

    def _null_uids(self, block: Block) -> npt.NDArray[np.int64]:
        bad, self._bad = self._bad, None
        return np.zeros(0, np.int64) if bad is None else bad

    @functools.cached_property
    def _uses_scores(self) -> bool:
        return any(name in self.work.scorers for name in self.rule.columns())

    def _column(self, block: Block, name: str, needed: Mask, made: dict[str, Column]) -> Column:
        ref = self.work.scorers.get(name)
        counted = isinstance(self.view, IndexView) and ref is not None and ref.name == "caption"
        if ref is None or (counted and name in OWN_COLUMNS):
            try:
                return block.column(name)
            except KeyError:
                raise NeedsRaw from None
        if name not in made:
            made.update(self._scores.of(block, ref, needed))
        return made[name]

    def _write_run(self, kept: list[npt.NDArray[np.uint64]]) -> None:
        words = kept[0] if len(kept) == 1 else np.concatenate([np.zeros((0, 2), "<u8"), *kept])
        words = words.reshape(-1, 2) if len(words) else np.zeros((0, 2), "<u8")
        if not self.result.indexed:  # index blocks come in the order of uids
            words = sort_words(words)
        self.result.kept = len(words)
        if self.work.in_memory:
            self.result.run = words
            return
        path = run_file(self.work.parts, self.task.number)
        with atomic_file(path) as handle:
            handle.write(np.ascontiguousarray(words).data)
        self.result.run = str(path)
        facts = {"sha256": self.task.sha256, "result": self.result.__dict__}
        with atomic_file(_done_file(self.work.parts, self.task.number), durable=False) as handle:
            handle.write(json.dumps(facts).encode())
