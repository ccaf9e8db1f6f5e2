"""Word and character counts against Python's own and against the recorded ones."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from curate.scores import caption

BLANKS = [chr(c) for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF and chr(c).isspace()]
TEXT = st.text(
    alphabet=st.one_of(
        st.sampled_from([*BLANKS, "\u200b", "\0", "a", "é", "日", "😀"]), st.characters(codec="utf-8")
    )
)


@given(st.lists(st.none() | TEXT))
def test_counts_are_those_of_split_and_len(texts: list[str | None]) -> None:
    scored = caption.Scorer(caption.Config()).score(pa.record_batch({"text": pa.array(texts, pa.string())}))
    assert scored["n_words"].to_pylist() == [None if t is None else len(t.split()) for t in texts]
    assert scored["n_chars"].to_pylist() == [None if t is None else len(t) for t in texts]


def test_equal_to_the_recorded_counts(labelled: list[tuple[pa.RecordBatch, pa.Table]]) -> None:
    scorer = caption.Scorer(caption.Config())
    for batch, labels in labelled:
        scored = scorer.score(batch)
        assert scored["n_words"].to_pylist() == labels["n_words"].to_pylist()
        assert scored["n_chars"].to_pylist() == labels["n_code_points"].to_pylist()
