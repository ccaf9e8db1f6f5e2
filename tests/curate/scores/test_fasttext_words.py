"""Words and characters as fastText's tokenizer and DataComp's image-based filter count them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate import _text
from curate.scores import fasttext_words
from tests.conftest import ODD_CAPTIONS

ALPHABET = "ab \n\r\t\x0b\x0c\0\x1c\x1f\x85\u00a0\u3000\u200bé赤\U0001f468"


def words_of(text: str) -> int:
    """fastText's readWord over the bytes, one at a time."""
    count, inside = 0, False
    for byte in text.encode():
        if byte in b" \n\r\t\x0b\x0c\0":
            inside = False
            count += byte == 10  # the end-of-sentence mark
        elif not inside:
            inside, count = True, count + 1
    return count


def counts(texts: list[str | None], kind: pa.DataType | None = None) -> list[tuple[int | None, int | None]]:
    scorer = fasttext_words.Scorer(fasttext_words.Config())
    made = scorer.score(pa.record_batch({"text": pa.array(texts, kind or pa.string())}))
    return list(zip(*made.to_pydict().values(), strict=True))


def wanted(texts: list[str | None]) -> list[tuple[int | None, int | None]]:
    return [(None, None) if t is None else (words_of(t), len(t)) for t in texts]


@given(st.lists(st.none() | st.text(ALPHABET, max_size=12), max_size=20))
def test_it_counts_like_the_tokenizer_byte_by_byte(texts: list[str | None]) -> None:
    assert counts(texts) == wanted(texts)
    assert counts(texts, pa.large_string()) == wanted(texts)


@pytest.mark.parametrize(
    ("text", "words", "chars"),
    [
        ("", 0, 0),
        ("two words", 2, 9),
        ("no\u00a0break\u3000here", 1, 13),
        ("a\nb", 3, 3),
        ("\n", 1, 1),
        ("\n\n", 2, 2),
        ("a\r\nb", 3, 4),
        ("nul\0inside", 2, 10),
        ("unit\x1fseparator", 1, 14),
        ("赤い 車", 2, 4),
        (" a ", 1, 3),
    ],
)
def test_cases(text: str, words: int, chars: int) -> None:
    assert counts([text]) == [(words, chars)]


def test_words_of_neighbouring_rows_do_not_run_together() -> None:
    texts: list[str | None] = ["a", "", "b", "c d", None, "e"]
    assert counts(texts) == wanted(texts)
    array = pa.array(["x", *texts, "y"])[1:-1]  # an offset into the buffers
    made = fasttext_words.Scorer(fasttext_words.Config()).score(pa.record_batch({"text": array}))
    assert made["fasttext_words"].to_pylist() == [w for w, _ in wanted(texts)]


def test_rows_beyond_one_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_text, "BLOCK_BYTES", 16)
    monkeypatch.setattr(_text, "BLOCK_ROWS", 3)
    texts = [*ODD_CAPTIONS, "word " * 50, *ODD_CAPTIONS]
    assert counts(texts) == wanted(texts)


def test_no_rows() -> None:
    assert counts([]) == []


@pytest.mark.parametrize("pool", ["pool", "pool_npz"])
def test_the_caption_filter_of_the_reference(golden: Path, pool: str) -> None:
    labels = pq.read_table(golden / f"{pool}_labels.parquet")
    texts: dict[tuple[str, int], str] = {}
    for path in sorted((golden / pool).glob("*.parquet")):
        column = pq.read_table(path, columns=["text"])["text"].to_pylist()
        texts |= {(path.stem, row): text for row, text in enumerate(column)}
    order = zip(labels["shard"].to_pylist(), labels["row"].to_pylist(), strict=True)
    made = np.array(counts([texts[place] for place in order]))
    assert made[:, 0].tolist() == labels["n_fasttext_tokens"].to_pylist()
    assert made[:, 1].tolist() == labels["n_code_points"].to_pylist()
    english = np.array(labels["fasttext_label"].to_pylist()) == "en"
    kept = english & (made[:, 0] > 1) & (made[:, 1] > 5)
    assert kept.tolist() == labels["image_caption_filter"].to_pylist()
