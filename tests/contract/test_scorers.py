"""What every scorer must do, whichever file it is in."""

from __future__ import annotations

import dataclasses
import importlib
import random
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import curate.scores
from headwater.errors import MissingExtra, UsageError

FOLDER = Path(curate.scores.__file__).parent
EVERY = sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_"))
# those of whole pools and of pictures have a contract of their own
NAMES = [
    n for n in EVERY if getattr(importlib.import_module(f"curate.scores.{n}"), "SCOPE", "rows") == "rows"
]
TYPES = {"string", "int32", "int64", "float32", "float64", "bool"}

TEXTS: list[str | None] = [
    "A dog in the snow",
    "der Hund im Schnee",
    "собака бежит по снегу",
    "雪の中の犬",
    None,
    "",
    " ",
    "\n",
    "a\nb\r\nc\td\x0be\x0cf",
    "nul\0inside",
    "no\u00a0break\u3000ideographic\u200bzero\x1funit",
    "👨‍👩‍👧‍👦 family",
    "e\u0301 combining \u202emirrored\u202c \ufeffmark",
    "\u212aELVIN \u0130stanbul \ufb01 \ud7ff\ue000\U0010ffff",
    "</s> </s> __label__fr",
    "'; DROP TABLE pool; -- %s {0} ${x}",
    "1 2 3 4",
    "- - - -",
    "x" * 5000,
    "word " * 2000,
    "A dog in the snow",
]


@pytest.fixture(params=NAMES)
def module(request: pytest.FixtureRequest) -> Any:
    return importlib.import_module(f"curate.scores.{request.param}")


@pytest.fixture
def scorer(module: Any) -> Any:
    try:
        return module.Scorer(module.Config())
    except MissingExtra as missing:
        pytest.skip(f"{missing}; {missing.hint}")


def batch_of(texts: list[str | None], kind: Any = None) -> pa.RecordBatch:
    return pa.record_batch({"uid": pa.array(range(len(texts))), "text": pa.array(texts, kind or pa.string())})


def test_the_known_scorers_are_here() -> None:
    assert {"caption", "language", "language_cld3", "wordnet"} <= set(NAMES)


def test_declarations(module: Any) -> None:
    assert isinstance(module.VERSION, int) and module.VERSION >= 1
    assert module.COST in ("cheap", "costly")
    assert module.COLUMNS and all(isinstance(name, str) for name in module.COLUMNS)
    assert module.OUTPUT and set(module.OUTPUT.values()) <= TYPES
    first_line = (module.__doc__ or "").splitlines()[0]
    assert 20 <= len(first_line) <= 100 and first_line.endswith(".")
    assert dataclasses.is_dataclass(module.Config)
    assert module.Config.__dataclass_params__.frozen
    assert module.Config() == module.Config()


def test_no_two_scorers_write_one_column() -> None:
    columns = []
    for stem in EVERY:
        module = importlib.import_module(f"curate.scores.{stem}")
        columns += list(module.OUTPUT(module.Config()) if callable(module.OUTPUT) else module.OUTPUT)
    assert len(columns) == len(set(columns))


def test_identity_is_text(scorer: Any) -> None:
    assert all(
        isinstance(key, str) and isinstance(value, str) and value for key, value in scorer.identity.items()
    )


def test_rows_columns_types_and_nulls(module: Any, scorer: Any) -> None:
    scored = scorer.score(batch_of(TEXTS))
    assert scored.num_rows == len(TEXTS)
    assert scored.schema.names == list(module.OUTPUT)
    assert [field.type for field in scored.schema] == [
        pa.type_for_alias(kind) for kind in module.OUTPUT.values()
    ]
    scored.validate(full=True)
    of_null = scored.slice(TEXTS.index(None), 1).to_pylist()[0]
    assert set(of_null.values()) == {None}


def test_empty_batches(module: Any, scorer: Any) -> None:
    for texts in ([], [None], [None, None]):
        scored = scorer.score(batch_of(texts))
        assert scored.num_rows == len(texts)
        assert scored.schema.names == list(module.OUTPUT)


def test_same_answer_again_in_any_order_and_batching(module: Any, scorer: Any) -> None:
    answers = scorer.score(batch_of(TEXTS)).to_pylist()
    assert scorer.score(batch_of(TEXTS)).to_pylist() == answers
    order = list(range(len(TEXTS)))
    random.Random(5).shuffle(order)
    assert scorer.score(batch_of([TEXTS[i] for i in order])).to_pylist() == [answers[i] for i in order]
    again = module.Scorer(module.Config())
    assert [again.score(batch_of([text])).to_pylist()[0] for text in TEXTS] == answers
    assert scorer.score(batch_of(TEXTS).slice(3, 7)).to_pylist() == answers[3:10]


@pytest.mark.parametrize(
    "kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
)
def test_encodings_of_text_give_one_answer(scorer: Any, kind: pa.DataType) -> None:
    texts = batch_of(TEXTS)
    encoded = texts["text"].dictionary_encode() if pa.types.is_dictionary(kind) else texts["text"].cast(kind)
    assert scorer.score(pa.record_batch({"text": encoded})).equals(scorer.score(texts))


@pytest.mark.parametrize(
    "column", [pa.array([1, 2]), pa.array([b"a", b"b"]), pa.array([["a"], ["b"]]), pa.nulls(2)]
)
def test_a_column_that_is_no_text_is_refused_by_name(scorer: Any, column: pa.Array) -> None:
    with pytest.raises(UsageError, match="'text'"):
        scorer.score(pa.record_batch({"text": column}))


def test_a_missing_column_is_refused_by_name(scorer: Any) -> None:
    with pytest.raises(UsageError, match="'text'"):
        scorer.score(pa.record_batch({"texts": ["a"]}))


def test_two_hundred_rows_are_quick(scorer: Any) -> None:
    texts = [f"a photo of dog number {i} in the snow" for i in range(200)]
    started = time.process_time()
    scorer.score(batch_of([*texts]))
    assert time.process_time() - started < 1.0
