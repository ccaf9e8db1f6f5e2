"""What every scorer of pictures must do, whichever file it is in."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import curate.scores
from curate.pictures import Picture
from headwater.errors import HeadwaterError, MissingExtra
from tests.curate.picture_kit import drawing, encoded, plain, uid_of

FOLDER = Path(curate.scores.__file__).parent
NAMES = [
    path.stem
    for path in sorted(FOLDER.glob("*.py"))
    if not path.stem.startswith("_")
    and getattr(importlib.import_module(f"curate.scores.{path.stem}"), "SCOPE", "rows") == "pictures"
]
TYPES = {"string", "int32", "int64", "float32", "float64", "bool"}
DATA = [
    encoded(drawing(1)),
    b"",
    encoded(drawing(2, (300, 200)), "JPEG"),
    b"<html>",
    plain(),
    encoded(drawing(3, (9, 33)), "WEBP"),
    encoded(drawing(4))[:-30],
]


def pictures() -> list[Picture]:
    return [
        Picture(uid=uid_of(n), key=f"{n}", data=data, extension="png", caption="a drawing", tar="a.tar")
        for n, data in enumerate(DATA)
    ]


@pytest.fixture(params=NAMES)
def module(request: pytest.FixtureRequest) -> Any:
    return importlib.import_module(f"curate.scores.{request.param}")


@pytest.fixture
def scorer(module: Any) -> Any:
    """One that can be made from its defaults; those that need a model file or an extra have tests of their own."""
    try:
        return module.Scorer(module.Config())
    except MissingExtra as missing:
        pytest.skip(f"{missing}; {missing.hint}")
    except HeadwaterError as error:
        pytest.skip(f"needs settings: {error}")


def outputs(module: Any) -> dict[str, str]:
    return dict(module.OUTPUT(module.Config()) if callable(module.OUTPUT) else module.OUTPUT)


def listed(answers: dict[str, Any]) -> dict[str, list[Any]]:
    """Columns as Python values; NaN is null."""
    columns = {}
    for name, values in answers.items():
        if isinstance(values, np.ndarray) and values.ndim == 1:
            values = pa.array(values, mask=np.isnan(values) if values.dtype.kind == "f" else None)
        columns[name] = values.tolist() if isinstance(values, np.ndarray) else pa.array(values).to_pylist()
    return columns


def test_the_known_scorers_are_here() -> None:
    assert {"picture", "phash"} <= set(NAMES)


def test_declarations(module: Any) -> None:
    assert isinstance(module.VERSION, int) and module.VERSION >= 1
    assert module.COST in ("cheap", "costly")
    assert outputs(module) and set(outputs(module).values()) <= TYPES
    first_line = (module.__doc__ or "").splitlines()[0]
    assert 20 <= len(first_line) <= 150 and first_line.endswith((".", ":", ";"))
    assert getattr(module, "PROCESSES", "many") in ("many", "one")
    assert 1 <= getattr(module, "BATCH", 64) <= 4096


def test_settings_have_defaults_and_help(module: Any) -> None:
    fields = {field.name: field for field in dataclasses.fields(module.Config)}
    assert dataclasses.is_dataclass(module.Config) and module.Config() == module.Config()
    assert str(fields["shards"].type) == "Path | None"
    assert all(len(field.metadata.get("help", "")) > 5 for field in fields.values())


def test_identity_is_text_and_says_nothing_of_paths(scorer: Any) -> None:
    assert all(isinstance(k, str) and isinstance(v, str) and v for k, v in scorer.identity.items())


def test_one_row_a_picture_of_the_declared_types(module: Any, scorer: Any) -> None:
    answers = scorer.score_pictures(pictures())
    arrays = module.ARRAYS(module.Config()) if hasattr(module, "ARRAYS") else {}
    assert set(answers) == {*outputs(module), *arrays}
    for name, kind in outputs(module).items():
        values = answers[name]
        assert len(values) == len(DATA)
        pa.array(values).cast(pa.type_for_alias(kind))
    for name, (width, _) in arrays.items():
        assert np.asarray(answers[name]).shape == (len(DATA), width)


def test_what_does_not_open_has_no_score_or_says_why(module: Any, scorer: Any) -> None:
    batch = pictures()
    first = listed(scorer.score_pictures(batch))[next(iter(outputs(module)))]
    assert [value is not None for value in first] == [True] * len(first) or [
        n for n, value in enumerate(first) if value is None
    ] == [1, 3, 6]
    assert [p.status for p in batch] == ["ok", "empty", "ok", "not a picture", "ok", "ok", "truncated"]


def same(one: Any, other: Any) -> bool:
    """Equal, or nearly where they are fractions (models round by the size of the batch)."""
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == (pytest.approx(other, rel=1e-4, abs=1e-4) if isinstance(other, float) else other))


def test_same_answer_again_in_any_order(module: Any, scorer: Any) -> None:
    answers = listed(scorer.score_pictures(pictures()))
    turned = listed(module.Scorer(module.Config()).score_pictures(pictures()[::-1]))
    assert all(same(values, turned[name][::-1]) for name, values in answers.items())


def test_alone_as_among_others(module: Any, scorer: Any) -> None:
    answers = listed(scorer.score_pictures(pictures()))
    for n, picture in enumerate(pictures()):
        alone = listed(scorer.score_pictures([picture]))
        assert all(same(values[0], answers[name][n]) for name, values in alone.items())
