"""CLD3 labels against the recorded ones; skipped where gcld3 is not built."""

from __future__ import annotations

import sys

import numpy as np
import pyarrow as pa
import pytest

from curate.scores import language_cld3
from headwater.errors import MissingExtra


@pytest.fixture(scope="module")
def scorer() -> language_cld3.Scorer:
    try:
        return language_cld3.Scorer(language_cld3.Config())
    except MissingExtra as missing:
        pytest.skip(f"{missing}; {missing.hint}")


def test_equal_to_the_recorded_labels(
    scorer: language_cld3.Scorer, labelled: list[tuple[pa.RecordBatch, pa.Table]]
) -> None:
    for batch, labels in labelled:
        scored = scorer.score(batch)
        assert scored["language_cld3"].to_pylist() == labels["gcld3_label"].to_pylist()
        found, recorded = scored["language_cld3_probability"].to_numpy(), labels["gcld3_prob"].to_numpy()
        np.testing.assert_allclose(found, recorded, rtol=1e-6, atol=0)


def test_line_feeds_are_blanks(scorer: language_cld3.Scorer) -> None:
    batch = pa.record_batch({"text": ["der Hund\nim tiefen Schnee", "der Hund im tiefen Schnee"]})
    first, second = scorer.score(batch).to_pylist()
    assert first == second
    assert first["language_cld3"] == "de"


def test_without_gcld3_the_error_holds_the_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcld3", None)
    with pytest.raises(MissingExtra) as failure:
        language_cld3.Scorer(language_cld3.Config())
    assert failure.value.hint == "apt-get install protobuf-compiler libprotobuf-dev && pip install gcld3"
