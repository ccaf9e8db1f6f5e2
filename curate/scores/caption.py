"""Length of the caption: words between blanks and characters.

A word is what Python's `str.split()` gives, so every Unicode blank separates (no-break space and the
ideographic space too, zero-width space not); a character is a code point. Both are exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from curate._text import count_words_and_chars
from curate.scores import Cost, result, text_column

VERSION = 1
COLUMNS = ("text",)
OUTPUT = {"n_words": "int32", "n_chars": "int32"}
COST: Cost = "cheap"


@dataclass(frozen=True)
class Config:
    """Nothing to choose."""


class Scorer:
    """Counts words and code points."""

    def __init__(self, config: Config) -> None:
        self.identity: dict[str, str] = {}

    def score(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        words, chars = count_words_and_chars(text_column(batch))
        columns = {"n_words": pa.array(words, mask=words < 0), "n_chars": pa.array(chars, mask=chars < 0)}
        return result(columns, OUTPUT)  # the counts say -1 for a null caption
