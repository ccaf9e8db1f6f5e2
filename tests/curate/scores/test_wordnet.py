"""Synset look-ups against the recorded first hits."""

from __future__ import annotations

import pyarrow as pa
import pytest

from curate.scores import wordnet
from headwater.errors import MissingExtra

RECORDED_PART = {"n": "noun", "v": "verb", "a": "adj", "s": "adj", "r": "adv"}  # s: adjective satellite


@pytest.fixture(scope="module")
def scorer() -> wordnet.Scorer:
    try:
        return wordnet.Scorer(wordnet.Config())
    except MissingExtra as missing:
        pytest.skip(f"{missing}; {missing.hint}")


def first_words(scorer: wordnet.Scorer, texts: list[str | None]) -> list[str | None]:
    scored = scorer.score(pa.record_batch({"text": pa.array(texts, pa.string())}))
    return list(scored["imagenet21k_word"].to_pylist())


def test_equal_to_the_recorded_hits(
    scorer: wordnet.Scorer, labelled: list[tuple[pa.RecordBatch, pa.Table]]
) -> None:
    hits = 0
    for batch, labels in labelled:
        scored = scorer.score(batch)
        words = scored["imagenet21k_word"].to_pylist()
        assert words == labels["wordnet_word"].to_pylist()
        assert scored["imagenet21k_offset"].to_pylist() == labels["wordnet_offset"].to_pylist()
        assert scored["imagenet21k_hit"].to_pylist() == [word is not None for word in words]
        for word, part in zip(words, labels["wordnet_pos"].to_pylist(), strict=True):
            if word is not None:
                sense = scorer.sense(word)
                assert sense is not None and sense.part == RECORDED_PART[part]
        hits += len(words) - words.count(None)
    assert hits > 15_000


@pytest.mark.parametrize(
    "word",
    ["dog", "Dogs", "have", "e", "das", "passionate", "cognitive", "incognito", "isosceles", "encapsulated"]
    + ["ice_cream", "t-shirt", "\u212aeyboard", "dog" + "s" * 300],
)
def test_words_that_hit(scorer: wordnet.Scorer, word: str) -> None:
    assert first_words(scorer, [f"of the {word}"]) == [word]


@pytest.mark.parametrize(
    "word", ["men", "cherries", "running", "book", "dog,", '"dog"', "do g", "d\u200bog", "\0dog"]
)
def test_words_that_do_not_hit(scorer: wordnet.Scorer, word: str) -> None:
    assert first_words(scorer, [f"of the {word}"]) == [None]


def test_first_word_wins_and_every_blank_separates(scorer: wordnet.Scorer) -> None:
    assert first_words(scorer, ["of\u3000Cat\x1fdog", "dog cat", "", None]) == ["Cat", "dog", None, None]


def test_a_very_long_caption_is_walked(scorer: wordnet.Scorer) -> None:
    filler = "of\u00a0the " * wordnet.LONG_TEXT_CHARS
    assert first_words(scorer, [filler, filler + "dog"]) == [None, "dog"]


def test_memory_of_words_is_bounded(scorer: wordnet.Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wordnet, "REMEMBERED_WORDS", 10)
    fresh = wordnet.Scorer(wordnet.Config())
    texts = [f"word{i} dog{i} dog" for i in range(100)]
    assert first_words(fresh, [*texts]) == ["dog"] * 100
    assert len(fresh._known) <= 10
