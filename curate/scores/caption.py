"""Length of the caption: words between blanks and characters.

A word is what Python's `str.split()` gives, so every Unicode blank separates (no-break space and the
ideographic space too, zero-width space not); a character is a code point. Both are exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from curate._captions import count_captions_any
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


def score_row_group(file: pq.ParquetFile, group: int, *, shard_name: str, handle: BinaryIO) -> dict[str, Any]:
    """Both columns of one row group straight from its pages, as arrays without nulls or Arrow arrays with them.

    Bytes are counted as they are: a caption that is not UTF-8 is refused where the text itself is looked at.
    """
    words, chars = count_captions_any(file, group, shard_name=shard_name, file=handle)
    if len(words) == 0 or int(words.min()) >= 0:
        return {"n_words": words, "n_chars": chars}
    return {"n_words": pa.array(words, mask=words < 0), "n_chars": pa.array(chars, mask=chars < 0)}
