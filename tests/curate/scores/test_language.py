"""The fastText labels against the recorded ones; batches, close calls and bad models."""

from __future__ import annotations

from pathlib import Path

import fasttext
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate import assets
from curate._lid import Unsupported
from curate.scores import language
from headwater.errors import MissingInput, UsageError

SCORER = language.Scorer(language.Config())
LIBRARY = fasttext.load_model(str(assets.locate("lid176")))


def score(texts: list[str | None], config: language.Config | None = None) -> list[tuple[str, float]]:
    scorer = SCORER if config is None else language.Scorer(config)
    scored = scorer.score(pa.record_batch({"text": pa.array(texts, pa.string())}))
    return list(zip(*(column.to_pylist() for column in scored.columns), strict=True))


def test_equal_to_the_recorded_labels(labelled: list[tuple[pa.RecordBatch, pa.Table]]) -> None:
    for batch, labels in labelled:
        scored = SCORER.score(batch)
        assert scored["language"].to_pylist() == labels["fasttext_label"].to_pylist()
        recorded = labels["fasttext_prob"].to_numpy().astype(np.float32)
        np.testing.assert_allclose(scored["language_probability"].to_numpy(), recorded, rtol=1e-5, atol=0)


def test_text_the_model_knows_nothing_about_is_english() -> None:
    for label, probability in score(["", " ", "1 2 3 4", "- - - -", "\0", "\n"]):
        assert (label, round(probability, 4)) == ("en", 0.1245)


LETTERS = st.sampled_from("aeinrstchdozżáñßшкаи日本の犬한국अ \t\n\r\v\f\0\u00a0\u3000<>_.,1👍🏽")
PIECES = st.sampled_from(
    ["the dog", "der Hund", "собака", "</s>", "__label__fr", "<", ">", "http://", "de la", " "]
)
CAPTION = st.lists(LETTERS | PIECES | st.characters(codec="utf-8"), max_size=40).map("".join)


@given(st.lists(CAPTION, min_size=1, max_size=40))
@settings(max_examples=200, deadline=None)
def test_batch_is_the_library_text_by_text(texts: list[str]) -> None:
    for text, (label, probability) in zip(texts, score([*texts]), strict=True):
        labels, probabilities = LIBRARY.predict(text.replace("\n", " "))
        assert label == labels[0].removeprefix("__label__")
        assert probability == pytest.approx(probabilities[0], rel=1e-5)


def test_blocks_are_in_use_and_leave_nothing_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert SCORER.identity["evaluator"] == "blocks"
    monkeypatch.setattr(language, "BLOCK_TEXTS", 7)
    monkeypatch.setattr(language, "BLOCK_BYTES", 100)
    texts: list[str | None] = [
        f"{word} {i}" for i in range(60) for word in ("the dog", "le chien", "x" * 150)
    ]
    assert score(texts) == [score([text])[0] for text in texts]


def test_a_model_of_another_kind_is_left_to_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise Unsupported("another kind of model")

    monkeypatch.setattr(language, "LabelModel", refuse)
    config = language.Config()
    assert language.Scorer(config).identity["evaluator"] == "library"
    texts: list[str | None] = ["the dog runs", "", "der Hund läuft", "собака", None, "the dog runs"]
    found, expected = score(texts, config), score(texts)
    assert [label for label, _ in found] == [label for label, _ in expected]


def test_an_evaluator_that_disagrees_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curate._lid._FNV_PRIME", np.uint32(16777633))
    assert language.Scorer(language.Config()).identity["evaluator"] == "library"


def test_only_line_feeds_are_replaced() -> None:
    assert score(["der Hund\nim Schnee"]) == score(["der Hund im Schnee"])
    assert score(["DER HUND IM SCHNEE"]) != score(["der hund im schnee"])


def test_a_model_can_be_named_and_its_digest_is_the_identity(tmp_path: Path) -> None:
    copy = tmp_path / "other.bin"
    copy.write_bytes(assets.locate("lid176").read_bytes())
    named = language.Scorer(language.Config(model=str(copy)))
    assert named.identity == SCORER.identity
    copy.write_bytes(b"no model")
    with pytest.raises(UsageError, match=r"other\.bin is no fastText model"):
        language.Scorer(language.Config(model=str(copy)))
    with pytest.raises(MissingInput, match="absent"):
        language.Scorer(language.Config(model=str(tmp_path / "absent")))


def test_only_the_first_characters_of_an_endless_caption_are_read() -> None:
    head = "the dog runs through the snow "
    config = language.Config(most_chars=len(head))
    long = head + "собака бежит по снегу " * 50
    assert [label for label, _ in score([long], config)] == ["en"]
    assert [label for label, _ in score([long])] == ["ru"]
