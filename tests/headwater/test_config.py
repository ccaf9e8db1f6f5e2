"""YAML that people write, and YAML that someone wrote to do harm."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict

from headwater.config import MAX_BYTES, apply_settings, load_yaml, parse_yaml, validate
from headwater.errors import MissingInput, UsageError


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    size: int = 1


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    inner: Inner = Inner()


@pytest.mark.parametrize("word", ["no", "yes", "on", "off", "y", "n", "No", "ON", "TRUE", "True"])
def test_words_stay_words(word: str) -> None:
    assert parse_yaml(f"key: {word}", "f") == {"key": word}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("false", False),
        ("1", 1),
        ("0.5", 0.5),
        ("null", None),
        ("'1'", "1"),
        ("[1, a]", [1, "a"]),
    ],
)
def test_plain_values(text: str, value: object) -> None:
    assert parse_yaml(f"key: {text}", "f") == {"key": value}


@pytest.mark.parametrize(
    "text",
    [
        "key: !!python/object/apply:os.system ['touch harm']",
        "key: !!python/name:os.system",
        "key: !!python/object/new:subprocess.Popen [['touch', 'harm']]",
        "!!python/module:os {}",
        "key: !mine 1",
    ],
)
def test_tags_that_build_objects_are_refused(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="not valid YAML"):
        parse_yaml(text, "f")
    assert list(tmp_path.iterdir()) == []


def test_a_small_file_cannot_grow_by_aliases() -> None:
    lines = ["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40)]
    with pytest.raises(UsageError, match="aliases are not allowed"):
        parse_yaml("\n".join(lines), "f")


@pytest.mark.parametrize("text", ["a: 1\na: 2", "k: {a: 1, b: 2, a: 3}", "list:\n  - {x: 1, x: 1}"])
def test_a_key_that_occurs_twice_is_named(text: str) -> None:
    with pytest.raises(UsageError, match="occurs twice"):
        parse_yaml(text, "f")


@pytest.mark.parametrize("text", ["1: a", "[1, 2]: a", "null: a", "true: a", "? {a: b}\n: c"])
def test_a_key_that_is_not_text_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_yaml(text, "f")


@pytest.mark.parametrize(
    "text", ["", "- a", "text", "42", "null", "key: [", "key:\n\t- a", "a: b: c", "--- {}\n--- {}"]
)
def test_what_is_not_one_mapping_is_refused_by_name(text: str) -> None:
    with pytest.raises(UsageError, match="^rule.yaml: "):
        parse_yaml(text, "rule.yaml")


@pytest.mark.parametrize(
    "data", [b"\xff\xfe\x00", b"key: \xff", b"\x00", "key: \ud800".encode("utf-8", "surrogatepass")]
)
def test_bytes_that_are_not_text_are_refused(data: bytes) -> None:
    with pytest.raises(UsageError):
        parse_yaml(data, "f")


def test_depth_is_bounded() -> None:
    depth = sys.getrecursionlimit() * 4
    with pytest.raises(UsageError):
        parse_yaml("key: " + "[" * depth + "]" * depth, "f")


def test_size_is_bounded() -> None:
    with pytest.raises(UsageError, match="larger than"):
        parse_yaml(b"#" * (MAX_BYTES + 1), "f")


def test_a_message_names_the_line() -> None:
    with pytest.raises(UsageError, match="line 2"):
        parse_yaml("a: 1\nb: [", "f")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="none.yaml"):
        load_yaml(tmp_path / "none.yaml")


def test_an_unknown_key_offers_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown key 'nmae': did you mean 'name'"):
        validate(Outer, {"name": "x", "nmae": "y"}, "f")


def test_a_wrong_value_is_told_with_its_place() -> None:
    with pytest.raises(UsageError, match=r"^f: inner\.size: .*integer"):
        validate(Outer, {"name": "x", "inner": {"size": "many"}}, "f")


def test_settings_reach_nested_keys_and_leave_the_original() -> None:
    data = {"inner": {"size": 1, "other": 2}, "name": "x"}
    assert apply_settings(data, ["inner.size=5", "new.deep=no"]) == {
        "inner": {"size": 5, "other": 2},
        "name": "x",
        "new": {"deep": "no"},
    }
    assert data["inner"] == {"size": 1, "other": 2}


@pytest.mark.parametrize("text", ["novalue", "=1", "key=[", "key=*alias", "key=!!python/name:os.system"])
def test_settings_that_cannot_be_read(text: str) -> None:
    with pytest.raises(UsageError, match="--set"):
        apply_settings({}, [text])
