"""WordNet's dictionary of base forms: the first synset of a word, by WordNet's morphological rules.

Rules: the WordNet 3.0 manual pages morphy(7WN) and wndb(5WN), written anew here. Of a word in lower case the
parts of speech are tried in the order noun, verb, adjective, adverb; the first that knows a form of the word
answers with that form's first synset. Forms of one part of speech, in order:

    1. a word in the exception list: the word itself, then the base forms that the list names, and no rule
    2. else the word itself and every form that one change of ending gives
    3. else the endings of those are changed again, until a form is known or no ending fits

The ending `ves` is not on the manual page; DataComp's text filter was run with a reader that has it, so it is
here.

Shapes: an index file has a licence (lines that begin with blanks), then `lemma pos count … offset offset`,
where the last `count` fields are byte offsets, most frequent sense first. An exception file has `inflected
base [base …]`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PARTS = ("noun", "verb", "adj", "adv")

ENDINGS: dict[str, tuple[tuple[str, str], ...]] = {
    "noun": (
        ("s", ""),
        ("ses", "s"),
        ("ves", "f"),
        ("xes", "x"),
        ("zes", "z"),
        ("ches", "ch"),
        ("shes", "sh"),
        ("men", "man"),
        ("ies", "y"),
    ),
    "verb": (
        ("s", ""),
        ("ies", "y"),
        ("es", "e"),
        ("es", ""),
        ("ed", "e"),
        ("ed", ""),
        ("ing", "e"),
        ("ing", ""),
    ),
    "adj": (("er", ""), ("est", ""), ("er", "e"), ("est", "e")),
    "adv": (),
}
LONGEST_ENDING = 4  # code points


class Sense(NamedTuple):
    """The synset that answers for a word."""

    offset: int
    part: str


class _Form(NamedTuple):
    """word[:keep] + tail: a changed ending costs nothing, however long the word is."""

    keep: int
    tail: str


class _Part:
    """One part of speech: lemma -> first offset, inflected word -> base forms."""

    def __init__(self, folder: Path, part: str) -> None:
        self.first = dict(_lemmas(folder / f"index.{part}"))
        self.exceptions = dict(_exceptions(folder / f"{part}.exc"))
        self.longest = max(map(len, self.first), default=0)
        rules = ENDINGS[part]
        self.by_last = {old[-1]: tuple(rule for rule in rules if rule[0][-1] == old[-1]) for old, _ in rules}

    def offset(self, word: str) -> int | None:
        found = self.first.get(word)
        if found is not None:
            return found
        bases = self.exceptions.get(word)
        if bases is not None:
            return next((self.first[base] for base in bases if base in self.first), None)
        forms = [_Form(len(word), "")]
        while forms := self._changed(word, forms):
            for keep, tail in forms:
                if (
                    keep + len(tail) <= self.longest
                    and (found := self.first.get(word[:keep] + tail)) is not None
                ):
                    return found
        return None

    def _changed(self, word: str, forms: list[_Form]) -> list[_Form]:
        changed: dict[_Form, None] = {}  # a dict keeps the order and drops what is there twice
        for keep, tail in forms:
            end = word[max(0, keep - LONGEST_ENDING) : keep] + tail
            for old, new in self.by_last.get(end[-1:], ()):
                if end.endswith(old):
                    changed[_same(word, keep, tail, len(old), new)] = None
        return list(changed)


def _same(word: str, keep: int, tail: str, cut: int, new: str) -> _Form:
    """The form with `cut` characters less and `new` more, spelt with the longest stretch of the word."""
    tail, keep = (tail[:-cut], keep) if cut <= len(tail) else ("", keep - (cut - len(tail)))
    tail += new
    while tail and keep < len(word) and word[keep] == tail[0]:
        keep, tail = keep + 1, tail[1:]
    return _Form(keep, tail)


class Morphy:
    """Look-up in the WordNet files of `folder` (index.noun, noun.exc and so on)."""

    def __init__(self, folder: Path) -> None:
        self._parts = [(part, _Part(folder, part)) for part in PARTS]

    def sense(self, word: str) -> Sense | None:
        """The first synset of `word`, any case, punctuation as it is; None when WordNet has no form of it."""
        word = word.lower()
        for name, part in self._parts:
            offset = part.offset(word)
            if offset is not None:
                return Sense(offset, name)
        return None


def _lemmas(path: Path) -> Iterator[tuple[str, int]]:
    with path.open(encoding="ascii") as lines:
        for line in lines:
            if not line.startswith(" "):
                fields = line.split()
                yield fields[0], int(fields[-int(fields[2])])


def _exceptions(path: Path) -> Iterator[tuple[str, list[str]]]:
    with path.open(encoding="ascii") as lines:
        for line in lines:
            inflected, *bases = line.split()
            yield inflected, bases
