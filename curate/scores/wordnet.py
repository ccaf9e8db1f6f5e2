"""First word of the caption whose WordNet sense is an ImageNet-21k class.

The rule of DataComp's text-based filter: words are what `str.split()` gives, with their punctuation, in lower
case; of each the first WordNet 3.0 synset is taken (see `curate._morphy`) and only the number of its offset
is compared with the 21,843 ids of ImageNet-21k. A verb whose offset happens to be the number of such a noun
therefore matches as well.

Assets: `wordnet` and `imagenet21k` (curate.assets). Cost: distinct words are looked up once and remembered.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from curate import assets
from curate._morphy import Morphy, Sense
from curate.scores import Cost, result, text_column

VERSION = 1
COLUMNS = ("text",)
OUTPUT = {"imagenet21k_word": "string", "imagenet21k_offset": "int64", "imagenet21k_hit": "bool"}
COST: Cost = "costly"

REMEMBERED_WORDS = 500_000  # then all are forgotten: about 60 MB
LONGEST_REMEMBERED_CHARS = 64
LONG_TEXT_CHARS = 1 << 16  # longer captions are walked word by word, not split into one big list

_WORD = re.compile(r"\S+")  # the blanks of \s in a str pattern are those of str.split()


@dataclass(frozen=True)
class Config:
    """Where the dictionaries are; empty means the usual places."""

    wordnet: str = ""
    imagenet21k: str = ""


class Scorer:
    """Looks for the first word that names an ImageNet-21k class."""

    def __init__(self, config: Config) -> None:
        folder = assets.locate("wordnet", config.wordnet)
        ids = assets.locate("imagenet21k", config.imagenet21k)
        self.identity = {"wordnet": assets.digest("wordnet"), "imagenet21k": assets.digest("imagenet21k")}
        self._known = _Known(Morphy(folder), imagenet_offsets(ids))

    def score(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        words: list[str | None] = []
        offsets: list[int | None] = []
        hits: list[bool | None] = []
        for text in text_column(batch).to_pylist():
            word, offset = (None, None) if text is None else self._first(text)
            words.append(word)
            offsets.append(offset)
            hits.append(None if text is None else offset is not None)
        columns = {
            "imagenet21k_word": pa.array(words, pa.string()),
            "imagenet21k_offset": pa.array(offsets, pa.int64()),
            "imagenet21k_hit": pa.array(hits, pa.bool_()),
        }
        return result(columns, OUTPUT)

    def sense(self, word: str) -> Sense | None:
        """The synset of one word, whether or not it is a class."""
        return self._known.morphy.sense(word)

    def _first(self, text: str) -> tuple[str | None, int | None]:
        known = self._known
        words: Iterable[str]
        if len(text) <= LONG_TEXT_CHARS:
            words = text.split()
        else:
            words = (found.group() for found in _WORD.finditer(text))
        for word in words:
            offset = known[word]
            if offset is not None:
                return word, offset
        return None, None


class _Known(dict[str, int | None]):
    """word -> offset of the class it names, or None; filled on first use, so a look-up is one dict access."""

    def __init__(self, morphy: Morphy, classes: frozenset[int]) -> None:
        super().__init__()
        self.morphy = morphy
        self._classes = classes

    def __missing__(self, word: str) -> int | None:
        sense = self.morphy.sense(word)
        offset = sense.offset if sense is not None and sense.offset in self._classes else None
        if len(word) <= LONGEST_REMEMBERED_CHARS:
            if len(self) >= REMEMBERED_WORDS:
                self.clear()
            self[word] = offset
        return offset


def imagenet_offsets(path: Path) -> frozenset[int]:
    """The offsets of a list of ids such as n00004475, one a line."""
    return frozenset(int(line[1:]) for line in path.read_text(encoding="ascii").split())
