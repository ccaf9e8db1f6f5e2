"""The word automaton against Python's `in` on spaced strings, as MetaCLIP's search is published."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from curate import _aho
from curate._aho import Matcher, can_match, cut


def spaced(text: str) -> str:
    """The published spacing of a caption."""
    text = f" {text} "
    for mark in [",", ".", ";", ":", "?", "!", "`"]:
        text = text.replace(mark, f" {mark} ")
    for blank in ["\t", "\n", "\r"]:
        text = text.replace(blank, " ")
    return text


def naive(texts: list[str], entries: list[str]) -> list[tuple[int, int]]:
    return [
        (i, e)
        for i, text in enumerate(texts)
        for e, entry in enumerate(entries)
        if f" {entry} " in spaced(text)
    ]


def found(texts: list[str], entries: list[str]) -> list[tuple[int, int]]:
    raw = [t.encode() for t in texts]
    offsets = np.cumsum([0, *map(len, raw)])
    text, entry = Matcher([e.encode() for e in entries]).find(np.frombuffer(b"".join(raw), np.uint8), offsets)
    return list(zip(text.tolist(), entry.tolist(), strict=True))


WORDS = [
    "a",
    "b",
    "ab",
    "",
    "aaaaaaaa",
    "aaaaaaaaa",
    "aaaaaaaab",
    "ä",
    "東京",
    "a\0",
    "\0",
    "longer-than-sixteen-bytes",
]
ANY = st.text(st.sampled_from("ab  ,.?`\t\r\näé東\0\x0b\u00a0"), max_size=12)
PHRASES = st.one_of(ANY, st.lists(st.sampled_from(WORDS), max_size=5).map(" ".join))


@given(texts=st.lists(PHRASES, max_size=8), entries=st.lists(PHRASES, max_size=8, unique=True))
def test_finds_what_a_substring_search_finds(texts: list[str], entries: list[str]) -> None:
    assert found(texts, entries) == naive(texts, entries)


@given(texts=st.lists(ANY, max_size=8))
def test_words_of_spaced_texts(texts: list[str]) -> None:
    raw = [t.encode() for t in texts]
    data = b"".join(raw)
    starts, lengths, text = cut(np.frombuffer(data, np.uint8), np.cumsum([0, *map(len, raw)]))
    words = [data[s : s + n].decode() for s, n in zip(starts.tolist(), lengths.tolist(), strict=True)]
    expected = [(i, word) for i, t in enumerate(texts) for word in spaced(t)[1:-1].split(" ")]
    assert list(zip(text.tolist(), words, strict=True)) == expected


@given(entry=ANY)
@example("? ?")
@example("?  ?")
@example("? a")
@example("a , b")
def test_entries_that_no_text_holds(entry: str) -> None:
    # the text whose spacing gives the entry, if any does: one blank on either side of a mark comes from spacing
    text = re.sub(" ?([,.;:?!`]) ?", r"\1", entry)
    assert can_match(entry.encode()) == bool(found([text], [entry]))


def test_overlapping_and_repeated_matches_count_once() -> None:
    assert found(["a a a a"], ["a a", "a", "a a a", "a a a a a"]) == [(0, 0), (0, 1), (0, 2)]


def test_a_match_never_reaches_into_the_next_text() -> None:
    assert found(["new", "york"], ["new york", "york"]) == [(1, 1)]
    assert found(["new york", ""], ["new york", "york "]) == [(0, 0)]


def test_case_and_parts_of_words_differ() -> None:
    texts = ["New York", "new yorker", "St. Louis", "a, b", "a,b", "it's"]
    entries = ["New York", "new york", "St.", "St .", "a,", "a , b", "it's"]
    assert found(texts, entries) == [(0, 0), (2, 3), (4, 5), (5, 6)] == naive(texts, entries)


def test_words_that_share_every_hash_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_aho, "_ODD", np.uint64(0))  # all words and edges fall into one bucket
    words = [f"w{i}" * (i % 5 + 1) for i in range(40)]
    texts = [" ".join(words[i : i + 4]) for i in range(40)]
    entries = words + [" ".join(words[i : i + 2]) for i in range(39)]
    assert found(texts, entries) == naive(texts, entries)


def test_parts_of_a_buffer() -> None:
    data = np.frombuffer(b"xxxa bxxb c", np.uint8)
    matcher = Matcher([b"a b", b"b"])
    text, entry = matcher.find(data, np.array([3, 6, 6]))
    assert text.tolist() == [0, 0] and entry.tolist() == [0, 1]
    assert [len(v) for v in matcher.find(data, np.array([4]))] == [0, 0]


def test_no_entries_and_no_texts() -> None:
    assert found(["a"], []) == [] == found([], ["a"]) == found([], [])
    assert found(["", "a"], [""]) == naive(["", "a"], [""])
