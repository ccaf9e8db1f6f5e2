"""Length of a caption as DataComp's image-based filter counts it: fastText's words, and characters.

A word is what fastText's tokenizer gives: bytes between blanks, which are space, tab, VT, FF, CR, LF and NUL only, and every
line feed is a word of its own (the end-of-sentence mark). Unicode blanks do not separate, unlike in the scorer `caption`.
A character is a code point. Source: fastText 0.9.2, Dictionary::readWord; DataComp (arXiv 2304.14108), image-based filter: more
than one word and more than five characters.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from curate._text import Bytes, Counter, blocks, plain_parts
from curate.scores import Cost, result, text_column

VERSION = 1
COLUMNS = ("text",)
OUTPUT = {"fasttext_words": "int32", "fasttext_chars": "int32"}
COST: Cost = "cheap"

LINE_FEED, SPACE = 10, 32
TAB, TO_RETURN = 9, 4  # tab, LF, VT, FF and CR are five in a row

_THREAD = threading.local()


@dataclass(frozen=True)
class Config:
    """Nothing to choose."""


class Scorer:
    """Counts fastText's words and code points."""

    def __init__(self, config: Config) -> None:
        self.identity: dict[str, str] = {}

    def score(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        text = text_column(batch)
        data, offsets, nulls = plain_parts(text)
        words, chars = np.empty(len(text), np.int32), np.empty(len(text), np.int32)
        counter = _counter()
        for first, last in blocks(offsets):
            bounds = offsets[first : last + 1]
            counter.block(data, bounds, words[first:last], chars[first:last])
            feeds = np.flatnonzero(data[bounds[0] : bounds[-1]] == LINE_FEED)
            if len(feeds):
                rows = np.searchsorted(bounds, feeds + bounds[0], "right") - 1
                words[first:last] += np.bincount(rows, minlength=last - first).astype(np.int32)
        columns = {
            "fasttext_words": pa.array(words, mask=nulls),
            "fasttext_chars": pa.array(chars, mask=nulls),
        }
        return result(columns, OUTPUT)


class _FasttextCounter(Counter):
    """The counting kernel with fastText's blanks instead of Unicode's."""

    def _blanks(self, part: Bytes, *, ascii_only: bool, prefixed: bool = False) -> Any:
        flags, mask, scratch = self._flags[: len(part)], self._mask[: len(part)], self._bytes[: len(part)]
        np.equal(part, SPACE, out=flags)
        least = int(part.min())
        if least < SPACE:
            np.subtract(part, TAB, out=scratch)
            np.logical_or(flags, np.less_equal(scratch, TO_RETURN, out=mask), out=flags)
        if least == 0:
            np.logical_or(flags, np.equal(part, 0, out=mask), out=flags)
        return flags


def _counter() -> Counter:
    counter: Counter | None = getattr(_THREAD, "counter", None)
    if counter is None:
        counter = _THREAD.counter = _FasttextCounter(words=True, chars=True)
    return counter
